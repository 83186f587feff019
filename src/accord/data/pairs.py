"""Pairs of picture and prompt from CSV, JSONL or Parquet, broken rows set aside and not lost; results back out."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accord.data.extras import need
from accord.types import InputError, Pair

IMAGE_KEYS = ("image", "image_path", "path", "file", "file_name", "filename")
PROMPT_KEYS = ("prompt", "caption", "text")
SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclass
class PairsFile:
    """The rows of a pairs file: good ones, and why each broken one was skipped."""

    pairs: list[Pair] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def skip(self, row: int, reason: str) -> None:
        self.skipped.append({"row": row, "reason": reason})


def read_pairs(path: str | Path) -> PairsFile:
    """Read a pairs file; picture paths are relative to its folder.

    Columns: a picture under one of IMAGE_KEYS and a prompt under one of PROMPT_KEYS.

    Raises:
        InputError: for a file that is missing, of another kind, unreadable as a whole, or without a usable column.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"pairs file {str(path)!r} is none of {', '.join(SUFFIXES)}; convert it to one of them")
    if not path.is_file():
        raise InputError(f"pairs file {str(path)!r} does not exist; check the path")
    out = PairsFile()
    seen_columns: set[str] = set()
    try:
        for number, row in _rows(path):
            if row is None:
                out.skip(number, "not a JSON object")
                continue
            seen_columns |= set(row)
            image = next((row[k] for k in IMAGE_KEYS if row.get(k)), None)
            prompt = next((row[k] for k in PROMPT_KEYS if row.get(k)), None)
            if isinstance(image, dict) and image.get("bytes"):  # as the hub's own tables hold pictures
                out.skip(number, "its picture is within the table; save it as a file, and name that")
            elif not isinstance(image, str) or not image.strip():
                out.skip(number, "no image")
            elif not isinstance(prompt, str) or not prompt.strip():
                out.skip(number, "no prompt")
            elif not can_be_a_file(image):
                out.skip(number, "no image")
            else:
                out.pairs.append(Pair(str((path.parent / image).resolve()), sayable(prompt.strip()), number))
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise InputError(f"pairs file {str(path)!r} cannot be read ({error}); save it again" + ("" if path.suffix.lower() == ".parquet" else " as UTF-8")) from error
    if not out.pairs and not (seen_columns & set(IMAGE_KEYS) and seen_columns & set(PROMPT_KEYS)):
        raise InputError(
            f"pairs file {str(path)!r} has no image and prompt columns; name them 'image' and 'prompt', in UTF-8"
        )
    return out


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """(1-based row number, row or None if broken)."""
    if path.suffix.lower() == ".csv":
        with open(path, newline="", encoding="utf-8-sig") as file:
            yield from enumerate(csv.DictReader(file), start=1)
    elif path.suffix.lower() == ".jsonl":
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        row = json.loads(line.decode("utf-8-sig"))
                    except ValueError:  # no JSON, or no UTF-8
                        row = None
                    yield number, row if isinstance(row, dict) else None
    else:
        _, pq = need_parquet()
        table = pq.ParquetFile(path)
        wanted = [n for n in table.schema_arrow.names if n in (*IMAGE_KEYS, *PROMPT_KEYS)]
        yield from enumerate(parquet_rows(table, wanted), start=1)


def parquet_columns(path: Path) -> list[str]:
    """Names of a Parquet file's columns; none of one that cannot be read."""
    pa, pq = need_parquet()
    try:
        return list(pq.read_schema(path).names)
    except (OSError, pa.ArrowException):
        return []


def parquet_rows(file: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of an open Parquet file, some thousand at once; a text that is no UTF-8 is None."""
    for batch in file.iter_batches(batch_size=1024, columns=columns):
        values = [_texts(column) for column in batch.columns]
        yield from (dict(zip(batch.schema.names, row, strict=True)) for row in zip(*values, strict=True))


def _texts(column: Any) -> list[Any]:
    """The values of a column."""
    try:
        values: list[Any] = column.to_pylist()
        return values
    except UnicodeDecodeError:
        pass
    out: list[Any] = []
    for value in column:
        try:
            out.append(value.as_py())
        except UnicodeDecodeError:
            out.append(None)
    return out


def need_parquet() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet.

    Raises:
        InputError: if pyarrow is not installed.
    """
    return need("pyarrow", "parquet", "Parquet files"), need("pyarrow.parquet", "parquet", "Parquet files")


def check_table_path(path: Path) -> None:
    """Refuse a place that `table_bytes` could not write for, before the work is done.

    Raises:
        InputError: for another suffix than SUFFIXES, or Parquet without pyarrow.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"output {str(path)!r} is none of {', '.join(SUFFIXES)}; choose one of them")
    if path.suffix.lower() == ".parquet":
        need_parquet()


def table_bytes(rows: list[dict[str, Any]], suffix: str) -> bytes:
    """Flat rows as CSV, JSONL or Parquet.

    Raises:
        InputError: for another suffix.
    """

    if suffix == ".jsonl":
        return "".join(json.dumps(r) + "\n" for r in rows).encode()
    flat = [{k: json.dumps(v) if isinstance(v, (list, dict)) else sayable(v) for k, v in r.items()} for r in rows]
    if suffix == ".csv":
        text = io.StringIO()
        keys = list(dict.fromkeys(k for r in flat for k in r))
        writer = csv.DictWriter(text, keys)
        writer.writeheader()
        writer.writerows(flat)
        return text.getvalue().encode()
    if suffix == ".parquet":
        pa, pq = need_parquet()
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(flat), buffer)
        return buffer.getvalue()
    raise InputError(f"output suffix {suffix!r} is none of {', '.join(SUFFIXES)}; choose one of them")


def can_be_a_file(name: str) -> bool:
    """Whether the system could have a file of that name."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def sayable(value: Any) -> Any:
    """A text that UTF-8 can hold, with "?" for lone surrogates: file names of other bytes have them, and JSON may."""
    return value.encode("utf8", "replace").decode("utf8") if isinstance(value, str) else value
