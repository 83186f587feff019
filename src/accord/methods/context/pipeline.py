"""`ContextDiffPipeline`: a Stable Diffusion pipeline whose process is shifted by a relational network; making and
loading such networks for any pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput

from accord.diffusion.adapters import put_on
from accord.diffusion.loading import load_model, nothing_of_this_machine
from accord.diffusion.lora import check_no_lora, named_networks
from accord.diffusion.opened import Opened, Step, networks_of
from accord.diffusion.pipelines import check_prompt_length, device_of, latent_scheduler
from accord.diffusion.spans import text_states
from accord.diffusion.state import held, network_of, seeded
from accord.files import read_json
from accord.judges.clip import ClipScorer, load_clip
from accord.methods.context.equations import SHIFTS
from accord.methods.context.network import RelationalNetwork
from accord.methods.context.pixels import PixelEncoder, vision_tower
from accord.methods.context.sampling import Context, without_guidance
from accord.methods.context.schedulers import ContextDDIMScheduler, ContextDDPMScheduler
from accord.training.fingerprint import fingerprint
from accord.types import InputError, a_kind

WIDTHS = (256, 192, 128, 96, 64, 48, 32, 16, 8)  # of a new network, the widest first that its share allows


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
                self.plain(), image_encoder, feature_extractor.image_mean, feature_extractor.image_std
            )
        wants = unet.config.in_channels, unet.config.cross_attention_dim
        check_fits(relation, wants, "this relational network")

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
            raise InputError(f"{a_kind(pipe)} has no pipeline class with context; use generate_with_context")
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
        context = Context.of(
            self.plain(),
            self.relation,
            self.scheduler.config.shift,
            ancestral=isinstance(self.scheduler, ContextDDPMScheduler),
            eta=eta,
            scale=context_scale,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            call={"height": height, "width": width, "negative_prompt": negative if any(negative or ()) else None},
        )

        def called_back(step: Step, new: torch.Tensor) -> torch.Tensor:
            assert callback_on_step_end is not None
            changed = callback_on_step_end(self, step.index, step.timestep, {"latents": new}) or {}
            return changed.get("latents", new)

        noise = None if latents is None else latents.to(device_of(self), self.text_encoder.dtype)
        each = torch.default_generator if generator is None else generator
        after_step = None if callback_on_step_end is None else called_back
        images = context.run(prompts, each, noise=noise, after_step=after_step, output_type=output_type)
        return (
            StableDiffusionPipelineOutput(images=images, nsfw_content_detected=None) if return_dict else (images, None)
        )

    def plain(self) -> StableDiffusionPipeline:
        """The same parts as a pipeline without context."""
        parts = {name: part for name, part in self.components.items() if name != "relation"}
        return StableDiffusionPipeline(**{**parts, "safety_checker": None}, requires_safety_checker=False)


def _check_scheduler(scheduler: Any) -> None:
    if not isinstance(scheduler, (ContextDDIMScheduler, ContextDDPMScheduler)):
        raise InputError(f"{a_kind(scheduler)} knows no context; use ContextDDIMScheduler or ContextDDPMScheduler")


def shapes_of(pipe: Any, call: Mapping[str, Any] | None = None) -> tuple[int, int, int]:
    """Channels of a pipeline's latents, width of the text states that its network is given, and the latents' height.

    Args:
        call: further arguments of the pipeline's own call.

    Raises:
        InputError: for a pipeline that cannot be opened.
    """
    opened = Opened(pipe, **without_guidance(pipe, 2, call or {}))
    latents = opened.vae_latents([""], opened.noise([""], [torch.Generator().manual_seed(0)]))
    with torch.no_grad():
        return latents.shape[1], text_states(opened, [""])[0].shape[-1], latents.shape[-2]


def check_fits(network: RelationalNetwork, wants: tuple[int, int], name: str) -> None:
    """Refuse a network for other latents, text or pixels than a pipeline's.

    Args:
        wants: channels of its latents, and width of its text states.

    Raises:
        InputError: naming it.
    """
    has = network.config.channels, network.config.text_width
    if wants != has:
        raise InputError(f"{name} is for latents and text of width {has}, this pipeline has {wants}; give its own")
    width = getattr(network.pixel_encoder, "width", network.config.pixel_width)
    if width != network.config.pixel_width:
        raise InputError(
            f"{name} looks at pixels through a CLIP of width {network.config.pixel_width}, "
            f"this one's is {width}; give the CLIP that it was trained with"
        )


def load_context(
    pipe: Any, folder: str | Path, clip: ClipScorer | None = None, call: Mapping[str, Any] | None = None
) -> tuple[RelationalNetwork, str]:
    """What `train_context` left in a folder: the relational network and its shift; an adapter found there is put on
    `pipe`.

    A denoiser that was trained whole is in `folder/pipeline`, and replaces that of `pipe`. `clip` is what a network
    that looks at pixels was trained with (the embedded one if None), `call` what is further given to the pipeline's own
    call.

    Raises:
        InputError: for a folder that holds none, or one that does not fit the pipeline.
    """
    folder = Path(folder)
    if not (folder / "relation" / "config.json").is_file():
        raise InputError(
            f"folder {str(folder)!r} holds no relational network; give one that accord train context wrote"
        )
    what = f"context {str(folder)!r}"
    network = load_model(RelationalNetwork, str(folder / "relation"), what).to(device_of(pipe))
    begun = read_json(folder / "config.json", f"{what}: its", "train it again")
    shift = str(begun.get("shift"))
    whole = {
        name: load_model(type(own), str(folder / "pipeline" / name), what).to(pipe.device, own.dtype)
        for name, own in named_networks(pipe).items()
        if (folder / "pipeline" / name).is_dir()
    }
    if shift not in SHIFTS:
        raise InputError(
            f"context {str(folder)!r} has the shift {shift!r}, none of {', '.join(SHIFTS)}; train it again"
        )
    if network.config.pixel_width:
        clip = clip or load_clip(device=str(device_of(pipe)))
        network.pixel_encoder = PixelEncoder.of(pipe, clip)
    check_fits(network, shapes_of(pipe, call)[:2], f"context {str(folder)!r}")
    if network.config.pixel_width and clip is not None and begun.get("clip") not in (None, fingerprint(clip.model)):
        raise InputError(
            f"context {str(folder)!r} was trained to look through another CLIP than this one; give that one (`clip`)"
        )
    if (folder / "pytorch_lora_weights.safetensors").is_file():
        check_no_lora(pipe, "which that of the context would switch off")
        put_on(pipe, str(folder))
    elif whole:
        with held(network_of(pipe)):
            pipe.register_modules(**whole)
    return network, shift


def new_relation(
    pipe: Any,
    share: float = 0.15,
    seed: int = 0,
    clip: ClipScorer | None = None,
    call: Mapping[str, Any] | None = None,
    **settings: Any,
) -> RelationalNetwork:
    """A relational network for a pipeline, as wide as `share` of the denoiser's parameters allows (at most 256).

    With `clip` it also looks at the decoded picture through that model. `call` are further arguments of the pipeline's
    own call.

    Raises:
        InputError: if even the narrowest is too large for that.
    """
    channels, text_width, side = shapes_of(pipe, call)
    allowed = share * sum(p.numel() for net in networks_of(pipe) for p in net.parameters())
    encoder = PixelEncoder.of(pipe, clip) if clip is not None else None
    settings["pixel_width"] = encoder.width if encoder is not None else 0
    patch = settings.pop("patch", 2 if side <= 32 else 4)
    with seeded(seed):
        for width in WIDTHS:
            network = RelationalNetwork(channels, text_width, width=width, patch=patch, **settings)
            if sum(p.numel() for p in network.parameters()) <= allowed:
                network.pixel_encoder = encoder
                return network
    raise InputError(f"no relational network fits into {share:.0%} of this denoiser's parameters; raise the share")
