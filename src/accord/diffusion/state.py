"""A pipeline's flags, put back after work that changes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from accord.diffusion.pipelines import Pipeline


@contextmanager
def frozen(pipe: Pipeline) -> Iterator[None]:
    """No weight of the pipeline takes a gradient but those that the block adds or frees; afterwards flags and modes are what they were.

    A pipeline that diffusers loaded has every weight's `requires_grad` on: gradients that nobody asked for would pile up on them.
    """
    modules = [m for m in pipe.components.values() if isinstance(m, nn.Module)]
    flags = [(p, p.requires_grad) for m in modules for p in m.parameters()]
    modes = [(m, m.training) for m in modules]
    checkpointing = pipe.unet.is_gradient_checkpointing
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
        if pipe.unet.is_gradient_checkpointing and not checkpointing:
            pipe.unet.disable_gradient_checkpointing()
