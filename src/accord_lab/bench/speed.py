"""`accord bench speed`: cost of the modulation beside plain attention and a direct form that keeps every logit.

Letters in shapes: B pictures, L pixels of a layer, T tokens, d channels of a head, N regions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm.auto import tqdm

from accord.diffusion.attention import attention_hook, grid_of
from accord.diffusion.loop import BeforeStep, run, sample
from accord.diffusion.pipelines import sample_size
from accord.embedded import PIPELINE
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.equations import attend, augment, modulated_logits, modulation_strength
from accord.methods.realign.modulation import Modulation, Segments, modulated
from accord_lab.bench.measure import MIB, alone, cuda_peak, here, interleaved, peak_of, rounded
from accord_lab.bench.report import figure_png, stamp, table
from accord_lab.bench.runner import Bench
from accord_lab.recipes.denoiser import build, scheduler

VARIANTS = ("plain", "modulated", "materialised")
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
class Plan:
    """What is measured: networks, then one layer at `sides` (latents) and at `regions` (at `side`)."""

    networks: tuple[Size, ...]
    sides: tuple[int, ...]
    regions: tuple[int, ...]
    side: int
    repeats: int


# the variants -------------------------------------------------------------------------------------------------------
def materialised(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    alpha: torch.Tensor,
    pixel_segments: torch.Tensor,
    key_segments: torch.Tensor,
) -> torch.Tensor:
    """Attention by equation (1) as it is written, [B, heads, L, d]; the arguments are those of `augment`."""
    heads, length, d = query.shape[1:]
    if heads > 1 and len(query) * heads * length * key.shape[2] * query.element_size() > ALL_HEADS_BELOW:
        parts = zip(query.split(1, 1), key.split(1, 1), value.split(1, 1), strict=True)
        return torch.cat([materialised(q, k, v, alpha, pixel_segments, key_segments) for q, k, v in parts], 1)
    related = (pixel_segments @ key_segments.transpose(1, 2))[:, None]
    logits = query @ key.transpose(-1, -2) * d**-0.5
    return modulated_logits(logits, related, alpha[:, None, :, None]).softmax(-1) @ value


class Materialised(Modulation):
    """The same modulation with every logit of the conditional half in memory; the other half is as fused as ever."""

    def __call__(
        self, attn: Attention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cross: bool
    ) -> torch.Tensor:
        (q_free, q), (k_free, k), (v_free, v) = query.chunk(2), key.chunk(2), value.chunk(2)
        pixels = self.segments.at(grid_of(q.shape[2], self.size))
        weight = self.config.cross_weight if cross else self.config.self_weight
        alpha = modulation_strength(pixels, self.segments.omega, weight, self.tau)
        keys = self.segments.tokens.transpose(1, 2) if cross else pixels
        out = materialised(q, k, v, alpha, pixels, keys)
        return torch.cat([scaled_dot_product_attention(q_free, k_free, v_free), out])


@contextmanager
def hooked(pipe: StableDiffusionPipeline, variant: str, segments: Segments) -> Iterator[BeforeStep | None]:
    """One of VARIANTS in the attention of `pipe`; yields the `before_step` for the sampling loop."""
    config = RealignConfig()
    if variant == "plain":
        yield None
    elif variant == "modulated":
        with modulated(pipe, segments, config) as state:
            yield state.before_step
    else:
        direct = Materialised(segments.to(pipe.device, pipe.unet.dtype), config, sample_size(pipe))
        with attention_hook(pipe.unet, direct, lambda: direct.active):
            yield direct.before_step


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


def network(name: str, device: str) -> StableDiffusionPipeline:
    """U-Net and scheduler as a pipeline; texts and pictures are left out, they cost every variant the same.

    The lab's U-Net has its trained weights where they are installed; Stable Diffusion 1.5's has random ones.
    """
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    trained = PIPELINE / "unet"
    if name == "lab" and trained.is_dir():
        unet = UNet2DConditionModel.from_pretrained(trained)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            unet = build(128) if name == "lab" else UNet2DConditionModel(**SD15)
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=unet.to(device, dtype).eval().requires_grad_(False),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class Work:
    """A network with noise, text states and regions for it."""

    def __init__(self, size: Size, device: str) -> None:
        self.pipe = network(size.name, device)
        config, g = self.pipe.unet.config, torch.Generator().manual_seed(0)
        side = sample_size(self.pipe)[0]
        dtype = self.pipe.unet.dtype
        self.latents = torch.randn(size.pictures, config.in_channels, side, side, generator=g).to(device, dtype)
        states = torch.randn(2 * size.pictures, size.tokens, config.cross_attention_dim, generator=g)
        self.states = states.to(device, dtype)
        self.segments = bands(size.pictures, REGIONS, side, size.tokens)

    def denoise(self, variant: str, steps: int) -> torch.Tensor:
        """Latents [B,C,H,W] after a guided run. A single step is a modulated one, with tau = 1 within a percent."""
        with hooked(self.pipe, variant, self.segments) as before_step:
            return run(
                sample(
                    self.pipe,
                    [""] * len(self.latents),
                    num_inference_steps=steps,
                    latents=self.latents,
                    encoder_hidden_states=self.states,
                    before_step=before_step,
                )
            )

    @torch.no_grad()
    def touch(self) -> None:
        """Run the network on latents of 8x8, so that its kernels are loaded before memory is looked at."""
        self.pipe.unet(self.latents[:1, :, :8, :8], 0, self.states[:1])


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
        "dtype": str(work.pipe.unet.dtype).removeprefix("torch."),
        "latents": sample_size(work.pipe)[0],
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
    plain, changed, direct = (outputs[v] for v in VARIANTS)
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
    work: dict[str, Callable[[], torch.Tensor]] = {
        "plain": lambda: scaled_dot_product_attention(q, k, v),
        "modulated": lambda: attend(*augment(q, k, alpha, pixels, pixels), v, head_dim),
        "materialised": lambda: materialised(q, k, v, alpha, pixels, pixels),
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


# the bench ----------------------------------------------------------------------------------------------------------


def _network_table(rows: list[dict[str, Any]]) -> str:
    head = ["U-Net", "variant", "one step, s", "step ratio", "whole run, s", "run ratio", "peak over weights, MiB"]
    body = []
    for r in rows:
        for v in VARIANTS:
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


def _attention_table(rows: list[dict[str, Any]]) -> str:
    head = ["latents", "regions", *(f"{v}, ms" for v in VARIANTS), "modulated ratio", "materialised ratio"]
    head += ["largest tensor of the modulated, elements", "L x L x heads", "max abs difference"]
    body = [
        [f"{r['latents']}x{r['latents']}", r["regions"], *(f"{1000 * r[v]['seconds']:.1f}" for v in VARIANTS)]
        + [f"{r[v]['ratio']:.2f}" for v in VARIANTS[1:]]
        + [f"{r['modulated']['largest_tensor_numel']:,}", f"{r['logits_numel']:,}", f"{r['max_abs_difference']:.1e}"]
        for r in rows
    ]
    return table(head, body, " --- ")


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
    for v in VARIANTS:
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


@dataclass(kw_only=True)
class Speed(Bench[tuple[str, Any], tuple[str, dict[str, Any]]]):
    """Whole networks, then one layer as the picture grows (`resolution`) and as the regions do (`regions`).

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
        ),
        Plan((Size("lab", 4, 32, 10, 5, 2),), sides=(32, 64), regions=(1, 2, 4, 8, 16), side=32, repeats=3),
    )
    device: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.where = here(self.device)

    def cells(self) -> Sequence[tuple[str, Any]]:
        return [
            *(("networks", size) for size in self.plan.networks),
            *(("resolution", (side, REGIONS)) for side in self.plan.sides),
            *(("regions", (self.plan.side, regions)) for regions in self.plan.regions),
        ]

    def measure(self, cell: tuple[str, Any]) -> tuple[str, dict[str, Any]]:
        kind, size = cell
        if kind == "networks":
            return kind, network_row(size, self.where, self.progress)
        side, regions = size
        return kind, attention_row(side, regions, self.plan.repeats, self.where, self.progress)

    def results(self, rows: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        networks, *layer = ([row for of, row in rows if of == kind] for kind in ("networks", "resolution", "regions"))
        attention = dict(zip(("resolution", "regions"), layer, strict=True))
        return rounded({**stamp(self.where), "networks": networks, "attention": attention})

    render = staticmethod(page)

    def pictures(self, data: dict[str, Any]) -> dict[str, bytes]:
        return {".png": plot(data)}


# the page -------------------------------------------------------------------------------------------------------------
