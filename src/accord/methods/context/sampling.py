"""An opened pipeline whose process is shifted by a relational network: sampling, and what edits need of it.

The pipeline's own call runs; a hand on its steps adds what the shift adds. Guidance has one rule: x0^ is the guided
one, and r is that of the conditional text. Both of a step's r are one batch.

Letters in shapes: B prompts; a state is what the pipeline's loop denoises, [B,...], packed as the pipeline packs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from accord.diffusion.call import call_arguments
from accord.diffusion.generate import check_finite, generators, refusing_nan
from accord.diffusion.opened import Generators, Left, Opened, Step, check_seams
from accord.diffusion.pipelines import check_no_context, check_prompt_length, ddim_of
from accord.diffusion.process import Drift, levels, transition
from accord.diffusion.spans import text_states
from accord.methods.context.network import RelationalNetwork
from accord.methods.context.process import Relation, ShiftedProcess
from accord.methods.context.schedulers import ContextDDIMScheduler, ContextDDPMScheduler
from accord.types import InputError, a_kind

# (x0^ [B,...], text states of each [T,E], t [B]) -> r [B,...]
Network = Callable[[torch.Tensor, Sequence[torch.Tensor], torch.Tensor], torch.Tensor]


def relation_of(network: Network, states: Sequence[torch.Tensor], scale: float = 1.0) -> Relation:
    """r at two times in one batch of the network. `states`, [T,E] each, are those of the conditional text."""

    def relation(x0: torch.Tensor, t: float, s: float) -> tuple[torch.Tensor, torch.Tensor]:
        times = torch.tensor([max(t, 0), max(s, 0)], device=x0.device).repeat_interleave(len(x0))
        r = scale * network(torch.cat([x0, x0]), [*states, *states], times)
        r_t, r_s = r.chunk(2)
        return r_t, r_s

    return relation


def of_rows(
    network: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    x0: torch.Tensor,
    states: Sequence[torch.Tensor],
    timestep: torch.Tensor,
) -> torch.Tensor:
    """r [B,...] of a network that takes text states [B,T,E]; in one batch if all texts are of one length."""
    if len({len(s) for s in states}) == 1:
        return network(x0, torch.stack(list(states)), timestep)
    rows = range(len(x0))
    return torch.cat([network(x0[i : i + 1], states[i][None], timestep[i : i + 1]) for i in rows])


class OfStates:
    """A relational network on the states of a pipeline: packed ones are laid out as the VAE's latents for it, frames of
    videos folded into the batch.

    Args:
        unguided: the pipeline, which says how its states are packed.
    """

    def __init__(self, network: RelationalNetwork, unguided: Opened) -> None:
        self.network, self.unguided = network, unguided
        self._order: dict[torch.Size, tuple[torch.Tensor, torch.Size]] = {}  # by the shape of one state

    def __call__(self, x0: torch.Tensor, states: Sequence[torch.Tensor], timestep: torch.Tensor) -> torch.Tensor:
        """r [B,...] of clean states [B,...], text states [T,E] of each and times [B]."""
        return of_rows(self._of_batch, x0, states, timestep)

    def _of_batch(self, x0: torch.Tensor, states: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The same of text states [B,T,E]."""
        if x0.dim() == 4 and x0.shape[1] == self.network.config.channels:  # those are laid out so
            return self.network(x0, states, timestep)
        if x0.shape[1:] not in self._order:
            self._order[x0.shape[1:]] = self.unguided.order([""], x0)
        order, shape = self._order[x0.shape[1:]]
        laid = torch.empty(len(x0), shape.numel(), dtype=x0.dtype, device=x0.device)
        laid = laid.index_copy(1, order.flatten(), x0.flatten(1)).view(-1, *shape)
        if laid.dim() == 5:  # a video
            frames = laid.shape[2]
            of_frames = [v.repeat_interleave(frames, 0) for v in (states, timestep.reshape(-1).expand(len(x0)))]
            r = self.network(laid.transpose(1, 2).flatten(0, 1), *of_frames)
            r = r.unflatten(0, (-1, frames)).transpose(1, 2)
        else:
            r = self.network(laid, states, timestep)
        return r.flatten(1)[:, order.flatten()].view(x0.shape)


