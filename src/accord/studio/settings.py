"""What a studio is started with, and what it takes at most."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accord.types import InputError

LAB, TUNED = "lab", "lab+tuned"
LEAST_TOKEN = 16  # letters
SAFE_PARTS = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}"  # of the path of a job's file


@dataclass(frozen=True)
class Limits:
    """What is refused beyond, in one sentence.

    Attributes:
        upload_bytes, upload_seconds: of one upload, and until it is there.
        decode_seconds: that an upload takes to be decoded.
        pixels: of an uploaded picture, by its header; of a video's frame likewise.
        frames: of a video that are read; the rest is left.
        json_bytes: of any other request.
        letters: of a prompt.
        queued: jobs that wait.
        kept: finished jobs; the oldest are forgotten with their files.
        uploads: kept; the oldest that no job waits for are forgotten.
        listeners: streams of events at once.
        job_seconds: after which a job is stopped.
        tries: how often a job is begun that never ended, because the studio did.
    """

    upload_bytes: int = 64 * 2**20
    upload_seconds: float = 60.0
    decode_seconds: float = 20.0
    pixels: int = 16_000_000
    frames: int = 64
    json_bytes: int = 256 * 2**10
    letters: int = 2000
    queued: int = 500
    kept: int = 1000
    uploads: int = 300
    listeners: int = 100
    job_seconds: float = 3600.0
    tries: int = 3


@dataclass(frozen=True)
class Settings:
    """What a studio is started with.

    Attributes:
        folder: for its jobs, uploads and database.
        models: pipelines that may be chosen, the first if none is; "lab" is the embedded one. Nobody who only has the
            page can name another.
        judge: who judges; the lab's for the lab if None, and `hub_judge` for others.
        clip: what compares pictures and words; likewise.
        inverter: folder of what reads prompts back; the embedded one, which knows the lab's scenes alone, if None.
        runs: folders below which runs of `accord eval` are looked for.
        token: what a visitor must have; None on this machine alone.
        warm: whether the first model is loaded before anybody asks for it.
        edit_usual: fields of `EditConfig` for other pipelines than the lab's.
    """

    folder: Path
    models: tuple[str, ...] = (LAB,)
    judge: str | None = None
    clip: str | None = None
    hub_judge: str = ""
    hub_clip: str = ""
    inverter: str | None = None
    device: str | None = None
    dtype: str = "float32"
    runs: tuple[Path, ...] = ()
    token: str | None = None
    limits: Limits = field(default_factory=Limits)
    warm: bool = False
    edit_usual: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.token is not None and not re.fullmatch(rf"[\w.~-]{{{LEAST_TOKEN},}}", self.token, re.ASCII):
            raise InputError(
                f"`share_token` must have at least {LEAST_TOKEN} letters, digits or any of -_.~; give such a one"
            )

    @property
    def choices(self) -> dict[str, tuple[str | None, str | None]]:
        """What a visitor may choose -> model and adapter, as `accord.load` takes them."""
        found: dict[str, tuple[str | None, str | None]] = {}
        for model in self.models:
            found[model] = (None if model == LAB else model, None)
            if model == LAB:
                found[TUNED] = (None, LAB)
        return found

    def chosen(self, choice: str) -> str:
        """A choice by its name, the first if it is empty.

        Raises:
            InputError: for a model that the studio was not started with.
        """
        name = choice or self.models[0]
        if name not in self.choices:
            raise InputError(f"model {name!r} is none of this studio's; choose {' or '.join(self.choices)}")
        return name

    def is_lab(self, choice: str) -> bool:
        return self.chosen(choice) in (LAB, TUNED)

    def words(self, choice: str) -> list[str]:
        """The options of the command line that mean this choice."""
        model, lora = self.choices[self.chosen(choice)]
        words = [] if model is None else ["--model", model]
        words += [] if lora is None else ["--lora", lora]
        return words + ([] if self.dtype == "float32" else ["--dtype", self.dtype])

    @property
    def judge_words(self) -> list[str]:
        return [] if self.judge is None else ["--judge", self.judge]
