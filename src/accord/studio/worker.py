"""The one thread that works: it owns the models, and does the jobs in the order in which they came."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accord.files import check_writable
from accord.studio import store as states
from accord.studio.events import ALL, Hub
from accord.studio.models import Models
from accord.studio.settings import Settings
from accord.studio.store import Job, Store
from accord.studio.work import Room, Stopped, Work
from accord.types import InputError, reason_of

LOOK = 0.5  # seconds after which the queue is looked at, if nobody has said that it should be


class Worker(threading.Thread):
    """Does one job after the other until it is closed.

    Args:
        rooms: how jobs are done, by the room that they are of.
    """

    def __init__(self, settings: Settings, store: Store, hub: Hub, rooms: Mapping[str, Room]) -> None:
        super().__init__(name="accord-studio", daemon=True)
        self.settings, self.store, self.hub, self.rooms = settings, store, hub, rooms
        self.models = Models(settings)
        self.wake = threading.Event()
        self._closing = threading.Event()

    def folder_of(self, name: str) -> Path:
        """Where the files of a job are."""
        return self.settings.folder / "jobs" / name

    def run(self) -> None:
        if self.settings.warm:
            self._warm()
        while not self._closing.is_set():
            try:
                worked = self._next()
            except sqlite3.Error:  # the disk is full, say: what is queued stays, and is tried again
                traceback.print_exc(file=sys.stderr)
                worked = False
            if not worked:
                self.wake.wait(LOOK)
                self.wake.clear()

    def _next(self) -> bool:
        """Do the job whose turn it is; whether there was one."""
        job = self.store.take()
        if job is None:
            return False
        self._do(job)
        for old in self.store.beyond(self.settings.limits.kept):
            self.forget(old.id)
        return True

    def _warm(self) -> None:
        """Load what the first job will need; what is wrong with it is printed now, and said by that job."""
        try:
            self.models.pipe("")
            self.models.judge("")
        except (InputError, OSError) as error:
            print(f"the models cannot be loaded: {reason_of(error)}", file=sys.stderr)

    def close(self) -> None:
        """End after the step that is taken; the job is queued again when the studio starts."""
        self._closing.set()
        self.wake.set()

    def forget(self, name: str) -> None:
        """Remove a job that has ended, and its files."""
        self.store.forget(name)
        shutil.rmtree(self.folder_of(name), ignore_errors=True)

    def tell(self, job: Job) -> None:
        """Everybody how a job is now."""
        ahead = self.store.ahead(job)
        self.hub.publish(job.id, "job", job.to_dict(ahead))
        self.hub.publish(ALL, "job", job.to_dict(ahead, whole=False))

    def _do(self, job: Job) -> None:
        self.tell(job)
        try:
            result = self._result(job)
            ended = self.store.end(job.id, states.DONE, result)
        except Stopped:
            if self._closing.is_set() and not self.store.job(job.id).stop:
                return  # it is still running, for `recover`
            ended = self.store.end(job.id, states.CANCELLED)
        except InputError as error:
            ended = self.store.end(job.id, states.FAILED, error=str(error))
        except Exception as error:  # one job's mistake, of whatever kind, is not to end the studio
            traceback.print_exc(file=sys.stderr)
            said = f"the job failed inside Accord ({type(error).__name__}: {reason_of(error)}); the log says where"
            ended = self.store.end(job.id, states.FAILED, error=said)
        self.tell(ended)

    def _result(self, job: Job) -> dict[str, Any]:
        room = self.rooms[job.room]
        folder = check_writable(self.folder_of(job.id))
        folder.mkdir(parents=True, exist_ok=True)
        work = Work(
            request=room.request.model_validate(job.request),
            folder=folder,
            models=self.models,
            settings=self.settings,
            uploads=self.settings.folder / "uploads",
            publish=self._publisher(job.id),
            note=lambda progress: self.store.note(job.id, progress),
            stops=lambda: self._closing.is_set() or self.store.job(job.id).stop,
            seconds=self.settings.limits.job_seconds,
        )
        with work.watched():
            return room.run(work)

    def _publisher(self, name: str) -> Callable[[str, Mapping[str, Any]], None]:
        return lambda kind, data: self.hub.publish(name, kind, data)
