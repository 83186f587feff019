"""RealignDiff's caption reward (arXiv 2305.19599, coarse stage): what a captioner says of a picture, against its
prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from accord.evaluation.one_judge import OneJudge
from accord.evaluation.registry import Judged, Record, suite
from accord.judges.protocol import Judge
from accord.rewards.sentence import SentenceEmbedder
from accord.types import InputError


@suite("captions")
class Captions(OneJudge):
    """The cosine of prompt and caption in the sentence embedder. Any prompts file: COCO captions, ViLG-300."""

    figure = "caption reward"
    needs = ("judge", "embed")

    def __init__(self, judge: Judge, embed: SentenceEmbedder) -> None:
        self.judging, self.embed = judge, embed

    def asked(self, records: Sequence[Record], pixels: torch.Tensor) -> list[Judged]:
        captions = self.judging.caption(pixels)
        if not any(captions):
            raise InputError(f"the judge {self.judging.name!r} writes no captions; give a captioner or a chat model")
        vectors = self.embed([*(r.prompt for r in records), *(c or " " for c in captions)]).double()
        cosines = (vectors[: len(records)] * vectors[len(records) :]).sum(-1).tolist()
        return [Judged(cosine, caption=said) for cosine, said in zip(cosines, captions, strict=True)]
