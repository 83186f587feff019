"""Jobs and uploads in SQLite. What was taken on is on the disk before the answer is given: a kill loses none of it."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from accord.types import InputError

WAITING, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
ENDED = (DONE, FAILED, CANCELLED)
VERSION = 1  # of the tables below
_TABLES = f"""
create table if not exists jobs (
  number integer primary key autoincrement, id text unique not null, room text not null, request text not null,
  command text not null, state text not null, made real not null, begun real, ended real,
  tries integer not null default 0, stop integer not null default 0, progress text not null default '{{}}',
  result text, error text, source text unique
);
create index if not exists jobs_by_state on jobs (state, number);
create table if not exists uploads (id text primary key, made real not null, about text not null);
pragma user_version = {VERSION};
"""


class Missing(KeyError):
    """There is no job, upload or file of that name."""


@dataclass(frozen=True)
class Job:
    """A job as it is kept.

    Attributes:
        number: in which order jobs came.
        request: what was asked for, checked.
        command: the command line that would do the same, a line each.
        stop: whether it is to be stopped.
        progress: how far it is: "stage", "step", "steps", "rounds".
        result: what came of it; None before it is done.
        error: why it failed, one sentence.
        source: the folder that it was taken over from; empty for a job of the studio.
    """

    number: int
    id: str
    room: str
    request: dict[str, Any]
    command: str
    state: str
    made: float
    begun: float | None = None
    ended: float | None = None
    tries: int = 0
    stop: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    error: str | None = None
    source: str | None = None

    @classmethod
    def of(cls, row: sqlite3.Row) -> Job:
        values = dict(row)
        for name in ("request", "progress", "result"):
            values[name] = None if values[name] is None else json.loads(values[name])
        return cls(**{**values, "stop": bool(values["stop"])})

    def to_dict(self, ahead: int = 0, whole: bool = True) -> dict[str, Any]:
        """JSON-ready.

        Args:
            ahead: jobs that are done before it.
            whole: with its result and progress; a list of jobs does without.
        """
        names = ("number", "id", "room", "request", "command", "state", "made", "begun", "ended", "error")
        data = {name: getattr(self, name) for name in names} | {"ahead": ahead, "stopping": self.stop}
        return data | ({"progress": self.progress, "result": self.result} if whole else {})


class Store:
    """The database of a studio. Any thread may call it; one at a time is within.

    Args:
        path: its file; made if it is not there.

    Raises:
        InputError: for a file that is no database, a damaged one, or one of another version of Accord.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
            self._db.row_factory = sqlite3.Row
            self._check()
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=full")
            self._db.executescript(_TABLES)
        except sqlite3.Error as error:
            raise InputError(
                f"the studio's database {str(path)!r} cannot be opened ({error}); choose another `folder`, or take the "
                "file away"
            ) from error

    def _check(self) -> None:
        """Raises sqlite3.DatabaseError for what is not to be written to."""
        if self._db.execute("pragma user_version").fetchone()[0] not in (0, VERSION):  # 0 is of a new file
            raise sqlite3.DatabaseError("it is of another version of Accord")
        if self._db.execute("pragma quick_check").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("it is damaged")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _all_or_nothing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield self._db
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    # --- jobs ---------------------------------------------------------------------------------------------------------
    def add(self, room: str, request: Mapping[str, Any], command: str, most: int) -> Job:
        """A new job at the end of the queue.

        Raises:
            InputError: if so many wait already.
        """
        name = uuid4().hex
        with self._all_or_nothing() as db:
            if self.waiting() >= most:
                raise InputError(f"{most} jobs wait already; try again when some are done")
            db.execute(
                "insert into jobs (id, room, request, command, state, made) values (?, ?, ?, ?, ?, ?)",
                (name, room, json.dumps(request), command, WAITING, time.time()),
            )
        return self.job(name)

    def add_done(self, source: str, room: str, request: Mapping[str, Any], command: str) -> Job | None:
        """A job that was done elsewhere, in the folder `source`; None if it is here already."""
        name = uuid4().hex
        with self._all_or_nothing() as db:
            if db.execute("select 1 from jobs where source = ?", (source,)).fetchone():
                return None
            now = time.time()
            db.execute(
                "insert into jobs (id, room, request, command, state, made, ended, source, progress)"
                " values (?, ?, ?, ?, ?, ?, ?, ?, '{}')",
                (name, room, json.dumps(request), command, RUNNING, now, now, source),
            )
        return self.job(name)

    def job(self, name: str) -> Job:
        """Raises Missing if there is none."""
        rows = self._rows("select * from jobs where id = ?", name)
        if not rows:
            raise Missing(name)
        return Job.of(rows[0])

    def jobs(self, most: int) -> list[Job]:
        """The newest, the newest first."""
        return [Job.of(row) for row in self._rows("select * from jobs order by number desc limit ?", most)]

    def waiting(self) -> int:
        return int(self._rows("select count(*) from jobs where state = ?", WAITING)[0][0])

    def running(self) -> int:
        return int(self._rows("select count(*) from jobs where state = ?", RUNNING)[0][0])

    def ahead(self, job: Job) -> int:
        """How many jobs are done before this one is begun."""
        if job.state != WAITING:
            return 0
        query = "select count(*) from jobs where (state = ? and number < ?) or state = ?"
        return int(self._rows(query, WAITING, job.number, RUNNING)[0][0])

    def take(self) -> Job | None:
        """The job whose turn it is, running from now on; None if none waits."""
        with self._all_or_nothing() as db:
            row = db.execute("select id from jobs where state = ? order by number limit 1", (WAITING,)).fetchone()
            if row is None:
                return None
            db.execute(
                "update jobs set state = ?, begun = ?, tries = tries + 1, progress = '{}' where id = ?",
                (RUNNING, time.time(), row["id"]),
            )
        return self.job(row["id"])

    def note(self, name: str, progress: Mapping[str, Any]) -> None:
        """How far a running job is."""
        self._rows("update jobs set progress = ? where id = ? and state = ?", json.dumps(progress), name, RUNNING)

    def end(self, name: str, state: str, result: Mapping[str, Any] | None = None, error: str | None = None) -> Job:
        """A running job has come to its end."""
        said = None if result is None else json.dumps(result)
        self._rows(
            "update jobs set state = ?, ended = ?, result = ?, error = ? where id = ? and state = ?",
            *(state, time.time(), said, error, name, RUNNING),
        )
        return self.job(name)

    def cancel(self, name: str) -> Job:
        """A job that waits is cancelled at once, a running one is to be stopped, one that has ended stays.

        Raises:
            Missing: if there is none.
        """
        with self._all_or_nothing() as db:
            db.execute(
                "update jobs set state = ?, ended = ?, stop = 1 where id = ? and state = ?",
                (CANCELLED, time.time(), name, WAITING),
            )
            db.execute("update jobs set stop = 1 where id = ? and state = ?", (name, RUNNING))
        return self.job(name)

    def forget(self, name: str) -> None:
        """Remove a job that has ended."""
        self._rows(f"delete from jobs where id = ? and state in {ENDED}", name)

    def beyond(self, most: int) -> list[Job]:
        """The oldest of the jobs that have ended, beyond so many."""
        query = f"select * from jobs where state in {ENDED} order by number desc limit -1 offset ?"
        return [Job.of(row) for row in self._rows(query, most)]

    def recover(self, tries: int) -> None:
        """After a start: what was running waits again, in its old place, unless it was to be stopped or has been begun
        so often in vain.
        """
        why = f"it was begun {tries} times and the studio ended each time; ask for less"
        now = time.time()
        with self._all_or_nothing() as db:
            db.execute("delete from jobs where state = ? and source is not null", (RUNNING,))
            db.execute("update jobs set state = ?, ended = ? where state = ? and stop = 1", (CANCELLED, now, RUNNING))
            db.execute(
                "update jobs set state = ?, ended = ?, error = ? where state = ? and tries >= ?",
                (FAILED, now, why, RUNNING, tries),
            )
            db.execute("update jobs set state = ?, progress = '{}' where state = ?", (WAITING, RUNNING))

    # --- uploads ------------------------------------------------------------------------------------------------------
    def add_upload(self, name: str, about: Mapping[str, Any]) -> None:
        self._rows("insert into uploads (id, made, about) values (?, ?, ?)", name, time.time(), json.dumps(about))

    def upload(self, name: str) -> dict[str, Any]:
        """What is known of an upload. Raises Missing if there is none."""
        rows = self._rows("select about from uploads where id = ?", name)
        if not rows:
            raise Missing(name)
        found: dict[str, Any] = json.loads(rows[0]["about"])
        return found

    def old_uploads(self, most: int) -> list[str]:
        """The oldest uploads beyond so many, that no job waits for."""
        waited = [
            json.loads(row["request"]).get("upload")
            for row in self._rows("select request from jobs where state in (?, ?)", WAITING, RUNNING)
        ]
        rows = self._rows("select id from uploads order by made desc limit -1 offset ?", most)
        return [row["id"] for row in rows if row["id"] not in waited]

    def forget_upload(self, name: str) -> None:
        self._rows("delete from uploads where id = ?", name)
