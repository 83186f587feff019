"""Intervals of what is measured, rounded as tables keep them. Prompts are drawn, and their seeds with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

DRAWS = 2000  # of a bootstrap: 50 of them lie beyond each end of 95 %


def mean(values: np.ndarray) -> float:
    return float(values.mean())


def bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float] = mean,
    draws: int = DRAWS,
    seed: int = 0,
    comparisons: int = 1,
) -> tuple[float, float]:
    """95 % interval of a statistic of rows [P, ...]; rows are drawn with replacement.

    Args:
        values: a row for each prompt, with all its seeds, so that what is drawn together belongs together.
        draws: of one comparison; of several so many times as many, so that as many lie beyond each end.
        comparisons: how many intervals of a table are to hold all at once (Bonferroni); 1 corrects nothing.
    """
    rng = np.random.default_rng(seed)
    found = [statistic(values[_drawn(rng, values)]) for _ in range(draws * comparisons)]
    return _middle(found, comparisons)


def _drawn(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    return rng.integers(len(values), size=len(values))


def _middle(found: Sequence[float], comparisons: int = 1) -> tuple[float, float]:
    """The middle 95 % of what was drawn, or more of it for several comparisons."""
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


def of_prompts(values: ArrayLike, name: str = "mean", comparisons: int = 1) -> dict[str, Any]:
    """`interval` of prompts [P]. Of one prompt there is no interval, and of none no mean: they are None."""
    found = np.asarray(values, dtype=float)
    if len(found) < 2:
        return {name: round(mean(found), 4) if len(found) else None, "ci95": None}
    return interval(found, name, comparisons)


def figure_of(scores: ByPrompt) -> dict[str, Any]:
    """The mean over prompts of the mean over a prompt's seeds, with its interval: {"mean", "ci95", "prompts",
    "pictures"}; `of_prompts` says what is None.

    Where all pictures are right, or all wrong, each draw is the same; the interval is Wilson's, of so many prompts.
    """
    counts = {"prompts": len(scores), "pictures": sum(map(len, scores.values()))}
    values = over_prompts(scores)
    figure = of_prompts(values)
    if len(values) > 1 and (np.all(values == 0) or np.all(values == 1)):
        figure["ci95"] = [round(v, 4) for v in wilson(values[0], len(values))]
    return {**figure, **counts}


def mean_of_groups(scores: Sequence[ByPrompt]) -> dict[str, Any]:
    """As `figure_of` of several groups of prompts: the unweighted mean of their means, which is None if one of them has
    no prompt. Prompts are drawn within their group, whose size is fixed; there is no interval if one has less than two.
    """
    groups = [over_prompts(group) for group in scores]
    counts = {"prompts": sum(map(len, groups)), "pictures": sum(len(s) for group in scores for s in group.values())}
    least = min(map(len, groups), default=0)
    if not least:
        return {"mean": None, "ci95": None, **counts}
    whole = round(float(np.mean([mean(g) for g in groups])), 4)
    if least < 2:
        return {"mean": whole, "ci95": None, **counts}
    rng = np.random.default_rng(0)
    drawn = [float(np.mean([mean(g[_drawn(rng, g)]) for g in groups])) for _ in range(DRAWS)]
    return {"mean": whole, "ci95": [round(v, 4) for v in _middle(drawn)], **counts}


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
