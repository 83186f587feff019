"""`accord bench speed-large`: what the modulation costs in networks of real size, Stable Diffusion 1.5 to Qwen-Image,
with random weights.

One call of the network at its own picture size, then whole runs: plain, looked at and modulated, in turns. No text
encoder and no VAE: they cost all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import (
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope

from accord.types import InputError
from accord_lab.bench.measure import cuda_peak, here, interleaved, rounded
from accord_lab.bench.report import stamp, table
from accord_lab.bench.runner import Bench
from accord_lab.bench.speed import REGIONS, SD15, Watched, bands

VARIANTS = ("plain", "tapped", "modulated")
STEPS = 25  # of a whole run
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
SD35: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
    "dual_attention_layers": tuple(range(13)),
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
QWEN: dict[str, Any] = {
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 60,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 3584,
}


@dataclass(frozen=True)
class Network:
    """A denoiser by its configuration.

    Attributes:
        side: of the latents.
        tokens: of the text that it takes.
        batch: pictures of one call; 2 is one picture with guidance, whose second row hears the prompt.
        unprompted_calls: of a step; 1 is guidance by a call of its own.
    """

    name: str
    kind: type[torch.nn.Module]
    config: dict[str, Any]
    side: int
    tokens: int
    batch: int
    unprompted_calls: int = 0
    dtype: torch.dtype = torch.bfloat16

    @property
    def latents(self) -> str:
        """Which input is the latents."""
        return "sample" if issubclass(self.kind, UNet2DConditionModel) else "hidden_states"

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
        if isinstance(network, QwenImageTransformer2DModel):  # its angles are no parameters, and have been made nowhere
            network.pos_embed = QwenEmbedRope(10000, list(network.config.axes_dims_rope), scale_rope=True)
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
        if issubclass(self.kind, SD3Transformer2DModel):
            return common | {
                "hidden_states": random(batch, self.config["in_channels"], side, side),
                "pooled_projections": random(batch, self.config["pooled_projection_dim"]),
            }
        common |= {
            "hidden_states": random(batch, (side // 2) ** 2, self.config["in_channels"]),
            "timestep": torch.full((batch,), 0.5, device=device, dtype=self.dtype),
        }
        if issubclass(self.kind, QwenImageTransformer2DModel):
            return common | {"img_shapes": [[(1, side // 2, side // 2)]] * batch}
        rows = torch.cartesian_prod(torch.zeros(1), torch.arange(side / 2), torch.arange(side / 2)).to(device)
        return common | {
            "pooled_projections": random(batch, self.config["pooled_projection_dim"]),
            "guidance": torch.full((batch,), 3.5, device=device, dtype=self.dtype),
            "img_ids": rows,
            "txt_ids": torch.zeros(self.tokens, 3, device=device),
        }

    def watched(self, network: torch.nn.Module, device: str) -> Watched:
        """The network with regions for the row that hears the prompt."""
        segments = bands(1, REGIONS, self.side, self.tokens).to(torch.device(device), self.dtype)
        size = (self.side, self.side)
        image = 0 if issubclass(self.kind, UNet2DConditionModel) else (self.side // 2) ** 2
        return Watched(network, [self.batch - 1], segments, self.tokens, size, image=image)


NETWORKS = (
    Network("Stable Diffusion 1.5", UNet2DConditionModel, SD15, 64, 77, 2),
    Network("Stable Diffusion XL", UNet2DConditionModel, SDXL, 128, 77, 2),
    Network("Stable Diffusion 3.5 medium", SD3Transformer2DModel, SD35, 128, 77 + 256, 2),
    Network("Flux dev", FluxTransformer2DModel, FLUX, 128, 512, 1),
    Network("Qwen-Image", QwenImageTransformer2DModel, QWEN, 128, 128, 1, unprompted_calls=1),
)


@torch.no_grad()
def row_of(size: Network, device: str, plan: Plan, progress: bool = False) -> dict[str, Any]:
    """Seconds and ratios of one call that hears the prompt and of a whole run, and MiB at the call's peak over the
    weights (on CUDA), of each variant.
    """
    network, inputs = size.build(device), size.inputs(device)
    watched = size.watched(network, device)
    call = {v: partial(watched.denoise, v, inputs, size.latents, 1) for v in VARIANTS}
    whole = {v: partial(watched.denoise, v, inputs, size.latents, STEPS, size.unprompted_calls) for v in VARIANTS}
    outputs = {v: function().float() for v, function in call.items()}  # the warm-up
    peaks = {v: cuda_peak(function, device) if device.startswith("cuda") else None for v, function in call.items()}
    cells = interleaved(call, plan.repeats, device, size.name, progress)
    runs = interleaved(whole, plan.run_repeats, device, f"{size.name}, run", progress)
    moved = outputs["modulated"] - outputs["plain"]
    return {
        "name": size.name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "latents": size.side,
        "tokens": size.tokens,
        "batch": size.batch,
        "calls": 1 + size.unprompted_calls,
        "regions": REGIONS,
        "dtype": str(size.dtype).removeprefix("torch."),
        **{v: {**cells[v], "peak_mib": peaks[v]} for v in VARIANTS},
        "run": runs,
        "run_ratio": runs["modulated"]["ratio"],
        "finite": all(bool(x.isfinite().all()) for x in outputs.values()),
        "relative_change": float(moved.norm() / (outputs["plain"] - inputs[size.latents].float()).norm()),
        "tapped_is_plain": torch.equal(outputs["tapped"], outputs["plain"]),
    }


@dataclass(frozen=True)
class Plan:
    """What is measured, and in how many turns: on a GPU of today all of it takes less than ten minutes."""

    networks: tuple[Network, ...] = NETWORKS
    repeats: int = 10
    run_repeats: int = 2


@dataclass(kw_only=True)
class SpeedLarge(Bench[Network, dict[str, Any]]):
    """Seconds and ratios of one call and of a whole run of each network, and the call's peaks of memory.

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
                "networks of this size are measured on a GPU (Qwen-Image needs 45 GB of it); give cuda as `device`"
            )

    def cells(self) -> Sequence[Network]:
        return list(self.plan.networks)

    def measure(self, cell: Network) -> dict[str, Any]:
        return row_of(cell, self.where, self.plan, self.progress)

    def results(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return rounded({**stamp(self.where), "repeats": self.plan.repeats, "rows": list(rows)})

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        runs = all("run" in r for r in data["rows"])  # results of before have none: their runs are projected
        names = VARIANTS if runs else ("plain", "modulated")
        head = ["network", "parameters, 1e9", *(f"{v}, ms" for v in names), "ratio", f"ratio of {STEPS} steps"]
        head += [f"tapped, ratio of {STEPS} steps"] if runs else []
        rows = []
        for r in data["rows"]:
            ways = [r[v] for v in names]
            rows.append(
                [
                    r["name"],
                    f"{r['parameters'] / 1e9:.2f}",
                    *(f"{1000 * way['seconds']:.1f}" for way in ways),
                    f"{r['modulated']['ratio']:.2f}",
                    f"{r['run_ratio']:.2f}",
                    *([f"{r['run']['tapped']['ratio']:.2f}"] if runs else []),
                    *("-" if r[v]["peak_mib"] is None else f"{r[v]['peak_mib']:.0f}" for v in ("plain", "modulated")),
                ]
            )
        notes = [
            f"- {r['name']}: batch {r['batch']}, latents {r['latents']}x{r['latents']}, {r['tokens']} tokens, "
            f"{r['dtype']}; the modulation moves the output by {r['relative_change']:.2g} of its norm.\n"
            for r in data["rows"]
        ]
        ways_of = "plain, looked at and modulated" if runs else "plain and modulated"
        of_runs = f" Whole runs of {STEPS} steps, 40 % of them modulated, take turns likewise." if runs else ""
        return (
            "# Cost of the modulation at real sizes\n\n"
            f"Device {data['device']}, torch {data['torch']}. Networks of the real classes and sizes with random "
            f"weights, {REGIONS} regions; one call, {ways_of} in turns: medians over {data['repeats']} "
            f"rounds.{of_runs} Peaks are over the weights.\n\n"
            + table([*head, "plain, peak MiB", "modulated, peak MiB"], rows)
            + "\n\n"
            + "".join(notes)
        )
