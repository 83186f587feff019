"""The prompt that a picture's file states: programs write it beside the pixels.

Read are the text chunk `parameters` (Stable Diffusion web UI, also in EXIF's UserComment), ComfyUI's `prompt` graph,
InvokeAI's and Fooocus's JSON, `Title` and `Description`, and a plain `prompt`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from accord.files import check_regular

LONGEST = 20_000  # letters of what is believed to be a prompt
_PLAIN = ("prompt", "Prompt", "Description", "Title", "ImageDescription", "description")
_JSON_KEYS = ("positive_prompt", "prompt", "c", "full_prompt")
_ENCODERS = ("text", "text_g", "text_l", "t5xxl", "clip_l")  # inputs of ComfyUI's text encoders


def stated_prompt(path: str | Path) -> str:
    """The prompt that a picture's file states; empty if it states none, or cannot be read.

    Nothing of the pixels is decoded, and nothing that the file says is believed to be more than a text.
    """
    path = check_regular(path, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                texts = {str(k): v for k, v in image.info.items() if isinstance(v, str)}
                exif = image.getexif()
                texts["ImageDescription"] = str(exif.get(ExifTags.Base.ImageDescription, ""))
                comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
                texts.setdefault("parameters", _comment(comment))
    except Exception:  # readers raise whatever a damaged file leads them to; a picture that cannot be read states none
        return ""
    found = next((p for p in _prompts(texts) if p.strip()), "")
    return " ".join(found[:LONGEST].split())


def _comment(value: Any) -> str:
    """EXIF's UserComment: eight letters that name the code, then the text."""
    if not isinstance(value, bytes):
        return str(value)
    code, rest = value[:8], value[8:]
    if code.startswith(b"UNICODE"):
        big = rest[:1] == b"\0"
        return rest.decode("utf-16-be" if big else "utf-16-le", "replace")
    return (rest if code.startswith(b"ASCII") or not code.strip(b"\0") else value).decode("utf8", "replace")


def _prompts(texts: dict[str, str]) -> Iterator[str]:
    """What may be the prompt, the surest first."""
    yield _of_web_ui(texts.get("parameters", ""))
    for name in ("prompt", "invokeai_metadata", "sd-metadata", "Comment"):
        yield _of_json(texts.get(name, ""))
    for name in _PLAIN:
        if not texts.get(name, "").lstrip().startswith(("{", "[")):
            yield texts.get(name, "")


def _of_web_ui(text: str) -> str:
    """Of the lines of Stable Diffusion web UI those before the negative prompt and the settings."""
    if text.lstrip().startswith("{"):
        return _of_json(text)
    lines = []
    for line in text.splitlines():
        if line.startswith(("Negative prompt:", "Steps: ")):
            break
        lines.append(line)
    return " ".join(lines)


def _of_json(text: str) -> str:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(data, dict):
        return ""
    for key in _JSON_KEYS:
        if isinstance(data.get(key), str):
            return str(data[key])
    return _of_graph(data)


def _of_graph(nodes: dict[str, Any]) -> str:
    """Of ComfyUI's graph what the sampler is guided towards, or the first text that an encoder is given."""
    known = {k: n for k, n in nodes.items() if isinstance(n, dict) and isinstance(n.get("inputs"), dict)}
    for node in known.values():
        link = node["inputs"].get("positive")
        seen: set[str] = set()
        while isinstance(link, list) and link and str(link[0]) in known and str(link[0]) not in seen:
            seen.add(str(link[0]))
            inputs = known[str(link[0])]["inputs"]
            if said := _said(inputs):
                return said
            link = inputs.get("conditioning") or inputs.get("positive")
    return next((said for node in known.values() if (said := _said(node["inputs"]))), "")


def _said(inputs: dict[str, Any]) -> str:
    return next((inputs[n] for n in _ENCODERS if isinstance(inputs.get(n), str) and inputs[n].strip()), "")
