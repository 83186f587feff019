"""What several threads share, and a pipeline's flags: held while they are changed, and put back.

A network, a VAE or a tokenizer is one thing, whoever runs it. Every context manager that changes one, and every run of
one, holds its lock: a second thread waits, and two pipelines with a judge between them run side by side.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()  # beside the things, which are left as they are
_REGISTRY = threading.Lock()
_SEEDING = threading.RLock()


@contextmanager
def held(*things: Any) -> Iterator[None]:
    """Keep other threads from changing or running these for the time of the block; one that holds them already goes on.

    Locks are taken in the order that is given, which is everywhere: denoiser, then VAE, then tokenizer. A thing that
    `stands_for` another in a pipeline has the lock of that one.
    """
    with ExitStack() as stack:
        for given in things:
            thing = getattr(given, "stands_for", given)
            with _REGISTRY:
                lock = _LOCKS.setdefault(thing, threading.RLock())
            stack.enter_context(lock)
        yield


def network_of(pipe: Any) -> Any:
    """The denoiser of a pipeline, whose lock stands for it; the pipeline itself if it has none under a usual name."""
    return next((m for n in ("unet", "transformer", "prior") if (m := getattr(pipe, n, None)) is not None), pipe)


def parts_of(pipe: Any) -> list[Any]:
    """All of a pipeline that two threads may not run at once, in the order of the locks."""
    names = (
        "vae",
        "text_encoder",
        "text_encoder_2",
        "text_encoder_3",
        "tokenizer",
        "tokenizer_2",
        "tokenizer_3",
        "processor",
    )
    return [network_of(pipe), *(part for n in names if (part := getattr(pipe, n, None)) is not None)]


@contextmanager
def own_scheduler(pipe: Any) -> Iterator[None]:
    """A copy of the scheduler in the pipeline, whose own call leaves its timesteps in it."""
    with held(network_of(pipe)):
        before = pipe.scheduler
        try:
            pipe.scheduler = copy.deepcopy(before)
            yield
        finally:
            pipe.scheduler = before


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """New weights are drawn from `seed`, whatever was drawn before and in whichever thread; torch's own state is put
    back.
    """
    with _SEEDING, torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def frozen(pipe: Any) -> Iterator[None]:
    """No weight of the pipeline takes a gradient but those that the block adds or frees; afterwards flags and modes are
    what they were.

    A pipeline that diffusers loaded has every weight's `requires_grad` on: gradients that nobody asked for would pile
    up on them.
    """
    with held(network_of(pipe)):
        modules = [m for m in pipe.components.values() if isinstance(m, nn.Module)]
        flags = [(p, p.requires_grad) for m in modules for p in m.parameters()]
        modes = [(m, m.training) for m in modules]
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
                parameter.grad = None
            for module, mode in modes:
                module.train(mode)
