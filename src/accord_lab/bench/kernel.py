"""`accord bench kernel`: time and memory of domain adaptation (DAKL), ours in chunks beside scikit-learn's.

The direct route holds every kernel row: KMeans on both domains, `rbf_kernel`, Ridge. Each measurement has a process of
its own, so that its peak memory is its own. Rows are random unit vectors: time and memory do not depend on what they
say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from accord.methods.invert.kernel import DomainKernel
from accord.types import InputError
from accord_lab.bench.measure import MIB, alone, peak_of, seconds_of
from accord_lab.bench.report import stamp, table
from accord_lab.bench.runner import Bench

WIDTH = 384
GAMMA, PENALTY, KMEANS_STEPS = 10.0, 1e-4, 10
SIZES = ((20_000, 500), (50_000, 2_000), (100_000, 4_000))  # rows of the source (the target has as many), centroids
LARGE = (1_000_000, 10_000)
DIRECT_MIB = 8000.0  # the direct route is left out where its rows alone would take more


@dataclass(kw_only=True)
class Kernel(Bench[tuple[int, int], dict[str, Any]]):
    """Fit and apply at each size.

    Attributes:
        large: the largest size too, an hour or more on 2 cores.
    """

    name = "kernel"
    plans = (SIZES, ((2_000, 100),))
    large: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quick and self.large:
            raise InputError("`large` is not used with `quick`; leave it out")

    def cells(self) -> Sequence[tuple[int, int]]:
        return [*self.plan, *((LARGE,) if self.large else ())]

    def measure(self, cell: tuple[int, int]) -> dict[str, Any]:
        count, centroids = cell
        row: dict[str, Any] = {"rows": count, "centroids": centroids}
        for way in WAYS:
            if way == "ours" or count * (WIDTH + centroids) * 4 / MIB <= DIRECT_MIB:
                row[way] = alone(f"{way} at {count} rows with {centroids} centroids", _measure, way, count, centroids)
        return row

    def results(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"width": WIDTH, **stamp("cpu"), **super().results(rows)}

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        rows = []
        for row in data["rows"]:
            ours, direct = row["ours"], row.get("direct")
            sizes = [f"{row['rows']:,}", f"{row['centroids']:,}"]
            costs = [x for w in (ours, direct) if w for x in (f"{w['seconds']:.1f}", f"{w['peak_mib']:.0f}")]
            than = [f"{ours[k] / direct[k]:.2f}" for k in ("seconds", "peak_mib")] if direct else ["-"] * 4
            rows.append([*sizes, *costs, *than])
        head = "rows | centroids | ours, s | peak, MiB | scikit-learn, s | peak, MiB | time ratio | memory ratio"
        return (
            f"# Domain adaptation (DAKL)\n\nFitted on so many labelled rows of {data['width']} numbers and applied to "
            f"as many of the target set, {data['threads']} threads; peak memory over the rows themselves. Left out "
            f"where the direct route's kernel rows alone would take 8 GB.\n\n{table(head.split(' | '), rows)}\n"
        )


def rows_of(count: int, seed: int) -> torch.Tensor:
    """Unit vectors [count, WIDTH]."""
    return F.normalize(torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=-1)


def _measure(way: str, count: int, centroids: int) -> dict[str, float]:
    """Seconds, and MiB over the data."""
    source, answers, target = (rows_of(count, seed) for seed in range(3))
    WAYS[way](source[:200], answers[:200], target[:200], 8)  # the warm-up
    seconds: list[float] = []
    peak = peak_of(lambda: seconds.append(seconds_of(partial(WAYS[way], source, answers, target, centroids))))
    return {"seconds": round(seconds[0], 2), "peak_mib": round(peak, 1)}


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
