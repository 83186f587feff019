"""What a prompt asks of a scene, and whether a scene gives it."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from accord.data.lexicon import DEFAULT, Lexicon
from accord.prompts.phrases import phrases_of
from accord.prompts.swaps import singular_of
from accord.types import InputError
from accord_lab.scenes.lexicon import (
    BACKGROUND_WORDS,
    BACKGROUNDS,
    COLOR_WORDS,
    COLORS,
    NOUN_WORDS,
    NOUNS,
    PLURALS,
    RELATION_PHRASES,
    SIZE_WORDS,
)
from accord_lab.scenes.scene import Scene, Thing, is_held_out

RELATION_MARGIN = 6.0  # pixels by which a thing must lie to the left (right, above, below) of the other

_NOUN_OF = {w: n for n, ws in NOUN_WORDS.items() for w in ws}
_COLOR_OF = {w: c for c, ws in COLOR_WORDS.items() for w in ws}
_SIZE_OF = {w: s for s, ws in SIZE_WORDS.items() for w in ws}
_GROUND_OF = {w: b for b, ws in BACKGROUND_WORDS.items() for w in ws}
_OTHER = "a an and the of there is are on to in background picture photo one two three four"
_SAID = {
    *_NOUN_OF,
    *PLURALS.values(),
    *_COLOR_OF,
    *_SIZE_OF,
    *_GROUND_OF,
    *_OTHER.split(),
    *(word for phrases in RELATION_PHRASES.values() for phrase in phrases for word in phrase.split()),
}


def lab_lexicon() -> Lexicon:
    """The counterfactual lexicon of the lab's captioner."""
    groups = [*NOUN_WORDS.values(), *COLOR_WORDS.values(), *BACKGROUND_WORDS.values()]
    return Lexicon(
        nouns={n: PLURALS[n] for n in NOUNS},
        colors=tuple(COLORS),
        sizes={w: ("small" if s == "big" else "big") for s, ws in SIZE_WORDS.items() for w in ws},
        relations={name: phrases[0] for name, phrases in RELATION_PHRASES.items()},
        backgrounds=tuple(BACKGROUNDS),
        same=tuple(g for g in groups if len(g) > 1),
        max_count=4,
    )


def still(prompt: str) -> str:
    """What a prompt of a video says of a single frame: `a red car moving right` shows a red car."""
    return re.sub(r"\s+moving(\s+(to the\s+)?(left|right|up|down))?\b", "", prompt)


@dataclass(frozen=True)
class AskedThing:
    """`count` things alike; None leaves an attribute open."""

    noun: str
    color: str | None
    size: str | None
    count: int

    def fits(self, thing: Thing) -> bool:
        return thing.noun == self.noun and self.color in (None, thing.color) and self.size in (None, thing.size)


