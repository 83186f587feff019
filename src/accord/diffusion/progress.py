"""A bar that moves at each denoising step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tqdm.auto import tqdm

from accord.diffusion.opened import watched

_FORMAT = "{l_bar}{bar}| {n:.1f}/{total:.0f} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class StepBar:
    """Counts pictures, and parts of them: a step of B pictures in a run of T steps is B/T pictures.

    Attributes:
        passes: runs that a picture may need, of which each is this share of it; what is left over when it is finished
            is counted then.
    """

    def __init__(self, total: float, what: str, quietly: bool, passes: int = 1) -> None:
        self.total, self.what, self.quietly, self.passes = total, what, quietly, passes
        self.finished = 0
        self._bar: Any = None

    def step(self, pictures: int, steps: int) -> None:
        """A denoising step was taken."""
        self._moved(min(self.bar.n + pictures / (steps * self.passes), self.total))

    def finish(self, pictures: int) -> None:
        """So many pictures are finished."""
        self.finished += pictures
        self._moved(self.finished)

    def pass_over(self, pictures: int) -> None:
        """So many need no work, and are none of the rate."""
        self.finished += pictures
        if self._bar is None:
            return
        self._bar.initial += pictures
        self._moved(self._bar.n + pictures)

    def leave_out(self, pictures: float) -> None:
        """So many will not be made."""
        self.total = max(self.total - pictures, self.finished)
        if self._bar is not None:
            self._bar.total = self.total

    @property
    def bar(self) -> Any:
        """Made with the first step: what is refused before it shows none."""
        if self._bar is None:
            self._bar = tqdm(
                total=self.total,
                desc=self.what,
                disable=self.quietly,
                bar_format=_FORMAT,
                unit=" picture",
                initial=self.finished,
            )
        return self._bar

    def _moved(self, to: float) -> None:
        self.bar.update(to - self.bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@contextmanager
def step_bar(total: int, what: str, quietly: bool, passes: int = 1) -> Iterator[StepBar]:
    """A bar for the runs of pipelines within the block, at the rate of finished pictures and with the time left.

    Args:
        total: pictures.
        quietly: whether it is not to be seen; then a bar around it, if there is one, sees the steps.
        passes: runs that a picture may need; with more than one the time left is that of the slowest case.
    """
    bar = StepBar(total, what, quietly, passes)
    try:
        with nullcontext() if quietly else watched(bar.step):
            yield bar
    finally:
        bar.close()
