"""What a method at inference needs of a pipeline, whatever its network: noise, tokens, hooks in its attention,
pictures.

`UNetEngine` runs the open loop; `JointEngine` runs the own call of Stable Diffusion 3 and Flux, which is open through
hooks.

Letters in shapes: B prompts, C H W of the latents, T text tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline

from accord.diffusion.attention import attention_hook
from accord.diffusion.joint import joint_hook
from accord.diffusion.loop import BeforeStep, Step, check_finite, decode, is_guided, run, sample
from accord.diffusion.pipelines import Pipeline, check_latent_unet, joint_length
from accord.diffusion.state import held, own_scheduler, parts_of
from accord.types import InputError


class AttentionObserver(Protocol):
    """What looks at attention, or changes it: in a U-Net's layers by its call, in joint ones by `joint`."""

    def __call__(
        self, attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cross: bool
    ) -> torch.Tensor | None: ...

    def joint(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, image: slice, text: slice
    ) -> torch.Tensor | None: ...


@dataclass(frozen=True)
class Sampling:
    """How pictures are sampled.

    Attributes:
        image_latents: [B,C,H,W] of pictures to start from, noised part-way; from noise alone if None.
        strength: how far they are noised, in (0, 1].
        generator: those that drew the noise; they draw what an ancestral scheduler adds on the way.
    """

    negative_prompt: str
    num_inference_steps: int
    guidance_scale: float
    image_latents: torch.Tensor | None = None
    strength: float = 1.0
    generator: list[torch.Generator] | None = None


class UNetEngine:
    """Stable Diffusion 1, 2 and XL."""

    def __init__(self, pipe: Pipeline) -> None:
        check_latent_unet(pipe)
        self.pipe = pipe
        self.dtype: torch.dtype = pipe.unet.dtype

    def guided(self, guidance_scale: float) -> bool:
        """Whether the network's batch holds an unconditional half, first."""
        return is_guided(self.pipe, guidance_scale)

    def hook(self, observer: AttentionObserver, active: Callable[[], bool]) -> AbstractContextManager[None]:
        return attention_hook(self.pipe.unet, observer, active)

    def pictures(
        self, prompts: list[str], noise: torch.Tensor, settings: Sampling, before_step: BeforeStep
    ) -> torch.Tensor:
        """[B,3,H,W] in 0..1 from `noise` [B,C,H,W], or from pictures' latents noised part-way."""
        negative = settings.negative_prompt
        steps = sample(
            self.pipe,
            prompts,
            negative_prompts=[negative] * len(prompts) if negative else None,  # XL has zeros for none
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            latents=noise,
            generator=settings.generator,
            image_latents=settings.image_latents,
            strength=settings.strength,
            before_step=before_step,
        )
        return torch.as_tensor(decode(self.pipe, run(steps), "pt")).float()


class JointEngine:
    """Stable Diffusion 3 and Flux."""

    def __init__(self, pipe: StableDiffusion3Pipeline | FluxPipeline) -> None:
        self.pipe: Any = pipe
        self.dtype: torch.dtype = pipe.transformer.dtype

    def guided(self, guidance_scale: float) -> bool:
        """Flux takes the guidance as an input and makes no second half of the batch."""
        return isinstance(self.pipe, StableDiffusion3Pipeline) and guidance_scale > 1

    def hook(self, observer: AttentionObserver, active: Callable[[], bool]) -> AbstractContextManager[None]:
        return joint_hook(self.pipe.transformer, observer.joint, joint_length(self.pipe), active)

    @torch.no_grad()
    def pictures(
        self, prompts: list[str], noise: torch.Tensor, settings: Sampling, before_step: BeforeStep
    ) -> torch.Tensor:
        """[B,3,H,W] in 0..1 from `noise` [B,C,H,W], by the pipeline's own call.

        Raises:
            InputError: for a start from part-way, or a negative prompt that the pipeline has no place for.
        """
        pipe = self.pipe
        if settings.image_latents is not None or settings.strength != 1:
            raise InputError(
                f"a {type(pipe).__name__} is not started from part-way here; use the mode new_seed or same_seed"
            )
        height, width = (side * pipe.vae_scale_factor for side in noise.shape[-2:])
        more: dict[str, Any] = {}
        if isinstance(pipe, FluxPipeline):
            if settings.negative_prompt:
                raise InputError("a FluxPipeline takes no negative prompt; leave it out")
            noise = pipe._pack_latents(noise, *noise.shape)
        elif settings.negative_prompt:
            if not self.guided(settings.guidance_scale):
                raise InputError(
                    "a negative prompt is not used without guidance; leave it out, or raise the guidance scale above 1"
                )
            more = {"negative_prompt": [settings.negative_prompt] * len(prompts)}
        calls = itertools.count()

        def watch(_network: Any, _args: Any, kwargs: dict[str, Any]) -> None:
            i, times = next(calls), pipe.scheduler.timesteps
            before_step(Step(i, len(times), times[i], kwargs["hidden_states"]))

        with held(*parts_of(pipe)), own_scheduler(pipe):
            handle = pipe.transformer.register_forward_pre_hook(watch, with_kwargs=True)
            try:
                images = pipe(
                    prompt=prompts,
                    latents=noise,
                    generator=settings.generator,
                    height=height,
                    width=width,
                    num_inference_steps=settings.num_inference_steps,
                    guidance_scale=settings.guidance_scale,
                    output_type="pt",
                    **more,
                ).images
            finally:
                handle.remove()
        check_finite(images)
        return images.float()


Engine = UNetEngine | JointEngine


def engine_of(pipe: Any) -> Engine:
    """The engine for a pipeline.

    Raises:
        InputError: for a pipeline of another class.
    """
    if isinstance(pipe, (StableDiffusion3Pipeline, FluxPipeline)):
        return JointEngine(pipe)
    return UNetEngine(pipe)
