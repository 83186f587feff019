"""What a judge of pictures can be asked.

A captioner gives the likelihood of a text; a chat model answers questions. Either makes an `Alignment` of a picture and
its prompt (`accord.judges.diagnosis.align`).

Letters in shapes: I pictures, Q questions, A answers of a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch


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
        and need not sum to one. A picture is encoded once for all its questions.

        Args:
            images: [I,3,H,W] in 0..1.
            questions: Q questions.
            image_of: for each question the index of its picture.
        """
        ...
