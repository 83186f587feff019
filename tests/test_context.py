"""ContextDiff's schedulers, relational network, pipeline and training on tiny pipelines of the real classes."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline, tiny_sdxl
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file

from accord.diffusion.generate import generate, generators
from accord.diffusion.opened import Opened
from accord.diffusion.process import of_ab
from accord.judges.clip import load_clip, resized
from accord.methods.context.config import ContextTrainConfig
from accord.methods.context.equations import shifted
from accord.methods.context.network import RelationalNetwork
from accord.methods.context.pipeline import ContextDiffPipeline, load_context, new_relation
from accord.methods.context.sampling import generate_with_context
from accord.methods.context.schedulers import ContextDDIMInverseScheduler, ContextDDIMScheduler, ContextDDPMScheduler
from accord.methods.context.train import Objective, train_context
from accord.methods.realign.fine import realign
from accord.types import InputError

pytestmark = pytest.mark.usefixtures("no_curve")
PROMPTS = ["a red star", "two blue keys"]
PIPELINES = {"sd1": lambda: tiny_pipeline("sd1"), "sd2": lambda: tiny_pipeline("sd2"), "sdxl": tiny_sdxl}
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
QUICK = ContextTrainConfig(
    steps=2, batch_size=2, save_every=1, warmup_steps=0, learning_rate=1e-2, ema_decay=0.0, share=1.0
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def awake(network: RelationalNetwork, seed: int = 0) -> RelationalNetwork:
    """With an output layer that is not zero."""
    torch.manual_seed(seed)
    torch.nn.init.normal_(network.out.weight, std=0.2)
    torch.nn.init.normal_(network.out.bias, std=0.2)
    return network.eval()


def draw(rng: np.random.Generator, size: int, done: float = 0.0) -> tuple[torch.Tensor, list[str]]:
    return torch.from_numpy(rng.standard_normal((size, 4, 16, 16)).astype(np.float32)), [
        PROMPTS[i % 2] for i in range(size)
    ]


# --- schedulers ----------------------------------------------------------------------------------------------------
KINDS = [
    (kind, spacing, zero_snr)
    for kind in ("epsilon", "v_prediction", "sample")
    for spacing, zero_snr in (("leading", False), ("trailing", kind != "epsilon"))
]


@pytest.mark.parametrize(("kind", "spacing", "zero_snr"), KINDS)
@pytest.mark.parametrize("eta", [0.0, 0.9])  # at eta = 1 diffusers' own first step from zero terminal SNR is NaN
def test_ddim_with_r_zero_is_diffusers_bit_for_bit(kind, spacing, zero_snr, eta):
    settings = {**BETAS, "prediction_type": kind, "timestep_spacing": spacing, "rescale_betas_zero_snr": zero_snr}
    ours, theirs = ContextDDIMScheduler(**settings), DDIMScheduler(**settings)
    nothing = lambda x0, t, s: (torch.zeros_like(x0), torch.zeros_like(x0))  # noqa: E731
    for steps in (7, 50):
        ours.set_timesteps(steps)
        theirs.set_timesteps(steps)
        x = y = normal(2, 4, 8, 8)
        for t in theirs.timesteps:
            output = normal(2, 4, 8, 8, seed=int(t))
            x = ours.step(
                output, t, x, eta=eta, generator=torch.Generator().manual_seed(int(t)), relation=nothing
            ).prev_sample
            y = theirs.step(output, t, y, eta=eta, generator=torch.Generator().manual_seed(int(t))).prev_sample
            assert torch.equal(x, y)


@pytest.mark.parametrize(("kind", "spacing", "zero_snr"), [k for k in KINDS if not (k[0] == "epsilon" and k[2])])
def test_ddpm_and_inversion_with_r_zero_are_diffusers_bit_for_bit(kind, spacing, zero_snr):
    settings = {**BETAS, "prediction_type": kind, "timestep_spacing": spacing, "rescale_betas_zero_snr": zero_snr}
    nothing = lambda x0, t, s: (torch.zeros_like(x0), torch.zeros_like(x0))  # noqa: E731
    ours, theirs = ContextDDPMScheduler(**settings), DDPMScheduler(**settings)
    back, their_back = ContextDDIMInverseScheduler(**settings), DDIMInverseScheduler(**settings)
    for steps in (5, 50):
        for scheduler in (ours, theirs, back, their_back):
            scheduler.set_timesteps(steps)
        x = y = normal(2, 4, 8, 8)
        for t in theirs.timesteps:
            output = normal(2, 4, 8, 8, seed=int(t))
            x = ours.step(output, t, x, generator=torch.Generator().manual_seed(int(t)), relation=nothing).prev_sample
            y = theirs.step(output, t, y, generator=torch.Generator().manual_seed(int(t))).prev_sample
            assert torch.equal(x, y)
        x = y = normal(2, 4, 8, 8)
        for t in their_back.timesteps:
            output = normal(2, 4, 8, 8, seed=int(t))
            x = back.step(output, t, x, relation=nothing).prev_sample
            y = their_back.step(output, t, y).prev_sample
            assert torch.equal(
                x.nan_to_num(7.0), y.nan_to_num(7.0)
            )  # at zero terminal SNR diffusers' own is NaN in places


@pytest.mark.parametrize("shift", ["quadratic", "prior", "data"])
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_a_shifted_step_is_the_equation(shift, eta):
    scheduler = ContextDDIMScheduler(**BETAS, prediction_type="sample", shift=shift)
    ancestral = ContextDDPMScheduler(**BETAS, prediction_type="sample", shift=shift)
    x_t, x0, z = (normal(1, 4, 8, 8, seed=s).double() for s in range(3))
    r = {t: normal(1, 4, 8, 8, seed=100 + t).double() for t in (600, 500)}
    for s in (scheduler, ancestral):
        s.set_timesteps(10)
        s.alphas_cumprod = s.alphas_cumprod.double()
    now, after = (of_ab(scheduler.alphas_cumprod[t], "sample") for t in (600, 500))
    b_t, b_s = (scheduler.process.shift_at(t, x_t) * r[t] for t in (600, 500))
    relation = lambda x, t, s: (r[t], r[s])  # noqa: E731
    found = scheduler.step(x0, 600, x_t, eta=eta, variance_noise=z, relation=relation).prev_sample
    mean, sigma = shifted(x_t, x0, b_t, b_s, now, after, eta)
    assert torch.allclose(found, mean + sigma * z, atol=1e-10)
    g = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    found = ancestral.step(x0, 600, x_t, generator=g(), relation=relation).prev_sample
    plain = DDPMScheduler(**BETAS, prediction_type="sample")
    plain.set_timesteps(10)
    plain.alphas_cumprod = plain.alphas_cumprod.double()
    noise = plain.step(x0, 600, x_t, generator=g()).prev_sample - shifted(x_t, x0, 0, 0, now, after, 1.0)[0]
    assert torch.allclose(found - noise, shifted(x_t, x0, b_t, b_s, now, after, 1.0)[0], atol=1e-8)


@pytest.mark.parametrize(("count", "spacing"), [(7, "trailing"), (10, "trailing"), (7, "leading")])
def test_the_last_step_gives_x0_itself_with_any_shift(count, spacing):
    scheduler = ContextDDIMScheduler(**BETAS, prediction_type="sample", shift="data", timestep_spacing=spacing)
    scheduler.set_timesteps(count)
    x0, last = torch.full((1, 4, 8, 8), 5.0), int(scheduler.timesteps[-1])
    noisy = scheduler.add_noise(x0, torch.zeros_like(x0), scheduler.timesteps[-1:], relation=torch.ones_like(x0))
    found = scheduler.step(
        x0, last, noisy, relation=lambda x, t, s: (torch.ones_like(x), torch.ones_like(x))
    ).prev_sample
    assert torch.allclose(found, x0, atol=0.01)


def test_noise_is_added_at_the_shifted_place_and_the_target_leads_back():
    scheduler = ContextDDIMScheduler(**BETAS, prediction_type="v_prediction")
    x0, noise, r = (normal(3, 4, 8, 8, seed=s) for s in range(3))
    t = torch.tensor([0, 400, 999])
    ab = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    expected = ab.sqrt() * x0 + (1 - ab).sqrt() * noise + ab.sqrt() * (1 - ab.sqrt()) * r
    noisy = scheduler.add_noise(x0, noise, t, relation=r)
    assert torch.allclose(noisy, expected, atol=1e-6)
    target = scheduler.process.target(noisy, x0, t)
    assert torch.allclose(ab.sqrt() * noisy - (1 - ab).sqrt() * target, x0, atol=1e-5)
    with pytest.raises(ValueError, match="shift must be one of"):
        ContextDDIMScheduler(shift="cubic")


@pytest.mark.parametrize("kind", [ContextDDIMScheduler, ContextDDPMScheduler, ContextDDIMInverseScheduler])
def test_all_three_add_the_same_noise(kind):
    x0, noise, r, t = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1), normal(2, 4, 8, 8, seed=2), torch.tensor([3, 700])
    ab = kind(**BETAS).alphas_cumprod[t].view(-1, 1, 1, 1)
    plain = ab.sqrt() * x0 + (1 - ab).sqrt() * noise
    assert torch.allclose(kind(**BETAS).add_noise(x0, noise, t), plain, atol=1e-6)
    assert torch.allclose(
        kind(**BETAS, shift="prior").add_noise(x0, noise, t, relation=r), plain + (1 - ab.sqrt()) * r, atol=1e-6
    )


@pytest.mark.parametrize(("count", "spacing"), [(7, "trailing"), (13, "trailing"), (10, "trailing"), (7, "leading")])
@pytest.mark.parametrize("shift", ["quadratic", "prior", "data"])
def test_inversions_first_step_begins_at_x0_itself(count, spacing, shift):
    """A picture has no shift yet: with the network's noise e it goes to sqrt(ab_t) x0^ + k_t r + sqrt(1 - ab_t) e."""
    scheduler = ContextDDIMInverseScheduler(**BETAS, shift=shift, timestep_spacing=spacing)
    scheduler.set_timesteps(count)
    x, e, r, t = (
        torch.full((1, 4, 8, 8), 5.0),
        normal(1, 4, 8, 8),
        normal(1, 4, 8, 8, seed=1),
        int(scheduler.timesteps[0]),
    )
    found = scheduler.step(e, t, x, relation=lambda x0, a, b: (r, r)).prev_sample
    before, at = scheduler.process.level_at(t - 1000 // count, x), scheduler.process.level_at(t, x)
    x0 = (x - before.s * e) / before.a
    expected = at.a * x0 + scheduler.process.shift_at(t, x) * r + at.s * e
    assert torch.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("kind", [ContextDDIMScheduler, ContextDDPMScheduler, ContextDDIMInverseScheduler])
def test_settings_survive_from_one_scheduler_to_the_next(kind):
    settings = {
        **BETAS,
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "shift": "prior",
    }
    again = kind.from_config(kind.from_config(kind(**settings).config).config)
    assert {k: again.config[k] for k in settings} == settings
    assert torch.equal(again.alphas_cumprod, kind(**settings).alphas_cumprod)


def test_half_precision_does_not_lose_the_last_step():
    scheduler = ContextDDPMScheduler(**BETAS)
    scheduler.set_timesteps(50)
    x = normal(1, 4, 8, 8)
    shift = lambda x0, t, s: (0.5 * torch.ones_like(x0), 0.5 * torch.ones_like(x0))  # noqa: E731
    t = scheduler.timesteps[-1]
    exact = scheduler.step(x, t, x, generator=torch.Generator().manual_seed(0), relation=shift).prev_sample
    coarse = scheduler.step(
        x.bfloat16(), t, x.bfloat16(), generator=torch.Generator().manual_seed(0), relation=shift
    ).prev_sample
    assert coarse.dtype == torch.bfloat16 and torch.allclose(coarse.float(), exact, atol=0.1)


def test_inversion_then_sampling_returns_the_latents():
    """With the true x0 known to a `sample` network, through the schedulers themselves."""
    forth = ContextDDIMScheduler(**BETAS, prediction_type="sample", timestep_spacing="trailing")
    back = ContextDDIMInverseScheduler(**BETAS, prediction_type="sample", timestep_spacing="trailing")
    x0, relation = normal(1, 4, 8, 8), lambda x, t, s: (normal(1, 4, 8, 8, seed=t + 5), normal(1, 4, 8, 8, seed=s + 5))
    forth.set_timesteps(20)
    back.set_timesteps(20)
    times = back.timesteps.tolist()
    x = start = forth.add_noise(
        x0, normal(1, 4, 8, 8, seed=9), torch.tensor([times[0]]), relation=normal(1, 4, 8, 8, seed=times[0] + 5)
    )
    for t in times[1:]:
        x = back.step(x0, t, x, relation=relation).prev_sample
    assert (x - start).abs().max() > 0.5
    for t in times[:0:-1]:
        x = forth.step(x0, t, x, relation=relation).prev_sample
    assert torch.allclose(x, start, atol=1e-3)


# --- the relational network ----------------------------------------------------------------------------------------
def test_r_depends_on_image_text_and_time_and_is_bounded():
    network = awake(RelationalNetwork(4, 32, width=16, gain=0.3))
    x, states, t = normal(2, 4, 16, 16), normal(2, 7, 32, seed=1), torch.tensor([10, 900])
    r = network(x, states, t)
    assert r.shape == x.shape and float(r.detach().abs().max()) <= 0.3
    assert not torch.allclose(r, network(x + 1, states, t), atol=1e-4)
    assert not torch.allclose(r, network(x, states + 1, t), atol=1e-4)
    assert not torch.allclose(r, network(x, states, t + 50), atol=1e-4)
    x.requires_grad_(True)
    states.requires_grad_(True)
    network(x, states, t).square().sum().backward()
    assert x.grad.abs().max() > 0 and states.grad.abs().max() > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_sides_can_be_left_out_and_any_shape_goes():
    text_only = awake(RelationalNetwork(4, 32, width=16, use_image=False))
    image_only = awake(RelationalNetwork(4, 32, width=16, use_text=False))
    x, states, t = normal(1, 4, 16, 24), normal(1, 7, 32, seed=1), torch.tensor([10])
    assert torch.equal(text_only(x, states, t), text_only(x + 1, states, t))
    assert torch.equal(image_only(x, states, t), image_only(x, states + 1, t))
    for shape in ((1, 4, 128, 128), (1, 4, 65, 18)):  # SDXL's, and one that patches do not divide
        assert awake(RelationalNetwork(4, 64, width=16, patch=4))(normal(*shape), normal(1, 7, 64), t).shape == shape
    assert torch.equal(
        RelationalNetwork(4, 32, width=16)(x, states, t), torch.zeros_like(x)
    )  # starts as the plain process
    assert torch.equal(awake(RelationalNetwork(4, 32, width=16, gain=0.0))(x, states, t), torch.zeros_like(x))


def test_it_is_saved_and_loaded(tmp_path):
    network = awake(RelationalNetwork(4, 32, width=16, gain=0.5))
    network.save_pretrained(tmp_path)
    back = RelationalNetwork.from_pretrained(tmp_path)
    x, states, t = normal(1, 4, 16, 16), normal(1, 7, 32), torch.tensor([10])
    assert back.config.gain == 0.5 and torch.allclose(network(x, states, t), back(x, states, t), atol=1e-6)


def test_its_size_is_a_share_of_the_denoiser(lab):
    network = new_relation(lab)
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    assert 0.02 * count(lab.unet) < count(network) <= 0.15 * count(lab.unet)
    with pytest.raises(InputError, match="no relational network fits"):
        new_relation(lab, share=1e-4)
    with pytest.raises(ValueError, match="width must be"):
        RelationalNetwork(4, 32, width=18)
    with pytest.raises(ValueError, match="gain must not be negative"):
        RelationalNetwork(4, 32, width=16, gain=-1)


# --- the pipeline --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["sd1", "sd2"])
@pytest.mark.parametrize("ancestral", [False, True])
def test_without_context_it_is_the_plain_pipeline_bit_for_bit(kind, ancestral):
    pipe = tiny_pipeline(kind)
    if ancestral:
        pipe.register_modules(scheduler=DDPMScheduler.from_config(pipe.scheduler.config))
    kwargs = {"num_inference_steps": 3, "guidance_scale": 6.0, "output_type": "np"}
    expected = pipe(PROMPTS, generator=generators([0, 1]), **kwargs).images
    context = ContextDiffPipeline.from_pipeline(pipe, awake(new_relation(pipe, 1.0)), ancestral=ancestral)
    context.set_progress_bar_config(disable=True)
    assert np.array_equal(context(PROMPTS, generator=generators([0, 1]), context_scale=0.0, **kwargs).images, expected)
    asleep = ContextDiffPipeline.from_pipeline(pipe, new_relation(pipe, 1.0), ancestral=ancestral)
    assert np.array_equal(asleep(PROMPTS, generator=generators([0, 1]), **kwargs).images, expected)
    assert not np.array_equal(context(PROMPTS, generator=generators([0, 1]), **kwargs).images, expected)


def test_guidance_uses_the_conditional_r_in_one_batch():
    pipe = tiny_pipeline()
    context = ContextDiffPipeline.from_pipeline(pipe, awake(new_relation(pipe, 1.0)))
    calls, outputs = [], []
    hooks = [
        context.relation.register_forward_pre_hook(lambda m, args: calls.append(args)),
        context.unet.register_forward_hook(lambda m, args, out: outputs.append((args[0], int(args[1]), out[0]))),
    ]
    context(PROMPTS, negative_prompt="a moon", num_inference_steps=3, guidance_scale=4.0, output_type="latent")
    for hook in hooks:
        hook.remove()
    for (shown, *_), (x, t, (output)) in zip(calls, outputs, strict=True):  # what r is shown is the guided x0^
        without, told = output.chunk(2)
        ab = context.scheduler.alphas_cumprod[t]
        guided = (x[:2] - (1 - ab).sqrt() * (without + 4 * (told - without))) / ab.sqrt()
        assert torch.allclose(shown[:2], guided, atol=1e-4) and torch.equal(shown[:2], shown[2:])
    assert len(calls) == 3 and all(len(c[0]) == 4 for c in calls)  # two pictures at two steps each
    states, _ = context.encode_prompt(PROMPTS, "cpu", 1, False)
    assert all(torch.equal(c[1], torch.cat([states, states])) for c in calls)
    times = [c[2].tolist() for c in calls]
    assert times == [[667, 667, 334, 334], [334, 334, 1, 1], [1, 1, 0, 0]]


def test_the_prior_shift_starts_where_its_process_ends():
    """z_T + k_T r, r of the guess that the network makes of z_T for the conditional text alone."""
    pipe = tiny_pipeline()
    relation, noise, seen = awake(new_relation(pipe, 1.0)), normal(1, 4, 16, 16), []
    hook = pipe.unet.register_forward_hook(lambda m, args, out: seen.append((args[0], out[0])))
    kwargs = {"num_inference_steps": 2, "latents": noise, "output_type": "latent"}
    outs = {
        s: ContextDiffPipeline.from_pipeline(pipe, relation, shift=s)("a red star", **kwargs).images
        for s in ("quadratic", "prior")
    }
    hook.remove()
    (plain, _), _, (guessed_from, output), (start, _), _ = seen
    assert torch.equal(plain, torch.cat([noise] * 2)) and torch.equal(guessed_from, noise)
    ab = pipe.scheduler.alphas_cumprod[501]
    guess = (noise - (1 - ab).sqrt() * output) / ab.sqrt()
    states, _ = pipe.encode_prompt(["a red star"], "cpu", 1, False)
    expected = noise + (1 - ab.sqrt()) * relation(guess, states, torch.tensor([501]))
    assert torch.allclose(start, torch.cat([expected] * 2), atol=1e-5) and not torch.allclose(
        start[:1], noise, atol=0.1
    )
    seeded = {"num_inference_steps": 2, "guidance_scale": 7.5, "output_type": "latent"}
    whole = ContextDiffPipeline.from_pipeline(pipe, relation, shift="prior")(
        "a red star", generator=generators([3]), **seeded
    ).images
    assert torch.equal(generate_with_context(pipe, relation, ["a red star"], [3], shift="prior", **seeded), whole)
    asleep = generate_with_context(pipe, relation, ["a red star"], [3], shift="prior", context_scale=0.0, **seeded)
    assert (
        torch.equal(asleep, pipe("a red star", generator=generators([3]), **seeded).images)
        and outs["prior"].shape == noise.shape
    )


def test_callbacks_several_pictures_and_bad_input():
    pipe = tiny_pipeline()
    context = ContextDiffPipeline.from_pipeline(pipe, awake(new_relation(pipe, 1.0)))
    seen = []

    def callback(p, index, timestep, values):
        seen.append(index)
        return {"latents": values["latents"] * 0} if index == 1 else values

    out = context(
        "a red star",
        num_inference_steps=2,
        num_images_per_prompt=2,
        callback_on_step_end=callback,
        output_type="latent",
    ).images
    assert seen == [0, 1] and out.shape[0] == 2 and not out.any()
    with pytest.raises(InputError, match="1 negative prompts were given for 2 pictures"):
        context(PROMPTS, negative_prompt=["a"])
    with pytest.raises(InputError, match="is empty"):
        context(" ")
    with pytest.raises(InputError, match="knows no context"):
        ContextDiffPipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet, pipe.scheduler, context.relation)
    assert len(context("a red star", num_inference_steps=2, callback_on_step_end=lambda *a: None).images) == 1
    for kwargs, message in (
        ({"prompt": []}, "there is no prompt"),
        ({"generator": generators([0, 1, 2])}, "3 generators were given for 2 pictures"),
        ({"latents": normal(1, 4, 16, 16)}, "1 latents were given for 2 pictures"),
        ({"negative_prompt": "a star " * 99}, "tokens"),
        ({"num_inference_steps": 1000}, "cannot take these steps .it would begin at step 1000 of 1000"),
        ({"num_inference_steps": 1001}, "cannot take these steps"),
    ):
        with pytest.raises(InputError, match=message):
            context(**{"prompt": PROMPTS, **kwargs})
    with pytest.raises(InputError, match="has no pipeline class with context"):
        ContextDiffPipeline.from_pipeline(tiny_sdxl(), context.relation)
    with pytest.raises(InputError, match="is for latents and text of width"):
        ContextDiffPipeline.from_pipeline(pipe, RelationalNetwork(4, 48, width=16))
    context.scheduler = pipe.scheduler
    with pytest.raises(InputError, match="knows no context"):
        context("a red star")


