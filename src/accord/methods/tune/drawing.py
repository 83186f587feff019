"""Drawing the pictures of a round elsewhere: what whoever draws them is told, and how it draws as the run itself does.

A run that is given a `Drawing` makes no picture of a round itself. It sends shares (`Batch`) and, once a round, a
`Round`; an `Artist`, which has a pipeline and a reward of its own, gives back what `Strategy.draw` gives. Seeds are in
the shares, so that it does not matter who draws which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Self

import torch

from accord.diffusion.lora import add_lora, check_no_lora, named_networks
from accord.diffusion.opened import networks_of
from accord.diffusion.state import frozen
from accord.methods.tune.config import TuneConfig
from accord.methods.tune.registry import Strategy
from accord.methods.tune.rollouts import Batch, Draw, Rollouts, Tensors
from accord.methods.tune.scores import models_of
from accord.rewards.composed import Composed
from accord.rewards.registry import Reward
from accord.training.fingerprint import fingerprint
from accord.training.loop import trained_in
from accord.training.processes import Processes
from accord.training.session import plainly_attending
from accord.types import InputError


@dataclass(frozen=True)
class Setting:
    """What a run's pictures depend on from its first round to its last.

    Attributes:
        call: further arguments of the pipeline's own call.
        whole: whether the adapter is on the whole network.
        model, rewards: fingerprints of the untuned networks, and of what judges.
    """

    config: TuneConfig
    call: Mapping[str, Any] | None
    whole: bool
    model: str
    rewards: str

    @classmethod
    def of(
        cls, pipe: Any, reward: Composed, config: TuneConfig, call: Mapping[str, Any] | None, whole: bool
    ) -> Setting:
        """Of a run with this pipeline, before its adapter is on, and this reward."""
        return cls(config, call, whole, fingerprint(*networks_of(pipe)), _rewards_of(reward))


@dataclass(frozen=True)
class Round:
    """What they depend on in one round.

    Attributes:
        weights: of the adapter, by name, on the CPU.
        bf16: whether the run is under autocast to bfloat16.
    """

    weights: Tensors
    bf16: bool

    @classmethod
    def of(cls, rollouts: Rollouts) -> Self:
        """As the run stands now."""
        weights = {name: parameter.detach().to("cpu", copy=True) for name, parameter in rollouts.trained.items()}
        return cls(weights, torch.is_autocast_enabled(rollouts.pipe.device.type))


# for the time of a run: what draws its pictures
Drawing = Callable[[Setting], AbstractContextManager[Draw]]


class Artist:
    """Draws shares of a run with a pipeline and a reward of its own, which it keeps.

    Args:
        pipe: as the run's before its adapter; it gets one of the same shape.
        reward: as the run's.

    Raises:
        InputError: for a pipeline or reward that is another than the run's.
    """

    def __init__(self, pipe: Any, reward: Composed | Reward, setting: Setting) -> None:
        reward, config = as_composed(reward), setting.config
        check_no_lora(pipe, "which the run's would switch off")
        for what, own, theirs in (
            ("pipeline", fingerprint(*networks_of(pipe)), setting.model),
            ("reward", _rewards_of(reward), setting.rewards),
        ):
            if own != theirs:
                raise InputError(
                    f"a rollout worker has another {what} than the run that it draws for; give both the same"
                )
        self._open = ExitStack()  # as long as the worker lives
        self._open.enter_context(frozen(pipe))
        add_lora(pipe, config.rank, config.seed, setting.whole)
        self._open.enter_context(plainly_attending(pipe))
        networks = named_networks(pipe)
        for network in networks.values():
            network.train()  # as in the run
        self.rollouts = Rollouts(pipe, [], reward, config, Processes(pipe.device), setting.call)
        self.rollouts.trained = trained_in(networks)
        self._bf16 = False

    def begin(self, a_round: Round) -> None:
        """Take a round's weights."""
        self.rollouts.put_in(a_round.weights)
        self._bf16 = a_round.bf16

    @torch.no_grad()
    def draw(self, strategy: Strategy, share: Batch) -> Tensors:
        """What `strategy.draw` gives for the share, on the CPU."""
        device = self.rollouts.pipe.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16, cache_enabled=False):
            made = strategy.draw(self.rollouts, share)
        return {name: tensor.cpu() for name, tensor in made.items()}


def as_composed(reward: Composed | Reward) -> Composed:
    """A reward alone as one of several, named `reward`."""
    return reward if isinstance(reward, Composed) else Composed({"reward": reward}, {"reward": 1.0})


def _rewards_of(reward: Composed) -> str:
    """Of names, classes and networks; weights and scales are the run's alone."""
    kinds = sorted((name, type(part).__name__) for name, part in reward.rewards.items())
    return fingerprint(kinds, *(m for name, _ in kinds for m in models_of(reward.rewards[name])))
