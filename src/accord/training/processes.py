"""Several processes under `accelerate launch`: what a step shares between them."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from torch import distributed

from accord.types import InputError


def wants_sharding() -> bool:
    """Whether the launcher was asked to share the weights out: `accelerate launch --use_fsdp`.

    Raises:
        InputError: if it was asked for DeepSpeed.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise InputError("DeepSpeed is not used here; share the weights out with accelerate launch --use_fsdp")
    return os.environ.get("ACCELERATE_USE_FSDP") == "true" and int(os.environ.get("WORLD_SIZE", "1")) > 1


class Processes:
    """This process among all of a run; alone unless a launcher started several.

    Each process takes every `world`-th sample of a global batch, so what is learned does not depend on their number.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        if not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState  # reads the launcher's environment and starts the group

            # what the first process makes for all of them (anchors, latents) may take longer than the usual ten minutes
            PartialState(cpu=torch.device(device).type == "cpu", timeout=timedelta(hours=24))
        self.world = distributed.get_world_size() if distributed.is_initialized() else 1
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mine(self, count: int) -> range:
        """Indices of a global batch of `count` that are this process's; all processes have equally many.

        Raises:
            InputError: if `count` cannot be shared equally.
        """
        if count % self.world:
            raise InputError(
                f"batch_size {count} cannot be shared by {self.world} processes equally; use a multiple of them"
            )
        return range(self.rank, count, self.world)

    def mean_(self, tensors: list[torch.Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in one exchange."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        distributed.all_reduce(flat)
        flat /= self.world
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """[n, ...] of every process as [world * n, ...], rank by rank. Not differentiable."""
        if self.world == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def all(self, here: bool) -> bool:
        """Whether it is so in every process."""
        if self.world == 1:
            return here
        device = f"cuda:{torch.cuda.current_device()}" if distributed.get_backend() == "nccl" else "cpu"
        answer = torch.tensor(float(here), device=device)
        distributed.all_reduce(answer, op=distributed.ReduceOp.MIN)
        return bool(answer)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            distributed.barrier()
