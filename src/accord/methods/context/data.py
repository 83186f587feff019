"""What training with context draws from: clean latents, encoded once, with their captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from accord.data.images import fit, to_tensor
from accord.diffusion.loop import encode
from accord.diffusion.pipelines import Pipeline, sample_size
from accord.methods.context.train import Draw
from accord.training.checkpoints import replace_file
from accord.types import InputError


def encode_images(
    pipe: Pipeline, images: Sequence[Image.Image], cache: Path | None = None, batch_size: int = 32, progress: bool = False
) -> torch.Tensor:
    """Scaled latents [N,C,h,w] of pictures, float16; kept in `cache` if it is given.

    Raises:
        InputError: if there is no picture.
    """
    if not images:
        raise InputError("there is no picture to train on; give pairs of pictures and captions")
    if cache is not None and cache.is_file():
        saved = load_file(cache)["latents"]
        if len(saved) == len(images):
            return saved
    side = sample_size(pipe)[0] * pipe.vae_scale_factor
    parts = []
    for start in tqdm(range(0, len(images), batch_size), desc="encode", disable=not progress):
        pixels = torch.cat([fit(to_tensor(i), side) for i in images[start : start + batch_size]])
        parts.append(encode(pipe, pixels).half().cpu())
    latents = torch.cat(parts).contiguous()
    if cache is not None:
        replace_file(cache, lambda p: save_file({"latents": latents}, p))
    return latents


def draw_from(latents: torch.Tensor, captions: Sequence[str]) -> Draw:
    """A Draw over encoded pictures [N,C,h,w] and N captions.

    Raises:
        InputError: if they are not equally many.
    """
    if len(latents) != len(captions):
        raise InputError(f"{len(latents)} pictures were given with {len(captions)} captions; give one caption for each picture")

    def draw(rng: np.random.Generator, size: int, done: float = 0.0) -> tuple[torch.Tensor, list[str]]:
        rows = rng.integers(len(latents), size=size)
        return latents[rows].float(), [captions[int(i)] for i in rows]

    return draw
