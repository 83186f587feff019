"""`accord bench video`: edits of lab videos whose truth is known, judged by the reader frame by frame."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from accord.data.shards import share_of
from accord.data.video import Video, read_video, write_video
from accord.diffusion.loop import decode
from accord.diffusion.pipelines import SD, Pipeline, device_name, load
from accord.files import check_writable, write_file
from accord.methods.video.config import EditConfig
from accord.methods.video.editing import VideoEditor
from accord.reports.pictures import in_a_row, labelled_row, png
from accord.rewards.clip import ClipScorer, load_clip
from accord.rewards.video import LOST, background_psnr, flicker, temporal_consistency, track
from accord.types import InputError
from accord_lab.bench.cache import cache_folder, slug
from accord_lab.bench.scenes import bootstrap
from accord_lab.scenes.ask import ask_of, check
from accord_lab.scenes.lexicon import IMAGE_SIZE
from accord_lab.scenes.read import read
from accord_lab.scenes.videos import EDITS, MovingScene, edited, moving_scene

TUNED = EditConfig(
    tune_steps=60, learning_rate=1e-3, num_inference_steps=25, guidance_scale=5.0, injection=0.0, mask_blending=0.0
)
BLENDED = {"injection": 0.5, "mask_blending": 0.7}
# what is tuned and inverted, and the ways of sampling that share it
METHODS: tuple[tuple[EditConfig, dict[str, dict[str, float]]], ...] = (
    (replace(TUNED, tune_steps=0, context=False, window=1, overlap=0), {"frame by frame": {}}),
    (
        replace(TUNED, context=False),
        {
            "Tune-A-Video": {},
            "Tune-A-Video + injection": {"injection": 0.5},
            "Tune-A-Video + injection + mask blending": BLENDED,
        },
    ),
    (TUNED, {"context": {}, "context + injection": {"injection": 0.5}, "context + injection + mask blending": BLENDED}),
)
NAMES = tuple(name for _, ways in METHODS for name in ways)
AGAINST = (
    ("context", "Tune-A-Video"),
    ("context + injection", "Tune-A-Video + injection"),
    ("context + injection + mask blending", "Tune-A-Video + injection + mask blending"),
    ("Tune-A-Video", "frame by frame"),
    ("Tune-A-Video + injection + mask blending", "Tune-A-Video"),
    ("context + injection + mask blending", "context"),
)
# edits that were measured otherwise are measured again
JUDGED = "background from the boxes of the scenes, a lost thing half a diagonal off"
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
    pipe: Pipeline, task: Task, config: EditConfig, ways: dict[str, dict[str, float]]
) -> Iterator[tuple[str, dict[str, float], Video]]:
    """Name, cost and edited video of each way of sampling; the video is tuned to and inverted once for all of them."""
    began = time.perf_counter()
    source = task.source.video
    editor = VideoEditor(pipe, source, task.source.image_prompt, config)
    with tempfile.TemporaryDirectory() as scratch:
        editor.tune(Path(scratch) / "run", progress=False)
    path = editor.invert()
    shared = time.perf_counter() - began
    back = reconstruction(pipe, editor.latents, editor.sample(task.source.image_prompt, 1.0, path))
    for name, changes in ways.items():
        began = time.perf_counter()
        editor.config = replace(config, **changes)  # type: ignore[arg-type]
        result = editor.edit(task.target.image_prompt, path)
        yield name, {"seconds": shared + time.perf_counter() - began, "reconstruction_psnr": back}, result


def measures(task: Task, frames: tuple[Image.Image, ...], clip: ClipScorer) -> dict[str, Any]:
    """What is measured of an edited video."""
    ask, keep = ask_of(task.target.image_prompt), background(task)
    return {
        "number": task.number,
        "kind": task.kind,
        "frames": len(frames),
        "right": float(np.mean([check(read(f), ask).right for f in frames])),
        "track_error": reader_track_error(frames, task.target),
        "consistency": temporal_consistency(frames, clip),
        "background_psnr": min(60.0, background_psnr(frames, task.source.video.frames, keep))
        if task.kind != "background"
        else None,
        "flicker": flicker(frames, keep),
        "judged": JUDGED,
    }


def background(task: Task) -> list[np.ndarray]:
    """Bool [H,W] per frame: where there is no thing, neither before nor after the edit."""
    out = []
    for frames in zip(task.source.frames, task.target.frames, strict=True):
        keep = np.ones((IMAGE_SIZE, IMAGE_SIZE), dtype=bool)
        for x0, y0, x1, y1 in (f.things[0].box for f in frames):
            keep[y0:y1, x0:x1] = False
        out.append(keep)
    return out


def reader_track_error(frames: tuple[Image.Image, ...], truth: MovingScene) -> float:
    """Mean distance, in pixels, of the thing from where it should be; where the reader sees not one thing, of the
    foreground.

    Where nothing is seen at all it is half the picture's diagonal.
    """
    out = []
    for frame, scene in zip(frames, truth.frames, strict=True):
        things = read(frame).things
        place = np.asarray(things[0].center) if len(things) == 1 else track([frame])[0] * frame.width
        out.append(
            float(np.nan_to_num(np.linalg.norm(place - np.asarray(scene.things[0].center)), nan=LOST * frame.width))
        )
    return float(np.mean(out))


@torch.no_grad()
def reconstruction(pipe: Pipeline, latents: torch.Tensor, back: torch.Tensor) -> float:
    """PSNR in dB of the video after inversion and sampling against the VAE's own decoding of it."""
    a, b = (torch.as_tensor(decode(pipe, x.to(pipe.vae.dtype), "pt")).float() for x in (latents, back))
    return min(60.0, float(-10 * (a - b).square().mean().clamp(min=1e-12).log10()))


