"""`accord.generate`: prompts and seeds to pictures, through the open sampling loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from accord.diffusion.loop import decode, generators, initial_noise, run, sample
from accord.diffusion.pipelines import Pipeline, check_latent_unet, check_prompt_length

STEPS, GUIDANCE = 25, 5.0


def generate(
    pipe: Pipeline,
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
        output_type: "pil", "pt" ([B,3,H,W] in 0..1) or "latent".
        loop: further arguments of `accord.diffusion.loop.sample` (eta, height, width, before_step, ...).

    Raises:
        InputError: for a pipeline of another class, or a prompt that is empty or too long.
    """
    check_latent_unet(pipe)
    names = [prompts] if isinstance(prompts, str) else list(prompts)
    numbers = [seeds] if isinstance(seeds, int) else list(seeds)
    for text in names:
        check_prompt_length(pipe, text)
    jobs = [(text, seed) for text in names for seed in numbers]
    out: list[Any] = []
    for start in tqdm(range(0, len(jobs), batch_size), desc="generate", disable=not progress):
        part = jobs[start : start + batch_size]
        makers = generators([s for _, s in part])
        noise = initial_noise(pipe, len(part), makers, loop.get("height"), loop.get("width"))
        steps = sample(
            pipe,
            [t for t, _ in part],
            negative_prompts=[negative_prompt] * len(part) if negative_prompt else None,  # XL has zeros for none, and not for ""
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=makers,
            latents=noise,
            **loop,
        )
        out.extend(decode(pipe, run(steps), output_type))
    return out if output_type == "pil" else torch.stack(out)
