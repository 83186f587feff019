"""An image denoiser on videos, after Tune-A-Video (arXiv 2212.11565): frames folded into the batch, sparse-causal
self-attention (first and previous frame), and temporal attention after each transformer block.

Nothing of the network is copied or patched: attention goes through `attention_hook`, temporal layers through forward
hooks, both for the time of a `with` block.

Letters in shapes: G videos (guidance makes two of one), F frames, L pixels of a layer, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from accord.diffusion.state import seeded
from accord.methods.video.hook import attention_hook
from accord.types import InputError


class TemporalAttention(nn.Module):
    """Attention of each pixel over the frames, with a residual; its output layer starts at zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, hidden: torch.Tensor, frames: int) -> torch.Tensor:
        """[G*F,L,D] to the same; a single frame has no other to look at, and is left as it is."""
        if frames == 1:
            return hidden
        x = self.norm(hidden.to(self.to_qkv.weight.dtype)).unflatten(0, (-1, frames)).transpose(1, 2)  # [G,L,F,D]
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for p in self.to_qkv(x).chunk(3, -1))
        out = self.to_out(scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2))
        return hidden + out.transpose(1, 2).flatten(0, 1).to(hidden.dtype)


class TemporalLayers(ModelMixin, ConfigMixin):
    """One TemporalAttention for each transformer block of a U-Net, in the network's order.

    Args:
        widths: of the blocks.
        heads: of each layer.
    """

    @register_to_config
    def __init__(self, widths: list[int], heads: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList([TemporalAttention(w, heads) for w in widths])

    @classmethod
    def of(cls, unet: UNet2DConditionModel, heads: int = 2, seed: int = 0) -> TemporalLayers:
        """Fresh layers for a network: they change nothing as yet."""
        with seeded(seed):
            made = cls([b.norm1.normalized_shape[0] for b in blocks_of(unet)], heads)
        return made.to(unet.device)


def blocks_of(unet: UNet2DConditionModel) -> list[Any]:
    """The transformer blocks of a U-Net, in its own order.

    Raises:
        InputError: if it has none.
    """
    blocks = [m for m in unet.modules() if isinstance(m, BasicTransformerBlock)]
    if not blocks:
        raise InputError("this U-Net has no transformer blocks to inflate; use a Stable Diffusion 1, 2 or XL pipeline")
    return blocks


class VideoAttention:
    """Sparse-causal self-attention over G videos of F frames; state of an inflated network.

    Attributes:
        frames: F.
        inject: take queries and keys of the first video (the source) in all others, which holds its layout.
        aligned: with `inject`, for each token of the last video's text that of the first one's whose place it takes,
            [T];
            -1 for a token that has none. None leaves cross-attention alone.
    """

    def __init__(self, frames: int) -> None:
        self.frames, self.inject = frames, False
        self.aligned: torch.Tensor | None = None

    def __call__(
        self, attn: Attention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cross: bool
    ) -> torch.Tensor | None:
        videos = query.shape[0] // self.frames
        inject = self.inject and videos > 1
        if cross:
            return self.replaced(query, key, value) if inject and self.aligned is not None else None
        if self.frames == 1 and not inject:
            return None
        q, k, v = (x.unflatten(0, (videos, self.frames)) for x in (query, key, value))
        if inject:
            q, k = (torch.cat([x[:1]] * videos) for x in (q, k))
        k, v = first_and_previous(k), first_and_previous(v)
        return scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))

    def replaced(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Cross-attention in which the last video's words are where the first video's are: Prompt-to-Prompt (arXiv
        2208.01626), section 3.
        """
        frames, aligned = self.frames, self.aligned
        assert aligned is not None
        found = scaled_dot_product_attention(query[:-frames], key[:-frames], value[:-frames])
        # in float32: in half precision a product that is not yet scaled may overflow
        there, own = (
            ((query[s].float() @ key[s].float().transpose(-2, -1)) * query.shape[-1] ** -0.5).softmax(-1)
            for s in (slice(frames), slice(-frames, None))
        )
        weights = torch.where(aligned >= 0, there[..., aligned.clamp(min=0)], own)
        weights = (weights / weights.sum(-1, keepdim=True)).to(value)
        return torch.cat([found, weights @ value[-frames:]])


def first_and_previous(x: torch.Tensor) -> torch.Tensor:
    """Keys or values [G,F,heads,L,d] to those of the first and the previous frame of each, [G,F,heads,2L,d]."""
    first = x[:, :1].expand_as(x)
    previous = torch.cat([x[:, :1], x[:, :-1]], 1)
    return torch.cat([first, previous], -2)


@contextmanager
def inflated(unet: UNet2DConditionModel, layers: TemporalLayers | None, frames: int) -> Iterator[VideoAttention]:
    """Inside, the batch of `unet` is videos of `frames` frames; afterwards the network is what it was.

    Args:
        layers: temporal layers, or None for sparse-causal attention alone.

    Raises:
        InputError: if the layers are not this network's.
    """
    blocks, handles = blocks_of(unet), []
    state = VideoAttention(frames)
    widths = [b.norm1.normalized_shape[0] for b in blocks]
    if layers is not None and list(layers.config.widths) != widths:
        raise InputError(
            f"the temporal layers are of widths {list(layers.config.widths)}, this U-Net of {widths}; train its own"
        )
    with attention_hook(unet, state):  # other threads wait for the network
        try:
            for block, layer in zip(blocks, layers.layers if layers is not None else (), strict=layers is not None):
                handles.append(block.register_forward_hook(lambda _m, _a, out, layer=layer: layer(out, state.frames)))
            yield state
        finally:
            for handle in handles:
                handle.remove()
