"""The usual wording of what a prompt asks for, so that a judge with few words is always asked in the same ones.

A small captioner finds "a red star above a blue key" likely and "the red star that sits on the top of a blue key" odd,
whatever the picture shows. What is asked for is the same, so it is said in the captioner's own words before it judges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from accord.data.lexicon import NUMBERS, OPPOSITES, Lexicon
from accord.types import Phrase, Prompt, Relation, Word

_NAMES = {number: name for name, number in NUMBERS.items()}


@dataclass
class _Writer:
    """A prompt that is being written, and what each of its words stands for."""

    text: str = ""
    phrases: list[Phrase] = field(default_factory=list)
    stands_for: dict[Word, Word] = field(default_factory=dict)

    def say(self, words: str) -> None:
        self.text += (" " if self.text else "") + words

    def word(self, text: str, kind: str, original: Word) -> Word:
        """Say a word that can be checked."""
        self.say(text)
        written = Word(text, len(self.text) - len(text), len(self.text), kind)
        self.stands_for[written] = original
        return written

    def phrase(self, source: Phrase, singular: str, plural: str) -> None:
        """Say a thing: number, modifiers, noun."""
        many = source.count is None or source.count > 1
        noun = plural if many else singular
        modifiers = [w for w in source.words if w.kind not in ("count", "noun")]
        start = len(self.text) + bool(self.text)
        words = []
        if source.count is not None:
            said = next((w for w in source.words if w.kind == "count"), None)
            first = modifiers[0].text if modifiers else noun
            lead = ("an" if first[0].lower() in "aeiou" else "a") if not many else _NAMES[source.count]
            # "red star" is one star as much as "a red star": the noun says so
            words.append(self.word(lead, "count", said or Word(source.head.text, *_span(source.head), "count")))
        words += [self.word(w.text, w.kind, w) for w in modifiers]
        head = self.word(noun, "noun", source.head)
        self.phrases.append(Phrase(self.text[start:], start, len(self.text), head, (*words, head), source.count))


def usual(prompt: Prompt, lexicon: Lexicon) -> tuple[Prompt, dict[Word, Word]] | None:
    """The same things and relations in the lexicon's words.

    Args:
        lexicon: its nouns and relations are what can be said.

    Returns:
        the prompt, and for each of its words that of the given one; None where the lexicon lacks a noun, or the
        relations do not string the things in a row. Relations that it has no words for are left out.
    """
    order = _in_a_row(prompt, lexicon)
    if order is None:
        return None
    links = {(r.subject, r.object): r for r in prompt.relations if r.name in lexicon.relations}
    writer = _Writer()
    relations: list[Relation] = []
    for place, index in enumerate(order):
        if place:
            link, turned = _link(links, order[place - 1], index)
            if link is None:
                writer.say("and")
            else:
                name = OPPOSITES[link.name] if turned else link.name
                word = writer.word(lexicon.relations[name], "relation", link.word)
                relations.append(Relation(place - 1, name, place, word))
        source = prompt.phrases[index]
        singular = _known(source.head.text, lexicon)
        if singular is None:
            return None
        writer.phrase(source, source.head.text.lower() if source.count == 1 else singular, lexicon.nouns[singular])
    for ground in (p for p in prompt.phrases if p.background):
        if ground.words:
            writer.say("on a")
            start = len(writer.text) + 1
            words = tuple(writer.word(w.text, "background", w) for w in ground.words)
            writer.say("background")
            head = Word("background", len(writer.text) - len("background"), len(writer.text), "noun")
            text = writer.text[start:]
            writer.phrases.append(Phrase(text, start, len(writer.text), head, words, None, True))
    return Prompt(writer.text, tuple(writer.phrases), tuple(relations)), writer.stands_for


def _span(word: Word) -> tuple[int, int]:
    return word.start, word.end


def _known(noun: str, lexicon: Lexicon) -> str | None:
    """The lexicon's own noun for this one, in the singular."""
    low = noun.lower()
    for singular, plural in lexicon.nouns.items():
        if low in (singular, plural) or lexicon.alike(low, singular):
            return singular
    return None


def _link(links: dict[tuple[int, int], Relation], a: int, b: int) -> tuple[Relation | None, bool]:
    """The relation between two things, and whether it is said from the second one."""
    if (a, b) in links:
        return links[a, b], False
    return links.get((b, a)), True


def _in_a_row(prompt: Prompt, lexicon: Lexicon) -> list[int] | None:
    """The things in an order in which each relation is between neighbours; None if there is none or one is unknown."""
    things = list(prompt.things)
    pairs = [(r.subject, r.object) for r in prompt.relations if r.name in lexicon.relations]
    if len({frozenset(p) for p in pairs}) < len(pairs):
        return None
    if any(count is not None and count not in _NAMES for count in (prompt.phrases[i].count for i in things)):
        return None
    neighbours: dict[int, list[int]] = {i: [] for i in things}
    for a, b in pairs:
        neighbours[a].append(b)
        neighbours[b].append(a)
    order: list[int] = []
    for first in things:
        if first in order or len(neighbours[first]) > 1:
            continue
        at: int | None = first
        # a pair starts with its subject: "a red star above a blue key", whichever is named first
        if len(neighbours[first]) == 1 and (first, neighbours[first][0]) not in pairs:
            other = neighbours[first][0]
            at = other if len(neighbours[other]) == 1 else first
        while at is not None:
            order.append(at)
            at = next((n for n in neighbours[at] if n not in order), None)
    return order if len(order) == len(things) and all(len(n) < 3 for n in neighbours.values()) else None
