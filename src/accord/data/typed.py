"""Parquet with types that are said beforehand: a column of lists is a list, whatever the first rows hold.

A kind is the name of a type of Arrow ("int64", "float", which is float32, "double", "bool", "string"), a list of the
one kind of its members, or a dict of kinds: [{"text": "string", "probability": "double"}].
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accord.data.pairs import need_parquet, sayable
from accord.files import check_regular, reason, replace_file
from accord.types import InputError

Kind = Any  # str | list[Kind] | dict[str, Kind]
Kinds = Mapping[str, Kind]

_AT_ONCE = 1024  # rows of a group


def arrow_type(kind: Kind) -> Any:
    """The type of Arrow that a kind stands for."""
    pa, _ = need_parquet()
    if isinstance(kind, list):
        return pa.list_(arrow_type(kind[0]))
    if isinstance(kind, Mapping):
        return pa.struct([(name, arrow_type(of)) for name, of in kind.items()])
    return pa.type_for_alias(kind)


def write_typed(path: Path, rows: Iterable[Mapping[str, Any]], kinds: Kinds) -> int:
    """Write rows as they come, some at once; a column that a row lacks is null there. Returns how many.

    Raises:
        InputError: if the place cannot be written to, or pyarrow is not installed.
    """
    count = 0

    def write(part: Path) -> None:
        nonlocal count
        count = _write(part, rows, kinds)

    replace_file(path, write)
    return count


def typed_bytes(rows: Iterable[Mapping[str, Any]], kinds: Kinds) -> bytes:
    """The same file in memory."""
    buffer = io.BytesIO()
    _write(buffer, rows, kinds)
    return buffer.getvalue()


def _write(place: Any, rows: Iterable[Mapping[str, Any]], kinds: Kinds) -> int:
    pa, pq = need_parquet()
    schema, count, left = pa.schema([(n, arrow_type(k)) for n, k in kinds.items()]), 0, iter(rows)
    with pq.ParquetWriter(place, schema) as writer:
        while some := list(itertools.islice(left, _AT_ONCE)):
            writer.write_table(pa.Table.from_pylist([_sayable(row) for row in some], schema=schema))
            count += len(some)
    return count


def read_typed(path: Path, what: str, mend: str = "save it again") -> Iterator[dict[str, Any]]:
    """The rows of a file that `write_typed` wrote, some at once.

    Raises:
        InputError: for a file that cannot be read; `mend` says how to mend it.
    """
    check_regular(path, what)
    _, pq = need_parquet()
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_AT_ONCE):
                yield from batch.to_pylist()
    except Exception as error:  # the library raises whatever a damaged file leads it to
        raise InputError(f"{what} {str(path)!r} cannot be read ({reason(error)}); {mend}") from error


def _sayable(value: Any) -> Any:
    """The value with "?" for what UTF-8 cannot hold, however deep."""
    if isinstance(value, Mapping):
        return {name: _sayable(of) for name, of in value.items()}
    return [_sayable(of) for of in value] if isinstance(value, list | tuple) else sayable(value)
