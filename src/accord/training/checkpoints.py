"""Checkpoints in safetensors: everything a run needs to go on exactly where it was killed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file


def save(folder: Path, step: int, tensors: dict[str, torch.Tensor], keep: int = 2) -> None:
    """Write `folder/step-00000123` (written under another name, then renamed) and drop all but the last `keep`."""
    final, part = folder / f"step-{step:08d}", folder / f".step-{step:08d}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part / "state.safetensors")
        (part / "state.json").write_text(json.dumps({"step": step}), encoding="utf8")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(part, final)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def names(folder: Path) -> list[str]:
    """Names of all checkpoints, oldest first."""
    return sorted(p.name for p in folder.glob("step-*"))


def newest(folder: Path) -> str | None:
    """Name of the newest checkpoint, or None."""
    every = names(folder)
    return every[-1] if every else None


def load_latest(folder: Path) -> tuple[int, dict[str, torch.Tensor], list[str]] | None:
    """The newest readable checkpoint as (step, tensors, names of the corrupt ones passed over), or None."""
    corrupt: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            step = int(json.loads((path / "state.json").read_text(encoding="utf8"))["step"])
            return step, load_file(path / "state.safetensors"), corrupt
        except (OSError, ValueError, KeyError, SafetensorError):
            corrupt.append(path.name)
    return None
