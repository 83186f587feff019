"""Edits and the white box on pipelines of several families, by the same lines."""

import itertools
import threading

import pytest
import torch
from zoo import CALL, fresh, shared

from accord.diffusion.opened import Opened, networks_of
from accord.diffusion.process import affine, levels, transition
from accord.diffusion.state import held, network_of
from accord.diffusion.tower import blocks_of, features
from accord.methods.edit.editing import edit_pixels, flow_edit, injected, invert, sample_from
from accord.types import InputError

SOURCE, TARGET = "a red star", "a blue key"
FLOWS = ("sd35", "flux2klein", "qwenimage", "zimage", "sana", "wan")
OTHERS = ("sd1", "pixart")


def opened_of(name: str, steps: int = 5, **more) -> Opened:
    """Without guidance."""
    call = dict(CALL[name])
    for argument in ("guidance_scale", "true_cfg_scale"):
        if argument in call:
            call[argument] = 0.0 if name == "zimage" else 1.0
            call.pop("negative_prompt", None)
    return Opened(shared(name), steps, **{**call, **more})


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def clean(opened: Opened) -> torch.Tensor:
    return opened.rollout([SOURCE], generators(3))


def off(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", [*FLOWS, *OTHERS])
def test_what_is_inverted_samples_back_the_closer_the_more_rounds(name):
    opened = opened_of(name)
    x0 = clean(opened)
    few, many = (invert(opened, [SOURCE], x0, rounds) for rounds in (1, 12))
    assert len(many) == 6 and torch.equal(many[0], x0) and off(many[-1], x0) > 0.05
    back = [off(sample_from(opened, [SOURCE], path[-1]), x0) for path in (few, many)]
    assert back[1] < 0.02 and back[1] < back[0] / 3
    part = sample_from(opened, [SOURCE], many[2], first=3)  # from the middle of the way
    assert off(part, x0) < 0.02


@pytest.mark.parametrize("name", ["sd1", "sd35"])
def test_a_step_is_affine_and_of_a_constant_network_the_inverse_is_exact(name):
    opened = opened_of(name)
    x = clean(opened)
    grid = levels(opened.schedule([SOURCE], x))
    for now, after in itertools.pairwise(grid):
        a, b = affine(now, after)
        output = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(a * x + b * output, transition(x, output, now, after)[0], atol=1e-5)
    pipe = fresh(name)
    last = pipe.unet.conv_out if name == "sd1" else pipe.transformer.proj_out
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, 0.3)
    constant = Opened(pipe, 5, **{**CALL[name], "guidance_scale": 1.0})
    path = invert(constant, [SOURCE], x, rounds=1)
    assert off(sample_from(constant, [SOURCE], path[-1]), x) < 1e-5


@pytest.mark.parametrize("name", FLOWS)
def test_flow_edit_to_the_same_prompt_gives_the_source_back(name):
    opened = opened_of(name)
    x0 = clean(opened)
    same = flow_edit(opened, opened, [SOURCE], [SOURCE], x0, generators(1))
    assert off(same, x0) < 1e-5
    other, again = (flow_edit(opened, opened, [SOURCE], [TARGET], x0, generators(1)) for _ in range(2))
    assert off(other, x0) > 1e-4 and torch.equal(other, again)
    assert not torch.equal(flow_edit(opened, opened, [SOURCE], [TARGET], x0, generators(2)), other)
    assert torch.equal(flow_edit(opened, opened, [SOURCE], [TARGET], x0, generators(1), skip=5), x0)


def test_flow_edit_goes_from_the_source_to_the_target():
    """One step, written out: z = x0 + (s' - s) (v_target - v_source), both at x_t; not the other sign."""
    opened = opened_of("sd35", steps=1)
    x0 = clean(opened)
    now, after = levels(opened.schedule([SOURCE], x0))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(7))
    x_t = (1 - now.s) * x0 + now.s * noise
    with torch.no_grad():
        v = {p: opened.output([p], x_t, step=0) for p in (SOURCE, TARGET)}
    found = flow_edit(opened, opened, [SOURCE], [TARGET], x0, generators(7))
    assert after.s == 0 and torch.allclose(found, x0 - now.s * (v[TARGET] - v[SOURCE]), atol=1e-5)
    assert not torch.allclose(found, x0 + now.s * (v[TARGET] - v[SOURCE]), atol=1e-5)


def test_flow_edit_adds_up_over_its_steps():
    opened = opened_of("sd35", steps=3)
    x0 = clean(opened)
    grid, maker, z = levels(opened.schedule([SOURCE], x0)), torch.Generator().manual_seed(7), x0
    for i in range(1, 3):
        x_t = grid[i].noised(x0, torch.randn(x0.shape, generator=maker))
        with torch.no_grad():
            change = opened.output([TARGET], z + x_t - x0, step=i) - opened.output([SOURCE], x_t, step=i)
        z = z + (grid[i + 1].s - grid[i].s) * change
    found = flow_edit(opened, opened, [SOURCE], [TARGET], x0, generators(7), skip=1)
    assert torch.allclose(found, z, atol=1e-5) and off(found, x0) > 1e-5


def test_injection_ends_where_it_is_told_to():
    opened, prompts = opened_of("sd35"), [SOURCE, TARGET]
    both = torch.cat([opened.noise([SOURCE], generators(3))] * 2)
    with torch.no_grad():
        free = [opened.output(prompts, both, step=i) for i in range(5)]
        with injected(opened, SOURCE, TARGET, until=0.3):
            held = [opened.output(prompts, both, step=i) for i in range(5)]
    same = [torch.equal(a, b) for a, b in zip(free, held, strict=True)]
    assert not same[0] and same[-1] and same == sorted(same)  # the noisy end alone