def test_a_denoiser_distilled_with_guidance_gets_its_scale():
    """As LCM's: no unconditional half, and zero context is the plain pipeline there too."""
    pipe = tiny_pipeline()
    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_config(pipe.unet.config, time_cond_proj_dim=8).eval().requires_grad_(False)
    pipe.register_modules(unet=unet)
    context = ContextDiffPipeline.from_pipeline(pipe, awake(new_relation(pipe, 1.0)), shift="prior")
    kwargs = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "latent"}
    expected = pipe(PROMPTS, generator=generators([0, 1]), **kwargs).images
    assert torch.equal(context(PROMPTS, generator=generators([0, 1]), context_scale=0.0, **kwargs).images, expected)
    moved = context(PROMPTS, generator=generators([0, 1]), **kwargs).images
    assert not torch.equal(moved, expected)
    assert torch.allclose(
        generate_with_context(pipe, context.relation, PROMPTS, [0, 1], shift="prior", each=True, **kwargs),
        moved,
        atol=1e-5,
    )


FRESH = """
import sys, torch
from safetensors.torch import save_file
from accord.methods.context.pipeline import ContextDiffPipeline
pipe = ContextDiffPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
assert type(pipe.scheduler).__name__ == "ContextDDIMScheduler" and pipe.scheduler.config.shift == "prior"
out = pipe("a red star", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="latent").images
save_file({"out": out.contiguous()}, sys.argv[2])
"""


