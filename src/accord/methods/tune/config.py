"""The knobs of reward tuning, each explained where it is defined."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from accord.methods.tune.registry import STRATEGIES, Strategy
from accord.methods.tune.strategies.refl import Refl
from accord.types import check_numbers


@dataclass(frozen=True)
class TuneConfig:
    """Reward tuning (the coarse stage). Raises ValueError for a field out of range, named in the message."""

    strategy: Strategy = field(default_factory=Refl)  # or a name: that strategy with its defaults
    steps: int = 300
    batch_size: int = 8  # prompts a step, over all processes and micro-batches
    gradient_accumulation: int = 1
    learning_rate: float = 3e-4
    warmup_steps: int = 10
    weight_decay: float = 0.01  # anchors the adapter's scale
    rank: int = 8
    ema_decay: float = 0.98
    seed: int = 0
    bf16: bool | None = None  # autocast; None: where the device computes in it
    gradient_checkpointing: bool = False
    guidance_scale: float = 5.0
    num_inference_steps: int = 40
    # the loss: reward_weight * strategy + pretrain_weight * denoising + kl_weight * |f - f_untuned|^2
    reward_weight: float = 0.1
    pretrain_weight: float = 1.0
    kl_weight: float = 0.5
    anchors: int = 64  # pictures of the untuned pipeline that the denoising term is on where no pairs are given
    # evaluations
    eval_every: int = 50
    eval_prompts: int = 24  # prompts kept out of training for the evaluations
    guard: bool = True
    guard_z: float = 1.645
    guard_patience: int = 2
    save_every: int = 50

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 <= self.seed < 2**40:
            raise ValueError(f"seed must be in [0, 2**40), not {self.seed}")
        object.__setattr__(self, "strategy", strategy_of(self.strategy))
        for name in (
            "steps batch_size gradient_accumulation rank num_inference_steps eval_every eval_prompts anchors "
            "save_every guard_patience"
        ).split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("reward_weight", "pretrain_weight", "kl_weight", "weight_decay", "warmup_steps", "guard_z"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        if not self.strategy.has_loss and not self.pretrain_weight and not self.kl_weight:
            raise ValueError(
                f"pretrain_weight and kl_weight are both 0, and {self.strategy.name} has no other loss; give one of "
                "them"
            )
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of gradient_accumulation {self.gradient_accumulation}"
            )

    @classmethod
    def of(cls, strategy: str, **knobs: Any) -> TuneConfig:
        """A config from knobs of the run and of the strategy of this name together.

        Raises:
            ValueError: for a strategy that there is not, a knob out of range, or a strategy that has a knob of a name
                that the run has too.
            TypeError: for a knob that neither has.
        """
        kind = type(strategy_of(strategy))
        own = {f.name for f in fields(kind)}
        if both := own & {f.name for f in fields(cls)}:
            raise ValueError(f"strategy {strategy} has a knob {min(both)}, as the run has; give it another name")
        its = {name: knobs.pop(name) for name in own & knobs.keys()}
        return cls(strategy=kind(**its), **knobs)

    def flat(self) -> dict[str, Any]:
        """All knobs as JSON has them, those of the strategy after its name."""
        its = {"strategy": self.strategy.name, **asdict(self.strategy)}
        return its | {f.name: getattr(self, f.name) for f in fields(self) if f.name != "strategy"}


def strategy_of(strategy: Strategy | str) -> Strategy:
    """The strategy itself, or that of a name with its defaults. Raises ValueError for a name that is none."""
    if isinstance(strategy, Strategy):
        return strategy
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}")
    return STRATEGIES[strategy]()


def debug(strategy: str = "refl", **knobs: Any) -> TuneConfig:
    """Two steps of next to nothing, to see that everything runs."""
    small: dict[str, dict[str, Any]] = {
        "raft": {"candidates": 2, "refresh": 1},
        "grpo": {"group_size": 2, "trained_steps": 2},
        "nft": {"group_size": 2, "times": 1},
        "awm": {"group_size": 2, "times": 1},
    }
    few = {
        "steps": 2,
        "batch_size": 2,
        "num_inference_steps": 4,
        "eval_every": 1,
        "eval_prompts": 2,
        "save_every": 1,
        "warmup_steps": 0,
        "anchors": 4,
    }
    return TuneConfig.of(strategy, **few | small.get(strategy, {}) | knobs)
