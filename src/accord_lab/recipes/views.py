"""Views of scenes for training: the whole, or a window around one thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from accord_lab.recipes.vae import to_tensor
from accord_lab.scenes.lexicon import IMAGE_SIZE, NOUNS, RELATION_PHRASES
from accord_lab.scenes.render import coverage, render
from accord_lab.scenes.scene import Scene, relation, sample_scene

DIRECTIONS = tuple(RELATION_PHRASES)
IGNORED = -100  # of a patch without a label


def crop_thing(
    scene: Scene, rng: np.random.Generator, zoom: tuple[float, float] = (1.0, 1.6)
) -> tuple[np.ndarray, Scene]:
    """A square window around one thing, scaled to the full picture, and the scene of that thing alone.

    `zoom` is the range of the window's side in sides of the thing.
    """
    thing = scene.things[int(rng.integers(len(scene.things)))]
    side = max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]) * rng.uniform(*zoom)
    x, y = np.asarray(thing.center) - side / 2 + rng.uniform(-2, 2, size=2)
    picture = Image.fromarray(render(scene))
    window = (max(0.0, x), max(0.0, y), min(IMAGE_SIZE, x + side), min(IMAGE_SIZE, y + side))
    crop = picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box=window)
    return np.asarray(crop), replace(scene, things=(thing,))


def owners(scene: Scene, patch: int = 8) -> np.ndarray:
    """Which thing covers each patch most: 1 + its index, 0 where under a sixth is covered; int64 [rows * columns]."""
    rows = IMAGE_SIZE // patch
    best = np.full((rows, rows), 1 / 6, dtype=np.float32)
    owner = np.zeros((rows, rows), dtype=np.int64)
    for number, thing in enumerate(scene.things, start=1):
        share = coverage(thing).reshape(rows, patch, rows, patch).mean((1, 3))
        here = share > best
        owner[here] = number
        best = np.maximum(best, share)
    return owner.ravel()


def noun_labels(scene: Scene) -> np.ndarray:
    """1 + index of the noun that covers each patch, 0 for the background; int64 [patches].

    Dense labels teach a small vision transformer silhouettes from tens of thousands of pictures, where captions alone
    take hundreds of thousands.
    """
    return np.asarray([0, *(1 + NOUNS.index(t.noun) for t in scene.things)])[owners(scene)]


def relation_labels(scene: Scene) -> np.ndarray:
    """Where the thing that covers each patch lies as seen by the other, as index into RELATION_PHRASES; int64
    [patches].

    IGNORED on the background, and everywhere unless there are two things. Captions alone taught a captioner that two
    things lie side by side, but in 1,400 steps not which of them is left; these labels do it in 250.
    """
    labels = np.full(1 + len(scene.things), IGNORED, dtype=np.int64)
    if len(scene.things) == 2:
        a, b = (t.center for t in scene.things)
        labels[1:] = [DIRECTIONS.index(relation(a, b)), DIRECTIONS.index(relation(b, a))]
    return labels[owners(scene)]


def noun_head(width: int) -> nn.Linear:
    """From a patch state to the nouns, thrown away after training."""
    return nn.Linear(width, 1 + len(NOUNS))


def relation_head(width: int) -> nn.Linear:
    """From a patch state to the directions, thrown away after training."""
    return nn.Linear(width, len(DIRECTIONS))


def patch_loss(
    states: torch.Tensor, head: nn.Linear, labels_of: Callable[[Scene], np.ndarray], scenes: Sequence[Scene | None]
) -> torch.Tensor:
    """Mean cross-entropy over the patches with a label (0 if there are none).

    Args:
        states: [B, 1 + patches, D], class token first.
        labels_of: `noun_labels` or `relation_labels`.
        scenes: what the B pictures show; None for a picture without labels.
    """
    unknown = np.full(states.shape[1] - 1, IGNORED)
    target = torch.from_numpy(np.stack([unknown if s is None else labels_of(s) for s in scenes])).to(states.device)
    logits = head(states[:, 1:]).float().transpose(1, 2)
    total = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
    return total / (target != IGNORED).sum().clamp(min=1)


def dense_loss(
    states_of: Callable[[torch.Tensor], torch.Tensor], head: nn.Linear, rng: np.random.Generator, size: int, device: str
) -> torch.Tensor:
    """Loss of each patch's noun over `size` scenes; `states_of` gives [B, 1 + patches, D]."""
    scenes = [sample_scene(rng) for _ in range(size)]
    images = to_tensor(np.stack([render(s) for s in scenes])).to(device)
    return patch_loss(states_of(images), head, noun_labels, scenes)
