"""Prompts like GenEval's, of our own: six tags, COCO's classes, and for each prompt the record that judges it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accord.evaluation.geneval_records import CLASSES, COLOURS, RELATIONS, TAGS, Asked, Record
from accord.types import InputError

NUMBERS = {2: "two", 3: "three", 4: "four"}
PLACES = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
_PLURALS = {"person": "people", "sheep": "sheep", "knife": "knives", "computer mouse": "computer mice"}
# what comes in a pair or is no single thing, and how it is counted
_MEASURES = {"scissors": ("pair", "pairs"), "skis": ("pair", "pairs"), "broccoli": ("head", "heads")}
_THINGS = [name for name in CLASSES if name != "person"]  # which have a colour


def plural(name: str) -> str:
    """The plural of a class, or of another regular noun: "benches", "people"."""
    if name in _PLURALS or name in _MEASURES:
        return _PLURALS.get(name, name)
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


def spoken(name: str, count: int = 1, colour: str | None = None) -> str:
    """A class as a prompt says it: "an orange", "two blue benches", "a pair of red scissors"."""
    noun = plural(name) if count > 1 and name not in _MEASURES else name
    words = noun if colour is None else f"{colour} {noun}"
    if name in _MEASURES:
        words = f"{_MEASURES[name][count > 1]} of {words}"
    if count > 1:
        return f"{NUMBERS.get(count, count)} {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


Made = tuple[str, tuple[Asked, ...], tuple[Asked, ...]]  # what is said, included, excluded


@dataclass(frozen=True)
class _Kind:
    """The prompts of one tag: so many, and the one with a number."""

    total: int
    make: Callable[[int], Made]


def _single(index: int) -> Made:
    name = CLASSES[index]
    return spoken(name), (Asked(name),), ()


def _two(index: int) -> Made:
    first, second = _pair(CLASSES, index)
    return f"{spoken(first)} and {spoken(second)}", (Asked(first), Asked(second)), ()


def _counting(index: int) -> Made:
    which, more = divmod(index, len(NUMBERS))
    name, count = CLASSES[which], min(NUMBERS) + more
    return spoken(name, count), (Asked(name, count),), (Asked(name, count + 1),)


def _colors(index: int) -> Made:
    which, colour = divmod(index, len(COLOURS))
    return spoken(_THINGS[which], 1, COLOURS[colour]), (Asked(_THINGS[which], 1, COLOURS[colour]),), ()


def _places(index: int) -> Made:
    which, relation = divmod(index, len(RELATIONS))
    thing, reference = _pair(CLASSES, which)
    place = RELATIONS[relation]
    include = Asked(reference), Asked(thing, position=(place, 0))
    return f"{spoken(thing)} {PLACES[place]} {spoken(reference)}", include, ()


def _bound(index: int) -> Made:
    things, colours = divmod(index, len(COLOURS) * (len(COLOURS) - 1))
    include = tuple(Asked(n, 1, c) for n, c in zip(_pair(_THINGS, things), _pair(COLOURS, colours), strict=True))
    return " and ".join(spoken(a.name, 1, a.color) for a in include), include, ()


def _pair(names: Any, index: int) -> tuple[str, str]:
    """Two different ones: all ordered pairs have a number."""
    first, second = divmod(index, len(names) - 1)
    return names[first], names[second + (second >= first)]


_CLASSES, _NAMED, _HUES = len(CLASSES), len(_THINGS), len(COLOURS)
_PAIRS = _CLASSES * (_CLASSES - 1)
_KINDS = {
    "single_object": _Kind(_CLASSES, _single),
    "two_object": _Kind(_PAIRS, _two),
    "counting": _Kind(_CLASSES * len(NUMBERS), _counting),
    "colors": _Kind(_NAMED * _HUES, _colors),
    "position": _Kind(_PAIRS * len(RELATIONS), _places),
    "color_attr": _Kind(_NAMED * (_NAMED - 1) * _HUES * (_HUES - 1), _bound),
}


def geneval_records(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """So many records with prompts that are all different, as GenEval writes them; tag after tag in turn.

    A tag that has no further prompt is passed over: there are but 80 of `single_object`.

    Raises:
        InputError: for a count below 1, or more than there are prompts.
    """
    most = sum(kind.total for kind in _KINDS.values())
    if not 1 <= count <= most:
        raise InputError(f"`count` must be from 1 to {most}, not {count}")
    rng = random.Random(seed)
    waiting = {tag: rng.sample(range(kind.total), min(count, kind.total)) for tag, kind in _KINDS.items()}
    found: list[dict[str, Any]] = []
    while len(found) < count:
        for tag in TAGS:
            if waiting[tag] and len(found) < count:
                said, include, exclude = _KINDS[tag].make(waiting[tag].pop())
                found.append(Record(tag, f"a photo of {said}", include, exclude).to_dict())
    return found
