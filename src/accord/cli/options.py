"""Options that commands share, and what they do with them."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from accord.types import InputError

T = TypeVar("T")
# who judges pictures of a pipeline that is not the lab's, if nobody is named
HUB_CAPTIONER = "Salesforce/blip2-opt-2.7b"
HUB_CLIP = "openai/clip-vit-large-patch14"

Model = Annotated[str | None, typer.Option(help="Pipeline folder or hub id; the embedded lab if not given.")]
Lora = Annotated[str | None, typer.Option(help="Adapter to put on, as accord train reward leaves it: folder, file or hub id; lab for the embedded one.")]
CaptionerId = Annotated[str | None, typer.Option(help=f"BLIP or BLIP-2 folder or hub id, or lab for the embedded one; if not given lab, and with --model {HUB_CAPTIONER}.")]
ClipId = Annotated[str | None, typer.Option(help=f"CLIP folder or hub id, or lab for the embedded one; if not given lab, and with --model {HUB_CLIP}.")]
OwnCaptionerId = Annotated[str | None, typer.Option("--captioner", help="BLIP or BLIP-2 folder or hub id; the embedded one, which knows the lab's scenes alone, if not given.")]
OwnClipId = Annotated[str | None, typer.Option("--clip", help="CLIP folder or hub id; the embedded one, which knows the lab's scenes alone, if not given.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; CUDA if there is one by default.")]
Dtype = Annotated[str, typer.Option(help="float32, float16 or bfloat16, of the pipeline's weights; half precision is for CUDA.")]
Seeds = Annotated[list[int], typer.Option("--seed", min=0, max=2**63 - 1, help="Seed; repeat for several pictures a prompt.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout and nothing else there.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Prompts = Annotated[list[str], typer.Argument(help="One or more prompts, each in quotes.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures at once; each batch is written before the next.")]
Steps = Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")]
Guidance = Annotated[float, typer.Option(min=0, help="Guidance scale; at 1 or less the prompt alone is followed, unguided.")]


def quiet() -> None:
    """Keep libraries' notices off the terminal; errors are still raised."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each try to reach the hub
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def emit(as_json: bool, data: dict[str, Any], text: str) -> None:
    """Print a result, as JSON or as text."""
    if os.environ.get("RANK", "0") == "0":  # of several processes the first one speaks
        print(json.dumps(data) if as_json else text)


def pick_device(named: str | None) -> str:
    """The device that was named, refused if it is not here, or the default one."""
    from accord.diffusion.pipelines import check_device, default_device

    where = named or default_device()
    check_device(where)
    return where


def torch_type(name: str) -> Any:
    """torch's type of that name."""
    import torch

    if name not in ("float32", "float16", "bfloat16"):
        raise InputError(f"dtype {name!r} is unknown; use float32, float16 or bfloat16")
    return getattr(torch, name)


def judge_of(named: str | None, model: str | None, hub: str) -> str | None:
    """Who judges: the model that was named, or the one for this pipeline."""
    return named or (None if model is None else hub)


def checked(make: Callable[..., T], renamed: Mapping[str, str] | None = None, /, **given: Any) -> T:
    """What `make(**given)` is, a config as a rule; its ValueError becomes a sentence that names options and not fields.

    Args:
        renamed: field -> option, where they are called otherwise.
    """
    try:
        return make(**given)
    except ValueError as error:
        text, renamed = str(error), renamed or {}
        for name in given:
            if name in renamed or "_" in name:  # a field of one word is called as its option is
                text = re.sub(rf"\b{name}\b", "--" + renamed.get(name, name).replace("_", "-"), text)
        raise InputError(text) from error


def leave_out(why: str, **given: Any) -> None:
    """Refuse an option that would do nothing: those of `given` that are neither None, nor False, nor empty."""
    for name, value in given.items():
        if value is not None and value is not False and value != []:
            raise InputError(f"--{name.replace('_', '-')} is not used {why}; leave it out")


def say_lab_only(size: tuple[int, int], named: Any, what: str) -> None:
    """A note on stderr where an embedded model judges a picture that it cannot know."""
    if named is None and size != (64, 64):
        print(f"note: the embedded models know the lab's scenes of 64x64 pixels alone; for other pictures give {what}", file=sys.stderr)


def read_by_the_lab(frames: Any, prompt: str) -> dict[str, float]:
    """On clips of the lab, the share of frames that the reader finds right; nothing of others, and a note on stderr why."""
    from accord.lab.scenes.ask import ask_of, check, still
    from accord.lab.scenes.read import read

    if frames[0].size != (64, 64):
        return {}
    try:
        ask = ask_of(still(prompt))
        return {"frames_right": sum(check(read(f), ask).right for f in frames) / len(frames)}
    except InputError as error:  # another prompt than the lab's, or the packages that draw its scenes are not installed
        print(f"note: the frames are not read: {error}", file=sys.stderr)
        return {}


def frame_range(text: str | None) -> tuple[int, int | None]:
    """START:STOP, either may be left out."""
    if text is None:
        return 0, None
    start, colon, stop = text.partition(":")
    try:
        if not colon:
            raise ValueError
        first, last = int(start or 0), int(stop) if stop else None
        if first < 0 or (last or 0) < 0:
            raise ValueError
        return first, last
    except ValueError:
        raise InputError(f"frames {text!r} is not START:STOP, counted from 0; write for example 0:16") from None


def file_name(index: int, prompt: str, seed: int) -> str:
    words = "-".join("".join(c if c.isalnum() else " " for c in prompt.lower()).split())[:60].strip("-")
    return f"{index:03d}-{words}-s{seed}"
