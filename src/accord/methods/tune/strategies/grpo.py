"""GRPO for denoisers: the steps of better pictures become more likely (arXiv 2505.05470, 2305.13301)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.utils.torch_utils import randn_tensor

from accord.diffusion.opened import Step
from accord.diffusion.process import Level, levels, transition
from accord.methods.tune.drift import diversity
from accord.methods.tune.registry import Strategy, later, strategy
from accord.methods.tune.rollouts import Batch, Rollouts
from accord.types import InputError

GRPO_ETA = 0.999  # of the transition: nearly the exact posterior
SMALLEST = 1e-6  # deviation; that of a last step is 0


@strategy("grpo")
@dataclass(frozen=True, repr=False)
class Grpo(Strategy):
    """-A log p of the steps taken with noise, A the reward normalised in its prompt's group.

    A step is `accord.diffusion.process.transition`, for every process: DDIM's with eta = 1, and for flow the exact
    posterior in place of Flow-GRPO's Euler-Maruyama step.

    Source: Flow-GRPO (arXiv 2505.05470) and DDPO (arXiv 2305.13301), equation of the clipped objective, with one pass
    over each trajectory. Rewards are gathered from all processes before they are normalised.
    """

    # published with its own loss and a distance to the untuned model alone; a denoising term is five times its size
    usual: ClassVar[Mapping[str, Any]] = {"reward_weight": 1.0, "pretrain_weight": 0.0}

    group_size: int = 4  # pictures of a prompt
    trained_steps: int = 4  # steps of the trajectory that are trained on
    clip_range: float = 1e-3
    time_from: int = later(0)  # of 1000: the steps that are trained on are those from there
    time_until: int = later(1000)  # and up to there

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(2, "group_size")
        self.at_least(1, "trained_steps")
        self.at_least(0, "time_from")
        if not self.time_from < self.time_until <= 1000:
            raise ValueError(f"time_until must be in (time_from, 1000], not {self.time_until}")

    def loss(self, rollouts: Rollouts, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        group, path = batch.in_groups(self.group_size), list[_Taken]()
        makers = group.generators(1)

        def take(step: Step) -> torch.Tensor:
            assert step.output is not None
            now, after = (level.to(step.latents) for level in levels(step.scheduler)[step.index : step.index + 2])
            mean, spread = transition(step.latents, step.output, now, after, GRPO_ETA)
            noise = randn_tensor(mean.shape, makers, mean.device, step.output.dtype)
            then = (mean + spread * noise).to(step.latents.dtype)
            time = float(step.timestep) / step.scheduler.config.num_train_timesteps * 1000
            path.append(_Taken(step.latents, then, now, after, time))
            return path[-1].then

        with torch.no_grad():
            last = rollouts.opened.rollout(group.prompts, group.generators(), on_step=take)
            pictures = rollouts.decode(group.prompts, last)
            rewards, logs = rollouts.judge(pictures, group.prompts)
            logs["diversity"] = float(diversity(pictures.unflatten(0, (-1, self.group_size))).mean())
        gather = rollouts.processes.gather
        everyone = gather(torch.tensor(group.numbers, device=rewards.device))
        advantage = group_advantages(rewards, group.numbers, gather(rewards), everyone.tolist())
        losses = []
        for i in self._chosen(batch, [taken.time for taken in path]):
            taken = path[i]
            output = rollouts.output(group.prompts, taken.state, i)
            mean, spread = transition(taken.state, output, taken.now, taken.after, GRPO_ETA)
            log_p = gaussian_log_p(taken.then, mean, spread)
            ratio = (log_p - log_p.detach()).exp()  # 1 on the first and only pass; its gradient is that of log p
            losses.append(policy_loss(ratio, advantage, self.clip_range))
        return torch.stack(losses).mean(), logs

    def _chosen(self, batch: Batch, times: list[float]) -> list[int]:
        """Numbers of the steps that are trained on. The last one has no noise, and so no probability."""
        if len(times) == 1:
            return [0]
        within = [i for i, time in enumerate(times[:-1]) if self.time_from <= time <= self.time_until]
        if not within:
            raise InputError(
                f"no step of the {len(times)} lies in {self.time_from}..{self.time_until} of 1000; take more steps, or "
                "another time_from and time_until"
            )
        return [within[i] for i in batch.some(self.trained_steps, len(within))]


@dataclass(frozen=True)
class _Taken:
    """A step of a rollout: from a state at one level to another, `then`, at the next."""

    state: torch.Tensor
    then: torch.Tensor
    now: Level
    after: Level
    time: float  # of 1000, at the first of the two


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
