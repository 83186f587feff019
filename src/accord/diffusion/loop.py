"""The sampling loop: equal to `StableDiffusionPipeline.__call__` bit for bit, but open at every step.

Letters in shapes: B prompts, C H W of the latents, T tokens.
"""

from __future__ import annotations

import collections
import copy
import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from tqdm.auto import tqdm

from accord.diffusion.opened import BeforeStep, Step, part_of, precise
from accord.diffusion.pipelines import Conditioning, Pipeline, conditioning_of, device_of, latent_channels, sample_size
from accord.diffusion.process import rooted_eta
from accord.diffusion.state import held
from accord.types import InputError, a_kind, reason_of


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator a seed, as diffusers users make them: the same picture whatever the batch or the device."""
    return [torch.Generator("cpu").manual_seed(int(s)) for s in seeds]


def initial_noise(
    pipe: Any,
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
    shape = (batch, latent_channels(pipe), h, w)
    return randn_tensor(shape, generator=generator, device=device_of(pipe), dtype=dtype or pipe.text_encoder.dtype)


def denoise(
    pipe: Pipeline,
    scheduler: Any,
    latents: torch.Tensor,
    timestep: torch.Tensor | int,
    conditioning: Conditioning,
    guidance_scale: float = 1.0,
    guidance_rescale: float = 0.0,
    timestep_cond: torch.Tensor | None = None,
) -> torch.Tensor:
    """One call of the U-Net with guidance, [B,C,H,W] in the pipeline's own prediction type; keeps the graph.

    `conditioning.states` has 2B rows where guidance is meant (as `conditioning_of(..., guided=True)` makes them), else
    B.
    """
    guided = len(conditioning.states) == 2 * len(latents)
    model_input = torch.cat([latents] * 2) if guided else latents
    model_input = scheduler.scale_model_input(model_input, timestep)
    with held(pipe.unet):  # not in the middle of another thread's modulation
        noise_pred = pipe.unet(
            model_input,
            timestep,
            encoder_hidden_states=conditioning.states,
            timestep_cond=timestep_cond,
            added_cond_kwargs=conditioning.added,
            return_dict=False,
        )[0]
    if not guided:
        return noise_pred
    uncond, text = noise_pred.chunk(2)
    noise_pred = guide(uncond, text, guidance_scale)
    if guidance_rescale > 0:
        noise_pred = rescale_noise_cfg(noise_pred, text, guidance_rescale=guidance_rescale)
    return noise_pred


def guide(uncond: torch.Tensor, text: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Classifier-free guidance (arXiv 2207.12598), in the parametrisation of diffusers: 1 is the conditional output."""
    return uncond + guidance_scale * (text - uncond)


