"""How far pictures have drifted from those that were there before: measures that no reward sees.

Users of every tuning method report the same: norms of the latents creep up and pictures brighten while the reward
rises, and the pictures of one prompt become alike.

Letters in shapes: N pictures; T prompts with S pictures each.
"""

from __future__ import annotations

import torch


def norms(states: torch.Tensor) -> torch.Tensor:
    """Root mean square of each state [N,...], [N]."""
    return states.float().square().flatten(1).mean(1).sqrt()


def brightness(pictures: torch.Tensor) -> torch.Tensor:
    """Mean of each picture [N,3,H,W] (or video [N,F,3,H,W]) in 0..1, [N]."""
    return pictures.float().flatten(1).mean(1)


def contrast(pictures: torch.Tensor) -> torch.Tensor:
    """Standard deviation of each picture's values, [N]."""
    return pictures.float().flatten(1).std(1)


def diversity(pictures: torch.Tensor) -> torch.Tensor:
    """Mean distance of two pictures of one prompt [T,S,...], [T]: root mean square of values in 0..1."""
    flat = pictures.float().flatten(2)
    seeds, values = flat.shape[1:]
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist") / values**0.5
    return distances.sum((1, 2)) / max(1, seeds * (seeds - 1))
