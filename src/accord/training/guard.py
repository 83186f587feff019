"""A guard against reward hacking: a score that is never trained on, watched beside the reward."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from accord.types import check_numbers


@dataclass(frozen=True)
class GuardConfig:
    """When a run counts as hacking its reward. Raises ValueError for a field out of range."""

    z: float = 1.645  # the held-out score must have fallen by so many standard errors of the paired difference
    patience: int = 2  # evaluations in a row in which it has fallen, before the run is stopped

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, not {self.patience}")
        if self.z < 0:
            raise ValueError(f"z must not be negative, not {self.z}")


class Guard:
    """Watches reward and held-out score on fixed prompts and seeds.

    At each evaluation the held-out scores [N] are compared, picture by picture, with those of the best evaluation so
    far. If they are lower by more than `z` standard errors while the reward is higher, the two part ways.

    Its state is in `numbers` and `tensors` (those of a Run), under its name, so that a resumed run goes on as if it had
    not stopped.
    """

    def __init__(
        self, config: GuardConfig, numbers: dict[str, float], tensors: dict[str, torch.Tensor], name: str = "guard"
    ) -> None:
        self.config, self.numbers, self.tensors, self.name = config, numbers, tensors, name

    @property
    def best_step(self) -> int:
        """The evaluation with the highest mean held-out score."""
        return int(self.numbers.get(f"{self.name}.best_step", 0))

    @property
    def parted_at(self) -> int | None:
        """The first evaluation of those that stopped the run, or None."""
        return int(self.numbers[f"{self.name}.parted_at"]) if self.stopped else None

    @property
    def stopped(self) -> bool:
        return self.numbers.get(f"{self.name}.bad", 0) >= self.config.patience

    @property
    def fall(self) -> float:
        """By how much the held-out score was below its best at the last evaluation that was lower."""
        return self.numbers.get(f"{self.name}.fall", 0.0)

    def update(self, step: int, reward: torch.Tensor, held_out: torch.Tensor, may_be_best: bool = True) -> bool:
        """Take in scores [N] each; True if this is the best evaluation so far. Pictures without a finite score are left
        out.

        Args:
            may_be_best: False for an evaluation that is not to be kept, whatever its score.
        """
        reward, held_out = reward.double().cpu(), held_out.double().cpu()
        best = self.tensors.get(f"{self.name}.held_out")
        if best is not None:
            before = self.tensors[f"{self.name}.reward"]
            kept = torch.isfinite(torch.stack([reward, held_out, before, best])).all(0)
            if not kept.any():
                return False
        if best is None or (may_be_best and held_out[kept].mean() > best[kept].mean()):
            self.tensors[f"{self.name}.held_out"], self.tensors[f"{self.name}.reward"] = held_out, reward
            self.numbers |= {f"{self.name}.best_step": float(step), f"{self.name}.bad": 0.0}
            return True
        fallen = (held_out - best)[kept]
        self.numbers[f"{self.name}.fall"] = -float(fallen.mean())
        error = fallen.std() / len(fallen) ** 0.5 if len(fallen) > 1 else torch.tensor(0.0)
        rose = bool(reward[kept].mean() > before[kept].mean())
        if rose and float(fallen.mean()) < -self.config.z * float(error):
            if not self.numbers.get(f"{self.name}.bad"):
                self.numbers[f"{self.name}.parted_at"] = float(step)
            self.numbers[f"{self.name}.bad"] = self.numbers.get(f"{self.name}.bad", 0.0) + 1
        else:
            self.numbers[f"{self.name}.bad"] = 0.0
        return False
