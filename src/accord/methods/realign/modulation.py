"""The re-weighted attention modulation as a context manager around sampling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_processor import Attention

from accord.diffusion.attention import grid_of
from accord.diffusion.engines import engine_of
from accord.diffusion.loop import Step
from accord.diffusion.pipelines import device_of
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.equations import Block, attend, augment, augment_blocks, modulation_strength, time_gain


@dataclass
class Segments:
    """Who belongs to whom, for a batch of B prompts and N segments (pad with empty ones).

    Attributes:
        masks: float [B, N, h, w] at the size of the latents, in 0..1.
        tokens: float [B, N, T] in {0, 1}: the tokens of each segment's phrase.
        omega: float [B, N], >= 0: the weight of each segment; 1 is the unweighted modulation.
        exempt: float [B, T] in {0, 1}: tokens whose logits are left alone, or None.
    """

    masks: torch.Tensor
    tokens: torch.Tensor
    omega: torch.Tensor
    exempt: torch.Tensor | None = None
    _levels: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict, repr=False)

    def at(self, shape: tuple[int, int]) -> torch.Tensor:
        """m at a layer of h x w pixels, [B, h*w, N]: each pixel in the segment that covers it most, or in none."""
        if shape not in self._levels:
            area = torch.nn.functional.interpolate(self.masks, shape, mode="area") if self.masks.shape[1] else None
            if area is None:
                m = self.masks.new_zeros(len(self.masks), shape[0] * shape[1], 0)
            else:
                best = area.argmax(1, keepdim=True)
                hard = torch.zeros_like(area).scatter_(1, best, 1.0) * (area > 0.5)
                m = hard.flatten(2).transpose(1, 2).contiguous()
            self._levels[shape] = m
        return self._levels[shape]

    def to(self, device: torch.device, dtype: torch.dtype) -> Segments:
        exempt = None if self.exempt is None else self.exempt.to(device, dtype)
        return Segments(
            self.masks.to(device, dtype), self.tokens.to(device, dtype), self.omega.to(device, dtype), exempt
        )


class Modulation:
    """State of a modulated run: give `before_step` to the sampling loop inside `modulated(...)`.

    The last B of a batch only, which is the conditional half of a guided one; the first `modulated_share` of the steps
    only; outside them the plain processors run.
    """

    def __init__(self, segments: Segments, config: RealignConfig, size: tuple[int, int]) -> None:
        self.segments, self.config, self.size = segments, config, size
        self.tau = 0.0
        self.top = 1000.0  # the timestep at which tau is 1

    def before_step(self, step: Step) -> None:
        # a run from part-way is modulated as strongly where it starts as a whole run is (by the noise level alone, tau
        # would be (0.8)^5 at most, and nothing would change)
        if step.index == 0 and self.config.mode == "renoise":
            self.top = float(step.timestep)
        self.tau = time_gain(float(step.timestep), self.config.time_power, self.top)
        if step.index >= self.config.modulated_share * step.count:
            self.tau = 0.0

    @property
    def active(self) -> bool:
        return self.tau > 0 and self.segments.masks.shape[1] > 0

    def __call__(
        self, attn: Attention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cross: bool
    ) -> torch.Tensor | None:
        config, segments = self.config, self.segments
        weight = config.cross_weight if cross else config.self_weight
        if weight == 0:
            return None
        conditional = len(segments.masks)
        q, k, v = query[-conditional:], key[-conditional:], value[-conditional:]
        pixels = segments.at(grid_of(q.shape[2], self.size))
        alpha = modulation_strength(pixels, segments.omega, weight, self.tau)
        keys = segments.tokens.transpose(1, 2) if cross else pixels
        q_aug, k_aug = augment(
            q, k, alpha, pixels, keys, self._bias() if cross else None, segments.exempt if cross else None
        )
        return self._with_unconditional(attend(q_aug, k_aug, v, q.shape[-1]), query, key, value)

    def joint(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, image: slice, text: slice
    ) -> torch.Tensor:
        """The image's queries in a joint attention; the text's are left alone."""
        config, segments = self.config, self.segments
        conditional = len(segments.masks)
        q, k, v = query[-conditional:], key[-conditional:], value[-conditional:]
        pixels = segments.at(grid_of(q[:, :, image].shape[2], self.size))
        to_text, to_image = (
            modulation_strength(pixels, segments.omega, w, self.tau) for w in (config.cross_weight, config.self_weight)
        )
        text_block = Block(text, to_text, segments.tokens.transpose(1, 2), self._bias(), segments.exempt)
        image_block = Block(image, to_image, pixels)
        blocks = [image_block, text_block] if text.start else [text_block, image_block]
        q_aug, k_aug = augment_blocks(q[:, :, image], k, pixels, blocks)
        seen = attend(q_aug, k_aug, v, q.shape[-1])
        read = torch.nn.functional.scaled_dot_product_attention(q[:, :, text], k, v)
        out = torch.cat([seen, read] if text.start else [read, seen], 2)
        return self._with_unconditional(out, query, key, value)

    def _bias(self) -> torch.Tensor | None:
        """log omega for the segments' tokens, [B, N]."""
        return self.segments.omega.clamp_min(1e-3).log() * self.tau if self.config.log_omega else None

    @staticmethod
    def _with_unconditional(
        out: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """The batch's unconditional half, plain, before the modulated half."""
        conditional = len(out)
        if len(query) == conditional:
            return out
        unconditional = torch.nn.functional.scaled_dot_product_attention(
            query[:-conditional], key[:-conditional], value[:-conditional]
        )
        return torch.cat([unconditional, out])


@contextmanager
def modulated(pipe: Any, segments: Segments, config: RealignConfig) -> Iterator[Modulation]:
    """Modulate the attention of the pipeline's network for the time of the block; afterwards the pipeline is what it
    was.

    Give the yielded object's `before_step` to `accord.diffusion.loop.sample`, or to an engine's `pictures`.
    """
    engine = engine_of(pipe)
    size = (segments.masks.shape[-2], segments.masks.shape[-1])
    state = Modulation(segments.to(device_of(pipe), engine.dtype), config, size)
    state.top = float(pipe.scheduler.config.num_train_timesteps)
    with engine.hook(state, lambda: state.active):
        yield state
