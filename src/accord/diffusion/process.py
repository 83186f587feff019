r"""The process that a pipeline runs backwards, written once for all of them.

    x_t = a_t x0 + s_t e

Variance-preserving (DDIM, DPM++): a^2 + s^2 = 1. Variance-exploding (Euler's states): a = 1. Flow: a = 1 - s. The
pipeline's scheduler gives the grid; a step from one level to the next is the same for all three:

    (12) x_s = a_s x0^ + sqrt(s_s^2 - std^2) e^ + std z
    (16) std = eta s_s sqrt(1 - (a_t s_s / (a_s s_t))^2)

Source: DDIM (arXiv 2010.02502), equations (12) and (16), with any a and s. eta = 0 is the step of DDIM, Euler and flow
matching's Euler, eta = 1 the exact posterior (DDPM, Euler ancestral). For flow it is exact and finite where the
Euler-Maruyama step of Flow-GRPO (arXiv 2505.05470) leaves too much noise; its noise level is sqrt(2) eta for small
steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler

from accord.types import InputError, a_kind

Kind = Literal["epsilon", "v_prediction", "sample", "velocity"]
KINDS: dict[str, Kind] = {
    "epsilon": "epsilon",
    "v_prediction": "v_prediction",
    "sample": "sample",
    "flow_prediction": "velocity",
}

# (x_t [B,...], the network's output there, number of the step) -> what a method adds to the plain step
Drift = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Level:
    """One level of noise: x_t = a x0 + s e, and what the network predicts there.

    Attributes:
        a, s: float32 tensors that broadcast against the latents.
        kind: epsilon, v_prediction (a e - s x0), sample (x0), or velocity (e - x0, for flow).
        exploding: whether states have the variance 1 + s^2 (Euler's), which the network is given divided out.
    """

    a: torch.Tensor
    s: torch.Tensor
    kind: Kind
    exploding: bool = False

    def noised(self, x0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """x_t, in the type of x0."""
        return (self.a * x0 + self.s * noise).to(x0.dtype)

    def target(self, x0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """What the network is trained to say at x_t. Source of v: arXiv 2202.00512, appendix D."""
        if self.kind == "epsilon":
            return noise
        if self.kind == "velocity":
            return noise - x0
        if self.kind == "v_prediction":
            return (self.a * noise - self.s * x0) / self._norm
        return x0

    def x0(self, x_t: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """x0^ out of the network's output at x_t."""
        if self.kind == "epsilon":
            return (x_t - self.s * output) / self.a
        if self.kind == "velocity":
            return x_t - self.s * output
        if self.kind == "v_prediction":
            return (self.a * (x_t / self._norm) - self.s * output) / self._norm
        return output

    def noise(self, x_t: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """e^ out of the network's output at x_t."""
        if self.kind == "epsilon":
            return output
        if self.kind == "velocity":
            return x_t + self.a * output
        if self.kind == "v_prediction":
            return (self.a * output + self.s * (x_t / self._norm)) / self._norm
        return (x_t - self.a * output) / self.s

    @property
    def _norm(self) -> torch.Tensor:
        """The root of a^2 + s^2; exactly 1 where the process preserves the variance."""
        return (1 + self.s**2).sqrt() if self.exploding else torch.ones_like(self.s)

    def to(self, like: torch.Tensor) -> Level:
        """On the device of `like`, in float32 at least: in bfloat16 a near 1 rounds to 1."""
        kind = torch.promote_types(like.dtype, torch.float32)
        return Level(self.a.to(like.device, kind), self.s.to(like.device, kind), self.kind, self.exploding)


def transition(
    x_t: torch.Tensor, output: torch.Tensor, now: Level, after: Level, eta: float | torch.Tensor = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of x_s given x_t: equations (12) and (16).

    Args:
        x_t, output: the state and the guided output of the network there, [B,...].
        now, after: the levels t and s.
        eta: 0 for a step without noise, 1 for the exact posterior.

    Returns:
        the mean, [B,...], and the deviation, which broadcasts against it.
    """
    std, toward_noise = spread(now, after, eta)
    return after.a * now.x0(x_t, output) + toward_noise * now.noise(x_t, output), std


def spread(now: Level, after: Level, eta: float | torch.Tensor = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """How the noise of x_s is made up: the deviation of new noise (16), and what is left of e^ in the mean (12)."""
    # at the first step of a zero terminal SNR a_t is 0, at the last step s_s is
    shrink = now.a * after.s / (after.a * now.s)
    std = eta * after.s * (1 - shrink**2).clamp(min=0).sqrt()
    return std, (after.s**2 - std**2).clamp(min=0).sqrt()


def affine(now: Level, after: Level) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B of a step without noise, x_s = A x_t + B output: `transition` is linear in both.

    Solved for x_t it is the exact inverse of the step, once the output at x_t is known: that is a fixed point.
    """
    one = torch.ones_like(now.a)
    return transition(one, 0 * one, now, after)[0], transition(0 * one, one, now, after)[0]


def levels(scheduler: Any) -> list[Level]:
    """The levels of the grid that a scheduler was set to, and the one after the last step: n + 1.

    Raises:
        InputError: for a scheduler whose process is none of the three.
    """
    kind = kind_of(scheduler)
    n = len(scheduler.timesteps)
    if _has_sigmas(scheduler):
        sigmas = torch.as_tensor(scheduler.sigmas).detach().cpu().float()[: n + 1]
        if len(sigmas) == n:
            sigmas = torch.cat([sigmas, sigmas.new_zeros(1)])
        return [_of_sigma(scheduler, sigma, kind) for sigma in sigmas]
    ab = [scheduler.alphas_cumprod[int(t)] for t in scheduler.timesteps]
    ab.append(_clean_end(scheduler))
    return [of_ab(x.detach().cpu().float(), kind) for x in ab]


def level_at(scheduler: Any, timestep: torch.Tensor | float, like: torch.Tensor) -> Level:
    """The level at any time, one for all or [B], in the scheduler's own units; it broadcasts against `like`, [B,...].

    Below 0 it is the clean end: without noise, unless the scheduler says otherwise (`final_alpha_cumprod`).

    Raises:
        InputError: for a scheduler whose process is none of the three.
    """
    kind = kind_of(scheduler)
    t = torch.as_tensor(timestep, dtype=torch.float32).reshape(-1, *[1] * (like.dim() - 1)).cpu()
    if _is_flow(scheduler):
        return _of_sigma(scheduler, t.clamp(min=0) / scheduler.config.num_train_timesteps, kind).to(like)
    ab = _precise(scheduler.alphas_cumprod)
    low = t.floor().long().clamp(0, len(ab) - 1)
    if _has_sigmas(scheduler):  # between two steps sigma is interpolated, as the schedulers do
        sigmas = ((1 - ab) / ab).sqrt()
        sigma = torch.lerp(sigmas[low], sigmas[(low + 1).clamp(max=len(ab) - 1)], t - low)
        return _of_sigma(scheduler, torch.where(t < 0, 0 * sigma, sigma), kind).to(like)
    return of_ab(torch.where(t < 0, _clean_end(scheduler).to(ab), ab[low]), kind).to(like)


def _clean_end(scheduler: Any) -> torch.Tensor:
    """The product of the alphas after the last step; diffusers calls it initial where the process is inverted."""
    end = getattr(scheduler, "final_alpha_cumprod", getattr(scheduler, "initial_alpha_cumprod", 1.0))
    return torch.as_tensor(end)


def _precise(values: torch.Tensor) -> torch.Tensor:
    """On the CPU, in float32 at least."""
    return values.detach().to("cpu", torch.promote_types(values.dtype, torch.float32))


def kind_of(scheduler: Any) -> Kind:
    """What a network under this scheduler predicts.

    Raises:
        InputError: for a scheduler whose process is none of the three.
    """
    if not hasattr(scheduler, "alphas_cumprod") and not _is_flow(scheduler):
        raise InputError(
            f"{a_kind(scheduler)} has no betas and is no flow, so its noise levels are not known; use a "
            "pipeline with DDIM, Euler, DPM++ or flow matching"
        )
    named = scheduler.config.get("prediction_type")
    if named is None and _is_flow(scheduler):
        return "velocity"
    if named not in KINDS:
        raise InputError(f"the prediction_type {named!r} of the {type(scheduler).__name__} is not known here")
    return KINDS[named]


def _is_flow(scheduler: Any) -> bool:
    """Whether the states are (1 - s) x0 + s e; flow matching's own schedulers have no betas and a shift."""
    config = scheduler.config
    flow_sigmas = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return bool(flow_sigmas) or (hasattr(scheduler, "sigmas") and "beta_schedule" not in config and "shift" in config)


def _has_sigmas(scheduler: Any) -> bool:
    return getattr(scheduler, "sigmas", None) is not None


def _of_sigma(scheduler: Any, sigma: torch.Tensor, kind: Kind) -> Level:
    """The level of one of a scheduler's own sigmas."""
    if _is_flow(scheduler):
        return Level(1 - sigma, sigma, kind)
    if is_exploding(scheduler):
        return Level(torch.ones_like(sigma), sigma, kind, exploding=True)
    a = 1 / (1 + sigma**2).sqrt()  # DPM++ and UniPC name the ratio s / a their sigma
    return Level(a, sigma * a, kind)


def is_exploding(scheduler: Any) -> bool:
    """Whether the states are x0 + s e: Euler's kind, which scale what the network is given.

    The solvers with a ratio of the two (DPM++, UniPC, DEIS) turn it into a and s by a method of their own.
    """
    if not _has_sigmas(scheduler) or _is_flow(scheduler):
        return False
    return not hasattr(scheduler, "_sigma_to_alpha_sigma_t")


def of_ab(ab: torch.Tensor, kind: Kind) -> Level:
    """The level of a variance-preserving process at which the product of the alphas is `ab`."""
    return Level(ab.sqrt(), (1 - ab).sqrt(), kind)


def rooted_eta(scheduler: Any, timestep: Any, eta: float) -> float:
    """`eta`, or the little less of it with which DDIM's step is real.

    A step takes the root of 1 - ab_s - sigma^2 (DDIM, arXiv 2010.02502, (12)). At eta 1 from a step without any signal
    (zero terminal SNR) that is 0, and in float32 -6e-8.
    """
    if not eta or not isinstance(scheduler, DDIMScheduler):
        return eta
    before = int(timestep) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    ab_s = scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod
    variance = scheduler._get_variance(int(timestep), before)
    while eta > 0 and 1 - ab_s - (eta * variance**0.5) ** 2 < 0:
        eta *= 1 - 1e-6
    return eta
