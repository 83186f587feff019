"""Rewards: how well pictures say their prompts, one number a picture. RealignDiff, arXiv 2305.19599, section 1.1 of its
coarse stage.

Letters in shapes: B pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from accord.data.prompts import exchanged, parse
from accord.diffusion.state import held
from accord.rewards.captioners import Captioner
from accord.rewards.clip import ClipScorer
from accord.rewards.diagnosis import counterfactuals
from accord.types import InputError


class Reward(Protocol):
    """Anything that judges pictures. `differentiable` says whether the images receive a gradient from it."""

    differentiable: bool

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Pictures [B,3,H,W] in 0..1 and B prompts to scores [B]; higher is better."""
        ...


class CaptionReward:
    """R_cap(x, p) = cos(T(p), T(caption(x))): exact, without gradient.

    Args:
        captioner: writes the caption.
        embed: T, texts to unit vectors [B, D]: a SentenceEmbedder, or `ClipScorer.text_features`.
    """

    differentiable = False

    def __init__(self, captioner: Captioner, embed: Callable[[list[str]], torch.Tensor]) -> None:
        self.captioner, self.embed = captioner, embed

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        said = [c or " " for c in self.captioner.caption(images)]
        return (self.embed(list(prompts)) * self.embed(said)).sum(-1).to(images.device)


class CaptionLikelihood:
    """R_lik(x, p) = log P(p | x) / len(p), teacher-forced, len in tokens: differentiable."""

    differentiable = True

    def __init__(self, captioner: Captioner) -> None:
        self.captioner = captioner

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        texts = list(prompts)
        states = self.captioner.encode(images)
        with held(self.captioner.tokenizer):
            tokens = self.captioner.tokenizer(texts, add_special_tokens=False).input_ids
        lengths = torch.tensor([len(t) + 1 for t in tokens], device=states.device)  # the end token counts
        return self.captioner.log_likelihood(states, texts, list(range(len(texts)))) / lengths


class CaptionContrast:
    """log P(p|x) - logsumexp over swaps p' of log P(p'|x): which prompt, of all that differ in one word?
    Differentiable.

    The swaps exchange each checkable word (noun, colour, count, size, relation) for its counterfactuals, and the
    colours of two things for each other. A prompt without any has the score 0.

    Args:
        captioner: gives the likelihoods; its lexicon gives the counterfactuals.
        ceiling: scores are bounded by it from above, softly, so that a picture that is right already pays no more.
    """

    differentiable = True

    def __init__(self, captioner: Captioner, ceiling: float = 6.0) -> None:
        self.captioner, self.ceiling = captioner, ceiling

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        texts: list[str] = []
        owner: list[int] = []
        rows: list[range] = []
        for i, prompt in enumerate(prompts):
            mine = [prompt, *swapped(prompt, self.captioner)]
            rows.append(range(len(texts), len(texts) + len(mine)))
            texts += mine
            owner += [i] * len(mine)
        scores = self.captioner.log_likelihood(self.captioner.encode(images), texts, owner)
        out = []
        for row in rows:
            own, others = scores[row.start], scores[row.start + 1 : row.stop]
            out.append(own - others.logsumexp(0) if len(others) else own * 0)
        raw = torch.stack(out)
        return self.ceiling - torch.nn.functional.softplus(self.ceiling - raw)


class ClipReward:
    """Cosine of picture and prompt in a CLIP (or PickScore: a CLIPModel too). Differentiable."""

    differentiable = True

    def __init__(self, clip: ClipScorer) -> None:
        self.clip = clip

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return (self.clip.image_features(images) * self.clip.text_features(list(prompts))).sum(-1)


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


def swapped(prompt: str, captioner: Captioner) -> list[str]:
    """The prompt with one word exchanged, in every way that the captioner's lexicon knows, and with two colours
    exchanged.
    """
    parsed = parse(prompt)
    texts = [text for _, options in counterfactuals(parsed, captioner.lexicon) for _, text in options]
    colors = [w for p in parsed.phrases if not p.background for w in p.words if w.kind == "color"]
    for i, a in enumerate(colors):
        for b in colors[i + 1 :]:
            if a.text != b.text:
                texts.append(exchanged(prompt, a, b))
    return list(dict.fromkeys(t for t in texts if t != prompt))


def check_gradient(reward: Reward, images: torch.Tensor, prompts: Sequence[str], name: str = "reward") -> None:
    """Prove that a reward which says so gives the images a gradient.

    Raises:
        InputError: if it does not say so, or the gradient is missing, zero or not finite.
    """
    if not reward.differentiable:
        raise InputError(
            f"{name} has no gradient; use the strategy raft or grpo, or a likelihood, contrast or clip reward"
        )
    pixels = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        score = reward(pixels, prompts).sum()
        gradient = torch.autograd.grad(score, pixels, allow_unused=True)[0] if score.requires_grad else None
    if gradient is None or not torch.isfinite(gradient).all() or not gradient.any():
        raise InputError(f"{name} gives the pictures no usable gradient (none, zero or not finite); use another reward")


NAMES = ("caption", "caption-clip", "likelihood", "contrast", "clip")


def make_rewards(
    weights: Mapping[str, float],
    captioner: Captioner | None = None,
    clip: ClipScorer | None = None,
    embed: Callable[[list[str]], torch.Tensor] | None = None,
    device: str = "cpu",
) -> Composed:
    """Rewards by name: "caption" (sentence embedding), "caption-clip" (CLIP's text tower), "likelihood", "contrast",
    "clip". What is not given is loaded onto `device`: the embedded captioner and CLIP, the packaged sentence embedder.

    Raises:
        InputError: for an unknown name or no name at all.
    """
    from accord.rewards.captioners import load_captioner
    from accord.rewards.clip import load_clip
    from accord.rewards.sentence import load_sentence

    unknown = [n for n in weights if n not in NAMES]
    if unknown or not weights:
        raise InputError(f"reward {', '.join(unknown) or '(none)'} is unknown; choose among {', '.join(NAMES)}")
    if captioner is None and set(weights) & {"caption", "caption-clip", "likelihood", "contrast"}:
        captioner = load_captioner(device=device)
    if clip is None and set(weights) & {"caption-clip", "clip"}:
        clip = load_clip(device=device)

    def make(name: str) -> Reward:
        if name == "clip":
            assert clip is not None
            return ClipReward(clip)
        assert captioner is not None
        if name == "likelihood":
            return CaptionLikelihood(captioner)
        if name == "contrast":
            return CaptionContrast(captioner)
        if name == "caption-clip":
            assert clip is not None
            return CaptionReward(captioner, clip.text_features)
        return CaptionReward(captioner, embed or load_sentence(device=str(captioner.device)))

    return Composed({name: make(name) for name in weights}, weights)
