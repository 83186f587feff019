"""Rewards together: a weighted sum of normalised ones, made by their names, and the proof that one has a gradient.

Letters in shapes: B pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from accord.judges.captioners import load_captioner
from accord.judges.clip import ClipScorer, load_clip
from accord.judges.loading import AnyJudge
from accord.rewards.registry import Registered, Reward, registered
from accord.rewards.sentence import load_sentence
from accord.types import InputError


class Composed:
    """A weighted sum of rewards, each brought to mean 0 and spread 1 over `calibrate`'s pictures.

    Args:
        rewards: name -> reward.
        weights: name -> weight, the same names.
    """

    def __init__(self, rewards: Mapping[str, Reward], weights: Mapping[str, float]) -> None:
        if not weights or set(weights) != set(rewards):
            raise ValueError(f"weights {sorted(weights)} and rewards {sorted(rewards)} must have the same names")
        self.rewards, self.weights = dict(rewards), {k: float(v) for k, v in weights.items()}
        self.scales: dict[str, tuple[float, float]] = {k: (0.0, 1.0) for k in rewards}  # mean, spread

    @property
    def differentiable(self) -> bool:
        return all(r.differentiable for r in self.rewards.values())

    def parts(self, images: torch.Tensor, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Each reward as it is, [B], where the pictures are.

        Raises:
            InputError: for a reward that gives another shape.
        """
        found = {name: reward(images, prompts).float().to(images.device) for name, reward in self.rewards.items()}
        for name, values in found.items():
            if values.shape != (len(prompts),):
                raise InputError(
                    f"reward {name!r} gave a tensor of shape {list(values.shape)} for {len(prompts)} pictures; give "
                    "one number each"
                )
        return found

    def combine(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weighted sum of normalised parts, [B]."""
        terms = [w * (parts[k] - self.scales[k][0]) / self.scales[k][1] for k, w in self.weights.items()]
        return torch.stack(terms).sum(0)

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return self.combine(self.parts(images, prompts))

    @torch.no_grad()
    def calibrate(self, parts: Mapping[str, torch.Tensor]) -> None:
        """Take each reward's mean and spread from these values [N] of `parts` (on pictures of the untuned pipeline).

        Raises:
            InputError: for a reward that is not finite on one of them, or the same on all of several.
        """
        for name, values in parts.items():
            if not torch.isfinite(values).all():
                raise InputError(
                    f"reward {name!r} is not finite on a picture of the untuned pipeline; use another reward"
                )
            mean, spread = float(values.mean()), float(values.std()) if len(values) > 1 else 1.0
            if spread <= 1e-6 * max(1.0, abs(mean)):
                raise InputError(
                    f"reward {name!r} is the same on {len(values)} pictures of the untuned pipeline; give more "
                    "anchors, or another reward"
                )
            self.scales[name] = (mean, spread)


def check_gradient(reward: Reward, images: torch.Tensor, prompts: Sequence[str], name: str = "reward") -> None:
    """Prove that a reward which says so gives the images a gradient.

    Raises:
        InputError: if it does not say so, or the gradient is missing, zero or not finite.
    """
    if not reward.differentiable:
        *most, last = [n for n, r in registered().items() if r.differentiable]
        raise InputError(
            f"{name} has no gradient; use the strategy raft or grpo, or a {', '.join(most)} or {last} reward"
        )
    pixels = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        score = reward(pixels, prompts).sum()
        gradient = torch.autograd.grad(score, pixels, allow_unused=True)[0] if score.requires_grad else None
    if gradient is None or not torch.isfinite(gradient).all() or not gradient.any():
        raise InputError(f"{name} gives the pictures no usable gradient (none, zero or not finite); use another reward")


def make_rewards(
    weights: Mapping[str, float],
    captioner: AnyJudge | None = None,
    clip: ClipScorer | None = None,
    embed: Callable[[list[str]], torch.Tensor] | None = None,
    device: str = "cpu",
) -> Composed:
    """Rewards by name: "caption" (sentence embedding), "caption-clip" (CLIP's text tower), "likelihood", "contrast",
    "clip", and what `registry.reward` has registered. What is not given is loaded onto `device`: the embedded captioner
    and CLIP, the packaged sentence embedder.

    Raises:
        InputError: for an unknown name or no name at all, or a captioner that does not give what a reward needs.
    """
    known = registered()
    unknown = [n for n in weights if n not in known]
    if unknown or not weights:
        raise InputError(f"reward {', '.join(unknown) or '(none)'} is unknown; choose among {', '.join(known)}")
    needed = {need for name in weights for need in known[name].needs}
    if captioner is None and "captioner" in needed:
        captioner = load_captioner(device=device)
    if clip is None and "clip" in needed:
        clip = load_clip(device=device)
    if embed is None and "embed" in needed:
        embed = load_sentence(device=str(getattr(captioner, "device", device)))
    if captioner is not None:
        _check_gives(captioner, [known[name] for name in weights if "captioner" in known[name].needs])
    judges = {"captioner": captioner, "clip": clip, "embed": embed}
    made = {name: known[name].make(**{need: judges[need] for need in known[name].needs}) for name in weights}
    return Composed(made, weights)


def _check_gives(judge: AnyJudge, wanted: Sequence[Registered]) -> None:
    """Refuse a judge without the gradients, or the captions, that rewards stand on. Raises InputError."""
    if any(one.differentiable for one in wanted) and not judge.differentiable:
        raise InputError(
            f"judge {judge.name!r} gives no gradients of likelihoods, which this reward is tuned by; use a BLIP, "
            "BLIP-2, Florence-2, Qwen-VL or SmolVLM, or the reward caption with it"
        )
    if not judge.writes:
        raise InputError(f"judge {judge.name!r} writes no captions, which this reward compares; use another judge")
