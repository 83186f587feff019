"""Clocks and scales: work that takes turns, processes of their own, peaks of memory.

Variants of a measurement take turns (A B C A B C ...), so that whatever else the machine does slows all of them; what
is reported is the median over the rounds, and the median of each round's ratio to the first variant.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm.auto import tqdm

from accord.diffusion.pipelines import check_device, default_device
from accord.types import InputError

MIB = 2**20


def here(device: str | None) -> str:
    """The device that is named, or the default one.

    Raises:
        InputError: if it is not here.
    """
    device = device or default_device()
    check_device(device)
    return device


def seconds_of(work: Callable[[], object], device: str = "cpu") -> float:
    """Wall time of `work`, on a GPU until it is done there."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def turns(
    work: Mapping[str, Callable[[], object]], repeats: int, device: str, label: str = "", progress: bool = False
) -> dict[str, list[float]]:
    """Seconds of each in each round; warm them up before."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in tqdm(range(repeats), desc=label, disable=not progress, leave=False):
        for name, function in work.items():
            taken[name].append(seconds_of(function, device))
    return taken


def ratios(taken: Mapping[str, list[float]], name: str) -> list[float]:
    """Of each round, the time of `name` as a multiple of the first one's."""
    return [a / b for a, b in zip(taken[name], next(iter(taken.values())), strict=True)]


def interleaved(
    work: Mapping[str, Callable[[], object]], repeats: int, device: str, label: str = "", progress: bool = False
) -> dict[str, dict[str, float]]:
    """Seconds (median) and ratio to the first variant (median over the rounds) of each; warm them up before."""
    taken = turns(work, repeats, device, label, progress)
    return {name: {"seconds": median(taken[name]), "ratio": median(ratios(taken, name))} for name in work}


def alone(what: str, work: Callable[..., Any], *args: Any) -> Any:
    """What `work(*args)` returns in a fresh process with as many threads.

    Raises:
        InputError: naming `what`, if the process is killed.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_with_threads, torch.get_num_threads(), work, *args).result()
    except BrokenProcessPool as error:
        raise InputError(f"{what} was killed, most likely for want of memory; use `quick=True`") from error


def _with_threads(threads: int, work: Callable[..., Any], *args: Any) -> Any:
    torch.set_num_threads(threads)
    return work(*args)


def cuda_peak(work: Callable[[], object], device: str) -> float:
    """MiB of the GPU that `work` needs at its peak, over what there was before."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return (torch.cuda.max_memory_allocated(device) - before) / MIB


def peak_of(work: Callable[[], object]) -> float:
    """MiB of this process that `work` takes at its peak, over what there was before."""
    with suppress(OSError):  # Linux: begin `peak_rss` anew; elsewhere loading stays in it
        Path("/proc/self/clear_refs").write_text("5")
    before = peak_rss()
    work()
    return (peak_rss() - before) / MIB


def peak_rss() -> int:
    """Bytes. Linux's own file first: its `ru_maxrss` starts at what the parent process ever held."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_of(pid: int, anew: bool = False) -> tuple[float, float]:
    """MiB that another process holds, and that it held at its peak.

    Args:
        anew: whether the peak begins now.

    Raises:
        InputError: where the system does not say (it is not Linux).
    """
    try:
        if anew:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        said = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        now, peak = (int(said[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    except (OSError, KeyError) as error:
        raise InputError("the memory of another process is not known here; run this bench on Linux") from error
    return now, peak


def rounded(data: dict[str, Any]) -> dict[str, Any]:
    """All floats to 4 significant digits."""
    return {k: _rounded(v) for k, v in data.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return rounded(value)
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
