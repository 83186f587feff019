"""Pictures as a judge takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from accord.data.images import fit, to_tensor


def judge_pixels(images: Sequence[Image.Image], judge: Any) -> torch.Tensor:
    """RGB pictures of any size as one batch [B,3,H,W] in 0..1.

    The size is the judge's `image_size`, a side in pixels; of a judge without one, that of the first picture.
    """
    own = getattr(judge, "image_size", None)
    size = own if isinstance(own, int | tuple) else (images[0].height, images[0].width)
    return torch.cat([fit(to_tensor(image), size) for image in images])