def test_steps_that_a_run_has_not_are_refused():
    opened = opened_of("sd35", steps=2)
    x0 = clean(opened)
    for wrong in (-1, 3):
        with pytest.raises(InputError, match="skip must be between 0 and the 2 steps"):
            flow_edit(opened, opened, [SOURCE], [TARGET], x0, generators(1), skip=wrong)
        with pytest.raises(InputError, match="first must be between 0 and the 2 steps"):
            sample_from(opened, [SOURCE], x0, first=wrong)


def test_flow_edit_is_for_flows():
    opened = opened_of("sd1")
    with pytest.raises(InputError, match="FlowEdit is for flow pipelines, and a StableDiffusionPipeline is none"):
        flow_edit(opened, opened, [SOURCE], [TARGET], clean(opened), generators(1))


@pytest.mark.parametrize("name", ["sd1", "pixart", "sd35", "qwenimage", "zimage", "wan"])
def test_injection_moves_the_target_and_leaves_the_source(name):
    opened, prompts = opened_of(name), [SOURCE, TARGET]
    noise = opened.noise([SOURCE], generators(3))
    both = torch.cat([noise, noise])
    free = sample_from(opened, prompts, both)
    with injected(opened, SOURCE, TARGET):
        held = sample_from(opened, prompts, both)
    assert torch.equal(held[0], free[0]) and off(held[1], free[1]) > 1e-5
    with injected(opened, SOURCE, TARGET, until=0.3):  # the noisy end alone
        part = sample_from(opened, prompts, both)
    assert torch.equal(part[0], free[0]) and not torch.equal(part[1], free[1]) and not torch.equal(part[1], held[1])
    assert torch.equal(sample_from(opened, prompts, both), free)
    with injected(opened, SOURCE, SOURCE):  # of itself nothing is changed
        same = sample_from(opened, [SOURCE, SOURCE], both)
    assert torch.allclose(same[1], same[0], atol=1e-4)


@pytest.mark.parametrize("name", ["sd1", "flux2klein", "wan"])
def test_pixels_are_edited(name):
    opened = opened_of(name, steps=3)
    with torch.no_grad():
        pixels = opened.decode([SOURCE], clean(opened))[0]
    edited = edit_pixels(opened, opened, pixels, SOURCE, TARGET, torch.Generator().manual_seed(0))
    assert edited.shape == pixels.shape and edited.min() >= 0 and edited.max() <= 1
    kept = edit_pixels(opened, opened, pixels, SOURCE, SOURCE, torch.Generator().manual_seed(0), rounds=12)
    with torch.no_grad():
        through = opened.decode([SOURCE], opened.encode([SOURCE], pixels[None]))[0]
    if name != "sd1":  # random weights are not smooth: an inversion of what the VAE gives does not close there
        assert off(kept, through) < 0.02  # but for the VAE the source is kept
    assert not torch.allclose(edited, kept)
    none = edit_pixels(opened, opened, pixels, SOURCE, TARGET, torch.Generator().manual_seed(0), skip=3)
    assert torch.allclose(none, through, atol=1e-5)  # no step is taken


@pytest.mark.parametrize("name", ["sd1", "sd35", "flux2klein", "zimage", "sana", "wan", "wan22"])
def test_features_of_the_middle_differ_by_picture_and_caption_and_have_a_gradient(name):
    opened, captions = opened_of(name, steps=2), [SOURCE, TARGET]
    state = opened.rollout(captions, generators(0, 1)).requires_grad_()
    found = features(opened, captions, state)
    assert found.dim() == 2 and len(found) == 2 and not torch.allclose(found[0], found[1])
    (grad,) = torch.autograd.grad(found.square().mean(), state)
    assert grad.abs().sum() > 0
    with torch.no_grad():
        assert torch.equal(features(opened, captions, state), found)
        other = features(opened, captions[::-1], state)
        late = features(opened, captions, state, timestep=900.0)
    assert not torch.allclose(other, found) or name in ("sana",)
    assert not torch.allclose(late, found)
    assert not any(m._forward_hooks for network in networks_of(opened.pipe) for m in network.modules())
    with pytest.raises(InputError, match="share must be in"):
        features(opened, captions, state, share=1.0)
    assert name == "sd1" or blocks_of(networks_of(opened.pipe)[0])


@pytest.mark.parametrize(("timestep", "expert"), [(20.0, 1), (900.0, 0)])
def test_features_are_those_of_the_network_that_runs_at_that_time(timestep, expert):
    """Of Wan 2.2's two experts: what its block says when the whole network is run."""
    opened = opened_of("wan22", steps=2)
    state, seen = opened.noise([SOURCE], generators(0)), []
    block = blocks_of(networks_of(opened.pipe)[expert])[1]
    handle = block.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        opened.output([SOURCE], state, timestep=timestep)
        handle.remove()
        found = features(opened, [SOURCE], state, timestep=timestep)
    assert torch.equal(found, seen[-1].mean(1))


def test_features_wait_for_the_thread_that_runs_the_network_and_hang_nothing_on_it_before():
    opened = opened_of("sd1", steps=2)
    state, found = opened.noise([SOURCE], generators(0)), []
    reader = threading.Thread(target=lambda: found.append(features(opened, [SOURCE], state)))
    with held(network_of(opened.pipe)):
        reader.start()
        reader.join(0.3)
        assert reader.is_alive() and not any(m._forward_hooks for m in opened.pipe.unet.modules())
    reader.join()
    assert torch.equal(found[0], features(opened, [SOURCE], state))
