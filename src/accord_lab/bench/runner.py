"""The spine of every bench: cells that are measured, kept, shared out, and rendered as one table.

A bench is a subclass of `Bench` with a name, plans, the cells of its table, how one is measured, and how the rows
become JSON and a page. Whatever takes long is kept under `.cache` beside the table, in a folder that belongs to the
very models and knobs it was made with. Long tables are made in several goes: their rows are in the table itself, where
the table or the row says what it was `made_with`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from tqdm.auto import tqdm

from accord.data.shards import share_of
from accord.files import check_writable, only_writer, write_file
from accord.training.fingerprint import fingerprint
from accord.types import InputError

Cell = TypeVar("Cell")
Row = TypeVar("Row")


def bench_named(name: str) -> type[Bench[Any, Any]]:
    """The bench of that name: `speed-large` is the class `SpeedLarge` of the module `speed_large`."""
    module = importlib.import_module(f"accord_lab.bench.{name.replace('-', '_')}")
    found: type[Bench[Any, Any]] = getattr(module, name.title().replace("-", ""))
    return found


@dataclass(kw_only=True)
class Bench(ABC, Generic[Cell, Row]):
    """One table: `Kernel(out=folder, quick=True).run()`.

    Attributes:
        out: folder of the table.
        quick: the small plan, whose files are `NAME-quick.*`.
        progress: whether bars are shown.
        plan: how much is done; one of `plans` if None.
    """

    name: ClassVar[str]
    plans: ClassVar[tuple[Any, ...]] = (None, None)  # full and quick
    keeps: ClassVar[bool] = False  # whether what is measured is kept, so that shards make sense
    each: ClassVar[bool] = False  # whether the table so far is written after each cell
    indent: ClassVar[int | None] = 1  # of the JSON

    out: Path
    quick: bool = False
    progress: bool = True
    plan: Any = None

    def __post_init__(self) -> None:
        if self.plan is None:
            self.plan = self.plans[self.quick]

    @property
    def stem(self) -> str:
        return f"{self.name}-quick" if self.quick else self.name

    # --- what a bench says of itself ----------------------------------------------------------------------------------
    def cells(self) -> Sequence[Cell]:
        """What is measured, in the order of the table; shards share them out. By default the plan is the one cell."""
        return [self.plan]

    @abstractmethod
    def measure(self, cell: Cell) -> Row:
        """The row of a cell; what of it is kept is not made again."""

    def finished(self, cell: Cell) -> Row | None:
        """What is kept of a cell, for `so_far`; None if there is nothing."""
        return None

    def missing(self, rows: Sequence[Row]) -> str:
        """What keeps rows from being a table, as "no row is finished yet"; nothing if they are one."""
        return "" if rows else "no row is finished yet"

    def results(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The JSON of the table after its name and whether it is quick: the rows; a bench of one cell gives its row."""
        return dict(rows[0]) if type(self).cells is Bench.cells else {"rows": list(rows)}  # type: ignore[call-overload]

    @staticmethod
    @abstractmethod
    def render(data: dict[str, Any]) -> str:
        """The JSON as Markdown."""

    def pictures(self, data: dict[str, Any]) -> dict[str, bytes]:
        """Further files: what follows the stem, such as ".png" -> content."""
        return {}

    # --- running ------------------------------------------------------------------------------------------------------
    def run(self, shard: tuple[int, int] | None = None, so_far: bool = False) -> tuple[dict[str, Any], str]:
        """Measure all cells and write the table.

        Args:
            shard: (i, n): only every n-th cell from the i-th on, into the cache alone; a run without it takes them from
                there.
            so_far: nothing is measured; the table of what is finished.

        Returns:
            the JSON and the Markdown.

        Raises:
            InputError: for a folder that cannot be written or is written to by another, for both `shard` and `so_far`,
                or if what is finished makes no table yet.
        """
        if so_far and shard is not None:
            raise InputError("`shard` is not used with `so_far`; leave it out")
        if shard is not None and not self.keeps:
            raise InputError(f"the bench {self.name} keeps nothing between runs; run it without `shard`")
        if so_far and type(self).finished is Bench.finished:
            raise InputError(f"the bench {self.name} shows nothing before it is whole; run it without `so_far`")
        with self._writing(shard):
            cells = self.cells()
            if so_far:
                return self.write(self._finished(cells))
            if shard is not None:
                share = share_of(cells, shard)
                for cell in self._bar(share):
                    self.measure(cell)
                about = {"bench": self.name, "shard": list(shard), "cells": len(share)}
                return about, f"{len(share)} of {len(cells)} cells are in {self.out / '.cache'}"
            rows: list[Row] = []
            for cell in self._bar(cells):
                before = self.finished(cell) if self.each else None
                rows.append(self.measure(cell))
                if self.each and rows[-1] != before:
                    so_far_rows = [*rows, *self._finished(cells[len(rows) :], check=False)]
                    if not self.missing(so_far_rows):
                        self.write(so_far_rows)
            return self.write(rows)

    def write(self, rows: Sequence[Row]) -> tuple[dict[str, Any], str]:
        """The table of these rows, in all forms."""
        data = {"bench": self.name, "quick": self.quick, **self.results(rows)}
        text = self.render(data)
        files = {".json": json_bytes(data, self.indent), ".md": text.encode(), **self.pictures(data)}
        for suffix, content in files.items():
            write_file(self.out / f"{self.stem}{suffix}", content)
        return data, text

    def _finished(self, cells: Sequence[Cell], check: bool = True) -> list[Row]:
        rows = [row for row in map(self.finished, cells) if row is not None]
        if check and (what := self.missing(rows)):
            raise InputError(f"{what}; run it without `so_far`")
        return rows

    def _bar(self, cells: Sequence[Cell]) -> Iterable[Cell]:
        # drawn once a cell is done: what is refused at the first (a model that is none) is one line
        return tqdm(cells, desc=self.name, disable=not self.progress, delay=1e-3)

    @contextlib.contextmanager
    def _writing(self, shard: tuple[int, int] | None) -> Iterator[None]:
        """Be the only one who makes this table, or this share of it. A bench that is refused leaves no empty folder of
        results behind.
        """
        share = f"-shard-{shard[0]}-of-{shard[1]}" if shard else ""
        with only_writer(check_writable(self.out), self.name + share):
            cache = self.out / ".cache"
            before = {cache, *cache.glob("*")} if cache.exists() else set()
            try:
                yield
            except InputError:
                for folder in (*cache.glob("*"), cache):
                    if folder not in before:
                        with contextlib.suppress(OSError):
                            folder.rmdir()
                raise


