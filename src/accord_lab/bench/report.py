"""What the pages of benches are made of: Markdown tables with intervals, plots, labelled sheets, the device stamp."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from accord.diffusion.pipelines import device_name
from accord.reports.pictures import in_a_row, labelled_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def stamp(device: str) -> dict[str, Any]:
    """What times were taken on."""
    return {"torch": torch.__version__, "device": device_name(device), "threads": torch.get_num_threads()}


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


def figure_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def sheet_rows(rows: Mapping[str, Sequence[Image.Image]], labels: Sequence[str]) -> list[Image.Image]:
    """A row of pictures under the name of each; the pictures of the first also have the labels of the columns."""
    return [labelled_row(images, [] if i else labels, name) for i, (name, images) in enumerate(rows.items())]


def sheet(rows: Mapping[str, Sequence[Image.Image]], labels: Sequence[str]) -> Image.Image:
    """The rows of `sheet_rows` one below the other."""
    return in_a_row(sheet_rows(rows, labels), across=False)