def sample(
    pipe: Pipeline,
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
    conditioning: Conditioning | None = None,
    before_step: BeforeStep | None = None,
    scheduler: Any = None,
    step_kwargs: dict[str, Any] | None = None,
    grad_steps: int = 0,
    progress: bool = False,
) -> Iterator[Step]:
    """Denoise step by step.

    Args:
        pipe: a Stable Diffusion 1, 2 or XL pipeline; its scheduler is copied, nothing of it is changed.
        prompts: B prompts.
        latents: z_T without the scheduler's scale, instead of drawing it.
        image_latents: clean latents [B,C,H,W]; with `strength` < 1 the loop starts from them, noised part-way.
        strength: share of the steps that is taken, 1 for all of them.
        encoder_hidden_states: states to use instead of encoding `prompts`, [2B,T,D] or [B,T,D] without guidance.
        conditioning: the same as a Conditioning (which SDXL needs).
        before_step: called with the Step before the network runs.
        scheduler: to use instead of the pipeline's.
        step_kwargs: further arguments of the scheduler's `step`.
        grad_steps: how many of the last steps keep their graph (all others run without gradient).

    Yields:
        a Step after each step; the last one's `latents` are the result.

    Raises:
        InputError: if the latents stop being finite, or for a number out of range.
    """
    scheduler = copy.deepcopy(scheduler or pipe.scheduler)
    guided = is_guided(pipe, guidance_scale)
    for name, value in (("guidance_scale", guidance_scale), ("guidance_rescale", guidance_rescale)):
        if not math.isfinite(value):
            raise InputError(f"{name} must be a finite number, not {value}")
    if guidance_rescale and not guided:
        raise InputError(
            "guidance_rescale is not used without guidance; leave it out, or raise the guidance scale above 1"
        )
    _check_steps(scheduler, num_inference_steps, strength, eta, image_latents is not None)
    if any(negative_prompts or ()) and (conditioning is not None or encoder_hidden_states is not None):
        raise InputError("negative prompts are not used beside text states; put them into the states")
    if latents is not None and _pixels(pipe, latents, height, width) != _pixels(pipe, latents, None, None):
        raise InputError(f"height {height} and width {width} are not those of the latents; leave them out")
    if conditioning is None:
        if encoder_hidden_states is not None:
            conditioning = Conditioning(encoder_hidden_states)
        else:
            size = _pixels(pipe, latents, height, width)
            with torch.no_grad():
                conditioning = conditioning_of(pipe, prompts, negative_prompts, guided, size)
    states = conditioning.states
    _check_counts(len(prompts), guided, states, latents, image_latents)
    set_timesteps(scheduler, num_inference_steps, device_of(pipe))
    if latents is None:
        latents = initial_noise(pipe, len(prompts), generator, height, width, states.dtype)
    latents = latents.to(device=device_of(pipe), dtype=states.dtype)
    timesteps, latents = _start(scheduler, latents, image_latents, strength)
    extra = _step_kwargs(scheduler, eta, generator) | (step_kwargs or {})
    embedding = guidance_embedding(pipe, guidance_scale, latents)

    for i, t in enumerate(tqdm(timesteps, desc="denoise", disable=not progress, leave=False)):
        step = Step(i, len(timesteps), t, latents)
        if before_step is not None:
            before_step(step)
            latents = step.latents
        # not around the yield: the caller's own gradient mode is none of ours
        with torch.set_grad_enabled(i >= len(timesteps) - grad_steps):
            noise_pred = denoise(pipe, scheduler, latents, t, conditioning, guidance_scale, guidance_rescale, embedding)
            step.output = noise_pred
            if "eta" in extra:
                extra["eta"] = rooted_eta(scheduler, t, eta)
            step.latents = scheduler.step(noise_pred, t, latents, **extra, return_dict=False)[0]
        yield step
        latents = step.latents
    check_finite(latents)


def _check_steps(scheduler: Any, num_inference_steps: int, strength: float, eta: float, from_a_picture: bool) -> None:
    """Refuse steps that cannot be taken, or that would not be what was asked for."""
    if num_inference_steps < 1:
        raise InputError(f"num_inference_steps must be at least 1, not {num_inference_steps}")
    if not 0 < strength <= 1:
        raise InputError(f"strength must be in (0, 1], not {strength}")
    if strength < 1 and not from_a_picture:
        raise InputError("strength is the share of the steps from a picture; give image_latents too, or leave it out")
    if not 0 <= eta <= 1:
        raise InputError(f"eta must be in [0, 1], not {eta}")
    if eta and "eta" not in inspect.signature(scheduler.step).parameters:
        raise InputError(f"{a_kind(scheduler)} takes no eta; leave it out, or use DDIM")


def _check_counts(
    count: int, guided: bool, states: torch.Tensor, latents: torch.Tensor | None, image_latents: torch.Tensor | None
) -> None:
    """Refuse other numbers of latents or text states than of prompts: the loop would take them for another batch."""
    for what, given in (("latents", latents), ("image_latents", image_latents)):
        if given is not None and len(given) != count:
            raise InputError(f"{len(given)} {what} were given for {count} prompts; give one for each")
    each = 2 if guided else 1
    if len(states) != each * count:
        raise InputError(
            f"{len(states)} rows of text states were given for {count} prompts {'with' if guided else 'without'} "
            f"guidance; give {each} for each"
        )


def set_timesteps(scheduler: Any, num_inference_steps: int, device: Any = None) -> None:
    """As the scheduler's own.

    Raises:
        InputError: for more steps than it can take.
    """
    count, reason = scheduler.config.num_train_timesteps, ""
    try:
        scheduler.set_timesteps(num_inference_steps, device=device)
    except (ValueError, IndexError) as error:
        reason = reason_of(error)
    else:
        # a leading grid with an offset (Stable Diffusion 1's) may lead beyond the last step; those with sigmas
        # interpolate there
        if float(scheduler.timesteps.max()) >= count and not hasattr(scheduler, "sigmas"):
            reason = f"it would begin at step {int(scheduler.timesteps.max())} of {count}"
    if reason:
        raise InputError(f"{a_kind(scheduler)} cannot take {num_inference_steps} steps ({reason}); give fewer")


