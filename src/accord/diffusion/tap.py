"""The attention of any network, seen or changed where it calls torch's one function for it.

All softmax attention of diffusers ends in `torch.nn.functional.scaled_dot_product_attention`. A `TorchFunctionMode`
that is entered with the network's forward sees each call of it with its final queries and keys, rotary embedding
included. No processor is replaced, so adapters, fused projections and others' processors stay as they are. Without an
answer of the observer the call goes on as it was, bit for bit.

Letters in shapes: B rows, L queries, S keys, d channels of a head, T tokens of text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from accord.diffusion.families import Family, family_of
from accord.diffusion.opened import Opened, patch_of, swapped
from accord.diffusion.spans import Spans, Texts, read_texts
from accord.diffusion.state import held
from accord.types import InputError, a_kind

# of U-Nets: they compute attention themselves, in parts or by another library
_OTHERS = ("AttnProcessor", "SlicedAttnProcessor", "XFormersAttnProcessor")


@dataclass(frozen=True)
class Attention:
    """One call of attention.

    Attributes:
        query: [B,heads,L,d].
        key, value: [B,heads,S,d].
        mask: as torch takes it: bool or float, [B or 1, 1, 1 or L, S]; None for none.
        scale: of the logits; None for 1/sqrt(d).
        kind: cross (keys are the text), self (queries and keys are the image), joint (both are image and text).
        image, text: where the two are among a joint attention's tokens. What is in neither (registers, padding) belongs
            to nothing.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None = None
    scale: float | None = None
    kind: Literal["cross", "self", "joint"] = "self"
    image: slice = field(default_factory=lambda: slice(None))
    text: slice = field(default_factory=lambda: slice(0))

    def plain(self) -> torch.Tensor:
        """What it comes to without a hand on it, [B,heads,L,d]."""
        return scaled_dot_product_attention(self.query, self.key, self.value, attn_mask=self.mask, scale=self.scale)

    def of_queries(self, queries: slice) -> Attention:
        """That of these queries alone, with all keys."""
        mask = self.mask
        if mask is not None and mask.shape[-2] != 1:
            mask = mask[..., queries, :]
        return replace(self, query=self.query[:, :, queries], mask=mask)

    def rows(self, rows: slice | list[int]) -> Attention:
        """These rows of the batch."""
        mask = self.mask
        if mask is not None and mask.dim() == 4 and len(mask) == len(self.query):
            mask = mask[rows]
        return replace(self, query=self.query[rows], key=self.key[rows], value=self.value[rows], mask=mask)


Function = Callable[[Attention], "torch.Tensor | None"]


class Observer(Protocol):
    """What looks at attention, or changes it: an answer [B,heads,L,d] takes the place of what would come of it."""

    def __call__(self, attention: Attention) -> torch.Tensor | None: ...


class _Tap(TorchFunctionMode):
    """Gives every call of attention to a function."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        given = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
        out = None
        if not given.get("is_causal"):  # a text encoder's within the network: nothing of the image
            attention = Attention(
                given["query"], given["key"], given["value"], given.get("attn_mask"), given.get("scale")
            )
            out = self.function(attention)
        return func(*args, **kwargs) if out is None else out


@contextmanager
def tapped(
    networks: Sequence[nn.Module], function: Function, active: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Give every attention of these networks to `function` while they run and `active()` is true.

    The tap is entered with a network's forward, and only while it is active: it costs one to two microseconds for each
    operation of torch. Other threads wait for the networks.

    Raises:
        InputError: for a compiled network; once it has run, if no call was seen.
    """
    seen = 0

    def counted(attention: Attention) -> torch.Tensor | None:
        nonlocal seen
        seen += 1
        return function(attention)

    with held(*networks), ExitStack() as stack:
        for network in networks:
            _check_not_compiled(network)
            stack.enter_context(_native(network))
            entered: list[_Tap] = []
            # torch calls a forward hook after an exception, and not after a KeyboardInterrupt
            stack.callback(_left, entered)

            def enter(*_: Any, entered: list[_Tap] = entered) -> None:
                if active():
                    entered.append(_Tap(counted))
                    entered[-1].__enter__()

            def leave(*_: Any, entered: list[_Tap] = entered, network: nn.Module = network) -> None:
                if entered:
                    entered.pop().__exit__(None, None, None)
                    if not seen:
                        raise _unseen(network)

            stack.callback(network.register_forward_pre_hook(enter).remove)
            stack.callback(network.register_forward_hook(leave, always_call=True).remove)
        yield


