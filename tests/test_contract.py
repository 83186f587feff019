"""What Accord needs of a pipeline, asked of all families by the same lines: which seam moved, if one does.

Nothing here names a family. Each function that `promise` marks is one question. `docs/models.md` is written from the
answers, by `make models`, and afterwards every answer must be the one that stands there: a question that is refused
(by an `InputError`, with its sentence) is a "no" of the page, a wrong answer fails, always.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from PIL import Image
from zoo import CALL, ZOO, fresh, shared

from accord.data.images import fit
from accord.diffusion.adapters import put_on
from accord.diffusion.families import family_of
from accord.diffusion.lora import add_lora, save_lora
from accord.diffusion.opened import Left, Opened, Step, networks_of
from accord.diffusion.process import levels, transition
from accord.diffusion.spans import read_texts
from accord.diffusion.tap import Attention, AttentionLayout, attention_layout, grid_of, observed
from accord.diffusion.tower import features
from accord.judges.captioners import Captioner, load_captioner
from accord.judges.clip import ClipScorer, load_clip
from accord.judges.diagnosis import align
from accord.methods.edit.editing import flow_edit, injected, invert, sample_from
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.equations import modulation_strength
from accord.methods.realign.modulation import Modulation, Segments, modulation_of
from accord.rewards.video import text_alignment
from accord.types import InputError

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
WRITE = os.environ.get("ACCORD_MODELS") == "write"
STEPS = 3
PROMPTS = ("a red star and a blue key", "two green moon")  # of unequal length
OTHERS = ("a blue moon and a red star", "two red key")  # as many tokens, other words


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1 + i) for i in range(len(PROMPTS))]


def own_call(pipe: Any, name: str) -> torch.Tensor:
    """What a user gets of the pipeline without Accord: pictures [B,3,H,W] or videos [B,F,3,H,W]."""
    made = pipe(prompt=list(PROMPTS), num_inference_steps=STEPS, generator=generators(), output_type="pt", **CALL[name])
    return torch.as_tensor(made.images if hasattr(made, "images") else made.frames)


@dataclass
class Case:
    """One family, with a run of it.

    Attributes:
        pipe: shared; its weights stay as they are.
        own: what its own call made, before anything else ran.
        steps: of the run.
        final: the state after the last.
    """

    name: str
    pipe: Any
    opened: Opened
    own: torch.Tensor
    final: torch.Tensor
    steps: list[Step] = field(default_factory=list)

    @functools.cached_property
    def layout(self) -> AttentionLayout:
        return attention_layout(self.opened, PROMPTS)

    @functools.cached_property
    def adapted(self) -> tuple[Opened, list[torch.nn.Parameter]]:
        """A copy with a LoRA of random weights on all its networks."""
        pipe = fresh(self.name)
        add_lora(pipe, rank=2)
        weights = [w for network in networks_of(pipe) for w in network.parameters() if w.requires_grad]
        generator = torch.Generator().manual_seed(0)
        for weight in weights:  # half of a new one is zeros
            weight.data.normal_(std=0.1, generator=generator)
        return Opened(pipe, STEPS, **CALL[self.name]), weights


@functools.cache
def case_of(name: str) -> Case:
    pipe = shared(name)
    own, opened = own_call(pipe, name), Opened(pipe, STEPS, **CALL[name])
    steps: list[Step] = []
    final = opened.rollout(PROMPTS, generators(), on_step=steps.append)
    return Case(name, pipe, opened, own, final, steps)


def off_by(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, relative to the size of the second."""
    assert one.shape == other.shape, (one.shape, other.shape)
    return float((one - other).abs().max() / other.abs().max())


# the questions ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Promise:
    column: str  # of the page
    ask: Callable[[Case], None]
    slow: bool = False  # asked by `make test-slow` alone; other tests ask some families

    @property
    def says(self) -> str:
        return " ".join((inspect.getdoc(self.ask) or "").split())


PROMISES: dict[str, Promise] = {}


