"""The fine stage whole: regions, layout, never worse, the pipeline untouched."""

import copy
import itertools

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline, tiny_sdxl
from diffusers import EDMEulerScheduler, EulerAncestralDiscreteScheduler, PNDMScheduler
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor

from accord.diffusion.generate import generate, generators
from accord.diffusion.opened import Opened
from accord.diffusion.pipelines import token_spans, tokens_of
from accord.diffusion.tap import attention_layout
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.fine import Rounds, build_segments, check_places, realign
from accord.methods.realign.layout import box_mask, placed, plan
from accord.methods.realign.regions import find_regions, local_prompt, phrase_maps, slots
from accord.prompts.phrases import phrases_of
from accord.types import InputError, Region

PROMPT = phrases_of("a red star to the left of two blue keys")
CAT = phrases_of("a cat")


@pytest.fixture(scope="session", params=["sd1", "sd2", "sdxl"])
def tiny(request):
    return tiny_sdxl() if request.param == "sdxl" else tiny_pipeline(request.param)


def where(pipe, *prompts):
    return attention_layout(Opened(pipe, 2), [p.text for p in prompts])


def blob(cx: float, cy: float, size: int = 16, width: float = 2.0) -> np.ndarray:
    y, x = np.mgrid[:size, :size] + 0.5
    return np.exp(-((x - cx * size) ** 2 + (y - cy * size) ** 2) / (2 * width**2))


def test_slots_count_things():
    assert slots(PROMPT) == [0, 1, 1]
    assert slots(phrases_of("stars on a white background")) == [0, 0]


def test_token_spans_cover_the_words(tiny):
    text = "a red star, two KEYS"
    spans = token_spans(tiny, text)
    assert where(tiny, phrases_of(text), PROMPT).spans == [
        spans,
        token_spans(tiny, PROMPT.text),
    ]  # the dye finds the same
    assert len(spans) == 77 and spans[0] is None and spans[-1] is None
    for word in ("red", "star", "KEYS"):
        start = text.index(word)
        inside = tokens_of(spans, start, start + len(word))
        assert "".join(text[a:b] for a, b in (spans[i] for i in inside)) == word


def test_regions_are_found_where_the_maps_peak():
    maps = np.stack([blob(0.25, 0.3), np.maximum(blob(0.75, 0.25), 0.9 * blob(0.7, 0.8))])
    found = find_regions(PROMPT, maps)
    assert sorted(r.phrase for r in found) == [0, 1, 1]
    centers = [((r.box[0] + r.box[2]) / 2, (r.box[1] + r.box[3]) / 2) for r in found]
    assert np.allclose(centers[0], (0.25, 0.3), atol=0.07)
    assert np.allclose(sorted(c[1] for c in centers[1:]), (0.25, 0.8), atol=0.07)


def test_phrase_maps_weigh_the_head_noun(tiny):
    spans = token_spans(tiny, PROMPT.text)
    maps = torch.zeros(77, 16, 16)
    (star,) = tokens_of(spans, PROMPT.text.index("star"), PROMPT.text.index("star") + 4)
    maps[star] = torch.from_numpy(blob(0.2, 0.2)).float()
    out = phrase_maps(PROMPT, maps, spans)
    assert out.shape == (2, 16, 16)
    y, x = np.unravel_index(out[0].argmax(), (16, 16))
    assert (x, y) in {(2, 2), (2, 3), (3, 2), (3, 3)} and out[0].max() == pytest.approx(1) and out[1].max() == 0


def region(phrase: int, cx: float, cy: float, deficit: float) -> Region:
    box = (cx - 0.2, cy - 0.2, cx + 0.2, cy + 0.2)
    return Region(phrase, box, box_mask(box, (16, 16)), "", deficit)


def center(r: Region) -> tuple[float, float]:
    return (r.box[0] + r.box[2]) / 2, (r.box[1] + r.box[3]) / 2


def overlap(a: Region, b: Region) -> float:
    w = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    h = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    return max(w, 0) * max(h, 0)


