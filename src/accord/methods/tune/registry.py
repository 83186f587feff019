"""The strategies by name."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from accord.types import check_numbers

if TYPE_CHECKING:
    import torch

    from accord.methods.tune.rollouts import Batch, Rollouts

_S = TypeVar("_S", bound="Strategy")


@dataclass(frozen=True)
class Strategy:
    """A way from a reward to a loss. Its fields are its knobs; it raises ValueError for one out of range.

    Attributes:
        name: what it is registered under.
        needs_gradient: whether the reward must give the pictures a gradient.
        has_loss: False for a control, which has only the losses that all of them have.
        rolls_out: whether it makes all pictures of a round by `draw` before the losses, so that others can make them.
        usual: knobs of the run that the command line gives it, if the user does not.
    """

    name: ClassVar[str]
    needs_gradient: ClassVar[bool]
    has_loss: ClassVar[bool] = True
    rolls_out: ClassVar[bool] = False
    usual: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        check_numbers(self)

    def __repr__(self) -> str:
        """As a dataclass has it, but for knobs that came `later` and have their default."""
        shown = [f.name for f in fields(self) if "later" not in f.metadata or getattr(self, f.name) != f.default]
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def drawn_at(self, step: int) -> int:
        """The step by which prompts and seeds of a step are drawn."""
        return step

    def prepare(self, rollouts: Rollouts, batches: Sequence[Batch]) -> None:
        """What is done once before the losses of a step, whose micro-batches (this process's shares) these are."""

    def draw(self, rollouts: Rollouts, share: Batch) -> dict[str, torch.Tensor]:
        """Make the pictures of a share and judge them: what is learned from, the first dimension that of the pictures
        or of their groups. It depends on the share and the weights alone, not on who draws it.
        """
        raise NotImplementedError

    def loss(self, rollouts: Rollouts, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of a batch, whose gradient reaches the adapter, and scalars to log."""
        raise NotImplementedError

    def at_least(self, least: int, *names: str) -> None:
        """Refuse fields of these names that are smaller.

        Raises:
            ValueError: naming the field.
        """
        for name in names:
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")


def later(default: Any) -> Any:
    """A knob that was added to a strategy of which results are kept.

    Results are found again by the `repr` of their knobs. A strategy with such a knob is a dataclass with `repr=False`:
    then what was measured before is still that of the same knobs.
    """
    return field(default=default, metadata={"later": True})


STRATEGIES: dict[str, type[Strategy]] = {}


def strategy_names() -> tuple[str, ...]:
    """The names of the strategies in `strategies/`, which are those of its files; none is imported."""
    return tuple(module.name for module in pkgutil.iter_modules([str(Path(__file__).with_name("strategies"))]))


def strategy(name: str, needs_gradient: bool = False) -> Callable[[type[_S]], type[_S]]:
    """Register a strategy under a name.

    Raises:
        ValueError: for a name that is taken.
    """

    def register(cls: type[_S]) -> type[_S]:
        if name in STRATEGIES:
            raise ValueError(f"strategy {name!r} is registered already")
        cls.name, cls.needs_gradient = name, needs_gradient
        STRATEGIES[name] = cls
        return cls

    return register
