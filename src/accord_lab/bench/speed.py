"""`accord bench speed`: cost of the modulation beside plain attention, attention that is only looked at, and a direct
form that keeps every logit.

Letters in shapes: B pictures, L pixels of a layer, T tokens, d channels of a head, N regions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm.auto import tqdm

from accord.diffusion.families import Family, family_of
from accord.diffusion.spans import Texts
from accord.diffusion.tap import Attention, AttentionLayout, Observer, observed
from accord.embedded import PIPELINE
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.equations import (
    Block,
    joint_attention,
    logit_range,
    modulated_logits,
    modulation_strength,
)
from accord.methods.realign.modulation import Modulation, Segments
from accord_lab.bench.measure import MIB, alone, cuda_peak, here, interleaved, peak_of, rounded
from accord_lab.bench.report import figure_png, stamp, table
from accord_lab.bench.runner import Bench
from accord_lab.recipes.denoiser import build

VARIANTS = ("plain", "tapped", "modulated", "materialised")
HEADS, HEAD_DIM = 8, 40  # of the first level of Stable Diffusion 1.5
REGIONS = 3
ALL_HEADS_BELOW = 2**30  # bytes of logits; above, the direct form takes a head at a time, or it needs 13 GB at 96x96
SD15: dict[str, Any] = {
    "sample_size": 64,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}


@dataclass(frozen=True)
class Size:
    """A U-Net to measure.

    Attributes:
        pictures, tokens: B (guidance doubles it) and T.
        steps: of a whole run.
        step_repeats, run_repeats: rounds; without rounds of whole runs these are projected from the step.
    """

    name: str
    pictures: int
    tokens: int
    steps: int
    step_repeats: int
    run_repeats: int = 0


@dataclass(frozen=True)
class Layer:
    """An attention layer to measure.

    Attributes:
        side: of its square of pixels.
        tokens: of the text beside them in a joint attention; 0 is self-attention.
    """

    name: str
    side: int
    heads: int
    head_dim: int
    tokens: int = 0
    pictures: int = 1


@dataclass(frozen=True)
class Plan:
    """What is measured: networks, layers, then one layer at `sides` (latents) and at `regions` (at `side`)."""

    networks: tuple[Size, ...]
    sides: tuple[int, ...]
    regions: tuple[int, ...]
    side: int
    repeats: int
    layers: tuple[Layer, ...] = ()


# the variants -------------------------------------------------------------------------------------------------------
def materialised(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: Sequence[Block],
    pixel_segments: torch.Tensor,
) -> torch.Tensor:
    """Attention by equation (1) as it is written, [B, heads, L, d]; the arguments are those of `joint_attention`.

    The blocks are all keys, in their order, without bias and exempt keys.
    """
    heads, length, d = query.shape[1:]
    if heads > 1 and len(query) * heads * length * key.shape[2] * query.element_size() > ALL_HEADS_BELOW:
        parts = zip(query.split(1, 1), key.split(1, 1), value.split(1, 1), strict=True)
        return torch.cat([materialised(q, k, v, blocks, pixel_segments) for q, k, v in parts], 1)
    plain = query @ key.transpose(-1, -2) * d**-0.5
    logits = []
    for block in blocks:
        assert block.alpha is not None and block.segments is not None
        related = (pixel_segments @ block.segments.transpose(1, 2))[:, None]
        logits.append(modulated_logits(plain[..., block.keys], related, block.alpha[:, None, :, None]))
    return torch.cat(logits, -1).softmax(-1) @ value


class Materialised(Modulation):
    """The same modulation with every logit of the prompts' rows in memory; the other rows are as fused as ever."""

    @staticmethod
    def _attend(attention: Attention, pixels: torch.Tensor, blocks: list[Block]) -> torch.Tensor:
        return materialised(attention.query, attention.key, attention.value, blocks, pixels)


def _look(attention: Attention) -> None:
    """An observer that changes nothing."""


