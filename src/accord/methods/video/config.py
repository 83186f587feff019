"""The knobs of an edit, each explained where it is defined."""

from __future__ import annotations

from dataclasses import dataclass

from accord.types import check_numbers


@dataclass(frozen=True)
class EditConfig:
    """Knobs of tuning and editing, as measured on the lab.

    Raises ValueError for a field out of range, named in the message.
    """

    tune_steps: int = 60  # of one-shot tuning on the source video
    learning_rate: float = 1e-3
    context: bool = True  # False, with injection and mask_blending 0 as well, is Tune-A-Video
    shift: str = "quadratic"
    share: float = 0.15  # size of the relational network
    # tuning: r of the network's own x0^, as in sampling; False: of the video itself, as in the paper
    estimated: bool = True
    num_inference_steps: int = 25
    guidance_scale: float = 5.0
    strength: float = 1.0  # share of the steps that is inverted and sampled again
    injection: float = 0.5  # first share of the steps in which attention takes the source's queries and keys
    # first share of the steps in which the source's latents replace the edit's wherever the two prompts agree
    mask_blending: float = 0.7
    inversion_iterations: int = 3  # of the fixed point; 1 is ordinary DDIM inversion
    window: int = 16  # frames that the network sees at once
    overlap: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("num_inference_steps", "inversion_iterations", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.tune_steps < 0:
            raise ValueError(f"tune_steps must not be negative, not {self.tune_steps}")
        if not 0 <= self.overlap < self.window:
            raise ValueError(f"overlap must be in [0, window), not {self.overlap}")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength must be in (0, 1], not {self.strength}")
        for name in ("injection", "mask_blending"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")


# the knobs that tuning depends on; the others may differ from one edit of a tuned video to the next
TUNING = ("tune_steps", "learning_rate", "context", "shift", "share", "estimated", "window", "seed")
