"""VQAScore (arXiv 2404.01291): the probability that a model says "Yes" when it is asked whether a picture shows its
prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from accord.data.pairs import PairsFile
from accord.evaluation.pixels import judged_by_size
from accord.evaluation.prompts import prompt_records
from accord.evaluation.registry import Judged, Record, Suite, suite
from accord.judges.protocol import Answers
from accord.judges.vqascore import ClipFlanT5, vqa_score


@suite("vqascore")
class VqaScore(Suite):
    """P("Yes") of a chat model, or the score of CLIP-FlanT5, of a prompts file."""

    figure = "VQAScore"
    needs = ("answers",)

    def __init__(self, answers: Answers | ClipFlanT5) -> None:
        self.answers = answers

    @classmethod
    def records(cls, path: Path | None, skipped: PairsFile) -> list[Record]:
        return prompt_records(path, skipped)

    def judge(self, records: Sequence[Record], images: Sequence[Image.Image]) -> list[Judged]:
        return judged_by_size(records, images, self.answers, self._asked)

    def _asked(self, records: Sequence[Record], pixels: torch.Tensor) -> list[Judged]:
        prompts, judge = [r.prompt for r in records], self.answers
        found = judge.score(pixels, prompts) if isinstance(judge, ClipFlanT5) else vqa_score(judge, pixels, prompts)
        return [Judged(float(p)) for p in found]
