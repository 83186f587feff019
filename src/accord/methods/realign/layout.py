"""A place for everything: found things stay where they are, missing ones get free space that the relations allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from accord.data.lexicon import SIZES
from accord.types import InputError, Prompt, Region

LEAST_SIDE = 0.02  # of a place, as a share of the picture
GRID = 9  # candidate centres a side
STAY, MISSING_STAY = 1.0, 0.15  # cost of a move by the whole picture: of a thing that is well, of one that is missing
OVERLAP, RELATION, EDGE = 12.0, 8.0, 8.0
CLEAR = 0.04  # gap wanted between two boxes
AVOID, AVOID_REACH = 4.0, 0.35  # of places that were tried in vain, and how far around them
Place = tuple[str, tuple[float, float, float, float]]  # a thing's words, and its box as shares of width and height
SMALL_WORDS = {"small", "little", "tiny", "mini"}


def box_side(prompt: Prompt, phrase: int, number: int) -> float:
    """Side of the box of one thing as a share of the picture, by how many there are and the size word."""
    side = 0.46 if number <= 3 else 0.42 if number == 4 else 0.3
    words = {w.text.lower() for w in prompt.phrases[phrase].words if w.text.lower() in SIZES}
    return side * (0.75 if words & SMALL_WORDS else 1.0)


def plan(
    prompt: Prompt,
    slots: list[int],
    found: list[Region],
    maps: np.ndarray,
    good: float = 0.5,
    sweeps: int = 6,
    tried: Sequence[list[Region]] = (),
) -> list[Region]:
    """One region a slot, by coordinate descent over a grid of centres.

    The cost of a layout adds up overlaps, relations not kept, boxes beyond the edge, and how far things that are
    already there (deficit below `good`) would be moved; a missing thing is drawn weakly to the peak of its own
    attention map.

    Args:
        slots: phrase of each thing.
        found: regions in the picture, with deficits.
        maps: attention of each phrase [P, h, w] in 0..1.
        tried: layouts of this picture that did not help; what is not well is put elsewhere.
    """
    h, w = maps.shape[1:]
    rest = sorted(found, key=lambda r: r.deficit)
    anchors, stays, sides, sources, avoided = [], [], [], [], []
    for number, phrase in enumerate(slots):
        match = next((r for r in rest if r.phrase == phrase), None)
        if match is not None:
            rest = [r for r in rest if r is not match]
        side = box_side(prompt, phrase, len(slots))
        if match is not None:
            anchors.append(((match.box[0] + match.box[2]) / 2, (match.box[1] + match.box[3]) / 2))
        else:
            y, x = np.unravel_index(int(maps[phrase].argmax()), (h, w))
            anchors.append(((x + 0.5) / w, (y + 0.5) / h))
        well = match is not None and match.deficit < good
        stays.append(STAY if well else MISSING_STAY)
        avoided.append([] if well else [_center(layout[number]) for layout in tried])
        sides.append(side)
        sources.append(match)
    centers = _descend(prompt, slots, np.asarray(anchors).reshape(-1, 2), stays, sides, avoided, sweeps)
    out = []
    for phrase, (cx, cy), side, source in zip(slots, centers, sides, sources, strict=True):
        box = tuple(float(np.clip(v, 0, 1)) for v in (cx - side / 2, cy - side / 2, cx + side / 2, cy + side / 2))
        planned = source is None or source.deficit >= good
        out.append(
            Region(
                phrase,
                box,  # type: ignore[arg-type]
                box_mask(box, (h, w)),  # type: ignore[arg-type]
                source.caption if source else "",
                source.deficit if source else 1.0,
                planned,
                source.box if source else None,
            )
        )
    return out


def phrase_named(prompt: Prompt, words: str) -> int:
    """The thing of a prompt that these words are, its noun or its whole phrase, with or without its article.

    Raises:
        InputError: if there is none.
    """
    said = words.strip().lower()
    for i in prompt.things:
        phrase = prompt.phrases[i]
        text = phrase.text.lower()
        if said in (text, phrase.head.text.lower(), text.partition(" ")[2]):
            return i
    known = ", ".join(repr(prompt.phrases[i].text) for i in prompt.things) or "none"
    raise InputError(f"{prompt.text[:40]!r} asks for no thing {words!r} that could be placed; its things are {known}")


def check_place(place: Place) -> None:
    """Refuse a box that is none, or is not in the picture. Raises InputError."""
    words, (x0, y0, x1, y1) = place
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise InputError(
            f"the place of {words!r} is no box in the picture; give X0,Y0,X1,Y1 from 0 to 1, left and top before "
            "right and bottom"
        )
    if min(x1 - x0, y1 - y0) < LEAST_SIDE:
        raise InputError(f"the place of {words!r} is too small to be seen; make each side at least {LEAST_SIDE}")


def placed(prompt: Prompt, layout: Sequence[Region], places: Sequence[Place]) -> list[Region]:
    """A layout with things at places that somebody chose: nothing is there yet, so their deficit is 1. Of several
    things of a phrase the first places are those of the first.

    Raises:
        InputError: for a place of what the prompt does not ask for, or more places than there are things.
    """
    out, free = list(layout), set(range(len(layout)))
    for words, box in places:
        phrase = phrase_named(prompt, words)
        slot = next((k for k in sorted(free) if out[k].phrase == phrase), None)
        if slot is None:
            raise InputError(f"there are more places for {words!r} than the prompt asks for; leave one out")
        free.discard(slot)
        shape = out[slot].mask.shape
        out[slot] = replace(out[slot], box=box, mask=box_mask(box, (shape[0], shape[1])), deficit=1.0, planned=True)
    return out


def arrange(
    noise: torch.Tensor,
    source: torch.Tensor,
    origin: tuple[float, float, float, float],
    places: Sequence[tuple[float, float, float, float]],
) -> torch.Tensor:
    """One place an instance in the noise too: each place gets the noise that a good instance grew from.

    Args:
        noise: that is to be arranged, [...,h,w]; it stays as it is.
        source: the noise of the picture with the good instance, of the same shape.
        origin: the box of that instance.
        places: boxes of the instances to come.
    """
    h, w = noise.shape[-2:]
    out = noise.clone()
    for box in places:
        (top, bottom), (left, right) = _cells(box[1], box[3], h), _cells(box[0], box[2], w)
        row = min(max(round((origin[1] + origin[3]) / 2 * h - (bottom - top) / 2), 0), h - (bottom - top))
        column = min(max(round((origin[0] + origin[2]) / 2 * w - (right - left) / 2), 0), w - (right - left))
        out[..., top:bottom, left:right] = source[..., row : row + bottom - top, column : column + right - left]
    return out


def _cells(start: float, stop: float, count: int) -> tuple[int, int]:
    """The cells of a side that lie between two shares of it, one at least."""
    first = min(max(round(start * count), 0), count - 1)
    return first, min(max(round(stop * count), first + 1), count)


def box_mask(box: tuple[float, float, float, float], shape: tuple[int, int]) -> np.ndarray:
    """Coverage of a box on a grid of h x w, float32 in 0..1."""
    h, w = shape
    ys = np.clip(np.minimum(np.arange(1, h + 1), box[3] * h) - np.maximum(np.arange(h), box[1] * h), 0, 1)
    xs = np.clip(np.minimum(np.arange(1, w + 1), box[2] * w) - np.maximum(np.arange(w), box[0] * w), 0, 1)
    return (ys[:, None] * xs[None]).astype(np.float32)


def _center(region: Region) -> np.ndarray:
    return np.asarray([region.box[0] + region.box[2], region.box[1] + region.box[3]]) / 2


def _descend(
    prompt: Prompt,
    slots: list[int],
    anchors: np.ndarray,
    stays: list[float],
    sides: list[float],
    avoided: list[list[np.ndarray]],
    sweeps: int,
) -> np.ndarray:
    axis = (np.arange(GRID) + 0.5) / GRID
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    centers = np.clip(anchors.copy(), np.asarray(sides)[:, None] / 2, 1 - np.asarray(sides)[:, None] / 2)
    relations = [(r.subject, r.name, r.object) for r in prompt.relations]
    # things that are there move last
    order = sorted(range(len(slots)), key=lambda i: stays[i])
    for _ in range(sweeps):
        moved = False
        for i in order:
            options = np.concatenate([centers[i : i + 1], anchors[i : i + 1], grid])
            cost = _cost(i, options, centers, slots, anchors, stays, sides, avoided[i], relations)
            best = int(cost.argmin())
            if cost[best] < cost[0] - 1e-9:
                centers[i] = options[best]
                moved = True
        if not moved:
            break
    return centers


def _cost(
    i: int,
    options: np.ndarray,
    centers: np.ndarray,
    slots: list[int],
    anchors: np.ndarray,
    stays: list[float],
    sides: list[float],
    avoided: list[np.ndarray],
    relations: list[tuple[int, str, int]],
) -> np.ndarray:
    """Cost of each candidate centre [O, 2] of thing i, all others staying."""
    half = sides[i] / 2
    cost = stays[i] * np.linalg.norm(options - anchors[i], axis=1)
    cost = cost + EDGE * (np.clip(half - options, 0, None) + np.clip(options + half - 1, 0, None)).sum(1)
    for place in avoided:
        cost = cost + AVOID * np.clip(AVOID_REACH - np.linalg.norm(options - place, axis=1), 0, None)
    for j, other in enumerate(centers):
        if j == i:
            continue
        reach = (sides[i] + sides[j]) / 2 + CLEAR
        inside = np.clip(reach - np.abs(options - other), 0, None)
        cost = cost + OVERLAP * inside.min(1) * (inside > 0).all(1)
        for subject, name, obj in relations:
            if (slots[i], slots[j]) == (subject, obj):
                cost = cost + RELATION * _violation(options, other, name)
            elif (slots[i], slots[j]) == (obj, subject):
                cost = cost + RELATION * _violation(other, options, name)
    return cost


def _violation(a: np.ndarray, b: np.ndarray, name: str, margin: float = 0.35) -> np.ndarray:
    """How far `a` is from lying clearly left of (right of, above, below) `b`."""
    dx, dy = (a - b)[..., 0], (a - b)[..., 1]
    ahead = {"left": -dx, "right": dx, "above": -dy, "below": dy}.get(name)
    aside = {"left": dy, "right": dy, "above": dx, "below": dx}.get(name)
    if ahead is None or aside is None:
        return np.zeros(np.broadcast_shapes(dx.shape))
    return np.clip(margin - ahead, 0, None) + 0.5 * np.clip(np.abs(aside) - np.abs(ahead), 0, None)
