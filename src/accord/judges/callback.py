"""Judge a picture while a plain pipeline of diffusers makes it: `callback_on_step_end=JudgeCallback(...)`.

At the end of a step a pipeline hands over its latents, and nothing of what the network said. So for a step that is to
be judged, the scheduler's `step` is seen once: what it is given goes on as it is, and gives x0^, the picture that the
network expects (`Level.x0`). The pipeline's own call decodes it.

This judges and may end a run. It cannot repair one: a repair begins from noise again (`accord.realign`), and attention
is out of a callback's reach (`accord.modulated` has it, with a pipeline opened by its own call).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.callbacks import PipelineCallback

from accord.data.images import fit
from accord.diffusion.opened import Opened
from accord.diffusion.process import kind_of, levels
from accord.judges.diagnosis import align
from accord.judges.loading import load_judge
from accord.judges.protocol import Answers, Judge
from accord.judges.questions import as_judge
from accord.types import Alignment, InputError, a_kind


@dataclass(frozen=True)
class Seen:
    """What was judged after one step.

    Attributes:
        index, count: number of the step, from 0, and of all steps.
        timestep: of the step, in the scheduler's own units.
        images: x0^, [B,3,H,W] in 0..1.
        alignments: one a picture.
    """

    index: int
    count: int
    timestep: float
    images: torch.Tensor = field(repr=False)
    alignments: tuple[Alignment, ...]


class JudgeCallback(PipelineCallback):
    """A callback that judges what the pictures are about to become, and can end a run that goes wrong.

        watch = accord.JudgeCallback(prompt, at=(0.5,), stop_below=0.3)
        image = pipe(prompt, callback_on_step_end=watch).images[0]
        watch.stopped, watch.seen[-1].alignments

    The run stays bit for bit what it is without it, until it is ended. It works with `MultiPipelineCallbacks` too. It
    costs a pass through the VAE and the judge for each of `at`, and one through the text encoders for each run.

    Args:
        prompts: those of the pipeline's call, one or several.
        judge: folder or hub id for `accord.load_judge`, or a judge; the embedded captioner, for the lab's pipeline
            alone, if None.
        at: shares of the steps after which to judge, in (0, 1). The first step is never one: nothing was handed over
            before it.
        stop_below: ends the run once each of its pictures has an alignment below this; what the call then returns is as
            noisy as the state was, and `seen[-1].images` is what was expected. None never ends one.
        call: of the pipeline's call, what decoding depends on: height and width where it is not given its default.

    Attributes:
        seen: a `Seen` for each step that was judged in the latest run.
        stopped: whether that run was ended.

    Raises:
        InputError: for `at` or `stop_below` out of range; while the pipeline runs, for prompts that are not as many, a
            scheduler whose noise levels are not known, or a pipeline that cannot be ended or opened.
    """

    def __init__(
        self,
        prompts: str | Sequence[str],
        judge: str | Judge | Answers | None = None,
        at: Sequence[float] = (0.5,),
        stop_below: float | None = None,
        **call: Any,
    ) -> None:
        if not at or not all(0 < share < 1 for share in at):
            raise InputError(f"at must be shares of the steps in (0, 1), not {list(at)}")
        if stop_below is not None and not 0 < stop_below <= 1:
            raise InputError(f"stop_below must be in (0, 1], not {stop_below}")
        self.prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        own = load_judge(judge) if judge is None or isinstance(judge, str) else judge
        self.judge, self.at, self.stop_below, self.call = as_judge(own), tuple(at), stop_below, call
        self.seen: list[Seen] = []
        self.stopped = False
        self._due: set[int] = set()
        self._opened: Opened | None = None
        self._caught: dict[str, Any] | None = None

    @property
    def tensor_inputs(self) -> list[str]:
        return ["latents"]

    def callback_fn(
        self, pipeline: Any, step_index: int, timesteps: torch.Tensor, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """What diffusers calls at the end of each step; it gives back what it was given."""
        count = getattr(pipeline, "num_timesteps", len(pipeline.scheduler.timesteps))
        if step_index == 0:
            self._begin(pipeline, count)
        if self._caught is not None and step_index in self._due:
            self._judge(pipeline, step_index, count, float(torch.as_tensor(timesteps).flatten()[0]))
        if step_index + 1 in self._due and not self.stopped:
            self._catch(pipeline.scheduler)
        return callback_kwargs

    def _begin(self, pipeline: Any, count: int) -> None:
        """Of a run of so many steps."""
        kind_of(pipeline.scheduler)  # refuses one without noise levels
        if self.stop_below is not None and not hasattr(pipeline, "interrupt"):
            raise InputError(f"{a_kind(pipeline)} cannot be ended between its steps; leave stop_below out")
        if count < 2:
            raise InputError("a run of one step has nothing to judge on its way; take at least two steps")
        self.seen, self.stopped, self._caught = [], False, None
        self._due = {min(max(round(share * count) - 1, 1), count - 1) for share in self.at}
        self._opened = Opened(pipeline, count, **self.call)

    def _catch(self, scheduler: Any) -> None:
        """Keep what the next call of the scheduler's step is given. The hand takes itself off before the step runs."""
        own, had = scheduler.step, scheduler.__dict__.get("step")

        @functools.wraps(own)
        def step(*args: Any, **kwargs: Any) -> Any:
            if had is None:
                object.__delattr__(scheduler, "step")
            else:
                object.__setattr__(scheduler, "step", had)
            self._caught = dict(inspect.signature(own).bind(*args, **kwargs).arguments)
            return own(*args, **kwargs)

        object.__setattr__(scheduler, "step", step)

    @torch.no_grad()
    def _judge(self, pipeline: Any, index: int, count: int, timestep: float) -> None:
        assert self._caught is not None and self._opened is not None
        caught, self._caught = self._caught, None
        output, state = caught["model_output"], caught["sample"]
        prompts = self._prompts_of(len(state))
        level = _level(pipeline.scheduler, caught["timestep"]).to(state)
        clean = level.x0(state.to(level.a.dtype), output.to(level.a.dtype)).to(state.dtype)
        images = self._opened.decode(prompts, clean).float()
        size = (images.shape[-2], images.shape[-1]) if self.judge.any_size else self.judge.image_size
        found = align(fit(images, size), prompts, self.judge, captions=False)
        self.seen.append(Seen(index, count, timestep, images, tuple(found)))
        limit = self.stop_below
        if limit is not None and all(a.overall is not None and a.overall < limit for a in found):
            self.stopped = pipeline._interrupt = True

    def _prompts_of(self, pictures: int) -> list[str]:
        """One a picture, in the order of the pipeline's: each prompt's pictures follow one another."""
        each, rest = divmod(pictures, len(self.prompts) or 1)
        if rest or not self.prompts:
            raise InputError(
                f"the pipeline makes {pictures} pictures and prompts are {len(self.prompts)}; give those of its call"
            )
        return [prompt for prompt in self.prompts for _ in range(each)]


def _level(scheduler: Any, timestep: Any) -> Any:
    """The noise level of a step that a scheduler was set to."""
    time = torch.as_tensor(timestep).flatten()[:1].cpu().double()
    index = int((scheduler.timesteps.cpu().double() - time).abs().argmin())
    return levels(scheduler)[index]
