"""diffusers schedulers of the shifted process. Each is diffusers' own step plus the shift's correction.

As x0^ is explicit in every step, the shifted step is the plain one with the same x0^ plus a term that is linear in b
(`equations.ddim_correction`, `ddpm_correction`): with r = 0 the result is diffusers' own bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

# SchedulerMixin is not used here by name: a pipeline folder reloads its scheduler only if this module's namespace has
# it
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler, SchedulerMixin  # noqa: F401
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput

from accord.diffusion.loop import rooted_eta
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


class ContextDDIMScheduler(_Shifted, DDIMScheduler):
    """DDIM of the shifted process. `shift` is the kind of k_t; all else as in diffusers."""

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
        shift: str = "quadratic",
    ) -> None:
        self._check_shift(shift)
        # by keyword: what comes by position diffusers records as a default, which the next from_config drops
        DDIMScheduler.__init__(
            self,
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
            clip_sample=clip_sample,
            set_alpha_to_one=set_alpha_to_one,
            steps_offset=steps_offset,
            prediction_type=prediction_type,
            thresholding=thresholding,
            dynamic_thresholding_ratio=dynamic_thresholding_ratio,
            clip_sample_range=clip_sample_range,
            sample_max_value=sample_max_value,
            timestep_spacing=timestep_spacing,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        )

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


class ContextDDPMScheduler(_Shifted, DDPMScheduler):
    """Ancestral sampling of the shifted process. `shift` is the kind of k_t; all else as in diffusers."""

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        variance_type: str = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        shift: str = "quadratic",
    ) -> None:
        self._check_shift(shift)
        DDPMScheduler.__init__(
            self,
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
            variance_type=variance_type,
            clip_sample=clip_sample,
            prediction_type=prediction_type,
            thresholding=thresholding,
            dynamic_thresholding_ratio=dynamic_thresholding_ratio,
            clip_sample_range=clip_sample_range,
            sample_max_value=sample_max_value,
            timestep_spacing=timestep_spacing,
            steps_offset=steps_offset,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        )

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


class ContextDDIMInverseScheduler(_Shifted, DDIMInverseScheduler):
    """DDIM inversion of the shifted process: from a picture to noise. `shift` is the kind of k_t."""

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        clip_sample_range: float = 1.0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
        shift: str = "quadratic",
    ) -> None:
        self._check_shift(shift)
        DDIMInverseScheduler.__init__(
            self,
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
            clip_sample=clip_sample,
            set_alpha_to_one=set_alpha_to_one,
            steps_offset=steps_offset,
            prediction_type=prediction_type,
            clip_sample_range=clip_sample_range,
            timestep_spacing=timestep_spacing,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        )

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
