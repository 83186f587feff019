"""Loading pipelines, and checking what they are."""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import diffusers
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

from accord.data.prompts import check_sayable, words_beyond
from accord.diffusion.adapters import put_on
from accord.diffusion.loading import load_pipeline
from accord.diffusion.opened import networks_of
from accord.diffusion.state import held
from accord.embedded import PIPELINE
from accord.types import InputError, a_kind

SUPPORTED = "StableDiffusionPipeline (the classes of Stable Diffusion 1 and 2)"

SD = ("StableDiffusionPipeline",)  # names of classes, for `load`
UNETS = (*SD, "StableDiffusionXLPipeline")
JOINT = ("StableDiffusion3Pipeline", "FluxPipeline")  # transformers in which image and text attend to each other

# parts and arguments of pipelines that change finished pictures, and are not loaded
LEFT_OUT = {"safety_checker": None, "requires_safety_checker": False, "add_watermarker": False}

_LETTERS = 64  # of a word that is remembered

Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline


def load(
    model: str | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    lora: str | Path | None = None,
    classes: Collection[str] | None = None,
    variant: str | None = None,
    model_config: str | None = None,
) -> Any:
    """A pipeline of diffusers that makes pictures or videos of a prompt, in eval mode.

    What each method takes is in README; `generate` takes all.

    Args:
        model: the embedded lab if None; else a folder written by `save_pretrained`, a hub id, or a single
            `.safetensors` file.
        device: where to put it; a CUDA device if there is one, else the CPU, if None.
        dtype: float32 if None, which training needs; torch.float16 or torch.bfloat16 halve memory for sampling on CUDA.
        lora: an adapter to put on, as `train_reward` leaves it: folder, file or hub id; "lab" is the embedded one.
        classes: names of classes; others are refused before their weights are fetched.
        variant: of the files with the weights ("fp16"); the usual ones if None, or the only one that a folder has.
        model_config: for a single file the folder or hub id of a pipeline of its kind, whose configuration and
            tokenizers it has; the one that diffusers takes it for, from the hub or its cache, if None.

    Raises:
        InputError: for a model or an adapter that is not there, cannot be read, or is of another class.
    """
    device = default_device() if device in (None, "cuda") and torch.cuda.is_available() else device or "cpu"
    check_device(device)
    kind = ""

    def check_class(named: str | None) -> dict[str, Any]:
        nonlocal kind
        kind = named or ""
        called = (
            f"{model!r} is {f'{a_kind(kind)}, which' if kind else 'of no named class, which'} is not supported here; "
        )
        if classes and kind not in classes:
            raise InputError(called + f"use {' or '.join(map(a_kind, classes))}")
        cls = getattr(diffusers, kind, None)
        if needed := _missing_packages(cls):
            raise InputError(f"{model!r} is {a_kind(kind)}, which needs {' and '.join(needed)}; install it with pip")
        if not makes_pictures(cls):
            raise InputError(called + "use a text-to-image or text-to-video pipeline of diffusers")
        return {k: v for k, v in LEFT_OUT.items() if k in inspect.signature(cls).parameters}  # type: ignore[arg-type]

    # the type is said aloud: left out, the text encoders would take the saved one and the U-Net float32
    model = model or str(PIPELINE)
    pipe = load_pipeline(model, dtype or torch.float32, check_class, variant, model_config)
    if kind in UNETS:
        check_latent_unet(pipe)
    if lora is not None:
        put_on(pipe, str(lora))
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval().requires_grad_(False)
    return pipe.to(device)


def makes_pictures(cls: Any) -> bool:
    """Whether pipelines of a class make pictures or videos of a prompt, by what their call takes: a size, or a picture
    that has one.
    """
    if not (isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline)):
        return False
    taken = inspect.signature(cls.__call__).parameters.keys()
    of_a_prompt = {"prompt", "num_inference_steps", "output_type", "generator"} <= taken
    return of_a_prompt and bool(taken & {"height", "image", "video"})


def _missing_packages(cls: Any) -> list[str]:
    """What a class of diffusers needs that is not installed; it is then a dummy that names it."""
    return [name for name in getattr(cls, "_backends", ()) if importlib.util.find_spec(name) is None]


