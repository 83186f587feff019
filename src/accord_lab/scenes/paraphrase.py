"""Prompts of the lab in other words, out of the grammar: the same scene asked for, or a scene told in full that is what
was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from accord_lab.scenes.ask import Ask, ask_of
from accord_lab.scenes.grammar import noun_phrase
from accord_lab.scenes.lexicon import (
    BACKGROUND_WORDS,
    BACKGROUNDS,
    COLOR_WORDS,
    COLORS,
    COUNT_WORDS,
    NOUN_WORDS,
    PLURALS,
    RELATION_PHRASES,
    SIZE_WORDS,
)
from accord_lab.scenes.scene import is_held_out

_OPENINGS = ("a picture of ", "an image of ", "a drawing of ", "an illustration of ", "a scene with ", "we see ")
_OPENED = re.compile(
    r"^(an? (picture|image|photo|drawing|illustration|sketch) of|there (is|are)|here (is|are)|we see) "
)
_TRIES = 20


def paraphrase(prompt: str, rng: np.random.Generator) -> str:
    """The prompt with another opening and, where the grammar has them, other words for its relation, sizes, counts,
    nouns and colours. It asks for the same scene.

    Raises:
        InputError: for a noun that the lab does not have.
    """
    asked = ask_of(prompt)
    for _ in range(_TRIES):
        text = _OPENED.sub("", prompt)
        for words in _groups():
            text = _exchanged(text, words, rng)
        text = _articles(_OPENINGS[int(rng.integers(len(_OPENINGS)))] + text)
        if text != prompt and ask_of(text) == asked:
            return text
    return prompt


def paraphrases(prompts: Iterable[str], seed: int = 0) -> dict[str, str]:
    """Each prompt in other words; those that the grammar cannot say otherwise are left out."""
    rng = np.random.default_rng(seed)
    found = {prompt: paraphrase(prompt, rng) for prompt in dict.fromkeys(prompts)}
    return {prompt: other for prompt, other in found.items() if other != prompt}


def fullest(prompt: str, rng: np.random.Generator) -> str:
    """The prompt rewritten as the longest captions are: each thing with a size and a colour, the first two in relation,
    and a background. What the prompt leaves open is drawn; what it asks for, all such scenes have.

    Raises:
        InputError: for a noun that the lab does not have.
    """
    ask = ask_of(prompt)
    colors = _colors(ask, rng)
    said = []
    for thing, color in zip(ask.things, colors, strict=True):
        size = thing.size or ("big", "small")[int(rng.integers(2))]
        count = COUNT_WORDS[thing.count][0] if thing.count > 1 else 1
        said.append(noun_phrase(thing.noun, size, color, count=count))
    between = [", "] * (len(said) - 2) + [" and "] * (len(said) > 1)
    if ask.relations and (ask.relations[0][0], ask.relations[0][2]) == (0, 1):
        between[0] = f" {RELATION_PHRASES[ask.relations[0][1]][0]} "
    elif len(said) > 1 and ask.things[0].count == ask.things[1].count == 1:
        names = list(RELATION_PHRASES)
        between[0] = f" {RELATION_PHRASES[names[int(rng.integers(len(names)))]][0]} "
    text = "".join(words + after for words, after in zip(said, [*between, ""], strict=True))
    grounds = tuple(BACKGROUNDS)
    return f"{text} on a {ask.background or grounds[int(rng.integers(len(grounds)))]} background"


def _colors(ask: Ask, rng: np.random.Generator) -> list[str]:
    """A colour for each thing: the one asked for, else one that no other has and that is not held out with its noun."""
    found = [t.color for t in ask.things]
    for i, thing in enumerate(ask.things):
        free = [c for c in COLORS if c not in found and not is_held_out([(thing.noun, c)])]
        found[i] = found[i] or free[int(rng.integers(len(free)))]
    return [str(c) for c in found]


def _groups() -> list[Sequence[str]]:
    """Words that mean the same; the longer ones of a group are looked for first."""
    plurals = [tuple(PLURALS[w] for w in words) for words in NOUN_WORDS.values() if len(words) > 1]
    tables = (RELATION_PHRASES, SIZE_WORDS, COUNT_WORDS, NOUN_WORDS, COLOR_WORDS, BACKGROUND_WORDS)
    return [*(words for table in tables for words in table.values() if len(words) > 1), *plurals]


def _exchanged(text: str, words: Sequence[str], rng: np.random.Generator) -> str:
    """Each of the words that is there, as another of them."""
    pattern = "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))

    def other(found: re.Match[str]) -> str:
        others = [w for w in words if w != found[0]]
        return others[int(rng.integers(len(others)))]

    return re.sub(rf"\b({pattern})\b", other, text)


def _articles(text: str) -> str:
    """`a orange star` as `an orange star`."""
    return re.sub(r"\b(an?) (?=(\w))", lambda m: "an " if m[2] in "aeiou" else "a ", text)
