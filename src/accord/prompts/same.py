"""Whether a caption says what a prompt asks for, nothing more and nothing less: two parses, compared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from accord.data.lexicon import DEFAULT, OPPOSITES, Lexicon
from accord.prompts import classes
from accord.prompts.lexicon import MEAN_THE_SAME, NAMES_OF_CLASSES, SURROUNDINGS
from accord.prompts.parse import Count, Parse, Thing
from accord.prompts.swaps import singular_of

ONE_BY_ONE = 12  # things of a caption's group up to which each may be another one of the prompt
# what one relation also says: what lies beside something, or on it, is next to it
_IMPLIED = {"on": ("above", "near"), **dict.fromkeys(("left", "right", "inside", "front", "behind"), ("near",))}


def says_the_same(said: Parse, asked: Parse, lexicon: Lexicon = DEFAULT, silence: bool = False) -> bool:
    """Whether a caption, as parsed, says what a prompt asks for.

    Compared are things, counts, colours, sizes, materials, relations, and the background's colour. Where the prompt is
    silent, anything may be said; things that the prompt does not name may not, but for the surroundings ("in a field").
    Actions, styles, texts and other modifiers ("fluffy") are not compared.

    Args:
        lexicon: which words mean the same; those of `MEAN_THE_SAME` always do.
        silence: whether the caption may leave out a colour, a size, a material, a relation or the background. What it
            says of them must still be as asked.
    """
    if said.language != "en" or asked.language != "en":
        return False
    comparison = _Comparison(said, asked, lexicon, silence)
    return comparison.grounds_agree() and any(map(comparison.relations_agree, comparison.pairings()))


@dataclass(frozen=True)
class _Group:
    """Things that are alike: how many at least and at most, what they are called and how they are."""

    index: int  # in the parse
    noun: str
    least: int
    most: float
    attributes: tuple[tuple[str, str], ...]  # (kind, word)
    related: bool  # it is not to be told apart from another one like it otherwise

    def of_kind(self, kind: str) -> list[str]:
        return [word for one, word in self.attributes if one == kind]

    def same_as(self, other: _Group) -> bool:
        return not (self.related or other.related) and (self.noun, self.attributes) == (other.noun, other.attributes)


class _Comparison:
    """The things of a caption, each given to one of the prompt's."""

    def __init__(self, said: Parse, asked: Parse, lexicon: Lexicon, silence: bool) -> None:
        self.said, self.asked, self.lexicon, self.silence = said, asked, lexicon, silence
        self.groups = _groups(asked, lexicon)
        absent = {_noun(a.compound.text, lexicon) for a in asked.absences}
        self.shown = [u for g in _groups(said, lexicon) if self._counts(g, absent) for u in _units(g)]
        self.shown.sort(key=lambda u: (u.noun, u.attributes))  # those that are alike beside each other

    def _counts(self, group: _Group, absent: set[str]) -> bool:
        """Whether a thing of the caption has to be asked for: surroundings need not be."""
        surrounds = group.noun in SURROUNDINGS or classes.class_of_noun(group.noun) in ("land", "rooms")
        return not surrounds or group.noun in absent or any(self._is_a(group.noun, g.noun) for g in self.groups)

    def grounds_agree(self) -> bool:
        """Whether the background has the colours that are asked for."""
        wanted = [c.text.lower() for g in self.asked.grounds for c in g.colors]
        found = [c.text.lower() for g in self.said.grounds for c in g.colors]
        if not wanted or (self.silence and not found):
            return True
        return all(any(self._alike(w, f) for f in found) for w in wanted)

    def pairings(self, given: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
        """All ways to give each thing of the caption to one of the prompt's that it fits, so that the numbers are
        those asked for. Of things that are alike, one order is enough.
        """
        place = len(given)
        if place == len(self.shown):
            counts = [_total(self.shown, given, k) for k in range(len(self.groups))]
            if all(g.least <= least and most <= g.most for g, (least, most) in zip(self.groups, counts, strict=True)):
                yield given
            return
        unit = self.shown[place]
        first = given[-1] if place and (unit.same_as(self.shown[place - 1])) else 0
        for k in range(first, len(self.groups)):
            group = self.groups[k]
            if self._fits(unit, group) and _total(self.shown, (*given, k), k)[0] <= group.most:
                yield from self.pairings((*given, k))

    def _fits(self, unit: _Group, group: _Group) -> bool:
        return self._is_a(unit.noun, group.noun) and all(
            self._attributes_agree(kind, unit, group) for kind in ("color", "size", "material")
        )

    def _attributes_agree(self, kind: str, unit: _Group, group: _Group) -> bool:
        found, wanted = unit.of_kind(kind), group.of_kind(kind)
        if not wanted or (self.silence and not found):
            return True
        shown = all(any(self._alike(w, f) for f in found) for w in wanted)
        return shown and (kind != "color" or all(any(self._alike(w, f) for w in wanted) for f in found))

    def _alike(self, wanted: str, found: str) -> bool:
        """Whether a word bears another one out: "crimson" and "red", "light blue" and "blue", "large" and "big"."""
        opposites = self.lexicon.sizes
        if wanted in opposites and found in opposites:
            return opposites[wanted] == opposites[found]
        return self.lexicon.alike(wanted, found) or self.lexicon.alike(wanted, found.rpartition(" ")[2])

    def _is_a(self, found: str, wanted: str) -> bool:
        """Whether one noun is another, or one of its kind: "airplane" and "plane", "fire truck" and "truck"."""
        if self.lexicon.alike(found, wanted) or any({found, wanted} <= same for same in MEAN_THE_SAME):
            return True
        kind = classes.class_of_noun(found)
        if found.endswith(f" {wanted}"):  # a fire truck is a truck, and a hot dog is no dog
            return kind == classes.class_of_noun(wanted)
        return kind in NAMES_OF_CLASSES.get(wanted, ())

    def relations_agree(self, given: Sequence[int]) -> bool:
        """Whether the caption has each relation that is asked for, between all that it is asked of."""
        stated: set[tuple[int, str, int]] = {(r.subject, r.name, r.object) for r in self.said.relations}
        stated |= {(b, OPPOSITES[name], a) for a, name, b in stated if name in OPPOSITES}
        stated |= {(a, other, b) for a, name, b in stated for other in _IMPLIED.get(name, ())}
        stated |= {(b, name, a) for a, name, b in stated if name == "near"}
        for relation in self.asked.relations:
            of, to = (
                {u.index for u, k in zip(self.shown, given, strict=True) if k == end}
                for end in (relation.subject, relation.object)
            )
            for a, b in itertools.product(of, to):
                if (a, OPPOSITES.get(relation.name, ""), b) in stated:
                    return False
                if (a, relation.name, b) not in stated and not self.silence:
                    return False
        return True


def _groups(parse: Parse, lexicon: Lexicon) -> list[_Group]:
    related = {i for r in parse.relations for i in (r.subject, r.object)}
    out = []
    for i, thing in enumerate(parse.things):
        attributes = tuple(sorted((a.kind, a.text.lower()) for a in thing.attributes if a.kind != "other"))
        out.append(_Group(i, _noun(thing.compound.text, lexicon), *_number(thing, lexicon), attributes, i in related))
    return out


def _noun(text: str, lexicon: Lexicon) -> str:
    """In the singular."""
    return singular_of(" ".join(text.split()), lexicon)[0]


def _number(thing: Thing, lexicon: Lexicon) -> tuple[int, float]:
    """How many there are at least and at most."""
    count: Count = thing.count
    if count.kind != "open" and count.number is not None:
        return count.number, count.number if count.kind == "exact" else math.inf
    return (2 if singular_of(thing.head.text, lexicon)[1] else 1), math.inf


def _units(group: _Group) -> list[_Group]:
    """The things of a group one by one, where they are few enough to be counted."""
    if group.least != group.most or group.least > ONE_BY_ONE:
        return [group]
    return [_Group(group.index, group.noun, 1, 1, group.attributes, group.related)] * group.least


def _total(units: Sequence[_Group], given: Sequence[int], of: int) -> tuple[int, float]:
    mine = [u for u, k in zip(units, given, strict=False) if k == of]
    return sum(u.least for u in mine), sum(u.most for u in mine)
