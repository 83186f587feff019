"""TensorBoard scalars and image grids, where it is installed.

Its own writer puts the machine's name into the name of the file.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from accord.data.images import to_pil
from accord.reports.pictures import in_a_row, labelled_row, png

ACROSS = 8  # pictures in a row of a grid


class TensorBoardLogger:
    """Writes under `folder`; does nothing if TensorBoard is not installed.

    Args:
        step: what an earlier run wrote beyond this step is dropped.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.file: Any = None
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.event, self.summary = event_pb2, summary_pb2
        path = folder / f"events.out.tfevents.{int(time.time()):010d}.{os.getpid()}"
        self.file = open(path, "ab")  # noqa: SIM115 (until `close`)
        self.writer = RecordWriter(self.file)
        self._write(file_version="brain.Event:2")
        if step:  # what is there from the next step on is of a run that was killed
            self._write(step + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def _write(self, step: int = 0, **what: Any) -> None:
        with contextlib.suppress(OSError):  # on a full disk the run goes on: its numbers are in the curve, too
            self.writer.write(self.event.Event(wall_time=time.time(), step=step, **what).SerializeToString())
            self.writer.flush()

    def scalars(self, values: Mapping[str, float]) -> None:
        """A row with its `step`."""
        if self.file is not None:
            rows = [self.summary.Summary.Value(tag=k, simple_value=float(v)) for k, v in values.items() if k != "step"]
            self._write(int(values["step"]), summary=self.summary.Summary(value=rows))

    def images(self, tag: str, images: torch.Tensor, step: int, labels: Sequence[str] = ()) -> None:
        """Pictures [B,3,H,W] in 0..1 as one grid, each under its label, if there are any."""
        if self.file is not None:
            pictures = to_pil(images.detach().float())
            parts = [slice(i, i + ACROSS) for i in range(0, len(pictures), ACROSS)]
            rows = [labelled_row(pictures[p], labels[p]) if labels else in_a_row(pictures[p]) for p in parts]
            grid = in_a_row(rows, across=False)
            shown = self.summary.Summary.Image(
                height=grid.height, width=grid.width, colorspace=3, encoded_image_string=png(grid)
            )
            self._write(step, summary=self.summary.Summary(value=[self.summary.Summary.Value(tag=tag, image=shown)]))

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
