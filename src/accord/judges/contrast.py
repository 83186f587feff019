"""CLIP and SigLIP as judges: a text against texts with a word exchanged, by the softmax of their logits.

The logits of a picture's texts stand for their log-likelihoods: exp(scale * cosine), with the scale that the model was
trained with. They rank texts of one picture; they say nothing of a text by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from accord.data.lexicon import DEFAULT, Lexicon
from accord.data.prompts import words_beyond
from accord.diffusion.state import held
from accord.judges.clip import ClipScorer
from accord.judges.likelihood import by_likelihood
from accord.judges.processors import check_kind
from accord.types import InputError, Prompt, WordScore

CHUNK = 256  # texts at once


class SiglipScorer(ClipScorer):
    """Cosine similarities of a `SiglipModel`, whose texts are padded to their whole length, as it was trained."""

    called, use = "SigLIP", "a SigLIP"

    @staticmethod
    def classes() -> tuple[Any, Any]:
        """Of model and image processor."""
        from transformers import SiglipModel
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        return SiglipModel, SiglipImageProcessorPil

    def text_features(self, texts: list[str]) -> torch.Tensor:
        """Texts to unit vectors [B, D]; what exceeds the tower's tokens is cut off."""
        length = self.model.config.text_config.max_position_embeddings
        with held(self.tokenizer):
            ids = self.tokenizer(
                texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
            ).input_ids
        with held(self.model):
            features = self.model.get_text_features(input_ids=ids.to(self.mean.device)).pooler_output
        return F.normalize(features, dim=-1)


@dataclass
class ClipJudge:
    """A judge out of a CLIP or a SigLIP.

    Attributes:
        name: folder or hub id.
    """

    scorer: ClipScorer
    name: str
    lexicon: Lexicon = DEFAULT
    any_size = False
    differentiable, writes = False, False

    @classmethod
    def from_pretrained(cls, model: str, device: str = "cpu", dtype: torch.dtype | None = None) -> ClipJudge:
        """A judge from a folder or hub id.

        Raises:
            InputError: for a model that cannot be read or is neither.
        """
        kinds = {"clip": ClipScorer, "siglip": SiglipScorer}
        kind = check_kind(model, f"judge {model!r}", kinds, "a CLIP or a SigLIP")
        return cls(kinds[kind].from_pretrained(model, device, dtype), model)

    @property
    def device(self) -> torch.device:
        return self.scorer.mean.device

    @property
    def image_size(self) -> int:
        """Side of the pictures that it sees."""
        return self.scorer.image_size

    def check_length(self, text: str) -> None:
        """Refuse a prompt whose last words it would not read. Raises InputError."""
        most, tokenizer = int(self.scorer.model.config.text_config.max_position_embeddings), self.scorer.tokenizer
        with held(tokenizer):
            lost = words_beyond(text, lambda part: len(tokenizer(part).input_ids), most)
        if lost:
            raise InputError(
                f"the prompt is longer than the {most} tokens that the judge reads, these words would fall off: "
                f"{lost!r}; shorten it"
            )

    def caption(self, images: torch.Tensor) -> list[str]:
        """It writes none."""
        return [""] * len(images)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures [I,3,H,W] in 0..1 to unit vectors [I, D]."""
        return self.scorer.image_features(images)

    def log_likelihood(self, states: torch.Tensor, texts: list[str], image_of: list[int]) -> torch.Tensor:
        """The logits [B] of texts, which among the texts of one picture stand for their log-likelihoods.

        Args:
            states: [I, D] from `encode`.
            texts: B texts.
            image_of: for each text the index of its picture.
        """
        parts = [self.scorer.text_features(texts[i : i + CHUNK]) for i in range(0, len(texts), CHUNK)]
        return self.scorer.model.logit_scale.exp() * (states[image_of] * torch.cat(parts)).sum(-1)

    def verdicts(self, images: torch.Tensor, prompts: Sequence[Prompt]) -> list[tuple[WordScore, ...]]:
        """For each picture and its prompt, a WordScore per word, by contrast with its counterfactuals."""
        found = by_likelihood(self, images, prompts, "judge")
        return [tuple(replace(s, how=_how(s)) for s in scores) for scores in found]


def _how(score: WordScore) -> str:
    other = "nouns" if score.word.kind == "absence" else "words"
    return f"logits against those of {score.against} other {other} in its place"
