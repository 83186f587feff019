"""LoRA adapters on the networks of any pipeline, saved so that plain diffusers loads them, every tensor.

An adapter is on all projections of all attention: on every linear layer within a module that has an attention
processor; or on the whole network: on every linear layer and convolution. A pipeline of two networks (Wan 2.2) gets one
on each; that of the second is saved in a folder of its name.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from accord.data.extras import need
from accord.diffusion.opened import NETWORKS, networks_of, swapped
from accord.diffusion.state import held, network_of, seeded
from accord.files import replace_file
from accord.types import InputError, a_kind

NAME = "accord"
FILE = "pytorch_lora_weights.safetensors"
_AGAIN = "accord_read_again"  # the adapter as it was loaded from its file, for a comparison


def named_networks(pipe: Any) -> dict[str, nn.Module]:
    """The denoising networks of a pipeline by the names of its components.

    Raises:
        InputError: for a pipeline that has none under a usual name.
    """
    found = networks_of(pipe)
    return {name: net for name in NETWORKS for net in found if getattr(pipe, name, None) is net}


def targets_of(network: nn.Module, whole: bool = False) -> list[str]:
    """Names of the projections of a network's attention, or of all its linear layers and convolutions if `whole`.

    Raises:
        InputError: for a network in which none is found.
    """
    if whole:
        return [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    attention = _attention(network)
    found = [n for n, m in network.named_modules() if isinstance(m, nn.Linear) and n.startswith(attention)]
    if not found:
        raise InputError(f"no attention is found in {a_kind(network)}, so it takes no adapter; use another")
    return found


def _attention(network: nn.Module) -> tuple[str, ...]:
    """What the names of all within a network's attention begin with."""
    return tuple(f"{name}." for name, module in network.named_modules() if hasattr(module, "processor"))


def add_lora(pipe: Any, rank: int, seed: int = 0, whole: bool = False) -> None:
    """Put a fresh adapter on the attention projections of every network (on all its layers if `whole`): float32,
    trainable, without effect as yet.

    Raises:
        InputError: if peft is missing, or a network has an adapter already or no attention.
    """
    peft = need("peft", "train", "adapters")
    check_no_lora(pipe, "which the new one would switch off")
    with held(network_of(pipe)), seeded(seed):
        for network in networks_of(pipe):
            # alpha = rank, a scale of 1: then the weights alone say everything, whatever reads them
            config = peft.LoraConfig(
                r=rank, lora_alpha=rank, target_modules=targets_of(network, whole), init_lora_weights="gaussian"
            )
            inject(network, config, NAME)
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()


def inject(network: Any, config: Any, name: str) -> None:
    """Put an adapter of peft on a network, in diffusers' way where its class knows one (PixArt's does not)."""
    if hasattr(network, "add_adapter"):
        network.add_adapter(config, adapter_name=name)
    else:
        need("peft", "train", "adapters").inject_adapter_in_model(config, network, name)


def check_no_lora(pipe: Any, why: str) -> None:
    """Refuse a pipeline with an adapter on.

    Raises:
        InputError: naming it, with what it would lead to (`why`) and how it is fused.
    """
    if found := [name for network in networks_of(pipe) for name in getattr(network, "peft_config", {})]:
        raise InputError(
            f"the pipeline has an adapter named {found[0]!r} on, {why}; load the pipeline afresh, or fuse it "
            "(pipe.fuse_lora(), then pipe.unload_lora_weights())"
        )


def remove_lora(pipe: Any) -> None:
    """Take the adapter off; the networks are then what they were."""
    with held(network_of(pipe)):
        for network in networks_of(pipe):
            take_off(network)
            network.requires_grad_(False)


def take_off(network: Any) -> None:
    """All of peft's layers out of a network (`delete_adapters` leaves them, and their names in what is saved)."""
    from diffusers.utils import recurse_remove_peft_layers

    recurse_remove_peft_layers(network)
    if hasattr(network, "peft_config"):
        del network.peft_config
    if hasattr(network, "_hf_peft_config_loaded"):
        network._hf_peft_config_loaded = False


@contextmanager
def without_lora(pipe: Any) -> Iterator[None]:
    """The networks as they were before the adapter, for a reference."""
    from diffusers.utils import set_adapter_layers

    networks = networks_of(pipe)
    with held(network_of(pipe)):
        for network in networks:
            set_adapter_layers(network, enabled=False)
        try:
            yield
        finally:
            for network in networks:
                set_adapter_layers(network, enabled=True)


def save_lora(pipe: Any, folder: Path) -> Path:
    """Write `folder/pytorch_lora_weights.safetensors` (elsewhere, then renamed), load it again and compare.

    Plain diffusers reads it by `pipe.load_lora_weights(folder)`; where a class has no such loader, by
    `pipe.transformer.load_lora_adapter(folder, use_safetensors=True)`. A second network's is in the folder of its name
    within, for the same call of that network.

    Raises:
        InputError: if diffusers would not load every tensor of it.
    """
    networks = named_networks(pipe)
    for name, network in networks.items():
        place, tensors = _place(folder, name, networks), _tensors(name, network)
        replace_file(place / FILE, functools.partial(save_file, tensors, metadata={"format": "pt"}))
    for name, network in networks.items():
        _check_loads_whole(pipe, name, network, _place(folder, name, networks))
    return folder / FILE


