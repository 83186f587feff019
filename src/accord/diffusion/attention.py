"""Attention that is recorded, and the plain processors that a CPU trains with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from accord.diffusion.state import held
from accord.diffusion.tap import Attention, grid_of


@contextmanager
def plain_attention(unet: UNet2DConditionModel) -> Iterator[None]:
    """For training on a CPU: the plain processor, as the fused kernel is slow backwards there.

    Others' processors stay.
    """
    with held(unet):
        before = dict(unet.attn_processors)
        swap = unet.device.type == "cpu" and all(isinstance(p, AttnProcessor2_0) for p in before.values())
        try:
            if swap:
                unet.set_attn_processor(AttnProcessor())
            yield
        finally:
            if swap:
                unet.set_attn_processor(before)


class AttentionMaps:
    """Cross-attention probabilities of the prompts' rows, averaged over heads, layers and steps.

    Args:
        size: (h, w) of the latents; layers at least `smallest` pixels wide are kept, upsampled to it.
    """

    def __init__(self, size: tuple[int, int], smallest: int = 8) -> None:
        self.size, self.smallest = size, smallest
        self.total: torch.Tensor | None = None
        self.count = 0

    def _add(
        self, query: torch.Tensor, key: torch.Tensor, scale: float | None = None, mask: torch.Tensor | None = None
    ) -> None:
        """query [B,heads,L,d], key [B,heads,T,d]; mask as torch takes it."""
        shape = grid_of(query.shape[2], self.size)
        if min(shape) < min(self.smallest, *self.size):
            return
        # in float32: in half precision raw products overflow
        logits = (query.float() @ key.float().transpose(-1, -2)) * (scale or query.shape[-1] ** -0.5)
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        probabilities = logits.softmax(-1).nan_to_num().mean(1) if mask is not None else logits.softmax(-1).mean(1)
        maps = probabilities.transpose(1, 2).unflatten(-1, shape)  # [B, T, h, w]
        if shape != self.size:
            maps = torch.nn.functional.interpolate(maps, self.size, mode="bilinear", align_corners=False)
        self.total = maps if self.total is None else self.total + maps
        self.count += 1

    def see(self, attention: Attention) -> None:
        """Take in what was seen of the prompts' rows; of joint attention as far as the image looks at the text."""
        if attention.kind == "self":
            return
        query, key, mask = attention.query, attention.key, attention.mask
        if attention.kind == "joint":
            query, key = query[:, :, attention.image], key[:, :, attention.text]
            mask = None if mask is None else mask[..., attention.text]
            mask = mask if mask is None or mask.shape[-2] == 1 else mask[..., attention.image, :]
        self._add(query, key, attention.scale, mask)

    def mean(self) -> torch.Tensor:
        """[B, T, h, w] in 0..1."""
        if self.total is None:
            raise RuntimeError("no cross-attention layer was run while the maps were recorded")
        return self.total / self.count
