"""`accord bench video-memory`: peak memory of an edit, and time per frame, as the video grows beyond the window."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accord.diffusion.pipelines import load
from accord.methods.video.config import EditConfig
from accord.methods.video.editing import VideoEditor
from accord_lab.bench.measure import MIB, alone, peak_of, rounded, seconds_of
from accord_lab.bench.report import table
from accord_lab.bench.runner import Bench
from accord_lab.scenes.videos import edited, moving_scene

CONFIG = EditConfig(window=8, overlap=2, tune_steps=10, num_inference_steps=10)


@dataclass(frozen=True)
class Plan:
    """Lengths in frames, the first of them that of a window, and how they are edited."""

    frames: tuple[int, ...]
    config: EditConfig = CONFIG


@dataclass(kw_only=True)
class VideoMemory(Bench[int, dict[str, Any]]):
    """Videos of growing length are tuned to, inverted and edited, each in a process of its own."""

    name = "video-memory"
    plans = (Plan((8, 16, 32, 64)), Plan((8, 16)))

    def cells(self) -> Sequence[int]:
        return list(self.plan.frames)

    def measure(self, cell: int) -> dict[str, Any]:
        row: dict[str, Any] = alone(f"the edit of {cell} frames", edit_of, cell, self.plan.config)
        return row

    def results(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        config = self.plan.config
        found = [{**r, "ratio": r["peak_mib"] / rows[0]["peak_mib"]} for r in rows]
        return rounded({"window": config.window, "overlap": config.overlap, "rows": found})

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        head = ["frames", "peak, MiB over the weights", "of the window's", "the video's own latents, MiB", "s/frame"]
        forms = {"peak_mib": ".0f", "ratio": ".2f", "path_mib": ".1f", "seconds_per_frame": ".2f"}
        rows = [[r["frames"], *(f"{r[k]:{form}}" for k, form in forms.items())] for r in data["rows"]]
        return (
            f"# Memory of an edit\n\nLab videos, windows of {data['window']} frames that share {data['overlap']}; "
            f"{CONFIG.tune_steps} steps of tuning, {CONFIG.num_inference_steps} of inversion and of sampling, "
            "injection and mask blending as they are by default. What must grow with the video is its pictures and its "
            f"latents at each step of the inversion.\n\n{table(head, rows)}\n"
        )


def edit_of(frames: int, config: EditConfig) -> dict[str, Any]:
    """Peak memory and time of one whole edit of a lab video of so many frames."""
    pipe, rng = load(device="cpu"), np.random.default_rng(23)
    source = moving_scene(rng, frames)
    video, target = source.video, edited(source, "color", rng).image_prompt
    row: dict[str, float] = {}

    def work() -> None:
        editor = VideoEditor(pipe, video, source.image_prompt, config)
        with tempfile.TemporaryDirectory() as scratch:
            editor.tune(Path(scratch) / "run", progress=False)
        path = editor.invert()
        row["path_mib"] = sum(x.nbytes for x in path) / MIB
        editor.edit(target, path)

    def timed() -> None:
        row["seconds_per_frame"] = seconds_of(work) / frames

    return {"frames": frames, "peak_mib": peak_of(timed), **row}
