"""`accord bench speed-large`: what the modulation costs in networks of real size, Stable Diffusion 1.5 to Flux, with
random weights.

One call of the network at its own picture size, plain and modulated, in turns. No text encoder and no VAE: they cost
both the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel

from accord.diffusion.attention import attention_hook
from accord.diffusion.joint import joint_hook
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.modulation import Modulation
from accord.types import InputError
from accord_lab.bench.measure import cuda_peak, here, interleaved, rounded
from accord_lab.bench.report import stamp, table
from accord_lab.bench.runner import Bench
from accord_lab.bench.speed import REGIONS, SD15, bands, share_of_steps

STEPS = 25  # of the run that is projected
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD3: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
FLUX: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
}


@dataclass(frozen=True)
class Network:
    """A denoiser by its configuration.

    Attributes:
        side: of the latents.
        tokens: of the text that it takes.
        batch: pictures of one call; 2 is one picture with guidance.
        dtype: that such pipelines are run in on a GPU.
    """

    name: str
    kind: type[torch.nn.Module]
    config: dict[str, Any]
    side: int
    tokens: int
    batch: int
    dtype: torch.dtype

    def build(self, device: str) -> torch.nn.Module:
        """With random weights, made where they are used: in float32 Flux's would need 48 GB."""
        with torch.device("meta"):
            network = self.kind(**self.config)
        network = (
            torch.nn.Module.to(network, self.dtype).to_empty(device=device).eval().requires_grad_(False)
        )  # its own `to` warns of nothing
        g = torch.Generator(device).manual_seed(0)
        for name, x in (*network.named_parameters(), *network.named_buffers()):
            if x.ndim > 1 or not name.endswith(("weight", "bias")):  # about as spread as what comes in
                x.normal_(0, x[0].numel() ** -0.5 if x.ndim > 1 else 1, generator=g)
            else:
                x.fill_(float(name.endswith("weight")))
        return network

    def inputs(self, device: str) -> dict[str, Any]:
        """What one call is given, at the middle of the process."""
        g = torch.Generator().manual_seed(0)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=g).to(device, self.dtype)

        batch, side = self.batch, self.side
        width: int = self.config[
            "joint_attention_dim" if "joint_attention_dim" in self.config else "cross_attention_dim"
        ]
        common = {
            "encoder_hidden_states": random(batch, self.tokens, width),
            "timestep": torch.full((batch,), 500.0, device=device),
        }
        if issubclass(self.kind, UNet2DConditionModel):
            pooled = self.config.get("projection_class_embeddings_input_dim", 0) - 6 * self.config.get(
                "addition_time_embed_dim", 0
            )
            more = (
                {"added_cond_kwargs": {"text_embeds": random(batch, pooled), "time_ids": random(batch, 6)}}
                if pooled
                else {}
            )
            return common | {"sample": random(batch, 4, side, side)} | more
        common |= {"pooled_projections": random(batch, self.config["pooled_projection_dim"])}
        if issubclass(self.kind, SD3Transformer2DModel):
            return common | {"hidden_states": random(batch, self.config["in_channels"], side, side)}
        rows = torch.cartesian_prod(torch.zeros(1), torch.arange(side / 2), torch.arange(side / 2)).to(device)
        return common | {
            "hidden_states": random(batch, (side // 2) ** 2, self.config["in_channels"]),
            "timestep": torch.full((batch,), 0.5, device=device, dtype=self.dtype),
            "guidance": torch.full((batch,), 3.5, device=device, dtype=self.dtype),
            "img_ids": rows,
            "txt_ids": torch.zeros(self.tokens, 3, device=device),
        }

    def hooked(self, network: Any, state: Modulation) -> AbstractContextManager[None]:
        if issubclass(self.kind, UNet2DConditionModel):
            return attention_hook(network, state)
        return joint_hook(network, state.joint, self.tokens)


NETWORKS = (
    Network("Stable Diffusion 1.5", UNet2DConditionModel, SD15, 64, 77, 2, torch.float16),
    Network("Stable Diffusion XL", UNet2DConditionModel, SDXL, 128, 77, 2, torch.float16),
    Network("Stable Diffusion 3 medium", SD3Transformer2DModel, SD3, 128, 77 + 256, 2, torch.float16),
    Network("Flux dev", FluxTransformer2DModel, FLUX, 128, 512, 1, torch.bfloat16),
)


@torch.no_grad()
def row_of(size: Network, device: str, repeats: int, progress: bool = False) -> dict[str, Any]:
    """Seconds of one call, their ratio, and MiB at the peak over the weights (on CUDA), plain and modulated."""
    network, inputs = size.build(device), size.inputs(device)
    segments = bands(1, REGIONS, size.side, size.tokens).to(torch.device(device), size.dtype)
    state = Modulation(segments, RealignConfig(), (size.side, size.side))
    state.tau = 1.0

    def call(around: Callable[[], AbstractContextManager[None]]) -> torch.Tensor:
        with around():
            out: torch.Tensor = network(**inputs, return_dict=False)[0]
            return out

    work = {"plain": partial(call, nullcontext), "modulated": partial(call, partial(size.hooked, network, state))}
    outputs = {name: function().float() for name, function in work.items()}  # the warm-up
    peaks = {
        name: cuda_peak(function, device) if device.startswith("cuda") else None for name, function in work.items()
    }
    cells = interleaved(work, repeats, device, size.name, progress)
    return {
        "name": size.name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "latents": size.side,
        "tokens": size.tokens,
        "batch": size.batch,
        "regions": REGIONS,
        "dtype": str(size.dtype).removeprefix("torch."),
        **{name: {**cells[name], "peak_mib": peaks[name]} for name in work},
        "run_ratio": 1 + share_of_steps(STEPS) * (cells["modulated"]["ratio"] - 1),
        "finite": all(bool(x.isfinite().all()) for x in outputs.values()),
        "relative_change": float((outputs["modulated"] - outputs["plain"]).norm() / outputs["plain"].norm()),
    }


@dataclass(frozen=True)
class Plan:
    """What is measured, and in how many turns."""

    networks: tuple[Network, ...] = NETWORKS
    repeats: int = 20


@dataclass(kw_only=True)
class SpeedLarge(Bench[Network, dict[str, Any]]):
    """Seconds, their ratio and peaks of one call of each network.

    Raises:
        InputError: for a device that is not here, or without a GPU.
    """

    name = "speed-large"
    plans = (Plan(),)
    device: str | None = None

    def __post_init__(self) -> None:
        if self.quick:
            raise InputError("the bench speed-large has no quick plan; leave `quick` out")
        super().__post_init__()
        self.where = here(self.device)
        if self.plan.networks is NETWORKS and not self.where.startswith("cuda"):
            raise InputError(
                "networks of this size are measured on a GPU (Flux needs 30 GB of it); give cuda as `device`"
            )

    def cells(self) -> Sequence[Network]:
        return list(self.plan.networks)

    def measure(self, cell: Network) -> dict[str, Any]:
        return row_of(cell, self.where, self.plan.repeats, self.progress)

    def results(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return rounded({**stamp(self.where), "repeats": self.plan.repeats, "rows": list(rows)})

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        head = ["network", "parameters, 1e9", "plain, ms", "modulated, ms", "ratio", f"ratio of {STEPS} steps"]
        rows = []
        for r in data["rows"]:
            ways = (r["plain"], r["modulated"])
            rows.append(
                [
                    r["name"],
                    f"{r['parameters'] / 1e9:.2f}",
                    *(f"{1000 * way['seconds']:.1f}" for way in ways),
                    f"{r['modulated']['ratio']:.2f}",
                    f"{r['run_ratio']:.2f}",
                    *("-" if way["peak_mib"] is None else f"{way['peak_mib']:.0f}" for way in ways),
                ]
            )
        notes = [
            f"- {r['name']}: batch {r['batch']}, latents {r['latents']}x{r['latents']}, {r['tokens']} tokens, "
            f"{r['dtype']}; the modulation moves the output by {r['relative_change']:.2g} of its norm.\n"
            for r in data["rows"]
        ]
        return (
            "# Cost of the modulation at real sizes\n\n"
            f"Device {data['device']}, torch {data['torch']}. Networks of the real classes and sizes with random "
            f"weights, {REGIONS} regions; one call, plain and modulated in turns: medians over {data['repeats']} "
            "rounds. Peaks are over the weights.\n\n"
            + table([*head, "plain, peak MiB", "modulated, peak MiB"], rows)
            + "\n\n"
            + "".join(notes)
        )
