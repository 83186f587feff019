"""GRPO for denoisers: the steps of better pictures become more likely (arXiv 2505.05470, 2305.13301)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from accord.diffusion.loop import rooted_eta
from accord.methods.tune.registry import Strategy, strategy
from accord.methods.tune.rollouts import Batch, Rollouts

# 1 up to rounding: at 1 the first step from zero terminal SNR takes the root of a negative rounding error
GRPO_ETA = 0.999


@strategy("grpo")
@dataclass(frozen=True)
class Grpo(Strategy):
    """-A log p of the steps taken by DDIM with eta = 1, A the reward normalised in its prompt's group.

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
        size = self.group_size
        prompts = [p for p in batch.prompts for _ in range(size)]
        seeds = [(s * size + k) % 2**62 for s in batch.seeds for k in range(size)]
        numbers = [n for n in batch.numbers for _ in range(size)]
        group = Batch(batch.step, [], prompts, numbers, seeds, batch.shared_seed)
        scheduler, conditioning, latents = rollouts.start(group)
        before, after, times = [], [], []
        x = latents * scheduler.init_noise_sigma
        steps = rollouts.sample(
            prompts,
            latents=latents,
            conditioning=conditioning,
            scheduler=scheduler,
            eta=GRPO_ETA,
            generator=group.generators(1),
        )
        with torch.no_grad():
            for step in steps:
                before.append(x)
                after.append(step.latents)
                times.append(step.timestep)
                x = step.latents
            rewards, logs = rollouts.judge(rollouts.decode(x), prompts)
        gather = rollouts.processes.gather
        everyone = gather(torch.tensor(numbers, device=rewards.device))
        advantage = group_advantages(rewards, numbers, gather(rewards), everyone.tolist())
        # the last step has no noise, and so no probability
        order = torch.randperm(len(times) - 1, generator=torch.Generator().manual_seed(batch.shared_seed))
        chosen = order[: self.trained_steps].tolist() or [0]
        losses = []
        for i in chosen:
            output = rollouts.output(scheduler, before[i], times[i], conditioning)
            mean, spread = ddim_moments(scheduler, output, times[i], before[i])
            log_p = gaussian_log_p(after[i], mean, spread)
            ratio = (log_p - log_p.detach()).exp()  # 1 on the first and only pass; its gradient is that of log p
            losses.append(policy_loss(ratio, advantage, self.clip_range))
        return torch.stack(losses).mean(), logs


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


def ddim_moments(
    scheduler: Any, output: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Mean [B,C,H,W] and standard deviation of x_{t-1} under DDIM with eta = GRPO_ETA.

    Source: DDIM (arXiv 2010.02502), (12), (16).
    """
    zero = torch.zeros_like(latents)
    eta = rooted_eta(scheduler, timestep, GRPO_ETA)
    mean = scheduler.step(output, timestep, latents, eta=eta, variance_noise=zero, return_dict=False)[0]
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    variance = scheduler._get_variance(int(timestep), int(timestep) - stride)
    return mean, eta * float(variance.clamp(min=1e-12) ** 0.5)


def gaussian_log_p(x: torch.Tensor, mean: torch.Tensor, spread: float) -> torch.Tensor:
    """Mean over the latents' elements of log N(x; mean, spread^2) without its constant, [B]."""
    return -((x.detach() - mean).float().square() / (2 * spread**2)).flatten(1).mean(1)
