"""Tables for people: Markdown, and columns in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], rule: str = "---") -> str:
    """A Markdown table, without a line break at its end."""
    lines = ["| " + " | ".join(str(cell) for cell in line) + " |" for line in (head, *rows)]
    return "\n".join([lines[0], "|" + f"{rule}|" * len(head), *lines[1:]])


def percent(share: float | None) -> str:
    """In %, to a tenth; "-" for None."""
    return "-" if share is None else f"{100 * share:.1f}"


def within(value: float, ci95: Sequence[float], form: str = ".1f", times: float = 1, unit: str = "") -> str:
    """A value and its interval, as "+1.0 [-0.5, +2.5]"; `unit` follows the value."""
    low, high = ci95
    return f"{times * value:{form}}{unit} [{times * low:{form}}, {times * high:{form}}]"


def duration(seconds: float) -> str:
    """A time in two digits, which is what a clock that ran once is good for: "4.2 ms", "0.31 s", "12 s"."""
    value, unit = (1000 * seconds, "ms") if seconds < 0.0995 else (seconds, "s")
    digits = 0 if value >= 9.95 else 1 if value >= 0.995 else 2
    return f"{value:.{digits}f} {unit}"


def aligned(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The same for a terminal: columns side by side, texts to the left and all else to the right."""
    lines = [[str(cell) for cell in line] for line in (head, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    shown = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in shown)
