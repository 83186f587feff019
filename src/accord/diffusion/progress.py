"""A bar that moves at each denoising step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from tqdm.auto import tqdm

from accord.diffusion.opened import watched
from accord.files import bar_options

_FORMAT = "{l_bar}{bar}| {n:.1f}/{total:.0f} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class StepBar:
    """Counts pictures, and parts of them: a step of B pictures in a run of T steps is B/T pictures.

    Args:
        passes: runs that a picture may need, each of which is this share of it; what is left over when it is finished
            is counted then.
        quietly: whether there is no bar.
    """

    def __init__(self, total: float, what: str, quietly: bool, passes: int = 1) -> None:
        self.total, self.what, self.quietly, self.passes = total, what, quietly, passes
        self.finished = 0
        self.bar: tqdm[None] | None = None  # made with the first step: what is refused before shows none

    def step(self, pictures: int, steps: int) -> None:
        """A denoising step was taken."""
        if self.bar is None and not self.quietly:
            told = {"desc": self.what, "bar_format": _FORMAT, "unit": " picture", **bar_options()}
            self.bar = tqdm(total=self.total, initial=self.finished, **told)
        if self.bar is not None:
            self._move(min(self.bar.n + pictures / (steps * self.passes), self.total))

    def finish(self, pictures: int) -> None:
        """So many pictures are finished."""
        self.finished += pictures
        self._move(self.finished)

    def pass_over(self, pictures: int) -> None:
        """So many need no work, and are none of the rate."""
        self.finished += pictures
        if self.bar is not None:
            self.bar.initial += pictures
            self._move(self.finished)

    def leave_out(self, pictures: float) -> None:
        """So many will not be made."""
        self.total = max(self.total - pictures, self.finished)
        if self.bar is not None:
            self.bar.total = self.total

    def _move(self, to: float) -> None:
        if self.bar is not None:
            self.bar.update(to - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


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