def default_device() -> str:
    """A CUDA device if there is one (under a launcher of several processes, this process's own), else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    local = os.environ.get("LOCAL_RANK")
    return "cuda" if local is None else f"cuda:{local}"


def device_name(device: str) -> str:
    """What a table says of where it was made: the card's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def check_device(device: str) -> None:
    """Refuse a device that is not here.

    Raises:
        InputError: naming the device.
    """
    try:
        index = torch.device(device).index or 0
    except RuntimeError as error:
        raise InputError(f"device {device!r} is unknown; use cpu, cuda or cuda:N") from error
    try:
        there = not (device.startswith("cuda") and index >= torch.cuda.device_count())
        torch.zeros(1, device=device if there else "cpu").item()
    except Exception:  # each backend has its own way to say that it is not here; "meta" holds no numbers
        there = False
    if not there:
        raise InputError(f"device {device!r} is not available here; use cpu")


def device_of(pipe: Any) -> torch.device:
    """Where the pipeline computes; `pipe.device` is where its modules wait, with diffusers' offloading another one."""
    return pipe._execution_device


def latent_scheduler(kind: Any, pipe: Any, **settings: Any) -> Any:
    """A scheduler of class `kind` from the pipeline's own, with these settings.

    Latents are not clipped to -1..1, which diffusers' DDIM and DDPM do where the pipeline's configuration does not
    speak of it.

    Raises:
        InputError: for a pipeline whose process is another one, which has no betas (EDM's).
    """
    if "beta_schedule" not in pipe.scheduler.config:
        raise InputError(
            f"{a_kind(pipe.scheduler)} has no betas, and its process is not that of {kind.__name__}; use a "
            "pipeline that was trained with betas"
        )
    return kind.from_config(
        pipe.scheduler.config, **{"clip_sample": pipe.scheduler.config.get("clip_sample", False), **settings}
    )


def ddim_of(pipe: Any, kind: Any = DDIMScheduler, **settings: Any) -> Any:
    """DDIM (or another `kind`) for a pipeline whose process is DDIM's, whatever sampler it has; None, so its own
    scheduler, for others.
    """
    config = pipe.scheduler.config
    if "beta_schedule" not in config or config.get("use_flow_sigmas"):
        return None
    ddim = latent_scheduler(kind, pipe, **settings)
    own = torch.as_tensor(pipe.scheduler.alphas_cumprod)
    return ddim if torch.allclose(own.float(), ddim.alphas_cumprod, atol=1e-5) else None  # CogVideoX shifts its own


def check_trainable(pipe: Any) -> None:
    """Refuse to train weights in half precision: the optimiser's steps would be lost in rounding, or not finite.

    Raises:
        InputError: naming the type.
    """
    kind = networks_of(pipe)[0].dtype
    if kind in (torch.float16, torch.bfloat16):
        raise InputError(
            f"the denoiser's weights are {str(kind).removeprefix('torch.')}, too coarse to be trained; "
            "load it with dtype=torch.float32"
        )


def check_latent_unet(pipe: Any) -> None:
    """Refuse a pipeline that is neither Stable Diffusion 1 or 2 nor XL.

    Raises:
        InputError: naming its class.
    """
    if not isinstance(pipe, (StableDiffusionPipeline, StableDiffusionXLPipeline)):
        raise InputError(f"{a_kind(pipe)} is not supported here; use a {SUPPORTED} or a StableDiffusionXLPipeline")
    check_no_context(pipe)


def check_no_context(pipe: Any) -> None:
    """Refuse a pipeline with a relational network of its own, which only its own call would use."""
    if "relation" in pipe.components:
        raise InputError(
            f"{a_kind(pipe)} would be run without its context here; call it itself, or give a pipeline without one"
        )


def sample_size(pipe: Any) -> tuple[int, int]:
    """Height and width of a U-Net's latents."""
    size = pipe.unet.config.sample_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def check_prompt_length(pipe: Any, prompt: str) -> None:
    """Refuse a prompt whose last words the text encoder (the longest of them) would never see.

    Raises:
        InputError: naming the words that fall off.
    """
    check_prompts(pipe, [prompt])


