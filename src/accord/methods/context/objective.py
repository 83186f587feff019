"""The loss of training with context, for states of any pipeline and for the frames of a video.

    x_t = a_t x0 + k_t r_phi(x0, c, t) + s_t e,   loss = lambda_t |f(x_t, c, t) - x0|^2

phi's gradient flows through x_t (and, in another prediction type than x0, through the target, which is the same thing).

Letters in shapes: B states or frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from accord.methods.context.equations import exact_kl
from accord.methods.context.process import ShiftedProcess

# (x_t [n,...], t [n], their rows of the batch [n]) -> the denoiser's output there, float32 [n,...], with its graph
Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Shift = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (x0^ [B,...], t [B]) -> r_phi(x0^, c, t) [B,...]


@dataclass(frozen=True)
class ContextLoss:
    """The loss of denoiser and relational network on one batch.

    Attributes:
        process: that of the denoiser, with its shift.
        sees: whether r depends on the picture it is shown; one that does not is shown x0.
        kind: "mse" in the network's own prediction type, without lambda_t; "kl", the exact bound.
    """

    process: ShiftedProcess
    sees: bool
    kind: str = "mse"

    def __call__(
        self,
        x0: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        shift: Shift,
        predict: Predict,
        estimated: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss [], and r [B,...].

        Args:
            x0, noise: float32 [B,...].
            timesteps: int64 [B].
            shift: r of the captions.
            predict: the denoiser, told the captions too, or none where they are dropped.
            estimated: bool [B], whose r is that of the network's own x0^, as in sampling; of the others that of x0.
        """
        shown = self._shown(x0, noise, timesteps, predict, estimated)
        r = shift(shown, timesteps)
        noisy = self.process.moved(self._noised(x0, noise, timesteps), timesteps, r)
        output = predict(noisy, timesteps, torch.arange(len(x0)))
        if self.kind == "kl":
            return self.kl(x0, shown, noisy, output, timesteps, shift, r).mean(), r
        return (output - self.process.target(noisy, x0, timesteps)).square().mean(), r

    def _noised(self, x0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return self.process.level_at(timesteps, x0).noised(x0, noise)

    def _shown(
        self,
        x0: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        predict: Predict,
        estimated: torch.Tensor,
    ) -> torch.Tensor:
        """What r is shown: x0, or in rows that are `estimated` the guess of it."""
        rows = estimated.nonzero()[:, 0]
        # an r that is nothing, or that does not see the picture, is the same whatever it is shown
        if not self.sees or not len(rows):
            return x0
        if len(rows) == len(x0):  # as they lie in memory, on which last digits depend
            return self.guess(x0, noise, timesteps, rows, predict)
        return x0.index_copy(0, rows, self.guess(x0[rows], noise[rows], timesteps[rows], rows, predict))

    @torch.no_grad()
    def guess(
        self,
        x0: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        rows: torch.Tensor,
        predict: Predict,
    ) -> torch.Tensor:
        """The network's x0^ [n,...] from x_t without shift.

        In sampling r is given a guess too. With the true x0's shift in x_t the guess would hold part of the answer.
        """
        noisy = self._noised(x0, noise, timesteps)
        return self.process.level_at(timesteps, noisy).x0(noisy, predict(noisy, timesteps, rows))

    def kl(
        self,
        x0: torch.Tensor,
        shown: torch.Tensor,
        noisy: torch.Tensor,
        output: torch.Tensor,
        timesteps: torch.Tensor,
        shift: Shift,
        r_t: torch.Tensor,
    ) -> torch.Tensor:
        """The exact bound's term at t against t - 1, in nats an element [B,...]; at the first time half the square of
        x0 - x0^.

        `shown` is what r was shown, x0 itself or a guess held fixed, and r_t what it made of it.
        """
        process, first = self.process, self.process.first
        before = (timesteps - 1).clamp(min=first)
        predicted = process.level_at(timesteps, noisy).x0(noisy, output)
        k_t, k_s = process.shift_at(timesteps, noisy), process.shift_at(before, noisy)
        r_s = shift(shown, before)
        guessed_t, guessed_s = (shift(predicted, t) for t in (timesteps, before))
        # at the first time the two are one: the bound's reconstruction term, with unit variance
        now, after = process.level_at(timesteps.clamp(min=first + 1), noisy), process.level_at(before, noisy)
        inner = exact_kl(x0, predicted, k_t * r_t, k_s * r_s, k_t * guessed_t, k_s * guessed_s, now, after)
        at_first = (timesteps <= first).view(-1, *[1] * (x0.dim() - 1))
        return torch.where(at_first, (x0 - predicted).square() / 2, inner)
