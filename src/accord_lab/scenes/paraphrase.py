"""Prompts of the lab in other words: the same scene asked for, word by word out of the grammar."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from accord_lab.scenes.ask import ask_of
from accord_lab.scenes.lexicon import (
    BACKGROUND_WORDS,
    COLOR_WORDS,
    COUNT_WORDS,
    NOUN_WORDS,
    PLURALS,
    RELATION_PHRASES,
    SIZE_WORDS,
)

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
