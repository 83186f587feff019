"""Pictures as a judge takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from accord.data.images import fit, to_tensor
from accord.evaluation.registry import Judged, Record

Ask = Callable[[Sequence[Record], torch.Tensor], Sequence[Judged]]  # of records and their pictures [B,3,H,W] in 0..1


def judged_by_size(records: Sequence[Record], images: Sequence[Image.Image], judge: Any, ask: Ask) -> list[Judged]:
    """What is asked of each picture. RGB pictures of any size become batches: of one side for a judge that has an
    `image_size`; for one that takes them as they are (`any_size`) those of one size together.
    """
    side = None if getattr(judge, "any_size", False) else getattr(judge, "image_size", None)
    sizes = [(image.height, image.width) if side is None else (side, side) for image in images]
    out: dict[int, Judged] = {}
    for size in dict.fromkeys(sizes):
        rows = [i for i, own in enumerate(sizes) if own == size]
        pixels = torch.cat([fit(to_tensor(images[i]), size) for i in rows])
        out |= zip(rows, ask([records[i] for i in rows], pixels), strict=True)
    return [out[i] for i in range(len(records))]
