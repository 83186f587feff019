"""Supervised fine-tuning: the control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from accord.methods.tune.registry import Strategy, strategy
from accord.methods.tune.rollouts import Batch, Rollouts


@strategy("sft")
@dataclass(frozen=True)
class Sft(Strategy):
    """No reward at all: the control. It trains on the denoising loss that every strategy has beside its own."""

    has_loss: ClassVar[bool] = False

    def loss(self, rollouts: Rollouts, _batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        return torch.zeros((), device=rollouts.pipe.device), {}
