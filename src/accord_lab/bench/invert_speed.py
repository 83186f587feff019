"""`accord bench invert-speed`: seconds for one image with everything, and images a second in bulk."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from accord.judges.captioners import load_captioner
from accord.methods.invert.bulk import invert_files
from accord.methods.invert.inverter import Inverter
from accord.methods.invert.reader import Reader
from accord.rewards.sentence import load_sentence
from accord_lab.bench.measure import here, seconds_of
from accord_lab.bench.report import stamp, table
from accord_lab.bench.runner import Bench
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import sample_scene


@dataclass(frozen=True)
class Plan:
    """Images one by one, images in bulk, and how often."""

    singles: int
    many: int
    repeats: int


@dataclass(kw_only=True)
class InvertSpeed(Bench[Plan, dict[str, Any]]):
    """An inverter from its folder, or the embedded one if None."""

    name = "invert-speed"
    plans = (Plan(20, 1000, 3), Plan(3, 64, 1))
    inverter: Path | None = None
    device: str | None = None

    def measure(self, cell: Plan) -> dict[str, Any]:
        where = here(self.device)
        network = Inverter.from_pretrained(self.inverter, where)
        captioner = load_captioner(network.captioner_id, where)
        reader = Reader(network, captioner=captioner, embed=load_sentence(device=where))
        rng = np.random.default_rng(203)
        images = [Image.fromarray(render(sample_scene(rng))) for _ in range(cell.many)]
        reader(images[:2])  # the warm-up
        network(images[:2])
        seconds = [seconds_of(partial(reader, [i])) for i in images[: cell.singles]]
        with tempfile.TemporaryDirectory() as scratch:
            paths = [Path(scratch) / f"{i:04d}.png" for i in range(cell.many)]
            for path, image in zip(paths, images, strict=True):
                image.save(path)
            tables = [Path(scratch) / f"{n}.parquet" for n in range(cell.repeats)]
            files = [seconds_of(partial(invert_files, paths, t, reader=Reader(network))) for t in tables]
        alone = [seconds_of(partial(network, images)) for _ in range(cell.repeats)]
        return {
            "inverter": str(self.inverter) if self.inverter is not None else "embedded",
            "predictors": [k.kind for k in network.kinds],
            **stamp(where),
            "images": cell.many,
            "one_image": {"median": round(median(seconds), 4), "slowest": round(max(seconds), 4)},
            "images_per_second": {
                "files to a table": round(cell.many / median(files), 1),
                "network alone": round(cell.many / median(alone), 1),
            },
        }

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        one, bulk = data["one_image"], data["images_per_second"]
        singles = InvertSpeed.plans[data["quick"]].singles
        rows = [
            [
                "one image: embedding, words and a readable prompt",
                f"{one['median']:.3f} s (median of {singles}; the slowest {one['slowest']:.3f} s)",
            ],
            [
                f"{data['images']} PNG files to a Parquet table of embeddings and words",
                f"{bulk['files to a table']:.0f} images a second",
            ],
            ["the network alone, pictures in memory", f"{bulk['network alone']:.0f} images a second"],
        ]
        return (
            f"# Speed of inversion\n\nInverter {data['inverter']} ({', '.join(data['predictors'])}), {data['device']}, "
            f"{data['threads']} threads; drawn scenes.\n\n{table(['what', 'how fast'], rows)}\n"
        )
