"""How near picture and prompt are in CLIP."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from accord.judges.clip import ClipScorer
from accord.rewards.registry import reward


@reward("clip", needs=("clip",))
class ClipReward:
    """Cosine of picture and prompt in a CLIP (or PickScore: a CLIPModel too). Differentiable."""

    differentiable = True

    def __init__(self, clip: ClipScorer) -> None:
        self.clip = clip

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return (self.clip.image_features(images) * self.clip.text_features(list(prompts))).sum(-1)
