"""Attention of a U-Net through a function, for the time of a `with` block; afterwards it is left as it was.

Every attention layer gets a processor of its own for the block; where the function has nothing to do it hands over to
the layer's own processor, so the network is bit for bit the one it was, whichever processor that is: in tuning on a CPU
the plain one, which calls nothing that a tap (`diffusion.tap`) would see.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from accord.diffusion.state import held

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
