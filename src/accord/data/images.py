"""Pictures in: checked, converted, cropped.

torch is imported by what makes tensors alone: a process that only decodes begins at once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from PIL import Image, ImageOps

from accord.files import budget, check_regular
from accord.types import InputError

if TYPE_CHECKING:
    import torch

WHOLE_PIXELS = 4096 * 4096  # a picture of more comes out smaller
# what people keep pictures as; other readers of the library run programs (EPS) or hold several copies
_FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "AVIF")
_BYTES = {
    "1": 1,
    "L": 1,
    "P": 1,
    "I;16": 2,
    "I;16L": 2,
    "I;16B": 2,
    "I;16N": 2,
}  # of a pixel as PIL holds it; 4 in all other modes
_DECODER_BYTES = {"JPEG2000": 16, "WEBP": 6}  # of formats whose decoders hold more than the picture
_ORIENTATION = 0x0112  # the tag of EXIF


def open_image(path: str | Path) -> Image.Image:
    """A picture as RGB. The first frame of an animation is taken, transparency is laid on white, EXIF rotation applied.

    A picture of more than WHOLE_PIXELS is reduced by a whole number while it is read, so that it has at most as many.

    Raises:
        InputError: for a file that is missing, no picture, cut short, or takes more than ACCORD_MAX_PICTURE_MB once it
            is decoded (400
            if that is not set: 100 megapixels of RGB).
    """
    path = check_regular(path, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the limit is ours, and what a damaged file's reader has to say is said below
            with _opened(path) as image:
                _check_budget(path, image)
                if image.width * image.height <= WHOLE_PIXELS:
                    image.load()
                    return to_rgb(image)
                if image.format in ("JPEG", "MPO"):
                    factor = _factor(image)
                    image.draft(image.mode, (-(-image.width // factor), -(-image.height // factor)))
                image.load()
                return _reduced_rgb(image)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise InputError(
            f"image {str(path)!r} has more than {most} million pixels, the most that Pillow opens; make it smaller"
        ) from error
    except Exception as error:  # decoders and the EXIF reader raise whatever a damaged file leads them to
        raise InputError(f"image {str(path)!r} cannot be read, it is damaged or no picture; save it again") from error


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height that a picture file says it has, before EXIF rotation; nothing is decoded.

    Raises:
        InputError: for a file that is missing or no picture.
    """
    path = check_regular(path, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _opened(path) as image:
                return image.size
    except Exception as error:
        raise InputError(f"image {str(path)!r} cannot be read, it is damaged or no picture; save it again") from error


def _opened(path: Path) -> Image.Image:
    Image.init()  # a format that is not registered may not be named
    image = Image.open(path, formats=[f for f in _FORMATS if f in Image.OPEN])
    if not image.width * image.height:
        raise ValueError("it has no pixel")
    return image


def _check_budget(path: Path, image: Image.Image) -> None:
    each = _DECODER_BYTES.get(image.format or "", _BYTES.get(image.mode, 4))
    size, most = image.width * image.height * each, budget("picture")
    if size > most:
        raise InputError(
            f"image {str(path)!r} of {image.width}x{image.height} pixels takes {-(-size // 2**20)} MB, more than the "
            f"{most // 2**20} that "
            "one may; make it smaller, or set ACCORD_MAX_PICTURE_MB"
        )


def _factor(image: Image.Image) -> int:
    """The smallest whole number by which both sides have to be divided for WHOLE_PIXELS."""
    factor = math.isqrt((image.width * image.height - 1) // WHOLE_PIXELS) + 1
    while -(-image.width // factor) * -(-image.height // factor) > WHOLE_PIXELS:  # sides are rounded up
        factor += 1
    return factor


def _reduced_rgb(image: Image.Image) -> Image.Image:
    """`to_rgb` of a large picture, strip by strip and each one reduced at once: no second copy of full size is made."""
    factor = _factor(image)
    rows = factor * max(1, 2**20 // (image.width * factor))
    out = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    tops = range(0, image.height, rows)

    def strip(top: int) -> Image.Image:
        return image.crop((0, top, image.width, min(top + rows, image.height)))

    most = max(_most(strip(top)) for top in tops) if image.mode[0] in "FI" else 0.0
    for top in tops:
        out.paste(_flat(strip(top), most).reduce(factor), (0, top // factor))
    out.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
    return ImageOps.exif_transpose(out)


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
    return _flat(image, _most(image) if image.mode[0] in "FI" else 0.0)


def _most(image: Image.Image) -> float:
    """The largest value of a floating-point or whole-number picture."""
    return float(np.nan_to_num(np.asarray(image, dtype=np.float64)).max())


def _flat(image: Image.Image, most: float) -> Image.Image:
    """`to_rgb` without the rotation, of a picture or a strip of one whose largest value is `most`."""
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        top = next((t for t in (1.0, 255.0) if most <= t), 65535.0)
        return Image.fromarray((values * 255 / top).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float64)
        top = 65535 if image.mode.startswith("I;16") or most > 255 else 255
        return Image.fromarray((values * 255 / top).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def to_tensor(images: list[Image.Image] | Image.Image) -> torch.Tensor:
    """PIL pictures of one size to float32 [B,3,H,W] in 0..1."""
    import torch

    images = [images] if isinstance(images, Image.Image) else list(images)
    arrays = np.stack([np.asarray(i.convert("RGB")) for i in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    """[B,3,H,W] in 0..1 to PIL pictures."""
    arrays = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(a) for a in arrays]


def fit(images: torch.Tensor, side: int | tuple[int, int]) -> torch.Tensor:
    """[B,3,H,W] in 0..1 scaled to side x side (or height x width), as BLIP sees a picture: aspect not kept, nothing cut
    off (CLIP's own processor crops).
    """
    size = (side, side) if isinstance(side, int) else side
    if images.shape[-2:] == size:
        return images
    from torch.nn import functional as F

    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)


def crop(image: torch.Tensor, box: tuple[float, float, float, float], margin: float, side: int) -> torch.Tensor:
    """A square window around a box, scaled to [1,3,side,side].

    Args:
        image: [3,H,W].
        box: (x0, y0, x1, y1) as shares of width and height.
        margin: share of the box's longer side added all around; the window stays inside the picture.
    """
    from torch.nn import functional as F

    height, width = image.shape[-2:]
    x0, y0, x1, y1 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    length = min(max(x1 - x0, y1 - y0) * (1 + 2 * margin), height, width)
    length = max(length, 4.0)
    left = min(max((x0 + x1 - length) / 2, 0), width - length)
    top = min(max((y0 + y1 - length) / 2, 0), height - length)
    rows, columns = slice(round(top), round(top + length)), slice(round(left), round(left + length))
    return F.interpolate(image[None, :, rows, columns], (side, side), mode="bicubic", antialias=True).clamp(0, 1)