class Watched:
    """A network whose attention is left alone, looked at or modulated while it runs, as it is in a pipeline.

    Args:
        rows: of its batch that hear a prompt.
        segments: for these rows.
        tokens: of the text.
        family: what is said of the network, if that is not to be looked up.
        image: tokens that the image is; as many as the latents have pixels if 0.
    """

    def __init__(
        self,
        network: nn.Module,
        rows: Sequence[int],
        segments: Segments,
        tokens: int,
        size: tuple[int, int],
        family: Family | None = None,
        image: int = 0,
    ) -> None:
        self.network, self.segments, self.size = network, segments, size
        spans: list[Any] = [[(0, 1)] * tokens for _ in rows]
        family = family or family_of(network)
        self.layout = AttentionLayout(Texts({}, list(rows), call=0), size, image or size[0] * size[1], family, spans)
        self.opened: Any = SimpleNamespace(networks=(network,), call_of_step=0)

    @contextmanager
    def as_variant(self, variant: str) -> Iterator[Callable[[bool], None]]:
        """One of VARIANTS; yields what switches it on or off from one step to the next. It begins on."""
        if variant == "plain":
            yield lambda _: None
            return
        observer: Observer = _look
        if variant != "tapped":
            kind = Materialised if variant == "materialised" else Modulation
            observer = kind(self.segments, RealignConfig(), self.size)
            observer.tau = 1.0
        on = True

        def switch(now: bool) -> None:
            nonlocal on
            on = now

        with observed(self.opened, self.layout, observer, lambda: on):
            yield switch

    @torch.no_grad()
    def denoise(
        self, variant: str, inputs: dict[str, Any], latents: str, steps: int, unprompted_calls: int = 0
    ) -> torch.Tensor:
        """Latents after a run of plain Euler steps, of which the first share is modulated by default; of one, it is.

        Args:
            inputs: of a call of the network.
            latents: which of them is the latents.
            unprompted_calls: of each step, beside the one that hears the prompts.
        """
        x: torch.Tensor = inputs[latents]
        modulated = math.ceil(RealignConfig().modulated_share * steps)
        with self.as_variant(variant) as switch:
            for step in range(steps):
                switch(step < modulated)
                for call in range(1 + unprompted_calls):
                    self.opened.call_of_step = call
                    out = self.network(**{**inputs, latents: x}, return_dict=False)[0]
                x = x - out / steps
        self.opened.call_of_step = 0
        return x


# what they work on --------------------------------------------------------------------------------------------------
def bands(pictures: int, regions: int, side: int, tokens: int) -> Segments:
    """Regions that are bands of rows, the last rows in none of them; two tokens for each region's phrase."""
    band = torch.arange(side) * (regions + 1) // side
    rows = torch.nn.functional.one_hot(band, regions + 1)[:, :regions].T.float()  # [N, side]
    owner = (torch.arange(tokens) - 1).div(2, rounding_mode="floor")  # the first token is BOS
    words = (owner == torch.arange(regions)[:, None]).float()  # [N, T]
    masks = rows[:, :, None].expand(-1, -1, side)
    return Segments(
        masks=masks.expand(pictures, -1, -1, -1).clone(),
        tokens=words.expand(pictures, -1, -1).clone(),
        omega=torch.ones(pictures, regions),
    )


def network(name: str, device: str) -> UNet2DConditionModel:
    """The lab's U-Net with its trained weights where they are installed; Stable Diffusion 1.5's with random ones."""
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    trained = PIPELINE / "unet"
    if name == "lab" and trained.is_dir():
        unet = UNet2DConditionModel.from_pretrained(trained)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            unet = build(128) if name == "lab" else UNet2DConditionModel(**SD15)
    unet = unet.to(device, dtype).eval().requires_grad_(False)
    return unet


