"""The reward of RealignDiff: what the captioner says of a picture, compared with the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from accord.judges.captioners import Captioner
from accord.rewards.registry import reward


@reward("caption", needs=("captioner", "embed"))
class CaptionReward:
    """R_cap(x, p) = cos(T(p), T(caption(x))): exact, without gradient.

    Args:
        captioner: writes the caption.
        embed: T, texts to unit vectors [B, D]: a SentenceEmbedder, or `ClipScorer.text_features`.
    """

    differentiable = False

    def __init__(self, captioner: Captioner, embed: Callable[[list[str]], torch.Tensor]) -> None:
        self.captioner, self.embed = captioner, embed

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        said = [c or " " for c in self.captioner.caption(images)]
        return (self.embed(list(prompts)) * self.embed(said)).sum(-1).to(images.device)
