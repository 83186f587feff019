"""DiffusionNFT (arXiv 2509.16117): the forward process learns from better pictures, and away from worse ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from accord.diffusion.process import Level, levels
from accord.methods.tune.registry import Strategy, strategy
from accord.methods.tune.rollouts import Batch, Rollouts


@strategy("nft")
@dataclass(frozen=True)
class Nft(Strategy):
    """C (r |x0+ - x0|^2 / w+ + (1 - r) |x0- - x0|^2 / w-) / beta + lambda |f - f_untuned|^2.

    x0 are pictures of the old weights, r in 0..1 how good they are in their prompt's group, x0+ and x0- what the
    outputs beta f + (1 - beta) f_old and (1 + beta) f_old - beta f say at the same x_t. Neither probabilities nor noise
    on the way are needed, so any sampler will do; written in x0, it is one loss for epsilon, v, x0 and flow.

    Source: DiffusionNFT (arXiv 2509.16117), algorithm 1, with the adaptive weights of its code.
    """

    usual: ClassVar[Mapping[str, Any]] = {"reward_weight": 1.0}  # published with its own loss alone

    group_size: int = 16  # pictures of a prompt; small groups collapse
    times: int = 2  # steps of the grid at which each picture is noised anew
    mixing: float = 1.0  # beta, how far x0+ and x0- are from the old weights' (0.1 is faster and less stable)
    scale: float = 5.0  # C
    reference_weight: float = 1e-4  # lambda
    old_rate: float = 0.001  # the old weights keep a share of min(old_rate * step, old_most) of themselves in a step
    old_most: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(2, "group_size")
        self.at_least(1, "times")
        self.at_least(0, "scale", "reference_weight", "old_rate")
        if self.mixing <= 0:
            raise ValueError(f"mixing must be positive, not {self.mixing}")
        if not 0 <= self.old_most <= 1:
            raise ValueError(f"old_most must be in [0, 1], not {self.old_most}")

    def loss(self, rollouts: Rollouts, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        group, old = batch.in_groups(self.group_size), self._old(rollouts, batch.step)
        prompts, gather = group.prompts, rollouts.processes.gather
        with torch.no_grad():
            with rollouts.weights(old):
                clean = rollouts.pictures(prompts, group.generators())
            rewards, logs = rollouts.judge(rollouts.decode(prompts, clean), prompts)
        everyone = gather(torch.tensor(group.numbers, device=rewards.device))
        good = goodness(rewards, group.numbers, gather(rewards), everyone.tolist())
        grid = levels(rollouts.opened.schedule(prompts, clean))
        noised = []
        # before the first graph: the old weights are put where the trained ones are
        with torch.no_grad():
            for i in batch.some(self.times, len(grid) - 1):
                noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in group.generators(1000 + i)])
                x = grid[i].to(clean).noised(clean, noise.to(clean.device))
                with rollouts.weights(old):
                    before = rollouts.output(prompts, x, i)
                with rollouts.untuned():
                    noised.append((i, x, before, rollouts.output(prompts, x, i)))
        losses = []
        for i, x, before, untuned in noised:
            output = rollouts.output(prompts, x, i)
            losses.append(self.scale * nft_loss(output, before, x, clean, grid[i].to(clean), good, self.mixing))
            losses[-1] = losses[-1] + self.reference_weight * (output - untuned).float().square().mean()
        return torch.stack(losses).mean(), logs

    def _old(self, rollouts: Rollouts, step: int) -> dict[str, torch.Tensor]:
        """The old weights, moved towards the trained ones once a step; they are the run's state."""
        state = rollouts.state
        if int(state.get("nft.step", torch.tensor(-1))) != step:
            share = min(self.old_rate * step, self.old_most)
            for name, parameter in rollouts.trained.items():
                new, old = parameter.detach().float().cpu(), state.get(f"nft.old.{name}")
                state[f"nft.old.{name}"] = new.clone() if old is None else old.lerp(new, 1 - share)
            state["nft.step"] = torch.tensor(step)
        return {name: state[f"nft.old.{name}"] for name in rollouts.trained}


def goodness(
    rewards: torch.Tensor, numbers: list[int], all_rewards: torch.Tensor, all_numbers: list[int]
) -> torch.Tensor:
    """r [B] in 0..1: clip(A / 10 + 1/2), A = (R - mean of the prompt's group) / spread of all, clipped to -5..5.

    `numbers` names the prompt of each reward; `all_*` are those of every process.
    """
    every = torch.tensor(all_numbers, device=rewards.device)
    means = torch.stack([all_rewards[every == number].mean() for number in numbers])
    advantage = (rewards - means) / (all_rewards.std(unbiased=False) + 1e-4)
    return (advantage.clamp(-5, 5) / 10 + 0.5).clamp(0, 1).detach()


def nft_loss(
    output: torch.Tensor,
    old: torch.Tensor,
    x_t: torch.Tensor,
    clean: torch.Tensor,
    level: Level,
    good: torch.Tensor,
    mixing: float,
) -> torch.Tensor:
    """mean over B of (r |x0+ - x0|^2 / w+ + (1 - r) |x0- - x0|^2 / w-) / beta, w = mean |x0+- - x0| without its graph.

    Where `output` is `old` its gradient is that of A |f - target|^2 times a number of each picture, for every beta.

    Args:
        output, old: what the trained and the old weights say at x_t, [B,...].
        clean: x0; level: the noise in x_t; good: r [B]; mixing: beta.
    """
    x_t, clean, output, old = (t.float() for t in (x_t, clean, output, old))

    def error(mixed: torch.Tensor) -> torch.Tensor:
        off = (level.x0(x_t, mixed) - clean).flatten(1)
        return off.square().mean(1) / off.detach().abs().mean(1).clamp(min=1e-5)

    toward, away = error(mixing * output + (1 - mixing) * old), error((1 + mixing) * old - mixing * output)
    return ((good * toward + (1 - good) * away) / mixing).mean()
