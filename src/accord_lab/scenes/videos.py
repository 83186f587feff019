"""Lab videos: one moving thing with exact truth per frame, and edits of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from accord.data.video import Video, write_video
from accord.files import write_file
from accord_lab.scenes.grammar import noun_phrase
from accord_lab.scenes.lexicon import BACKGROUNDS, COLORS, IMAGE_SIZE, NOUNS, SIZES
from accord_lab.scenes.render import render, silhouette
from accord_lab.scenes.scene import Scene, Thing, is_held_out

FPS = Fraction(8)
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
EDITS = ("noun", "color", "both", "background")


@dataclass(frozen=True)
class MovingScene:
    """What each frame shows. `direction` is a key of DIRECTIONS."""

    frames: tuple[Scene, ...]
    direction: str

    @property
    def video(self) -> Video:
        return Video(tuple(Image.fromarray(render(f)) for f in self.frames), FPS)

    @property
    def prompt(self) -> str:
        """`a red car moving right on a gray background`."""
        scene = self.frames[0]
        thing = noun_phrase(scene.things[0].noun, scene.things[0].color)
        return f"{thing} moving {self.direction} on a {scene.background} background"

    @property
    def image_prompt(self) -> str:
        """What is said of a single frame: the lab's text encoder knows no motion."""
        thing = self.frames[0].things[0]
        return f"{noun_phrase(thing.noun, thing.color)} on a {self.frames[0].background} background"

    @property
    def track(self) -> np.ndarray:
        """Centre of the thing per frame, [F,2] in pixels."""
        return np.asarray([f.things[0].center for f in self.frames])


def moving_scene(rng: np.random.Generator, frames: int = 8) -> MovingScene:
    """One big thing that crosses the picture at a constant pace, always whole.

    Raises:
        ValueError: for fewer than two frames.
    """
    if frames < 2:
        raise ValueError(f"frames must be at least 2, not {frames}")
    while True:
        noun, color = NOUNS[rng.integers(len(NOUNS))], tuple(COLORS)[rng.integers(len(COLORS))]
        if not is_held_out([(noun, color)]):
            break
    background = tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    direction = tuple(DIRECTIONS)[rng.integers(len(DIRECTIONS))]
    return _along(noun, color, background, direction, frames, rng.uniform(0.6, 1.0), rng.uniform(0.2, 0.8))


def write_videos(out: Path, count: int, frames: int = 8, seed: int = 0) -> list[dict[str, Any]]:
    """Write `count` videos as `out/00000.mp4` ... and what each frame shows as `out/truth.jsonl`; returns its rows."""
    rows = []
    for i in range(count):
        scene = moving_scene(np.random.default_rng((seed, i)), frames)
        thing, video = scene.frames[0].things[0], scene.video
        path = write_video(out / f"{i:05d}.mp4", video.frames, video.fps)
        boxes = [f.things[0].box for f in scene.frames]
        rows.append(
            {
                "video": path.name,
                "prompt": scene.image_prompt,
                "noun": thing.noun,
                "color": thing.color,
                "background": scene.frames[0].background,
                "direction": scene.direction,
                "boxes": boxes,
            }
        )
    write_file(out / "truth.jsonl", "".join(json.dumps(r) + "\n" for r in rows).encode())
    return rows


def _along(
    noun: str, color: str, background: str, direction: str, frames: int, share: float, across: float
) -> MovingScene:
    h, w = silhouette(noun, SIZES["big"][1]).shape
    dx, dy = DIRECTIONS[direction]
    room = (IMAGE_SIZE - 2 - w, IMAGE_SIZE - 2 - h)  # one pixel is left free all around
    length = share * (room[0] if dx else room[1])
    out = []
    for i in range(frames):
        way = (i / (frames - 1) - 0.5) * length
        x = 1 + (room[0] / 2 + dx * way if dx else across * room[0])
        y = 1 + (room[1] / 2 + dy * way if dy else across * room[1])
        box = (round(x), round(y), round(x) + w, round(y) + h)
        out.append(Scene(background, (Thing(noun, color, "big", box),)))
    return MovingScene(tuple(out), direction)


def edited(scene: MovingScene, kind: str, rng: np.random.Generator) -> MovingScene:
    """The same motion with another noun, colour, both, or background: the truth that an edit is held against.

    Raises:
        ValueError: for another kind.
    """
    if kind not in EDITS:
        raise ValueError(f"kind must be one of {', '.join(EDITS)}, not {kind!r}")
    thing, behind = scene.frames[0].things[0], scene.frames[0].background
    noun, color = thing.noun, thing.color
    while True:
        if kind in ("noun", "both"):
            noun = str(rng.choice([n for n in NOUNS if n != thing.noun]))
        if kind in ("color", "both"):
            color = str(rng.choice([c for c in COLORS if c != thing.color]))
        if not is_held_out([(noun, color)]):
            break
    if kind == "background":
        behind = str(rng.choice([b for b in BACKGROUNDS if b != behind]))
    frames = []
    for frame in scene.frames:
        h, w = silhouette(noun, SIZES["big"][1]).shape
        x, y = (round(c - s / 2) for c, s in zip(frame.things[0].center, (w, h), strict=True))
        x, y = min(max(x, 1), IMAGE_SIZE - 1 - w), min(max(y, 1), IMAGE_SIZE - 1 - h)
        frames.append(replace(frame, background=behind, things=(Thing(noun, color, "big", (x, y, x + w, y + h)),)))
    return MovingScene(tuple(frames), scene.direction)
