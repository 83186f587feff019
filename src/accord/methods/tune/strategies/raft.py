"""RAFT (arXiv 2304.06767): the denoising loss on the best of N pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from accord.methods.tune.registry import Strategy, later, strategy
from accord.methods.tune.rollouts import Batch, Rollouts


@strategy("raft")
@dataclass(frozen=True, repr=False)
class Raft(Strategy):
    """Denoising loss on the best of N pictures of each prompt. Source: RAFT (arXiv 2304.06767).

    Each picture is judged by its own prompt. The kept latents of the whole global batch are the run's state, collected
    anew every `refresh` steps. Pictures that were made with guidance and are learned without it are guided twice when
    the tuned pipeline is run; `guided` takes the loss at the guided output.
    """

    usual: ClassVar[Mapping[str, Any]] = {"reward_weight": 1.0}  # published with its own loss alone

    candidates: int = 4  # N of best-of-N
    refresh: int = 20  # steps between two collections of best pictures
    least: float | None = later(None)  # of the reward as it is; what is below is not learned from
    guided: bool = later(False)  # whether the loss is that of the guided output, as the pictures were made

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(2, "candidates")
        self.at_least(1, "refresh")

    def loss(self, rollouts: Rollouts, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        if batch.step % self.refresh == 0:
            _collect(rollouts, batch, self.candidates, self.least)
        rollouts.state.setdefault("raft.passes", torch.ones(rollouts.config.batch_size))  # of a run begun without
        names = ("latents", "numbers", "rewards", "passes")
        kept, numbers, rewards, passes = (rollouts.state[f"raft.{k}"][batch.places] for k in names)
        judged = [i for i, r in enumerate(rewards.tolist()) if math.isfinite(r)] or list(range(len(rewards)))
        good = [i for i in judged if bool(passes[i])]
        prompts, generators = [rollouts.prompts[int(i)] for i in numbers], batch.generators(salt=3)
        chosen = good or judged[:1]
        loss = rollouts.denoising_loss(
            kept[chosen].to(rollouts.pipe.device),
            [prompts[i] for i in chosen],
            [generators[i] for i in chosen],
            guided=bool(self.guided),
        )[0]
        # where no picture of a micro-batch is good enough there is nothing to learn from
        loss = loss if good else 0 * loss
        # where none could be judged at all, the step is skipped
        logs = {"kept_reward": float(rewards[judged].mean()), "kept": len(good) / len(rewards)}
        return loss + 0 * rewards[judged].max().to(loss), logs


@torch.no_grad()
def _collect(rollouts: Rollouts, batch: Batch, count: int, least: float | None) -> None:
    """Keep the best of `count` states [B,...] for each prompt, in the places of the global batch."""
    candidates, scores, plain = [], [], []
    for k in range(count):
        latents = rollouts.pictures(batch.prompts, batch.generators(salt=100 + k))
        candidates.append(latents)
        parts = rollouts.parts(rollouts.decode(batch.prompts, latents), batch.prompts)
        scores.append(rollouts.graded(parts)[0])
        plain.append(rollouts.reward.plain(parts))
    judged = torch.stack(scores).nan_to_num(-torch.inf)  # [N, B]; what cannot be judged is not the best
    rows = judged.argmax(0), torch.arange(judged.shape[1])
    best, its = torch.stack(candidates)[rows], torch.stack(plain)[rows]
    device, gather, state = judged.device, rollouts.processes.gather, rollouts.state
    places = gather(torch.tensor(batch.places, device=device)).cpu()
    found = {
        "latents": best.float(),
        "numbers": torch.tensor(batch.numbers, device=device),
        "rewards": judged.amax(0).float(),
        "passes": torch.ones_like(its) if least is None else (its >= least).float(),
    }
    for name, value in found.items():
        whole = gather(value).cpu()
        key = f"raft.{name}"
        if key not in state:
            state[key] = torch.zeros(rollouts.config.batch_size, *whole.shape[1:], dtype=whole.dtype)
        state[key][places] = whole
