"""Where a benchmark keeps what it has finished: a folder that belongs to the very models and knobs it was made with.

Long tables are made in several goes: their rows are in the table itself, where the table or the row says what it was `made_with`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

SAMPLED = 64  # numbers of each tensor that are looked at; training moves them all


def fingerprint(*parts: Any) -> str:
    """12 hexadecimal digits of the weights (of modules, and of a pipeline's modules) and the `repr` of all else."""
    digest = hashlib.sha256()
    for part in parts:
        modules = [m for m in getattr(part, "components", {}).values() if isinstance(m, nn.Module)]
        modules += [part] if isinstance(part, nn.Module) else []
        if not modules:
            digest.update(repr(part).encode())
        for tensor in (p for m in modules for p in m.state_dict().values()):
            digest.update(tensor.flatten()[:SAMPLED].to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:12]


def cache_folder(out: Path, name: str, *parts: Any) -> Path:
    """`out/.cache/<name>-<fingerprint>`, made: results of other weights or knobs are never taken for these."""
    folder = out / ".cache" / f"{name}-{fingerprint(*parts)}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def slug(name: str) -> str:
    """A row's name as a file's."""
    return name.replace(", ", "-").replace(" ", "-")


def known_rows(table: Path, *caches: Path) -> list[dict[str, Any]]:
    """Rows of a table that is there already, those that were made with the models and knobs of one of these caches."""
    data = json.loads(table.read_text(encoding="utf8")) if table.is_file() else {}
    names = {c.name for c in caches}
    return [r for r in data.get("rows", []) if r.get("made_with", data.get("made_with")) in names]
