"""The fine stage's modulation on videos: in every frame the target's phrases belong where the source's are.

The editor (`video.editing.VideoEditor`) is given; this folder knows nothing else of it.

Letters in shapes: F frames, N things, P phrases, T tokens, h w of the latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from accord.diffusion.pipelines import device_of, sample_size, token_spans, tokens_of
from accord.diffusion.tap import Attention
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.modulation import Modulation, Segments
from accord.methods.realign.regions import find_regions, phrase_maps
from accord.prompts.phrases import phrases_of


class FrameModulation(Modulation):
    """The modulation as the processors of an inflated U-Net call it, which hold more rows than the target's frames."""

    def __call__(  # type: ignore[override]
        self, attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cross: bool, /
    ) -> torch.Tensor | None:
        own = len(self.segments.masks)  # the target's are the last
        given = Attention(query[-own:], key[-own:], value[-own:], kind="cross" if cross else "self")
        out = super().__call__(given)
        if out is None or len(query) == own:
            return out
        rest = scaled_dot_product_attention(query[:-own], key[:-own], value[:-own])
        return torch.cat([rest, out])


def modulate_video(weight: float) -> Callable[[Any, str, Sequence[torch.Tensor]], dict[int, FrameModulation]]:
    """What `VideoEditor.edit` takes as `modulate`.

    Args:
        weight: of the cross-attention's modulation; the self-attention is the video's own.

    Raises:
        ValueError: for a weight that is not positive and finite.
    """
    if not 0 < weight < math.inf:
        raise ValueError(f"modulation must be positive and finite, not {weight}")
    # a run from part-way is modulated as strongly where it starts
    config = RealignConfig(mode="renoise", cross_weight=weight, self_weight=0.0)

    def modulate(editor: Any, target: str, path: Sequence[torch.Tensor]) -> dict[int, FrameModulation]:
        pipe, maps = editor.pipe, frame_maps(editor, path)
        masks, tokens = segments_of(pipe, editor.prompt, target, maps)
        out = {}
        for rows in editor.windows:
            segments = Segments(masks[rows], tokens.expand(len(rows), -1, -1), torch.ones(len(rows), masks.shape[1]))
            out[rows[0]] = FrameModulation(segments.to(device_of(pipe), pipe.unet.dtype), config, sample_size(pipe))
        return out

    return modulate


def frame_maps(editor: Any, path: Sequence[torch.Tensor]) -> np.ndarray:
    """Where each phrase of the source prompt is in each frame: [F,P,h,w] in 0..1."""
    prompt, spans = phrases_of(editor.prompt), token_spans(editor.pipe, editor.prompt)
    return np.stack([phrase_maps(prompt, maps, spans) for maps in editor.token_maps(path)])


def segments_of(pipe: Any, source: str, target: str, maps: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks [F,N,h,w] and tokens [1,N,T]: the target prompt's k-th thing belongs where the source's k-th is."""
    prompt, wanted = phrases_of(source), phrases_of(target)
    pairs = list(zip(prompt.things, wanted.things, strict=False))
    masks = torch.zeros(len(maps), max(1, len(pairs)), *sample_size(pipe))
    for frame, own in enumerate(maps):
        for region in find_regions(prompt, own):
            for k, (thing, _) in enumerate(pairs):
                if region.phrase == thing:
                    masks[frame, k] = torch.maximum(masks[frame, k], torch.from_numpy(region.mask))
    spans = token_spans(pipe, target)
    tokens = torch.zeros(1, masks.shape[1], pipe.tokenizer.model_max_length)
    for k, (_, thing) in enumerate(pairs):
        phrase = wanted.phrases[thing]
        tokens[0, k, tokens_of(spans, phrase.start, phrase.end)] = 1.0
    return masks, tokens
