"""A folder holds one run: it is resumed with the settings that it was begun with, or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accord.outputs import check_writable, write_file
from accord.training.processes import Processes
from accord.types import InputError


def holds_run(folder: Path) -> bool:
    """Whether a run in `folder` has left something that another would destroy: its settings and a checkpoint."""
    return (folder / "config.json").is_file() and any((folder / "checkpoints").glob("step-*"))


def claim(
    folder: Path, settings: Mapping[str, Any], resume: bool = True, processes: Processes | None = None
) -> bool:
    """Take `folder` for a run with these settings, kept in its `config.json`.

    Returns:
        whether the run begins anew; what one that failed before its first checkpoint has left is then of no use.

    Raises:
        InputError: if it holds a run and `resume` is False, or one that was begun with other settings, or cannot be written.
    """
    path, now = folder / "config.json", json.loads(json.dumps(dict(settings)))
    there = holds_run(folder)
    if processes is not None:
        processes.wait()  # all have looked before one writes
    if there:
        if not resume:
            raise InputError(f"folder {str(folder)!r} holds a run; give --resume to go on with it, or another --out")
        try:
            before = json.loads(path.read_text(encoding="utf8"))
        except ValueError as error:
            raise InputError(f"{str(path)!r} is no JSON ({error}); start afresh in another folder") from error
        changed = [k for k in now if before.get(k) != now[k]]
        if changed:
            raise InputError(
                f"the run in {str(folder)!r} was begun with {changed[0]}={before.get(changed[0])!r}, not {now[changed[0]]!r}; "
                "go on with the same settings or in another folder"
            )
    elif processes is None or processes.first:
        check_writable(folder)
        write_file(path, (json.dumps(now, indent=1) + "\n").encode())
    if processes is not None:
        processes.wait()
    return not there
