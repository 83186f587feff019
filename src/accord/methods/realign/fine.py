"""RealignDiff, fine stage: local dense captions, then re-weighted attention modulation. Read top to bottom.

1. generate; 2. find each thing and describe it; 3. deficits; 4. a place for what is missing, and once more with the
attention modulated; 5. keep the better picture; repeat up to K rounds.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DiffusionPipeline

from accord.data.images import fit, to_pil
from accord.diffusion.attention import AttentionMaps
from accord.diffusion.blending import Blend, grid_from, latents_of, packed, state_mask
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
from accord.judges.strict import ByScore, Selector, check_selects, selector_named
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.layout import Place, arrange, check_place, phrase_named, placed, plan
from accord.methods.realign.modulation import Segments, check_picture, modulation_of
from accord.methods.realign.regions import (
    AttentionRegions,
    DetectedRegions,
    Regions,
    describe,
    find_regions,
    phrase_maps,
    slots,
)
from accord.methods.realign.routing import (
    Budget,
    Failure,
    Routing,
    as_seen,
    diagnose,
    edit_mask,
    good_instance,
    surplus_of,
)
from accord.prompts.phrases import phrases_of, read_ahead
from accord.reports.results import Realigned, Try
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
    state: torch.Tensor | None = None  # clean, of the best picture; kept where it may be edited
    first_calls: int = 0  # what the first try took
    first_seconds: float = 0.0
    seconds: float = 0.0  # its share of what its batches took, the judge included
    judge_seconds: float = 0.0
    tries: list[Try] = field(default_factory=list)


class Made(NamedTuple):
    """What a run gives for B prompts: pictures [B,3,H,W] in 0..1, attention of their phrases, the network's evaluations
    a picture, and the clean states, where they are kept.
    """

    images: torch.Tensor
    maps: list[np.ndarray]
    calls: int
    states: torch.Tensor | None = None


@dataclass(frozen=True)
class PartWay:
    """Where a run begins that does not begin from noise: a clean state [B,...], noised to a share of the steps; with
    masks [B,h,w] in 0..1 only what lies under them changes.
    """

    state: torch.Tensor
    strength: float
    masks: torch.Tensor | None = None

    def row(self, index: int) -> PartWay:
        masks = None if self.masks is None else self.masks[index : index + 1]
        return PartWay(self.state[index : index + 1], self.strength, masks)


@dataclass(frozen=True)
class Turn:
    """What a round is to do to a picture.

    Attributes:
        operator: a `mode` of the config, or "edit".
        layout: a place for each thing.
        tried: layouts of the same noise that did not help.
        mask: where an edit acts, [h,w].
        failure: what it is about, where there is a routing.
    """

    item: Picture
    operator: str
    layout: list[Region]
    tried: list[list[Region]]
    mask: np.ndarray | None = None
    failure: Failure | None = None


def realign(
    pipe: DiffusionPipeline,
    prompts: str | Sequence[str],
    seeds: int | Sequence[int] = 0,
    *,
    config: RealignConfig | None = None,
    routing: Routing | None = None,
    budget: Budget | str | None = None,
    captioner: Judge | Answers | None = None,
    clip: ClipScorer | None = None,
    regions: PhraseDetector | None = None,
    places: Sequence[Place] = (),
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str = "",
    call: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    captions: bool = True,
    each: bool = False,
    select: str | Selector = "score",
    progress: bool = False,
    **more: Any,
) -> list[Realigned]:
    """Generate, find out what is missing and where, and repair it.

    Args:
        pipe: a text-to-image pipeline of diffusers; afterwards it is bit for bit what it was.
        prompts: one prompt or several.
        seeds: one seed or several; every prompt is made with every seed.
        routing: which failures are edited in their place and which drawn anew, as `config.mode` says; all drawn anew if
            None.
        budget: what a picture may cost with all its rounds, "30s" or "200calls", in place of `config.rounds`. The first
            try is always made; a round begins if it is expected to fit.
        captioner: judge of words and regions, as `accord.load_judge` gives; the embedded captioner, for the lab's
            pipeline alone, if None.
        clip: if given, CLIP similarity and caption reward are in the alignments too.
        regions: a detector (`load_detector`) that finds where each phrase is; the pipeline's own attention if None.
        places: where things are to be put, ("the moon", (x0, y0, x1, y1)) as shares of width and height. Every picture
            is redone then, and the first one is no candidate for `after`.
        num_inference_steps: those of the pipeline's own call if None.
        guidance_scale: of classifier-free guidance, at which 1 is unguided; what the pipeline's own call has if None.
        call, more: further arguments of the pipeline's own call (height, max_sequence_length, image, ...), as a mapping
            or as keywords.
        batch_size: pictures that are denoised together.
        captions: whether pictures and regions are put into words for the report; the repair needs none.
        each: one picture a prompt, each with its own of as many seeds.
        select: which of two pictures is kept, and which is good enough: "score", by the words' verdicts alone; "pass",
            first by whether the judge's caption says what the prompt asks for, nothing more and nothing less
            (`ByPass`); or a `Selector`.

    Returns:
        a Realigned per (prompt, seed), in order, seeds varying fastest. Without `places`, `after` is never worse than
        `before` by what `select` goes by.

    Raises:
        InputError: for a pipeline that cannot be opened or makes videos, a prompt that is empty or too long, larger
            pictures without a captioner, a place of what a prompt does not ask for, or a selection by captions that
            the judge does not write.
    """
    names = [prompts] if isinstance(prompts, str) else list(prompts)
    numbers = seeds_of(seeds)
    check_batch_size(batch_size)
    rounds, parsed = rounds_of(
        pipe,
        names,
        config=config,
        routing=routing,
        budget=budget,
        captioner=captioner,
        clip=clip,
        regions=regions,
        places=places,
        captions=captions,
        select=select,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        call=joined_call(call, more),
    )
    jobs = list(
        zip(parsed, numbers, strict=True) if each else ((prompt, seed) for prompt in parsed for seed in numbers)
    )
    results: list[Realigned] = []
    with step_bar(len(jobs), "realign", not progress, passes=1 + rounds.config.rounds) as bar:
        for start in range(0, len(jobs), batch_size):
            results += rounds.repair(rounds.generate(jobs[start : start + batch_size]))
            bar.finish(len(results) - start)
    return results


def rounds_of(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    *,
    config: RealignConfig | None = None,
    routing: Routing | None = None,
    budget: Budget | str | None = None,
    captioner: Judge | Answers | None = None,
    clip: ClipScorer | None = None,
    regions: PhraseDetector | None = None,
    places: Sequence[Place] = (),
    captions: bool = True,
    select: str | Selector = "score",
    **told: Any,
) -> tuple[Rounds, list[Prompt]]:
    """What repairs pictures of these prompts, and the prompts taken apart; for who wants to see each round.

    Args:
        told: as `call_arguments` takes it. All others as `realign` takes them, which also says what is refused.
    """
    config = config or RealignConfig()
    selector = selector_named(select, config.good_enough) if isinstance(select, str) else select
    check_repairable(pipe)
    check_mode(pipe, config.mode if routing is None else "renoise")
    judge = as_judge(captioner or load_captioner(device=str(device_of(pipe))))
    check_selects(judge, selector)
    finder: Regions = AttentionRegions() if regions is None else DetectedRegions(regions)
    read_ahead(list(prompts))
    parsed = [phrases_of(text) for text in prompts]
    for prompt in parsed:  # what is made and judged is the plain text
        check_prompt_length(pipe, prompt.text)
        judge.check_length(prompt.text)
        finder.check(prompt)
        check_places(prompt, places)
    arguments = call_arguments(pipe, **told)
    limit = None if budget is None else Budget.of(budget)
    rounds = Rounds(
        Opened(pipe, **arguments), config, judge, clip, captions, finder, routing, limit, tuple(places), selector
    )
    if captioner is None and parsed:
        side = max(rounds.where(parsed[:1]).size) * getattr(pipe, "vae_scale_factor", 8)
        if side > judge.image_size:
            raise InputError(
                f"the embedded captioner knows the lab's small scenes alone, not pictures of {side} pixels; give "
                "captioner=load_judge(ID)"
            )
    return rounds, parsed


def locate(rounds: Rounds, image: torch.Tensor, prompt: Prompt, seed: int = 0) -> tuple[np.ndarray, list[Region]]:
    """Where the phrases of a prompt are in a picture, whoever made it: by the attention of the pipeline that denoises
    it with this prompt, from part-way on (`RealignConfig.strength`).

    Args:
        rounds: of a pipeline that begins with noise.
        image: [3,H,W] in 0..1; scaled to what the pipeline makes.

    Returns:
        attention of each phrase [P,h,w] in 0..1, and the regions in the order of `slots`.
    """
    opened, text = rounds.opened, [prompt.text]
    like = opened.decode(text, opened.noise(text, generators([seed])))
    height, width = like.shape[-2:]
    start = opened.encode(text, fit(image[None], (height, width)))
    maps = rounds.denoise([prompt], [seed], start=PartWay(start, rounds.config.strength)).maps
    return maps[0], find_regions(prompt, maps[0])


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


def check_places(prompt: Prompt, places: Sequence[Place]) -> None:
    """Refuse places that are no boxes, or of what a prompt does not ask for. Raises InputError."""
    wanted = slots(prompt)
    for place in places:
        check_place(place)
        wanted_phrase = phrase_named(prompt, place[0])
        if wanted_phrase not in wanted:
            raise InputError(f"there are more places for {place[0]!r} than the prompt asks for; leave one out")
        wanted.remove(wanted_phrase)


@dataclass
class Rounds:
    """`realign` for batches of (prompt, seed): `generate`, then `repair`."""

    opened: Opened
    config: RealignConfig
    captioner: Judge
    clip: ClipScorer | None = None
    captions: bool = True
    regions: Regions = field(default_factory=AttentionRegions)
    routing: Routing | None = None
    budget: Budget | None = None
    places: Sequence[Place] = ()
    selector: Selector | None = None  # by the score if None
    _where: dict[tuple[str, ...], AttentionLayout] = field(default_factory=dict, repr=False)
    _order: tuple[torch.Tensor, torch.Size] | None = field(default=None, repr=False)  # of a state among its latents

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
        """Up to K rounds, or what the budget allows, on pictures of `generate`, which stay as they are."""
        rounds = list(self.each_round(first))
        return self.results(first, rounds[-1][0] if rounds else first)

    def each_round(self, first: list[Picture]) -> Iterator[tuple[list[Picture], list[Picture]]]:
        """The best so far after each round, and what the round made of those that it redid; both as in `first`."""
        items = [replace(i, tried=[], tries=[]) for i in first]
        for number in range(self.config.rounds) if self.budget is None else itertools.count():
            todo = [i for i in items if self.wanted(i, number) and self.affords(i)]
            if not todo:
                return
            made = self.redo(todo, number)
            yield items, made

    def wanted(self, item: Picture, number: int) -> bool:
        """Whether a picture is to be redone: one that is not good enough, or none yet with things at chosen places."""
        return not self.selects.good(item.alignment) or (bool(self.places) and not number)

    def results(self, first: list[Picture], items: list[Picture]) -> list[Realigned]:
        """Pictures of `generate` and the best that came of them, put together."""
        told = self.routing is not None or self.budget is not None
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
                tries=tuple(a.tries) if told else None,
                seconds=a.seconds,
                judge_seconds=a.judge_seconds,
            )
            for a, b in zip(items, first, strict=True)
        ]

    @property
    def selects(self) -> Selector:
        return self.selector or ByScore(self.config.good_enough)

    def align(self, images: torch.Tensor, prompts: Sequence[Prompt]) -> list[Alignment]:
        """What the judge says of pictures, with captions where they are wanted or selected by."""
        return align(images, prompts, self.captioner, self.clip, self.captions or self.selects.captions)

    def affords(self, item: Picture) -> bool:
        """Whether one more round is expected to fit into the budget, by what the rounds before have taken."""
        if self.budget is None:
            return True
        failure = diagnose(item.alignment)
        operator, shares = self.operator(item, failure), {"renoise": self.config.strength}
        if self.routing is not None and item.prompt.things and failure.kind != "surplus":
            shares["edit"] = self.routing.strength  # else there may be no place for it, and all is drawn anew
        alike = [t for t in item.tries if t.operator == operator]
        if self.budget.unit == "calls":
            expected = max((t.calls for t in alike), default=math.floor(item.first_calls * shares.get(operator, 1.0)))
            return item.calls + expected <= self.budget.most
        return item.seconds + max((t.seconds for t in alike), default=item.first_seconds) <= self.budget.most

    def operator(self, item: Picture, failure: Failure) -> str:
        """ "edit", or the config's mode, by the kind of the failure and the vain edits of this picture."""
        if self.routing is None or getattr(self.routing, failure.kind) != "edit":
            return self.config.mode
        vain = itertools.takewhile(lambda t: not t.kept, reversed(item.tries))
        return "edit" if sum(t.operator == "edit" for t in vain) < self.routing.edits else self.config.mode

    # 1. generate ---------------------------------------------------------------------------------------------------
    def generate(self, jobs: list[tuple[Prompt, int]]) -> list[Picture]:
        began = time.perf_counter()
        pictures = self.judge(jobs, *self.denoise([p for p, _ in jobs], [s for _, s in jobs]))
        each = (time.perf_counter() - began) / max(1, len(jobs))
        return [replace(p, seconds=each, first_seconds=each) for p in pictures]

    def judge(
        self,
        jobs: list[tuple[Prompt, int]],
        images: torch.Tensor,
        maps: list[np.ndarray],
        calls: int,
        states: torch.Tensor | None = None,
    ) -> list[Picture]:
        began = time.perf_counter()
        alignments = self.align(images, [p for p, _ in jobs])
        each = (time.perf_counter() - began) / max(1, len(jobs))
        out = [
            Picture(p, s, x, a, m, calls=calls, first_calls=calls, judge_seconds=each)
            for (p, s), x, a, m in zip(jobs, images, alignments, maps, strict=True)
        ]
        for k, picture in enumerate(out):
            picture.state = None if states is None else states[k]
        return out

    def denoise(
        self,
        prompts: list[Prompt],
        seeds: Sequence[int],
        segments: Segments | None = None,
        start: PartWay | None = None,
        noise: torch.Tensor | None = None,
    ) -> Made:
        """Pictures [B,3,H,W] in 0..1, the phrases' attention maps, and the network's evaluations a picture, with or
        without modulation.

        Attention is recorded where it is not modulated; no maps are returned if there was no such step in the middle.

        Args:
            start: where to begin, if not from noise.
            noise: the state to begin with, in place of the seeds' own.
        """
        where = self.where(prompts)
        if where.ragged:
            each = []
            for i, prompt in enumerate(prompts):
                own = None if segments is None else segments.row(i)
                begun = None if start is None else start.row(i)
                each.append(
                    self.denoise([prompt], seeds[i : i + 1], own, begun, None if noise is None else noise[i : i + 1])
                )
            states = None if each[0].states is None else torch.cat([m.states for m in each if m.states is not None])
            return Made(torch.cat([m.images for m in each]), [x for m in each for x in m.maps], each[0].calls, states)
        opened = self.opened
        window = _Window(*RECORDED)
        # of U-Nets; a transformer's layers are all of one size
        recorder = AttentionMaps(where.size, smallest=min(8, *where.grid))
        # one from part-way is modulated as strongly where it begins, whatever the config's mode is
        config = self.config if start is None else replace(self.config, mode="renoise")
        state = None if segments is None else modulation_of(opened, where, segments, config)
        texts, blend, last = [p.text for p in prompts], self._blend(prompts, start), []

        def before_step(step: Step) -> None:
            window(step)
            if state is not None:
                state.before_step(step)

        def on_step(step: Step) -> torch.Tensor | None:
            new = None if blend is None else blend(step)
            if self.routing is not None and step.index + 1 == step.count:
                last.append(step.next() if new is None else new)
            return new

        def observer(attention: Attention) -> torch.Tensor | None:
            changed = state(attention) if state is not None and state.active else None
            if changed is None and window.open:
                recorder.see(attention)
            return changed

        with observed(opened, where, observer, lambda: window.open or (state is not None and state.active)):
            images = opened.pictures(
                texts,
                generators(seeds),
                before_step=before_step,
                on_step=None if self.routing is None else on_step,
                noise=noise,
                start=None if start is None else start.state,
                strength=None if start is None else start.strength,
            )
        images = torch.as_tensor(images).float()
        check_finite(images)
        recorded = zip(prompts, recorder.mean(), where.spans, strict=True) if recorder.count or segments is None else ()
        maps = [phrase_maps(p, m, spans) for p, m, spans in recorded]
        return Made(images, maps, opened.evaluations // len(prompts), last[0] if last else None)

    def _blend(self, prompts: list[Prompt], start: PartWay | None) -> Blend | None:
        """What keeps the source outside the masks of a run, if it has masks."""
        if start is None or start.masks is None:
            return None
        texts = [p.text for p in prompts]
        grid = grid_from(self.opened, texts, start.state, start.strength)
        return Blend(start.state, state_mask(start.masks, *self.order(texts, start.state)), grid)

    # 2. to 5. find, describe, place, redo, keep the better ----------------------------------------------------------
    def redo(self, items: list[Picture], number: int) -> list[Picture]:
        """Round `number` (from 0) for these pictures: each keeps what comes of it if that is the better picture, or if
        it is the first with things at chosen places. Returns what came of each.
        """
        began = time.perf_counter()
        turns = [self.turn(item) for item in items]
        looked = (time.perf_counter() - began) / len(items)
        made: dict[int, Picture] = {}
        for operator in dict.fromkeys(t.operator for t in turns):
            own = [k for k, t in enumerate(turns) if t.operator == operator]
            made |= dict(zip(own, self.take([turns[k] for k in own], number, looked), strict=True))
        return [made[k] for k in range(len(turns))]

    def turn(self, item: Picture) -> Turn:
        """What the next round is to do to a picture: what is there, where things are to be, and by which operator."""
        failure = None if self.routing is None else diagnose(item.alignment)
        seen = item.prompt if failure is None else as_seen(item.prompt, failure)
        places = self.regions.find(item.image, seen, item.maps)
        found = describe(item.image, item.prompt, places, self.captioner, self.captions)
        operator = self.config.mode if failure is None else self.operator(item, failure)
        # from the same noise the same layout would give the same picture again: another place, and more weight
        tried = [] if operator in ("new_seed", "edit") else item.tried
        layout = plan(item.prompt, slots(item.prompt), found, item.maps, tried=tried)
        if self.places:
            layout = placed(item.prompt, layout, self.places)
        mask = None
        if operator == "edit" and failure is not None and self.routing is not None:
            surplus = surplus_of(failure, item.prompt, found)
            mask = edit_mask(failure, item.prompt, layout, surplus, self.routing, item.maps.shape[1:])
        if operator == "edit" and mask is None:  # what is to go was not found
            operator, tried = self.config.mode, [] if self.config.mode == "new_seed" else item.tried
        return Turn(item, operator, layout, tried, mask, failure)

    def take(self, turns: list[Turn], number: int, looked: float = 0.0) -> list[Picture]:
        """Take these turns, all of one operator, in one batch. Returns what came of each.

        Args:
            looked: seconds a picture that finding and describing took.
        """
        began, operator, items = time.perf_counter(), turns[0].operator, [t.item for t in turns]
        fresh = operator in ("new_seed", "edit")
        seeds = [(i.seed + (number + 1) * NEW_SEED) % 2**63 if fresh else i.seed for i in items]
        prompts = [i.prompt for i in items]
        registers = registers_of(getattr(self.opened.pipe, "text_encoder", None))
        layouts = [t.layout for t in turns]
        segments = build_segments(self.where(prompts), prompts, layouts, self.config, registers)
        segments.omega *= 1 + self.config.escalation * torch.tensor([[float(len(t.tried))] for t in turns])
        noise = self.arranged(turns, seeds) if operator == "new_seed" else None
        images, maps, calls, states = self.denoise(prompts, seeds, segments, self.start(turns), noise)
        maps = maps or [i.maps for i in items]  # all of it was modulated
        drawn = time.perf_counter()
        alignments = self.align(images, prompts)
        judged = (time.perf_counter() - drawn) / len(items) + looked
        seconds = (time.perf_counter() - began) / len(items) + looked
        made: list[Picture] = []
        for k, (item, turn) in enumerate(zip(items, turns, strict=True)):
            item.rounds, item.calls = item.rounds + 1, item.calls + calls
            item.seconds, item.judge_seconds = item.seconds + seconds, item.judge_seconds + judged
            made.append(replace(item, image=images[k], alignment=alignments[k], maps=maps[k], regions=turn.layout))
            kept = self.selects.better(alignments[k], item.alignment) or (bool(self.places) and not number)
            item.tries.append(_told(turn, seeds[k], calls, seconds, judged, alignments[k], kept))
            if kept:
                item.image, item.alignment, item.maps, item.regions = images[k], alignments[k], maps[k], turn.layout
                item.state = None if states is None else states[k]
                item.tried = []
                item.seed_after = seeds[k] if operator == "new_seed" else item.seed_after if fresh else None
            else:
                item.tried.append(turn.layout)
                item.regions = item.regions or turn.layout
        return made

    def arranged(self, turns: list[Turn], seeds: Sequence[int]) -> torch.Tensor | None:
        """The noise of a run in which what is there too seldom has one place an instance; None if there is no such
        picture among them.
        """
        goods = [None if t.failure is None else good_instance(t.failure, t.layout) for t in turns]
        if self.routing is None or not self.routing.arranged or not any(goods):
            return None
        texts, before = [t.item.prompt.text for t in turns], [t.item.seed_after or t.item.seed for t in turns]
        noise, source = (self.opened.noise(texts, generators(s)) for s in (seeds, before))
        places, shape = self.order(texts, noise)
        new, old = (latents_of(x, places, shape) for x in (noise, source))
        for k, (turn, good) in enumerate(zip(turns, goods, strict=True)):
            if good is not None and good.found is not None:
                boxes = [r.box for r in turn.layout if r.phrase == good.phrase]
                new[k] = arrange(new[k], old[k], good.found, boxes)
        return packed(new, places)

    def order(self, texts: Sequence[str], state: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
        """Where each element of a state is among the latents; see `Opened.order`."""
        if self._order is None or self._order[0].shape != state.shape[1:]:
            self._order = self.opened.order(texts, state)
        return self._order

    def start(self, turns: list[Turn]) -> PartWay | None:
        """Where a run of these turns begins; None for noise."""
        operator, items = turns[0].operator, [t.item for t in turns]
        if operator not in ("renoise", "edit"):
            return None
        if operator == "renoise" or self.routing is None:
            state = self.opened.encode([i.prompt.text for i in items], torch.stack([i.image for i in items]))
            return PartWay(state, self.config.strength)
        kept = [i.state for i in items if i.state is not None]  # with a routing every run keeps its states
        masks = torch.stack([torch.from_numpy(t.mask) for t in turns if t.mask is not None])
        return PartWay(torch.stack(kept), self.routing.strength, masks)


def _told(turn: Turn, seed: int, calls: int, seconds: float, judged: float, alignment: Alignment, kept: bool) -> Try:
    """A round for the report."""
    failure = turn.failure
    return Try(
        turn.operator,
        "" if failure is None else failure.kind,
        () if failure is None else failure.words,
        seed,
        calls,
        seconds,
        judged,
        alignment.overall,
        kept,
    )


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
