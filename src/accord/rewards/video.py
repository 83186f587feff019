"""Measures of an edited video. The reader of the lab is not used here: it judges the benchmarks.

Letters in shapes: F frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import label, uniform_filter

from accord.data.images import to_tensor
from accord.judges.clip import ClipScorer, load_clip
from accord.types import InputError


@torch.no_grad()
def image_features(frames: Sequence[Image.Image], clip: ClipScorer, batch_size: int = 16) -> torch.Tensor:
    """Unit vectors [F,D]; no more than `batch_size` frames are in memory as numbers at once."""
    return torch.cat(
        [clip.image_features(to_tensor(list(frames[i : i + batch_size]))) for i in range(0, len(frames), batch_size)]
    )


@torch.no_grad()
def text_alignment(frames: Sequence[Image.Image], prompt: str, clip: ClipScorer) -> float:
    """Mean CLIP cosine of frames and prompt."""
    return float((image_features(frames, clip) @ clip.text_features([prompt])[0]).mean())


@torch.no_grad()
def temporal_consistency(frames: Sequence[Image.Image], clip: ClipScorer) -> float:
    """Mean CLIP cosine of neighbouring frames; 1 for a single frame."""
    features = image_features(frames, clip)
    return float((features[1:] * features[:-1]).sum(-1).mean()) if len(frames) > 1 else 1.0


def foreground(frame: Image.Image, tolerance: float = 0.12) -> np.ndarray:
    """Bool [H,W]: pixels unlike the median colour of the picture's border, by more than `tolerance` of the range."""
    pixels = np.asarray(frame.convert("RGB"), dtype=np.float32) / 255
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.abs(pixels - np.median(border, 0)).max(-1) > tolerance


def track(frames: Sequence[Image.Image]) -> np.ndarray:
    """Centre of the foreground per frame, [F,2] as shares of width and height; NaN where there is none."""
    out = []
    for frame in frames:
        rows, columns = np.nonzero(foreground(frame))
        h, w = frame.height, frame.width
        out.append(((columns.mean() + 0.5) / w, (rows.mean() + 0.5) / h) if len(rows) else (np.nan, np.nan))
    return np.asarray(out)


LOST = 0.5**0.5  # the error of a thing that is not there: half the picture's diagonal, as shares of width and height


def track_error(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance of a track [F,2] from the true one `b`, LOST where only `b` has a thing; NaN if `b` has none in any
    frame.
    """
    wanted = ~np.isnan(b).any(1)
    return (
        float(np.nan_to_num(np.linalg.norm(a - b, axis=1)[wanted], nan=LOST).mean()) if wanted.any() else float("nan")
    )


def background_of(frame: Image.Image, source: Image.Image) -> np.ndarray:
    """Bool [H,W]: where neither the source's foreground is nor what touches it in the edited frame.

    A stray thing is on the background.
    """
    own, edited = foreground(source), foreground(frame)
    parts, _ = label(edited | own)
    return ~np.isin(parts, np.unique(parts[own]))


MOST_DB = 100.0  # what PSNR says of equal pixels


def background_psnr(
    frames: Sequence[Image.Image], source: Sequence[Image.Image], background: Sequence[np.ndarray] | None = None
) -> float:
    """PSNR in dB over the background, at most MOST_DB; NaN if there is none.

    Args:
        background: bool [H,W] per frame; `background_of` if None.
    """
    total, count = 0.0, 0  # the pixels of a long video are not held
    for i, (x, y) in enumerate(zip(frames, source, strict=True)):
        changes = _changes(x, y, background[i] if background is not None else background_of(x, y))
        total, count = total + float(np.square(changes).sum()), count + changes.size
    return float(min(MOST_DB, -10 * np.log10(max(total / count, 1e-12)))) if count else float("nan")


def _changes(x: Image.Image, y: Image.Image, keep: np.ndarray) -> np.ndarray:
    """Differences in -1..1 of two pictures where `keep` [H,W] is true, [P,3]."""
    one, other = (np.asarray(i.convert("RGB"))[keep].astype(np.float64) for i in (x, y))
    return (one - other) / 255


def ssim(a: Image.Image, b: Image.Image, keep: np.ndarray | None = None) -> float:
    """Mean structural similarity of two pictures in grey (7x7 windows, constants of Wang et al. 2004), over `keep`
    [H,W], not empty.
    """
    x, y = (np.asarray(i.convert("L"), dtype=np.float64) / 255 for i in (a, b))
    mean_x, mean_y = uniform_filter(x, 7), uniform_filter(y, 7)
    var_x, var_y = uniform_filter(x * x, 7) - mean_x**2, uniform_filter(y * y, 7) - mean_y**2
    cov = uniform_filter(x * y, 7) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(values[keep].mean() if keep is not None else values.mean())


def flicker(frames: Sequence[Image.Image], background: Sequence[np.ndarray] | None = None) -> float:
    """Mean change of the background from frame to frame, in 0..1; 0 if there is none.

    Args:
        background: bool [H,W] per frame, of which both frames' is taken; without it the pixels that are foreground in
            neither frame, to which a thing that comes and goes does not belong.
    """
    total, count = 0.0, 0
    for i, (x, y) in enumerate(pairwise(frames)):
        keep = background[i] & background[i + 1] if background is not None else ~(foreground(x) | foreground(y))
        changes = _changes(x, y, keep)
        total, count = total + float(np.abs(changes).sum()), count + changes.size
    return total / count if count else 0.0


def _unpadded(frames: Sequence[Image.Image], size: tuple[int, int]) -> Sequence[Image.Image]:
    """Frames without the row or column that `write_video` adds to an odd side, where that is all they differ by from
    `size`.
    """
    if frames[0].size == size or frames[0].size != tuple(s + s % 2 for s in size):
        return frames
    return [f.crop((0, 0, *size)) for f in frames]


def score_video(
    frames: Sequence[Image.Image],
    prompt: str,
    source: Sequence[Image.Image] | None = None,
    clip: ClipScorer | None = None,
) -> dict[str, float]:
    """All measures of a video; those against `source` only where it is given, those of the background only where there
    is one.

    Thing and background are separated by the border's median colour (`foreground`), so track, background and flicker
    mean something on videos with a plain background. A stray thing in the edit is damage to the background, a lost one
    an error of the track. Higher is better for text_alignment, temporal_consistency and background_*, lower for the
    others.

    Raises:
        InputError: if there is no frame, or the videos differ in length or size.
    """
    if not frames:
        raise InputError("there is no frame to score; give a video")
    clip = clip or load_clip()
    out = {
        "text_alignment": text_alignment(frames, prompt, clip),
        "temporal_consistency": temporal_consistency(frames, clip),
    }
    if source is None:
        return out | {"flicker": flicker(frames)}
    frames = _unpadded(frames, source[0].size)
    if len(source) != len(frames) or source[0].size != frames[0].size:
        raise InputError(
            f"the videos differ: {len(frames)} frames of {frames[0].size} and {len(source)} of {source[0].size}; give "
            "videos of one length and size"
        )
    backgrounds = [background_of(a, b) for a, b in zip(frames, source, strict=True)]
    out["flicker"] = flicker(frames, backgrounds)
    found = track(source)
    if not np.isnan(found).all():  # else there is no motion to keep
        out["track_error"] = track_error(track(frames), found)
    similar = [ssim(a, b, g) for a, b, g in zip(frames, source, backgrounds, strict=True) if g.any()]
    if similar:  # on a video without a plain background there is nothing to compare
        out |= {
            "background_psnr": background_psnr(frames, source, backgrounds),
            "background_ssim": float(np.mean(similar)),
        }
    return out
