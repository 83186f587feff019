"""The knobs of `tune`, each explained where it is defined."""

from __future__ import annotations

from dataclasses import dataclass

from accord.types import check_numbers


@dataclass(frozen=True)
class TuneConfig:
    """Reward tuning (the coarse stage). Raises ValueError for a field out of range, named in the message."""

    strategy: str = "refl"  # refl, draft, raft, grpo; sft is the control: the denoising loss alone
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
    # refl
    stop_from: float = 0.75  # the step with gradient is drawn from this share of the steps on (30..39 of 40)
    stop_until: float = 1.0  # and up to this one; what is where is decided earlier than what it looks like
    margin: float = 2.0  # m of relu(m - r), in spreads of the untuned pipeline's reward
    # draft
    draft_steps: int = 1  # K, the last steps that keep their graph
    # raft
    raft_candidates: int = 4  # N of best-of-N
    raft_refresh: int = 20  # steps between two collections of best pictures
    # grpo
    group_size: int = 4  # pictures of a prompt
    grpo_timesteps: int = 4  # steps of the trajectory that are trained on
    clip_range: float = 1e-3
    # evaluations
    eval_every: int = 50
    eval_prompts: int = 24  # prompts kept out of training for the evaluations
    guard: bool = True
    guard_z: float = 1.645
    guard_patience: int = 2
    save_every: int = 50

    def __post_init__(self) -> None:
        from accord.methods.tune.strategies import STRATEGIES  # which work with this config

        check_numbers(self)
        if not 0 <= self.seed < 2**40:
            raise ValueError(f"seed must be in [0, 2**40), not {self.seed}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, not {self.strategy!r}")
        for name in (
            "steps batch_size gradient_accumulation rank num_inference_steps draft_steps raft_refresh grpo_timesteps "
            "eval_every eval_prompts anchors save_every guard_patience"
        ).split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("raft_candidates", "group_size"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, not {getattr(self, name)}")
        for name in ("reward_weight", "pretrain_weight", "kl_weight", "weight_decay", "warmup_steps", "guard_z"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.stop_from < 1:
            raise ValueError(f"stop_from must be in [0, 1), not {self.stop_from}")
        if not self.stop_from < self.stop_until <= 1:
            raise ValueError(f"stop_until must be in (stop_from, 1], not {self.stop_until}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        if self.strategy == "sft" and not self.pretrain_weight and not self.kl_weight:
            raise ValueError("pretrain_weight and kl_weight are both 0, and sft has no other loss; give one of them")
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of gradient_accumulation {self.gradient_accumulation}"
            )


def debug() -> TuneConfig:
    """Two steps of next to nothing, to see that everything runs."""
    return TuneConfig(
        steps=2,
        batch_size=2,
        num_inference_steps=4,
        eval_every=1,
        eval_prompts=2,
        save_every=1,
        warmup_steps=0,
        anchors=4,
        raft_candidates=2,
        raft_refresh=1,
        group_size=2,
        grpo_timesteps=2,
    )
