"""Models out of folders and the hub, in one place for every loader: no code of theirs is run, no pickle is opened, and
a model whose weights are missing, of other shapes, not all used or not finite is refused, as it would answer all the
same.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from accord.files import check_regular, read_json
from accord.types import InputError, a_kind, reason_of

LOADING = threading.RLock()  # while they load, the libraries switch what torch makes and where: in all threads
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MOST, MOST_LAYERS = 2**31, 4096  # of a number in a configuration, and of layers
CONVERT = (
    "use a revision of it with safetensors weights, or convert them (https://huggingface.co/spaces/safetensors/convert)"
)
# buffers that older versions of the libraries saved: they hold no trained numbers
_HARMLESS = (
    "position_ids",
    "relative_position_index",
    "num_batches_tracked",
    "inv_freq",
    "attn.masked_bias",
    "attn.bias",
)


@contextmanager
def loading(what: str, mend: str = "check the name, or save it again") -> Iterator[None]:
    """For the time of a load: one thread at a time, and whatever the libraries raise becomes one sentence.

    Args:
        what: the model, as the sentence names it: "captioner 'x'".

    Raises:
        InputError: naming the model.
    """
    with LOADING, _hushed():
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # the libraries raise whatever a damaged folder leads them to
            if _is_unreached(error):
                offline = " (HF_HUB_OFFLINE is set)" if HF_HUB_OFFLINE else ""
                raise InputError(
                    f"{what} is not on this machine, and the hub cannot be reached{offline}; give a folder, or fetch "
                    "it where the hub can be"
                ) from error
            raise InputError(f"{what} cannot be loaded ({_why(error)}); {mend}") from error


def _is_unreached(error: BaseException | None) -> bool:
    """Whether a load failed as a file is neither in the hub's cache nor to be fetched."""
    if error is None or isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        return error is not None
    return "couldn't connect to" in str(error) or _is_unreached(error.__cause__ or error.__context__)


