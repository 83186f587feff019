"""Pairs of picture and prompt from CSV, JSONL or Parquet, broken rows set aside and not lost; results back out.

Tables are read row by row. Lines end with LF, CRLF or CR, and with nothing else.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accord.data.extras import need
from accord.files import budget, check_regular, parse_json, reason
from accord.types import InputError, Pair, reason_of

IMAGE_KEYS = ("image", "image_path", "path", "file", "file_name", "filename")
PROMPT_KEYS = ("prompt", "caption", "text")
SUFFIXES = (".csv", ".jsonl", ".parquet")
LONGEST_CELL = 100_000  # characters of a picture's name or a prompt
SHOWN = 100  # characters of a broken row that are listed
LONGEST_LINE = 2**23  # characters of a line, or of a CSV record
MOST_BROKEN = 1_000_000  # rows that may be broken, each of which is listed
TOO_LONG = f"a cell is longer than {LONGEST_CELL:,} characters"
NO_UTF8 = "it is no UTF-8"
WITHIN = "its picture is within the table; save it as a file, and name that"
_READ_AGAIN = 20_000_000  # characters that may be read again after unclosed quotes, some seconds' work
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8, as "surrogateescape" gives them
DELIMITERS = ",;\t|"  # of a .csv, as its head tells; a comma where it tells none
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass
class PairsFile:
    """The rows of a pairs file: good ones, and why each broken one was skipped."""

    pairs: list[Pair] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def skip(self, row: int, reason: str, text: str = "") -> None:
        """List a broken row, and the beginning of what it says if that is known.

        Raises:
            InputError: for the one after MOST_BROKEN.
        """
        if len(self.skipped) >= MOST_BROKEN:
            raise InputError(
                f"more than {MOST_BROKEN:,} rows of the pairs are broken, row {row} because of this: {reason}; mend "
                "the table"
            )
        said = {"text": sayable(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")} if text else {}
        self.skipped.append({"row": row, **said, "reason": reason})


def read_pairs(path: str | Path, seeds: bool = False) -> PairsFile:
    """Read a pairs file whole; picture paths are relative to its folder.

    Args:
        seeds: whether the column `seed` is read; a seed that is no whole number is none.

    Raises:
        InputError: as `pairs_of`, and for more text than ACCORD_MAX_TABLE_MB.
    """
    out, held, most = PairsFile(), 0, budget("table")
    for pair in pairs_of(path, out, seeds, strict=False):
        held += len(pair.image) + len(pair.prompt)
        if held > most:
            raise InputError(
                f"pairs file {str(path)!r} holds more than {most // 2**20} MB of text; split it, or set "
                "ACCORD_MAX_TABLE_MB"
            )
        out.pairs.append(pair)
    return out


def pairs_of(path: str | Path, skipped: PairsFile, seeds: bool = False, strict: bool = True) -> Iterator[Pair]:
    """The pairs of a file while it is read; broken rows go to `skipped`.

    Columns: a picture under one of IMAGE_KEYS and a prompt under one of PROMPT_KEYS. In a CSV file commas part the
    cells; semicolons or tabs do if only so the head has these columns. A row whose number of cells is not the head's is
    broken.

    Args:
        seeds: whether the column `seed` is read.
        strict: whether a row whose seed is no whole number is broken; else it has none.

    Raises:
        InputError: for a file that is missing, of another kind, unreadable as a whole, without a usable column, or with
            two columns of one name.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"pairs file {str(path)!r} is none of {', '.join(SUFFIXES)}; convert it to one of them")
    check_regular(path, "pairs file")
    root, found, not_utf8 = os.path.realpath(path.parent), False, 0
    seen: set[str] = set()
    for number, row in _rows(path, ("seed",) if seeds else ()):
        if isinstance(row, str):
            not_utf8 = not_utf8 or (number if row == NO_UTF8 else 0)
            skipped.skip(number, row)
            continue
        image, prompt = _first(row, IMAGE_KEYS), _first(row, PROMPT_KEYS)
        why = "" if isinstance(image, str) and image.strip() and can_be_a_file(image) else "no image"
        if isinstance(image, dict) and image.get("bytes"):  # as the hub's own tables hold pictures
            why = WITHIN
        if why and row.get("status") == "skipped" and isinstance(row.get("reason"), str):  # of a run's manifest
            why = row["reason"]
        why = why or no_prompt(prompt) or (TOO_LONG if len(image) > LONGEST_CELL else "")
        seed = whole_number(row.get("seed"), "seed", 0) if seeds else None
        if isinstance(seed, Broken) and not strict:
            seed = None
        why = why or (str(seed) if isinstance(seed, Broken) else "")
        if why:
            seen |= row.keys() & _KNOWN
            skipped.skip(number, why)
            continue
        found = True
        folder, slash, name = image.rpartition("/")
        yield Pair(f"{_real(root, folder + slash)}/{name}", sayable(prompt.strip()), number, sayable(image), seed)
    if found:
        return
    if path.suffix.lower() == ".jsonl" and not (seen & set(IMAGE_KEYS) and seen & set(PROMPT_KEYS)):
        raise _no_columns(path)
    if not_utf8:
        raise InputError(
            f"pairs file {str(path)!r} cannot be read (row {not_utf8} is no UTF-8); save it again as UTF-8"
        )


