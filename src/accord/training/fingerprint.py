"""Which weights and data a run or a result belongs to, in a few digits."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

SAMPLED = 64  # numbers of each tensor of a module that are looked at; training moves them all


def fingerprint(*parts: Any) -> str:
    """12 hexadecimal digits of modules' weights (and those of a pipeline's modules), of tensors, of bytes, and of the
    `repr` of all else.
    """
    digest = hashlib.sha256()
    for part in parts:
        modules = [m for m in getattr(part, "components", {}).values() if isinstance(m, nn.Module)]
        modules += [part] if isinstance(part, nn.Module) else []
        if isinstance(part, torch.Tensor):
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        elif isinstance(part, bytes):
            digest.update(part)
        elif not modules:
            digest.update(repr(part).encode())
        for tensor in (p for m in modules for p in m.state_dict().values()):
            if hasattr(tensor, "full_tensor"):  # shared out among processes, which all are here
                tensor = tensor.full_tensor()
            elif type(tensor) not in (torch.Tensor, nn.Parameter):  # a quantised one (torchao) may not be cut
                tensor = tensor.dequantize()
            digest.update(tensor.flatten()[:SAMPLED].to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:12]
