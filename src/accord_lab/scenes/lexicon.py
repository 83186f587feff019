"""The words of the lab's world: what can be in a scene and how it can be said."""

from __future__ import annotations

import itertools

import numpy as np

from accord.embedded import SIDE

IMAGE_SIZE = SIDE

# noun -> name of the Font Awesome Free 6 solid glyph whose silhouette it wears
GLYPHS: dict[str, str] = {
    "star": "star",
    "heart": "heart",
    "moon": "moon",
    "house": "house",
    "tree": "tree",
    "fish": "fish",
    "crown": "crown",
    "car": "car-side",
    "plane": "plane",
    "cross": "cross",
    "bone": "bone",
    "bolt": "bolt",
    "flag": "flag",
    "shirt": "shirt",
    "key": "key",
    "egg": "egg",
}
NOUNS: tuple[str, ...] = tuple(GLYPHS)
PLURALS: dict[str, str] = {n: n + "s" for n in NOUNS} | {"fish": "fish", "cross": "crosses"}

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 36, 42),
    "orange": (250, 140, 20),
    "yellow": (250, 222, 40),
    "green": (36, 160, 62),
    "cyan": (50, 205, 220),
    "blue": (44, 76, 222),
    "purple": (138, 48, 178),
    "pink": (252, 128, 190),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (244, 244, 244),
    "gray": (140, 140, 140),
    "black": (20, 20, 20),
    "beige": (232, 214, 180),
}
# longest side in pixels; a thing is big from BIG_FROM on
SIZES: dict[str, tuple[int, ...]] = {"small": (19, 20, 21), "big": (27, 28, 29)}
BIG_FROM = 24

# how each thing can be said, the usual word first
NOUN_WORDS: dict[str, tuple[str, ...]] = {n: (n,) for n in NOUNS} | {
    "plane": ("plane", "airplane"),
    "house": ("house", "home"),
    "car": ("car", "automobile"),
}
PLURALS |= {"airplane": "airplanes", "home": "homes", "automobile": "automobiles"}
COLOR_WORDS: dict[str, tuple[str, ...]] = {c: (c,) for c in COLORS} | {
    "red": ("red", "crimson"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "cyan": ("cyan", "turquoise"),
    "purple": ("purple", "violet"),
}
BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {b: (b,) for b in BACKGROUNDS} | {"gray": ("gray", "grey")}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "big": ("big", "large", "huge"),
}
COUNT_WORDS: dict[int, tuple[str, ...]] = {2: ("two", "a pair of"), 3: ("three",), 4: ("four",)}
RELATION_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath", "lower than"),
}
OPPOSITE: dict[str, str] = {"left": "right", "right": "left", "above": "below", "below": "above"}


def _held_out() -> tuple[frozenset[tuple[str, str]], frozenset[frozenset[str]]]:
    """A tenth of the noun-colour and of the noun-noun combinations, fixed for ever by the seed."""
    rng = np.random.default_rng(20230519)
    noun_color = list(itertools.product(NOUNS, COLORS))
    noun_noun = list(itertools.combinations(NOUNS, 2))
    pick = lambda items: [items[i] for i in rng.permutation(len(items))[: len(items) // 10]]  # noqa: E731
    return frozenset(pick(noun_color)), frozenset(frozenset(p) for p in pick(noun_noun))


HELD_OUT_NOUN_COLOR, HELD_OUT_NOUN_NOUN = _held_out()
