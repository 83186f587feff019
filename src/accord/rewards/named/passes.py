"""Whether a picture passes, strictly."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from accord.judges.captioners import Captioner
from accord.judges.diagnosis import align
from accord.rewards.registry import reward


@reward("passes", needs=("captioner",))
class Passes:
    """1 if the caption says what the prompt asks for, nothing more and nothing less, and the weakest word is nearly
    sure (`Alignment.passes`), else 0; 0 too where that cannot be said. Without gradient.
    """

    differentiable = False

    def __init__(self, captioner: Captioner) -> None:
        self.captioner = captioner

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        found = align(images, list(prompts), self.captioner)
        return torch.tensor([float(bool(a.passes)) for a in found], device=images.device)
