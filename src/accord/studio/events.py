"""Events of jobs, from the thread that works to everybody who listens."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

from accord.types import InputError

ALL = ""  # the topic of who listens to all jobs
KEPT = 64  # events that wait for a slow listener; the oldest are dropped, as the last one says all
BEAT = 10.0  # seconds after which a silent stream says that it is alive


class Listener:
    """Who listens to one job, or to all. It belongs to the event loop that it was made in."""

    def __init__(self, hub: Hub, topic: str) -> None:
        self.hub, self.topic = hub, topic
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[str, str]] = deque(maxlen=KEPT)
        self._come = asyncio.Event()

    def put(self, kind: str, text: str) -> None:
        """From any thread."""
        self._waiting.append((kind, text))
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._come.set)

    async def __aiter__(self) -> AsyncIterator[tuple[str, str]]:
        """Events as they come, ("", "") where there was none for a while."""
        try:
            while True:
                self._come.clear()
                while self._waiting:
                    yield self._waiting.popleft()
                try:
                    await asyncio.wait_for(self._come.wait(), BEAT)
                except TimeoutError:
                    yield "", ""
        finally:
            self.hub.leave(self)


class Hub:
    """Who listens.

    Args:
        most: listeners at once.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._listeners: dict[str, set[Listener]] = {}

    def listen(self, topic: str) -> Listener:
        """A new listener to a job, or to `ALL`.

        Raises:
            InputError: if there are so many already.
        """
        with self._lock:
            if self.count() >= self.most:
                raise InputError(f"{self.most} pages listen already; close one")
            listener = Listener(self, topic)
            self._listeners.setdefault(topic, set()).add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        with self._lock:
            found = self._listeners.get(listener.topic, set())
            found.discard(listener)
            if not found:
                self._listeners.pop(listener.topic, None)

    def count(self) -> int:
        return sum(map(len, self._listeners.values()))

    def publish(self, topic: str, kind: str, data: Mapping[str, Any]) -> None:
        """To all who listen to this topic."""
        with self._lock:
            listeners = list(self._listeners.get(topic, ()))
        if listeners:
            text = json.dumps(data)
            for listener in listeners:
                listener.put(kind, text)
