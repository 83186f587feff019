"""Training with context: the relational network, and the denoiser as far as it is wanted, jointly.

    x_t = sqrt(ab_t) x0 + k_t r_phi(x0, c, t) + sqrt(1 - ab_t) e,   loss = lambda_t |f(x_t, c, t) - x0|^2

phi's gradient flows through x_t (and, in another prediction type than x0, through the target, which is the same thing).

Letters in shapes: B pictures, C h w of the latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError
from torch import nn

from accord.diffusion.loading import saved_by
from accord.diffusion.loop import denoise
from accord.diffusion.lora import check_no_lora, save_lora
from accord.diffusion.pipelines import (
    Conditioning,
    Pipeline,
    check_latent_unet,
    check_trainable,
    conditioning_of,
    latent_scheduler,
)
from accord.files import replace_folder
from accord.methods.context.config import ContextTrainConfig
from accord.methods.context.equations import exact_kl, network_x0
from accord.methods.context.network import RelationalNetwork
from accord.methods.context.pipeline import ContextDiffPipeline, new_relation
from accord.methods.context.schedulers import ContextDDIMScheduler
from accord.rewards.clip import ClipScorer, load_clip
from accord.training.fingerprint import fingerprint
from accord.training.loop import LoopConfig
from accord.training.processes import Processes
from accord.training.session import session
from accord.types import InputError, reason_of

# (generator of the step, size, share of the steps that is done) -> clean scaled latents [B,C,h,w] and B captions
Draw = Callable[[np.random.Generator, int, float], tuple[torch.Tensor, list[str]]]


def train_context(
    pipe: Pipeline,
    draw: Draw,
    out: str | Path,
    config: ContextTrainConfig,
    *,
    evaluate: Callable[[int, RelationalNetwork], None] | None = None,
    processes: Processes | None = None,
    clip: ClipScorer | None = None,
    data: str = "",
) -> RelationalNetwork:
    """Train a relational network on a pipeline; it is saved into `out/relation`, with what else was trained beside it.

    `denoiser="full"` also saves the whole pipeline into `out/pipeline` (of XL the U-Net alone), `lora` an adapter
    that stays on `pipe.unet`. With `config.pixels`, `clip` is what r looks through (the embedded one if None).
    `evaluate(step, relation)` is called every `save_every` steps with the averaged weights in. A run found in `out` is
    resumed; `data` names what is drawn from, as it is not resumed with another. A run that is stopped takes its adapter
    off again; with `full` the denoiser is left half-trained, and is to be loaded afresh to go on.

    Raises:
        InputError: for a pipeline, a number or a folder that cannot be used.
    """
    check_latent_unet(pipe)
    if config.denoiser == "full":
        check_trainable(pipe)
        check_no_lora(pipe, "with which a denoiser that is trained whole could not be loaded again")
    folder = Path(out)
    processes = processes or Processes(pipe.device)
    clip = (clip or load_clip(device=str(pipe.device))) if config.pixels else None
    relation = new_relation(
        pipe, config.share, config.seed, clip, gain=config.gain, use_image=config.use_image, use_text=config.use_text
    ).to(pipe.device)
    settings = {
        **asdict(config),
        "model": fingerprint(pipe.unet),
        "data": data,
        "clip": clip and fingerprint(clip.model),
    }
    rank = config.rank if config.denoiser == "lora" else None
    with session(pipe, folder, settings, rank=rank, seed=config.seed, processes=processes) as training:
        modules: dict[str, nn.Module] = {"relation": relation}
        if config.denoiser == "full":
            pipe.unet.requires_grad_(True)
        if config.denoiser != "frozen":
            modules["unet"] = pipe.unet
        run = training.run(modules, LoopConfig.of(config))
        objective = Objective(pipe, relation, config)

        def loss_fn(number: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
            return objective.of_step(draw, number, generator, processes)

        def after_step(step: int) -> bool:
            if evaluate is not None and (step % config.save_every == 0 or step == config.steps):
                with run.averaged():
                    evaluate(step, relation)
            return False

        run.train(loss_fn, "context", after_step)
        run.use_ema()
        relation.requires_grad_(False).eval()
        if processes.first:
            _save(pipe, relation, config, folder, clip)
        processes.wait()
        return relation


def _save(
    pipe: Pipeline, relation: RelationalNetwork, config: ContextTrainConfig, folder: Path, clip: ClipScorer | None
) -> None:
    """The relational network, and what else was trained, into `folder`. Raises InputError if it cannot be written."""
    try:
        replace_folder(folder / "relation", saved_by(relation))
        if config.denoiser == "lora":
            save_lora(pipe, folder)
        elif config.denoiser == "full" and isinstance(pipe, StableDiffusionPipeline):
            replace_folder(
                folder / "pipeline",
                ContextDiffPipeline.from_pipeline(pipe, relation, config.shift, clip=clip).save_pretrained,
            )
        elif config.denoiser == "full":  # there is no pipeline class with context for XL
            (folder / "pipeline").mkdir(exist_ok=True)
            replace_folder(folder / "pipeline" / "unet", saved_by(pipe.unet))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"what was trained cannot be written to {str(folder)!r} ({reason_of(error)}); make room and train again"
        ) from error


def guess_x0(
    pipe: Pipeline,
    scheduler: ContextDDIMScheduler,
    noisy: torch.Tensor,
    timesteps: torch.Tensor,
    conditioning: Conditioning,
) -> torch.Tensor:
    """The network's x0^ [B,C,h,w] from x_t [B,C,h,w] at timesteps [B]."""
    output = denoise(pipe, scheduler, noisy.to(pipe.unet.dtype), timesteps, conditioning).float()
    return network_x0(output, noisy, scheduler.ab_at(timesteps, noisy), scheduler.config.prediction_type)


