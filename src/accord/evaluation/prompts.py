"""The prompts of suites that take any prompts file."""

from __future__ import annotations

import warnings
from pathlib import Path

from accord.data.pairs import PairsFile
from accord.data.prompt_files import read_prompts
from accord.data.prompts import check_says_something
from accord.evaluation.registry import Record
from accord.files import parse_json, read_text
from accord.prompts.parser import plain_text
from accord.types import InputError, Notice


def prompt_records(path: Path | None, skipped: PairsFile) -> list[Record]:
    """A record for each prompt of a file (txt, CSV, JSONL, JSON, COCO captions); see `read_prompts`. The syntax of
    prompt programs is left out, as `accord generate` does.

    Of COCO captions the key is the picture's name, so that `--images val2017` finds it.

    Raises:
        InputError: if no file is given, it cannot be read, or holds no prompt.
    """
    path = given(path)
    if path.suffix.lower() == ".json" and (found := _coco(path)):
        texts, keys = list(found.values()), list(found)
    else:
        texts = read_prompts(path, skipped)
        keys = [""] * len(texts)
    out, stripped = [], 0
    for number, (text, key) in enumerate(zip(texts, keys, strict=True)):
        try:
            check_says_something(text)
        except InputError as error:
            skipped.skip(number + 1, str(error))
            continue
        plain, syntax = plain_text(text)
        stripped += bool(syntax and plain.strip())
        out.append(Record(number, plain if syntax and plain.strip() else text, key=key))
    if stripped:
        warnings.warn(f"{stripped} prompts are read without the syntax of prompt programs", Notice, stacklevel=2)
    if not out:
        raise InputError(f"prompts file {str(path)!r} holds no prompt that says something; mend it there")
    return out


def given(path: Path | None) -> Path:
    """The file, or a refusal."""
    if path is None:
        raise InputError("this suite needs `prompts`, a file of them; give it")
    return path


def _coco(path: Path) -> dict[str, str]:
    """The first caption of each picture of COCO's file of captions, by the picture's name without its suffix; nothing
    for another file.
    """
    try:
        data = parse_json(read_text(path, "prompts file"))
        names = {row["id"]: Path(row["file_name"]).stem for row in data["images"]}
        out: dict[str, str] = {}
        for row in data["annotations"]:
            text = " ".join(str(row["caption"]).split())
            if row["image_id"] in names and text:
                out.setdefault(names[row["image_id"]], text)
        return out
    except (KeyError, TypeError, ValueError):
        return {}
