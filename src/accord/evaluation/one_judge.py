"""Suites in which one judge looks at the pictures of any prompts file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from accord.data.pairs import PairsFile
from accord.evaluation.pixels import judged_by_size
from accord.evaluation.prompts import prompt_records
from accord.evaluation.registry import Judged, Record, Suite


class OneJudge(Suite):
    """A suite that has one judge, and asks it about batches of pictures.

    Attributes:
        judging: the judge, whose side the pictures get.
    """

    judging: Any

    @classmethod
    def records(cls, path: Path | None, skipped: PairsFile) -> list[Record]:
        return prompt_records(path, skipped)

    def judge(self, records: Sequence[Record], images: Sequence[Image.Image]) -> list[Judged]:
        return judged_by_size(records, images, self.judging, self.asked)

    @abstractmethod
    def asked(self, records: Sequence[Record], pixels: torch.Tensor) -> list[Judged]:
        """What the judge finds in pictures [B,3,H,W] in 0..1, one a record."""
