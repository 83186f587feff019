"""Checkpoints in safetensors: everything a run needs to go on exactly where it was killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from accord.diffusion.loading import load_tensors
from accord.files import read_json, replace_folder, sweep
from accord.types import InputError

Tensors = dict[str, torch.Tensor]
WEIGHTS = ("model.", "ema.", "optim.")  # what must be finite; an evaluation's scores need not be


def save(folder: Path, step: int, tensors: Tensors, keep: int = 2) -> None:
    """Write `folder/step-00000123` (written under another name, then renamed) and drop all but the last `keep`."""

    def fill(part: Path) -> None:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part / "state.safetensors")
        (part / "state.json").write_text(json.dumps({"step": step, "tensors": len(tensors)}), encoding="utf8")

    sweep(folder)
    replace_folder(folder / f"step-{step:08d}", fill)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def names(folder: Path) -> list[str]:
    """Names of all checkpoints, oldest first."""
    return sorted(p.name for p in folder.glob("step-*"))


def newest(folder: Path) -> str | None:
    """Name of the newest checkpoint, or None."""
    every = names(folder)
    return every[-1] if every else None


def load_latest(
    folder: Path, fits: Callable[[Tensors], bool] = lambda _: True
) -> tuple[int, Tensors, list[str]] | None:
    """The newest whole checkpoint as (step, tensors, names of the corrupt ones passed over), or None.

    Corrupt is what cannot be read, lacks tensors, holds weights that are not finite, or does not fit the run.
    """
    corrupt: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            state = read_json(path / "state.json", "checkpoint's")
            tensors = load_tensors(path / "state.safetensors", "checkpoint's", finite=WEIGHTS)
            step = state.get("step")
            whole = (
                isinstance(step, int)
                and path.name == f"step-{step:08d}"
                and state.get("tensors", len(tensors)) == len(tensors)
            )
            if whole and fits(tensors):
                return int(str(step)), tensors, corrupt
        except InputError:
            pass
        corrupt.append(path.name)
    return None
