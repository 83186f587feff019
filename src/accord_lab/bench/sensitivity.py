"""`accord bench sensitivity`: which reward sees which swapped word, and so does the held-out score of tuning."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from accord.data.images import to_tensor
from accord.diffusion.generate import generate
from accord.diffusion.pipelines import SD, Pipeline, load
from accord.evaluation.stats import wilson
from accord.judges.captioners import load_captioner
from accord.judges.clip import load_clip
from accord.methods.invert.alignment import InversionScore
from accord.prompts.phrases import phrases_of
from accord.prompts.swaps import exchanged, swaps
from accord.rewards.composed import make_rewards
from accord.rewards.registry import Reward, reward_names
from accord_lab.bench.prompts import draw
from accord_lab.bench.report import table, within
from accord_lab.bench.rewards import GUARD
from accord_lab.bench.runner import Bench
from accord_lab.scenes.ask import lab_lexicon
from accord_lab.scenes.edits import KINDS
from accord_lab.scenes.grammar import Saying, caption
from accord_lab.scenes.read import read
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import Scene, sample_scene

CAPTIONED = Saying(color=1, size=0, background=0, relation=1, opening=0, paraphrase=0)
SOURCES = ("renders", "generated")


@dataclass(frozen=True)
class Plan:
    """How many questions of a kind, and how many pictures of the pipeline they may be about."""

    questions: int
    pictures: int


@dataclass(frozen=True)
class Question:
    """A picture, its true prompt, and the prompt with one thing swapped."""

    image: Image.Image
    true: str
    false: str


def question(scene: Scene, image: Image.Image, kind: str, rng: np.random.Generator) -> Question | None:
    """A Question about `scene` (what the picture shows), or None if this kind of swap does not apply to it."""
    true = caption(scene, rng, CAPTIONED)
    prompt = phrases_of(true)
    if kind == "binding":
        colors = [w for p in prompt.phrases for w in p.words if w.kind == "color"]
        if len(scene.things) != 2 or len({w.text for w in colors}) != 2:
            return None
        if len({t.noun for t in scene.things}) != 2:
            return None
        return Question(image, true, exchanged(true, *colors))
    options = [s for w in prompt.words if w.kind == kind for s in swaps(prompt, w, lab_lexicon())]
    if kind == "count" and not options:  # "a star" has no counting word
        return None
    if not options:
        return None
    return Question(image, true, options[int(rng.integers(len(options)))][1])


Shown = tuple[Scene, Image.Image]  # a picture and what it shows


def rendered(seed: int = 5) -> Iterator[Shown]:
    """Random scenes without end."""
    rng = np.random.default_rng(seed)
    while True:
        scene = sample_scene(rng)
        yield scene, Image.fromarray(render(scene))


def questions(kind: str, count: int, shown: Iterable[Shown], seed: int = 5) -> list[Question]:
    """At most `count` questions of one kind about pictures."""
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    found = (question(scene, image, kind, rng) for scene, image in shown)
    return list(itertools.islice((q for q in found if q), count))


def generated(pipe: Pipeline, count: int) -> list[Shown]:
    """Up to `count` pictures of the pipeline, those that the reader understands, with what it reads."""
    prompts = [p.text for p in draw(66)]
    order = np.random.default_rng(0).permutation(len(prompts))[:count]
    images = generate(pipe, [prompts[i] for i in order], 0, progress=True)
    assert isinstance(images, list)
    shown = [(read(i), i) for i in images]
    return [
        (s, i)
        for s, i in shown
        if 1 <= len(s.things) <= 3 and all("unknown" not in (t.noun, t.color, s.background) for t in s.things)
    ]


@torch.no_grad()
def ranks_right(reward: Reward, asked: Sequence[Question]) -> np.ndarray:
    """1 where the true prompt is ranked above the false one, 1/2 for a tie; [Q]."""
    out = []
    for i in range(0, len(asked), 32):
        part = asked[i : i + 32]
        images = to_tensor([q.image for q in part])
        own, other = (reward(images, [getattr(q, side) for q in part]) for side in ("true", "false"))
        out.append(((own > other).float() + 0.5 * (own == other).float()).cpu().numpy())
    return np.concatenate(out) if out else np.zeros(0)


@dataclass(kw_only=True)
class Sensitivity(Bench[tuple[str, str], dict[str, Any]]):
    """Every reward, and the held-out score, ranks true prompts against swapped ones."""

    name = "sensitivity"
    plans = (Plan(400, 512), Plan(60, 120))
    model: str | None = None

    @cached_property
    def rewards(self) -> dict[str, Reward]:
        captioner, clip = load_captioner(), load_clip()
        rewards: dict[str, Reward] = {n: make_rewards({n: 1.0}, captioner, clip).rewards[n] for n in reward_names()}
        return {**rewards, GUARD: InversionScore()}

    @cached_property
    def asked(self) -> dict[str, dict[str, list[Question]]]:
        """Questions of each kind about pictures of each source."""
        pictures, count = generated(load(self.model, classes=SD), self.plan.pictures), self.plan.questions
        return {
            "renders": {k: questions(k, count, rendered()) for k in KINDS},
            "generated": {k: questions(k, count, pictures) for k in KINDS},
        }

    def cells(self) -> Sequence[tuple[str, str]]:
        return [(source, reward) for source in SOURCES for reward in (*reward_names(), GUARD)]

    def measure(self, cell: tuple[str, str]) -> dict[str, Any]:
        source, reward = cell
        row: dict[str, Any] = {"pictures": source, "reward": reward}
        for kind, asked in self.asked[source].items():
            right = ranks_right(self.rewards[reward], asked)
            share = float(right.mean()) if len(right) else float("nan")
            ci95 = [round(v, 4) for v in wilson(share, len(right))]
            row[kind] = {"right": round(share, 4), "ci95": ci95, "questions": len(right)}
        return row

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        rows = [
            [r["pictures"], r["reward"], *(within(r[k]["right"], r[k]["ci95"], ".0f", 100) for k in KINDS)]
            for r in data["rows"]
        ]
        return (
            "# Which reward sees what\n\nHow often, in %, a reward ranks a picture's true prompt above the same prompt "
            "with one thing swapped (a coin: 50) [95 %]. Generated pictures are captioned as the reader reads them.\n\n"
            + table(["pictures", "reward", *KINDS], rows)
            + "\n"
        )
