"""What judges a run: the parts of a reward, and whether two of them judge in one way."""

from __future__ import annotations

from typing import Any

from torch import nn

from accord.rewards.composed import Composed
from accord.training.fingerprint import fingerprint


def scores_of(reward: Any) -> list[Any]:
    """A reward's parts; itself if it is none of several; nothing for None."""
    if isinstance(reward, Composed):
        return [part for r in reward.rewards.values() for part in scores_of(r)]
    return [] if reward is None else [reward]


def same_score(a: Any, b: Any) -> bool:
    """Whether two scores judge in one way: of one class, with networks of the same weights."""
    networks = models_of(a)
    return a is b or (type(a) is type(b) and bool(networks) and fingerprint(*networks) == fingerprint(*models_of(b)))


def models_of(*rewards: Any) -> list[nn.Module]:
    """The networks that rewards judge by, as far as their attributes (or those whose methods they are) show them."""
    scores = [score for reward in rewards for score in scores_of(reward)]
    held = [getattr(v, "__self__", v) for score in scores for v in getattr(score, "__dict__", {}).values()]
    held = [getattr(v, "model", v) for v in held]
    return [m for m in held if isinstance(m, nn.Module)]
