"""What requests of several rooms have in common: kinds of fields, and how a command line is written."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from accord.data.prompts import check_says_something
from accord.studio.settings import Settings
from accord.types import InputError

SAFE_SEED = 2**53 - 1  # the largest whole number that a script of a page holds

Text = Annotated[str, Field(max_length=20_000)]
Seed = Annotated[int, Field(ge=0, le=SAFE_SEED, strict=True)]
Steps = Annotated[int | None, Field(ge=1, le=200, strict=True)]
Guidance = Annotated[float | None, Field(ge=0, le=50, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Identity = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Choice = Annotated[str, Field(max_length=300)]


class Asked(BaseModel):
    """A request: what is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def check_prompt(name: str, text: str, settings: Settings) -> None:
    """Refuse a prompt that nobody could make a picture of. Raises InputError."""
    most = settings.limits.letters
    if len(text) > most:
        raise InputError(f"the {name} has {len(text)} letters, and {most} are read at most; shorten it")
    check_says_something(text)


def line(*words: Any) -> str:
    """A command line, as a shell reads it."""
    return shlex.join(map(str, words))


def options(**given: Any) -> list[str]:
    """Options of the command line for values that are neither None nor empty."""
    words: list[str] = []
    for name, value in given.items():
        if value is not None and value != "":
            words += option(name.replace("_", "-"), value)
    return words


def option(name: str, value: Any) -> list[str]:
    """An option and its value; joined where the value would be taken for another option."""
    text = str(value)
    return [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]


def quoted_prompts(prompts: Sequence[str]) -> list[str]:
    """Prompts as arguments; one that begins with a dash would be an option."""
    return ["--", *prompts] if any(p.startswith("-") for p in prompts) else list(prompts)


def file_word(name: str) -> str:
    """The name of a file as an argument; one that begins with a dash would be an option."""
    return f"./{name}" if name.startswith("-") else name
