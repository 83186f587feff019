"""diffusers schedulers of the shifted process. Each is diffusers' own step plus the shift's correction.

As x0^ is explicit in every step, the shifted step is the plain one with the same x0^ plus a term that is linear in b
(`equations.correction`): with r = 0 the result is diffusers' own bit for bit.
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

from accord.diffusion.process import Level, level_at, rooted_eta
from accord.methods.context.equations import SHIFTS, correction, network_target, shift_coefficient

# (x0^ [B,C,H,W], t, s) -> r_phi(x0^, c, t) and r_phi(x0^, c, s), [B,C,H,W] each. A step index below 0 is the clean end
Relation = Callable[[torch.Tensor, int, int], tuple[torch.Tensor, torch.Tensor]]


class _Shifted:
    """What the three schedulers share: k_t, the shifted marginal, and the training target."""

    config: Any
    alphas_cumprod: torch.Tensor

    def _check_shift(self, shift: str) -> None:
        if shift not in SHIFTS:
            raise ValueError(f"shift must be one of {', '.join(SHIFTS)}, not {shift!r}")

    def level_at(self, timestep: int | torch.Tensor, like: torch.Tensor) -> Level:
        """The level at a step, one for all or [B]; below 0 it is the clean end."""
        return level_at(self, timestep, like)

    def shift_at(self, timestep: int | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """k_t, shaped to broadcast against `like`; 0 at the clean end for every kind, as x0 itself comes out."""
        k = shift_coefficient(self.level_at(timestep, like).a, self.config.shift)
        clean = torch.as_tensor(timestep, device=k.device).reshape(-1, *[1] * (k.dim() - 1)) < 0
        return torch.where(clean, torch.zeros_like(k), k)

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
        return network_target(noisy, original_samples, self.level_at(timesteps, noisy))

    def correction(
        self,
        relation: Relation,
        x0: torch.Tensor,
        sample: torch.Tensor,
        t: int,
        s: int,
        eta: float = 0.0,
        clean: int | None = None,
    ) -> torch.Tensor:
        """What the shift adds to a plain step from t to s, in the type of `sample`.

        Args:
            x0: the step's x0^.
            clean: one of the two that counts as the clean end: trailing timesteps may end at step 0.
        """
        r_t, r_s = relation(x0, t, s)
        k_t, k_s = (self.shift_at(-1 if step == clean else step, sample) for step in (t, s))
        now, after = self.level_at(t, sample), self.level_at(s, sample)
        return correction(k_t * r_t, k_s * r_s, now, after, eta).to(sample)


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
            added = self.correction(relation, out.pred_original_sample, out.prev_sample, t, s, eta, clean)
            out.prev_sample = out.prev_sample + added
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
            added = self.correction(relation, out.pred_original_sample, out.prev_sample, t, s, eta=1.0)
            out.prev_sample = out.prev_sample + added
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
            added = self.correction(relation, out.pred_original_sample, out.prev_sample, s, t, clean=clean)
            out.prev_sample = out.prev_sample + added
        return out if return_dict else (out.prev_sample, out.pred_original_sample)
