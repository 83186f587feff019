"""The sampling loop: equal to `StableDiffusionPipeline.__call__` bit for bit, but open at every step.

Letters in shapes: B prompts, C H W of the latents, T tokens.
"""

from __future__ import annotations

import collections
import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from tqdm.auto import tqdm

from accord.diffusion.pipelines import encode_prompts, sample_size
from accord.types import InputError

BeforeStep = Callable[["Step"], None]


@dataclass
class Step:
    """One step of the loop, yielded after it was taken (and handed to `before_step` before).

    Attributes:
        index, count: number of the step and of all steps.
        timestep: scalar tensor, in the scheduler's own units.
        latents: [B,C,H,W]; before the step x_t, after it x_{t-1}. Assigning to it changes what goes on.
        noise_pred: [B,C,H,W] guided network output (what the scheduler took), None before the step.
    """

    index: int
    count: int
    timestep: torch.Tensor
    latents: torch.Tensor
    noise_pred: torch.Tensor | None = None


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator a seed, as diffusers users make them: the same picture whatever the batch or the device."""
    return [torch.Generator("cpu").manual_seed(int(s)) for s in seeds]


def initial_noise(
    pipe: StableDiffusionPipeline,
    batch: int,
    generator: torch.Generator | list[torch.Generator] | None,
    height: int | None = None,
    width: int | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Unscaled z_T, [B,C,H,W], drawn as the pipeline draws it. `height` and `width` are in pixels."""
    h, w = sample_size(pipe)
    if height is not None:
        h = height // pipe.vae_scale_factor
    if width is not None:
        w = width // pipe.vae_scale_factor
    shape = (batch, pipe.unet.config.in_channels, h, w)
    return randn_tensor(shape, generator=generator, device=pipe.device, dtype=dtype or pipe.text_encoder.dtype)


@torch.no_grad()
def sample(
    pipe: StableDiffusionPipeline,
    prompts: list[str],
    *,
    negative_prompts: list[str] | None = None,
    num_inference_steps: int = 50,
    guidance_scale: float = 7.5,
    guidance_rescale: float = 0.0,
    eta: float = 0.0,
    generator: torch.Generator | list[torch.Generator] | None = None,
    latents: torch.Tensor | None = None,
    image_latents: torch.Tensor | None = None,
    strength: float = 1.0,
    height: int | None = None,
    width: int | None = None,
    encoder_hidden_states: torch.Tensor | None = None,
    before_step: BeforeStep | None = None,
    progress: bool = False,
) -> Iterator[Step]:
    """Denoise step by step.

    Args:
        pipe: a Stable Diffusion 1 or 2 pipeline; its scheduler is copied, nothing of it is changed.
        prompts: B prompts.
        latents: z_T without the scheduler's scale, instead of drawing it.
        image_latents: clean latents [B,C,H,W]; with `strength` < 1 the loop starts from them, noised part-way.
        strength: share of the steps that is taken, 1 for all of them.
        encoder_hidden_states: states to use instead of encoding `prompts`, [2B,T,D] or [B,T,D] without guidance.
        before_step: called with the Step before the network runs.

    Yields:
        a Step after each step; the last one's `latents` are the result.

    Raises:
        InputError: if the latents stop being finite, or for a number out of range.
    """
    if num_inference_steps < 1:
        raise InputError(f"num_inference_steps must be at least 1, not {num_inference_steps}")
    if not 0 < strength <= 1:
        raise InputError(f"strength must be in (0, 1], not {strength}")
    scheduler = copy.deepcopy(pipe.scheduler)
    guided = guidance_scale > 1 and pipe.unet.config.time_cond_proj_dim is None
    states = encoder_hidden_states
    if states is None:
        states = encode_prompts(pipe, prompts, negative_prompts, guided)
    scheduler.set_timesteps(num_inference_steps, device=pipe.device)
    if latents is None:
        latents = initial_noise(pipe, len(prompts), generator, height, width, states.dtype)
    latents = latents.to(device=pipe.device, dtype=states.dtype)
    timesteps, latents = _start(scheduler, latents, image_latents, strength)
    extra = _step_kwargs(scheduler, eta, generator)
    condition = _guidance_embedding(pipe, guidance_scale, latents)

    for i, t in enumerate(tqdm(timesteps, desc="denoise", disable=not progress, leave=False)):
        step = Step(i, len(timesteps), t, latents)
        if before_step is not None:
            before_step(step)
            latents = step.latents
        model_input = torch.cat([latents] * 2) if guided else latents
        model_input = scheduler.scale_model_input(model_input, t)
        noise_pred = pipe.unet(
            model_input, t, encoder_hidden_states=states, timestep_cond=condition, return_dict=False
        )[0]
        if guided:
            uncond, text = noise_pred.chunk(2)
            noise_pred = uncond + guidance_scale * (text - uncond)
            if guidance_rescale > 0:
                noise_pred = rescale_noise_cfg(noise_pred, text, guidance_rescale=guidance_rescale)
        step.noise_pred = noise_pred
        step.latents = scheduler.step(noise_pred, t, latents, **extra, return_dict=False)[0]
        yield step
        latents = step.latents
    if not torch.isfinite(latents).all():
        raise InputError(
            "the latents are not finite (NaN or infinity) after sampling; "
            "the model overflows in this precision or its weights are broken: try dtype float32"
        )


def _start(
    scheduler: Any, noise: torch.Tensor, image_latents: torch.Tensor | None, strength: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The timesteps to take and the latents to take them from: pure noise, or a picture noised part-way."""
    timesteps = scheduler.timesteps
    if image_latents is None or strength == 1:
        return timesteps, noise * scheduler.init_noise_sigma
    first = len(timesteps) - max(scheduler.order, int(len(timesteps) * strength))
    first -= first % scheduler.order
    timesteps = timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return timesteps, scheduler.add_noise(image_latents.to(noise), noise, timesteps[:1])


def _step_kwargs(scheduler: Any, eta: float, generator: Any) -> dict[str, Any]:
    accepted = inspect.signature(scheduler.step).parameters
    return {k: v for k, v in (("eta", eta), ("generator", generator)) if k in accepted}


def _guidance_embedding(pipe: StableDiffusionPipeline, guidance_scale: float, latents: torch.Tensor) -> Any:
    """The guidance input of distilled networks (LCM); None for all others."""
    dim = pipe.unet.config.time_cond_proj_dim
    if dim is None:
        return None
    scale = torch.tensor(guidance_scale - 1).repeat(len(latents))
    return pipe.get_guidance_scale_embedding(scale, embedding_dim=dim).to(latents)


def run(steps: Iterator[Step]) -> torch.Tensor:
    """Exhaust a loop and return the final latents [B,C,H,W]."""
    (last,) = collections.deque(steps, maxlen=1)
    return last.latents


@torch.no_grad()
def decode(pipe: StableDiffusionPipeline, latents: torch.Tensor, output_type: str = "pil") -> list[Image.Image] | Any:
    """Latents [B,C,H,W] to pictures: "pil", "np" [B,H,W,3] in 0..1, "pt" [B,3,H,W] in 0..1, or "latent"."""
    if output_type == "latent":
        return latents
    images = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    return pipe.image_processor.postprocess(images, output_type=output_type, do_denormalize=[True] * len(images))


@torch.no_grad()
def encode(pipe: StableDiffusionPipeline, images: torch.Tensor) -> torch.Tensor:
    """Pictures [B,3,H,W] in 0..1 to scaled clean latents (the posterior's mode)."""
    pixels = (images * 2 - 1).to(device=pipe.device, dtype=pipe.vae.dtype)
    return pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
