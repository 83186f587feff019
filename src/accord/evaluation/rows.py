"""The rows of a run: what they hold, the journal that they are kept in while it runs, and the table of all.

A row is a picture. The journal is JSON lines, appended batch by batch; a last line or batch that a kill has torn is
dropped. What was finished is kept, also where it is gone on with in other batches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from accord.evaluation.registry import Judged, Record
from accord.files import parse_json, reason, write_file
from accord.types import InputError

Row = dict[str, Any]
KINDS = {
    "file_name": "string",  # relative to the run, where `datasets` looks for it
    "number": "int64",
    "key": "string",
    "prompt": "string",
    "tags": ["string"],
    "seed": "int64",
    "score": "double",
    "verdict": "bool",
    "figures": [{"name": "string", "value": "double"}],
    "by_tag": [{"tag": "string", "score": "double"}],
    "words": [
        {
            "text": "string",
            "kind": "string",
            "start": "int64",
            "end": "int64",
            "probability": "double",
            "reads_as": "string",
        }
    ],
    "regions": [{"phrase": "string", "box": ["double"], "score": "double"}],
    "reasons": ["string"],
    "caption": "string",
    "unjudged": ["string"],
    "denoiser_calls": "double",
    "seconds": "double",
    "judge_seconds": "double",
}
_PICTURE = re.compile(r"images/(?!\.\.?$)[^/\\\0]+")
TIMES = ("seconds", "judge_seconds")  # what another run of the same settings finds otherwise


def row_of(
    record: Record,
    seed: int,
    file_name: str,
    judged: Judged,
    calls: float | None,
    seconds: float | None,
    judge_seconds: float,
) -> Row:
    """The row of a picture."""
    by_tag = dict.fromkeys(record.tags, judged.score) if judged.by_tag is None else judged.by_tag
    return {
        "file_name": file_name,
        "number": record.number,
        "key": record.key,
        "prompt": record.prompt,
        "tags": list(dict.fromkeys((*record.tags, *by_tag))),
        "seed": seed,
        "score": judged.score,
        "verdict": judged.verdict,
        "figures": [{"name": n, "value": v} for n, v in judged.figures.items()],
        "by_tag": [{"tag": t, "score": v} for t, v in by_tag.items()],
        "words": [dict(w) for w in judged.words],
        "regions": [dict(r) for r in judged.regions],
        "reasons": list(judged.reasons),
        "caption": judged.caption,
        "unjudged": list(judged.unjudged),
        "denoiser_calls": calls,
        "seconds": seconds,
        "judge_seconds": judge_seconds,
    }


def skipped_row(record: Record, seed: int, why: str) -> Row:
    """What is kept of a picture that cannot be made or read."""
    return {"number": record.number, "seed": seed, "prompt": record.prompt, "skipped": why}


class Journal:
    """The rows that are finished, in a file of JSON lines.

    `done` has (number, seed) of each. Only these are held; rows are read again from the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: set[tuple[int, int]] = set()
        self._file: BinaryIO | None = None
        for row in read_rows(path):
            self.done.add((row["number"], row["seed"]))

    def append(self, rows: Sequence[Row]) -> None:
        """Keep the rows of a batch, in one go.

        Raises:
            InputError: if they cannot be written: no room, or a number that is not finite.
        """
        try:
            said = [{**row, "batch": [i, len(rows)]} for i, row in enumerate(rows)]
            data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in said).encode()
        except ValueError as error:
            raise InputError("a score is not finite, which no table holds; use the judge in float32") from error
        try:
            if self._file is None:
                self._file = open(self.path, "ab")  # noqa: SIM115 (closed by `close`)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise InputError(f"{str(self.path)!r} cannot be written ({reason(error)}); make room") from error
        self.done.update((row["number"], row["seed"]) for row in rows)

    def mend(self, due: Collection[tuple[int, int]]) -> None:
        """Drop what a kill has torn, a last line that is none and a last batch that is not whole, so that it is made
        again as it would have been; and rows that are not due any more.
        """
        ends: list[int] = []  # of the lines
        place, size, others = 0, 1, False
        for row, end in _lines(self.path):
            ends.append(end)
            place, size = row.get("batch", (0, 1))
            others |= (row["number"], row["seed"]) not in due
        torn = place + 1 if ends and place + 1 < size else 0
        good = ends[-1 - torn] if len(ends) > torn else 0
        if self.path.exists() and self.path.stat().st_size != good:
            with open(self.path, "r+b") as file:
                file.truncate(good)
        if others:
            kept = [row for row in read_rows(self.path) if (row["number"], row["seed"]) in due]
            write_file(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self.done = {(row["number"], row["seed"]) for row in read_rows(self.path)}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _lines(path: Path) -> Iterator[tuple[Row, int]]:
    """(row, where its line ends) of a journal, without a last line that is torn.

    Raises:
        InputError: for another line that is no row.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        return
    with file:
        end, broken = 0, 0
        for number, line in enumerate(file, start=1):
            if broken:
                raise InputError(
                    f"line {broken} of {str(path)!r} is no row of a run; take it away, and its picture is made again"
                )
            end += len(line)
            try:
                row = parse_json(line.decode()) if line.endswith(b"\n") else None
            except ValueError:
                row = None
            if row is not None and _is_row(row):
                yield row, end
            else:
                broken = number


def _is_row(row: Any) -> bool:
    """Whether it says which picture it is of, and of how large a batch."""
    if not isinstance(row, dict) or not all(isinstance(row.get(k), int) for k in ("number", "seed")):
        return False
    batch = row.get("batch", [0, 1])
    return isinstance(batch, list) and len(batch) == 2 and all(isinstance(n, int) for n in batch)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a journal, one after the other.

    Raises:
        InputError: for a row that names a file outside of the run's `images/`.
    """
    for row, _ in _lines(path):
        yield row if "skipped" in row else checked_row(row, path)


def checked_row(row: Row, path: Path) -> Row:
    """A row of a journal or table, which another may have written.

    Raises:
        InputError: if its picture is not `images/NAME`.
    """
    name = row.get("file_name")
    if not isinstance(name, str) or not _PICTURE.fullmatch(name):
        raise InputError(
            f"{str(path)!r} names the picture {str(name)[:100]!r}, which is not in the run's images/; give a run that "
            "accord eval wrote"
        )
    return row
