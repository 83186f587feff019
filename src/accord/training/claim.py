"""A folder holds one run of one process at a time. It is resumed with the settings of its beginning, or refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accord.files import check_writable, only_writer, read_json, sweep, write_file
from accord.training.processes import Processes
from accord.types import InputError


def holds_run(folder: Path) -> bool:
    """Whether a run in `folder` has left something that another would destroy: a checkpoint."""
    return any((folder / "checkpoints").glob("step-*"))


@contextlib.contextmanager
def claim(folder: Path, settings: Mapping[str, Any], processes: Processes | None = None) -> Iterator[bool]:
    """Take `folder`, for the time of the block, for a run with these settings, kept in its `config.json`.

    Yields:
        whether the run begins anew; what one that failed before its first checkpoint has left is then of no use.

    Raises:
        InputError: if another process has it; if it holds a run that was begun with other settings, or whose settings
            are lost; if it cannot be written.
    """
    first = processes is None or processes.first
    with contextlib.ExitStack() as stack:
        there = False

        def check() -> None:
            nonlocal there
            if first:
                stack.enter_context(only_writer(folder))
            there = holds_run(folder)
            check_same(folder, settings)

        def begin() -> None:
            if first and not there:
                check_writable(folder)
                write_file(folder / "config.json", (json.dumps(dict(settings), indent=1) + "\n").encode())
            if first:
                sweep(folder / "checkpoints")

        for step in (check, begin):  # all have checked before one writes
            _together(step, processes)
        yield not there


def _together(step: Callable[[], None], processes: Processes | None) -> None:
    """Take a step in all processes; where one is refused, all end, and none waits for it."""
    refusal: InputError | None = None
    try:
        step()
    except InputError as error:
        refusal = error
    if processes is not None and not processes.all(refusal is None) and refusal is None:
        refusal = InputError("another process of this run was refused, and says why; begin again when that is mended")
    if refusal is not None:
        raise refusal


def check_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another run than one with these settings, of which more may be known later.

    Raises:
        InputError: naming a setting that differs.
    """
    if not holds_run(folder):
        return
    now = json.loads(json.dumps(dict(settings)))
    path = folder / "config.json"
    if not path.exists():
        raise InputError(
            f"folder {str(folder)!r} holds checkpoints of a run and no config.json that says with which settings; "
            "train in another folder"
        )
    before = read_json(path, "the run's", "start afresh in another folder")
    changed = [k for k in now if before.get(k) != now[k]]
    if changed:
        raise InputError(
            f"the run in {str(folder)!r} was begun with {changed[0]}={before.get(changed[0])!r}, not "
            f"{now[changed[0]]!r}; "
            "go on with the same settings or in another folder"
        )
