"""The reader: picture -> scene, with nothing learned. It judges the benchmark and is never part of a method.

Segmentation by distance from the background, nearest colour, and soft intersection-over-union with rendered
silhouettes. What matches nothing well enough is 'unknown', not the nearest noun.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from accord_lab.scenes.lexicon import BACKGROUNDS, BIG_FROM, COLORS, IMAGE_SIZE, NOUNS
from accord_lab.scenes.render import silhouette
from accord_lab.scenes.scene import Scene, Thing

UNKNOWN = "unknown"
EDITION = 2  # counts up when verdicts change, so that SceneBench does not mix those that it has kept with new ones
BACKGROUND_TOLERANCE = 45.0  # RGB distance within which a pixel is background
COLOR_TOLERANCE = 80.0  # RGB distance within which a colour has its name
MIN_AREA = 14  # pixels; smaller specks are not things
LEAST_PART = 40  # pixels of a thing among things that touch; the rims where two colours blend are smaller
LEAST_CORE = 8  # pixels of what is left of it without its rim
# soft IoU from which a blob has a name, and by how much the best noun must then beat the second: a bent moon is no
# other thing's silhouette, while a square is somewhat a flag and somewhat a heart
THRESHOLDS = ((0.76, 0.015), (0.72, 0.06), (0.65, 0.085))
CLEAR = THRESHOLDS[:2]  # of parts that a blob is taken apart into
_SIDE, _FIT = 32, 28  # canvas and longest side of a normalised silhouette
_SHIFTS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


def _normalise(alpha: np.ndarray) -> np.ndarray:
    """Coverage [h, w] scaled to a longest side of 28 and centred on a 32x32 canvas."""
    h, w = alpha.shape
    scale = _FIT / max(h, w)
    shape = (max(1, round(w * scale)), max(1, round(h * scale)))
    scaled = Image.fromarray(np.ascontiguousarray(alpha, dtype=np.float32)).resize(shape, Image.Resampling.BILINEAR)
    canvas = np.zeros((_SIDE, _SIDE), dtype=np.float32)
    y, x = (_SIDE - shape[1]) // 2, (_SIDE - shape[0]) // 2
    canvas[y : y + shape[1], x : x + shape[0]] = np.asarray(scaled)
    return canvas


@functools.cache
def _templates() -> tuple[np.ndarray, np.ndarray]:
    """Normalised silhouettes of every noun at a small and a big size, shifted by up to a pixel: [T, 1024], noun index
    [T].
    """
    rows, index = [], []
    for n, noun in enumerate(NOUNS):
        for size in (20, 28):
            canvas = _normalise(silhouette(noun, size))
            for shift in _SHIFTS:
                rows.append(np.roll(canvas, shift, (0, 1)).ravel())
                index.append(n)
    return np.stack(rows), np.asarray(index)


def name_silhouette(alpha: np.ndarray, thresholds: Sequence[tuple[float, float]] = THRESHOLDS) -> tuple[str, float]:
    """The noun whose silhouette fits a coverage map [h, w] best, and the soft IoU; 'unknown' below the thresholds."""
    templates, index = _templates()
    x = _normalise(alpha).ravel()
    overlap = np.minimum(templates, x).sum(1)
    iou = overlap / (templates.sum(1) + x.sum() - overlap)
    best = np.zeros(len(NOUNS))
    np.maximum.at(best, index, iou)
    first, second = np.argsort(best)[[-1, -2]]
    clear = any(best[first] >= fit and best[first] - best[second] >= margin for fit, margin in thresholds)
    return NOUNS[first] if clear else UNKNOWN, float(best[first])


def _nearest(color: np.ndarray, names: dict[str, tuple[int, int, int]], tolerance: float) -> str:
    distance = np.linalg.norm(np.asarray(list(names.values())) - color, axis=1)
    i = int(distance.argmin())
    return list(names)[i] if distance[i] <= tolerance else UNKNOWN


def _read_background(image: np.ndarray) -> tuple[str, np.ndarray]:
    names, palette = list(BACKGROUNDS), np.asarray(list(BACKGROUNDS.values()), dtype=np.float32)
    near = np.linalg.norm(image[:, :, None] - palette, axis=-1) < BACKGROUND_TOLERANCE
    share = near.mean((0, 1))
    best = int(share.argmax())
    if share[best] < 0.25:
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        return UNKNOWN, np.median(border, axis=0)
    return names[best], np.median(image[near[..., best]], axis=0)


def read(image: np.ndarray | Image.Image) -> Scene:
    """The scene a picture shows, things from left to right.

    Args:
        image: uint8 [64, 64, 3], or a PIL image (resized to 64x64 if need be).

    Returns:
        A Scene; noun, colour and background are 'unknown' where nothing fits.
    """
    if isinstance(image, Image.Image):
        picture = image.convert("RGB")
        if picture.size != (IMAGE_SIZE, IMAGE_SIZE):
            picture = picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
        image = np.asarray(picture)
    pixels = image.astype(np.float32)
    background, base = _read_background(pixels)
    mask = np.linalg.norm(pixels - base, axis=-1) > BACKGROUND_TOLERANCE
    things: list[Thing] = []
    for blob in _blobs(mask):
        thing = _read_thing(pixels, blob, base)
        parts = () if thing.noun != UNKNOWN else _touching(pixels, blob, base)
        things += parts or (thing,)
    return Scene(background, tuple(sorted(things, key=lambda t: t.center)))


def _blobs(mask: np.ndarray, least: int = MIN_AREA) -> list[np.ndarray]:
    """Connected parts of a mask [H, W] that have at least so many pixels."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return [own for number in range(1, count + 1) if (own := labels == number).sum() >= least]


