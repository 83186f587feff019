"""Domain-adaptive kernel learning (DAKL): a second level that has seen the target images, without their prompts.

Source: the first version of Reverse Stable Diffusion (arXiv 2308.01472v1). It needs the whole target set, so it is an option
of batch inversion. Memory: one [F,F] matrix (F = D + K features) and chunks of rows; the [N,K] kernel is never held.

Letters in shapes: N rows, D of the embedding, K centroids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from accord.methods.invert.equations import kernel_rows, kernel_spread, ridge, spherical_kmeans
from accord.types import InputError

CHUNK = 8192
LEAST_SPREAD = 1e-3


@dataclass(frozen=True)
class DomainKernel:
    """A fitted second level."""

    centroids: torch.Tensor  # [K,D]
    gamma: float
    weights: torch.Tensor  # [D+K,E]
    intercept: torch.Tensor  # [E]

    @classmethod
    def fit(
        cls,
        source: torch.Tensor,
        answers: torch.Tensor,
        target: torch.Tensor,
        centroids: int = 256,
        gamma: float = 10.0,
        penalty: float = 1e-4,
        seed: int = 0,
    ) -> DomainKernel:
        """Fit on predictions of a labelled set that the predictor was NOT trained on, and of the unlabelled target set.

        Args:
            source: predictions [N,D] of the labelled set.
            answers: true embeddings [N,E].
            target: predictions [M,D] of the target set.
            centroids: how many in all, half from each domain.
            gamma: of the kernel exp(-gamma (1 - cos) / 2).
            penalty: of the ridge.

        Raises:
            InputError: if there are too few rows, or the kernel is degenerate (its off-diagonal entries do not differ).
        """
        half = centroids // 2
        if half < 1 or half > min(len(source), len(target)):
            raise InputError(f"{centroids} centroids need {half} rows in each domain; there are {len(source)} and {len(target)}")
        found = torch.cat([spherical_kmeans(source, half, seed=seed), spherical_kmeans(target, half, seed=seed + 1)])
        spread = kernel_spread(found, gamma)
        if spread < LEAST_SPREAD:
            raise InputError(
                f"the kernel is degenerate: its entries differ by {spread:.1e} only with gamma {gamma:g}, so every image "
                "would get one prediction; choose another gamma or give predictions that differ"
            )

        def chunks() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for start in range(0, len(source), CHUNK):
                rows = slice(start, start + CHUNK)
                yield features(source[rows], found, gamma), answers[rows]

        weights, intercept = ridge(chunks(), penalty)
        return cls(found, gamma, weights, intercept)

    def __call__(self, predictions: torch.Tensor) -> torch.Tensor:
        """Predictions [N,D] to better ones, unit vectors [N,E]."""
        out = torch.empty(len(predictions), self.weights.shape[1])  # filled in place: a million rows of 384 are 1.4 GiB
        for i in range(0, len(predictions), CHUNK):
            part = features(predictions[i : i + CHUNK], self.centroids, self.gamma) @ self.weights + self.intercept
            out[i : i + CHUNK] = F.normalize(part, dim=-1)
        return out


def features(predictions: torch.Tensor, centroids: torch.Tensor, gamma: float) -> torch.Tensor:
    """The predictions themselves and their kernel rows, [N,D+K]."""
    unit = F.normalize(predictions.float(), dim=-1)
    return torch.cat([unit, kernel_rows(unit, centroids, gamma)], -1)
