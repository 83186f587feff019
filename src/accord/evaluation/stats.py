"""Intervals of what is measured, rounded as tables keep them. Prompts are drawn, and their seeds with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

DRAWS = 2000  # of a bootstrap: 50 of them lie beyond each end of 95 %
_AT_ONCE = 2**20  # rows that are drawn in one go


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
    if statistic is mean and values.ndim == 1:
        return _middle(_means(rng, values, draws * comparisons), comparisons)
    found = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(draws * comparisons)]
    return _middle(found, comparisons)


def _means(rng: np.random.Generator, values: np.ndarray, draws: int) -> np.ndarray:
    """The means of so many draws with replacement of rows [P, ...], some draws at once: the very numbers of a loop, and
    a table of 20 tags, whose correction needs 40,000 draws a tag, takes seconds.
    """
    count, found = len(values), np.empty((draws, *values.shape[1:]))
    some = max(1, _AT_ONCE // count)
    for start in range(0, draws, some):
        part = found[start : start + some]
        part[:] = values[rng.integers(count, size=(len(part), count))].mean(1)
    return found


def _middle(found: Sequence[float] | np.ndarray, comparisons: int = 1) -> tuple[float, float]:
    """The middle 95 % of what was drawn, or more of it for several comparisons."""
    outside = 2.5 / comparisons
    low, high = np.percentile(found, [outside, 100 - outside])
    return float(low), float(high)


def ci95(values: np.ndarray, statistic: Callable[[np.ndarray], float] = mean, comparisons: int = 1) -> list[float]:
    """The interval of `bootstrap`, rounded."""
    return [round(v, 4) for v in bootstrap(values, statistic, comparisons=comparisons)]


def of_means(
    values: np.ndarray, function: Callable[[np.ndarray], np.ndarray], comparisons: int = 1, seed: int = 0
) -> list[float]:
    """`ci95` of a function of means of rows [P, K], such as their ratio; it takes many means [D, K] at once."""
    drawn = _means(np.random.default_rng(seed), values, DRAWS * comparisons)
    return [round(v, 4) for v in _middle(function(drawn), comparisons)]


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
    no prompt. There is no interval if one has less than two.

    For the interval prompts are drawn within their group, whose size is fixed. Drawing says nothing of a group whose
    pictures are all right, or all wrong; what Wilson's interval leaves to it is added in squares (the method of
    variance estimates recovery: Zou and Donner, Statistics in Medicine 27, 2008, 1693-1702). Without such groups the
    interval is the bootstrapped one.
    """
    groups = [over_prompts(group) for group in scores]
    counts = {"prompts": sum(map(len, groups)), "pictures": sum(len(s) for group in scores for s in group.values())}
    return {**mean_of_means(groups, [_unseen_of_share(g) for g in groups]), **counts}


Unseen = tuple[float, float]  # how far below and above what was measured it may lie, where drawing shows nothing


def mean_of_means(groups: Sequence[np.ndarray], unseen: Sequence[Unseen]) -> dict[str, Any]:
    """{"mean", "ci95"} of groups of prompts [P_i]; see `mean_of_groups`.

    Args:
        unseen: of each group, (0, 0) where its prompts differ.
    """
    least = min(map(len, groups), default=0)
    if not least:
        return {"mean": None, "ci95": None}
    whole = float(np.mean([mean(g) for g in groups]))
    if least < 2:
        return {"mean": round(whole, 4), "ci95": None}
    rng = np.random.default_rng(0)
    drawn = [float(np.mean([mean(g[rng.integers(len(g), size=len(g))]) for g in groups])) for _ in range(DRAWS)]
    low, high = _middle(drawn)
    below, above = (math.hypot(*(one[side] / len(groups) for one in unseen)) for side in (0, 1))
    if below:
        low = whole - math.hypot(whole - low, below)
    if above:
        high = whole + math.hypot(high - whole, above)
    return {"mean": round(whole, 4), "ci95": [round(low, 4), round(high, 4)]}


def _unseen_of_share(values: np.ndarray) -> Unseen:
    """Of prompts that are all right, or all wrong: how far off Wilson's interval lies."""
    if len(values) < 2 or not (np.all(values == 0) or np.all(values == 1)):
        return 0.0, 0.0
    low, high = wilson(float(values[0]), len(values))
    return float(values[0]) - low, high - float(values[0])


def unseen_of_difference(a: np.ndarray, b: np.ndarray, comparisons: int = 1) -> Unseen:
    """The same of the differences of two rows of prompts [P], right (1) or wrong (0) each, if all differences are the
    same. A difference is the share that was gained less the share that was lost; Wilson's intervals of these two are
    put together in squares (Newcombe, Statistics in Medicine 17, 1998, 873-890, method 10).
    """
    difference = b - a
    binary = np.all(np.isin(a, (0, 1))) and np.all(np.isin(b, (0, 1)))
    if len(difference) < 2 or not binary or np.any(difference != difference[0]):
        return 0.0, 0.0
    gained, lost = float(difference[0] > 0), float(difference[0] < 0)
    (gained_low, gained_high), (lost_low, lost_high) = (wilson(s, len(difference), comparisons) for s in (gained, lost))
    return math.hypot(gained - gained_low, lost_high - lost), math.hypot(gained_high - gained, lost - lost_low)


def of_differences(a: np.ndarray, b: np.ndarray, comparisons: int = 1) -> dict[str, Any]:
    """`of_prompts` of the differences b - a of prompts [P], under "difference"; where all of them are the same, and
    each prompt is right or wrong, with the interval of `unseen_of_difference`.
    """
    found = of_prompts(b - a, "difference", comparisons)
    below, above = unseen_of_difference(a, b, comparisons)
    if found["ci95"] is not None and (below or above):
        low, high = found["ci95"]
        found["ci95"] = [round(low - below, 4), round(high + above, 4)]
    return found


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


def wilson(share: float, count: int, comparisons: int = 1) -> tuple[float, float]:
    """95 % interval of a share of so many (Wilson, JASA 22, 1927), of one of so many comparisons (Bonferroni)."""
    if not count:
        return 0.0, 1.0
    z = 1.96 if comparisons == 1 else NormalDist().inv_cdf(1 - 0.025 / comparisons)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * ((share * (1 - share) + z * z / (4 * count)) / count) ** 0.5 / (1 + z * z / count)
    return middle - half, middle + half
