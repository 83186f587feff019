"""A strict pass: the caption says what the prompt asks for and every word is nearly sure. And how the better of two
pictures is chosen, by the score alone or by the pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from accord.data.lexicon import Lexicon
from accord.prompts.phrases import parse_of
from accord.prompts.same import says_the_same
from accord.types import SURE, Alignment, InputError, Prompt

SELECTORS = ("score", "pass")
# where a caption agrees, words this probable: a pass from SURE on fails far more right pictures, and lets about as many
# wrong ones through (`accord bench judge`)
LIKELY = 0.5


def caption_agrees(caption: str, prompt: Prompt, lexicon: Lexicon, silence: bool = True) -> bool | None:
    """Whether a judge's caption says what a prompt asks for; `says_the_same` of the two, parsed.

    Args:
        lexicon: the judge's.
        silence: whether a colour, a size, a material, a relation or the background may be left out. A captioner names
            them in some captions only; whether they are right, the verdicts on the words say.

    Returns:
        None where it cannot be said: no caption, a prompt that is not in English or names nothing.
    """
    if not caption or prompt.language != "en" or not (prompt.phrases or prompt.absences):
        return None
    try:
        said = parse_of(caption)
    except InputError:  # no letter in it
        return False
    return says_the_same(said, parse_of(prompt.text), lexicon, silence)


class Selector(Protocol):
    """Which of two pictures of a prompt is kept, and which is good enough.

    Attributes:
        captions: whether it goes by captions, which cost a generation each.
    """

    @property
    def captions(self) -> bool: ...

    def good(self, alignment: Alignment) -> bool:
        """Whether the picture needs no other."""
        ...

    def better(self, new: Alignment, old: Alignment) -> bool:
        """Whether the new picture is kept in place of the old one."""
        ...


@dataclass(frozen=True)
class ByScore:
    """The higher score; good is a picture whose words are all this probable."""

    good_enough: float = SURE
    captions = False

    def good(self, alignment: Alignment) -> bool:
        return all(w.probability >= self.good_enough for w in alignment.words)

    def better(self, new: Alignment, old: Alignment) -> bool:
        return new.better_than(old)


@dataclass(frozen=True)
class ByPass:
    """A picture whose caption agrees and whose words are all this probable, before one of which that is not so; then
    one whose caption agrees, then the higher score.
    """

    good_enough: float = SURE
    captions = True

    def good(self, alignment: Alignment) -> bool:
        return bool(alignment.agrees) and all(w.probability >= self.good_enough for w in alignment.words)

    def better(self, new: Alignment, old: Alignment) -> bool:
        ranks = [(self.good(a), bool(a.agrees)) for a in (new, old)]
        return ranks[0] > ranks[1] if ranks[0] != ranks[1] else new.better_than(old)


def selector_named(name: str, good_enough: float = SURE) -> Selector:
    """The selector of `SELECTORS`. Raises InputError for another name."""
    if name not in SELECTORS:
        raise InputError(f"`select` must be {' or '.join(SELECTORS)}, not {name!r}")
    return ByScore(good_enough) if name == "score" else ByPass(good_enough)


def check_selects(judge: Any, selector: Selector) -> None:
    """Refuse to select by captions of a judge that writes none. Raises InputError."""
    if selector.captions and not getattr(judge, "writes", True):
        raise InputError(
            f"judge {judge.name!r} writes no captions, by which `select` pass goes; use another judge, or select by "
            "score"
        )


def best(alignments: Sequence[Alignment], selector: Selector) -> int:
    """Which of a prompt's pictures is kept, the first of equals: best of N.

    Raises:
        ValueError: for none.
    """
    if not alignments:
        raise ValueError("there must be at least one alignment")
    kept = 0
    for k, alignment in enumerate(alignments[1:], 1):
        if selector.better(alignment, alignments[kept]):
            kept = k
    return kept
