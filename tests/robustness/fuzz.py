"""`make fuzz`: thousands of generated inputs, each read in a forked process, with a limit of time and memory; and bad
command lines.

python tests/robustness/fuzz.py --count 10000 --out docs/bench
python tests/robustness/fuzz.py --kind models --seed 1234 --count 1     # one input again, as a failure names it
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from generators import KINDS, Silent, kind_of, make
from harness import fork, left_over, paths_of, plain, warm_up, write_report

SECONDS = 20.0  # that one input may take
GROWTH = 2**30  # bytes beyond the budget that reading one may add to the process
STOP = 3 * 2**30  # and at which it is stopped, before the machine suffers
MAKING = 300.0  # seconds that making an input may take, base files included
OUTCOMES = ("ok", "refused", "silent", "exception", "line break", "hang", "memory", "crash", "left over", "not made")


@dataclass
class Outcome:
    """What became of one input."""

    kind: str
    number: int
    outcome: str
    what: str = ""
    detail: str = ""
    seconds: float = 0.0
    growth: int = 0

    def __str__(self) -> str:
        return f"{self.outcome}: --kind {self.kind} --seed {self.number} ({self.what[:160]}): {self.detail}"


# --- in the worker
# --------------------------------------------------------------------------------------------------------
def memory(name: str) -> int:
    """VmRSS (now) or VmHWM (the peak) of this process, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


def serve(connection: Connection, place: Path, shared: Path) -> None:
    """Read the inputs that are asked for, one after the other."""
    from bases import Bases

    folders = {name: place / name for name in ("input", "here", "tmp")}
    os.environ["TMPDIR"] = str(folders["tmp"])
    tempfile.tempdir = None
    while True:
        kind, number = connection.recv()
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        os.chdir(folders["here"])
        try:
            case = make(kind, number, folders["input"], Bases(shared))
        except BaseException:
            connection.send(("not made", traceback.format_exc()))
            continue
        before = {name: paths_of(folder) for name, folder in folders.items()}
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        resident = memory("VmRSS")
        connection.send(("ready", case.what, case.budget, resident))
        start, outcome, detail = time.monotonic(), "ok", ""
        try:
            case.read()
        except BaseException as error:
            outcome, detail = judge(error)
        seconds, growth = time.monotonic() - start, memory("VmHWM") - resident
        if outcome in ("ok", "refused"):
            for name, folder in folders.items():
                now = paths_of(folder)
                changed = sorted(now ^ before[name])
                if (
                    case.writes and name == "input"
                ):  # what was there before is swept by what goes on, not by what is refused
                    changed = left_over(now if outcome == "ok" else now - before[name])
                if changed:
                    outcome, detail = "left over", f"{name}: {', '.join(changed[:3])} ({outcome})"
        connection.send(("done", outcome, detail.replace(str(place), "").replace(str(shared), ""), seconds, growth))


def judge(error: BaseException) -> tuple[str, str]:
    """(outcome, why) of what was raised."""
    from accord.types import InputError

    text = str(error)
    if isinstance(error, Silent):
        return "silent", text
    if isinstance(error, InputError):
        broken = len(text.splitlines()) != 1
        return ("line break", repr(text[:300])) if broken else ("refused", text)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/accord/" in f.filename]
    where = "".join(f" at {f.filename.rpartition('/accord/')[2]}:{f.lineno}" for f in frames[-2:])
    return "exception", f"{type(error).__name__}: {(text.splitlines() or [''])[0][:200]}{where}"


