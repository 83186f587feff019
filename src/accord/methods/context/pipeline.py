"""`ContextDiffPipeline`: a Stable Diffusion pipeline whose process is shifted by a relational network.

Guidance has one rule: x0^ is the guided one, and r is that of the conditional text. Both of a step's r are one batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from torch import nn
from tqdm.auto import tqdm

from accord.diffusion.adapters import put_on
from accord.diffusion.loading import load_model, nothing_of_this_machine
from accord.diffusion.loop import (
    decode,
    denoise,
    generators,
    guidance_embedding,
    initial_noise,
    is_guided,
    run,
    sample,
    set_timesteps,
)
from accord.diffusion.lora import check_no_lora
from accord.diffusion.pipelines import (
    Conditioning,
    Pipeline,
    check_latent_unet,
    check_prompt_length,
    conditioning_of,
    device_of,
    latent_scheduler,
    sample_size,
)
from accord.diffusion.state import held, seeded
from accord.files import read_json
from accord.methods.context.equations import SHIFTS
from accord.methods.context.network import RelationalNetwork
from accord.methods.context.pixels import PixelEncoder, vision_tower
from accord.methods.context.schedulers import ContextDDIMScheduler, ContextDDPMScheduler, Relation
from accord.rewards.clip import ClipScorer, load_clip
from accord.training.fingerprint import fingerprint
from accord.types import InputError


class ContextDiffPipeline(StableDiffusionPipeline):
    """Prompts to pictures, DDPM or DDIM, with the context in every step. Saved and loaded like any pipeline (an adapter
    is fused first).

    Args:
        relation: r_phi.
        scheduler: a ContextDDIMScheduler or ContextDDPMScheduler.
        image_encoder, feature_extractor: of a relational network that looks at pixels: CLIP's image half and its
            normalisation.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        relation: RelationalNetwork,
        safety_checker: Any = None,
        feature_extractor: Any = None,
        image_encoder: Any = None,
        requires_safety_checker: bool = False,
    ) -> None:
        _check_scheduler(scheduler)
        super().__init__(
            vae,
            text_encoder,
            tokenizer,
            unet,
            scheduler,
            safety_checker,
            feature_extractor,
            image_encoder,
            requires_safety_checker,
        )
        self.register_modules(relation=relation)
        if relation.config.pixel_width:
            if image_encoder is None or feature_extractor is None:
                raise InputError("this relational network looks at pixels; give image_encoder and feature_extractor")
            relation.pixel_encoder = PixelEncoder(
                self, image_encoder, feature_extractor.image_mean, feature_extractor.image_std
            )
        check_fits(relation, self, "this relational network")

    @classmethod
    def from_pipeline(
        cls,
        pipe: StableDiffusionPipeline,
        relation: RelationalNetwork,
        shift: str = "quadratic",
        ancestral: bool = False,
        clip: ClipScorer | None = None,
    ) -> ContextDiffPipeline:
        """The parts of a Stable Diffusion 1 or 2 pipeline with a relational network put beside them; `clip` if it looks
        at pixels.

        Raises:
            InputError: for a pipeline of another class, or a network that does not fit it.
        """
        if not isinstance(pipe, StableDiffusionPipeline):
            raise InputError(f"a {type(pipe).__name__} has no pipeline class with context; use generate_with_context")
        kind = ContextDDPMScheduler if ancestral else ContextDDIMScheduler
        scheduler = latent_scheduler(kind, pipe, shift=shift)
        image_half: dict[str, Any] = {}
        if relation.config.pixel_width:
            from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

            clip = clip or load_clip(device=str(device_of(pipe)))
            side, mean, std = (
                clip.model.config.vision_config.image_size,
                clip.mean.flatten().tolist(),
                clip.std.flatten().tolist(),
            )
            size = {"height": side, "width": side}
            image_half = {
                "image_encoder": vision_tower(clip),
                "feature_extractor": CLIPImageProcessorPil(size=size, crop_size=size, image_mean=mean, image_std=std),
            }
        return cls(
            pipe.vae,
            pipe.text_encoder,
            pipe.tokenizer,
            pipe.unet,
            scheduler,
            relation.to(device_of(pipe)),
            **image_half,
        )

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """As diffusers' own, without the place where its parts were read from.

        Raises:
            InputError: with an adapter on, under whose names the denoiser could not be loaded.
        """
        check_no_lora(self, "with which its denoiser could not be loaded again")
        super().save_pretrained(save_directory, *args, **kwargs)
        nothing_of_this_machine(Path(save_directory))

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        context_scale: float = 1.0,
    ) -> StableDiffusionPipelineOutput | tuple:
        """Generate pictures. What is not here of the plain pipeline's arguments (prompt embeddings, IP adapters,
        clip_skip) is not taken.

        Args:
            generator: one for all pictures, or one for each.
            latents: z_T [B,C,h,w] without the scheduler's scale, one for each picture.
            context_scale: multiplies r; 0 is exactly the plain pipeline.
            callback_on_step_end: called as callback(pipe, index, timestep, {"latents": ...}); may return new latents.

        Raises:
            InputError: for no prompt, one that is empty or too long, or another number of negative prompts, generators
                or latents than of pictures.
        """
        _check_scheduler(self.scheduler)
        prompts = [p for p in ([prompt] if isinstance(prompt, str) else prompt) for _ in range(num_images_per_prompt)]
        if not prompts:
            raise InputError("there is no prompt to make a picture of; give at least one")
        negative = negative_prompt
        if isinstance(negative, str):
            negative = [negative] * len(prompts)
        elif negative is not None:
            negative = [n for n in negative for _ in range(num_images_per_prompt)]
        for text in [*prompts, *(n for n in negative or () if n)]:
            check_prompt_length(self, text)
        for what, many in (
            ("negative prompts", negative),
            ("generators", generator if isinstance(generator, list) else None),
            ("latents", latents),
        ):
            if many is not None and len(many) != len(prompts):
                raise InputError(f"{len(many)} {what} were given for {len(prompts)} pictures; give one for each")
        conditioning = conditioning_of(self, prompts, negative, is_guided(self, guidance_scale))
        relation = relation_of(self.relation, conditioning.states[-len(prompts) :], context_scale)
        if context_scale and self.scheduler.config.shift == "prior":
            drawn = (
                initial_noise(self, len(prompts), generator, height, width, conditioning.states.dtype)
                if latents is None
                else latents
            )
            latents = moved_start(
                self,
                self.scheduler,
                drawn.to(conditioning.states),
                conditioning,
                relation,
                num_inference_steps,
                guidance_scale,
            )
        steps = sample(
            self,
            prompts,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            eta=eta,
            generator=generator,
            latents=latents,
            height=height,
            width=width,
            conditioning=conditioning,
            step_kwargs={"relation": relation},
        )
        for step in steps:
            if callback_on_step_end is not None:
                changed = callback_on_step_end(self, step.index, step.timestep, {"latents": step.latents}) or {}
                step.latents = changed.get("latents", step.latents)
            last = step.latents
        images = decode(self, last, output_type)
        return (
            StableDiffusionPipelineOutput(images=images, nsfw_content_detected=None) if return_dict else (images, None)
        )


