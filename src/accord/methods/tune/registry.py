"""The strategies by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch

if TYPE_CHECKING:
    from accord.methods.tune.rollouts import Batch, Rollouts

S = TypeVar("S", bound="Strategy")


@dataclass(frozen=True)
class Strategy:
    """A way from a reward to a loss. Its fields are its knobs; it raises ValueError for one out of range.

    Attributes:
        name: what it is registered under.
        needs_gradient: whether the reward must give the pictures a gradient.
    """

    name: ClassVar[str]
    needs_gradient: ClassVar[bool]

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


STRATEGIES: dict[str, type[Strategy]] = {}


def strategy(name: str, needs_gradient: bool = False) -> Callable[[type[S]], type[S]]:
    """Register a strategy under a name.

    Raises:
        ValueError: for a name that is taken.
    """

    def register(cls: type[S]) -> type[S]:
        if name in STRATEGIES:
            raise ValueError(f"strategy {name!r} is registered already")
        cls.name, cls.needs_gradient = name, needs_gradient
        STRATEGIES[name] = cls
        return cls

    return register
