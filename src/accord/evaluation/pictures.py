"""Where the pictures of a run come from: a pipeline, or a folder of pictures that are there.

Folders are read in these layouts:

    00012-3.png, images/00012-3.png      prompt 12, seed 3: a run's own
    00012/samples/0003.png               prompt 12, its fourth picture: GenEval's
    KEY.png, KEY-3.png, KEY/*.png        by what the suite's file calls the prompt (TIFA, DSG, DPG-Bench, COCO)
    metadata.jsonl, metadata.parquet     file_name and prompt (and seed): by the prompt's text
    manifest.jsonl                       of `accord generate --prompts`: by row and prompt
    00012-a-red-star-s3.png              the same without its manifest: row 12, which is prompt 11, and seed 3

A run's own folder brings along what its pictures cost, and a manifest the seconds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from accord.data.images import open_image
from accord.data.manifest import manifests_of, read_manifest
from accord.data.pair_folders import IMAGE_SUFFIXES, list_images, stream_pairs
from accord.data.pairs import PairsFile
from accord.data.typed import read_typed
from accord.evaluation.prompts import as_made
from accord.evaluation.registry import Record, Suite
from accord.evaluation.rows import checked_row
from accord.types import InputError

Job = tuple[Record, int]  # a prompt and a seed


@dataclass(frozen=True)
class Made:
    """A picture, or why there is none.

    Attributes:
        image: RGB; None where it cannot be read.
        path: its file, where there is one already.
        seconds, calls: what it cost: time, and samples that the denoiser saw (both halves of guidance); None where
            nothing says so.
    """

    image: Image.Image | None
    path: Path | None = None
    seconds: float | None = None
    calls: float | None = None
    why: str = ""


class Pictures(Protocol):
    """Where pictures come from."""

    def jobs(self, records: Sequence[Record], seeds: Sequence[int]) -> list[Job]:
        """The pictures that there are to judge, prompt by prompt."""
        ...

    def weights(self) -> str | None:
        """Whose they are, in a few digits; None if nothing is loaded for them."""
        ...

    def __call__(self, jobs: Sequence[Job]) -> list[Made]:
        """These pictures.

        Raises:
            InputError: if one cannot be made.
        """
        ...


class Generated:
    """Pictures of a pipeline, one batch at a time.

    Args:
        load: gives the pipeline, when the first picture is due.
        call: arguments of `accord.generate`.
    """

    def __init__(self, load: Callable[[], Any], suite: type[Suite], call: Mapping[str, Any]) -> None:
        self.load, self.suite, self.call = load, suite, dict(call)

    @cached_property
    def pipe(self) -> Any:
        return self.load()

    def weights(self) -> str | None:
        from accord.training.fingerprint import fingerprint

        return fingerprint(self.pipe)

    def jobs(self, records: Sequence[Record], seeds: Sequence[int]) -> list[Job]:
        """All of them.

        Raises:
            InputError: for a prompt with a seed, a size or a negative prompt of its own.
        """
        for record in records:
            if own := record.about.get("own"):
                raise InputError(
                    f"row {record.number + 1} of the prompts file has its own {next(iter(own))}, and all pictures of a "
                    "run are made alike; leave that column out, or make them with accord generate and give them as "
                    "`images`"
                )
        return [(record, seed) for record in records for seed in seeds]

    def __call__(self, jobs: Sequence[Job]) -> list[Made]:
        from accord.diffusion.counting import Calls
        from accord.diffusion.generate import generate_each
        from accord.diffusion.state import network_of

        began = time.perf_counter()
        with Calls(network_of(self.pipe)) as counter:
            seeds = [self.suite.noise_seed(record, seed) for record, seed in jobs]
            images = generate_each(self.pipe, [record.prompt for record, _ in jobs], seeds, **self.call)
        seconds = (time.perf_counter() - began) / len(jobs)
        if isinstance(images[0], list):
            raise InputError("the model makes videos, and suites judge pictures; give a text-to-image model")
        return [Made(image.convert("RGB"), None, seconds, counter.samples / len(jobs)) for image in images]


class Found:
    """Pictures of a folder.

    Attributes:
        skipped: rows of its metadata or manifest that name no picture.

    Raises:
        InputError: for a folder that is missing or without a picture.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.costs: dict[str, tuple[float | None, float | None]] = {}
        self.by_number: dict[int, dict[int, Path]] = {}
        self.by_key: dict[str, dict[int, Path]] = {}
        self.by_prompt: dict[str, dict[int, Path]] = {}
        self.prompts: dict[int, str] = {}  # of a run or manifest
        self.skipped = PairsFile()
        if (self.folder / "run.json").is_file() and (self.folder / "rows.parquet").is_file():
            self._read_run()
            return
        named = any((self.folder / n).exists() for n in ("metadata.jsonl", "metadata.parquet"))
        if named:
            self._read_metadata()
            return
        if manifests_of(self.folder):
            self._read_manifest()
            return
        for path in list_images(self.folder):
            self._sort_in(path)

    def _read_run(self) -> None:
        for row in read_typed(self.folder / "rows.parquet", "rows of the run"):
            checked_row(row, self.folder / "rows.parquet")
            path, text = self.folder / row["file_name"], " ".join(row["prompt"].split())
            self.prompts[row["number"]] = text
            self.by_number.setdefault(row["number"], {})[row["seed"]] = path
            self.by_prompt.setdefault(text, {})[row["seed"]] = path
            self.costs[str(path)] = (row["seconds"], row["denoiser_calls"])

    def _read_metadata(self) -> None:
        """A picture whose row says no seed gets the first that its prompt has free."""
        unseeded: list[tuple[str, Path]] = []
        for pair in stream_pairs(self.folder, self.skipped, seeds=True):
            text = " ".join(pair.prompt.split())
            if pair.seed is None:
                unseeded.append((text, Path(pair.image)))
            elif pair.seed in self.by_prompt.setdefault(text, {}):
                self.skipped.skip(pair.row, f"its prompt has a picture with seed {pair.seed} already")
            else:
                self.by_prompt[text][pair.seed] = Path(pair.image)
        for text, path in unseeded:
            own = self.by_prompt.setdefault(text, {})
            own[next(n for n in range(len(own) + 1) if n not in own)] = path

    def _read_manifest(self) -> None:
        for line in read_manifest(self.folder):
            if line["status"] != "done":
                self.skipped.skip(line["row"], str(line.get("reason", line["status"])))
                continue
            number, seed, path = line["row"] - 1, line["seed"], self.folder / line["file"]
            text = " ".join(as_made(str(line.get("prompt", ""))).split())
            self.prompts[number] = text
            self.by_number.setdefault(number, {})[seed] = path
            self.by_prompt.setdefault(text, {}).setdefault(seed, path)
            self.costs[str(path)] = (line.get("seconds"), None)

    def _sort_in(self, path: Path) -> None:
        parts, stem = path.relative_to(self.folder).parts, path.stem
        geneval = len(parts) == 3 and parts[1] == "samples" and parts[0].isdecimal() and stem.isdecimal()
        own = re.fullmatch(r"(\d{5,12})-(\d{1,18})", stem)  # of 64 bits
        of_row = re.fullmatch(r"(\d{5,12})-.*-s(\d{1,18})", stem)
        if geneval:
            self.by_number.setdefault(int(parts[0]), {})[int(stem)] = path
            return
        if own:
            self.by_number.setdefault(int(own[1]), {})[int(own[2])] = path
        elif of_row:
            self.by_number.setdefault(int(of_row[1]) - 1, {})[int(of_row[2])] = path
        if len(parts) > 1 and parts[0] != "images":
            of = self.by_key.setdefault(parts[0], {})
            of[len(of)] = path
            return
        self.by_key.setdefault(stem, {})[0] = path
        if numbered := re.fullmatch(r"(.+)[-_](\d{1,18})", stem):
            self.by_key.setdefault(numbered[1], {})[int(numbered[2])] = path

    def weights(self) -> str | None:
        return None

    def of(self, record: Record) -> dict[int, Path]:
        """The pictures of a prompt by seed."""
        text = " ".join(record.prompt.split())
        if self.prompts:  # a prompt may be there twice
            same = self.prompts.get(record.number) == text
            return self.by_number[record.number] if same else self.by_prompt.get(text, {})
        return (
            self.by_prompt.get(text)
            or (self.by_key.get(record.key) if record.key else None)
            or self.by_number.get(record.number)
            or {}
        )

    def seeds(self, records: Sequence[Record]) -> list[int]:
        """All seeds that there are pictures of, of these prompts."""
        return sorted({seed for record in records for seed in self.of(record)})

    def jobs(self, records: Sequence[Record], seeds: Sequence[int]) -> list[Job]:
        """All pictures of these prompts; with `seeds` these alone.

        Raises:
            InputError: if there is none.
        """
        out = [(r, s) for r in records for s in sorted(self.of(r)) if not seeds or s in seeds]
        if not out:
            raise InputError(
                f"folder {str(self.folder)!r} has no picture of these prompts; name them 00012-3.png (prompt 12 "
                "counted from 0, seed 3), or put a metadata.jsonl with file_name and prompt beside them"
            )
        return out

    def __call__(self, jobs: Sequence[Job]) -> list[Made]:
        out = []
        for record, seed in jobs:
            path = self.of(record)[seed]
            try:
                out.append(Made(open_image(path), path, *self.costs.get(str(path), (None, None))))
            except InputError as error:
                out.append(Made(None, path, why=str(error).replace(repr(str(path)), repr(path.name))))
        return out


def picture_name(record: Record, seed: int, path: Path | None = None) -> str:
    """What a picture is called within its run; one that is there keeps its kind of file."""
    suffix = path.suffix.lower() if path is not None and path.suffix.lower() in IMAGE_SUFFIXES else ".png"
    return f"images/{record.number:05d}-{seed}{suffix}"
