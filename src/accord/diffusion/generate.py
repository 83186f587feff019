"""`accord.generate`: prompts and seeds to pictures, by the pipeline's own call."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from accord.diffusion.call import call_arguments, joined_call
from accord.diffusion.opened import Generators, Opened, check_call, swapped
from accord.diffusion.pipelines import check_no_context, check_prompts
from accord.diffusion.progress import step_bar
from accord.diffusion.state import held, parts_of
from accord.types import InputError

OUTPUTS = ("pil", "pt", "latent")


def generate(
    pipe: DiffusionPipeline,
    prompts: str | Sequence[str],
    seeds: int | Sequence[int] | None = None,
    *,
    negative_prompt: str = "",
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    generator: Generators | None = None,
    batch_size: int = 16,
    output_type: str = "pil",
    progress: bool = False,
    call: Mapping[str, Any] | None = None,
    **more: Any,
) -> list[Image.Image] | torch.Tensor:
    """Pictures of every prompt with every seed, seeds varying fastest.

    Each picture's noise comes from its own seed, so it does not depend on what else is in the batch.

    Args:
        pipe: a text-to-image or text-to-video pipeline of diffusers.
        seeds: one seed or several; 0 if neither they nor a generator are given.
        num_inference_steps: those of the pipeline's own call if None; of the lab's pipelines 25.
        guidance_scale: of classifier-free guidance, at which 1 is unguided; as above if None, the lab's is 5.
        generator: instead of seeds, as pipelines of diffusers take it: one for all pictures, one a prompt, drawn from
            in order, or as many as there are prompts.
        output_type: "pil" (of a video a list of its frames), "pt" ([B,3,H,W], of videos [B,F,3,H,W], in 0..1) or
            "latent".
        call, more: further arguments of the pipeline's own call (height, width, eta, latents, ...), as a mapping or as
            keywords.

    Raises:
        InputError: for a pipeline that cannot be run so, a prompt that is empty or too long, seeds beside a generator,
            or an argument that would not be used.
    """
    names = [prompts] if isinstance(prompts, str) else list(prompts)
    check_generates(pipe)
    if output_type not in OUTPUTS:
        raise InputError(f"output_type must be one of {', '.join(OUTPUTS)}, not {output_type!r}")
    check_prompts(pipe, names)
    check_batch_size(batch_size)
    if generator is None:
        numbers = seeds_of(0 if seeds is None else seeds)
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
    if not texts:
        raise InputError("no prompts or no seeds were given; give one of each at least")
    arguments = call_arguments(
        pipe,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        call=joined_call(call, more),
    )
    latents = arguments.pop("latents", None)
    if latents is not None and len(latents) != len(texts):
        raise InputError(f"{len(latents)} latents were given for {len(texts)} prompts; give one for each")
    opened = Opened(pipe, **arguments)
    out: list[Any] = []
    with step_bar(len(texts), "generate", not progress) as bar:
        for start in range(0, len(texts), batch_size):
            rows = slice(start, start + batch_size)
            own = generator_of_each if isinstance(generator_of_each, torch.Generator) else generator_of_each[rows]
            if latents is not None:
                opened.call["latents"] = latents[rows]
            with refusing_nan(pipe):
                made = opened.pictures(texts[rows], own, output_type=output_type)
            if isinstance(made, torch.Tensor):
                check_finite(made)
            out.extend(made)
            bar.finish(len(texts[rows]))
    return out if output_type == "pil" else torch.stack(out)


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator a seed, as diffusers users make them: the same picture whatever the batch or the device."""
    return [torch.Generator("cpu").manual_seed(int(s)) for s in seeds]


def check_finite(latents: torch.Tensor) -> None:
    """Refuse latents or pictures with NaN or infinity in them. Raises InputError."""
    if not torch.isfinite(latents).all():
        raise InputError(
            "the latents or pictures are not finite (NaN or infinity) after sampling; "
            "the model overflows in this precision or its weights are broken: try dtype float32"
        )


def seeds_of(seeds: Any) -> list[int]:
    """One seed or several as whole numbers. Raises InputError for one that is none, or below 0."""
    try:
        numbers = [operator.index(s) for s in ([seeds] if hasattr(seeds, "__index__") else seeds)]
    except TypeError as error:
        raise InputError(f"seeds must be whole numbers, not {seeds!r}") from error
    wrong = [s for s in numbers if not 0 <= s < 2**63]
    if wrong:
        raise InputError(f"a seed must be in 0 to 2**63 - 1, not {wrong[0]}")
    return numbers


def check_batch_size(batch_size: int) -> None:
    """Refuse a number of pictures at once that is none. Raises InputError."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")


def generate_each(
    pipe: DiffusionPipeline,
    texts: Sequence[str],
    seeds: Sequence[int],
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    **call: Any,
) -> list[Image.Image]:
    """One PIL picture a (prompt, seed), in one batch; arguments as of `generate`."""
    each = generators(seeds)
    return list(
        generate(
            pipe,
            texts,
            generator=each,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            batch_size=len(each),
            **call,
        )
    )


@contextmanager
def refusing_nan(pipe: Any) -> Iterator[None]:
    """Refuse what the VAE made if it is not finite, before it is made into black pictures."""
    parts = [part for name in ("image_processor", "video_processor") if (part := getattr(pipe, name, None)) is not None]

    def checking(own: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(own)
        def postprocess(image: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(image, torch.Tensor):
                check_finite(image)
            return own(image, *args, **kwargs)

        return postprocess

    with held(*parts_of(pipe)), ExitStack() as stack:
        for part in parts:
            stack.enter_context(swapped(part, postprocess=checking(part.postprocess)))
        yield


def check_generates(pipe: Any) -> None:
    """Refuse what `generate` cannot run.

    Raises:
        InputError: for anything that is no pipeline of diffusers with a prompt, or one that is run with a context.
    """
    check_call(pipe)
    check_no_context(pipe)
