"""RealignDiff's caption reward (arXiv 2305.19599, coarse stage): what a captioner says of a picture, against its
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
from accord.judges.protocol import Judge
from accord.rewards.sentence import SentenceEmbedder
from accord.types import InputError


@suite("captions")
class Captions(Suite):
    """The cosine of prompt and caption in the sentence embedder. Any prompts file: COCO captions, ViLG-300."""

    figure = "caption reward"
    needs = ("judge", "embed")

    def __init__(self, judge: Judge, embed: SentenceEmbedder) -> None:
        self.judging, self.embed = judge, embed

    @classmethod
    def records(cls, path: Path | None, skipped: PairsFile) -> list[Record]:
        return prompt_records(path, skipped)

    def judge(self, records: Sequence[Record], images: Sequence[Image.Image]) -> list[Judged]:
        return judged_by_size(records, images, self.judging, self._asked)

    def _asked(self, records: Sequence[Record], pixels: torch.Tensor) -> list[Judged]:
        captions = self.judging.caption(pixels)
        if not any(captions):
            raise InputError(f"the judge {self.judging.name!r} writes no captions; give a captioner or a chat model")
        vectors = self.embed([*(r.prompt for r in records), *(c or " " for c in captions)]).double()
        cosines = (vectors[: len(records)] * vectors[len(records) :]).sum(-1).tolist()
        return [Judged(cosine, caption=said) for cosine, said in zip(cosines, captions, strict=True)]
