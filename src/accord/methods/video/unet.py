"""The U-Net of Stable Diffusion 1, 2 and XL called by itself: an inflated one has rows that no pipeline's call makes,
the frames of a source, of nothing and of a target in one batch.

Letters in shapes: B rows, C h w of the latents, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from accord.diffusion.opened import Opened, empty_as_unguided
from accord.diffusion.pipelines import Pipeline
from accord.diffusion.spans import network_arguments
from accord.diffusion.state import held


@dataclass(frozen=True)
class Conditioning:
    """What a U-Net is told of B prompts.

    Attributes:
        states: text states [B,T,D].
        added: SDXL's pooled text and time ids, [B,...]; None for Stable Diffusion 1 and 2.
    """

    states: torch.Tensor
    added: dict[str, torch.Tensor] | None = None

    def rows(self, index: torch.Tensor) -> Conditioning:
        """These rows of it, in this order."""
        return Conditioning(self.states[index], self.added and {k: v[index] for k, v in self.added.items()})

    def repeated(self, count: int) -> Conditioning:
        """The conditioning of one prompt, repeated `count` times."""
        return self.rows(torch.zeros(count, dtype=torch.long))

    @staticmethod
    def joined(parts: Sequence[Conditioning]) -> Conditioning:
        """One after the other."""
        added = [p.added for p in parts if p.added is not None]
        return Conditioning(
            torch.cat([p.states for p in parts]),
            {k: torch.cat([a[k] for a in added]) for k in added[0]} if added else None,
        )


@torch.no_grad()
def conditioning_of(opened: Opened, prompt: str | None) -> Conditioning:
    """What the U-Net of an unguided pipeline is told of one prompt, or of none: as in the unconditional half of a
    guided batch.
    """
    with empty_as_unguided(opened.pipe) if prompt is None else nullcontext():
        given = network_arguments(opened, [prompt or ""])
    return Conditioning(given["encoder_hidden_states"], given.get("added_cond_kwargs"))


def denoise(
    pipe: Pipeline, scheduler: Any, latents: torch.Tensor, timestep: torch.Tensor | int, conditioning: Conditioning
) -> torch.Tensor:
    """One call of the U-Net, [B,C,h,w] in the pipeline's own prediction type; keeps the graph."""
    with held(pipe.unet):  # not in the middle of another thread's modulation
        return pipe.unet(
            scheduler.scale_model_input(latents, timestep),
            timestep,
            encoder_hidden_states=conditioning.states,
            timestep_cond=None,
            added_cond_kwargs=conditioning.added,
            return_dict=False,
        )[0]


def guide(uncond: torch.Tensor, text: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Classifier-free guidance (arXiv 2207.12598), in the parametrisation of diffusers: 1 is the conditional output."""
    return uncond + guidance_scale * (text - uncond)


def is_guided(pipe: Pipeline, guidance_scale: float) -> bool:
    """Whether there is an unconditional half; a network that was distilled with guidance (LCM) has none."""
    return guidance_scale > 1 and pipe.unet.config.time_cond_proj_dim is None
