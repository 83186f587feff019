"""A pipeline opened by its own call: bit for bit the pipeline, with every scheduler; one process for all of them."""

import copy

import pytest
import torch
from conftest import at_rest, tiny_flux, tiny_pipeline, tiny_sd3, tiny_sdxl
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UniPCMultistepScheduler,
)

from accord.diffusion.call import call_arguments
from accord.diffusion.opened import Left, Opened, Step, empty_as_unguided, swapped
from accord.diffusion.process import Level, level_at, levels, spread, transition
from accord.diffusion.spans import text_states
from accord.types import InputError

PROMPTS = ["a red star", "two blue keys on a gray background"]
SCHEDULERS = [
    DDIMScheduler,
    DDPMScheduler,
    PNDMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
]
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def tiny(request):
    return tiny_sdxl() if request.param == "sdxl" else tiny_pipeline(request.param)


def seeds(*numbers):
    return [torch.Generator().manual_seed(n) for n in numbers]


def with_scheduler(pipe, cls):
    pipe = copy.copy(pipe)
    own = {"skip_prk_steps": True} if cls is PNDMScheduler else {}
    pipe.register_modules(scheduler=cls.from_config(pipe.scheduler.config, **own))
    return pipe


# --- the pipeline's own call -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("cls", SCHEDULERS)
@pytest.mark.parametrize("guided", [True, False])
def test_a_rollout_is_the_pipelines_own_and_every_step_is_found_again(tiny, cls, guided):
    pipe, seen = with_scheduler(tiny, cls), []
    call = {"guidance_scale": 6.0, "negative_prompt": "a moon"} if guided else {"guidance_scale": 1.0}
    given = {**call, "negative_prompt": ["a moon"] * 2} if guided else call
    expected = pipe(PROMPTS, num_inference_steps=4, generator=seeds(3, 4), output_type="pt", **given).images
    opened = Opened(pipe, 4, **call)
    state = opened.rollout(PROMPTS, seeds(3, 4), on_step=seen.append)
    assert torch.equal(opened.decode(PROMPTS, state), expected)
    assert torch.equal(opened.pictures(PROMPTS, seeds(3, 4)), expected)
    for step in seen:
        assert torch.equal(opened.output(PROMPTS, step.latents, step=step.index), step.output)
    assert torch.equal(opened.output(PROMPTS, seen[1].latents, timestep=seen[1].timestep), seen[1].output)


@pytest.mark.parametrize("cls", [s for s in SCHEDULERS if s is not PNDMScheduler])  # img2img takes one step less of it
def test_a_start_from_part_way_is_that_of_img2img(tiny, cls):
    pipe = with_scheduler(tiny, cls)
    kind = StableDiffusionXLImg2ImgPipeline if hasattr(pipe, "text_encoder_2") else StableDiffusionImg2ImgPipeline
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    image_to_image = kind(**parts, **({} if hasattr(pipe, "text_encoder_2") else {"requires_safety_checker": False}))
    image_to_image.set_progress_bar_config(disable=True)
    opened = Opened(pipe, 4, guidance_scale=6.0)
    clean = opened.rollout(PROMPTS, seeds(1, 2))
    found = opened.rollout(PROMPTS, seeds(3, 4), start=clean, strength=0.5)
    expected = image_to_image(
        PROMPTS,
        image=clean,  # latents are taken as they are
        strength=0.5,
        num_inference_steps=4,
        generator=seeds(3, 4),
        guidance_scale=6.0,
        output_type="latent",
    ).images
    assert torch.equal(found, expected)


def test_what_is_left_is_the_pipeline_as_it_was(tiny):
    before, opened = dict(vars(tiny)), Opened(tiny, 3, guidance_scale=5.0)
    plain = opened.rollout(PROMPTS, seeds(0, 1))

    def stop(step: Step) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        opened.rollout(PROMPTS, seeds(0, 1), on_step=stop)
    assert vars(tiny).keys() == before.keys() and all(vars(tiny)[k] is before[k] for k in before)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in tiny.unet.modules())
    assert torch.equal(opened.rollout(PROMPTS, seeds(0, 1)), plain)


def test_gradients_flow_through_the_last_steps_and_the_decoder(tiny):
    opened = Opened(tiny, 3, guidance_scale=3.0)
    weight = tiny.unet.conv_in.weight
    weight.requires_grad_(True)
    try:
        for steps in (1, 2):
            state = opened.rollout(PROMPTS, seeds(0, 1), grad_steps=steps)
            (grad,) = torch.autograd.grad(opened.decode(PROMPTS, state).mean(), weight)
            assert grad.abs().sum() > 0
        assert not opened.rollout(PROMPTS, seeds(0, 1)).requires_grad
        assert torch.is_grad_enabled()
    finally:
        weight.requires_grad_(False)


