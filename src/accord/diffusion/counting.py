"""What a picture costs, in samples that go through the denoiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Calls:
    """Counts the samples that go through a network (a batch of two counts two), within a `with` block.

    Args:
        network: the denoiser; what is no module is not counted.
    """

    def __init__(self, network: Any) -> None:
        self.network, self.samples = network, 0

    def __enter__(self) -> Calls:
        hooked = isinstance(self.network, nn.Module)
        self.handle = self.network.register_forward_pre_hook(self._count, with_kwargs=True) if hooked else None
        return self

    def _count(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next((v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor) and v.dim() > 1), None)
        self.samples += 0 if first is None else len(first)

    def __exit__(self, *error: object) -> None:
        if self.handle is not None:
            self.handle.remove()
