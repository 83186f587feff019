"""Pictures in: checked, converted, cropped."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from accord.types import InputError

MAX_PIXELS = 100_000_000


def open_image(path: str | Path) -> Image.Image:
    """A picture as RGB. The first frame of an animation is taken, transparency is laid on white, EXIF rotation applied.

    Raises:
        InputError: for a file that is missing, no picture, cut short, or larger than 100 megapixels.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise InputError(f"image {str(path)!r} does not exist; check the path")
        if path.is_dir():
            raise InputError(f"image {str(path)!r} is a folder; give a picture file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours, below
            image = Image.open(path)
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"image {str(path)!r} has {image.width}x{image.height} pixels, more than {MAX_PIXELS // 10**6} million; "
                "make it smaller"
            )
        image.load()
        return to_rgb(image)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            f"image {str(path)!r} has more than {MAX_PIXELS // 10**6} million pixels; make it smaller"
        ) from error
    except Exception as error:  # decoders and the EXIF reader raise whatever a damaged file leads them to
        raise InputError(f"image {str(path)!r} cannot be read, it is damaged or no picture; save it again") from error


class Pictures(Sequence[Image.Image]):
    """Picture files as a sequence of RGB pictures, each opened when it is asked for: none is held.

    Args:
        paths: files; what `open_image` raises of one is raised when it is asked for.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> Pictures: ...
    def __getitem__(self, index: int | slice) -> Image.Image | Pictures:
        return Pictures(self.paths[index]) if isinstance(index, slice) else open_image(self.paths[index])


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode: 16-bit and floating-point scaled, transparency laid on white, EXIF rotation applied."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        top = next((t for t in (1.0, 255.0) if values.max() <= t), 65535.0)
        return Image.fromarray((values * 255 / top).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float64)
        top = 65535 if image.mode.startswith("I;16") or values.max() > 255 else 255
        return Image.fromarray((values * 255 / top).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def to_tensor(images: list[Image.Image] | Image.Image) -> torch.Tensor:
    """PIL pictures of one size to float32 [B,3,H,W] in 0..1."""
    images = [images] if isinstance(images, Image.Image) else list(images)
    arrays = np.stack([np.asarray(i.convert("RGB")) for i in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    """[B,3,H,W] in 0..1 to PIL pictures."""
    arrays = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(a) for a in arrays]


def fit(images: torch.Tensor, side: int) -> torch.Tensor:
    """[B,3,H,W] in 0..1 scaled to side x side, as BLIP sees a picture: aspect not kept, nothing cut off (CLIP's own processor crops)."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


def crop(image: torch.Tensor, box: tuple[float, float, float, float], margin: float, side: int) -> torch.Tensor:
    """A square window around a box, scaled to [1,3,side,side].

    Args:
        image: [3,H,W].
        box: (x0, y0, x1, y1) as shares of width and height.
        margin: share of the box's longer side added all around; the window stays inside the picture.
    """
    height, width = image.shape[-2:]
    x0, y0, x1, y1 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    length = min(max(x1 - x0, y1 - y0) * (1 + 2 * margin), height, width)
    length = max(length, 4.0)
    left = min(max((x0 + x1 - length) / 2, 0), width - length)
    top = min(max((y0 + y1 - length) / 2, 0), height - length)
    rows, columns = slice(round(top), round(top + length)), slice(round(left), round(left + length))
    return F.interpolate(image[None, :, rows, columns], (side, side), mode="bicubic", antialias=True).clamp(0, 1)