def test_another_next_state_may_be_returned_and_the_scheduler_counts_on():
    pipe = with_scheduler(tiny_sdxl(), EulerDiscreteScheduler)  # it scales what the network is given by its count
    opened, seen = Opened(pipe, 4, guidance_scale=2.0), []

    def halved(step: Step) -> torch.Tensor:
        seen.append(step)
        return step.latents * 0.5

    opened.rollout(PROMPTS, seeds(0, 1), on_step=halved)
    for step in seen[1:]:
        assert torch.equal(opened.output(PROMPTS, step.latents, step=step.index), step.output)


def test_a_time_for_each_sample():
    pipe = tiny_pipeline("sd1")
    opened = Opened(pipe, 3, guidance_scale=1.0)
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    both = opened.output(PROMPTS, x, timestep=torch.tensor([700, 20]))
    for row, t in enumerate((700, 20)):
        assert torch.allclose(both[row], opened.output(PROMPTS, x, timestep=t)[row], atol=1e-5)
    assert not torch.allclose(both[0], opened.output(PROMPTS, x, timestep=20)[0], atol=1e-3)


@pytest.mark.parametrize("make", [lambda: tiny_pipeline("sd1"), tiny_sdxl, tiny_sd3, tiny_flux])
def test_a_state_is_found_from_what_the_vae_is_given(make):
    pipe = make()
    opened = Opened(pipe, 2)
    state = opened.noise(PROMPTS, seeds(0, 1))
    latents = opened.vae_latents(PROMPTS, state)
    assert torch.allclose(opened.state_of(PROMPTS, latents, state), state, atol=1e-4)
    # a shift of each element too, which the usual rule knows nothing of
    own, scale = pipe.vae.decode, torch.linspace(0.5, 2, latents.shape[-1])
    with swapped(opened, vae_latents=lambda p, x: Opened.vae_latents(opened, p, x) * scale + 0.3):
        assert torch.allclose(opened.state_of(PROMPTS, latents * scale + 0.3, state), state, atol=1e-4)
    assert pipe.vae.decode == own


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_pipeline_without_the_seams_is_refused():
    pipe = tiny_pipeline("sd1")
    with pytest.raises(InputError, match="a object is not supported here, as it has no scheduler and"):
        Opened(object(), 2)
    seamless = copy.copy(pipe)
    seamless.__class__ = type("Seamless", (type(pipe),), {"prepare_latents": property()})
    with pytest.raises(InputError, match="a Seamless cannot be opened, as it has no prepare_latents"):
        Opened(seamless, 2).noise(PROMPTS, seeds(0, 1))
    with pytest.raises(InputError, match="divisible by 8"):
        Opened(pipe, 2, height=33, width=32).rollout(PROMPTS, seeds(0, 1))


def test_a_step_that_is_taken_twice_at_one_time_is_refused():
    pipe = at_rest(tiny_pipeline("sd1"))

    def again(pipe, index, timestep, tensors):  # a loop with a second call in it
        pipe.scheduler.step(tensors["latents"], timestep, tensors["latents"], return_dict=False)
        return tensors

    with pytest.raises(InputError, match="calls its scheduler's step twice at one time"):
        Opened(pipe, 3, guidance_scale=1.0, callback_on_step_end=again).pictures(PROMPTS, seeds(0, 1))


def test_a_run_that_is_not_found_again_is_refused():
    pipe = at_rest(tiny_pipeline("sd1"))
    calls = []

    def drift(module, args, output):
        calls.append(1)
        return (output[0] * (1 + 0.1 * len(calls)), *output[1:])

    handle = pipe.unet.register_forward_hook(drift)
    try:
        opened = Opened(pipe, 3, guidance_scale=1.0)
        with pytest.raises(InputError, match="does not answer the same when its step 1 is evaluated again"):
            opened.output(PROMPTS, opened.noise(PROMPTS, seeds(0, 1)), step=0)
        with pytest.raises(InputError, match="does not answer the same"):  # nor the second time
            opened.output(PROMPTS, opened.noise(PROMPTS, seeds(0, 1)), step=0)
    finally:
        handle.remove()


def test_a_guidance_that_a_pipeline_has_no_place_for_is_not_passed_over():
    pipe = copy.copy(tiny_flux())
    pipe.__class__ = type("Unguided", (type(pipe),), {"__call__": unguided})
    with pytest.raises(TypeError, match="guidance_scale"):
        Opened(pipe, 2, guidance_scale=4.0).pictures(PROMPTS, seeds(0, 1))
    with pytest.raises(InputError, match="a Unguided takes no guidance scale"):
        call_arguments(pipe, guidance_scale=4.0)


