"""Stable Diffusion 3 and Flux: hooks in joint attention, and `realign` through the pipeline's own call."""

import numpy as np
import pytest
import torch
from conftest import tiny_flux, tiny_sd3
from torch.nn.functional import scaled_dot_product_attention

from accord.data.prompts import parse
from accord.diffusion.attention import AttentionMaps
from accord.diffusion.engines import Sampling, engine_of
from accord.diffusion.generate import generate
from accord.diffusion.joint import joint_hook
from accord.diffusion.loop import generators, initial_noise
from accord.diffusion.pipelines import joint_length, sample_size, token_spans, tokens_of
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.fine import realign
from accord.methods.realign.modulation import Segments, modulated
from accord.types import InputError

MAKERS = {"sd3": tiny_sd3, "flux": tiny_flux}
PROMPT = "a red star and a blue key"


@pytest.fixture(scope="module", params=list(MAKERS))
def joint(request):
    return MAKERS[request.param]()


def pictures(pipe, segments=None, config=None, watch=lambda step: None):
    """Two pictures of PROMPT, modulated if segments are given."""
    noise = initial_noise(pipe, 2, generators([0, 1]))
    engine = engine_of(pipe)
    if segments is None:
        return engine.pictures([PROMPT] * 2, noise, Sampling("", 2, 5.0), watch)
    with modulated(pipe, segments, config) as state:
        return engine.pictures([PROMPT] * 2, noise, Sampling("", 2, 5.0), state.before_step)


def segments_of(pipe) -> Segments:
    """The star on the left, the key on the right."""
    spans = token_spans(pipe, PROMPT)
    masks, tokens = torch.zeros(2, 2, *sample_size(pipe)), torch.zeros(2, 2, len(spans))
    for n, words in enumerate(("a red star", "a blue key")):
        start = PROMPT.index(words)
        masks[:, n, :, 8 * n : 8 * (n + 1)] = 1
        tokens[:, n, tokens_of(spans, start, start + len(words))] = 1
    return Segments(masks, tokens, torch.ones(2, 2))


def test_spans_are_those_of_every_text_encoder(joint):
    spans = token_spans(joint, PROMPT)
    assert len(spans) == joint_length(joint) == (77 + 256 if "3" in type(joint).__name__ else 512)
    start = PROMPT.index("blue")
    found = tokens_of(spans, start, start + 4)
    assert len(found) == (
        1 if "Flux" in type(joint).__name__ else 2
    )  # in T5's part; of Stable Diffusion 3 in CLIP's too
    assert all(PROMPT[slice(*spans[i])].strip() == "blue" for i in found)


def test_what_is_recorded_is_where_the_image_attends(joint):
    """The hooks' queries, keys and values are the layers' own: plain attention over them gives the same picture."""
    plain, seen = pictures(joint), []

    def attend(query, key, value, image, text):
        seen.append((query, key, image, text))
        return scaled_dot_product_attention(query, key, value)

    length = joint_length(joint)
    with joint_hook(joint.transformer, attend, length):
        again = pictures(joint)
    assert torch.allclose(again, plain, atol=1e-5) and len(seen) == 2 * 2
    with joint_hook(joint.transformer, lambda *a: None, length):
        assert torch.equal(pictures(joint), plain)
    guided = engine_of(joint).guided(5.0)
    recorder = AttentionMaps(sample_size(joint), guided)
    with engine_of(joint).hook(recorder, lambda: True):
        assert torch.equal(pictures(joint), plain)
    expected = []
    for query, key, image, text in seen:
        assert (query.shape[2], query[:, :, text].shape[2], query[:, :, image].shape[2]) == (length + 64, length, 64)
        assert len(query) == (4 if guided else 2)
        q, k = query[-2:, :, image], key[-2:, :, text]
        expected.append(
            (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(1).transpose(1, 2).unflatten(-1, (8, 8))
        )
    small = torch.nn.functional.interpolate(
        torch.stack(expected).mean(0), (16, 16), mode="bilinear", align_corners=False
    )
    assert torch.allclose(recorder.mean(), small, atol=1e-5)


def test_no_strength_changes_nothing_and_strength_does(joint):
    plain, segments = pictures(joint), segments_of(joint)
    none = pictures(joint, segments, RealignConfig(cross_weight=0, self_weight=0))
    assert torch.allclose(none, plain, atol=1e-5)
    assert torch.equal(pictures(joint, segments, RealignConfig(modulated_share=0)), plain)
    whole = pictures(joint, segments, RealignConfig(modulated_share=1.0, time_power=0.0))
    assert not torch.allclose(whole, plain, atol=1e-3) and torch.isfinite(whole).all()
    assert torch.equal(pictures(joint), plain)


def test_steps_are_those_of_the_scheduler(joint):
    steps = []
    pictures(joint, watch=lambda step: steps.append((step.index, step.count, float(step.timestep))))
    assert [s[:2] for s in steps] == [(0, 2), (1, 2)]
    assert steps[0][2] == 1000 and 0 < steps[1][2] < 1000


@pytest.mark.parametrize("mode", ["new_seed", "same_seed"])
def test_never_worse_and_the_pipeline_is_untouched(joint, mode):
    prompts, own = [PROMPT, "two red stars"], joint.scheduler
    settings = {"num_inference_steps": 2, "guidance_scale": 5.0}
    before = generate(joint, prompts, [0, 1], output_type="latent", **settings)
    processors = {k: id(v) for k, v in joint.transformer.attn_processors.items()}
    results = realign(joint, prompts, [0, 1], config=RealignConfig(mode=mode), captions=False, **settings)
    for result in results:
        assert (
            result.alignment_after.overall >= result.alignment_before.overall and result.rounds == 2 and result.regions
        )
        assert result.denoiser_calls == 3 * 2 * (2 if engine_of(joint).guided(5.0) else 1)
    assert any(r.improved for r in results)
    assert torch.equal(generate(joint, prompts, [0, 1], output_type="latent", **settings), before)
    assert {k: id(v) for k, v in joint.transformer.attn_processors.items()} == processors and joint.scheduler is own
    assert not joint.transformer._forward_pre_hooks


def test_before_is_what_the_pipeline_itself_makes(joint):
    result = realign(joint, PROMPT, 5, config=RealignConfig(rounds=0), num_inference_steps=2, captions=False)[0]
    plain = joint(
        PROMPT, height=32, width=32, generator=generators([5]), num_inference_steps=2, guidance_scale=5.0
    ).images[0]
    assert np.array_equal(np.asarray(result.before), np.asarray(plain)) and result.prompt == parse(PROMPT)


def test_what_is_not_possible_is_said(joint):
    name = type(joint).__name__
    with pytest.raises(InputError, match=f"a {name} is not started from part-way"):
        realign(joint, PROMPT, config=RealignConfig(mode="renoise"))
    if "Flux" in name:
        with pytest.raises(InputError, match="no negative prompt"):
            realign(joint, PROMPT, negative_prompt="a moon", num_inference_steps=2)
    other = MAKERS["flux" if "Flux" in name else "sd3"]()
    other.transformer.fuse_qkv_projections()
    with pytest.raises(InputError, match="is changed already"):
        realign(other, PROMPT, num_inference_steps=2)
