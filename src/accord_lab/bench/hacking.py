"""`accord bench rewards --hacking`: a run that is made to hack its reward, and what the guard makes of it.

No denoising term, no distance to the untuned model, no decay of the adapter, a high rate, no margin, and an evaluation
every ten steps. The guard's held-out score is the benchmark's; the reader, which neither reward nor guard sees, judges
the untuned pipeline, the adapter that was kept, and the one at which the run was stopped.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from accord.diffusion.generate import generate
from accord.diffusion.lora import NAME
from accord.diffusion.pipelines import SD, Pipeline, load
from accord.embedded import TUNING
from accord.files import check_writable, write_file
from accord.methods.invert.alignment import InversionScore
from accord.methods.tune.config import TuneConfig
from accord.methods.tune.train import train_reward
from accord.outputs import in_a_row, labelled_row, png
from accord.rewards.captioners import load_captioner
from accord.rewards.rewards import make_rewards
from accord.training import checkpoints
from accord_lab.bench.rewards import REWARD, training_prompts
from accord_lab.bench.scenes import bootstrap
from accord_lab.scenes.ask import ask_of, check
from accord_lab.scenes.read import read

SHOWN = 6  # prompts in the picture


def config(quick: bool) -> TuneConfig:
    """The knobs that ask for it."""
    how_far = {k: TUNING["refl"][k] for k in ("num_inference_steps", "stop_from", "stop_until")}
    every = 2 if quick else 10
    return TuneConfig.of(
        "refl",
        steps=4 if quick else 300,
        learning_rate=3e-3,
        weight_decay=0.0,
        reward_weight=1.0,
        pretrain_weight=0.0,
        kl_weight=0.0,
        margin=100.0,
        ema_decay=0.8,
        eval_every=every,
        save_every=every,
        eval_prompts=4 if quick else 48,
        anchors=4 if quick else 64,
        batch_size=2 if quick else 8,
        **how_far,
    )


def main(out: Path, model: str | None = None, quick: bool = False, progress: bool = True) -> tuple[dict[str, Any], str]:
    """Tune to hack; writes `hacking.json`, `.md` and `.png` (`hacking-quick.*` with `quick`)."""
    check_writable(out)
    pipe, knobs = load(model, classes=SD), config(quick)
    prompts = training_prompts(32 if quick else 512)
    judged = prompts[:: max(1, len(prompts) // (4 if quick else 96))]
    found = {"untuned": _pictures(pipe, judged)}
    folder = Path(tempfile.mkdtemp(prefix="accord-hacking-"))
    try:
        reward = make_rewards(REWARD, load_captioner())
        tuned = train_reward(pipe, prompts, reward, folder, config=knobs, held_out=InversionScore(), progress=progress)
        report = tuned.report
        found["kept"] = _pictures(pipe, judged)
        _put_last_weights(pipe, folder)
        found["at the stop"] = _pictures(pipe, judged)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    right = {
        name: [check(read(i), ask_of(p)).right for i, p in zip(images, judged, strict=True)]
        for name, images in found.items()
    }
    data = {
        "bench": "rewards --hacking",
        "quick": quick,
        "learning_rate": knobs.learning_rate,
        **{k: report[k] for k in ("steps_taken", "kept_step", "parted_ways_at", "evaluations", "verdict")},
        "prompts": len(judged),
        "looked_at": len(set(judged) & set(prompts[:: len(prompts) // knobs.eval_prompts][: knobs.eval_prompts])),
        "right": {name: _share(values) for name, values in right.items()},
    }
    text = table(data)
    stem = "hacking-quick" if quick else "hacking"
    write_file(out / f"{stem}.json", (json.dumps(data, indent=1) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    write_file(out / f"{stem}.png", png(_sheet(found, judged)))
    return data, text


def _pictures(pipe: Pipeline, prompts: list[str]) -> list[Image.Image]:
    images = generate(pipe, prompts, 1001)
    assert isinstance(images, list)
    return images


@torch.no_grad()
def _put_last_weights(pipe: Pipeline, folder: Path) -> None:
    """The averaged weights with which a run ended, instead of those that were kept."""
    last = checkpoints.load_latest(folder / "checkpoints")
    assert last is not None
    for key, parameter in pipe.unet.named_parameters():
        if f".{NAME}." in key:
            parameter.copy_(last[1][f"ema.unet.{key}"])


def _share(values: list[bool]) -> dict[str, Any]:
    low, high = bootstrap(np.asarray(values, dtype=float), lambda v: float(v.mean()))
    return {"mean": round(sum(values) / len(values), 4), "ci95": [round(low, 4), round(high, 4)]}


def table(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    evaluations = "\n".join(
        f"| {row['step']} | {row['reward']:.2f} | {row['held_out']:.3f} |" for row in data["evaluations"]
    )
    right = "\n".join(
        f"| {name} | {100 * r['mean']:.1f} [{100 * r['ci95'][0]:.1f}, {100 * r['ci95'][1]:.1f}] |"
        for name, r in data["right"].items()
    )
    return (
        "# A run that is made to hack its reward\n\nReFL without denoising term, without the distance to the untuned "
        f"model, at a learning rate of {data['learning_rate']:g}.\n\n"
        f"{data['verdict']}\n\n| step | reward, in spreads | held-out score |\n|---|---|---|\n{evaluations}\n\n"
        f"{data['prompts']} prompts, {data['looked_at']} of them those of the evaluations, one picture each from one "
        "noise, "
        f"judged by the reader:\n\n| adapter | right % [95 %] |\n|---|---|\n{right}\n\n"
        "In the picture, from above: untuned, kept, at the stop.\n"
    )


def _sheet(found: dict[str, list[Image.Image]], prompts: list[str]) -> Image.Image:
    """A row for each adapter, a column for each of the first prompts."""
    rows: list[Image.Image] = []
    for name, images in found.items():
        rows.append(labelled_row(images[:SHOWN], [] if rows else prompts[:SHOWN], name))
    return in_a_row(rows, across=False)
