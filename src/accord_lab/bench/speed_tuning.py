"""`accord bench speed --tuning`: what a step of each strategy costs, and what a step of ReFL is made of.

On the lab the parts of a ReFL step (rollout without gradient, one step with, VAE decode, captioner, each forward and
backward) are measured by themselves, in turns with the whole step, and the peak memory of each strategy in a process of
its own. At Stable Diffusion 1.5's architecture (random weights) the parts alone are measured and strategies projected
from them.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tqdm.auto import tqdm

from accord.diffusion.attention import plain_attention
from accord.diffusion.loop import decode_with_grad, denoise, initial_noise, sample
from accord.diffusion.lora import add_lora
from accord.diffusion.objective import predicted_x0
from accord.diffusion.pipelines import Conditioning, conditioning_of, load
from accord.files import check_writable, write_file
from accord.methods.tune.config import TuneConfig
from accord.methods.tune.rollouts import Batch
from accord.methods.tune.strategies import STRATEGIES
from accord.methods.tune.strategies.draft import Draft
from accord.methods.tune.strategies.grpo import Grpo
from accord.methods.tune.strategies.raft import Raft
from accord.methods.tune.strategies.refl import Refl
from accord.methods.tune.train import Tuner
from accord.rewards.captioners import load_captioner
from accord.rewards.rewards import Composed, make_rewards
from accord.training.processes import Processes
from accord.training.session import Session
from accord_lab.bench.rewards import training_prompts
from accord_lab.bench.speed import SD15, alone, interleaved, peak_of, rounded

TIMED = ("refl", "draft", "raft", "grpo")
SD15_PARTS = ("step", "guided step with gradient", "step with gradient", "decode and judge", "end of refl")
STOP = 34  # of 40: the middle of 30..39


def main(out: Path, quick: bool = False, progress: bool = True) -> tuple[dict[str, Any], str]:
    """Measure, and write `speed-tuning.json` and `.md` (`speed-tuning-quick.*`, without Stable Diffusion 1.5's size,
    with `quick`).
    """
    check_writable(out)
    repeats, rounds = (2, 2) if quick else (7, 3)  # a round of all strategies takes two minutes
    # before this process holds a network itself
    peaks = {n: alone(f"a step of {n}", _lab_peak, n, quick) for n in tqdm(TIMED, desc="memory", disable=not progress)}
    large = None if quick else _large(progress)
    config, stop = _config(quick), _stop(_config(quick))
    with tempfile.TemporaryDirectory() as scratch, _tuner(config, Path(scratch)) as tuner:
        whole = interleaved({name: _step(tuner, name) for name in TIMED}, rounds, "cpu", "strategies", progress)
        parts = _parts(tuner, stop)
        cells = interleaved({"refl": _refl_at(tuner), **parts}, repeats, "cpu", "parts of refl", progress)
    total = sum(cells[name]["seconds"] for name in parts)
    usual = TuneConfig().num_inference_steps
    data = rounded(
        {
            "bench": "speed --tuning",
            "quick": quick,
            "prompts": config.batch_size,
            "num_inference_steps": config.num_inference_steps,
            "strategies": {
                n: {"seconds": c["seconds"], "steps_per_minute": 60 / c["seconds"], "peak_mib": peaks[n]}
                for n, c in whole.items()
            },
            "parts": {n: cells[n]["seconds"] for n in parts},
            "refl_seconds": cells["refl"]["seconds"],
            "refl_over_parts": cells["refl"]["seconds"] / total,
            "sd15": large
            and {
                **large,
                "strategies": projected(large["seconds"], usual, Draft(), Raft(), Grpo()),
            },
        }
    )
    text = _table(data, stop)
    stem = "speed-tuning-quick" if quick else "speed-tuning"
    write_file(out / f"{stem}.json", (json.dumps(data, indent=1) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    return data, text


def _table(data: dict[str, Any], stop: int) -> str:
    lines = ["| strategy | s/step | steps/min | peak MiB over the weights |", "|---|---|---|---|"]
    lines += [
        f"| {n} | {c['seconds']:.2f} | {c['steps_per_minute']:.1f} | {c['peak_mib']:.0f} |"
        for n, c in data["strategies"].items()
    ]
    shares = "\n".join(f"| {n} | {s:.3f} |" for n, s in data["parts"].items())
    text = (
        f"# Cost of reward tuning on the lab\n\n{data['prompts']} prompts a step, rollouts of "
        f"{data['num_inference_steps']} steps, guided; RAFT and GRPO draw "
        f"{Grpo().group_size} pictures of each. The strategy's own loss, without the denoising term; RAFT "
        "collects anew every step here.\n\n" + "\n".join(lines) + "\n\n"
        f"A ReFL step that stops at {stop} takes {data['refl_seconds']:.2f} s, {data['refl_over_parts']:.2f} of the "
        "sum of its parts:\n\n"
        f"| part | s |\n|---|---|\n{shares}\n"
    )
    if data["sd15"]:
        text += _large_table(data["sd15"])
    return text


# --- the lab
# ------------------------------------------------------------------------------------------------------------
def _config(quick: bool) -> TuneConfig:
    return TuneConfig(batch_size=4, num_inference_steps=10 if quick else 40, anchors=8)


def _stop(config: TuneConfig) -> int:
    return STOP * config.num_inference_steps // 40


@contextmanager
def _tuner(config: TuneConfig, folder: Path) -> Iterator[Tuner]:
    pipe = load(device="cpu")
    add_lora(pipe, 8)
    reward = make_rewards({"contrast": 1.0}, load_captioner())
    with plain_attention(pipe.unet):
        yield Tuner(pipe, training_prompts(32), reward, Session(folder, Processes()), config, None, None, False)


def _lab_peak(strategy: str, quick: bool) -> float:
    """MiB that one step of a strategy needs at its peak, over the loaded weights."""
    with tempfile.TemporaryDirectory() as scratch, _tuner(_config(quick), Path(scratch)) as tuner:
        return peak_of(_step(tuner, strategy))


# --- Stable Diffusion 1.5's architecture
# --------------------------------------------------------------------------------
def sd15_pipeline() -> StableDiffusionPipeline:
    """Stable Diffusion 1.5's U-Net and VAE with random weights; its conditioning is of the lab's text tower."""
    lab = load(device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**{**SD15, "cross_attention_dim": lab.text_encoder.config.hidden_size})
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=512,
        )
    parts = {**lab.components, "unet": unet.eval().requires_grad_(False), "vae": vae.eval().requires_grad_(False)}
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def _large(progress: bool) -> dict[str, Any]:
    """Seconds and peak MiB of each part for one picture, each in a process of its own: what a part leaves behind would
    hide the next one's peak.
    """
    measured = {
        n: alone(f"{n} at Stable Diffusion 1.5's size", _large_part, n)
        for n in tqdm(SD15_PARTS, desc="Stable Diffusion 1.5", disable=not progress)
    }
    return {key: {n: m[key] for n, m in measured.items()} for key in ("seconds", "peak_mib")}


def _large_part(name: str) -> dict[str, float]:
    """Seconds and peak MiB of one part."""
    pipe = sd15_pipeline()
    add_lora(pipe, 8)
    pipe.unet.enable_gradient_checkpointing()
    pipe.unet.train()  # or the checkpoints are not taken
    work = parts_of_a_picture(pipe, make_rewards({"contrast": 1.0}, load_captioner()), training_prompts(2)[0])[name]
    began = time.perf_counter()
    peak = peak_of(work)
    return {"seconds": time.perf_counter() - began, "peak_mib": peak}


def parts_of_a_picture(pipe: StableDiffusionPipeline, reward: Composed, prompt: str) -> dict[str, Callable[[], Any]]:
    """What strategies are made of, for one picture: name (one of SD15_PARTS) -> work."""
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(TuneConfig().num_inference_steps)
    timestep, noise = scheduler.timesteps[STOP], initial_noise(pipe, 1, [torch.Generator().manual_seed(0)])
    guided, alone = (conditioning_of(pipe, [prompt], guided=g) for g in (True, False))

    @torch.no_grad()
    def step() -> None:
        denoise(pipe, scheduler, noise, timestep, guided, 5.0)

    @torch.no_grad()
    def judge() -> None:
        reward(decode_with_grad(pipe, noise), [prompt])

    def with_gradient(conditioning: Conditioning) -> None:
        denoise(pipe, scheduler, noise, timestep, conditioning, 5.0).square().mean().backward()

    def end_of_refl() -> None:
        output = denoise(pipe, scheduler, noise, timestep, guided, 5.0)
        reward(decode_with_grad(pipe, predicted_x0(scheduler, output, timestep, noise)), [prompt]).mean().backward()

    return dict(
        zip(
            SD15_PARTS,
            (step, partial(with_gradient, guided), partial(with_gradient, alone), judge, end_of_refl),
            strict=True,
        )
    )


def projected(seconds: dict[str, float], steps: int, draft: Draft, raft: Raft, grpo: Grpo) -> dict[str, float]:
    """Seconds that each strategy takes for one prompt with rollouts of so many steps, from those of its parts."""
    step, guided, plain, judge, end = (seconds[n] for n in SD15_PARTS)
    picture = steps * step + judge
    return {
        "refl": STOP * step + end,
        "draft": (steps - draft.last_steps) * step + (draft.last_steps - 1) * guided + end,
        "raft": raft.candidates * picture / raft.refresh + plain,
        "grpo": grpo.group_size * (picture + grpo.trained_steps * guided),
    }


def _large_table(large: dict[str, Any]) -> str:
    parts = "\n".join(f"| {n} | {large['seconds'][n]:.1f} | {large['peak_mib'][n]:.0f} |" for n in large["seconds"])
    strategies = "\n".join(f"| {n} | {s:.0f} |" for n, s in large["strategies"].items())
    return (
        "\n## Stable Diffusion 1.5's architecture\n\nRandom weights, one picture of 512x512, float32, gradient "
        "checkpointing; judged by the embedded captioner, which is "
        "smaller than a BLIP. Parts measured once each, in processes of their own:\n\n| part | s | peak MiB over the "
        "weights |\n|---|---|---|\n" + parts + "\n\n"
        "From these, the time for one prompt (rollouts of 40 steps; RAFT collects every 20 steps; groups of 4):\n\n| "
        "strategy | s |\n|---|---|\n" + strategies + "\n"
    )


def _step(tuner: Tuner, strategy: str) -> Callable[[], torch.Tensor]:
    way = Raft(refresh=1) if strategy == "raft" else STRATEGIES[strategy]()

    def step() -> torch.Tensor:
        loss, _ = way.loss(tuner.rollouts, tuner.batch(0))
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
        loss, _ = Refl().loss(tuner.rollouts, _Stopped(**vars(tuner.batch(0))))
        loss.backward()
        return loss.detach()

    return step


def _parts(tuner: Tuner, stop: int) -> dict[str, Callable[[], torch.Tensor]]:
    pipe, config, batch = tuner.pipe, tuner.config, tuner.batch(0)
    scheduler, conditioning, noise = tuner.rollouts.start(batch)
    timestep = scheduler.timesteps[stop]

    def rollout() -> torch.Tensor:
        tuner.rollouts.conditioning(batch.prompts, True)
        x = noise
        for step in islice(
            sample(
                pipe,
                batch.prompts,
                latents=noise,
                conditioning=conditioning,
                scheduler=scheduler,
                **tuner.rollouts.sampling,
            ),
            stop,
        ):
            x = step.latents
        return x

    def one_step() -> torch.Tensor:
        output = denoise(pipe, scheduler, noise, timestep, conditioning, config.guidance_scale)
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
        score = tuner.rollouts.judge(images, batch.prompts)[0].mean()
        score.backward()
        return score.detach()

    return {
        "rollout without gradient": rollout,
        "one step with gradient": one_step,
        "VAE decode": vae,
        "captioner": captioner,
    }
