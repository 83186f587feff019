"""Ways to damage a file, each a function of a random generator: bytes, JSON, safetensors, and no file at all."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
from pathlib import Path
from random import Random
from typing import Any

# the loaders must say no to a file of weights that was damaged in one of these ways; other damage may leave a file that
# is sound
FATAL = (
    "cut",
    "nan",
    "inf",
    "no tensor",
    "renamed",
    "misshapen",
    "integers",
    "no header",
    "long header",
    "empty",
    "noise",
    "pointer",
)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    10**6,
    10**9,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    "7",
    [],
    [1],
    {},
    {"a": 1},
    [[]],
    "\ud800",
    "a\nb",
    "x" * 5000,
    ["evil", "Evil"],
    {"_class_name": "Evil"},
)


def damaged_bytes(data: bytes, rng: Random, other: bytes = b"") -> tuple[str, bytes]:
    """What was done, and the bytes after it."""
    how = rng.choice(("cut", "flipped", "flipped", "spliced", "repeated", "zeroed", "appended", "empty", "noise"))
    if how == "cut":
        data = data[: rng.randrange(max(1, len(data)))]
    elif how == "flipped":
        out = bytearray(data)
        near = min(len(out), 64) if rng.random() < 0.4 else len(out)  # headers are where it hurts
        for _ in range(rng.choice((1, 1, 3, 40)) if out else 0):
            out[rng.randrange(near)] ^= 1 << rng.randrange(8)
        data = bytes(out)
    elif how == "spliced":
        at, other = rng.randrange(len(data) + 1), other or data
        data = data[:at] + other[rng.randrange(len(other) + 1) :]
    elif how == "repeated":
        a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        data = data[:b] + data[a:]
    elif how == "zeroed":
        a = rng.randrange(len(data) + 1)
        b = min(len(data), a + rng.choice((4, 16, 256)))
        data = data[:a] + bytes(b - a) + data[b:]
    elif how == "appended":
        data += rng.randbytes(rng.choice((1, 100)))
    elif how == "empty":
        data = b""
    else:
        data = rng.randbytes(rng.choice((1, 8, 100, 5000)))
    return how, data


def damaged_json(value: Any, rng: Random) -> tuple[str, bytes]:
    """A JSON document with something changed, as bytes that may be no JSON any more."""
    how = rng.choice(
        (
            "value",
            "value",
            "value",
            "value",
            "removed",
            "removed",
            "added",
            "auto_map",
            "not an object",
            "deep",
            "twice",
            "digits",
            "bytes",
            "bytes",
        )
    )
    if how in ("value", "removed", "added"):
        value, where = _changed(json.loads(json.dumps(value)), how, rng)
        return f"{how} at {where}", dumped(value)
    if how == "auto_map" and isinstance(value, dict):
        names = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoImageProcessor", "AutoProcessor", "CLIPModel")
        evil: dict[str, Any] = {
            "auto_map": {n: "evil.Evil" for n in names},
            "custom_pipelines": "evil",
            "custom_pipeline": "evil",
        }
        if rng.random() < 0.5:  # a kind that the library does not know, so that only the file's own code could read it
            evil["model_type"] = "evil"
        return how, dumped({**value, **evil})
    if how == "not an object":
        return how, rng.choice((b"[]", b"null", b"3", b'"x"', b"[{}]", b"true", b"NaN", b" "))
    if how == "deep":
        depth = rng.choice((500, 100_000))
        return how, rng.choice((b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth))
    text = dumped(value)
    if how == "twice" and isinstance(value, dict) and value:
        key = rng.choice(list(value))
        return f"{key} twice", text.rstrip()[:-1] + b', "%s": 3}' % key.encode()
    if how == "digits" and isinstance(value, dict) and value:
        key = rng.choice(list(value))
        return f"5000 digits at {key}", text.rstrip()[:-1].replace(
            b'"%s"' % key.encode(), b'"was"', 1
        ) + b', "%s": %s}' % (key.encode(), b"9" * 5000)
    return damaged_bytes(text, rng)


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode("utf8", "surrogatepass")


def _changed(value: Any, how: str, rng: Random, where: str = "") -> tuple[Any, str]:
    """One place of a document changed, a nested one sometimes."""
    if not isinstance(value, dict) or not value:
        return rng.choice(ODD_VALUES), where or "the top"
    key = rng.choice(sorted(value))
    place = f"{where}.{key}" if where else key
    nested = [k for k in sorted(value) if isinstance(value[k], dict) and value[k]]
    if nested and rng.random() < 0.5:
        key = rng.choice(nested)
        value[key], place = _changed(value[key], how, rng, f"{where}.{key}" if where else key)
    elif how == "removed":
        del value[key]
    elif how == "added":
        value[
            rng.choice(
                ("evil", "_class_name", "model_type", "architectures", "quantization_config", "dtype", "x" * 300)
            )
        ] = rng.choice(ODD_VALUES)
    elif isinstance(value[key], int | float) and rng.random() < 0.5:
        value[key] = value[key] * rng.choice((2, -1, 1000, 0.5))
        place += f"={value[key]}"
    else:
        value[key] = rng.choice(ODD_VALUES)
        place += f"={str(value[key])[:20]!r}"
    return value, place


def damaged_tensors(data: bytes, rng: Random) -> tuple[str, bytes]:
    """A safetensors file with its header or its tensors damaged.

    What was done begins with one of `FATAL` where no loader may take it.
    """
    import numpy as np
    from safetensors.numpy import load, save

    how = rng.choice(
        (
            "nan",
            "inf",
            "no tensor",
            "renamed",
            "misshapen",
            "integers",
            "double",
            "extra",
            "cut",
            "no header",
            "long header",
            "empty",
            "pointer",
            "header",
            "bytes",
        )
    )
    if how == "cut":
        return how, data[: rng.randrange(max(1, len(data) - 8))]
    if how == "no header":
        return how, data[8 + struct.unpack("<Q", data[:8])[0] :]
    if how == "long header":
        return how, struct.pack("<Q", rng.choice((len(data), 2**40, 2**63, 100_000_001))) + data[8:]
    if how == "empty":
        return how, b""
    if how == "pointer":  # what git leaves where its large files were not fetched
        return how, b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 3\n"
    if how == "bytes":
        return damaged_bytes(data, rng)
    size = struct.unpack("<Q", data[:8])[0]
    if how == "header":
        what, header = damaged_json(json.loads(data[8 : 8 + size]), rng)
        return f"header, {what}", struct.pack("<Q", len(header)) + header + data[8 + size :]
    tensors = load(data)
    of = json.loads(data[8 : 8 + size]).get("__metadata__")
    floats = [k for k in sorted(tensors) if tensors[k].dtype.kind == "f" and tensors[k].size]
    if not floats:
        return damaged_bytes(data, rng)
    key = rng.choice(floats)
    value = np.array(tensors[key])
    if how in ("nan", "inf"):
        value.reshape(-1)[rng.randrange(value.size)] = float(how)
        tensors[key] = value
    elif how == "no tensor":
        del tensors[key]
    elif how == "renamed":
        tensors[f"x.{key}"] = tensors.pop(key)
    elif how == "misshapen":
        tensors[key] = np.concatenate([value.reshape(-1), value.reshape(-1)[:1]]) if rng.random() < 0.5 else value[None]
    elif how == "integers":
        tensors[key] = value.astype(np.int64)
    elif how == "double":
        tensors[key] = value.astype(np.float64)
    else:
        tensors["extra.weight"] = value
    return f"{how} {key}", save(tensors, metadata=of)


def not_a_file(path: Path, rng: Random) -> str:
    """Put something in the place of a file that is none, or none that can be read."""
    remove(path)
    how = rng.choice(("pipe", "folder", "loop", "nowhere", "device", "socket", "missing", "full"))
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "nowhere":
        path.symlink_to("nowhere")
    elif how == "device":
        path.symlink_to("/dev/zero")
    elif how == "full":
        path.symlink_to("/dev/full")
    elif how == "socket":
        with socket.socket(socket.AF_UNIX) as place:
            here = os.getcwd()
            os.chdir(path.parent)  # a socket's name may have a hundred letters
            try:
                place.bind(path.name[:90])
            finally:
                os.chdir(here)
    return how


def write(path: Path, data: bytes) -> None:
    """Write a file that may be a link to a base file, which must stay as it is."""
    remove(path)
    path.write_bytes(data)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def linked(base: Path, folder: Path) -> Path:
    """A copy of a base folder that costs nothing: its files are links."""
    shutil.copytree(base, folder, copy_function=os.link, dirs_exist_ok=True)
    return folder