@contextmanager
def _hushed() -> Iterator[None]:
    """The libraries' notices off: what they warn of is checked here, and what they report as an error is raised too."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers", "peft")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _why(error: BaseException) -> str:
    """The whole reason that a library gives, in one line, without its advice to run code or to open pickles."""
    said = str(error)
    if "trust_remote_code" in said or "custom code" in said:
        return "it wants code of its own to be run, which is never done"
    if "weights_only" in said or "torch.load" in said or ("safetensors" in said and "no file named" in said):
        return "it has no safetensors weights under their usual name; if they are of a variant, give `variant`"
    return " ".join(str(error).split()) or type(error).__name__


def load_model(kind: Any, model: str, what: str, unused: tuple[str, ...] = (), **settings: Any) -> Any:
    """`kind.from_pretrained(model)` with every weight checked, in eval mode and frozen.

    Args:
        kind: a class of transformers or diffusers.
        what: see `loading`.
        unused: parts of names, of weights that nobody asks for ("pooler"): they may be missing, or left over.
        settings: handed on.

    Raises:
        InputError: for a model that is not there, damaged or incomplete, or whose weights are pickled.
    """
    check_folder(model, what)
    with loading(what):
        network, report = kind.from_pretrained(model, use_safetensors=True, output_loading_info=True, **settings)
        check_keys(network, report, what, unused)
        check_finite(network, what)
    return network.eval().requires_grad_(False)


def check_keys(network: nn.Module, report: dict[str, Any], what: str, unused: tuple[str, ...] = ()) -> None:
    """Refuse a network some of whose weights are not those of its file, or a file some of whose weights are not in it.

    Args:
        report: what `from_pretrained` tells with `output_loading_info`.

    Raises:
        InputError: naming the model and a weight.
    """

    def asked_for(key: str) -> bool:
        return not key.endswith(_HARMLESS) and not set(key.split(".")) & set(unused)

    missing = sorted(
        filter(asked_for, {*report["missing_keys"], *(n for n, p in network.named_parameters() if p.is_meta)})
    )
    if missing:
        raise InputError(f"{what} lacks weights ({_some(missing)}); give a whole one, that was trained for this")
    misshapen = sorted(m[0] if isinstance(m, (tuple, list)) else m for m in report["mismatched_keys"])
    if misshapen:
        raise InputError(f"{what} has weights of other shapes than its config says ({_some(misshapen)}); save it again")
    left = sorted(filter(asked_for, report["unexpected_keys"]))
    if left:
        raise InputError(
            f"{what} has weights that its config has no place for ({_some(left)}); give the config that they were "
            "saved with"
        )


def _some(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def check_finite(weights: nn.Module | dict[str, torch.Tensor], what: str, mend: str = "give a whole one") -> None:
    """Refuse weights or saved tensors with NaN or infinity in them.

    Raises:
        InputError: naming the model and a weight.
    """
    for name, tensor in (weights.state_dict() if isinstance(weights, nn.Module) else weights).items():
        numbers = (
            isinstance(tensor, torch.Tensor)
            and not tensor.is_meta
            and tensor.is_floating_point()
            and tensor.element_size() > 1
        )
        if numbers and not torch.isfinite(tensor).all():
            raise InputError(f"{what} holds numbers that are not finite ({name}); {mend}")


def check_moments(mean: Sequence[float], std: Sequence[float], what: str) -> None:
    """Refuse a normalisation that would make every picture NaN.

    Raises:
        InputError: naming the model.
    """
    lists = all(isinstance(values, (list, tuple)) and len(values) == 3 for values in (mean, std))
    numbers = [v for v in (*mean, *std) if isinstance(v, (int, float)) and math.isfinite(v)] if lists else []
    if len(numbers) < 6 or min(numbers[3:]) <= 0:
        raise InputError(
            f"{what} has a processor with mean {mean!r} and deviation {std!r}; they must be three finite numbers "
            "each, the second above 0"
        )


def check_folder(model: str, what: str) -> None:
    """Look through the folder of one model before a library opens it; a hub id is passed over.

    Raises:
        InputError: for a pipe or a device in it, pickled weights alone, an adapter, or attention code that would be
            fetched.
    """
    folder = Path(model)
    if not folder.is_dir():
        return
    names = []
    for path in folder.iterdir():
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise InputError(
                f"{what} cannot be loaded: {path.name!r} in it cannot be opened ({error.strerror}); save it again"
            ) from error
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise InputError(
                f"{what} cannot be loaded: {path.name!r} in it is a pipe, a device or a socket; save it again"
            )
        if stat.S_ISREG(mode):
            names.append(path.name)
    pickled = sorted(n for n in names if n.endswith(PICKLES) and n != "training_args.bin")
    if pickled and not any(n.endswith(".safetensors") for n in names):
        raise InputError(
            f"{what} has pickled weights ({pickled[0]}), which can hold code and are not opened; {CONVERT}"
        )
    if "adapter_config.json" in names:
        raise InputError(f"{what} is the folder of an adapter and no model; give the model that the adapter is for")
    config: dict[str, Any] = {}
    if "config.json" in names:
        config = read_json(folder / "config.json", f"{what}: its")
        _check_sizes(config, what)
        for key in ("attn_implementation", "_attn_implementation"):
            if "/" in str(config.get(key)):
                raise InputError(
                    f"{what} wants the attention code {config[key]!r} to be fetched, which is never done; remove "
                    f"{key!r} from its config.json"
                )
    for name in (n for n in names if n.endswith(".safetensors") and "quantization_config" not in config):
        _check_types(folder / name, what)


def _check_sizes(config: dict[str, Any], what: str) -> None:
    """Refuse a configuration that would take for ever, or all memory, before its weights are even looked at."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                check(key, inner)
        elif isinstance(value, list):
            for inner in value:
                check(name, inner)
        elif isinstance(value, int) and abs(value) > (
            MOST_LAYERS if any(part in name for part in ("layers", "depth", "blocks")) else MOST
        ):
            raise InputError(f"{what} has {name}={value} in its config.json, more than any model has; save it again")

    check("config", config)


