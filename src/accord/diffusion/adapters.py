"""Putting a LoRA on a pipeline, and proving that it is on.

diffusers passes over what it cannot place, and says so in a warning; then the picture is as without the adapter. Here
every pair of matrices in the file must be found in the pipeline afterwards, with the scale that the file gives it.
"""

from __future__ import annotations

import json
import re
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accord.data.extras import need
from accord.diffusion.loading import CONVERT, PICKLES, header_of, load_tensors, loading
from accord.diffusion.lora import FILE, load_into, named_networks, take_off
from accord.diffusion.opened import NETWORKS
from accord.diffusion.state import held, network_of
from accord.embedded import LORA
from accord.files import read_json
from accord.types import InputError, Notice

WEIGHTS = (FILE, "adapter_model.safetensors")  # of diffusers, of peft
_SECOND = tuple(f"{name}/{FILE}" for name in NETWORKS if name.endswith("_2"))
_MATRIX = re.compile(r"(.+?)[._]lora\d*(?:_linear_layer)?[._](A|B|down|up)(?:\.(?!bias)[^.]+)?\.weight")
_KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_transformer_")
# what else an adapter may be made of, and what that is called
_OTHERS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "LoCon with a Tucker core",
    "bias": "a LoRA with biases",
}
_ANOTHER = {
    "use_dora": "DoRA",
    "lora_bias": "a LoRA with biases",
    "modules_to_save": "a LoRA with whole modules",
    "megatron_config": "Megatron's",
}

Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]  # name in the file -> down [r, in], up [out, r]


def put_on(pipe: Any, lora: str) -> None:
    """Load an adapter and check that all of it is active. What could be placed in part only is named in a warning.

    Args:
        lora: a folder of `accord train reward`, of diffusers or of peft, a safetensors file (kohya's too, each layer
            with its own alpha), or a hub id (owner/name, or owner/name/file.safetensors); "lab" is the embedded one, of
            the lab.

    Raises:
        InputError: for an adapter that is not there, cannot be read, is of another kind or of another model; the
            pipeline is then as it was.
    """
    need("peft", "train", "adapters")
    what, mend = (
        f"adapter {lora!r}",
        "give what accord train reward left for this pipeline, or another LoRA of its model",
    )
    path = _file_of(str(LORA) if lora == "lab" else lora, what, mend)
    _put(pipe, path, next(iter(named_networks(pipe))), what, mend)
    for name in list(named_networks(pipe))[1:]:  # as `save_lora` leaves that of a second network
        if (path.parent / name / FILE).is_file() and path.name == FILE:
            _put(pipe, path.parent / name / FILE, name, what, mend)


def _put(pipe: Any, path: Path, name: str, what: str, mend: str) -> None:
    """Load the adapter in a file into the network of this name (that of the first may be of text encoders too)."""
    tensors = load_tensors(path, f"{what}: its file")
    named = _prefixed(pipe, tensors)
    pairs = _pairs(named, what)
    scaled = _scaled(named, pairs, _peft_settings(path, what), what)
    networks = {n: m for n, m in pipe.components.items() if isinstance(m, nn.Module)}
    before = {n: set(getattr(m, "peft_config", {})) for n, m in networks.items()}
    try:
        with held(network_of(pipe)), loading(what, mend):
            try:
                load_into(pipe, name, networks[name], {k: v for k, v in scaled.items() if not k.endswith("alpha")})
            except KeyError:  # some conversions of kohya's names want an alpha for each
                load_into(pipe, name, networks[name], scaled)
            skipped = _skipped(networks, before, _pairs(scaled, what), what)
        if len(skipped) == len(pairs):
            raise InputError(
                f"{what} does not fit this pipeline, which has none of its {len(pairs)} modules ({skipped[0]}); {mend}"
            )
    except BaseException:
        _take_off(networks, before)
        raise
    if skipped:
        shown = ", ".join(skipped[:3]) + (" ..." if len(skipped) > 3 else "")
        warnings.warn(
            f"{what}: {len(skipped)} of its {len(pairs)} modules are not in this pipeline and were left out ({shown})",
            Notice,
            stacklevel=4,
        )


