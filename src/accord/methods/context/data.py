"""What training with context draws from: clean latents, encoded once, with their captions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tqdm.auto import tqdm

from accord.data.images import fit, to_tensor
from accord.diffusion.loading import header_of, load_tensors
from accord.diffusion.opened import Opened
from accord.diffusion.tower import opened_for_pictures
from accord.files import replace_file
from accord.methods.context.train import Draw
from accord.training.fingerprint import fingerprint
from accord.training.processes import Processes
from accord.types import InputError


def encode_images(
    pipe: Any,
    images: Sequence[Image.Image],
    cache: Path | None = None,
    batch_size: int = 32,
    progress: bool = False,
    processes: Processes | None = None,
    call: Mapping[str, Any] | None = None,
) -> torch.Tensor:
    """Clean states [N,...] of pictures, float16; kept in the file `cache` if it is given, for these pictures and this
    VAE. Stable Diffusion's are its scaled latents [N,C,h,w].

    They are made as large as the pipeline makes pictures; `call` says what else its own call is given, such as another
    size. Of several `processes` the first one encodes where there is a `cache`; without it each encodes for itself.

    Raises:
        InputError: if there is no picture.
    """
    if not images:
        raise InputError("there is no picture to train on; give pairs of pictures and captions")
    processes = processes or Processes(pipe.device)
    further = dict(call or {})
    opened, side = opened_for_pictures(pipe, _side(further), further)
    if cache is not None:
        if processes.first and not _holds(cache, key := _key(opened, images)):
            latents = encode_images(pipe, images, None, batch_size, progress, processes, call)
            replace_file(cache, lambda p: save_file({"latents": latents}, p, metadata={"of": key}))
        processes.wait()
        kept = load_tensors(cache, "kept latents", "remove it, and it is made again").get("latents")
        if kept is None or len(kept) != len(images):
            raise InputError(f"kept latents {str(cache)!r} are not of these pictures; remove it, and it is made again")
        return kept
    parts = []
    for start in tqdm(range(0, len(images), batch_size), desc="encode", disable=not progress):
        pixels = torch.cat([fit(to_tensor(i), side) for i in images[start : start + batch_size]])
        parts.append(opened.encode([""] * len(pixels), pixels).half().cpu())
    return torch.cat(parts).contiguous()


def _side(call: dict[str, Any]) -> int | None:
    """The side that a call is given, which is taken out of it. Raises InputError for one that is not square."""
    height, width = call.pop("height", None), call.pop("width", None)
    if height != width:
        raise InputError(f"pictures are trained on as squares, not {width}x{height}; give the same height and width")
    return height


def _key(opened: Opened, images: Sequence[Image.Image]) -> str:
    latents = opened.vae_latents([""], opened.noise([""], [torch.Generator().manual_seed(0)]))
    digest = hashlib.sha256(f"{fingerprint(opened.pipe.vae)} {tuple(latents.shape[-2:])}".encode())
    for image in images:
        digest.update(repr(image.size).encode() + image.tobytes())
    return digest.hexdigest()


def _holds(cache: Path, key: str) -> bool:
    """Whether a file is of these pictures."""
    if not cache.exists():
        return False
    try:
        return header_of(cache, "kept latents").get("of") == key
    except InputError:
        return False


def draw_from(latents: torch.Tensor, captions: Sequence[str]) -> Draw:
    """A Draw over encoded pictures [N,...] and N captions.

    Raises:
        InputError: if they are not equally many.
    """
    if len(latents) != len(captions):
        raise InputError(
            f"{len(latents)} pictures were given with {len(captions)} captions; give one caption for each picture"
        )

    def draw(rng: np.random.Generator, size: int, _done: float = 0.0) -> tuple[torch.Tensor, list[str]]:
        rows = rng.integers(len(latents), size=size)
        return latents[rows].float(), [captions[int(i)] for i in rows]

    return draw
