"""What strategies that learn from the forward process share: rounds of pictures, fresh noise on them, the old weights.

A round is a step of the optimiser, or several (`refresh`). Its pictures are made with the old weights, which stay as
they are until the next one, and judged before a step's first loss; each is kept in the run's folder as soon as it is
there, so that a run that is killed in the middle of a round goes on with it. Then each picture is noised anew at
several times, and what the trained, the old and the untuned weights say there makes the loss. Neither probabilities nor
noise on the way are needed: any sampler will do, and a picture can be learned from more than once (`passes`).

Letters in shapes: B pictures, G pictures of one prompt; a state is what the pipeline's loop denoises, [B,...].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from accord.diffusion.process import Level, level_at
from accord.methods.tune.drift import diversity
from accord.methods.tune.registry import Strategy
from accord.methods.tune.rollouts import Batch, Rollouts, Tensors
from accord.training.fingerprint import fingerprint

TIMES = 1000  # in which `time_from` and `time_until` are counted, whatever a scheduler's own count is
NOISE, TIME, PASS = 1000, 500, 100_000  # salts of the generators; PASS for each step since the pictures were made


@dataclass(frozen=True)
class Forward(Strategy):
    """A strategy of the forward process. A subclass says what one picture's error is, and has its own weights for it.

    Attributes:
        usual: published with its own loss alone. The distance to the untuned model is in it (`reference_weight`), so
            that the run's own two terms are off.
    """

    rolls_out: ClassVar[bool] = True
    usual: ClassVar[Mapping[str, Any]] = {
        "reward_weight": 1.0,
        "pretrain_weight": 0.0,
        "kl_weight": 0.0,
        "save_every": 1,  # a round is long
    }

    group_size: int = 16  # pictures of a prompt; small groups collapse
    times: int = 2  # times at which each picture is noised anew, one in each equal part of what follows
    time_from: int = 400  # of 1000: below it what is where is long decided
    time_until: int = 950
    reference_weight: float = 1e-4  # of the squared distance to the untuned network's output
    old_rate: float = 0.001  # the old weights keep a share of min(old_rate * step, old_most) of themselves in a step
    old_most: float = 0.5
    at_once: int = 24  # pictures in one run of the network, of one prompt each time
    refresh: int = 1  # steps of the optimiser in a round, each with prompts of its own
    passes: int = 1  # how often a round's pictures are gone through, in `refresh / passes` steps, with fresh noise

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(2, "group_size")
        self.at_least(1, "times", "at_once", "refresh", "passes")
        self.at_least(0, "reference_weight", "old_rate", "time_from")
        if not self.time_from < self.time_until <= TIMES:
            raise ValueError(f"time_until must be in (time_from, {TIMES}], not {self.time_until}")
        if self.refresh % self.passes:
            raise ValueError(f"passes must divide refresh, {self.refresh}, without a rest, not {self.passes}")
        if not 0 <= self.old_most <= 1:
            raise ValueError(f"old_most must be in [0, 1], not {self.old_most}")

    def errors(self, output: torch.Tensor, old: torch.Tensor, noised: Noised) -> torch.Tensor:
        """What each picture adds to the loss, [B].

        Args:
            output, old: what the trained and the old weights say of the noised pictures, [B,...].
        """
        raise NotImplementedError

    # --- a round ------------------------------------------------------------------------------------------------------
    def first_of(self, step: int) -> int:
        """The first step of the round that a step is in."""
        return step - step % self.refresh

    def drawn_at(self, step: int) -> int:
        """The step whose pictures this one learns from: itself in the first pass through its round."""
        return self.first_of(step) + step % self.refresh % (self.refresh // self.passes)

    def prepare(self, rollouts: Rollouts, batches: Sequence[Batch]) -> None:
        """Make and judge the pictures that a step learns from, of all of this process's micro-batches, with the old
        weights; what an earlier pass has made is taken again.
        """
        step = batches[0].step
        drawn, places = self.drawn_at(step), {tuple(batch.places) for batch in batches}
        rollouts.drop_rounds(self.first_of(step))
        if not places <= rollouts.earlier.get(drawn, {}).keys():
            rollouts.earlier[drawn] = self._made(rollouts, batches)
        rollouts.round = (step, rollouts.earlier[drawn])

    @torch.no_grad()
    def _made(self, rollouts: Rollouts, batches: Sequence[Batch]) -> dict[tuple[int, ...], Any]:
        """Pictures, advantages and what is logged, by the places of each micro-batch."""
        first_step = self.first_of(batches[0].step)
        old = self._old(rollouts, batches[0].step)
        rollouts.drop_kept(f"step-{first_step:06d}-")
        groups = [part for batch in batches for part in batch.in_groups(self.group_size).cut(self.group_size)]

        def kept_as(group: Batch) -> tuple[str, str]:
            key = fingerprint(rollouts.key, group.prompts, group.seeds, *old.values())
            return f"step-{first_step:06d}-{group.numbers[0]:06d}-{group.seeds[0]}", key

        with rollouts.weights(old):
            made = rollouts.drawn(self, groups, kept_as)
        gather = rollouts.processes.gather
        rewards, logs = rollouts.graded({n: torch.cat([m[f"part.{n}"] for m in made]) for n in rollouts.names})
        logs["diversity"] = float(torch.cat([m["diversity"] for m in made]).mean())
        numbers = [n for group in groups for n in group.numbers]
        everyone = gather(torch.tensor(numbers, device=rewards.device))
        advantage = advantages(rewards, numbers, gather(rewards), everyone.tolist())
        clean = torch.cat([m["latents"] for m in made])
        found: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor, dict[str, float]]] = {}
        first = 0
        for batch in batches:
            rows = slice(first, first + len(batch.prompts) * self.group_size)
            found[tuple(batch.places)] = (clean[rows], advantage[rows], logs)
            first = rows.stop
        return found

    @torch.no_grad()
    def draw(self, rollouts: Rollouts, share: Batch) -> Tensors:
        """The pictures of one prompt, as states, with each reward as it is and how far apart they are."""
        states, pictures, parts = [], [], []
        for some in share.cut(self.at_once):
            states.append(rollouts.pictures(some.prompts, some.generators()))
            pictures.append(rollouts.decode(some.prompts, states[-1]))
            parts.append(rollouts.parts(pictures[-1], some.prompts))
        apart = diversity(torch.cat(pictures)[None])
        rewards = {f"part.{name}": torch.cat([p[name] for p in parts]) for name in parts[0]}
        return {"latents": torch.cat(states), "diversity": apart} | rewards

    def _old(self, rollouts: Rollouts, step: int) -> dict[str, torch.Tensor]:
        """The old weights, moved towards the trained ones once a round; they are the run's state."""
        state, step = rollouts.state, self.first_of(step)
        if int(state.get(f"{self.name}.step", torch.tensor(-1))) != step:
            share = min(self.old_rate * step, self.old_most)
            for name, parameter in rollouts.trained.items():
                new, old = parameter.detach().float().cpu(), state.get(f"{self.name}.old.{name}")
                state[f"{self.name}.old.{name}"] = new.clone() if old is None else old.lerp(new, 1 - share)
            state[f"{self.name}.step"] = torch.tensor(step)
        return {name: state[f"{self.name}.old.{name}"] for name in rollouts.trained}

    # --- a micro-batch ------------------------------------------------------------------------------------------------
    def loss(self, rollouts: Rollouts, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        clean, advantage, logs = rollouts.of_round(self, batch)
        old = self._old(rollouts, batch.step)
        pieces = list(self._noised(rollouts, batch, clean, advantage))
        # before the first graph: the old weights are put where the trained ones are
        with torch.no_grad(), rollouts.weights(old):
            before = [rollouts.output_at(p.prompts, p.x_t, p.time) for p in pieces]
        with torch.no_grad(), rollouts.untuned():
            untuned = [rollouts.output_at(p.prompts, p.x_t, p.time) if self.reference_weight else None for p in pieces]

        def term(piece: Noised, was: torch.Tensor, first: torch.Tensor | None) -> torch.Tensor:
            output = rollouts.output_at(piece.prompts, piece.x_t, piece.time)
            found = self.errors(output, was, piece)
            if first is not None:
                found = found + self.reference_weight * (output - first).float().square().flatten(1).mean(1)
            return found.sum()

        losses = []
        for piece, was, first in zip(pieces, before, untuned, strict=True):
            if rollouts.config.gradient_checkpointing:  # then the graph of one piece alone is there at a time
                with set_checkpoint_early_stop(False):  # an exception in the middle of a pipeline's call
                    losses.append(checkpoint(term, piece, was, first, use_reentrant=False))
            else:
                losses.append(term(piece, was, first))
        return torch.stack(losses).sum() / (len(clean) * self.times), dict(logs)

    def _noised(
        self, rollouts: Rollouts, batch: Batch, clean: torch.Tensor, advantage: torch.Tensor
    ) -> Sequence[Noised]:
        """Every picture at `times` times, in pieces of `at_once` pictures of one prompt, which have one time.

        Within a group the advantages add up to 0. What its pictures have in common at one time cancels out then, and
        with it most of the noise that a time of its own for each of them would bring.
        """
        group, scheduler, pieces = batch.in_groups(self.group_size), rollouts.scheduler, list[Noised]()
        salt = PASS * (batch.step - self.drawn_at(batch.step))
        for number, maker in enumerate(batch.generators(TIME + salt)):
            shares = torch.rand(self.times, generator=maker).tolist()
            for k, share in enumerate(shares):
                part = (k + share) / self.times
                out_of_1000 = self.time_from + part * (self.time_until - self.time_from)
                time = float(int(out_of_1000 / TIMES * scheduler.config.num_train_timesteps))
                for first in range(0, self.group_size, self.at_once):
                    rows = slice(
                        number * self.group_size + first,
                        number * self.group_size + min(first + self.at_once, self.group_size),
                    )
                    x0, makers = clean[rows], group.part(rows.start, rows.stop).generators(NOISE + salt + k)
                    noise = torch.stack([torch.randn(x0.shape[1:], generator=g) for g in makers]).to(x0.device)
                    level = level_at(scheduler, time, x0.float())
                    x_t = level.noised(x0.float(), noise).to(rollouts.dtype)
                    pieces.append(Noised(group.prompts[rows], x0, x_t, time, level, advantage[rows]))
        return pieces


@dataclass(frozen=True)
class Noised:
    """Pictures of one prompt, noised to one time.

    Attributes:
        clean: x0, [B,...]; x_t: the same noised, by `level`.
        advantage: A [B] in -5..5.
    """

    prompts: list[str]
    clean: torch.Tensor
    x_t: torch.Tensor
    time: float
    level: Level
    advantage: torch.Tensor


def advantages(
    rewards: torch.Tensor, numbers: list[int], all_rewards: torch.Tensor, all_numbers: list[int]
) -> torch.Tensor:
    """A [B] = (R - mean of the prompt's group) / (spread of all + 1e-4), clipped to -5..5.

    What could not be judged has none, and is in no mean; where nothing could be, all are NaN, and the step is skipped.

    Source: DiffusionNFT (arXiv 2509.16117), algorithm 1.

    Args:
        numbers: the prompt of each reward; `all_*` are those of every process.
    """
    every, judged = torch.tensor(all_numbers, device=rewards.device), torch.isfinite(all_rewards)
    if not judged.any():
        return torch.full_like(rewards, torch.nan)
    means = torch.stack([all_rewards[(every == number) & judged].mean() for number in numbers])
    advantage = (rewards - means) / (all_rewards[judged].std(unbiased=False) + 1e-4)
    return torch.where(torch.isfinite(rewards), advantage, torch.zeros_like(rewards)).clamp(-5, 5).detach()
