"""Pairs for an offline start: those alone whose picture shows what its caption says, by a reward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from accord.data.images import fit, to_tensor
from accord.rewards.composed import Composed
from accord.types import InputError


@torch.no_grad()
def passing_pairs(
    images: Sequence[Image.Image], captions: Sequence[str], reward: Composed, least: float, device: str = "cpu"
) -> tuple[list[Image.Image], list[str]]:
    """The pairs whose reward, as it is, is at least `least`.

    Raises:
        InputError: if none is.
    """
    kept = []
    for first in range(0, len(images), 32):
        rows = range(first, min(first + 32, len(images)))  # what stays on the disk takes no slices
        some = [to_tensor(images[i]) for i in rows]
        pixels = torch.cat([fit(one, (some[0].shape[-2], some[0].shape[-1])) for one in some]).to(device)
        texts = list(captions[first : first + 32])
        scores = reward.plain(reward.parts(pixels, texts))
        kept += [first + i for i, score in enumerate(scores.tolist()) if score >= least]  # NaN is not
    if not kept:
        raise InputError(f"none of the {len(images)} pairs has a reward of at least {least:g}; give a lower one")
    return [images[i] for i in kept], [captions[i] for i in kept]