@dataclass(frozen=True)
class Ask:
    """What a prompt asks for; relations are (index, name, index) over `things`."""

    things: tuple[AskedThing, ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    background: str | None = None

    @property
    def total(self) -> int:
        return sum(t.count for t in self.things)

    @property
    def held_out(self) -> bool:
        """True if it asks for a combination that is kept out of all training data."""
        return is_held_out([(t.noun, t.color) for t in self.things])


@dataclass(frozen=True)
class Verdict:
    """Whether a scene is right, and the checks it consists of: kind -> booleans."""

    right: bool
    atoms: dict[str, tuple[bool, ...]]


def ask_of(text: str) -> Ask:
    """The Ask of a prompt in the lab's words.

    Raises:
        InputError: for a noun that the lab does not have.
    """
    prompt = phrases_of(text)
    things: list[AskedThing] = []
    index: dict[int, int] = {}
    background = None
    for i, phrase in enumerate(prompt.phrases):
        if phrase.background:
            background = next((_GROUND_OF[w.text.lower()] for w in phrase.words if w.text.lower() in _GROUND_OF), None)
            continue
        singular, _ = singular_of(phrase.head.text, _WORDS)
        if singular not in _NOUN_OF:
            raise InputError(f"the lab has no {phrase.head.text!r}; its nouns are {', '.join(NOUNS)}")
        words = [w.text.lower() for w in phrase.words]
        color = next((_COLOR_OF[w] for w in words if w in _COLOR_OF), None)
        size = next((_SIZE_OF[w] for w in words if w in _SIZE_OF), None)
        index[i] = len(things)
        things.append(AskedThing(_NOUN_OF[singular], color, size, phrase.count or 2))
    relations = tuple(
        (index[r.subject], r.name, index[r.object]) for r in prompt.relations if r.name in RELATION_PHRASES
    )
    return Ask(tuple(things), relations, background)


_WORDS = Lexicon(nouns={w: PLURALS.get(w, w + "s") for w in _NOUN_OF}, colors=(), sizes={}, relations=DEFAULT.relations)


def unknown_things(text: str) -> list[str]:
    """What a prompt names that the lab does not have: heads of things without any noun of the lab among their words.

    A prompt in the lab's words alone is not taken apart for it.
    """
    if set(re.findall(r"\w+", text.lower())) <= _SAID:
        return []
    found = []
    for phrase in phrases_of(text).phrases:
        words = re.findall(r"\w+", text[phrase.start : phrase.end].lower())
        known = any(singular_of(word, _WORDS)[0] in _NOUN_OF for word in words)
        if not phrase.background and not known and phrase.head.text.lower() not in ("thing", "things"):
            found.append(phrase.head.text)
    return found


def holds(name: str, a: Thing, b: Thing) -> bool:
    """Whether `a` lies clearly left of (right of, above, below) `b`."""
    dx, dy = a.center[0] - b.center[0], a.center[1] - b.center[1]
    return {"left": -dx, "right": dx, "above": -dy, "below": dy}[name] >= RELATION_MARGIN


def check(scene: Scene, ask: Ask) -> Verdict:
    """Judge a scene: right if it shows everything asked for and nothing else, in the places asked for."""
    right = len(scene.things) == ask.total and ask.background in (None, scene.background)
    if right:
        wanted = [i for i, t in enumerate(ask.things) for _ in range(t.count)]
        right = any(_arranged(order, wanted, ask) for order in itertools.permutations(scene.things))
    return Verdict(right, _atoms(scene, ask))


def _arranged(order: tuple[Thing, ...], wanted: list[int], ask: Ask) -> bool:
    if not all(ask.things[i].fits(t) for i, t in zip(wanted, order, strict=True)):
        return False
    groups = {i: [t for j, t in zip(wanted, order, strict=True) if j == i] for i in wanted}
    return all(holds(name, a, b) for i, name, j in ask.relations for a in groups[i] for b in groups[j])


def _atoms(scene: Scene, ask: Ask) -> dict[str, tuple[bool, ...]]:
    nouns, colors, sizes, counts, relations = [], [], [], [], []
    for asked in ask.things:
        same = [t for t in scene.things if t.noun == asked.noun]
        nouns.append(bool(same))
        if asked.color:
            same = [t for t in same if t.color == asked.color]
            colors.append(bool(same))
        if asked.size:
            sizes.append(any(t.size == asked.size for t in same))
        alike = [a for a in ask.things if a.noun == asked.noun and a.color in (None, asked.color)]
        counts.append(len(same) == sum(a.count for a in alike))
    for i, name, j in ask.relations:
        a = [t for t in scene.things if ask.things[i].fits(t)]
        b = [t for t in scene.things if ask.things[j].fits(t)]
        relations.append(any(holds(name, x, y) for x in a for y in b if x is not y))
    atoms = {"noun": nouns, "color": colors, "size": sizes, "count": counts, "relation": relations}
    if ask.background:
        atoms["background"] = [scene.background == ask.background]
    return {k: tuple(v) for k, v in atoms.items() if v}
