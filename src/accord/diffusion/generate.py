"""`accord.generate`: prompts and seeds to pictures, through the open sampling loop or, for other pipelines, their own
call.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from tqdm.auto import tqdm

from accord.diffusion.loop import decode, generators, initial_noise, run, sample
from accord.diffusion.pipelines import check_latent_unet, check_prompts
from accord.diffusion.state import held, network_of, own_scheduler, parts_of
from accord.types import InputError

STEPS, GUIDANCE = 25, 5.0
OUTPUTS = ("pil", "pt", "latent")
OWN = ("pipe", "prompts", "negative_prompts", "progress")  # arguments of `sample` that are said otherwise here

Generators = torch.Generator | Sequence[torch.Generator]


def generate(
    pipe: DiffusionPipeline,
    prompts: str | Sequence[str],
    seeds: int | Sequence[int] | None = None,
    *,
    negative_prompt: str = "",
    num_inference_steps: int = STEPS,
    guidance_scale: float = GUIDANCE,
    generator: Generators | None = None,
    batch_size: int = 16,
    output_type: str = "pil",
    progress: bool = False,
    **loop: Any,
) -> list[Image.Image] | torch.Tensor:
    """Pictures of every prompt with every seed, seeds varying fastest.

    Each picture's noise comes from its own seed, so it does not depend on what else is in the batch.

    Args:
        pipe: a Stable Diffusion 1, 2 or XL pipeline, or another text-to-image pipeline of diffusers (Stable Diffusion
            3, Flux, ...).
        seeds: one seed or several; 0 if neither they nor a generator are given.
        generator: instead of seeds, as pipelines of diffusers take it: one for all pictures, one a prompt, drawn from
            in order, or as many as there are prompts.
        output_type: "pil", "pt" ([B,3,H,W] in 0..1) or "latent".
        loop: further arguments of `accord.diffusion.loop.sample` (eta, height, width, before_step, ...); for another
            class those of the pipeline's own call.

    Raises:
        InputError: for a pipeline that cannot be run so, a prompt that is empty or too long, seeds beside a generator,
            or an argument that would not be used.
    """
    names = [prompts] if isinstance(prompts, str) else list(prompts)
    check_generates(pipe)
    if output_type not in OUTPUTS:
        raise InputError(f"output_type must be one of {', '.join(OUTPUTS)}, not {output_type!r}")
    check_prompts(pipe, names)
    if generator is None:
        numbers = [seeds] if isinstance(seeds, int) else [0] if seeds is None else list(seeds)
        jobs = [(text, seed) for text in names for seed in numbers]
        generator_of_each: Generators = generators([seed for _, seed in jobs])
        texts = [text for text, _ in jobs]
    elif seeds is not None:
        raise InputError("both seeds and a generator were given; give one of them")
    else:
        generator_of_each, texts = (generator if isinstance(generator, torch.Generator) else list(generator)), names
        if not isinstance(generator_of_each, torch.Generator) and len(generator_of_each) != len(texts):
            raise InputError(
                f"{len(generator_of_each)} generators were given for {len(texts)} pictures; give one for each"
            )
    out: list[Any] = []
    for start in tqdm(range(0, len(texts), batch_size), desc="generate", disable=not progress):
        own = (
            generator_of_each
            if isinstance(generator_of_each, torch.Generator)
            else list(generator_of_each[start : start + batch_size])
        )
        rows = slice(start, start + batch_size)
        of_each = {
            k: v[rows] if k in ("latents", "image_latents") and isinstance(v, torch.Tensor) else v
            for k, v in loop.items()
        }
        out.extend(
            draw(pipe, texts[rows], own, num_inference_steps, guidance_scale, negative_prompt, output_type, **of_each)
        )
    return out if output_type == "pil" else torch.stack(out)


def generate_each(
    pipe: DiffusionPipeline, texts: Sequence[str], seeds: Sequence[int], num_inference_steps: int, guidance_scale: float
) -> list[Image.Image]:
    """One PIL picture a (prompt, seed), in one batch."""
    return list(draw(pipe, texts, generators(seeds), num_inference_steps, guidance_scale))


def draw(
    pipe: DiffusionPipeline,
    texts: Sequence[str],
    generator_of_each: Generators,
    num_inference_steps: int,
    guidance_scale: float,
    negative_prompt: str = "",
    output_type: str = "pil",
    **loop: Any,
) -> list[Image.Image] | torch.Tensor:
    """One picture a prompt, in one batch, from one generator or from one each."""
    given: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "generator": generator_of_each,
        **loop,
    }
    against = [negative_prompt] * len(texts) if negative_prompt else None  # XL has zeros for none, and not for ""
    if isinstance(pipe, StableDiffusionPipeline | StableDiffusionXLPipeline):
        _check_taken(pipe, given.keys() - set(OWN), sample)
        _check_taken(pipe, given.keys() & set(OWN), None)
        if "latents" not in given:
            each = list(generator_of_each) if isinstance(generator_of_each, Sequence) else generator_of_each
            given["latents"] = initial_noise(pipe, len(texts), each, loop.get("height"), loop.get("width"))
        with held(network_of(pipe)):  # for the whole of it: no other thread trains or changes the network in between
            return decode(pipe, run(sample(pipe, list(texts), negative_prompts=against, **given)), output_type)
    given |= {"prompt": list(texts), "output_type": output_type} | ({"negative_prompt": against} if against else {})
    _check_taken(pipe, given.keys(), pipe.__call__)
    own = inspect.signature(pipe.__call__).parameters.get(
        "true_cfg_scale"
    )  # of those that take the guidance as an input, and guided beside that
    if against and (guidance_scale if own is None else given.get("true_cfg_scale", own.default)) <= 1:
        raise InputError(
            "a negative prompt is not used without guidance; leave it out, or raise "
            f"{'guidance_scale' if own is None else 'true_cfg_scale'} above 1"
        )
    with held(*parts_of(pipe)), own_scheduler(pipe):
        made = pipe(**given)
    if not hasattr(made, "images"):
        raise InputError(f"a {type(pipe).__name__} makes no pictures; give a text-to-image pipeline")
    return made.images


def _check_taken(pipe: Any, given: Iterable[str], call: Any) -> None:
    """Refuse arguments that would not be used."""
    taken = inspect.signature(call).parameters.keys() if call is not None else ()
    unknown = sorted(set(given) - set(taken))
    if unknown:
        raise InputError(f"a {type(pipe).__name__} takes no {unknown[0]}; leave it out")


def check_generates(pipe: Any) -> None:
    """Refuse what `generate` cannot run.

    Raises:
        InputError: for anything that is no pipeline of diffusers, or one that is run with a context.
    """
    if isinstance(pipe, StableDiffusionPipeline | StableDiffusionXLPipeline) or not isinstance(pipe, DiffusionPipeline):
        check_latent_unet(pipe)
