"""The weights of a pipeline's denoising networks shared out among processes, for a network that is too large for one.

Each process holds a part of each weight, and gathers those of a block while the block runs (FSDP2, `fully_shard`). They
are frozen: an adapter that is put on afterwards is whole in every process, and its gradients are the run's to average.
Text encoders and VAE are not shared out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn

from accord.diffusion.checkpointing import items_of_lists
from accord.diffusion.opened import networks_of


def shard(pipe: Any, device: torch.device | str) -> None:
    """Share out the networks, and put all of the pipeline on a device, never more than a block of them at once.

    All processes call it, and from then on run the networks equally often: each run gathers from all. The pipeline's
    weights may wait on the CPU.

    Args:
        device: where this process computes.
    """
    from torch.distributed.device_mesh import init_device_mesh  # here, as they take half a second
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(torch.device(device).type, (distributed.get_world_size(),))
    for network in networks_of(pipe):
        network.requires_grad_(False)
        for block in (*items_of_lists(network), network):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    for part in pipe.components.values():
        if isinstance(part, nn.Module) and part not in networks_of(pipe):
            part.to(device)


def is_sharded(pipe: Any) -> bool:
    """Whether `shard` was called for the pipeline."""
    return any(hasattr(p, "full_tensor") for network in networks_of(pipe) for p in network.parameters())
