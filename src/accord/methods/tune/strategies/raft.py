"""RAFT (arXiv 2304.06767): the denoising loss on the best of N pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from accord.methods.tune.registry import Strategy, strategy
from accord.methods.tune.rollouts import Batch, Rollouts


@strategy("raft")
@dataclass(frozen=True)
class Raft(Strategy):
    """Denoising loss on the best of N pictures of each prompt. Source: RAFT (arXiv 2304.06767).

    Each picture is judged by its own prompt. The kept latents of the whole global batch are the run's state, collected
    anew every `refresh` steps.
    """

    usual: ClassVar[Mapping[str, Any]] = {"reward_weight": 1.0}  # published with its own loss alone

    candidates: int = 4  # N of best-of-N
    refresh: int = 20  # steps between two collections of best pictures

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(2, "candidates")
        self.at_least(1, "refresh")

    def loss(self, rollouts: Rollouts, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        if batch.step % self.refresh == 0:
            _collect(rollouts, batch, self.candidates)
        kept, numbers, rewards = (rollouts.state[f"raft.{k}"][batch.places] for k in ("latents", "numbers", "rewards"))
        judged = [i for i, r in enumerate(rewards.tolist()) if math.isfinite(r)] or list(range(len(rewards)))
        prompts, generators = [rollouts.prompts[int(i)] for i in numbers], batch.generators(salt=3)
        loss = rollouts.denoising_loss(
            kept[judged].to(rollouts.pipe.device), [prompts[i] for i in judged], [generators[i] for i in judged]
        )[0]
        # where none of a prompt's pictures could be judged there is nothing to learn from; where none at all, the step
        # is skipped
        return loss + 0 * rewards[judged].max().to(loss), {"kept_reward": float(rewards[judged].mean())}


@torch.no_grad()
def _collect(rollouts: Rollouts, batch: Batch, count: int) -> None:
    """Keep the best of `count` states [B,...] for each prompt, in the places of the global batch."""
    candidates, scores = [], []
    for k in range(count):
        latents = rollouts.pictures(batch.prompts, batch.generators(salt=100 + k))
        candidates.append(latents)
        scores.append(rollouts.judge(rollouts.decode(batch.prompts, latents), batch.prompts)[0])
    judged = torch.stack(scores).nan_to_num(-torch.inf)  # [N, B]; what cannot be judged is not the best
    best = torch.stack(candidates)[judged.argmax(0), torch.arange(judged.shape[1])]
    device, gather, state = judged.device, rollouts.processes.gather, rollouts.state
    places = gather(torch.tensor(batch.places, device=device)).cpu()
    found = {
        "latents": best.float(),
        "numbers": torch.tensor(batch.numbers, device=device),
        "rewards": judged.amax(0).float(),
    }
    for name, value in found.items():
        whole = gather(value).cpu()
        key = f"raft.{name}"
        if key not in state:
            state[key] = torch.zeros(rollouts.config.batch_size, *whole.shape[1:], dtype=whole.dtype)
        state[key][places] = whole
