"""`make kill`: every command that can be resumed is killed at random moments, run to the end, and compared with a run
that was left alone.

python tests/robustness/kill.py --count 100 --out docs/bench
python tests/robustness/kill.py --command context --count 3 --seed 7
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from bases import PROMPTS, moving
from harness import fork, left_over, paths_of, plain, warm_up, write_report

LONGEST = 300.0  # seconds that a run may take


@dataclass(frozen=True)
class Command:
    """Something that can be resumed.

    Attributes:
        lines: command lines, run one after the other in the folder that `prepare` has filled.
    """

    lines: tuple[str, ...]
    prepare: Callable[[Path], object] = lambda folder: None


@dataclass
class Tally:
    """What became of one command's kills."""

    kills: int = 0
    runs: int = 0
    identical: int = 0
    left: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


# --- what is run
# ----------------------------------------------------------------------------------------------------------
def _prompts(folder: Path) -> None:
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")


def _pictures(folder: Path) -> None:
    """Scenes of the lab with their captions."""
    import json

    from PIL import Image

    from accord_lab.scenes.pairs import rendered_pairs

    place = folder / "pictures"
    place.mkdir()
    images, captions = rendered_pairs(16, 1)
    rows = []
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(place / f"{i:02d}.png")
        rows.append(json.dumps({"file_name": f"{i:02d}.png", "text": caption}))
    (place / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def _frames(folder: Path) -> None:
    (folder / "frames").mkdir()
    for i, frame in enumerate(moving(3, 64)):
        frame.save(folder / "frames" / f"{i:05d}.png")


def _parts(folder: Path) -> None:
    """The parts of the lab that the denoiser builds on."""
    from accord.embedded import FOLDER

    shutil.copytree(FOLDER / "pipeline" / "vae", folder / "lab" / "vae")
    shutil.copytree(FOLDER / "clip", folder / "lab" / "clip")


COMMANDS = {
    "lab-vae": Command(("train lab vae --out lab --steps 5",)),
    "lab-clip": Command(("train lab clip --out lab --steps 5",)),
    "lab-captioner": Command(("train lab captioner --out lab --steps 5",)),
    "lab-denoiser": Command(("train lab denoiser --out lab --steps 3",), _parts),
    "reward": Command(
        (
            "train reward --prompts prompts.txt --out out --reward likelihood --held-out clip --steps 4 --batch-size "
            "2 --inference-steps 2 --anchors 2 --eval-every 2 --device cpu --json",
        ),
        _prompts,
    ),
    "inverter": Command(
        (
            "train inverter --pairs pictures --kind clip --kind vit --steps 5 --batch-size 4 --curriculum prefix "
            "--similar 1 --out out --device cpu --json",
        ),
        _pictures,
    ),
    "context": Command(("train context --scenes 8 --steps 5 --batch-size 2 --out out --device cpu --json",)),
    "generate": Command(
        tuple(
            f"generate --prompts prompts.txt --steps 4 --batch-size 1 --out out --device cpu --json {shard}"
            for shard in ("--shard 1/2", "--shard 2/2", "")
        ),
        _prompts,
    ),
    "realign": Command(
        ("realign --prompts prompts.txt --steps 4 --rounds 1 --batch-size 1 --out out --device cpu --json",), _prompts
    ),
    "pairs": Command(("pairs make --prompts prompts.txt --steps 4 --out out --device cpu --json",), _prompts),
    "invert": Command(
        tuple(f"invert --folder pictures --out words.parquet --shard {i}/3 --device cpu --json" for i in (1, 2, 3)),
        _pictures,
    ),
    "eval": Command(
        tuple(
            f"eval scenes --model lab --every 128 --seeds 3 --steps 2 --batch-size 2 --shard {i}/2 --out run --device "
            "cpu --json"
            for i in (1, 2)
        )
    ),
    "score": Command(
        ("score --pairs pictures/metadata.jsonl --out scores.csv --batch-size 2 --device cpu --json",), _pictures
    ),
    "edit": Command(
        (
            "edit frames --source circle --target square --frames 0:3 --tune-steps 5 --steps 2 --tuned tuned --out "
            "out.gif --device cpu --json",
        ),
        _frames,
    ),
}


def often() -> None:
    """Let runs of seconds have what runs of hours have: a checkpoint every second step, parts of two pairs.

    The lab's recipes are made small.
    """
    from accord.evaluation import pictures, run
    from accord.methods.invert.pairs import make_parts
    from accord.training.loop import Run
    from accord_lab.recipes import captioner, clip, denoiser, vae

    begin, drawn = Run.__init__, vae.batch

    def begun(self: Any, modules: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, modules, replace(config, save_every=2, log_every=1), *args, **kwargs)

    still = SimpleNamespace(perf_counter=lambda: 0.0)  # rows hold times, which no two runs share
    run.time = pictures.time = still  # type: ignore[assignment]
    Run.__init__ = begun  # type: ignore[method-assign]
    assert make_parts.__kwdefaults__ is not None
    make_parts.__kwdefaults__["part_size"] = 2
    vae.batch = lambda rng, size, crop: drawn(rng, min(size, 16), crop)  # type: ignore[assignment]
    denoiser.SCENES, denoiser.CENTRED = 60, 8
    for recipe, size in ((vae, 4), (clip, 8), (captioner, 8), (denoiser, 4)):
        *others, _ = recipe.train.__defaults__ or ()
        recipe.train.__defaults__ = (*others, size)


# --- running, killing, comparing
# --------------------------------------------------------------------------------------------
class Trials:
    """One command in a folder: the same path each time, as what is made may name it."""

    def __init__(self, command: Command, folder: Path) -> None:
        self.command, self.folder = command, folder
        self.here, self.inputs, self.err = folder / "here", folder / "inputs", folder / "stderr"
        self.inputs.mkdir(parents=True)
        self.wait(fork(lambda: command.prepare(self.inputs), err=self.err))
        self.fresh()
        start = time.monotonic()
        if self.wait(self.start()):
            raise RuntimeError(f"the command fails by itself: {self.err.read_text(errors='replace')[-500:]}")
        self.seconds = time.monotonic() - start
        self.reference = digests(self.here)

    def fresh(self) -> None:
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(self.inputs, self.here)

    def start(self) -> int:
        """Fork a process that runs the command."""

        def work() -> None:
            from accord.cli import main

            often()
            for line in self.command.lines:
                sys.argv = ["accord", *line.split()]
                try:
                    main()
                except SystemExit as end:
                    if end.code:
                        raise

        return fork(work, err=self.err, folder=self.here)

    def wait(self, pid: int, seconds: float = LONGEST) -> int | None:
        """Its exit code; None if it still runs after so long, and was killed."""
        until = time.monotonic() + seconds
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= until:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return None
            time.sleep(0.002)

    def trial(self, rng: Random, tally: Tally) -> None:
        """Kill once or twice, run to the end, compare."""
        self.fresh()
        kills, moments = 0, []
        for _ in range(rng.choice((1, 1, 2))):
            moment = rng.random() * self.seconds
            if self.wait(self.start(), moment) is not None:
                break  # it was at its end before
            kills += 1
            moments.append(f"{moment:.2f} s")
        if not kills:
            return
        before = time.monotonic()
        code = self.wait(self.start())
        tally.seconds = max(tally.seconds, time.monotonic() - before)
        tally.kills, tally.runs = tally.kills + kills, tally.runs + 1
        found = digests(self.here)
        hidden = left_over(paths_of(self.here))
        other = sorted(
            k for k in {*found, *self.reference} if found.get(k) != self.reference.get(k) and k not in hidden
        )
        when = f"killed after {' and '.join(moments)} of {self.seconds:.1f}"
        if code != 0:
            tally.failures.append(f"{when}: exit code {code}: {self.err.read_text(errors='replace')[-300:].strip()!r}")
        elif other:
            tally.failures.append(f"{when}: other than the reference: {', '.join(other[:5])}")
        else:
            tally.identical += kills
        if hidden:
            tally.left += 1
            tally.failures.append(f"{when}: left over: {', '.join(hidden[:5])}")


def digests(folder: Path) -> dict[str, str]:
    """A digest of every file but TensorBoard's, which have times in them; of manifests without their seconds."""
    files = [p for p in folder.rglob("*") if p.is_file() and "tensorboard" not in p.relative_to(folder).parts]
    return {str(p.relative_to(folder)): hashlib.sha256(_timeless(p)).hexdigest() for p in files}


def _timeless(path: Path) -> bytes:
    data = path.read_bytes()
    return re.sub(rb'"seconds": [\d.e-]+, ', b"", data) if path.name.startswith("manifest") else data


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="kills, over all commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--command", choices=list(COMMANDS), action="append", help="repeat for several; all if not given"
    )
    parser.add_argument("--out", type=Path, help="folder for robustness.json and robustness.md")
    told = parser.parse_args(arguments)
    warm_up()
    names = told.command or list(COMMANDS)
    tallies: dict[str, Tally] = {}
    start = time.monotonic()
    for place, name in enumerate(names):
        wanted = told.count // len(names) + (place < told.count % len(names))
        tally = tallies[name] = Tally()
        if not wanted:
            continue
        with tempfile.TemporaryDirectory(prefix="accord-kill-") as scratch:
            try:
                trials, rng = Trials(COMMANDS[name], Path(scratch) / "work"), Random(f"{name} {told.seed}")
            except RuntimeError as error:
                tally.failures.append(str(error).replace(scratch, ""))
            else:
                tally.seconds = trials.seconds
                for _ in range(3 * wanted):  # one that ends before it is killed does not count
                    if tally.kills >= wanted:
                        break
                    trials.trial(rng, tally)
                tally.failures = [text.replace(scratch, "") for text in tally.failures]
        print(
            f"{name}: {tally.kills} kills, {tally.identical} identical, {tally.left} with something left over, "
            f"{tally.seconds:.1f} s the longest run",
            flush=True,
        )
        for text in tally.failures:
            print(f"  {text}", flush=True)
    rows: list[dict[str, Any]] = [
        {
            "command": n,
            "kills": t.kills,
            "identical": t.identical,
            "runs with left-overs": t.left,
            "longest run s": f"{t.seconds:.1f}",
        }
        for n, t in tallies.items()
        if t.kills or t.failures
    ]
    rows.append(
        {
            "command": "all",
            **{k: sum(r[k] for r in rows) for k in ("kills", "identical", "runs with left-overs")},
            "longest run s": "",
        }
    )
    minutes = (time.monotonic() - start) / 60
    print(f"{plain(rows)}\n{minutes:.1f} minutes")
    failures = [f"{name}: {text}" for name, tally in tallies.items() for text in tally.failures]
    if told.out is not None:
        note = (
            "SIGKILL at a moment drawn uniformly over the run, sometimes again during the resume, then a run to the "
            f"end, in {minutes:.0f} minutes. identical: every file that was made is that of a run "
            "that was left alone, bit for bit, TensorBoard's logs aside. Left over: hidden files or folders, locks, "
            "parts."
        )
        write_report(told.out, "kill", {"rows": rows, "failures": failures, "note": note})
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