# --- what is kept -----------------------------------------------------------------------------------------------------
def cache_folder(out: Path, name: str, *parts: Any) -> Path:
    """`out/.cache/<name>-<fingerprint>`, made: results of other weights or knobs are never taken for these."""
    folder = out / ".cache" / f"{name}-{fingerprint(*parts)}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def slug(name: str) -> str:
    """A row's name as a file's."""
    return name.replace(", ", "-").replace(" ", "-")


def json_bytes(data: Any, indent: int | None = None) -> bytes:
    return (json.dumps(data, indent=indent) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    return found


def kept(path: Path, make: Callable[[], dict[str, Any]] | None = None) -> dict[str, Any] | None:
    """The JSON that is kept in a file, made and kept now if it is not there; None if it cannot be made."""
    if not path.is_file():
        if make is None:
            return None
        write_file(path, json_bytes(make()))
    return read_json(path)


def known_rows(table: Path, *names: str) -> list[dict[str, Any]]:
    """Rows of an existing table that were made with one of these (the name of a cache, as a rule)."""
    data = read_json(table) if table.is_file() else {}
    return [r for r in data.get("rows", []) if r.get("made_with", data.get("made_with")) in names]


def at_least_one(**numbers: int | None) -> None:
    """Refuse a number below 1; None is the plan's.

    Raises:
        InputError: naming it.
    """
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise InputError(f"{name} must be at least 1, not {number}")