_KNOWN = frozenset((*IMAGE_KEYS, *PROMPT_KEYS))


def _first(row: dict[str, Any], keys: Sequence[str]) -> Any:
    """The first value under one of the keys that is something."""
    for key in keys:
        if value := row.get(key):
            return value
    return None


@functools.lru_cache(4096)
def _real(root: str, folder: str) -> str:
    """A folder that a table names, found once for all pictures in it."""
    return os.path.realpath(os.path.join(root, folder))


def _no_columns(path: Path) -> InputError:
    return InputError(
        f"pairs file {str(path)!r} has no image and prompt columns; name them 'image' and 'prompt', in UTF-8"
    )


def no_prompt(value: Any) -> str:
    """Why a value of a table cannot be a prompt; "" if it can."""
    if not isinstance(value, str) or not value.strip():
        return "no prompt"
    return TOO_LONG if len(value) > LONGEST_CELL else ""


def whole_number(value: Any, name: str, least: int) -> Any:
    """A cell as a whole number, None where it is blank, or Broken."""
    text = str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    if value is None or (not text and isinstance(value, str)) or (isinstance(value, float) and math.isnan(value)):
        return None
    if re.fullmatch(r"\d{1,19}(\.0*)?", text) and least <= (number := int(text.partition(".")[0])) < 2**63:
        return number
    return Broken(f"its {name} {str(value)[:40]!r} is no whole number of at least {least}")


def _rows(path: Path, extras: tuple[str, ...] = ()) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(1-based row number, row or why it is broken)."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        head = csv_head(path, "pairs file", DELIMITERS, (IMAGE_KEYS, PROMPT_KEYS))
        if head is None:
            raise _no_columns(path)
        yield from csv_rows(path, "pairs file", *head, _KNOWN | set(extras))
    elif suffix == ".jsonl":
        for number, value in json_lines(path, "pairs file"):
            yield (
                number,
                value
                if isinstance(value, dict) or (isinstance(value, Broken) and value != NO_UTF8)
                else Broken("not a JSON object"),
            )
    else:
        names = parquet_columns(path, "pairs file")
        if not (_KNOWN.intersection(IMAGE_KEYS, names) and _KNOWN.intersection(PROMPT_KEYS, names)):
            raise _no_columns(path)
        more = [name for name in extras if name in names]
        used = [name for name in (*IMAGE_KEYS, *PROMPT_KEYS) if name in names]
        yield from enumerate(parquet_rows(path, "pairs file", [*used, *more], more), start=1)


