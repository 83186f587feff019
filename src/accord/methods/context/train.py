"""Training with context: the relational network, and the denoiser as far as it is wanted, jointly.

The loss is `objective.ContextLoss`.

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
from accord.diffusion.lora import check_no_lora, save_lora
from accord.diffusion.pipelines import (
    Pipeline,
    check_latent_unet,
    check_trainable,
    conditioning_of,
    latent_scheduler,
)
from accord.files import replace_folder
from accord.methods.context.config import ContextTrainConfig
from accord.methods.context.network import RelationalNetwork
from accord.methods.context.objective import ContextLoss
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
    that stays on `pipe.unet`. With `config.pixels`, r sees the picture through `clip` (the embedded one if None).
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


class Objective:
    """The loss of one batch of pictures: their captions are read and dropped here, what is left to chance is drawn."""

    def __init__(self, pipe: Pipeline, relation: RelationalNetwork, config: ContextTrainConfig) -> None:
        self.pipe, self.relation, self.config = pipe, relation, config
        self.scheduler = latent_scheduler(ContextDDIMScheduler, pipe, shift=config.shift)
        self.loss = ContextLoss(pipe, self.scheduler, relation, config.loss)

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
        pipe, device = self.pipe, self.pipe.device
        with torch.no_grad():
            caption = conditioning_of(pipe, captions, guided=False)
            with_drops = conditioning_of(pipe, captions, guided=False, dropped=~kept)
        loss, r = self.loss(
            latents.to(device).float(),
            noise.to(device),
            timesteps.to(device),
            caption,
            with_drops,
            estimated.to(device),
        )
        return loss, {"shift": float(r.detach().square().mean().sqrt())}
