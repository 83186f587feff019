"""Text-guided editing of a video: one-shot tuning, inversion with the source prompt, sampling with the target prompt.

ContextDiff, section 4.2, on the Tune-A-Video recipe; r(., c_source) in the inversion, r(x0^, c_target) in sampling.
Without a relational network this is Tune-A-Video.

Letters in shapes: F frames, C h w of the latents, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from accord.data.images import fit, to_pil, to_tensor
from accord.data.video import Video
from accord.diffusion.generate import check_finite, refusing_nan
from accord.diffusion.opened import Opened, Step, show_step, took_step
from accord.diffusion.pipelines import (
    Pipeline,
    check_latent_unet,
    check_prompt_length,
    check_trainable,
    device_of,
    latent_scheduler,
    sample_size,
)
from accord.diffusion.state import held
from accord.methods.context.schedulers import ContextDDIMScheduler
from accord.methods.video import masks
from accord.methods.video.config import TUNING, EditConfig
from accord.methods.video.masks import aligned_tokens, blended
from accord.methods.video.trajectory import Span, Trajectory, invert, spans
from accord.methods.video.tuning import VideoParts, tune
from accord.methods.video.unet import Conditioning, conditioning_of, guide, is_guided
from accord.methods.video.windows import Act, Layout, VideoNetwork, windows
from accord.training.fingerprint import fingerprint
from accord.types import InputError

# an editor, the target prompt and the inverted path -> by the first frame of each window what acts on the target's
# attention there
Modulate = Callable[["VideoEditor", str, Sequence[torch.Tensor]], Mapping[int, Act]]


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
        self.parts = VideoParts.fresh(pipe, config)
        self.opened = Opened(pipe, num_inference_steps=1, scheduler=self.scheduler, guidance_scale=1.0)
        side = sample_size(pipe)[0] * pipe.vae_scale_factor
        pixels = [fit(to_tensor(frame), side) for frame in video.frames]
        self.latents = torch.cat([self.opened.encode([""], frame) for frame in pixels])  # [F,C,h,w]

    def tune(self, folder: str | Path, progress: bool = True) -> None:
        """Fit temporal layers, query projections and relational network to the video. A run in `folder` is resumed.

        Raises:
            InputError: if the folder holds a run with other settings.
        """
        pipe, config = self.pipe, self.config
        if not config.tune_steps:
            return
        check_trainable(pipe)
        video = fingerprint(*(f.tobytes() for f in self.video.frames), self.video.size)
        with held(pipe.unet):
            settings = {**self._tuned_with(), "video": video, "model": fingerprint(pipe)}
        source = self._conditioning(self.prompt)
        tune(pipe, self.parts, self.scheduler, self.latents, source, config, Path(folder), settings, progress)

    def save(self, folder: str | Path) -> None:
        """Write temporal layers, query projections and relational network, each loadable by itself."""
        self.parts.save(Path(folder), self._about())

    def load(self, folder: str | Path) -> None:
        """Read what `save` wrote.

        Raises:
            InputError: if it is not there or damaged, or was tuned for another network, prompt or knobs.
        """
        self.parts.load(self.pipe, Path(folder), self._about())

    @torch.no_grad()
    def invert(self, progress: bool = False) -> list[torch.Tensor]:
        """From the video towards noise with the source prompt: latents [F,C,h,w] on the CPU at each step, the video's
        own first.

        Each step is the inverse of the sampling step, found as a fixed point (`inversion_iterations` rounds).
        """
        steps, source = self._steps(), self._conditioning(self.prompt)
        with self.parts.put_in(self.pipe.unet):
            return invert(
                self._network,
                self._trajectory,
                self.latents,
                source,
                steps,
                self.config.inversion_iterations,
                progress,
            )

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
        size, frames = self.video.size, to_pil(self.decode(latents))
        return Video(
            tuple(f.resize(size, Image.Resampling.BICUBIC) if f.size != size else f for f in frames), self.video.fps
        )

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Frames [F,3,H,W] in 0..1 of latents [F,C,h,w]."""
        with refusing_nan(self.pipe):
            parts = latents.to(self.pipe.vae.dtype).split(8)
            return torch.cat([self.opened.decode([""] * len(part), part) for part in parts]).float()

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
        config, network, trajectory = self.config, self._network, self._trajectory
        path = list(path) if path is not None else self.invert(progress)
        steps = self._steps()
        empty, wanted, source = (self._conditioning(p) for p in (None, target, self.prompt))
        guided = is_guided(self.pipe, guidance_scale)
        acts = modulate(self, target, path) if modulate is not None else {}
        aligned = aligned_tokens(self.pipe, self.prompt, target)
        change = self.change_mask(target, path) if config.mask_blending and target != self.prompt else None
        x = path[-1].to(device_of(self.pipe))
        with self.parts.put_in(self.pipe.unet):
            for i, span in enumerate(tqdm(steps[::-1], desc="edit", disable=not progress)):
                for act in acts.values():
                    act.before_step(Step(i, len(steps), torch.tensor(span[1]), x))
                layout = Layout(path[-i - 1].to(x), aligned) if i < config.injection * len(steps) else None
                texts = ([source] if layout else []) + ([empty] if guided else []) + [wanted]
                outputs = network(x, span[1], texts, layout, acts)
                output = guide(outputs[-2], outputs[-1], guidance_scale) if guided else outputs[-1]
                x = trajectory.step(x, output, span, wanted.states)
                if change is not None and i < config.mask_blending * len(steps):
                    x = blended(x, path[-i - 2], change)
                took_step(len(x), len(steps))
                show_step(Step(i, len(steps), torch.tensor(span[1]), x), partial(self._middle, x))
        check_finite(x)
        return x

    def _middle(self, latents: torch.Tensor) -> torch.Tensor:
        """The frame in the middle as it is now, [1,3,H,W]."""
        return self.decode(latents[len(latents) // 2][None])

    @torch.no_grad()
    def change_mask(self, target: str, path: Sequence[torch.Tensor]) -> torch.Tensor:
        """Where the target prompt asks for something else than the source prompt: [F,1,h,w], 0 (the same) to 1."""
        steps, source, wanted = self._steps(), self._conditioning(self.prompt), self._conditioning(target)
        with self.parts.put_in(self.pipe.unet):
            return masks.change_mask(self._network, path, steps, source, wanted)

    @torch.no_grad()
    def token_maps(self, path: Sequence[torch.Tensor]) -> torch.Tensor:
        """Where each token of the source prompt is in each frame of the inverted video: [F,T,h,w]."""
        steps, source = self._steps(), self._conditioning(self.prompt)
        with self.parts.put_in(self.pipe.unet):
            return masks.token_maps(self._network, path, steps, source)

    @property
    def windows(self) -> list[list[int]]:
        """The frames that the network sees at once, window by window."""
        return windows(len(self.latents), self.config.window, self.config.overlap)

    @property
    def _network(self) -> VideoNetwork:
        return VideoNetwork(self.pipe, self.scheduler, self.parts.temporal, self.windows)

    @property
    def _trajectory(self) -> Trajectory:
        return Trajectory(self.scheduler, self.parts.relation, self.config.window)

    def _steps(self) -> list[Span]:
        return spans(self.scheduler, self.config.num_inference_steps, self.config.strength)

    @torch.no_grad()
    def _conditioning(self, prompt: str | None) -> Conditioning:
        """The conditioning of one prompt, or of none."""
        return conditioning_of(self.opened, prompt)

    def _tuned_with(self) -> dict[str, Any]:
        """The knobs that tuning depends on, and the prompt."""
        return {**{k: v for k, v in asdict(self.config).items() if k in TUNING}, "prompt": self.prompt}

    def _about(self) -> dict[str, Any]:
        """What is said of a tuned video.

        The network by its shapes: it may be tuned in float32 and used in half precision.
        """
        shapes = [(name, tuple(p.shape)) for name, p in self.pipe.unet.named_parameters()]
        return {**self._tuned_with(), "network": fingerprint(shapes)}
