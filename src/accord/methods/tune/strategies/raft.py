"""RAFT (arXiv 2304.06767): the denoising loss on the best of N pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from accord.methods.tune.registry import Strategy, later, strategy
from accord.methods.tune.rollouts import Batch, Rollouts, Tensors


@strategy("raft")
@dataclass(frozen=True, repr=False)
class Raft(Strategy):
    """Denoising loss on the best of N pictures of each prompt. Source: RAFT (arXiv 2304.06767).

    Each picture is judged by its own prompt. The kept latents of the whole global batch are the run's state, collected
    anew every `refresh` steps. Pictures that were made with guidance and are learned without it are guided twice when
    the tuned pipeline is run; `guided` takes the loss at the guided output.
    """

    rolls_out: ClassVar[bool] = True
    usual: ClassVar[Mapping[str, Any]] = {"reward_weight": 1.0}  # published with its own loss alone

    candidates: int = 4  # N of best-of-N
    refresh: int = 20  # steps between two collections of best pictures
    least: float | None = later(None)  # of the reward as it is; what is below is not learned from
    guided: bool = later(False)  # whether the loss is that of the guided output, as the pictures were made

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(2, "candidates")
        self.at_least(1, "refresh")

    @torch.no_grad()
    def prepare(self, rollouts: Rollouts, batches: Sequence[Batch]) -> None:
        """Every `refresh` steps: keep the best of `candidates` states for each prompt, in their global places."""
        if batches[0].step % self.refresh:
            return
        shares = [batch.salted(100 + k) for batch in batches for k in range(self.candidates)]
        made = rollouts.drawn(self, shares)
        for i, batch in enumerate(batches):
            self._keep_best(rollouts, batch, made[i * self.candidates : (i + 1) * self.candidates])
        rollouts.round = (batches[0].step, {tuple(batch.places): None for batch in batches})

    @torch.no_grad()
    def draw(self, rollouts: Rollouts, share: Batch) -> Tensors:
        """One candidate for each prompt, as a state, with each reward as it is."""
        latents = rollouts.pictures(share.prompts, share.generators())
        parts = rollouts.parts(rollouts.decode(share.prompts, latents), share.prompts)
        return {"latents": latents} | {f"part.{name}": part for name, part in parts.items()}

    def loss(self, rollouts: Rollouts, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        if batch.step % self.refresh == 0:
            rollouts.of_round(self, batch)
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

    def _keep_best(self, rollouts: Rollouts, batch: Batch, candidates: Sequence[Tensors]) -> None:
        """Of N candidates for each of B prompts."""
        parts = [{name: made[f"part.{name}"] for name in rollouts.names} for made in candidates]
        scores = [rollouts.graded(found)[0] for found in parts]
        plain = [rollouts.reward.plain(found) for found in parts]
        judged = torch.stack(scores).nan_to_num(-torch.inf)  # [N, B]; what cannot be judged is not the best
        rows = judged.argmax(0), torch.arange(judged.shape[1])
        best, its = torch.stack([made["latents"] for made in candidates])[rows], torch.stack(plain)[rows]
        device, gather, state = judged.device, rollouts.processes.gather, rollouts.state
        places = gather(torch.tensor(batch.places, device=device)).cpu()
        found = {
            "latents": best.float(),
            "numbers": torch.tensor(batch.numbers, device=device),
            "rewards": judged.amax(0).float(),
            "passes": torch.ones_like(its) if self.least is None else (its >= self.least).float(),
        }
        for name, value in found.items():
            whole = gather(value).cpu()
            key = f"raft.{name}"
            if key not in state:
                state[key] = torch.zeros(rollouts.config.batch_size, *whole.shape[1:], dtype=whole.dtype)
            state[key][places] = whole
