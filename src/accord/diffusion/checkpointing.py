"""Gradient checkpoints: what is within a block is not kept for the backward pass, but computed again there."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from accord.diffusion.opened import swapped


def items_of_lists(network: nn.Module) -> list[nn.Module]:
    """The blocks of a network in the order in which they run: the items of its own lists of modules."""
    return [block for child in network.children() if isinstance(child, nn.ModuleList) for block in child]


@contextmanager
def checkpointed(networks: Sequence[Any]) -> Iterator[None]:
    """Less memory and more time for what is differentiated within; outputs and gradients stay what they are.

    U-Nets have diffusers' own checkpoints, which are within their blocks. Around each block of all others is one of
    ours: diffusers' own are wrong for some (0.42: HunyuanImage's raise, Chroma's drop the mask).
    """
    with ExitStack() as stack:
        for network in networks:
            if _has_inner_ones(network):
                if not network.is_gradient_checkpointing:
                    network.enable_gradient_checkpointing()
                    stack.callback(network.disable_gradient_checkpointing)
                continue
            for block in items_of_lists(network):
                forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
                stack.enter_context(swapped(block, forward=forward))
        yield


def _has_inner_ones(network: nn.Module) -> bool:
    return any(hasattr(module, "gradient_checkpointing") for module in network.modules() if module is not network)
