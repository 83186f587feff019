"""Recipes that train the embedded models: `accord train lab vae|clip|captioner|denoiser|roles|flow`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from accord.training.claim import claim
from accord.training.fingerprint import fingerprint
from accord.types import InputError

PARTS = {"vae": (), "clip": (), "captioner": (), "denoiser": ("vae", "clip"), "roles": (), "flow": ()}
# parts that change a finished one: what is said where there is none
BEGUN = {
    "roles": "roles go into the text tower of a finished pipeline",
    "flow": "flow is learnt by the denoiser of a finished pipeline",
}
FINISHED = {
    part: "pipeline/model_index.json" for part in ("denoiser", "roles", "flow")
}  # the file that a finished part has; of others part/config.json


def train(
    part: str,
    folder: Path,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    start: Path | None = None,
) -> None:
    """Train one part of the lab into `folder`, from nothing, or from the finished part in the lab folder `start`.

    Raises:
        InputError: for an unknown part, if a part that it builds on or starts from is not there yet, if `start` is
            `folder`, or if a run found there was begun otherwise.
    """
    if part not in PARTS:
        raise InputError(f"the lab has no part {part!r}; choose one of {', '.join(PARTS)}")
    if steps is not None and steps < 1:
        raise InputError(f"steps must be at least 1, not {steps}")
    options: dict[str, Any] = {"steps": steps, "seed": seed, "device": device}
    if start is None and part in BEGUN:
        raise InputError(f"{BEGUN[part]}; give `start`, the folder that has it")
    if start is None:
        missing = [p for p in PARTS[part] if not (Path(folder) / p / "config.json").is_file()]
        if missing:
            raise InputError(
                f"{part} builds on {' and '.join(missing)}, not found in {str(folder)!r}; train that first"
            )
    elif part == "vae":
        raise InputError("the vae is trained from nothing only: the other parts stand on its latents")
    elif not (Path(start) / FINISHED.get(part, f"{part}/config.json")).is_file():
        raise InputError(f"no finished {part} is in {str(start)!r}; give the folder that it was trained into")
    elif Path(start).resolve() == Path(folder).resolve():
        raise InputError(
            f"{str(folder)!r} holds the run to start from, which would be resumed instead; train into another folder"
        )
    else:
        options["start"] = Path(start)
    begun = {
        "part": part,
        "steps": steps,
        "seed": seed,
        "start": None if start is None else _digest(Path(start) / FINISHED.get(part, part).split("/")[0]),
    }
    with claim(Path(folder) / "runs" / part, begun):
        importlib.import_module(f"accord_lab.recipes.{part}").train(folder, **options)


def _digest(folder: Path) -> str:
    """Which weights a run started from, wherever they lie."""
    return fingerprint(*(path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))))
