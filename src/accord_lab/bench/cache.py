"""Where a benchmark keeps what it has finished: a folder that belongs to the very models and knobs it was made with.

Long tables are made in several goes: their rows are in the table itself, where the table or the row says what it was
`made_with`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accord.training.fingerprint import fingerprint


def cache_folder(out: Path, name: str, *parts: Any) -> Path:
    """`out/.cache/<name>-<fingerprint>`, made: results of other weights or knobs are never taken for these."""
    folder = out / ".cache" / f"{name}-{fingerprint(*parts)}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def slug(name: str) -> str:
    """A row's name as a file's."""
    return name.replace(", ", "-").replace(" ", "-")


def known_rows(table: Path, *names: str) -> list[dict[str, Any]]:
    """Rows of an existing table that were made with one of these (the name of a cache, as a rule)."""
    data = json.loads(table.read_text(encoding="utf8")) if table.is_file() else {}
    return [r for r in data.get("rows", []) if r.get("made_with", data.get("made_with")) in names]
