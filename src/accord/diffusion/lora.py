"""LoRA adapters on a U-Net, saved so that plain diffusers loads them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accord.data.extras import need
from accord.diffusion.pipelines import Pipeline
from accord.diffusion.state import held, seeded
from accord.files import part_of
from accord.types import InputError

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
NAME = "accord"


def add_lora(pipe: Pipeline, rank: int, seed: int = 0) -> None:
    """Put a fresh adapter on the attention projections of `pipe.unet`: float32, trainable, without effect as yet.

    Raises:
        InputError: if peft is missing or the U-Net has an adapter already.
    """
    peft = need("peft", "train", "adapters")
    check_no_lora(pipe, "which the new one would switch off")
    # alpha = rank, a scale of 1: then the weights alone say everything, whatever reads them
    with held(pipe.unet), seeded(seed):
        config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS), init_lora_weights="gaussian")
        pipe.unet.add_adapter(config, adapter_name=NAME)
        for parameter in pipe.unet.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()


def check_no_lora(pipe: Pipeline, why: str) -> None:
    """Refuse a pipeline with an adapter on.

    Raises:
        InputError: naming it, with what it would lead to (`why`) and how it is fused.
    """
    if found := list(getattr(pipe.unet, "peft_config", {})):
        raise InputError(
            f"the pipeline has an adapter named {found[0]!r} on, {why}; load the pipeline afresh, or fuse it "
            "(pipe.fuse_lora(), then pipe.unload_lora_weights())"
        )


def remove_lora(pipe: Pipeline) -> None:
    """Take the adapter off; the U-Net is then what it was."""
    with held(pipe.unet):
        pipe.unet.unload_lora()  # not `delete_adapters`, which leaves peft's wrappers, and their names in what is saved
        pipe.unet.requires_grad_(False)


@contextmanager
def without_lora(pipe: Pipeline) -> Iterator[None]:
    """The U-Net as it was before the adapter, for a reference."""
    with held(pipe.unet):
        pipe.unet.disable_adapters()
        try:
            yield
        finally:
            pipe.unet.enable_adapters()


def save_lora(pipe: Pipeline, folder: Path) -> Path:
    """Write `folder/pytorch_lora_weights.safetensors` (elsewhere, then renamed), which `pipe.load_lora_weights(folder)`
    reads.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet, adapter_name=NAME))
    state = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    final = folder / "pytorch_lora_weights.safetensors"
    part = part_of(folder / "adapter")
    try:
        type(pipe).save_lora_weights(part, unet_lora_layers=state, safe_serialization=True)
        os.replace(part / final.name, final)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return final