def test_missing_things_get_free_space_and_found_ones_stay():
    prompt = phrases_of("a red star and a blue key")
    maps = np.stack([blob(0.3, 0.3), blob(0.3, 0.3)])
    star, key = plan(prompt, slots(prompt), [region(0, 0.3, 0.3, 0.05)], maps)
    assert np.allclose(center(star), (0.3, 0.3), atol=0.06) and not star.planned
    assert star.found == region(0, 0.3, 0.3, 0.05).box and key.found is None
    assert key.planned and key.deficit == 1 and overlap(star, key) == 0
    assert all(0 <= v <= 1 for r in (star, key) for v in r.box)


@pytest.mark.parametrize("words", ["to the left of", "to the right of", "above", "below"])
def test_relations_are_kept(words):
    prompt = phrases_of(f"a red star {words} a blue key")
    maps = np.stack([blob(0.5, 0.5), blob(0.5, 0.5)])
    found = [region(0, 0.7, 0.7, 0.1), region(1, 0.3, 0.3, 0.1)]
    a, b = (center(r) for r in plan(prompt, slots(prompt), found, maps))
    gap = {"to the left of": b[0] - a[0], "to the right of": a[0] - b[0], "above": b[1] - a[1], "below": a[1] - b[1]}
    assert gap[words] >= 0.3


def test_what_was_tried_in_vain_is_tried_elsewhere():
    prompt, maps = phrases_of("a red star and a blue key"), np.stack([blob(0.3, 0.3), blob(0.7, 0.7)])
    found = [region(0, 0.3, 0.3, 0.05)]
    first = plan(prompt, slots(prompt), found, maps)
    second = plan(prompt, slots(prompt), found, maps, tried=[first])
    third = plan(prompt, slots(prompt), found, maps, tried=[first, second])
    stars, keys = ([np.asarray(center(layout[k])) for layout in (first, second, third)] for k in (0, 1))
    assert all(np.allclose(s, stars[0]) for s in stars)  # a thing that is well stays where it is
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(keys, 2)) > 0.15


def test_a_round_in_vain_is_not_repeated(tiny, monkeypatch):
    """From the same noise, the same layout and weights would give the very same picture again."""
    made = []
    denoise = Rounds.denoise

    def spy(self, *args):
        made.append(denoise(self, *args))
        return made[-1]

    monkeypatch.setattr(Rounds, "denoise", spy)
    config = RealignConfig(mode="same_seed")
    results = realign(
        tiny, "a red star to the left of a blue key", range(12), config=config, num_inference_steps=3, captions=False
    )
    plain, first, second = (m[0] for m in made)
    vain = [i for i, r in enumerate(results) if not r.improved]
    assert vain and all(not torch.equal(first[i], second[i]) for i in vain)
    assert all(not torch.equal(plain[i], first[i]) for i in vain)


def test_a_run_modulated_to_its_end_keeps_the_maps_of_before(tiny):
    config = RealignConfig(modulated_share=1.0)
    results = realign(
        tiny, "a red star to the left of a blue key", range(4), config=config, num_inference_steps=4, captions=False
    )
    assert any(r.improved for r in results) and all(r.rounds == 2 for r in results)


def test_box_mask_is_the_covered_share():
    mask = box_mask((0.25, 0.5, 0.5, 1.0), (4, 4))
    assert mask.sum() == 2 and mask[2, 1] == mask[3, 1] == 1
    assert box_mask((0.125, 0, 0.25, 0.25), (4, 4))[0, 0] == pytest.approx(0.5)


def test_local_prompts_name_one_thing():
    assert local_prompt(PROMPT, 0).text == "a red star"
    assert local_prompt(phrases_of("an orange egg"), 0).text == "an orange egg"
    assert local_prompt(phrases_of("two big orange stars"), 0).text == "an orange star"