def _place(folder: Path, name: str, networks: Mapping[str, Any]) -> Path:
    """Where the adapter of a network lies: that of the first one in the folder itself."""
    return folder if name == next(iter(networks)) else folder / name


def prefix_of(name: str) -> str:
    """What the names of a network's tensors begin with in a file; diffusers knows no transformer_2."""
    return name.removesuffix("_2")


def _tensors(name: str, network: nn.Module) -> dict[str, torch.Tensor]:
    """The adapter as it is written: peft's names; for the attention of a U-Net the older ones, which more programs
    read.

    Of others the older names are not loaded whole: those of convolutions, or of `add_q_proj` and its like, are passed
    over.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(network, adapter_name=NAME)
    if name == "unet" and all(key.startswith(_attention(network)) for key in state):
        state = convert_state_dict_to_diffusers(state)
    return {f"{prefix_of(name)}.{key}": value.detach().cpu().contiguous() for key, value in state.items()}


def _check_loads_whole(pipe: Any, name: str, network: Any, folder: Path) -> None:
    """Load an adapter from its file as anyone does, beside the one that was saved, and compare every matrix.

    Raises:
        InputError: if some are not there, or are others.
    """
    from diffusers.utils import delete_adapter_layers
    from peft.tuners.lora import LoraLayer

    layers = [m for m in network.modules() if isinstance(m, LoraLayer) and NAME in m.lora_A]
    # new layers are drawn before they are filled; peft warns of each second adapter; a pipeline that seems spread over
    # devices keeps its offloading hooks, which diffusers would take off and put on anew
    with (
        held(network_of(pipe)),
        seeded(0),
        warnings.catch_warnings(action="ignore"),
        swapped(pipe, hf_device_map=pipe.hf_device_map or {}),
    ):
        try:
            load_into(pipe, name, network, folder, _AGAIN)
            there = [layer for layer in layers if _same_matrices(layer)]
        finally:
            delete_adapter_layers(network, _AGAIN)
            network.peft_config.pop(_AGAIN, None)
            for layer in layers:
                layer.set_adapter(NAME)
    if len(there) < len(layers):
        raise InputError(
            f"the adapter in {str(folder)!r} is not loaded whole by this version of diffusers ({len(there)} of its "
            f"{len(layers)} layers are); keep its checkpoints, and report it"
        )


def _same_matrices(layer: Any) -> bool:
    """Whether the adapter that was loaded is the one that was saved, in the type it was loaded in."""
    if _AGAIN not in layer.lora_A or layer.scaling[_AGAIN] != layer.scaling[NAME]:
        return False
    pairs = [(part[NAME].weight, part[_AGAIN].weight) for part in (layer.lora_A, layer.lora_B)]
    return all(torch.equal(own.to(again), again) for own, again in pairs)


def load_into(
    pipe: Any, name: str, network: Any, source: Path | Mapping[str, torch.Tensor], adapter: str | None = None
) -> None:
    """Load an adapter into the network of this name as diffusers does: by the pipeline, by the network, or by peft.

    Args:
        source: the folder, or the tensors under their names in a file.
        adapter: what to name it; a free name if None.
    """
    named = {} if adapter is None else {"adapter_name": adapter}
    if name == prefix_of(name) and hasattr(pipe, "load_lora_weights"):
        pipe.load_lora_weights(source if isinstance(source, Path) else dict(source), **named)
    elif hasattr(network, "load_lora_adapter"):
        given = source if isinstance(source, Path) else dict(source)
        network.load_lora_adapter(given, prefix=prefix_of(name), use_safetensors=True, **named)
    else:
        tensors = load_file(source / FILE) if isinstance(source, Path) else source
        _load_by_peft(network, {k.removeprefix(f"{prefix_of(name)}."): v for k, v in tensors.items()}, adapter)


def _load_by_peft(network: Any, tensors: Mapping[str, torch.Tensor], adapter: str | None) -> None:
    """Into a network whose class has no loader. Ranks may differ by layer; a scale is in the matrices."""
    peft = need("peft", "train", "adapters")
    ranks = {k.removesuffix(".lora_A.weight"): len(v) for k, v in tensors.items() if k.endswith(".lora_A.weight")}
    known = {layer: rank for layer, rank in ranks.items() if layer in dict(network.named_modules())}
    config = peft.LoraConfig(target_modules=list(known), rank_pattern=known, alpha_pattern=known)
    name = adapter or "default"
    inject(network, config, name)
    peft.set_peft_model_state_dict(network, {k: v for k, v in tensors.items() if k.split(".lora_")[0] in known}, name)
