"""`accord bench context --cost`: time of sampling with context as a multiple of the plain one's, in turn in one run on
idle cores.

Networks alone: texts and pictures cost both the same. The relational network is fresh, since time does not depend on
what it has learned.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from tqdm.auto import tqdm

from accord.diffusion.loop import run, sample
from accord.diffusion.pipelines import Conditioning, latent_scheduler, sample_size
from accord.files import check_writable, write_file
from accord.methods.context.pipeline import new_relation, relation_of
from accord.methods.context.schedulers import ContextDDIMScheduler
from accord_lab.bench.context import reduced_unet, with_unet
from accord_lab.bench.speed import network

TOKENS = 77


@dataclass(frozen=True)
class Size:
    """What is timed: a network, and how much of it."""

    name: str
    of: str  # "lab" or "sd15"
    reduced: bool
    pictures: int
    steps: int


SIZES = (
    Size("the lab's denoiser", "lab", False, 8, 25),
    Size("the reduced one of the runs from nothing", "lab", True, 8, 25),
    Size("Stable Diffusion 1.5's architecture", "sd15", False, 1, 2),
)


def main(out: Path, quick: bool = False, progress: bool = True) -> tuple[dict[str, Any], str]:
    """Writes `context-cost.json` and `.md` (`context-cost-quick.*` with `quick`, which leaves the largest out)."""
    check_writable(out)
    repeats = 2 if quick else 7
    rows = [measured(size, repeats, progress) for size in (SIZES[:2] if quick else SIZES)]
    data = {
        "bench": "context --cost",
        "quick": quick,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "rows": rows,
    }
    lines = [
        "| network | parameters | of the relational network | its share | plain, s a step | with context | ratio, "
        "median | lowest to highest |",
        "|" + "---|" * 8,
    ]
    lines += [
        f"| {r['name']} | {r['parameters'] / 1e6:.1f} M | {r['relation_parameters'] / 1e6:.2f} M | "
        f"{100 * r['relation_parameters'] / r['parameters']:.1f} % "
        f"| {r['plain_seconds']:.3f} | {r['context_seconds']:.3f} | {r['ratio']:.3f} | {r['ratio_range'][0]:.3f} to "
        f"{r['ratio_range'][1]:.3f} |"
        for r in rows
    ]
    text = (
        "# Cost of sampling with context\n\n"
        f"Guided DDIM, {data['threads']} CPU threads, plain and with context in turn, {repeats} times after a "
        "warm-up; seconds are medians, of "
        f"{SIZES[0].pictures} pictures at the lab's size and of one at Stable Diffusion 1.5's.\n\n"
        + "\n".join(lines)
        + "\n"
    )
    stem = "context-cost-quick" if quick else "context-cost"
    write_file(out / f"{stem}.json", (json.dumps(data, indent=1) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    return data, text


def measured(size: Size, repeats: int, progress: bool) -> dict[str, Any]:
    """Seconds a step of both ways, in turn, and the ratio of each turn."""
    pipe = network(size.of, "cpu")
    if size.reduced:
        pipe = with_unet(pipe, reduced_unet(pipe).eval().requires_grad_(False))
    relation = new_relation(pipe).eval().requires_grad_(False)
    g, side, width = torch.Generator().manual_seed(0), sample_size(pipe)[0], pipe.unet.config.cross_attention_dim
    noise = torch.randn(size.pictures, pipe.unet.config.in_channels, side, side, generator=g)
    conditioning = Conditioning(torch.randn(2 * size.pictures, TOKENS, width, generator=g))
    plain: list[float] = []
    shifted: list[float] = []
    for _ in tqdm(range(repeats + 1), desc=size.name, disable=not progress):
        for times, r in ((plain, None), (shifted, relation_of(relation, conditioning.states[-size.pictures :]))):
            began = time.perf_counter()
            run(steps_of(pipe, r, noise, conditioning, size.steps))
            times.append((time.perf_counter() - began) / size.steps)
    plain, shifted = plain[1:], shifted[1:]  # the first were the warm-up
    ratios = sorted(b / a for a, b in zip(plain, shifted, strict=True))
    return {
        "name": size.name,
        "parameters": sum(p.numel() for p in pipe.unet.parameters()),
        "relation_parameters": sum(p.numel() for p in relation.parameters()),
        "plain_seconds": round(median(plain), 4),
        "context_seconds": round(median(shifted), 4),
        "ratio": round(median(ratios), 4),
        "ratio_range": [round(ratios[0], 4), round(ratios[-1], 4)],
    }


def steps_of(
    pipe: StableDiffusionPipeline, relation: Any, noise: torch.Tensor, conditioning: Conditioning, count: int
) -> Any:
    """The loop as `generate --context` runs it."""
    return sample(
        pipe,
        [""] * len(noise),
        num_inference_steps=count,
        guidance_scale=5.0,
        latents=noise,
        conditioning=conditioning,
        scheduler=latent_scheduler(ContextDDIMScheduler, pipe),
        step_kwargs={"relation": relation},
    )
