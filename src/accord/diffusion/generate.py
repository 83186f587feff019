"""`accord.generate`: prompts and seeds to pictures, through the open sampling loop or, for other pipelines, their own call."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from tqdm.auto import tqdm

from accord.diffusion.loop import decode, generators, initial_noise, run, sample
from accord.diffusion.pipelines import check_latent_unet, check_prompt_length
from accord.types import InputError

STEPS, GUIDANCE = 25, 5.0


def generate(
    pipe: DiffusionPipeline,
    prompts: str | Sequence[str],
    seeds: int | Sequence[int] = 0,
    *,
    negative_prompt: str = "",
    num_inference_steps: int = STEPS,
    guidance_scale: float = GUIDANCE,
    batch_size: int = 16,
    output_type: str = "pil",
    progress: bool = False,
    **loop: Any,
) -> list[Image.Image] | torch.Tensor:
    """Pictures of every prompt with every seed, seeds varying fastest.

    Each picture's noise comes from its own seed, so it does not depend on what else is in the batch.

    Args:
        pipe: a Stable Diffusion 1, 2 or XL pipeline, or another text-to-image pipeline of diffusers (Stable Diffusion 3, Flux, ...).
        output_type: "pil", "pt" ([B,3,H,W] in 0..1) or "latent".
        loop: further arguments of `accord.diffusion.loop.sample` (eta, height, width, before_step, ...); for another class
            those of the pipeline's own call.

    Raises:
        InputError: for a pipeline that cannot be run so, or a prompt that is empty or too long.
    """
    names = [prompts] if isinstance(prompts, str) else list(prompts)
    numbers = [seeds] if isinstance(seeds, int) else list(seeds)
    check_generates(pipe)
    for text in names:
        check_prompt_length(pipe, text)
    jobs = [(text, seed) for text in names for seed in numbers]
    out: list[Any] = []
    for start in tqdm(range(0, len(jobs), batch_size), desc="generate", disable=not progress):
        texts, own = zip(*jobs[start : start + batch_size], strict=True)
        out.extend(generate_each(pipe, texts, own, num_inference_steps, guidance_scale, negative_prompt, output_type, **loop))
    return out if output_type == "pil" else torch.stack(out)


def generate_each(
    pipe: DiffusionPipeline,
    texts: Sequence[str],
    seeds: Sequence[int],
    num_inference_steps: int,
    guidance_scale: float,
    negative_prompt: str = "",
    output_type: str = "pil",
    **loop: Any,
) -> list[Image.Image] | torch.Tensor:
    """One picture a (prompt, seed), in one batch."""
    makers = generators(seeds)
    given: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "generator": makers, **loop}
    against = [negative_prompt] * len(texts) if negative_prompt else None  # XL has zeros for none, and not for ""
    if isinstance(pipe, StableDiffusionPipeline | StableDiffusionXLPipeline):
        noise = initial_noise(pipe, len(texts), makers, loop.get("height"), loop.get("width"))
        steps = sample(pipe, list(texts), negative_prompts=against, latents=noise, **given)
        return decode(pipe, run(steps), output_type)
    given |= {"prompt": list(texts), "output_type": output_type} | ({"negative_prompt": against} if against else {})
    unknown = sorted(given.keys() - inspect.signature(pipe.__call__).parameters.keys())
    if unknown:
        raise InputError(f"a {type(pipe).__name__} takes no {unknown[0]}; leave it out")
    made = pipe(**given)
    if not hasattr(made, "images"):
        raise InputError(f"a {type(pipe).__name__} makes no pictures; give a text-to-image pipeline")
    return made.images


def check_generates(pipe: Any) -> None:
    """Refuse what `generate` cannot run.

    Raises:
        InputError: for anything that is no pipeline of diffusers, or one that is run with a context.
    """
    if isinstance(pipe, StableDiffusionPipeline | StableDiffusionXLPipeline) or not isinstance(pipe, DiffusionPipeline):
        check_latent_unet(pipe)
