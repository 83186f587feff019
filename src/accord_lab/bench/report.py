"""What the pages of benches are made of: Markdown tables with intervals, plots, labelled sheets, the device stamp."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from accord.diffusion.pipelines import device_name
from accord.reports.pictures import in_a_row, labelled_row
from accord.reports.tables import percent as percent
from accord.reports.tables import table as table
from accord.reports.tables import within as within

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def stamp(device: str) -> dict[str, Any]:
    """What times were taken on."""
    return {"torch": torch.__version__, "device": device_name(device), "threads": torch.get_num_threads()}


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
