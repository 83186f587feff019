"""RealignDiff's caption reward (arXiv 2305.19599, coarse stage): what a captioner says of a picture, against its
prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from accord.data.pairs import PairsFile
from accord.evaluation.pixels import judge_pixels
from accord.evaluation.prompts import prompt_records
from accord.evaluation.registry import Judged, Record, Suite, suite
from accord.rewards.sentence import SentenceEmbedder


@suite("captions")
class Captions(Suite):
    """The cosine of prompt and caption in the sentence embedder. Any prompts file: COCO captions, ViLG-300."""

    figure = "caption reward"
    needs = ("captioner", "embed")

    def __init__(self, captioner: Any, embed: SentenceEmbedder) -> None:
        self.captioner, self.embed = captioner, embed

    @classmethod
    def records(cls, path: Path | None, skipped: PairsFile) -> list[Record]:
        return prompt_records(path, skipped)

    def judge(self, records: Sequence[Record], images: Sequence[Image.Image]) -> list[Judged]:
        captions = self.captioner.caption(judge_pixels(images, self.captioner))
        vectors = self.embed([*(r.prompt for r in records), *(c or " " for c in captions)]).double()
        cosines = (vectors[: len(records)] * vectors[len(records) :]).sum(-1).tolist()
        return [Judged(cosine, caption=said) for cosine, said in zip(cosines, captions, strict=True)]
