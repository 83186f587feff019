"""A long video passes through the network in overlapping windows, and their outputs are averaged where they overlap.

Letters in shapes: F frames, C h w of the latents, W frames of a window, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from accord.diffusion.opened import Step
from accord.diffusion.pipelines import Pipeline, device_of
from accord.methods.context.schedulers import ContextDDIMScheduler
from accord.methods.video.hook import attention_hook
from accord.methods.video.inflate import TemporalLayers, inflated
from accord.methods.video.unet import Conditioning, denoise


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


class Act(Protocol):
    """What acts on attention for the time of a run: an attention hook that hears of each step (realign's
    `Modulation`).
    """

    @property
    def active(self) -> bool: ...

    def before_step(self, step: Step) -> None: ...

    def __call__(
        self, attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cross: bool, /
    ) -> torch.Tensor | None: ...


@dataclass(frozen=True)
class Layout:
    """What of the source is injected in a step: its latents [F,C,h,w] there, and `masks.aligned_tokens` [T]."""

    latents: torch.Tensor
    aligned: torch.Tensor


@dataclass(frozen=True)
class VideoNetwork:
    """The inflated network of a pipeline on a whole video, whatever its length.

    Attributes:
        windows: the frames that the network sees at once, window by window; they cover the video.
    """

    pipe: Pipeline
    scheduler: ContextDDIMScheduler
    temporal: TemporalLayers
    windows: Sequence[list[int]]

    @property
    def device(self) -> torch.device:
        return device_of(self.pipe)

    def __call__(
        self,
        x: torch.Tensor,
        t: int,
        conditionings: Sequence[Conditioning],
        layout: Layout | None = None,
        acts: Mapping[int, Act] | None = None,
    ) -> list[torch.Tensor]:
        """The output [F,C,h,w] at x_t [F,C,h,w] for each text, in float32.

        Args:
            conditionings: of one prompt each.
            layout: the first text is then the source's: its self-attention is injected into the others, and where its
                words look into the last.
            acts: for the last text, by the first frame of a window.
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
                out = denoise(self.pipe, self.scheduler, torch.cat(parts).to(unet.dtype), t, conditioning).float()
            for total, part in zip(totals, out.chunk(len(conditionings)), strict=True):
                total[rows] += part
            counts[rows] += 1
        return [total / counts for total in totals]
