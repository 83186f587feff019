"""`accord bench video`: edits of lab videos whose truth is known, judged by the reader frame by frame."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from accord.data.video import Video as Frames
from accord.data.video import read_video, write_video
from accord.diffusion.pipelines import SD, Pipeline, device_name, load
from accord.evaluation.stats import interval
from accord.files import write_file
from accord.judges.clip import ClipScorer, load_clip
from accord.methods.video.config import EditConfig
from accord.methods.video.editing import VideoEditor
from accord.reports.pictures import in_a_row, labelled_row, png
from accord.rewards.video import LOST, background_psnr, flicker, temporal_consistency, track
from accord_lab.bench.report import table, within
from accord_lab.bench.runner import Bench, at_least_one, cache_folder, json_bytes, read_json, slug
from accord_lab.scenes.ask import ask_of, check
from accord_lab.scenes.lexicon import IMAGE_SIZE
from accord_lab.scenes.read import read
from accord_lab.scenes.videos import EDITS, MovingScene, edited, moving_scene

TUNED = EditConfig(
    tune_steps=60, learning_rate=1e-3, num_inference_steps=25, guidance_scale=5.0, injection=0.0, mask_blending=0.0
)
BLENDED = {"injection": 0.5, "mask_blending": 0.7}
# what is tuned and inverted, and the ways of sampling that share it
Methods = tuple[tuple[EditConfig, dict[str, dict[str, float]]], ...]
METHODS: Methods = (
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
) -> Iterator[tuple[str, dict[str, float], Frames]]:
    """Name, cost and edited video of each way of sampling; the video is tuned to and inverted once for all of them."""
    began = time.perf_counter()
    source = task.source.video
    editor = VideoEditor(pipe, source, task.source.image_prompt, config)
    with tempfile.TemporaryDirectory() as scratch:
        editor.tune(Path(scratch) / "run", progress=False)
    path = editor.invert()
    shared = time.perf_counter() - began
    back = reconstruction(editor, editor.sample(task.source.image_prompt, 1.0, path))
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
def reconstruction(editor: VideoEditor, back: torch.Tensor) -> float:
    """PSNR in dB of the video after inversion and sampling against the VAE's own decoding of it."""
    a, b = (editor.decode(x) for x in (editor.latents, back))
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
        return all(p.is_file() and read_json(p).get("judged") == JUDGED for p in self.saved(cache).values())

    def make(self, pipe: Pipeline, clip: ClipScorer, cache: Path) -> None:
        """Edit and measure; edits that are there are measured alone."""
        saved = self.saved(cache)
        if self.finished(cache):
            return
        if all(p.is_file() and p.with_suffix("").is_dir() for p in saved.values()):
            for path in saved.values():
                frames = read_video(path.with_suffix("")).frames
                write_file(path, json_bytes(read_json(path) | measures(self.task, frames, clip)))
            return
        made_on = {"device": device_name(str(pipe.device))}
        for name, cost, result in run_task(pipe, self.task, replace(self.config, seed=self.seed), self.ways):
            write_video(saved[name].with_suffix(""), result.frames, result.fps)
            write_file(saved[name], json_bytes(made_on | cost | measures(self.task, result.frames, clip)))


Cell = tuple[Task, int]  # an edit and its seed


