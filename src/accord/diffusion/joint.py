"""Joint attention of transformers (Stable Diffusion 3, Flux), recorded or changed for the time of a `with` block and
left as it was.

Image and text are queries and keys of one softmax. Letters in shapes: B batch, L image tokens, T text tokens, S = L +
T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor

from accord.diffusion.state import held
from accord.types import InputError

# (query, key, value: [B, heads, S, d], which of them are the image's, which the text's) -> [B, heads, S, d], or None to
# stay out of it
JointFn = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, slice, slice], "torch.Tensor | None"]


class _Hook:
    """A processor that computes query, key and value as the layer's own does and gives them to a function."""

    def __init__(self, inner: Any, function: JointFn, active: Callable[[], bool], tokens: int) -> None:
        self.inner, self.function, self.active, self.tokens = inner, function, active, tokens

    def attended(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, image: slice, text: slice
    ) -> torch.Tensor | None:
        """[B, heads, S, d] to [B, S, heads * d]."""
        out = self.function(query, key, value, image, text)
        return None if out is None else out.transpose(1, 2).flatten(2).to(query.dtype)


class _SD3Hook(_Hook):
    """The image's tokens first, as `JointAttnProcessor2_0` has them. A layer of the image alone is left alone."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if self.active() and encoder_hidden_states is not None:
            out = self._attend(attn, hidden_states, encoder_hidden_states)
            if out is not None:
                return out
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)

    def _attend(self, attn: Any, hidden: torch.Tensor, states: torch.Tensor) -> Any:
        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query, key, value = heads(attn.to_q(hidden)), heads(attn.to_k(hidden)), heads(attn.to_v(hidden))
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        text_query, text_key, text_value = (
            heads(attn.add_q_proj(states)),
            heads(attn.add_k_proj(states)),
            heads(attn.add_v_proj(states)),
        )
        text_query = text_query if attn.norm_added_q is None else attn.norm_added_q(text_query)
        text_key = text_key if attn.norm_added_k is None else attn.norm_added_k(text_key)
        query, key, value = (
            torch.cat([query, text_query], 2),
            torch.cat([key, text_key], 2),
            torch.cat([value, text_value], 2),
        )
        length = hidden.shape[1]
        out = self.attended(query, key, value, slice(length), slice(length, None))
        if out is None:
            return None
        image, text = out[:, :length], out[:, length:]
        return attn.to_out[1](attn.to_out[0](image)), text if attn.context_pre_only else attn.to_add_out(text)


class _FluxHook(_Hook):
    """The text's tokens first, as in `FluxAttnProcessor`; layers with one stream are given both already joined."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        if self.active():
            out = self._attend(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
            if out is not None:
                return out
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)

    def _attend(self, attn: Any, hidden: torch.Tensor, states: torch.Tensor | None, rotary: Any) -> Any:
        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (-1, attn.head_dim))

        query, key, value = (
            attn.norm_q(heads(attn.to_q(hidden))),
            attn.norm_k(heads(attn.to_k(hidden))),
            heads(attn.to_v(hidden)),
        )
        if states is not None:
            query = torch.cat([attn.norm_added_q(heads(attn.add_q_proj(states))), query], 1)
            key = torch.cat([attn.norm_added_k(heads(attn.add_k_proj(states))), key], 1)
            value = torch.cat([heads(attn.add_v_proj(states)), value], 1)
        if rotary is not None:
            query, key = (apply_rotary_emb(x, rotary, sequence_dim=1) for x in (query, key))
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        out = self.attended(query, key, value, slice(self.tokens, None), slice(self.tokens))
        if out is None or states is None:
            return out
        text, image = out[:, : self.tokens].contiguous(), out[:, self.tokens :].contiguous()
        return attn.to_out[1](attn.to_out[0](image)), attn.to_add_out(text)


HOOKS: dict[type, type[_Hook]] = {JointAttnProcessor2_0: _SD3Hook, FluxAttnProcessor: _FluxHook}


@contextmanager
def joint_hook(
    transformer: Any, function: JointFn, tokens: int, active: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Run `function` in every layer in which image and text attend to each other while the block lasts and `active()`
    is true.

    The processors that were there are put back at the end, whatever happens.

    Args:
        transformer: of Stable Diffusion 3 or Flux.
        tokens: T.

    Raises:
        InputError: if another processor than the class's own is in the way.
    """
    with held(transformer):
        before = dict(transformer.attn_processors)
        hooks = _hooks(transformer, before, function, active, tokens)
        try:
            transformer.set_attn_processor(hooks)
            yield
        finally:
            transformer.set_attn_processor(dict(before))


def _hooks(
    transformer: Any, before: dict[str, Any], function: JointFn, active: Callable[[], bool], tokens: int
) -> dict[str, _Hook]:
    """A hook around each processor."""
    hooks = {}
    for name, inner in before.items():
        own, layer = _innermost(inner), transformer.get_submodule(name.removesuffix(".processor"))
        if type(own) not in HOOKS or getattr(layer, "fused_projections", False):
            raise InputError(
                f"the attention of this {type(transformer).__name__} is changed already ({type(own).__name__}); load "
                "the pipeline afresh"
            )
        hooks[name] = HOOKS[type(own)](inner, function, active, tokens)
    return hooks


def _innermost(processor: Any) -> Any:
    while isinstance(processor, _Hook):
        processor = processor.inner
    return processor
