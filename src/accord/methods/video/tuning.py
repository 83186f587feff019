"""One-shot tuning: temporal layers, query projections and the relational network, fitted to one video.

The pipeline is not changed for good: the video's query projections are in its U-Net only for the time of a `with`
block.

Letters in shapes: F frames, C h w of the latents, W frames of a window.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn

from accord.diffusion.attention import plain_attention
from accord.diffusion.loading import load_model, load_tensors, saved_by
from accord.diffusion.opened import took_step
from accord.diffusion.pipelines import Pipeline, device_of
from accord.diffusion.state import held
from accord.files import only_writer, read_json, replace_file, replace_folder, write_file
from accord.methods.context.network import RelationalNetwork
from accord.methods.context.objective import ContextLoss
from accord.methods.context.pipeline import new_relation
from accord.methods.context.schedulers import ContextDDIMScheduler
from accord.methods.video.config import EditConfig
from accord.methods.video.inflate import TemporalLayers, inflated
from accord.methods.video.unet import Conditioning, denoise
from accord.methods.video.windows import window_rows
from accord.training.claim import claim
from accord.training.loop import LoopConfig, Run
from accord.types import InputError


@dataclass
class VideoParts:
    """What is tuned to one video.

    Attributes:
        temporal: temporal layers of the pipeline's U-Net.
        queries: query projections, by their names in the U-Net.
        relation: the relational network; None is Tune-A-Video.
    """

    temporal: TemporalLayers
    queries: dict[str, torch.Tensor]
    relation: RelationalNetwork | None

    @classmethod
    def fresh(cls, pipe: Pipeline, config: EditConfig) -> VideoParts:
        """Those of a pipeline before tuning: they change nothing as yet."""
        device = device_of(pipe)
        temporal = TemporalLayers.of(pipe.unet, seed=config.seed).to(device)
        relation = new_relation(pipe, config.share, config.seed).to(device) if config.context else None
        with held(pipe.unet):
            queries = {
                k: v.detach().clone()
                for k, v in pipe.unet.named_parameters()
                if "attn" in k and k.endswith(("to_q.weight", "to_q.base_layer.weight"))
            }
        return cls(temporal, queries, relation)

    @contextmanager
    def put_in(self, unet: UNet2DConditionModel, train: bool = False) -> Iterator[None]:
        """The video's query projections in the U-Net, the only weights that train there; afterwards its own again."""
        with held(unet):
            named = dict(unet.named_parameters())
            before = {k: named[k].detach().clone() for k in self.queries}
            # a pipeline that diffusers loaded has all of them on
            trained = {k: p.requires_grad for k, p in named.items()}
            mode = unet.training
            try:
                unet.requires_grad_(False).train(train)
                with torch.no_grad():
                    for k, v in self.queries.items():
                        named[k].copy_(v)
                for k in self.queries:
                    named[k].requires_grad_(train)
                yield
            finally:
                with torch.no_grad():
                    for k, v in before.items():
                        named[k].copy_(v)
                for k, p in named.items():
                    p.requires_grad_(trained[k])
                    if k in self.queries:
                        p.grad = None
                unet.train(mode)

    def modules(self, unet: UNet2DConditionModel) -> dict[str, nn.Module]:
        """What a run trains, with its gradients on; of the U-Net what `put_in` leaves on."""
        found: dict[str, nn.Module] = {"temporal": self.temporal.requires_grad_(True), "unet": unet}
        if self.relation is not None:
            found["relation"] = self.relation.requires_grad_(True)
        return found

    def take_from(self, unet: UNet2DConditionModel) -> None:
        """The query projections as they are in the U-Net now; all parts as they are for sampling."""
        self.queries = {k: v.detach().clone() for k, v in unet.named_parameters() if k in self.queries}
        for part in (self.temporal, self.relation):
            if part is not None:
                part.requires_grad_(False).eval()

    def save(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write them, each loadable by itself, with what is said `about` the tuning."""
        with only_writer(folder):
            replace_folder(folder / "temporal", saved_by(self.temporal))
            replace_file(
                folder / "queries.safetensors",
                lambda p: save_file({k: v.cpu().contiguous() for k, v in self.queries.items()}, p),
            )
            if self.relation is not None:
                replace_folder(folder / "relation", saved_by(self.relation))
            write_file(folder / "tuned.json", (json.dumps(dict(about), indent=1) + "\n").encode())

    def load(self, pipe: Pipeline, folder: Path, about: Mapping[str, Any]) -> None:
        """Take the place of these by what `save` wrote.

        Raises:
            InputError: if it is not there or damaged, or something else was said `about` it.
        """
        if not (folder / "tuned.json").exists():
            raise InputError(f"folder {str(folder)!r} holds no tuned video; tune one first")
        what, again = f"the tuned video in {str(folder)!r}", "tune it again"
        tuned = read_json(folder / "tuned.json", f"{what}: its", again)
        for name, wanted in about.items():
            if tuned.get(name) != wanted:
                mend = (
                    "use the pipeline it was tuned with, with or without an adapter as then"
                    if name == "network"
                    else "give the same, or tune it again"
                )
                raise InputError(
                    f"the video in {str(folder)!r} was tuned with {name}={tuned.get(name)!r}, not {wanted!r}; {mend}"
                )
        device = device_of(pipe)
        temporal = load_model(TemporalLayers, str(folder / "temporal"), what).to(device)
        tensors = load_tensors(folder / "queries.safetensors", f"{what}: its", again)
        queries = {k: v.to(device) for k, v in tensors.items()}
        own = dict(pipe.unet.named_parameters())
        if queries.keys() != self.queries.keys() or any(queries[k].shape != own[k].shape for k in queries):
            raise InputError(f"{what} has other query projections than this network; {again}")
        relation = (
            None if self.relation is None else load_model(RelationalNetwork, str(folder / "relation"), what).to(device)
        )
        self.temporal, self.queries, self.relation = temporal, queries, relation


def tune(
    pipe: Pipeline,
    parts: VideoParts,
    scheduler: ContextDDIMScheduler,
    latents: torch.Tensor,
    source: Conditioning,
    config: EditConfig,
    folder: Path,
    settings: Mapping[str, Any],
    progress: bool = True,
) -> None:
    """Fit the parts to clean latents [F,C,h,w] and the conditioning of their prompt. A run in `folder` is resumed.

    Raises:
        InputError: if the folder holds a run with other settings.
    """
    loop = LoopConfig(
        steps=config.tune_steps,
        learning_rate=config.learning_rate,
        warmup_steps=min(20, config.tune_steps // 5),
        weight_decay=0.0,
        seed=config.seed,
        save_every=50,
        log_every=10,
    )
    with claim(folder, settings), parts.put_in(pipe.unet, train=True), plain_attention(pipe.unet):
        run = Run(parts.modules(pipe.unet), loop, folder, save_frozen=False)
        relation = parts.relation
        sees = relation is not None and bool(relation.config.gain and relation.config.use_image)
        objective = ContextLoss(scheduler.process, sees)

        def shift(x0: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x0) if relation is None else relation(x0, source.repeated(len(x0)).states, times)

        def predict(noisy: torch.Tensor, times: torch.Tensor, _rows: torch.Tensor) -> torch.Tensor:
            told = source.repeated(len(noisy))
            return denoise(pipe, scheduler, noisy.to(pipe.unet.dtype), times, told).float()

        def loss_fn(_step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
            """Of one window, all of whose frames are at one timestep."""
            x0 = latents[window_rows(len(latents), config.window, generator)].float()
            noise = torch.randn(x0.shape, generator=generator)
            t = torch.randint(scheduler.config.num_train_timesteps, (1,), generator=generator).expand(len(x0))
            estimated = torch.full((len(x0),), config.estimated)
            with inflated(pipe.unet, parts.temporal, len(x0)):
                loss, _ = objective(x0, noise.to(x0.device), t.to(x0.device), shift, predict, estimated.to(x0.device))
            return loss, {}

        def after_step(_step: int) -> bool:
            took_step(1, config.tune_steps)
            return False

        run.train(loss_fn, "tune video", after_step=after_step, progress=progress)
        parts.take_from(pipe.unet)
