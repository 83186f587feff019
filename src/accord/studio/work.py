"""One job at work: what it was asked for, where its files go, and how it tells of itself."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from pydantic import BaseModel

from accord.files import write_file
from accord.reports.pictures import png
from accord.studio.models import Models
from accord.studio.settings import Settings
from accord.types import InputError

EACH = 5  # steps between two previews
PREVIEW = 256  # pixels of its longer side


class Stopped(Exception):
    """A job was stopped by who asked for it."""


@dataclass
class Work:
    """A job at work, in the thread that owns the models.

    Attributes:
        request: what was asked for.
        folder: for what comes of it; what an earlier try left is still there.
        publish: sends an event, its kind and its data, to who listens to this job.
        note: keeps how far it is.
        stops: whether it is to be stopped.
        seconds: after which it is stopped.
    """

    request: Any
    folder: Path
    models: Models
    settings: Settings
    uploads: Path
    publish: Callable[[str, Mapping[str, Any]], None]
    note: Callable[[Mapping[str, Any]], None]
    stops: Callable[[], bool]
    seconds: float
    progress: dict[str, Any] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def stage(self, name: str) -> None:
        """What is done now."""
        self.check()
        self.progress |= {"stage": name, "step": 0, "steps": 0}
        self.note(self.progress)
        self.publish("step", {"stage": name, "step": 0, "steps": 0})

    def check(self) -> None:
        """Raises Stopped if the job is to be stopped, and InputError if it takes too long."""
        if self.stops():
            raise Stopped
        if time.monotonic() - self._began > self.seconds:
            raise InputError(f"the job took more than {self.seconds:g} seconds and was stopped; ask for less")

    def took_step(self, _pictures: int, steps: int) -> None:
        """Of whatever has steps; each is told, and each fifth kept."""
        self.check()
        step = self.progress.get("step", 0) % steps + 1
        self.progress |= {"step": step, "steps": steps}
        if step % EACH == 0 or step == steps:
            self.note(self.progress)
        self.publish("step", {"stage": self.progress.get("stage", ""), "step": step, "steps": steps})

    def look(self, step: Any, picture: Callable[[], Any]) -> None:
        """Show what is being denoised, each fifth step."""
        if (step.index + 1) % EACH or step.index + 1 == step.count:
            return
        from accord.data.images import to_pil

        try:
            shown = to_pil(picture().float())[0]
        except InputError:  # of a scheduler that does not say its levels: there are no previews
            return
        self.publish("preview", {"step": step.index + 1, "steps": step.count, "picture": data_url(shown)})

    def told(self, name: str, value: Any) -> None:
        """A part of the result that is there already: `name` is a list in the progress, and one is added to it."""
        self.progress.setdefault(name, []).append(value)
        self.note(self.progress)
        self.publish(name, {"value": value})

    def write(self, name: str, image: Image.Image) -> str:
        """Write a picture below the job's folder; returns its name there."""
        write_file(self.folder / name, png(image))
        return name

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Steps of all that runs within are told, shown, and may be the last."""
        from accord.diffusion.opened import looked_at, watched

        with watched(self.took_step), looked_at(self.look):
            yield


def data_url(image: Image.Image) -> str:
    """A small copy of a picture as an address that holds it."""
    small = image.copy()
    small.thumbnail((PREVIEW, PREVIEW))
    data = io.BytesIO()
    small.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


class Room(Protocol):
    """What jobs of one kind ask for, and how they are done."""

    name: str
    request: type[BaseModel]

    def check(self, request: Any, settings: Settings, upload: Callable[[str], Mapping[str, Any]]) -> None:
        """Refuse what could not be done, before it waits. Raises InputError."""
        ...

    def command(self, request: Any, settings: Settings, upload: Callable[[str], Mapping[str, Any]]) -> list[str]:
        """The command lines that would do the same."""
        ...

    def run(self, work: Work) -> dict[str, Any]:
        """Do it. Returns the result, JSON-ready; raises InputError for what cannot be done."""
        ...
