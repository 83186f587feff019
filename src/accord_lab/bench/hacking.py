"""`accord bench hacking`: a run that is made to hack its reward, and what the guard makes of it.

No denoising term, no distance to the untuned model, no decay of the adapter, a high rate, no margin, and an evaluation
every ten steps. The guard's held-out score is the benchmark's; the reader, which neither reward nor guard sees, judges
the untuned pipeline, the adapter that was kept, and the one at which the run was stopped.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from accord.diffusion.generate import generate
from accord.diffusion.lora import NAME
from accord.diffusion.pipelines import SD, Pipeline, load
from accord.embedded import TUNING
from accord.evaluation.stats import interval
from accord.judges.captioners import load_captioner
from accord.methods.invert.alignment import InversionScore
from accord.methods.tune.config import TuneConfig
from accord.methods.tune.train import train_reward
from accord.reports.pictures import png
from accord.rewards.composed import make_rewards
from accord.training import checkpoints
from accord_lab.bench.report import sheet, table, within
from accord_lab.bench.rewards import REWARD, training_prompts
from accord_lab.bench.runner import Bench
from accord_lab.scenes.ask import ask_of, check
from accord_lab.scenes.read import read

SHOWN = 6  # prompts in the picture


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    prompts: int  # to train with
    judged: int  # of them, about
    steps: int
    every: int  # steps between evaluations
    eval_prompts: int
    anchors: int
    batch_size: int

    @property
    def config(self) -> TuneConfig:
        """The knobs that ask for it."""
        how_far = {k: TUNING["refl"][k] for k in ("num_inference_steps", "stop_from", "stop_until")}
        return TuneConfig.of(
            "refl",
            steps=self.steps,
            learning_rate=3e-3,
            weight_decay=0.0,
            reward_weight=1.0,
            pretrain_weight=0.0,
            kl_weight=0.0,
            margin=100.0,
            ema_decay=0.8,
            eval_every=self.every,
            save_every=self.every,
            eval_prompts=self.eval_prompts,
            anchors=self.anchors,
            batch_size=self.batch_size,
            **how_far,
        )


@dataclass(kw_only=True)
class Hacking(Bench[Plan, dict[str, Any]]):
    """One run, and a sheet of the pictures of its three pipelines."""

    name = "hacking"
    plans = (Plan(512, 96, 300, 10, 48, 64, 8), Plan(32, 4, 4, 2, 4, 4, 2))
    model: str | None = None

    def measure(self, cell: Plan) -> dict[str, Any]:
        pipe, config = load(self.model, classes=SD), cell.config
        prompts = training_prompts(cell.prompts)
        judged = prompts[:: max(1, len(prompts) // cell.judged)]
        found = {"untuned": _pictures(pipe, judged)}
        folder = Path(tempfile.mkdtemp(prefix="accord-hacking-"))
        try:
            reward, score = make_rewards(REWARD, load_captioner()), InversionScore()
            tuned = train_reward(pipe, prompts, reward, folder, config=config, held_out=score, progress=self.progress)
            report = tuned.report
            found["kept"] = _pictures(pipe, judged)
            _put_last_weights(pipe, folder)
            found["at the stop"] = _pictures(pipe, judged)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.sheet = sheet({n: images[:SHOWN] for n, images in found.items()}, judged[:SHOWN])
        evaluated = set(prompts[:: len(prompts) // config.eval_prompts][: config.eval_prompts])
        return {
            "learning_rate": config.learning_rate,
            **{k: report[k] for k in ("steps_taken", "kept_step", "parted_ways_at", "evaluations", "verdict")},
            "prompts": len(judged),
            "looked_at": len(set(judged) & evaluated),
            "right": {
                name: interval([check(read(i), ask_of(p)).right for i, p in zip(images, judged, strict=True)])
                for name, images in found.items()
            },
        }

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        evaluations = [[r["step"], f"{r['reward']:.2f}", f"{r['held_out']:.3f}"] for r in data["evaluations"]]
        right = [[name, within(r["mean"], r["ci95"], times=100)] for name, r in data["right"].items()]
        return (
            "# A run that is made to hack its reward\n\nReFL without denoising term, without the distance to the "
            f"untuned model, at a learning rate of {data['learning_rate']:g}.\n\n{data['verdict']}\n\n"
            + table(["step", "reward, in spreads", "held-out score"], evaluations)
            + f"\n\n{data['prompts']} prompts, {data['looked_at']} of them those of the evaluations, one picture each "
            "from one noise, judged by the reader:\n\n"
            + table(["adapter", "right % [95 %]"], right)
            + "\n\nIn the picture, from above: untuned, kept, at the stop.\n"
        )

    def pictures(self, data: dict[str, Any]) -> dict[str, bytes]:
        return {".png": png(self.sheet)}


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