def test_segments_hold_tokens_and_weights(tiny):
    layout = plan(PROMPT, slots(PROMPT), [region(0, 0.3, 0.3, 0.2)], np.stack([blob(0.3, 0.3), blob(0.7, 0.5)]))
    config = RealignConfig(omega_gain=1.0, exempt_tokens="special", background=0.0)
    segments = build_segments(where(tiny, PROMPT, CAT), [PROMPT, CAT], [layout, []], config)
    assert segments.masks.shape == (2, 3, 16, 16) and segments.masks[1].sum() == 0
    words = [PROMPT.text[a:b] for a, b in (s for s in token_spans(tiny, PROMPT.text) if s)]
    chosen = [w for w, on in zip(words, segments.tokens[0, 0, 1 : 1 + len(words)], strict=True) if on]
    assert chosen == ["a", "red", "star"]
    assert torch.allclose(segments.omega[0], torch.tensor([0.7, 1.5, 1.5]))
    assert segments.exempt[0, 0] == 1 and segments.exempt[0, 1] == 0
    unweighted = build_segments(where(tiny, PROMPT), [PROMPT], [layout], RealignConfig(omega_gain=0.0))
    assert (unweighted.omega == 1).all()


def test_the_ground_is_the_rest_of_the_pixels_and_of_the_tokens(tiny):
    layout = plan(PROMPT, slots(PROMPT), [region(0, 0.3, 0.3, 0.2)], np.stack([blob(0.3, 0.3), blob(0.7, 0.5)]))
    plain = build_segments(
        where(tiny, PROMPT, phrases_of("a cat")),
        [PROMPT, phrases_of("a cat")],
        [layout, []],
        RealignConfig(background=0.0),
    )
    background = build_segments(
        where(tiny, PROMPT, phrases_of("a cat")),
        [PROMPT, phrases_of("a cat")],
        [layout, []],
        RealignConfig(background=1.5),
    )
    assert background.masks.shape[1] == plain.masks.shape[1] + 1
    for whole, part in ((background.masks, plain.masks), (background.tokens, plain.tokens)):
        assert torch.equal(whole[:, :-1], part)
        assert torch.allclose(whole[0, -1] + part[0].amax(0), torch.ones_like(part[0, 0]))
        assert not whole[1].any()  # nothing is planned: nothing is changed
    assert background.omega[0, -1] == 1.5
    assert (background.at((16, 16))[0].sum(-1) == 1).float().mean() > 0.9  # all but rims that no segment covers by half


@pytest.mark.parametrize("mode", ["same_seed", "renoise", "new_seed"])
@pytest.mark.parametrize("exempt", ["none", "special", "unassigned"])
def test_never_worse_and_the_pipeline_is_untouched(tiny, mode, exempt):
    prompts = ["a red star to the left of a blue key", "two green fish"]
    before = generate(tiny, prompts, [0, 1], num_inference_steps=3, output_type="latent")
    processors = {k: id(v) for k, v in tiny.unet.attn_processors.items()}
    config = RealignConfig(rounds=2, mode=mode, exempt_tokens=exempt, log_omega=exempt == "special")
    results = realign(tiny, prompts, [0, 1], config=config, num_inference_steps=3, captions=False)
    assert [(r.prompt.text, r.seed) for r in results] == [(p, s) for p in prompts for s in (0, 1)]
    for r in results:
        assert r.alignment_after.overall >= r.alignment_before.overall
        assert r.rounds == 2 and r.regions
        assert r.improved == (np.asarray(r.after) != np.asarray(r.before)).any()
        assert 6 < r.denoiser_calls <= 18
    after = generate(tiny, prompts, [0, 1], num_inference_steps=3, output_type="latent")
    assert torch.equal(before, after)
    assert {k: id(v) for k, v in tiny.unet.attn_processors.items()} == processors


def test_the_selector_says_what_is_kept_and_what_is_good(tiny):
    """One that takes every new picture, one that takes none, and one to which all are good enough."""

    class Chosen:
        captions = True

        def __init__(self, takes: bool, content: bool = False) -> None:
            self.takes, self.content, self.seen = takes, content, []

        def good(self, alignment):
            return self.content

        def better(self, new, old):
            self.seen.append(new)
            return self.takes

    last, none, content = Chosen(True), Chosen(False), Chosen(False, True)
    made = [
        realign(tiny, "two green fish", 3, select=s, num_inference_steps=2, captions=False)[0]
        for s in (last, none, content)
    ]
    assert [r.rounds for r in made] == [2, 2, 0] and len(last.seen) == 2
    assert made[0].alignment_after is last.seen[-1] and made[0].seed_after is not None
    assert all(np.array_equal(np.asarray(r.before), np.asarray(r.after)) for r in made[1:])
    assert all(a.caption for a in last.seen)  # which it goes by