# --- lines ----------------------------------------------------------------------------------------------------------
class Broken(str):
    """Why a row is broken; `text` is the beginning of what stands in it."""

    text: str

    def __new__(cls, reason: str, text: str = "") -> Broken:
        made = super().__new__(cls, reason)
        made.text = " ".join(text[: 2 * SHOWN].split())
        return made


def lines_of(path: Path, what: str) -> Iterator[str]:
    """The lines of a text, ends included (LF, CRLF or CR). Bytes that are no UTF-8 are escaped as lone surrogates; of a
    line that is longer than LONGEST_LINE one character more than that is given.

    Raises:
        InputError: for a file that cannot be read.
    """
    try:
        with open(check_regular(path, what), newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            while line := file.readline(LONGEST_LINE + 1):
                rest = line
                while len(rest) > LONGEST_LINE and not rest.endswith(("\n", "\r")):
                    rest = file.readline(LONGEST_LINE + 1)
                yield line
    except OSError as error:
        raise InputError(
            f"{what} {str(path)!r} cannot be read ({reason(error)}); check the path and its rights"
        ) from error


def is_utf8(text: str) -> bool:
    """Whether all bytes of a text that `lines_of` gave were UTF-8."""
    return text.isascii() or not _ESCAPED.search(text)


def json_lines(path: Path, what: str) -> Iterator[tuple[int, Any]]:
    """(number of the line, its value or Broken) of a JSONL file, blank lines left out.

    Raises:
        InputError: as `lines_of`.
    """
    for number, line in enumerate(lines_of(path, what), start=1):
        if len(line) > LONGEST_LINE:
            yield number, Broken(f"it is longer than {LONGEST_LINE:,} characters", line)
        elif not is_utf8(line):
            yield number, Broken(NO_UTF8, line)
        elif text := line.strip("\ufeff \t\r\n"):  # files that were put together have byte-order marks within
            try:
                value = parse_json(text)
            except json.JSONDecodeError:
                value = Broken("not a JSON object", text)
            except ValueError as error:
                value = Broken(reason_of(error), text)
            yield number, value


# --- CSV ------------------------------------------------------------------------------------------------------------
def csv_records(path: Path, what: str, delimiter: str) -> Iterator[list[str] | Broken]:
    """The records of a CSV file. A malformed one, an unclosed quote say, costs itself alone: reading goes on with the
    next line.

    Raises:
        InputError: as `lines_of`, and for so many unclosed quotes that reading on would take for ever.
    """
    lines = lines_of(path, what)
    record: list[str] = []  # the lines of the one that is being read
    waiting: deque[str] = deque()  # those of a broken one, which are read again
    again = 0

    def feed() -> Iterator[str]:
        length = 0
        while (line := waiting.popleft() if waiting else next(lines, None)) is not None:
            length = length + len(line) if record else len(line)
            record.append(line)
            if length > LONGEST_LINE:
                raise csv.Error("field larger than the limit")
            yield line

    reader = csv.reader(feed(), delimiter=delimiter, strict=True)
    while True:
        record.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Broken(
                "a cell is too long"
                if "larger" in str(error)
                else "a quote is not closed, or text follows a closing one",
                record[0],
            )
            waiting.extendleft(reversed(record[1:]))
            again += sum(map(len, record[1:]))
            if again > _READ_AGAIN:
                raise InputError(
                    f"{what} {str(path)!r} has too many quotes that are not closed; save it again as CSV"
                ) from error
            reader = csv.reader(feed(), delimiter=delimiter, strict=True)
            continue
        if cells:
            yield cells


def csv_head(path: Path, what: str, delimiters: str, needs: Sequence[Sequence[str]]) -> tuple[str, list[str]] | None:
    """The first delimiter with which the head has a column of each group of names, and that head; None if there is
    none.

    Raises:
        InputError: as `csv_records`, and for two columns of one of these names.
    """
    for delimiter in delimiters:
        first = next(csv_records(path, what, delimiter), [])
        head = [] if isinstance(first, Broken) else [cell.strip().lower() for cell in first]
        if all(set(group) & set(head) for group in needs):
            check_single(path, what, head, [name for group in needs for name in group])
            return delimiter, head
    return None


def check_single(path: Path, what: str, names: Sequence[str], used: Sequence[str]) -> None:
    """Refuse a table in which two columns have one of the names that are used."""
    double = next((name for name in used if names.count(name) > 1), None)
    if double is not None:
        raise InputError(f"{what} {str(path)!r} has two columns {double!r}; take one out, or name it otherwise")


def csv_rows(
    path: Path, what: str, delimiter: str, head: Sequence[str], used: frozenset[str]
) -> Iterator[tuple[int, dict[str, Any] | Broken]]:
    """(1-based number, the cells of the columns that are used, or Broken) of the records after the head."""
    records = csv_records(path, what, delimiter)
    next(records, None)
    columns = [(i, name) for i, name in enumerate(head) if name in used]
    for number, cells in enumerate(records, start=1):
        if isinstance(cells, Broken):
            yield number, cells
        elif len(cells) != len(head):
            yield number, Broken(f"{len(cells)} cells where the head has {len(head)}", delimiter.join(cells))
        else:
            row = {name: cells[i] for i, name in columns}
            yield number, row if is_utf8("".join(row.values())) else Broken(NO_UTF8, delimiter.join(row.values()))


# --- Parquet --------------------------------------------------------------------------------------------------------
_BATCH = 1024  # rows
_PLAIN = 2**16  # bytes of the longest text of a row group up to which a batch of plain texts is small


def parquet_columns(path: Path, what: str) -> list[str]:
    """Names of a Parquet file's columns.

    Raises:
        InputError: for a file that cannot be read.
    """
    check_regular(path, what)
    _, pq = need_parquet()
    try:
        return [str(name) for name in pq.read_schema(path).names]
    except Exception as error:  # the library raises whatever a damaged file leads it to
        raise _damaged(path, what, error) from error


def _damaged(path: Path, what: str, error: Exception) -> InputError:
    return InputError(f"{what} {str(path)!r} cannot be read ({reason(error)}); save it again")


def parquet_rows(
    path: Path, what: str, columns: Sequence[str], fractions: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file, some at once; a text is a str, an integer an int, a number of one of the columns
    `fractions` a float.

    What is neither is not read, a date out of range say: it is None, and a picture within the table a dict. So is a
    text that is no UTF-8 None. Texts that are the same object in the file are one here.

    Raises:
        InputError: for a file that is damaged, has two columns of one of these names, or row groups of more than
            ACCORD_MAX_TABLE_MB.
    """
    check_regular(path, what)
    pa, pq = need_parquet()
    try:
        with pq.ParquetFile(path, buffer_size=2**20) as plain:
            schema, about = plain.schema_arrow, plain.metadata
            check_single(path, what, schema.names, columns)
            kinds = {name: _kind(pa.types, schema.field(name).type) for name in columns}
            texts = [name for name in columns if kinds[name] == "text"]
            kinds |= {name: "number" for name in fractions if pa.types.is_floating(schema.field(name).type)}
            read = [name for name in columns if kinds[name] in ("text", "number")]
            blank = {
                name: {"bytes": WITHIN} if kinds[name] == "picture" else None for name in columns if name not in read
            }
            if any(
                name in IMAGE_KEYS for name in texts
            ):  # a name in another column is better than a picture within the table
                blank = dict.fromkeys(blank)
            if not read:
                yield from (dict(blank) for _ in range(about.num_rows))
                return
            with pq.ParquetFile(path, buffer_size=2**20, read_dictionary=texts) as coded:
                for group in range(about.num_row_groups):
                    _check_group(path, what, about.row_group(group))
                    kwargs = {"row_groups": [group], "columns": read, "use_threads": False}
                    first = next(coded.iter_batches(batch_size=1, **kwargs), None)
                    file = (
                        plain if first is None or all(_longest(column) <= _PLAIN for column in first.columns) else coded
                    )
                    for batch in file.iter_batches(batch_size=_BATCH, **kwargs):
                        values = [_values(column) for column in batch.columns]
                        names = batch.schema.names
                        yield from (
                            {**blank, **dict(zip(names, row, strict=True))} for row in zip(*values, strict=True)
                        )
    except InputError:
        raise
    except Exception as error:
        raise _damaged(path, what, error) from error


def _kind(types: Any, kind: Any) -> str:
    """Which kind a value is: "text", "number", "picture" (as the hub's own tables hold them) or "other"."""
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or str(kind) == "string_view":
        return "text"
    if types.is_integer(kind):
        return "number"
    return "picture" if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else "other"


def _check_group(path: Path, what: str, group: Any) -> None:
    """Refuse a row group that is too large.

    Its columns' own sizes are not asked for: of a damaged file the library ends the process.
    """
    most = budget("table")
    if group.total_byte_size > most:
        raise InputError(
            f"{what} {str(path)!r} has row groups of more than {most // 2**20} MB; write it with smaller ones, or set "
            "ACCORD_MAX_TABLE_MB"
        )


def _longest(column: Any) -> int:
    """Bytes of the longest text that a dictionary column may stand for."""
    import pyarrow.compute as pc

    return (pc.max(pc.binary_length(column.dictionary)).as_py() or 0) if hasattr(column, "dictionary") else 0


def _values(column: Any) -> list[Any]:
    """The values of a column; a text that is too long for a cell is only named as such."""
    import pyarrow.compute as pc

    if not hasattr(column, "dictionary"):
        if hasattr(column, "buffers") and str(column.type) in ("string", "large_string"):
            lengths = pc.max(pc.binary_length(column)).as_py() or 0
            if lengths > 4 * LONGEST_CELL:
                column = pc.if_else(
                    pc.greater(pc.binary_length(column), 4 * LONGEST_CELL), "x" * (LONGEST_CELL + 1), column
                )
        return _texts(column)
    used = pc.unique(column.indices.drop_null())
    numbers = used.to_pylist()
    known = dict(zip(numbers, _values(column.dictionary.take(used)), strict=True))
    return [None if i is None else known[i] for i in column.indices.to_pylist()]


def _texts(column: Any) -> list[Any]:
    """The values of a plain column; None for what is no UTF-8."""
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


# --- out ------------------------------------------------------------------------------------------------------------
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
    """Rows as CSV, JSONL or Parquet; what is no number or text is JSON in CSV and in Parquet.

    `accord.data.typed` writes Parquet with proper types.

    In CSV a text that begins with = + - @ tab or CR gets an apostrophe before it: a spreadsheet would run it as a
    formula. Numbers stay numbers. JSONL and Parquet hold every text as it is.

    Raises:
        InputError: for another suffix.
    """

    if suffix == ".jsonl":
        try:
            return "".join(json.dumps(r, allow_nan=False) + "\n" for r in rows).encode()
        except ValueError as error:
            raise InputError(
                "a row holds a number that is not finite, which JSON has no word for; look at its scores"
            ) from error
    flat = [{k: json.dumps(v) if isinstance(v, (list, dict)) else sayable(v) for k, v in r.items()} for r in rows]
    keys = list(dict.fromkeys(k for r in flat for k in r))
    if suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, keys)
        writer.writeheader()
        writer.writerows({k: _defused(v) for k, v in r.items()} for r in flat)
        return text.getvalue().encode()
    if suffix == ".parquet":
        pa, pq = need_parquet()
        buffer = io.BytesIO()
        pq.write_table(pa.table({k: [r.get(k) for r in flat] for k in keys}), buffer)
        return buffer.getvalue()
    raise InputError(f"output suffix {suffix!r} is none of {', '.join(SUFFIXES)}; choose one of them")


def _defused(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def can_be_a_file(name: str) -> bool:
    """Whether the system could have a file of that name."""
    if name.isascii():
        return "\0" not in name
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def sayable(value: Any) -> Any:
    """A text that UTF-8 can hold, with "?" for lone surrogates: file names of other bytes have them, and JSON may."""
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf8", "replace").decode("utf8")
