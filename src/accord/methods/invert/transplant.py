"""Encoder transplant: the encoder that learned to read prompts, put back into the denoiser.

Reverse Stable Diffusion, section 5, claims better alignment; here it is a hypothesis to measure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from accord.methods.invert.predictors import Predictor, UNetTower
from accord.types import InputError, a_kind

PARTS = ("conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block")


@contextmanager
def transplanted(pipe: Any, predictor: Predictor, weight: float) -> Iterator[None]:
    """Inside, the encoder of `pipe.unet` is (1 - weight) * its own + weight * the predictor's; afterwards bit for bit
    its own.

    Raises:
        InputError: for a predictor of another kind or architecture, or a weight out of 0..1.
    """
    learned = _encoder(predictor)
    with _mixed(_unet_of(pipe), learned, weight):
        yield


@contextmanager
def perturbed(pipe: Any, predictor: Predictor, weight: float, seed: int = 0) -> Iterator[None]:
    """The control: the encoder moved as far in each tensor as `transplanted` moves it, in a random direction."""
    own = _unet_of(pipe).state_dict()
    generator = torch.Generator().manual_seed(seed)
    moved = {}
    for name, v in _encoder(predictor).items():
        distance = (v.to(own[name]) - own[name]).norm()
        noise = torch.randn(v.shape, generator=generator).to(own[name])
        moved[name] = own[name] + noise * distance / noise.norm().clamp(min=1e-12)
    with _mixed(pipe.unet, moved, weight):
        yield


def _unet_of(pipe: Any) -> nn.Module:
    if not isinstance(getattr(pipe, "unet", None), nn.Module):
        raise InputError(f"{a_kind(pipe)} has no U-Net to put an encoder into; use a Stable Diffusion pipeline")
    unet: nn.Module = pipe.unet
    return unet


def _encoder(predictor: Predictor) -> dict[str, torch.Tensor]:
    """The learned encoder, by its names in a U-Net."""
    tower = predictor.tower
    if not isinstance(tower, UNetTower):
        raise InputError(
            "only a unet predictor of Stable Diffusion can be put back into a denoiser; train one of that kind"
        )
    parts = {part: getattr(tower, part) for part in PARTS}
    return {
        f"{part}.{k}": v for part, module in parts.items() if module is not None for k, v in module.state_dict().items()
    }


@contextmanager
def _mixed(unet: nn.Module, learned: dict[str, torch.Tensor], weight: float) -> Iterator[None]:
    if not 0 <= weight <= 1:
        raise InputError(f"weight must be in 0..1, not {weight}")
    named = dict(unet.named_parameters()) | dict(unet.named_buffers())
    wrong = [k for k, v in learned.items() if k not in named or named[k].shape != v.shape]
    if wrong:
        raise InputError(f"the predictor's encoder does not fit this U-Net ({wrong[0]}); train one on this pipeline")
    before = {k: named[k].detach().clone() for k in learned}
    try:
        with torch.no_grad():
            for k, v in learned.items():
                named[k].lerp_(v.to(named[k]), weight)
        yield
    finally:
        with torch.no_grad():
            for k, v in before.items():
                named[k].copy_(v)
