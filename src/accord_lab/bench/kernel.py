"""`accord bench invert --kernel`: time and memory of domain adaptation (DAKL), ours in chunks beside scikit-learn's
direct route.

The direct route holds every kernel row: KMeans on both domains, `rbf_kernel`, Ridge. Each measurement has a process of
its own, so
that its peak memory is its own. Rows are random unit vectors: time and memory do not depend on what they say.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from accord.files import check_writable, write_file
from accord.methods.invert.kernel import DomainKernel
from accord.types import InputError
from accord_lab.bench.speed import MIB, peak_rss

WIDTH = 384
GAMMA, PENALTY, KMEANS_STEPS = 10.0, 1e-4, 10
SIZES = ((20_000, 500), (50_000, 2_000), (100_000, 4_000))  # rows of the source (the target has as many), centroids
LARGE = (1_000_000, 10_000)
DIRECT_MIB = 8000.0  # the direct route is left out where its rows alone would take more


def main(out: Path, quick: bool = False, large: bool = False, progress: bool = True) -> tuple[dict[str, Any], str]:
    """Fit and apply at each size; writes `kernel.json` and `.md` (`kernel-quick.*` with `quick`).

    Args:
        large: the largest size too, an hour or more on 2 cores.
    """
    check_writable(out)
    sizes = ((2_000, 100),) if quick else (*SIZES, *((LARGE,) if large else ()))
    rows = []
    for count, centroids in tqdm(sizes, desc="domain adaptation", disable=not progress):
        row: dict[str, Any] = {"rows": count, "centroids": centroids, "ours": measured("ours", count, centroids)}
        if count * (WIDTH + centroids) * 4 / MIB <= DIRECT_MIB:
            row["direct"] = measured("direct", count, centroids)
        rows.append(row)
    data = {
        "bench": "invert --kernel",
        "quick": quick,
        "width": WIDTH,
        "threads": torch.get_num_threads(),
        "rows": rows,
    }
    lines = [
        "| rows | centroids | ours, s | peak, MiB | scikit-learn, s | peak, MiB | time ratio | memory ratio |",
        "|" + "---|" * 8,
    ]
    for row in rows:
        ours, direct = row["ours"], row.get("direct")
        cells = [f"{row['rows']:,}", f"{row['centroids']:,}", f"{ours['seconds']:.1f}", f"{ours['peak_mib']:.0f}"]
        if direct:
            cells += [f"{direct['seconds']:.1f}", f"{direct['peak_mib']:.0f}"]
            cells += [f"{ours['seconds'] / direct['seconds']:.2f}", f"{ours['peak_mib'] / direct['peak_mib']:.2f}"]
        else:
            cells += ["-"] * 4
        lines.append("| " + " | ".join(cells) + " |")
    text = (
        "# domain adaptation (DAKL)\n\n"
        f"Fitted on so many labelled rows of {WIDTH} numbers and applied to as many of the target set, "
        f"{data['threads']} threads; peak memory over "
        "the rows themselves. Left out where the direct route's kernel rows alone would take 8 GB.\n\n"
        + "\n".join(lines)
        + "\n"
    )
    stem = "kernel-quick" if quick else "kernel"
    write_file(out / f"{stem}.json", (json.dumps(data, indent=1) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    return data, text


def measured(way: str, count: int, centroids: int) -> dict[str, float]:
    """Seconds and MiB over the data, in a fresh process.

    Raises:
        InputError: if it is killed.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_measure, way, count, centroids, torch.get_num_threads()).result()
    except BrokenProcessPool as error:
        raise InputError(
            f"{count} rows with {centroids} centroids ({way}) were killed, most likely for want of memory; "
            "use `quick=True`"
        ) from error


def rows_of(count: int, seed: int) -> torch.Tensor:
    """Unit vectors [count, WIDTH]."""
    return F.normalize(torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=-1)


def _measure(way: str, count: int, centroids: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    source, answers, target = (rows_of(count, seed) for seed in range(3))
    WAYS[way](source[:200], answers[:200], target[:200], 8)  # the warm-up
    with suppress(OSError):  # Linux: forget the peak of making the rows
        Path("/proc/self/clear_refs").write_text("5")
    before, began = peak_rss(), time.perf_counter()
    WAYS[way](source, answers, target, centroids)
    return {"seconds": round(time.perf_counter() - began, 2), "peak_mib": round((peak_rss() - before) / MIB, 1)}


def ours(source: torch.Tensor, answers: torch.Tensor, target: torch.Tensor, centroids: int) -> torch.Tensor:
    """The adapted answers for the target set, [M, WIDTH]."""
    return DomainKernel.fit(source, answers, target, centroids, GAMMA, PENALTY)(target)


def direct(source: torch.Tensor, answers: torch.Tensor, target: torch.Tensor, centroids: int) -> torch.Tensor:
    """The same with scikit-learn, all kernel rows held at once.

    Raises:
        InputError: if scikit-learn is missing.
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.linear_model import Ridge
        from sklearn.metrics.pairwise import rbf_kernel
    except ImportError as error:
        raise InputError("the direct route needs scikit-learn; pip install scikit-learn") from error
    found = [
        KMeans(centroids // 2, init="random", n_init=1, max_iter=KMEANS_STEPS, random_state=s)
        .fit(x.numpy())
        .cluster_centers_
        for s, x in enumerate((source, target))
    ]
    centres = F.normalize(torch.cat([torch.from_numpy(f) for f in found]).float(), dim=-1).numpy()

    def rows(x: torch.Tensor) -> np.ndarray:
        # exp(-gamma (1 - cos) / 2) = exp(-gamma |a - b|^2 / 4) for unit vectors
        return np.concatenate([x.numpy(), rbf_kernel(x.numpy(), centres, gamma=GAMMA / 4)], axis=1)

    model = Ridge(alpha=PENALTY * len(source)).fit(rows(source), answers.numpy())
    return F.normalize(torch.from_numpy(model.predict(rows(target))).float(), dim=-1)


WAYS = {"ours": ours, "direct": direct}
