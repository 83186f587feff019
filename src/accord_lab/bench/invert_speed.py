"""`accord bench invert --speed`: seconds for one image with everything, and images a second in bulk."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from accord.diffusion.pipelines import default_device, device_name
from accord.files import check_writable, write_file
from accord.methods.invert.bulk import invert_files
from accord.methods.invert.inverter import Inverter
from accord.methods.invert.reader import Reader
from accord.rewards.captioners import load_captioner
from accord.rewards.sentence import load_sentence
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import sample_scene


def main(
    out: Path, inverter: Path | None = None, device: str | None = None, quick: bool = False
) -> tuple[dict[str, Any], str]:
    """Time an inverter, the embedded one if None; writes `invert-speed.json` and `.md` (`invert-speed-quick.*` with
    `quick`).

    Raises:
        InputError: for a folder that cannot be written or holds no inverter.
    """
    check_writable(out)
    where = device or default_device()
    network = Inverter.from_pretrained(inverter, where)
    captioner = load_captioner(network.captioner_id, where)
    reader = Reader(network, captioner=captioner, embed=load_sentence(device=where))
    singles, many, repeats = (3, 64, 1) if quick else (20, 1000, 3)
    rng = np.random.default_rng(203)
    images = [Image.fromarray(render(sample_scene(rng))) for _ in range(many)]
    reader(images[:2])  # the warm-up
    network(images[:2])
    seconds = [_timed(partial(reader, [i])) for i in images[:singles]]
    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch) / f"{i:04d}.png" for i in range(many)]
        for path, image in zip(paths, images, strict=True):
            image.save(path)
        files = [
            _timed(partial(invert_files, paths, Path(scratch) / f"{n}.parquet", reader=Reader(network)))
            for n in range(repeats)
        ]
    alone = [_timed(partial(network, images)) for _ in range(repeats)]
    data: dict[str, Any] = {
        "bench": "invert --speed",
        "quick": quick,
        "inverter": str(inverter) if inverter is not None else "embedded",
        "predictors": [k.kind for k in network.kinds],
        "device": device_name(where),
        "threads": torch.get_num_threads(),
        "images": many,
        "one_image": {"median": round(median(seconds), 4), "slowest": round(max(seconds), 4)},
        "images_per_second": {
            "files to a table": round(many / median(files), 1),
            "network alone": round(many / median(alone), 1),
        },
    }
    one, bulk = data["one_image"], data["images_per_second"]
    text = (
        f"# Speed of inversion\n\nInverter {data['inverter']} ({', '.join(data['predictors'])}), {data['device']}, "
        f"{data['threads']} threads; drawn scenes.\n\n"
        "| what | how fast |\n|---|---|\n"
        f"| one image: embedding, words and a readable prompt | {one['median']:.3f} s (median of {singles}; the "
        f"slowest {one['slowest']:.3f} s) |\n"
        f"| {many} PNG files to a Parquet table of embeddings and words | {bulk['files to a table']:.0f} images a "
        "second |\n"
        f"| the network alone, pictures in memory | {bulk['network alone']:.0f} images a second |\n"
    )
    stem = "invert-speed-quick" if quick else "invert-speed"
    write_file(out / f"{stem}.json", (json.dumps(data, indent=1) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    return data, text


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
