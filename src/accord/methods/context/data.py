"""What training with context draws from: clean latents, encoded once, with their captions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tqdm.auto import tqdm

from accord.data.images import fit, to_tensor
from accord.diffusion.loading import header_of, load_tensors
from accord.diffusion.loop import encode
from accord.diffusion.pipelines import Pipeline, sample_size
from accord.files import replace_file
from accord.methods.context.train import Draw
from accord.training.fingerprint import fingerprint
from accord.training.processes import Processes
from accord.types import InputError


def encode_images(
    pipe: Pipeline,
    images: Sequence[Image.Image],
    cache: Path | None = None,
    batch_size: int = 32,
    progress: bool = False,
    processes: Processes | None = None,
) -> torch.Tensor:
    """Scaled latents [N,C,h,w] of pictures, float16; kept in the file `cache` if it is given, for these pictures and
    this VAE.

    Of several `processes` the first one encodes where there is a `cache`; without it each encodes for itself.

    Raises:
        InputError: if there is no picture.
    """
    if not images:
        raise InputError("there is no picture to train on; give pairs of pictures and captions")
    processes = processes or Processes(pipe.device)
    if cache is not None:
        if processes.first and not _holds(cache, key := _key(pipe, images)):
            latents = encode_images(pipe, images, None, batch_size, progress, processes)
            replace_file(cache, lambda p: save_file({"latents": latents}, p, metadata={"of": key}))
        processes.wait()
        kept = load_tensors(cache, "kept latents", "remove it, and it is made again").get("latents")
        if kept is None or len(kept) != len(images):
            raise InputError(f"kept latents {str(cache)!r} are not of these pictures; remove it, and it is made again")
        return kept
    side = sample_size(pipe)[0] * pipe.vae_scale_factor
    parts = []
    for start in tqdm(range(0, len(images), batch_size), desc="encode", disable=not progress):
        pixels = torch.cat([fit(to_tensor(i), side) for i in images[start : start + batch_size]])
        parts.append(encode(pipe, pixels).half().cpu())
    return torch.cat(parts).contiguous()


def _key(pipe: Pipeline, images: Sequence[Image.Image]) -> str:
    digest = hashlib.sha256(f"{fingerprint(pipe.vae)} {sample_size(pipe)}".encode())
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
    """A Draw over encoded pictures [N,C,h,w] and N captions.

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
