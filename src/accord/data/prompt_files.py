"""Prompts from a text file, CSV, JSONL, or a COCO captions file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from accord.data.pairs import (
    DELIMITERS,
    LONGEST_CELL,
    NO_UTF8,
    PROMPT_KEYS,
    TOO_LONG,
    Broken,
    PairsFile,
    csv_head,
    csv_records,
    csv_rows,
    is_utf8,
    json_lines,
    lines_of,
    sayable,
)
from accord.files import budget, check_regular, parse_json, read_text
from accord.types import InputError, reason_of

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".json")
_KEYS = (*PROMPT_KEYS, "prompts", "captions", "sentence", "description")
_WHAT = "prompts file"


def read_prompts(path: str | Path, skipped: PairsFile | None = None, as_written: bool = False) -> list[str]:
    """The prompts of a file, in order, blank ones left out and line breaks in them made spaces.

    Text: one a line. CSV and TSV (a byte-order mark and quoted fields of several lines are fine): the column named
    prompt, caption or text; the only column if there is one. JSONL: that key, or plain strings. JSON: COCO captions
    (`annotations[].caption`), or a list of either.

    Args:
        skipped: broken rows are listed there, by the number of their line (text, JSONL) or row, and the others are
            read.
        as_written: line breaks and blanks in a prompt are kept.

    Raises:
        InputError: for a file that is missing, of another kind, unreadable, too large, or without a prompt; without
            `skipped` also for broken rows, of which it names the first.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"prompts file {str(path)!r} is none of {', '.join(SUFFIXES)}; convert it to one of them")
    check_regular(path, _WHAT)
    found: list[str] = []
    broken, held, most = PairsFile(), 0, budget("table")
    for number, value in _rows(path, suffix):
        if isinstance(value, Broken):
            broken.skip(number, value)
        elif len(value) > LONGEST_CELL:
            broken.skip(number, TOO_LONG)
        elif text := sayable(value if as_written and value.strip() else " ".join(value.split())):
            found.append(text)
            held += len(text) + 64  # a list of many short ones is large too
            if held > most:
                raise InputError(
                    f"prompts file {str(path)!r} holds more than {most // 2**20} MB of prompts; split it, or set "
                    "ACCORD_MAX_TABLE_MB"
                )
    if skipped is not None:
        for row in broken.skipped:
            skipped.skip(row["row"], row["reason"])
    elif broken.skipped:
        first, others = broken.skipped[0], len(broken.skipped) - 1
        unit = "line" if suffix in (".txt", ".jsonl") else "row"
        more = f", nor can {others} more" if others else ""
        raise InputError(
            f"{unit} {first['row']} of prompts file {str(path)!r} cannot be read ({first['reason']}){more}; mend it "
            "there"
        )
    if not found:
        raise InputError(f"prompts file {str(path)!r} holds no prompt; name the column 'prompt' or put one on a line")
    return found


def _rows(path: Path, suffix: str) -> Iterable[tuple[int, str]]:
    """(number, text or Broken)."""
    if suffix == ".txt":
        return enumerate((line if is_utf8(line) else Broken(NO_UTF8) for line in lines_of(path, _WHAT)), start=1)
    if suffix in (".csv", ".tsv"):
        return _from_table(path, DELIMITERS if suffix == ".csv" else "\t,;|")
    if suffix == ".jsonl":
        return ((number, _from_value(value)) for number, value in json_lines(path, _WHAT))
    text = read_text(path, _WHAT, budget("table") // 8)  # what is parsed takes several times as much
    try:
        data = parse_json(text)
    except ValueError as error:
        raise InputError(f"prompts file {str(path)!r} is no valid JSON ({reason_of(error)}); mend it there") from error
    rows = data.get("annotations") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise InputError(
            f"prompts file {str(path)!r} is neither a JSON list nor COCO captions; make it a list of prompts"
        )
    return enumerate((_from_value(row) for row in rows), start=1)


def _from_table(path: Path, delimiters: str) -> Iterator[tuple[int, str]]:
    head = csv_head(path, _WHAT, delimiters, (_KEYS,))
    if head is not None:
        column = next(k for k in _KEYS if k in head[1])
        for number, row in csv_rows(path, _WHAT, *head, frozenset((column,))):
            yield number, row if isinstance(row, Broken) else row[column]
        return
    for number, cells in enumerate(csv_records(path, _WHAT, delimiters[0]), start=1):  # one column and no head
        if isinstance(cells, Broken):
            yield number, cells
        elif number == 1 and len(cells) > 1:
            names = ", ".join(cell.strip().lower() for cell in cells)
            raise InputError(
                f"prompts file {str(path)!r} has no prompt column among {sayable(names)}; name it 'prompt'"
            )
        elif len(cells) > 1 or (delimiters[0] == "," and set(cells[0]) & set(DELIMITERS[1:])):
            raise InputError(
                f"row {number} of prompts file {str(path)!r} may be several cells, and there is no head that tells; "
                "name the column 'prompt' "
                "in a first line and put such prompts in quotes, or save them as .txt"
            )
        else:
            yield number, cells[0] if is_utf8(cells[0]) else Broken(NO_UTF8)


def _from_value(value: Any) -> str:
    """The prompt of a JSON value, "" for a blank one, or Broken."""
    if isinstance(value, dict):
        keys = [k for k in _KEYS if k in value]
        if not keys:
            return Broken("no prompt")
        value = next((value[k] for k in keys if value[k]), None) or ""
        return value if isinstance(value, str) else Broken("its prompt is no text")
    return value if isinstance(value, str) else Broken("neither a text nor a JSON object")
