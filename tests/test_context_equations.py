"""Identities 1-10 of the shifted process, in float64, each against brute force and not against the same formula."""

import itertools

import pytest
import torch
from diffusers import DDIMScheduler

from accord.methods.context.equations import (
    SHIFTS,
    ddim,
    ddim_affine,
    ddim_correction,
    ddpm_correction,
    exact_kl,
    kernel,
    marginal_mean,
    network_target,
    network_x0,
    posterior,
    posterior_sigma,
    shift_coefficient,
    shifted_noise,
)

T = 40
DIM = 3


@pytest.fixture(scope="module")
def ab() -> torch.Tensor:
    """[T+1], ab[0] = 1."""
    betas = torch.linspace(0.01, 0.25, T, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])


@pytest.fixture(scope="module")
def world(ab):
    """x0 [DIM], and any time-varying b [T+1, DIM] with b_0 = 0."""
    g = torch.Generator().manual_seed(0)
    x0 = torch.randn(DIM, generator=g, dtype=torch.float64)
    r = torch.randn(T + 1, DIM, generator=g, dtype=torch.float64)
    return x0, shift_coefficient(ab)[:, None] * r


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_1_the_shift_vanishes_at_both_ends_and_is_at_most_a_quarter(ab):
    k = shift_coefficient(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert k[0] == k[-1] == 0 and (k >= 0).all()
    assert float(k.max()) == pytest.approx(0.25, abs=1e-6)
    assert shift_coefficient(torch.ones(()), "prior") == 0 and shift_coefficient(torch.zeros(()), "data") == 0
    with pytest.raises(ValueError, match="shift must be one of quadratic, prior, data, not 'cubic'"):
        shift_coefficient(ab, "cubic")
    assert SHIFTS == ("quadratic", "prior", "data")


def test_2_propagating_through_the_kernel_gives_the_marginal(ab, world):
    """Mean and covariance carried step by step as an affine map."""
    x0, b = world
    mean, variance = x0.clone(), torch.zeros(DIM, dtype=torch.float64)
    for t in range(1, T + 1):
        at_zero, noise = kernel(torch.zeros(DIM, dtype=torch.float64), b[t - 1], b[t], ab[t - 1], ab[t])
        slope = kernel(torch.ones(DIM, dtype=torch.float64), b[t - 1], b[t], ab[t - 1], ab[t])[0] - at_zero
        mean, variance = slope * mean + at_zero, slope**2 * variance + noise
        assert torch.allclose(mean, marginal_mean(x0, b[t], ab[t]), atol=1e-12)
        assert torch.allclose(variance, (1 - ab[t]).expand(DIM), atol=1e-12)


def test_2_and_by_monte_carlo(ab, world):
    x0, b = world
    g = torch.Generator().manual_seed(5)
    x = x0.expand(200_000, DIM).clone()
    for t in range(1, 11):
        mean, variance = kernel(x, b[t - 1], b[t], ab[t - 1], ab[t])
        x = mean + variance.sqrt() * torch.randn(x.shape, generator=g, dtype=torch.float64)
    assert torch.allclose(x.mean(0), marginal_mean(x0, b[10], ab[10]), atol=5e-3)
    assert torch.allclose(x.var(0), (1 - ab[10]).expand(DIM), atol=5e-3)


@pytest.mark.parametrize(("s", "t"), [(4, 5), (3, 17), (1, 40)])
def test_3_conditioning_a_joint_gaussian_gives_the_posterior(ab, world, s, t):
    """(x_s, x_t) as a 2-d Gaussian from marginal and kernel, conditioned by the matrix formula."""
    x0, b = world
    x_t = normal(DIM)
    mean_s, mean_t = marginal_mean(x0, b[s], ab[s]), marginal_mean(x0, b[t], ab[t])
    slope = (
        kernel(torch.ones(DIM, dtype=torch.float64), b[s], b[t], ab[s], ab[t])[0]
        - kernel(torch.zeros(DIM, dtype=torch.float64), b[s], b[t], ab[s], ab[t])[0]
    )
    noise = kernel(x_t, b[s], b[t], ab[s], ab[t])[1]
    var_s = 1 - ab[s]
    cov = slope * var_s
    var_t = slope**2 * var_s + noise
    expected = mean_s + cov / var_t * (x_t - mean_t)
    mean, variance = posterior(x_t, x0, b[t], b[s], ab[t], ab[s])
    assert torch.allclose(mean, expected, atol=1e-12)
    assert torch.allclose(variance.expand(DIM), var_s - cov**2 / var_t, atol=1e-12)


def test_4_the_strided_kernel_is_the_composition_of_its_steps(ab, world):
    _, b = world
    s, t = 7, 23
    x = normal(DIM)
    mean, variance = x, torch.zeros((), dtype=torch.float64)
    for k in range(s + 1, t + 1):
        a = ab[k] / ab[k - 1]
        mean = kernel(mean, b[k - 1], b[k], ab[k - 1], ab[k])[0]
        variance = a * variance + (1 - a)
    found_mean, found_variance = kernel(x, b[s], b[t], ab[s], ab[t])
    assert torch.allclose(found_mean, mean, atol=1e-12) and torch.allclose(found_variance, variance, atol=1e-12)


@pytest.mark.parametrize(("s", "t"), [(0, 5), (0, 40), (6, 7), (5, 31)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_5_ddim_maps_marginal_to_marginal(ab, world, s, t, share):
    """Affine in (x_t, z): its mean and covariance from unit vectors, for any allowed sigma, s = 0 included."""
    x0, b = world
    sigma = share * (1 - ab[s]).sqrt()
    step = lambda x, z: ddim(x, x0, b[t], b[s], ab[t], ab[s], sigma, z)  # noqa: E731
    zero, one = torch.zeros(DIM, dtype=torch.float64), torch.ones(DIM, dtype=torch.float64)
    offset = step(zero, zero)
    by_x, by_z = step(one, zero) - offset, step(zero, one) - offset
    mean = by_x * marginal_mean(x0, b[t], ab[t]) + offset
    variance = by_x**2 * (1 - ab[t]) + by_z**2
    assert torch.allclose(mean, marginal_mean(x0, b[s], ab[s]), atol=1e-12)
    assert torch.allclose(variance, (1 - ab[s]).expand(DIM), atol=1e-12)


def test_6_eta_one_is_the_ddpm_posterior(ab, world):
    x0, b = world
    x_t, zero = normal(DIM), torch.zeros(DIM, dtype=torch.float64)
    for t in range(2, T + 1):
        sigma = posterior_sigma(ab[t], ab[t - 1], 1.0)
        mean, variance = posterior(x_t, x0, b[t], b[t - 1], ab[t], ab[t - 1])
        assert torch.allclose(ddim(x_t, x0, b[t], b[t - 1], ab[t], ab[t - 1], sigma, zero), mean, atol=1e-12)
        assert torch.allclose(sigma**2, variance, atol=1e-12)


def test_7_inversion_then_sampling_is_the_identity(ab, world):
    x0, b = world
    zero = torch.zeros((), dtype=torch.float64)
    start = x = normal(DIM)
    path = [1, 4, 9, 22, 40]
    for s, t in itertools.pairwise(path):
        x = ddim(x, x0, b[s], b[t], ab[s], ab[t], zero, zero)
    assert (x - start).abs().max() > 0.1
    for s, t in zip(path[-2::-1], path[:0:-1], strict=True):
        x = ddim(x, x0, b[t], b[s], ab[t], ab[s], zero, zero)
    assert torch.allclose(x, start, atol=1e-11)


def test_8_shifted_noise_and_why_plain_ddim_on_it_is_wrong(ab, world):
    x0, b = world
    e, t, s = normal(DIM), 25, 12
    x_t = marginal_mean(x0, b[t], ab[t]) + (1 - ab[t]).sqrt() * e
    assert torch.allclose(shifted_noise(x_t, x0, ab[t]), e + b[t] / (1 - ab[t]).sqrt(), atol=1e-12)
    plain = ab[s].sqrt() * x0 + (1 - ab[s]).sqrt() * shifted_noise(x_t, x0, ab[t])
    right = marginal_mean(x0, b[s], ab[s]) + (1 - ab[s]).sqrt() * e
    wrong_by = ((1 - ab[s]) / (1 - ab[t])).sqrt() * b[t] - b[s]
    assert torch.allclose(plain - right, wrong_by, atol=1e-12) and wrong_by.abs().max() > 1e-3
    zero = torch.zeros((), dtype=torch.float64)
    assert torch.allclose(plain + ddim_correction(b[t], b[s], ab[t], ab[s], zero), right, atol=1e-12)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_9_targets_lead_back_to_x0_with_the_schedulers_own_conversion(ab, world, kind):
    x0, b = world
    scheduler = DDIMScheduler(
        num_train_timesteps=T, trained_betas=(1 - ab[1:] / ab[:-1]).tolist(), prediction_type=kind, clip_sample=False
    )
    scheduler.set_timesteps(T)
    for t in (1, 11, 33):
        x_t = marginal_mean(x0, b[t], ab[t]) + (1 - ab[t]).sqrt() * normal(DIM, seed=t)
        target = network_target(x_t, x0, ab[t], kind)
        assert torch.allclose(network_x0(target, x_t, ab[t], kind), x0, atol=1e-12)
        assert torch.allclose(
            scheduler.step(target, t - 1, x_t).pred_original_sample, x0, atol=1e-4
        )  # its betas are float32
    if kind == "v_prediction":
        output = normal(DIM, seed=9)
        in_v = (output - target).square()
        in_x0 = (network_x0(output, x_t, ab[33], kind) - x0).square() / (1 - ab[33])
        assert torch.allclose(in_v, in_x0, atol=1e-10)


def test_9_the_gradient_reaches_the_shift(ab, world):
    x0, _ = world
    r = torch.zeros(DIM, dtype=torch.float64, requires_grad=True)
    x_t = marginal_mean(x0, shift_coefficient(ab[20]) * r, ab[20]) + (1 - ab[20]).sqrt() * normal(DIM)
    output = 0.3 * x_t  # a network that looks at x_t
    (network_target(x_t, x0, ab[20], "v_prediction") - output).square().sum().backward()
    assert r.grad is not None and (r.grad.abs() > 1e-6).all()


def test_10_the_exact_kl_is_that_of_two_gaussians(ab, world):
    x0, b = world
    t, s = 18, 17
    x_t, guess, b_guess = normal(DIM), normal(DIM, seed=2), 0.1 * normal(2, DIM, seed=3)
    mean_q, variance = posterior(x_t, x0, b[t], b[s], ab[t], ab[s])
    mean_p, _ = posterior(x_t, guess, b_guess[0], b_guess[1], ab[t], ab[s])
    q, p = (torch.distributions.Normal(m, variance.sqrt()) for m in (mean_q, mean_p))
    expected = torch.distributions.kl_divergence(q, p)
    found = exact_kl(x0, guess, b[t], b[s], b_guess[0], b_guess[1], ab[t], ab[s])
    assert torch.allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_corrections_turn_plain_steps_into_shifted_ones(ab, world, eta):
    x0, b = world
    x_t, z, none = normal(DIM), normal(DIM, seed=4), torch.zeros(DIM, dtype=torch.float64)
    for s, t in [(0, 3), (8, 9), (10, 30)]:
        sigma = posterior_sigma(ab[t], ab[s], eta)
        plain = ddim(x_t, x0, none, none, ab[t], ab[s], sigma, z)
        shifted = ddim(x_t, x0, b[t], b[s], ab[t], ab[s], sigma, z)
        assert torch.allclose(plain + ddim_correction(b[t], b[s], ab[t], ab[s], sigma), shifted, atol=1e-12)
        if s:
            plain = posterior(x_t, x0, none, none, ab[t], ab[s])[0]
            assert torch.allclose(
                plain + ddpm_correction(b[t], b[s], ab[t], ab[s]),
                posterior(x_t, x0, b[t], b[s], ab[t], ab[s])[0],
                atol=1e-12,
            )
    start = torch.ones((), dtype=torch.float64)
    assert torch.equal(ddim_correction(none, b[5], start, ab[5], start * 0), b[5])  # inversion from a clean picture


def test_the_three_shifts_by_hand():
    quarter = torch.tensor(0.25, dtype=torch.float64)
    assert [float(shift_coefficient(quarter, kind)) for kind in SHIFTS] == [0.25, 0.5, -0.5]
    with pytest.raises(ValueError, match="must be one of quadratic, prior, data"):
        shift_coefficient(quarter, "nonsense")


def test_noise_is_added_with_its_sign(ab, world):
    x0, b = world
    x_t, z, sigma = normal(DIM), normal(DIM, seed=2), torch.tensor(0.2, dtype=torch.float64)
    with_it, without = (ddim(x_t, x0, b[20], b[10], ab[20], ab[10], sigma, n) for n in (z, 0 * z))
    assert torch.allclose(with_it - without, 0.2 * z, atol=1e-12)


def test_rounding_makes_no_root_of_a_negative_number():
    """At eta 1 from zero terminal SNR 1 - ab - sigma^2 is 0 up to rounding, and so is 1 - ab at the clean end."""
    x, half, above = torch.ones(2), torch.tensor(0.5), torch.tensor(1 + 1e-6)
    sigma = torch.tensor(0.5000001).sqrt()
    assert 1 - half - sigma**2 < 0
    assert torch.isfinite(ddim(x, x, 0 * x, 0 * x, torch.tensor(0.1), half, sigma, x)).all()
    assert torch.isfinite(ddim_correction(x, x, torch.tensor(0.1), half, sigma)).all()
    assert torch.isfinite(posterior_sigma(half, above, 1.0))
    assert torch.equal(ddim_correction(x, 2 * x, torch.tensor(1.0), half, 0 * half), 2 * x)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_plain_ddim_is_affine_in_the_state_and_the_output(ab, kind):
    x_t, output, none = normal(DIM), normal(DIM, seed=3), torch.zeros((), dtype=torch.float64)
    for s, t in ((0, 1), (3, 17), (39, 40)):
        a, b = ddim_affine(ab[t], ab[s], kind)
        x0 = network_x0(output, x_t, ab[t], kind)
        step = ddim(x_t, x0, none, none, ab[t], ab[s], none, none)
        assert torch.allclose(a * x_t + b * output, step, atol=1e-10)