@dataclass(frozen=True)
class Context:
    """A pipeline opened with a relational network.

    Attributes:
        opened: as it is run; of a process with betas its scheduler is DDIM's or DDPM's.
        unguided: the same without guidance, which says what the network is told.
        network: on states.
        shift: the kind of k_t.
        scale: multiplies r; 0 is exactly the plain pipeline.
        eta: of the opened pipeline's steps.
    """

    opened: Opened
    unguided: Opened
    network: Network
    shift: str
    scale: float = 1.0
    eta: float = 0.0

    @classmethod
    def of(
        cls,
        pipe: Any,
        network: RelationalNetwork,
        shift: str,
        *,
        ancestral: bool = False,
        eta: float = 0.0,
        scale: float = 1.0,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        call: Mapping[str, Any] | None = None,
    ) -> Context:
        """A pipeline with a network in its process.

        Args:
            ancestral: DDPM instead of DDIM.
            call: further arguments of the pipeline's own call.

        Raises:
            InputError: for a pipeline that cannot be opened, or whose process has no such steps.
        """
        check_seams(pipe)
        if not 0 <= eta <= 1:
            raise InputError(f"eta must be in [0, 1], not {eta}")
        if eta and ancestral:
            raise InputError("eta is not used beside `ancestral`, which is DDPM; give one of them")
        scheduler = ddim_of(pipe, ContextDDPMScheduler if ancestral else ContextDDIMScheduler, shift=shift)
        if scheduler is None and (ancestral or eta):
            raise InputError(
                f"the steps of {a_kind(pipe.scheduler)} take no noise here; leave out `ancestral`, and eta"
            )
        ShiftedProcess(scheduler or pipe.scheduler, shift)  # whose levels must be known
        guided = call_arguments(pipe, guidance_scale=guidance_scale, num_inference_steps=num_inference_steps, call=call)
        if eta:
            guided["eta"] = eta
        opened, unguided = Opened(pipe, scheduler=scheduler, **guided), unguided_of(pipe, scheduler, guided)
        return cls(opened, unguided, OfStates(network, unguided), shift, scale, 1.0 if ancestral else eta)

    def relation(self, prompts: Sequence[str]) -> Relation:
        """r of these prompts, on states."""
        with torch.no_grad():
            return relation_of(self.network, text_states(self.unguided, prompts), self.scale)

    def drift(self, prompts: Sequence[str], like: torch.Tensor) -> Drift:
        """What the shift adds to each step from such a state."""
        return self._drift(self.relation(prompts), self.opened.schedule(prompts, like))

    def _drift(self, relation: Relation, scheduler: Any) -> Drift:
        """What r adds to each step of the grid that a scheduler was set to."""
        grid = levels(scheduler)
        times = [*(_number(t) for t in scheduler.timesteps), -1]
        process = ShiftedProcess(scheduler, self.shift)

        def drift(x_t: torch.Tensor, output: torch.Tensor, step: int) -> torch.Tensor:
            now, after = grid[step], grid[step + 1]
            x0 = now.x0(x_t, output)
            return process.correction(relation, x0, x_t, (times[step], times[step + 1]), (now, after), self.eta)

        return drift

    @torch.no_grad()
    def run(
        self,
        prompts: Sequence[str],
        each: Generators,
        *,
        noise: torch.Tensor | None = None,
        after_step: Callable[[Step, torch.Tensor], torch.Tensor] | None = None,
        output_type: str = "latent",
    ) -> Any:
        """States [B,...], or what the pipeline's own call makes of them.

        Args:
            noise: the state to begin with; drawn if None.
            after_step: is given each step and the state after it, and gives that state or another.
            output_type: "latent" for states, else as of the pipeline's own call.
        """
        drift: Drift | None = None
        relation = self.relation(prompts) if self.scale else None  # beforehand: it runs the pipeline as well
        if self.scale and self.shift == "prior":
            noise = self.moved_start(prompts, self.opened.noise(prompts, each) if noise is None else noise)

        def on_step(step: Step) -> torch.Tensor:
            nonlocal drift
            if relation is None:
                new = step.next()
            else:
                drift = drift or self._drift(relation, step.scheduler)
                new = plain_step(step) + drift(step.latents, _given(step.output), step.index)
            return new if after_step is None else after_step(step, new)

        if output_type == "latent":
            state = self.opened.rollout(prompts, each, noise=noise, on_step=on_step)
            check_finite(state)
            return state
        with refusing_nan(self.opened.pipe):
            return self.opened.pictures(prompts, each, noise=noise, on_step=on_step, output_type=output_type)

    def moved_start(self, prompts: Sequence[str], noise: torch.Tensor) -> torch.Tensor:
        """z_T [B,...] around the mean at which the shift `prior` ends, k_T r: one more call of the denoiser.

        As in training, r is that of the network's unguided guess from x_T without a shift, which is z_T itself.
        """
        relation = self.relation(prompts)

        def leave(step: Step) -> None:
            time = _number(step.timestep)
            guess = levels(step.scheduler)[0].x0(noise.float(), _given(step.output).float())
            k = ShiftedProcess(step.scheduler, self.shift).shift_at(time, noise)
            raise Left((noise + k * relation(guess, time, time)[0]).to(noise.dtype))

        return self.unguided.rollout(prompts, _unused(prompts), noise=noise, on_step=leave)


