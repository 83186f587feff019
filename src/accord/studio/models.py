"""The models of a studio: loaded when a job first needs them, and kept warm by the one thread that works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accord.studio.settings import Settings

MOST_PIPELINES = 2  # in memory at once


class Models:
    """What jobs are done with. One thread alone may use it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._pipes: dict[str, Any] = {}
        self._others: dict[tuple[str, str], Any] = {}

    @property
    def loaded(self) -> list[str]:
        """The pipelines in memory, by their choice."""
        return list(self._pipes)

    def pipe(self, choice: str) -> Any:
        """The pipeline of a choice."""
        import torch

        import accord

        name = self.settings.chosen(choice)
        if name not in self._pipes:
            while len(self._pipes) >= MOST_PIPELINES:
                self._pipes.pop(next(iter(self._pipes)))
            model, lora = self.settings.choices[name]
            dtype = getattr(torch, self.settings.dtype)
            self._pipes[name] = accord.load(model, self.settings.device, dtype, lora)
        return self._pipes[name]

    def judge(self, choice: str) -> Any:
        """Who judges pictures of this choice."""
        import accord

        lab = self.settings.is_lab(choice)
        named = self.settings.judge or (None if lab else self.settings.hub_judge)
        return self._kept("judge", named or "lab", lambda: accord.load_judge(named, self.device))

    def clip(self, choice: str) -> Any:
        """What compares pictures of this choice with words."""
        import accord

        lab = self.settings.is_lab(choice)
        named = self.settings.clip or (None if lab else self.settings.hub_clip)
        return self._kept("clip", named or "lab", lambda: accord.load_clip(named, self.device))

    def reader(self) -> Any:
        """What reads prompts back from pictures."""
        from accord.methods.invert.inverter import Inverter
        from accord.methods.invert.reader import Reader

        named = self.settings.inverter
        return self._kept("reader", named or "lab", lambda: Reader.of(Inverter.from_pretrained(named, self.device)))

    @property
    def device(self) -> str:
        from accord.diffusion.pipelines import default_device

        return self.settings.device or default_device()

    def _kept(self, kind: str, name: str, load: Callable[[], Any]) -> Any:
        if (kind, name) not in self._others:
            self._others[kind, name] = load()
        return self._others[kind, name]
