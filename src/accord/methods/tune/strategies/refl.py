"""ReFL, RealignDiff's coarse stage: a reward through one step, after ImageReward (arXiv 2304.05977)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from accord.diffusion.opened import Left, Step
from accord.diffusion.process import levels
from accord.methods.tune.registry import Strategy, strategy
from accord.methods.tune.rollouts import Batch, Rollouts


@strategy("refl", needs_gradient=True)
@dataclass(frozen=True)
class Refl(Strategy):
    """mean(relu(m - r(x0^))), x0^ predicted by one step with gradient after a rollout without.

    Source: ImageReward (arXiv 2304.05977), algorithm 1, as RealignDiff uses it.
    """

    stop_from: float = 0.75  # the step with gradient is drawn from this share of the steps on (30..39 of 40)
    stop_until: float = 1.0  # and up to this one; what is where is decided earlier than what it looks like
    margin: float = 2.0  # m of relu(m - r), in spreads of the untuned pipeline's reward

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.stop_from < 1:
            raise ValueError(f"stop_from must be in [0, 1), not {self.stop_from}")
        if not self.stop_from < self.stop_until <= 1:
            raise ValueError(f"stop_until must be in (stop_from, 1], not {self.stop_until}")

    def loss(self, rollouts: Rollouts, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        config = rollouts.config
        first = int(self.stop_from * config.num_inference_steps)
        stop = batch.randint(first, max(first + 1, round(self.stop_until * config.num_inference_steps)))

        def leave_with_x0(step: Step) -> None:
            if step.index == stop:
                assert step.output is not None
                now = levels(step.scheduler)[stop].to(step.latents)
                raise Left(now.x0(step.latents, step.output).to(step.latents.dtype))

        x0 = rollouts.opened.rollout(
            batch.prompts,
            batch.generators(),
            on_step=leave_with_x0,
            grad_steps=config.num_inference_steps - stop,
        )
        rewards, logs = rollouts.judge(rollouts.decode(batch.prompts, x0), batch.prompts)
        return (self.margin - rewards).relu().mean(), logs
