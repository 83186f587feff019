"""Any pipeline of diffusers, opened: its own call, with a hand on what it calls. No line here names a family.

A pipeline's `__call__` draws noise by `prepare_latents`, embeds texts by `encode_prompt`, sets its scheduler's
timesteps, and hands the output of its network to the scheduler's `step`. With a hand on these four, and the call
unwrapped from `torch.no_grad`, it is an open loop with gradients that is bit for bit the pipeline's own:

    rollout   from noise to the last state, each step in sight
    output    the guided output of the network at any state and time, with its graph
    decode    pictures of a state, with their graph
    state_of  the state whose VAE latents are these

Guidance, sizes, packing, schedulers, callbacks and offloading stay the pipeline's. Where a seam is not there, or does
not do what it does elsewhere, the pipeline is refused in one sentence.

Letters in shapes: B prompts; a state is what the loop denoises, [B,...], packed as the pipeline packs it.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from accord.diffusion.process import is_exploding, kind_of, level_at, rooted_eta
from accord.diffusion.state import held, parts_of
from accord.types import InputError, a_kind, reason_of

REMEMBERED = 4  # batches of texts whose embeddings are kept; a long one of a large encoder is half a gigabyte
NETWORKS = ("transformer", "transformer_2", "unet", "prior")
_LIBRARIES = ("diffusers", "transformers", "torch", "numpy", "accelerate", "peft", "PIL")
_DIGITS, _BASE = 6, 16  # in which places are written: 16.8 million of them
_HANDS = ("step", "set_timesteps", "set_begin_index")  # on a scheduler
_SAME = 1e-3  # of a re-evaluation's size: how far it may be from what the run had


@dataclass
class Step:
    """One step of a run.

    Attributes:
        index, count: number of the step and of all steps.
        timestep: scalar tensor, in the scheduler's own units.
        latents: the state before the step.
        output: what the network said, guided; None before it ran.
        scheduler: the run's own, a copy of the pipeline's.
    """

    index: int
    count: int
    timestep: torch.Tensor
    latents: torch.Tensor
    output: torch.Tensor | None = None
    scheduler: Any = None
    _next: Callable[[], torch.Tensor] | None = field(default=None, repr=False)

    def next(self) -> torch.Tensor:
        """The state that the pipeline's own scheduler makes of it."""
        assert self._next is not None, "the network has not run yet"
        return self._next()


Generators = torch.Generator | Sequence[torch.Generator]  # one for all pictures, or one each
BeforeStep = Callable[[Step], None]
OnStep = Callable[[Step], "torch.Tensor | None"]


Watch = Callable[[int, int], None]  # (pictures of the run, its steps)
_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(see: Watch) -> Iterator[None]:
    """Call `see(pictures, steps)` after each denoising step of every run within the block: how many pictures the run
    makes at once, and how many steps it has. It sees no state, and changes none.
    """
    token = _watch.set(see)
    try:
        yield
    finally:
        _watch.reset(token)


def took_step(pictures: int, steps: int) -> None:
    """Tell who watches that a step was taken: for loops that are no pipeline's own call."""
    if (see := _watch.get()) is not None:
        see(pictures, steps)


Look = Callable[[Step, Callable[[], torch.Tensor]], None]
_look: ContextVar[Look | None] = ContextVar("look", default=None)


@contextmanager
def looked_at(look: Look) -> Iterator[None]:
    """Call `look(step, picture)` after each denoising step of every run within the block; what it raises ends the run.

    `picture()` decodes what the network takes for the first clean picture at that step, [1,3,H,W] in 0..1. It costs a
    run of the VAE, and changes nothing of the run.
    """
    token = _look.set(look)
    try:
        yield
    finally:
        _look.reset(token)


def show_step(step: Step, picture: Callable[[], torch.Tensor]) -> None:
    """Let who looks at steps see one."""
    if (look := _look.get()) is not None:
        with _unlooked(), torch.no_grad():
            look(step, picture)


@contextmanager
def _unlooked() -> Iterator[None]:
    """The runs of who looks are not looked at."""
    token, watch = _look.set(None), _watch.set(None)
    try:
        yield
    finally:
        _look.reset(token)
        _watch.reset(watch)


def clean_estimate(step: Step) -> torch.Tensor:
    """What the network takes for the clean state at a step, after it ran: x0^ of its guided output.

    Raises:
        InputError: for a scheduler that does not say its noise levels.
    """
    assert step.output is not None
    kind_of(step.scheduler)
    level = level_at(step.scheduler, step.timestep, step.latents)
    return level.x0(step.latents, step.output.to(step.latents)).to(step.latents.dtype)


