"""`accord bench context-cost`: time of sampling with context as a multiple of the plain one's, in turns on idle cores.

Networks alone: texts and pictures cost both the same. The relational network is fresh, since time does not depend on
what it has learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from accord.diffusion.loop import run, sample
from accord.diffusion.pipelines import Conditioning, latent_scheduler, sample_size
from accord.methods.context.pipeline import new_relation, relation_of
from accord.methods.context.schedulers import ContextDDIMScheduler
from accord_lab.bench.context import reduced_unet, with_unet
from accord_lab.bench.measure import ratios, turns
from accord_lab.bench.report import stamp, table
from accord_lab.bench.runner import Bench
from accord_lab.bench.speed import network
from accord_lab.recipes.denoiser import scheduler

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


@dataclass(frozen=True)
class Plan:
    """What is timed, and in how many turns."""

    sizes: tuple[Size, ...]
    repeats: int


@dataclass(kw_only=True)
class ContextCost(Bench[Size, dict[str, Any]]):
    """Seconds a step of both ways, in turn, and the ratio of each turn."""

    name = "context-cost"
    plans = (Plan(SIZES, 7), Plan(SIZES[:2], 2))  # without the largest

    def cells(self) -> Sequence[Size]:
        return list(self.plan.sizes)

    def measure(self, cell: Size) -> dict[str, Any]:
        pipe = pipeline_of(network(cell.of, "cpu"))
        if cell.reduced:
            pipe = with_unet(pipe, reduced_unet(pipe).eval().requires_grad_(False))
        relation = new_relation(pipe).eval().requires_grad_(False)
        g, side, width = torch.Generator().manual_seed(0), sample_size(pipe)[0], pipe.unet.config.cross_attention_dim
        noise = torch.randn(cell.pictures, pipe.unet.config.in_channels, side, side, generator=g)
        conditioning = Conditioning(torch.randn(2 * cell.pictures, TOKENS, width, generator=g))
        of_context = relation_of(relation, conditioning.states[-cell.pictures :])
        work = {
            way: partial(denoised, pipe, r, noise, conditioning, cell.steps)
            for way, r in (("plain", None), ("context", of_context))
        }
        for function in work.values():  # the warm-up
            function()
        taken = turns(work, self.plan.repeats, "cpu", cell.name, self.progress)
        found = sorted(ratios(taken, "context"))
        return {
            "name": cell.name,
            "parameters": sum(p.numel() for p in pipe.unet.parameters()),
            "relation_parameters": sum(p.numel() for p in relation.parameters()),
            **{f"{way}_seconds": round(median(times) / cell.steps, 4) for way, times in taken.items()},
            "ratio": round(median(found), 4),
            "ratio_range": [round(found[0], 4), round(found[-1], 4)],
        }

    def results(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {**stamp("cpu"), "repeats": self.plan.repeats, **super().results(rows)}

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        head = "network | parameters | of the relational network | its share | plain, s a step | with context"
        rows = [
            [
                r["name"],
                f"{r['parameters'] / 1e6:.1f} M",
                f"{r['relation_parameters'] / 1e6:.2f} M",
                f"{100 * r['relation_parameters'] / r['parameters']:.1f} %",
                f"{r['plain_seconds']:.3f}",
                f"{r['context_seconds']:.3f}",
                f"{r['ratio']:.3f}",
                " to ".join(f"{v:.3f}" for v in r["ratio_range"]),
            ]
            for r in data["rows"]
        ]
        return (
            f"# Cost of sampling with context\n\nGuided DDIM, {data['threads']} CPU threads, plain and with context in "
            f"turn, {data['repeats']} times after a warm-up; seconds are medians, of {SIZES[0].pictures} pictures at "
            "the lab's size and of one at Stable Diffusion 1.5's.\n\n"
            + table([*head.split(" | "), "ratio, median", "lowest to highest"], rows)
            + "\n"
        )


def pipeline_of(unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """U-Net and scheduler as a pipeline; texts and pictures are left out, they cost both ways the same."""
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def denoised(
    pipe: StableDiffusionPipeline, relation: Any, noise: torch.Tensor, conditioning: Conditioning, count: int
) -> torch.Tensor:
    """Latents of the loop as `generate --context` runs it."""
    return run(
        sample(
            pipe,
            [""] * len(noise),
            num_inference_steps=count,
            guidance_scale=5.0,
            latents=noise,
            conditioning=conditioning,
            scheduler=latent_scheduler(ContextDDIMScheduler, pipe),
            step_kwargs={"relation": relation},
        )
    )
