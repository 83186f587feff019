"""CLIP: similarity of picture and text, and of two texts."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel

from accord.diffusion.loading import load_model, load_tokenizer
from accord.diffusion.state import held
from accord.embedded import CLIP
from accord.judges.processors import check_kind, load_image_processor


class ClipScorer(nn.Module):
    """Cosine similarities of a `CLIPModel`, or of a model alike.

    Attributes:
        called, use: the family's name, in lower case its `model_type`; what an error says to use.
    """

    mean: torch.Tensor
    std: torch.Tensor
    called: ClassVar[str] = "CLIP"
    use: ClassVar[str] = "a CLIP (PickScore is one too)"

    def __init__(self, model: Any, tokenizer: Any, image_mean: list[float], image_std: list[float]) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.register_buffer("mean", torch.tensor(image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(image_std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_pretrained(cls, model: str, device: str = "cpu", dtype: torch.dtype | None = None) -> Self:
        """A model from a folder or hub id.

        Raises:
            InputError: for a model that cannot be read or is of another kind.
        """
        what = f"{cls.called} {model!r}"
        check_kind(model, what, {cls.called.lower()}, cls.use)
        network_class, processor_class = cls.classes()
        network = load_model(network_class, model, what, dtype=dtype or torch.float32)
        tokenizer = load_tokenizer(model, what)
        processor = load_image_processor(processor_class, model, what)
        return cls(network, tokenizer, processor.image_mean, processor.image_std).to(device)

    @staticmethod
    def classes() -> tuple[Any, Any]:
        """Of model and image processor."""
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        return CLIPModel, CLIPImageProcessorPil

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
