"""Splitting pairs so that no prompt of one part has a near-duplicate in another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

SIMILAR = 0.9  # cosine above which two prompts are near-duplicates


@dataclass(frozen=True)
class Split:
    """Row numbers of the parts."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def group_near_duplicates(embeddings: torch.Tensor, threshold: float = SIMILAR, chunk: int = 2048) -> np.ndarray:
    """Group number of each row [N]: rows whose cosine exceeds the threshold are in one group, and so on from row to
    row.

    Args:
        embeddings: unit vectors [N,D].
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    unique, inverse = torch.unique(embeddings, dim=0, return_inverse=True)
    rows, columns = [], []
    chunk = max(1, min(chunk, 2**28 // max(1, len(unique))))  # a gigabyte of cosines at most
    for start in range(0, len(unique), chunk):
        similar = unique[start : start + chunk] @ unique.T > threshold
        i, j = similar.nonzero(as_tuple=True)
        keep = i + start < j
        rows.append((i[keep] + start).numpy())
        columns.append(j[keep].numpy())
    i, j = np.concatenate(rows), np.concatenate(columns)
    graph = coo_matrix((np.ones(len(i), dtype=np.int8), (i, j)), shape=(len(unique), len(unique)))
    _, labels = connected_components(graph, directed=False)
    return labels[inverse.numpy()]


def split_groups(groups: np.ndarray, validation: float = 0.1, test: float = 0.1, seed: int = 0) -> Split:
    """Whole groups to train, validation and test; groups of more than half a part's size stay in train.

    Raises:
        ValueError: if the shares leave nothing to train on, or no group fits into a part.
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        raise ValueError(f"validation {validation} and test {test} must be shares that leave something to train on")
    names, sizes = np.unique(groups, return_counts=True)
    rng = np.random.default_rng(seed)
    wanted = {"test": test * len(groups), "validation": validation * len(groups)}
    order = rng.permutation(len(names))
    # a part made of one group would measure one prompt
    limit = {part: max(1.0, 0.5 * w) for part, w in wanted.items()}
    chosen: dict[str, list[int]] = {"test": [], "validation": []}
    filled = {"test": 0, "validation": 0}
    taken = set()
    for part in ("test", "validation"):
        for k in order:
            if k not in taken and sizes[k] <= limit[part] and filled[part] + sizes[k] <= wanted[part]:
                chosen[part].append(k)
                filled[part] += int(sizes[k])
                taken.add(k)
    if any(w >= 1 and not chosen[part] for part, w in wanted.items()):
        raise ValueError(
            "nearly all prompts are near-duplicates of each other, so no part can be kept apart; give more prompts"
        )
    of = {int(names[k]): part for part in chosen for k in chosen[part]}
    parts = np.asarray([of.get(int(g), "train") for g in groups])
    return Split(*(np.flatnonzero(parts == p) for p in ("train", "validation", "test")))
