"""What chat models see of a picture, with gradients: the preprocessing of transformers' image processors, written
differentiably.

The values are the processor's own. The gradient is that of the same steps on floats: resize with Pillow's filters, cut
into tiles or patches, normalise. They differ by rounding, and where Pillow clips what overshoots; that it is no more is
checked each time.

Letters in shapes: I pictures, H, W their size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from accord.types import InputError

LEVELS = 2.0  # of 255: how far values may be from the processor's on average; it rounds after each pass of a resize
BILINEAR, BICUBIC, LANCZOS = 2, 3, 1  # as Pillow numbers its filters
Size = tuple[int, int]


def follow(processor: Any, images: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """`values`, with the gradient that pictures have in them.

    Args:
        processor: an image processor that `is_known`.
        images: [I,3,H,W] in 0..1.
        values: what it made of them, of any shape.

    Raises:
        InputError: if the differentiable steps give something else than the processor.
    """
    own = KNOWN[type(processor).__name__](processor, images).to(values.device)
    std = min(processor.image_std) if processor.do_normalize else 1.0
    if own.shape != values.shape or float((own - values).detach().abs().mean()) * std * 255 > LEVELS:
        raise InputError(
            f"the pictures are prepared by {type(processor).__name__} in a way that has no gradient here; use another "
            "judge, or a reward without gradients"
        )
    return values + (own - own.detach())


def is_known(processor: Any) -> bool:
    """Whether the steps of an image processor are written here."""
    whole = processor.do_rescale and math.isclose(processor.rescale_factor, 1 / 255)
    return bool(type(processor).__name__ in KNOWN and whole and int(processor.resample) in (BILINEAR, BICUBIC, LANCZOS))


# steps that processors share ----------------------------------------------------------------------------------------
def resized(images: torch.Tensor, size: Size, resample: int) -> torch.Tensor:
    """Pictures [I,3,H,W] in 0..1 at another size, as Pillow scales them: first across, then down, clipped each time.
    (Pillow 13 goes down first where that is less work, which clips other pixels.)
    """
    height, width = size
    if resample == LANCZOS:
        across = (images @ _lanczos(images.shape[-1], width).to(images).T).clamp(0, 1)
        return (_lanczos(images.shape[-2], height).to(images) @ across).clamp(0, 1)
    mode = {BILINEAR: "bilinear", BICUBIC: "bicubic"}[resample]
    across = F.interpolate(images, (images.shape[-2], width), mode=mode, antialias=True).clamp(0, 1)
    return F.interpolate(across, (height, width), mode=mode, antialias=True).clamp(0, 1)


def _lanczos(old: int, new: int) -> torch.Tensor:
    """Weights [new, old] of Pillow's Lanczos filter, which torch has on a CPU alone."""
    scale = old / new
    wide = max(scale, 1.0)
    centres = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * scale
    x = (torch.arange(old, dtype=torch.float64)[None] + 0.5 - centres) / wide
    weights = torch.sinc(x) * torch.sinc(x / 3) * (x.abs() < 3)
    return weights / weights.sum(-1, keepdim=True)


def _normalised(processor: Any, images: torch.Tensor) -> torch.Tensor:
    if not processor.do_normalize:
        return images
    mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (processor.image_mean, processor.image_std))
    return (images - mean) / std


# processors ---------------------------------------------------------------------------------------------------------
def _squares(processor: Any, images: torch.Tensor) -> torch.Tensor:
    """SigLIP's and CLIP's, so PaliGemma's and LLaVA's: one size, or the shorter side of one and the middle cut out."""
    size, (height, width) = processor.size, images.shape[-2:]
    if processor.do_resize and size.get("shortest_edge"):
        short, long = size["shortest_edge"], int(size["shortest_edge"] * max(height, width) / min(height, width))
        images = resized(images, (short, long) if height <= width else (long, short), int(processor.resample))
    elif processor.do_resize:
        images = resized(images, (size["height"], size["width"]), int(processor.resample))
    if processor.do_center_crop:
        high, wide = processor.crop_size["height"], processor.crop_size["width"]
        top, left = (images.shape[-2] - high) // 2, (images.shape[-1] - wide) // 2
        images = images[..., top : top + high, left : left + wide]
    return _normalised(processor, images)


def _patches(processor: Any, images: torch.Tensor) -> torch.Tensor:
    """Qwen2-VL's, 2.5's and 3's: sides that are multiples of a patch, patches in blocks, each twice for two frames."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    side, block = processor.patch_size, processor.merge_size
    if processor.do_resize:
        least, most = processor.size["shortest_edge"], processor.size["longest_edge"]
        size = smart_resize(*images.shape[-2:], factor=side * block, min_pixels=least, max_pixels=most)
        images = resized(images, size, int(processor.resample))
    down, across = (length // (side * block) for length in images.shape[-2:])
    cut = _normalised(processor, images).reshape(len(images), 3, down, block, side, across, block, side)
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)  # picture, block down and across, patch down and across, color, pixels
    frames = cut[..., None, :, :].expand(*cut.shape[:-2], processor.temporal_patch_size, side, side)
    return frames.reshape(len(images) * down * across * block**2, -1)


def _tiles(processor: Any, images: torch.Tensor) -> torch.Tensor:
    """Idefics3's and SmolVLM's: the picture in tiles, and then the whole of it."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size

    side, resample = processor.max_image_size["longest_edge"], int(processor.resample)
    if processor.do_resize:
        size = get_resize_output_image_size(images[0], resolution_max_side=processor.size["longest_edge"])
        images = resized(images, size, resample)
    if processor.do_image_splitting:
        images = resized(images, _multiple(images.shape[-2], images.shape[-1], side), resample)
    whole = resized(images, (side, side), resample)
    parts = [whole]
    if processor.do_image_splitting and max(images.shape[-2:]) > side:
        rows = (images[..., y : y + side, :] for y in range(0, images.shape[-2], side))
        parts = [row[..., x : x + side] for row in rows for x in range(0, images.shape[-1], side)] + parts
    return _normalised(processor, torch.stack(parts, 1))


def _multiple(height: int, width: int, side: int) -> Size:
    """Sides that are multiples of a tile's, the longer one rounded up first."""

    def up(length: int) -> int:
        return math.ceil(length / side) * side

    if width >= height:
        return up(int(up(width) / (width / height))), up(width)
    return up(height), up(int(up(height) * (width / height)))


KNOWN: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "SiglipImageProcessorPil": _squares,
    "CLIPImageProcessorPil": _squares,
    "Qwen2VLImageProcessorPil": _patches,
    "Idefics3ImageProcessorPil": _tiles,
    "SmolVLMImageProcessorPil": _tiles,
}
