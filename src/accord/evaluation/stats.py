"""Intervals of what benches measure, rounded as tables keep them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def mean(values: np.ndarray) -> float:
    return float(values.mean())


def bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float] = mean,
    draws: int = 2000,
    seed: int = 0,
    comparisons: int = 1,
) -> tuple[float, float]:
    """95 % interval of a statistic of rows [P, ...]; rows are drawn with replacement.

    Args:
        values: a row for each prompt, with all its seeds, so that what is drawn together belongs together.
        comparisons: how many intervals of a table are to hold all at once (Bonferroni); 1 corrects nothing.
    """
    rng = np.random.default_rng(seed)
    found = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(draws)]
    outside = 2.5 / comparisons
    low, high = np.percentile(found, [outside, 100 - outside])
    return float(low), float(high)


def ci95(values: np.ndarray, statistic: Callable[[np.ndarray], float] = mean) -> list[float]:
    """The interval of `bootstrap`, rounded."""
    return [round(v, 4) for v in bootstrap(values, statistic)]


def interval(values: ArrayLike, name: str = "mean") -> dict[str, Any]:
    """Mean of values [N] under `name`, and its bootstrapped interval as `ci95`."""
    found = np.asarray(values, dtype=float)
    return {name: round(mean(found), 4), "ci95": ci95(found)}


def paired(of: ArrayLike, over: ArrayLike, name: str = "mean") -> dict[str, Any]:
    """`interval` of the differences of two rows [N], pair by pair."""
    return interval(np.asarray(of, dtype=float) - np.asarray(over, dtype=float), name)


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of so many."""
    if not count:
        return 0.0, 1.0
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * ((share * (1 - share) + z * z / (4 * count)) / count) ** 0.5 / (1 + z * z / count)
    return middle - half, middle + half