def check_prompts(pipe: Any, prompts: Sequence[str], what: str = "prompt") -> None:
    """`check_prompt_length` of many prompts: each of their words is tokenised once, and a prompt whole only where it
    may be too long.

    Args:
        what: what they are called in a message.

    Raises:
        InputError: for the first that is empty, no UTF-8 or too long.
    """
    for text in prompts:
        if not text.strip():
            raise InputError(f"the {what} is empty; give it at least one word")
        check_sayable(text)
    found = [(tokenizer, length) for tokenizer, length in _encoders(pipe) if tokenizer is not None]
    if not found:
        return
    tokenizer, length = max(found, key=lambda pair: pair[1])
    room = length - tokenizer.num_special_tokens_to_add()

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False).input_ids)

    with held(tokenizer):
        words = list(dict.fromkeys(w for text in prompts for w in text.split() if len(w) <= _LETTERS))
        # with a space before it a word may be other tokens
        counts = [
            [len(ids) for ids in tokenizer([s + w for w in words], add_special_tokens=False).input_ids] if words else []
            for s in ("", " ")
        ]
        of = dict(zip(words, map(max, *counts), strict=True))
        for text in prompts:
            lost = words_beyond(text, tokens, room) if sum(of.get(w, room + 1) for w in text.split()) > room else ""
            if lost:
                raise InputError(
                    f"the {what} is longer than the {length} tokens of this model's text encoder, these words would "
                    f"fall off: {lost!r}; shorten it"
                )


def token_spans(pipe: Any, prompt: str) -> list[tuple[int, int] | None]:
    """Per token of the text states that a U-Net takes: its character span in the prompt, or None for BOS, EOS and
    padding. For other networks see `spans.read_texts`.
    """
    return [span for tokenizer, length in _encoders(pipe) for span in _spans(tokenizer, prompt, length)]


def _encoders(pipe: Any) -> list[tuple[Any, int]]:
    """The tokenizers of a pipeline, and how many tokens of each its networks take. XL's two encoders share theirs."""
    unet = isinstance(pipe, StableDiffusionPipeline | StableDiffusionXLPipeline)
    found = [getattr(pipe, n, None) for n in (["tokenizer"] if unet else ["tokenizer", "tokenizer_2", "tokenizer_3"])]
    own = inspect.signature(type(pipe).__call__).parameters.get("max_sequence_length")
    most = own.default if own is not None and isinstance(own.default, int) else None
    return [  # some of the newest have a processor instead
        (t, t.model_max_length if most is None else min(t.model_max_length, most))
        for t in found
        if t is not None and hasattr(t, "model_max_length")
    ]


def _spans(tokenizer: Any, prompt: str, length: int) -> list[tuple[int, int] | None]:
    """Of one tokenizer, from its offsets; a slow one without offsets is aligned by its pieces."""
    spans: list[tuple[int, int] | None]
    if tokenizer is None:
        return [None] * length
    if getattr(tokenizer, "is_fast", False):
        with held(tokenizer):
            encoded = tokenizer(
                prompt, padding="max_length", max_length=length, truncation=True, return_offsets_mapping=True
            )
        special = tokenizer.get_special_tokens_mask(encoded.input_ids, already_has_special_tokens=True)
        spans = [None if s or a == b else (a, b) for (a, b), s in zip(encoded.offset_mapping, special, strict=True)]
    else:
        spans, position, lower = [None], 0, prompt.lower()
        for piece in tokenizer.tokenize(prompt)[: length - 2]:
            text = piece.replace("</w>", "").lower()
            found = lower.find(text, position)
            start = position if found < 0 else found
            spans.append((start, start + len(text)))
            position = start + len(text)
        spans += [None] * (length - len(spans))
    return spans[:length]


def tokens_of(spans: list[tuple[int, int] | None], start: int, end: int) -> list[int]:
    """Indices of the tokens that overlap the characters [start, end)."""
    return [i for i, s in enumerate(spans) if s is not None and s[0] < end and s[1] > start]
