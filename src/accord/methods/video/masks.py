"""Where the source stays: what is injected of it, and the mask by which its latents are blended in.

Letters in shapes: F frames, C h w of the latents, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from accord.diffusion.attention import AttentionMaps
from accord.diffusion.pipelines import Pipeline, device_of, sample_size
from accord.diffusion.state import held
from accord.diffusion.tap import Attention
from accord.methods.video.hook import attention_hook
from accord.methods.video.inflate import inflated
from accord.methods.video.trajectory import Span
from accord.methods.video.unet import Conditioning, denoise
from accord.methods.video.windows import VideoNetwork

MIDDLE = (0.25, 0.75)  # this share of the inversion says where things are, and where two prompts differ
MIDDLE_STEPS = 5  # so many steps of it
CHANGED = (0.2, 0.4)  # of the largest difference: below, a place stays as it was; above, it is the edit's


def middle_steps(count: int) -> list[int]:
    """Which of `count` inverted steps say where things are: MIDDLE_STEPS of them, in the share MIDDLE."""
    first, last = (int(share * (count - 1)) for share in MIDDLE)
    return sorted({round(v) for v in np.linspace(first, last, MIDDLE_STEPS)})


def aligned_tokens(pipe: Pipeline, source: str, target: str) -> torch.Tensor:
    """For each token of the target prompt that of the source prompt that is the same or that it replaces, [T]; -1 if
    none.

    A run of words that is replaced by one of another length is stretched over it.
    """
    with held(pipe.tokenizer):
        a, b = (pipe.tokenizer(p, padding="max_length", truncation=True).input_ids for p in (source, target))
    out = torch.full((len(b),), -1)
    for kind, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind in ("equal", "replace"):
            for j in range(b0, b1):
                out[j] = a0 + (j - b0) * (a1 - a0) // (b1 - b0)
    return out.to(device_of(pipe))


@torch.no_grad()
def change_mask(
    network: VideoNetwork,
    path: Sequence[torch.Tensor],
    steps: Sequence[Span],
    source: Conditioning,
    target: Conditioning,
) -> torch.Tensor:
    """Where the target prompt asks for something else than the source prompt: [F,1,h,w], 0 (the same) to 1.

    DiffEdit (arXiv 2210.11427), section 3.2: where the two prompts' outputs differ, on the inverted video itself.

    Args:
        path: what `trajectory.invert` gave for `steps`.
    """
    total = torch.zeros_like(path[0][:, :1], device=network.device)
    for i in middle_steps(len(steps)):
        _, t = steps[i]
        a, b = network(path[i + 1].to(total), t, [source, target])
        differ = (a - b).square().mean(1, keepdim=True).sqrt()
        total += differ / differ.amax().clamp(min=1e-12)
    smooth = F.avg_pool2d(total, 3, 1, 1, count_include_pad=False)
    return ((smooth / smooth.amax().clamp(min=1e-12) - CHANGED[0]) / (CHANGED[1] - CHANGED[0])).clamp(0, 1)


def blended(edit: torch.Tensor, source: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """The source's latents where nothing changes and the edit's where all does, [F,C,h,w]; `change` [F,1,h,w]."""
    return torch.lerp(source.to(edit), edit, change)


@torch.no_grad()
def token_maps(
    network: VideoNetwork, path: Sequence[torch.Tensor], steps: Sequence[Span], source: Conditioning
) -> torch.Tensor:
    """Where each token of the source prompt is in each frame, by cross-attention on the inverted video: [F,T,h,w]."""
    pipe = network.pipe
    found: list[torch.Tensor] = [torch.zeros(0)] * len(path[0])
    for rows in network.windows:
        recorder, conditioning = AttentionMaps(sample_size(pipe)), source.repeated(len(rows))

        def record(
            _layer: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cross: bool, to: Any = recorder
        ) -> None:
            to.see(Attention(query, key, value, kind="cross" if cross else "self"))

        with inflated(pipe.unet, network.temporal, len(rows)), attention_hook(pipe.unet, record):
            for i in middle_steps(len(steps)):
                x = path[i + 1][rows].to(network.device, pipe.unet.dtype)
                denoise(pipe, network.scheduler, x, steps[i][1], conditioning)
        for row, maps in zip(rows, recorder.mean(), strict=True):
            found[row] = maps
    return torch.stack(found)
