"""The knobs of inversion, each explained where it is defined."""

from __future__ import annotations

from dataclasses import dataclass

from accord.types import check_numbers

WHITE_BOX = ("unet", "denoiser")  # two names of one kind: denoiser is of any pipeline, unet the older
KINDS = (*WHITE_BOX, "clip", "vit", "swin", "blip")
CURRICULA = ("none", "prefix", "random")


@dataclass(frozen=True)
class PredictorConfig:
    """One predictor. Raises ValueError for a field out of range, named in the message."""

    kind: str = "clip"  # denoiser or unet (white box), clip, vit, swin or blip
    model: str | None = None  # folder or hub id of the tower or pipeline; the lab's if None (vit, swin: from nothing)
    caption_conditioned: bool = True  # white box: tell it a caption of the image; False is the ablation, empty text
    all_levels: bool = False  # U-Nets: pool every level of the encoder, not the middle block alone
    hidden: int = 512  # width of the head's hidden layer; 0 for a linear head

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.hidden < 0:
            raise ValueError(f"hidden must not be negative, not {self.hidden}")

    @property
    def is_white_box(self) -> bool:
        """Whether it is the network of a pipeline."""
        return self.kind in WHITE_BOX

    @property
    def needs_captions(self) -> bool:
        """Whether it is told a caption of the image."""
        return self.is_white_box and self.caption_conditioned


@dataclass(frozen=True)
class InvertTrainConfig:
    """Training of one predictor. Raises ValueError for a field out of range, named in the message."""

    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    freeze_tower: bool = False  # True is the linear (or head-only) probe
    vocabulary_weight: float = 0.1  # of the classification loss; 0 switches it off
    vocabulary_size: int = 1000
    # prefix: easy pairs first, as in the paper (it harmed on the lab); random: the control, prefixes of a random order
    curriculum: str = "none"
    folds: int = 2  # out-of-fold scores of the curriculum
    fold_share: float = 0.3  # steps of one fold's model, as a share of `steps`
    fold_similar: float = 0.98  # cosine above which two prompts are in one fold
    ema_decay: float = 0.99
    seed: int = 0
    bf16: bool | None = None
    save_every: int = 500

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("steps", "batch_size", "vocabulary_size", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        if self.vocabulary_weight < 0:
            raise ValueError(f"vocabulary_weight must not be negative, not {self.vocabulary_weight}")
        if self.curriculum not in CURRICULA:
            raise ValueError(f"curriculum must be one of {', '.join(CURRICULA)}, not {self.curriculum!r}")
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, not {self.folds}")
        if not 0 < self.fold_similar <= 1:
            raise ValueError(f"fold_similar must be in (0, 1], not {self.fold_similar}")
        if not 0 < self.fold_share <= 1:
            raise ValueError(f"fold_share must be in (0, 1], not {self.fold_share}")
