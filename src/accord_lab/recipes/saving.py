"""Saving small: weights in half precision that plain libraries load in full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from accord.files import replace_file


def save_half(model: PreTrainedModel, folder: Path) -> None:
    """`save_pretrained` in float16, with float32 in `config.json`.

    transformers loads a model in the type that its configuration names and diffusers loads its own in float32, so a
    pipeline saved in float16 as it stands would come back with a text encoder and a U-Net of two types.
    """
    model.half().save_pretrained(folder)
    load_in_float32(folder)


def at_rest(tokenizer: Any) -> Any:
    """The tokenizer without the padding and the limit of its last call, which the library would save: a run that is
    resumed makes other calls.
    """
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def load_in_float32(folder: Path) -> None:
    """Let transformers load the model of a folder in float32 unless it is asked otherwise."""
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf8"))
    _set_dtype(config)
    replace_file(path, lambda p: p.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf8"))


def _set_dtype(config: dict) -> None:
    for key, value in config.items():
        if key in ("dtype", "torch_dtype") and isinstance(value, str):
            config[key] = "float32"
        elif isinstance(value, dict):
            _set_dtype(value)
