"""`accord bench tuning-memory`: what tuning a pipeline of real size holds in memory, counted and not measured.

The networks have their published sizes and no weights (torch's meta device): what a forward pass keeps for the backward
pass is added up tensor by tensor, in bfloat16. Attention is taken as fused: it keeps its queries, keys, values and
output. A gradient checkpoint keeps what goes into a block, and the largest block is computed again at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from accord.diffusion.checkpointing import items_of_lists
from accord.diffusion.lora import inject, targets_of
from accord.diffusion.opened import swapped
from accord_lab.bench.report import table
from accord_lab.bench.runner import Bench
from accord_lab.bench.speed_large import NETWORKS, Network

RANK = 32
ADAPTER_BYTES = 20  # of a parameter: itself, its gradient, two moments of AdamW and its average, in float32
HALF = 2  # bytes of a number in bfloat16
CLIP_L: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_L |= {"intermediate_size": 3072, "vocab_size": 49408, "projection_dim": 768}
CLIP_G: dict[str, Any] = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20}
CLIP_G |= {"intermediate_size": 5120, "vocab_size": 49408, "projection_dim": 1280}
T5_XXL: dict[str, Any] = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_layers": 24, "num_heads": 64}
T5_XXL |= {"vocab_size": 32128, "feed_forward_proj": "gated-gelu"}
VAE: dict[str, Any] = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
VAE |= {f"{way}_block_types": (f"{way.title()}EncoderBlock2D",) * 4 for way in ("down",)}
VAE |= {"up_block_types": ("UpDecoderBlock2D",) * 4}
ENCODERS = {
    "Stable Diffusion 1.5": (CLIP_L,),
    "Stable Diffusion XL": (CLIP_L, CLIP_G),
    "Stable Diffusion 3.5 medium": (CLIP_L, CLIP_G, T5_XXL),
    "Flux dev": (CLIP_L, T5_XXL),
}


@dataclass(frozen=True)
class Held:
    """What is kept for the backward pass, in bytes: all of it, or with checkpoints."""

    whole: int
    checkpointed: int


class Fused(torch.autograd.Function):
    """Stands for fused attention: it keeps what a fused kernel keeps, and computes nothing."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        raise NotImplementedError


class Counter:
    """Adds up tensors that are saved, each storage once; parameters are counted elsewhere."""

    def __init__(self, network: nn.Module) -> None:
        self.known = {p.untyped_storage()._cdata for p in (*network.parameters(), *network.buffers())}
        self.alive: list[Any] = []  # so that no address is used again
        self.bytes = 0

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.alive.append(storage)
            self.bytes += storage.nbytes()
        return tensor

    def watching(self) -> saved_tensors_hooks:
        return saved_tensors_hooks(self.add, lambda tensor: tensor)


def held_by(network: nn.Module, inputs: dict[str, Any]) -> Held:
    """What one call of a network keeps for its backward pass."""
    with _fused():
        whole = Counter(network)
        with whole.watching():
            network(**inputs)
        outer, largest = Counter(network), 0

        def block(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            nonlocal largest
            for value in (*args, *kwargs.values()):
                if isinstance(value, torch.Tensor):
                    outer.add(value)
            within = Counter(network)
            within.known |= outer.known
            with within.watching():
                out = run(*args, **kwargs)
            largest = max(largest, within.bytes)
            return out

        with outer.watching(), _in_blocks(network, block):
            network(**inputs)
    return Held(whole.bytes, outer.bytes + largest)


@contextmanager
def _fused() -> Iterator[None]:
    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_args: Any, **_kwargs: Any) -> Any:
        return Fused.apply(query, key, value)  # type: ignore[no-untyped-call]

    with patch.object(torch.nn.functional, "scaled_dot_product_attention", attention):
        yield


