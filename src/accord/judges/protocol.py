"""What a judge of pictures can be asked.

A captioner gives the likelihood of a text; a chat model answers questions. Each turns what it can do into verdicts on
the words of prompts (`Judge`), and `accord.judges.diagnosis.align` makes an `Alignment` of them.

Letters in shapes: I pictures, Q questions, A answers of a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from accord.data.lexicon import Lexicon
from accord.types import InputError, Prompt, WordScore


@dataclass(frozen=True)
class Question:
    """A question on a picture.

    Attributes:
        text: as it is asked: "Is the star red?".
        answers: the spellings of each answer that is weighed, the expected answer first: (("Yes", "yes"), ("No",)).
    """

    text: str
    answers: tuple[tuple[str, ...], ...] = (("Yes", "yes"), ("No", "no"))


@runtime_checkable
class Answers(Protocol):
    """A judge that answers questions on pictures.

    Attributes:
        name: the folder or hub id, as reports name it.
    """

    name: str

    def answer(self, images: torch.Tensor, questions: Sequence[Question], image_of: Sequence[int]) -> list[np.ndarray]:
        """Per question the probabilities [A] of its answers, each the sum over its spellings. They are the model's own
        and need not sum to one; NaN for an answer that the judge cannot tell from another one of the question. A
        picture is encoded once for all its questions.

        Args:
            images: [I,3,H,W] in 0..1.
            questions: Q questions.
            image_of: for each question the index of its picture.
        """
        ...


@runtime_checkable
class Judge(Protocol):
    """What `align`, `accord.score` and `accord.realign` use of a judge, of whichever kind."""

    @property
    def name(self) -> str:
        """What it is called in a report."""
        ...

    @property
    def image_size(self) -> int:
        """Side of the square that a region, or a whole picture, is scaled to before it is judged."""
        ...

    @property
    def any_size(self) -> bool:
        """Whether whole pictures may have any size and shape, and are judged as they are."""
        ...

    @property
    def lexicon(self) -> Lexicon:
        """Words by which nouns are brought into the singular, and others are exchanged."""
        ...

    def check_length(self, text: str) -> None:
        """Refuse a prompt whose last words it would not read. Raises InputError."""
        ...

    def caption(self, images: torch.Tensor) -> list[str]:
        """What it says of each picture [I,3,H,W] in 0..1; "" if it writes no captions."""
        ...

    def verdicts(self, images: torch.Tensor, prompts: Sequence[Prompt]) -> list[tuple[WordScore, ...]]:
        """For each picture and its prompt, a WordScore per word that it can judge, in the order of the text."""
        ...


def check_scores(scores: Any, judge: str) -> None:
    """Refuse scores that are not finite: no order can be made of them, and no JSON.

    Raises:
        InputError: naming the judge.
    """
    if not np.isfinite(np.asarray(scores, dtype=np.float64)).all():
        raise InputError(
            f"the scores of the {judge} are not finite (NaN or infinity); it overflows in this precision: load it in "
            "float32, or use another"
        )
