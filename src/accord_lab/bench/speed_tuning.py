"""`accord bench speed-tuning`: what a step of each strategy costs, and what a step of ReFL is made of.

On the lab the parts of a ReFL step (rollout without gradient, one step with, VAE decode, captioner, each forward and
backward) are measured by themselves, in turns with the whole step, and the peak memory of each strategy in a process of
its own. At Stable Diffusion 1.5's architecture (random weights) the parts alone are measured and strategies projected
from them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tqdm.auto import tqdm

from accord.diffusion.attention import plain_attention
from accord.diffusion.lora import add_lora
from accord.diffusion.opened import Left, Opened, Step
from accord.diffusion.pipelines import load
from accord.diffusion.process import levels
from accord.judges.captioners import load_captioner
from accord.methods.tune.config import TuneConfig
from accord.methods.tune.rollouts import Batch
from accord.methods.tune.strategies import STRATEGIES
from accord.methods.tune.strategies.draft import Draft
from accord.methods.tune.strategies.grpo import Grpo
from accord.methods.tune.strategies.raft import Raft
from accord.methods.tune.train import Tuner
from accord.rewards.composed import Composed, make_rewards
from accord.training.processes import Processes
from accord.training.session import Session
from accord_lab.bench.measure import alone, interleaved, peak_of, rounded, seconds_of
from accord_lab.bench.report import table
from accord_lab.bench.rewards import training_prompts
from accord_lab.bench.runner import Bench
from accord_lab.bench.speed import SD15

TIMED = ("refl", "draft", "raft", "grpo")
SD15_PARTS = ("step", "guided step with gradient", "step with gradient", "decode and judge", "end of refl")
STOP = 34  # of 40: the middle of 30..39


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    num_inference_steps: int
    repeats: int  # of the parts
    rounds: int  # of all strategies; one takes two minutes
    large: bool  # whether Stable Diffusion 1.5's size is measured too

    @property
    def config(self) -> TuneConfig:
        return TuneConfig(batch_size=4, num_inference_steps=self.num_inference_steps, anchors=8)

    @property
    def stop(self) -> int:
        return STOP * self.num_inference_steps // 40


@dataclass(kw_only=True)
class SpeedTuning(Bench[Plan, dict[str, Any]]):
    """One table of the lab and one of Stable Diffusion 1.5's size."""

    name = "speed-tuning"
    plans = (Plan(40, 7, 3, True), Plan(10, 2, 2, False))

    def measure(self, cell: Plan) -> dict[str, Any]:
        bar = partial(tqdm, disable=not self.progress)
        # before this process holds a network itself
        peaks = {n: alone(f"a step of {n}", _lab_peak, n, cell.config) for n in bar(TIMED, desc="memory")}
        large = _large(bar(SD15_PARTS, desc="Stable Diffusion 1.5")) if cell.large else None
        config = cell.config
        with tempfile.TemporaryDirectory() as scratch, _tuner(config, Path(scratch)) as tuner:
            steps = {name: _step(tuner, name) for name in TIMED}
            whole = interleaved(steps, cell.rounds, "cpu", "strategies", self.progress)
            parts = {"refl": _step(tuner, "refl", _Stopped), **_parts(tuner, cell.stop)}
            cells = interleaved(parts, cell.repeats, "cpu", "parts of refl", self.progress)
        refl, usual = cells.pop("refl")["seconds"], TuneConfig().num_inference_steps
        return {
            "prompts": config.batch_size,
            "num_inference_steps": config.num_inference_steps,
            "strategies": {
                n: {"seconds": c["seconds"], "steps_per_minute": 60 / c["seconds"], "peak_mib": peaks[n]}
                for n, c in whole.items()
            },
            "parts": {n: c["seconds"] for n, c in cells.items()},
            "refl_seconds": refl,
            "refl_over_parts": refl / sum(c["seconds"] for c in cells.values()),
            "sd15": large and {**large, "strategies": projected(large["seconds"], usual, Draft(), Raft(), Grpo())},
        }

    def results(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return rounded(rows[0])

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        strategies = [
            [n, f"{c['seconds']:.2f}", f"{c['steps_per_minute']:.1f}", f"{c['peak_mib']:.0f}"]
            for n, c in data["strategies"].items()
        ]
        stop = STOP * data["num_inference_steps"] // 40
        return (
            f"# Cost of reward tuning on the lab\n\n{data['prompts']} prompts a step, rollouts of "
            f"{data['num_inference_steps']} steps, guided; RAFT and GRPO draw {Grpo().group_size} pictures of "
            "each. The strategy's own loss, without the denoising term; RAFT collects anew every step here.\n\n"
            + table(["strategy", "s/step", "steps/min", "peak MiB over the weights"], strategies)
            + f"\n\nA ReFL step that stops at {stop} takes {data['refl_seconds']:.2f} s, {data['refl_over_parts']:.2f} "
            "of the sum of its parts:\n\n"
            + table(["part", "s"], [[n, f"{s:.3f}"] for n, s in data["parts"].items()])
            + "\n"
            + (_large_page(data["sd15"]) if data["sd15"] else "")
        )


# --- the lab ----------------------------------------------------------------------------------------------------------
@contextmanager
def _tuner(config: TuneConfig, folder: Path) -> Iterator[Tuner]:
    pipe = load(device="cpu")
    add_lora(pipe, 8)
    reward = make_rewards({"contrast": 1.0}, load_captioner())
    with plain_attention(pipe.unet):
        yield Tuner(pipe, training_prompts(32), reward, Session(folder, Processes()), config, None, None, False)


def _lab_peak(strategy: str, config: TuneConfig) -> float:
    """MiB that one step of a strategy needs at its peak, over the loaded weights."""
    with tempfile.TemporaryDirectory() as scratch, _tuner(config, Path(scratch)) as tuner:
        return peak_of(_step(tuner, strategy))


def _step(tuner: Tuner, strategy: str, kind: type[Batch] = Batch) -> Callable[[], torch.Tensor]:
    way = Raft(refresh=1) if strategy == "raft" else STRATEGIES[strategy]()

    def step() -> torch.Tensor:
        loss, _ = way.loss(tuner.rollouts, kind(**vars(tuner.batch(0))))
        loss.backward()
        return loss.detach()

    return step


class _Stopped(Batch):
    """A batch whose shared draw is always STOP's step."""

    def randint(self, low: int, high: int) -> int:
        return STOP * high // 40


def _parts(tuner: Tuner, stop: int) -> dict[str, Callable[[], torch.Tensor]]:
    rollouts, batch = tuner.rollouts, tuner.batch(0)
    noise = rollouts.opened.noise(batch.prompts, batch.generators())

    def leave(step: Step) -> None:
        if step.index == stop:
            raise Left(step.latents)

    def rollout() -> torch.Tensor:
        rollouts.forget()
        return rollouts.opened.rollout(batch.prompts, batch.generators(), before_step=leave)

    def one_step() -> torch.Tensor:
        output = rollouts.output(batch.prompts, noise, stop)
        output.square().mean().backward()
        return output.detach()

    def vae() -> torch.Tensor:
        latents = noise.clone().requires_grad_(True)
        images = rollouts.decode(batch.prompts, latents)
        images.square().mean().backward()
        return images.detach()

    pictures = rollouts.decode(batch.prompts, noise).detach()

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


# --- Stable Diffusion 1.5's architecture ------------------------------------------------------------------------------
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


def _large(parts: Sequence[str]) -> dict[str, Any]:
    """Seconds and peak MiB of each part for one picture, each in a process of its own: what a part leaves behind would
    hide the next one's peak.
    """
    measured = {n: alone(f"{n} at Stable Diffusion 1.5's size", _large_part, n) for n in parts}
    return {key: {n: m[key] for n, m in measured.items()} for key in ("seconds", "peak_mib")}


def _large_part(name: str) -> dict[str, float]:
    """Seconds and peak MiB of one part."""
    pipe = sd15_pipeline()
    add_lora(pipe, 8)
    pipe.unet.enable_gradient_checkpointing()
    pipe.unet.train()  # or the checkpoints are not taken
    work = parts_of_a_picture(pipe, make_rewards({"contrast": 1.0}, load_captioner()), training_prompts(2)[0])[name]
    seconds: list[float] = []
    peak = peak_of(lambda: seconds.append(seconds_of(work)))
    return {"seconds": seconds[0], "peak_mib": peak}


def parts_of_a_picture(pipe: StableDiffusionPipeline, reward: Composed, prompt: str) -> dict[str, Callable[[], Any]]:
    """What strategies are made of, for one picture: name (one of SD15_PARTS) -> work."""
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    guided, alone = (
        Opened(pipe, TuneConfig().num_inference_steps, scheduler=scheduler, guidance_scale=scale)
        for scale in (5.0, 1.0)
    )
    noise = guided.noise([prompt], [torch.Generator().manual_seed(0)])
    clean = levels(guided.schedule([prompt], noise))[STOP]
    for opened in (guided, alone):
        opened.check([prompt])  # once, and before anything is measured

    @torch.no_grad()
    def step() -> None:
        guided.output([prompt], noise, step=STOP)

    @torch.no_grad()
    def judge() -> None:
        reward(guided.decode([prompt], noise), [prompt])

    def with_gradient(opened: Opened) -> None:
        opened.output([prompt], noise, step=STOP).square().mean().backward()

    def end_of_refl() -> None:
        state = clean.x0(noise, guided.output([prompt], noise, step=STOP))
        reward(guided.decode([prompt], state), [prompt]).mean().backward()

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


def _large_page(large: dict[str, Any]) -> str:
    parts = [[n, f"{s:.1f}", f"{large['peak_mib'][n]:.0f}"] for n, s in large["seconds"].items()]
    return (
        "\n## Stable Diffusion 1.5's architecture\n\nRandom weights, one picture of 512x512, float32, gradient "
        "checkpointing; judged by the embedded captioner, which is smaller than a BLIP. Parts measured once each, in "
        "processes of their own:\n\n"
        + table(["part", "s", "peak MiB over the weights"], parts)
        + "\n\nFrom these, the time for one prompt (rollouts of 40 steps; RAFT collects every 20 steps; groups of "
        "4):\n\n" + table(["strategy", "s"], [[n, f"{s:.0f}"] for n, s in large["strategies"].items()]) + "\n"
    )
