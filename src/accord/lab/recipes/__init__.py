"""Recipes that train the embedded models: `accord train lab vae|clip|captioner|denoiser`."""

from __future__ import annotations

import importlib
from pathlib import Path

from accord.types import InputError

PARTS = {"vae": (), "clip": (), "captioner": (), "denoiser": ("vae", "clip")}


def train(part: str, folder: Path, steps: int | None = None, seed: int = 0, device: str = "cpu") -> None:
    """Train one part of the lab into `folder`.

    Raises:
        InputError: for an unknown part, or if a part that it builds on is not there yet.
    """
    if part not in PARTS:
        raise InputError(f"the lab has no part {part!r}; choose one of {', '.join(PARTS)}")
    if steps is not None and steps < 1:
        raise InputError(f"steps must be at least 1, not {steps}")
    missing = [p for p in PARTS[part] if not (Path(folder) / p / "config.json").is_file()]
    if missing:
        raise InputError(f"{part} builds on {' and '.join(missing)}, not found in {str(folder)!r}; train that first")
    importlib.import_module(f"accord.lab.recipes.{part}").train(folder, steps=steps, seed=seed, device=device)