@contextmanager
def _in_blocks(network: Any, block: Callable[..., Any]) -> Iterator[None]:
    """As `accord.diffusion.checkpointing.checkpointed` has its checkpoints."""
    with ExitStack() as stack:
        if isinstance(network, UNet2DConditionModel):
            network.enable_gradient_checkpointing(block)
            stack.callback(network.disable_gradient_checkpointing)
        else:
            for one in items_of_lists(network):
                stack.enter_context(swapped(one, forward=partial(block, one.forward)))
        yield


def parameters(kind: Callable[..., nn.Module], *args: Any, **config: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in kind(*args, **config).parameters())


def others(name: str) -> int:
    """Parameters of a pipeline's text encoders and VAE."""
    count = parameters(AutoencoderKL, **VAE)
    for config in ENCODERS[name]:
        if "d_model" in config:
            count += parameters(T5EncoderModel, T5Config(**config))
        else:
            count += parameters(CLIPTextModelWithProjection, CLIPTextConfig(**config))
    return count


def with_adapter(network: Network, whole: bool) -> tuple[nn.Module, int]:
    """The network without weights, its adapter on, and the adapter's parameters."""
    with torch.device("meta"):
        made: Any = nn.Module.to(network.kind(**network.config), network.dtype).requires_grad_(False)
        targets = targets_of(made, whole)
        inject(made, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, init_lora_weights=False), "accord")
    trained = [p for p in made.parameters() if p.requires_grad]
    return made.train(), sum(p.numel() for p in trained)


@dataclass(kw_only=True)
class TuningMemory(Bench[Network, dict[str, Any]]):
    """A row for each of the four pipelines."""

    name = "tuning-memory"

    def cells(self) -> Sequence[Network]:
        found = [n for n in NETWORKS if n.name in ENCODERS]
        return found[:1] if self.quick else found

    def measure(self, cell: Network) -> dict[str, Any]:
        made, attention = with_adapter(cell, False)
        own = sum(p.numel() for p in made.parameters()) - attention
        held = held_by(made, cell.inputs("meta"))
        del made
        return {
            "name": cell.name,
            "side": 8 * cell.side,
            "rows": cell.batch,
            "denoiser": own,
            "others": others(cell.name),
            "adapter": attention,
            "adapter_whole": with_adapter(cell, True)[1],
            "picture": held.whole,
            "picture_checkpointed": held.checkpointed,
        }

    def results(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"rank": RANK, "adapter_bytes": ADAPTER_BYTES, "rows": list(rows)}

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        return f"{_HEAD.format(**data)}\n\n{_table(data)}\n"


_HEAD = """# What tuning holds in memory

Counted tensor by tensor in networks of the published sizes, not measured on a device. Weights and activations are in
bfloat16, the adapter (rank {rank}) with its gradient, AdamW's moments and its average in float32. A picture is one with
its graph; with guidance it is two rows of the network. What comes on top: the reward's judge, the VAE's own activations
while it decodes, and what the allocator leaves unused."""


def _table(data: dict[str, Any]) -> str:
    columns = ["pipeline", "picture", "denoiser", "text and VAE", "adapter", "whole", "weights", "adapter's state"]
    columns += ["a picture", "checkpointed", "in all, 1 picture", "in all, 4 pictures"]
    return table(columns, [_row(row) for row in data["rows"]])


def _row(row: dict[str, Any]) -> list[str]:
    weights = HALF * (row["denoiser"] + row["others"])
    state = ADAPTER_BYTES * row["adapter"]
    together = [weights + state + n * row["picture_checkpointed"] for n in (1, 4)]
    return [
        row["name"],
        f"{row['side']} px, {row['rows']} row{'s' * (row['rows'] > 1)}",
        *(f"{row[k] / 1e6:,.0f} M" for k in ("denoiser", "others")),
        *(f"{row[k] / 1e6:.1f} M" for k in ("adapter", "adapter_whole")),
        *(f"{n / 2**30:.1f} GB" for n in (weights, state, row["picture"], row["picture_checkpointed"], *together)),
    ]