@dataclass(frozen=True)
class Run:
    """One tuning and inversion of a video, and the edits that share it."""

    task: Task
    seed: int
    config: EditConfig
    ways: dict[str, dict[str, float]]

    def saved(self, cache: Path) -> dict[str, Path]:
        """Where each way's measures are kept; the edited video is in a folder beside them."""
        return {name: cache / f"{slug(name)}-{self.task.number}-{self.seed}.json" for name in self.ways}

    def finished(self, cache: Path) -> bool:
        return all(p.is_file() and _row(p).get("judged") == JUDGED for p in self.saved(cache).values())

    def make(self, pipe: Pipeline, clip: ClipScorer, cache: Path) -> None:
        """Edit and measure; edits that are there are measured alone."""
        saved = self.saved(cache)
        if not all(p.is_file() and (p.with_suffix("").is_dir() or self.finished(cache)) for p in saved.values()):
            for name, cost, result in run_task(pipe, self.task, replace(self.config, seed=self.seed), self.ways):
                write_video(saved[name].with_suffix(""), result.frames, result.fps)
                write_file(
                    saved[name],
                    json.dumps(
                        {"device": device_name(str(pipe.device))} | cost | measures(self.task, result.frames, clip)
                    ).encode(),
                )
        elif not self.finished(cache):
            for path in saved.values():
                frames = read_video(path.with_suffix("")).frames
                write_file(path, json.dumps(_row(path) | measures(self.task, frames, clip)).encode())