def _touching(pixels: np.ndarray, blob: np.ndarray, base: np.ndarray) -> tuple[Thing, ...]:
    """The things that a blob without a name consists of, if it falls into at least two that all have one.

    Things of two colours fall apart by the colour that each pixel is nearest to, things of one colour where they are
    thin.
    """
    palette = np.asarray(list(COLORS.values()), dtype=np.float32)
    nearest = np.linalg.norm(pixels[:, :, None] - palette, axis=-1).argmin(-1)
    by_color = [part for i in np.unique(nearest[blob]) for part in _blobs(blob & (nearest == i), LEAST_PART)]
    for parts in (by_color, *(_around(blob, cores) for cores in _eroded(blob))):
        things = tuple(_read_thing(pixels, part, base, CLEAR) for part in parts)
        if len(things) > 1 and all(t.noun != UNKNOWN for t in things):
            return things
    return ()


def _eroded(blob: np.ndarray) -> Iterator[list[np.ndarray]]:
    """What a blob falls into when one pixel of the rim goes, and two, and three."""
    for pixels in (1, 2, 3):
        yield _blobs(ndimage.binary_erosion(blob, iterations=pixels), LEAST_CORE)


def _around(blob: np.ndarray, cores: list[np.ndarray]) -> list[np.ndarray]:
    """The blob in as many parts as there are cores, each pixel with the closest one."""
    if len(cores) < 2:
        return []
    away = np.stack([ndimage.distance_transform_edt(~core) for core in cores])
    return [blob & (away.argmin(0) == k) for k in range(len(cores))]


def _read_thing(
    pixels: np.ndarray, blob: np.ndarray, base: np.ndarray, thresholds: Sequence[tuple[float, float]] = THRESHOLDS
) -> Thing:
    window = ndimage.find_objects(blob.astype(int))[0]
    pixels, own = pixels[window], blob[window]
    distance = np.linalg.norm(pixels - base, axis=-1) * own
    core = distance >= np.quantile(distance[own], 0.4)  # away from the blended rim
    color = np.median(pixels[core & own], axis=0)
    direction = color - base
    alpha = np.clip(((pixels - base) @ direction) / max(float(direction @ direction), 1.0), 0, 1) * own
    solid = alpha > 0.35
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    y0, x0 = window[0].start, window[1].start
    if not len(rows):
        return Thing(UNKNOWN, UNKNOWN, "small", (x0, y0, window[1].stop, window[0].stop))
    alpha = alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    box = (int(x0 + columns[0]), int(y0 + rows[0]), int(x0 + columns[-1] + 1), int(y0 + rows[-1] + 1))
    noun, _ = name_silhouette(alpha, thresholds)
    size = "big" if max(alpha.shape) >= BIG_FROM else "small"
    return Thing(noun, _nearest(color, COLORS, COLOR_TOLERANCE), size, box)


def same_content(a: Scene, b: Scene) -> bool:
    """Whether two scenes have the same background and the same things at places that overlap."""
    if a.background != b.background or len(a.things) != len(b.things):
        return False
    rest = list(b.things)
    for t in a.things:
        for u in rest:
            near = abs(t.center[0] - u.center[0]) <= 3 and abs(t.center[1] - u.center[1]) <= 3
            if near and (t.noun, t.color, t.size) == (u.noun, u.color, u.size):
                rest.remove(u)
                break
        else:
            return False
    return True
