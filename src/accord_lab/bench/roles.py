"""`accord bench roles`: whether text states and denoiser know which of two things is where.

Two prompts of one scene differ in one respect: the relation is the opposite one, or two words are exchanged. How much
do the states of its tokens change? And is the denoiser's error on that scene lower with the true prompt? Both are
measured on scenes that no model was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from accord.data.images import to_tensor
from accord.diffusion.pipelines import SD, Pipeline, load
from accord.diffusion.process import level_at
from accord.diffusion.registers import registers_of
from accord.evaluation.stats import wilson
from accord_lab.bench.report import table, within
from accord_lab.bench.runner import Bench
from accord_lab.recipes.denoiser import LAYOUT_TIMESTEPS
from accord_lab.recipes.roles import label
from accord_lab.scenes.grammar import Said, Saying, say
from accord_lab.scenes.lexicon import OPPOSITE, RELATION_PHRASES
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import Scene, sample_scene

TOLD = Saying(color=1, size=0, background=0, relation=1, opening=0, paraphrase=0)
KINDS = {"relation": "the opposite relation", "noun": "nouns exchanged", "color": "colours exchanged"}
PLACES = ("noun 1", "noun 2", "registers")
SEED = 977  # of scenes that are in no training set
BATCH = 16


@dataclass(frozen=True)
class Plan:
    """How many scenes."""

    scenes: int


def scenes(count: int) -> list[Scene]:
    """`count` scenes of two unlike things of two colours."""
    rng, found = np.random.default_rng(SEED), []
    while len(found) < count:
        scene = sample_scene(rng, "two")
        if len({t.noun for t in scene.things}) == 2 == len({t.color for t in scene.things}):
            found.append(scene)
    return found


def swapped(said: Said, kind: str) -> str:
    """The text with one thing said otherwise.

    Args:
        kind: a key of KINDS.
    """
    first, second = said.things
    if kind == "relation":
        role = first.role
        assert role is not None
        own, other = (RELATION_PHRASES[r][0] for r in (role, OPPOSITE[role]))
        between = said.text[first.end : second.start]
        return said.text[: first.end] + between.replace(own, other) + said.text[second.start :]
    words = [getattr(t, kind) for t in (first, second)]
    parts = [said.text[: first.end], said.text[first.end : second.start], said.text[second.start :]]
    phrases = [parts[0].replace(words[0], words[1]), parts[1], parts[2].replace(words[1], words[0])]
    return "".join([*(_article(p) if i != 1 else p for i, p in enumerate(phrases))])


def _article(phrase: str) -> str:
    """`a orange key` as `an orange key`."""
    article, rest = phrase.split(" ", 1)
    return f"{'an' if rest[0] in 'aeiou' else 'a'} {rest}" if article in ("a", "an") else phrase


@dataclass(kw_only=True)
class Roles(Bench[str, dict[str, Any]]):
    """One row for each way to say it otherwise."""

    name = "roles"
    plans = (Plan(512), Plan(64))
    model: str | None = None

    @cached_property
    def pipe(self) -> Pipeline:
        return load(self.model, classes=SD)

    @cached_property
    def shown(self) -> list[tuple[Scene, Said]]:
        rng = np.random.default_rng(SEED)
        return [(scene, say(scene, rng, TOLD)) for scene in scenes(self.plan.scenes)]

    @cached_property
    @torch.no_grad()
    def latents(self) -> torch.Tensor:
        """[N, 4, 16, 16] of the scenes, scaled."""
        vae, parts = self.pipe.vae, [self.shown[i : i + BATCH] for i in range(0, len(self.shown), BATCH)]
        pixels = (to_tensor([Image.fromarray(render(s)) for s, _ in part]) for part in parts)
        means = [vae.encode((2 * p - 1).to(vae.device, vae.dtype)).latent_dist.mean for p in pixels]
        return torch.cat(means) * vae.config.scaling_factor

    @torch.no_grad()
    def states(self, texts: Sequence[str]) -> torch.Tensor:
        ids = self.pipe.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
        states: torch.Tensor = self.pipe.text_encoder(ids.to(self.pipe.device)).last_hidden_state
        return states

    @torch.no_grad()
    def errors(self, texts: Sequence[str]) -> np.ndarray:
        """Mean squared error of what the denoiser predicts of each scene, [N], at one noise and time for each."""
        generator = torch.Generator().manual_seed(SEED)
        noise = torch.randn(self.latents.shape, generator=generator).to(self.latents)
        times = torch.randint(*LAYOUT_TIMESTEPS, (len(noise),), generator=generator).to(noise.device)
        out = []
        for i in range(0, len(noise), BATCH):
            part = slice(i, i + BATCH)
            clean, eps, t = self.latents[part], noise[part], times[part]
            noisy = self.pipe.scheduler.add_noise(clean, eps, t)
            found = self.pipe.unet(noisy, t, self.states(texts[part])).sample
            target = level_at(self.pipe.scheduler, t, clean).target(clean, eps)
            out.append((found - target).square().flatten(1).mean(1).cpu().numpy())
        return np.concatenate(out)

    @cached_property
    def true(self) -> tuple[list[str], np.ndarray]:
        texts = [said.text for _, said in self.shown]
        return texts, self.errors(texts)

    def cells(self) -> Sequence[str]:
        return list(KINDS)

    def measure(self, kind: str) -> dict[str, Any]:
        texts, error = self.true
        others = [swapped(said, kind) for _, said in self.shown]
        gap = self.errors(others) - error
        right = float((gap > 0).mean())
        moved = self.moved(texts, others)
        return {
            "said": KINDS[kind],
            **{place: None if np.isnan(share) else round(share, 4) for place, share in moved.items()},
            "gap": round(float(gap.mean()), 4),
            "gap95": [round(float(gap.mean() + s * 1.96 * gap.std(ddof=1) / len(gap) ** 0.5), 4) for s in (-1, 1)],
            "right": round(right, 4),
            "ci95": [round(v, 4) for v in wilson(right, len(gap))],
            "scenes": len(gap),
        }

    def moved(self, texts: Sequence[str], others: Sequence[str]) -> dict[str, float]:
        """How far states move by what is said, as a share of their norm: of both nouns, and of registers."""
        _, labels = label([said for _, said in self.shown], self.pipe.tokenizer)
        before, after = (
            torch.cat([self.states(t[i : i + BATCH]) for i in range(0, len(t), BATCH)]).cpu() for t in (texts, others)
        )
        share = (after - before).norm(dim=-1) / before.norm(dim=-1).mean()
        rows = torch.arange(len(share))
        registers = [p for own in registers_of(self.pipe.text_encoder)[:2] for p in own]
        return {
            "noun 1": float(share[rows, labels.nouns[:, 0]].mean()),
            "noun 2": float(share[rows, labels.nouns[:, 1]].mean()),
            "registers": float(share[:, registers].mean()) if registers else float("nan"),
        }

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        rows = [
            [
                r["said"],
                *("" if r[p] is None else f"{r[p]:.2f}" for p in PLACES),
                within(r["gap"], r["gap95"], "+.3f"),
                within(r["right"], r["ci95"], ".0f", 100),
            ]
            for r in data["rows"]
        ]
        head = [
            "prompt",
            *(f"{p}, change" for p in PLACES),
            "denoiser's error [95 %]",
            "true prompt is better, % [95 %]",
        ]
        return (
            f"# Which of two is where\n\n{data['rows'][0]['scenes']} scenes of two things, in no training set. Their "
            "prompts are said otherwise. Changes of text states are shares of their norm; the error is the rise of the "
            "denoiser's at times 600 to 900, and a coin would be right in 50 %.\n\n" + table(head, rows) + "\n"
        )