def promise(column: str, slow: bool = False) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Makes a question of a function, whose docstring is the promise in the words of the page."""

    def put(ask: Callable[[Case], None]) -> Callable[[Case], None]:
        PROMISES[ask.__name__] = Promise(column, ask, slow)
        return ask

    return put


@promise("generate")
def same_as_its_own_call(case: Case) -> None:
    """What is made step by step is bit for bit what the pipeline's own call makes."""
    assert len(case.steps) == STEPS
    assert torch.equal(case.opened.decode(PROMPTS, case.final), case.own)
    assert torch.equal(torch.as_tensor(case.opened.pictures(PROMPTS, generators())), case.own)


@promise("generate")
def alone_as_in_a_batch(case: Case) -> None:
    """A picture does not depend on the others of its batch, whose prompts are longer or shorter."""
    for i, prompt in enumerate(PROMPTS):
        alone = case.opened.rollout([prompt], generators()[i : i + 1])
        assert off_by(alone, case.final[i : i + 1]) < 1e-5


@promise("generate")
def left_as_it_was(case: Case) -> None:
    """The pipeline, its scheduler and its networks are left as they were."""
    pipe = case.pipe
    before, hooks = dict(vars(pipe)), hooks_of(pipe)
    said = {name: repr(value) for name, value in vars(pipe.scheduler).items()}
    case.opened.output(PROMPTS, case.final, step=0)
    with pytest.raises(ZeroDivisionError):  # nor after an error
        case.opened.rollout(PROMPTS, generators(), on_step=lambda step: 1 // 0)
    assert vars(pipe).keys() == before.keys() and all(vars(pipe)[name] is value for name, value in before.items())
    assert {name: repr(value) for name, value in vars(pipe.scheduler).items()} == said
    assert hooks_of(pipe) == hooks
    assert torch.equal(own_call(pipe, case.name), case.own)


def hooks_of(pipe: Any) -> list[tuple[int, int, bool]]:
    """Of each module: its hooks, and whether its forward is its own. transformers leaves some of its own."""
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    modules = [module for part in parts for module in part.modules()]
    return [(len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m)) for m in modules]


@promise("score")
def judged(case: Case) -> None:
    """Its pictures, or the frames of its videos, are judged by word or by text."""
    assert case.own.isfinite().all() and case.own.min() >= 0 and case.own.max() <= 1
    if case.own.dim() == 4:
        captioner = judges()[0]
        pictures = fit(case.own, captioner.image_size)
        assert all(0 < found.overall < 1 for found in align(pictures, PROMPTS, captioner, captions=False))
        return
    for video, prompt in zip(case.own, PROMPTS, strict=True):
        frames = [Image.fromarray((f.permute(1, 2, 0) * 255).round().byte().numpy()) for f in video]
        assert -1 <= text_alignment(frames, prompt, judges()[1]) <= 1


@functools.cache
def judges() -> tuple[Captioner, ClipScorer]:
    return load_captioner(), load_clip()


