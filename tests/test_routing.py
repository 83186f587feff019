"""The second operator of repair: what is edited and what drawn anew, masks, the budget, and runs on many families."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from zoo import CALL, shared

from accord.diffusion.blending import Blend, grid_from, latents_of, packed, state_mask
from accord.diffusion.generate import generate, generators
from accord.diffusion.opened import Opened, part_of
from accord.judges.captioners import load_captioner
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.fine import realign
from accord.methods.realign.layout import arrange, box_mask
from accord.methods.realign.routing import (
    ALWAYS_EDIT,
    Budget,
    Failure,
    Routing,
    as_seen,
    diagnose,
    edit_mask,
    surplus_of,
)
from accord.prompts.phrases import phrases_of
from accord.types import Alignment, InputError, Region, WordScore

PROMPT = "a red star to the left of two blue keys"
FAMILIES = ["sd1", "sdxl", "sd35", "flux", "qwenimage"]
OTHERS = ["flux2dev", "zimage", "pixart", "chroma", "lumina2", "auraflow", "cogview4", "hidream", "krea2"]


# which operator ------------------------------------------------------------------------------------------------------
def judged(text: str, **missed: tuple[float, str]) -> Alignment:
    """An alignment in which these words (by their first letters) are missed, and all others are there."""
    prompt, scores = phrases_of(text), []
    for word in prompt.words:
        found = [v for k, v in missed.items() if word.text.replace(" ", "_").startswith(k)]
        probability, reads_as = found[0] if found else (0.99, "something")
        scores.append(WordScore(word, probability, reads_as, 1 - probability))
    return Alignment(prompt, 0.5, tuple(scores))


@pytest.mark.parametrize(
    ("missed", "expected"),
    [
        ({"red": (0.1, "green")}, ("wrong", 0, None)),
        ({"red": (0.1, "green"), "star": (0.2, "moon")}, ("wrong", 0, None)),
        ({"two": (0.2, "three")}, ("surplus", 1, 3)),
        ({"two": (0.2, "one")}, ("missing", 1, 1)),
        ({"two": (0.2, "many")}, ("several", 1, None)),  # no number that anything could follow from
        ({"two": (0.2, "three"), "blue": (0.2, "red")}, ("several", 1, None)),
        ({"red": (0.1, "blue"), "blue": (0.1, "red")}, ("several", None, None)),
        ({"to_the_left": (0.1, "above"), "red": (0.1, "green")}, ("relation", None, None)),
        ({"red": (0.7, "green"), "keys": (0.8, "cars")}, ("wrong", 0, None)),  # all are shown: the weakest
    ],
)
def test_the_verdicts_say_what_kind_of_failure_it_is(missed, expected):
    found = diagnose(judged(PROMPT, **missed))
    assert (found.kind, found.phrase, found.read) == expected
    assert set(found.words) <= {"red", "star", "two", "blue", "keys", "to the left of"}


def region(phrase, box, deficit, planned=False, found=None):
    return Region(phrase, box, box_mask(box, (16, 16)), "", deficit, planned, found)


LEFT, RIGHT, LOW = (0.05, 0.3, 0.45, 0.7), (0.55, 0.3, 0.95, 0.7), (0.3, 0.75, 0.6, 0.98)


def test_what_is_there_too_often_is_looked_for_and_the_worst_of_it_goes():
    prompt = phrases_of("a moon and a key")
    failure = diagnose(judged("a moon and a key", a=(0.1, "two")))
    assert failure.kind == "several"  # both have an "a"
    failure = Failure("surplus", ("a",), 0, 2)
    assert as_seen(prompt, failure).phrases[0].count == 2 and as_seen(prompt, failure).phrases[1].count == 1
    found = [region(0, LEFT, 0.4), region(0, LOW, 0.1), region(1, RIGHT, 0.9)]
    assert [r.box for r in surplus_of(failure, prompt, found)] == [LEFT]
    assert surplus_of(failure, prompt, found[1:]) == []
    layout = [region(0, LOW, 0.1, found=LOW), region(1, RIGHT, 0.9, found=RIGHT)]
    mask = edit_mask(failure, prompt, layout, surplus_of(failure, prompt, found), Routing(), (16, 16))
    assert mask.shape == (16, 16) and mask[8, 4] > 0.9 and mask[8, 12] < 0.05 and mask[14, 7] < 0.2
    assert edit_mask(failure, phrases_of(PROMPT), layout, [], Routing(), (16, 16)) is None


def test_an_edit_acts_where_a_thing_is_and_where_it_is_to_be():
    failure = Failure("wrong", ("red",), 0)
    layout = [region(0, LEFT, 0.9, planned=True, found=LOW), region(1, RIGHT, 0.0)]
    mask = edit_mask(failure, phrases_of(PROMPT), layout, [], Routing(margin=0.0, softness=0.0), (16, 16))
    outside = 1 - np.maximum(box_mask(LEFT, (16, 16)), box_mask(LOW, (16, 16)))
    assert mask[8, 4] == mask[14, 7] == 1 and mask[8, 12] == 0 and not (mask * outside > 0.5).any()
    soft = edit_mask(failure, phrases_of(PROMPT), layout, [], Routing(margin=0.0, softness=0.1), (16, 16))
    assert 0 < soft[8, 8] < 1 and soft.sum() == pytest.approx(mask.sum(), rel=0.2)


def test_a_wrong_background_is_edited_where_no_thing_is():
    prompt = phrases_of("a red star on a white background")
    failure = diagnose(judged(prompt.text, white=(0.1, "gray")))
    assert failure.kind == "wrong" and prompt.phrases[failure.phrase].background
    mask = edit_mask(failure, prompt, [region(0, LEFT, 0.0)], [], Routing(), (16, 16))
    assert mask[8, 4] < 0.05 and mask[8, 13] > 0.95 and mask[1, 1] > 0.95


@pytest.mark.parametrize(("text", "most", "unit"), [("30s", 30, "seconds"), ("200calls", 200, "calls")])
def test_a_budget_is_of_seconds_or_calls(text, most, unit):
    assert Budget.of(text) == Budget(most, unit) == Budget.of(Budget(most, unit))
    for bad in ("", "30", "s", "-3s", "0calls", "2.5calls", "nan s", "3 minutes"):
        with pytest.raises(InputError, match=r"`budget` .* is not understood; give seconds"):
            Budget.of(bad)


def test_bad_knobs_are_refused():
    for field, value in (("wrong", "mend"), ("strength", 0.0), ("strength", 1.5), ("edits", -1), ("softness", -0.1)):
        with pytest.raises(ValueError, match=field):
            Routing(**{field: value})


# blending ------------------------------------------------------------------------------------------------------------
SCHEDULERS = [
    DDIMScheduler,
    EulerDiscreteScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
]


def run_under(opened, source, mask, strength, seed=3):
    """The last state, and each state that was followed by another."""
    states = []
    blend = Blend(source, mask, grid_from(opened, ["a red star"], source, strength))
    last = opened.rollout(
        ["a red star"],
        generators([seed]),
        before_step=lambda step: states.append((step.index, float(step.timestep), step.latents)),
        on_step=blend,
        start=source,
        strength=strength,
    )
    return last, states


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_outside_the_mask_the_run_is_the_source_noised_to_each_level(kind):
    pipe = copy.copy(shared("sd1"))
    told = {"skip_prk_steps": True} if kind is PNDMScheduler else {}
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **told)
    opened = Opened(pipe, 4, **CALL["sd1"])
    source = 0.5 * opened.noise(["a red star"], generators([1]))
    source = source / source.std()
    mask = torch.zeros(1, 1, *source.shape[-2:])
    mask[..., :2, :] = 1
    last, states = run_under(opened, source, mask, 0.75)
    assert torch.equal(last[..., 2:, :], source[..., 2:, :])
    assert not torch.allclose(last[..., :2, :], source[..., :2, :], atol=1e-2)
    scheduler = opened.schedule(["a red star"], source)
    first, timesteps = part_of(scheduler, 0.75)
    noise = opened._noise(["a red star"], generators([3]), unscaled=True)
    for index, time, state in states:  # the scheduler's own noising says where it should be
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first + index)
        assert time == float(timesteps[index])
        expected = scheduler.add_noise(source, noise, timesteps[index : index + 1])
        assert torch.allclose(state[..., 2:, :], expected[..., 2:, :], atol=1e-4), index


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)])
def test_a_failure_is_edited_in_its_place_on_any_family(name):
    pipe = shared(name)
    call = {k: v for k, v in CALL[name].items() if k not in ("guidance_scale", "negative_prompt")}
    told = {
        "num_inference_steps": 3,
        "captioner": load_captioner(),
        "captions": False,
        "call": call,
        "config": RealignConfig(rounds=1),
        "guidance_scale": CALL[name].get("guidance_scale"),
        "negative_prompt": CALL[name].get("negative_prompt", ""),
    }
    text = "a red star and two green moon"
    before = generate(pipe, text, 0, **{k: told[k] for k in ("num_inference_steps", "call", "guidance_scale")})
    (plain,) = realign(pipe, text, 0, **told)
    (made,) = realign(pipe, text, 0, routing=ALWAYS_EDIT, **told)
    assert np.array_equal(np.asarray(made.before), np.asarray(plain.before)) and plain.tries is None
    (one,) = made.tries
    assert one.operator == "edit" and one.calls > 0
    assert made.alignment_after.overall >= made.alignment_before.overall
    assert made.denoiser_calls < plain.denoiser_calls  # two of three steps
    after = generate(pipe, text, 0, **{k: told[k] for k in ("num_inference_steps", "call", "guidance_scale")})
    assert np.array_equal(np.asarray(before[0]), np.asarray(after[0]))


def test_a_mask_of_the_picture_is_at_its_place_in_packed_states():
    """Flux packs four neighbours into one token."""
    opened = Opened(shared("flux"), 2, **CALL["flux"])
    noise = opened.noise([PROMPT], generators([0]))
    places, shape = opened.order([PROMPT], noise)
    masks = torch.zeros(1, *shape[-2:])
    masks[:, : shape[-2] // 2, : shape[-1] // 4] = 1
    mask = state_mask(masks, places, shape)
    assert mask.shape == noise.shape
    moved = opened.vae_latents([PROMPT], noise + mask) - opened.vae_latents([PROMPT], noise)
    assert torch.equal(moved[0].abs().amax(0) > 1e-3, masks[0] > 0)


def test_each_instance_gets_the_noise_that_a_good_one_grew_from():
    noise, source = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    made = arrange(noise, source, LEFT, [RIGHT, (0.0, 0.0, 0.25, 0.25)])
    top, left, side = round(0.3 * 16), round(0.55 * 16), round(0.95 * 16) - round(0.55 * 16)
    place = made[:, top : round(0.7 * 16), left : left + side]
    there = [
        torch.equal(place, source[:, y : y + place.shape[1], x : x + side])
        for y in range(16 - place.shape[1] + 1)
        for x in range(16 - side + 1)
    ]
    assert sum(there) == 1 and there.index(True) % (16 - side + 1) in (0, 1)  # from the left, where the good one is
    assert not torch.equal(made[:, :4, :4], noise[:, :4, :4])
    assert torch.equal(made[:, 12:], noise[:, 12:]) and torch.equal(made[:, 5:11, 4:8], noise[:, 5:11, 4:8])


def test_states_are_laid_out_as_pictures_and_back():
    opened = Opened(shared("flux"), 2, **CALL["flux"])
    noise = opened.noise([PROMPT], generators([0]))
    places, shape = opened.order([PROMPT], noise)
    latents = latents_of(noise, places, shape)
    assert torch.equal(packed(latents, places), noise)
    found = opened.vae_latents([PROMPT], noise)  # but for a scale and a shift
    assert torch.corrcoef(torch.stack([latents.flatten(), found.flatten()]))[0, 1] > 0.999


# rounds --------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def tiny():
    return shared("sd1")


def test_a_vain_edit_is_followed_by_a_new_picture(tiny):
    routing = Routing(several="edit", relation="edit", missing="edit")
    told = {"num_inference_steps": 3, "captions": False, "config": RealignConfig(rounds=3)}
    results = realign(tiny, ["a red star and a blue key", "two green fish"], range(3), routing=routing, **told)
    for result in results:
        assert len(result.tries) == result.rounds == 3
        vain = 0
        for one in result.tries:
            assert one.operator == ("edit" if vain < 1 and one.failure else "new_seed") or one.failure == "surplus"
            vain = 0 if one.kept else vain + (one.operator == "edit")
        assert result.denoiser_calls == 6 + sum(t.calls for t in result.tries)
        assert 0 < result.judge_seconds < result.seconds
        assert sum(t.kept for t in result.tries) > 0 or not result.improved
    assert {t.operator for r in results for t in r.tries} == {"edit", "new_seed"}


def test_a_round_is_begun_if_it_fits_the_budget_and_none_after_a_pass(tiny):
    told = {"num_inference_steps": 3, "captions": False, "guidance_scale": 5.0}
    (tight,) = realign(tiny, "two green fish", 0, budget="23calls", **told)
    assert (tight.denoiser_calls, tight.rounds) == (18, 2)  # 6 each; `rounds` does not count here
    (more,) = realign(tiny, "two green fish", 0, budget="24calls", **told)
    assert (more.denoiser_calls, more.rounds) == (24, 3) and len(more.tries) == 3
    (edits,) = realign(tiny, "two green fish", 0, budget="23calls", routing=ALWAYS_EDIT, **told)
    assert edits.denoiser_calls <= 23 and edits.rounds > tight.rounds
    (none,) = realign(tiny, "two green fish", 0, budget="0.001s", **told)
    assert none.rounds == 0 and none.tries == () and none.seconds > 0.001
    easy = RealignConfig(good_enough=0.0)
    (passed,) = realign(tiny, "two green fish", 0, budget="600s", config=easy, **told)
    assert passed.rounds == 0


def test_reports_say_which_operator_each_round_used(tiny, tmp_path):
    told = {"num_inference_steps": 3, "captions": False}
    (plain,) = realign(tiny, "two green fish", 0, **told)
    assert not {"tries", "seconds"} & set(plain.to_dict())
    (made,) = realign(tiny, "two green fish", 0, routing=ALWAYS_EDIT, **told)
    folder = made.save(tmp_path / "one")
    report = json.loads((folder / "report.json").read_text(encoding="utf8"))
    assert [t["operator"] for t in report["tries"]] == [t.operator for t in made.tries]
    assert report["seconds"] >= report["judge_seconds"] > 0
    assert "<li>" in (folder / "index.html").read_text(encoding="utf8")


def test_route_and_budget_from_the_command_line(accord_cli, lab):
    words = ["realign", "two red crowns and a blue bolt", "--steps", 3, "--json"]
    code, out, _ = accord_cli(*words, "--mode", "route", "--budget", "20calls", "--out", "r")
    (row,) = json.loads(out)["results"]
    assert code == 0 and row["denoiser_calls"] <= 20 and row["tries"][0]["failure"]
    assert "round 1: " in Path("r/index.html").read_text(encoding="utf8")
    for bad, reason in (
        (["--budget", "20"], "--budget '20' is not understood"),
        (["--budget", "20calls", "--rounds", 2], "--rounds is not used with --budget"),
        (["--mode", "reroute"], "--mode 'reroute' is unknown; use new_seed, same_seed, renoise, route or edit"),
    ):
        code, out, error = accord_cli(*words, *bad, "--out", "bad")
        assert code == 2 and reason in error + out