def test_new_seed_starts_each_round_from_the_noise_of_another_seed(tiny, monkeypatch):
    from accord.methods.realign.fine import NEW_SEED

    drawn = []
    denoise = Rounds.denoise
    monkeypatch.setattr(
        Rounds,
        "denoise",
        lambda self, prompts, seeds, *a: drawn.append(list(seeds)) or denoise(self, prompts, seeds, *a),
    )
    results = realign(
        tiny,
        "a red star to the left of a blue key",
        range(6),
        config=RealignConfig(mode="new_seed"),
        num_inference_steps=3,
        captions=False,
    )
    assert drawn == [[s + number * NEW_SEED for s in range(6)] for number in range(3)]
    for r in results:
        if r.improved:  # what was kept is the modulated picture of that noise: the plain one of it is another
            plain = generate(tiny, r.prompt.text, r.seed_after, num_inference_steps=3)[0]
            assert not np.array_equal(np.asarray(r.after), np.asarray(plain))
        assert r.seed_after in ({r.seed + NEW_SEED, r.seed + 2 * NEW_SEED} if r.improved else {None})
    assert any(r.improved for r in results)


def test_before_is_the_plain_picture_of_that_seed(lab):
    result = realign(lab, "a red star", 5, config=RealignConfig(rounds=0), num_inference_steps=4)[0]
    plain = generate(lab, "a red star", 5, num_inference_steps=4)[0]
    assert np.array_equal(np.asarray(result.before), np.asarray(plain))
    assert result.before is not None and result.rounds == 0 and result.denoiser_calls == 8


@pytest.mark.parametrize("negative", [None, "a moon"])
def test_before_is_what_the_pipeline_itself_makes(tiny, negative):
    result = realign(
        tiny,
        "a red star",
        5,
        config=RealignConfig(rounds=0),
        num_inference_steps=2,
        negative_prompt=negative or "",
        guidance_scale=5.0,
        captions=False,
    )[0]
    plain = tiny(
        "a red star", negative_prompt=negative, generator=generators([5]), num_inference_steps=2, guidance_scale=5.0
    ).images[0]
    assert np.array_equal(np.asarray(result.before), np.asarray(plain))


def test_the_seed_holds_with_a_scheduler_that_draws_on_the_way(tiny):
    pipe = copy.copy(tiny)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(tiny.scheduler.config)
    kwargs = {"num_inference_steps": 3, "captions": False}
    plain = generate(pipe, ["a red star", "a key"], 5, num_inference_steps=3)
    found = realign(pipe, ["a red star", "a key"], 5, config=RealignConfig(rounds=1, mode="same_seed"), **kwargs)
    assert all(np.array_equal(np.asarray(r.before), np.asarray(p)) for r, p in zip(found, plain, strict=True))
    again = realign(pipe, ["a red star", "a key"], 5, config=RealignConfig(rounds=1, mode="same_seed"), **kwargs)
    assert all(np.array_equal(np.asarray(a.after), np.asarray(b.after)) for a, b in zip(found, again, strict=True))


def test_each_prompt_may_have_its_own_seed(tiny):
    config = RealignConfig(rounds=0)
    own = realign(
        tiny, ["a red star", "a key"], [3, 4], each=True, config=config, num_inference_steps=2, captions=False
    )
    every = realign(tiny, ["a red star", "a key"], [3, 4], config=config, num_inference_steps=2, captions=False)
    assert [(r.prompt.text, r.seed) for r in own] == [("a red star", 3), ("a key", 4)]
    assert np.abs(np.asarray(own[1].before, dtype=int) - np.asarray(every[3].before, dtype=int)).max() <= 1


