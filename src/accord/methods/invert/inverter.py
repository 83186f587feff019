"""An inverter: predictors with weights and a vocabulary, saved in standard form.

folder/config.json             predictors (kind, architecture, weight), sizes
folder/vocabulary.txt          a word a line, most frequent first
folder/predictor-0.safetensors weights in float16; a denoiser's VAE and text encoder come from its pipeline
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from accord.data.images import fit, to_rgb, to_tensor
from accord.diffusion.loading import check_moments, load_tensors, loading
from accord.embedded import INVERTER
from accord.files import read_json, read_text, replace_file
from accord.judges.captioners import Captioner, load_captioner
from accord.methods.invert.config import PredictorConfig
from accord.methods.invert.equations import ensemble
from accord.methods.invert.kernel import DomainKernel
from accord.methods.invert.predictors import Predictor, VisionTower, build, tower_classes
from accord.methods.invert.vocabulary import Vocabulary
from accord.types import InputError

# parts of a pipeline that are not trained
_OUTSIDE = ("tower.vae.", "tower.text_encoder.", "tower.text_encoder_2.", "tower.outside.")


@dataclass
class Inverter:
    """Images to embeddings and words.

    Attributes:
        predictors: one or several.
        kinds: their configs.
        vocabulary: of all of them.
        weights: of the ensemble, one for each; equal if None.
        captioner: for predictors that take a caption; that of `captioner_id` if None.
        captioner_id: folder or hub id of the captioner that they were trained with; the embedded one if None.
        lab: whether they were trained on pictures of the lab's size; None if that is not known.
        kernel: domain adaptation (DAKL) of the predicted vectors, fitted to the images at hand; not saved.
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
            raise InputError(
                f"{len(self.predictors)} predictors came with {len(self.kinds)} configs; give one for each"
            )
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
    def is_beyond_the_lab(self) -> bool:
        """Whether it is of other pictures than the lab's and none of its towers takes a caption."""
        if self.lab is not None:
            return not self.lab and not self.needs_captions
        return all(k.model is not None for k in self.kinds) and not self.needs_captions

    @property
    def device(self) -> str:
        return str(next(self.predictors[0].parameters()).device)

    @property
    def needs_captions(self) -> bool:
        """Whether a predictor takes a caption of the image."""
        return any(p.needs_captions for p in self.predictors)

    @property
    def side(self) -> int:
        """The size that images are scaled to first, as in training: the largest that a network of it takes."""
        return max(self.sides)

    @property
    def sides(self) -> set[int]:
        """Sizes of the pictures that `read` takes, besides those that it makes of the largest."""
        largest = max(p.side for p in self.predictors)
        if not self.needs_captions:
            return {largest}
        captioner = self.own_captioner().image_size
        return {captioner, max(largest, captioner)}

    def own_captioner(self) -> Captioner:
        """The captioner that it was trained with, loaded when it is first asked for."""
        self.captioner = self.captioner or load_captioner(self.captioner_id, self.device)
        return self.captioner

    def __call__(self, images: Sequence[Image.Image], batch_size: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
        """PIL images of any size and mode to unit vectors [B,E] and word probabilities [B,V]."""
        starts = range(0, len(images), batch_size)
        found = [self.read(views(images[start : start + batch_size], self.sides)) for start in starts]
        return torch.cat([vectors for vectors, _ in found]), torch.cat([words for _, words in found])

    @torch.no_grad()
    def read(
        self, pixels: Mapping[int, torch.Tensor], captions: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images to unit vectors [B,E] and word probabilities [B,V].

        Args:
            pixels: side -> [B,3,side,side] in 0..1, at least those of `sides`; see `views`.
            captions: of the images, by its own captioner; made here if they are needed and None.
        """
        if self.needs_captions and captions is None:
            captioner = self.own_captioner()
            captions = captioner.caption(pixels[captioner.image_size])
        whole = pixels[self.side]
        vectors, words, shares = [], [], []
        for predictor, weight in zip(self.predictors, self.weights or [1.0] * len(self.predictors), strict=True):
            device = next(predictor.parameters()).device
            vector, logits = predictor(
                fit(whole, predictor.side).to(device), captions if predictor.needs_captions else None
            )
            vectors.append(vector.float().cpu())
            if logits is not None and weight:
                words.append(weight * logits.float().cpu().sigmoid())
                shares.append(weight)
        vector = ensemble(vectors, self.weights)
        even = torch.full((len(whole), len(self.vocabulary)), 0.5)
        probability = torch.stack(words).sum(0) / sum(shares) if words else even
        return vector if self.kernel is None else self.kernel(vector), probability

    # --- standard form -------------------------------------------------------------------------------------------
    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder."""
        folder = Path(folder)
        rows = []
        for i, (predictor, kind) in enumerate(zip(self.predictors, self.kinds, strict=True)):
            state = {
                k: v.half().cpu().contiguous() for k, v in predictor.state_dict().items() if not k.startswith(_OUTSIDE)
            }
            replace_file(folder / f"predictor-{i}.safetensors", partial(save_file, state))
            rows.append(
                {**asdict(kind), "architecture": _architecture(predictor), "vocabulary": predictor.words is not None}
            )
        config = {
            "embedding": self.embedding,
            "predictors": rows,
            "weights": self.weights,
            "captioner": self.captioner_id,
            "lab": self.lab,
        }
        replace_file(
            folder / "vocabulary.txt", lambda p: p.write_text("\n".join(self.vocabulary.words) + "\n", encoding="utf8")
        )
        replace_file(
            folder / "config.json", lambda p: p.write_text(json.dumps(config, indent=1) + "\n", encoding="utf8")
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None, device: str = "cpu") -> Inverter:
        """Read the folder; the embedded inverter if None.

        Raises:
            InputError: for a folder that is missing, incomplete or damaged, or a vocabulary without words.
        """
        folder = Path(folder or INVERTER)
        what = f"inverter {str(folder)!r}"
        if not (folder / "config.json").exists():
            raise InputError(
                f"folder {str(folder)!r} holds no inverter (no config.json); train one with accord train inverter"
            )
        config = read_json(folder / "config.json", f"{what}: its")
        words = read_text(folder / "vocabulary.txt", f"{what}: its").split()
        if not words:
            raise InputError(f"the vocabulary in {str(folder)!r} has no words; train the inverter again")
        with loading(what, "save it again"):
            predictors, kinds = [], []
            for i, row in enumerate(config["predictors"]):
                name = f"{what}: its predictor-{i}"
                kind = PredictorConfig(**{k: row[k] for k in asdict(PredictorConfig())})
                state = {
                    k: v.float() if v.is_floating_point() else v
                    for k, v in load_tensors(folder / f"predictor-{i}.safetensors", name).items()
                }
                make = partial(
                    _rebuild, kind, row["architecture"], len(words) if row["vocabulary"] else 0, config["embedding"]
                )
                predictor = _filled(make, state, name, whole=row["architecture"] is not None)
                predictors.append(predictor.to(device))
                kinds.append(kind)
            return cls(
                predictors,
                kinds,
                Vocabulary(tuple(words)),
                config["weights"],
                captioner_id=config.get("captioner"),
                lab=config.get("lab"),
            )


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


def views(images: Sequence[Image.Image], sides: Iterable[int]) -> dict[int, torch.Tensor]:
    """Pictures of any size and mode as [B,3,side,side] in 0..1, for each side.

    Each picture is converted once and scaled once to each side; none is held as numbers at its full size.
    """
    seen: dict[int, list[torch.Tensor]] = {side: [] for side in sides}
    for image in images:
        whole = to_tensor(to_rgb(image))
        for side, scaled in seen.items():
            scaled.append(fit(whole, side))
    return {side: torch.cat(scaled) for side, scaled in seen.items()}


def _architecture(predictor: Predictor) -> dict[str, Any] | None:
    """What rebuilds a vision tower without its source; None for a white box, which comes from its pipeline."""
    tower = predictor.tower
    if not isinstance(tower, VisionTower):
        return None
    config: Any = tower.model.config
    settings = {k: v for k, v in config.to_diff_dict().items() if not k.startswith("_") and k not in _SAID_ELSEWHERE}
    return {
        "class": type(tower.model).__name__,
        "config": settings,
        "mean": tower.mean.flatten().tolist(),
        "std": tower.std.flatten().tolist(),
    }


# of a tower's configuration: what is not its shape
_SAID_ELSEWHERE = {"dtype", "transformers_version", "architectures", "auto_map", "id2label", "label2id", "problem_type"}
_NUMBER = (int, float, bool, str, type(None))
_LARGEST = 65_536  # of any size in a tower's configuration


def _rebuild(kind: PredictorConfig, architecture: dict[str, Any] | None, vocabulary: int, embedding: int) -> Predictor:
    """A predictor as its folder describes it, its weights still at random.

    Raises:
        InputError: for a tower of a class that is not known, or settings that are no numbers and words.
    """
    if not isinstance(embedding, int) or not 0 < embedding <= _LARGEST:
        raise InputError(f"an embedding of {embedding!r} numbers is none; save it again")
    if architecture is None:
        if not kind.is_white_box:
            raise InputError(f"the architecture of the tower {kind.kind!r} is not there; save it again")
        return build(kind, vocabulary, embedding=embedding)
    towers = {model.__name__: (model, config) for model, config in tower_classes().values()}
    if architecture["class"] not in towers:
        raise InputError(
            f"the tower {architecture['class']!r} is none of {', '.join(towers)}, and no other class is called; train "
            "it again"
        )
    network_class, config_class = towers[architecture["class"]]
    known = config_class().to_dict().keys() - _SAID_ELSEWHERE
    settings = {k: v for k, v in architecture["config"].items() if k in known and not k.startswith("_")}
    for key, value in settings.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(v, _NUMBER) and not (isinstance(v, (int, float)) and abs(v) > _LARGEST) for v in values):
            raise InputError(f"the tower's {key} is {value!r}, which is not used; save it again")
    if (
        max(
            (v for v in (settings.get("num_hidden_layers"), *(settings.get("depths") or ())) if isinstance(v, int)),
            default=0,
        )
        > 512
    ):
        raise InputError("the tower has more than 512 layers, which is not used; save it again")
    check_moments(architecture["mean"], architecture["std"], "the tower")
    config = config_class(**settings)
    network = (
        network_class(config, add_pooling_layer=False)
        if "add_pooling_layer" in signature(network_class).parameters
        else network_class(config)
    )
    return Predictor(
        VisionTower(network, architecture["mean"], architecture["std"]), vocabulary, kind.hidden, embedding
    )


def _filled(make: Callable[[], Predictor], state: dict[str, torch.Tensor], what: str, whole: bool) -> Predictor:
    """A predictor with its saved weights. With `whole` it is first made without memory, so that no more is taken than
    its file has.

    Raises:
        InputError: if file and description do not fit each other.
    """
    if whole:
        with torch.device("meta"):
            _check_fits(make().state_dict(), state, what)
    predictor = make()
    _check_fits(predictor.state_dict(), state, what)
    predictor.load_state_dict(state, strict=False)
    return predictor


def _check_fits(described: dict[str, torch.Tensor], saved: dict[str, torch.Tensor], what: str) -> None:
    lost = sorted(k for k in described.keys() - saved.keys() if not k.startswith(_OUTSIDE))

    def differ(own: torch.Tensor, found: torch.Tensor) -> bool:  # whole numbers are no weights
        return own.shape != found.shape or (own.is_floating_point() and not found.is_floating_point())

    other = sorted(k for k in described.keys() & saved.keys() if differ(described[k], saved[k]))
    wrong = [*lost, *sorted(saved.keys() - described.keys()), *other]
    if wrong:
        raise InputError(f"{what} does not fit its config ({wrong[0]}); save it again")
