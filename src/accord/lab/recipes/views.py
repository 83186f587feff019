"""Views of scenes for training: the whole, or a window around one thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from accord.lab.recipes.vae import to_tensor
from accord.lab.scenes.lexicon import IMAGE_SIZE, NOUNS
from accord.lab.scenes.render import render, silhouette
from accord.lab.scenes.scene import Scene, sample_scene


def crop_thing(scene: Scene, rng: np.random.Generator, zoom: tuple[float, float] = (1.0, 1.6)) -> tuple[np.ndarray, Scene]:
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


def patch_labels(scene: Scene, patch: int = 8) -> np.ndarray:
    """Which thing covers each patch most: 1 + index of the noun, 0 where under a sixth is covered; int64 [rows * columns].

    Dense labels teach a small vision transformer silhouettes from tens of thousands of pictures, where captions alone
    take hundreds of thousands.
    """
    rows = IMAGE_SIZE // patch
    best = np.full((rows, rows), 1 / 6, dtype=np.float32)
    label = np.zeros((rows, rows), dtype=np.int64)
    for thing in scene.things:
        x0, y0, x1, y1 = thing.box
        mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
        mask[y0:y1, x0:x1] = silhouette(thing.noun, max(x1 - x0, y1 - y0))
        share = mask.reshape(rows, patch, rows, patch).mean((1, 3))
        here = share > best
        label[here] = 1 + NOUNS.index(thing.noun)
        best = np.maximum(best, share)
    return label.ravel()


def dense_head(width: int) -> nn.Linear:
    """From a patch state to the nouns, thrown away after training."""
    return nn.Linear(width, 1 + len(NOUNS))


def dense_loss(
    states_of: Callable[[torch.Tensor], torch.Tensor], head: nn.Linear, rng: np.random.Generator, size: int, device: str
) -> torch.Tensor:
    """Cross-entropy of each patch's noun over `size` scenes; `states_of` gives [B, 1 + patches, D], class token first."""
    scenes = [sample_scene(rng) for _ in range(size)]
    labels = torch.from_numpy(np.stack([patch_labels(s) for s in scenes])).to(device)
    images = to_tensor(np.stack([render(s) for s in scenes])).to(device)
    return F.cross_entropy(head(states_of(images)[:, 1:]).float().transpose(1, 2), labels)
