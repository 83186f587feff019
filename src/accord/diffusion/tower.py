"""A white box for any network: what a block in the middle of it makes of a picture that is barely noised.

Source: Reverse Stable Diffusion (arXiv 2308.01472), section 3.2, which takes a U-Net's middle; the block at half the
depth of a transformer is an extension of this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from accord.diffusion.opened import Left, Opened
from accord.types import InputError


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks in the order in which they run: all items of the network's own lists of blocks or layers."""
    lists = [
        (name, module)
        for name, module in network.named_children()
        if isinstance(module, nn.ModuleList) and ("block" in name or name == "layers")
    ]
    return [block for _, blocks in lists for block in blocks]


def features(
    opened: Opened, captions: Sequence[str], state: torch.Tensor, share: float = 0.5, timestep: float = 20.0
) -> torch.Tensor:
    """Pooled features [B,D] of states [B,...], told a caption each; they keep the graph.

    The network is left at that block, so half of it is not run.

    Args:
        opened: best without guidance; with it, those of the whole batch of the network are given, [2B,D].
        share: of the depth. A U-Net is left at its middle.
        timestep: how noisy the network takes the state for, in the scheduler's units.

    Raises:
        InputError: for a network without blocks, or a share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise InputError(f"share must be in [0, 1), not {share}")
    chosen = [_block_at(network, share) for network in opened.networks]  # of two, the one that runs at that time

    def leave(_block: Any, _args: Any, output: Any) -> None:
        parts = [p for p in (output if isinstance(output, tuple) else (output,)) if torch.is_tensor(p) and p.dim() > 2]
        # pixels [B,D,h,w] of a U-Net, tokens [B,S,D] of a transformer
        raise Left(torch.cat([p.flatten(2).mean(2) if p.dim() == 4 else p.mean(1) for p in parts], -1))

    with ExitStack() as stack:
        for block in chosen:
            stack.callback(block.register_forward_hook(leave).remove)
        return opened.evaluate(captions, state, timestep)


def _block_at(network: nn.Module, share: float) -> nn.Module:
    """The block at a share of the depth, the middle one of a U-Net."""
    middle = getattr(network, "mid_block", None)
    if isinstance(middle, nn.Module):
        return middle
    blocks = blocks_of(network)
    if not blocks:
        raise InputError(f"a {type(network).__name__} has no blocks to leave it at; use another predictor")
    return blocks[int(share * len(blocks))]
