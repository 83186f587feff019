"""Domain-adaptive kernel learning (DAKL): a model over the predictions that has seen the target images, without their
prompts.

Source: the first version of Reverse Stable Diffusion (arXiv 2308.01472v1). It needs the whole target set, so it is an
option of bulk inversion. Memory: one [F,F] matrix (F = D + K features) and chunks of rows; the [N,K] kernel is never
held.

Letters in shapes: N rows, D of the embedding, K centroids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch.nn import functional as F

from accord.methods.invert.equations import kernel_rows, kernel_spread, ridge, spherical_kmeans
from accord.methods.invert.split import group_near_duplicates
from accord.types import InputError

CHUNK = 8192
LEAST_SPREAD = 1e-3
GAMMAS, PENALTIES = (1.0, 10.0), (1e-4, 1e-3, 1e-2, 1e-1)  # tried by `best`
NEAR = 0.98  # cosine above which answers are of near-duplicate prompts, which are kept back together or not at all
KEPT_BACK = 5  # every fifth group of them
MOST = 10_000  # labelled rows that `best` uses


@dataclass(frozen=True)
class DomainKernel:
    """A fitted domain adaptation: y^ + W [y^, kernel row of y^] + b, normalised.

    It corrects, so that a heavy penalty leaves the predictions as they are.
    """

    centroids: torch.Tensor  # [K,D]
    gamma: float
    weights: torch.Tensor  # [D+K,D]
    intercept: torch.Tensor  # [D]

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
            answers: true embeddings [N,D].
            target: predictions [M,D] of the target set.
            centroids: how many in all, half from each domain.
            gamma: of the kernel exp(-gamma (1 - cos) / 2).
            penalty: of the ridge.

        Raises:
            InputError: if there are too few rows, answers of another size, or the kernel is degenerate (its
                off-diagonal entries do not differ).
        """
        if source.shape != answers.shape:
            raise InputError(
                f"predictions of shape {tuple(source.shape)} cannot be corrected to answers of shape "
                f"{tuple(answers.shape)}; give those of one embedder"
            )
        return cls._fit(_centroids(source, target, centroids, seed), source, answers, gamma, penalty)

    @classmethod
    def _fit(
        cls, found: torch.Tensor, source: torch.Tensor, answers: torch.Tensor, gamma: float, penalty: float
    ) -> DomainKernel:
        """`fit` with the centroids [K,D] at hand."""
        spread = kernel_spread(found, gamma)
        if spread < LEAST_SPREAD:
            raise InputError(
                f"the kernel is degenerate: its entries differ by {spread:.1e} only with gamma {gamma:g}, so every "
                "image "
                "would get one prediction; choose another gamma or give predictions that differ"
            )

        def chunks() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for start in range(0, len(source), CHUNK):
                rows = slice(start, start + CHUNK)
                seen = features(source[rows], found, gamma)
                yield seen, answers[rows] - seen[:, : source.shape[1]]

        weights, intercept = ridge(chunks(), penalty)
        return cls(found, gamma, weights, intercept)

    @classmethod
    def best(
        cls, source: torch.Tensor, answers: torch.Tensor, target: torch.Tensor, centroids: int = 256, seed: int = 0
    ) -> DomainKernel:
        """`fit` with that gamma and penalty which serve best on every fifth group of near-duplicate answers, kept back.

        Kept back pair by pair, prompts would be in both halves, and one that has learnt them by heart would look
        like one that helps.

        Raises:
            InputError: as `fit`, and if with none of them it is better there than none.
        """
        predicted, wanted = source[:MOST], answers[:MOST]
        _, group = np.unique(group_near_duplicates(wanted, NEAR), return_inverse=True)
        order = np.random.default_rng(seed).permutation(group.max() + 1)
        back = torch.from_numpy(np.isin(group, order[: max(1, len(order) // KEPT_BACK)]))
        if min(int((~back).sum()), len(target)) < 2:
            raise InputError(
                f"{len(source)} labelled pairs and {len(target)} pictures are too few to adapt with; give more, or do "
                "without domain adaptation"
            )
        few = min(centroids, 2 * min(int((~back).sum()), len(target)))
        first = float(F.cosine_similarity(predicted[back], wanted[back]).mean())
        centres = _centroids(predicted[~back], target, few, seed)  # the same for all knobs
        found: dict[tuple[float, float], float] = {}
        refused: InputError | None = None
        for gamma, penalty in product(GAMMAS, PENALTIES):
            try:
                kernel = cls._fit(centres, predicted[~back], wanted[~back], gamma, penalty)
            except InputError as error:  # a kernel may be degenerate with one gamma and not with another
                refused = error
                continue
            found[gamma, penalty] = float(F.cosine_similarity(kernel(predicted[back]), wanted[back]).mean())
        if not found and refused is not None:
            raise refused
        knobs = max(found, key=lambda k: found[k])
        if found[knobs] <= first:
            raise InputError(
                f"with {len(source)} labelled pairs domain adaptation would harm (cosine {found[knobs]:.4f} after it, "
                f"{first:.4f} before, on those "
                "of every fifth prompt, kept back); give more, or do without it"
            )
        return cls.fit(source, answers, target, min(centroids, 2 * min(len(source), len(target))), *knobs, seed)

    def __call__(self, predictions: torch.Tensor) -> torch.Tensor:
        """Predictions [N,D] to better ones, unit vectors [N,D]."""
        out = torch.empty(len(predictions), self.weights.shape[1])  # filled in place: a million rows of 384 are 1.4 GiB
        for i in range(0, len(predictions), CHUNK):
            seen = features(predictions[i : i + CHUNK], self.centroids, self.gamma)
            out[i : i + CHUNK] = F.normalize(seen[:, : out.shape[1]] + seen @ self.weights + self.intercept, dim=-1)
        return out


def _centroids(source: torch.Tensor, target: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """`count` centroids [K,D], half from each domain."""
    half = count // 2
    if half < 1 or half > min(len(source), len(target)):
        raise InputError(
            f"{count} centroids need {half} rows in each domain; there are {len(source)} and {len(target)}"
        )
    return torch.cat([spherical_kmeans(source, half, seed=seed), spherical_kmeans(target, half, seed=seed + 1)])


def features(predictions: torch.Tensor, centroids: torch.Tensor, gamma: float) -> torch.Tensor:
    """The predictions themselves and their kernel rows, [N,D+K]."""
    unit = F.normalize(predictions.float(), dim=-1)
    return torch.cat([unit, kernel_rows(unit, centroids, gamma)], -1)
