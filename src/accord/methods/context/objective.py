"""The loss of training with context, for pictures and for the frames of a video.

    x_t = sqrt(ab_t) x0 + k_t r_phi(x0, c, t) + sqrt(1 - ab_t) e,   loss = lambda_t |f(x_t, c, t) - x0|^2

phi's gradient flows through x_t (and, in another prediction type than x0, through the target, which is the same thing).

Letters in shapes: B pictures or frames, C h w of the latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from accord.diffusion.loop import denoise
from accord.diffusion.pipelines import Conditioning, Pipeline
from accord.methods.context.equations import exact_kl
from accord.methods.context.network import RelationalNetwork
from accord.methods.context.schedulers import ContextDDIMScheduler


@dataclass(frozen=True)
class ContextLoss:
    """The loss of denoiser and relational network on one batch.

    Attributes:
        relation: None is r = 0, the plain process.
        kind: "mse" in the network's own prediction type, without lambda_t; "kl", the exact bound.
    """

    pipe: Pipeline
    scheduler: ContextDDIMScheduler
    relation: RelationalNetwork | None
    kind: str = "mse"

    def __call__(
        self,
        x0: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        caption: Conditioning,
        conditioning: Conditioning,
        estimated: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss [], and r [B,C,h,w].

        Args:
            x0, noise: float32 [B,C,h,w].
            timesteps: int64 [B].
            caption: what r is conditioned on.
            conditioning: what the denoiser is conditioned on: the caption too, or none where it is dropped.
            estimated: bool [B], whose r is that of the network's own x0^, as in sampling; of the others that of x0.
        """
        shown = self._shown(x0, noise, timesteps, conditioning, estimated)
        r = self._r(shown, caption, timesteps)
        noisy = self.scheduler.add_noise(x0, noise, timesteps, relation=r)
        output = self._output(noisy, timesteps, conditioning)
        if self.kind == "kl":
            return self.kl(x0, shown, noisy, output, timesteps, caption, r).mean(), r
        return (output - self.scheduler.get_target(noisy, x0, timesteps)).square().mean(), r

    def _r(self, x0: torch.Tensor, caption: Conditioning, timesteps: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x0) if self.relation is None else self.relation(x0, caption.states, timesteps)

    def _output(self, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        return denoise(self.pipe, self.scheduler, noisy.to(self.pipe.unet.dtype), timesteps, conditioning).float()

    def _shown(
        self,
        x0: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        estimated: torch.Tensor,
    ) -> torch.Tensor:
        """What r is shown: x0, or in rows that are `estimated` the guess of it."""
        # an r that is nothing, or that does not see the picture, is the same whatever it is shown
        if self.relation is None or not (self.relation.config.gain and self.relation.config.use_image):
            return x0
        if estimated.all():
            return self.guess(x0, noise, timesteps, conditioning)
        rows = estimated.nonzero()[:, 0]
        if not len(rows):
            return x0
        return x0.index_copy(0, rows, self.guess(x0[rows], noise[rows], timesteps[rows], conditioning.rows(rows)))

    @torch.no_grad()
    def guess(
        self, x0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The network's x0^ [B,C,h,w] from x_t without shift.

        In sampling r is given a guess too. With the true x0's shift in x_t the guess would hold part of the answer.
        """
        noisy = self.scheduler.add_noise(x0, noise, timesteps)
        output = self._output(noisy, timesteps, conditioning)
        return self.scheduler.level_at(timesteps, noisy).x0(noisy, output)

    def kl(
        self,
        x0: torch.Tensor,
        shown: torch.Tensor,
        noisy: torch.Tensor,
        output: torch.Tensor,
        timesteps: torch.Tensor,
        caption: Conditioning,
        r_t: torch.Tensor,
    ) -> torch.Tensor:
        """The exact bound's term at t against t - 1, in nats a latent element [B,C,h,w]; at t = 0 half the square of x0
        - x0^.

        `shown` is what r was shown, x0 itself or a guess held fixed, and r_t what it made of it.
        """
        scheduler = self.scheduler
        before = (timesteps - 1).clamp(min=0)
        predicted = scheduler.level_at(timesteps, noisy).x0(noisy, output)
        k_t, k_s = scheduler.shift_at(timesteps, noisy), scheduler.shift_at(before, noisy)
        r_s = self._r(shown, caption, before)
        guessed_t, guessed_s = (self._r(predicted, caption, t) for t in (timesteps, before))
        # at t = 0 the two steps are one: the bound's reconstruction term, with unit variance
        first = (timesteps == 0)[:, None, None, None]
        now, after = scheduler.level_at(timesteps.clamp(min=1), noisy), scheduler.level_at(before, noisy)
        inner = exact_kl(x0, predicted, k_t * r_t, k_s * r_s, k_t * guessed_t, k_s * guessed_s, now, after)
        return torch.where(first, (x0 - predicted).square() / 2, inner)
