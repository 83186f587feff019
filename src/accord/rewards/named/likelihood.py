"""How probable the prompt is as a caption of the picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from accord.diffusion.state import held
from accord.judges.captioners import Captioner
from accord.rewards.registry import reward


@reward("likelihood", needs=("captioner",))
class CaptionLikelihood:
    """R_lik(x, p) = log P(p | x) / len(p), teacher-forced, len in tokens: differentiable."""

    differentiable = True

    def __init__(self, captioner: Captioner) -> None:
        self.captioner = captioner

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        texts = list(prompts)
        states = self.captioner.encode(images)
        with held(self.captioner.tokenizer):
            tokens = self.captioner.tokenizer(texts, add_special_tokens=False).input_ids
        lengths = torch.tensor([len(t) + 1 for t in tokens], device=states.device)  # the end token counts
        return self.captioner.log_likelihood(states, texts, list(range(len(texts)))) / lengths
