"""What is opened or generated equals the pipeline bit for bit, and a modulation leaves nothing behind."""

import copy

import numpy as np
import pytest
import torch
from conftest import tiny_flux, tiny_sd3, tiny_sdxl
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)

from accord.diffusion.attention import AttentionMaps
from accord.diffusion.generate import generate, generators, refusing_nan
from accord.diffusion.opened import Opened, part_of
from accord.diffusion.pipelines import SD, check_device, check_prompt_length, load
from accord.diffusion.process import level_at
from accord.diffusion.tap import Attention
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.modulation import Segments, modulated
from accord.methods.video.hook import attention_hook
from accord.types import InputError

PROMPTS = ["a red star", "two blue keys on a gray background"]


def with_scheduler(pipe, cls):
    pipe = copy.copy(pipe)
    pipe.register_modules(scheduler=cls.from_config(pipe.scheduler.config))
    return pipe


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_rollout_is_the_pipelines_with_eta_rescale_negative_and_one_generator(tiny, eta):
    kwargs = {"guidance_scale": 5.0, "guidance_rescale": 0.6, "eta": eta, "negative_prompt": ["a moon"] * 2}
    one = lambda: torch.Generator().manual_seed(9)  # noqa: E731
    expected = tiny(PROMPTS, num_inference_steps=3, generator=one(), output_type="latent", **kwargs).images
    ours = Opened(tiny, 3, **kwargs).rollout(PROMPTS, one())
    assert torch.equal(ours, expected)


def test_a_rollout_is_the_pipelines_in_bfloat16_and_at_another_size(tiny):
    pipe = copy.deepcopy(tiny).to(torch.bfloat16)
    size = {"height": 48, "width": 32}
    expected = pipe(PROMPTS, generator=generators([0, 1]), output_type="latent", num_inference_steps=2, **size).images
    ours = Opened(pipe, 2, **size).rollout(PROMPTS, generators([0, 1]))
    assert expected.dtype == torch.bfloat16 and torch.equal(ours, expected)


def test_generate_asks_xl_for_nothing_as_the_pipeline_does():
    pipe = tiny_sdxl()
    assert pipe.config.force_zeros_for_empty_prompt
    expected = pipe(
        PROMPTS[0], generator=generators([3]), output_type="latent", num_inference_steps=2, guidance_scale=6.0
    ).images
    assert torch.equal(
        generate(pipe, PROMPTS[0], 3, num_inference_steps=2, guidance_scale=6.0, output_type="latent"), expected
    )
    assert not torch.equal(
        generate(
            pipe, PROMPTS[0], 3, negative_prompt="a", num_inference_steps=2, guidance_scale=6.0, output_type="latent"
        ),
        expected,
    )


@pytest.mark.parametrize("make", [tiny_sd3, tiny_flux])
def test_other_classes_make_pictures_by_their_own_call(make, tmp_path):
    pipe = make()
    size = {"num_inference_steps": 2, "height": 32, "width": 32, "guidance_scale": 5.0}
    expected = pipe(prompt=PROMPTS, generator=generators([3, 3]), output_type="pt", **size).images
    own = {"num_inference_steps": 2, "output_type": "pt"}  # guidance and size are the call's own unless said
    assert torch.equal(
        generate(pipe, PROMPTS, 3, **own), pipe(prompt=PROMPTS, generator=generators([3, 3]), **own).images
    )
    assert torch.equal(generate(pipe, PROMPTS, 3, output_type="pt", **size), expected)
    told = generate(pipe, PROMPTS, 3, output_type="pt", max_sequence_length=8, **size)
    assert not torch.equal(told, expected)  # an argument of the call
    with pytest.raises(InputError, match="takes no eta"):
        generate(pipe, PROMPTS, eta=1.0, **size)
    with pytest.raises(InputError, match="empty"):
        generate(pipe, " ", **size)
    pipe.save_pretrained(tmp_path / "pipe")
    with pytest.raises(InputError, match="which is not supported here; use a StableDiffusionPipeline"):
        load(str(tmp_path / "pipe"), "cpu", classes=SD)
    again = load(str(tmp_path / "pipe"), "cpu")
    assert torch.equal(generate(again, PROMPTS, 3, output_type="pt", **size), expected)


