"""Verdicts of a judge that answers questions: what it is asked about each word of a prompt, and what the answers say.

A word's probability is P(expected answer) / (sum over the answers that are weighed). Rivals that the judge cannot tell
apart are not weighed; if the expected answer is one of them, or no rival is left, the word is unjudged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from accord.data.lexicon import DEFAULT, NUMBERS, Lexicon, plural_of
from accord.judges.protocol import Answers, Judge, Question, check_scores
from accord.prompts.parse import Parse
from accord.prompts.phrases import parse_of
from accord.prompts.swaps import singular_of, with_article
from accord.types import Phrase, Prompt, Word, WordScore

YES, NO = ("Yes", "yes", "YES"), ("No", "no", "NO")
IN_ONE_WORD = "Answer in one word."
YES_OR_NO = "Answer yes or no."
MOST_COUNTED = 9  # a larger number begins with the digit of a smaller one, and is asked for by yes or no
SAID = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
    "on": "on",
    "near": "near",
    "inside": "inside",
    "front": "in front of",
    "behind": "behind",
}
_WRITTEN = {number: name for name, number in NUMBERS.items()} | {0: "zero"}


@dataclass(frozen=True)
class Check:
    """A word and the question that decides about it.

    Attributes:
        names: what each of the question's answers says, the expected one first.
    """

    word: Word
    question: Question
    names: tuple[str, ...] = ("yes", "no")

    def score(self, probabilities: np.ndarray) -> WordScore | None:
        """From the probabilities [A] of the answers; None where they say nothing."""
        kept = weighed(probabilities)
        if not kept or not probabilities[kept].sum() > 0:
            return None
        shares = probabilities[kept] / probabilities[kept].sum()
        best, against = 1 + int(shares[1:].argmax()), len(kept) - 1
        how = f"answer to {self.question.text!r}"
        if self.word.kind == "absence":
            return WordScore(self.word, float(shares[0]), self.word.text, float(1 - shares[0]), against, how)
        return WordScore(self.word, float(shares[0]), self.names[kept[best]], float(shares[best]), against, how)


def weighed(probabilities: np.ndarray) -> list[int]:
    """Which of a question's answers are weighed, the expected one first, by their probabilities [A].

    An answer that the judge cannot tell from another one (NaN) is left out. None is weighed, so that nothing is judged,
    where this is the expected answer, or where it leaves no rival of those there were.
    """
    kept = np.flatnonzero(np.isfinite(probabilities)).tolist()
    enough = len(kept) >= min(2, len(probabilities))
    return kept if enough and kept[:1] == [0] else []


def checks(prompt: Prompt, lexicon: Lexicon = DEFAULT) -> list[Check]:
    """What a judge is asked about a prompt: one question for each of its words, and for each text to be written in the
    picture, in the order of the text.

    Args:
        lexicon: its nouns are brought into the singular by it; its colours are the answers to a question for a colour.
    """
    if prompt.language != "en":
        return []
    out: dict[Word, Check] = {}
    for check in _checks(prompt, parse_of(prompt.text), lexicon):
        out.setdefault(check.word, check)  # a word that two things share is asked about once
    return sorted(out.values(), key=lambda check: check.word.start)


def _checks(prompt: Prompt, found: Parse, lexicon: Lexicon) -> Iterator[Check]:
    for phrase in prompt.phrases:
        yield from _background(phrase, lexicon) if phrase.background else _of_phrase(prompt, phrase, lexicon)
    for relation in prompt.relations:
        subject, other = (prompt.phrases[i] for i in (relation.subject, relation.object))
        be = "Are" if _is_plural(subject, lexicon) else "Is"
        text = f"{be} the {_named(prompt, subject)} {SAID[relation.name]} the {_named(prompt, other)}? {YES_OR_NO}"
        yield Check(relation.word, Question(text, (YES, NO)))
    for word in prompt.actions:
        yield Check(word, Question(f'Does the picture show "{_clause(prompt, found, word)}"? {YES_OR_NO}', (YES, NO)))
    for word in prompt.absences:
        noun, plural = singular_of(word.text, lexicon)
        there = f"Are there any {word.text}" if plural else f"Is there {with_article(noun)}"
        yield Check(word, Question(f"{there} in the picture? {YES_OR_NO}", (NO, YES)), ("no", "yes"))
    quoted = {q.start for q in found.quoted}
    for word in prompt.beyond:
        if word.start in quoted:
            yield Check(word, Question(f'Is the text "{word.text}" written in the picture? {YES_OR_NO}', (YES, NO)))


def _of_phrase(prompt: Prompt, phrase: Phrase, lexicon: Lexicon) -> Iterator[Check]:
    """Its noun, number and modifiers."""
    # "what color is the star?" has one answer where there is one star, of one colour
    shared = sum(_same_noun(phrase, p, lexicon) for p in prompt.phrases if not p.background) > 1
    shared |= sum(w.kind == "color" for w in phrase.words) > 1
    for word in phrase.words:
        if word.kind == "noun":
            yield Check(word, _is_there(phrase, [], lexicon))
        elif word.kind == "count" and phrase.count is not None:
            yield _count(phrase, word, lexicon)
        elif word.kind == "color" and not shared and word.text.lower() in _colors(lexicon):
            be = "are" if _is_plural(phrase, lexicon) else "is"
            yield _color(word, f"What color {be} the {phrase.head.text}? {IN_ONE_WORD}", lexicon.colors, lexicon)
        elif word.kind != "count":
            yield Check(word, _is_there(phrase, [word], lexicon))


def _background(phrase: Phrase, lexicon: Lexicon) -> Iterator[Check]:
    for word in phrase.words:
        if word.text.lower() in _colors(lexicon):
            yield _color(word, f"What color is the background? {IN_ONE_WORD}", lexicon.colors, lexicon)
        else:
            yield Check(word, Question(f"Is the background {word.text}? {YES_OR_NO}", (YES, NO)))


def _is_there(phrase: Phrase, modifiers: Sequence[Word], lexicon: Lexicon) -> Question:
    """ "Is there a wooden table in the picture?", in the number of the prompt."""
    name = " ".join(w.text for w in (*modifiers, phrase.head))
    if _is_plural(phrase, lexicon):
        text = f"Are there {name} in the picture?"
    else:
        text = f"Is there {name if phrase.count is None else with_article(name)} in the picture?"
    return Question(f"{text} {YES_OR_NO}", (YES, NO))


def _count(phrase: Phrase, word: Word, lexicon: Lexicon) -> Check:
    """ "How many red stars are there?", or whether there are just so many where the number has two digits."""
    inside = [w for w in phrase.words if w.kind not in ("count", "noun")]
    singular, plural = singular_of(phrase.head.text, lexicon)
    many = phrase.head.text if plural else lexicon.nouns.get(singular, plural_of(singular))
    things = " ".join([*(w.text for w in inside), many])
    number = phrase.count or 0
    if number > MOST_COUNTED:
        return Check(word, Question(f"Are there exactly {number} {things} in the picture? {YES_OR_NO}", (YES, NO)))
    order = [number, *(n for n in range(MOST_COUNTED + 1) if n != number)]
    names = tuple(_WRITTEN[n] for n in order)
    spellings = tuple((str(n), _WRITTEN[n], _WRITTEN[n].capitalize()) for n in order)
    text = f"How many {things} are there in the picture? Answer with a number."
    return Check(word, Question(text, spellings), names)


def _color(word: Word, text: str, colors: Sequence[str], lexicon: Lexicon) -> Check:
    """The colour against the others that do not mean the same."""
    own = word.text.lower()
    names = (own, *(c for c in colors if not lexicon.alike(c, own)))
    spellings = []
    for name in names:
        alike = dict.fromkeys([name, *(c for group in lexicon.same if name in group for c in group)])
        spellings.append(tuple(form for c in alike for form in (c, c.capitalize())))
    return Check(word, Question(text, tuple(spellings)), names)


def _colors(lexicon: Lexicon) -> set[str]:
    """Colours that can be told from the others by their name."""
    return {*lexicon.colors, *(c for group in lexicon.same if set(group) & set(lexicon.colors) for c in group)}


def _is_plural(phrase: Phrase, lexicon: Lexicon) -> bool:
    return singular_of(phrase.head.text, lexicon)[1] if phrase.count is None else phrase.count > 1


def _same_noun(one: Phrase, other: Phrase, lexicon: Lexicon) -> bool:
    return singular_of(one.head.text, lexicon)[0] == singular_of(other.head.text, lexicon)[0]


def _named(prompt: Prompt, phrase: Phrase) -> str:
    """The noun, and what tells it from another thing of the prompt: "red star" where there is a blue one too."""
    alone = sum(p.head.text.lower() == phrase.head.text.lower() for p in prompt.phrases) == 1
    words = [phrase.head] if alone else [w for w in phrase.words if w.kind != "count"]
    return " ".join(w.text for w in words)


def _clause(prompt: Prompt, found: Parse, word: Word) -> str:
    """What does something, and what it does, as the prompt has it: "a boy holding a kite"."""
    action = next((a for a in found.actions if (a.verb.start, a.verb.end) == (word.start, word.end)), None)
    if action is None:
        return word.text
    ends = [found.things[i] for i in (action.subject, action.object) if i is not None]
    start, end = min(t.start for t in [*ends, action.verb]), max(t.end for t in [*ends, action.verb])
    return prompt.text[start:end]


@torch.no_grad()
def by_questions(
    judge: Answers, images: torch.Tensor, prompts: Sequence[Prompt], lexicon: Lexicon = DEFAULT
) -> list[tuple[WordScore, ...]]:
    """A WordScore for each check of each prompt that the judge can answer, all questions on a picture at once.

    Args:
        images: [B,3,H,W] in 0..1.

    Raises:
        InputError: for answers that are not numbers.
    """
    plans = [checks(p, lexicon) for p in prompts]
    questions = [c.question for plan in plans for c in plan]
    answers = iter(judge.answer(images, questions, [i for i, plan in enumerate(plans) for _ in plan]))
    found = [[(check, next(answers)) for check in plan] for plan in plans]
    check_scores([p for plan in found for _, ps in plan for p in ps if not np.isnan(p)], "judge")
    return [tuple(s for check, ps in plan if (s := check.score(ps)) is not None) for plan in found]


@dataclass
class Asked:
    """A judge out of anything that answers questions (`Answers`).

    Attributes:
        say: writes a caption for each picture; none are written if None.
    """

    answers: Answers
    say: Callable[[torch.Tensor], list[str]] | None = None
    image_size: int = 448
    any_size: bool = True
    lexicon: Lexicon = DEFAULT

    @property
    def name(self) -> str:
        return self.answers.name

    @property
    def regions(self) -> str:
        """How the judge sees a region: "crop" or "box"."""
        return getattr(self.answers, "regions", "crop")

    def check_length(self, text: str) -> None:
        """Nothing is refused: a question quotes a few words of the prompt."""

    def caption(self, images: torch.Tensor) -> list[str]:
        return [""] * len(images) if self.say is None else self.say(images)

    def verdicts(self, images: torch.Tensor, prompts: Sequence[Prompt]) -> list[tuple[WordScore, ...]]:
        return by_questions(self.answers, images, prompts, self.lexicon)


def as_judge(judge: Judge | Answers) -> Judge:
    """The judge itself, or what answers questions as a judge."""
    return judge if isinstance(judge, Judge) else Asked(judge)
