"""ContextDiff, arXiv 2402.16627: the shifted diffusion process as pure tensor functions.

    b_t(x0, c) = k_t r_phi(x0, c, t)

Every function takes what it needs as tensors that broadcast against each other; `ab` is the product of the alphas up to
a step (1 at step 0), s < t. The numbers in brackets are those of the identities in the tests.
"""

from __future__ import annotations

import torch

from accord.diffusion.objective import network_x0 as network_x0  # the way back from `network_target`
from accord.diffusion.objective import prediction_target

SHIFTS = ("quadratic", "prior", "data")


def shift_coefficient(ab: torch.Tensor, kind: str = "quadratic") -> torch.Tensor:
    """k_t. (1) `quadratic`, the paper's: sqrt(ab) (1 - sqrt(ab)), 0 at both ends and at most 1/4.

    `prior` and `data` are ShiftDDPMs' (arXiv 2302.02373) other two, as ablations: 1 - sqrt(ab), which moves the end of
    the process, and -sqrt(ab), which takes r off the data.

    Raises:
        ValueError: for another kind.
    """
    root = ab.sqrt()
    if kind == "quadratic":
        return root * (1 - root)
    if kind == "prior":
        return 1 - root
    if kind == "data":
        return -root
    raise ValueError(f"shift must be one of {', '.join(SHIFTS)}, not {kind!r}")


def marginal_mean(x0: torch.Tensor, b_t: torch.Tensor, ab_t: torch.Tensor) -> torch.Tensor:
    """Mean of q(x_t | x0, c); its variance is 1 - ab_t."""
    return ab_t.sqrt() * x0 + b_t


