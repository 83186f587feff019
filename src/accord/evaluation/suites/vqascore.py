"""VQAScore (arXiv 2404.01291): the probability that a chat model says "Yes" to whether a picture shows its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from accord.data.pairs import PairsFile
from accord.evaluation.pixels import judge_pixels
from accord.evaluation.prompts import prompt_records
from accord.evaluation.registry import Judged, Record, Suite, suite
from accord.judges.protocol import Question

ASKED = 'Does this figure show "{}"? Please answer Yes or No.'


@suite("vqascore")
class VqaScore(Suite):
    """P("Yes"), of a prompts file."""

    figure = "VQAScore"
    needs = ("answers",)

    def __init__(self, answers: Any) -> None:
        self.answers = answers

    @classmethod
    def records(cls, path: Path | None, skipped: PairsFile) -> list[Record]:
        return prompt_records(path, skipped)

    def judge(self, records: Sequence[Record], images: Sequence[Image.Image]) -> list[Judged]:
        asked = [Question(ASKED.format(r.prompt), (("Yes",),)) for r in records]
        found = self.answers.answer(judge_pixels(images, self.answers), asked, range(len(records)))
        return [Judged(float(p[0])) for p in found]
