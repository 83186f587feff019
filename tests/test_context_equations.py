"""Identities 1-10 of the shifted process, in float64, each against brute force and not against the same formula."""

import itertools

import pytest
import torch
from diffusers import DDIMScheduler

from accord.diffusion.process import Level, affine, of_ab, spread, transition
from accord.methods.context.equations import (
    SHIFTS,
    correction,
    exact_kl,
    kernel,
    marginal_mean,
    network_target,
    shift_coefficient,
    shifted,
    shifted_noise,
)

T = 40
DIM = 3


@pytest.fixture(scope="module")
def ab() -> torch.Tensor:
    """[T+1], ab[0] = 1."""
    betas = torch.linspace(0.01, 0.25, T, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])


@pytest.fixture(scope="module", params=["vp", "flow"])
def grid(request, ab) -> list[Level]:
    """T + 1 levels, the first of them clean, of a process that preserves the variance and of a flow."""
    if request.param == "vp":
        return [of_ab(x, "epsilon") for x in ab]
    s = torch.linspace(0, 0.98, T + 1, dtype=torch.float64)
    return [Level(1 - x, x, "velocity") for x in s]


@pytest.fixture(scope="module")
def world(grid):
    """x0 [DIM], and any time-varying b [T+1, DIM] with b_0 = 0."""
    g = torch.Generator().manual_seed(0)
    x0 = torch.randn(DIM, generator=g, dtype=torch.float64)
    r = torch.randn(T + 1, DIM, generator=g, dtype=torch.float64)
    return x0, torch.stack([shift_coefficient(level.a) for level in grid])[:, None] * r


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def eta_of(sigma: torch.Tensor, now: Level, after: Level) -> torch.Tensor:
    """The eta with which a step's new noise has the deviation `sigma`."""
    whole = spread(now, after, 1.0)[0]
    return torch.where(whole > 0, sigma / whole, torch.zeros_like(whole))


