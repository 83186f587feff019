"""The deterministic path between a video and its noise: the sampling step, and the inversion that undoes it.

    x_s = A x_t + B output(x_t) + correction                       s < t, -1 the clean end
    x_t = (x_s - B output(x_t) - correction) / A                   a fixed point

A and B are those of the plain step (`diffusion.process.affine`); the correction is what the context adds
(`context.equations.correction`), 0 without a relational network.

Letters in shapes: F frames, C h w of the latents, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from tqdm.auto import tqdm

from accord.diffusion.opened import set_grid, took_step
from accord.diffusion.process import affine
from accord.methods.context.network import RelationalNetwork
from accord.methods.context.process import ShiftedProcess
from accord.methods.context.sampling import of_rows, relation_of
from accord.methods.context.schedulers import ContextDDIMScheduler
from accord.methods.video.unet import Conditioning
from accord.methods.video.windows import VideoNetwork

Span = tuple[int, int]  # two neighbouring timesteps s < t


def spans(scheduler: ContextDDIMScheduler, num_inference_steps: int, strength: float) -> list[Span]:
    """The steps (s, t) from the clean end on, the first share `strength` of the schedule.

    Raises:
        InputError: for more steps than the scheduler can take.
    """
    set_grid(scheduler, scheduler.set_timesteps, num_inference_steps)
    times = sorted(int(t) for t in scheduler.timesteps)
    times = times[: max(1, round(strength * len(times)))]
    return list(zip([-1, *times[:-1]], times, strict=True))


@dataclass(frozen=True)
class Trajectory:
    """Steps along the path.

    Attributes:
        relation: None for the plain process.
        window: frames whose r is computed at once.
    """

    scheduler: ContextDDIMScheduler
    relation: RelationalNetwork | None
    window: int

    def step(self, x_t: torch.Tensor, output: torch.Tensor, span: Span, states: torch.Tensor) -> torch.Tensor:
        """x_s [F,C,h,w] from x_t and the network's (guided) output there, both [F,C,h,w]; text states [1,T,D] of r."""
        a, b = self._affine(x_t, span)
        return a * x_t + b * output + self._correction(output, x_t, span, states)

    def inverse(
        self,
        x_s: torch.Tensor,
        span: Span,
        states: torch.Tensor,
        predict: Callable[[torch.Tensor], torch.Tensor],
        iterations: int,
    ) -> torch.Tensor:
        """x_t [F,C,h,w] whose step leads to x_s, by rounds of the fixed point from x_s; one is ordinary DDIM inversion.

        `predict` gives the network's output at x_t.
        """
        a, b = self._affine(x_s, span)
        x = x_s
        for _ in range(iterations):
            output = predict(x)
            x = (x_s - b * output - self._correction(output, x, span, states)) / a
        return x

    @property
    def _process(self) -> ShiftedProcess:
        return self.scheduler.process

    def _affine(self, like: torch.Tensor, span: Span) -> tuple[torch.Tensor, torch.Tensor]:
        after, now = (self._process.level_at(t, like) for t in span)
        return affine(now, after)

    def _correction(self, output: torch.Tensor, x: torch.Tensor, span: Span, states: torch.Tensor) -> torch.Tensor:
        """What the context adds to a plain step, [F,C,h,w]."""
        if self.relation is None:
            return torch.zeros_like(x)
        s, t = span
        x0 = self._process.level_at(t, x).x0(x, output)
        parts = []
        for rows in torch.arange(len(x)).split(self.window):
            relation = relation_of(partial(of_rows, self.relation), list(states.expand(len(rows), -1, -1)))
            parts.append(self._process.correction(relation, x0[rows], x[rows], (t, s)))
        return torch.cat(parts)


@torch.no_grad()
def invert(
    network: VideoNetwork,
    trajectory: Trajectory,
    latents: torch.Tensor,
    source: Conditioning,
    steps: list[Span],
    iterations: int,
    progress: bool = False,
) -> list[torch.Tensor]:
    """From clean latents [F,C,h,w] towards noise with the source prompt: float32 latents on the CPU at each step, the
    clean ones first.
    """
    x = latents.float()
    path = [x.cpu()]  # of a long video more than a GPU would hold beside the network
    for span in tqdm(steps, desc="invert", disable=not progress):

        def predict(x_t: torch.Tensor, t: int = span[1]) -> torch.Tensor:
            return network(x_t, t, [source])[0]

        x = trajectory.inverse(x, span, source.states, predict, iterations)
        path.append(x.cpu())
        took_step(len(x), len(steps))
    return path
