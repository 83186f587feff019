"""Saying scenes: captions in correct English with paraphrases, every word of them true of the scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accord_lab.scenes.lexicon import (
    BACKGROUND_WORDS,
    COLOR_WORDS,
    COUNT_WORDS,
    NOUN_WORDS,
    OPPOSITE,
    PLURALS,
    RELATION_PHRASES,
    SIZE_WORDS,
)
from accord_lab.scenes.scene import Scene, Thing, relation

_OPENINGS = (
    "a picture of ",
    "an image of ",
    "a photo of ",
    "a drawing of ",
    "an illustration of ",
    "a sketch of ",
    "a scene with ",
    "a view of ",
    "we see ",
)
_STATEMENTS = (("there is ", "there are "), ("here is ", "here are "))
_BACKDROPS = (
    "on a {} background",
    "against a {} background",
    "on {}",
    "against a {} backdrop",
    "on a plain {} background",
)
_JOINS = (" and ", " next to ", " beside ", " with ", " near ", " alongside ", " together with ", " plus ")
USUAL = 0.85  # share of the usual word where a word has a rarer synonym


@dataclass(frozen=True)
class Saying:
    """Which optional parts of a scene a caption tells, each a probability."""

    color: float = 0.85
    size: float = 0.35
    background: float = 0.35
    relation: float = 0.5
    opening: float = 0.3
    paraphrase: float = 1.0  # share of free choice among synonyms; 0 takes the first of each


FULL = Saying(color=1, size=1, background=1, relation=1, opening=0, paraphrase=0)
PLAIN = Saying(color=1, size=0, background=0, relation=0, opening=0, paraphrase=0)


def noun_phrase(noun: str, *modifiers: str | None, count: str | int = 1) -> str:
    """`two red stars`, `an orange egg`, `one big key`.

    Args:
        noun: singular word.
        modifiers: words between number and noun, in order; None is skipped.
        count: 1 for the fitting article, or the words themselves ("one", "two", "a pair of").
    """
    plural = count not in (1, "one")
    words = [w for w in (*modifiers, PLURALS[noun] if plural else noun) if w]
    lead = ("an" if words[0][0] in "aeiou" else "a") if count == 1 else str(count)
    return " ".join([lead, *words])


@dataclass(frozen=True)
class SaidThing:
    """`count` things alike as a caption tells of them: `text[start:end]`, its noun from `head` on.

    None for a colour, size or role that is not told; a role is a name of RELATION_PHRASES, as seen from this thing.
    """

    start: int
    end: int
    head: int
    noun: str
    color: str | None
    size: str | None
    count: int
    role: str | None = None

    def fits(self, thing: Thing) -> bool:
        return thing.noun == self.noun and self.color in (None, thing.color) and self.size in (None, thing.size)


@dataclass(frozen=True)
class Said:
    """A caption and where it says what."""

    text: str
    things: tuple[SaidThing, ...]


NOTHING = Said("", ())


def caption(scene: Scene, rng: np.random.Generator, saying: Saying = Saying()) -> str:
    """The text of `say`."""
    return say(scene, rng, saying).text


def say(scene: Scene, rng: np.random.Generator, saying: Saying = Saying()) -> Said:
    """A caption of the scene, drawn from the grammar.

    Things are grouped by the attributes that the caption names, so that a caption without colours says "two stars" of a
    red and a blue star. A relation is named for the first two groups if both have one member.
    """
    free = rng.random() < saying.paraphrase

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))] if free else options[0]

    def usual(options: tuple[str, ...]) -> str:
        return options[0] if rng.random() < USUAL else pick(options)

    named = [rng.random() < p for p in (saying.color, saying.size)]

    groups: dict[tuple[str, str | None, str | None], list[tuple[float, float]]] = {}
    for t in scene.things:
        key = (t.noun, t.color if named[0] else None, t.size if named[1] else None)
        groups.setdefault(key, []).append(t.center)
    order = list(groups)
    if free and len(order) > 1 and rng.random() < 0.5:
        order = [order[i] for i in rng.permutation(len(order))]
    said, nouns = [], []
    for noun, color, size in order:
        many = len(groups[noun, color, size])
        count: str | int = usual(COUNT_WORDS[many]) if many > 1 else "one" if free and rng.random() < 0.05 else 1
        size_word = pick(SIZE_WORDS[size]) if size else None
        nouns.append(usual(NOUN_WORDS[noun]))
        said.append(noun_phrase(nouns[-1], size_word, usual(COLOR_WORDS[color]) if color else None, count=count))
    roles: list[str | None] = [None] * len(order)
    between = [", "] * (len(said) - 2) + [" and "] * (len(said) > 1)
    if len(said) > 1 and len(groups[order[0]]) == len(groups[order[1]]) == 1 and rng.random() < saying.relation:
        name = relation(groups[order[0]][0], groups[order[1]][0])
        roles[:2] = name, OPPOSITE[name]
        between[0] = f" {pick(RELATION_PHRASES[name])} "
    elif len(said) == 2:
        between[0] = usual(_JOINS)

    text = ""
    if rng.random() < saying.opening:
        plural = len(groups[order[0]]) > 1
        text = pick(_OPENINGS) if rng.random() < 0.75 else _STATEMENTS[int(rng.integers(2))][plural]
    things = []
    for key, words, noun, role, after in zip(order, said, nouns, roles, [*between, ""], strict=True):
        start, text = len(text), text + words
        plural_noun = PLURALS[noun] if words.endswith(PLURALS[noun]) else noun
        head = len(text) - len(plural_noun)
        things.append(SaidThing(start, len(text), head, *key, count=len(groups[key]), role=role))
        text += after
    if rng.random() < saying.background:
        text += " " + pick(_BACKDROPS).format(usual(BACKGROUND_WORDS[scene.background]))
    return Said(text, tuple(things))
