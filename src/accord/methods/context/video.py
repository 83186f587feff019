"""Text-guided editing of a video: one-shot tuning, inversion with the source prompt, sampling with the target prompt.

ContextDiff, section 4.2, on the Tune-A-Video recipe; r(., c_source) in the inversion, r(x0^, c_target) in sampling.
Without a relational network this is Tune-A-Video.

Letters in shapes: F frames, C h w of the latents, W frames of a window.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from accord.data.images import fit, to_tensor
from accord.data.video import Video
from accord.diffusion.attention import AttentionMaps, attention_hook, plain_attention
from accord.diffusion.loading import load_model, load_tensors, saved_by
from accord.diffusion.loop import Step, check_finite, decode, encode, is_guided, set_timesteps
from accord.diffusion.pipelines import (
    Conditioning,
    Pipeline,
    check_latent_unet,
    check_prompt_length,
    check_trainable,
    conditioning_of,
    device_of,
    latent_scheduler,
    sample_size,
)
from accord.diffusion.state import held
from accord.files import only_writer, read_json, replace_file, replace_folder, write_file
from accord.methods.context.equations import ddim_affine, ddim_correction, network_target, network_x0
from accord.methods.context.inflate import TemporalLayers, inflated
from accord.methods.context.network import RelationalNetwork
from accord.methods.context.pipeline import new_relation, relation_of
from accord.methods.context.schedulers import ContextDDIMScheduler
from accord.methods.context.train import guess_x0
from accord.training.claim import claim
from accord.training.fingerprint import fingerprint
from accord.training.loop import LoopConfig, Run
from accord.types import InputError, check_numbers


@dataclass(frozen=True)
class EditConfig:
    """Knobs of tuning and editing, as measured on the lab.

    Raises ValueError for a field out of range, named in the message.
    """

    tune_steps: int = 60  # of one-shot tuning on the source video
    learning_rate: float = 1e-3
    context: bool = True  # False, with injection and mask_blending 0 as well, is Tune-A-Video
    shift: str = "quadratic"
    share: float = 0.15  # size of the relational network
    # tuning: r of the network's own x0^, as in sampling; False: of the video itself, as in the paper
    estimated: bool = True
    num_inference_steps: int = 25
    guidance_scale: float = 5.0
    strength: float = 1.0  # share of the steps that is inverted and sampled again
    injection: float = 0.5  # first share of the steps in which attention takes the source's queries and keys
    # first share of the steps in which the source's latents replace the edit's wherever the two prompts agree
    mask_blending: float = 0.7
    inversion_iterations: int = 3  # of the fixed point; 1 is ordinary DDIM inversion
    window: int = 16  # frames that the network sees at once
    overlap: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("num_inference_steps", "inversion_iterations", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.tune_steps < 0:
            raise ValueError(f"tune_steps must not be negative, not {self.tune_steps}")
        if not 0 <= self.overlap < self.window:
            raise ValueError(f"overlap must be in [0, window), not {self.overlap}")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength must be in (0, 1], not {self.strength}")
        for name in ("injection", "mask_blending"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")


TUNING = (
    "tune_steps",
    "learning_rate",
    "context",
    "shift",
    "share",
    "estimated",
    "window",
    "seed",
)  # the knobs that tuning depends on
MAPPED = (0.25, 0.75)  # where things are, and where prompts differ, is looked at in this middle share of the inversion
MAPPED_STEPS = 5  # in so many steps of it
CHANGED = (0.2, 0.4)  # of the largest difference: below, a place stays as it was; above, it is the edit's


class Act(Protocol):
    """What acts on attention for the time of a run: an attention hook that hears of each step (realign's
    `Modulation`).
    """

    @property
    def active(self) -> bool: ...

    def before_step(self, step: Step) -> None: ...

    def __call__(
        self, attn: Attention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cross: bool
    ) -> torch.Tensor | None: ...


# an editor, the target prompt and the inverted path -> by the first frame of each window what acts on the target's
# attention there
Modulate = Callable[["VideoEditor", str, Sequence[torch.Tensor]], Mapping[int, Act]]


@dataclass(frozen=True)
class Layout:
    """What of the source is injected in a step: its latents [F,C,h,w] there, and `aligned_tokens`."""

    latents: torch.Tensor
    aligned: torch.Tensor


class VideoEditor:
    """A pipeline tuned to one video.

    Args:
        pipe: a Stable Diffusion 1, 2 or XL pipeline; outside of the editor's calls it is what it was, bit for bit.
        video: the source.
        prompt: what it shows.
        config: the knobs.

    Raises:
        InputError: for a pipeline of another class or one that predicts x0, or a prompt that is empty or too long.
    """

    def __init__(self, pipe: Pipeline, video: Video, prompt: str, config: EditConfig) -> None:
        check_latent_unet(pipe)
        check_prompt_length(pipe, prompt)
        self.pipe, self.video, self.prompt, self.config = pipe, video, prompt, config
        self.scheduler = latent_scheduler(ContextDDIMScheduler, pipe, shift=config.shift)
        if self.scheduler.config.prediction_type == "sample":  # its last step forgets x_t, and so has no inverse
            raise InputError(
                "a denoiser that predicts the picture itself cannot be inverted; use one that predicts epsilon or v"
            )
        self.temporal = TemporalLayers.of(pipe.unet, seed=config.seed).to(device_of(pipe))
        self.relation: RelationalNetwork | None = None
        if config.context:
            self.relation = new_relation(pipe, config.share, config.seed).to(device_of(pipe))
        with held(pipe.unet):
            self.queries = {
                k: v.detach().clone()
                for k, v in pipe.unet.named_parameters()
                if "attn" in k and k.endswith(("to_q.weight", "to_q.base_layer.weight"))
            }
        side = sample_size(pipe)[0] * pipe.vae_scale_factor
        self.latents = torch.cat([encode(pipe, fit(to_tensor(f), side)) for f in video.frames])  # [F,C,h,w]

    # --- one-shot tuning -----------------------------------------------------------------------------------------
    def tune(self, folder: str | Path, progress: bool = True) -> None:
        """Fit temporal layers, query projections and relational network to the video. A run in `folder` is resumed.

        Raises:
            InputError: if the folder holds a run with other settings.
        """
        config, pipe, folder = self.config, self.pipe, Path(folder)
        if not config.tune_steps:
            return
        check_trainable(pipe)
        video = fingerprint(*(f.tobytes() for f in self.video.frames), self.video.size)
        with held(pipe.unet):
            settings = {**self._knobs(), "prompt": self.prompt, "video": video, "model": fingerprint(pipe)}
        loop = LoopConfig(
            steps=config.tune_steps,
            learning_rate=config.learning_rate,
            warmup_steps=min(20, config.tune_steps // 5),
            weight_decay=0.0,
            seed=config.seed,
            save_every=50,
            log_every=10,
        )
        source = self._conditioning(self.prompt)
        with claim(folder, settings), self._own_queries(train=True), plain_attention(pipe.unet):
            modules: dict[str, nn.Module] = {"temporal": self.temporal.requires_grad_(True), "unet": pipe.unet}
            if self.relation is not None:
                modules["relation"] = self.relation.requires_grad_(True)
            run = Run(modules, loop, folder, save_frozen=False)

            def loss_fn(_step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
                rows = window_rows(len(self.latents), config.window, generator)
                x0 = self.latents[rows].float()
                noise = torch.randn(x0.shape, generator=generator).to(x0.device)
                t = (
                    torch.randint(self.scheduler.config.num_train_timesteps, (1,), generator=generator)
                    .to(x0.device)
                    .expand(len(x0))
                )
                conditioning = source.repeated(len(x0))
                with inflated(pipe.unet, self.temporal, len(x0)):
                    r = None
                    if self.relation is not None:
                        shown = x0
                        if config.estimated:
                            with torch.no_grad():
                                shown = guess_x0(
                                    pipe, self.scheduler, self.scheduler.add_noise(x0, noise, t), t, conditioning
                                )
                        r = self.relation(shown, conditioning.states, t)
                    noisy = self.scheduler.add_noise(x0, noise, t, relation=r)
                    output = pipe.unet(
                        noisy.to(pipe.unet.dtype), t, conditioning.states, added_cond_kwargs=conditioning.added
                    ).sample.float()
                target = network_target(
                    noisy, x0, self.scheduler.ab_at(t, noisy), self.scheduler.config.prediction_type
                )
                return (output - target).square().mean(), {}

            run.train(loss_fn, "tune video", progress=progress)
            self.queries = {k: v.detach().clone() for k, v in pipe.unet.named_parameters() if k in self.queries}
        self.temporal.requires_grad_(False).eval()
        if self.relation is not None:
            self.relation.requires_grad_(False).eval()

    def _knobs(self) -> dict[str, Any]:
        """What tuning depends on; what only sampling asks for may differ from one edit of a tuned video to the next."""
        return {k: v for k, v in asdict(self.config).items() if k in TUNING}

    def _tuned(self) -> dict[str, Any]:
        """What is said of a tuned video.

        The network by its shapes: it may be tuned in float32 and used in half precision.
        """
        shapes = [(name, tuple(p.shape)) for name, p in self.pipe.unet.named_parameters()]
        return {**self._knobs(), "prompt": self.prompt, "network": fingerprint(shapes)}

    @contextmanager
    def _own_queries(self, train: bool = False) -> Iterator[None]:
        """The video's query projections in the U-Net; afterwards its own again."""
        with held(self.pipe.unet):
            named = dict(self.pipe.unet.named_parameters())
            before = {k: named[k].detach().clone() for k in self.queries}
            trained = {
                k: p.requires_grad for k, p in named.items()
            }  # a pipeline that diffusers loaded has all of them on
            mode = self.pipe.unet.training
            try:
                self.pipe.unet.requires_grad_(False).train(train)
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
                self.pipe.unet.train(mode)

    def save(self, folder: str | Path) -> None:
        """Write temporal layers, query projections and relational network, each loadable by itself."""
        folder = Path(folder)
        with only_writer(folder):
            self._save(folder)

    def _save(self, folder: Path) -> None:
        replace_folder(folder / "temporal", saved_by(self.temporal))
        replace_file(
            folder / "queries.safetensors",
            lambda p: save_file({k: v.cpu().contiguous() for k, v in self.queries.items()}, p),
        )
        if self.relation is not None:
            replace_folder(folder / "relation", saved_by(self.relation))
        write_file(folder / "tuned.json", (json.dumps(self._tuned(), indent=1) + "\n").encode())

    def load(self, folder: str | Path) -> None:
        """Read what `save` wrote.

        Raises:
            InputError: if it is not there or damaged, or was tuned for another network, prompt or knobs.
        """
        folder, device = Path(folder), device_of(self.pipe)
        if not (folder / "tuned.json").exists():
            raise InputError(f"folder {str(folder)!r} holds no tuned video; tune one first")
        what, again = f"the tuned video in {str(folder)!r}", "tune it again"
        tuned = read_json(folder / "tuned.json", f"{what}: its", again)
        for name, wanted in self._tuned().items():
            if tuned.get(name) != wanted:
                mend = (
                    "use the pipeline it was tuned with, with or without an adapter as then"
                    if name == "network"
                    else "give the same, or tune it again"
                )
                raise InputError(
                    f"the video in {str(folder)!r} was tuned with {name}={tuned.get(name)!r}, not {wanted!r}; {mend}"
                )
        temporal = load_model(TemporalLayers, str(folder / "temporal"), what).to(device)
        queries = {
            k: v.to(device) for k, v in load_tensors(folder / "queries.safetensors", f"{what}: its", again).items()
        }
        own = dict(self.pipe.unet.named_parameters())
        if queries.keys() != self.queries.keys() or any(queries[k].shape != own[k].shape for k in queries):
            raise InputError(f"{what} has other query projections than this network; {again}")
        relation = (
            None if self.relation is None else load_model(RelationalNetwork, str(folder / "relation"), what).to(device)
        )
        self.temporal, self.queries, self.relation = temporal, queries, relation

    # --- inversion and editing -----------------------------------------------------------------------------------
    @torch.no_grad()
    def invert(self, progress: bool = False) -> list[torch.Tensor]:
        """From the video towards noise with the source prompt: latents [F,C,h,w] on the CPU at each step, the video's
        own first.

        Each step is the inverse of the sampling step, found as a fixed point (`inversion_iterations` rounds): x_t =
        (x_s - B output(x_t) - correction) / A.
        """
        config, scheduler = self.config, self.scheduler
        times = self._times()
        conditioning = self._conditioning(self.prompt)
        x = self.latents.float()
        path = [x.cpu()]  # of a long video more than a GPU would hold beside the network
        with self._own_queries():
            for s, t in tqdm(list(zip([-1, *times], times, strict=False)), desc="invert", disable=not progress):
                x_s = x
                ab_t, ab_s = scheduler.ab_at(t, x_s), scheduler.ab_at(s, x_s)
                a, b = ddim_affine(ab_t, ab_s, scheduler.config.prediction_type)
                for _ in range(config.inversion_iterations):
                    output = self._predict(x, t, [conditioning])[0]
                    x = (x_s - b * output - self._correction(output, x, t, s, conditioning.states)) / a
                path.append(x.cpu())
        return path

    @torch.no_grad()
    def edit(
        self,
        target: str,
        path: Sequence[torch.Tensor] | None = None,
        progress: bool = False,
        modulate: Modulate | None = None,
    ) -> Video:
        """The video with the target prompt: the thing changes, motion and background are meant to stay.

        Args:
            target: the new prompt.
            path: what `invert` gave; it is called if None.
            modulate: what else acts on the target's attention, such as `realign.video.modulate_video`.

        Raises:
            InputError: for a prompt that is empty or too long.
        """
        latents = self.sample(target, self.config.guidance_scale, path, progress, modulate)
        frames = [
            f for i in range(0, len(latents), 8) for f in decode(self.pipe, latents[i : i + 8].to(self.pipe.vae.dtype))
        ]
        return Video(
            tuple(
                f.resize(self.video.size, Image.Resampling.BICUBIC) if f.size != self.video.size else f for f in frames
            ),
            self.video.fps,
        )

    @torch.no_grad()
    def sample(
        self,
        target: str,
        guidance_scale: float,
        path: Sequence[torch.Tensor] | None = None,
        progress: bool = False,
        modulate: Modulate | None = None,
    ) -> torch.Tensor:
        """Latents [F,C,h,w] of the edit; guidance 1 with the source prompt returns the video's own."""
        check_prompt_length(self.pipe, target)
        config, scheduler = self.config, self.scheduler
        path = list(path) if path is not None else self.invert(progress)
        times = self._times()
        empty, wanted, source = (self._conditioning(p) for p in (None, target, self.prompt))
        guided = is_guided(self.pipe, guidance_scale)
        x = path[-1].to(device_of(self.pipe))
        acts = modulate(self, target, path) if modulate is not None else {}
        aligned = aligned_tokens(self.pipe, self.prompt, target)
        change = self.change_mask(target, path) if config.mask_blending and target != self.prompt else None
        with self._own_queries():
            for i, t in enumerate(tqdm(times[::-1], desc="edit", disable=not progress)):
                s = times[-i - 2] if i + 1 < len(times) else -1
                for act in acts.values():
                    act.before_step(Step(i, len(times), torch.tensor(t), x))
                layout = Layout(path[-i - 1].to(x), aligned) if i < config.injection * len(times) else None
                rows = ([source] if layout else []) + ([empty] if guided else []) + [wanted]
                outputs = self._predict(x, t, rows, layout, acts)
                output = outputs[-1]
                if guided:
                    output = outputs[-2] + guidance_scale * (output - outputs[-2])
                ab_t, ab_s = scheduler.ab_at(t, x), scheduler.ab_at(s, x)
                a, b = ddim_affine(ab_t, ab_s, scheduler.config.prediction_type)
                x = a * x + b * output + self._correction(output, x, t, s, wanted.states)
                if change is not None and i < config.mask_blending * len(times):
                    x = torch.lerp(path[-i - 2].to(x), x, change)
        check_finite(x)
        return x

    @torch.no_grad()
    def change_mask(self, target: str, path: Sequence[torch.Tensor]) -> torch.Tensor:
        """Where the target prompt asks for something else than the source prompt: [F,1,h,w], 0 (the same) to 1.

        DiffEdit (arXiv 2210.11427), section 3.2: where the two prompts' outputs differ, on the inverted video itself.
        """
        times = self._times()
        source, wanted = (self._conditioning(p) for p in (self.prompt, target))
        total = torch.zeros_like(self.latents[:, :1], dtype=torch.float32)
        with self._own_queries():
            for i in middle_steps(len(times)):
                a, b = self._predict(path[i + 1].to(total), times[i], [source, wanted])
                differ = (a - b).square().mean(1, keepdim=True).sqrt()
                total += differ / differ.amax().clamp(min=1e-12)
        smooth = F.avg_pool2d(total, 3, 1, 1, count_include_pad=False)
        return ((smooth / smooth.amax().clamp(min=1e-12) - CHANGED[0]) / (CHANGED[1] - CHANGED[0])).clamp(0, 1)

    def token_maps(self, path: Sequence[torch.Tensor]) -> torch.Tensor:
        """Where each token of the source prompt looks in each frame, by cross-attention on the inverted video:
        [F,T,h,w].
        """
        times = self._times()
        source = self._conditioning(self.prompt)
        found: list[torch.Tensor] = [torch.zeros(0)] * len(self.latents)
        with torch.no_grad(), self._own_queries():
            for rows in self.windows:
                recorder = AttentionMaps(sample_size(self.pipe), guided=False)
                with inflated(self.pipe.unet, self.temporal, len(rows)), attention_hook(self.pipe.unet, recorder):
                    for i in middle_steps(len(times)):
                        x = path[i + 1][rows].to(device_of(self.pipe), self.pipe.unet.dtype)
                        conditioning = source.repeated(len(rows))
                        self.pipe.unet(x, times[i], conditioning.states, added_cond_kwargs=conditioning.added)
                for row, maps in zip(rows, recorder.mean(), strict=True):
                    found[row] = maps
        return torch.stack(found)

    @property
    def windows(self) -> list[list[int]]:
        """The frames that the network sees at once, window by window."""
        return windows(len(self.latents), self.config.window, self.config.overlap)

    @torch.no_grad()
    def _conditioning(self, prompt: str | None) -> Conditioning:
        """The conditioning of one prompt, or of none."""
        return conditioning_of(
            self.pipe, [prompt or ""], guided=False, dropped=torch.tensor([prompt is None], device=device_of(self.pipe))
        )

    def _times(self) -> list[int]:
        """Timesteps from the clean end on, the first share `strength` of the schedule."""
        set_timesteps(self.scheduler, self.config.num_inference_steps)
        times = sorted(int(t) for t in self.scheduler.timesteps)
        return times[: max(1, round(self.config.strength * len(times)))]

    def _predict(
        self,
        x: torch.Tensor,
        t: int,
        conditionings: Sequence[Conditioning],
        layout: Layout | None = None,
        acts: Mapping[int, Act] | None = None,
    ) -> list[torch.Tensor]:
        """The network's output [F,C,h,w] for each text; windows of the video one after the other, averaged where they
        overlap.

        With `layout` the first text is the source's: its self-attention is injected into the others, and where its
        words look into the last.
        `acts` (by the first frame of a window) are for the last text.
        """
        unet = self.pipe.unet
        totals = [torch.zeros_like(x) for _ in conditionings]
        counts = torch.zeros(len(x), 1, 1, 1, device=x.device)
        for rows in self.windows:
            parts = [x[rows] if i or layout is None else layout.latents[rows] for i in range(len(conditionings))]
            conditioning = Conditioning.joined([c.repeated(len(rows)) for c in conditionings])
            act = (acts or {}).get(rows[0])
            hook = attention_hook(unet, act, partial(getattr, act, "active")) if act is not None else nullcontext()
            with inflated(unet, self.temporal, len(rows)) as state, hook:
                state.inject, state.aligned = layout is not None, layout.aligned if layout is not None else None
                out = unet(
                    torch.cat(parts).to(unet.dtype), t, conditioning.states, added_cond_kwargs=conditioning.added
                ).sample.float()
            for total, part in zip(totals, out.chunk(len(conditionings)), strict=True):
                total[rows] += part
            counts[rows] += 1
        return [total / counts for total in totals]

    def _correction(self, output: torch.Tensor, x: torch.Tensor, t: int, s: int, states: torch.Tensor) -> torch.Tensor:
        """What the context adds to a plain step from t to s, [F,C,h,w]."""
        if self.relation is None:
            return torch.zeros_like(x)
        scheduler = self.scheduler
        ab_t, ab_s = scheduler.ab_at(t, x), scheduler.ab_at(s, x)
        x0 = network_x0(output, x, ab_t, scheduler.config.prediction_type)
        parts = []
        for rows in torch.arange(len(x)).split(self.config.window):
            r_t, r_s = relation_of(self.relation, states.expand(len(rows), -1, -1))(x0[rows], t, s)
            parts.append(
                ddim_correction(
                    scheduler.shift_at(t, x) * r_t, scheduler.shift_at(s, x) * r_s, ab_t, ab_s, torch.zeros_like(ab_s)
                )
            )
        return torch.cat(parts)


