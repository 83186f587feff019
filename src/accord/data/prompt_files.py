"""Prompts from a text, CSV, JSONL, Parquet or COCO captions file; rows may have a seed and a size of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from accord.data.pairs import (
    DELIMITERS,
    LONGEST_CELL,
    NO_UTF8,
    PROMPT_KEYS,
    TOO_LONG,
    Broken,
    PairsFile,
    check_single,
    csv_head,
    csv_records,
    csv_rows,
    is_utf8,
    json_lines,
    lines_of,
    parquet_columns,
    parquet_rows,
    sayable,
    whole_number,
)
from accord.files import budget, check_regular, parse_json, read_text
from accord.types import InputError, reason_of

T = TypeVar("T")
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet")
EXTRAS = ("seed", "width", "height", "negative_prompt")  # what a row may say beside its prompt
_KEYS = (*PROMPT_KEYS, "prompts", "captions", "sentence", "description")
_WHAT = "prompts file"


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A row of a prompts file.

    Attributes:
        number: of its line (text, JSONL) or row, from 1.
        prompt: with line breaks made spaces.
        seed, width, height, negative_prompt: its own, None where it says nothing; sizes are in pixels.
    """

    number: int
    prompt: str
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    negative_prompt: str | None = None


def read_prompts(path: str | Path, skipped: PairsFile | None = None, as_written: bool = False) -> list[str]:
    """The prompts of a file, in order, blank ones left out and line breaks in them made spaces.

    Text: one a line. CSV and TSV (a byte-order mark and quoted fields of several lines are fine) and Parquet: the
    column named prompt, caption or text; of CSV the only column if there is one. JSONL: that key, or plain strings.
    JSON: COCO captions (`annotations[].caption`), or a list of either.

    Args:
        skipped: broken rows are listed there, by the number of their line (text, JSONL) or row, and the others are
            read.
        as_written: line breaks and blanks in a prompt are kept.

    Raises:
        InputError: for a file that is missing, of another kind, unreadable, too large, or without a prompt; without
            `skipped` also for broken rows, of which it names the first.
    """
    return _read(path, skipped, as_written, (), lambda _number, text, _value: text)


def read_rows(path: str | Path, skipped: PairsFile | None = None, extras: tuple[str, ...] = EXTRAS) -> list[PromptRow]:
    """The rows of a prompts file, as `read_prompts` finds them, with what columns (or keys) named seed, width, height
    and negative_prompt say. A row in which one of these makes no sense is broken.

    Args:
        extras: which of these are looked at.

    Raises:
        InputError: as `read_prompts`.
    """

    def row_of(number: int, text: str, value: Any) -> PromptRow | Broken:
        return _row_of(number, text, {k: value.get(k) for k in extras} if isinstance(value, dict) else {})

    return _read(path, skipped, False, extras, row_of)


def coco_captions(path: str | Path) -> dict[str, str]:
    """The first caption of each picture of COCO's file of captions, by the picture's name without its suffix; nothing
    for another file.
    """
    try:
        data = _json(Path(path))
        names = {row["id"]: Path(row["file_name"]).stem for row in data["images"]}
        out: dict[str, str] = {}
        for row in data["annotations"]:
            text = " ".join(str(row["caption"]).split())
            if row["image_id"] in names and text:
                out.setdefault(names[row["image_id"]], text)
        return out
    except (KeyError, TypeError, ValueError):
        return {}


def read_paraphrases(path: str | Path, skipped: PairsFile | None = None) -> dict[str, str]:
    """Prompts and the same in other words, which a column (or key) named paraphrase has.

    Args:
        skipped: rows without a paraphrase are listed there, and the others are read.

    Raises:
        InputError: as `read_prompts`.
    """

    def row_of(_number: int, text: str, value: Any) -> tuple[str, str] | Broken:
        other = value.get("paraphrase") if isinstance(value, dict) else None
        if not isinstance(other, str) or not other.strip():
            return Broken("it has no paraphrase; put it into a column of that name", text)
        return text, sayable(" ".join(other.split()))

    return dict(_read(path, skipped, False, ("paraphrase",), row_of))