def _check_scheduler(scheduler: Any) -> None:
    if not isinstance(scheduler, (ContextDDIMScheduler, ContextDDPMScheduler)):
        raise InputError(
            f"a {type(scheduler).__name__} knows no context; use ContextDDIMScheduler or ContextDDPMScheduler"
        )


def check_fits(network: RelationalNetwork, pipe: Any, name: str) -> None:
    """Refuse a network for other latents, text or pixels than this pipeline's.

    Raises:
        InputError: naming it.
    """
    wants = pipe.unet.config.in_channels, pipe.unet.config.cross_attention_dim
    has = network.config.channels, network.config.text_width
    if wants != has:
        raise InputError(f"{name} is for latents and text of width {has}, this pipeline has {wants}; give its own")
    width = getattr(network.pixel_encoder, "width", network.config.pixel_width)
    if width != network.config.pixel_width:
        raise InputError(
            f"{name} looks at pixels through a CLIP of width {network.config.pixel_width}, "
            f"this one's is {width}; give the CLIP that it was trained with"
        )


def relation_of(network: nn.Module, states: torch.Tensor, scale: float = 1.0) -> Relation:
    """r at two steps in one batch of the network. `states` [B,T,E] are those of the conditional text."""

    def relation(x0: torch.Tensor, t: int, s: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not scale:
            return torch.zeros_like(x0), torch.zeros_like(x0)
        times = torch.tensor([max(t, 0), max(s, 0)], device=x0.device).repeat_interleave(len(x0))
        r = scale * network(torch.cat([x0, x0]), torch.cat([states, states]), times)
        r_t, r_s = r.chunk(2)
        return r_t, r_s

    return relation


@torch.no_grad()
def moved_start(
    pipe: Any,
    scheduler: Any,
    noise: torch.Tensor,
    conditioning: Conditioning,
    relation: Relation,
    num_inference_steps: int,
    guidance_scale: float = 1.0,
) -> torch.Tensor:
    """z_T [B,C,h,w] around the mean at which the shift `prior` ends, k_T r: one more call of the denoiser.

    As in training, r is that of the network's guess from x_T without a shift, which is z_T itself.
    """
    scheduler = copy.deepcopy(scheduler)
    set_timesteps(scheduler, num_inference_steps, noise.device)
    t, count = scheduler.timesteps[0], len(noise)
    conditional = conditioning.rows(torch.arange(len(conditioning.states) - count, len(conditioning.states)))
    output = denoise(
        pipe, scheduler, noise, t, conditional, timestep_cond=guidance_embedding(pipe, guidance_scale, noise)
    ).float()
    guess = scheduler.level_at(t, noise).x0(noise.float(), output)
    r, _ = relation(guess, int(t), int(t))
    return (noise + scheduler.shift_at(t, noise) * r).to(noise.dtype)


@torch.no_grad()
def generate_with_context(
    pipe: Pipeline,
    network: RelationalNetwork,
    prompts: str | list[str],
    seeds: int | list[int],
    *,
    shift: str = "quadratic",
    ancestral: bool = False,
    num_inference_steps: int = 25,
    guidance_scale: float = 5.0,
    eta: float = 0.0,
    context_scale: float = 1.0,
    batch_size: int = 16,
    output_type: str = "pil",
    each: bool = False,
    progress: bool = False,
) -> Any:
    """Pictures of every prompt with every seed, seeds varying fastest, on any supported pipeline (SDXL's too).

    Args:
        context_scale: multiplies r; 0 is exactly the plain pipeline.
        each: one picture a prompt instead, each with its own of as many seeds.

    Raises:
        InputError: for a pipeline of another class, or a prompt that is empty or too long.
    """
    check_latent_unet(pipe)
    prompts, seeds = (
        ([prompts] if isinstance(prompts, str) else prompts),
        ([seeds] if isinstance(seeds, int) else seeds),
    )
    for text in prompts:
        check_prompt_length(pipe, text)
    kind = ContextDDPMScheduler if ancestral else ContextDDIMScheduler
    scheduler = latent_scheduler(kind, pipe, shift=shift)
    jobs = list(zip(prompts, seeds, strict=True)) if each else [(text, seed) for text in prompts for seed in seeds]
    out: list[Any] = []
    for start in tqdm(range(0, len(jobs), batch_size), desc="generate", disable=not progress):
        part = jobs[start : start + batch_size]
        texts, generator = [t for t, _ in part], generators([s for _, s in part])
        conditioning = conditioning_of(pipe, texts, guided=is_guided(pipe, guidance_scale))
        noise = initial_noise(pipe, len(part), generator, dtype=conditioning.states.dtype)
        relation = relation_of(network, conditioning.states[-len(part) :], context_scale)
        if context_scale and shift == "prior":
            noise = moved_start(pipe, scheduler, noise, conditioning, relation, num_inference_steps, guidance_scale)
        steps = sample(
            pipe,
            texts,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            eta=eta,
            generator=generator,
            latents=noise,
            conditioning=conditioning,
            scheduler=scheduler,
            step_kwargs={"relation": relation},
        )
        out.extend(decode(pipe, run(steps), output_type))
    return out if output_type == "pil" else torch.stack(out)


def load_context(pipe: Pipeline, folder: str | Path, clip: ClipScorer | None = None) -> tuple[RelationalNetwork, str]:
    """What `train_context` left in a folder: the relational network and its shift; an adapter found there is put on
    `pipe`.

    A denoiser that was trained whole is in `folder/pipeline`, and replaces that of `pipe`. `clip` is what a network
    that looks at pixels was trained with (the embedded one if None).

    Raises:
        InputError: for a folder that holds none, or one that does not fit the pipeline.
    """
    folder = Path(folder)
    if not (folder / "relation" / "config.json").is_file():
        raise InputError(
            f"folder {str(folder)!r} holds no relational network; give one that accord train context wrote"
        )
    whole, what = folder / "pipeline" / "unet", f"context {str(folder)!r}"
    network = load_model(RelationalNetwork, str(folder / "relation"), what).to(device_of(pipe))
    begun = read_json(folder / "config.json", f"{what}: its", "train it again")
    shift = str(begun.get("shift"))
    unet = load_model(type(pipe.unet), str(whole), what).to(pipe.device, pipe.unet.dtype) if whole.is_dir() else None
    if shift not in SHIFTS:
        raise InputError(
            f"context {str(folder)!r} has the shift {shift!r}, none of {', '.join(SHIFTS)}; train it again"
        )
    if network.config.pixel_width:
        clip = clip or load_clip(device=str(device_of(pipe)))
        network.pixel_encoder = PixelEncoder.of(pipe, clip)
    check_fits(network, pipe, f"context {str(folder)!r}")
    if network.config.pixel_width and clip is not None and begun.get("clip") not in (None, fingerprint(clip.model)):
        raise InputError(
            f"context {str(folder)!r} was trained to look through another CLIP than this one; give that one (`clip`)"
        )
    if (folder / "pytorch_lora_weights.safetensors").is_file():
        check_no_lora(pipe, "which that of the context would switch off")
        put_on(pipe, str(folder))
    elif unet is not None:
        with held(pipe.unet):
            pipe.register_modules(unet=unet)
    return network, shift


def new_relation(
    pipe: Pipeline, share: float = 0.15, seed: int = 0, clip: ClipScorer | None = None, **settings: Any
) -> RelationalNetwork:
    """A relational network for a pipeline, as wide as `share` of the denoiser's parameters allows (at most 256).

    With `clip` it also looks at the decoded picture through that model.

    Raises:
        InputError: if even the narrowest is too large for that.
    """
    allowed = share * sum(p.numel() for p in pipe.unet.parameters())
    channels, text_width = pipe.unet.config.in_channels, pipe.unet.config.cross_attention_dim
    encoder = PixelEncoder.of(pipe, clip) if clip is not None else None
    settings["pixel_width"] = encoder.width if encoder is not None else 0
    patch = settings.pop("patch", 2 if sample_size(pipe)[0] <= 32 else 4)
    with seeded(seed):
        for width in (256, 192, 128, 96, 64, 48, 32, 16, 8):
            network = RelationalNetwork(channels, text_width, width=width, patch=patch, **settings)
            if sum(p.numel() for p in network.parameters()) <= allowed:
                network.pixel_encoder = encoder
                return network
    raise InputError(f"no relational network fits into {share:.0%} of this denoiser's parameters; raise the share")
