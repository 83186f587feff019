"""A studio: its database, its worker and its uploads, apart from how it is asked."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import accord
from accord.files import check_writable, only_writer, read_json
from accord.studio import store as states
from accord.studio.events import Hub
from accord.studio.rooms import ROOMS
from accord.studio.rooms.repair import RepairRequest, result_of
from accord.studio.settings import SAFE_PARTS, Settings
from accord.studio.store import Job, Missing, Store
from accord.studio.uploads import keep_upload
from accord.studio.work import Room
from accord.studio.worker import Worker
from accord.types import InputError

TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".html": "text/html; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".mp4": "video/mp4",
    ".parquet": "application/octet-stream",
}


class Studio:
    """What the page and the API ask.

    Args:
        rooms: how jobs are done; those of the page if not given.
    """

    def __init__(self, settings: Settings, rooms: Mapping[str, Room] | None = None) -> None:
        self.settings = settings
        self.rooms = ROOMS if rooms is None else rooms
        self.folder = check_writable(settings.folder)
        self._held = contextlib.ExitStack()
        self._held.enter_context(only_writer(self.folder))
        try:
            folders = [check_writable(self.folder / name) for name in ("uploads", "jobs")]
            for left in (*self.folder.glob(".sent-*"), *self.folder.glob(".zip-*")):  # by one that was killed
                left.unlink(missing_ok=True)
            self.store = Store(self.folder / "studio.sqlite")
            for folder in folders:
                folder.mkdir(exist_ok=True)
            self.store.recover(settings.limits.tries)
        except BaseException:
            self._held.close()
            raise
        self.hub = Hub(settings.limits.listeners)
        self.worker = Worker(settings, self.store, self.hub, self.rooms)
        self._parsing = threading.Lock()

    def start(self) -> None:
        """Begin to work."""
        self.worker.start()

    def close(self) -> None:
        """End after the step that is taken."""
        self.worker.close()
        if self.worker.is_alive():
            self.worker.join(timeout=60)
        self.store.close()
        self._held.close()

    # --- asked --------------------------------------------------------------------------------------------------------
    def health(self) -> dict[str, Any]:
        """Whether it works, and how much is to be done."""
        works = self.worker.is_alive()
        waiting, running = self.store.waiting(), self.store.running()
        return {
            "status": "ok" if works else "stopped",
            "accord": accord.__version__,
            "queued": waiting,
            "running": running,
        }

    def about(self) -> dict[str, Any]:
        """What a visitor may choose, and what is taken at most."""
        from accord.studio.rooms.compare import runs_below

        limits = self.settings.limits
        return {
            "accord": accord.__version__,
            "models": [{"id": c, "lab": self.settings.is_lab(c)} for c in self.settings.choices],
            "rooms": list(self.rooms),
            "runs": list(runs_below(self.settings)),
            "limits": {n: getattr(limits, n) for n in ("upload_bytes", "pixels", "frames", "letters", "queued")},
        }

    def parsed(self, prompt: str) -> dict[str, Any]:
        """A prompt taken apart, as marks on its text and as lists.

        Raises:
            InputError: for a prompt that says nothing, or is too long.
        """
        from accord.prompts.parser import parse

        most = self.settings.limits.letters
        if len(prompt) > most:
            raise InputError(f"the prompt has {len(prompt)} letters, and {most} are read at most; shorten it")
        with self._parsing:
            found = parse(prompt)
        parts = [
            *(("thing", t) for t in found.things),
            *(("relation", r.said) for r in found.relations),
            *(("absent", a) for a in found.absences),
            *(("quoted", q) for q in found.quoted),
            *(("style", s) for s in found.styles),
            *(("ground", g) for g in found.grounds),
            *(("aside", s) for s in found.stripped),
            *(("unjudged", u) for u in found.unjudged),
        ]
        marks = [{"kind": kind, "start": s.start, "end": s.end} for kind, s in parts if s.start < s.end]
        data = found.to_dict()
        data["plain"] = found.plain
        data["says_nothing"] = found.says_nothing
        data["marks"] = sorted(marks, key=lambda m: (m["start"], -m["end"]))
        return data

    def submit(self, room: str, asked: Any) -> Job:
        """A new job.

        Args:
            asked: a request of the room's kind.

        Raises:
            InputError: if it could not be done, or too many wait.
        """
        found = self.rooms[room]
        found.check(asked, self.settings, self.upload)
        command = "\n".join(found.command(asked, self.settings, self.upload))
        job = self.store.add(room, asked.model_dump(mode="json"), command, self.settings.limits.queued)
        self.worker.tell(job)
        self.worker.wake.set()
        return job

    def cancel(self, name: str) -> Job:
        """See `Store.cancel`."""
        job = self.store.cancel(name)
        self.worker.tell(job)
        return job

    def forget(self, name: str) -> None:
        """Remove a job that has ended.

        Raises:
            InputError: for one that has not.
        """
        if self.store.job(name).state not in states.ENDED:
            raise InputError("this job has not ended; cancel it first")
        self.worker.forget(name)

    def upload(self, name: str) -> dict[str, Any]:
        """What is known of an upload. Raises InputError if there is none."""
        try:
            return self.store.upload(name)
        except Missing:
            raise InputError(f"there is no upload {name!r}; send it again") from None

    def keep(self, sent: Path, name: str) -> dict[str, Any]:
        """Keep what was sent. Raises InputError for what is no picture and no video."""
        about = keep_upload(self.folder / "uploads", sent, name, self.settings.limits)
        self.store.add_upload(about["id"], about)
        for old in self.store.old_uploads(self.settings.limits.uploads):
            self.store.forget_upload(old)
            shutil.rmtree(self.folder / "uploads" / old, ignore_errors=True)
        return about

    # --- files --------------------------------------------------------------------------------------------------------
    def file_of(self, job: str, name: str) -> tuple[Path, str]:
        """A file of a job, and its type.

        Raises:
            Missing: if there is none of that name within the job's folder.
        """
        folder = self.worker.folder_of(self.store.job(job).id).resolve()
        parts = name.split("/")
        if not all(re.fullmatch(SAFE_PARTS, part) for part in parts):
            raise Missing(name)
        path = folder.joinpath(*parts)
        kind = TYPES.get(path.suffix)
        if kind is None or not path.resolve().is_relative_to(folder) or not path.is_file():
            raise Missing(name)
        return path, kind

    def zipped(self, job: Job, target: BinaryIO) -> None:
        """All files of a job, and the command line that would do the same."""
        folder = self.worker.folder_of(job.id)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("command.txt", job.command + "\n")
            for path in sorted(_visible(folder)):
                archive.write(path, path.relative_to(folder).as_posix())

    def show(self, folder: Path) -> int:
        """Take over the repairs that `accord realign` left in a folder, as jobs that are done; how many are new.

        Raises:
            InputError: for a folder without one.
        """
        return sum(self._take_over(path) for path in reports_in(folder))

    def _take_over(self, path: Path) -> bool:
        report = read_json(path, "report", "repair the picture again")
        try:
            asked = RepairRequest(prompt=report["prompt"], seed=report["seed"], mode="new_seed")
            command = "\n".join(self.rooms["repair"].command(asked, self.settings, self.upload))
            job = self.store.add_done(str(path.parent.resolve()), "repair", asked.model_dump(mode="json"), command)
            if job is None:
                return False
            target = self.worker.folder_of(job.id)
            shutil.copytree(path.parent, target, ignore=shutil.ignore_patterns(".*"))
            result = result_of(target.name, report, [])
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(
                f"report {str(path)!r} cannot be taken over ({type(error).__name__}); repair the picture again"
            ) from error
        self.store.end(job.id, states.DONE, result)
        return True


def reports_in(folder: Path) -> list[Path]:
    """The reports of the repairs that `accord realign` left in a folder. Raises InputError if there is none."""
    found = sorted(folder.glob("[0-9]*-*/report.json"))
    if not found:
        raise InputError(f"folder {str(folder)!r} holds no repair; give one that accord realign wrote")
    return found


def _visible(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file() and not path.is_symlink() and "tuning" not in path.parts:
            yield path
