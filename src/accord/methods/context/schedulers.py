"""diffusers schedulers of the shifted process. Each is diffusers' own step plus the shift's correction.

As x0^ is explicit in every step, the shifted step is the plain one with the same x0^ plus a term that is linear in b
(`equations.ddim_correction`, `ddpm_correction`): with r = 0 the result is diffusers' own bit for bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch

# SchedulerMixin is not used here by name: a pipeline folder reloads its scheduler only if this module's namespace has
# it
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler, SchedulerMixin  # noqa: F401
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput

from accord.diffusion.process import rooted_eta
from accord.diffusion.objective import ab_at, precise
from accord.methods.context.equations import (
    SHIFTS,
    ddim_correction,
    ddpm_correction,
    network_target,
    posterior_sigma,
    shift_coefficient,
)

# (x0^ [B,C,H,W], t, s) -> r_phi(x0^, c, t) and r_phi(x0^, c, s), [B,C,H,W] each. A step index below 0 is the clean end
Relation = Callable[[torch.Tensor, int, int], tuple[torch.Tensor, torch.Tensor]]


class _Shifted:
    """What the three schedulers share: k_t, the shifted marginal, and the training target."""

    config: Any
    alphas_cumprod: torch.Tensor

    def _check_shift(self, shift: str) -> None:
        if shift not in SHIFTS:
            raise ValueError(f"shift must be one of {', '.join(SHIFTS)}, not {shift!r}")

    def ab_at(self, timestep: int | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """ab at a step as in `objective.ab_at`; a tensor without dimensions, as in `timesteps`, is taken as an int."""
        many = isinstance(timestep, torch.Tensor) and timestep.dim() > 0
        return ab_at(self, timestep if many else int(timestep), like)

    def shift_at(self, timestep: int | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """k_t, shaped to broadcast against `like`; 0 at the clean end for every kind, as x0 itself comes out."""
        if not isinstance(timestep, torch.Tensor) and timestep < 0:
            return torch.zeros((), device=like.device, dtype=precise(like))
        return shift_coefficient(self.ab_at(timestep, like), self.config.shift)

    def add_noise(
        self,
        original_samples: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        relation: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x_t ~ q(x_t | x0, c): diffusers' own plus k_t r, r = `relation` [B,C,H,W]; timesteps int64 [B]."""
        # diffusers has one add_noise for all three, which its inverse scheduler lacks
        noisy = DDIMScheduler.add_noise(self, original_samples, noise, timesteps)  # type: ignore[arg-type]
        if relation is None:
            return noisy
        return noisy + (self.shift_at(timesteps.reshape(-1), noisy) * relation.to(noisy)).to(noisy)

    def get_target(self, noisy: torch.Tensor, original_samples: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the network is trained to predict at shifted x_t, in its own prediction type."""
        ab = self.ab_at(timesteps.reshape(-1), noisy)
        return network_target(noisy, original_samples, ab, self.config.prediction_type)


_S = TypeVar("_S", bound=_Shifted)


def _with_shift(cls: type[_S]) -> type[_S]:
    """Give it its diffusers parent's signature, from which configs are saved and loaded, with one more: `shift`."""
    parent: Any = cls.__mro__[2]
    its = [p for p in inspect.signature(parent.__init__).parameters.values() if p.kind is not p.VAR_KEYWORD]
    shift = inspect.Parameter("shift", inspect.Parameter.POSITIONAL_OR_KEYWORD, default="quadratic", annotation=str)
    signature = inspect.Signature([*its, shift])

    def __init__(self: _S, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        given.pop("self")
        self._check_shift(given.pop("shift"))
        # by keyword: what comes by position diffusers records as a default, which the next from_config drops
        parent.__init__(self, **given)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    cls.__init__ = register_to_config(__init__)  # type: ignore[method-assign]
    return cls


@_with_shift
class ContextDDIMScheduler(_Shifted, DDIMScheduler):
    """DDIM of the shifted process. `shift` is the kind of k_t; all else as in diffusers."""

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | None = None,
        variance_noise: torch.Tensor | None = None,
        return_dict: bool = True,
        relation: Relation | None = None,
    ) -> DDIMSchedulerOutput | tuple:
        """x_t to x_s. `relation` gives r at both steps from x0^; None is plain DDIM."""
        eta = rooted_eta(self, timestep, eta)
        out = super().step(
            model_output, timestep, sample, eta, use_clipped_model_output, generator, variance_noise, True
        )
        if relation is not None:
            t = int(timestep)
            s = t - self.config.num_train_timesteps // self.num_inference_steps
            last = t == int(
                self.timesteps[-1]
            )  # with trailing timesteps it may lead to step 0, which is then the clean end
            r_t, r_s = relation(out.pred_original_sample, t, s)
            ab_t, ab_s = self.ab_at(t, sample), self.ab_at(s, sample)
            b_t, b_s = self.shift_at(t, sample) * r_t, self.shift_at(-1 if last else s, sample) * r_s
            correction = ddim_correction(b_t, b_s, ab_t, ab_s, posterior_sigma(ab_t, ab_s, eta))
            out.prev_sample = out.prev_sample + correction.to(out.prev_sample)
        return out if return_dict else (out.prev_sample, out.pred_original_sample)


@_with_shift
class ContextDDPMScheduler(_Shifted, DDPMScheduler):
    """Ancestral sampling of the shifted process. `shift` is the kind of k_t; all else as in diffusers."""

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
        relation: Relation | None = None,
    ) -> DDPMSchedulerOutput | tuple:
        """x_t to x_s. `relation` gives r at both steps from x0^; None is plain DDPM."""
        out = super().step(model_output, timestep, sample, generator, True)
        if relation is not None:
            t, s = int(timestep), int(self.previous_timestep(timestep))
            r_t, r_s = relation(out.pred_original_sample, t, s)
            ab_t, ab_s = self.ab_at(t, sample), self.ab_at(s, sample)
            b_t, b_s = self.shift_at(t, sample) * r_t, self.shift_at(s, sample) * r_s
            out.prev_sample = out.prev_sample + ddpm_correction(b_t, b_s, ab_t, ab_s).to(out.prev_sample)
        return out if return_dict else (out.prev_sample, out.pred_original_sample)


@_with_shift
class ContextDDIMInverseScheduler(_Shifted, DDIMInverseScheduler):
    """DDIM inversion of the shifted process: from a picture to noise. `shift` is the kind of k_t."""

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        return_dict: bool = True,
        relation: Relation | None = None,
    ) -> DDIMSchedulerOutput | tuple:
        """x_s to x_t, s < t = `timestep`. `relation` gives r at both steps from x0^; None is plain inversion."""
        out = super().step(model_output, timestep, sample, True)
        if relation is not None:
            t, count = int(timestep), self.config.num_train_timesteps
            s = min(t - count // self.num_inference_steps, count - 1)
            first = t == int(
                self.timesteps[0]
            )  # as the last step of sampling: it may come from step 0, which is then the clean end
            r_s, r_t = relation(out.pred_original_sample, s, t)
            ab_s, ab_t = self.ab_at(s, sample), self.ab_at(t, sample)
            b_s, b_t = self.shift_at(-1 if first else s, sample) * r_s, self.shift_at(t, sample) * r_t
            correction = ddim_correction(b_s, b_t, ab_s, ab_t, torch.zeros_like(ab_s))
            out.prev_sample = out.prev_sample + correction.to(out.prev_sample)
        return out if return_dict else (out.prev_sample, out.pred_original_sample)
