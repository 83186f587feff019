"""Prompts from a text file, CSV, JSONL, or a COCO captions file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from accord.data.pairs import PROMPT_KEYS, sayable
from accord.types import InputError

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".json")
_KEYS = (*PROMPT_KEYS, "prompts", "captions", "sentence", "description")


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file, in order, blank ones left out and line breaks in them made spaces.

    Text: one a line. CSV and TSV (a byte-order mark and quoted fields of several lines are fine): the column named
    prompt, caption or text; the only column if there is one. JSONL: that key, or plain strings. JSON: COCO captions
    (`annotations[].caption`), or a list of either.

    Raises:
        InputError: for a file that is missing, of another kind, unreadable, or without a prompt.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"prompts file {str(path)!r} is none of {', '.join(SUFFIXES)}; convert it to one of them")
    if not path.is_file():
        raise InputError(f"prompts file {str(path)!r} does not exist; check the path")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if suffix == ".txt":
            found: list[Any] = text.splitlines()
        elif suffix in (".csv", ".tsv"):
            found = _from_table(text, "\t" if suffix == ".tsv" else ",", path)
        elif suffix == ".jsonl":
            found = [_from_line(line, i, path) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
        else:
            data = json.loads(text)
            rows = data.get("annotations") if isinstance(data, dict) else data
            if not isinstance(rows, list):
                raise InputError(f"prompts file {str(path)!r} is neither a JSON list nor COCO captions; make it a list of prompts")
            found = [_from_row(row) for row in rows]
    except InputError:
        raise
    except json.JSONDecodeError as error:
        raise InputError(f"prompts file {str(path)!r} is no valid JSON ({error}); mend it there") from error
    except (OSError, csv.Error, ValueError, RecursionError) as error:
        raise InputError(f"prompts file {str(path)!r} cannot be read ({error}); save it again as UTF-8") from error
    prompts = [sayable(" ".join(p.split())) for p in found if isinstance(p, str) and p.strip()]
    if not prompts:
        raise InputError(f"prompts file {str(path)!r} holds no prompt; name the column 'prompt' or put one on a line")
    return prompts


def _from_line(line: str, number: int, path: Path) -> Any:
    try:
        return _from_row(json.loads(line))
    except json.JSONDecodeError as error:
        raise InputError(f"line {number} of prompts file {str(path)!r} is no valid JSON ({error.msg}); mend it there") from error


def _from_table(text: str, delimiter: str, path: Path) -> list[Any]:
    import io

    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    if not rows:
        return []
    head = [c.strip().lower() for c in rows[0]]
    column = next((head.index(k) for k in _KEYS if k in head), None)
    if column is None:
        if len(head) > 1:
            raise InputError(f"prompts file {str(path)!r} has no prompt column among {', '.join(head)}; name it 'prompt'")
        return [row[0] for row in rows if row]  # one column and no head
    return [row[column] for row in rows[1:] if len(row) > column]


def _from_row(row: Any) -> Any:
    return next((row[k] for k in _KEYS if row.get(k)), None) if isinstance(row, dict) else row
