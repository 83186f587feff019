"""A parse as what a picture is checked for: phrases with their words, relations, absences, and what is left over."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from accord.prompts.parse import Ground, Parse, Span, Thing
from accord.prompts.parser import parse, parse_all
from accord.types import InputError, Notice, Phrase, Prompt, Relation, Word

_KINDS = {"color": "color", "size": "size", "material": "material"}
REMEMBERED = 4096  # prompts
_LOCK = threading.Lock()  # a spaCy pipeline is not for several threads at once
_KNOWN: OrderedDict[str, tuple[Prompt, str]] = OrderedDict()  # those that were read last, in that order


def phrases_of(text: str) -> Prompt:
    """A prompt taken apart into what can be checked in a picture.

    The syntax of prompt programs is set aside, and a `Notice` says so: `Prompt.text` is the plain text, which is what a
    picture is made and judged by.

    Raises:
        InputError: as `parser.parse`.
    """
    prompt, aside = _read_all([text])[0]
    if aside:
        warnings.warn(f"the prompt is read as {prompt.text!r}; set aside: {aside}", Notice, stacklevel=2)
    return prompt


def read_ahead(texts: Iterable[str]) -> None:
    """Take many prompts apart at once, three times as fast as one by one; `phrases_of` has them at hand then.

    A text that cannot be read is left to `phrases_of` to refuse.
    """
    different = list(dict.fromkeys(texts))[:REMEMBERED]  # those beyond would push the first out again
    with contextlib.suppress(InputError):
        _read_all(different)


@functools.lru_cache(maxsize=REMEMBERED)
def parse_of(text: str) -> Parse:
    """`parser.parse`, for several threads, and each prompt once."""
    with _LOCK:
        return parse(text)


def _read_all(texts: Sequence[str]) -> list[tuple[Prompt, str]]:
    """The prompts, and what was set aside of each, in words."""
    with _LOCK:
        new = [t for t in dict.fromkeys(texts) if t not in _KNOWN]
        found = dict(zip(new, parse_all(new), strict=True))
        plain = {t: f.plain if f.stripped and f.plain and not f.says_nothing else t for t, f in found.items()}
        others = [p for t, p in plain.items() if p != t]
        again = dict(zip(others, parse_all(others), strict=True))
        for text, whole in found.items():
            aside = ", ".join(sorted({s.kind for s in whole.stripped})) if plain[text] != text else ""
            _KNOWN[text] = from_parse(again.get(plain[text], whole), whole), aside
        read = [_KNOWN[t] for t in texts]
        for text in texts:
            _KNOWN.move_to_end(text)
        while len(_KNOWN) > REMEMBERED:
            _KNOWN.popitem(last=False)
    return read


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
