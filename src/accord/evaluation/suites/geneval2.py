"""GenEval 2 (arXiv 2512.16853) by Soft-TIFA, of the user's own copy of its `geneval2_data.jsonl` (CC BY-NC 4.0)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accord.evaluation.registry import suite
from accord.evaluation.suites.questions import Questions
from accord.judges.questions import IN_ONE_WORD


@suite("geneval2")
class GenEval2(Questions):
    """Soft-TIFA GM of each prompt; a tag is a skill, with the mean probability (AM) of its questions."""

    figure = "Soft-TIFA GM"
    instruction = IN_ONE_WORD

    @staticmethod
    def score(_am: float, gm: float, _right: Sequence[bool]) -> float:
        return gm

    @staticmethod
    def tag_values(soft: np.ndarray, _right: Sequence[bool]) -> Sequence[float]:
        return soft.tolist()