class Objective:
    """The loss of one batch."""

    def __init__(self, pipe: Pipeline, relation: RelationalNetwork, config: ContextTrainConfig) -> None:
        self.pipe, self.relation, self.config = pipe, relation, config
        self.scheduler = latent_scheduler(ContextDDIMScheduler, pipe, shift=config.shift)

    def chance(
        self, shape: torch.Size, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Noise [B,C,h,w], timesteps, captions that are kept, r that are estimated [B each], of the global batch."""
        count = self.scheduler.config.num_train_timesteps
        noise = torch.randn(shape, generator=generator)
        timesteps = torch.randint(count, (shape[0],), generator=generator)
        kept = torch.rand(shape[0], generator=generator) >= self.config.caption_dropout
        estimated = torch.rand(shape[0], generator=generator) < self.config.estimated_share
        return noise, timesteps, kept, estimated

    def of_step(
        self, draw: Draw, number: int, generator: torch.Generator, processes: Processes
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of this process's share of step `number`'s batch, and scalars to log."""
        rng = np.random.default_rng((self.config.seed, 17, number))
        latents, captions = draw(rng, self.config.batch_size, number / self.config.steps)
        mine = list(processes.mine(len(captions)))
        chance = self.chance(latents.shape, generator)
        return self(latents[mine], [captions[i] for i in mine], *(c[mine] for c in chance))

    def __call__(
        self,
        latents: torch.Tensor,
        captions: list[str],
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        kept: torch.Tensor,
        estimated: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean loss, and scalars to log."""
        pipe, scheduler, device = self.pipe, self.scheduler, self.pipe.device
        latents, noise, timesteps = latents.to(device).float(), noise.to(device), timesteps.to(device)
        with torch.no_grad():
            conditioning = conditioning_of(pipe, captions, guided=False)
            with_drops = conditioning_of(pipe, captions, guided=False, dropped=~kept)
        shown = latents
        # an r that is nothing, or that does not look, is the same whatever it is shown
        if self.config.gain and self.config.use_image and estimated.any():
            rows = estimated.nonzero()[:, 0].to(device)
            with torch.no_grad():
                guessed = self.guess(latents[rows], noise[rows], timesteps[rows], with_drops.rows(rows))
            shown = latents.index_copy(0, rows, guessed)
        r = self.relation(shown, conditioning.states, timesteps)
        noisy = scheduler.add_noise(latents, noise, timesteps, relation=r)
        output = denoise(pipe, scheduler, noisy.to(pipe.unet.dtype), timesteps, with_drops).float()
        if self.config.loss == "kl":
            loss = self.kl(latents, shown, noisy, output, timesteps, conditioning, r).mean()
        else:
            loss = (output - scheduler.get_target(noisy, latents, timesteps)).square().mean()
        return loss, {"shift": float(r.detach().square().mean().sqrt())}

    def guess(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The network's x0^ [B,C,h,w] from x_t without shift.

        In sampling r is given a guess too. With the true x0's shift in x_t the guess would hold part of the answer.
        """
        return guess_x0(
            self.pipe, self.scheduler, self.scheduler.add_noise(latents, noise, timesteps), timesteps, conditioning
        )

    def kl(
        self,
        latents: torch.Tensor,
        shown: torch.Tensor,
        noisy: torch.Tensor,
        output: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        r_t: torch.Tensor,
    ) -> torch.Tensor:
        """The exact bound's term at t against t - 1, in nats a latent element [B,C,h,w]; at t = 0 half the square of x0
        - x0^.

        `shown` is what r looked at, x0 itself or a guess held fixed, and r_t what it made of it.
        """
        scheduler = self.scheduler
        before = (timesteps - 1).clamp(min=0)
        ab_t, ab_s = scheduler.ab_at(timesteps, noisy), scheduler.ab_at(before, noisy)
        predicted = network_x0(output, noisy, ab_t, scheduler.config.prediction_type)
        k_t, k_s = scheduler.shift_at(timesteps, noisy), scheduler.shift_at(before, noisy)
        r_s = self.relation(shown, conditioning.states, before)
        guessed_t, guessed_s = (self.relation(predicted, conditioning.states, t) for t in (timesteps, before))
        # at t = 0 the two steps are one: the bound's reconstruction term, with unit variance
        first = (timesteps == 0)[:, None, None, None]
        safe = torch.where(first, ab_t * 0.999, ab_t)
        inner = exact_kl(latents, predicted, k_t * r_t, k_s * r_s, k_t * guessed_t, k_s * guessed_s, safe, ab_s)
        return torch.where(first, (latents - predicted).square() / 2, inner)