def test_a_prompt_may_be_as_long_as_the_longest_text_encoder_takes():
    words = " ".join(["star"] * 100)
    check_prompt_length(tiny_sd3(), words)
    with pytest.raises(InputError, match="longer than the 77 tokens"):
        check_prompt_length(tiny_sdxl(), words)
    with pytest.raises(InputError, match="longer than the 256 tokens"):
        check_prompt_length(tiny_sd3(), " ".join(["star"] * 300))


def test_latents_that_an_xl_vae_normalises():
    pipe = tiny_sdxl()
    pipe.vae.register_to_config(latents_mean=[0.1, -0.2, 0.3, 0.4], latents_std=[1.5, 0.5, 2.0, 1.0])
    opened = Opened(pipe, 2, guidance_scale=7.5)
    state = opened.rollout(PROMPTS[:1], generators([3]))
    expected = pipe(
        PROMPTS[:1], generator=generators([3]), num_inference_steps=2, guidance_scale=7.5, output_type="pt"
    ).images
    assert torch.equal(opened.decode(PROMPTS[:1], state), expected)
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    raw = pipe.vae.encode(pixels * 2 - 1).latent_dist.mode()
    mean, spread = (
        torch.tensor(v).view(1, 4, 1, 1) for v in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
    )
    clean = opened.encode(PROMPTS[:1], pixels)
    assert torch.allclose(clean * spread / pipe.vae.config.scaling_factor + mean, raw, atol=1e-5)


def begun(scheduler, noise, clean, strength):
    """Timesteps from part-way, and the state there."""
    first, timesteps = part_of(scheduler, strength)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return timesteps, scheduler.add_noise(clean, noise, timesteps[:1])


def test_pndm_from_part_way_takes_its_second_step_twice():
    """With a constant output the picture must come out as without noise; a step behind it does not."""
    g = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 4, 8, 8, generator=g) for _ in range(2))
    errors = {}
    for cls in (DDIMScheduler, PNDMScheduler):
        scheduler = (
            cls(skip_prk_steps=True, beta_schedule="scaled_linear")
            if cls is PNDMScheduler
            else cls(beta_schedule="scaled_linear", clip_sample=False)
        )
        scheduler.set_timesteps(25)
        timesteps, x = begun(scheduler, noise, clean, 0.8)
        for t in timesteps:
            x = scheduler.step(noise, t, x, return_dict=False)[0]
        errors[cls] = float((x - clean).square().mean().sqrt())
        assert len(timesteps) == 20 + (cls is PNDMScheduler)
    assert errors[DDIMScheduler] < 1e-5 and errors[PNDMScheduler] < 0.03  # a step behind: 0.16


