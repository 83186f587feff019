"""What a run from a prompts file has made, row by row, in its folder.

`run.json` holds the settings that the run was begun with, `manifest.jsonl` a line for each picture and for each row
that was skipped. A line is written when its picture is. Shards have manifests of their own, such as
manifest-00001-of-00002.jsonl; a run without shards after them joins these. It is a pairs file too: `prompt`, and the
picture as `file`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from accord.files import check_regular, only_writer, parse_json, read_bytes, read_json, reason, write_file
from accord.types import InputError, reason_of

NAME, SETTINGS = "manifest.jsonl", "run.json"
_MOST = 2**33  # bytes of a manifest, which no budget for a user's table is to stop
_SAME = ("prompt", "negative_prompt", "width", "height", "image")  # what a row that is there must say still
_OF_SHARD = re.compile(r"manifest-\d{5,}-of-\d{5,}\.jsonl")

Line = dict[str, Any]
Key = tuple[int, int | None]  # row and seed; None where the row was skipped as a whole, or has no seed


def manifest_name(shard: tuple[int, int] | None) -> str:
    """The name of the manifest that a shard (i, n), or a run without shards, writes."""
    return NAME if shard is None else f"manifest-{shard[0]:05d}-of-{shard[1]:05d}.jsonl"


class Manifest:
    """The manifest of a run in a folder, which goes on where it ended.

    Args:
        settings: what all pictures are made with, of JSON's kinds.
        shard: (i, n) for a run that makes a share of the batches.

    Raises:
        InputError: if the folder holds a run with other settings, or a manifest that is damaged; a torn last line is
            dropped.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], shard: tuple[int, int] | None = None) -> None:
        self.folder, self.path = folder, folder / manifest_name(shard)
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        self.digest = sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]
        self.shard = shard
        self._said: dict[Key, str] = {}  # of each picture that is there, and each row that was skipped: its line
        for path in manifests_of(folder):
            self._said |= {_key(line): text for line, text in _lines(path, mend=path == self.path)}
        self._check_settings()

    def _check_settings(self) -> None:
        place = self.folder / SETTINGS
        if place.exists():
            before = read_json(place, "settings of the run", "give another `out`").get("settings")
            before = before if isinstance(before, dict) else {}
            keys = [k for k in {**self.settings, **before} if before.get(k) != self.settings.get(k)]
            if keys:
                raise InputError(
                    f"the run in {str(self.folder)!r} was begun with {keys[0]}={before.get(keys[0])!r}, not "
                    f"{self.settings.get(keys[0])!r}; go on with the same settings, or give another `out`"
                )
        elif self._said:
            raise InputError(
                f"folder {str(self.folder)!r} holds a manifest and no {SETTINGS} that says with which settings; give "
                "another `out`"
            )

    def has(self, row: Mapping[str, Any], seed: int | None) -> bool:
        """Whether the picture of this row and seed is there, as it was written.

        Args:
            row: its `row`, `prompt` and, where it has them, `negative_prompt`, `width`, `height` and `image`.

        Raises:
            InputError: if it was made of another row.
        """
        text = self._said.get((row["row"], seed))
        line = json.loads(text) if text else {}
        if line.get("status") != "done":
            return False
        other = next((name for name in _SAME if line.get(name) != row.get(name)), None)
        if other is not None:
            raise InputError(
                f"row {row['row']} of the run in {str(self.folder)!r} was made with the {other} {line.get(other)!r}, "
                f"not {row.get(other)!r}; give another `out` for another file of prompts"
            )
        with contextlib.suppress(OSError, ValueError, TypeError):  # what is written there may be no name
            return os.stat(self.folder / line["file"]).st_size == line["bytes"]
        return False

    def add(self, lines: Iterable[Line]) -> None:
        """Write lines at the end, those that are there already left out; before the first of them the settings.

        Raises:
            InputError: if the place cannot be written to.
        """
        new: list[str] = []
        for line in lines:
            text = json.dumps({**line, "settings": self.digest}, allow_nan=False) + "\n"
            if self._said.get(_key(line)) != text:
                self._said[_key(line)] = text
                new.append(text)
        if not new:
            return
        if not (self.folder / SETTINGS).exists():
            text = json.dumps({"settings": self.settings}, indent=1) + "\n"
            write_file(self.folder / SETTINGS, text.encode())
        try:
            with open(self.path, "ab") as file:
                file.write("".join(new).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(
                f"{str(self.path)!r} cannot be written ({reason(error)}); make room, and give the same command again"
            ) from error

    def finish(self) -> None:
        """Put the lines in the order of the rows and, without shards, those of all shards into one file.

        Raises:
            InputError: if a shard is being made still.
        """
        if self.shard is not None:
            return
        shards = [path for path in manifests_of(self.folder) if path != self.path]
        with contextlib.ExitStack() as stack:
            for path in shards:
                stack.enter_context(only_writer(self.folder, lock_name(path.name)))
            done = {row for (row, seed), text in self._said.items() if seed is not None}
            keys = sorted(
                (key for key in self._said if key[1] is not None or key[0] not in done),  # else it was mended since
                key=lambda key: (key[0], -1 if key[1] is None else key[1]),
            )
            write_file(self.path, "".join(self._said[key] for key in keys).encode())
            for path in shards:
                path.unlink(missing_ok=True)


def lock_name(manifest: str) -> str:
    """What a shard holds while it writes its manifest."""
    return manifest.removesuffix(".jsonl")


def manifests_of(folder: Path) -> list[Path]:
    """The manifests in a folder, those of shards first."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [folder / name for name in names if _OF_SHARD.fullmatch(name) or name == NAME]


def read_manifest(folder: Path) -> list[Line]:
    """What the manifests in a folder say, the last line of each row and seed, in the order of rows. A row that was
    skipped and made later is listed as made alone.

    Raises:
        InputError: for a manifest that is damaged; a torn last line is passed over.
    """
    said: dict[Key, Line] = {}
    for path in manifests_of(folder):
        said |= {_key(line): line for line, _ in _lines(path, mend=False)}
    made = {row for (row, seed), line in said.items() if line["status"] == "done" and seed is not None}
    kept = [line for (row, seed), line in said.items() if seed is not None or row not in made]
    return sorted(kept, key=lambda line: (line["row"], -1 if line["seed"] is None else line["seed"]))


def _lines(path: Path, mend: bool) -> Iterable[tuple[Line, str]]:
    """(line, its text) of a manifest; a last line that a kill has torn is dropped.

    Args:
        mend: whether it is dropped from the file too, which is to be written on.

    Raises:
        InputError: for another line that is none.
    """
    check_regular(path, "manifest")
    *whole, torn = read_bytes(path, "manifest", _MOST).split(b"\n")
    if torn and mend:
        write_file(path, b"".join(line + b"\n" for line in whole))
    for number, text in enumerate(whole, start=1):
        try:
            line = parse_json(text.decode())
            if not (isinstance(line["row"], int) and isinstance(line["seed"], int | None) and "status" in line):
                raise ValueError("it says nothing of a row")
            if line["status"] == "done" and not (isinstance(line["file"], str) and isinstance(line["bytes"], int)):
                raise ValueError("it names no file")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"line {number} of manifest {str(path)!r} cannot be read ({reason_of(error)}); take it out, and its "
                "picture is made again"
            ) from error
        yield line, text.decode() + "\n"


def _key(line: Line) -> Key:
    return line["row"], line["seed"]