def test_the_networks_calls_are_counted_as_the_scheduler_makes_them(tiny):
    pipe = copy.copy(tiny)
    pipe.scheduler = PNDMScheduler.from_config(tiny.scheduler.config, skip_prk_steps=True)
    result = realign(pipe, "a red star", 5, config=RealignConfig(rounds=0), num_inference_steps=4, captions=False)[0]
    assert result.denoiser_calls == 2 * (4 + 1)  # it takes its second step twice


def test_other_pipelines_and_bad_knobs_are_refused():
    with pytest.raises(InputError, match="`select` must be score or pass, not 'luck'"):
        realign(tiny_pipeline("sd1"), "a star", select="luck")
    with pytest.raises(InputError, match="a object is not supported here, as it has no scheduler"):
        realign(object(), "a star")
    pipe = tiny_sdxl()
    pipe.unet.set_attn_processor(CustomDiffusionAttnProcessor(train_kv=False, train_q_out=False))
    with pytest.raises(InputError, match="the attention of the UNet2DConditionModel is not seen"):
        realign(pipe, "a star", num_inference_steps=2)
    pipe.scheduler = EDMEulerScheduler()
    with pytest.raises(InputError, match="an EDMEulerScheduler has no betas"):
        realign(pipe, "a star")
    with pytest.raises(
        InputError, match="longer than the 32 tokens that the captioner reads, these words would fall off: 'star'"
    ):
        realign(tiny_pipeline(), "star " * 31, num_inference_steps=1)
    for field, value in (
        ("rounds", -1),
        ("mode", "x"),
        ("strength", 0),
        ("modulated_share", 2),
        ("good_enough", 1.5),
        ("exempt_tokens", "y"),
        ("escalation", -1),
        ("background", -1),
    ):
        with pytest.raises(ValueError, match=field):
            RealignConfig(**{field: value})


def test_renoise_is_modulated_as_strongly_where_it_starts():
    from accord.diffusion.opened import Step
    from accord.methods.realign.modulation import Modulation, Segments

    segments = Segments(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 7), torch.ones(1, 1))
    latents = torch.zeros(1, 4, 4, 4)
    for mode, start, expected in (("renoise", 801, 1.0), ("same_seed", 1000, 1.0), ("same_seed", 801, 0.801**5)):
        state = Modulation(segments, RealignConfig(mode=mode, time_power=5.0), (4, 4))
        state.before_step(Step(0, 10, torch.tensor(start), latents))
        assert state.tau == pytest.approx(expected)
        state.before_step(Step(1, 10, torch.tensor(700), latents))
        top = start if mode == "renoise" else 1000
        assert state.tau == pytest.approx((700 / top) ** 5)
        state.before_step(Step(9, 10, torch.tensor(100), latents))
        assert not state.active


# --- places that somebody chose ---------------------------------------------------------------------------------------
def test_a_chosen_place_is_taken_by_one_thing_of_its_phrase():
    prompt = phrases_of("two yellow stars and a purple moon")
    layout = plan(prompt, slots(prompt), [], np.zeros((2, 8, 8), dtype=np.float32))
    box = (0.0, 0.5, 0.5, 1.0)
    for words in ("stars", "two yellow stars", "Yellow stars"):
        found = placed(prompt, layout, [(words, box)])
        assert found[0].box == box and found[0].planned and found[0].deficit == 1 and found[1:] == layout[1:]
        assert found[0].mask[4:, :4].all() and found[0].mask.sum() == 16
    both = placed(prompt, layout, [("stars", box), ("stars", (0.5, 0.0, 1.0, 0.5)), ("a purple moon", box)])
    assert [r.box for r in both] == [box, (0.5, 0.0, 1.0, 0.5), box]
    check_places(prompt, [("moon", box)])
    with pytest.raises(InputError, match="too small to be seen"):
        check_places(prompt, [("moon", (0.0, 0.0, 0.01, 0.5))])
    for places, said in (
        ([("fish", box)], "asks for no thing 'fish'"),
        ([("moon", box), ("moon", box)], "more places for 'moon'"),
        ([("moon", (0.5, 0.0, 0.2, 1.0))], "no box in the picture"),
        ([("moon", (0.0, 0.0, 1.2, 1.0))], "no box in the picture"),
    ):
        with pytest.raises(InputError, match=said):
            check_places(prompt, places)
