"""A white box for any network: what a block in the middle of it makes of a picture that is barely noised.

Source: Reverse Stable Diffusion (arXiv 2308.01472), section 3.2, which takes a U-Net's middle; the block at half the
depth of a transformer is an extension of this project.

Letters in shapes: B states, D channels of a block.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from accord.diffusion.call import call_arguments
from accord.diffusion.opened import Left, Opened
from accord.diffusion.state import held, network_of
from accord.types import InputError, a_kind, reason_of

_PROBE = 128  # pixels of a side, on which a VAE's factor is seen


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

    with held(network_of(opened.pipe)), ExitStack() as stack:  # no other thread may run into the hooks
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
        raise InputError(f"{a_kind(network)} has no blocks to leave it at; use another predictor")
    return blocks[int(share * len(blocks))]


# for who trains on them ---------------------------------------------------------------------------------------------
class Parts(nn.Module):
    """Those modules of a network that have been used, under the network's own names.

    They are the network's own, as are the weights and buffers that belong to it directly.
    """

    def __init__(self, network: nn.Module, used: set[nn.Module]) -> None:
        super().__init__()
        self._parameters, self._buffers = network._parameters, network._buffers
        self._non_persistent_buffers_set = network._non_persistent_buffers_set
        for name, child in network.named_children():
            if isinstance(child, nn.ModuleList):  # a list is not called itself
                child = _chosen({key: item for key, item in child.named_children() if _is_used(item, used)})
            if _is_used(child, used):
                self.add_module(name, child)


def _chosen(items: dict[str, nn.Module]) -> nn.Module:
    """Some items of a list, at their numbers."""
    parts = nn.Module()
    for key, item in items.items():
        parts.add_module(key, item)
    return parts


def _is_used(module: nn.Module, used: set[nn.Module]) -> bool:
    return any(part in used for part in module.modules())


@torch.no_grad()
def parts_of_features(opened: Opened, captions: Sequence[str], state: torch.Tensor) -> tuple[Parts, int]:
    """What `features` runs of the network, found by running it, and D.

    Args:
        captions, state: any that fit each other.
    """
    used: set[nn.Module] = set()
    with held(network_of(opened.pipe)), ExitStack() as stack:
        for module in (m for network in opened.networks for m in network.modules()):
            stack.callback(module.register_forward_pre_hook(lambda module, _: used.add(module)).remove)
        found = features(opened, captions, state)
    return Parts(next(network for network in opened.networks if network in used), used), found.shape[1]


def opened_for_pictures(
    pipe: Any, side: int | None = None, call: Mapping[str, Any] | None = None
) -> tuple[Opened, int]:
    """A pipeline opened for `features` of square pictures, and their side in pixels.

    It is not guided. A video model takes a picture as a video of one frame.

    Args:
        side: in pixels; the smaller one of what the pipeline makes if None.
        call: further arguments of the pipeline's own call.

    Raises:
        InputError: for a pipeline that cannot be opened, takes no such size, or does not run with a prompt alone.
    """
    taken = inspect.signature(type(pipe).__call__).parameters
    further = dict(call or {}) | ({"num_frames": 1} if "num_frames" in taken else {})

    def opened(side: int | None) -> Opened:
        told: dict[str, Any] = {"num_inference_steps": 2, "height": side, "width": side, "call": further}
        try:
            return Opened(pipe, **call_arguments(pipe, guidance_scale=1.0, **told))
        except InputError:  # it has no guidance
            return Opened(pipe, **call_arguments(pipe, **told))

    side = side or _own_side(opened(None))
    return opened(side), side


@torch.no_grad()
def _own_side(opened: Opened) -> int:
    """The smaller side, in pixels, of what a pipeline makes where no size is said."""
    vae: Any = getattr(opened.pipe, "vae", None)
    try:
        state = opened.noise([""], [torch.Generator().manual_seed(0)])
        latents = opened.vae_latents([""], state)
        frames = [1] * (latents.dim() - 4)
        encoded = vae.encode(latents.new_zeros(1, 3, *frames, _PROBE, _PROBE).to(vae.dtype))
        small = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    except InputError:
        raise
    except Exception as error:  # whatever a pipeline's arithmetic makes of what it is not given
        raise InputError(
            f"{a_kind(opened.pipe)} does not make pictures of a prompt alone ({reason_of(error)}); use a "
            "text-to-image or text-to-video pipeline"
        ) from error
    return min(latents.shape[-2:]) * _PROBE // small.shape[-1]
