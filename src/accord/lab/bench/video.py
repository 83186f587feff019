"""`accord bench video`: edits of lab clips whose truth is known, judged by the reader frame by frame."""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from accord.data.video import Clip, write_clip
from accord.diffusion.loop import decode
from accord.diffusion.pipelines import Pipeline, load
from accord.lab.bench.cache import cache_folder
from accord.lab.bench.scenes import bootstrap
from accord.lab.scenes.ask import ask_of, check
from accord.lab.scenes.clips import EDITS, MovingScene, edited, moving_scene
from accord.lab.scenes.read import read
from accord.methods.context.video import EditConfig, VideoEditor
from accord.outputs import check_writable, write_file
from accord.rewards.clip import ClipScorer, load_clip
from accord.rewards.video import background_psnr, flicker, temporal_consistency, track

TUNED = EditConfig(guidance_scale=5.0)
# what is tuned and inverted, and the ways of sampling that share it
METHODS: tuple[tuple[EditConfig, dict[str, dict[str, float]]], ...] = (
    (replace(TUNED, tune_steps=0, context=False, window=1, overlap=0), {"frame by frame": {}}),
    (replace(TUNED, context=False), {"Tune-A-Video": {}, "Tune-A-Video + injection": {"injection": 0.5}}),
    (TUNED, {"context": {}, "context + injection": {"injection": 0.5}, "context + modulation": {"modulation": 1.0}}),
)
NAMES = tuple(name for _, ways in METHODS for name in ways)
MEASURES = ("right", "track_error", "consistency", "background_psnr", "flicker", "seconds")


@dataclass(frozen=True)
class Task:
    """One edit."""

    number: int
    kind: str
    source: MovingScene
    target: MovingScene


