"""Where each phrase is in a picture (cross-attention, no further model), and what is to be seen there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from accord.data.images import crop
from accord.data.lexicon import DEFAULT, Lexicon
from accord.judges.diagnosis import align
from accord.judges.protocol import Judge
from accord.prompts.phrases import phrases_of
from accord.prompts.swaps import singular_of
from accord.types import Prompt, Region

PEAK_SHARE = 0.5  # a region is where the map exceeds this share of its peak
CROP_MARGIN = 0.15  # of the box, around it, when its content is described


def slots(prompt: Prompt, most: int = 4) -> list[int]:
    """The phrase of each single thing asked for: "two red stars and a cat" gives [0, 0, 1]."""
    return [i for i in prompt.things for _ in range(min(most, prompt.phrases[i].count or 2))]


def phrase_maps(prompt: Prompt, maps: torch.Tensor, spans: list[tuple[int, int] | None]) -> np.ndarray:
    """Attention of each phrase [P, h, w], scaled to 0..1: the head noun's tokens, with half the weight of its
    modifiers.

    Args:
        maps: mean cross-attention [T, h, w].
        spans: character span per token.
    """
    out = []
    for phrase in prompt.phrases:
        total = torch.zeros_like(maps[0])
        for word in {phrase.head, *phrase.words}:
            weight = 1.0 if word == phrase.head else 0.5 if word.kind in ("color", "modifier") else 0.0
            for t, span in enumerate(spans):
                if weight and span is not None and span[0] < word.end and span[1] > word.start:
                    total = total + weight * maps[t]
        array = ndimage.gaussian_filter(total.float().cpu().numpy(), 0.7)
        out.append((array - array.min()) / max(float(np.ptp(array)), 1e-8))
    return np.stack(out) if out else np.zeros((0, *maps.shape[1:]))


def find_regions(prompt: Prompt, maps: np.ndarray) -> list[Region]:
    """One region a slot, the strongest blobs of its phrase's map that no other phrase claims more strongly.

    Args:
        maps: [P, h, w] from `phrase_maps`.

    Returns:
        regions in the order of `slots`; where a phrase has too few blobs the rest is left out.
    """
    things = list(prompt.things)
    if not things:
        return []
    own = maps[things]
    winner = own.argmax(0)
    h, w = maps.shape[1:]
    regions: list[Region] = []
    for k, phrase in enumerate(things):
        wanted = slots(prompt).count(phrase)
        mask = (own[k] >= PEAK_SHARE) & (winner == k)
        labels, number = ndimage.label(mask)
        blobs = sorted(range(1, number + 1), key=lambda b: -float(own[k][labels == b].sum()))
        for blob in blobs[:wanted]:
            blob_mask = labels == blob
            if blob_mask.sum() < 0.01 * h * w:
                continue
            rows, columns = np.flatnonzero(blob_mask.any(1)), np.flatnonzero(blob_mask.any(0))
            left, right = float(columns[0] / w), float((columns[-1] + 1) / w)
            top, bottom = float(rows[0] / h), float((rows[-1] + 1) / h)
            regions.append(Region(phrase, (left, top, right, bottom), blob_mask.astype(np.float32)))
    return regions


def local_prompt(prompt: Prompt, phrase: int, lexicon: Lexicon = DEFAULT) -> Prompt:
    """A single thing of a phrase as a prompt of its own: "two big red stars" gives "a red star"."""
    found = prompt.phrases[phrase]
    noun, _ = singular_of(found.head.text, lexicon)
    words = [w.text for w in found.words if w.kind in ("color", "modifier")] + [noun]
    article = "an" if words[0][0].lower() in "aeiou" else "a"
    return phrases_of(" ".join([article, *words]))


@torch.no_grad()
def describe(
    image: torch.Tensor, prompt: Prompt, regions: list[Region], captioner: Judge, captions: bool = True
) -> list[Region]:
    """The regions with a local caption and their deficit: 1 - score of the crop against the phrase.

    Args:
        image: [3,H,W] in 0..1.
    """
    if not regions:
        return []
    crops = torch.cat([crop(image, r.box, CROP_MARGIN, captioner.image_size) for r in regions])
    locals_ = [local_prompt(prompt, r.phrase, captioner.lexicon) for r in regions]
    seen = align(crops, locals_, captioner, captions=captions)
    return [
        replace(r, caption=a.caption, deficit=0.0 if a.overall is None else 1 - a.overall)
        for r, a in zip(regions, seen, strict=True)
    ]
