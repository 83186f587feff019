"""Accord's own checks: every word of a prompt against the words that could stand in its place. Any prompts file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from accord.evaluation.one_judge import OneJudge
from accord.evaluation.registry import Judged, Record, suite
from accord.judges.diagnosis import align
from accord.judges.protocol import Judge
from accord.reports.gallery import RIGHT
from accord.types import Alignment


@suite("checks")
class Checks(OneJudge):
    """The geometric mean of the words' probabilities; a picture is right if each word is likelier than not.

    A tag is a kind of word, with the mean of its words' probabilities.
    """

    figure = "alignment"
    needs = ("judge",)

    def __init__(self, judge: Judge) -> None:
        self.judging = judge

    def asked(self, records: Sequence[Record], pixels: torch.Tensor) -> list[Judged]:
        return [judged_of(a) for a in align(pixels, [r.prompt for r in records], self.judging)]


def judged_of(alignment: Alignment) -> Judged:
    """What an alignment says, as a row holds it."""
    words = [
        {
            "text": s.word.text,
            "kind": s.word.kind,
            "start": s.word.start,
            "end": s.word.end,
            "probability": s.probability,
            "reads_as": s.reads_as,
        }
        for s in alignment.words
    ]
    kinds: dict[str, list[float]] = {}
    for s in alignment.words:
        kinds.setdefault(s.word.kind, []).append(s.probability)
    wrong = [s for s in alignment.words if s.probability < RIGHT]
    reasons = [
        f"{s.word.text!r} reads as {s.reads_as!r}" if s.word.kind != "absence" else f"there is {s.word.text!r}"
        for s in wrong
    ]
    return Judged(
        score=alignment.overall,
        verdict=None if alignment.overall is None else not wrong,
        by_tag={kind: float(np.mean(found)) for kind, found in kinds.items()},
        words=words,
        reasons=[alignment.reason] if alignment.reason else reasons,
        caption=alignment.caption,
        unjudged=alignment.unjudged,
    )
