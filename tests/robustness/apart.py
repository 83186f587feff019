"""What may hang or take much memory, apart from the tests: in a process of its own, or woken up."""

import contextlib
import os
import signal
import subprocess
import sys


def run(code: str, *arguments: str, seconds: float = 60, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Hung(BaseException):
    """Not an exception that a reader might take for its file's."""


@contextlib.contextmanager
def within(seconds: float):
    """What hangs in the block is woken up and fails."""

    def wake(*_):
        raise Hung

    before = signal.signal(signal.SIGALRM, wake)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
