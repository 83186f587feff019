"""Attention of a U-Net, recorded or changed for the time of a `with` block and left as it was.

Every attention layer gets a processor of its own for the block; where a processor has nothing to do it hands over to
the layer's own processor, so the network is bit for bit the one it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

from accord.diffusion.state import held
from accord.diffusion.tap import Attention as Tapped
from accord.diffusion.tap import grid_of

# (attention layer, query, key, value: [B, heads, L or S, d], is_cross) -> [B, heads, L, d], or None to stay out of it
AttentionFn = Callable[[Attention, torch.Tensor, torch.Tensor, torch.Tensor, bool], "torch.Tensor | None"]


class _Hook:
    """A processor that computes query, key and value as `AttnProcessor2_0` does and gives them to a function."""

    def __init__(self, inner: Any, function: AttentionFn, active: Callable[[], bool]) -> None:
        self.inner, self.function, self.active = inner, function, active
        taken = inspect.signature(inner.__call__).parameters.values()  # a SlicedAttnProcessor takes no temb
        self.takes = (
            None if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in taken) else {p.name for p in taken}
        )

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        plain = attention_mask is None and attn.spatial_norm is None and hidden_states.ndim == 3
        if plain and self.active():
            out = self._attend(attn, hidden_states, encoder_hidden_states)
            if out is not None:
                return out
        more = {"temb": temb, **kwargs}
        given = more if self.takes is None else {k: v for k, v in more.items() if k in self.takes}
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, **given)

    def _attend(self, attn: Attention, hidden: torch.Tensor, states: torch.Tensor | None) -> torch.Tensor | None:
        residual = hidden
        if attn.group_norm is not None:
            hidden = attn.group_norm(hidden.transpose(1, 2)).transpose(1, 2)
        cross = states is not None
        if states is None:
            states = hidden
        elif attn.norm_cross:
            states = attn.norm_encoder_hidden_states(states)
        query, key, value = attn.to_q(hidden), attn.to_k(states), attn.to_v(states)
        batch, width = query.shape[0], key.shape[-1] // attn.heads
        query, key, value = (x.view(batch, -1, attn.heads, width).transpose(1, 2) for x in (query, key, value))
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        out = self.function(attn, query, key, value, cross)
        if out is None:
            return None
        out = out.transpose(1, 2).reshape(batch, -1, attn.heads * width).to(query.dtype)
        out = attn.to_out[1](attn.to_out[0](out))
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor


@contextmanager
def attention_hook(
    unet: UNet2DConditionModel, function: AttentionFn, active: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Run `function` in every attention layer of `unet` while the block lasts and `active()` is true.

    The processors that were there are put back at the end, whatever happens. Other threads wait for the network.
    """
    with held(unet):
        before = dict(unet.attn_processors)
        try:
            unet.set_attn_processor({name: _Hook(inner, function, active) for name, inner in before.items()})
            yield
        finally:
            unet.set_attn_processor(dict(before))


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
    """Cross-attention probabilities of the conditional half, averaged over heads, layers and steps.

    Args:
        size: (h, w) of the latents; layers at least `smallest` pixels wide are kept, upsampled to it.
        guided: whether the batch holds an unconditional half first.
    """

    def __init__(self, size: tuple[int, int], guided: bool = True, smallest: int = 8) -> None:
        self.size, self.guided, self.smallest = size, guided, smallest
        self.total: torch.Tensor | None = None
        self.count = 0

    def __call__(
        self, attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cross: bool
    ) -> torch.Tensor | None:
        if not cross:
            return None
        if self.guided:
            query, key = query.chunk(2)[1], key.chunk(2)[1]
        self._add(query, key)
        return None

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

    def see(self, attention: Tapped) -> None:
        """The same of what a tap has seen of the prompts' rows; in joint attention as far as the image looks at the
        text.
        """
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
