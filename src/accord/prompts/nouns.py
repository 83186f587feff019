"""Which nouns are people, animals, or nothing that one could see: classes of the Open English WordNet."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from accord.prompts import lexicon

SUFFIX = re.compile("(?:ness|ity|ism|tion|sion|ment|ance|ence|ship|ology|ography|hood|acy)$")  # of what is abstract
_FILE = Path(__file__).with_name("nouns.txt")


@lru_cache(maxsize=1)
def _classes() -> dict[str, frozenset[str]]:
    found: dict[str, list[str]] = {}
    name = ""
    for line in _FILE.read_text(encoding="utf8").splitlines():
        if line.startswith("["):
            name = line.strip("[]")
        elif not line.startswith("#"):
            found.setdefault(name, []).extend(line.split())
    return {name: frozenset(words) for name, words in found.items()}


def _has(name: str, word: str) -> bool:
    words = _classes()[name]
    stems = (
        word,
        word.removesuffix("s"),
        word.removesuffix("es"),
        re.sub("ies$", "y", word),
        re.sub("men$", "man", word),
    )
    return any(stem in words for stem in stems)


def is_person(word: str) -> bool:
    """Whether a noun in any number names somebody."""
    return word in lexicon.PERSONS or _has("person", word)


def is_alive(word: str) -> bool:
    """Whether a noun in any number names a person or an animal."""
    return is_person(word) or _has("animal", word)


def is_abstract(word: str) -> bool:
    """Whether a noun in any number names nothing that one could see ("mood", "realism")."""
    return (bool(SUFFIX.search(word)) and not _has("seen", word)) or _has("abstract", word)
