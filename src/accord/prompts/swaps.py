"""Counterfactuals of the words of a prompt: the prompt with one word exchanged, grammar kept."""

from __future__ import annotations

import re

from accord.data.lexicon import NUMBERS, OPPOSITES, Lexicon, plural_of
from accord.prompts import classes
from accord.prompts import lexicon as words
from accord.prompts.agreement import agreeing, verb_of
from accord.prompts.phrases import phrases_of
from accord.types import Phrase, Prompt, Word

_MATERIAL_NOUNS = {"wooden": "wood", "golden": "gold", "woolen": "wool", "ceramic": "clay", "concrete": "concrete"}
_ARTICLES = {"a", "an", "the", "some", "this", "that", "its", "his", "her", "their"}


def singular_of(word: str, lexicon: Lexicon) -> tuple[str, bool]:
    """(singular, was plural) of a noun, by the lexicon first and regular endings else."""
    low = word.lower()
    if low in lexicon.nouns:
        return low, False
    for singular, plural in lexicon.nouns.items():
        if low == plural:
            return singular, True
    if lexicon.by_class and low in words.PAIRED:
        return low, True
    if lexicon.by_class and (found := classes.singulars(low)):
        return found[0], True
    sibilant = re.search("(ies|xes|ches|shes|sses)$", low)
    for singular in (low[:-3] + "y", low[:-2], low[:-1]) if sibilant else (low[:-1],):
        if len(singular) > 2 and plural_of(singular) == low:
            return singular, True
    return low, False


def swaps(prompt: Prompt, word: Word, lexicon: Lexicon) -> list[tuple[str, str]]:
    """Counterfactuals of one word: (replacement as it would look, whole prompt with it), grammar kept.

    Articles and plurals follow: swapping "star" for "egg" in "a red star" leaves "a", in "a star" makes "an egg"; a
    swapped count changes the noun's number. Empty for a word that has no counterfactuals (a free modifier).
    """
    text = prompt.text
    if word.kind == "relation":
        name = next(r.name for r in prompt.relations if r.word == word)
        others = [OPPOSITES[name]] if name in OPPOSITES else []
        return [
            (o, _splice(text, word.start, word.end, lexicon.relations[o])) for o in others if o in lexicon.relations
        ]
    if word.kind == "background":
        others = [b for b in lexicon.backgrounds if not lexicon.alike(b, word.text.lower())]
        return [(b, _splice(text, word.start, word.end, b)) for b in others]
    if word.kind == "action":
        verbs = classes.peers_of_verb(word.text) if lexicon.by_class else ()
        return [(v, _splice(text, word.start, word.end, v)) for v in verbs]
    if word.kind == "absence":  # is asked by itself
        return []
    phrase = next(p for p in prompt.phrases if word in p.words)
    if word.kind == "count":
        return _count_swaps(prompt, word, phrase, lexicon)
    if word.kind == "color":
        options = [c for c in lexicon.colors if not lexicon.alike(c, word.text.lower())]
    elif word.kind == "size":
        other = lexicon.sizes.get(word.text.lower())
        options = [other] if other else []
    elif word.kind == "noun":
        options = _noun_options(word.text, phrase, lexicon)
    elif word.kind == "material" and lexicon.by_class:
        said_of = re.search(r"\b(?:of|from|in)\s+$", text[: word.start]) is not None  # "a cup made of wood"
        listed = [_MATERIAL_NOUNS.get(m, m) if said_of else m for m in classes.members(classes.MATERIALS)]
        options = [m for m in listed if not lexicon.alike(m, word.text.lower()) and m != word.text.lower()]
    else:
        return []
    return [(o, _splice(text, word.start, word.end, o)) for o in options]


def _noun_options(noun: str, phrase: Phrase, lexicon: Lexicon) -> list[str]:
    """Nouns that could stand in place of this one, in its number; a compound is exchanged whole.

    What is not counted and has no article ("water") is exchanged with what is not counted either.
    """
    singular, plural = singular_of(noun, lexicon)
    names = [n for n in peers(singular, lexicon) if not lexicon.alike(n, singular)]
    mass = lexicon.by_class and phrase.count is None and not plural and singular not in words.MANY_AS_ONE
    if mass:
        articled = phrase.text.partition(" ")[0].lower() in _ARTICLES - {"some"}
        return [n for n in names if articled or n in words.MASS]
    return [_plural(n, lexicon) if plural or (phrase.count or 2) > 1 else n for n in names]


