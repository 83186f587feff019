"""The knobs of training with context, each explained where it is defined."""

from __future__ import annotations

from dataclasses import dataclass

from accord.methods.context.equations import SHIFTS
from accord.types import check_numbers

DENOISERS = ("frozen", "lora", "full")
LOSSES = ("mse", "kl")


@dataclass(frozen=True)
class ContextTrainConfig:
    """Raises ValueError for a field out of range, named in the message."""

    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 3e-4
    warmup_steps: int = 50
    denoiser: str = "lora"  # frozen; lora: an adapter is trained too; full: all of it (training from scratch)
    rank: int = 8
    shift: str = "quadratic"  # k_t: quadratic as in the paper; prior and data are ablations
    gain: float = 1.0  # bound of |r|
    share: float = 0.15  # of the denoiser's parameters that the relational network may have
    use_image: bool = True  # False: r of the text alone
    use_text: bool = True
    pixels: bool = False  # r also looks at the decoded picture through a CLIP (the paper's way; a VAE decode a step)
    # pictures whose r is that of the network's own x0^, as in sampling; of x0 itself it tells too much
    estimated_share: float = 1.0
    caption_dropout: float = 0.1  # empty text for the denoiser (r keeps the caption), for guidance
    loss: str = "mse"  # mse in the network's own prediction type; kl: the exact bound
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    seed: int = 0
    bf16: bool | None = None
    save_every: int = 500

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("steps", "batch_size", "rank", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name, options in (("denoiser", DENOISERS), ("shift", SHIFTS), ("loss", LOSSES)):
            if getattr(self, name) not in options:
                raise ValueError(f"{name} must be one of {', '.join(options)}, not {getattr(self, name)!r}")
        for name in ("estimated_share", "caption_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], not {self.share}")
        if self.gain < 0:
            raise ValueError(f"gain must not be negative, not {self.gain}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}")
