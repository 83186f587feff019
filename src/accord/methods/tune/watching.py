"""What is measured at each evaluation beside reward and held-out score, for the limits of `accord.training.limits`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from accord.methods.tune.drift import brightness, contrast, diversity, norms
from accord.methods.tune.rollouts import Rollouts, frames_of, of_each
from accord.rewards.composed import Composed
from accord.rewards.registry import Reward
from accord.training.fingerprint import fingerprint
from accord.training.limits import Limits
from accord.types import InputError

GROUPS, SEEDS = 4, 3  # prompts and pictures of each for the diversity
RETOLD = 12  # prompts that are also asked for in other words, at most
SEED = 2_000_000


@dataclass(frozen=True)
class Watching:
    """What a run is watched by.

    Attributes:
        limits: beyond which it is stopped; None to measure alone.
        judge: a second judge's score, which never trains and never selects.
        paraphrases: prompts that are trained on -> the same in other words.
    """

    limits: Limits | None = None
    judge: Composed | Reward | None = None
    paraphrases: Mapping[str, str] | None = None

    def check(self, prompts: Sequence[str]) -> None:
        """Refuse paraphrases of which none is of these prompts.

        Raises:
            InputError: naming one of them.
        """
        if self.paraphrases is not None and not set(prompts) & self.paraphrases.keys():
            first = next(iter(self.paraphrases), "")
            raise InputError(
                f"none of the `paraphrases` is of a prompt that is trained on ({first[:40]!r} is none); give some of "
                "these prompts in other words"
            )

    def settings(self) -> dict[str, Any]:
        """As a run's settings have it; None for what is not there, as runs before had nothing of it."""
        return {
            "limits": asdict(self.limits) if self.limits else None,
            "watch": None if self.judge is None else type(self.judge).__name__,
            "paraphrases": fingerprint(sorted(self.paraphrases.items())) if self.paraphrases else None,
        }

    def told(self, prompts: Sequence[str]) -> tuple[list[str], list[str]]:
        """Some of the prompts that are trained on, and each in other words."""
        known = [p for p in prompts if p in (self.paraphrases or {})]
        chosen = known[:: max(1, len(known) // RETOLD)][:RETOLD]
        return chosen, [(self.paraphrases or {})[p] for p in chosen]

    @torch.no_grad()
    def measures(
        self,
        rollouts: Rollouts,
        prompts: Sequence[str],
        states: torch.Tensor,
        images: torch.Tensor,
        reward: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Of an evaluation: its prompts, states [N,...], pictures [N,3,H,W] and rewards [N], as `Drift` takes them."""
        found = {"norm": norms(states), "brightness": brightness(images), "contrast": contrast(images)}
        found["reward"] = reward
        if self.limits is not None:
            found["diversity"] = self._diversity(rollouts, prompts[:GROUPS])
        if self.judge is not None:
            scores = []
            for i in range(0, len(prompts), 8):
                pictures, texts = frames_of(images[i : i + 8], prompts[i : i + 8])
                scores.append(of_each(self.judge(pictures, texts), len(prompts[i : i + 8])))
            found["watch"] = torch.cat(scores)
        told, retold = self.told(rollouts.prompts)
        if told:
            found["told"], found["retold"] = (self._rewards(rollouts, texts, told) for texts in (told, retold))
        return found

    @staticmethod
    def _diversity(rollouts: Rollouts, prompts: Sequence[str]) -> torch.Tensor:
        found = []
        for i, prompt in enumerate(prompts):
            makers = [torch.Generator().manual_seed(SEED + SEEDS * i + k) for k in range(SEEDS)]
            made = rollouts.decode([prompt] * SEEDS, rollouts.pictures([prompt] * SEEDS, makers))
            found.append(diversity(made[None]))
        return torch.cat(found)

    @staticmethod
    def _rewards(rollouts: Rollouts, texts: Sequence[str], asked: Sequence[str]) -> torch.Tensor:
        """Of pictures of these texts, judged by what was asked for; the same noises whichever way it is said."""
        found = []
        for i in range(0, len(texts), 8):
            some = list(texts[i : i + 8])
            makers = [torch.Generator().manual_seed(SEED + 10_000 + i + k) for k in range(len(some))]
            pictures = rollouts.decode(some, rollouts.pictures(some, makers))
            found.append(rollouts.judge(pictures, list(asked[i : i + 8]))[0])
        return torch.cat(found)