def _check_types(path: Path, what: str) -> None:
    """Refuse whole numbers where weights are to be: they would be cast in silence.

    What cannot be read is left to the loading.
    """
    try:
        with safe_open(path, "pt") as file:
            kinds = {k: file.get_slice(k).get_dtype() for k in file.keys() if not k.endswith(_HARMLESS)}  # noqa: SIM118
            whole = sorted(k for k, kind in kinds.items() if kind[0] in "IUB" and kind != "BF16")
    except (OSError, ValueError, SafetensorError, RuntimeError):
        return
    if whole:
        raise InputError(f"{what} has whole numbers in the place of weights ({_some(whole)}); save it again")


def load_tensors(
    path: Path, what: str, mend: str = "save it again", finite: tuple[str, ...] = ("",)
) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Args:
        finite: beginnings of the names of those that must be finite; all of them, and no whole numbers, if not given.

    Raises:
        InputError: for a file that is missing, none, damaged, or holds numbers that are not finite.
    """
    check_regular(path, what)
    try:
        tensors = load_file(path)
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{what} {str(path)!r} cannot be read ({reason_of(error)}); {mend}") from error
    whole = sorted(k for k, v in tensors.items() if not v.is_floating_point() and not k.endswith(("alpha", *_HARMLESS)))
    if finite == ("",) and whole:
        raise InputError(f"{what} {str(path)!r} has whole numbers in the place of weights ({_some(whole)}); {mend}")
    check_finite({k: v for k, v in tensors.items() if k.startswith(finite)}, f"{what} {str(path)!r}", mend)
    return tensors


def header_of(path: Path, what: str, mend: str = "save it again") -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises:
        InputError: as `load_tensors`.
    """
    check_regular(path, what)
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{what} {str(path)!r} cannot be read ({reason_of(error)}); {mend}") from error


# --- configurations and tokenizers ----------------------------------------------------------------------------------
def kind_of(model: str, what: str) -> str:
    """The `model_type` of a model of transformers.

    Raises:
        InputError: for one that cannot be read.
    """
    from transformers import AutoConfig

    check_folder(model, what)
    with loading(what):
        return str(AutoConfig.from_pretrained(model, trust_remote_code=False).model_type)


def load_tokenizer(model: str, what: str) -> Any:
    """The tokenizer of a model of transformers.

    Raises:
        InputError: for one that cannot be read.
    """
    from transformers import AutoTokenizer

    with loading(what):
        return AutoTokenizer.from_pretrained(model, trust_remote_code=False)


# --- pipelines ------------------------------------------------------------------------------------------------------
def load_pipeline(
    model: str,
    dtype: torch.dtype,
    check_class: Callable[[str | None], dict[str, Any]],
    variant: str | None = None,
    model_config: str | None = None,
) -> Any:
    """A pipeline of diffusers, each of its networks checked.

    Args:
        model: a folder, a hub id, or a single `.safetensors` file.
        check_class: given the name of the pipeline's class before any weights are fetched, refuses it or says with
            which further arguments it is loaded.
        variant: of the weights' files ("fp16"); if None the usual ones, or the only one that a folder has.
        model_config: for a single file the folder or hub id of a pipeline whose configuration it has; what diffusers
            takes it for if None.

    Raises:
        InputError: for a pipeline that is not there, damaged or incomplete.
    """
    from diffusers import DiffusionPipeline

    if Path(model).is_file():
        return _load_single_file(Path(model), dtype, check_class, variant, model_config)
    if model_config is not None:
        raise InputError(
            f"`model_config` is the configuration of a single .safetensors file, and {model!r} is none; leave it out"
        )
    local = Path(model).is_dir()
    if local:
        if not (Path(model) / "model_index.json").is_file():
            raise InputError(
                f"folder {model!r} holds no pipeline (no model_index.json); give a folder written by save_pretrained"
            )
        read_json(Path(model) / "model_index.json", "pipeline's")
    what = f"pipeline {model!r}"
    lost = "save it again" if local else "check the name and the network"
    try:
        with LOADING:
            index = DiffusionPipeline.load_config(model)
    except Exception as error:
        where = (
            "folder cannot be read as a pipeline"
            if local
            else "model is no folder here and no hub id that can be reached"
        )
        raise InputError(f"{where}: {model!r} ({_why(error)}); {lost}") from error
    kind = index.get("_class_name")
    more = check_class(kind if isinstance(kind, str) else None)
    parts = _parts_of(index, what)
    with loading(what, lost):
        folder = (
            model
            if local
            else DiffusionPipeline.download(
                model, use_safetensors=True, trust_remote_code=False, variant=variant, **more
            )
        )
        named = {} if variant is None else {"variant": variant}
        _check_variant(folder, parts, variant, what)
        given: dict[str, Any] = {name: None for name, (library, _) in parts.items() if library is None} | more
        for name, (library, class_name) in parts.items():
            place = os.path.join(folder, name)
            network = _network_class(library, class_name)
            if name not in given and network is not None:
                typed: dict[str, Any] = {"dtype": dtype} if library == "transformers" else {"torch_dtype": dtype}
                found = _variant_of(place, variant)
                typed |= {} if found is None else {"variant": found}
                given[name] = load_model(network, place, f"{what}: its {name}", **typed)
            elif name not in given:
                check_folder(place, f"{what}: its {name}")
        return DiffusionPipeline.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, **named, **given
        )