def test_a_fresh_process_loads_pipeline_scheduler_and_network(tmp_path):
    pipe = tiny_pipeline()
    context = ContextDiffPipeline.from_pipeline(pipe, awake(new_relation(pipe, 1.0)), shift="prior")
    expected = context(
        "a red star", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="latent"
    ).images
    context.save_pretrained(tmp_path / "pipe")
    command = [sys.executable, "-c", FRESH, str(tmp_path / "pipe"), str(tmp_path / "out.safetensors")]
    subprocess.run(
        command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    )
    assert torch.allclose(load_file(tmp_path / "out.safetensors")["out"], expected, atol=1e-3)


def test_a_pipeline_with_context_is_not_run_without_it():
    pipe = tiny_pipeline()
    context = ContextDiffPipeline.from_pipeline(pipe, awake(new_relation(pipe, 1.0)))
    for call in (
        lambda: generate(context, "a star"),
        lambda: realign(context, "a star"),
        lambda: generate_with_context(context, context.relation, PROMPTS, [0]),
    ):
        with pytest.raises(InputError, match="would be run without its context"):
            call()


def test_a_process_without_betas_is_refused():
    pipe = tiny_sdxl()
    pipe.scheduler = EDMEulerScheduler()
    with pytest.raises(InputError, match="EDMEulerScheduler has no betas"):
        generate_with_context(pipe, awake(new_relation(pipe, 1.0)), PROMPTS, [0])


