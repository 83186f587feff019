"""`accord bench speed --tuning`: what a step of each strategy costs, and what a step of ReFL is made of, on the lab.

The parts of a ReFL step (rollout without gradient, one step with, VAE decode, captioner, each forward and backward) are
measured by themselves, in turns with the whole step.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from accord.diffusion.attention import plain_attention
from accord.diffusion.loop import decode_with_grad, denoise, sample
from accord.diffusion.lora import add_lora
from accord.diffusion.pipelines import load
from accord.lab.bench.rewards import training_prompts
from accord.lab.bench.speed import interleaved, rounded
from accord.methods.realign.config import TuneConfig
from accord.methods.realign.strategies import STRATEGIES, Batch
from accord.methods.realign.tuning import Tuner
from accord.outputs import check_writable, write_file
from accord.rewards.captioners import load_captioner
from accord.rewards.rewards import make_rewards
from accord.training.processes import Processes

TIMED = ("refl", "draft", "raft", "grpo")
STOP = 34  # of 40: the middle of 30..39


def main(out: Path, quick: bool = False, progress: bool = True) -> tuple[dict[str, Any], str]:
    """Measure, and write `speed-tuning.json` and `.md`."""
    check_writable(out)
    repeats = 2 if quick else 7
    pipe = load(device="cpu")
    add_lora(pipe, 8)
    reward = make_rewards({"contrast": 1.0}, load_captioner())
    config = TuneConfig(batch_size=4, num_inference_steps=10 if quick else 40, anchors=8, raft_refresh=1)
    stop = STOP * config.num_inference_steps // 40
    with tempfile.TemporaryDirectory() as scratch, plain_attention(pipe.unet):
        tuner = Tuner(pipe, training_prompts(32), reward, Path(scratch), config, None, None, Processes(), False)
        whole = interleaved(
            {name: _step(tuner, name) for name in TIMED}, repeats, "cpu", "strategies", progress
        )
        parts = _parts(tuner, stop)
        cells = interleaved({"refl": _refl_at(tuner), **parts}, repeats, "cpu", "parts of refl", progress)
    total = sum(cells[name]["seconds"] for name in parts)
    data = rounded(
        {
            "bench": "speed --tuning",
            "quick": quick,
            "pictures": config.batch_size,
            "num_inference_steps": config.num_inference_steps,
            "strategies": {n: {"seconds": c["seconds"], "steps_per_minute": 60 / c["seconds"]} for n, c in whole.items()},
            "parts": {n: cells[n]["seconds"] for n in parts},
            "refl_seconds": cells["refl"]["seconds"],
            "refl_over_parts": cells["refl"]["seconds"] / total,
        }
    )
    lines = ["| strategy | s/step | steps/min |", "|---|---|---|"]
    lines += [f"| {n} | {c['seconds']:.2f} | {c['steps_per_minute']:.1f} |" for n, c in data["strategies"].items()]
    shares = "\n".join(f"| {n} | {s:.3f} |" for n, s in data["parts"].items())
    text = (
        f"# Cost of reward tuning on the lab\n\n{data['pictures']} pictures a step, rollouts of {data['num_inference_steps']} steps, guided; "
        "the strategy's own loss, without the denoising term. RAFT collects anew every step here.\n\n" + "\n".join(lines) + "\n\n"
        f"A ReFL step that stops at {stop} takes {data['refl_seconds']:.2f} s, {data['refl_over_parts']:.2f} of the sum of its parts:\n\n"
        f"| part | s |\n|---|---|\n{shares}\n"
    )
    stem = "speed-tuning-quick" if quick else "speed-tuning"
    write_file(out / f"{stem}.json", (json.dumps(data, indent=1) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    return data, text


def _step(tuner: Tuner, strategy: str) -> Callable[[], torch.Tensor]:
    def step() -> torch.Tensor:
        loss, _ = STRATEGIES[strategy](tuner, tuner.batch(0))
        loss.backward()
        return loss.detach()

    return step


class _Stopped(Batch):
    """A batch whose shared draw is always STOP's step."""

    def randint(self, low: int, high: int) -> int:
        return STOP * high // 40


def _refl_at(tuner: Tuner) -> Callable[[], torch.Tensor]:
    """A ReFL step with a fixed stop."""

    def step() -> torch.Tensor:
        loss, _ = STRATEGIES["refl"](tuner, _Stopped(**vars(tuner.batch(0))))
        loss.backward()
        return loss.detach()

    return step


def _parts(tuner: Tuner, stop: int) -> dict[str, Callable[[], torch.Tensor]]:
    pipe, config, batch = tuner.pipe, tuner.config, tuner.batch(0)
    scheduler, told, noise = tuner.start(batch)
    timestep = scheduler.timesteps[stop]

    def rollout() -> torch.Tensor:
        tuner.told(batch.prompts, True)
        x = noise
        for step in islice(sample(pipe, batch.prompts, latents=noise, told=told, scheduler=scheduler, **tuner.sampling), stop):
            x = step.latents
        return x

    def one_step() -> torch.Tensor:
        output = denoise(pipe, scheduler, noise, timestep, told, config.guidance_scale)
        output.square().mean().backward()
        return output.detach()

    def vae() -> torch.Tensor:
        latents = noise.clone().requires_grad_(True)
        images = decode_with_grad(pipe, latents)
        images.square().mean().backward()
        return images.detach()

    pictures = decode_with_grad(pipe, noise).detach()

    def captioner() -> torch.Tensor:
        images = pictures.clone().requires_grad_(True)
        score = tuner.judge(images, batch.prompts)[0].mean()
        score.backward()
        return score.detach()

    return {"rollout without gradient": rollout, "one step with gradient": one_step, "VAE decode": vae, "captioner": captioner}
