"""`accord bench judging`: how many pictures a second GenEval's judge takes, and what it holds. Neither the detector's
network nor CLIP's is run: what they would say is given.

Each picture has the things of its record as coloured ellipses, some of them missing, and further ones beside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from accord.evaluation.geneval import centre_square, judge, judge_pictures, on_grey
from accord.evaluation.geneval_prompts import geneval_records
from accord.evaluation.geneval_records import CLASSES, COLOURS, Record
from accord.judges.detect import Detection, instances
from accord_lab.bench.measure import alone, peak_of
from accord_lab.bench.report import stamp, table
from accord_lab.bench.runner import Bench

SIDE = 224  # of CLIP's pictures
QUERIES, GRID, SURE = 100, 256, 10  # of the detector: queries, side of its masks, queries that are sure of a thing
REPEATS = 5
Given = tuple[Record, Image.Image, list[Detection]]


@dataclass(frozen=True)
class Plan:
    """Sides of pictures, how many of each are timed, and over how many the memory is measured."""

    sides: tuple[int, ...] = (512, 1024)
    pictures: int = 120
    held: tuple[int, ...] = (1_000, 10_000)


@dataclass(kw_only=True)
class Judging(Bench[int, dict[str, Any]]):
    """A cell is the side of the pictures."""

    name = "judging"
    plans = (Plan(), Plan((256,), 24, (100, 400)))

    def cells(self) -> Sequence[int]:
        return self.plan.sides

    def measure(self, cell: int) -> dict[str, Any]:
        given = [one_of(row, cell, seed) for seed, row in enumerate(geneval_records(self.plan.pictures))]
        things = sum(len(found) for _, _, found in given) / len(given)
        work: dict[str, Callable[[], object]] = {
            "verdicts": partial(_judge_all, given, crops=False),
            "with_crops": partial(_judge_all, given, crops=True),
            "masks": partial(_masks, len(given), cell),
        }
        rates = {name: round(len(given) / seconds_each(function)) for name, function in work.items()}
        return {"side": cell, "pictures": len(given), "things": round(things, 1), "a_second": rates}

    def results(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        peaks = {str(n): round(alone(f"judging of {n} pictures", _peak, n), 1) for n in self.plan.held}
        return {**stamp("cpu"), **super().results(rows), "peak_mib": peaks}

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        columns = ("verdicts", "with_crops", "masks")
        rows = [
            [f"{r['side']}x{r['side']}", r["things"], *(f"{r['a_second'][c]:,}" for c in columns)] for r in data["rows"]
        ]
        head = "pictures | things | verdicts | verdicts, and the crops for CLIP made | post-processing of the detector"
        peaks = ", ".join(f"{mib:.0f} MiB over {int(n):,} pictures" for n, mib in data["peak_mib"].items())
        return (
            "# Judging\n\nPictures a second of one core's processor time that GenEval's judge takes on given "
            "detections. Neither the detector's network nor CLIP is run. Post-processing is for 100 queries, 10 "
            "of them sure.\n\n"
            f"{table(head.split(' | '), rows)}\n\nPeak of memory of `judge_pictures`, whose verdicts are all kept, "
            f"with pictures of 256x256: {peaks}.\n"
        )


def seconds_each(work: Callable[[], object]) -> float:
    """Processor time of `work`, the median after a warm-up: what else the machine does is not in it."""
    work()
    taken = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return median(taken)


def one_of(row: dict[str, Any], side: int, seed: int) -> Given:
    """A picture for a record and what a detector finds: 85 % of what is asked for, and 4 to 8 further things."""
    rng, record = np.random.default_rng(seed), Record.of(row)
    names = [a.name for a in record.include for _ in range(a.count) if rng.random() < 0.85]
    names += [CLASSES[i] for i in rng.integers(len(CLASSES), size=rng.integers(4, 9))]
    picture, found = np.full((side, side, 3), 200, np.uint8), []
    rows, columns = np.ogrid[:side, :side]
    for name in names:
        x, y = rng.integers(side // 5, side - side // 5, 2)
        across, down = rng.integers(side // 12, side // 5, 2)
        mask = ((columns - x) / across) ** 2 + ((rows - y) / down) ** 2 < 1
        picture[mask] = rng.integers(0, 256, 3)
        box = float(x - across + 1), float(y - down + 1), float(x + across), float(y + down)
        found.append(Detection(name, float(rng.uniform(0.2, 1)), box, mask))
    return record, Image.fromarray(picture), found


def _judge_all(given: Sequence[Given], crops: bool) -> None:
    for record, image, found in given:
        judge(record, found, partial(_say, image, crops))


def _say(image: Image.Image, crops: bool, things: Sequence[Detection], _name: str) -> list[str]:
    """A colour for each, without CLIP; with `crops` what CLIP would be given is made."""
    if crops:
        for one in things:
            centre_square(on_grey(image, one), SIDE)
    return [COLOURS[i % len(COLOURS)] for i in range(len(things))]


def _masks(count: int, side: int) -> None:
    """The detector's post-processing, so many times."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.zeros(QUERIES, len(CLASSES) + 1)
    classes[:SURE, :SURE] = 12 * torch.eye(SURE)
    classes[SURE:, -1] = 12.0
    masks = torch.nn.functional.interpolate(
        torch.randn(1, QUERIES, 8, 8, generator=generator), (GRID, GRID), mode="bicubic"
    )[0]
    for _ in range(count):
        instances(classes, masks, CLASSES, (side, side), least=0.3)


@dataclass
class _Given:
    """A detector that finds what `one_of` says, one record after another."""

    rows: Iterator[dict[str, Any]]
    labels: Sequence[str] = field(default_factory=lambda: CLASSES)

    def find(self, images: Sequence[Image.Image], least: float = 0.0) -> list[list[Detection]]:
        made = [one_of(next(self.rows), image.width, seed)[2] for seed, image in enumerate(images)]
        return [[d for d in found if d.score > least] for found in made]


class _Blank(Sequence[Image.Image]):
    """So many pictures, made when they are asked for."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        return Image.new("RGB", (256, 256), (index % 256, 90, 90))


def _peak(count: int) -> float:
    """MiB that the judging of so many pictures takes at its peak."""
    rows = geneval_records(count)
    _judge(rows[:8])  # the warm-up
    return peak_of(lambda: _judge(rows))


def _judge(rows: Sequence[dict[str, Any]]) -> None:
    judge_pictures(rows, _Blank(len(rows)), _Given(iter(rows)), lambda image, things, _: _say(image, True, things, ""))