def test_adapters_are_not_switched_off_or_saved_where_they_could_not_be_loaded(tmp_path):
    pipe = tiny_pipeline()
    relation = train_context(pipe, draw, tmp_path / "lora", replace(QUICK, denoiser="lora"))
    with pytest.raises(InputError, match="with which its denoiser could not be loaded again"):
        ContextDiffPipeline.from_pipeline(pipe, relation).save_pretrained(tmp_path / "pipe")
    with pytest.raises(InputError, match="which that of the context would switch off"):
        load_context(pipe, tmp_path / "lora")
    with pytest.raises(InputError, match="with which a denoiser that is trained whole could not be loaded again"):
        train_context(pipe, draw, tmp_path / "full", replace(QUICK, denoiser="full"))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    ContextDiffPipeline.from_pipeline(pipe, relation).save_pretrained(tmp_path / "pipe")
    again = ContextDiffPipeline.from_pretrained(tmp_path / "pipe")
    assert all(torch.equal(v, again.unet.state_dict()[k]) for k, v in pipe.unet.state_dict().items())
    other = tiny_sdxl()
    (tmp_path / "lora" / "pytorch_lora_weights.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        load_context(tiny_pipeline(), tmp_path / "lora")
    with pytest.raises(InputError, match="is for latents and text of width"):
        load_context(other, tmp_path / "lora")


# --- training ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", list(PIPELINES))
@pytest.mark.parametrize("denoiser", ["frozen", "lora", "full"])
def test_it_trains_and_samples_on_every_class(tmp_path, kind, denoiser):
    pipe = PIPELINES[kind]()
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    relation = train_context(pipe, draw, tmp_path, replace(QUICK, denoiser=denoiser))
    assert relation.out.weight.abs().max() > 0 and relation.blocks[0].to_k.weight.grad is None
    same = all(torch.equal(v, pipe.unet.state_dict()[k]) for k, v in before.items() if k in pipe.unet.state_dict())
    assert same == (denoiser != "full")
    assert (tmp_path / "pytorch_lora_weights.safetensors").is_file() == (denoiser == "lora")
    back = RelationalNetwork.from_pretrained(tmp_path / "relation")
    kwargs = {"num_inference_steps": 2, "output_type": "latent"}
    with_context = generate_with_context(pipe, back, PROMPTS, [0], **kwargs)
    without = generate_with_context(pipe, back, PROMPTS, [0], context_scale=0.0, **kwargs)
    assert with_context.shape == (2, 4, 16, 16) and not torch.equal(with_context, without)
    if denoiser == "full" and kind != "sdxl":
        loaded = ContextDiffPipeline.from_pretrained(tmp_path / "pipeline")
        assert isinstance(loaded, StableDiffusionPipeline) and torch.equal(loaded.relation.out.weight, back.out.weight)


def test_it_can_look_at_the_decoded_picture_through_a_clip(tmp_path):
    pipe, clip = tiny_pipeline(), load_clip()
    network = awake(new_relation(pipe, 1.0, clip=clip))
    x, states, t = normal(2, 4, 16, 16), normal(2, 7, 32), torch.tensor([100, 900])
    seen = network.pixel_encoder(x)
    pictures = Opened(pipe, 1).decode(PROMPTS, x)
    assert torch.allclose(
        seen,
        clip.model.vision_model(pixel_values=(resized(pictures, 64) - clip.mean) / clip.std).last_hidden_state,
        atol=1e-4,
    )
    r = network(x, states, t)
    network.pixel_encoder = lambda latents: seen.flip(0)  # the other picture's tokens
    assert not torch.allclose(network(x, states, t), r, atol=1e-4)
    blind = awake(RelationalNetwork(4, 32, width=16, pixel_width=128))
    with pytest.raises(InputError, match="was given no pixel_encoder"):
        blind(x, states, t)

    trained = train_context(pipe, draw, tmp_path, replace(QUICK, denoiser="full", pixels=True))
    assert trained.from_pixels.weight.abs().max() > 0 and not any(
        k.startswith("pixel_encoder") for k in trained.state_dict()
    )
    loaded, shift = load_context(tiny_pipeline(), tmp_path)
    assert torch.allclose(loaded(x, states, t), trained(x, states, t), atol=1e-5) and shift == "quadratic"
    whole = ContextDiffPipeline.from_pretrained(tmp_path / "pipeline")
    assert torch.allclose(whole.relation(x, states, t), trained(x, states, t), atol=1e-5)
    with pytest.raises(InputError, match="looks at pixels; give image_encoder"):
        ContextDiffPipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet, whole.scheduler, blind)


