"""An inverter: predictors with weights and a vocabulary, saved in standard form.

    folder/config.json             predictors (kind, architecture, weight), sizes
    folder/vocabulary.txt          a word a line, most frequent first
    folder/predictor-0.safetensors weights in float16; a U-Net's VAE and text encoder come from its pipeline
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from accord.data.images import fit, to_rgb, to_tensor
from accord.methods.invert.config import PredictorConfig
from accord.methods.invert.equations import ensemble
from accord.methods.invert.kernel import DomainKernel
from accord.methods.invert.predictors import Predictor, VisionTower, build
from accord.methods.invert.vocabulary import Vocabulary
from accord.outputs import replace_file
from accord.rewards.captioners import Captioner, load_captioner
from accord.types import InputError, reason_of

EMBEDDED = Path(__file__).parents[2] / "lab" / "models" / "inverter"
_OUTSIDE = ("tower.vae.", "tower.text_encoder.", "tower.text_encoder_2.")  # parts of a pipeline that are not trained


@dataclass
class Inverter:
    """Images to embeddings and words.

    Attributes:
        predictors: one or several.
        kinds: their configs.
        vocabulary: of all of them.
        weights: of the ensemble, one for each; equal if None.
        captioner: for predictors that are told a caption; that of `captioner_id` if None.
        captioner_id: folder or hub id of the captioner that they were trained with; the embedded one if None.
        lab: whether they were trained on pictures of the lab's size; None if that is not known.
        kernel: a second level over the predicted vectors, fitted to the images at hand; not saved.
    """

    predictors: list[Predictor]
    kinds: list[PredictorConfig]
    vocabulary: Vocabulary
    weights: list[float] | None = None
    captioner: Captioner | None = None
    captioner_id: str | None = None
    lab: bool | None = None
    kernel: DomainKernel | None = None

    def __post_init__(self) -> None:
        if not self.predictors or len(self.predictors) != len(self.kinds):
            raise InputError(f"{len(self.predictors)} predictors came with {len(self.kinds)} configs; give one for each")
        check_weights(self.weights, len(self.predictors))
        if self.captioner is not None:
            self.captioner_id = self.captioner.source
        for predictor in self.predictors:
            predictor.eval().requires_grad_(False)

    @property
    def embedding(self) -> int:
        """Size of the predicted vector."""
        return self.predictors[0].embed.out_features

    @property
    def has_words(self) -> bool:
        """Whether a predictor was trained on the vocabulary; without one all probabilities are 1/2."""
        return any(p.words is not None for p in self.predictors)

    @property
    def is_foreign(self) -> bool:
        """Whether it is of other pictures than the lab's and none of its towers is told a caption."""
        if self.lab is not None:
            return not self.lab and not any(p.needs_captions for p in self.predictors)
        return all(k.model is not None for k in self.kinds) and not any(p.needs_captions for p in self.predictors)

    @property
    def device(self) -> str:
        return str(next(self.predictors[0].parameters()).device)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image], batch_size: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
        """PIL images of any size and mode to unit vectors [B,E] and word probabilities [B,V]."""
        vectors, words = [], []
        for start in range(0, len(images), batch_size):
            vector, word = self._batch([to_rgb(i) for i in images[start : start + batch_size]])
            vectors.append(vector if self.kernel is None else self.kernel(vector))
            words.append(word)
        return torch.cat(vectors), torch.cat(words)

    def _batch(self, images: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        captions = None
        if any(p.needs_captions for p in self.predictors):
            self.captioner = self.captioner or load_captioner(self.captioner_id, self.device)
            captions = self.captioner.caption(pixels_of(images, self.captioner.image_size))
        vectors, words, shares = [], [], []
        sides = [p.side for p in self.predictors] + ([self.captioner.image_size] if captions is not None and self.captioner is not None else [])
        pixels = pixels_of(images, max(sides))  # scaled first to the largest side, as in training
        for predictor, weight in zip(self.predictors, self.weights or [1.0] * len(self.predictors), strict=True):
            device = next(predictor.parameters()).device
            vector, logits = predictor(fit(pixels, predictor.side).to(device), captions if predictor.needs_captions else None)
            vectors.append(vector.float().cpu())
            if logits is not None and weight:
                words.append(weight * logits.float().cpu().sigmoid())
                shares.append(weight)
        empty = torch.full((len(images), len(self.vocabulary)), 0.5)
        return ensemble(vectors, self.weights), torch.stack(words).sum(0) / sum(shares) if words else empty

    # --- standard form -------------------------------------------------------------------------------------------
    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder."""
        folder = Path(folder)
        rows = []
        for i, (predictor, kind) in enumerate(zip(self.predictors, self.kinds, strict=True)):
            state = {k: v.half().cpu().contiguous() for k, v in predictor.state_dict().items() if not k.startswith(_OUTSIDE)}
            replace_file(folder / f"predictor-{i}.safetensors", partial(save_file, state))
            rows.append({**asdict(kind), "architecture": _architecture(predictor), "vocabulary": predictor.words is not None})
        config = {"embedding": self.embedding, "predictors": rows, "weights": self.weights, "captioner": self.captioner_id, "lab": self.lab}
        replace_file(folder / "vocabulary.txt", lambda p: p.write_text("\n".join(self.vocabulary.words) + "\n", encoding="utf8"))
        replace_file(folder / "config.json", lambda p: p.write_text(json.dumps(config, indent=1) + "\n", encoding="utf8"))

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None, device: str = "cpu") -> Inverter:
        """Read the folder; the embedded inverter if None.

        Raises:
            InputError: for a folder that is missing, incomplete or damaged, or a vocabulary without words.
        """
        folder = Path(folder or EMBEDDED)
        if not (folder / "config.json").is_file():
            raise InputError(f"folder {str(folder)!r} holds no inverter (no config.json); train one with accord train inverter")
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf8"))
            words = (folder / "vocabulary.txt").read_text(encoding="utf8").split()
            if not words:
                raise InputError(f"the vocabulary in {str(folder)!r} has no words; train the inverter again")
            predictors, kinds = [], []
            for i, row in enumerate(config["predictors"]):
                kind = PredictorConfig(**{k: row[k] for k in asdict(PredictorConfig())})
                predictor = _rebuild(kind, row["architecture"], len(words) if row["vocabulary"] else 0, config["embedding"])
                state = {k: v.float() for k, v in load_file(folder / f"predictor-{i}.safetensors").items()}
                missing, unexpected = predictor.load_state_dict(state, strict=False)
                lost = [k for k in missing if not k.startswith(_OUTSIDE)]
                if lost or unexpected:
                    raise InputError(f"predictor-{i} in {str(folder)!r} does not fit its config ({(lost + unexpected)[0]}); save it again")
                predictors.append(predictor.to(device))
                kinds.append(kind)
            return cls(predictors, kinds, Vocabulary(tuple(words)), config["weights"], captioner_id=config.get("captioner"), lab=config.get("lab"))
        except InputError:
            raise
        except (OSError, KeyError, TypeError, ValueError, AttributeError, ImportError, RuntimeError, SafetensorError) as error:
            raise InputError(f"inverter {str(folder)!r} cannot be read ({reason_of(error)}); save it again") from error


def check_weights(weights: Sequence[float] | None, count: int) -> None:
    """Refuse weights that cannot average `count` predictions.

    Raises:
        InputError: for another number of them, one that is negative or not finite, or none above zero.
    """
    if weights is None:
        return
    if len(weights) != count:
        raise InputError(f"{len(weights)} weights were given for {count} predictors; give one for each")
    if not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
        raise InputError(f"weights {', '.join(f'{w:g}' for w in weights)} must be 0 or more and not all 0; give others")


def pixels_of(images: list[Image.Image], side: int) -> torch.Tensor:
    """RGB pictures of any size as [B,3,side,side] in 0..1."""
    return torch.cat([fit(to_tensor(i), side) for i in images])


def _architecture(predictor: Predictor) -> dict[str, Any] | None:
    """What rebuilds a vision tower without its source; None for a U-Net, which comes from its pipeline."""
    tower = predictor.tower
    if not isinstance(tower, VisionTower):
        return None
    kind = type(tower.model)
    config: Any = tower.model.config
    settings = {k: v for k, v in config.to_diff_dict().items() if not k.startswith("_")}
    return {
        "module": kind.__module__,
        "class": kind.__name__,
        "config_module": type(config).__module__,
        "config_class": type(config).__name__,
        "config": settings,
        "mean": tower.mean.flatten().tolist(),
        "std": tower.std.flatten().tolist(),
    }


def _rebuild(kind: PredictorConfig, architecture: dict[str, Any] | None, vocabulary: int, embedding: int) -> Predictor:
    if architecture is None:
        return build(kind, vocabulary, embedding=embedding)
    modules = architecture["module"], architecture["config_module"]
    if not all(m.startswith("transformers.models.") for m in modules):
        raise InputError(f"the tower {architecture['class']!r} is none of transformers'; refuse to load it")
    config = getattr(importlib.import_module(modules[1]), architecture["config_class"])(**architecture["config"])
    network_class = getattr(importlib.import_module(modules[0]), architecture["class"])
    bare = kind.kind in ("vit", "swin")
    network = network_class(config, add_pooling_layer=False) if bare else network_class(config)
    return Predictor(VisionTower(network, architecture["mean"], architecture["std"]), vocabulary, kind.hidden, embedding)
