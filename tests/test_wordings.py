"""One picture, many wordings: what is asked for decides about a score, and not how it is said."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import accord
from accord.judges.captioners import Captioner
from accord.judges.diagnosis import align
from accord.methods.realign.regions import local_prompt, slots
from accord.prompts.phrases import phrases_of
from accord.prompts.swaps import swaps
from accord.prompts.wording import usual
from accord_lab.scenes.grammar import noun_phrase
from accord_lab.scenes.render import render, silhouette
from accord_lab.scenes.scene import Scene, Thing, sample_scene

WORDINGS = (
    "a red star above a blue key",
    "a red star on top of a blue key",
    "a red star on the top of a blue key",
    "a red star sits above a blue key",
    "there is a red star above a blue key",
    "a picture of a red star above a blue key",
    "the red star is above the blue key",
    "a red star that is above a blue key",
    "A red star above a blue key.",
    "a blue key with a red star above it",
    "above a blue key there is a red star",
    "a blue key below a red star",
    "a red star above a blue key, 4 k, artstation",
    "a (red:1.3) star above a blue key",
)


@pytest.fixture(scope="module")
def judge() -> Captioner:
    return accord.load_captioner()


def thing(noun: str, color: str, x: int, y: int, size: int = 22) -> Thing:
    height, width = silhouette(noun, size).shape
    return Thing(noun, color, "big", (x, y, x + width, y + height))


def scored(scene: Scene, prompt: str, judge: Captioner) -> accord.Alignment:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what was set aside
        return accord.score(Image.fromarray(render(scene)), prompt, judge)[0].alignment


def test_wordings_of_one_content_have_one_score(judge: Captioner) -> None:
    right = Scene("white", (thing("star", "red", 20, 4), thing("key", "blue", 20, 36)))
    wrong = Scene("white", (thing("star", "red", 20, 36), thing("key", "blue", 20, 4)))
    for scene, fits in ((right, True), (wrong, False)):
        scores = [scored(scene, text, judge).overall for text in WORDINGS]
        assert all(s is not None and (s > 0.9) == fits for s in scores), scores
        assert max(scores) - min(scores) < 0.05


def test_style_is_not_judged_and_is_said(judge: Captioner) -> None:
    scene = Scene("white", (thing("star", "red", 20, 20),))
    plain, styled = (scored(scene, text, judge) for text in ("a red star", "a red star, 4 k, artstation"))
    assert styled.overall == plain.overall and not plain.unjudged
    assert styled.unjudged == ("4 k", "artstation") and styled.to_dict()["unjudged"] == ["4 k", "artstation"]


def test_style_changes_nothing_that_is_planned() -> None:
    plain, styled = (
        phrases_of("a red star"),
        phrases_of("a red star, 4 k, artstation, 35mm, by Ada Moss, highly detailed"),
    )
    assert styled.phrases == plain.phrases and slots(styled) == [0] and not styled.relations
    assert local_prompt(styled, 0).text == local_prompt(plain, 0).text == "a red star"


@pytest.mark.parametrize(("prompt", "why"), [("8k, artstation", "names nothing"), ("ein roter Stern", "language")])
def test_nothing_to_check_is_no_score(judge: Captioner, prompt: str, why: str) -> None:
    found = scored(Scene("white", (thing("star", "red", 20, 20),)), prompt, judge)
    assert found.overall is None and why in found.reason and not found.words
    assert not found.better_than(found)


def test_what_is_not_to_be_there_is_checked(judge: Captioner) -> None:
    """Of scenes whose other things are named as there, a noun is named as absent, which it is or is not."""
    rng = np.random.default_rng(11)
    nouns = list(judge.lexicon.nouns)
    right: list[bool] = []
    for scene in (sample_scene(rng) for _ in range(60)):
        there = [t for t in scene.things if t.noun != scene.things[0].noun]
        missing = rng.choice([n for n in nouns if n not in {t.noun for t in scene.things}])
        pictures = torch.from_numpy(render(scene)).permute(2, 0, 1)[None].float() / 255
        named = " and ".join(
            noun_phrase(t.noun, t.color) for t in scene.things if not there or t.noun != there[-1].noun
        )
        asked = [(missing, True), *([(there[-1].noun, False)] if there else [])]
        for noun, absent in asked:
            (found,) = align(pictures, [f"{named}, no {noun}"], judge, captions=False)
            (check,) = (w for w in found.words if w.word.kind == "absence")
            assert check.reads_as == noun and check.reads_as_probability == pytest.approx(1 - check.probability)
            right.append((check.probability > 0.5) == absent)
    assert len(right) > 70 and np.mean(right) > 0.9


def test_an_absence_lowers_the_score_of_a_picture_that_shows_it(judge: Captioner) -> None:
    scene = Scene("white", (thing("fish", "red", 20, 20),))
    alone = scored(scene, "no fish", judge)
    assert alone.overall is not None and alone.overall < 0.2
    assert scored(scene, "no star", judge).overall > 0.8  # type: ignore[operator]
    (check,) = alone.to_dict()["words"]
    assert check["kind"] == "absence" and "nouns in its place" in check["judged"]


def test_the_usual_wording_keeps_what_its_words_stand_for(judge: Captioner) -> None:
    prompt = phrases_of("the blue key lies below two crimson stars on white")
    found = usual(prompt, judge.lexicon)
    assert found is not None
    asked, stands_for = found
    assert asked.text == "a blue key below two crimson stars on a white background"
    assert all(asked.text[w.start : w.end] == w.text for w in asked.words)
    assert {stands_for[w].text for w in asked.words} == {"blue", "key", "below", "two", "crimson", "stars", "white"}
    assert usual(phrases_of("a wombat above a key"), judge.lexicon) is None
    assert usual(phrases_of("a star above a key, the key above a moon"), judge.lexicon) is not None


@pytest.mark.parametrize(
    ("prompt", "word", "wanted", "unwanted"),
    [
        ("a dog in a field", "dog", "cat", "car"),
        ("a red truck", "truck", "bus", "dog"),
        ("a fire hydrant on a street", "fire hydrant", "traffic light", "cat"),
        ("two teddy bears", "teddy bears", "kites", "dogs"),
        ("a wooden chair", "wooden", "metal", "red"),
        ("a boy riding a horse", "riding", "pushing", "sitting"),
        ("a girl sits on a bench", "sits", "stands", "eats"),
        ("a green apple", "green", "red", "wooden"),
    ],
)
def test_words_are_exchanged_within_their_class(prompt: str, word: str, wanted: str, unwanted: str) -> None:
    from accord.data.lexicon import DEFAULT

    parsed = phrases_of(prompt)
    found = dict(swaps(parsed, next(w for w in parsed.words if w.text == word), DEFAULT))
    assert wanted in found and unwanted not in found
    assert found[wanted].endswith(prompt.split(word)[1])
