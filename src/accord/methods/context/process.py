"""A pipeline's process with a shift: x_t = a_t x0 + k_t r + s_t e, at the scheduler's own times.

Letters in shapes: B states; a state is what the pipeline's loop denoises, [B,...].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from accord.diffusion.process import Level, kind_of, level_at
from accord.methods.context.equations import correction, network_target, shift_coefficient

# (x0^ [B,...], t, s) -> r_phi(x0^, c, t) and r_phi(x0^, c, s), [B,...] each. A time below 0 is the clean end
Relation = Callable[[torch.Tensor, float, float], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class ShiftedProcess:
    """The process of a scheduler, and its shift.

    Attributes:
        scheduler: of the pipeline; its step is not used.
        shift: the kind of k_t.

    Raises:
        InputError: for a scheduler whose noise levels are not known.
    """

    scheduler: Any
    shift: str = "quadratic"

    def __post_init__(self) -> None:
        kind_of(self.scheduler)

    @property
    def first(self) -> int:
        """The first whole time at which there is noise: 0, for a flow 1."""
        return 0 if bool(self.level_at(0, torch.zeros(1)).s > 0) else 1

    @property
    def last(self) -> int:
        """How many whole times there are."""
        return int(self.scheduler.config.num_train_timesteps)

    def level_at(self, timestep: float | torch.Tensor, like: torch.Tensor) -> Level:
        """The level at a time, one for all or [B]; below 0 it is the clean end."""
        return level_at(self.scheduler, timestep, like)

    def shift_at(self, timestep: float | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """k_t, shaped to broadcast against `like`; 0 at the clean end for every kind, as x0 itself comes out."""
        k = shift_coefficient(self.level_at(timestep, like).a, self.shift)
        clean = torch.as_tensor(timestep, device=k.device).reshape(-1, *[1] * (k.dim() - 1)) < 0
        return torch.where(clean, torch.zeros_like(k), k)

    def moved(self, noisy: torch.Tensor, timesteps: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """x_t ~ q(x_t | x0, c) of one without a shift."""
        return noisy + (self.shift_at(timesteps.reshape(-1), noisy) * r.to(noisy)).to(noisy)

    def target(self, noisy: torch.Tensor, x0: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the network is trained to predict at shifted x_t."""
        return network_target(noisy, x0, self.level_at(timesteps.reshape(-1), noisy))

    def correction(
        self,
        relation: Relation,
        x0: torch.Tensor,
        like: torch.Tensor,
        times: tuple[float, float],
        steps: tuple[Level, Level] | None = None,
        eta: float = 0.0,
        clean: float | None = None,
    ) -> torch.Tensor:
        """What the shift adds to a plain step from t to s, in the type of `like`.

        Args:
            x0: the step's x0^.
            times: t and s.
            steps: their levels, if not those of `level_at`.
            clean: one of the times that counts as the clean end: trailing timesteps may end at step 0.
        """
        r_t, r_s = relation(x0, *times)
        k_t, k_s = (self.shift_at(-1 if time == clean else time, like) for time in times)
        now, after = steps or (self.level_at(times[0], like), self.level_at(times[1], like))
        return correction(k_t * r_t, k_s * r_s, now, after, eta).to(like)
