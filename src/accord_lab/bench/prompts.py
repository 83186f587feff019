"""SceneBench: 8 categories of 64 prompts, fixed in `scenebench.json`, in seven of them a quarter on held-out
combinations.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accord.prompts.phrases import read_ahead
from accord_lab.scenes.ask import Ask, ask_of
from accord_lab.scenes.grammar import noun_phrase
from accord_lab.scenes.lexicon import BACKGROUNDS, COLORS, NOUNS, RELATION_PHRASES

FILE = Path(__file__).with_name("scenebench.json")
PER_CATEGORY = 64
AHEAD = 1000  # prompts of a category that are read at once
HELD_OUT_SHARE = 0.25  # of the prompts of a category in which a combination can be held out


@dataclass(frozen=True)
class BenchPrompt:
    category: str
    text: str
    held_out: bool

    @property
    def ask(self) -> Ask:
        return ask_of(self.text)


def scenebench() -> list[BenchPrompt]:
    """The 512 prompts, category by category."""
    return [BenchPrompt(**row) for row in json.loads(FILE.read_text(encoding="utf8"))]


Draw = Callable[[np.random.Generator], str]


def _one(rng: np.random.Generator, items: tuple[str, ...]) -> str:
    return items[int(rng.integers(len(items)))]


def _two(rng: np.random.Generator, items: tuple[str, ...], k: int = 2) -> list[str]:
    return [items[i] for i in rng.permutation(len(items))[:k]]


def _single(rng: np.random.Generator) -> str:
    return _one(rng, ("", "a picture of ", "a photo of ", "there is ")) + noun_phrase(_one(rng, NOUNS))


def _two_things(rng: np.random.Generator) -> str:
    a, b = _two(rng, NOUNS)
    return f"{noun_phrase(a)} and {noun_phrase(b)}"


def _counting(rng: np.random.Generator) -> str:
    color = _one(rng, tuple(COLORS)) if rng.random() < 0.5 else None
    return noun_phrase(_one(rng, NOUNS), color, count=("two", "three")[int(rng.integers(2))])


def _color(rng: np.random.Generator) -> str:
    text = noun_phrase(_one(rng, NOUNS), _one(rng, tuple(COLORS)))
    return text + (f" on a {_one(rng, tuple(BACKGROUNDS))} background" if rng.random() < 0.5 else "")


def _binding(rng: np.random.Generator) -> str:
    (a, b), (c, d) = _two(rng, NOUNS), _two(rng, tuple(COLORS))
    return f"{noun_phrase(a, c)} and {noun_phrase(b, d)}"


def _position(rng: np.random.Generator) -> str:
    a, b = _two(rng, NOUNS)
    return f"{noun_phrase(a)} {RELATION_PHRASES[_one(rng, tuple(RELATION_PHRASES))][0]} {noun_phrase(b)}"


def _size(rng: np.random.Generator) -> str:
    (a, b), (s, t) = _two(rng, NOUNS), _two(rng, ("big", "small"))
    return f"{noun_phrase(a, s)} and {noun_phrase(b, t)}"


def _complex(rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        (a, b, c), (d, e, f) = _two(rng, NOUNS, 3), _two(rng, tuple(COLORS), 3)
        return f"{noun_phrase(a, d)}, {noun_phrase(b, e)} and {noun_phrase(c, f)}"
    (a, b), (c, d) = _two(rng, NOUNS), _two(rng, tuple(COLORS))
    relation = RELATION_PHRASES[_one(rng, tuple(RELATION_PHRASES))][0]
    return f"{noun_phrase(a, c)} {relation} {noun_phrase(b, d)} on a {_one(rng, tuple(BACKGROUNDS))} background"


CATEGORIES: dict[str, Draw] = {
    "single": _single,
    "two things": _two_things,
    "counting": _counting,
    "color": _color,
    "binding": _binding,
    "position": _position,
    "size": _size,
    "complex": _complex,
}


def draw(seed: int = 64) -> list[BenchPrompt]:
    """Draw the prompts afresh (how `scenebench.json` was made)."""
    rng = np.random.default_rng(seed)
    out: list[BenchPrompt] = []
    for category, make in CATEGORIES.items():
        ahead = copy.deepcopy(rng)
        read_ahead(make(ahead) for _ in range(AHEAD))
        possible = any(ask_of(make(rng)).held_out for _ in range(400))
        wanted = int(HELD_OUT_SHARE * PER_CATEGORY) if possible else 0
        texts: dict[str, bool] = {}
        while len(texts) < PER_CATEGORY:
            text = make(rng)
            held = ask_of(text).held_out
            if held == (sum(texts.values()) < wanted):
                texts.setdefault(text, held)
        out += [BenchPrompt(category, text, held) for text, held in texts.items()]
    return out
