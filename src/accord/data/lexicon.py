"""Word lists of the chunker and the counterfactuals. A captioner folder may carry its own `lexicon.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from accord.files import read_json
from accord.types import InputError, reason_of

_MEND = "copy it again from where the captioner came from"
COLORS = (
    "red orange yellow green blue purple pink brown black white gray grey cyan turquoise violet crimson golden gold "
    "silver beige magenta teal emerald navy maroon tan scarlet"
).split()
SIZES = "big large huge giant enormous small little tiny mini tall short".split()
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
NUMBERS |= {"nine": 9, "ten": 10, "eleven": 11, "twelve": 12}
RELATIONS = {
    "to the left of": "left",
    "on the left of": "left",
    "on the left side of": "left",
    "left of": "left",
    "to the right of": "right",
    "on the right of": "right",
    "on the right side of": "right",
    "right of": "right",
    "on top of": "above",
    "higher than": "above",
    "lower than": "below",
    "above": "above",
    "over": "above",
    "below": "below",
    "under": "below",
    "underneath": "below",
    "beneath": "below",
    "next to": "near",
    "beside": "near",
    "near": "near",
    "alongside": "near",
    "inside": "inside",
    "in front of": "front",
    "behind": "behind",
}
OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Lexicon:
    """What a word can be exchanged with when its counterfactuals are asked for.

    Attributes:
        nouns: singular -> plural.
        colors, sizes: words of one kind each; `same` lists groups of words that mean the same.
        relations: name -> the usual wording.
        max_count: counts 1..max_count are compared.
        by_class: whether nouns are exchanged within their class ("dog" for "horse") and not for every noun here; for a
            judge that knows any word.
    """

    nouns: dict[str, str]
    colors: tuple[str, ...]
    sizes: dict[str, str]
    relations: dict[str, str]
    backgrounds: tuple[str, ...] = ()
    same: tuple[tuple[str, ...], ...] = ()
    max_count: int = 4
    by_class: bool = False

    @classmethod
    def load(cls, path: Path) -> Lexicon:
        """Read what `save` wrote.

        Raises:
            InputError: for a file that cannot be read or holds no lexicon.
        """
        raw = read_json(path, "lexicon", _MEND)
        lists, tables = ("colors", "backgrounds"), ("nouns", "sizes", "relations")
        try:
            if not all(isinstance(found, list) for found in (*(raw[key] for key in lists), raw["same"], *raw["same"])):
                raise TypeError("a list is none")
            for key in lists:
                raw[key] = tuple(raw[key])
            raw["same"] = tuple(tuple(group) for group in raw["same"])
            lexicon = cls(**raw)
            texts = [*(t for key in lists for t in raw[key]), *(t for group in raw["same"] for t in group)]
            texts += [t for key in tables for pair in raw[key].items() for t in pair]
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"lexicon {str(path)!r} lacks a list or has one of another kind ({reason_of(error)}); {_MEND}"
            ) from error
        if not all(isinstance(t, str) and t.strip() for t in texts) or lexicon.max_count not in tuple(NUMBERS.values()):
            raise InputError(
                f"lexicon {str(path)!r} has an entry that is no word, or counts beyond {len(NUMBERS)}; {_MEND}"
            )
        return lexicon

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf8")

    def alike(self, a: str, b: str) -> bool:
        """Whether two words mean the same ("gray", "grey")."""
        return a == b or any(a in g and b in g for g in self.same)


_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "foot": "feet",
    "tooth": "teeth",
    "mouse": "mice",
    "goose": "geese",
    "ox": "oxen",
    "wolf": "wolves",
    "leaf": "leaves",
    "shelf": "shelves",
    "knife": "knives",
    "calf": "calves",
    "loaf": "loaves",
    "scarf": "scarves",
    "elf": "elves",
    "dwarf": "dwarves",
    "potato": "potatoes",
    "tomato": "tomatoes",
    **{same: same for same in "sheep fish deer moose aircraft spacecraft salmon shrimp squid scissors".split()},
}


def plural_of(noun: str) -> str:
    """The plural, by the last word of a compound."""
    first, last = noun[: noun.rfind(" ") + 1], noun[noun.rfind(" ") + 1 :]
    irregular = next((i for i in _IRREGULAR if last == i or (last.endswith(i) and i in ("man", "woman"))), None)
    if irregular is not None and last != "human":
        return first + last[: len(last) - len(irregular)] + _IRREGULAR[irregular]
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


_NOUNS = (
    "dog cat bird horse cow sheep elephant bear zebra giraffe person car truck bus train bicycle motorcycle boat "
    "airplane bench chair table sofa bed clock vase book cup bottle bowl fork knife spoon apple banana orange carrot "
    "pizza cake umbrella backpack suitcase laptop phone tree flower house star heart fish ball hat"
).split()

DEFAULT = Lexicon(
    nouns={n: plural_of(n) for n in _NOUNS} | {"sheep": "sheep", "knife": "knives", "person": "people", "fish": "fish"},
    colors=("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray"),
    sizes={"big": "small", "large": "small", "huge": "tiny", "small": "big", "little": "big", "tiny": "huge"},
    relations={"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"},
    same=(("gray", "grey"), ("red", "crimson", "scarlet"), ("yellow", "golden"), ("purple", "violet")),
    by_class=True,
)