# --- in the parent
# --------------------------------------------------------------------------------------------------------
class Worker:
    """A forked process that reads inputs, and is forked again if it dies."""

    def __init__(self, place: Path, shared: Path) -> None:
        self.place, self.shared = place, shared
        self.job: tuple[str, int] | None = None
        self._start()

    def _start(self) -> None:
        self.connection, theirs = Pipe()
        ours = self.connection

        def work() -> None:
            ours.close()
            serve(theirs, self.place, self.shared)

        self.pid = fork(work)
        theirs.close()

    def give(self, kind: str, number: int) -> None:
        self.job, self.since, self.told = (kind, number), time.monotonic(), None
        self.connection.send((kind, number))

    def hear(self) -> Outcome | None:
        """What became of the input, once that is known."""
        assert self.job is not None
        try:
            if not self.connection.poll():
                return self._watched()
            said = self.connection.recv()
        except (EOFError, ConnectionError):
            return self._dead("crash", "the process died")
        if said[0] == "ready":
            self.told, self.since = said[1:], time.monotonic()
            return None
        kind, number = self.job
        self.job = None
        if said[0] == "not made":
            return Outcome(kind, number, "not made", "", said[1].strip().splitlines()[-1])
        _, outcome, detail, seconds, growth = said
        what, allowed = self.told[0], self._allowed()
        if growth > allowed and outcome in ("ok", "refused"):
            outcome, detail = (
                "memory",
                f"{growth / 2**20:.0f} MB, {allowed / 2**20:.0f} are allowed ({outcome}: {detail[:80]})",
            )
        if seconds > SECONDS and outcome in ("ok", "refused"):
            outcome, detail = "hang", f"{seconds:.0f} s"
        return Outcome(kind, number, outcome, what, detail, seconds, growth)

    def _allowed(self) -> int:
        return GROWTH + budget(self.told[1])

    def _watched(self) -> Outcome | None:
        """Stops what takes too long or too much."""
        waited = time.monotonic() - self.since
        if self.told is None:
            if waited > MAKING:
                raise RuntimeError(f"making {self.job} takes too long")
            return None
        if waited > SECONDS + 1:
            return self._dead("hang", f"more than {SECONDS:.0f} s")
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return None
        grown = pages * os.sysconf("SC_PAGE_SIZE") - self.told[2]
        return (
            self._dead("memory", f"stopped at {grown / 2**20:.0f} MB") if grown > STOP + budget(self.told[1]) else None
        )

    def _dead(self, outcome: str, detail: str) -> Outcome:
        assert self.job is not None
        kind, number = self.job
        self.job = None
        self.stop()
        what = self.told[0] if self.told else "while it was made"
        found = Outcome(kind, number, outcome, what, detail, time.monotonic() - self.since)
        self._start()
        return found

    def stop(self) -> None:
        with_status = 0
        try:
            os.kill(self.pid, signal.SIGKILL)
            _, with_status = os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        self.connection.close()
        self.status = with_status


def budget(kind: str) -> int:
    """Accord's own budget of bytes for what an input becomes."""
    if not kind:
        return 0
    try:
        from accord import files
    except ImportError:  # before there were budgets
        return {"picture": 400, "video": 1024, "table": 1024}[kind] * 2**20
    return files.budget(kind)


def run(
    jobs: Iterator[tuple[str, int]], processes: int, shared: Path, until: float, show: bool = True
) -> list[Outcome]:
    """All outcomes."""
    found: list[Outcome] = []
    workers = [Worker(shared / f"worker-{i}", shared / "bases") for i in range(processes)]
    try:
        (shared / "bases").mkdir(exist_ok=True)
        for worker in workers:
            if (job := next(jobs, None)) is not None:
                worker.give(*job)
        told = time.monotonic()
        while busy := [w for w in workers if w.job is not None]:
            wait([w.connection for w in busy], timeout=0.1)
            for worker in busy:
                if (outcome := worker.hear()) is None:
                    continue
                found.append(outcome)
                if show and outcome.outcome not in ("ok", "refused"):
                    print(outcome, flush=True)
                if time.monotonic() < until and (job := next(jobs, None)) is not None:
                    worker.give(*job)
            if show and time.monotonic() - told > 60:
                told = time.monotonic()
                print(f"... {len(found)} inputs", file=sys.stderr, flush=True)
    finally:
        for worker in workers:
            worker.stop()
    return found


def rows_of(found: list[Outcome]) -> list[dict[str, Any]]:
    """A row a kind, and one of all."""
    rows = []
    for kind in [*KINDS, "all"]:
        mine = [o for o in found if kind in (o.kind, "all")]
        if not mine:
            continue
        counts = Counter(o.outcome for o in mine)
        seconds = sum(o.seconds for o in mine)
        rows.append(
            {
                "kind": kind,
                "inputs": len(mine),
                **{name: counts[name] for name in OUTCOMES},
                "longest s": f"{max(o.seconds for o in mine):.1f}",
                "largest growth MB": round(max(o.growth for o in mine) / 2**20),
                "inputs a second": f"{len(mine) / max(seconds, 1e-9):.0f}",
            }
        )
    return rows