def tasks(count: int) -> list[Task]:
    """`count` edits, kinds in turn, three of four with 8 frames and the fourth with 16; fixed."""
    out = []
    for number in range(count):
        rng = np.random.default_rng((19, number))
        source = moving_scene(rng, 16 if number // len(EDITS) % 4 == 3 else 8)
        kind = EDITS[number % len(EDITS)]
        out.append(Task(number, kind, source, edited(source, kind, rng)))
    return out


def run_task(
    pipe: Pipeline, task: Task, config: EditConfig, ways: dict[str, dict[str, float]], clip: ClipScorer
) -> Iterator[tuple[str, dict[str, Any], Clip]]:
    """Name, measures and edited clip of each way of sampling; the clip is tuned to and inverted once for all of them."""
    began = time.perf_counter()
    source = task.source.clip
    editor = VideoEditor(pipe, source, task.source.image_prompt, config)
    with tempfile.TemporaryDirectory() as scratch:
        editor.tune(Path(scratch) / "run", progress=False)
    path = editor.invert()
    shared = time.perf_counter() - began
    back = editor.sample(task.source.image_prompt, 1.0, path)
    ask = ask_of(task.target.image_prompt)
    for name, changes in ways.items():
        began = time.perf_counter()
        editor.config = replace(config, **changes)  # type: ignore[arg-type]
        result = editor.edit(task.target.image_prompt, path)
        seconds = shared + time.perf_counter() - began
        row = {
            "number": task.number,
            "kind": task.kind,
            "frames": len(result),
            "right": float(np.mean([check(read(f), ask).right for f in result.frames])),
            "track_error": reader_track_error(result.frames, task.target),
            "consistency": temporal_consistency(result.frames, clip),
            "background_psnr": min(60.0, background_psnr(result.frames, source.frames)) if task.kind != "background" else None,
            "flicker": flicker(result.frames),
            "seconds": seconds,
            "reconstruction_psnr": reconstruction(pipe, editor.latents, back),
        }
        yield name, row, result


def reader_track_error(frames: tuple[Image.Image, ...], truth: MovingScene) -> float:
    """Mean distance, in pixels, of the thing from where it should be; where the reader sees not one thing, of the foreground."""
    out = []
    for frame, scene in zip(frames, truth.frames, strict=True):
        things = read(frame).things
        place = np.asarray(things[0].center) if len(things) == 1 else track([frame])[0] * frame.width
        out.append(float(np.linalg.norm(place - np.asarray(scene.things[0].center))))
    return float(np.mean(out))


@torch.no_grad()
def reconstruction(pipe: Pipeline, latents: torch.Tensor, back: torch.Tensor) -> float:
    """PSNR in dB of the clip after inversion and sampling against the VAE's own decoding of it."""
    a, b = (torch.as_tensor(decode(pipe, x.to(pipe.vae.dtype), "pt")).float() for x in (latents, back))
    return min(60.0, float(-10 * (a - b).square().mean().clamp(min=1e-12).log10()))


def main(
    out: Path, quick: bool = False, model: str | None = None, progress: bool = True, count: int | None = None
) -> tuple[dict[str, Any], str]:
    """All methods on all edits with several seeds; writes `video.json`, `.md`, `.png` and some clips (`video-quick.*`)."""
    check_writable(out)
    stem = "video-quick" if quick else "video"
    todo, seeds = tasks(count or (4 if quick else 40)), range(1 if quick else 3)
    pipe, clip = load(model), load_clip()
    cache = cache_folder(out, stem, pipe, METHODS)
    records: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    for task in tqdm(todo, desc="edits", disable=not progress):
        for seed in seeds:
            for config, ways in METHODS:
                saved = {name: cache / f"{name.replace(' ', '-')}-{task.number}-{seed}.json" for name in ways}
                if not all(p.is_file() for p in saved.values()):
                    for name, row, result in run_task(pipe, task, replace(config, seed=seed), ways, clip):
                        write_clip(saved[name].with_suffix(""), result.frames, result.fps)
                        write_file(saved[name], json.dumps(row).encode())
                for name, path in saved.items():
                    records[name].append(json.loads(path.read_text(encoding="utf8")))
    strips = [
        [task.source.clip, *(_frames(cache / f"{n.replace(' ', '-')}-{task.number}-0") for n in NAMES)] for task in todo[:4]
    ]
    data = {
        "bench": "video",
        "quick": quick,
        "edits": len(todo),
        "seeds": list(seeds),
        "rows": [{"method": n, **{m: _mean(records[n], m) for m in (*MEASURES, "reconstruction_psnr")}} for n in NAMES],
    }
    text = table(data)
    write_file(out / f"{stem}.json", (json.dumps(data, indent=1) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    write_file(out / f"{stem}.png", sheet(strips))
    return data, text


def _frames(folder: Path) -> Clip:
    from accord.data.video import read_clip

    return read_clip(folder, fps=8)


def _mean(rows: list[dict[str, Any]], measure: str) -> dict[str, Any]:
    """Mean over edits, seeds of one edit together, with a bootstrapped 95 % interval."""
    by_task: dict[int, list[float]] = {}
    for row in rows:
        if row[measure] is not None:
            by_task.setdefault(row["number"], []).append(row[measure])
    values = np.asarray([np.mean(v) for v in by_task.values()])
    low, high = bootstrap(values, lambda v: float(v.mean()))
    return {"mean": round(float(values.mean()), 4), "ci95": [round(low, 4), round(high, 4)]}


def table(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    head = ["method", "frames right", "track error, px", "consistency", "ground PSNR, dB", "flicker", "s/edit", "reconstruction, dB"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in data["rows"]:
        cells = [f"{row[m]['mean']:.3g} [{row[m]['ci95'][0]:.3g}, {row[m]['ci95'][1]:.3g}]" for m in (*MEASURES, "reconstruction_psnr")]
        lines.append(f"| {row['method']} | " + " | ".join(cells) + " |")
    return (
        f"# Editing lab clips\n\n{data['edits']} edits x {len(data['seeds'])} seeds, judged by the reader; mean [95 %].\n\n" + "\n".join(lines) + "\n"
    )


def sheet(strips: list[list[Clip]], side: int = 64) -> bytes:
    """A contact sheet: a block an edit, a row the source and each method, a column a frame."""
    rows = [clip for strip in strips for clip in strip]
    columns = max(len(c) for c in rows)
    gap = 8
    picture = Image.new("RGB", (columns * side, len(rows) * side + gap * (len(strips) - 1)), "white")
    y = 0
    for strip in strips:
        for clip in strip:
            for i, frame in enumerate(clip.frames):
                picture.paste(frame.resize((side, side)), (i * side, y))
            y += side
        y += gap
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
