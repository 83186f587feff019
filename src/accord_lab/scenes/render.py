"""Drawing scenes: silhouettes from the Font Awesome Free font (extra `lab`), flat colours, 64x64 pixels."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from accord.data.extras import need
from accord_lab.scenes.lexicon import BACKGROUNDS, COLORS, GLYPHS, IMAGE_SIZE

if TYPE_CHECKING:
    from accord_lab.scenes.scene import Scene, Thing


@functools.cache
def _font() -> tuple[ImageFont.FreeTypeFont, dict[str, str]]:
    fontawesomefree = need("fontawesomefree", "lab", "scenes of the lab")
    root = Path(fontawesomefree.__file__).parent / "static" / "fontawesomefree"
    icons = json.loads((root / "metadata" / "icons.json").read_text(encoding="utf8"))
    chars = {noun: chr(int(icons[glyph]["unicode"], 16)) for noun, glyph in GLYPHS.items()}
    return ImageFont.truetype(str(root / "webfonts" / "fa-solid-900.ttf"), 200), chars


@functools.cache
def silhouette(noun: str, size: int) -> np.ndarray:
    """Coverage in 0..1 of `noun` with its longest side `size` pixels, float32 [h, w]."""
    font, chars = _font()
    canvas = Image.new("L", (400, 400))
    ImageDraw.Draw(canvas).text((60, 60), chars[noun], font=font, fill=255)
    glyph = canvas.crop(canvas.getbbox())
    scale = size / max(glyph.size)
    shape = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
    return np.asarray(glyph.resize(shape, Image.Resampling.BOX), dtype=np.float32) / 255


@functools.cache
def _canvas(background: str) -> np.ndarray:
    return np.full((IMAGE_SIZE, IMAGE_SIZE, 3), BACKGROUNDS[background], dtype=np.float32)


def render(scene: Scene) -> np.ndarray:
    """The picture of a scene, uint8 [64, 64, 3]."""
    image = _canvas(scene.background).copy()
    for thing in scene.things:
        x0, y0, x1, y1 = thing.box
        alpha = silhouette(thing.noun, max(x1 - x0, y1 - y0))[..., None]
        patch = image[y0:y1, x0:x1]
        patch += alpha * (np.asarray(COLORS[thing.color], dtype=np.float32) - patch)
    return (image + 0.5).astype(np.uint8)


def coverage(thing: Thing) -> np.ndarray:
    """Coverage of one thing in 0..1, float32 [64, 64]."""
    mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    x0, y0, x1, y1 = thing.box
    mask[y0:y1, x0:x1] = silhouette(thing.noun, max(x1 - x0, y1 - y0))
    return mask


def foreground(scene: Scene) -> np.ndarray:
    """Coverage of all things together, float32 [64, 64]."""
    return sum((coverage(t) for t in scene.things), np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32))