def _file_of(lora: str, what: str, mend: str) -> Path:
    """The safetensors file of an adapter; a hub id is fetched."""
    path = Path(lora)
    if not path.exists():
        try:
            path = _fetched(lora)
        except Exception as error:
            raise InputError(f"{what} is no folder or file here and no hub id that can be reached; {mend}") from error
    if not path.is_dir():
        if path.suffix in PICKLES:
            raise InputError(f"{what} is a pickle, which can hold code and is not opened; {CONVERT}")
        return path
    found = [path / n for n in WEIGHTS if (path / n).is_file()] or sorted(
        p for p in path.glob("*.safetensors") if not p.name.startswith(".")
    )
    if not found and (pickled := sorted(p.name for p in path.iterdir() if p.suffix in PICKLES)):
        raise InputError(
            f"{what} has pickled weights ({pickled[0]}), which can hold code and are not opened; {CONVERT}"
        )
    if not found:
        raise InputError(f"{what} does not fit this pipeline, or is none (no {WEIGHTS[0]}); {mend}")
    if len(found) > 1 and found[0].name not in WEIGHTS:
        raise InputError(f"{what} has several files ({found[0].name} and {found[1].name}); name one of them")
    return found[0]


def _fetched(lora: str) -> Path:
    """The adapter of a hub id (`owner/name`, or `owner/name/file.safetensors`): no more than its own files."""
    from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download

    owner, _, rest = lora.partition("/")
    name, _, file = rest.partition("/")
    if file:
        return Path(hf_hub_download(f"{owner}/{name}", file))
    folder = Path(snapshot_download(lora, allow_patterns=[*WEIGHTS, "adapter_config.json", *_SECOND]))
    if not any((folder / n).is_file() for n in WEIGHTS):
        for only in [n for n in list_repo_files(lora) if n.endswith(".safetensors") and "/" not in n][
            :2
        ]:  # of two one is named
            hf_hub_download(lora, only)
    return folder


def _peft_settings(path: Path, what: str) -> dict[str, dict[str, Any]]:
    """Settings of peft beside the weights or in their file, by the network that they are for, "" for any."""
    if (path.parent / "adapter_config.json").is_file() and path.name == WEIGHTS[1]:
        return {"": read_json(path.parent / "adapter_config.json", f"{what}: its")}
    header = header_of(path, f"{what}: its file").get("lora_adapter_metadata")
    found: dict[str, dict[str, Any]] = {}
    try:
        for key, value in (json.loads(header) if header else {}).items():
            network, _, name = key.rpartition(".")
            found.setdefault(network, {})[name] = value
    except (ValueError, AttributeError) as error:
        raise InputError(f"{what} has settings in its file that are no JSON; save it again") from error
    return found


