"""The strict pass: a caption's parse against a prompt's, and what is selected and rewarded by it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import KEY, STAR, picture

from accord.data.images import to_tensor
from accord.data.lexicon import DEFAULT
from accord.judges.captioners import load_captioner
from accord.judges.diagnosis import align
from accord.judges.questions import Asked
from accord.judges.strict import ByPass, ByScore, best, caption_agrees, check_selects, selector_named
from accord.prompts.phrases import parse_of, phrases_of
from accord.prompts.same import says_the_same
from accord.rewards.named.passes import Passes
from accord.types import SURE, Alignment, InputError, Word, WordScore
from accord_lab.scenes.ask import lab_lexicon
from accord_lab.scenes.edits import KINDS, edit_scene
from accord_lab.scenes.grammar import Saying, caption
from accord_lab.scenes.scene import sample_scene

LAB = lab_lexicon()
ALL = Saying(color=1, size=1, background=1, relation=1, opening=0, paraphrase=0)
SCENES = 25


def agree(prompt: str, said: str, lexicon=LAB, silence: bool = False) -> bool:
    return says_the_same(parse_of(said), parse_of(prompt), lexicon, silence)


def scenes():
    """Scenes of one or two kinds of things, whose caption names every relation that it can."""
    rng = np.random.default_rng(3)
    for k in range(SCENES):
        yield sample_scene(rng, ("one", "same", "two", "two", "same+one")[k % 5]), rng


# --- properties, on the lab's own grammar ---------------------------------------------------------------------------
def test_a_paraphrase_in_any_order_says_the_same():
    for scene, rng in scenes():
        prompt = caption(scene, rng, ALL)
        said = caption(scene, rng, replace(ALL, paraphrase=1, opening=1))
        assert agree(prompt, said) and agree(said, prompt, silence=True), (prompt, said)


def test_a_prompt_that_leaves_out_is_met_by_a_caption_that_says_all():
    for scene, rng in scenes():
        prompt = caption(scene, rng, Saying(color=0.5, size=0.3, background=0.3, relation=0.5))
        assert agree(prompt, caption(scene, rng, replace(ALL, paraphrase=1))), prompt


def test_a_caption_may_be_silent_only_where_it_is_allowed_to():
    for scene, rng in scenes():
        if len({(t.noun, t.color) for t in scene.things}) < len({t.noun for t in scene.things}):
            continue
        prompt, said = caption(scene, rng, ALL), caption(scene, rng, replace(ALL, size=0, background=0, relation=0))
        assert agree(prompt, said, silence=True) and not agree(prompt, said), (prompt, said)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("silence", [False, True])
def test_one_change_of_the_scene_is_seen(kind, silence):
    """A noun, a colour, a count, a relation or a binding: the caption of the one is no caption of the other."""
    seen = 0
    for scene, rng in scenes():
        other = edit_scene(scene, rng, kind)
        if other is not None:
            seen += 1
            prompt, said = caption(scene, rng, ALL), caption(other, rng, replace(ALL, paraphrase=1))
            assert not agree(prompt, said, silence=silence), (prompt, said)
    assert seen > 4


def test_an_extra_thing_is_more_than_was_asked_for():
    for scene, rng in scenes():
        prompt = caption(scene, rng, Saying(background=0))
        extra = next(n for n in ("car", "fish", "egg", "bone") if all(n != t.noun for t in scene.things))
        for said in (f"{prompt} and a {extra}", f"a {extra} and {prompt.removeprefix('there is ')}"):
            assert not agree(prompt, said, silence=True), (prompt, said)


# --- by hand --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("prompt", "said", "whole", "silent"),
    [
        ("two stars", "a red star and a blue star", True, True),
        ("a star and a red star", "two red stars", True, True),  # each is given to one of them
        ("a red star and a red star", "a red star and a blue star", False, False),
        ("stars", "three stars", True, True),
        ("stars", "a star", False, False),
        ("three stars", "stars", False, False),  # not known to be three
        ("at least two stars", "three stars", True, True),
        ("a fish", "two fish", False, False),
        ("a star to the left of a key", "a key to the right of a star", True, True),
        ("a star to the left of a key", "a star above a key", False, True),  # both may be
        ("a star next to a key", "a key above a star", False, True),
        ("a star next to a key", "a key to the left of a star", True, True),
        ("a big star", "a huge star", True, True),
        ("a big star", "a tiny star", False, False),
        ("a star on a gray background", "a star on a grey backdrop", True, True),
        ("a star on a gray background", "a star on a black background", False, False),
        ("a red star, no fish", "a red star", True, True),
        ("a red star", "ein roter Stern auf dem Haus", False, False),
    ],
)
def test_pairs_of_the_lab(prompt, said, whole, silent):
    assert agree(prompt, said) is whole
    assert agree(prompt, said, silence=True) is silent


@pytest.mark.parametrize(
    ("prompt", "said", "same"),
    [
        ("a photo of a dog", "a dog sitting on the grass", True),  # where it is was not asked
        ("a photo of a dog", "a dog sitting on a couch", False),
        ("a red car", "a red sports car parked on the street", True),
        ("a dog", "a hot dog on a plate", False),
        ("a hot dog", "a dog", False),
        ("a truck", "a fire truck parked in a parking lot", True),
        ("a person riding a horse", "a man riding a horse on the beach", True),
        ("a man riding a horse", "a person riding a horse", False),
        ("a man in a kitchen", "a man standing in a kitchen", True),
        ("a man in a kitchen", "a man standing in a field", False),
        ("a cat on top of a table", "a cat sitting on a table", True),
        ("three apples on a table", "three red apples on a wooden table", True),
        ("a blue car", "a light blue car", True),
        ("a light blue car", "a blue car", False),
        ("a black cat", "a black and white cat", False),
        ("an airplane", "a plane flying in the sky", True),
        ("a glass vase", "a wooden vase", False),
        ("a couch and a television", "a tv next to a sofa", True),
    ],
)
def test_pairs_of_real_captions(prompt, said, same):
    assert agree(prompt, said, DEFAULT) is same
    assert caption_agrees(said, phrases_of(prompt), DEFAULT) is same


def test_many_things_alike_are_compared_at_once():
    many = ", ".join(["a red star"] * 11)
    assert agree(many, many)
    assert not agree(many, many.replace("a red star", "a blue star", 1))


# --- the pass -------------------------------------------------------------------------------------------------------
def alignment(*probabilities: float, agrees: bool | None = True) -> Alignment:
    words = tuple(WordScore(Word(f"w{k}", k, k + 1, "noun"), p, "", 0.0) for k, p in enumerate(probabilities))
    overall = float(np.exp(np.mean(np.log(probabilities)))) if probabilities else None
    return Alignment(phrases_of("a red star"), overall, words, "a caption", agrees=agrees)


def test_a_pass_needs_the_caption_and_the_weakest_word():
    assert alignment(0.99, SURE).passes is True
    assert alignment(0.99, SURE - 1e-9).passes is False
    assert alignment(0.99, 0.99, agrees=False).passes is False
    assert alignment(0.99, agrees=None).passes is None and alignment().passes is None
    assert alignment(0.99, 0.3).weakest == 0.3


def test_what_cannot_be_compared_is_said():
    assert caption_agrees("", phrases_of("a red star"), LAB) is None
    assert caption_agrees("a star", phrases_of("ein roter Stern auf dem Haus"), LAB) is None
    assert caption_agrees("...", phrases_of("a red star"), LAB) is False


def test_the_pass_comes_before_the_score():
    wrong, weak, sure = alignment(0.99, agrees=False), alignment(0.91, 0.5), alignment(0.92, 0.92)
    by_score, by_pass = ByScore(), ByPass()
    assert by_score.better(wrong, sure) and not by_pass.better(wrong, sure)
    assert by_pass.better(weak, wrong) and by_pass.better(sure, weak)
    assert by_pass.better(alignment(0.95, 0.95), sure) and not by_pass.better(sure, sure)
    assert by_pass.good(sure) and not by_pass.good(weak) and not by_pass.good(wrong) and by_score.good(wrong)
    assert best([wrong, weak, sure], by_pass) == 2 and best([wrong, weak, sure], by_score) == 0
    assert ByPass(0.95).good(sure) is False
    with pytest.raises(ValueError):
        best([], by_pass)


def test_selection_by_captions_wants_a_judge_that_writes_some():
    with pytest.raises(InputError, match="writes no captions"):
        check_selects(Asked(type("Quiet", (), {"name": "quiet"})()), selector_named("pass"))
    check_selects(load_captioner(), selector_named("pass"))
    with pytest.raises(InputError, match="`select` must be score or pass"):
        selector_named("luck")


def test_the_lab_passes_what_is_right_and_nothing_else():
    images = torch.cat([to_tensor(picture(STAR, KEY))] * 4 + [to_tensor(picture(STAR))])
    prompts = [
        "a red star to the left of a blue key",
        "a blue key and a red star",
        "a red star to the right of a blue key",
        "a red star",
        "a red star and a blue key",
    ]
    captioner = load_captioner()
    assert [bool(a.passes) for a in align(images, prompts, captioner)] == [True, True, False, False, False]
    assert align(images[:1], prompts[:1], captioner, captions=False)[0].passes is None
    reward = Passes(captioner)
    assert reward(images, prompts).tolist() == [1, 1, 0, 0, 0] and not reward.differentiable