def _plural(noun: str, lexicon: Lexicon) -> str:
    """The plural of a singular noun; what is one already stays ("jeans")."""
    return noun if noun in words.PAIRED else lexicon.nouns.get(noun, plural_of(noun))


def peers(singular: str, lexicon: Lexicon) -> list[str]:
    """Nouns in the singular that could be there in place of this one: of its class, or all that the lexicon has."""
    if not lexicon.by_class:
        return [n for n in lexicon.nouns if n != singular]
    if singular in words.PAIRED:  # "a pair of pliers" for "a pair of scissors"
        return sorted(classes.peers_of_noun(singular, 200), key=lambda n: n not in words.PAIRED)[:12]
    return list(classes.peers_of_noun(singular))


def _count_swaps(prompt: Prompt, word: Word, phrase: Phrase, lexicon: Lexicon) -> list[tuple[str, str]]:
    if word.text.lower() in ("each", "every", "another"):
        return []
    singular, _ = singular_of(phrase.head.text, lexicon)
    plural = _plural(singular, lexicon)
    inside = [w for w in phrase.words if phrase.start <= w.start and w.end <= phrase.end]  # not "the star is red"
    middle = " ".join(w.text for w in inside if w.kind not in ("count", "noun"))
    names = {v: k for k, v in NUMBERS.items()}
    out = []
    for n in range(1, lexicon.max_count + 1):
        if n == (phrase.count or 0):
            continue
        first = phrase.text.partition(" ")[0]
        article = first if first.lower() in _ARTICLES - {"a", "an"} else ""  # "the one egg", not "an egg"
        lead = ("one" if article else "a") if n == 1 else names[n]
        if singular in words.PAIRED:
            lead += " pair of" if n == 1 else " pairs of"
        body = " ".join(w for w in (article, lead, middle, singular if n == 1 else plural) if w)
        out.append((names[n], _agreeing(prompt, phrase, body, n > 1)))
    return out


def _agreeing(prompt: Prompt, phrase: Phrase, body: str, many: bool) -> str:
    """The prompt with `body` for a phrase, whose verb agrees with its new number."""
    text = prompt.text
    other = _splice(text, phrase.start, phrase.end, body)
    verb = verb_of(prompt, phrase)
    if verb is None or re.search(r"\b(?:and|or)\s+$", text[: phrase.start]):  # "a man and a woman are"
        return other
    start, end = (i + (len(other) - len(text) if verb[0] > phrase.start else 0) for i in verb)
    return other[:start] + agreeing(other[start:end], many) + other[end:]


def spelled(prompt: Prompt) -> Prompt:
    """The prompt with its counts in words, as their counterfactuals are: "2 red stars" is "two red stars"."""
    names, text = {v: k for k, v in NUMBERS.items()}, prompt.text
    digits = [w for w in prompt.words if w.kind == "count" and w.text.isdecimal() and int(w.text) in names]
    for word in sorted(digits, key=lambda w: -w.start):
        text = text[: word.start] + names[int(word.text)] + text[word.end :]
    return phrases_of(text) if text != prompt.text else prompt


def with_article(noun: str) -> str:
    """The noun after "a" or "an"; what is not counted stands alone ("water")."""
    if noun.lower() in words.UNCOUNTED:
        return noun
    return f"{'an' if takes_an(noun) else 'a'} {noun}"


def takes_an(word: str) -> bool:
    """Whether "an" stands before a word, by its sound: "an hour", "a unicorn"."""
    low = word.lower()
    if re.match("(?:uni(?!n|m)|use|usu|uku|ute|eu|ewe|one|once|ufo)", low):
        return False
    return low[0] in "aeiou" or re.match("(?:hour|heir|honest|honou?r)", low) is not None


def exchanged(text: str, first: Word, second: Word) -> str:
    """`text` with two of its words, in their order, put in each other's place, and their articles made to fit."""
    return _splice(_splice(text, second.start, second.end, first.text), first.start, first.end, second.text)


def _splice(text: str, start: int, end: int, new: str) -> str:
    """`text` with [start:end] replaced, and the article before it or in it made to fit; others stay ("a unicorn")."""

    def fitted(m: re.Match[str]) -> str:
        if not start <= m.start(3) < start + len(new):
            return m[0]
        return m[1][0] + ("n" if takes_an(m[3]) else "") + m[2] + m[3]

    return re.sub(r"\b(an?)( +)(\w[\w'-]*)", fitted, text[:start] + new + text[end:], flags=re.IGNORECASE)