def _prefixed(pipe: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the names that diffusers knows: peft's own begin with base_model.model, and say no network."""
    modules = {
        n: {name for name, _ in m.named_modules()} for n, m in pipe.components.items() if isinstance(m, nn.Module)
    }
    out = {}
    for key, tensor in tensors.items():
        bare = key.removeprefix("base_model.model.")
        match = _MATRIX.fullmatch(bare)
        if match is not None and not bare.startswith(_KOHYA) and bare.partition(".")[0] not in modules:
            home = next((n for n, names in modules.items() if match[1] in names), None)
            bare = key if home is None else f"{home}.{bare}"  # some conversions know a file by the whole of its names
        out[bare] = tensor
    return out


def _pairs(tensors: dict[str, torch.Tensor], what: str) -> Pairs:
    """The adapter's matrices, two and two.

    Raises:
        InputError: for a file that holds something else.
    """
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _MATRIX.fullmatch(key)
        if match is not None:
            found.setdefault(match[1], {})["down" if match[2] in ("A", "down") else "up"] = tensor
        elif not key.endswith("alpha"):
            other = next((name for part, name in _OTHERS.items() if part in key), None)
            raise InputError(f"{what} is {other or 'no LoRA'} ({key}), which is not read here; give a LoRA")
    if not found:
        raise InputError(f"{what} holds no LoRA; give one")
    for name, halves in found.items():
        if (
            len(halves) < 2
            or halves["down"].ndim < 2
            or halves["up"].ndim < 2
            or halves["down"].shape[0] != halves["up"].shape[1]
        ):
            raise InputError(f"{what} has no two matrices that fit each other for {name}; save it again")
    return {name: (h["down"], h["up"]) for name, h in found.items()}


def _scaled(
    tensors: dict[str, torch.Tensor], pairs: Pairs, settings_of: dict[str, dict[str, Any]], what: str
) -> dict[str, torch.Tensor]:
    """The tensors with each module's alpha / rank in its second matrix; libraries may lose a number beside it."""
    for settings in settings_of.values():
        other = next((name for key, name in _ANOTHER.items() if settings.get(key)), None)
        if other or settings.get("peft_type", "LORA") != "LORA" or settings.get("bias", "none") != "none":
            raise InputError(f"{what} is {other or settings.get('peft_type')}, which is not read here; give a LoRA")
    out = {}
    for key, tensor in tensors.items():
        match = _MATRIX.fullmatch(key)
        name = match[1] if match is not None else re.sub(r"[._]?(lora)?[._](network_)?alpha$", "", key)
        if name not in pairs:
            raise InputError(f"{what} has an alpha of nothing ({key}); save it again")
        rank = pairs[name][0].shape[0]
        if match is None:
            out[key] = torch.tensor(float(rank))
        elif match[2] in ("A", "down"):
            out[key] = tensor
        else:
            own = next(
                (
                    t
                    for k, t in tensors.items()
                    if k in (f"{name}.alpha", f"{name}.lora.alpha", f"{name}_lora.alpha", f"{name}.network_alpha")
                ),
                None,
            )
            scale = float(own) / rank if own is not None and own.numel() == 1 else _scale_of(name, rank, settings_of)
            out[key] = tensor if scale == 1 else tensor.float() * scale  # in half precision a small one would be lost
    return out


def _scale_of(name: str, rank: int, settings_of: dict[str, dict[str, Any]]) -> float:
    """alpha / rank of a module as peft's settings have it; 1 if they say nothing."""
    network, _, module = name.partition(".")
    settings = settings_of.get(network, settings_of.get("", {}))
    alpha = settings.get("lora_alpha")
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        ending = pattern.removeprefix("^").removesuffix("$")  # taken as a name: an expression of a file's may never end
        if module == ending or module.endswith(f".{ending}"):
            alpha = value
    if not isinstance(alpha, (int, float)):
        return 1.0
    return float(alpha) / (rank**0.5 if settings.get("use_rslora") else rank)


def _skipped(networks: dict[str, nn.Module], before: dict[str, set[str]], pairs: Pairs, what: str) -> list[str]:
    """Names of the pairs that are not active in the pipeline. By their numbers: names are converted on the way."""
    from peft.tuners.lora import LoraLayer

    active: set[str] = set()
    for name, network in networks.items():
        new = set(getattr(network, "peft_config", {})) - before[name]
        for layer in (m for m in network.modules() if isinstance(m, LoraLayer)):
            for adapter in new & set(layer.lora_A) & set(layer.active_adapters):
                if layer.scaling[adapter] != 1:
                    raise InputError(f"the scale of {what} was lost on the way; save it with an alpha that is its rank")
                active.add(_digest(layer.lora_A[adapter].weight))
    dtypes = {p.dtype for n in networks.values() for p in n.parameters() if p.is_floating_point()}

    def there(tensor: torch.Tensor) -> bool:
        # of a projection that was split on the way the first matrix is there whole, or in as many parts
        cuts = [k for k in (1, 2, 3, 4) if len(tensor) % k == 0]
        return any(
            all(_digest(part.to(d)) in active for part in tensor.chunk(k))
            for k in cuts
            for d in {tensor.dtype, *dtypes}
        )

    return [name for name, (down, _) in pairs.items() if not there(down)]


def _digest(tensor: torch.Tensor) -> str:
    return sha256(tensor.detach().float().flatten().cpu().numpy().tobytes()).hexdigest()


def _take_off(networks: dict[str, nn.Module], before: dict[str, set[str]]) -> None:
    """The pipeline as it was before the adapter, whose layers may be there though its name is not."""
    from diffusers.utils import delete_adapter_layers

    for name, network in networks.items():
        if before[name]:
            for adapter in set(getattr(network, "peft_config", {})) - before[name]:
                delete_adapter_layers(network, adapter)
                network.peft_config.pop(adapter, None)  # type: ignore[operator, union-attr]
            continue
        take_off(network)
