"""Edits of a picture or a video on any opened pipeline. Read top to bottom beside README.md.

Letters in shapes: B prompts; a state is what the pipeline's loop denoises, [B,...], packed as the pipeline packs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from diffusers.utils.torch_utils import randn_tensor

from accord.diffusion.opened import Generators, Opened
from accord.diffusion.process import Level, levels, transition
from accord.diffusion.tap import Attention, attention_layout, observed
from accord.types import InputError


def affine(now: Level, after: Level) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B of a step without noise, x_s = A x_t + B output: `transition` is linear in both."""
    one, zero = torch.ones(1), torch.zeros(1)
    return transition(one, zero, now, after)[0], transition(zero, one, now, after)[0]


@torch.no_grad()
def invert(opened: Opened, prompts: Sequence[str], state: torch.Tensor, rounds: int = 3) -> list[torch.Tensor]:
    """The states from a clean one back to noise, n + 1 of them, the clean one first.

    Args:
        state: clean, [B,...], as `opened.encode` gives it.
        rounds: how often the output is evaluated for a step, at the state that it is to be taken at. 1 is the usual
            DDIM inversion, which takes it at the state before; more come closer to what samples back exactly.

    Raises:
        InputError: for a pipeline whose steps are not found again.
    """
    if rounds < 1:
        raise InputError(f"rounds must be at least 1, not {rounds}")
    grid = levels(opened.schedule(prompts, state))
    path = [state]
    for i in reversed(range(len(grid) - 1)):
        a, b = (x.to(state) for x in affine(grid[i], grid[i + 1]))
        if not a.any():
            raise InputError(
                f"step {i} of a {type(opened.pipe.scheduler).__name__} keeps nothing of its state, so it has no "
                "inverse; use a pipeline that predicts noise or a velocity"
            )
        known = x = path[-1]
        for _ in range(rounds):
            x = (known - b * opened.output(prompts, x, step=i)) / a
        path.append(x)
    return path


@torch.no_grad()
def sample_from(opened: Opened, prompts: Sequence[str], state: torch.Tensor, first: int = 0) -> torch.Tensor:
    """The clean state that steps without noise lead to, from a state at step `first` of the grid.

    Raises:
        InputError: for a step that the grid has not.
    """
    grid = levels(opened.schedule(prompts, state))
    _check_step("first", first, grid)
    for i in range(first, len(grid) - 1):
        state = transition(state, opened.output(prompts, state, step=i), grid[i], grid[i + 1])[0].to(state)
    return state


@torch.no_grad()
def flow_edit(
    source: Opened,
    target: Opened,
    source_prompts: Sequence[str],
    target_prompts: Sequence[str],
    state: torch.Tensor,
    generators: Generators,
    skip: int = 0,
) -> torch.Tensor:
    """FlowEdit (arXiv 2412.08629): the difference of two velocities, without an inversion. The edited clean state.

    Args:
        source, target: the pipeline, opened twice where the two are to be guided differently.
        state: clean, [B,...].
        generators: of the noise of each step.
        skip: steps at the noisy end that are not taken; the more, the closer to the source.

    Raises:
        InputError: for a pipeline that is no flow, or more skipped steps than there are.
    """
    grid = _common_grid(source, target, source_prompts, target_prompts, state)
    if grid[0].kind != "velocity":
        raise InputError(
            f"FlowEdit is for flow pipelines, and a {type(source.pipe).__name__} is none; use invert and sample_from"
        )
    _check_step("skip", skip, grid)
    each = generators if isinstance(generators, torch.Generator) else list(generators)
    edited = state
    for i in range(skip, len(grid) - 1):
        noise = randn_tensor(state.shape, generator=each, device=state.device, dtype=state.dtype)
        of_source = grid[i].noised(state, noise)
        of_target = edited + of_source - state
        change = target.output(target_prompts, of_target, step=i) - source.output(source_prompts, of_source, step=i)
        edited = edited + (grid[i + 1].s - grid[i].s).to(state) * change
    return edited


@contextmanager
def injected(opened: Opened, source: str, target: str, until: float = 1.0) -> Iterator[None]:
    """While the block lasts, a batch of these two prompts has the source's queries and keys in the target's image.

    Where a layer attends from image to image, the target takes the source's layout and keeps its own values, which hold
    what things look like. The source's row is what it was, bit for bit.

    Args:
        until: the share of the process, from the noisy end, in which this is done.

    Raises:
        InputError: as `attention_layout`; for a share outside (0, 1]; at the end of the block if there was nothing to
            take over (Sana attends within the image without queries and keys that could be shared).
    """
    if not 0 < until <= 1:
        raise InputError(f"until must be in (0, 1], not {until}")
    where = attention_layout(opened, [source, target])
    ran = shared = False

    def share(attention: Attention) -> torch.Tensor | None:
        nonlocal ran, shared
        ran = ran or opened.share_of_run < until
        if attention.kind == "cross" or opened.share_of_run >= until:
            return None
        shared = True
        query, key = attention.query.clone(), attention.key.clone()
        query[1, :, attention.image], key[1, :, attention.image] = (
            x[0, :, attention.image] for x in (attention.query, attention.key)
        )
        return replace(attention, query=query, key=key).plain()

    with observed(opened, where, share):
        yield
    if ran and not shared:
        raise InputError(
            f"the image's attention to itself in a {type(opened.networks[0]).__name__} is not softmax attention, so no "
            "layout can be taken over; edit without injection"
        )


def edit_pixels(
    source: Opened,
    target: Opened,
    pixels: torch.Tensor,
    source_prompt: str,
    target_prompt: str,
    generator: torch.Generator,
    skip: int = 0,
    rounds: int = 3,
) -> torch.Tensor:
    """One picture [3,H,W] or video [F,3,H,W] in 0..1, edited: FlowEdit for a flow, else inversion and sampling.

    Args:
        source, target: the pipeline, opened twice; a low guidance for the source and a higher one for the target is
            usual.
        skip: steps at the noisy end that are left out; the more, the closer to the source.
        rounds: see `invert`.
    """
    state = source.encode([source_prompt], pixels[None])
    grid = _common_grid(source, target, [source_prompt], [target_prompt], state)
    _check_step("skip", skip, grid)
    if grid[0].kind == "velocity":
        edited = flow_edit(source, target, [source_prompt], [target_prompt], state, generator, skip)
    else:
        path = invert(source, [source_prompt], state, rounds)
        edited = sample_from(target, [target_prompt], path[len(path) - 1 - skip], skip)
    with torch.no_grad():
        return target.decode([target_prompt], edited)[0]


def _common_grid(
    source: Opened, target: Opened, source_prompts: Sequence[str], target_prompts: Sequence[str], state: torch.Tensor
) -> list[Level]:
    """The levels of both. Raises InputError if they run other steps: one's output would be taken at the other's."""
    one, other = source.schedule(source_prompts, state), target.schedule(target_prompts, state)
    if not torch.equal(one.timesteps, other.timesteps):
        raise InputError(
            "source and target run other steps; open both with the same num_inference_steps, scheduler and size"
        )
    return levels(one)


def _check_step(name: str, value: int, grid: Sequence[Level]) -> None:
    """Refuse a number of steps that a run of these levels has not."""
    if not 0 <= value < len(grid):
        raise InputError(f"{name} must be between 0 and the {len(grid) - 1} steps of the run, not {value}")