def _left(entered: list[_Tap]) -> None:
    """Take off what a forward that did not end has left on."""
    while entered:
        entered.pop().__exit__(None, None, None)


def _unseen(network: nn.Module) -> InputError:
    return InputError(
        f"the attention of the {type(network).__name__} is not seen, as its processors do not use torch's "
        "scaled_dot_product_attention; set its default ones (set_default_attn_processor)"
    )


def _check_not_compiled(network: nn.Module) -> None:
    if any(getattr(m, "_compiled_call_impl", None) is not None or hasattr(m, "_orig_mod") for m in network.modules()):
        raise InputError(
            "the network is compiled, and its attention is not to be reached; give the pipeline uncompiled"
        )


@contextmanager
def _native(network: nn.Module) -> Iterator[None]:
    """torch's own attention in a network that has another backend on, for the time of the block."""
    with ExitStack() as stack:
        unet: Any = network
        processors = getattr(unet, "attn_processors", None) or {}
        if any(type(p).__name__ in _OTHERS for p in processors.values()):
            own = {name: AttnProcessor2_0() if type(p).__name__ in _OTHERS else p for name, p in processors.items()}
            stack.callback(unet.set_attn_processor, dict(processors))
            unet.set_attn_processor(own)
        for module in network.modules():
            processor = getattr(module, "processor", None)
            if hasattr(processor, "_attention_backend"):
                stack.enter_context(swapped(processor, _attention_backend=AttentionBackendName.NATIVE))
        yield


