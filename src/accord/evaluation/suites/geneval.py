"""GenEval (arXiv 2310.11513), of the user's own `evaluation_metadata.jsonl` or of a file of `accord eval prompts`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from accord.data.pairs import PairsFile
from accord.evaluation import geneval
from accord.evaluation.geneval import ColourClassifier, GenEvalConfig, Verdict
from accord.evaluation.geneval_records import TAGS, read_pictures, read_records
from accord.evaluation.prompts import given
from accord.evaluation.registry import Judged, Record, Suite, suite
from accord.judges.clip import ClipScorer


@suite("geneval")
class GenEval(Suite):
    """Whether detections and colours are as the record asks; the whole is the unweighted mean of the six tags."""

    figure = "right"
    needs = ("detector", "clip")
    mean_of_tags = TAGS
    of_pictures = True

    def __init__(self, detector: Any, clip: ClipScorer, config: GenEvalConfig | None = None) -> None:
        self.detector, self.clip, self.config = detector, clip, config or GenEvalConfig()
        self.colours = ColourClassifier(clip)

    @classmethod
    def records(cls, path: Path | None, _skipped: PairsFile) -> list[Record]:
        """Of a file of records, or of a folder of pictures in GenEval's layout."""
        path = given(path)
        if not path.is_dir():
            found = dict(enumerate(read_records(path)))
        else:
            pairs = zip(*read_pictures(path), strict=True)
            found = {int(picture.parent.parent.name): record for record, picture in pairs}
        return [Record(n, r.prompt, (r.tag,), about={"record": r}) for n, r in found.items()]

    def judge(self, records: Sequence[Record], images: Sequence[Image.Image]) -> list[Judged]:
        asked = [r.about["record"] for r in records]
        verdicts = geneval.judge_pictures(asked, images, self.detector, self.colours, self.config)
        return [judged_of(v, image.size) for v, image in zip(verdicts, images, strict=True)]


def judged_of(verdict: Verdict, size: tuple[int, int]) -> Judged:
    """A verdict as a row holds it, with what was found as regions of a picture of this width and height."""
    return Judged(float(verdict.correct), verdict.correct, regions=_regions(verdict, size), reasons=verdict.reasons)


def _regions(verdict: Verdict, size: tuple[int, int]) -> list[dict[str, Any]]:
    sides = (*size, *size)
    return [
        {
            "phrase": f"{verdict.colours[i]} {one.label}" if i in verdict.colours else one.label,
            "box": [float(v) / side for v, side in zip(one.box, sides, strict=True)],
            "score": float(one.score),
        }
        for i, one in enumerate(verdict.found)
    ]