def _load_single_file(
    path: Path,
    dtype: torch.dtype,
    check_class: Callable[[str | None], dict[str, Any]],
    variant: str | None,
    model_config: str | None,
) -> Any:
    """A pipeline out of one `.safetensors` file, as those who trained it published it; see `load_pipeline`."""
    import diffusers
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    what = f"pipeline {str(path)!r}"
    if variant is not None:
        raise InputError(f"{what} is a single file and has no variants; leave `variant` out")
    if path.suffix != ".safetensors":
        raise InputError(
            f"{what} is no .safetensors file; pickled weights can hold code and are not opened: give a .safetensors "
            "file, or a folder written by save_pretrained"
        )
    config = model_config
    try:
        with LOADING, _hushed():
            if config is None:
                config = str(fetch_diffusers_config(_shapes_of(path, what))["pretrained_model_name_or_path"])
            # what diffusers reads of it: configurations and tokenizers, no weights
            index = diffusers.DiffusionPipeline.load_config(config)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{what} is a single file without its configuration, which is that of {config!r} and cannot be had "
            f"({_why(error)}); give `model_config`, a folder or hub id of a pipeline of its kind"
        ) from error
    kind = index.get("_class_name")
    more = check_class(kind if isinstance(kind, str) else None)
    parts = _parts_of(index, what)
    cls = getattr(diffusers, str(kind))
    if not hasattr(cls, "from_single_file"):
        raise InputError(
            f"{what} cannot be loaded, as {a_kind(kind)} is not read from a single file; give a folder or hub id"
        )
    with loading(what, "give `model_config`, a folder or hub id of a pipeline of its kind"):
        more |= _absent_parts(config, parts, _shapes_of(path, what), dtype, what)
        pipe = cls.from_single_file(str(path), config=config, torch_dtype=dtype, **more)
        for name in parts:
            network = getattr(pipe, name, None)
            if isinstance(network, nn.Module):
                # one that the file lacks would be made of new weights, or of none
                check_keys(network, {k: [] for k in ("missing_keys", "mismatched_keys", "unexpected_keys")}, what)
                check_finite(network, f"{what}: its {name}")
    return pipe


def _absent_parts(
    config: str,
    parts: dict[str, tuple[str | None, str | None]],
    shapes: dict[str, torch.Tensor],
    dtype: torch.dtype,
    what: str,
) -> dict[str, Any]:
    """The networks that a single file lacks, out of the folder of its configuration: many hold the denoiser alone."""
    from diffusers.loaders.single_file_utils import is_clip_model_in_single_file, is_t5_in_single_file
    from transformers import PreTrainedModel

    found = {}
    for name, (library, class_name) in parts.items():
        network, place = _network_class(library, class_name), Path(config) / name
        if network is None or not any(place.glob("*.safetensors")):
            continue
        if issubclass(network, PreTrainedModel):
            there = is_clip_model_in_single_file(network, shapes) or is_t5_in_single_file(shapes)
        else:
            there = name != "vae" or any(key.startswith(("first_stage_model.", "vae.")) for key in shapes)
        if not there:
            typed: dict[str, Any] = {"dtype": dtype} if library == "transformers" else {"torch_dtype": dtype}
            found[name] = load_model(network, str(place), f"{what}: its {name}", **typed)
    return found