def kernel(
    x_s: torch.Tensor, b_s: torch.Tensor, b_t: torch.Tensor, ab_s: torch.Tensor, ab_t: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of q(x_t | x_s, x0, c). (2), and with a stride (4)."""
    a = ab_t / ab_s
    return a.sqrt() * x_s + b_t - a.sqrt() * b_s, 1 - a


def posterior(
    x_t: torch.Tensor,
    x0: torch.Tensor,
    b_t: torch.Tensor,
    b_s: torch.Tensor,
    ab_t: torch.Tensor,
    ab_s: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(3) Mean and variance of q(x_s | x_t, x0, c); the reverse process has x0 and b of the network's x0^."""
    a = ab_t / ab_s
    mean = ab_s.sqrt() * (1 - a) / (1 - ab_t) * x0 + posterior_gain(ab_t, ab_s) * (x_t - b_t) + b_s
    return mean, (1 - ab_s) / (1 - ab_t) * (1 - a)


def posterior_gain(ab_t: torch.Tensor, ab_s: torch.Tensor) -> torch.Tensor:
    """g_t = sqrt(a_t) (1 - ab_s) / (1 - ab_t)."""
    return (ab_t / ab_s).sqrt() * (1 - ab_s) / (1 - ab_t)


def ddim(
    x_t: torch.Tensor,
    x0: torch.Tensor,
    b_t: torch.Tensor,
    b_s: torch.Tensor,
    ab_t: torch.Tensor,
    ab_s: torch.Tensor,
    sigma: torch.Tensor,
    noise: torch.Tensor,
) -> torch.Tensor:
    """(5) x_s = sqrt(ab_s) x0 + b_s + sqrt(1 - ab_s - sigma^2) e + sigma z. (7) With sigma = 0 and s > t, inversion."""
    e = (x_t - ab_t.sqrt() * x0 - b_t) / (1 - ab_t).sqrt()
    return ab_s.sqrt() * x0 + b_s + (1 - ab_s - sigma**2).clamp(min=0).sqrt() * e + sigma * noise


def ddim_correction(
    b_t: torch.Tensor, b_s: torch.Tensor, ab_t: torch.Tensor, ab_s: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """What shifted DDIM adds to plain DDIM with the same x0^: b_s - sqrt((1 - ab_s - sigma^2) / (1 - ab_t)) b_t.

    (8) Plain DDIM on the shifted noise carries the second term where b_s belongs; exactly 0 for b = 0. At ab_t = 1
    there is no noise yet, and b_t counts as 0.
    """
    left = 1 - ab_t
    ratio = torch.where(left > 0, (1 - ab_s - sigma**2).clamp(min=0) / left.clamp(min=1e-20), torch.zeros_like(left))
    return b_s - ratio.sqrt() * b_t


def ddpm_correction(b_t: torch.Tensor, b_s: torch.Tensor, ab_t: torch.Tensor, ab_s: torch.Tensor) -> torch.Tensor:
    """What the shifted posterior adds to the plain one with the same x0^: b_s - g_t b_t."""
    return b_s - posterior_gain(ab_t, ab_s) * b_t


def posterior_sigma(ab_t: torch.Tensor, ab_s: torch.Tensor, eta: float) -> torch.Tensor:
    """(6) sigma of DDIM with eta; eta = 1 and s = t - 1 is the DDPM posterior."""
    return eta * ((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)).clamp(min=0).sqrt()


# --- what a network predicts ------------------------------------------------------------------------------------------
def shifted_noise(x_t: torch.Tensor, x0: torch.Tensor, ab_t: torch.Tensor) -> torch.Tensor:
    """(8), (9) e~ = (x_t - sqrt(ab_t) x0) / sqrt(1 - ab_t) = e + b_t / sqrt(1 - ab_t): what an epsilon network is
    trained to.
    """
    return (x_t - ab_t.sqrt() * x0) / (1 - ab_t).sqrt()


def network_target(x_t: torch.Tensor, x0: torch.Tensor, ab_t: torch.Tensor, kind: str) -> torch.Tensor:
    """(9) What a network of this prediction type is trained to: e~, v~ = sqrt(ab) e~ - sqrt(1 - ab) x0, or x0.

    With them the usual ways back to x0^ stay exact, as x_t = sqrt(ab) x0 + sqrt(1 - ab) e~. The gradient of the loss
    reaches r through x_t in here too: |v~ - v|^2 is |x0^ - x0|^2 / (1 - ab).
    """
    if kind == "sample":  # which needs no noise, and at ab = 1 has none
        return x0
    return prediction_target(x0, shifted_noise(x_t, x0, ab_t), ab_t, kind)


# --- the exact bound --------------------------------------------------------------------------------------------------
def exact_kl(
    x0: torch.Tensor,
    predicted: torch.Tensor,
    b_t: torch.Tensor,
    b_s: torch.Tensor,
    predicted_b_t: torch.Tensor,
    predicted_b_s: torch.Tensor,
    ab_t: torch.Tensor,
    ab_s: torch.Tensor,
) -> torch.Tensor:
    """(10) KL of the true posterior and the model's, elementwise: |D|^2 / (2 var), in nats. x0-MSE is not this: b
    depends on x0.
    """
    gain, a = posterior_gain(ab_t, ab_s), ab_t / ab_s
    variance = (1 - ab_s) / (1 - ab_t) * (1 - a)
    difference = (
        ab_s.sqrt() * (1 - a) / (1 - ab_t) * (x0 - predicted) - gain * (b_t - predicted_b_t) + (b_s - predicted_b_s)
    )
    return difference**2 / (2 * variance)


def ddim_affine(ab_t: torch.Tensor, ab_s: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B of plain DDIM with sigma = 0 as x_s = A x_t + B output, for a network of this prediction type.

    Solved for x_t it is the exact inverse of a step, once the output at x_t is known: that is a fixed point
    (`video.trajectory`).
    """
    left, right = (1 - ab_t).sqrt(), (1 - ab_s).sqrt()
    if kind == "v_prediction":
        return ab_s.sqrt() * ab_t.sqrt() + right * left, right * ab_t.sqrt() - ab_s.sqrt() * left
    if kind == "epsilon":
        a = (ab_s / ab_t).sqrt()
        return a, right - a * left
    a = right / left
    return a, ab_s.sqrt() - a * ab_t.sqrt()
