"""What a parse of a prompt holds: the nouns of `accord.prompts`, frozen and without any library behind them.

Every part is a `Span`: the words as they are written and where they stand, in characters of the prompt as it was given.
Parts name each other by index into `Parse.things`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

AttributeKind = Literal["color", "size", "material", "texture", "other"]
CountKind = Literal["exact", "at least", "open"]
RelationName = Literal["left", "right", "above", "below", "on", "near", "inside", "front", "behind"]
StyleKind = Literal["medium", "style"]
StrippedKind = Literal[
    "weight", "alternative", "break", "lora", "embedding", "flag", "negative prompt", "infotext", "comment", "markup"
]


@dataclass(frozen=True)
class Span:
    """Words of a prompt.

    Attributes:
        text: as written; for words that do not stand side by side, all from the first to the last of them.
        start, end: characters of `Parse.prompt`, end excluded: `prompt[start:end] == text`.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Count:
    """How many of a thing are asked for.

    Attributes:
        kind: "exact" ("two", "a", and a singular without article), "at least" ("more than five") or "open" ("cats",
            "a few", "snow").
        number: None for an open count.
        said: the words that say it; None where only the noun does.
    """

    kind: CountKind = "open"
    number: int | None = None
    said: Span | None = None

    @property
    def exact(self) -> int | None:
        """The number if it is exact."""
        return self.number if self.kind == "exact" else None


@dataclass(frozen=True)
class Attribute(Span):
    """A modifier of a thing, in its noun phrase ("a red car") or said of it ("the car is red", "a box made of tin")."""

    kind: AttributeKind


@dataclass(frozen=True)
class Thing(Span):
    """Something that one should see; the span is the whole noun phrase, articles and numbers included.

    A coordination that leaves the noun out gives a thing for each part: "three red and two blue balls" are two things
    whose head is the same word.

    Attributes:
        head: the noun.
        compound: the noun with the words that make it another noun ("fire hydrant"); equal to `head` if there are none.
        count: how many.
        attributes: in the order of the text.
    """

    head: Span
    compound: Span
    count: Count
    attributes: tuple[Attribute, ...] = ()


@dataclass(frozen=True)
class Action:
    """`things[subject]` does something, to `things[object]` if there is an object: "a boy holding a kite"."""

    subject: int
    verb: Span
    object: int | None = None


@dataclass(frozen=True)
class Relation:
    """`things[subject] name things[object]`; `said` are the words that say it ("to the left of")."""

    subject: int
    name: RelationName
    object: int
    said: Span


@dataclass(frozen=True)
class Place:
    """Where something is, but not how two things lie to each other.

    Attributes:
        thing: what is there; None for the whole picture.
        name: "left", "right", "top", "bottom", "center", "foreground" or "background" of the picture; "in", "at" or
            another preposition for a setting.
        setting: index of the thing that is the place ("in a kitchen"); None for a place in the picture.
        said: the words that say it.
    """

    thing: int | None
    name: str
    setting: int | None
    said: Span


@dataclass(frozen=True)
class Ground(Span):
    """What is behind everything, without being a thing: "on a plain grey backdrop", "on white".

    Attributes:
        head: the noun, or the lone colour.
        colors: its colours.
    """

    head: Span
    colors: tuple[Attribute, ...] = ()


@dataclass(frozen=True)
class Absence(Span):
    """Something that is not to be seen: "no cars", "without a hat", a negative prompt.

    Attributes:
        head, compound: as those of a `Thing`.
        attributes: what exactly is not to be seen ("no red cars").
    """

    head: Span
    compound: Span
    attributes: tuple[Attribute, ...] = ()


@dataclass(frozen=True)
class Quoted(Span):
    """Text that is to be written in the picture; the span is that between the quotation marks.

    Attributes:
        thing: index of what it is written on, None if that is not said.
    """

    thing: int | None = None


@dataclass(frozen=True)
class Style(Span):
    """Words about the picture and not what is in it: a medium ("oil painting") or a style ("8k", "by Ada Moss")."""

    kind: StyleKind


@dataclass(frozen=True)
class Stripped(Span):
    """What a prompt program reads and no picture shows; it was set aside before the prompt was taken apart.

    Attributes:
        kind: what it is; see `StrippedKind`.
    """

    kind: StrippedKind


@dataclass(frozen=True)
class Parse:
    """A prompt taken apart.

    Attributes:
        prompt: the text as it was given.
        plain: the text without what was stripped: what is judged.
        language: ISO 639-1 code. A prompt that is not in English is not taken apart; all its words are unjudged.
        things, actions, relations, places, grounds, absences, quoted, styles: what it says.
        stripped: what was set aside.
        unjudged: runs of words that no part above holds.
    """

    prompt: str
    plain: str
    language: str = "en"
    things: tuple[Thing, ...] = ()
    actions: tuple[Action, ...] = ()
    relations: tuple[Relation, ...] = ()
    places: tuple[Place, ...] = ()
    grounds: tuple[Ground, ...] = ()
    absences: tuple[Absence, ...] = ()
    quoted: tuple[Quoted, ...] = ()
    styles: tuple[Style, ...] = ()
    stripped: tuple[Stripped, ...] = ()
    unjudged: tuple[Span, ...] = ()

    @property
    def says_nothing(self) -> bool:
        """Whether there is nothing that a picture could be checked for."""
        return not (self.things or self.absences or self.grounds or self.quoted)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the first six fields are those that `tests/prompts` is graded by."""
        return {
            "prompt": self.prompt,
            "things": [_thing_row(t) for t in self.things],
            "relations": [[r.subject, r.name, r.object] for r in self.relations],
            "absent": [a.compound.text.lower() for a in self.absences],
            "style": [s.text for s in self.styles],
            "language": self.language,
            "actions": [[a.subject, a.verb.text, a.object] for a in self.actions],
            "places": [[p.thing, p.name, p.setting] for p in self.places],
            "background": [c.text.lower() for g in self.grounds for c in g.colors],
            "quoted": [q.text for q in self.quoted],
            "stripped": [{"text": s.text, "kind": s.kind} for s in self.stripped],
            "unjudged": [u.text for u in self.unjudged],
        }


def _thing_row(thing: Thing) -> dict[str, Any]:
    row: dict[str, Any] = {
        "head": thing.head.text,
        "count": thing.count.exact,
        "attributes": [a.text for a in thing.attributes],
        "span": [thing.start, thing.end],
    }
    if thing.compound != thing.head:
        row["compound"] = thing.compound.text
    if thing.count.kind == "at least":
        row["at_least"] = thing.count.number
    return row
