"""What is done about a picture that fails: edit a part of it, or draw it anew.

The idea of predicates with two operators is that of EPIC (arXiv 2605.11722) and RAISE (arXiv 2603.00483).

The verdicts on the words say what kind of failure it is (`diagnose`), a `Routing` says which operator mends that kind,
and the regions say where an edit acts (`edit_mask`). A `Budget` says how long this goes on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from scipy import ndimage

from accord.data.lexicon import NUMBERS
from accord.methods.realign.layout import box_mask
from accord.reports.gallery import RIGHT
from accord.types import Alignment, InputError, Prompt, Region, check_numbers

OPERATORS = ("edit", "resample")
Kind = Literal["wrong", "surplus", "missing", "relation", "several"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Routing:
    """Which operator mends which kind of failure, and how an edit is made.

    Raises ValueError for a field out of range, named in the message.
    """

    wrong: str = "edit"  # a word of one thing alone: its colour, size or noun
    surplus: str = "edit"  # one kind of thing is there too often, and nothing else is wrong
    missing: str = "resample"  # one kind of thing is there too seldom, and nothing else is wrong
    relation: str = "resample"  # a relation does not hold, whatever else is wrong
    several: str = "resample"  # words of several things, or what has no place
    # one place an instance in the noise too: where there are too few of a thing, each place gets the noise that the
    # best of them grew from
    arranged: bool = True
    edits: int = 1  # so many vain edits of a picture are followed by a new one
    strength: float = 0.8  # share of the steps that an edit takes
    margin: float = 0.06  # by which the mask reaches beyond the region, by the side of the picture
    softness: float = 0.03  # deviation of the mask's soft edge, by the side of the picture

    def __post_init__(self) -> None:
        check_numbers(self)
        for kind in KINDS:
            if getattr(self, kind) not in OPERATORS:
                raise ValueError(f"{kind} must be {' or '.join(OPERATORS)}, not {getattr(self, kind)!r}")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength must be in (0, 1], not {self.strength}")
        for name in ("edits", "margin", "softness"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")


ALWAYS_EDIT = Routing(**dict.fromkeys(KINDS, "edit"), edits=10**6)  # type: ignore[arg-type]
ROUTINGS = {"route": Routing(), "edit": ALWAYS_EDIT}  # as the command's `--mode` names them


@dataclass(frozen=True)
class Budget:
    """What a picture may cost, the first try and the judge included.

    Attributes:
        most: of this unit.
        unit: "seconds" of this machine, or "calls": rows that go through the denoiser.
    """

    most: float
    unit: Literal["seconds", "calls"]

    @classmethod
    def of(cls, text: str | Budget) -> Budget:
        """ "30s" or "200calls".

        Raises:
            InputError: for anything else.
        """
        if isinstance(text, Budget):
            return text
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|seconds?|calls?)\s*", str(text))
        calls = found is not None and found[2].startswith("call")
        if found is None or float(found[1]) <= 0 or (calls and "." in found[1]):
            raise InputError(
                f"`budget` {text!r} is not understood; give seconds (30s) or denoiser calls (200calls), more than 0"
            )
        return cls(float(found[1]), "calls" if calls else "seconds")


@dataclass(frozen=True)
class Failure:
    """What a judge misses in a picture.

    Attributes:
        words: what is missed.
        phrase: of the one thing that it is about; None if there is no such one.
        read: how many of it the judge sees, where the number is wrong.
    """

    kind: Kind
    words: tuple[str, ...]
    phrase: int | None = None
    read: int | None = None


def diagnose(alignment: Alignment) -> Failure:
    """The failure of a picture with at least one judged word: of the words that are not shown, or of the weakest."""
    prompt = alignment.prompt
    missed = [s for s in alignment.words if s.probability < RIGHT]
    missed = missed or [min(alignment.words, key=lambda s: s.probability)]
    words = tuple(s.word.text for s in missed)
    if any(s.word.kind == "relation" for s in missed):
        return Failure("relation", words)
    owners = {tuple(i for i, phrase in enumerate(prompt.phrases) if s.word in phrase.words) for s in missed}
    owner = owners.pop() if len(owners) == 1 else ()
    if len(owner) != 1:
        return Failure("several", words)
    counts = [s for s in missed if s.word.kind == "count"]
    if not counts:
        return Failure("wrong", words, owner[0])
    asked, read = prompt.phrases[owner[0]].count, _number(counts[0].reads_as)
    if asked is None or read is None or read == asked or len(missed) > len(counts):
        return Failure("several", words, owner[0])
    return Failure("surplus" if read > asked else "missing", words, owner[0], read)


def _number(text: str) -> int | None:
    """The number that a word or a figure names."""
    return int(text) if text.isdecimal() else NUMBERS.get(text.lower(), 1 if text.lower() in ("a", "an") else None)


def as_seen(prompt: Prompt, failure: Failure) -> Prompt:
    """The prompt with as many of a surplus thing as the judge sees: what is looked for in the picture."""
    if failure.kind != "surplus" or failure.phrase is None:
        return prompt
    phrases = list(prompt.phrases)
    phrases[failure.phrase] = replace(phrases[failure.phrase], count=failure.read)
    return replace(prompt, phrases=tuple(phrases))


def surplus_of(failure: Failure, prompt: Prompt, found: Sequence[Region]) -> list[Region]:
    """The regions of a thing that is there too often which are not kept: those that say the phrase least."""
    if failure.kind != "surplus" or failure.phrase is None:
        return []
    own = sorted((r for r in found if r.phrase == failure.phrase), key=lambda r: r.deficit)
    return own[prompt.phrases[failure.phrase].count or 1 :]


def good_instance(failure: Failure, layout: Sequence[Region]) -> Region | None:
    """Of a thing that is there too seldom, the instance that says its phrase best, if it says it at all."""
    if failure.kind != "missing":
        return None
    own = [r for r in layout if r.phrase == failure.phrase and not r.planned and r.found is not None]
    return min(own, key=lambda r: r.deficit, default=None)


def edit_mask(
    failure: Failure,
    prompt: Prompt,
    layout: Sequence[Region],
    surplus: Sequence[Region],
    routing: Routing,
    shape: tuple[int, int],
) -> np.ndarray | None:
    """Where an edit acts, float32 [h,w] in 0..1 with a soft edge; None where nothing says where it could.

    What is wrong with the background is edited wherever no thing is.

    Args:
        layout: a place for each thing that is asked for, of `layout.plan`.
        surplus: what is to go, of `surplus_of`.
    """
    if failure.phrase is not None and prompt.phrases[failure.phrase].background:
        mask = 1 - _covered([r.found or r.box for r in layout], shape, routing.margin)
    else:
        changed = [r.box for r in surplus] if failure.kind == "surplus" else _boxes_of(failure, layout)
        if not changed:
            return None
        kept = [box for r in layout if (box := r.found or r.box) not in changed and r.box not in changed]
        inner = _covered(changed, shape)  # what is well is not drawn over but where the two meet
        mask = np.minimum(_covered(changed, shape, routing.margin), 1 - _covered(kept, shape) * (1 - inner))
    soft = ndimage.gaussian_filter(mask, routing.softness * max(shape), mode="nearest")
    return np.asarray(soft, dtype=np.float32)


def _boxes_of(failure: Failure, layout: Sequence[Region]) -> list[tuple[float, float, float, float]]:
    """Where what is wrong is, and where it is to be: those instances that are not well, or the worst."""
    own = [r for r in layout if failure.phrase in (None, r.phrase)]
    wrong = [r for r in own if r.planned] or sorted(own, key=lambda r: -r.deficit)[:1]
    return [box for r in wrong for box in (r.box, r.found) if box is not None]


def _covered(
    boxes: Sequence[tuple[float, float, float, float]], shape: tuple[int, int], margin: float = 0.0
) -> np.ndarray:
    """Coverage of boxes, each larger by a margin, on a grid of h x w, in 0..1."""
    grown = [(x0 - margin, y0 - margin, x1 + margin, y1 + margin) for x0, y0, x1, y1 in boxes]
    return np.max([np.zeros(shape, dtype=np.float32), *(box_mask(box, shape) for box in grown)], axis=0)
