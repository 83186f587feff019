"""Where each phrase is in a picture, by cross-attention (no further model) or by a detector, and what is to be seen
there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from accord.data.images import to_pil
from accord.data.lexicon import DEFAULT, Lexicon
from accord.judges.detect import SAME, Detection, PhraseDetector, overlap
from accord.judges.protocol import Judge
from accord.judges.regions import align_regions
from accord.methods.realign.layout import box_mask
from accord.prompts.phrases import phrases_of
from accord.prompts.swaps import singular_of
from accord.types import Prompt, Region

PEAK_SHARE = 0.5  # a region is where the map exceeds this share of its peak


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


class Regions(Protocol):
    """Finds the phrases of a prompt in a picture."""

    def check(self, prompt: Prompt) -> None:
        """Refuse a prompt whose phrases could not be looked for. Raises InputError."""
        ...

    def find(self, image: torch.Tensor, prompt: Prompt, maps: np.ndarray) -> list[Region]:
        """At most one region a slot, in the order of `slots`.

        Args:
            image: [3,H,W] in 0..1.
            maps: attention of each phrase [P, h, w], whose size the masks have.
        """
        ...


class AttentionRegions:
    """By the attention maps: see `find_regions`."""

    def check(self, _prompt: Prompt) -> None:
        pass

    def find(self, _image: torch.Tensor, prompt: Prompt, maps: np.ndarray) -> list[Region]:
        return find_regions(prompt, maps)


@dataclass(frozen=True)
class DetectedRegions:
    """By a detector that looks at the picture: see `detected_regions`."""

    detector: PhraseDetector

    def check(self, prompt: Prompt) -> None:
        self.detector.check_length(_sought(prompt))

    def find(self, image: torch.Tensor, prompt: Prompt, maps: np.ndarray) -> list[Region]:
        picture = to_pil(image[None])[0]
        found = self.detector.find(picture, _sought(prompt))
        return detected_regions(prompt, found, picture.size, maps.shape[1:])


def _sought(prompt: Prompt) -> list[str]:
    """What a detector is to look for: one thing of each phrase, with its modifiers."""
    return [local_prompt(prompt, i).text for i in prompt.things]


def detected_regions(
    prompt: Prompt, found: Sequence[Detection], size: tuple[int, int], grid: tuple[int, ...]
) -> list[Region]:
    """One region a slot, the surest of what was found; a place that one phrase has, no other one gets.

    Args:
        found: by the texts of `local_prompt`, the surest first.
        size: width and height of the picture.
        grid: height and width of the masks.

    Returns:
        regions in the order of `slots`; where too little was found of a phrase the rest is left out.
    """
    wanted, texts = Counter(slots(prompt)), {i: local_prompt(prompt, i).text for i in prompt.things}
    taken: list[tuple[int, Detection]] = []
    for one in found:
        phrase = next((i for i, text in texts.items() if text == one.label and wanted[i]), None)
        if phrase is not None and all(overlap(one.box, other.box) <= SAME for _, other in taken):
            taken.append((phrase, one))
            wanted[phrase] -= 1
    return [_region(phrase, one, size, grid) for phrase, one in sorted(taken, key=lambda t: t[0])]


def _region(phrase: int, one: Detection, size: tuple[int, int], grid: tuple[int, ...]) -> Region:
    """The place of a detection on the grid: the covered share of each cell."""
    x0, y0, x1, y1 = (float(v / side) for v, side in zip(one.box, (*size, *size), strict=True))
    if one.mask is None:
        mask = box_mask((x0, y0, x1, y1), (grid[0], grid[1]))
    else:
        mask = F.adaptive_avg_pool2d(torch.from_numpy(one.mask).float()[None, None], (grid[0], grid[1]))[0, 0].numpy()
    return Region(phrase, (x0, y0, x1, y1), mask)


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
    """The regions with a local caption and their deficit: 1 - score of the region against the phrase.

    Args:
        image: [3,H,W] in 0..1.
    """
    locals_ = [local_prompt(prompt, r.phrase, captioner.lexicon) for r in regions]
    seen = align_regions(image, [r.box for r in regions], locals_, captioner, captions)
    return [
        replace(r, caption=a.caption, deficit=0.0 if a.overall is None else 1 - a.overall)
        for r, a in zip(regions, seen, strict=True)
    ]
