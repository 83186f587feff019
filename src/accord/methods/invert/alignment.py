"""Inversion as a measure of alignment: a picture from which the prompt can be read back says what its prompt says."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from accord.data.images import to_pil
from accord.methods.invert.data import Embed
from accord.methods.invert.inverter import Inverter
from accord.methods.invert.readable import WORD_WEIGHT
from accord.rewards.sentence import load_sentence


class InversionScore:
    """cos(y^(x), y(p)) + WORD_WEIGHT * log-likelihood of which words p holds: a Reward, without gradient.

    It can be held out while captioner and CLIP rewards are trained on: a network of its own, though the embedded
    inverter's tower began as that of the embedded captioner.

    Args:
        inverter: gives y^, the embedding that it reads from a picture, and the words' probabilities; the embedded one
            if None.
        embed: y, the sentence embedder; the packaged all-MiniLM-L6-v2 if None.
    """

    differentiable = False

    def __init__(self, inverter: Inverter | None = None, embed: Embed | None = None) -> None:
        self.inverter = inverter or Inverter.from_pretrained()
        self.embed = embed or load_sentence()

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Pictures [B,3,H,W] in 0..1 and B prompts to scores [B]."""
        vectors, words = self.inverter(to_pil(images))
        cosine = (vectors * self.embed(list(prompts)).cpu()).sum(-1)
        return (cosine + WORD_WEIGHT * self.inverter.vocabulary.likelihood(words, prompts)).to(images.device)
