"""Counterfactual scenes: the same scene with one noun, colour, count, relation or binding changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from accord_lab.scenes.lexicon import COLORS, IMAGE_SIZE, NOUNS
from accord_lab.scenes.render import silhouette
from accord_lab.scenes.scene import GAP, Scene, Thing

KINDS = ("noun", "color", "count", "relation", "binding")


def _fits(box: tuple[int, int, int, int], others: list[Thing]) -> bool:
    x0, y0, x1, y1 = box
    if x0 < 1 or y0 < 1 or x1 > IMAGE_SIZE - 1 or y1 > IMAGE_SIZE - 1:
        return False
    return all(
        x0 >= t.box[2] + GAP or x1 + GAP <= t.box[0] or y0 >= t.box[3] + GAP or y1 + GAP <= t.box[1] for t in others
    )


def _reshaped(thing: Thing, noun: str, others: list[Thing]) -> Thing | None:
    h, w = silhouette(noun, max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1])).shape
    x, y = round(thing.center[0] - w / 2), round(thing.center[1] - h / 2)
    box = (x, y, x + w, y + h)
    return replace(thing, noun=noun, box=box) if _fits(box, others) else None


def edit_scene(scene: Scene, rng: np.random.Generator, kind: str) -> Scene | None:
    """`scene` with one thing changed, or None if this kind of change does not apply to it.

    Args:
        kind: one of KINDS. `noun` and `color` change the first group, `count` drops one thing of several,
            `relation` turns the layout of single things by half a turn, `binding` swaps the colours of two things.
    """
    things = list(scene.things)
    if kind == "noun":
        noun = str(rng.choice([n for n in NOUNS if all(n != t.noun for t in things)]))
        old = things[int(rng.integers(len(things)))].noun
        for i, t in enumerate(things):
            if t.noun == old:
                new = _reshaped(t, noun, things[:i] + things[i + 1 :])
                if new is None:
                    return None
                things[i] = new
    elif kind == "color":
        color = str(rng.choice([c for c in COLORS if all(c != t.color for t in things)]))
        old_thing = things[int(rng.integers(len(things)))]
        things = [
            replace(t, color=color) if (t.noun, t.color) == (old_thing.noun, old_thing.color) else t for t in things
        ]
    elif kind == "count":
        if len(things) == 1:
            return None
        del things[int(rng.integers(len(things)))]
    elif kind == "relation":
        if len(things) == 1 or len({(t.noun, t.color) for t in things}) < len(things):
            return None
        for i, t in enumerate(things):
            x0, y0, x1, y1 = t.box
            things[i] = replace(t, box=(IMAGE_SIZE - x1, IMAGE_SIZE - y1, IMAGE_SIZE - x0, IMAGE_SIZE - y0))
    elif kind == "binding":
        pairs = [(i, j) for i in range(len(things)) for j in range(i) if things[i].color != things[j].color]
        pairs = [(i, j) for i, j in pairs if things[i].noun != things[j].noun]
        if not pairs:
            return None
        i, j = pairs[int(rng.integers(len(pairs)))]
        things[i], things[j] = replace(things[i], color=things[j].color), replace(things[j], color=things[i].color)
    else:
        raise ValueError(f"kind must be one of {KINDS}, not {kind!r}")
    return replace(scene, things=tuple(things))
