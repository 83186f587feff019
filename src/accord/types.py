"""The nouns of Accord: frozen dataclasses that pass between its parts. No torch here."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

_BREAKS = re.compile("[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
_LONGEST = 2000  # letters of a sentence
SURE = 0.9  # probability from which on a word counts as shown, where it has to be nearly sure


class InputError(ValueError):
    """Input that Accord cannot use. Its text is one sentence, on one line, that names the input and the mend.

    Arguments stand in it as `name`; the command line puts its own options there.
    """

    def __init__(self, text: str) -> None:
        text = _BREAKS.sub(" ", text)
        if len(text) > _LONGEST:  # it quotes what was given; the mend is at its end
            text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
        super().__init__(text)


class Notice(UserWarning):
    """What a user should know and what stops nothing: the commands show it as a note, though they hush the libraries'
    warnings.
    """


def reason_of(error: BaseException) -> str:
    """The first line of a library's message that says something, short enough to stand in a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):  # what follows says it
        lines[0] += f" {lines[1]}"
    return lines[0][:200] if lines else type(error).__name__


def a_kind(thing: Any) -> str:
    """The class of a thing, or a name of one, with its article as it is spoken: "a FluxPipeline", "an LTXPipeline"."""
    name = thing if isinstance(thing, str) else type(thing).__name__
    spelt = len(name) > 1 and not name[1].islower()  # it begins with letters that are read one by one
    return f"{'an' if name[:1] in ('AEFHILMNORSX' if spelt else 'AEIO') else 'a'} {name}"