@promise("repair")
def words_found(case: Case) -> None:
    """Each word of a prompt is found among the tokens that the network is told, in a batch as alone."""
    texts = read_texts(case.opened, PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        spans = [s for s in texts.spans[texts.longest][i] if s is not None]
        letters = {k for k, letter in enumerate(prompt) if letter != " "}
        assert letters <= {k for low, high in spans for k in range(low, high)}
        alone = read_texts(case.opened, [prompt])
        assert [s for s in alone.spans[texts.longest][0] if s is not None] == spans
    assert len(set(texts.rows)) == len(PROMPTS)


def batches(case: Case) -> Iterator[tuple[list[int], AttentionLayout]]:
    """All prompts at once, or one at a time where image tokens are elsewhere in each row."""
    if case.layout.ragged:
        yield from (([i], attention_layout(case.opened, [prompt])) for i, prompt in enumerate(PROMPTS))
    else:
        yield list(range(len(PROMPTS))), case.layout


@promise("repair")
def attention_seen(case: Case) -> None:
    """Attention between image and text is seen, and seeing it changes nothing, bit for bit."""
    for rows, layout in batches(case):
        kinds: list[str] = []
        prompts, each = [PROMPTS[i] for i in rows], [generators()[i] for i in rows]
        plain = case.final if len(rows) == len(PROMPTS) else case.opened.rollout(prompts, each)
        each = [generators()[i] for i in rows]
        with observed(case.opened, layout, lambda seen, kinds=kinds: kinds.append(seen.kind)):
            again = case.opened.rollout(prompts, each)
        assert torch.equal(again, plain)
        assert "cross" in kinds or "joint" in kinds


@promise("repair")
def image_and_text_told_apart(case: Case) -> None:
    """The image's keys are those that change with the noise, a word's those that change with the word."""
    for rows, layout in batches(case):
        prompts, others = ([texts[i] for i in rows] for texts in (PROMPTS, OTHERS))
        first = first_keys(case.opened, layout, prompts, seed=0)
        noise = first_keys(case.opened, layout, prompts, seed=5)
        text = first_keys(case.opened, layout, others, seed=0)
        with_noise, with_text = changed(first.key, noise.key), changed(first.key, text.key)
        if first.kind == "cross":
            assert not with_noise.any() and changed(first.query, noise.query).all()
        else:
            assert with_noise[:, first.image].all()
            assert with_noise.sum() == with_noise[:, first.image].numel()
            with_text = with_text[:, first.text]
        for spans, differs, pair in zip(layout.spans, with_text, zip(prompts, others, strict=True), strict=True):
            from_here = next(i for i, (one, other) in enumerate(zip(*pair, strict=False)) if one != other)
            words = [i for i, span in enumerate(spans) if span is not None and span[0] >= from_here]
            assert words and differs[words].all()


def first_keys(opened: Opened, layout: AttentionLayout, prompts: Sequence[str], seed: int) -> Attention:
    """The first attention of a run in which the image sees the text, of the prompts' rows."""

    def leave(seen: Attention) -> None:
        if seen.kind != "self":
            raise Left(seen)

    each = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
    with observed(opened, layout, leave):
        return opened.rollout(prompts, each)


def changed(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Which keys [B,heads,S,d] of the two differ, [B,S]."""
    return (one - other).abs().amax((1, 3)) > 1e-6


@promise("repair")
def attention_replaced(case: Case) -> None:
    """An answer in the place of attention is what the network goes on with."""
    for rows, layout in batches(case):
        prompts = [PROMPTS[i] for i in rows]
        plain, nothing = (one_step(case.opened, layout, prompts, f) for f in (Attention.plain, zeros))
        without = one_step(case.opened, layout, prompts, lambda seen: None)
        assert off_by(plain, without) < 1e-5
        assert not torch.equal(nothing, without)


def zeros(seen: Attention) -> torch.Tensor:
    return torch.zeros_like(seen.query)


def one_step(opened: Opened, layout: AttentionLayout, prompts: Sequence[str], observer: Any) -> torch.Tensor:
    """The output at the first step under an observer."""

    def leave(step: Step) -> None:
        raise Left(step.output)

    each = [torch.Generator().manual_seed(1 + i) for i in range(len(prompts))]
    with observed(opened, layout, observer):
        return opened.rollout(prompts, each, on_step=leave)


@promise("repair")
def modulation_as_dense(case: Case) -> None:
    """Attention modulated by the fast form is what equation (1) makes of every logit."""
    config = RealignConfig(modulated_share=1.0, time_power=0.0, cross_weight=0.6, self_weight=0.4, log_omega=False)
    for rows, layout in batches(case):
        state = modulation_of(case.opened, layout, halves(layout), config)
        state.tau = 1.0
        kinds: set[str] = set()

        def compare(seen: Attention, state: Modulation = state, kinds: set[str] = kinds) -> None:
            kinds.add(seen.kind)
            assert off_by(state(seen), dense(seen, state)) < 1e-4

        one_step(case.opened, layout, [PROMPTS[i] for i in rows], compare)
        assert kinds & {"cross", "joint"}


def halves(layout: AttentionLayout) -> Segments:
    """The words of the first half of a prompt on the left of the picture, the others on the right."""
    height, width = layout.size
    masks = torch.zeros(len(layout.spans), 2, height, width)
    masks[:, 0, :, : width // 2] = 1
    masks[:, 1, :, width // 2 :] = 1
    tokens = torch.zeros(len(layout.spans), 2, len(layout.spans[0]))
    for row, spans in enumerate(layout.spans):
        words = [i for i, span in enumerate(spans) if span is not None]
        middle = max(1, len(words) // 2)
        tokens[row, 0, words[:middle]] = 1
        tokens[row, 1, words[middle:]] = 1
    return Segments(masks, tokens, torch.tensor([[1.0, 0.7]]).expand(len(layout.spans), 2))


def dense(seen: Attention, state: Modulation) -> torch.Tensor:
    """What `Modulation` answers, by every logit: (1) in the text's keys and the image's keys, then one softmax."""
    segments, config, joint = state.segments, state.config, seen.kind == "joint"
    image = seen.image if joint else slice(0, seen.query.shape[2])
    pixels = segments.at(grid_of(image.stop - image.start, state.size))
    tokens = segments.tokens.transpose(1, 2)
    logits = (seen.query @ seen.key.transpose(-1, -2)) * (seen.scale or seen.query.shape[-1] ** -0.5)
    added = torch.zeros_like(logits)  # after the modulation
    if seen.mask is not None:
        shown = seen.mask.dtype == torch.bool
        added = added.masked_fill(~seen.mask, -torch.inf) if shown else added + seen.mask
    hidden = added < -1000
    parts = {"cross": [slice(0, seen.key.shape[2])], "self": [image], "joint": [seen.text, seen.image]}[seen.kind]
    for keys in parts:
        of_text = seen.kind == "cross" or (joint and keys == seen.text)
        weight = config.cross_weight if of_text else config.self_weight
        alpha = modulation_strength(pixels, segments.omega, weight, state.tau)[:, None, :, None]
        related = pixels @ (tokens[:, : keys.stop - keys.start] if of_text else pixels).transpose(1, 2)
        block, unseen = logits[:, :, image, keys], hidden[:, :, image, keys]
        top, bottom = (block.masked_fill(unseen, fill) for fill in (-torch.inf, torch.inf))
        top, bottom = top.amax(-1, keepdim=True), bottom.amin(-1, keepdim=True)
        related = related[:, None]
        moved = block + related * alpha * (top - block) - (1 - related) * alpha * (block - bottom)
        logits[:, :, image, keys] = torch.where(unseen, block, moved)
    return (logits + added).softmax(-1) @ seen.value


@promise("tuning")
def evaluated_again(case: Case) -> None:
    """The guided output at a state of the run is bit for bit what the run had there, at every step."""
    for step in case.steps:
        assert torch.equal(case.opened.output(PROMPTS, step.latents, step=step.index), step.output)


@promise("tuning")
def at_any_time(case: Case) -> None:
    """The output at times that differ within a batch is what each time gives by itself."""
    state = case.steps[1].latents
    times = torch.stack([case.steps[0].timestep, case.steps[2].timestep])
    together = case.opened.output(PROMPTS, state, timestep=times)
    for i, time in enumerate(times):
        assert off_by(together[i], case.opened.output(PROMPTS, state, timestep=time)[i]) < 1e-5


@promise("tuning")
def one_process(case: Case) -> None:
    """A step by equation (12) is the scheduler's own, where it looks at no earlier step."""
    step = case.steps[0]
    grid = levels(case.opened.schedule(PROMPTS, case.final))
    mean, std = transition(step.latents, step.output, grid[0], grid[1])
    assert std == 0 and off_by(mean, case.steps[1].latents) < 1e-4


@promise("tuning")
def gradient_of_one_step(case: Case) -> None:
    """The gradient of one re-evaluated step reaches every weight of an adapter that the output depends on."""
    opened, weights = case.adapted
    output = opened.output(PROMPTS, case.steps[1].latents, step=1)
    check_reached(opened, weights, output.square().mean())


@promise("tuning")
def gradient_through_the_last_step(case: Case) -> None:
    """The gradient of a picture reaches every such weight, through the VAE and the last step."""
    opened, weights = case.adapted
    state = opened.rollout(PROMPTS, generators(), grad_steps=1)
    check_reached(opened, weights, opened.decode(PROMPTS, state).mean())


# what becomes of the text, which after the last block nothing looks at
_TEXT_ONLY = re.compile(r"\.(add_q_proj|to_add_out)\.")


def check_reached(opened: Opened, weights: list[torch.nn.Parameter], loss: torch.Tensor) -> None:
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    reached = {id(w) for w, g in zip(weights, gradients, strict=True) if g is not None and bool(g.any())}
    ran = 0
    for network in opened.networks:
        names = {name: id(w) in reached for name, w in network.named_parameters() if w.requires_grad}
        if any(names.values()):  # of two networks one runs in a step
            ran += 1
            assert all(found or _TEXT_ONLY.search(name) for name, found in names.items()), names
    assert ran == 1


@promise("edits")
def back_from_the_vae(case: Case) -> None:
    """The state is found again from what the VAE is given for it."""
    latents = case.opened.vae_latents(PROMPTS, case.final).detach()
    assert off_by(case.opened.state_of(PROMPTS, latents, case.final), case.final) < 1e-5


@promise("edits")
def encoded(case: Case) -> None:
    """A picture or a video becomes a state, which is decoded to one of its size."""
    state = case.opened.encode(PROMPTS, case.own)
    assert state.shape == case.final.shape and state.isfinite().all()
    with torch.no_grad():
        assert case.opened.decode(PROMPTS, state).shape == case.own.shape


@promise("edits", slow=True)
def back_from_noise(case: Case) -> None:
    """An edit to the same prompt gives the source back: by FlowEdit for a flow, else by exact inversion."""
    opened = unguided(case)
    start = opened.rollout(PROMPTS, generators())
    if levels(opened.schedule(PROMPTS, start))[0].kind == "velocity":
        assert off_by(flow_edit(opened, opened, PROMPTS, PROMPTS, start, generators()), start) < 1e-5
        return
    noise = invert(opened, PROMPTS, start, rounds=10)[-1]
    assert off_by(sample_from(opened, PROMPTS, noise), start) < 0.05


def unguided(case: Case) -> Opened:
    """Opened at a scale of guidance of 1, where the call has one."""
    call, family = dict(CALL[case.name]), family_of(case.opened.networks[0])
    if family.guidance in call:
        call[family.guidance] = 1.0 - family.guidance_offset
        call.pop("negative_prompt", None)
    return Opened(case.pipe, STEPS, **call)


@promise("injection", slow=True)
def layout_injected(case: Case) -> None:
    """The target of an edit attends as the source does, whose own picture stays bit for bit."""
    pair = [PROMPTS[0], OTHERS[0]]
    plain, shared_by = (pair_of_states(case.opened, pair, inject) for inject in (False, True))
    assert torch.equal(shared_by[0], plain[0]) and not torch.equal(shared_by[1], plain[1])


def pair_of_states(opened: Opened, pair: Sequence[str], inject: bool) -> torch.Tensor:
    with injected(opened, *pair) if inject else nullcontext():
        return opened.rollout(pair, generators())


@promise("white box")
def features_of_the_middle(case: Case) -> None:
    """Features of the block at half the depth, with a gradient to the picture's state."""
    state = case.final.clone().requires_grad_()
    found = features(unguided(case), PROMPTS, state)
    (gradient,) = torch.autograd.grad(found.square().mean(), state)
    assert found.dim() == 2 and len(found) % len(PROMPTS) == 0 and found.isfinite().all()
    assert all(bool(g.any()) for g in gradient)


@promise("adapters")
def saved_and_loaded(case: Case) -> None:
    """An adapter is saved, loaded into a fresh pipeline by `accord --lora`, and makes the same picture bit for bit."""
    pipe, other = case.adapted[0].pipe, fresh(case.name)
    with TemporaryDirectory() as folder:
        save_lora(pipe, Path(folder))
        put_on(other, folder)
    made = own_call(other, case.name)
    assert torch.equal(made, own_call(pipe, case.name)) and not torch.equal(made, case.own)


# the page -----------------------------------------------------------------------------------------------------------
COLUMNS = tuple(dict.fromkeys(p.column for p in PROMISES.values()))
FOUND: dict[tuple[str, str], str | None] = {}  # (family, question) -> what it was refused with
_REFUSAL = re.compile(r"^- `(\w+)`, (\w+): (.+)$", re.MULTILINE)


def noted() -> dict[tuple[str, str], str]:
    """The refusals of the page."""
    text = PAGE.read_text(encoding="utf8") if PAGE.is_file() else ""
    return {(name, question): sentence for name, question, sentence in _REFUSAL.findall(text)}


def page(refused: dict[tuple[str, str], str]) -> str:
    """`docs/models.md`."""
    lines = [
        "# Models",
        "",
        "A pipeline of diffusers is opened by its own call, so most families need no line of their own. This table is",
        "written by `make models` from what `tests/test_contract.py` finds on tiny pipelines of the real classes with",
        "random weights: it says that a method runs and is exact there, not how much it helps with real weights.",
        "",
        f"| name | pipeline | network | text | {' | '.join(COLUMNS)} |",
        "|---|---|---|---|" + "---|" * len(COLUMNS),
        *(row(name, {question for n, question in refused if n == name}) for name in ZOO),
        "",
        "Text: whether it has attention layers of its own (cross) or shares them with the image, which is then the",
        "first or the last of the keys.",
        "",
        "## What a yes says",
        "",
    ]
    for column in COLUMNS:
        lines += [f"- **{column}**", *(f"  - {p.says}" for p in PROMISES.values() if p.column == column)]
    lines += ["", "## What is refused", ""]
    by_name = sorted(refused.items(), key=lambda item: list(ZOO).index(item[0][0]))
    lines += [f"- `{name}`, {question}: {sentence}" for (name, question), sentence in by_name]
    return "\n".join(lines if refused else [*lines, "Nothing."]) + "\n"


def row(name: str, refused: set[str]) -> str:
    pipe = shared(name)
    networks = " and ".join(dict.fromkeys(type(n).__name__ for n in networks_of(pipe)))
    place = family_of(networks_of(pipe)[0]).image
    no = {PROMISES[question].column for question in refused}
    cells = ["no" if column in no else "yes" for column in COLUMNS]
    text = "cross" if place is None else f"image {place}"
    return f"| {name} | `{type(pipe).__name__}` | `{networks}` | {text} | {' | '.join(cells)} |"


@contextmanager
def refusals_of(name: str, question: str) -> Iterator[None]:
    try:
        yield
        FOUND[name, question] = None
    except InputError as error:
        FOUND[name, question] = str(error)


# a family's questions one after another: they share a run
@pytest.mark.parametrize(
    ("name", "question"),
    [
        pytest.param(name, question, marks=[pytest.mark.slow] if told.slow else [])
        for name in ZOO
        for question, told in PROMISES.items()
    ],
)
def test_contract(name, question):
    with refusals_of(name, question):
        PROMISES[question].ask(case_of(name))
    assert WRITE or FOUND[name, question] == noted().get((name, question))


def test_the_page_of_models():
    refused = noted()
    if WRITE:
        assert len(FOUND) == len(ZOO) * len(PROMISES), "the page is written by a run of all tests in one process"
        refused = {key: sentence for key, sentence in FOUND.items() if sentence is not None}
        PAGE.write_text(page(refused), encoding="utf8")
    assert PAGE.read_text(encoding="utf8") == page(refused), "run: make models"
