"""GRPO for denoisers: the steps of better pictures become more likely (arXiv 2505.05470, 2305.13301)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.utils.torch_utils import randn_tensor

from accord.diffusion.opened import Step
from accord.diffusion.process import Level, levels, transition
from accord.methods.tune.registry import Strategy, strategy
from accord.methods.tune.rollouts import Batch, Rollouts

GRPO_ETA = 0.999  # of the transition: nearly the exact posterior
SMALLEST = 1e-6  # deviation; that of a last step is 0


@strategy("grpo")
@dataclass(frozen=True)
class Grpo(Strategy):
    """-A log p of the steps taken with noise, A the reward normalised in its prompt's group.

    A step is `accord.diffusion.process.transition`, for every process: DDIM's with eta = 1, and for flow the exact
    posterior in place of Flow-GRPO's Euler-Maruyama step.

    Source: Flow-GRPO (arXiv 2505.05470) and DDPO (arXiv 2305.13301), equation of the clipped objective, with one pass
    over each trajectory. Rewards are gathered from all processes before they are normalised.
    """

    usual: ClassVar[Mapping[str, Any]] = {"reward_weight": 1.0}  # published with its own loss alone

    group_size: int = 4  # pictures of a prompt
    trained_steps: int = 4  # steps of the trajectory that are trained on
    clip_range: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(2, "group_size")
        self.at_least(1, "trained_steps")

    def loss(self, rollouts: Rollouts, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        group, path = batch.in_groups(self.group_size), list[_Taken]()
        makers = group.generators(1)

        def take(step: Step) -> torch.Tensor:
            assert step.output is not None
            now, after = (level.to(step.latents) for level in levels(step.scheduler)[step.index : step.index + 2])
            mean, spread = transition(step.latents, step.output, now, after, GRPO_ETA)
            noise = randn_tensor(mean.shape, makers, mean.device, step.output.dtype)
            path.append(_Taken(step.latents, (mean + spread * noise).to(step.latents.dtype), now, after))
            return path[-1].then

        with torch.no_grad():
            last = rollouts.opened.rollout(group.prompts, group.generators(), on_step=take)
            rewards, logs = rollouts.judge(rollouts.decode(group.prompts, last), group.prompts)
        gather = rollouts.processes.gather
        everyone = gather(torch.tensor(group.numbers, device=rewards.device))
        advantage = group_advantages(rewards, group.numbers, gather(rewards), everyone.tolist())
        losses = []
        # the last step has no noise, and so no probability
        for i in batch.some(self.trained_steps, len(path) - 1) or [0]:
            taken = path[i]
            output = rollouts.output(group.prompts, taken.state, i)
            mean, spread = transition(taken.state, output, taken.now, taken.after, GRPO_ETA)
            log_p = gaussian_log_p(taken.then, mean, spread)
            ratio = (log_p - log_p.detach()).exp()  # 1 on the first and only pass; its gradient is that of log p
            losses.append(policy_loss(ratio, advantage, self.clip_range))
        return torch.stack(losses).mean(), logs


@dataclass(frozen=True)
class _Taken:
    """A step of a rollout: from a state at one level to another, `then`, at the next."""

    state: torch.Tensor
    then: torch.Tensor
    now: Level
    after: Level


def policy_loss(ratio: torch.Tensor, advantage: torch.Tensor, clip_range: float) -> torch.Tensor:
    """mean(max(-A ratio, -A clip(ratio))), ratio = p / p_old [B]. Source: PPO (arXiv 1707.06347), (7), negated."""
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantage * ratio, -advantage * clipped).mean()


def group_advantages(
    rewards: torch.Tensor, numbers: list[int], all_rewards: torch.Tensor, all_numbers: list[int]
) -> torch.Tensor:
    """(r - mean of the prompt's group) / its spread, [B]; a group without spread has no advantage.

    `numbers` names the prompt of each reward; `all_*` are those of every process.
    """
    every = torch.tensor(all_numbers, device=rewards.device)
    out = []
    for reward, number in zip(rewards, numbers, strict=True):
        group = all_rewards[every == number]
        spread = group.std(unbiased=False)
        out.append((reward - group.mean()) / (spread + 1e-4))
    return torch.stack(out).clamp(-5, 5).detach()


def gaussian_log_p(x: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """Mean over the state's elements of log N(x; mean, spread^2) without its constant, [B]."""
    variance = spread.clamp(min=SMALLEST) ** 2
    return -((x.detach() - mean).float().square() / (2 * variance)).flatten(1).mean(1)
