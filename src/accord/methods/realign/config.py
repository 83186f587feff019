"""The knobs of `realign`, each explained where it is defined."""

from __future__ import annotations

from dataclasses import dataclass

from accord.types import check_numbers

MODES = ("new_seed", "same_seed", "renoise")
EXEMPT = ("none", "special", "unassigned")


@dataclass(frozen=True)
class RealignConfig:
    """Raises ValueError for a field out of range, named in the message."""

    rounds: int = 2  # K: how often at most a picture is redone
    # where a round starts. new_seed: another z_T, as a noise that has failed may be a bad one to modulate; same_seed:
    # the same z_T; renoise: the picture, noised part-way
    mode: str = "new_seed"
    strength: float = 0.8  # renoise: share of the steps that is redone
    cross_weight: float = 1.0  # w of cross-attention
    self_weight: float = 0.3  # w of self-attention
    modulated_share: float = 0.4  # first share of the steps that is modulated
    # tau = (t / T) ** time_power; published: 5, for larger latents, whose layout is decided earlier
    time_power: float = 2.0
    omega_gain: float = 1.0  # omega = 1 + omega_gain * (deficit - 1/2); 0 is the unweighted modulation
    # a vain round from the same z_T is followed by one with omega so much higher, and other places
    escalation: float = 1.0
    # omega of the background: pixels of no thing look at the tokens of no thing; 0 leaves them alone
    background: float = 1.0
    log_omega: bool = False  # also add log(omega_n) * tau to the logits of segment n's tokens
    exempt_tokens: str = "none"  # tokens left alone: "none", "special" (BOS, EOS, padding), "unassigned" (all others)
    good_enough: float = 0.9  # a picture whose every word is at least this probable is not redone

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.rounds < 0:
            raise ValueError(f"rounds must be at least 0, not {self.rounds}")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if self.exempt_tokens not in EXEMPT:
            raise ValueError(f"exempt_tokens must be one of {', '.join(EXEMPT)}, not {self.exempt_tokens!r}")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength must be in (0, 1], not {self.strength}")
        for name in ("modulated_share", "good_enough"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        for name in ("cross_weight", "self_weight", "omega_gain", "time_power", "escalation", "background"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