class Work:
    """A network with noise, text states and regions for it: a batch with guidance, the prompts' half last."""

    def __init__(self, size: Size, device: str) -> None:
        self.unet = network(size.name, device)
        config, dtype, g = self.unet.config, self.unet.dtype, torch.Generator().manual_seed(0)
        self.side, count = config.sample_size, size.pictures
        latents = torch.randn(count, config.in_channels, self.side, self.side, generator=g).to(device, dtype)
        states = torch.randn(2 * count, size.tokens, config.cross_attention_dim, generator=g).to(device, dtype)
        self.inputs: dict[str, Any] = {
            "sample": torch.cat([latents] * 2),
            "timestep": 500,
            "encoder_hidden_states": states,
        }
        segments = bands(count, REGIONS, self.side, size.tokens).to(torch.device(device), dtype)
        self.watched = Watched(
            self.unet, range(count, 2 * count), segments, size.tokens, (self.side, self.side), family=Family()
        )

    def denoise(self, variant: str, steps: int) -> torch.Tensor:
        """Latents [2B,C,H,W] after a run."""
        return self.watched.denoise(variant, self.inputs, "sample", steps)

    @torch.no_grad()
    def touch(self) -> None:
        """Run the network on latents of 8x8, so that its kernels are loaded before memory is looked at."""
        self.unet(self.inputs["sample"][:1, :, :8, :8], 0, self.inputs["encoder_hidden_states"][:1])


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operator returns, in elements of its storage (a view is what it looks into).

    Only what a fused kernel keeps to itself is not seen: blocks of a size that does not grow with L.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numel = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                size = x.untyped_storage().nbytes()
                self.numel, self.bytes = max(self.numel, size // x.element_size()), max(self.bytes, size)
        return out


def peak_memory(size: Size, variant: str, device: str, work: Work | None = None) -> float:
    """MiB that one step needs at its peak, over the loaded weights.

    On a CPU a fresh process is asked, as an allocator does not give back all that other variants made it take.
    """
    if device.startswith("cuda") and work is not None:
        return cuda_peak(partial(work.denoise, variant, 1), device)
    peak: float = alone(f"the {variant} step of {size.name}", _peak_here, size, variant, device)
    return peak


def _peak_here(size: Size, variant: str, device: str) -> float:
    work = Work(size, device)
    work.touch()
    return peak_of(partial(work.denoise, variant, 1))


# the measurements ---------------------------------------------------------------------------------------------------
def network_row(size: Size, device: str, progress: bool = False) -> dict[str, Any]:
    """Time and peak memory of one step, and time of a whole run, of every variant."""
    on_cuda = device.startswith("cuda")
    peaks = {}
    if not on_cuda:  # before this process holds a network itself
        for variant in tqdm(VARIANTS, desc=f"{size.name}, memory", disable=not progress, leave=False):
            peaks[variant] = peak_memory(size, variant, device)
    work = Work(size, device)
    outputs = {v: work.denoise(v, 1).float() for v in VARIANTS}  # the warm-up
    if on_cuda:
        peaks = {v: peak_memory(size, v, device, work) for v in VARIANTS}
    one = {v: partial(work.denoise, v, 1) for v in VARIANTS}
    step = interleaved(one, size.step_repeats, device, f"{size.name}, step", progress)
    share = share_of_steps(size.steps)
    if size.run_repeats:
        runs = {v: partial(work.denoise, v, size.steps) for v in VARIANTS}
        whole = interleaved(runs, size.run_repeats, device, f"{size.name}, run", progress)
    else:
        ratios = {v: 1 + share * (step[v]["ratio"] - 1) for v in VARIANTS}
        whole = {v: {"seconds": size.steps * step["plain"]["seconds"] * r, "ratio": r} for v, r in ratios.items()}
    return {
        "name": size.name,
        "weights": "trained" if size.name == "lab" and (PIPELINE / "unet").is_dir() else "random",
        "dtype": str(work.unet.dtype).removeprefix("torch."),
        "latents": work.side,
        "pictures": size.pictures,
        "tokens": size.tokens,
        "regions": REGIONS,
        "steps": size.steps,
        "modulated_share": share,
        "step": {v: {**step[v], "peak_mib": peaks[v]} for v in VARIANTS},
        "run": whole,
        "run_is": "measured" if size.run_repeats else "projected from the step",
        **differences(outputs),
    }


def share_of_steps(steps: int) -> float:
    """Share of a run's steps that is modulated by default."""
    return math.ceil(RealignConfig().modulated_share * steps) / steps


def differences(outputs: dict[str, torch.Tensor]) -> dict[str, float]:
    """How far the two forms of the modulation are apart, and how far it moves the plain result."""
    plain, changed, direct = (outputs[v] for v in ("plain", "modulated", "materialised"))
    return {
        "max_abs_difference": float((changed - direct).abs().max()),
        "max_abs_change": float((changed - plain).abs().max()),
    }


@torch.no_grad()
def attention_row(
    side: int,
    regions: int,
    repeats: int,
    device: str,
    progress: bool = False,
    heads: int = HEADS,
    head_dim: int = HEAD_DIM,
) -> dict[str, Any]:
    """One self-attention layer of side * side pixels in float32: time, largest tensor, and whether both forms agree."""
    g, length = torch.Generator().manual_seed(0), side * side
    q, k, v = (torch.randn(1, heads, length, head_dim, generator=g).to(device) for _ in range(3))
    segments = bands(1, regions, side, 2 * regions + 1).to(torch.device(device), q.dtype)
    pixels = segments.at((side, side))
    alpha = modulation_strength(pixels, segments.omega, RealignConfig().self_weight, tau=1.0)
    blocks = [Block(slice(None), alpha, pixels)]
    work: dict[str, Callable[[], torch.Tensor]] = {
        "plain": lambda: scaled_dot_product_attention(q, k, v),
        "modulated": lambda: joint_attention(q, k, v, blocks, pixels),
        "materialised": lambda: materialised(q, k, v, blocks, pixels),
    }
    outputs, largest = {}, {}
    for name, function in work.items():  # the warm-up
        with Largest() as seen:
            outputs[name] = function()
        largest[name] = {"largest_tensor_numel": seen.numel, "largest_tensor_bytes": seen.bytes}
    times = interleaved(work, repeats, device, f"attention, {side}x{side}, {regions} regions", progress)
    numel = heads * length * length
    return {
        "latents": side,
        "pixels": length,
        "heads": heads,
        "head_dim": head_dim,
        "regions": regions,
        "logits_numel": numel,
        "logits_bytes": numel * q.element_size(),
        "materialised_heads_at_once": largest["materialised"]["largest_tensor_numel"] // length**2,
        **{name: {**times[name], **largest[name]} for name in work},
        **differences(outputs),
    }


class Attend(nn.Module):
    """A network that is one attention layer."""

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(query, key, value)


@torch.no_grad()
def layer_row(layer: Layer, repeats: int, device: str, progress: bool = False) -> dict[str, Any]:
    """One layer of a network in float32, all of its rows with a prompt: each variant, and the range of logits alone."""
    g, size, text = torch.Generator().manual_seed(0), (layer.side, layer.side), layer.tokens
    count = text + layer.side**2
    shape = layer.pictures, layer.heads, count, layer.head_dim
    q, k, v = (torch.randn(shape, generator=g).to(device) for _ in range(3))
    segments = bands(layer.pictures, REGIONS, layer.side, text or 2 * REGIONS + 1).to(torch.device(device), q.dtype)
    family, rows = Family("last" if text else None), range(layer.pictures)
    watched = Watched(Attend(), rows, segments, text or 1, size, family, image=layer.side**2)

    def attention(variant: str) -> torch.Tensor:
        with watched.as_variant(variant):
            out: torch.Tensor = watched.network(q, k, v)
            return out

    def ranges() -> None:
        for keys in (slice(text), slice(text, None)) if text else (slice(None),):
            logit_range(q[:, :, text:], k[:, :, keys], layer.head_dim**-0.5)

    work: dict[str, Callable[[], object]] = {variant: partial(attention, variant) for variant in VARIANTS}
    outputs = {variant: attention(variant) for variant in VARIANTS}  # the warm-up
    work["range"] = ranges
    times = interleaved(work, repeats, device, f"{layer.name}, {layer.side}x{layer.side}", progress)
    return {
        "name": layer.name,
        "pictures": layer.pictures,
        "pixels": layer.side**2,
        "tokens": text,
        "heads": layer.heads,
        "head_dim": layer.head_dim,
        "regions": REGIONS,
        **times,
        **differences(outputs),
    }


# the bench ----------------------------------------------------------------------------------------------------------


def _network_table(rows: list[dict[str, Any]]) -> str:
    head = ["U-Net", "variant", "one step, s", "step ratio", "whole run, s", "run ratio", "peak over weights, MiB"]
    body = []
    for r in rows:
        for v in (v for v in VARIANTS if v in r["step"]):
            step, whole = r["step"][v], r["run"][v]
            times = (f"{x:.3g}" for x in (step["seconds"], step["ratio"], whole["seconds"], whole["ratio"]))
            body.append([r["name"], v, *times, f"{step['peak_mib']:.0f}"])
    notes = [
        f"{r['name']}: {r['pictures']} picture(s), guided, latents {r['latents']}x{r['latents']}, "
        f"{r['tokens']} tokens, {r['regions']} regions, {r['weights']} weights, {r['dtype']}; "
        f"whole run of {r['steps']} steps, "
        f"{r['modulated_share']:.0%} of them modulated, {r['run_is']}; both forms of the modulation differ by "
        f"{r['max_abs_difference']:.1e} at most where it moves the latents by up to {r['max_abs_change']:.1e}."
        for r in rows
    ]
    return "\n\n".join([table(head, body, " --- "), *notes])


def _layer_table(rows: list[dict[str, Any]]) -> str:
    ways = [*VARIANTS[1:], "range"]
    head = ["layer", "pixels", "text tokens", "heads x channels", "plain, ms", *(f"{v} ratio" for v in ways)]
    body = []
    for r in rows:
        shape = f"{r['heads']} x {r['head_dim']}", f"{1000 * r['plain']['seconds']:.3g}"
        ratios = (f"{r[v]['ratio']:.2f}" for v in ways)
        body.append([r["name"], r["pixels"], r["tokens"] or "-", *shape, *ratios, f"{r['max_abs_difference']:.1e}"])
    return table([*head, "max abs difference"], body, " --- ")


LAYERED = ("plain", "modulated", "materialised")  # one layer, without a network around it


def _attention_table(rows: list[dict[str, Any]]) -> str:
    head = ["latents", "regions", *(f"{v}, ms" for v in LAYERED), "modulated ratio", "materialised ratio"]
    head += ["largest tensor of the modulated, elements", "L x L x heads", "max abs difference"]
    body = [
        [f"{r['latents']}x{r['latents']}", r["regions"], *(f"{1000 * r[v]['seconds']:.1f}" for v in LAYERED)]
        + [f"{r[v]['ratio']:.2f}" for v in LAYERED[1:]]
        + [f"{r['modulated']['largest_tensor_numel']:,}", f"{r['logits_numel']:,}", f"{r['max_abs_difference']:.1e}"]
        for r in rows
    ]
    return table(head, body, " --- ")


def _layers(data: dict[str, Any]) -> list[str]:
    """The layers' part of the page; results of before have none."""
    if not data.get("layers"):
        return []
    note = (
        "Ratios are to plain attention of the same layer, for rows of the batch that hear a prompt, in float32. "
        "`tapped`: looked at and not changed. `range`: the smallest and largest logit of each query by itself; it is a "
        "part of `modulated`."
    )
    return ["## Layers of real networks", note, _layer_table(data["layers"])]


def page(data: dict[str, Any]) -> str:
    """The tables, in Markdown."""
    layer = data["attention"]
    return "\n\n".join(
        [
            "# Cost of the modulation",
            f"Device {data['device']}, {data['threads']} threads, torch {data['torch']}"
            f"{', quick' if data['quick'] else ''}. "
            "Variants took turns in one run; ratios are to plain, medians over rounds.",
            "## Whole networks",
            _network_table(data["networks"]),
            *_layers(data),
            f"## One self-attention layer, {HEADS} heads of {HEAD_DIM} channels, growing with the picture",
            _attention_table(layer["resolution"]),
            f"Above {ALL_HEADS_BELOW / 2**30:.0f} GiB of logits the materialised form takes a head at a time.",
            "## The same layer, growing with the number of regions",
            _attention_table(layer["regions"]) + "\n",
        ]
    )


def plot(data: dict[str, Any]) -> bytes:
    """PNG: time and largest tensor against resolution, time against the number of regions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    by_side, by_regions = data["attention"]["resolution"], data["attention"]["regions"]
    sides = [r["latents"] for r in by_side]
    for v in LAYERED:
        axes[0].plot(sides, [1000 * r[v]["seconds"] for r in by_side], "o-", label=v)
        # a head at a time or not, the direct form is one that has all logits
        largest = [r["logits_bytes"] if v == "materialised" else r[v]["largest_tensor_bytes"] for r in by_side]
        axes[1].plot(sides, [b / MIB for b in largest], "o-", label=v)
        axes[2].plot([r["regions"] for r in by_regions], [r[v]["ratio"] for r in by_regions], "o-", label=v)
    side = "side of the latents"
    labels = ((side, "ms"), (side, "largest tensor, MiB"), ("regions", "time / plain"))
    for ax, (x, y) in zip(axes, labels, strict=True):
        ax.set(xlabel=x, ylabel=y, yscale="log")
        ax.grid(alpha=0.3, which="both")
    axes[0].set_xticks(sides)
    axes[1].set_xticks(sides)
    axes[2].set(yscale="linear", ylim=(0, None), xticks=[r["regions"] for r in by_regions])
    axes[0].legend()
    return figure_png(figure)


LAYERS = (
    Layer("lab", 16, 2, 32, pictures=4),
    Layer("Stable Diffusion 1.5", 64, 8, 40),
    Layer("Stable Diffusion 1.5", 32, 8, 80),
    Layer("Stable Diffusion XL", 64, 10, 64),
    Layer("Stable Diffusion XL", 32, 20, 64),
    Layer("Flux, 512x512", 32, 24, 128, tokens=512),
)


@dataclass(kw_only=True)
class Speed(Bench[tuple[str, Any], tuple[str, dict[str, Any]]]):
    """Whole networks, layers of real ones, then one layer as the picture grows (`resolution`) and as the regions do
    (`regions`).

    Raises:
        InputError: for a device that is not here, or if the memory is not enough.
    """

    name = "speed"
    plans = (
        Plan(
            (Size("lab", 4, 32, 25, 15, 5), Size("sd15", 1, 77, 25, 3)),
            sides=(32, 64, 96),
            regions=(1, 2, 4, 8, 16),
            side=64,
            repeats=3,
            layers=LAYERS,
        ),
        Plan(
            (Size("lab", 4, 32, 10, 5, 2),),
            sides=(32, 64),
            regions=(1, 2, 4, 8, 16),
            side=32,
            repeats=3,
            layers=tuple(layer for layer in LAYERS if layer.side < 64),
        ),
    )
    device: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.where = here(self.device)

    def cells(self) -> Sequence[tuple[str, Any]]:
        return [
            *(("networks", size) for size in self.plan.networks),
            *(("layers", layer) for layer in self.plan.layers),
            *(("resolution", (side, REGIONS)) for side in self.plan.sides),
            *(("regions", (self.plan.side, regions)) for regions in self.plan.regions),
        ]

    def measure(self, cell: tuple[str, Any]) -> tuple[str, dict[str, Any]]:
        kind, size = cell
        if kind == "networks":
            return kind, network_row(size, self.where, self.progress)
        if kind == "layers":
            return kind, layer_row(size, self.plan.repeats, self.where, self.progress)
        side, regions = size
        return kind, attention_row(side, regions, self.plan.repeats, self.where, self.progress)

    def results(self, rows: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        found = {
            kind: [row for of, row in rows if of == kind] for kind in ("networks", "layers", "resolution", "regions")
        }
        attention = {kind: found[kind] for kind in ("resolution", "regions")}
        more = {"networks": found["networks"], "layers": found["layers"], "attention": attention}
        return rounded({**stamp(self.where), **more})

    render = staticmethod(page)

    def pictures(self, data: dict[str, Any]) -> dict[str, bytes]:
        return {".png": plot(data)}
