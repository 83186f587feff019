"""Intervals of what is measured, rounded as tables keep them. Prompts are drawn, and their seeds with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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


def ci95(values: np.ndarray, statistic: Callable[[np.ndarray], float] = mean, comparisons: int = 1) -> list[float]:
    """The interval of `bootstrap`, rounded."""
    return [round(v, 4) for v in bootstrap(values, statistic, comparisons=comparisons)]


def interval(values: ArrayLike, name: str = "mean", comparisons: int = 1) -> dict[str, Any]:
    """Mean of values [N] under `name`, and its bootstrapped interval as `ci95`, corrected for so many comparisons."""
    found = np.asarray(values, dtype=float)
    return {name: round(mean(found), 4), "ci95": ci95(found, comparisons=comparisons)}


def paired(of: ArrayLike, over: ArrayLike, name: str = "mean", comparisons: int = 1) -> dict[str, Any]:
    """`interval` of the differences of two rows [N], pair by pair."""
    return interval(np.asarray(of, dtype=float) - np.asarray(over, dtype=float), name, comparisons)


ByPrompt = Mapping[int, Sequence[float]]  # the scores of a prompt's pictures, by the prompt's number


def over_prompts(scores: ByPrompt) -> np.ndarray:
    """The mean of each prompt's pictures, [P] in the order of the numbers."""
    return np.asarray([np.mean(scores[n]) for n in sorted(scores)], dtype=float)


def figure_of(scores: ByPrompt) -> dict[str, Any]:
    """The mean over prompts of the mean over a prompt's seeds, with its interval: {"mean", "ci95", "prompts",
    "pictures"}; the first two are None where there is nothing.
    """
    counts = {"prompts": len(scores), "pictures": sum(map(len, scores.values()))}
    return {**(interval(over_prompts(scores)) if scores else {"mean": None, "ci95": None}), **counts}


def mean_of_groups(scores: Sequence[ByPrompt]) -> dict[str, Any]:
    """As `figure_of` of several groups of prompts: the unweighted mean of their means."""
    rows = [(value, i) for i, group in enumerate(scores) for value in over_prompts(group)]
    counts = {"prompts": len(rows), "pictures": sum(len(s) for group in scores for s in group.values())}
    if not rows:
        return {"mean": None, "ci95": None, **counts}
    found = np.asarray(rows)

    def of_groups(drawn: np.ndarray) -> float:
        sums = np.bincount(drawn[:, 1].astype(int), drawn[:, 0], len(scores))
        sizes = np.bincount(drawn[:, 1].astype(int), minlength=len(scores))
        return float((sums[sizes > 0] / sizes[sizes > 0]).mean())  # a small group may be drawn by no prompt

    return {"mean": round(of_groups(found), 4), "ci95": ci95(found, of_groups), **counts}


def best_of(scores: Sequence[float], tries: int, values: Sequence[float] | None = None) -> float:
    """What the picture with the best of so many scores has, the mean over all choices of them; of all if there are
    fewer.

    Args:
        values: of the pictures, in the order of their scores; the scores themselves if None.
    """
    own = scores if values is None else values
    ordered = [own[i] for i in np.argsort(scores, kind="stable")]
    count = len(ordered)
    tries = min(tries, count)
    # the i-th lowest is the best of C(i, tries - 1) of the C(count, tries) choices
    shares = [math.comb(i, tries - 1) / math.comb(count, tries) for i in range(count)]
    return float(np.dot(shares, ordered))


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of so many."""
    if not count:
        return 0.0, 1.0
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * ((share * (1 - share) + z * z / (4 * count)) / count) ** 0.5 / (1 + z * z / count)
    return middle - half, middle + half
