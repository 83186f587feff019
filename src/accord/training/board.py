"""TensorBoard scalars and image grids, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class Board:
    """Writes under `folder`; does nothing if TensorBoard is not installed.

    Args:
        step: what an earlier run wrote beyond this step is dropped.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else 0)

    def scalars(self, values: Mapping[str, float]) -> None:
        """A row with its `step`."""
        if self.writer is not None:
            for key, value in values.items():
                if key != "step":
                    self.writer.add_scalar(key, value, int(values["step"]))

    def images(self, tag: str, images: torch.Tensor, step: int) -> None:
        """Pictures [B,3,H,W] in 0..1 as one grid."""
        if self.writer is not None:
            self.writer.add_images(tag, images.detach().float().cpu().clamp(0, 1), step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
