"""The strategies by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accord.methods.tune.rollouts import Batch, Rollouts

Loss = Callable[["Rollouts", "Batch"], tuple[torch.Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Strategy:
    """A way from a reward to a loss.

    Attributes:
        loss: the loss of a batch, and scalars to log.
        needs_gradient: whether the reward must give the pictures a gradient.
    """

    loss: Loss
    needs_gradient: bool


STRATEGIES: dict[str, Strategy] = {}


def strategy(name: str, needs_gradient: bool = False) -> Callable[[Loss], Loss]:
    """Register a loss under a name.

    Raises:
        ValueError: for a name that is taken.
    """

    def register(loss: Loss) -> Loss:
        if name in STRATEGIES:
            raise ValueError(f"strategy {name!r} is registered already")
        STRATEGIES[name] = Strategy(loss, needs_gradient)
        return loss

    return register
