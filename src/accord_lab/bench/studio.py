"""`accord bench studio`: seconds from a click to the first picture; memory over a long queue, and whether each job is
done once.

The studio runs in a process of its own and is asked over HTTP, as its page asks it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from accord.studio.client import Client
from accord.types import InputError
from accord_lab.bench.measure import memory_of, rounded
from accord_lab.bench.report import stamp, table
from accord_lab.bench.runner import Bench

PROMPT = "two yellow stars and a purple moon"
BUSY = 0.5  # load of a machine that does other work


@dataclass(frozen=True)
class Plan:
    """How much is asked for.

    Attributes:
        clicks: repairs, one after the other, with the room's own settings.
        jobs: that wait at once, each a picture of so many `steps` and no round.
        each: jobs between two looks at the memory.
        listeners: streams of events that are open all the while.
    """

    clicks: int = 20
    jobs: int = 200
    each: int = 50
    listeners: int = 20
    steps: int = 10


class Served:
    """`accord studio` in a process of its own, on a free port of this machine.

    Args:
        folder: for its log, and for its jobs in `folder/studio`.
        words: further options.

    Raises:
        InputError: if it does not start.
    """

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder, self.words = folder, words
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        command = [sys.executable, "-m", "accord", "studio", "--port", "0", "--folder", str(self.folder / "studio")]
        path = self.folder / "log.txt"
        with open(path, "a", encoding="utf8") as log:
            self.process = subprocess.Popen([*command, *self.words], stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        found = re.search(r"http://\S+(?=/)", self.process.stdout.readline())
        if found is None:
            self.kill()
            said = path.read_text(encoding="utf8").strip().removeprefix("accord: ") or "it says nothing"
            raise InputError(f"the studio did not start: {said}")
        self.url = found[0]

    def kill(self) -> None:
        """As `kill -9` does."""
        self.process.kill()
        self.process.wait(60)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()


@dataclass(kw_only=True)
class Studio(Bench[Plan, dict[str, Any]]):
    """One studio: first the clicks, then the queue."""

    name = "studio"
    plans = (Plan(), Plan(clicks=3, jobs=20, each=10, listeners=4))

    def measure(self, cell: Plan) -> dict[str, Any]:
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as scratch, Served(Path(scratch)) as served, Client(served.url) as studio:
            studio.repair(PROMPT, steps=4)  # the warm-up: models are loaded
            clicks = [click(studio, seed) for seed in range(cell.clicks)]
            queue = queued(studio, served.process.pid, cell)
        seconds = {kind: _spread([c[kind] for c in clicks]) for kind in ("preview", "picture")}
        about = {**stamp("cpu"), "cores": os.cpu_count(), "load_before": load}
        return rounded({**about, "clicks": cell.clicks, "seconds": seconds, **queue})

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        names = {"preview": "the first preview", "picture": "the first picture, judged and fetched"}
        rows = [[names[kind], *(f"{n:.2f}" for n in s.values())] for kind, s in data["seconds"].items()]
        memory = [[n, f"{mib:.0f}"] for n, mib in data["memory_mib"].items()]
        shared = f"The machine had other work: its load was {data['load_before']:.1f} before. "
        return (
            "# The studio\n\nThe studio on the lab, in a process of its own, asked over HTTP as its page asks it. "
            f"{data['device']}, {data['cores']} cores, {data['threads']} thread{'s' * (data['threads'] > 1)}. "
            f"{shared if data['load_before'] > BUSY else ''}The models were loaded before.\n\n"
            f"Seconds after the click, {data['clicks']} repairs with the settings of the room:\n\n"
            f"{table(['until', 'median', 'fastest', 'slowest'], rows)}\n\n"
            f"{data['jobs']} jobs queued at once, each a picture of {data['steps']} steps, while {data['listeners']} "
            f"listeners follow them: {data['jobs_a_second']:.1f} jobs a second, {data['lost']} lost, {data['doubled']} "
            "done twice. The studio's memory, which at its peak was "
            f"{data['peak_mib']:.0f} MiB:\n\n{table(['jobs done', 'MiB'], memory)}\n"
        )


def click(studio: Client, seed: int) -> dict[str, float]:
    """Seconds from the request of a repair to its first preview, and to its first picture; then it is cancelled."""
    began, found = time.perf_counter(), {}
    job = studio.submit("repair", prompt=PROMPT, seed=seed)["id"]
    studio.job(job)  # as the page does before it listens
    for kind, data in studio.events(job):
        if kind == "preview" and "preview" not in found:
            found["preview"] = time.perf_counter() - began
        if kind == "rounds":
            studio.file(job, data["value"]["row"]["image"])
            found["picture"] = time.perf_counter() - began
            break
    studio.cancel(job)
    studio.wait(job)
    return found


def queued(studio: Client, pid: int, plan: Plan) -> dict[str, Any]:
    """What becomes of many jobs that wait at once, and of the memory of the process that does them."""
    memory_of(pid, anew=True)
    began = time.perf_counter()
    jobs = [studio.submit("repair", prompt=PROMPT, seed=k, steps=plan.steps, rounds=0)["id"] for k in range(plan.jobs)]
    memory = {0: memory_of(pid)[0]}
    with ThreadPoolExecutor(plan.listeners) as pool:
        following = [pool.submit(_followed, studio.url, jobs[k :: plan.listeners]) for k in range(plan.listeners)]
        done = 0
        while done < plan.jobs:
            time.sleep(0.1)
            health = studio.health()
            done = plan.jobs - health["queued"] - health["running"]
            mark = done // plan.each * plan.each
            if mark not in memory:
                memory[mark] = memory_of(pid)[0]
        seconds = time.perf_counter() - began
        told = {job: begun for f in following for job, begun in f.result().items()}
    ends = [studio.job(job) for job in jobs]
    return {
        "jobs": plan.jobs,
        "listeners": plan.listeners,
        "steps": plan.steps,
        "lost": sum(end["state"] != "done" or not studio.file(end["id"], "after.png") for end in ends),
        "doubled": sum(len(told[job]) > 1 for job in jobs),
        "jobs_a_second": plan.jobs / seconds,
        "memory_mib": {str(n): mib for n, mib in memory.items()},
        "peak_mib": memory_of(pid)[1],
    }


def _followed(url: str, jobs: Sequence[str]) -> dict[str, set[float]]:
    """Of each job when it was begun, as its events tell: a job that is done twice has two times."""
    found: dict[str, set[float]] = {job: set() for job in jobs}
    with Client(url) as studio:
        for job in jobs:
            for kind, data in studio.events(job):
                if kind == "job" and data["begun"] is not None:
                    found[job].add(data["begun"])
    return found


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": median(seconds), "fastest": min(seconds), "slowest": max(seconds)}