class Left(Exception):
    """Leaves a pipeline's call with what was wanted of it."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


@contextmanager
def swapped(thing: Any, **attributes: Any) -> Iterator[None]:
    """Attributes of one object for the time of the block; its class, and what it registers, see nothing of them."""
    before = {name: thing.__dict__[name] for name in attributes if name in thing.__dict__}
    for name, value in attributes.items():
        object.__setattr__(thing, name, value)
    try:
        yield
    finally:
        for name in attributes:
            if name in before:
                object.__setattr__(thing, name, before[name])
            else:
                object.__delattr__(thing, name)


def networks_of(pipe: Any) -> tuple[nn.Module, ...]:
    """The denoising networks of a pipeline; some have two, of which one runs in a step.

    Raises:
        InputError: for a pipeline that has none under a usual name.
    """
    found = _found_networks(pipe)
    if not found:
        raise InputError(f"{a_kind(pipe)} has no network named {' or '.join(NETWORKS)}; use another pipeline")
    return found


def _found_networks(pipe: Any) -> tuple[nn.Module, ...]:
    return tuple(net for name in NETWORKS if isinstance(net := getattr(pipe, name, None), nn.Module))


def patch_of(network: Any) -> tuple[int, int]:
    """Height and width in latents of what is one token of a network; 1 and 1 for one that does not say so."""
    config = getattr(network, "config", {})
    patch = config.get("patch_size") or (config.get("all_patch_size") or [1])[0]
    sides = [patch] * 2 if isinstance(patch, int) else list(patch)[-2:]
    return sides[0], sides[-1]


def size_unit(pipe: Any) -> int:
    """What height and width of a pipeline's pictures are multiples of, in pixels."""
    # what makes pictures of the VAE's output knows it: that is the VAE's factor, twice that where four neighbours are
    # one token
    parts = (getattr(pipe, name, None) for name in ("image_processor", "video_processor"))
    units = (getattr(getattr(part, "config", None), "vae_scale_factor", None) for part in parts)
    factor = getattr(pipe, "vae_scale_factor", None) or getattr(pipe, "vae_scale_factor_spatial", None) or 1
    patches = [max(patch_of(network)) for network in _found_networks(pipe)]
    return max(next((u for u in units if u), factor), factor * max(patches, default=1))


def begins_with_picture(pipe: Any) -> bool:
    """Whether its call takes a part of its grid alone, from a picture that is noised (img2img, inpainting)."""
    taken = inspect.signature(type(pipe).__call__).parameters
    return hasattr(pipe, "get_timesteps") and "strength" in taken


@dataclass
class _Run:
    """What one call of the pipeline is to do.

    Attributes:
        state: begin with this instead of noise.
        cut: changes the scheduler once its timesteps are set.
        on_state: sees the state that the call begins with.
        before_step: called before the network first runs in a step.
        on_step: called after it, with the next state as its answer.
        on_decode: in place of the VAE's `decode`.
        unscaled: the noise is not multiplied by the scheduler's first sigma.
        to_last_step: the call is left after the last of the scheduler's timesteps.
    """

    state: torch.Tensor | None = None
    cut: Callable[[Any], None] | None = None
    on_state: Callable[[torch.Tensor], None] | None = None
    before_step: BeforeStep | None = None
    on_step: OnStep | None = None
    on_decode: Callable[..., Any] | None = None
    output_type: str = "latent"
    generator: Any = None
    unscaled: bool = False
    to_last_step: bool = False

    @property
    def needs_seams(self) -> bool:
        """Whether this is more than the pipeline's own call."""
        return any(x is not None for x in (self.state, self.on_state, self.before_step, self.on_step))