def _read(
    path: str | Path,
    skipped: PairsFile | None,
    as_written: bool,
    extras: tuple[str, ...],
    make: Callable[[int, str, Any], T | Broken],
) -> list[T]:
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"prompts file {str(path)!r} is none of {', '.join(SUFFIXES)}; convert it to one of them")
    check_regular(path, _WHAT)
    found: list[T] = []
    broken, held, most = PairsFile(), 0, budget("table")
    for number, value in _rows(path, suffix, extras):
        text = _prompt_of(value)
        if isinstance(text, Broken):
            broken.skip(number, text, text.text)
            continue
        if len(text) > LONGEST_CELL:
            broken.skip(number, TOO_LONG, text)
            continue
        text = sayable(text if as_written and text.strip() else " ".join(text.split()))
        if not text:
            continue
        made = make(number, text, value)
        if isinstance(made, Broken):
            broken.skip(number, made, text)
            continue
        found.append(made)
        held += len(text) + 64  # a list of many short ones is large too
        if held > most:
            raise InputError(
                f"prompts file {str(path)!r} holds more than {most // 2**20} MB of prompts; split it, or set "
                "ACCORD_MAX_TABLE_MB"
            )
    if skipped is not None:
        skipped.skipped += broken.skipped
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


def _rows(path: Path, suffix: str, extras: tuple[str, ...]) -> Iterable[tuple[int, Any]]:
    """(number, text, object of JSON, cells by column, or Broken)."""
    if suffix == ".txt":
        return enumerate((line if is_utf8(line) else Broken(NO_UTF8, line) for line in lines_of(path, _WHAT)), start=1)
    if suffix in (".csv", ".tsv"):
        return _from_table(path, DELIMITERS if suffix == ".csv" else "\t,;|", extras)
    if suffix == ".parquet":
        return _from_parquet(path, extras)
    if suffix == ".jsonl":
        return json_lines(path, _WHAT)
    data = _json(path)
    rows = data.get("annotations") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise InputError(
            f"prompts file {str(path)!r} is neither a JSON list nor COCO captions; make it a list of prompts"
        )
    return enumerate(rows, start=1)


def _json(path: Path) -> Any:
    text = read_text(path, _WHAT, budget("table") // 8)  # what is parsed takes several times as much
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"prompts file {str(path)!r} is no valid JSON ({reason_of(error)}); mend it there") from error


def _from_table(path: Path, delimiters: str, extras: tuple[str, ...]) -> Iterator[tuple[int, Any]]:
    head = csv_head(path, _WHAT, delimiters, (_KEYS,))
    if head is not None:
        check_single(path, _WHAT, head[1], extras)
        column = next(k for k in _KEYS if k in head[1])
        yield from csv_rows(path, _WHAT, *head, frozenset((column, *extras)))
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
            yield number, cells[0] if is_utf8(cells[0]) else Broken(NO_UTF8, cells[0])


def _from_parquet(path: Path, extras: tuple[str, ...]) -> Iterator[tuple[int, Any]]:
    names = parquet_columns(path, _WHAT)
    column = next((k for k in _KEYS if k in names), None)
    if column is None:
        raise InputError(
            f"prompts file {str(path)!r} has no prompt column among {sayable(', '.join(names))}; name it 'prompt'"
        )
    more = [name for name in extras if name in names]
    check_single(path, _WHAT, names, [column, *more])
    yield from enumerate(parquet_rows(path, _WHAT, [column, *more], more), start=1)


def _prompt_of(value: Any) -> str:
    """The prompt of a row, "" for a blank one, or Broken."""
    if isinstance(value, dict):
        keys = [k for k in _KEYS if k in value]
        if not keys:
            return Broken("no prompt", repr(value)[:1000])
        value = next((value[k] for k in keys if value[k]), None) or ""
        return value if isinstance(value, str) else Broken("its prompt is no text", repr(value)[:1000])
    return value if isinstance(value, str) else Broken("neither a text nor a JSON object", repr(value)[:1000])


def _row_of(number: int, text: str, said: dict[str, Any]) -> PromptRow | Broken:
    """A row with what it says beside its prompt, or why it cannot be used."""
    seed, width, height = (
        whole_number(said.get(name), name, least) for name, least in (("seed", 0), ("width", 1), ("height", 1))
    )
    negative = said.get("negative_prompt")
    if negative is not None and not isinstance(negative, str):
        return Broken("its negative_prompt is no text")
    if negative is not None and len(negative) > LONGEST_CELL:
        return Broken(TOO_LONG)
    for one in (seed, width, height):
        if isinstance(one, Broken):
            return one
    if (width is None) != (height is None):
        return Broken("width and height go together")
    return PromptRow(number, text, seed, width, height, sayable(" ".join(negative.split())) if negative else None)
