"""What the long checks share: a warm parent that processes are forked from, and the table of counts."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import datetime
import importlib
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NAME = "robustness"


def warm_up() -> None:
    """Import all of Accord and what it uses, once, so that forked processes are ready at once.

    No torch operation is run.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a forked process has none of its parent's threads
    if "HF_HOME" not in os.environ:  # what a folder could make the hub's library keep is not to be kept
        os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="accord-hub-")
        atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
    }
    warnings.simplefilter("ignore")
    import accord
    import accord_lab

    for package in (accord, accord_lab):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.startswith("accord_lab.bench.") and not found.name.endswith("__main__"):
                importlib.import_module(found.name)
    for name in (
        "av",
        "peft",
        "pyarrow.parquet",
        "torch.utils.tensorboard",
        "matplotlib.figure",
        "diffusers.pipelines.auto_pipeline",
        "fontawesomefree",
    ):
        importlib.import_module(name)
    from PIL import Image

    Image.init()


def fork(
    work: Callable[[], object], out: Path | None = None, err: Path | None = None, folder: Path | None = None
) -> int:
    """Run `work` in a process of its own, without a terminal; returns its number.

    Its exit code is that of a SystemExit, else 0, or 70 for an exception.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    with contextlib.suppress(OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it ends with its parent, however that ends
    try:
        for number, path, mode in ((0, None, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
            place = os.open(path or os.devnull, mode | (os.O_CREAT | os.O_TRUNC if path else 0), 0o644)
            os.dup2(place, number)
            os.close(place)
        if folder is not None:
            os.chdir(folder)
        try:
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def paths_of(folder: Path) -> set[str]:
    """Everything in a folder, links not followed."""
    found = set()
    for place, folders, files in os.walk(folder):
        found |= {os.path.relpath(os.path.join(place, name), folder) for name in (*folders, *files)}
    return found


def left_over(paths: set[str]) -> list[str]:
    """What of these should be gone when nothing runs any more: what is hidden, and what was being written."""
    return sorted(p for p in paths if any(part.startswith(".") or ".part" in part for part in Path(p).parts))


def write_report(out: Path, section: str, data: dict[str, Any]) -> None:
    """Put one section into `robustness.json` and write `robustness.md` of all of them."""
    path = out / f"{NAME}.json"
    out.mkdir(parents=True, exist_ok=True)
    told = json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    told[section] = {"date": datetime.date.today().isoformat(), "commit": commit, **data}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf8")
    lines = [
        "# Robustness",
        "",
        "Written by `make fuzz` and `make kill` ([tests/robustness](../../tests/robustness)). Every input and every "
        "kill is made from a number, so that each can be made again.",
    ]
    for name in sorted(told, key=list(TITLES).index):
        lines += [
            "",
            f"## {TITLES[name]}",
            "",
            f"{told[name]['date']}, commit {told[name]['commit']}. {told[name]['note']}",
            "",
            *markdown(told[name]["rows"]),
        ]
        if told[name].get("failures"):
            lines += ["", "Failures:", "", *(f"- {text}" for text in told[name]["failures"])]
    (out / f"{NAME}.md").write_text("\n".join(lines) + "\n", encoding="utf8")


TITLES = {"fuzz": "Damaged inputs", "commands": "Bad command lines", "kill": "Kills"}


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """A table, the keys of its rows as its head."""
    keys = list(rows[0])
    return [
        f"| {' | '.join(keys)} |",
        f"|{'---|' * len(keys)}",
        *(f"| {' | '.join(str(r[k]) for k in keys)} |" for r in rows),
    ]


def plain(rows: list[dict[str, Any]]) -> str:
    """The same for a terminal."""
    keys = list(rows[0])
    widths = [max(len(str(v)) for v in (k, *(r[k] for r in rows))) for k in keys]
    return "\n".join(
        "  ".join(str(v).ljust(w) for v, w in zip(line, widths, strict=True)).rstrip()
        for line in (keys, *(list(r.values()) for r in rows))
    )
