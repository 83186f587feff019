"""Training with context: the relational network, and the denoiser as far as it is wanted, jointly.

The loss is `objective.ContextLoss`.

Letters in shapes: B pictures; a state is what the pipeline's loop denoises, [B,...].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError
from torch import nn

from accord.diffusion.loading import saved_by
from accord.diffusion.lora import check_no_lora, named_networks, save_lora
from accord.diffusion.opened import Opened, check_seams, empty_as_unguided, networks_of
from accord.diffusion.pipelines import check_no_context, check_trainable, ddim_of
from accord.diffusion.spans import text_states
from accord.files import replace_folder
from accord.judges.clip import ClipScorer, load_clip
from accord.methods.context.config import ContextTrainConfig
from accord.methods.context.network import RelationalNetwork
from accord.methods.context.objective import ContextLoss
from accord.methods.context.pipeline import ContextDiffPipeline, new_relation
from accord.methods.context.process import ShiftedProcess
from accord.methods.context.sampling import OfStates, without_guidance
from accord.methods.context.schedulers import ContextDDIMScheduler
from accord.training.fingerprint import fingerprint
from accord.training.loop import LoopConfig
from accord.training.processes import Processes
from accord.training.session import session
from accord.types import InputError, reason_of

# (generator of the step, size, share of the steps that is done) -> clean states [B,...] and B captions
Draw = Callable[[np.random.Generator, int, float], tuple[torch.Tensor, list[str]]]


def train_context(
    pipe: Any,
    draw: Draw,
    out: str | Path,
    config: ContextTrainConfig,
    *,
    evaluate: Callable[[int, RelationalNetwork], None] | None = None,
    processes: Processes | None = None,
    clip: ClipScorer | None = None,
    data: str = "",
    call: Mapping[str, Any] | None = None,
) -> RelationalNetwork:
    """Train a relational network on a pipeline; it is saved into `out/relation`, with what else was trained beside it.

    `denoiser="full"` also saves the whole pipeline into `out/pipeline` (of others than Stable Diffusion 1 and 2 the
    network alone), `lora` an adapter that stays on it. With `config.pixels`, r sees the picture through `clip` (the
    embedded one if None). `evaluate(step, relation)` is called every `save_every` steps with the averaged weights in. A
    run found in `out` is resumed; `data` names what is drawn from, as it is not resumed with another. A run that is
    stopped takes its adapter off again; with `full` the denoiser is left half-trained, and is to be loaded afresh to go
    on. `call` are further arguments of the pipeline's own call.

    Raises:
        InputError: for a pipeline, a number or a folder that cannot be used.
    """
    check_seams(pipe)
    check_no_context(pipe)
    if config.denoiser == "full":
        check_trainable(pipe)
        check_no_lora(pipe, "with which a denoiser that is trained whole could not be loaded again")
    folder = Path(out)
    processes = processes or Processes(pipe.device)
    clip = (clip or load_clip(device=str(pipe.device))) if config.pixels else None
    sides = {"gain": config.gain, "use_image": config.use_image, "use_text": config.use_text}
    relation = new_relation(pipe, config.share, config.seed, clip, call, **sides).to(pipe.device)
    settings = {
        **asdict(config),
        "model": fingerprint(*networks_of(pipe)),
        "data": data,
        "clip": clip and fingerprint(clip.model),
        **({"call": dict(call)} if call else {}),
    }
    rank = config.rank if config.denoiser == "lora" else None
    with session(pipe, folder, settings, rank=rank, seed=config.seed, processes=processes) as training:
        modules: dict[str, nn.Module] = {"relation": relation}
        if config.denoiser == "full":
            for network in networks_of(pipe):
                network.requires_grad_(True)
        if config.denoiser != "frozen":
            modules |= named_networks(pipe)
        run = training.run(modules, LoopConfig.of(config))
        objective = Objective(pipe, relation, config, call)

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
    pipe: Any, relation: RelationalNetwork, config: ContextTrainConfig, folder: Path, clip: ClipScorer | None
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
        elif config.denoiser == "full":  # there is no pipeline class with context for others
            (folder / "pipeline").mkdir(exist_ok=True)
            for name, network in named_networks(pipe).items():
                replace_folder(folder / "pipeline" / name, saved_by(network))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"what was trained cannot be written to {str(folder)!r} ({reason_of(error)}); make room and train again"
        ) from error


class Objective:
    """The loss of one batch of pictures: their captions are read and dropped here, what is left to chance is drawn."""

    def __init__(
        self,
        pipe: Any,
        relation: RelationalNetwork,
        config: ContextTrainConfig,
        call: Mapping[str, Any] | None = None,
    ) -> None:
        self.pipe, self.relation, self.config = pipe, relation, config
        scheduler = ddim_of(pipe, ContextDDIMScheduler, shift=config.shift)
        self.process = ShiftedProcess(scheduler or pipe.scheduler, config.shift)
        self.opened = Opened(pipe, scheduler=scheduler, **without_guidance(pipe, 2, call or {}))
        self.of_states = OfStates(relation, self.opened)
        # an r that is nothing, or that does not see the picture, is the same whatever it is shown
        self.loss = ContextLoss(self.process, bool(config.gain and config.use_image), config.loss)

    def chance(
        self, shape: torch.Size, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Noise [B,...], timesteps, captions that are kept, r that are estimated [B each], of the global batch."""
        noise = torch.randn(shape, generator=generator)
        timesteps = torch.randint(self.process.first, self.process.last, (shape[0],), generator=generator)
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
        device = self.pipe.device
        with torch.no_grad():
            states = text_states(self.opened, captions)
        told = [caption if keeps else "" for caption, keeps in zip(captions, kept.tolist(), strict=True)]
        network: Any = self.opened.networks[0]

        def shift(x0: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
            return self.of_states(x0, states, times)

        def predict(noisy: torch.Tensor, times: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            texts = [told[i] for i in rows.tolist()]
            with empty_as_unguided(self.pipe):
                return self.opened.output(texts, noisy.to(network.dtype), timestep=times).float()

        loss, r = self.loss(
            latents.to(device).float(),
            noise.to(device),
            timesteps.to(device),
            shift,
            predict,
            estimated.to(device),
        )
        return loss, {"shift": float(r.detach().square().mean().sqrt())}