def test_1_the_shift_vanishes_at_both_ends_and_is_at_most_a_quarter():
    k = shift_coefficient(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert k[0] == k[-1] == 0 and (k >= 0).all()
    assert float(k.max()) == pytest.approx(0.25, abs=1e-6)
    assert shift_coefficient(torch.ones(()), "prior") == 0 and shift_coefficient(torch.zeros(()), "data") == 0
    with pytest.raises(ValueError, match="shift must be one of quadratic, prior, data, not 'cubic'"):
        shift_coefficient(k, "cubic")
    assert SHIFTS == ("quadratic", "prior", "data")


def test_2_propagating_through_the_kernel_gives_the_marginal(grid, world):
    """Mean and covariance carried step by step as an affine map."""
    x0, b = world
    mean, variance = x0.clone(), torch.zeros(DIM, dtype=torch.float64)
    zero, one = torch.zeros(DIM, dtype=torch.float64), torch.ones(DIM, dtype=torch.float64)
    for t in range(1, T + 1):
        at_zero, noise = kernel(zero, b[t - 1], b[t], grid[t - 1], grid[t])
        slope = kernel(one, b[t - 1], b[t], grid[t - 1], grid[t])[0] - at_zero
        mean, variance = slope * mean + at_zero, slope**2 * variance + noise
        assert torch.allclose(mean, marginal_mean(x0, b[t], grid[t]), atol=1e-12)
        assert torch.allclose(variance, (grid[t].s ** 2).expand(DIM), atol=1e-12)


def test_2_and_by_monte_carlo(grid, world):
    x0, b = world
    g = torch.Generator().manual_seed(5)
    x = x0.expand(200_000, DIM).clone()
    for t in range(1, 11):
        mean, variance = kernel(x, b[t - 1], b[t], grid[t - 1], grid[t])
        x = mean + variance.sqrt() * torch.randn(x.shape, generator=g, dtype=torch.float64)
    assert torch.allclose(x.mean(0), marginal_mean(x0, b[10], grid[10]), atol=5e-3)
    assert torch.allclose(x.var(0), (grid[10].s ** 2).expand(DIM), atol=5e-3)


@pytest.mark.parametrize(("s", "t"), [(4, 5), (3, 17), (1, 40)])
def test_3_conditioning_a_joint_gaussian_gives_the_posterior(grid, world, s, t):
    """(x_s, x_t) as a 2-d Gaussian from marginal and kernel, conditioned by the matrix formula."""
    x0, b = world
    x_t, zero, one = normal(DIM), torch.zeros(DIM, dtype=torch.float64), torch.ones(DIM, dtype=torch.float64)
    mean_s, mean_t = marginal_mean(x0, b[s], grid[s]), marginal_mean(x0, b[t], grid[t])
    slope = kernel(one, b[s], b[t], grid[s], grid[t])[0] - kernel(zero, b[s], b[t], grid[s], grid[t])[0]
    noise = kernel(x_t, b[s], b[t], grid[s], grid[t])[1]
    var_s = grid[s].s ** 2
    cov = slope * var_s
    var_t = slope**2 * var_s + noise
    expected = mean_s + cov / var_t * (x_t - mean_t)
    mean, deviation = shifted(x_t, x0, b[t], b[s], grid[t], grid[s], 1.0)
    assert torch.allclose(mean, expected, atol=1e-12)
    assert torch.allclose(deviation.expand(DIM) ** 2, var_s - cov**2 / var_t, atol=1e-12)


def test_4_the_strided_kernel_is_the_composition_of_its_steps(grid, world):
    _, b = world
    s, t = 7, 23
    x = normal(DIM)
    mean, variance = x, torch.zeros((), dtype=torch.float64)
    for k in range(s + 1, t + 1):
        kept, noise = grid[k].a / grid[k - 1].a, kernel(x, b[k - 1], b[k], grid[k - 1], grid[k])[1]
        mean = kernel(mean, b[k - 1], b[k], grid[k - 1], grid[k])[0]
        variance = kept**2 * variance + noise
    found_mean, found_variance = kernel(x, b[s], b[t], grid[s], grid[t])
    assert torch.allclose(found_mean, mean, atol=1e-12) and torch.allclose(found_variance, variance, atol=1e-12)


@pytest.mark.parametrize(("s", "t"), [(0, 5), (0, 40), (6, 7), (5, 31)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_5_ddim_maps_marginal_to_marginal(grid, world, s, t, share):
    """Affine in x_t: its mean and covariance from unit vectors, for any allowed sigma, s = 0 included."""
    x0, b = world
    now, after = grid[t], grid[s]
    sigma = share * after.s
    eta = eta_of(sigma, now, after)
    zero, one = torch.zeros(DIM, dtype=torch.float64), torch.ones(DIM, dtype=torch.float64)
    offset, deviation = shifted(zero, x0, b[t], b[s], now, after, eta)
    by_x = shifted(one, x0, b[t], b[s], now, after, eta)[0] - offset
    assert torch.allclose(deviation, sigma, atol=1e-12)
    mean = by_x * marginal_mean(x0, b[t], now) + offset
    variance = by_x**2 * now.s**2 + deviation**2
    assert torch.allclose(mean, marginal_mean(x0, b[s], after), atol=1e-12)
    assert torch.allclose(variance, (after.s**2).expand(DIM), atol=1e-12)


def test_6_eta_one_is_the_ddpm_posterior(grid, world):
    """Written out: the weights of x0 and of x_t that Bayes gives."""
    x0, b = world
    x_t = normal(DIM)
    for t in range(2, T + 1):
        now, after = grid[t], grid[t - 1]
        kept = now.a / after.a
        noise = now.s**2 - (kept * after.s) ** 2
        of_x0, of_x_t = after.a * noise / now.s**2, kept * after.s**2 / now.s**2
        mean, deviation = shifted(x_t, x0, b[t], b[t - 1], now, after, 1.0)
        assert torch.allclose(mean, of_x0 * x0 + of_x_t * (x_t - b[t]) + b[t - 1], atol=1e-12)
        assert torch.allclose(deviation**2, after.s**2 / now.s**2 * noise, atol=1e-12)


def test_7_inversion_then_sampling_is_the_identity(grid, world):
    x0, b = world
    start = x = normal(DIM)
    path = [1, 4, 9, 22, 40]
    for s, t in itertools.pairwise(path):
        x = shifted(x, x0, b[s], b[t], grid[s], grid[t])[0]
    assert (x - start).abs().max() > 0.1
    for s, t in zip(path[-2::-1], path[:0:-1], strict=True):
        x = shifted(x, x0, b[t], b[s], grid[t], grid[s])[0]
    assert torch.allclose(x, start, atol=1e-11)


def test_8_shifted_noise_and_why_plain_ddim_on_it_is_wrong(grid, world):
    x0, b = world
    e, t, s = normal(DIM), 25, 12
    now, after = grid[t], grid[s]
    x_t = marginal_mean(x0, b[t], now) + now.s * e
    assert torch.allclose(shifted_noise(x_t, x0, now), e + b[t] / now.s, atol=1e-12)
    plain = after.a * x0 + after.s * shifted_noise(x_t, x0, now)
    right = marginal_mean(x0, b[s], after) + after.s * e
    wrong_by = after.s / now.s * b[t] - b[s]
    assert torch.allclose(plain - right, wrong_by, atol=1e-12) and wrong_by.abs().max() > 1e-3
    assert torch.allclose(plain + correction(b[t], b[s], now, after), right, atol=1e-12)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_9_targets_lead_back_to_x0_with_the_schedulers_own_conversion(ab, kind):
    x0, r = normal(DIM, seed=7), normal(T + 1, DIM, seed=8)
    scheduler = DDIMScheduler(
        num_train_timesteps=T, trained_betas=(1 - ab[1:] / ab[:-1]).tolist(), prediction_type=kind, clip_sample=False
    )
    scheduler.set_timesteps(T)
    for t in (1, 11, 33):
        now = of_ab(ab[t], kind)
        x_t = marginal_mean(x0, shift_coefficient(now.a) * r[t], now) + now.s * normal(DIM, seed=t)
        target = network_target(x_t, x0, now)
        assert torch.allclose(now.x0(x_t, target), x0, atol=1e-12)
        assert torch.allclose(
            scheduler.step(target, t - 1, x_t).pred_original_sample, x0, atol=1e-4
        )  # its betas are float32
    if kind == "v_prediction":
        output = normal(DIM, seed=9)
        in_v = (output - target).square()
        in_x0 = (now.x0(x_t, output) - x0).square() / now.s**2
        assert torch.allclose(in_v, in_x0, atol=1e-10)


def test_9_targets_of_a_flow_lead_back_to_x0():
    x0, now = normal(DIM, seed=7), Level(*(torch.tensor(v, dtype=torch.float64) for v in (0.4, 0.6)), "velocity")
    x_t = marginal_mean(x0, shift_coefficient(now.a) * normal(DIM, seed=8), now) + now.s * normal(DIM)
    target = network_target(x_t, x0, now)
    assert torch.allclose(x_t - now.s * target, x0, atol=1e-12)
    assert torch.allclose(target, shifted_noise(x_t, x0, now) - x0, atol=1e-12)


def test_9_the_gradient_reaches_the_shift(ab):
    x0, now = normal(DIM, seed=7), of_ab(ab[20], "v_prediction")
    r = torch.zeros(DIM, dtype=torch.float64, requires_grad=True)
    x_t = marginal_mean(x0, shift_coefficient(now.a) * r, now) + now.s * normal(DIM)
    output = 0.3 * x_t  # a network that looks at x_t
    (network_target(x_t, x0, now) - output).square().sum().backward()
    assert r.grad is not None and (r.grad.abs() > 1e-6).all()


def test_10_the_exact_kl_is_that_of_two_gaussians(grid, world):
    x0, b = world
    t, s = 18, 17
    x_t, guess, b_guess = normal(DIM), normal(DIM, seed=2), 0.1 * normal(2, DIM, seed=3)
    mean_q, deviation = shifted(x_t, x0, b[t], b[s], grid[t], grid[s], 1.0)
    mean_p, _ = shifted(x_t, guess, b_guess[0], b_guess[1], grid[t], grid[s], 1.0)
    q, p = (torch.distributions.Normal(m, deviation) for m in (mean_q, mean_p))
    expected = torch.distributions.kl_divergence(q, p)
    found = exact_kl(x0, guess, b[t], b[s], b_guess[0], b_guess[1], grid[t], grid[s])
    assert torch.allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_corrections_turn_plain_steps_into_shifted_ones(grid, world, eta):
    x0, b = world
    x_t, none = normal(DIM), torch.zeros(DIM, dtype=torch.float64)
    for s, t in [(0, 3), (8, 9), (10, 30)]:
        now, after = grid[t], grid[s]
        output = {"epsilon": shifted_noise, "velocity": lambda x, x0, now: shifted_noise(x, x0, now) - x0}[now.kind]
        plain = transition(x_t, output(x_t, x0, now), now, after, eta)[0]
        there = shifted(x_t, x0, b[t], b[s], now, after, eta)[0]
        assert torch.allclose(plain + correction(b[t], b[s], now, after, eta), there, atol=1e-12)
    # inversion from a clean picture, in which there is no noise and no shift yet
    assert torch.equal(correction(none + 1, b[5], grid[0], grid[5]), b[5])


def test_the_three_shifts_by_hand():
    half = torch.tensor(0.5, dtype=torch.float64)
    assert [float(shift_coefficient(half, kind)) for kind in SHIFTS] == [0.25, 0.5, -0.5]
    with pytest.raises(ValueError, match="must be one of quadratic, prior, data"):
        shift_coefficient(half, "nonsense")


def test_rounding_makes_no_root_of_a_negative_number():
    """At eta 1 from zero terminal SNR s_s^2 - std^2 is 0 up to rounding."""
    x, end, half = torch.ones(2), of_ab(torch.tensor(0.0), "sample"), of_ab(torch.tensor(0.5), "sample")
    for eta in (1.0, 1.0000002):
        assert all(torch.isfinite(v).all() for v in shifted(x, x, 0 * x, 0 * x, end, half, eta))
        assert torch.isfinite(correction(x, x, end, half, eta)).all()
    clean = of_ab(torch.tensor(1.0), "sample")
    assert torch.equal(correction(x, 2 * x, clean, half), 2 * x)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_plain_ddim_is_affine_in_the_state_and_the_output(ab, kind):
    """Written out: sqrt(ab_s) x0^ + sqrt(1 - ab_s) e^, each by the definition of what the network predicts."""
    x_t, output = normal(DIM), normal(DIM, seed=3)
    for s, t in ((0, 1), (3, 17), (39, 40)):
        a, b = affine(of_ab(ab[t], kind), of_ab(ab[s], kind))
        left, right = ab[t].sqrt(), (1 - ab[t]).sqrt()
        x0 = {"epsilon": (x_t - right * output) / left, "v_prediction": left * x_t - right * output, "sample": output}
        noise = (x_t - left * x0[kind]) / right
        assert torch.allclose(a * x_t + b * output, ab[s].sqrt() * x0[kind] + (1 - ab[s]).sqrt() * noise, atol=1e-10)