def unguided(self, prompt=None, num_inference_steps=2, generator=None, output_type="pil"):
    raise AssertionError("not called")


def test_one_side_alone_is_refused():
    with pytest.raises(InputError, match="height and width go together"):
        call_arguments(tiny_pipeline("sd1"), height=32)
    assert call_arguments(tiny_pipeline("sd1"), height=32, width=32)["height"] == 32


def test_left_carries_what_was_wanted():
    with pytest.raises(Left) as left:
        raise Left(3)
    assert left.value.value == 3


# --- one process ------------------------------------------------------------------------------------------------------
def pair(seed=0):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=g) for _ in range(2))


@pytest.mark.parametrize("eta", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_transition_is_ddims_with_eta(kind, eta):
    x, output = pair()
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, prediction_type=kind, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(10)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    grid = levels(scheduler)
    for i in range(9):
        t = int(scheduler.timesteps[i])
        wanted = scheduler.step(output, t, x, eta=eta, variance_noise=torch.zeros_like(x)).prev_sample
        mean, std = transition(x, output, grid[i], grid[i + 1], eta)
        assert torch.allclose(mean, wanted, atol=1e-5)
        assert float(std) == pytest.approx(float(eta * scheduler._get_variance(t, t - 100) ** 0.5), abs=1e-6)


def test_the_transition_is_euler_ancestrals_at_eta_one_and_eulers_at_zero():
    x, output = pair()
    for prediction in ("epsilon", "v_prediction"):
        ancestral = EulerAncestralDiscreteScheduler(**BETAS, prediction_type=prediction)
        euler = EulerDiscreteScheduler(**BETAS, prediction_type=prediction)
        for scheduler, eta in ((ancestral, 1.0), (euler, 0.0)):
            scheduler.set_timesteps(10)
            grid, sigmas = levels(scheduler), scheduler.sigmas.double()
            for i in range(9):
                mean, std = transition(x, output, grid[i], grid[i + 1], eta)
                now, after = sigmas[i], sigmas[i + 1]
                up = eta * (after**2 * (now**2 - after**2) / now**2) ** 0.5
                down = (after**2 - up**2) ** 0.5
                x0 = x - now * output if prediction == "epsilon" else grid[i].x0(x, output)
                wanted = x + (x - x0) / now * (down - now)
                assert torch.allclose(mean, wanted, atol=1e-4) and float(std) == pytest.approx(float(up), abs=1e-5)
                if prediction == "v_prediction":  # as the scheduler itself reads it
                    own = output * (-now / (now**2 + 1) ** 0.5) + x / (now**2 + 1)
                    assert torch.allclose(x0, own, atol=1e-5)


def test_the_transition_of_flow_is_eulers_without_noise_and_exact_with_it():
    x, output = pair()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    grid = levels(scheduler)
    for i in range(10):
        wanted = scheduler.step(output, scheduler.timesteps[i], x, return_dict=False)[0]
        assert torch.allclose(transition(x, output, grid[i], grid[i + 1])[0], wanted, atol=1e-5)
    # with the true velocity of x_t = a x0 + s e one step leaves a' of x0 and s' of noise, for any eta
    one = torch.ones(1, dtype=torch.float64)
    for t, s in ((1.0, 0.968), (0.98, 0.9), (0.5, 0.4), (0.3, 0.15)):
        now, after = (Level(one * (1 - v), one * v, "velocity") for v in (t, s))
        for eta in (0.0, 0.495, 1.0):
            of_x0, std = transition((1 - t) * one, -one, now, after, eta)  # x0 = 1, e = 0
            of_noise, _ = transition(t * one, one, now, after, eta)  # x0 = 0, e = 1
            assert float(of_x0) == pytest.approx(1 - s) and float(of_noise**2 + std**2) ** 0.5 == pytest.approx(s)
            assert (float(std) > 0) == (eta > 0)


def test_small_steps_of_flow_have_flow_grpos_noise():
    for h, tolerance in ((1e-2, 0.05), (1e-4, 5e-4)):
        one = torch.ones(1, dtype=torch.float64)
        now, after = (Level(one * (1 - v), one * v, "velocity") for v in (0.6, 0.6 - h))
        _, std = transition(one, one, now, after, 0.7 / 2**0.5)
        assert float(std) == pytest.approx(0.7 * (0.6 / 0.4) ** 0.5 * h**0.5, rel=tolerance)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(**BETAS, prediction_type="v_prediction"),
        EulerDiscreteScheduler(**BETAS),
        DPMSolverMultistepScheduler(**BETAS),
        UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0),
        FlowMatchEulerDiscreteScheduler(shift=2.0),
    ],
)
def test_levels_are_those_at_their_times_and_their_parts_go_back(scheduler):
    scheduler.set_timesteps(5)
    x0, noise = (v.float() for v in pair())
    for t, level in zip(scheduler.timesteps, levels(scheduler), strict=False):
        at = level_at(scheduler, t, x0)
        assert torch.allclose(at.a.flatten(), level.a.flatten(), atol=2e-3)
        assert torch.allclose(at.s.flatten(), level.s.flatten(), rtol=5e-3, atol=2e-3)
        if float(level.a) < 0.02:
            continue
        x_t = level.noised(x0, noise)
        assert torch.allclose(level.x0(x_t, level.target(x0, noise)), x0, atol=1e-3)
        assert torch.allclose(level.noise(x_t, level.target(x0, noise)), noise, atol=1e-3)
    assert float(levels(scheduler)[-1].s) < 0.05
    both = level_at(scheduler, torch.tensor([900.0, 100.0]), x0)
    assert both.s.shape == (2, 1, 1, 1) and float(both.s[0]) > float(both.s[1])


