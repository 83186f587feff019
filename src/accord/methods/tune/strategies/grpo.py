"""GRPO for denoisers: the steps of better pictures become more likely (arXiv 2505.05470, 2305.13301)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.utils.torch_utils import randn_tensor

from accord.diffusion.opened import Step
from accord.diffusion.process import levels, transition
from accord.methods.tune.drift import diversity
from accord.methods.tune.registry import Strategy, later, strategy
from accord.methods.tune.rollouts import Batch, Rollouts, Tensors, draw_here
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

    rolls_out: ClassVar[bool] = True
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

    @torch.no_grad()
    def prepare(self, rollouts: Rollouts, batches: Sequence[Batch]) -> None:
        """The trajectories of all micro-batches: each at once in this process, prompt by prompt where others draw."""
        found: dict[tuple[int, ...], Tensors] = {}
        groups = [batch.in_groups(self.group_size) for batch in batches]
        cut = [group.cut(self.group_size) if rollouts.draw is not draw_here else [group] for group in groups]
        made = iter(rollouts.drawn(self, [share for shares in cut for share in shares]))
        for batch, shares in zip(batches, cut, strict=True):
            parts = [next(made) for _ in shares]
            found[tuple(batch.places)] = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        rollouts.round = (batches[0].step, found)

    @torch.no_grad()
    def draw(self, rollouts: Rollouts, share: Batch) -> Tensors:
        """Of each of B pictures the K steps that are trained on: their numbers [B,K], the states before and after them
        [B,K,...]; each reward as it is [B]; how far apart the pictures of each prompt are.
        """
        path, times, makers = list[tuple[torch.Tensor, torch.Tensor]](), list[float](), share.generators(1)

        def take(step: Step) -> torch.Tensor:
            assert step.output is not None
            now, after = (level.to(step.latents) for level in levels(step.scheduler)[step.index : step.index + 2])
            mean, spread = transition(step.latents, step.output, now, after, GRPO_ETA)
            noise = randn_tensor(mean.shape, makers, mean.device, step.output.dtype)
            path.append((step.latents, (mean + spread * noise).to(step.latents.dtype)))
            times.append(float(step.timestep) / step.scheduler.config.num_train_timesteps * 1000)
            return path[-1][1]

        last = rollouts.opened.rollout(share.prompts, share.generators(), on_step=take)
        pictures = rollouts.decode(share.prompts, last)
        parts = rollouts.parts(pictures, share.prompts)
        chosen = self._chosen(share, times)
        before, then = (torch.stack([path[i][k] for i in chosen], 1) for k in (0, 1))
        return {
            "steps": torch.tensor([chosen] * len(share.prompts)),
            "states": before,
            "then": then,
            "diversity": diversity(pictures.unflatten(0, (-1, self.group_size))),
            **{f"part.{name}": part for name, part in parts.items()},
        }

    def loss(self, rollouts: Rollouts, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        group, made = batch.in_groups(self.group_size), rollouts.of_round(self, batch)
        rewards, logs = rollouts.graded({name: made[f"part.{name}"] for name in rollouts.names})
        logs["diversity"] = float(made["diversity"].mean())
        gather = rollouts.processes.gather
        everyone = gather(torch.tensor(group.numbers, device=rewards.device))
        advantage = group_advantages(rewards, group.numbers, gather(rewards), everyone.tolist())
        grid = levels(rollouts.opened.schedule(group.prompts, made["states"][:, 0]))
        losses = []
        for k, i in enumerate(made["steps"][0].tolist()):
            state, then = made["states"][:, k], made["then"][:, k]
            output = rollouts.output(group.prompts, state, i)
            mean, spread = transition(state, output, grid[i].to(state), grid[i + 1].to(state), GRPO_ETA)
            log_p = gaussian_log_p(then, mean, spread)
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