def check_finite(latents: torch.Tensor) -> None:
    """Refuse latents or pictures with NaN or infinity in them. Raises InputError."""
    if not torch.isfinite(latents).all():
        raise InputError(
            "the latents or pictures are not finite (NaN or infinity) after sampling; "
            "the model overflows in this precision or its weights are broken: try dtype float32"
        )


def _pixels(pipe: Pipeline, latents: torch.Tensor | None, height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width of the picture that is made."""
    rows, columns = sample_size(pipe) if latents is None else latents.shape[-2:]
    return height or rows * pipe.vae_scale_factor, width or columns * pipe.vae_scale_factor


def _start(
    scheduler: Any, noise: torch.Tensor, image_latents: torch.Tensor | None, strength: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The timesteps to take and the latents to take them from: pure noise, or a picture noised part-way."""
    timesteps = scheduler.timesteps
    if image_latents is None or strength == 1:
        return timesteps, noise * scheduler.init_noise_sigma
    first, timesteps = part_of(scheduler, strength)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return timesteps, scheduler.add_noise(image_latents.to(noise), noise, timesteps[:1])


def _step_kwargs(scheduler: Any, eta: float, generator: Any) -> dict[str, Any]:
    accepted = inspect.signature(scheduler.step).parameters
    return {k: v for k, v in (("eta", eta), ("generator", generator)) if k in accepted}


def is_guided(pipe: Pipeline, guidance_scale: float) -> bool:
    """Whether the network's batch holds an unconditional half; one that was distilled with guidance (LCM) is given its
    scale instead.
    """
    return guidance_scale > 1 and pipe.unet.config.time_cond_proj_dim is None


def guidance_embedding(pipe: Pipeline, guidance_scale: float, latents: torch.Tensor) -> Any:
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
def decode(pipe: Pipeline, latents: torch.Tensor, output_type: str = "pil") -> list[Image.Image] | Any:
    """Latents [B,C,H,W] to pictures: "pil", "np" [B,H,W,3] in 0..1, "pt" [B,3,H,W] in 0..1, or "latent".

    Raises:
        InputError: if the pictures are not finite, as a VAE's in half precision may not be.
    """
    if output_type == "latent":
        return latents
    images = _decoded(pipe, latents)
    check_finite(images)
    return pipe.image_processor.postprocess(images, output_type=output_type, do_denormalize=[True] * len(images))


def decode_with_grad(pipe: Pipeline, latents: torch.Tensor) -> torch.Tensor:
    """Latents [B,C,H,W] to pictures [B,3,H,W] in 0..1, keeping the graph."""
    return (_decoded(pipe, latents) / 2 + 0.5).clamp(0, 1)


def _decoded(pipe: Pipeline, latents: torch.Tensor) -> torch.Tensor:
    """Pixels [B,3,H,W] in about -1..1, as the pipelines decode."""
    with precise(pipe) as vae:
        mean, spread = _latent_moments(pipe, latents)
        scaled = (
            latents / vae.config.scaling_factor if mean is None else latents * spread / vae.config.scaling_factor + mean
        )
        return vae.decode(scaled if pipe.vae.dtype == latents.dtype else scaled.to(pipe.vae.dtype), return_dict=False)[
            0
        ]


@torch.no_grad()
def encode(pipe: Pipeline, images: torch.Tensor) -> torch.Tensor:
    """Pictures [B,3,H,W] in 0..1 to scaled clean latents (the posterior's mode)."""
    with precise(pipe) as vae:
        pixels = (images * 2 - 1).to(device=device_of(pipe), dtype=vae.dtype)
        latents = vae.encode(pixels).latent_dist.mode()
        mean, spread = _latent_moments(pipe, latents)
        return (
            latents * vae.config.scaling_factor
            if mean is None
            else (latents - mean) * vae.config.scaling_factor / spread
        )


def _latent_moments(pipe: Pipeline, latents: torch.Tensor) -> tuple[Any, Any]:
    """Mean and standard deviation [1,C,1,1] that an XL pipeline's VAE normalises latents by; None and None without
    them.
    """
    mean, spread = (getattr(pipe.vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or spread is None or not isinstance(pipe, StableDiffusionXLPipeline):
        return None, None
    mean, spread = (
        torch.tensor(v, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1) for v in (mean, spread)
    )
    return mean, spread