def _shapes_of(path: Path, what: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file without their numbers.

    Raises:
        InputError: for a file that is none, or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: torch.empty(part.get_shape(), device="meta") for name, part in slices.items()}
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{what} cannot be read ({reason_of(error)}); save it again") from error


def _parts_of(index: dict[str, Any], what: str) -> dict[str, tuple[str | None, str | None]]:
    """Library and class of each part of a pipeline, by its index; both None for one that it was saved without.

    Raises:
        InputError: for a part of another library.
    """
    import diffusers

    kind = getattr(diffusers, str(index.get("_class_name")), None)
    # lists may also be numbers of the pipeline itself (Krea 2's layers of the text encoder)
    numbers = kind._get_signature_keys(kind)[1] if kind is not None else ()
    parts = {}
    for name, value in index.items():
        if isinstance(value, (list, tuple)) and not name.startswith("_") and name not in numbers:
            _check_part(name, value, what)
            parts[name] = (value[0], value[1])
    return parts


def _variants_of(place: str) -> set[str | None]:
    """Which variants of its weights the folder of a network holds; None is the usual one."""
    files = [f.name for f in Path(place).glob("*.safetensors")]
    found = (re.fullmatch(r"[\w-]+?(?:-\d+-of-\d+)?(?:\.([\w-]+?))?(?:-\d+-of-\d+)?\.safetensors", n) for n in files)
    return {match[1] for match in found if match}


def _variant_of(place: str, wanted: str | None) -> str | None:
    """The variant of a network to load: the wanted one if it is there, else the usual one, else the only one."""
    there = _variants_of(place)
    if wanted in there or not there:
        return wanted
    return None if None in there or len(there) > 1 else next(iter(there))


def _check_variant(folder: str, parts: Iterable[str], wanted: str | None, what: str) -> None:
    """Refuse a variant that no part has. Raises InputError."""
    there = {v for name in parts for v in _variants_of(os.path.join(folder, name))}
    if wanted is not None and wanted not in there:
        named = sorted(v for v in there if v is not None)
        raise InputError(
            f"{what} has no weights of the variant {wanted!r}; "
            + (f"use {' or '.join(map(repr, named))}" if named else "leave `variant` out")
        )


def _check_part(name: str, value: Sequence[Any], what: str) -> None:
    """Refuse a part of a pipeline that is of no class of the two libraries: a name in a file is no reason to import
    something.
    """
    from diffusers import pipelines

    if len(value) == 2 and value[0] is None and value[1] is None:
        return
    library, class_name = value if len(value) == 2 else (None, None)
    named = isinstance(library, str) and isinstance(class_name, str) and class_name.isidentifier()
    if not named or not (
        library in ("diffusers", "transformers") or (str(library).isidentifier() and hasattr(pipelines, str(library)))
    ):
        raise InputError(
            f"{what} names {value!r} as its {name}, no class of diffusers or transformers; code of others is never run"
        )


def _network_class(library: str | None, class_name: str | None) -> Any:
    """The class of a part with weights; None for a scheduler, a tokenizer or a processor."""
    from diffusers import ModelMixin, pipelines
    from transformers import PreTrainedModel

    if library is None:
        return None
    # some pipelines bring a network of their own (Kolors' text encoder), in their module
    module = (
        importlib.import_module(library) if library in ("diffusers", "transformers") else getattr(pipelines, library)
    )
    kind = getattr(module, str(class_name), None)
    return kind if isinstance(kind, type) and issubclass(kind, (ModelMixin, PreTrainedModel)) else None


def saved_by(model: Any) -> Callable[[Path], None]:
    """What fills a folder with a model, without the place where it was read from; for `files.replace_folder`."""

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        nothing_of_this_machine(folder)

    return fill


def nothing_of_this_machine(folder: Path) -> None:
    """Take where a model was read from out of the configurations that were just saved below `folder`."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text(encoding="utf8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf8")
