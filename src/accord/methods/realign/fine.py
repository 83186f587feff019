"""RealignDiff, fine stage: local dense captions, then re-weighted attention modulation. Read top to bottom.

1. generate; 2. find each thing and describe it; 3. deficits; 4. a place for what is missing, and once more with the
attention modulated; 5. keep the better picture; repeat up to K rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from accord.data.images import to_pil
from accord.diffusion.attention import AttentionMaps
from accord.diffusion.call import call_arguments, joined_call
from accord.diffusion.generate import check_batch_size, check_finite, generators, seeds_of
from accord.diffusion.opened import REMEMBERED, Opened, Step, begins_with_picture, check_seams
from accord.diffusion.pipelines import check_no_context, check_prompt_length, device_of, tokens_of
from accord.diffusion.process import kind_of
from accord.diffusion.progress import step_bar
from accord.diffusion.registers import registers_of
from accord.diffusion.tap import Attention, AttentionLayout, attention_layout, observed
from accord.judges.captioners import load_captioner
from accord.judges.clip import ClipScorer
from accord.judges.detect import PhraseDetector
from accord.judges.diagnosis import align
from accord.judges.protocol import Answers, Judge
from accord.judges.questions import as_judge
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.layout import plan
from accord.methods.realign.modulation import Segments, check_picture, modulation_of
from accord.methods.realign.regions import (
    AttentionRegions,
    DetectedRegions,
    Regions,
    describe,
    phrase_maps,
    slots,
)
from accord.prompts.phrases import phrases_of, read_ahead
from accord.reports.results import Realigned
from accord.types import Alignment, InputError, Prompt, Region, a_kind

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
    captioner: Judge | Answers | None = None,
    clip: ClipScorer | None = None,
    regions: PhraseDetector | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str = "",
    call: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    captions: bool = True,
    each: bool = False,
    progress: bool = False,
    **more: Any,
) -> list[Realigned]:
    """Generate, find out what is missing and where, and repair it.

    Args:
        pipe: a text-to-image pipeline of diffusers; afterwards it is bit for bit what it was.
        prompts: one prompt or several.
        seeds: one seed or several; every prompt is made with every seed.
        captioner: judge of words and regions, as `accord.load_judge` gives; the embedded captioner, for the lab's
            pipeline alone, if None.
        clip: if given, CLIP similarity and caption reward are in the alignments too.
        regions: a detector (`load_detector`) that finds where each phrase is; the pipeline's own attention if None.
        num_inference_steps: those of the pipeline's own call if None.
        guidance_scale: of classifier-free guidance, at which 1 is unguided; what the pipeline's own call has if None.
        call, more: further arguments of the pipeline's own call (height, max_sequence_length, image, ...), as a mapping
            or as keywords.
        batch_size: pictures that are denoised together.
        captions: whether pictures and regions are put into words for the report; the repair needs none.
        each: one picture a prompt, each with its own of as many seeds.

    Returns:
        a Realigned per (prompt, seed), in order, seeds varying fastest. `after` is never worse than `before` by the
        alignment.

    Raises:
        InputError: for a pipeline that cannot be opened or makes videos, a prompt that is empty or too long, or larger
            pictures without a captioner.
    """
    config = config or RealignConfig()
    check_repairable(pipe)
    check_mode(pipe, config.mode)
    own = captioner is None
    judge = as_judge(captioner or load_captioner(device=str(device_of(pipe))))
    names = [prompts] if isinstance(prompts, str) else list(prompts)
    numbers = seeds_of(seeds)
    check_batch_size(batch_size)
    finder: Regions = AttentionRegions() if regions is None else DetectedRegions(regions)
    read_ahead(names)
    parsed = [phrases_of(text) for text in names]
    for prompt in parsed:  # what is made and judged is the plain text
        check_prompt_length(pipe, prompt.text)
        judge.check_length(prompt.text)
        finder.check(prompt)
    jobs = list(
        zip(parsed, numbers, strict=True) if each else ((prompt, seed) for prompt in parsed for seed in numbers)
    )
    arguments = call_arguments(
        pipe,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        call=joined_call(call, more),
    )
    rounds = Rounds(Opened(pipe, **arguments), config, judge, clip, captions, finder)
    if own and jobs:
        side = max(rounds.where([jobs[0][0]]).size) * getattr(pipe, "vae_scale_factor", 8)
        if side > judge.image_size:
            raise InputError(
                f"the embedded captioner knows the lab's small scenes alone, not pictures of {side} pixels; give "
                "captioner=load_judge(ID)"
            )
    results: list[Realigned] = []
    with step_bar(len(jobs), "realign", not progress, passes=1 + config.rounds) as bar:
        for start in range(0, len(jobs), batch_size):
            results += rounds.repair(rounds.generate(jobs[start : start + batch_size]))
            bar.finish(len(results) - start)
    return results


def check_repairable(pipe: Any) -> None:
    """Refuse a pipeline that cannot be opened, or that a modulation does not fit.

    Raises:
        InputError: naming the class or the scheduler.
    """
    check_seams(pipe)
    check_no_context(pipe)
    kind_of(pipe.scheduler)  # one without noise levels (EDM's) has no time that tau could follow


def check_mode(pipe: Any, mode: str) -> None:
    """Refuse to begin part-way from a finished picture where the pipeline begins with a picture of its own."""
    if mode == "renoise" and begins_with_picture(pipe):
        raise InputError(f"{a_kind(pipe)} begins with a picture already; use the `mode` new_seed or same_seed")


@dataclass
class Rounds:
    """`realign` for batches of (prompt, seed): `generate`, then `repair`."""

    opened: Opened
    config: RealignConfig
    captioner: Judge
    clip: ClipScorer | None = None
    captions: bool = True
    regions: Regions = field(default_factory=AttentionRegions)
    _where: dict[tuple[str, ...], AttentionLayout] = field(default_factory=dict, repr=False)

    def where(self, prompts: Sequence[Prompt]) -> AttentionLayout:
        """Where text and image are in the attention of a run with these prompts."""
        texts = tuple(p.text for p in prompts)
        if texts not in self._where:
            while len(self._where) >= REMEMBERED:
                self._where.pop(next(iter(self._where)))
            self._where[texts] = attention_layout(self.opened, texts)
            check_picture(self.opened, self._where[texts])
        return self._where[texts]

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
        return self.judge(jobs, *self.denoise([p for p, _ in jobs], [s for _, s in jobs]))

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
        seeds: Sequence[int],
        segments: Segments | None = None,
        start: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[np.ndarray], int]:
        """Pictures [B,3,H,W] in 0..1, the phrases' attention maps, and the network's evaluations a picture, with or
        without modulation.

        Attention is recorded where it is not modulated; no maps are returned if there was no such step in the middle.

        Args:
            start: a clean state to begin from, noised part-way.
        """
        where = self.where(prompts)
        if where.ragged:
            each = []
            for i, prompt in enumerate(prompts):
                own = None if segments is None else segments.row(i)
                each.append(self.denoise([prompt], seeds[i : i + 1], own, None if start is None else start[i : i + 1]))
            return torch.cat([x for x, _, _ in each]), [m for _, maps, _ in each for m in maps], each[0][2]
        opened = self.opened
        window = _Window(*RECORDED)
        # of U-Nets; a transformer's layers are all of one size
        recorder = AttentionMaps(where.size, smallest=min(8, *where.grid))
        state = None if segments is None else modulation_of(opened, where, segments, self.config)

        def before_step(step: Step) -> None:
            window(step)
            if state is not None:
                state.before_step(step)

        def observer(attention: Attention) -> torch.Tensor | None:
            changed = state(attention) if state is not None and state.active else None
            if changed is None and window.open:
                recorder.see(attention)
            return changed

        with observed(opened, where, observer, lambda: window.open or (state is not None and state.active)):
            images = opened.pictures(
                [p.text for p in prompts],
                generators(seeds),
                before_step=before_step,
                start=start,
                strength=None if start is None else self.config.strength,
            )
        images = torch.as_tensor(images).float()
        check_finite(images)
        recorded = zip(prompts, recorder.mean(), where.spans, strict=True) if recorder.count or segments is None else ()
        maps = [phrase_maps(p, m, spans) for p, m, spans in recorded]
        return images, maps, opened.evaluations // len(prompts)

    # 2. to 5. find, describe, place, redo, keep the better ----------------------------------------------------------
    def redo(self, items: list[Picture], number: int) -> None:
        """Round `number` (from 0) for these pictures: each keeps what comes of it if its alignment rises."""
        mode, seeds = self.config.mode, [(i.seed + (number + 1) * NEW_SEED) % 2**63 for i in items]
        # from the same noise the same layout would give the same picture again: another place, and more weight
        tried = [[] if mode == "new_seed" else i.tried for i in items]
        layouts = []
        for item, vain in zip(items, tried, strict=True):
            places = self.regions.find(item.image, item.prompt, item.maps)
            found = describe(item.image, item.prompt, places, self.captioner, self.captions)
            layouts.append(plan(item.prompt, slots(item.prompt), found, item.maps, tried=vain))
        prompts = [i.prompt for i in items]
        registers = registers_of(getattr(self.opened.pipe, "text_encoder", None))
        segments = build_segments(self.where(prompts), prompts, layouts, self.config, registers)
        segments.omega *= 1 + self.config.escalation * torch.tensor([[float(len(v))] for v in tried])
        start = None
        if mode == "renoise":
            start = self.opened.encode([p.text for p in prompts], torch.stack([i.image for i in items]))
        own = seeds if mode == "new_seed" else [i.seed for i in items]
        images, maps, calls = self.denoise(prompts, own, segments, start)
        maps = maps or [i.maps for i in items]  # all of it was modulated
        alignments = align(images, prompts, self.captioner, self.clip, self.captions)
        for k, (item, layout) in enumerate(zip(items, layouts, strict=True)):
            item.rounds += 1
            item.calls += calls
            if alignments[k].better_than(item.alignment):
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


def build_segments(
    where: AttentionLayout,
    prompts: list[Prompt],
    layouts: list[list[Region]],
    config: RealignConfig,
    registers: Sequence[Sequence[int]] = (),
) -> Segments:
    """Masks, tokens and weights of a batch of layouts, padded to the most regions; the background comes last.

    Args:
        registers: tokens that tell of each thing of a prompt, as `diffusion.registers` has them; they go with its
            phrase where the text has left them free.
    """
    n = max(1, max(len(x) for x in layouts)) + (config.background > 0)
    h, w = where.size
    spans_of = where.spans
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
            thing = prompt.things.index(region.phrase) if region.phrase in prompt.things else len(registers)
            free = [p for row in registers[thing : thing + 1] for p in row if spans[p] is None]
            tokens[b, k, free] = 1.0
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
