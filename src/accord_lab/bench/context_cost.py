"""`accord bench context-cost`: time of sampling with context as a multiple of the plain one's, in turns on idle cores.

Steps alone: texts and pictures cost both the same. The relational network is fresh, since time does not depend on
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
from transformers import CLIPTextConfig, CLIPTextModel

from accord.diffusion.generate import generators
from accord.diffusion.pipelines import load
from accord.methods.context.pipeline import new_relation
from accord.methods.context.sampling import Context
from accord_lab.bench.context import reduced_unet, with_unet
from accord_lab.bench.measure import ratios, turns
from accord_lab.bench.report import stamp, table
from accord_lab.bench.runner import Bench
from accord_lab.bench.speed import network
from accord_lab.recipes.denoiser import scheduler

PROMPT = "a red star to the left of a blue key"


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
        told: dict[str, Any] = {"guidance_scale": 5.0, "num_inference_steps": cell.steps}
        work = {
            way: partial(denoised, Context.of(pipe, relation, "quadratic", scale=scale, **told), cell.pictures)
            for way, scale in (("plain", 0.0), ("context", 1.0))
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
    """The lab's pipeline with this U-Net; where it takes wider texts, those of a small encoder with random weights."""
    lab, width = load(device="cpu"), unet.config.cross_attention_dim
    parts = {**lab.components, "unet": unet, "scheduler": scheduler()}
    own = lab.text_encoder.config
    if width != own.hidden_size:
        config = CLIPTextConfig(**{**own.to_dict(), "hidden_size": width, "num_hidden_layers": 1})
        parts["text_encoder"] = CLIPTextModel(config).eval().requires_grad_(False)
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def denoised(context: Context, count: int) -> torch.Tensor:
    """States of `count` pictures as `generate --context` makes them; texts are embedded in the warm-up."""
    return context.run([PROMPT] * count, generators(range(count)))
