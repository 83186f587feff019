"""Who draws what, as a loss: cross-attention held to the scene's own masks (after TokenCompose, arXiv 2312.03626).

A denoiser learns late which of two phrases a place belongs to: nothing in its loss says so but the few pixels that come
out wrong. The scenes have masks, which can say so. Only the contest between the phrases is: how much a pixel looks at
phrases at all, and at which of their words, is left to the denoiser.

Letters in shapes: B samples, L pixels of a layer, T tokens, G phrases.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from torch.nn import functional as F

from accord_lab.scenes.grammar import Said
from accord_lab.scenes.lexicon import IMAGE_SIZE
from accord_lab.scenes.render import coverage
from accord_lab.scenes.scene import Scene

GROUPS = 3  # a caption has at most three phrases
SIDE = 16  # of the masks, which is that of the latents
SMALLEST = 8  # side of the smallest layer that is held to the masks


def targets(
    captions: Sequence[Said], scenes: Sequence[Scene], offsets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [B, G, T] in {0, 1} of each phrase and the places [B, G, 16, 16] in 0..1 of its things.

    Zero where a caption tells of fewer than two phrases: there is no contest.

    Args:
        offsets: characters [B, T, 2] of each token; (0, 0) for special ones.
    """
    tokens = torch.zeros(len(captions), GROUPS, offsets.shape[1])
    places = np.zeros((len(captions), GROUPS, SIDE, SIDE), dtype=np.float32)
    step = IMAGE_SIZE // SIDE
    for b, (said, scene) in enumerate(zip(captions, scenes, strict=True)):
        if len(said.things) < 2:
            continue
        start, end = offsets[b, :, 0], offsets[b, :, 1]
        for g, phrase in enumerate(said.things):
            tokens[b, g] = ((start < phrase.end) & (end > phrase.start)).float()
            for thing in scene.things:
                if phrase.fits(thing):
                    places[b, g] += coverage(thing).reshape(SIDE, step, SIDE, step).mean((1, 3))
    return tokens, torch.from_numpy(places)


class Grounding:
    """An attention function for `attention_hook`: plain cross-attention whose probabilities are kept for the loss."""

    def __init__(self) -> None:
        self.maps: list[torch.Tensor] = []  # [B, L, T] of each layer

    def __call__(
        self, attn: Attention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cross: bool
    ) -> torch.Tensor | None:
        if not cross or query.shape[2] < SMALLEST**2:
            return None
        probabilities = ((query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5).softmax(-1)
        self.maps.append(probabilities.mean(1))
        return probabilities.to(value.dtype) @ value

    def loss(self, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Mean over layers and covered pixels of -log(share of the pixel's own phrase in what it gives to all phrases).

        Forgets the maps of the step.

        Args:
            tokens, places: from `targets`.
        """
        losses = []
        for probabilities in self.maps:
            side = round(probabilities.shape[1] ** 0.5)
            own = F.adaptive_avg_pool2d(places, side).flatten(2).transpose(1, 2)  # [B, L, G]
            given = probabilities.float() @ tokens.transpose(1, 2)  # [B, L, G]
            share = (given + 1e-6) / (given.sum(-1, keepdim=True) + 1e-6)
            losses.append(-(own * share.clamp(max=1.0).log()).sum() / own.sum().clamp(min=1.0))
        self.maps = []
        return torch.stack(losses).mean()
