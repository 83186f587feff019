"""ContextDiff, arXiv 2402.16627: the shifted diffusion process as pure tensor functions.

    b_t(x0, c) = k_t r_phi(x0, c, t)

The process itself is that of the pipeline, x_t = a_t x0 + s_t e (`diffusion.process`): what is here is what the shift
adds to it, whether it preserves the variance or is a flow. Every function takes tensors that broadcast against each
other, and the levels t and s; s < t. The numbers in brackets are those of the identities in the tests.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from accord.diffusion.process import Level, spread, transition

SHIFTS = ("quadratic", "prior", "data")


def shift_coefficient(a: torch.Tensor, kind: str = "quadratic") -> torch.Tensor:
    """k_t. (1) `quadratic`, the paper's: a (1 - a), 0 at both ends and at most 1/4.

    `prior` and `data` are ShiftDDPMs' (arXiv 2302.02373) other two, as ablations: 1 - a, which moves the end of the
    process, and -a, which takes r off the data.

    Raises:
        ValueError: for another kind.
    """
    if kind == "quadratic":
        return a * (1 - a)
    if kind == "prior":
        return 1 - a
    if kind == "data":
        return -a
    raise ValueError(f"shift must be one of {', '.join(SHIFTS)}, not {kind!r}")


def marginal_mean(x0: torch.Tensor, b_t: torch.Tensor, now: Level) -> torch.Tensor:
    """Mean of q(x_t | x0, c); its variance is s_t^2."""
    return now.a * x0 + b_t


def kernel(
    x_s: torch.Tensor, b_s: torch.Tensor, b_t: torch.Tensor, after: Level, now: Level
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of q(x_t | x_s, x0, c). (2), and with a stride (4)."""
    kept = now.a / after.a
    return kept * (x_s - b_s) + b_t, now.s**2 - (kept * after.s) ** 2


def shifted(
    x_t: torch.Tensor,
    x0: torch.Tensor,
    b_t: torch.Tensor,
    b_s: torch.Tensor,
    now: Level,
    after: Level,
    eta: float | torch.Tensor = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of x_s: the plain `transition` of x_t - b_t, moved by b_s.

    (3) With eta 1 it is the posterior q(x_s | x_t, x0, c); the reverse process has x0 and b of the network's x0^.
    (5) With another it is DDIM. (7) With eta 0 and s > t, inversion.
    """
    mean, std = transition(x_t - b_t, x0, replace(now, kind="sample"), after, eta)
    return mean + b_s, std


def correction(
    b_t: torch.Tensor, b_s: torch.Tensor, now: Level, after: Level, eta: float | torch.Tensor = 0.0
) -> torch.Tensor:
    """What the shift adds to a plain step with the same x0^: b_s less what the plain step carries of b_t.

    (8) Plain steps take x_t - a_t x0^ for the noise, in which b_t is, and carry of it what they carry of the noise;
    exactly 0 for b = 0. Where there is no noise yet b_t counts as 0.
    """
    _, toward_noise = spread(now, after, eta)
    noisy = now.s > 0
    carried = torch.where(noisy, toward_noise / torch.where(noisy, now.s, 1.0), 0.0)
    return b_s - carried * b_t


# --- what a network predicts ------------------------------------------------------------------------------------------
def shifted_noise(x_t: torch.Tensor, x0: torch.Tensor, now: Level) -> torch.Tensor:
    """(8), (9) e~ = (x_t - a_t x0) / s_t = e + b_t / s_t: what an epsilon network is trained to."""
    return (x_t - now.a * x0) / now.s


def network_target(x_t: torch.Tensor, x0: torch.Tensor, now: Level) -> torch.Tensor:
    """(9) What the network is trained to at shifted x_t: its own target with e~ for the noise.

    With it the usual way back to x0^ stays exact, as x_t = a_t x0 + s_t e~. The gradient of the loss reaches r through
    x_t in here too: of a network that predicts v, |v~ - v|^2 is |x0^ - x0|^2 / s^2.
    """
    if now.kind == "sample":  # which needs no noise, and where there is none has none
        return x0
    return now.target(x0, shifted_noise(x_t, x0, now))


# --- the exact bound --------------------------------------------------------------------------------------------------
def exact_kl(
    x0: torch.Tensor,
    predicted: torch.Tensor,
    b_t: torch.Tensor,
    b_s: torch.Tensor,
    predicted_b_t: torch.Tensor,
    predicted_b_s: torch.Tensor,
    now: Level,
    after: Level,
) -> torch.Tensor:
    """(10) KL of the true posterior and the model's, elementwise: |D|^2 / (2 var), in nats. x0-MSE is not this: b
    depends on x0.
    """
    std, toward_noise = spread(now, after, 1.0)
    carried = toward_noise / now.s
    of_x0 = (after.a - carried * now.a) * (x0 - predicted)
    difference = of_x0 - carried * (b_t - predicted_b_t) + (b_s - predicted_b_s)
    return difference**2 / (2 * std**2)