def unguided_of(pipe: Any, scheduler: Any, given: Mapping[str, Any]) -> Opened:
    """A pipeline opened with the arguments of a call, but without its guidance and negative prompt."""
    left_out = ("num_inference_steps", "eta", "guidance_scale", "true_cfg_scale", "guidance_rescale")
    kept = {n: v for n, v in given.items() if n not in left_out and not n.startswith("negative_prompt")}
    return Opened(pipe, scheduler=scheduler, **without_guidance(pipe, int(given["num_inference_steps"]), kept))


def without_guidance(pipe: Any, num_inference_steps: int, call: Mapping[str, Any]) -> dict[str, Any]:
    """What `Opened` is given for an unguided run; some pipelines have no guidance at all."""
    told: dict[str, Any] = {"num_inference_steps": num_inference_steps, "call": call}
    try:
        return call_arguments(pipe, guidance_scale=1.0, **told)
    except InputError:
        return call_arguments(pipe, **told)


def plain_step(step: Step) -> torch.Tensor:
    """The state after a step without a shift: the scheduler's own, or of a solver of several steps, which looks back,
    that of the process.
    """
    if "solver_order" not in step.scheduler.config:
        return step.next()
    grid = levels(step.scheduler)
    now, after = grid[step.index], grid[step.index + 1]
    return transition(step.latents, _given(step.output), now, after)[0].to(step.latents)


def _given(output: torch.Tensor | None) -> torch.Tensor:
    assert output is not None, "the network has not run yet"
    return output


def _number(time: torch.Tensor) -> float:
    """A scheduler's time, whole if it is."""
    value = float(time)
    return int(value) if value.is_integer() else value


def _unused(prompts: Sequence[str]) -> list[torch.Generator]:
    """Generators of a run that draws nothing."""
    return [torch.Generator().manual_seed(0) for _ in prompts]


@torch.no_grad()
def generate_with_context(
    pipe: Any,
    network: RelationalNetwork,
    prompts: str | list[str],
    seeds: int | list[int],
    *,
    shift: str = "quadratic",
    ancestral: bool = False,
    num_inference_steps: int | None = 25,
    guidance_scale: float | None = 5.0,
    eta: float = 0.0,
    context_scale: float = 1.0,
    batch_size: int = 16,
    output_type: str = "pil",
    each: bool = False,
    progress: bool = False,
    call: Mapping[str, Any] | None = None,
) -> Any:
    """Pictures of every prompt with every seed, seeds varying fastest.

    Args:
        pipe: any pipeline that can be opened.
        num_inference_steps, guidance_scale: those of the pipeline's own call if None.
        context_scale: multiplies r; 0 is exactly the plain pipeline.
        each: one picture a prompt instead, each with its own of as many seeds.
        call: further arguments of the pipeline's own call.

    Raises:
        InputError: for a pipeline that cannot be opened, or a prompt that is empty or too long.
    """
    check_no_context(pipe)
    prompts, seeds = (
        ([prompts] if isinstance(prompts, str) else prompts),
        ([seeds] if isinstance(seeds, int) else seeds),
    )
    for text in prompts:
        check_prompt_length(pipe, text)
    context = Context.of(
        pipe,
        network,
        shift,
        ancestral=ancestral,
        eta=eta,
        scale=context_scale,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        call=call,
    )
    jobs = list(zip(prompts, seeds, strict=True)) if each else [(text, seed) for text in prompts for seed in seeds]
    out: list[Any] = []
    for start in tqdm(range(0, len(jobs), batch_size), desc="generate", disable=not progress):
        texts, numbers = zip(*jobs[start : start + batch_size], strict=True)
        out.extend(context.run(texts, generators(numbers), output_type=output_type))
    return out if output_type == "pil" else torch.stack(out)