def objective_of(pipe, **changes) -> Objective:
    return Objective(pipe, awake(new_relation(pipe, 1.0)), replace(QUICK, **changes))


@pytest.mark.parametrize("loss", ["mse", "kl"])
def test_phi_has_a_gradient_through_x_t(loss):
    pipe = tiny_pipeline("sd2")
    objective = objective_of(pipe, loss=loss, estimated_share=0.5)
    latents, captions = draw(np.random.default_rng(0), 4)
    value, logs = objective(latents, captions, *objective.chance(latents.shape, torch.Generator().manual_seed(0)))
    value.backward()
    assert torch.isfinite(value) and logs["shift"] > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in objective.relation.parameters())


def test_estimated_pictures_take_r_of_the_networks_own_guess():
    pipe = tiny_pipeline()
    objective = objective_of(pipe)
    seen = []
    objective.relation.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
    latents, captions = draw(np.random.default_rng(0), 2)
    noise, times = normal(2, 4, 16, 16), torch.tensor([500, 500])
    objective(latents, captions, noise, times, torch.tensor([True, True]), torch.tensor([False, True]))
    assert (
        len(seen) == 1 and torch.equal(seen[0][0], latents[0]) and not torch.allclose(seen[0][1], latents[1], atol=1e-2)
    )
    # the guess is what the network makes of x_t without any shift, of the estimated ones alone
    plain = DDIMScheduler.from_config(pipe.scheduler.config).add_noise(latents[1:], noise[1:], times[1:])
    told, _ = pipe.encode_prompt(captions[1:], "cpu", 1, False)
    ab = objective.process.scheduler.alphas_cumprod[times[1]]
    expected = (plain - (1 - ab).sqrt() * pipe.unet(plain, times[1:], told).sample) / ab.sqrt()
    assert torch.allclose(seen[0][1:], expected, atol=1e-5)