def test_a_process_that_is_none_of_the_three_is_refused():
    with pytest.raises(InputError, match="an EDMEulerScheduler has no betas and is no flow"):
        levels(EDMEulerScheduler())


def test_no_prompt_of_xl_is_told_as_zeros_where_that_is_asked_for_and_not_remembered_for_others():
    opened = Opened(tiny_sdxl(), 2, guidance_scale=1.0)
    usual = text_states(opened, ["", "a key"])
    with empty_as_unguided(opened.pipe):
        zeroed = text_states(opened, ["", "a key"])
    assert usual[0].abs().max() > 0 and not zeroed[0].any() and torch.equal(zeroed[1], usual[1])
    assert all(map(torch.equal, text_states(opened, ["", "a key"]), usual))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "velocity"])
@pytest.mark.parametrize("exploding", [False, True])
def test_what_is_predicted_at_levels_gives_picture_and_noise_back_in_closed_form(kind, exploding):
    """Also where the variance grows (Euler's states), at which v is divided by the root of 1 + s^2."""
    if kind == "velocity" and exploding:
        pytest.skip("no flow explodes")
    s = torch.tensor([0.3, 0.9]).view(2, 1)
    a = torch.ones_like(s) if exploding else 1 - s if kind == "velocity" else (1 - s**2).sqrt()
    x0, noise = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(0)).double().unbind()
    level = Level(a.double(), s.double(), kind, exploding)
    x_t, output = level.noised(x0, noise), level.target(x0, noise)
    assert torch.allclose(level.x0(x_t, output), x0) and torch.allclose(level.noise(x_t, output), noise)


def test_levels_between_two_times_and_beyond_both_ends():
    x = torch.zeros(1, 4, 2, 2)
    euler = EulerDiscreteScheduler()
    between, low, high = (level_at(euler, t, x).s for t in (500.5, 500.0, 501.0))
    assert low < high and torch.allclose(between, (low + high) / 2)
    last = level_at(euler, 999.0, x).s
    assert torch.equal(level_at(euler, 999.6, x).s, last) and torch.equal(level_at(euler, 2000.0, x).s[0], last[0])
    assert float(level_at(euler, -1.0, x).s) == 0
    flow = level_at(FlowMatchEulerDiscreteScheduler(), -5.0, x)
    assert float(flow.s) == 0 and float(flow.a) == 1
    ddim = DDIMScheduler(set_alpha_to_one=False)
    assert torch.allclose(level_at(ddim, -1.0, x).a ** 2, ddim.alphas_cumprod[0])
    assert torch.allclose(level_at(ddim, 5000.0, x).a ** 2, ddim.alphas_cumprod[-1])


def test_levels_end_where_the_grid_does():
    euler = EulerDiscreteScheduler(final_sigmas_type="sigma_min")
    euler.set_timesteps(5)
    ends = levels(euler)
    assert len(ends) == 6 and 0 < float(ends[-1].s) == float(euler.sigmas[-1])


def test_a_transition_to_a_noisier_level_adds_no_new_noise():
    """And with more than the posterior's noise none of the old is left."""
    clean, noisy = (Level(torch.tensor(a), torch.tensor(s), "velocity") for a, s in ((0.9, 0.1), (0.4, 0.6)))
    x, output = pair()
    mean, std = transition(x, output, clean, noisy, eta=1.0)
    assert float(std) == 0
    assert torch.allclose(mean, 0.4 * clean.x0(x, output) + 0.6 * clean.noise(x, output), atol=1e-6)
    std, left = spread(noisy, clean, eta=1.5)
    assert float(std) > 0.1 and float(left) == 0