class Opened:
    """A pipeline whose own call is run with a hand on its seams.

    Args:
        pipe: a text-to-image or text-to-video pipeline of diffusers. It is left bit for bit as it was.
        num_inference_steps: the steps of a run.
        scheduler: to run with instead of the pipeline's.
        call: further arguments of the pipeline's own call: height, guidance_scale, negative_prompt (one for all) ...

    Raises:
        InputError: for a pipeline without the seams.
    """

    def __init__(self, pipe: Any, num_inference_steps: int, *, scheduler: Any = None, **call: Any) -> None:
        check_call(pipe)
        self.pipe, self.steps, self.call = pipe, num_inference_steps, call
        self.scheduler = scheduler
        self._call = inspect.unwrap(type(pipe).__call__)  # without torch.no_grad
        self._guidance: float | None = None  # of a pipeline with an object for its guidance (HunyuanImage)
        taken = inspect.signature(self._call).parameters
        if getattr(pipe, "guider", None) is not None and "guidance_scale" in call and "guidance_scale" not in taken:
            self._guidance = self.call.pop("guidance_scale")
        self._texts: dict[str, Any] = {}
        self._loops: list[_Loop] = []  # of the calls that are running, the innermost last
        self.prefixes: dict[int, int] | None = None  # of `spans`: lengths of templates, by encoder
        # of `spans`: the network's argument with the text, and whether all texts are of one length there
        self.text_layout: tuple[str, bool] | None = None
        self.evaluations = 0  # rows that the networks were given in the last call of the pipeline
        self._checked = False
        self._times_at_once: bool | None = None

    @functools.cached_property
    def networks(self) -> tuple[nn.Module, ...]:
        """See `networks_of`."""
        return networks_of(self.pipe)

    # what methods use ----------------------------------------------------------------------------------------------
    def rollout(
        self,
        prompts: Sequence[str],
        generators: Generators,
        *,
        before_step: BeforeStep | None = None,
        on_step: OnStep | None = None,
        grad_steps: int = 0,
        noise: torch.Tensor | None = None,
        start: torch.Tensor | None = None,
        strength: float | None = None,
    ) -> torch.Tensor:
        """The state after the last step.

        Args:
            generators: one a prompt; each draws its noise, and what a scheduler adds on the way.
            before_step: called before the network runs.
            on_step: called after it ran; may return another next state than the scheduler's, or raise `Left`.
            grad_steps: how many of the last steps keep their graph.
            noise: the state to begin with, as `self.noise` gives it; drawn if None.
            start: a clean state to begin from, noised part-way; from noise alone if None.
            strength: with `start`: the share of the steps that is then taken, in (0, 1]; 1 is from noise alone.
        """
        if "callback_on_step_end" in self.call:
            raise InputError("a run whose state is wanted takes no callback_on_step_end; use before_step or on_step")

        def hand(step: Step) -> torch.Tensor:
            new = None if on_step is None else on_step(step)
            new = step.next() if new is None else new
            if step.index + 1 == step.count:  # not what the call makes of it: FLUX.2's "latent" is another layout
                raise Left(new)
            torch.set_grad_enabled(step.index + 1 >= step.count - grad_steps)
            return new

        with torch.no_grad():
            run = self._begun(prompts, generators, noise, start, strength)
            run.before_step, run.on_step, run.to_last_step = before_step, hand, True
            torch.set_grad_enabled(self.steps <= grad_steps)
            return self._run(prompts, run)

    def pictures(
        self,
        prompts: Sequence[str],
        generators: Generators,
        *,
        before_step: BeforeStep | None = None,
        on_step: OnStep | None = None,
        noise: torch.Tensor | None = None,
        start: torch.Tensor | None = None,
        strength: float | None = None,
        output_type: str = "pt",
    ) -> Any:
        """What the pipeline's own call returns: pictures [B,3,H,W] or videos [B,F,3,H,W] in 0..1, without gradient.

        Arguments as in `rollout`.
        """
        with torch.no_grad():
            run = self._begun(prompts, generators, noise, start, strength)
            run.before_step, run.on_step, run.output_type = before_step, on_step, output_type
            made = self._run(prompts, run)
        if output_type in ("pt", "pil"):
            self._check_size(made)
        return made

    def _check_size(self, made: Any) -> None:
        """Refuse pictures or videos of another size or length than was asked for, which some pipelines make."""
        one = made[0]
        frame = one[0] if isinstance(one, list) or getattr(one, "ndim", 3) == 4 else one
        height, width = frame.shape[-2:] if isinstance(frame, torch.Tensor) else frame.size[::-1]
        asked = {name: self.call.get(name) for name in ("height", "width", "num_frames")}
        found = {"height": height, "width": width, "num_frames": len(one) if frame is not one else None}
        for name, value in asked.items():
            if value is not None and found[name] is not None and found[name] != value:
                raise InputError(
                    f"{a_kind(self.pipe)} makes {name}={found[name]} where {value} is asked for; give one that it makes"
                )

    def output(
        self,
        prompts: Sequence[str],
        state: torch.Tensor,
        *,
        step: int | None = None,
        timestep: torch.Tensor | float | None = None,
    ) -> torch.Tensor:
        """The guided output of the network at a state, as the scheduler is given it; keeps the graph.

        Args:
            step: of the grid; or
            timestep: any time in the scheduler's units, one for all or [B].

        Raises:
            InputError: if the first answer is not what a run of the pipeline had there.
        """
        if (step is None) == (timestep is None):
            raise InputError("give a step of the grid or a timestep, one of the two")
        if not self._checked:
            self.check(prompts)
        if step is not None:
            return self._output_of(prompts, state, step)
        times = torch.as_tensor(timestep).flatten()
        if len(times) == 1 or bool((times == times[0]).all()):
            return self._output_at(prompts, state, times[:1])
        if self._times_at_once is None:
            self._times_at_once = self._takes_times(prompts, state, times)
        if self._times_at_once:
            return self._output_at(prompts, state, times)
        rows = range(len(times))
        return torch.cat([self._output_at([prompts[i]], state[i : i + 1], times[i : i + 1]) for i in rows])

    def decode(self, prompts: Sequence[str], state: torch.Tensor) -> torch.Tensor:
        """Pictures [B,3,H,W] or videos [B,F,3,H,W] in 0..1; keeps the graph."""
        return torch.as_tensor(self._run(prompts, _Run(state, _cut_all, output_type="pt")))

    def vae_latents(self, prompts: Sequence[str], state: torch.Tensor) -> torch.Tensor:
        """What the VAE is given for a state, [B,C,h,w] or [B,C,F,h,w]; keeps the graph."""

        def leave(latents: torch.Tensor, *_args: Any, **_kwargs: Any) -> Any:
            raise Left(latents)

        return self._run(prompts, _Run(state, _cut_all, on_decode=leave, output_type="pt"))

    def state_of(self, prompts: Sequence[str], latents: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The state whose VAE latents are these, without gradient.

        What a pipeline does between the two is a permutation with a scale and a shift for each element. Most have the
        field's usual one; the others' is read off two vector-Jacobian products.

        Args:
            like: a state of the same shape.
        """
        usual = self._usual_state(latents, like)
        if usual is not None and _same(self.vae_latents(prompts, usual).detach(), latents, 1e-5):
            return usual
        x = torch.zeros_like(like).requires_grad_()
        with torch.enable_grad():
            zero = self.vae_latents(prompts, x)
            one = self.vae_latents(prompts, torch.ones_like(like)).detach()
            (size,) = torch.autograd.grad(zero, x, one - zero.detach(), retain_graph=True)
            (moved,) = torch.autograd.grad(zero, x, latents.to(zero) - zero.detach())
        return (moved / size).detach()

    def order(self, prompts: Sequence[str], like: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
        """Where each element of a state is among the VAE's latents, of one row: numbers in its flat latents, shaped as
        the row, and the shape [C,h,w] or [C,F,h,w] of these.

        Args:
            like: a state; its first row is looked at.

        Raises:
            InputError: for a pipeline whose states hold more than latents, or mix them.
        """
        one = list(prompts[:1])
        x = torch.zeros_like(like[:1], requires_grad=True)
        with torch.enable_grad():
            latents = self.vae_latents(one, x)
        places = torch.arange(latents.numel(), device=latents.device).view(latents.shape)
        size = torch.autograd.grad(latents, x, torch.ones_like(latents), retain_graph=True)[0].double()
        found = torch.zeros_like(size)
        for digit in range(_DIGITS):  # one at a time, as half precision holds no large numbers
            said = (places // _BASE**digit % _BASE).to(latents)
            (moved,) = torch.autograd.grad(latents, x, said, retain_graph=True)
            found += (moved.double() / size).round() * _BASE**digit
        if sorted(found.flatten().tolist()) != places.flatten().tolist():
            raise InputError(f"the states of {a_kind(self.pipe)} are not its latents in another order")
        return found[0].long(), latents.shape[1:]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], pixels: torch.Tensor) -> torch.Tensor:
        """The clean state of pictures [B,3,H,W] or videos [B,F,3,H,W] in 0..1 (the mode of the VAE's posterior)."""
        if len(pixels) != len(prompts) or pixels.shape[-3] != 3:
            raise InputError(
                f"pictures of shape {list(pixels.shape)} were given for {len(prompts)} prompts; give [B,3,H,W], or "
                "videos [B,F,3,H,W]"
            )
        like = self.noise(prompts, [torch.Generator().manual_seed(0) for _ in prompts])
        vae, shape = self.pipe.vae, self.vae_latents(prompts, like).shape
        values = (pixels * 2 - 1).to(device=like.device)
        if len(shape) == 5:
            values = values.unsqueeze(2) if values.dim() == 4 else values.transpose(1, 2)
        with precise(self.pipe):
            encoded = vae.encode(values.to(vae.dtype))
            found = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
        if found.shape != shape:
            raise InputError(
                f"pictures of {pixels.shape[-2]}x{pixels.shape[-1]} pixels are not of the size, or videos not of the "
                "frames, that this pipeline makes; resize them, or open it with their height and width"
            )
        return self.state_of(prompts, found.to(like.dtype), like)

    def noise(self, prompts: Sequence[str], generators: Generators) -> torch.Tensor:
        """The state that a run begins with."""
        return self._noise(prompts, _each(generators), unscaled=False)

    @torch.no_grad()
    def _noise(self, prompts: Sequence[str], generator: Any, unscaled: bool) -> torch.Tensor:
        def leave(state: torch.Tensor) -> None:
            raise Left(state)

        return self._run(prompts, _Run(on_state=leave, generator=generator, unscaled=unscaled))

    def schedule(self, prompts: Sequence[str], like: torch.Tensor) -> Any:
        """A copy of the scheduler with its timesteps set as the pipeline sets them for such a state."""

        def leave(scheduler: Any) -> None:
            raise Left(scheduler)

        with torch.no_grad():
            return self._run(prompts, _Run(like, leave))

    @torch.no_grad()
    def check(self, prompts: Sequence[str]) -> None:
        """Evaluate a step again that a run had, and compare.

        Raises:
            InputError: if the two differ: the call does something beside these seams.
        """
        wanted = min(1, self.steps - 1)

        def leave_at(step: Step) -> None:
            if step.index == wanted:
                raise Left(step)

        each = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
        had = self._run(prompts, _Run(on_step=leave_at, generator=each))
        if not _same(self._output_of(prompts, had.latents, wanted), had.output, _SAME):
            raise InputError(
                f"{a_kind(self.pipe)} does not answer the same when its step {wanted} is evaluated again; it "
                "can be run and scored here, but not tuned, inverted or edited"
            )
        self._checked = True

    # one call ------------------------------------------------------------------------------------------------------
    def _run(self, prompts: Sequence[str], run: _Run) -> Any:
        """The pipeline's own call with these hands on its seams: what it returns, or what it was left with."""
        pipe = self.pipe
        with held(*parts_of(pipe)), ExitStack() as stack:
            scheduler = copy.deepcopy(self.scheduler or pipe.scheduler)
            for hand in _HANDS:  # of a run that this one is within
                vars(scheduler).pop(hand, None)
            if run.unscaled:  # a property of some classes: an attribute of the copy would not be seen
                scheduler.__class__ = type(type(scheduler).__name__, (type(scheduler),), {"init_noise_sigma": 1.0})
            loop = _Loop(run, len(prompts), scheduler, stack, _found_networks(pipe))
            loop.show = lambda step: self.decode(prompts[:1], clean_estimate(step)[:1])
            self._loops.append(loop)
            stack.callback(self._finished)
            hands: dict[str, Any] = {"scheduler": scheduler, "_progress_bar_config": {"disable": True}}
            if run.needs_seams:
                check_seams(pipe)
            if hasattr(pipe, "prepare_latents"):
                hands["prepare_latents"] = loop.prepare(pipe.prepare_latents)
            if hasattr(pipe, "encode_prompt"):
                hands["encode_prompt"] = self._remembering(pipe.encode_prompt)
            if begins_with_picture(pipe):
                hands["get_timesteps"] = loop.part(pipe.get_timesteps)
            if hasattr(pipe, "check_inputs"):
                hands["check_inputs"] = _refusing(pipe)
            if self._guidance is not None:
                hands |= _guiders(pipe, self._guidance)
            stack.enter_context(_as_it_was(pipe))
            stack.enter_context(swapped(pipe, **hands))
            if run.on_decode is not None:
                stack.enter_context(swapped(pipe.vae, decode=run.on_decode))
            given = {**self.call, "prompt": list(prompts), "num_inference_steps": self.steps}
            for name, value in given.items():  # negative_prompt, prompt_2: one for all
                if isinstance(value, str) and re.fullmatch(r"(negative_)?prompt(_\d)?", name):
                    given[name] = [value] * len(prompts)
            generator = run.generator or [torch.Generator().manual_seed(0) for _ in prompts]
            try:
                made = self._call(pipe, **given, output_type=run.output_type, generator=generator)
            except Left as left:
                if not torch.is_grad_enabled():  # a graph still needs the weights where they are
                    pipe.maybe_free_model_hooks()
                return left.value
            except (IndexError, RuntimeError, ValueError) as error:
                asked = ", ".join(f"{n}={self.call[n]}" for n in ("height", "width", "num_frames") if self.call.get(n))
                if not asked or isinstance(error, (InputError, torch.OutOfMemoryError)) or not _is_of_libraries(error):
                    raise
                raise self._other_size(asked, error) from error
            except UnboundLocalError as error:
                if run.cut is not _cut_all:
                    raise
                raise self._other_steps() from error  # what it decodes is made by a step
            if run.to_last_step:
                raise self._other_steps()
        return made.images if hasattr(made, "images") else made.frames

    def _other_steps(self) -> InputError:
        return InputError(
            f"{a_kind(self.pipe)} takes other steps than its scheduler's timesteps, so its loop cannot be "
            "opened; it can be run and scored here, but not repaired, tuned, inverted or edited"
        )

    def _other_size(self, asked: str, error: Exception) -> InputError:
        return InputError(
            f"{a_kind(self.pipe)} fails at {asked} ({reason_of(error)}); give another size, `height` and `width` "
            f"multiples of {size_unit(self.pipe)}, or leave it out"
        )

    def _finished(self) -> None:
        self.evaluations = self._loops.pop().rows

    def _remembering(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        """`encode_prompt`, once for each batch of texts."""

        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            given = (args, kwargs)
            if _holds_tensors(given):
                return encode(*args, **kwargs)
            key = repr((getattr(encode, "empties", False), given))
            if key not in self._texts:
                with torch.no_grad():
                    found = encode(*args, **kwargs)
                while len(self._texts) >= REMEMBERED:
                    self._texts.pop(next(iter(self._texts)))
                self._texts[key] = found
            return self._texts[key]

        return _signed(encode_prompt, encode)

    def until_left(self, prompts: Sequence[str], remembered: bool = False) -> Any:
        """Run the call until a hook within it raises `Left`: for who looks at what the network is given.

        Args:
            remembered: whether texts may be taken from memory; else every one is embedded anew.

        Returns:
            what it was left with.
        """
        with torch.no_grad(), swapped(self, _texts=self._texts if remembered else {}):
            return self._run(prompts, _Run())

    @property
    def call_of_step(self) -> int:
        """While a network runs: which of its calls within the step this is, from 0. Some are guided by two calls."""
        return self._loops[-1].calls - 1 if self._loops else 0

    @property
    def share_of_run(self) -> float:
        """While a network runs: the share of the process that is behind, from 0 at the noisy end, by the time."""
        if not self._loops:
            return 0.0
        loop = self._loops[-1]
        time = float(torch.as_tensor(loop.times[min(loop.index, len(loop.times) - 1)]).flatten()[0])
        return 1 - time / loop.scheduler.config.num_train_timesteps

    def evaluate(self, prompts: Sequence[str], state: torch.Tensor, timestep: float) -> Any:
        """Run the network once, at one time, for a hook within it that raises `Left`; keeps the graph."""
        return self._output_at(prompts, state, torch.as_tensor([timestep]))

    def forget(self) -> None:
        """Embed every text anew: for who has changed a text encoder."""
        self._texts.clear()

    def _begun(
        self,
        prompts: Sequence[str],
        generators: Generators,
        noise: torch.Tensor | None,
        start: torch.Tensor | None,
        strength: float | None,
    ) -> _Run:
        """A run from noise, or from a state that is noised part-way."""
        if noise is not None and start is not None:
            raise InputError("noise is not used beside start; give one of them")
        if (start is None) != (strength is None):
            raise InputError("start and strength go together; give both, or neither")
        if strength is not None and not 0 < strength <= 1:
            raise InputError(f"strength must be in (0, 1], not {strength}")
        each = _each(generators)
        if start is None or strength is None or strength == 1:
            return _Run(noise, generator=each)
        if begins_with_picture(self.pipe):
            raise InputError(f"{a_kind(self.pipe)} begins with a picture, and not part-way from another; begin anew")
        noise = self._noise(prompts, each, unscaled=True)
        scheduler = self.schedule(prompts, noise)
        first, timesteps = part_of(scheduler, strength)
        add_noise = getattr(scheduler, "add_noise", None) or scheduler.scale_noise
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        begun = add_noise(start.to(noise), *_noise_first(add_noise, noise, timesteps[:1]))
        return _Run(begun, functools.partial(_cut_from, first=first, timesteps=timesteps), generator=each)

    def _output_of(self, prompts: Sequence[str], state: torch.Tensor, step: int) -> torch.Tensor:
        return self._run(prompts, _Run(state, functools.partial(_cut_to, step=step), on_step=_leave_with_output))

    def _output_at(self, prompts: Sequence[str], state: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        cut = functools.partial(_cut_to_time, times=times)
        return self._run(prompts, _Run(state, cut, on_step=_leave_with_output))

    @torch.no_grad()
    def _takes_times(self, prompts: Sequence[str], state: torch.Tensor, times: torch.Tensor) -> bool:
        """Whether a time for each sample does what each by itself does; some pipelines read one number of it."""
        if is_exploding(self.scheduler or self.pipe.scheduler):  # it scales by one sigma
            return False
        try:
            together = self._output_at(prompts, state, times)
        except Exception:  # whatever a pipeline's arithmetic makes of it
            return False
        other = int((times != times[0]).nonzero()[0])
        one_by_one = [self._output_at(prompts, state, times[i : i + 1])[i] for i in (0, other)]
        return _same(torch.stack([together[0], together[other]]), torch.stack(one_by_one), _SAME)

    def _usual_state(self, latents: torch.Tensor, like: torch.Tensor) -> torch.Tensor | None:
        """(latents - shift) * scale, as most pipelines encode; None if shapes differ or nothing is said of a scale."""
        config = self.pipe.vae.config
        scale, shift = (getattr(config, n, None) for n in ("scaling_factor", "shift_factor"))
        if latents.shape != like.shape or scale is None:
            return None
        mean, spread = (getattr(config, n, None) for n in ("latents_mean", "latents_std"))
        if mean is not None and spread is not None:
            mean, spread = (latents.new_tensor(v).view(1, -1, *[1] * (latents.dim() - 2)) for v in (mean, spread))
            return (latents - mean) * scale / spread
        return latents * scale if not shift else (latents - shift) * scale


class _Loop:
    """The hands on a scheduler, on `prepare_latents` and on the networks for one call, which count its steps."""

    def __init__(
        self, run: _Run, pictures: int, scheduler: Any, stack: ExitStack, networks: Sequence[nn.Module]
    ) -> None:
        self.run, self.pictures, self.scheduler = run, pictures, scheduler
        self.index, self.calls = 0, 0  # of steps, and of the network's calls within this one
        self.rows = 0  # that the networks were given
        self.times: torch.Tensor = torch.zeros(0)
        self.is_cut = run.cut is None
        self.parted = False  # the grid is to be shortened by `get_timesteps`
        self.latents: torch.Tensor | None = None
        self.show: Callable[[Step], torch.Tensor] | None = None  # the picture at a step
        self.own = {"step": scheduler.step, "set_timesteps": scheduler.set_timesteps}
        hands = {"step": self.step, "set_timesteps": self.set_timesteps}
        stack.enter_context(swapped(scheduler, **{name: _signed(hand, self.own[name]) for name, hand in hands.items()}))
        for network in networks:
            stack.callback(network.register_forward_pre_hook(self.before, prepend=True, with_kwargs=True).remove)

    def prepare(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """`prepare_latents`; what it returns first is the state."""
        run = self.run

        def prepare_latents(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(own).bind(*args, **kwargs)
            if run.state is not None and given.arguments.get("generator") is not None:
                # what is drawn is not used, and nothing of the caller's generators either
                given.arguments["generator"] = torch.Generator().manual_seed(0)
            if torch.is_tensor(time := given.arguments.get("timestep")) and not len(time):
                given.arguments["timestep"] = self.whole[:1]  # of no step: a picture is noised, and not used
            made = own(*given.args, **given.kwargs)
            several = isinstance(made, tuple)
            state = (made[0] if several else made) if run.state is None else run.state
            self.latents = state
            if run.on_state is not None:
                run.on_state(state)
            return (state, *made[1:]) if several else state

        return _signed(prepare_latents, own)

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        set_grid(self.scheduler, self.own["set_timesteps"], *args, **kwargs)
        self.whole = self.times = self.scheduler.timesteps
        if not self.parted:
            self.cut()

    def part(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """`get_timesteps`, by which a pipeline that begins with a picture takes the last steps of its grid alone."""
        self.parted = True

        def get_timesteps(*args: Any, **kwargs: Any) -> Any:
            self.times, count = own(*args, **kwargs)
            if self.run.cut is None:
                return self.times, count
            self.scheduler.timesteps = self.times
            self.scheduler.taken_from = len(self.whole) - len(self.times)
            self.cut()
            return self.times, count

        return _signed(get_timesteps, own)

    def cut(self) -> None:
        """The grid to what this run is of."""
        if self.run.cut is not None:
            self.run.cut(self.scheduler)
            self.times = self.scheduler.timesteps
        self.is_cut = True

    def before(self, _network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.is_cut:
            raise InputError(
                "this pipeline takes the steps of its grid in a way of its own, so its loop cannot be opened; it can "
                "be run and scored here, but not repaired, tuned, inverted or edited"
            )
        self.calls += 1
        self.rows += len(args[0] if args else next(iter(kwargs.values())))
        if self.calls == 1 and self.run.before_step is not None:
            assert self.latents is not None
            self.run.before_step(Step(self.index, len(self.times), self.times[self.index], self.latents))

    def step(self, *args: Any, **kwargs: Any) -> Any:
        own_step = self.own["step"]
        given = inspect.signature(own_step).bind(*args, **kwargs).arguments
        timestep, latents = given["timestep"], given["sample"]
        if self.index >= len(self.times) or not _is_time(timestep, self.times[self.index]):
            raise InputError(
                "this pipeline calls its scheduler's step twice at one time, so its loop cannot be opened; it can be "
                "run and scored here, but not repaired, tuned, inverted or edited"
            )
        if self.run.to_last_step and self.index == 1:
            assert self.latents is not None
            if not torch.equal(latents, self.latents.to(latents)):
                raise InputError(
                    "this pipeline changes its state between its steps, as inpainting does, so its last one is not to "
                    "be had; it can be run, scored and repaired here, but not tuned, inverted or edited"
                )
        if kwargs.get("eta"):
            kwargs["eta"] = rooted_eta(self.scheduler, timestep, kwargs["eta"])
        made: list[Any] = []

        def own() -> torch.Tensor:
            if not made:
                with swapped(self.scheduler, timesteps=self.whole):  # solvers look at how many there are
                    made.append(own_step(*args, **kwargs))
            return made[0][0] if isinstance(made[0], tuple) else made[0].prev_sample

        taken = Step(self.index, len(self.times), timestep, latents, given["model_output"], self.scheduler, own)
        new = None if self.run.on_step is None else self.run.on_step(taken)
        if new is None:
            new = own()
        elif not made:
            with torch.no_grad():  # it counts its steps, whoever takes them: Euler scales its input by that count
                own()
        self.index, self.calls, self.latents = self.index + 1, 0, new
        took_step(self.pictures, len(self.times))
        if self.show is not None:
            show_step(taken, functools.partial(self.show, taken))
        if isinstance(made[0], tuple):
            return (new, *made[0][1:])
        made[0].prev_sample = new
        return made[0]


def set_grid(scheduler: Any, set_timesteps: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """Set a scheduler's timesteps by its own method.

    Raises:
        InputError: for steps that it cannot take.
    """
    reason = ""
    try:
        set_timesteps(*args, **kwargs)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        reason = reason_of(error)
    else:
        times, count = scheduler.timesteps, scheduler.config.num_train_timesteps
        # a leading grid with an offset (Stable Diffusion 1's) may lead beyond the last step; those with sigmas
        # interpolate there
        if len(times) and float(times.max()) >= count and not hasattr(scheduler, "sigmas"):
            reason = f"it would begin at step {int(times.max())} of {count}"
    if reason:
        raise InputError(f"{a_kind(scheduler)} cannot take these steps ({reason}); give other num_inference_steps")


def _refusing(pipe: Any) -> Callable[..., Any]:
    """The pipeline's own check of its arguments, whose reason becomes one sentence."""
    own = pipe.check_inputs

    def check_inputs(*args: Any, **kwargs: Any) -> Any:
        try:
            return own(*args, **kwargs)
        except (TypeError, ValueError) as error:
            raise InputError(f"{a_kind(pipe)} refuses what it is given ({reason_of(error)})") from error

    return _signed(check_inputs, own)


def _guiders(pipe: Any, guidance_scale: float) -> dict[str, Any]:
    """Copies of a pipeline's objects for guidance, with this scale."""
    found = {name: copy.deepcopy(part) for name, part in vars(pipe).items() if name.endswith("guider") and part}
    for part in found.values():
        part.guidance_scale = guidance_scale
    return found


def _signed(hand: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    """`hand` with the signature of `own`, by which pipelines choose what they hand over."""

    @functools.wraps(own)
    def call(*args: Any, **kwargs: Any) -> Any:
        return hand(*args, **kwargs)

    return call


def check_call(pipe: Any) -> None:
    """Refuse what makes no pictures or videos of a prompt by its own call.

    Raises:
        InputError: naming what it lacks.
    """
    taken = inspect.signature(type(pipe).__call__).parameters if callable(pipe) else {}
    wanted = ("prompt", "num_inference_steps", "output_type", "generator")
    missing = [f"argument {name}" for name in wanted if name not in taken]
    if getattr(pipe, "scheduler", None) is None:
        missing.insert(0, "scheduler")
    if missing:
        raise InputError(
            f"{a_kind(pipe)} is not supported here, as it has no {' and no '.join(missing)}; use a "
            "text-to-image or text-to-video pipeline of diffusers"
        )


def check_seams(pipe: Any) -> None:
    """Refuse a pipeline that cannot be opened.

    Raises:
        InputError: naming what it lacks.
    """
    check_call(pipe)
    if not hasattr(pipe, "prepare_latents"):
        raise InputError(
            f"{a_kind(pipe)} cannot be opened, as it has no prepare_latents; it can be run and scored, but "
            "not repaired, tuned, inverted or edited"
        )
    networks_of(pipe)


@contextmanager
def empty_as_unguided(pipe: Any) -> Iterator[None]:
    """An empty prompt gets what stands for none in a guided batch: zeros, where a pipeline is configured so (XL's)."""
    if not pipe.config.get("force_zeros_for_empty_prompt"):
        yield
        return
    own = pipe.encode_prompt

    @functools.wraps(own)
    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        prompts = inspect.signature(own).bind(*args, **kwargs).arguments["prompt"]
        said = torch.tensor([bool(p) for p in prompts])

        def zeroed(states: torch.Tensor | None) -> torch.Tensor | None:
            return None if states is None else states * said.to(states).view(-1, *[1] * (states.dim() - 1))

        return tuple(map(zeroed, own(*args, **kwargs)))

    encode_prompt.empties = True  # type: ignore[attr-defined]  # so that they are not remembered for others
    with swapped(pipe, encode_prompt=encode_prompt):
        yield


@contextmanager
def precise(pipe: Any) -> Iterator[Any]:
    """The VAE of a pipeline; one that overflows in float16 and is raised by the pipeline itself (SDXL's) is in float32
    meanwhile.
    """
    vae = pipe.vae
    with held(vae):
        raised = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
        raised = raised and hasattr(pipe, "upcast_vae")
        try:
            yield vae.to(torch.float32) if raised else vae
        finally:
            if raised:
                vae.to(torch.float16)


@contextmanager
def _as_it_was(pipe: Any) -> Iterator[None]:
    """What a call notes on the pipeline (its guidance scale, the current step) is gone afterwards."""
    before = {name: value for name, value in vars(pipe).items() if name != "_all_hooks"}
    try:
        yield
    finally:
        for name in [n for n in vars(pipe) if n not in before and n != "_all_hooks"]:
            object.__delattr__(pipe, name)
        for name, value in before.items():
            object.__setattr__(pipe, name, value)


def _is_of_libraries(error: Exception) -> bool:
    """Whether an error of a pipeline's call came up in the libraries, and in nothing that a hand on it has called."""
    frames = list(traceback.walk_tb(error.__traceback__))[1:]  # but `_run` itself
    names = {str(frame.f_globals.get("__name__")) for frame, _ in frames}
    return all(name == __name__ or name.partition(".")[0] in _LIBRARIES for name in names)


def _each(generators: Generators) -> Any:
    return generators if isinstance(generators, torch.Generator) else list(generators)


def _leave_with_output(step: Step) -> None:
    raise Left(step.output)


def _cut_all(scheduler: Any) -> None:
    scheduler.timesteps = scheduler.timesteps[:0]


def _cut_to(scheduler: Any, step: int) -> None:
    """To one step of the grid."""
    _cut_from(scheduler, step, scheduler.timesteps[step : step + 1])


def _cut_from(scheduler: Any, first: int, timesteps: torch.Tensor) -> None:
    """To these of the grid's timesteps, the first of which is its number `first`.

    Pipelines that set the begin themselves set it to 0, of what they take for the whole.
    """
    scheduler.timesteps = timesteps
    first += getattr(scheduler, "taken_from", 0)
    if hasattr(scheduler, "set_begin_index"):
        own = scheduler.set_begin_index
        own(first)
        scheduler.set_begin_index = lambda begin_index=0: own(first + begin_index)


def _cut_to_time(scheduler: Any, times: torch.Tensor) -> None:
    """To one time, or to one for each sample."""
    kind = scheduler.timesteps.dtype
    times = times.to(scheduler.timesteps.device, kind if times.is_floating_point() == kind.is_floating_point else None)
    if is_exploding(scheduler):
        level = level_at(scheduler, times, times)
        scheduler.sigmas = torch.cat([level.s.flatten(), level.s.new_zeros(1)]).to(scheduler.sigmas)
    scheduler.timesteps = times if len(times) == 1 else times[None]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)


def part_of(scheduler: Any, strength: float) -> tuple[int, torch.Tensor]:
    """The number of the first step that is taken from part-way, and the timesteps from there, as img2img takes them."""
    timesteps, order = scheduler.timesteps, getattr(scheduler, "order", 1)
    first = len(timesteps) - max(order, int(len(timesteps) * strength))
    first -= first % order
    timesteps = timesteps[first:]
    if getattr(scheduler.config, "skip_prk_steps", False) and hasattr(scheduler, "plms_timesteps"):
        once = timesteps.unique_consecutive()  # PNDM takes its second step twice, wherever it begins
        timesteps = torch.cat([once[:2], once[1:2], once[2:]])
    return first, timesteps


def _noise_first(add_noise: Callable[..., Any], noise: torch.Tensor, times: torch.Tensor) -> tuple[Any, Any]:
    """The two in their order: `add_noise(sample, noise, timesteps)`, but `scale_noise(sample, timestep, noise)`."""
    return (noise, times) if list(inspect.signature(add_noise).parameters)[1] == "noise" else (times, noise)


def _is_time(given: Any, wanted: torch.Tensor) -> bool:
    given = torch.as_tensor(given).flatten().cpu().double()
    return bool(torch.isclose(given, wanted.flatten().cpu().double(), rtol=1e-3, atol=1e-3).all())


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(map(_holds_tensors, value))
    return not (value is None or isinstance(value, (str, bool, int, float, torch.device, torch.dtype)))


def _same(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    if one.shape != other.shape:
        return False
    size = other.float().norm()
    return bool((one.float() - other.float()).norm() <= tolerance * size + 1e-12)
