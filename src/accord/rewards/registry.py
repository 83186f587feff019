"""The rewards by name. Each is one file in `named/`, registered by a decorator with what it needs.

Importing this loads neither torch nor a reward, so that the command line can name them in its help.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from accord.rewards import named

if TYPE_CHECKING:
    import torch

JUDGES = ("captioner", "clip", "embed")  # what a reward may need, as `make_rewards` calls them
_FIRST = ("caption", "caption-clip", "likelihood", "contrast", "clip")  # the order of tables and lists; others follow


class Reward(Protocol):
    """Anything that judges pictures. `differentiable` says whether the images receive a gradient from it."""

    differentiable: bool

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Pictures [B,3,H,W] in 0..1 and B prompts to scores [B]; higher is better."""
        ...


@dataclass(frozen=True)
class Registered:
    """A reward that has a name.

    Attributes:
        make: its class, or a function that makes it. Takes what it needs, by name.
        needs: which of JUDGES.
    """

    make: Callable[..., Reward]
    needs: tuple[str, ...]

    @property
    def differentiable(self) -> bool:
        """What the class says; a function says nothing, which counts as no."""
        return bool(getattr(self.make, "differentiable", False))


_REWARDS: dict[str, Registered] = {}
Make = TypeVar("Make", bound=Callable[..., Reward])


def reward(name: str, needs: Sequence[str] = ()) -> Callable[[Make], Make]:
    """Register a reward's class, or a function that makes it, under a name.

    Args:
        needs: its arguments without a default, of JUDGES.

    Raises:
        ValueError: for a name that is taken, or a need that nothing provides.
    """
    unknown = [n for n in needs if n not in JUDGES]
    if unknown:
        raise ValueError(f"reward {name!r} needs {unknown[0]!r}, which is none of {', '.join(JUDGES)}")

    def register(make: Make) -> Make:
        if name in _REWARDS:
            raise ValueError(f"reward {name!r} is registered already")
        _REWARDS[name] = Registered(make, tuple(needs))
        return make

    return register


def reward_names() -> tuple[str, ...]:
    """The names of the rewards in `named/`, which are those of its files; none is imported."""
    found = {module.name.replace("_", "-") for module in pkgutil.iter_modules(named.__path__)}
    return tuple(n for n in _FIRST if n in found) + tuple(sorted(found.difference(_FIRST)))


def registered() -> dict[str, Registered]:
    """All rewards that have a name: those in `named/`, then what others have registered."""
    for name in reward_names():
        module = importlib.import_module(f"{named.__name__}.{name.replace('-', '_')}")
        if name not in _REWARDS:
            raise ValueError(f"{module.__file__} registers no reward {name!r}; the file has the reward's name")
    return {name: _REWARDS[name] for name in dict.fromkeys((*reward_names(), *_REWARDS))}
