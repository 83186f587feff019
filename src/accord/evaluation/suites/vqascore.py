"""VQAScore (arXiv 2404.01291): the probability that a model says "Yes" when it is asked whether a picture shows its
prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from accord.evaluation.one_judge import OneJudge
from accord.evaluation.registry import Judged, Record, suite
from accord.judges.protocol import Answers
from accord.judges.vqascore import ClipFlanT5, vqa_score


@suite("vqascore")
class VqaScore(OneJudge):
    """P("Yes") of a chat model, or the score of CLIP-FlanT5, of a prompts file."""

    figure = "VQAScore"
    needs = ("answers",)

    def __init__(self, answers: Answers | ClipFlanT5) -> None:
        self.judging = answers

    def asked(self, records: Sequence[Record], pixels: torch.Tensor) -> list[Judged]:
        prompts, judge = [r.prompt for r in records], self.judging
        found = judge.score(pixels, prompts) if isinstance(judge, ClipFlanT5) else vqa_score(judge, pixels, prompts)
        return [Judged(float(p)) for p in found]