def middle_steps(count: int) -> list[int]:
    """Which of `count` inverted steps are looked at for where things are: MAPPED_STEPS of them, in the share MAPPED."""
    first, last = (int(share * (count - 1)) for share in MAPPED)
    return sorted({round(v) for v in np.linspace(first, last, MAPPED_STEPS)})


def aligned_tokens(pipe: Pipeline, source: str, target: str) -> torch.Tensor:
    """For each token of the target prompt that of the source prompt that is the same or that it replaces, [T]; -1 if
    none.

    A run of words that is replaced by one of another length is stretched over it.
    """
    with held(pipe.tokenizer):
        a, b = (pipe.tokenizer(p, padding="max_length", truncation=True).input_ids for p in (source, target))
    out = torch.full((len(b),), -1)
    for kind, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind in ("equal", "replace"):
            for j in range(b0, b1):
                out[j] = a0 + (j - b0) * (a1 - a0) // (b1 - b0)
    return out.to(device_of(pipe))


def windows(count: int, size: int, overlap: int) -> list[list[int]]:
    """Overlapping windows that cover 0..count-1; the last one is moved back so that all are whole."""
    if count <= size:
        return [list(range(count))]
    starts = list(range(0, count - size, size - overlap))
    return [list(range(s, s + size)) for s in [*starts, count - size]]


def window_rows(count: int, size: int, generator: torch.Generator) -> list[int]:
    """One window at random, or the whole video if it fits."""
    if count <= size:
        return list(range(count))
    start = int(torch.randint(count - size + 1, (1,), generator=generator))
    return list(range(start, start + size))
