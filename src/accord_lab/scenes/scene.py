"""Scenes: what is where. A scene is sampled from a seed, said by `grammar` and drawn by `render`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from accord_lab.scenes.lexicon import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT_NOUN_COLOR,
    HELD_OUT_NOUN_NOUN,
    IMAGE_SIZE,
    NOUNS,
    SIZES,
)
from accord_lab.scenes.render import silhouette

GAP = 3  # pixels kept free between two things, so that they stay two connected components


@dataclass(frozen=True)
class Thing:
    """One silhouette. `box` is (x0, y0, x1, y1) in pixels, x1 and y1 exclusive."""

    noun: str
    color: str
    size: str
    box: tuple[int, int, int, int]

    @property
    def center(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Scene:
    """A background and 1 to 3 things; for a scene read from a picture, any number, and words may be 'unknown'."""

    background: str
    things: tuple[Thing, ...]

    @property
    def held_out(self) -> bool:
        """True if the scene shows a noun-colour or noun-noun combination that is kept out of all training data."""
        return is_held_out([(t.noun, t.color) for t in self.things])


def is_held_out(things: list[tuple[str, str | None]]) -> bool:
    if any((n, c) in HELD_OUT_NOUN_COLOR for n, c in things):
        return True
    return any(frozenset((a, b)) in HELD_OUT_NOUN_NOUN for (a, _), (b, _) in itertools.combinations(things, 2))


def relation(a: tuple[float, float], b: tuple[float, float]) -> str:
    """The dominant direction from which `a` is seen by `b` (image coordinates, y grows downwards)."""
    dx, dy = a[0] - b[0], a[1] - b[1]
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def place(shapes: list[tuple[int, int]], rng: np.random.Generator) -> list[tuple[int, int]] | None:
    """Top-left corners for boxes of the given (height, width), at least GAP apart; None if 40 tries fail."""
    boxes: list[tuple[int, int, int, int]] = []
    for h, w in shapes:
        for _ in range(40):
            x = int(rng.integers(1, IMAGE_SIZE - w))
            y = int(rng.integers(1, IMAGE_SIZE - h))
            if all(x >= b[2] + GAP or x + w + GAP <= b[0] or y >= b[3] + GAP or y + h + GAP <= b[1] for b in boxes):
                boxes.append((x, y, x + w, y + h))
                break
        else:
            return None
    return [(b[0], b[1]) for b in boxes]


# share of: one thing | several of a kind | two things | two of a kind and another | three things. Four things no prompt
# asks for and the denoiser never sees, but a captioner must know them to call them wrong.
LAYOUTS = {
    "one": 0.3,
    "same": 0.2,
    "two": 0.3,
    "same+one": 0.05,
    "three": 0.15,
    "crowd": 0.0,
    "pairs": 0.0,
    "same+two": 0.0,
    "trio+one": 0.0,
}
_GROUPS = {
    "one": (1,),
    "two": (1, 1),
    "same+one": (2, 1),
    "three": (1, 1, 1),
    "crowd": (4,),
    "pairs": (2, 2),
    "same+two": (2, 1, 1),
    "trio+one": (3, 1),
}


def sample_scene(rng: np.random.Generator, layout: str | None = None, allow_held_out: bool = False) -> Scene:
    """A random scene.

    Args:
        rng: numpy generator; the same state gives the same scene.
        layout: a key of LAYOUTS, drawn at its share if None.
        allow_held_out: whether held-out combinations may appear (never in training data).
    """
    nouns, colors, backgrounds = NOUNS, tuple(COLORS), tuple(BACKGROUNDS)
    while True:
        kind = layout or str(rng.choice(list(LAYOUTS), p=list(LAYOUTS.values())))
        if kind == "same":
            counts: tuple[int, ...] = (int(rng.integers(2, 4)),)
        else:
            counts = _GROUPS[kind]
        words: list[tuple[str, str, str]] = []
        for count in counts:
            noun, color = nouns[rng.integers(len(nouns))], colors[rng.integers(len(colors))]
            size = "big" if rng.random() < 0.6 else "small"
            words += [(noun, color, size)] * count
        if not allow_held_out and is_held_out([(n, c) for n, c, _ in words]):
            continue
        shapes = [silhouette(n, int(rng.choice(SIZES[s]))) for n, _, s in words]
        corners = place([a.shape for a in shapes], rng)  # type: ignore[misc]
        if corners is None:
            continue
        things = tuple(
            Thing(n, c, s, (x, y, x + a.shape[1], y + a.shape[0]))
            for (n, c, s), a, (x, y) in zip(words, shapes, corners, strict=True)
        )
        return Scene(backgrounds[rng.integers(len(backgrounds))], things)
