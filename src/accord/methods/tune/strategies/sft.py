"""Supervised fine-tuning: the control."""

from __future__ import annotations

import torch

from accord.methods.tune.registry import strategy
from accord.methods.tune.rollouts import Batch, Rollouts


@strategy("sft")
def sft(rollouts: Rollouts, _batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """No reward at all: the control.

    What is trained on is the denoising loss that every strategy has beside its own.
    """
    return torch.zeros((), device=rollouts.pipe.device), {}
