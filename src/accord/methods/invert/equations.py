"""Reverse Stable Diffusion, arXiv 2308.01472: pure tensor functions.

Letters in shapes: B images, D of the embedding (384), V vocabulary, N rows, K centroids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from scipy.optimize import nnls
from torch.nn import functional as F

BLOCK = 512  # rows of a symmetric matrix that are made at once
STAGES = (1 / 4, 1 / 3, 1 / 2, 1.0)  # nested prefixes of the curriculum


def regression_loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(1) mean(1 - cos(y^, y)), [B,D] each."""
    return (1 - F.cosine_similarity(predicted.float(), target.float(), dim=-1)).mean()


def vocabulary_loss(logits: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """(2) binary cross-entropy of which vocabulary words the prompt holds, [B,V] each."""
    return F.binary_cross_entropy_with_logits(logits.float(), present.float())


def joint_loss(
    predicted: torch.Tensor,
    target: torch.Tensor,
    logits: torch.Tensor | None,
    present: torch.Tensor | None,
    weight: float,
) -> torch.Tensor:
    """(3) regression + weight * classification (weight 0.1 in the paper)."""
    loss = regression_loss(predicted, target)
    if weight and logits is not None and present is not None:
        loss = loss + weight * vocabulary_loss(logits, present)
    return loss


def curriculum_prefix(done: float, order: torch.Tensor) -> torch.Tensor:
    """The pairs that are trained on when `done` of the steps are taken: a prefix of `order` [N], easiest first.

    The schedule is sized to the steps that are actually taken: each of the four prefixes has a quarter of them.
    """
    stage = STAGES[min(int(done * len(STAGES)), len(STAGES) - 1)]
    return order[: max(1, round(stage * len(order)))]


def ensemble(predictions: Sequence[torch.Tensor], weights: Sequence[float] | None = None) -> torch.Tensor:
    """L2-normalised weighted average of predictions [B,D].

    Raises:
        ValueError: if the weights are not as many as the predictions, or sum to nothing.
    """
    if not predictions:
        raise ValueError("there is no prediction to average")
    weights = [1.0] * len(predictions) if weights is None else list(weights)
    if len(weights) != len(predictions):
        raise ValueError(f"{len(weights)} weights were given for {len(predictions)} predictors; give one for each")
    if any(w < 0 for w in weights) or not sum(weights):
        raise ValueError(f"weights {weights} must not be negative and must not all be zero")
    total = sum(w * F.normalize(p.float(), dim=-1) for w, p in zip(weights, predictions, strict=True))
    return F.normalize(torch.as_tensor(total), dim=-1)


def ensemble_weights(predictions: Sequence[torch.Tensor], target: torch.Tensor) -> list[float]:
    """Weights of `ensemble`, fitted on predictions [N,D] of pairs that no predictor was trained on: the w >= 0 of least
    mean |sum_k w_k y^_k - y|^2, scaled to sum to 1 (of this project; the paper averages). Equal ones if none is above
    zero.
    """
    unit = torch.stack([F.normalize(p, dim=-1) for p in predictions]).double().cpu()  # [K,N,D]
    gram = torch.einsum("knd,lnd->kl", unit, unit) / unit.shape[1]
    gram += 1e-6 * torch.eye(len(unit))  # twins share their weight
    known = torch.einsum("knd,nd->k", unit, F.normalize(target, dim=-1).double().cpu()) / unit.shape[1]
    # |L^T w - L^-1 known|^2 has the same least w, as a system of K rows instead of N D
    lower = torch.linalg.cholesky(gram)
    found, _ = nnls(lower.T.numpy(), torch.linalg.solve_triangular(lower, known[:, None], upper=False)[:, 0].numpy())
    total = float(found.sum())
    return [float(w) / total for w in found] if total > 0 else [1 / len(unit)] * len(unit)


# --- domain-adaptive kernel learning ----------------------------------------------------------------------------------
def kernel_rows(predictions: torch.Tensor, centroids: torch.Tensor, gamma: float) -> torch.Tensor:
    """(4) exp(-gamma (1 - cos) / 2) of predictions [N,D] against centroids [K,D]: [N,K]."""
    cos = F.normalize(predictions.float(), dim=-1) @ F.normalize(centroids.float(), dim=-1).T
    return torch.exp(-gamma * (1 - cos) / 2)


def kernel_spread(centroids: torch.Tensor, gamma: float) -> float:
    """Standard deviation of the kernel's off-diagonal entries among the centroids [K,D] (0 for one centroid)."""
    count = len(centroids)
    if count < 2:
        return 0.0
    total, squares, pairs = 0.0, 0.0, count * (count - 1)
    for start in range(0, count, 1024):
        rows = kernel_rows(centroids[start : start + 1024], centroids, gamma).double()
        own = torch.arange(start, min(start + 1024, count))
        diagonal = rows[torch.arange(len(own)), own]
        total += float(rows.sum() - diagonal.sum())
        squares += float(rows.square().sum() - diagonal.square().sum())
    return max(0.0, squares / pairs - (total / pairs) ** 2) ** 0.5


def spherical_kmeans(rows: torch.Tensor, count: int, steps: int = 10, seed: int = 0, chunk: int = 8192) -> torch.Tensor:
    """k-means by cosine: centroids [count, D], unit vectors. Rows are read in chunks; [N,K] is never held.

    An emptied cluster is given a row at random.

    Raises:
        ValueError: if there are fewer rows than centroids.
    """
    if not 1 <= count <= len(rows):
        raise ValueError(f"{count} centroids cannot be found in {len(rows)} rows; ask for at most as many")
    generator = torch.Generator().manual_seed(seed)
    centroids = F.normalize(rows[torch.randperm(len(rows), generator=generator)[:count]].float(), dim=-1)
    for _ in range(steps):
        sums, sizes = torch.zeros_like(centroids), torch.zeros(count)
        for start in range(0, len(rows), chunk):
            part = F.normalize(rows[start : start + chunk].float(), dim=-1)
            nearest = (part @ centroids.T).argmax(-1)
            sums.index_add_(0, nearest, part)
            sizes += torch.bincount(nearest, minlength=count)
        empty = sizes == 0
        sums[empty] = rows[torch.randint(len(rows), (int(empty.sum()),), generator=generator)].float()
        centroids = F.normalize(sums, dim=-1)
    return centroids


def ridge(features: Iterable[tuple[torch.Tensor, torch.Tensor]], penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Ridge regression with an intercept by streamed normal equations: weights [F,D] and intercept [D].

    Args:
        features: chunks of (features [n,F], targets [n,D]); only F x F is held, twice while it is solved.
        penalty: of the weights, times the number of rows; the intercept has none.
    """
    gram = cross = feature_sum = target_sum = torch.zeros(0)
    count = 0
    for x, y in features:
        x, y = x.float(), y.float()
        if not count:
            gram, cross = torch.zeros(x.shape[1], x.shape[1]), torch.zeros(x.shape[1], y.shape[1])
            feature_sum, target_sum = (torch.zeros(v.shape[1], dtype=torch.float64) for v in (x, y))
        for i in range(0, len(gram), BLOCK):  # the upper triangle, in blocks of rows
            gram[i : i + BLOCK, i:].addmm_(x[:, i : i + BLOCK].T, x[:, i:])
        cross.addmm_(x.T, y)
        feature_sum += x.double().sum(0)
        target_sum += y.double().sum(0)
        count += len(x)
    if not count:
        raise ValueError("there are no rows to fit")
    for i in range(0, len(gram), BLOCK):
        gram[i + BLOCK :, i : i + BLOCK] = gram[i : i + BLOCK, i + BLOCK :].T
    mean_x, mean_y = feature_sum / count, target_sum / count
    # centred normal equations, in float32: 10,000 x 10,000 in float64 takes 800 MB, and twice that while it is solved
    gram.addr_(mean_x.float(), mean_x.float(), alpha=-float(count))
    cross.addr_(mean_x.float(), mean_y.float(), alpha=-float(count))
    gram.diagonal().add_(penalty * count)
    weights = torch.linalg.solve(gram, cross)
    return weights, (mean_y - mean_x @ weights.double()).float()