@pytest.mark.parametrize("cls", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_others_made_from_pndms_configuration_take_each_step_once(cls):
    """They carry its `skip_prk_steps` too."""
    scheduler = cls.from_config(PNDMScheduler(skip_prk_steps=True).config)
    scheduler.set_timesteps(5)
    _, times = part_of(scheduler, 0.8)
    assert scheduler.config.skip_prk_steps and torch.equal(times, scheduler.timesteps[1:])


def test_only_the_last_steps_keep_their_graph(tiny):
    pipe = copy.deepcopy(tiny)
    pipe.unet.requires_grad_(True)
    seen = []
    Opened(pipe, 4).rollout(
        PROMPTS[:1], generators([0]), on_step=lambda step: seen.append(step.next().requires_grad), grad_steps=2
    )
    assert seen == [False, False, True, True]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_predicted_x0_is_what_the_latents_were_made_of(kind):
    scheduler = DDIMScheduler(prediction_type=kind)
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(3, 4, 8, 8, generator=g, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([3, 500, 990])
    noisy = scheduler.add_noise(x0, noise, t)
    output = {"epsilon": noise, "sample": x0, "v_prediction": scheduler.get_velocity(x0, noise, t)}[kind]
    assert torch.allclose(level_at(scheduler, t, noisy).x0(noisy, output), x0, atol=1e-4)


def test_lab_pipeline_too(lab):
    for cls in (DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler):
        pipe = with_scheduler(lab, cls)
        expected = pipe(PROMPTS, generator=generators([0, 1]), num_inference_steps=5, output_type="latent").images
        ours = Opened(pipe, 5).rollout(PROMPTS, generators([0, 1]))
        assert torch.equal(ours, expected)


def test_the_pipelines_own_scheduler_is_not_touched(tiny):
    before = {k: copy.deepcopy(v) for k, v in vars(tiny.scheduler).items()}
    Opened(tiny, 3).rollout(PROMPTS[:1], generators([0]))
    after = vars(tiny.scheduler)
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key]
        assert same is True or bool(np.all(same)), key


def test_generate_does_not_depend_on_the_batch(tiny):
    a = generate(tiny, PROMPTS, [0, 1], num_inference_steps=2, output_type="latent", batch_size=4)
    b = generate(tiny, PROMPTS, [0, 1], num_inference_steps=2, output_type="latent", batch_size=1)
    assert a.shape == (4, 4, 16, 16)
    assert torch.allclose(a, b, atol=1e-4)
    assert not torch.allclose(a[0], a[1], atol=1e-2)


def test_bad_numbers_and_nan_are_named(tiny):
    with pytest.raises(InputError, match="num_inference_steps"):
        generate(tiny, PROMPTS, num_inference_steps=0)
    with pytest.raises(InputError, match="strength"):
        clean = torch.zeros(2, 4, 16, 16)
        Opened(tiny, 2).rollout(PROMPTS, generators([0, 1]), start=clean, strength=0.0)
    with pytest.raises(InputError, match="noise is not used beside start"):
        Opened(tiny, 2).rollout(PROMPTS, generators([0, 1]), noise=clean, start=clean, strength=0.5)
    nan = torch.full((1, 4, 16, 16), float("nan"))
    with pytest.raises(InputError, match="not finite"):
        generate(tiny, PROMPTS[:1], num_inference_steps=2, latents=nan, output_type="latent")
    with pytest.raises(InputError, match="not finite"), refusing_nan(tiny):  # a VAE's, though the latents were
        Opened(tiny, 2).decode(PROMPTS[:1], torch.full((1, 4, 16, 16), float("inf")))
    with pytest.raises(InputError, match="guidance_scale must be a finite number"):
        generate(tiny, PROMPTS, guidance_scale=float("nan"))
    with pytest.raises(InputError, match=r"cannot take these steps .it would begin at step 1000 of 1000"):
        generate(tiny, PROMPTS, num_inference_steps=1000)


def test_too_long_prompts_say_which_words_fall_off(tiny):
    with pytest.raises(InputError, match="'moon'"):
        generate(tiny, "star " * 75 + "moon", num_inference_steps=1)
    with pytest.raises(InputError, match="empty"):
        generate(tiny, "  ", num_inference_steps=1)
    with pytest.raises(InputError, match="is no UTF-8"):
        generate(tiny, "a star \udcff", num_inference_steps=1)


@pytest.mark.parametrize("device", ["meta", "mps", "xpu", "cuda:77", "toaster"])
def test_devices_that_are_not_here_are_named(device):
    with pytest.raises(InputError, match=f"device '{device}' is (not available here|unknown)"):
        check_device(device)


# --- attention
# ---------------------------------------------------------------------------------------------------------
def segments(batch: int, tokens: int, n: int = 2, omega: float = 1.0) -> Segments:
    masks = torch.zeros(batch, n, 16, 16)
    masks[:, 0, :, :7] = 1
    if n > 1:
        masks[:, 1, :, 9:] = 1
    words = torch.zeros(batch, n, tokens)
    for k in range(n):
        words[:, k, 1 + k] = 1
    return Segments(masks, words, torch.full((batch, n), omega))


def modulated_run(pipe, prompts, config, segs, seeds):
    opened = Opened(pipe, 4, guidance_scale=7.5)
    with modulated(opened, prompts, segs, config) as state:
        return opened.rollout(prompts, generators(seeds), before_step=state.before_step)


STRONG = RealignConfig(modulated_share=1.0, time_power=0.0, self_weight=0.8)


def test_a_hook_that_stays_out_changes_nothing_and_is_removed(tiny):
    processors = dict(tiny.unet.attn_processors)
    plain = Opened(tiny, 3).rollout(PROMPTS, generators([0, 1]))
    maps = AttentionMaps((16, 16))

    def record(_layer, query, key, value, cross):
        half = slice(len(query) // 2, None)  # the prompts' rows
        maps.see(Attention(query[half], key[half], value[half], kind="cross" if cross else "self"))

    with attention_hook(tiny.unet, record):
        recorded = Opened(tiny, 3).rollout(PROMPTS, generators([0, 1]))
    assert torch.equal(plain, recorded)
    assert {k: id(v) for k, v in tiny.unet.attn_processors.items()} == {k: id(v) for k, v in processors.items()}
    mean = maps.mean()
    assert mean.shape == (2, 77, 16, 16)
    assert torch.allclose(mean.sum(1), torch.ones(2, 16, 16), atol=1e-4)


def test_a_hook_is_removed_after_an_error(tiny):
    processors = {k: id(v) for k, v in tiny.unet.attn_processors.items()}
    with pytest.raises(RuntimeError, match="stop"), attention_hook(tiny.unet, lambda *a: None):
        raise RuntimeError("stop")
    assert {k: id(v) for k, v in tiny.unet.attn_processors.items()} == processors


def test_modulation_acts_and_leaves_the_pipeline_bit_for_bit(tiny):
    plain = Opened(tiny, 4).rollout(PROMPTS, generators([0, 1]))
    changed = modulated_run(tiny, PROMPTS, STRONG, segments(2, 77), [0, 1])
    assert not torch.allclose(plain, changed, atol=1e-4)
    assert torch.equal(plain, Opened(tiny, 4).rollout(PROMPTS, generators([0, 1])))


def test_zero_weights_zero_share_and_no_segments_are_the_plain_pipeline(tiny):
    plain = Opened(tiny, 4).rollout(PROMPTS, generators([0, 1]))
    off = RealignConfig(cross_weight=0.0, self_weight=0.0, modulated_share=1.0, time_power=0.0)
    assert torch.equal(plain, modulated_run(tiny, PROMPTS, off, segments(2, 77), [0, 1]))
    none = RealignConfig(modulated_share=0.0)
    assert torch.equal(plain, modulated_run(tiny, PROMPTS, none, segments(2, 77), [0, 1]))
    empty = Segments(torch.zeros(2, 2, 16, 16), torch.zeros(2, 2, 77), torch.ones(2, 2))
    assert torch.allclose(plain, modulated_run(tiny, PROMPTS, STRONG, empty, [0, 1]), atol=1e-4)


def test_two_prompts_in_a_batch_do_not_leak(tiny):
    both = segments(2, 77)
    both.masks[1] = 0  # the second picture has no regions
    together = modulated_run(tiny, PROMPTS, STRONG, both, [0, 1])
    first = modulated_run(tiny, PROMPTS[:1], STRONG, segments(1, 77), [0])
    plain = Opened(tiny, 4).rollout(PROMPTS[1:], generators([1]))
    assert torch.allclose(together[:1], first, atol=1e-4)
    assert torch.allclose(together[1:], plain, atol=1e-4)


def test_unconditional_half_is_untouched(tiny):
    # with guidance 1 + epsilon the result is (almost) the conditional half, with 0 weight on it the free half
    seen = {}

    def spy(attn, query, key, value, cross):
        seen.setdefault(len(seen), query.shape[0])
        return None

    with attention_hook(tiny.unet, spy):
        Opened(tiny, 1).rollout(PROMPTS, generators([0, 1]))
    assert set(seen.values()) == {4}
    opened = Opened(tiny, 4, guidance_scale=7.5)
    with modulated(opened, PROMPTS, segments(2, 77), STRONG) as state:
        leave = {}

        def keep(step):
            state.before_step(step)

        def first(module, args, output):
            leave.setdefault(state.active, output[0] if isinstance(output, tuple) else output.sample)

        handle = tiny.unet.register_forward_hook(first)
        try:
            opened.rollout(PROMPTS, generators([0, 1]), before_step=keep)
            state.tau = 0.0
            opened.rollout(PROMPTS, generators([0, 1]))
        finally:
            handle.remove()
    out, plain = leave[True], leave[False]
    assert torch.allclose(out[:2], plain[:2], atol=1e-5)
    assert not torch.allclose(out[2:], plain[2:], atol=1e-4)
