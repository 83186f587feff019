"""`accord bench video --memory`: peak memory of an edit, and time per frame, as the video grows beyond the window."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from accord.diffusion.pipelines import load
from accord.files import check_writable, write_file
from accord.methods.video.config import EditConfig
from accord.methods.video.editing import VideoEditor
from accord_lab.bench.speed import alone, peak_of, rounded
from accord_lab.scenes.videos import edited, moving_scene

FRAMES = (8, 16, 32, 64)  # the first is the window
CONFIG = EditConfig(window=FRAMES[0], overlap=2, tune_steps=10, num_inference_steps=10)


def main(out: Path, quick: bool = False, progress: bool = True) -> tuple[dict[str, Any], str]:
    """Tune, invert and edit videos of growing length, each in a process of its own; writes `video-memory.json` and
    `.md`
    (`video-memory-quick.*`).
    """
    check_writable(out)
    lengths = FRAMES[:2] if quick else FRAMES
    rows = [alone(f"the edit of {n} frames", edit_of, n) for n in tqdm(lengths, desc="videos", disable=not progress)]
    for row in rows:
        row["ratio"] = row["peak_mib"] / rows[0]["peak_mib"]
    data = rounded(
        {"bench": "video --memory", "quick": quick, "window": CONFIG.window, "overlap": CONFIG.overlap, "rows": rows}
    )
    lines = [
        "| frames | peak, MiB over the weights | of the window's | the video's own latents, MiB | s/frame |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['frames']} | {r['peak_mib']:.0f} | {r['ratio']:.2f} | {r['path_mib']:.1f} | "
        f"{r['seconds_per_frame']:.2f} |"
        for r in data["rows"]
    ]
    text = (
        f"# Memory of an edit\n\nLab videos, windows of {CONFIG.window} frames that share {CONFIG.overlap}; "
        f"{CONFIG.tune_steps} steps of tuning, {CONFIG.num_inference_steps} "
        "of inversion and of sampling, injection and mask blending as they are by default. What must grow with the "
        "video is its "
        "pictures and its latents at each step of the inversion.\n\n" + "\n".join(lines) + "\n"
    )
    stem = "video-memory-quick" if quick else "video-memory"
    write_file(out / f"{stem}.json", (json.dumps(data, indent=1) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    return data, text


def edit_of(frames: int) -> dict[str, Any]:
    """Peak memory and time of one whole edit of a lab video of so many frames."""
    pipe, rng = load(device="cpu"), np.random.default_rng(23)
    source = moving_scene(rng, frames)
    video, target = source.video, edited(source, "color", rng).image_prompt
    path_bytes = 0

    def work() -> None:
        nonlocal path_bytes
        editor = VideoEditor(pipe, video, source.image_prompt, CONFIG)
        with tempfile.TemporaryDirectory() as scratch:
            editor.tune(Path(scratch) / "run", progress=False)
        path = editor.invert()
        path_bytes = sum(x.nbytes for x in path)
        editor.edit(target, path)

    began = time.perf_counter()
    peak = peak_of(work)
    return {
        "frames": frames,
        "peak_mib": peak,
        "path_mib": path_bytes / 2**20,
        "seconds_per_frame": (time.perf_counter() - began) / frames,
    }
