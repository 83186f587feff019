"""DRaFT-K (arXiv 2309.17400), AlignProp's way: a reward through the last K steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from accord.methods.tune.registry import Strategy, strategy
from accord.methods.tune.rollouts import Batch, Rollouts


@strategy("draft", needs_gradient=True)
@dataclass(frozen=True)
class Draft(Strategy):
    """mean(relu(m - r(x))), with the graph of the last K steps. Source: DRaFT (arXiv 2309.17400), DRaFT-K."""

    last_steps: int = 1  # K, the last steps that keep their graph
    margin: float = 2.0  # m of relu(m - r), in spreads of the untuned pipeline's reward

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "last_steps")

    def loss(self, rollouts: Rollouts, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        state = rollouts.opened.rollout(batch.prompts, batch.generators(), grad_steps=self.last_steps)
        rewards, logs = rollouts.judge(rollouts.decode(batch.prompts, state), batch.prompts)
        return (self.margin - rewards).relu().mean(), logs
