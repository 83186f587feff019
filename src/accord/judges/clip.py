"""CLIP: similarity of picture and text, and of two texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel

from accord.diffusion.loading import check_moments, kind_of, load_model, load_tokenizer, loading
from accord.diffusion.state import held
from accord.embedded import CLIP
from accord.types import InputError


class ClipScorer(nn.Module):
    """Cosine similarities of a `CLIPModel`."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: CLIPModel, tokenizer: Any, image_mean: list[float], image_std: list[float]) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.register_buffer("mean", torch.tensor(image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(image_std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_pretrained(cls, model: str, device: str = "cpu", dtype: torch.dtype | None = None) -> ClipScorer:
        """A CLIP from a folder or hub id.

        Raises:
            InputError: for a model that cannot be read.
        """
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        what = f"CLIP {model!r}"
        kind = kind_of(model, what)
        if kind != "clip":
            raise InputError(f"{model!r} is a {kind} model; use a CLIP (PickScore is one too)")
        network = load_model(CLIPModel, model, what, dtype=dtype or torch.float32)
        tokenizer = load_tokenizer(model, what)
        with loading(what):
            processor = CLIPImageProcessorPil.from_pretrained(model)
        check_moments(processor.image_mean, processor.image_std, what)
        return cls(network, tokenizer, processor.image_mean, processor.image_std).to(device)

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures [I,3,H,W] in 0..1 to unit vectors [I, D], differentiably."""
        pixels = resized(images.to(self.mean), self.image_size)
        with held(self.model):
            features = self.model.get_image_features(pixel_values=(pixels - self.mean) / self.std).pooler_output
        return F.normalize(features, dim=-1)

    @property
    def image_size(self) -> int:
        """Side of the pictures that it sees."""
        return int(self.model.config.vision_config.image_size)

    def text_features(self, texts: list[str]) -> torch.Tensor:
        """Texts to unit vectors [B, D]; what exceeds the tower's tokens is cut off."""
        limit = self.model.config.text_config.max_position_embeddings
        with held(self.tokenizer):  # which keeps its padding and its limit: two threads would mix them
            ids = self.tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        ids = ids.to(self.mean.device)
        with held(self.model):
            features = self.model.get_text_features(**ids).pooler_output
        return F.normalize(features, dim=-1)


def resized(images: torch.Tensor, side: int) -> torch.Tensor:
    """Pictures [I,3,H,W] in 0..1 at the size of a tower, differentiably."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


def load_clip(model: str | None = None, device: str = "cpu", dtype: torch.dtype | None = None) -> ClipScorer:
    """The embedded CLIP (None or `lab`), or one from a folder or hub id."""
    return ClipScorer.from_pretrained(str(CLIP) if model in (None, "lab") else model, device, dtype)