def test_dropped_captions_are_dropped_for_the_denoiser_alone():
    pipe = tiny_pipeline()
    objective, told, heard = objective_of(pipe), [], []
    objective.relation.register_forward_pre_hook(lambda m, args: told.append(args[1]))
    hook = pipe.unet.register_forward_pre_hook(
        lambda m, args, kwargs: heard.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    latents, captions = draw(np.random.default_rng(0), 2)
    objective(
        latents,
        captions,
        normal(2, 4, 16, 16),
        torch.tensor([500, 500]),
        torch.tensor([True, False]),
        torch.tensor([True, True]),
    )
    hook.remove()
    states, empty = pipe.encode_prompt(captions, "cpu", 1, True)
    # the last two, for its guess too; before them it was looked whether the pipeline answers the same twice
    assert all(torch.equal(h, torch.stack([states[0], empty[1]])) for h in heard[-2:])
    assert len(told) == 1 and torch.equal(told[0], states)


def test_a_context_that_cannot_be_read_or_does_not_fit_is_named(tmp_path):
    clip = load_clip()
    train_context(tiny_pipeline(), draw, tmp_path / "a", replace(QUICK, denoiser="full", pixels=True))
    with torch.no_grad():
        next(clip.model.vision_model.parameters()).add_(1)
    with pytest.raises(InputError, match="through another CLIP than this one"):
        load_context(tiny_pipeline(), tmp_path / "a", clip)
    config = tmp_path / "a" / "config.json"
    text = config.read_text()
    config.write_text(text.replace("quadratic", "cubic"))
    with pytest.raises(InputError, match="has the shift 'cubic'"):
        load_context(tiny_pipeline(), tmp_path / "a")
    config.write_text(text)
    weights = next((tmp_path / "a" / "pipeline" / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_context(tiny_pipeline(), tmp_path / "a")
    shape = tmp_path / "a" / "relation" / "config.json"
    shape.write_text(shape.read_text().replace('"layers": 2', '"layers": 3'))
    with pytest.raises(InputError, match="lacks weights"):
        load_context(tiny_pipeline(), tmp_path / "a")


def test_training_goes_on_where_it_was_and_refuses_other_settings(tmp_path, monkeypatch):
    from accord.training.loop import Run

    config = replace(QUICK, steps=4, ema_decay=0.5)
    whole = train_context(tiny_pipeline(), draw, tmp_path / "a", config)
    real = Run._step

    def stop(self, *arguments):
        if self.step == 2:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Run, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train_context(tiny_pipeline(), draw, tmp_path / "b", config)
    monkeypatch.undo()
    with pytest.raises(InputError, match="was begun with gain="):
        train_context(tiny_pipeline(), draw, tmp_path / "b", replace(config, gain=0.5))
    again = train_context(tiny_pipeline(), draw, tmp_path / "b", config)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("denoiser", "half"),
        ("shift", "cubic"),
        ("loss", "l1"),
        ("estimated_share", 2.0),
        ("share", 0.0),
        ("gain", -1.0),
        ("steps", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("gain", float("nan")),
        ("ema_decay", 1.0),
    ],
)
def test_a_field_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} must"):
        replace(QUICK, **{field: value})
