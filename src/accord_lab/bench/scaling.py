"""`accord bench scaling`: what Ray adds to scoring in bulk, how two workers scale, what millions of pictures take.

One process, one worker and two workers score the same Parquet file of pictures. A rate is taken after the first FIRST
of the results, when all workers are warm. The second table is arithmetic: measured rates of the parts that are not a
GPU's, and a GPU's own rate as a column.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from accord.data.images import open_image
from accord.data.typed import write_typed
from accord.distributed.cluster import Cluster
from accord.distributed.engine import Rows, results, worked
from accord.distributed.places import place_of
from accord.distributed.sources import Done, Row, of_place, of_rows
from accord.judges.captioners import load_captioner
from accord.judges.clip import load_clip
from accord.judges.diagnosis import score
from accord.methods.invert.bulk import KINDS
from accord.training.fingerprint import fingerprint
from accord_lab.bench.report import stamp, table
from accord_lab.bench.runner import Bench
from accord_lab.scenes.grammar import say
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import sample_scene

FIRST = 0.25  # of the results, before the clock starts
LARGE = 512  # side of a picture of DiffusionDB
PICTURES = 14_000_000  # of DiffusionDB
GPUS = (8, 64, 512)
A_GPU = (5, 50)  # pictures a second of one GPU: assumed, for a chat model and for a small captioner
CORES = 8  # of each GPU's machine, a GPU: assumed
PRICE = 2.0  # dollars an hour of a GPU: assumed


@dataclass(frozen=True)
class Plan:
    """Pictures that are scored, rows of which the driver keeps no time but its own, pictures that are decoded."""

    pictures: int = 1200
    rows: int = 40_000
    decoded: int = 60
    batch_size: int = 16


@dataclass(frozen=True)
class Scores:
    """The alignment of pictures, by the embedded judge."""

    kinds: dict[str, Any] = field(default_factory=lambda: {"overall": "double", "caption": "string"})
    settings: dict[str, Any] = field(default_factory=dict)

    def load(self) -> tuple[str, Callable[[list[Row]], list[Row]]]:
        torch.set_num_threads(1)
        judge, clip = load_captioner(), load_clip()

        def do(rows: list[Row]) -> list[Row]:
            images = [Image.open(io.BytesIO(row["image"])).convert("RGB") for row in rows]
            found = score(images, [row["prompt"] for row in rows], judge, clip)
            return [{"overall": f.alignment.overall, "caption": f.alignment.caption} for f in found]

        return fingerprint(judge, clip), do


@dataclass(frozen=True)
class Nothing:
    """No work at all: what is left is the way there and back."""

    kinds: dict[str, Any] = field(default_factory=lambda: {"score": "double"})
    settings: dict[str, Any] = field(default_factory=dict)

    def load(self) -> tuple[str, Callable[[list[Row]], list[Row]]]:
        return "", lambda rows: [{"score": 0.0} for _ in rows]


@dataclass(kw_only=True)
class Scaling(Bench[Plan, dict[str, Any]]):
    """One process, one worker, two workers."""

    name = "scaling"
    plans = (Plan(), Plan(96, 4000, 10))

    def measure(self, cell: Plan) -> dict[str, Any]:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "pictures.parquet"
            write_typed(source, _pictures(cell.pictures), {"id": "string", "image": "binary", "prompt": "string"})
            rates = {"one process": _rate(_alone(source, cell.batch_size), cell.pictures)}
            for workers in (1, 2):
                cluster = Cluster(workers=workers)
                with cluster.opened():
                    data, _ = of_place(place_of(source), Done(), ("image", "prompt"))
                    found = results(Scores(), data, cluster, cell.batch_size)
                    rates[f"{workers} workers"] = _rate((len(rows) for rows in found), cell.pictures)
            overhead, driver = _way(cell, Path(folder))
            decoded = _decoding(cell.decoded, Path(folder))
        return {
            **stamp("cpu"),
            "cores": os.cpu_count(),
            "pictures": cell.pictures,
            "batch_size": cell.batch_size,
            "a_second": {name: round(rate, 1) for name, rate in rates.items()},
            "of_linear": {
                name: round(rates[name] / rates["one process"] / workers, 3)
                for workers, name in ((1, "1 workers"), (2, "2 workers"))
            },
            "ms_a_batch": round(overhead, 2),
            "driver_rows_a_second": round(driver),
            "decoded_a_second": round(decoded, 1),
            "on_paper": [_on_paper(gpus, rate, decoded, driver) for rate in A_GPU for gpus in GPUS],
        }

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        rates, shares = data["a_second"], data["of_linear"]
        rows = [["one process of one thread", f"{rates['one process']:.1f}", ""]]
        for workers in (1, 2):
            name = f"{workers} workers"
            rows.append([f"{workers} of Ray", f"{rates[name]:.1f}", f"{100 * shares[name]:.0f} %"])
        paper = [
            [
                p["gpus"],
                p["a_gpu"],
                f"{p['a_second']:,.0f}",
                f"{p['hours']:,.1f}",
                f"{p['dollars']:,.0f}",
                p["bound_by"],
            ]
            for p in data["on_paper"]
        ]
        return (
            f"# On a cluster\n\n{data['pictures']:,} pictures of the lab scored, batches of "
            f"{data['batch_size']}, {data['device']} with {data['cores']} cores, a thread each. A rate is taken "
            "when all workers are warm.\n\n"
            f"{table(['workers', 'pictures a second', 'of linear'], rows)}\n\n"
            f"A batch of no work takes {data['ms_a_batch']:.1f} ms on its way to one worker and back. The driver keeps "
            f"and writes {data['driver_rows_a_second']:,} rows a second, each with an embedding. One core decodes "
            f"{data['decoded_a_second']:.0f} PNG files of {LARGE}x{LARGE} a second.\n\n"
            f"## DiffusionDB's {PICTURES:,} pictures, on paper\n\nMeasured: decoding, the driver. Assumed: pictures a "
            f"second of one GPU, {CORES} cores beside each, {PRICE:g} dollars an hour of a GPU with its machine. "
            "No GPU was at hand.\n\n"
            + table(["GPUs", "of each, a second", "together", "hours", "dollars", "bound by"], paper)
            + "\n"
        )


def _pictures(count: int) -> Iterator[Row]:
    rng = np.random.default_rng(31)
    for number in range(count):
        data = io.BytesIO()
        scene = sample_scene(rng)
        Image.fromarray(render(scene)).save(data, "PNG")
        yield {"id": str(number), "image": data.getvalue(), "prompt": say(scene, rng).text}


def _alone(source: Path, size: int) -> Iterator[int]:
    """Sizes of finished batches, by the same callable in this process."""
    import pyarrow.parquet as pq

    _, do = Scores().load()
    for batch in pq.ParquetFile(source).iter_batches(batch_size=size):
        yield len(worked(do, batch.to_pylist()))


def _rate(finished: Iterator[int], total: int) -> float:
    """Results a second, from the FIRST of them on."""
    seen, began, before = 0, 0.0, 0
    for count in finished:
        seen += count
        if not began and seen >= FIRST * total:
            began, before = time.perf_counter(), seen
    return (seen - before) / (time.perf_counter() - began)


def _way(cell: Plan, folder: Path) -> tuple[float, float]:
    """Milliseconds of a batch that is no work, and rows a second that the driver keeps and writes."""
    cluster = Cluster(workers=1)
    rows = [{"id": str(i), "prompt": "a"} for i in range(cell.rows)]
    with cluster.opened():
        stamps = []
        for found in results(Nothing(), of_rows(rows, Done(), 8), cluster, cell.batch_size):
            stamps.append((time.perf_counter(), found))
    batches = sum(-(-len(found) // cell.batch_size) for _, found in stamps[1:])
    each = 1000 * (stamps[-1][0] - stamps[0][0]) / max(batches, 1)
    out = Rows(place_of(folder / "out"), {n: kind for n, kind in KINDS.items() if n != "image"})
    result = {"embedding": [0.5] * 384, "words": [{"word": "star", "probability": 0.5}] * 8}
    told = {"wrong": None, "weights": "", "seconds": 0.0, "prompt": "a" * 60, "score": 0.5, "retrieved": [], **result}
    began = time.perf_counter()
    for start in range(0, cell.rows, cell.batch_size):
        out.add([{"id": str(start + i), **told} for i in range(cell.batch_size)])
    out.write()
    return each, cell.rows / (time.perf_counter() - began)


def _decoding(count: int, folder: Path) -> float:
    """Pictures of LARGE x LARGE that one core opens a second."""
    rng, path = np.random.default_rng(0), folder / "large.png"
    rows, columns = np.mgrid[0:LARGE, 0:LARGE] / LARGE
    smooth = np.stack([np.sin(9 * rows + 5 * columns), np.cos(7 * columns), rows * columns], -1)
    noisy = 127 + 90 * smooth + rng.normal(0, 6, smooth.shape)  # flat pictures would decode too fast
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    began = time.perf_counter()
    for _ in range(count):
        open_image(path)
    return count / (time.perf_counter() - began)


def _on_paper(gpus: int, a_gpu: float, decoded: float, driver: float) -> dict[str, Any]:
    bounds = {"GPUs": gpus * a_gpu, "decoding": gpus * CORES * decoded, "the driver": driver}
    bound = min(bounds, key=lambda name: bounds[name])
    hours = PICTURES / bounds[bound] / 3600
    return {
        "gpus": gpus,
        "a_gpu": a_gpu,
        "a_second": bounds[bound],
        "hours": round(hours, 2),
        "dollars": round(hours * gpus * PRICE),
        "bound_by": bound,
    }
