"""RealignDiff, fine stage: local dense captions, then re-weighted attention modulation. Read top to bottom.

1. generate; 2. find each thing and describe it; 3. deficits; 4. a place for what is missing, and once more with the
attention modulated; 5. keep the better picture; repeat up to K rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from tqdm.auto import tqdm

from accord.data.images import to_pil
from accord.data.prompts import parse
from accord.diffusion.attention import AttentionMaps, check_processors
from accord.diffusion.engines import JointEngine, Sampling, engine_of
from accord.diffusion.loop import Step, encode, generators, initial_noise
from accord.diffusion.pipelines import (
    check_prompt_length,
    device_of,
    sample_size,
    token_spans,
    tokens_of,
)
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.layout import plan
from accord.methods.realign.modulation import Segments, modulated
from accord.methods.realign.regions import describe, find_regions, phrase_maps, slots
from accord.reports.results import Realigned
from accord.rewards.captioners import Captioner, load_captioner
from accord.rewards.clip import ClipScorer
from accord.rewards.diagnosis import align
from accord.types import Alignment, InputError, Prompt, Region

RECORDED = (0.2, 0.8)  # attention is recorded in this middle share of the steps
NEW_SEED = 10_000_000  # round r starts from the noise of seed + r * NEW_SEED, where it starts from another


@dataclass
class Picture:
    """One picture on its way: the best so far, and what was found and tried."""

    prompt: Prompt
    seed: int
    image: torch.Tensor  # best so far, [3,H,W]
    alignment: Alignment
    maps: np.ndarray  # [P,h,w] of the best picture
    regions: list[Region] = field(default_factory=list)
    tried: list[list[Region]] = field(default_factory=list)  # layouts of the best picture that did not help
    rounds: int = 0
    calls: int = 0
    seed_after: int | None = None  # of the noise that the best was made from, where it is another


def realign(
    pipe: DiffusionPipeline,
    prompts: str | Sequence[str],
    seeds: int | Sequence[int] = 0,
    *,
    config: RealignConfig | None = None,
    captioner: Captioner | None = None,
    clip: ClipScorer | None = None,
    num_inference_steps: int = 25,
    guidance_scale: float = 5.0,
    negative_prompt: str = "",
    batch_size: int = 16,
    captions: bool = True,
    each: bool = False,
    progress: bool = False,
) -> list[Realigned]:
    """Generate, find out what is missing and where, and repair it.

    Args:
        pipe: a Stable Diffusion 1, 2, XL or 3 or a Flux pipeline; afterwards it is bit for bit what it was.
        prompts: one prompt or several.
        seeds: one seed or several; every prompt is made with every seed.
        captioner: judge of words and regions; the embedded one, for the lab's pipeline alone, if None.
        clip: if given, CLIP similarity and caption reward are in the alignments too.
        batch_size: pictures that are denoised together.
        captions: whether pictures and regions are put into words for the report; the repair needs none.
        each: one picture a prompt, each with its own of as many seeds.

    Returns:
        a Realigned per (prompt, seed), in order, seeds varying fastest. `after` is never worse than `before` by the
        alignment.

    Raises:
        InputError: for a pipeline of another class, a prompt that is empty or too long, or larger pictures without a
            captioner.
    """
    config = config or RealignConfig()
    check_repairable(pipe, config)
    if captioner is None:
        captioner = load_captioner(device=str(device_of(pipe)))
        side = sample_size(pipe)[0] * pipe.vae_scale_factor
        if side > captioner.image_size:
            raise InputError(
                f"the embedded captioner knows the lab's small scenes alone, not pictures of {side} pixels; give "
                "captioner=load_captioner(ID)"
            )
    names = [prompts] if isinstance(prompts, str) else list(prompts)
    numbers = [seeds] if isinstance(seeds, int) else list(seeds)
    for text in names:
        check_prompt_length(pipe, text)
        captioner.check_length(text)
    pairs = zip(names, numbers, strict=True) if each else ((text, seed) for text in names for seed in numbers)
    jobs = [(parse(text), seed) for text, seed in pairs]
    results: list[Realigned] = []
    starts = range(0, len(jobs), batch_size)
    for start in tqdm(starts, desc="realign", disable=not progress):
        batch = Rounds(pipe, config, captioner, clip, num_inference_steps, guidance_scale, negative_prompt, captions)
        results += batch.repair(batch.generate(jobs[start : start + batch_size]))
    return results


def check_repairable(pipe: Any, config: RealignConfig) -> None:
    """Refuse a pipeline of another class, a mode that it has not, or what a modulation does not fit.

    Raises:
        InputError: naming the class or the mode.
    """
    if isinstance(engine_of(pipe), JointEngine):
        if config.mode == "renoise":
            raise InputError(
                f"a {type(pipe).__name__} is not started from part-way here; use the mode new_seed or same_seed, not "
                "renoise"
            )
        return
    if "beta_schedule" not in pipe.scheduler.config:  # EDM's timesteps are no share of a whole, as tau takes them
        raise InputError(
            f"a {type(pipe.scheduler).__name__} has no betas, and the modulation no time to follow; use a pipeline "
            "that was trained with betas"
        )
    check_processors(pipe.unet)


@dataclass
class Rounds:
    """`realign` for one batch of (prompt, seed): `generate`, then `repair`."""

    pipe: Any
    config: RealignConfig
    captioner: Captioner
    clip: ClipScorer | None
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""
    captions: bool = True

    def repair(self, first: list[Picture]) -> list[Realigned]:
        """Up to K rounds on pictures of `generate`, which stay as they are."""
        items = [replace(i, tried=[]) for i in first]
        for number in range(self.config.rounds):
            todo = [i for i in items if not self.good(i.alignment)]
            if not todo:
                break
            self.redo(todo, number)
        return [
            Realigned(
                prompt=a.prompt,
                seed=a.seed,
                before=to_pil(b.image[None])[0],
                after=to_pil(a.image[None])[0],
                alignment_before=b.alignment,
                alignment_after=a.alignment,
                regions=tuple(a.regions),
                rounds=a.rounds,
                denoiser_calls=a.calls,
                seed_after=a.seed_after,
            )
            for a, b in zip(items, first, strict=True)
        ]

    def good(self, alignment: Alignment) -> bool:
        return all(w.probability >= self.config.good_enough for w in alignment.words)

    # 1. generate ---------------------------------------------------------------------------------------------------
    def generate(self, jobs: list[tuple[Prompt, int]]) -> list[Picture]:
        each = generators([s for _, s in jobs])
        noise = initial_noise(self.pipe, len(jobs), each)
        return self.judge(jobs, *self.denoise([p for p, _ in jobs], noise, each))

    def judge(
        self, jobs: list[tuple[Prompt, int]], images: torch.Tensor, maps: list[np.ndarray], calls: int
    ) -> list[Picture]:
        alignments = align(images, [p for p, _ in jobs], self.captioner, self.clip, self.captions)
        return [
            Picture(p, s, x, a, m, calls=calls) for (p, s), x, a, m in zip(jobs, images, alignments, maps, strict=True)
        ]

    def denoise(
        self,
        prompts: list[Prompt],
        noise: torch.Tensor,
        generator: list[torch.Generator],
        segments: Segments | None = None,
        image_latents: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[np.ndarray], int]:
        """Pictures [B,3,H,W] in 0..1, the phrases' attention maps, and the network's evaluations a picture, with or
        without modulation.

        Attention is recorded where it is not modulated; no maps are returned if there was no such step in the middle.
        """
        pipe, engine = self.pipe, engine_of(self.pipe)
        guided = engine.guided(self.guidance_scale)
        recorder, window = AttentionMaps(sample_size(pipe), guided), _Window(*RECORDED)
        state, taken = None, 0

        def before_step(step: Step) -> None:
            nonlocal taken
            taken += 1  # some schedulers take more steps than they were asked for
            window(step)
            if state is not None:
                state.before_step(step)

        def pictures() -> torch.Tensor:
            settings = Sampling(
                self.negative_prompt,
                self.num_inference_steps,
                self.guidance_scale,
                image_latents,
                self.config.strength if image_latents is not None else 1.0,
                generator,
            )
            return engine.pictures([p.text for p in prompts], noise, settings, before_step)

        with engine.hook(recorder, lambda: window.open):
            if segments is None:
                images = pictures()
            else:
                with modulated(pipe, segments, self.config) as state:
                    images = pictures()
        recorded = zip(prompts, recorder.mean(), strict=True) if recorder.count or segments is None else ()
        maps = [phrase_maps(p, m, token_spans(pipe, p.text)) for p, m in recorded]
        return images, maps, taken * (2 if guided else 1)

    # 2. to 5. find, describe, place, redo, keep the better ----------------------------------------------------------
    def redo(self, items: list[Picture], number: int) -> None:
        """Round `number` (from 0) for these pictures: each keeps what comes of it if its alignment rises."""
        mode, seeds = self.config.mode, [(i.seed + (number + 1) * NEW_SEED) % 2**63 for i in items]
        # from the same noise the same layout would give the same picture again: another place, and more weight
        tried = [[] if mode == "new_seed" else i.tried for i in items]
        layouts = []
        for item, vain in zip(items, tried, strict=True):
            found = describe(
                item.image, item.prompt, find_regions(item.prompt, item.maps), self.captioner, self.captions
            )
            layouts.append(plan(item.prompt, slots(item.prompt), found, item.maps, tried=vain))
        segments = build_segments(self.pipe, [i.prompt for i in items], layouts, self.config)
        segments.omega *= 1 + self.config.escalation * torch.tensor([[float(len(v))] for v in tried])
        each = generators(seeds if mode == "new_seed" else [i.seed for i in items])
        noise = initial_noise(self.pipe, len(items), each)
        latents = encode(self.pipe, torch.stack([i.image for i in items])) if mode == "renoise" else None
        prompts = [i.prompt for i in items]
        images, maps, calls = self.denoise(prompts, noise, each, segments, latents)
        maps = maps or [i.maps for i in items]  # all of it was modulated
        alignments = align(images, prompts, self.captioner, self.clip, self.captions)
        for k, (item, layout) in enumerate(zip(items, layouts, strict=True)):
            item.rounds += 1
            item.calls += calls
            if alignments[k].overall > item.alignment.overall:
                item.image, item.alignment, item.maps, item.regions = images[k], alignments[k], maps[k], layout
                item.tried = []
                item.seed_after = seeds[k] if mode == "new_seed" else None
            else:
                item.tried.append(layout)
                item.regions = item.regions or layout


class _Window:
    """Open in the middle share of the steps."""

    def __init__(self, start: float, stop: float) -> None:
        self.start, self.stop, self.open = start, stop, False

    def __call__(self, step: Step) -> None:
        self.open = self.start <= (step.index + 0.5) / step.count <= self.stop


def build_segments(pipe: Any, prompts: list[Prompt], layouts: list[list[Region]], config: RealignConfig) -> Segments:
    """Masks, tokens and weights of a batch of layouts, padded to the most regions; the background comes last."""
    n = max(1, max(len(x) for x in layouts)) + (config.background > 0)
    h, w = sample_size(pipe)
    spans_of = [token_spans(pipe, p.text) for p in prompts]
    length = len(spans_of[0])
    masks = torch.zeros(len(prompts), n, h, w)
    tokens = torch.zeros(len(prompts), n, length)
    omega = torch.ones(len(prompts), n)
    exempt = torch.zeros(len(prompts), length)
    for b, (prompt, layout, spans) in enumerate(zip(prompts, layouts, spans_of, strict=True)):
        for k, region in enumerate(layout):
            phrase = prompt.phrases[region.phrase]
            masks[b, k] = torch.from_numpy(region.mask)
            tokens[b, k, tokens_of(spans, phrase.start, phrase.end)] = 1.0
            omega[b, k] = max(0.0, 1 + config.omega_gain * (region.deficit - 0.5))
        if config.exempt_tokens == "special":
            exempt[b] = torch.tensor([float(s is None) for s in spans])
        elif config.exempt_tokens == "unassigned":
            exempt[b] = 1 - tokens[b].amax(0)
        if config.background > 0 and layout:  # "a car and a star": nothing of the two outside their places
            masks[b, -1] = 1 - masks[b, :-1].amax(0)
            tokens[b, -1] = 1 - tokens[b, :-1].amax(0)
            omega[b, -1] = config.background
    return Segments(masks, tokens, omega, None if config.exempt_tokens == "none" else exempt)
