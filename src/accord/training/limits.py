"""Guards beside the held-out score: what must not drift while a reward rises. They know no method.

Letters in shapes: N pictures of an evaluation, T prompts, M prompts that are also said in other words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch

from accord.training.guard import Guard, GuardConfig
from accord.types import check_numbers


@dataclass(frozen=True)
class Limits:
    """How far a run may drift from the untuned pipeline before it is stopped. Raises ValueError naming a field.

    The first four are looked at in the mean of an evaluation and stop a run at once. The other two are compared picture
    by picture, must exceed `z` standard errors of the paired difference, and `patience` evaluations in a row.
    """

    norm: float = 0.15  # share by which the latents' root mean square may change
    brightness: float = 0.1  # by which the mean of pictures in 0..1 may change
    contrast: float = 0.3  # share by which the standard deviation of pictures may change
    diversity: float = 0.4  # share by which the distance between pictures of one prompt may fall
    paraphrase: float = 0.5  # share of the gain on prompts that may be lost on the same prompts in other words
    z: float = 1.645
    patience: int = 2  # evaluations, of the paraphrases and the watching judge

    def __post_init__(self) -> None:
        check_numbers(self)
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be positive, not {getattr(self, field.name)}")


MEASURES = ("norm", "brightness", "contrast", "diversity")
PAIRED = ("paraphrase", "watch")
_SAID = {
    "norm": "the norm of the latents changed by {value:+.0%} (at most {limit:.0%})",
    "brightness": "the pictures' brightness changed by {value:+.2f} (at most {limit:.2f})",
    "contrast": "the pictures' contrast changed by {value:+.0%} (at most {limit:.0%})",
    "diversity": "pictures of one prompt became alike, their distance changed by {value:+.0%} (at most -{limit:.0%})",
    "paraphrase": "the same prompts in other words lost {value:.0%} of the gain (at most {limit:.0%})",
    "watch": "the watching judge's score fell by {value:.3f} while the reward rose",
}


class Drift:
    """Watches an evaluation's measures. Its state is in `numbers` and `tensors` (those of a Run).

    Args:
        limits: None to measure alone and stop nothing.
    """

    def __init__(self, limits: Limits | None, numbers: dict[str, float], tensors: dict[str, torch.Tensor]) -> None:
        self.limits, self.numbers, self.tensors = limits, numbers, tensors
        rule = GuardConfig(limits.z, limits.patience) if limits else GuardConfig()
        self.judge = Guard(rule, numbers, tensors, name="watch")

    @property
    def stopped(self) -> bool:
        return "limits.rule" in self.numbers

    @property
    def sentence(self) -> str:
        """What stopped the run, and when; empty if nothing did."""
        if not self.stopped:
            return ""
        rule = (*MEASURES, *PAIRED)[int(self.numbers["limits.rule"])]
        limit = getattr(self.limits, rule, 0.0)
        said = _SAID[rule].format(value=self.numbers["limits.value"], limit=limit)
        return f"By step {int(self.numbers['limits.step'])} {said}, so the run was stopped."

    def update(self, step: int, found: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Take in the measures of an evaluation, the first ones being those of the untuned pipeline.

        Args:
            found: "norm", "brightness" and "contrast" [N], "diversity" [T]; "told" and "retold" [M], the rewards of
                prompts and of the same in other words; "reward" and "watch" [N]. What is missing is not looked at.

        Returns:
            The drift of each measure, to log.
        """
        found = {name: values.double().cpu() for name, values in found.items()}
        for name, values in found.items():
            self.tensors.setdefault(f"limits.first.{name}", values)
        drifts = {name: self._change(name, found[name]) for name in MEASURES if name in found}
        fallen = {"diversity": -drifts["diversity"]} if "diversity" in drifts else {}
        sizes = {name: abs(value) for name, value in drifts.items()} | fallen
        if {"told", "retold"} <= found.keys():
            drifts["paraphrase"], lost = self._lost(found["told"], found["retold"])
            self._count("paraphrase", lost)
        if {"reward", "watch"} <= found.keys():
            before = self.tensors["limits.first.watch"]
            drifts["watch"] = float((found["watch"] - before).nanmean())
            self.judge.update(step, found["reward"], found["watch"])
        if self.limits is not None and not self.stopped:
            over = [name for name, size in sizes.items() if size > getattr(self.limits, name)]
            over += ["paraphrase"] if self.numbers.get("limits.bad.paraphrase", 0) >= self.limits.patience else []
            over += ["watch"] if "watch" in drifts and self.judge.stopped else []
            if over:
                value = self.judge.fall if over[0] == "watch" else drifts[over[0]]
                place = (*MEASURES, *PAIRED).index(over[0])
                self.numbers |= {"limits.rule": float(place), "limits.value": value, "limits.step": float(step)}
        return drifts

    @property
    def in_doubt(self) -> bool:
        """Whether the last evaluation was beyond a limit, so that its weights are not to be kept."""
        bad = self.numbers.get("limits.bad.paraphrase", 0) + self.numbers.get("watch.bad", 0)
        return self.limits is not None and (self.stopped or bad > 0)

    def _change(self, name: str, now: torch.Tensor) -> float:
        """From the untuned pipeline's mean to this one's: a difference for brightness, else a share."""
        first, mean = float(self.tensors[f"limits.first.{name}"].nanmean()), float(now.nanmean())
        return mean - first if name == "brightness" else mean / max(first, 1e-12) - 1

    def _lost(self, told: torch.Tensor, retold: torch.Tensor) -> tuple[float, bool]:
        """The share of the prompts' gain that their paraphrases lack, and whether that is beyond limit and noise."""
        gain, other = (now - self.tensors[f"limits.first.{n}"] for n, now in (("told", told), ("retold", retold)))
        kept = torch.isfinite(gain) & torch.isfinite(other)
        gain, other = gain[kept], other[kept]
        if not len(gain) or float(gain.mean()) <= 0:
            return 0.0, False
        lost = 1 - float(other.mean() / gain.mean())
        z = self.limits.z if self.limits else 0.0
        beyond = all(float(d.mean()) > z * _error(d) for d in (gain, gain - other))
        return lost, beyond and self.limits is not None and lost > self.limits.paraphrase

    def _count(self, name: str, bad: bool) -> None:
        self.numbers[f"limits.bad.{name}"] = self.numbers.get(f"limits.bad.{name}", 0.0) + 1 if bad else 0.0


def _error(values: torch.Tensor) -> float:
    return float(values.std()) / len(values) ** 0.5 if len(values) > 1 else 0.0
