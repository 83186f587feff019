"""The prompts of suites that take any prompts file."""

from __future__ import annotations

import warnings
from pathlib import Path

from accord.data.pairs import PairsFile
from accord.data.prompt_files import EXTRAS, PromptRow, coco_captions, read_rows
from accord.data.prompts import check_says_something
from accord.evaluation.registry import Record
from accord.prompts.parser import plain_text
from accord.types import InputError, Notice


def prompt_records(path: Path | None, skipped: PairsFile) -> list[Record]:
    """A record for each prompt of a file (txt, CSV, JSONL, JSON, COCO captions); see `read_rows`. The syntax of
    prompt programs is left out, as `accord generate` does. A record's number is that of its row, less one: it stays
    when another row is mended. What a row says of its own making is in `about["own"]`.

    Of COCO captions the key is the picture's name, so that `--images val2017` finds it.

    Raises:
        InputError: if no file is given, it cannot be read, or holds no prompt.
    """
    path = given(path)
    if path.suffix.lower() == ".json" and (found := coco_captions(path)):
        rows, keys = [PromptRow(n, text) for n, text in enumerate(found.values(), start=1)], list(found)
    else:
        rows = read_rows(path, skipped)
        keys = [""] * len(rows)
    out, stripped = [], 0
    for row, key in zip(rows, keys, strict=True):
        try:
            check_says_something(row.prompt)
        except InputError as error:
            skipped.skip(row.number, str(error))
            continue
        plain = as_made(row.prompt)
        stripped += plain != row.prompt
        own = {name: value for name in EXTRAS if (value := getattr(row, name)) is not None}
        out.append(Record(row.number - 1, plain, key=key, about={"own": own} if own else {}))
    if stripped:
        warnings.warn(f"{stripped} prompts are read without the syntax of prompt programs", Notice, stacklevel=2)
    if not out:
        raise InputError(f"prompts file {str(path)!r} holds no prompt that says something; mend it there")
    return out


def as_made(text: str) -> str:
    """A prompt without the syntax of prompt programs, if there is something beside it."""
    plain, syntax = plain_text(text)
    return plain if syntax and plain.strip() else text


def given(path: Path | None) -> Path:
    """The file, or a refusal."""
    if path is None:
        raise InputError("this suite needs `prompts`, a file of them; give it")
    return path
