"""DRaFT-K (arXiv 2309.17400), AlignProp's way: a reward through the last K steps."""

from __future__ import annotations

import torch

from accord.methods.tune.registry import strategy
from accord.methods.tune.rollouts import Batch, Rollouts


@strategy("draft", needs_gradient=True)
def draft(rollouts: Rollouts, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """mean(relu(m - r(x))), with the graph of the last K steps. Source: DRaFT (arXiv 2309.17400), DRaFT-K."""
    config = rollouts.config
    scheduler, conditioning, latents = rollouts.start(batch)
    steps = rollouts.sample(
        batch.prompts, latents=latents, conditioning=conditioning, scheduler=scheduler, grad_steps=config.draft_steps
    )
    for step in steps:
        latents = step.latents
    rewards, logs = rollouts.judge(rollouts.decode(latents), batch.prompts)
    return (config.margin - rewards).relu().mean(), logs