def page(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    head = ["method", "frames right", "track error, px", "consistency", "background PSNR, dB", "flicker", "s/edit"]
    measured = (*MEASURES, "reconstruction_psnr")
    rows = [[r["method"], *(within(r[m]["mean"], r[m]["ci95"], ".3g") for m in measured)] for r in data["rows"]]
    parts = data["parts"]
    by_part = [
        [name, *(f"{p[name]['right']['mean']:.2f}, {p[name]['track_error']['mean']:.1f}" for p in parts.values())]
        for name in NAMES
    ]
    text = (
        f"# Editing lab videos\n\n{data['edits']} edits, seeds {data['seeds']}, judged by the reader; mean [95 %]; "
        f"time on {data['device']}. The background's PSNR is of edits that leave it; PSNRs are capped at 60 dB.\n\n"
        + table([*head, "reconstruction, dB"], rows)
        + "\n\nFrames right and track error in px, by what is changed and by length:\n\n"
        + table(["method", *parts], by_part)
        + "\n\n"
    )
    for d in data["differences"]:
        said = [f"{m} {within(d[m]['mean'], d[m]['ci95'], '+.3g')}" for m in MEASURES]
        text += f"- {d['of']} less {d['over']}: {', '.join(said)}\n"
    return text


@dataclass(kw_only=True)
class Video(Bench[Cell, list[Run]]):
    """All methods on the same edits. Beside the table, its sheet and videos of the first edits (the source and each
    method side by side) it writes the measures of each edit, `video-edits.jsonl`. Those that are there already are
    taken over if they were made with the same models and knobs.

    Attributes:
        device: CUDA if there is one, if None. The column of time is of the device that made most edits.
        edits, seeds: how many; the plan's (40 and 3, with `quick` 4 and 1) if None.
        methods: what is tuned and inverted, and the ways of sampling.

    Raises:
        InputError: for a number below 1.
    """

    name = "video"
    keeps = True
    plans = ((40, 3), (4, 1))
    model: str | None = None
    device: str | None = None
    edits: int | None = None
    seeds: int | None = None
    methods: Methods = METHODS

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(edits=self.edits, seeds=self.seeds)

    @cached_property
    def models(self) -> tuple[Pipeline, ClipScorer]:
        pipe = load(self.model, self.device, classes=SD)
        return pipe, load_clip(device=str(pipe.device))

    @cached_property
    def cache(self) -> Path:
        """Where the measures are, with what the table's folder knows of these models and knobs."""
        cache = cache_folder(self.out, self.stem, self.models[0], self.methods)
        put_back(self.out / f"{self.stem}-edits.jsonl", cache)
        return cache

    def cells(self) -> Sequence[Cell]:
        edits, seeds = self.plan
        return [(task, seed) for seed in range(self.seeds or seeds) for task in tasks(self.edits or edits)]

    def runs(self, cell: Cell) -> list[Run]:
        return [Run(*cell, config, ways) for config, ways in self.methods]

    def finished(self, cell: Cell) -> list[Run] | None:
        runs = self.runs(cell)
        return runs if all(r.finished(self.cache) for r in runs) else None

    def missing(self, rows: Sequence[list[Run]]) -> str:
        return "" if rows else "no edit is finished yet"

    def measure(self, cell: Cell) -> list[Run]:
        runs = self.runs(cell)
        for run in runs:
            run.make(*self.models, self.cache)
        return runs

    # --- the table ----------------------------------------------------------------------------------------------------
    def results(self, rows: Sequence[list[Run]]) -> dict[str, Any]:
        records: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
        for run in (r for runs in rows for r in runs):
            for name, path in run.saved(self.cache).items():
                records[name].append(read_json(path))
        device = timed_on(records)
        self.shown = self._videos(rows)
        return {
            "edits": len({runs[0].task.number for runs in rows}),
            "seeds": sorted({runs[0].seed for runs in rows}),
            "device": device,
            "rows": [
                {"method": n, **{m: _mean(records[n], m) for m in (*MEASURES, "reconstruction_psnr")}} for n in NAMES
            ],
            "parts": {
                part: {n: {m: _mean(found, m) for m in ("right", "track_error")} for n, found in of.items()}
                for part, of in _parts(records).items()
            },
            "differences": [
                {"of": a, "over": b, **{m: _mean(_less(records[a], records[b], m), m) for m in MEASURES}}
                for a, b in AGAINST
            ],
        }

    def _videos(self, rows: Sequence[list[Run]]) -> list[tuple[str, list[Frames]]]:
        """Of the first four edits the source and each method's video, under a title. They are of the first seed whose
        videos are there (of what was put back they are not).
        """
        first: dict[int, tuple[str, list[Frames]]] = {}
        for runs in sorted(rows, key=lambda runs: (runs[0].task.number, runs[0].seed)):
            task, places = runs[0].task, [p.with_suffix("") for r in runs for p in r.saved(self.cache).values()]
            if len(first) < 4 and task.number not in first and all(p.is_dir() for p in places):
                title, source = f"{task.source.image_prompt} -> {task.target.image_prompt}", task.source.video
                first[task.number] = title, [source, *(read_video(p, fps=float(source.fps)) for p in places)]
        return list(first.values())

    render = staticmethod(page)

    def pictures(self, data: dict[str, Any]) -> dict[str, bytes]:
        for i, (_, videos) in enumerate(self.shown):
            write_video(self.out / f"{self.stem}-{i}.mp4", side_by_side(videos), videos[0].fps)
        pictures = {".png": png(sheet(self.shown))} if self.shown else {}
        return {"-edits.jsonl": "".join(kept_measures(self.cache)).encode(), **pictures}


def kept_measures(cache: Path) -> list[str]:
    """A line of JSON for each way of each edit that is finished."""
    paths = sorted(cache.glob("*.json"))
    return [json.dumps({"edit": p.stem, "made_with": cache.name, **read_json(p)}) + "\n" for p in paths]


def put_back(measured: Path, cache: Path) -> None:
    """What `kept_measures` said of these models and knobs, into the cache where it is missing."""
    for line in measured.read_text(encoding="utf8").splitlines() if measured.is_file() else []:
        row = json.loads(line)
        path = cache / f"{row.pop('edit')}.json"
        if row.pop("made_with") == cache.name and not path.is_file():
            write_file(path, json_bytes(row))


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
    return interval([np.mean(v) for v in by_task.values()])


def side_by_side(strip: list[Frames]) -> list[Image.Image]:
    """Frames of several videos next to each other."""
    return [
        Image.fromarray(np.concatenate([np.asarray(f.convert("RGB")) for f in row], axis=1))
        for row in zip(*(c.frames for c in strip), strict=True)
    ]


def sheet(shown: Sequence[tuple[str, list[Frames]]], side: int = 64) -> Image.Image:
    """A contact sheet: a block an edit under its title, a row the source and each method, a column a frame."""
    rows = []
    for title, videos in shown:
        for i, (name, video) in enumerate(zip(("source", *NAMES), videos, strict=True)):
            frames = in_a_row([frame.resize((side, side)) for frame in video.frames])
            rows.append(labelled_row([frames], [name], "" if i else title))
    return in_a_row(rows, across=False)
