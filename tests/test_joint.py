"""`realign` on Stable Diffusion 3 and Flux, in whose attention text and image are joint."""

import numpy as np
import pytest
import torch
from conftest import tiny_flux, tiny_sd3

from accord.diffusion.attention import AttentionMaps
from accord.diffusion.generate import generate, generators
from accord.diffusion.opened import Opened
from accord.diffusion.pipelines import tokens_of
from accord.diffusion.tap import attention_layout, observed
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.fine import realign
from accord.methods.realign.modulation import Segments, modulated
from accord.prompts.phrases import phrases_of
from accord.types import InputError

MAKERS = {"sd3": tiny_sd3, "flux": tiny_flux}
PROMPT = "a red star and a blue key"
PROMPTS = [PROMPT] * 2


@pytest.fixture(scope="module", params=list(MAKERS))
def joint(request):
    return MAKERS[request.param]()


def opened_of(pipe) -> Opened:
    return Opened(pipe, 2, guidance_scale=5.0)


def pictures(pipe, segments=None, config=None, watch=None):
    """Two pictures of PROMPT, modulated if segments are given."""
    opened = opened_of(pipe)
    if segments is None:
        return opened.pictures(PROMPTS, generators([0, 1]), before_step=watch)
    with modulated(opened, PROMPTS, segments, config) as state:
        return opened.pictures(PROMPTS, generators([0, 1]), before_step=state.before_step)


def segments_of(pipe) -> Segments:
    """The star on the left, the key on the right."""
    where = attention_layout(opened_of(pipe), PROMPTS)
    spans = where.spans[0]
    masks, tokens = torch.zeros(2, 2, *where.size), torch.zeros(2, 2, len(spans))
    for n, words in enumerate(("a red star", "a blue key")):
        start = PROMPT.index(words)
        masks[:, n, :, 8 * n : 8 * (n + 1)] = 1
        tokens[:, n, tokens_of(spans, start, start + len(words))] = 1
    return Segments(masks, tokens, torch.ones(2, 2))


def test_spans_are_those_of_every_text_encoder(joint):
    (spans, again) = attention_layout(opened_of(joint), PROMPTS).spans
    assert spans == again and len(spans) == (77 + 256 if "3" in type(joint).__name__ else 512)
    start = PROMPT.index("blue")
    found = tokens_of(spans, start, start + 4)
    # in T5's part; of Stable Diffusion 3 in CLIP's too
    assert len(found) == (1 if "Flux" in type(joint).__name__ else 2)
    assert all(PROMPT[slice(*spans[i])].strip() == "blue" for i in found)


def test_what_is_recorded_is_where_the_image_attends(joint):
    """What the tap sees is the layers' own: plain attention over it gives the same picture."""
    plain, seen = pictures(joint), []
    opened = opened_of(joint)
    where = attention_layout(opened, PROMPTS)

    def attend(attention):
        seen.append(attention)
        return attention.plain()

    with observed(opened, where, attend):
        again = opened.pictures(PROMPTS, generators([0, 1]))
    assert torch.allclose(again, plain, atol=1e-5) and len(seen) == 2 * 2
    recorder = AttentionMaps(where.size)
    with observed(opened, where, recorder.see):
        assert torch.equal(opened.pictures(PROMPTS, generators([0, 1])), plain)
    expected, length = [], len(where.spans[0])
    for a in seen:
        query, key = a.query[:, :, a.image], a.key[:, :, a.text]
        assert a.kind == "joint" and (a.query.shape[2], key.shape[2], query.shape[2]) == (length + 64, length, 64)
        assert len(a.query) == 2
        expected.append(
            (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5)
            .softmax(-1)
            .mean(1)
            .transpose(1, 2)
            .unflatten(-1, (8, 8))
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


@pytest.mark.parametrize("mode", ["new_seed", "same_seed", "renoise"])
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
        steps = 2 + 2 * (1 if mode == "renoise" else 2)
        assert result.denoiser_calls == steps * (1 if "Flux" in type(joint).__name__ else 2)
    assert any(r.improved for r in results)
    assert torch.equal(generate(joint, prompts, [0, 1], output_type="latent", **settings), before)
    assert {k: id(v) for k, v in joint.transformer.attn_processors.items()} == processors and joint.scheduler is own
    assert not joint.transformer._forward_pre_hooks


def test_before_is_what_the_pipeline_itself_makes(joint):
    config, settings = RealignConfig(rounds=0), {"num_inference_steps": 2, "guidance_scale": 5.0}
    result = realign(joint, PROMPT, 5, config=config, captions=False, **settings)[0]
    plain = joint(
        PROMPT, height=32, width=32, generator=generators([5]), num_inference_steps=2, guidance_scale=5.0
    ).images[0]
    assert np.array_equal(np.asarray(result.before), np.asarray(plain)) and result.prompt == phrases_of(PROMPT)


def test_a_negative_prompt_that_is_not_used_is_refused():
    with pytest.raises(InputError, match="negative prompt"):
        realign(tiny_flux(), PROMPT, negative_prompt="a moon", num_inference_steps=2)


def test_fused_projections_are_seen_as_they_are(joint):
    """The tap sees what attention is given, however it was made."""
    fused = MAKERS["flux" if "Flux" in type(joint).__name__ else "sd3"]()
    fused.transformer.fuse_qkv_projections()
    plain, changed = (pictures(fused, s, RealignConfig(time_power=0.0)) for s in (None, segments_of(fused)))
    assert not torch.allclose(changed, plain, atol=1e-3)
