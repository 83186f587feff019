"""diffusers schedulers of the shifted process. Each is diffusers' own step plus the shift's correction.

As x0^ is explicit in every step, the shifted step is the plain one with the same x0^ plus a term that is linear in b
(`equations.correction`): with r = 0 the result is diffusers' own bit for bit.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch

# SchedulerMixin is not used here by name: a pipeline folder reloads its scheduler only if this module's namespace has
# it
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler, SchedulerMixin  # noqa: F401
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput

from accord.diffusion.process import rooted_eta
from accord.methods.context.equations import SHIFTS
from accord.methods.context.process import Relation, ShiftedProcess


class _Shifted:
    """What the three schedulers share: their process, and its marginal."""

    config: Any
    alphas_cumprod: torch.Tensor

    def _check_shift(self, shift: str) -> None:
        if shift not in SHIFTS:
            raise ValueError(f"shift must be one of {', '.join(SHIFTS)}, not {shift!r}")

    @property
    def process(self) -> ShiftedProcess:
        """This scheduler's process."""
        return ShiftedProcess(self, self.config.shift)

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
        return noisy if relation is None else self.process.moved(noisy, timesteps, relation)


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
            clean = s if t == int(self.timesteps[-1]) else None
            new, x0 = out.prev_sample, out.pred_original_sample
            out.prev_sample = new + self.process.correction(relation, x0, new, (t, s), eta=eta, clean=clean)
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
            new, x0 = out.prev_sample, out.pred_original_sample
            out.prev_sample = new + self.process.correction(relation, x0, new, (t, s), eta=1.0)
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
            clean = s if t == int(self.timesteps[0]) else None
            new, x0 = out.prev_sample, out.pred_original_sample
            out.prev_sample = new + self.process.correction(relation, x0, new, (s, t), clean=clean)
        return out if return_dict else (out.prev_sample, out.pred_original_sample)