def main(
    out: Path,
    quick: bool = False,
    model: str | None = None,
    device: str | None = None,
    progress: bool = True,
    count: int | None = None,
    seeds: int | None = None,
    shard: tuple[int, int] | None = None,
    so_far: bool = False,
) -> tuple[dict[str, Any], str]:
    """All methods on the same edits; writes `video.json`, `.md`, `.png`, videos of the first edits with the source and
    each method side by side, and the measures of each edit, `video-edits.jsonl` (`video-quick*`).

    Edits whose measures are there already are taken over if they were made with the same models and knobs.

    Args:
        device: CUDA if there is one, if None. The column of time is of the device that made most edits.
        count: edits; 40 if None (4 with `quick`).
        seeds: of tuning and sampling; 3 if None (1 with `quick`).
        shard: (i, n): only every n-th edit from the i-th on, into the cache alone; a call without takes them from
            there.
        so_far: nothing is made; the table of the edits and seeds that are finished with every method.

    Raises:
        InputError: for a number below 1, or if nothing is finished yet that `so_far` could show.
    """
    count, seeds = (4 if quick else 40) if count is None else count, (1 if quick else 3) if seeds is None else seeds
    for name, number in (("edits", count), ("seeds", seeds)):
        if number < 1:
            raise InputError(f"{name} must be at least 1, not {number}")
    check_writable(out)
    stem = "video-quick" if quick else "video"
    pipe = load(model, device, classes=SD)
    clip = load_clip(device=str(pipe.device))
    cache = cache_folder(out, stem, pipe, METHODS)
    measured = out / f"{stem}-edits.jsonl"
    put_back(measured, cache)
    asked = [(task, seed) for seed in range(seeds) for task in tasks(count)]
    edits = [[Run(task, seed, config, ways) for config, ways in METHODS] for task, seed in asked]
    if so_far:
        edits = [runs for runs in edits if all(r.finished(cache) for r in runs)]
        if not edits:
            raise InputError("no edit is finished yet; run it without `so_far`")
    for runs in tqdm(share_of(edits, shard), desc="edits", disable=not progress):
        for run in runs:
            run.make(pipe, clip, cache)
    if shard is not None:
        return {"bench": "video", "shard": list(shard)}, f"every {shard[1]}. edit is in {cache}"
    records: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    for run in (r for runs in edits for r in runs):
        for name, path in run.saved(cache).items():
            records[name].append(_row(path))
    device = timed_on(records)
    first: dict[
        int, list[Path]
    ] = {}  # of each edit the first seed whose videos are there (of what was put back they are not)
    for runs in edits:
        videos = [p.with_suffix("") for r in runs for p in r.saved(cache).values()]
        if all(c.is_dir() for c in videos):
            first.setdefault(runs[0].task.number, videos)
    shown = [task for task in tasks(count) if task.number in first][:4]
    strips = [[t.source.video, *(read_video(c, fps=float(t.source.video.fps)) for c in first[t.number])] for t in shown]
    data = {
        "bench": "video",
        "quick": quick,
        "edits": len({runs[0].task.number for runs in edits}),
        "seeds": sorted({runs[0].seed for runs in edits}),
        "device": device,
        "rows": [{"method": n, **{m: _mean(records[n], m) for m in (*MEASURES, "reconstruction_psnr")}} for n in NAMES],
        "parts": {
            part: {n: {m: _mean(rows, m) for m in ("right", "track_error")} for n, rows in of.items()}
            for part, of in _parts(records).items()
        },
        "differences": [
            {"of": a, "over": b, **{m: _mean(_less(records[a], records[b], m), m) for m in MEASURES}}
            for a, b in AGAINST
        ],
    }
    text = table(data)
    write_file(out / f"{stem}.json", (json.dumps(data, indent=1) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    write_file(measured, "".join(kept_measures(cache)).encode())
    if strips:
        titles = [f"{t.source.image_prompt} -> {t.target.image_prompt}" for t in shown]
        write_file(out / f"{stem}.png", png(sheet(titles, strips)))
        for i, strip in enumerate(strips):
            write_video(out / f"{stem}-{i}.mp4", side_by_side(strip), strip[0].fps)
    return data, text


def kept_measures(cache: Path) -> list[str]:
    """A line of JSON for each way of each edit that is finished."""
    paths = sorted(cache.glob("*.json"))
    return [json.dumps({"edit": p.stem, "made_with": cache.name, **_row(p)}) + "\n" for p in paths]


def _row(path: Path) -> dict[str, Any]:
    """The cost and the measures of an edit."""
    row: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    return row


def put_back(measured: Path, cache: Path) -> None:
    """What `kept_measures` said of these models and knobs, into the cache where it is missing."""
    for line in measured.read_text(encoding="utf8").splitlines() if measured.is_file() else []:
        row = json.loads(line)
        path = cache / f"{row.pop('edit')}.json"
        if row.pop("made_with") == cache.name and not path.is_file():
            write_file(path, json.dumps(row).encode())


def timed_on(records: dict[str, list[dict[str, Any]]]) -> str:
    """The device that made most edits; the time of those made elsewhere is taken out.

    Rows that name none are of the CPU.
    """
    every = [r for rows in records.values() for r in rows]
    device: str = Counter(r.get("device", "cpu") for r in every).most_common(1)[0][0]
    for row in every:
        row["seconds"] = row["seconds"] if row.get("device", "cpu") == device else None
    return device


def _less(rows: list[dict[str, Any]], others: list[dict[str, Any]], measure: str) -> list[dict[str, Any]]:
    """What one method has more than another, edit by edit; both made the same edits in the same order."""
    return [
        {"number": a["number"], measure: None if a[measure] is None or b[measure] is None else a[measure] - b[measure]}
        for a, b in zip(rows, others, strict=True)
    ]


def _parts(records: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The rows of each method by kind of edit and by length: part -> method -> rows."""
    first = records[NAMES[0]]
    parts = {kind: [i for i, r in enumerate(first) if r["kind"] == kind] for kind in EDITS}
    parts |= {
        f"{n} frames": [i for i, r in enumerate(first) if r["frames"] == n]
        for n in sorted({r["frames"] for r in first})
    }
    return {
        part: {name: [rows[i] for i in places] for name, rows in records.items()}
        for part, places in parts.items()
        if places
    }


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
    head = [
        "method",
        "frames right",
        "track error, px",
        "consistency",
        "background PSNR, dB",
        "flicker",
        "s/edit",
        "reconstruction, dB",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in data["rows"]:
        cells = [
            f"{row[m]['mean']:.3g} [{row[m]['ci95'][0]:.3g}, {row[m]['ci95'][1]:.3g}]"
            for m in (*MEASURES, "reconstruction_psnr")
        ]
        lines.append(f"| {row['method']} | " + " | ".join(cells) + " |")
    text = (
        f"# Editing lab videos\n\n{data['edits']} edits, seeds {data['seeds']}, judged by the reader; mean [95 %]; "
        f"time on {data['device']}. The background's PSNR is of edits that leave it; PSNRs are capped at 60 dB.\n\n"
        + "\n".join(lines)
        + "\n\n"
    )
    parts = data["parts"]
    text += (
        "Frames right and track error in px, by what is changed and by length:\n\n| method | "
        + " | ".join(parts)
        + " |\n"
        + "|---" * (1 + len(parts))
        + "|\n"
    )
    for name in NAMES:
        text += (
            f"| {name} | "
            + " | ".join(
                f"{p[name]['right']['mean']:.2f}, {p[name]['track_error']['mean']:.1f}" for p in parts.values()
            )
            + " |\n"
        )
    text += "\n"
    for d in data["differences"]:
        said = [f"{m} {d[m]['mean']:+.3g} [{d[m]['ci95'][0]:+.3g}, {d[m]['ci95'][1]:+.3g}]" for m in MEASURES]
        text += f"- {d['of']} less {d['over']}: {', '.join(said)}\n"
    return text


def side_by_side(strip: list[Video]) -> list[Image.Image]:
    """Frames of several videos next to each other."""
    return [
        Image.fromarray(np.concatenate([np.asarray(f.convert("RGB")) for f in row], axis=1))
        for row in zip(*(c.frames for c in strip), strict=True)
    ]


def sheet(titles: list[str], strips: list[list[Video]], side: int = 64) -> Image.Image:
    """A contact sheet: a block an edit under its title, a row the source and each method, a column a frame."""
    rows = []
    for title, strip in zip(titles, strips, strict=True):
        for i, (name, video) in enumerate(zip(("source", *NAMES), strip, strict=True)):
            frames = in_a_row([frame.resize((side, side)) for frame in video.frames])
            rows.append(labelled_row([frames], [name], "" if i else title))
    return in_a_row(rows, across=False)