# which tokens are which ---------------------------------------------------------------------------------------------
@dataclass
class AttentionLayout:
    """Where image and text are in the attention of a pipeline, for one batch of prompts.

    Attributes:
        texts: what the network is told.
        size: (h, w) of the latents that the VAE is given.
        tokens: how many tokens the image is; a U-Net has fewer in deeper layers.
        family: what is said of the network.
        spans: for each prompt the spans of the text's tokens, in the order of the keys, [B][T].
        frames: of the latents; 1 for pictures.
        network: the name of its class.
    """

    texts: Texts
    size: tuple[int, int]
    tokens: int
    family: Family
    spans: list[Spans]
    frames: int = 1
    network: str = ""
    _last: tuple[str, int] = field(default=("", 0), repr=False)

    def found(self, attention: Attention) -> Attention | None:
        """The call with its kind, and with where image and text are; None for one that is of no concern.

        Raises:
            InputError: if text and image share it, and no line of `families.py` says where the image is.
        """
        queries, keys = attention.query.shape[2], attention.key.shape[2]
        length = len(self.spans[0])
        shared = attention.query.shape[1] // attention.key.shape[1]
        if shared > 1:  # several heads of queries share one of keys
            key, value = (x.repeat_interleave(shared, 1) for x in (attention.key, attention.value))
            attention = replace(attention, key=key, value=value)
        if self.family.image is None:
            if queries == keys >= self.tokens + self.shortest and keys != length:
                raise InputError(
                    f"text and image share the attention of {a_kind(self.network)}, and nothing says which of its keys "
                    "are the image; give it a line in accord/diffusion/families.py, as CONTRIBUTING says"
                )
            kind: Literal["cross", "self"] = "self" if queries == keys else "cross"
            if queries == keys == length and self._last == ("self", queries):
                kind = "cross"  # as many tokens as pixels: self-attention comes first in every block
            self._last = kind, queries
            return None if kind == "cross" and keys != length else replace(attention, kind=kind)
        if queries != keys:
            return None
        if keys < self.tokens + self.shortest or keys == length:  # of one of the two alone
            return replace(attention, kind="self") if keys == self.tokens else None
        if self.family.image == "first":
            start = -(-self.tokens // self.family.padded) * self.family.padded
            text = slice(start, min(start + length, keys))
            return replace(attention, kind="joint", image=slice(0, self.tokens), text=text)
        image = slice(keys - self.tokens, keys)
        text = slice(self.family.registers, min(self.family.registers + length, image.start))
        return replace(attention, kind="joint", image=image, text=text)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the image in tokens, of one frame."""
        return grid_of(self.tokens // self.frames, self.size)

    @property
    def shortest(self) -> int:
        """How much text there is at least: up to its last token of a prompt."""
        return min(max((i for i, s in enumerate(spans) if s is not None), default=0) + 1 for spans in self.spans)

    @property
    def ragged(self) -> bool:
        """Whether the image is elsewhere in each row, as texts differ in length: then run one prompt at a time."""
        return self.family.ragged and len({sum(s is not None for s in spans) for spans in self.spans}) > 1


def attention_layout(opened: Opened, prompts: Sequence[str]) -> AttentionLayout:
    """Where image and text are in the attention of an opened pipeline.

    Raises:
        InputError: for a pipeline in whose texts the prompts are not found.
    """
    network = opened.networks[0]
    family, texts = family_of(network), read_texts(opened, prompts)
    state = opened.noise(prompts, [torch.Generator().manual_seed(0) for _ in prompts])
    latents = opened.vae_latents(prompts, state)
    names = family.texts or (texts.longest,)
    spans = [[s for name in names for s in texts.spans[name][b]] for b in range(len(prompts))]
    if family.before is not None:
        spans = [[*[None] * count, *s] for count, s in zip(texts.shown[family.before], spans, strict=True)]
    longest = max(map(len, spans))  # Z-Image is told each text at its own length
    spans = [[*s, *[None] * (longest - len(s))] for s in spans]
    tokens = _tokens(network, state, latents)
    frames = latents.shape[2:-2].numel()
    size = latents.shape[-2], latents.shape[-1]
    return AttentionLayout(texts, size, tokens, family, spans, frames, type(network).__name__)


def _tokens(network: nn.Module, state: torch.Tensor, latents: torch.Tensor) -> int:
    """How many tokens a state is: one each if it is packed, else by the network's patches.

    Args:
        latents: what the VAE is given for it, [B,C,...]; a state may have its frames before its channels (CogVideoX).
    """
    if state.dim() == 3:
        return state.shape[1]
    sides = patch_of(network)
    frames = state.shape[1:-2].numel() // latents.shape[1]
    return frames * (state.shape[-2] // sides[0]) * (state.shape[-1] // sides[1])


def grid_of(length: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a layer with `length` pixels in a network whose latents are `size`."""
    h, w = size
    while h * w > length:
        h, w = -(-h // 2), -(-w // 2)
    if h * w != length:
        raise ValueError(f"{length} pixels are no level of latents of {size[0]}x{size[1]}")
    return h, w


@contextmanager
def observed(
    opened: Opened, layout: AttentionLayout, observer: Observer, active: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Give the attention of the prompts' rows to an observer while the pipeline runs and `active()` is true.

    Rows that are not the prompts' (the unconditional ones) and calls without them run as they are.

    Raises:
        InputError: as `tapped`; for prompts whose images would be at other places of a row.
    """
    if layout.ragged:
        raise InputError(
            f"texts of other lengths move the image of {a_kind(opened.pipe)} within its attention; run one "
            "prompt at a time, or prompts of as many tokens"
        )
    rows = layout.texts.rows
    chosen: slice | list[int] = slice(rows[0], rows[-1] + 1) if rows == list(range(rows[0], rows[-1] + 1)) else rows

    def see(attention: Attention) -> torch.Tensor | None:
        if opened.call_of_step != layout.texts.call or len(attention.query) <= rows[-1]:
            return None
        call = layout.found(attention)
        if call is None:
            return None
        out = observer(call.rows(chosen))
        if out is None:
            return None
        out = out.to(attention.query.dtype)
        if len(out) == len(attention.query):
            return out
        rest = [i for i in range(len(attention.query)) if i not in set(rows)]
        whole = torch.empty(len(attention.query), *out.shape[1:], dtype=out.dtype, device=out.device)
        whole[chosen] = out
        left = slice(0, rest[-1] + 1) if rest == list(range(len(rest))) else rest
        whole[left] = call.rows(left).plain()
        return whole

    with tapped(opened.networks, see, active):
        yield
