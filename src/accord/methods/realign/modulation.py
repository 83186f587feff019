"""The re-weighted attention modulation, as what acts on a pipeline's attention while it samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from accord.diffusion.opened import Opened, Step
from accord.diffusion.tap import Attention, AttentionLayout, attention_layout, grid_of, observed
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.equations import Block, joint_attention, modulation_strength, time_gain
from accord.types import InputError, a_kind


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

    def row(self, index: int) -> Segments:
        """Those of one prompt, as a batch of one."""
        exempt = None if self.exempt is None else self.exempt[index : index + 1]
        masks, tokens, omega = (x[index : index + 1] for x in (self.masks, self.tokens, self.omega))
        return Segments(masks, tokens, omega, exempt)

    def to(self, device: torch.device, dtype: torch.dtype) -> Segments:
        exempt = None if self.exempt is None else self.exempt.to(device, dtype)
        return Segments(
            self.masks.to(device, dtype), self.tokens.to(device, dtype), self.omega.to(device, dtype), exempt
        )


class Modulation:
    """An observer of attention for one run, which changes it; give `before_step` to the run.

    It acts in the first `modulated_share` of the steps only; outside them nothing is changed.

    Args:
        size: (h, w) of the latents.
        top: the timestep at which tau is 1.
    """

    def __init__(self, segments: Segments, config: RealignConfig, size: tuple[int, int], top: float = 1000.0) -> None:
        self.segments, self.config, self.size, self.top = segments, config, size, top
        self.tau = 0.0

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

    def __call__(self, attention: Attention) -> torch.Tensor | None:
        """The prompts' rows with (1) in them, [B,heads,L,d]; None where nothing is changed."""
        if attention.kind == "joint":
            return self._joint(attention)
        config, segments, cross = self.config, self.segments, attention.kind == "cross"
        weight = config.cross_weight if cross else config.self_weight
        if weight == 0:
            return None
        pixels = segments.at(grid_of(attention.query.shape[2], self.size))
        alpha = modulation_strength(pixels, segments.omega, weight, self.tau)
        keys = slice(0, attention.key.shape[2])
        if cross:
            block = Block(keys, alpha, segments.tokens.transpose(1, 2), self._bias(), segments.exempt)
        else:
            block = Block(keys, alpha, pixels)
        return self._attend(attention, pixels, [block])

    def _joint(self, attention: Attention) -> torch.Tensor:
        """The image's queries in a joint attention; all others are left alone."""
        config, segments, image, text = self.config, self.segments, attention.image, attention.text
        pixels = segments.at(grid_of(image.stop - image.start, self.size))
        to_text, to_image = (
            modulation_strength(pixels, segments.omega, w, self.tau) for w in (config.cross_weight, config.self_weight)
        )
        length = text.stop - text.start
        tokens = segments.tokens.transpose(1, 2)[:, :length]
        exempt = None if segments.exempt is None else segments.exempt[:, :length]
        blocks = [Block(text, to_text, tokens, self._bias(), exempt), Block(image, to_image, pixels)]
        seen = self._attend(attention.of_queries(image), pixels, blocks)
        before, after = slice(0, image.start), slice(image.stop, attention.query.shape[2])
        others = [attention.of_queries(q).plain() if q.start < q.stop else None for q in (before, after)]
        parts = [x for x in (others[0], seen.to(attention.value.dtype), others[1]) if x is not None]
        return torch.cat(parts, 2)

    @staticmethod
    def _attend(attention: Attention, pixels: torch.Tensor, blocks: list[Block]) -> torch.Tensor:
        """Attention with its blocks of keys modulated, [B,heads,L,d]."""
        a = attention
        return joint_attention(a.query, a.key, a.value, blocks, pixels, a.scale, a.mask)

    def _bias(self) -> torch.Tensor | None:
        """log omega for the segments' tokens, [B, N]."""
        return self.segments.omega.clamp_min(1e-3).log() * self.tau if self.config.log_omega else None


@contextmanager
def modulated(
    opened: Opened,
    prompts: Sequence[str],
    segments: Segments,
    config: RealignConfig | None = None,
    where: AttentionLayout | None = None,
) -> Iterator[Modulation]:
    """Modulate the attention of the prompts' rows while an opened pipeline runs within the block.

    Give the yielded object's `before_step` to `opened.rollout` or `opened.pictures`. Afterwards the pipeline is what it
    was.

    Args:
        where: `attention_layout(opened, prompts)`, if it is known.

    Raises:
        InputError: for a pipeline in whose texts the prompts are not found, or whose attention is not seen.
    """
    where = where or attention_layout(opened, prompts)
    state = modulation_of(opened, where, segments, config or RealignConfig())
    with observed(opened, where, state, lambda: state.active):
        yield state


def modulation_of(opened: Opened, where: AttentionLayout, segments: Segments, config: RealignConfig) -> Modulation:
    """The modulation for a run of an opened pipeline, on its device and in its type.

    Raises:
        InputError: for a pipeline that makes videos.
    """
    check_picture(opened, where)
    pipe = opened.pipe
    there = segments.to(pipe._execution_device, getattr(opened.networks[0], "dtype", torch.float32))
    return Modulation(there, config, where.size, float(pipe.scheduler.config.num_train_timesteps))


def check_picture(opened: Opened, where: AttentionLayout) -> None:
    """Refuse a run that makes videos: segments are places in one picture.

    Raises:
        InputError: naming the pipeline.
    """
    if where.frames > 1:
        raise InputError(
            f"{a_kind(opened.pipe)} makes videos here, and what is repaired is a picture; use a text-to-image pipeline"
        )