def check_numbers(config: Any) -> None:
    """Refuse a config with a number that is none, or a fraction where whole numbers are. Raises ValueError naming the
    field.
    """
    for one in fields(config):
        value = getattr(config, one.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{one.name} must be a finite number, not {value}")
        if isinstance(value, float) and str(one.type).startswith("int"):
            raise ValueError(f"{one.name} must be a whole number, not {value}")


@dataclass(frozen=True)
class Word:
    """A word of a prompt that can be checked in a picture.

    Attributes:
        text: as written in the prompt (several words for a relation).
        start, end: character span in the prompt.
        kind: "noun" | "color" | "count" | "size" | "material" | "modifier" | "action" | "relation" | "background" |
            "absence".
    """

    text: str
    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Phrase:
    """A thing that a prompt asks for: head noun, modifiers and count.

    Attributes:
        text: as written, article included.
        start, end: character span in the prompt.
        head: the noun.
        words: checkable words of the phrase, head included, in order.
        count: how many are asked for; None for a bare plural.
        background: True if the phrase names the background and not a thing.
    """

    text: str
    start: int
    end: int
    head: Word
    words: tuple[Word, ...]
    count: int | None = 1
    background: bool = False


@dataclass(frozen=True)
class Relation:
    """`phrases[subject] name phrases[object]`, name one of left | right | above | below | near | inside | on."""

    subject: int
    name: str
    object: int
    word: Word


@dataclass(frozen=True)
class Prompt:
    """A prompt taken apart.

    Attributes:
        text: the plain text, without the syntax of prompt programs.
        phrases, relations: what is to be seen.
        actions: the verbs of what things do.
        absences: nouns of what is not to be seen, of the kind "absence"; those of a negative prompt, which the text has
            not, are at its end and have no width.
        beyond: what else is said and no check is made for: style, places, words that are not understood.
        language: ISO 639-1 code; only English is taken apart.
    """

    text: str
    phrases: tuple[Phrase, ...]
    relations: tuple[Relation, ...] = ()
    actions: tuple[Word, ...] = ()
    absences: tuple[Word, ...] = ()
    beyond: tuple[Word, ...] = ()
    language: str = "en"

    @property
    def things(self) -> tuple[int, ...]:
        """Indices of the phrases that name things, the background left out."""
        return tuple(i for i, p in enumerate(self.phrases) if not p.background)

    @property
    def words(self) -> tuple[Word, ...]:
        """All checkable words in the order of the text; one that two things share is there once."""
        all_words = [w for p in self.phrases for w in p.words] + [r.word for r in self.relations]
        return tuple(sorted(dict.fromkeys([*all_words, *self.actions, *self.absences]), key=lambda w: w.start))


@dataclass(frozen=True)
class WordScore:
    """How well a picture shows a word: probability against its counterfactuals, and the best of those.

    Attributes:
        probability: for an absence, that there is none.
        reads_as: the likeliest counterfactual; for an absence, the noun itself.
        against: how many counterfactuals there were.
        how: what it was found by, where that is no likelihood: "answer to 'Is the star red?'".
    """

    word: Word
    probability: float
    reads_as: str
    reads_as_probability: float
    against: int = 1
    how: str = ""


@dataclass(frozen=True)
class Region:
    """Where a phrase is, or should be.

    Attributes:
        phrase: index into `Prompt.phrases`.
        box: (x0, y0, x1, y1) as shares of width and height.
        mask: float32 [h, w] in 0..1 at the resolution of the latents.
        caption: what a captioner sees there ("" for a place where nothing was found).
        deficit: 1 - score of the local caption against the phrase; 1 where nothing was found.
        planned: True for a place that was chosen for something missing.
        found: where it was found before a place was planned for it; None if nowhere.
    """

    phrase: int
    box: tuple[float, float, float, float]
    mask: np.ndarray = field(repr=False, compare=False)
    caption: str = ""
    deficit: float = 1.0
    planned: bool = False
    found: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Alignment:
    """How well one picture says one prompt, and where it does not.

    Attributes:
        overall: geometric mean of the words' probabilities, in 0..1; None where there was nothing to check.
        words: a WordScore per word that was checked.
        caption: what the captioner says of the picture.
        caption_reward: cosine of prompt and caption in the text encoder (RealignDiff's reward), or None.
        clip: cosine of picture and prompt in CLIP, or None.
        reason: why there is no score.
        judge: name of the captioner, or other judge, that judged.
        agrees: whether the caption says what the prompt asks for, nothing more and nothing less; None where there is no
            caption, or nothing to compare.
    """

    prompt: Prompt
    overall: float | None
    words: tuple[WordScore, ...]
    caption: str = ""
    caption_reward: float | None = None
    clip: float | None = None
    reason: str = ""
    judge: str = ""
    agrees: bool | None = None

    @property
    def weakest(self) -> float | None:
        """The probability of the least probable word; None where there was nothing to check."""
        return min((w.probability for w in self.words), default=None)

    @property
    def passes(self) -> bool | None:
        """The strict pass: the caption agrees, and the weakest word is at least SURE; None where one is not known."""
        if self.agrees is None or self.weakest is None:
            return None
        return self.agrees and self.weakest >= SURE

    @property
    def unjudged(self) -> tuple[str, ...]:
        """What the prompt says and the score does not cover, in the order of the text."""
        checked = {(s.word.start, s.word.kind) for s in self.words}
        said = [*(w for w in self.prompt.words if w.kind != "count"), *self.prompt.beyond]
        return tuple(w.text for w in sorted(said, key=lambda w: w.start) if (w.start, w.kind) not in checked)

    def better_than(self, other: Alignment) -> bool:
        """Whether both have a score and this one is higher."""
        return self.overall is not None and other.overall is not None and self.overall > other.overall

    def judged(self, score: WordScore) -> str:
        """How a word was judged, and by what."""
        if score.how:
            return f"{score.how}, by {self.judge or 'the judge that was given'}"
        other = "nouns in its place" if score.word.kind == "absence" else "other words in its place"
        return f"likelihood against {score.against} {other}, by the captioner {self.judge or 'that was given'}"

    @property
    def phrases(self) -> tuple[float, ...]:
        """Per phrase, the geometric mean of its words' probabilities (1 for a phrase without checkable words)."""
        by_word = {(s.word.start, s.word.kind): s.probability for s in self.words}
        out = []
        for phrase in self.prompt.phrases:
            ps = [by_word[w.start, w.kind] for w in phrase.words if (w.start, w.kind) in by_word]
            out.append(float(np.exp(np.mean(np.log(np.maximum(ps, 1e-12))))) if ps else 1.0)
        return tuple(out)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "prompt": self.prompt.text,
            "overall": self.overall,
            **({"reason": self.reason} if self.reason else {}),
            "clip": self.clip,
            "caption": self.caption,
            "caption_reward": self.caption_reward,
            "passes": self.passes,
            "phrases": [
                {"text": p.text, "probability": s} for p, s in zip(self.prompt.phrases, self.phrases, strict=True)
            ],
            "words": [
                {
                    "text": s.word.text,
                    "kind": s.word.kind,
                    "start": s.word.start,
                    "probability": s.probability,
                    "reads_as": s.reads_as,
                    "reads_as_probability": s.reads_as_probability,
                    "judged": self.judged(s),
                }
                for s in self.words
            ],
            "unjudged": list(self.unjudged),
        }


@dataclass(frozen=True)
class Pair:
    """A picture and its prompt, as read from a pairs file or folder.

    Attributes:
        image: a path that can be opened.
        row: its line or index in the table (of a folder of parts, among the parts that are there).
        name: the picture as the table names it, or from the folder of parts on: what a report shows.
        seed: that it was made with, where it was asked for and the table says so.
    """

    image: str
    prompt: str
    row: int = 0
    name: str = field(default="", compare=False)
    seed: int | None = field(default=None, compare=False)
