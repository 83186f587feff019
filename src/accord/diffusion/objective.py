"""What a denoiser predicts of x_t = sqrt(ab) x0 + sqrt(1 - ab) e, and the way back to x0: written once, for all that
trains.

`ab` is the product of the alphas up to a step; it broadcasts against the latents.
"""

from __future__ import annotations

from typing import Any

import torch

from accord.diffusion.process import KINDS, of_ab
from accord.types import InputError, a_kind


def prediction_target(x0: torch.Tensor, noise: torch.Tensor, ab_t: torch.Tensor, kind: str) -> torch.Tensor:
    """What a network of prediction type `kind` is trained to: e, v = sqrt(ab) e - sqrt(1 - ab) x0, or x0.

    Source of v: progressive distillation (arXiv 2202.00512), appendix D.
    """
    return of_ab(ab_t, KINDS[kind]).target(x0, noise)


def network_x0(output: torch.Tensor, x_t: torch.Tensor, ab_t: torch.Tensor, kind: str) -> torch.Tensor:
    """x0^ out of what a network of prediction type `kind` predicted at x_t: the way back from `prediction_target`."""
    return of_ab(ab_t, KINDS[kind]).x0(x_t, output)


def precise(like: torch.Tensor) -> torch.dtype:
    """float32 at least, whatever `like` is: in bfloat16 ab near 1 rounds to 1, and 1 - ab to 0."""
    return torch.promote_types(like.dtype, torch.float32)


def ab_at(scheduler: Any, timestep: int | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """ab at a timestep, in `precise(like)`.

    Args:
        timestep: an int gives a number []; below 0 it is the clean end, 1 unless the scheduler says otherwise.
            A tensor, one timestep for all or [B], gives [1,1,...] or [B,1,...], which broadcasts against `like`.
        like: latents [B,...].

    Raises:
        InputError: for a scheduler without `alphas_cumprod`.
    """
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(f"{a_kind(scheduler)} has no alphas_cumprod; use DDIM or DDPM")
    if isinstance(timestep, torch.Tensor):
        ab = scheduler.alphas_cumprod.to(like.device)[timestep.to(like.device)]
        return ab.to(precise(like)).reshape(-1, *[1] * (like.dim() - 1))
    # diffusers calls the clean end initial where the process is inverted
    end = getattr(scheduler, "final_alpha_cumprod", getattr(scheduler, "initial_alpha_cumprod", torch.ones(())))
    ab = scheduler.alphas_cumprod[timestep] if timestep >= 0 else torch.as_tensor(end)
    return ab.to(like.device, precise(like))


def predicted_x0(scheduler: Any, output: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Clean latents [B,C,H,W] that a network's `output` at x_t means, for epsilon, v and sample prediction.

    `timestep` is one for all, or [B]. Raises InputError for a scheduler without `alphas_cumprod`.
    """
    ab = ab_at(scheduler, timestep, latents)
    # in float32 at least: near the clean end 1 - ab is lost in half precision
    return network_x0(output, latents, ab, scheduler.config.prediction_type).to(latents.dtype)
