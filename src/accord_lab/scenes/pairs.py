"""Rendered scenes with their captions: pairs without label noise."""

from __future__ import annotations

import numpy as np
from PIL import Image

from accord_lab.scenes.grammar import caption
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import sample_scene


def rendered_pairs(count: int, seed: int = 11) -> tuple[list[Image.Image], list[str]]:
    """`count` random scenes, drawn and put into words."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    return [Image.fromarray(render(s)) for s in scenes], [caption(s, rng) for s in scenes]