# --- command lines
# --------------------------------------------------------------------------------------------------------
class Slot:
    """A folder with the files that bad command lines name, in which one of them runs at a time."""

    def __init__(self, place: Path) -> None:
        from commands import bad_commands

        self.folder, self.out, self.err = place / "folder", place / "out", place / "err"
        place.mkdir()
        self.lines: list[list[str]] = bad_commands(self.folder)
        self.before, self.line = paths_of(self.folder), [""]
        self.pid = 0

    def start(self, line: list[str]) -> None:
        def work() -> None:
            from accord.cli import main

            sys.argv = ["accord", *line]
            main()

        self.line, self.since = line, time.monotonic()
        self.pid = fork(work, self.out, self.err, self.folder)

    def end(self) -> str | None:
        """Why the line was not refused as it should be, "" if it was; None if it still runs."""
        done, told = os.waitpid(self.pid, os.WNOHANG)
        if not done and time.monotonic() - self.since < SECONDS:
            return None
        faults = []
        if not done:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            faults.append(f"more than {SECONDS:.0f} s")
        elif (code := os.waitstatus_to_exitcode(told)) != 2:
            faults.append(f"exit code {code}")
        self.pid = 0
        text = self.err.read_text(errors="replace")
        if len(text.splitlines()) != 1:
            faults.append(f"{len(text.splitlines())} lines on stderr: {text[-200:]!r}")
        if self.out.stat().st_size:
            faults.append("something on stdout")
        if changed := paths_of(self.folder) ^ self.before:
            faults.append(f"left behind or taken away: {', '.join(sorted(changed)[:3])}")
            shutil.rmtree(self.folder)
            from commands import bad_commands

            bad_commands(self.folder)
        said = f"accord {' '.join(self.line)[:200]}: {', '.join(faults)}" if faults else ""
        return said.encode("utf8", "replace").decode().replace(str(self.folder), "")


def run_commands(shared: Path, processes: int) -> list[str] | None:
    """Why each bad command line was not refused as it should be ("" for one that was);

    None if there is no list of them.
    """
    try:
        slots = [Slot(shared / f"commands-{i}") for i in range(processes)]
    except ImportError:
        return None
    waiting, found = list(reversed(slots[0].lines)), []
    while waiting or any(s.pid for s in slots):
        for slot in slots:
            if slot.pid and (said := slot.end()) is not None:
                found.append(said)
                if said:
                    print(said, flush=True)
            if not slot.pid and waiting:
                slot.start(waiting.pop())
        time.sleep(0.005)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first input")
    parser.add_argument("--kind", choices=[*KINDS, "commands"])
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no more inputs after so many")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--inputs-only", action="store_true", help="without the bad command lines")
    parser.add_argument("--out", type=Path, help="folder for robustness.json and robustness.md")
    told = parser.parse_args(arguments)
    warm_up()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="accord-fuzz-") as scratch:
        shared, start = Path(scratch), time.monotonic()
        if told.kind != "commands":
            jobs = ((told.kind or kind_of(n), n) for n in range(told.seed, told.seed + told.count))
            found = run(jobs, told.processes, shared, start + 60 * told.minutes)
            rows, bad = rows_of(found), [o for o in found if o.outcome not in ("ok", "refused")]
            failed += len(bad)
            minutes = (time.monotonic() - start) / 60
            print(f"{plain(rows)}\n{len(found)} inputs in {minutes:.1f} minutes")
            if told.out is not None:
                note = (
                    f"{len(found)} inputs from number {told.seed} on, in {minutes:.0f} minutes. ok: read; refused: "
                    "InputError on one line. All else is a failure: "
                    "a result that is wrong and says nothing, another exception, a refusal of several lines, more "
                    f"than {SECONDS:.0f} s, more than {GROWTH // 2**30} GB beyond the budget, "
                    "the end of the process, something left on the disk."
                )
                write_report(told.out, "fuzz", {"rows": rows, "failures": [str(o) for o in bad], "note": note})
        if (
            told.kind in (None, "commands")
            and not told.inputs_only
            and (lines := run_commands(shared, told.processes)) is not None
        ):
            wrong = [text for text in lines if text]
            failed += len(wrong)
            print(f"{len(lines)} bad command lines, {len(lines) - len(wrong)} refused as they should be")
            if told.out is not None:
                rows = [
                    {
                        "command lines": len(lines),
                        "refused (exit code 2, one line, nothing left)": len(lines) - len(wrong),
                        "failures": len(wrong),
                    }
                ]
                write_report(
                    told.out, "commands", {"rows": rows, "failures": wrong, "note": "Each in a process of its own."}
                )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
