"""A parse as what a picture is checked for: phrases with their words, relations, absences, and what is left over."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Iterable

from accord.prompts.parse import Ground, Parse, Span, Thing
from accord.prompts.parser import parse
from accord.types import Notice, Phrase, Prompt, Relation, Word

_KINDS = {"color": "color", "size": "size", "material": "material"}
_LOCK = threading.Lock()  # a spaCy pipeline is not for several threads at once


def phrases_of(text: str) -> Prompt:
    """A prompt taken apart into what can be checked in a picture.

    The syntax of prompt programs is set aside, and a `Notice` says so: `Prompt.text` is the plain text, which is what a
    picture is made and judged by.

    Raises:
        InputError: as `parser.parse`.
    """
    prompt, aside = _read(text)
    if aside:
        warnings.warn(f"the prompt is read as {prompt.text!r}; set aside: {aside}", Notice, stacklevel=2)
    return prompt


@functools.lru_cache(maxsize=4096)
def parse_of(text: str) -> Parse:
    """`parser.parse`, for several threads, and each prompt once."""
    with _LOCK:
        return parse(text)


@functools.lru_cache(maxsize=4096)
def _read(text: str) -> tuple[Prompt, str]:
    """The prompt, and what was set aside, in words."""
    with _LOCK:
        found = parse(text)
        plain = found.plain if found.stripped and found.plain and not found.says_nothing else text
        again = parse(plain) if plain != text else found
    aside = ", ".join(sorted({s.kind for s in found.stripped})) if plain != text else ""
    return from_parse(again, found), aside


def from_parse(plain: Parse, whole: Parse | None = None) -> Prompt:
    """The phrases of a parse.

    Args:
        plain: of the plain text.
        whole: of the text with its syntax, whose negative prompt the plain text has not; the same if None.
    """
    if plain.language != "en":
        return Prompt(plain.prompt, (), language=plain.language, beyond=_words(plain.unjudged, "other"))
    phrases = [*(_phrase(t) for t in plain.things), *(_background(g) for g in plain.grounds)]
    order = sorted(range(len(phrases)), key=lambda i: phrases[i].start)  # of the text
    place = {i: k for k, i in enumerate(order)}
    relations = tuple(
        Relation(place[r.subject], r.name, place[r.object], _word(r.said, "relation")) for r in plain.relations
    )
    known = {a.compound.text for a in plain.absences}
    ruled_out = [a.compound.text for a in (whole or plain).absences if a.compound.text not in known]
    end = len(plain.prompt)
    return Prompt(
        plain.prompt,
        tuple(phrases[i] for i in order),
        relations,
        _words([a.verb for a in plain.actions], "action"),
        (
            *_words([a.compound for a in plain.absences], "absence"),
            *(Word(noun, end, end, "absence") for noun in ruled_out),  # of a negative prompt
        ),
        _words(sorted([*plain.styles, *plain.quoted, *plain.unjudged], key=lambda s: s.start), "other"),
    )


def _phrase(thing: Thing) -> Phrase:
    noun = _word(thing.compound, "noun")
    words = [noun, *(_word(a, _KINDS.get(a.kind, "modifier")) for a in thing.attributes)]
    said = thing.count.said
    if thing.count.kind == "exact" and said is not None:
        end = min([said.end, *(w.start for w in words if w.start > said.start)])  # "a pair of (red) stars"
        text = said.text[: end - said.start].rstrip()
        words.append(Word(text, said.start, said.start + len(text), "count"))
    return Phrase(
        thing.text,
        thing.start,
        thing.end,
        noun,
        tuple(sorted(words, key=lambda w: w.start)),
        thing.count.number or None,
    )


def _background(ground: Ground) -> Phrase:
    colors = _words(ground.colors, "background")
    return Phrase(ground.text, ground.start, ground.end, _word(ground.head, "noun"), colors, None, True)


def _words(spans: Iterable[Span], kind: str) -> tuple[Word, ...]:
    return tuple(dict.fromkeys(_word(s, kind) for s in spans))


def _word(span: Span, kind: str) -> Word:
    return Word(span.text, span.start, span.end, kind)
