"""GenEval: every branch of its judge on detections given by hand, equality with a judge written another way, colours,
records, prompts, figures, and the whole with tiny models of the real classes.
"""

import json
import math
import random
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_detect import noise
from tiny_detectors import tiny_mask2former
from tiny_models import tiny_tokenizer
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from accord.cli.options import HUB_CLIP
from accord.data.images import Pictures
from accord.evaluation import geneval
from accord.evaluation.geneval import (
    ColourClassifier,
    GenEvalConfig,
    Verdict,
    agreement,
    as_asked,
    centre_square,
    check_classes,
    counted,
    directions,
    figures,
    judge,
    judge_pictures,
    marks,
    on_grey,
)
from accord.evaluation.geneval_prompts import geneval_records, plural, spoken
from accord.evaluation.geneval_records import (
    CLASSES,
    COLOURS,
    RELATIONS,
    RENAMED,
    TAGS,
    Record,
    layout_name,
    read_pictures,
    read_records,
    read_verdicts,
)
from accord.judges.clip import ClipScorer
from accord.judges.detect import Detection, InstanceDetector
from accord.types import InputError
from accord_lab.scenes.render import coverage, render
from accord_lab.scenes.scene import Scene, sample_scene


def thing(label: str, score: float = 0.95, x: float = 0, y: float = 0, side: float = 10) -> Detection:
    return Detection(label, score, (x, y, x + side, y + side))


def record(*include, tag: str = "two_object", exclude=()) -> dict:
    return {"tag": tag, "prompt": "a photo of it", "include": list(include), "exclude": list(exclude)}


def asked(name: str, count: int = 1, **more) -> dict:
    return {"class": name, "count": count, **more}


def painted(*colours: str):
    """The colours of things, given by hand: those of the first ones."""
    return lambda things, name: list(colours[: len(things)])


# --- each branch ----------------------------------------------------------------------------------------------------
def test_what_is_asked_for_and_found_is_right():
    verdict = judge(record(asked("dog"), asked("cat")), [thing("cat"), thing("dog"), thing("bus")])
    assert verdict.correct and verdict.reasons == () and verdict.prompt == "a photo of it"
    assert [d.label for d in verdict.found] == ["cat", "dog", "bus"]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([], "The prompt asks for 1 dog, and none is found."),
        ([thing("cat")], "The prompt asks for 1 dog, and none is found."),
        ([thing("dog", 0.3)], "The prompt asks for 1 dog, and none is found."),  # above, not at, the threshold
    ],
)
def test_too_few_are_wrong(found, reason):
    verdict = judge(record(asked("dog"), tag="single_object"), found)
    assert not verdict.correct and verdict.reasons == (reason,)


def test_each_missing_thing_is_a_reason():
    verdict = judge(record(asked("dog", 2), asked("knife", 3)), [thing("dog")])
    assert verdict.reasons == (
        "The prompt asks for 2 dogs, and 1 is found.",
        "The prompt asks for 3 knives, and none is found.",
    )


def test_counting_has_a_threshold_of_its_own():
    found = [thing("dog", 0.91), thing("dog", 0.9), thing("dog", 0.95)]
    counting = record(asked("dog", 3), tag="counting", exclude=[asked("dog", 4)])
    assert judge(counting, found).reasons == ("The prompt asks for 3 dogs, and 2 are found.",)
    assert judge(counting, found, config=GenEvalConfig(counting_threshold=0.85)).correct
    assert judge({**counting, "tag": "two_object"}, found).correct


def test_what_is_excluded_is_wrong_from_its_count_on():
    counting = record(asked("dog", 2), tag="counting", exclude=[asked("dog", 3)])
    assert judge(counting, [thing("dog")] * 2).correct
    verdict = judge(counting, [thing("dog")] * 3)
    assert verdict.reasons == ("The prompt asks for fewer than 3 dogs, and 3 are found.",)
    alone = record(exclude=[asked("cat"), asked("bus")])
    assert judge(alone, []).correct
    assert judge(alone, [thing("cat"), thing("bus")]).reasons == (
        "The prompt asks for fewer than 1 cat, and 1 is found.",
        "The prompt asks for fewer than 1 bus, and 1 is found.",
    )


def test_at_most_sixteen_of_a_class_count_and_none_is_suppressed():
    config = GenEvalConfig()
    things = [thing("dog", 0.4 + i / 100) for i in range(20)]  # all in one place
    kept = counted([*things, thing("cat")], "two_object", config)
    assert kept["dog"] == things[:3:-1] and len(kept["dog"]) == 16 and len(kept["cat"]) == 1
    assert judge(record(asked("dog", 16)), things).correct
    assert judge(record(asked("dog", 17)), things).reasons == ("The prompt asks for 17 dogs, and 16 are found.",)
    assert judge(record(asked("dog", 17)), things, config=GenEvalConfig(most=17)).correct


def test_a_colour_is_that_of_the_surest():
    red = record(asked("dog", color="red"), tag="colors")
    blue, other = thing("dog", 0.9), thing("dog", 0.5, 50)
    assert judge(red, [blue], painted("red")).correct
    verdict = judge(red, [other, blue], painted("blue", "red"))  # the less sure one is not asked
    assert verdict.reasons == ("The prompt asks for 1 red dog, and the one looked at is blue.",)
    assert verdict.colours == {0: "blue"} and verdict.found[0] == blue
    every = GenEvalConfig(surest=False)
    assert judge(red, [other, blue], painted("blue", "red"), every).correct
    two = record(asked("dog", 2, color="red"), tag="colors")
    assert judge(two, [blue, other], painted("red", "red")).correct
    assert judge(two, [blue, other], painted("red", "blue")).reasons == (
        "The prompt asks for 2 red dogs, and of those looked at there are 1 red and 1 blue.",
    )


def test_colours_are_asked_only_where_enough_is_found_and_with_the_class():
    said = []

    def colours(things, name):
        said.append((name, len(things)))
        return ["red"] * len(things)

    both = record(asked("dog", color="red"), asked("cat", 2, color="red"), asked("bus"), tag="color_attr")
    judge(both, [thing("dog"), thing("cat"), thing("bus"), thing("dog", 0.5)], colours)
    assert said == [("dog", 1)]
    with pytest.raises(InputError, match="give a colour classifier"):
        judge(both, [thing("dog")])


A = (40.0, 40.0, 60.0, 60.0)


@pytest.mark.parametrize(
    ("x", "y", "sides"),
    [
        (-30, 0, {"left of"}),
        (30, 0, {"right of"}),
        (0, -30, {"above"}),
        (0, 30, {"below"}),
        (-30, -30, {"left of", "above"}),
        (30, 30, {"right of", "below"}),
        (0, 0, set()),
        (4, -4, set()),  # shortened by a tenth of both sizes: nothing is left
        (4.0005, 0, set()),  # less than a thousandth is left
        (4.1, 0, set()),  # 0.1 / 4.1 of the offset's own length
        (7.9, 0, set()),
        (8.1, 0, {"right of"}),  # from half of it on
        (30, 14, {"right of"}),  # dy = (14 - 4) / 33.1 < 1/2
        (30, 24, {"right of", "below"}),
    ],
)
def test_directions(x, y, sides):
    box = tuple(v + (x, y)[i % 2] for i, v in enumerate(A))
    assert directions(box, A, GenEvalConfig()) == sides


def test_directions_by_hand():
    """Another size along each axis; a = 20 x 10 at (0, 0), b = 10 x 30 at (16, 6)."""
    a, b = (-10.0, -5.0, 10.0, 5.0), (11.0, -9.0, 21.0, 21.0)
    # o = (-16, -6); o' = (-(16 - 3), -(6 - 4)); |o| = 17.09; (dx, dy) = (-0.761, -0.117)
    assert directions(a, b, GenEvalConfig()) == {"left of"}
    assert directions(a, b, GenEvalConfig(direction=0.77)) == set()
    assert directions(a, b, GenEvalConfig(direction=0.1)) == {"left of", "above"}
    assert directions(a, b, GenEvalConfig(shortening=0.54)) == set()  # 16 - 16.2, 6 - 21.6


def test_a_position_holds_for_each_against_each():
    beside = record(asked("cat", 2), asked("dog", 2, position=["left of", 0]), tag="position")
    cats = [thing("cat", 0.9, 60), thing("cat", 0.8, 90)]
    dogs = [thing("dog", 0.9, 0), thing("dog", 0.8, 30)]
    assert judge(beside, cats + dogs).correct
    assert judge(beside, [*cats, dogs[0], thing("dog", 0.8, 75)]).reasons == (
        "The dog is to be left of the cat, and is right of it.",
    )
    # a third of each is not looked at
    assert judge(beside, [*cats, *dogs, thing("dog", 0.4, 200), thing("cat", 0.4, 10)]).correct
    assert not judge(beside, [*cats, *dogs, thing("dog", 0.4, 200)], config=GenEvalConfig(surest=False)).correct
    assert judge(beside, [*cats, *cats, thing("dog", 0.9, 90), dogs[0]]).reasons == (
        "The dog is to be left of the cat, and is right of it.",
    )
    verdict = judge(beside, [*cats, thing("dog", 0.9, 90, 0), thing("dog", 0.9, 90)])
    assert verdict.reasons == ("The dog is to be left of the cat, and is right of it.",)
    same = judge(
        record(asked("cat"), asked("dog", position=["above", 0]), tag="position"), [thing("cat"), thing("dog")]
    )
    assert same.reasons == ("The dog is to be above the cat, and is on no side of it.",)


def test_a_position_needs_its_reference_as_it_was_asked_for():
    beside = record(asked("cat", color="red"), asked("dog", position=["left of", 0]), tag="position")
    found = [thing("cat", 0.9, 60), thing("dog", 0.9, 0)]
    assert judge(beside, found, painted("red")).correct
    assert judge(beside, found, painted("blue")).reasons == (
        "The prompt asks for 1 red cat, and the one looked at is blue.",
        "The dog cannot be left of the cat, which is not there as asked.",
    )
    # what is itself not as asked has no position, and is no reference
    both = record(
        asked("cat"), asked("dog", color="red", position=["right of", 0]), asked("bus", position=["above", 1])
    )
    verdict = judge(both, [*found, thing("bus", 0.9, 0, -60)], painted("blue"))
    assert verdict.reasons == (
        "The prompt asks for 1 red dog, and the one looked at is blue.",
        "The bus cannot be above the dog, which is not there as asked.",
    )
    wrong = judge(both, [*found, thing("bus", 0.9, 0, -60)], painted("red"))
    assert wrong.reasons[0] == "The dog is to be right of the cat, and is left of it." and len(wrong.reasons) == 2


def test_the_defaults_are_those_published():
    config = GenEvalConfig()
    assert (config.threshold, config.counting_threshold, config.most) == (0.3, 0.9, 16)
    assert (config.shortening, config.direction, config.surest) == (0.1, 0.5, True)
    assert geneval.CLIP == HUB_CLIP == "openai/clip-vit-large-patch14" and geneval.GREY == (153, 153, 153)


@pytest.mark.parametrize("wrong", [{"threshold": 1.1}, {"most": 0}, {"shortening": -1.0}, {"direction": math.nan}])
def test_a_threshold_out_of_range_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GenEvalConfig(**wrong)


def test_a_verdict_is_kept_with_its_boxes_and_without_masks():
    one = Detection("dog", 0.9, (1.0, 2.0, 3.0, 4.0), np.ones((9, 9), bool))
    verdict = judge(record(asked("dog", color="red"), tag="colors"), [one], painted("blue"))
    assert verdict.found[0].mask is None
    assert json.loads(json.dumps(verdict.to_dict())) == {
        "tag": "colors",
        "prompt": "a photo of it",
        "correct": False,
        "reasons": ["The prompt asks for 1 red dog, and the one looked at is blue."],
        "found": [{"class": "dog", "score": 0.9, "box": [1.0, 2.0, 3.0, 4.0], "color": "blue"}],
    }


# --- another judge, written in another way --------------------------------------------------------------------------
def brute_force(row: dict, scored: list[tuple], colour_of) -> bool:
    """The verdict on (label, score, box, number) of each detection, with plain loops over everything."""
    limit = 0.3
    if row["tag"] == "counting":
        limit = 0.9
    by_class: dict[str, list[tuple]] = {}
    left = [d for d in scored if d[1] > limit]
    while left:  # the surest of what is left, again and again
        top = left[0]
        for d in left:
            if d[1] > top[1]:
                top = d
        left.remove(top)
        group = by_class.setdefault(top[0], [])
        if len(group) < 16:
            group.append(top)
    good = True
    groups: list[list[tuple] | None] = []
    for part in row["include"]:
        group = by_class.get(part["class"], [])
        fine = len(group) >= part["count"]
        group = group[0 : part["count"]]
        if fine and part.get("color"):
            for d in group:
                if colour_of(d) != part["color"]:
                    fine = False
        if fine and part.get("position"):
            word, index = part["position"]
            others = groups[index]
            if others is None:
                fine = False
            else:
                for d in group:
                    for other in others:
                        if not beside(word, d[2], other[2]):
                            fine = False
        groups.append(group if fine else None)
        good = good and fine
    for part in row.get("exclude", []):
        if len(by_class.get(part["class"], [])) >= part["count"]:
            good = False
    return good


def beside(word: str, a, b) -> bool:
    axis = 0 if word in ("left of", "right of") else 1
    along = (a[axis] + a[axis + 2]) / 2 - (b[axis] + b[axis + 2]) / 2
    across = (a[1 - axis] + a[3 - axis]) / 2 - (b[1 - axis] + b[3 - axis]) / 2
    if word in ("left of", "above"):
        along = -along
    room = 0.1 * ((a[axis + 2] - a[axis]) + (b[axis + 2] - b[axis]))
    if along <= room:
        return False
    return (along - room) / (along**2 + across**2) ** 0.5 > 0.5


NEAREST = {"red": (222, 36, 42), "orange": (250, 140, 20), "yellow": (250, 222, 40), "green": (36, 160, 62)}
NEAREST |= {"blue": (44, 76, 222), "purple": (138, 48, 178), "pink": (252, 128, 190), "white": (50, 205, 220)}


def colour_by_pixels(image: Image.Image, things, name: str) -> list[str]:
    """The colour of the pixels that are left of a thing on grey; the lab's cyan goes by white here."""
    found = []
    for one in things:
        cut = np.asarray(on_grey(image, one)).reshape(-1, 3).astype(int)
        inside = cut[(cut != 153).any(1)]
        middle = np.median(inside, 0)
        found.append(min(NEAREST, key=lambda c: np.abs(middle - NEAREST[c]).sum()))
    return found


def scene_with_detections(rng: np.random.Generator):
    """A drawn scene, what a detector could say of it, and the true colour of each box."""
    layout = ["one", "same", "two", "same+one", "three", "crowd"][rng.integers(6)]
    scene = sample_scene(rng, layout, allow_held_out=True)
    found, truth = [], {}
    for one in scene.things:
        mask = coverage(one) > 0.9
        label = one.noun if rng.random() < 0.95 else scene.things[0].noun
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
        for _ in range(1 + (rng.random() < 0.15) * int(rng.integers(1, 18))):  # nothing is suppressed
            score = float(rng.choice([0.2, 0.4, 0.95, 0.97, 0.99], p=[0.05, 0.05, 0.2, 0.3, 0.4])) + rng.random() / 100
            found.append(Detection(label, score, box, mask))
            truth[label, score] = "white" if one.color == "cyan" else one.color
    order = rng.permutation(len(found))
    return scene, [found[i] for i in order], truth


def row_for(scene: Scene, rng: np.random.Generator) -> dict:
    """A record that the scene may satisfy, of any tag."""
    tag = TAGS[rng.integers(len(TAGS))]
    nouns = list(dict.fromkeys(t.noun for t in scene.things))
    first, last = scene.things[0], scene.things[-1]

    def colour(one) -> str:
        true = "white" if one.color == "cyan" else one.color
        return true if rng.random() < 0.8 else COLOURS[rng.integers(8)]

    if tag == "counting":
        count = sum(t.noun == first.noun for t in scene.things) + int(rng.integers(-1, 2))
        count = max(count, 1)
        return record(asked(first.noun, count), tag=tag, exclude=[asked(first.noun, count + 1)])
    if tag == "colors":
        return record(asked(first.noun, color=colour(first)), tag=tag)
    if tag == "color_attr":
        several = sum(t.noun == first.noun for t in scene.things) if rng.random() < 0.5 else 1
        return record(asked(first.noun, several, color=colour(first)), asked(last.noun, color=colour(last)), tag=tag)
    if tag == "position":
        a, b = first.center, last.center
        sides = a[0] < b[0], a[0] > b[0], a[1] < b[1], a[1] > b[1]
        words = [w for w, there in zip(RELATIONS, sides, strict=True) if there]
        word = words[rng.integers(len(words))] if words and rng.random() < 0.8 else RELATIONS[rng.integers(4)]
        reference = asked(last.noun, color=colour(last)) if rng.random() < 0.3 else asked(last.noun)
        count = 2 if rng.random() < 0.2 else 1
        return record(reference, asked(first.noun, count, position=[word, 0]), tag=tag)
    if tag == "two_object":
        return record(asked(nouns[0]), asked(nouns[-1] if rng.random() < 0.8 else "egg"), tag=tag)
    return record(asked(nouns[0] if rng.random() < 0.8 else "egg"), tag=tag)


def test_the_judge_is_the_brute_force_one_on_200_scenes():
    """Pictures of the lab with the outlines of what was drawn; colours are read off the pixels, or known."""
    rng = np.random.default_rng(5)
    tally = {tag: [0, 0] for tag in TAGS}
    for number in range(200):
        scene, found, truth = scene_with_detections(rng)
        row = row_for(scene, rng)
        image = Image.fromarray(render(scene))
        ours = judge(row, found, partial(colour_by_pixels, image))
        plain = [(d.label, d.score, d.box, i) for i, d in enumerate(found)]
        theirs = brute_force(row, plain, lambda d, truth=truth: truth[d[0], d[1]])
        assert ours.correct == theirs, (number, row, plain, ours)
        assert ours.correct == (not ours.reasons) and all(r.endswith(".") for r in ours.reasons)
        tally[row["tag"]][ours.correct] += 1
    assert all(min(of) >= 3 for of in tally.values()), tally  # each tag has right and wrong ones


BOXES = st.tuples(*[st.floats(-100, 100)] * 2, *[st.floats(0.1, 60)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(max_examples=200, deadline=None)
@given(BOXES, BOXES, st.floats(0.1, 10))
def test_directions_are_opposite_from_the_other_side_and_know_no_scale(a, b, scale):
    config = GenEvalConfig()
    other = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    sides = directions(a, b, config)
    assert directions(b, a, config) == {other[s] for s in sides}
    assert not {"left of", "right of"} <= sides and not {"above", "below"} <= sides
    assert directions(a, a, config) == set()
    if sides:  # a larger picture has the same
        larger = (tuple(v * (1 + scale) for v in box) for box in (a, b))
        assert directions(*larger, config) == sides


DETECTIONS = st.lists(
    st.builds(thing, st.sampled_from(["dog", "cat"]), st.floats(0, 1), st.floats(0, 90), st.floats(0, 90)), max_size=20
)


@settings(max_examples=100, deadline=None)
@given(DETECTIONS, st.integers(1, 4), st.randoms(use_true_random=False))
def test_a_verdict_is_that_of_the_set_and_does_not_fall_with_more(found, count, shuffler):
    row = record(asked("dog", count))
    verdict = judge(row, found)
    shuffled = list(found)
    shuffler.shuffle(shuffled)
    assert judge(row, shuffled).correct == verdict.correct
    more = judge(row, [*found, thing("dog", 0.99)])
    assert more.correct or not verdict.correct  # what only includes is not undone by a further thing
    never = judge(record(exclude=[asked("dog", count)]), found)
    assert never.correct != verdict.correct


# --- colours --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def clip() -> ClipScorer:
    torch.manual_seed(1)
    tokenizer = tiny_tokenizer()
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = tower | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    vision = tower | {"image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    return ClipScorer(model, tokenizer, [0.48, 0.46, 0.41], [0.27, 0.26, 0.28])


def test_outside_its_mask_a_thing_is_on_grey():
    image, mask = noise(20, 10), np.zeros((10, 20), bool)
    mask[2:5, 4:9] = True
    mask[3, 6] = False
    cut = np.asarray(on_grey(image, Detection("dog", 0.9, (4.0, 2.0, 9.0, 5.0), mask)))
    assert cut.shape == (3, 5, 3) and (cut[1, 2] == 153).all()
    kept = np.delete(cut.reshape(-1, 3), 7, axis=0)
    assert (kept == np.delete(np.asarray(image)[2:5, 4:9].reshape(-1, 3), 7, axis=0)).all()
    whole = np.asarray(on_grey(image, Detection("dog", 0.9, (4.4, 1.6, 9.2, 5.4))))
    assert (whole == np.asarray(image)[2:5, 4:9]).all()  # without a mask the box is as it is
    assert on_grey(image, Detection("dog", 0.9, (4.2, 2.0, 4.3, 5.0))).size == (1, 3)


@pytest.mark.parametrize("size", [(50, 70), (71, 33), (32, 32), (20, 9), (7, 100)])
def test_a_crop_is_prepared_as_clips_own_processor_does(size):
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32, do_normalize=False)
    theirs = processor(noise(*size), return_tensors="np").pixel_values[0].transpose(1, 2, 0) * 255
    ours = np.asarray(centre_square(noise(*size), 32)).astype(int)
    assert ours.shape == (32, 32, 3) and np.abs(ours - theirs).max() <= 2 and np.abs(ours - theirs).mean() < 0.2


def test_a_thin_thing_does_not_become_millions_of_pixels():
    shade = Image.fromarray(np.linspace(0, 255, 4000).astype(np.uint8).repeat(3).reshape(4000, 1, 3))
    square = np.asarray(centre_square(shade, 224)).astype(int)
    assert square.shape == (224, 224, 3) and np.abs(square - 127).max() <= 1  # its middle
    assert (
        np.asarray(centre_square(shade.transpose(Image.Transpose.TRANSPOSE), 224)).transpose(1, 0, 2) == square
    ).all()


def test_the_colour_is_the_likeliest_by_the_templates(clip):
    image, classifier = noise(), ColourClassifier(clip)
    mask = np.random.default_rng(1).random((48, 80)) > 0.3
    things = [Detection("bus", 0.9, (5.0 * i, 4.0, 5.0 * i + 30, 40.0), mask) for i in range(6)]
    expected = []
    for one in things:
        with torch.no_grad():
            square = torch.from_numpy(np.asarray(centre_square(on_grey(image, one), 32)).copy()).permute(2, 0, 1)[None]
            picture = clip.image_features(square / 255)[0]
        scores = []
        for colour in COLOURS:
            rows = [f"a photo of a {colour} bus", f"a photo of a {colour}-colored bus", f"a photo of a {colour} object"]
            with torch.no_grad():
                each = clip.text_features(rows)
            middle = (each[0] + each[1] + each[2]) / 3
            scores.append(float(picture @ middle / middle.norm()))
        expected.append(COLOURS[int(np.argmax(scores))])
    assert classifier(image, things, "bus") == expected
    assert classifier(image, [], "bus") == []
    assert [classifier(image, [one], "bus")[0] for one in things] == expected


# --- records and pictures -------------------------------------------------------------------------------------------
ROWS = [
    {"tag": "counting", "include": [asked("clock", 2)], "exclude": [asked("clock", 3)], "prompt": "two clocks"},
    {
        "tag": "position",
        "include": [asked("bench"), asked("dog", position=["left of", 0])],
        "prompt": "a dog left of a bench",
    },
]


def written(path, rows) -> str:
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows), encoding="utf8")
    return str(path)


def test_records_are_read_as_geneval_writes_them(tmp_path):
    records = read_records(written(tmp_path / "evaluation_metadata.jsonl", [*ROWS, "\n"]))
    assert [r.to_dict() for r in records] == ROWS
    assert records[1].include[1].position == ("left of", 0)
    assert Record.of(records[0]) is records[0]


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ("{\n", "not a JSON object"),
        ("[1]\n", "is no JSON object"),
        ({}, "has no prompt"),
        ({"prompt": "p", "tag": "colour"}, "has the tag 'colour'; use one of single_object"),
        ({"prompt": "p", "tag": "colors"}, "asks for nothing"),
        ({"prompt": "p", "tag": "colors", "include": {"class": "dog"}}, "is no list of objects"),
        (record({"count": 1}), "a thing without a class"),
        (record(asked("dog", 0)), "has the count 0"),
        (record(asked("dog", True)), "has the count True"),
        (record(asked("dog", 1.5)), "has the count 1.5"),
        (record(asked("dog", color="cyan")), "has the colour 'cyan'"),
        (record(asked("dog", color=["red"])), "has the colour ['red']"),
        (record(asked("dog", position=["beside", 0])), "has the position"),
        (record(asked("dog", position="left of")), "has the position"),
        (record(asked("dog", position=[["left of"], 0])), "has the position"),
        (record(asked("dog", position=["left of", 0])), "by thing 0; give the number of an earlier one"),
        (record(asked("cat"), asked("dog", position=["left of", -1])), "by thing -1"),
        (record(exclude="dog"), "the exclude of the record"),
    ],
)
def test_a_broken_row_is_one_sentence(tmp_path, row, part):
    with pytest.raises(InputError) as refused:
        read_records(written(tmp_path / "rows.jsonl", [ROWS[0], row]))
    text = str(refused.value)
    assert text.startswith("line 2 of the file of GenEval's records") and part in text and "\n" not in text


def test_an_empty_file_of_records_is_refused(tmp_path):
    with pytest.raises(InputError, match="is empty"):
        read_records(written(tmp_path / "rows.jsonl", []))
    with pytest.raises(InputError, match="does not exist"):
        read_records(tmp_path / "none.jsonl")


def layout(folder, rows=ROWS, samples: int = 2) -> None:
    for number, row in enumerate(rows):
        place = folder / f"{number:05d}"
        (place / "samples").mkdir(parents=True)
        written(place / "metadata.jsonl", [row])
        for sample in range(samples):
            noise(seed=10 * number + sample).save(place / "samples" / f"{sample:04d}.png")
        noise().save(place / "grid.png")


def test_pictures_in_genevals_layout(tmp_path):
    layout(tmp_path)
    (tmp_path / "notes").mkdir()
    noise().save(tmp_path / "00001" / "samples" / "sheet.png")
    records, pictures = read_pictures(tmp_path)
    assert [r.tag for r in records] == ["counting"] * 2 + ["position"] * 2
    names = [layout_name(p) for p in pictures]
    assert names == [f"0000{i}/samples/000{j}.png" for i in (0, 1) for j in (0, 1)]
    assert layout_name(r"C:\pictures\00000\samples\0001.png") == names[1]


def test_a_layout_that_is_broken_is_refused_by_the_part(tmp_path):
    with pytest.raises(InputError, match="holds no pictures in GenEval's layout"):
        read_pictures(tmp_path)
    layout(tmp_path)
    (tmp_path / "00002").mkdir()
    with pytest.raises(InputError, match=r"00002/metadata.jsonl' does not exist"):
        read_pictures(tmp_path)
    written(tmp_path / "00002" / "metadata.jsonl", [{"prompt": "p"}])
    with pytest.raises(InputError, match=r"00002/metadata.jsonl' cannot be used: the record 'p' has the tag None"):
        read_pictures(tmp_path)
    written(tmp_path / "00002" / "metadata.jsonl", [ROWS[0]])
    with pytest.raises(InputError, match="samples' does not exist"):
        read_pictures(tmp_path)
    (tmp_path / "00002" / "samples").mkdir()
    with pytest.raises(InputError, match=r"holds no picture such as 0000\.png"):
        read_pictures(tmp_path)


# --- prompts of our own ---------------------------------------------------------------------------------------------
def test_prompts_of_our_own_are_seeded_different_and_of_all_tags():
    rows = geneval_records(60, 3)
    assert rows == geneval_records(60, 3) != geneval_records(60, 4)
    assert [r["tag"] for r in rows[:7]] == [*TAGS, TAGS[0]]
    assert [Record.of(r).to_dict() for r in rows] == rows and json.loads(json.dumps(rows)) == rows
    many = geneval_records(2000, 0)
    assert len({r["prompt"] for r in many}) == len(many) == 2000
    of = [r["tag"] for r in many]
    assert of.count("single_object") == 80 and of.count("counting") == 240 and of.count("position") == 420
    for wrong in (0, 10**9):
        with pytest.raises(InputError, match="`count` must be from 1"):
            geneval_records(wrong)


def test_each_record_says_what_its_prompt_says():
    for row in geneval_records(600, 1):
        said = row["prompt"].removeprefix("a photo of ")
        first = row["include"][0]
        if row["tag"] in ("single_object", "colors"):
            assert said == spoken(first["class"], 1, first.get("color")) and len(row["include"]) == 1
        elif row["tag"] == "counting":
            assert said == spoken(first["class"], first["count"]) and 2 <= first["count"] <= 4
            assert row["exclude"] == [asked(first["class"], first["count"] + 1)]
        elif row["tag"] == "position":
            second = row["include"][1]
            word, index = second["position"]
            assert index == 0 and first["class"] != second["class"]
            middle = {"left of": "to the left of", "right of": "to the right of"}.get(word, word)
            assert said == f"{spoken(second['class'])} {middle} {spoken(first['class'])}"
        else:
            second = row["include"][1]
            assert said == " and ".join(spoken(a["class"], 1, a.get("color")) for a in (first, second))
            assert first["class"] != second["class"]
            assert row["tag"] == "two_object" or first["color"] != second["color"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bench",), "a bench"),
        (("orange",), "an orange"),
        (("umbrella",), "an umbrella"),
        (("umbrella", 1, "red"), "a red umbrella"),
        (("cup", 1, "orange"), "an orange cup"),
        (("bench", 2), "two benches"),
        (("person", 3), "three people"),
        (("knife", 4), "four knives"),
        (("wine glass", 2), "two wine glasses"),
        (("toothbrush", 2), "two toothbrushes"),
        (("sheep", 2), "two sheep"),
        (("computer mouse", 2), "two computer mice"),
        (("bus", 2, "blue"), "two blue buses"),
        (("couch", 2), "two couches"),
        (("scissors",), "a pair of scissors"),
        (("scissors", 2, "red"), "two pairs of red scissors"),
        (("broccoli", 3), "three heads of broccoli"),
    ],
)
def test_articles_and_plurals(arguments, said):
    assert spoken(*arguments) == said


def test_the_classes_are_cocos():
    assert len(set(CLASSES)) == 80 and set(RENAMED.values()) < set(CLASSES) and not set(RENAMED) & set(CLASSES)
    older = {"sofa": "couch", "pottedplant": "potted plant", "diningtable": "dining table", "tvmonitor": "tv"}
    older |= {"motorbike": "motorcycle", "aeroplane": "airplane"}
    newer = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
    assert newer | older == RENAMED
    for names in (newer, newer | older):  # the labels of detectors that know COCO by either list
        detector = Drawn()
        detector.labels = tuple({new: old for old, new in names.items()}.get(c, c) for c in CLASSES)
        check_classes([Record.of(record(*map(asked, CLASSES)))], detector)
    assert [as_asked(thing(old)).label for old in older] == list(older.values())
    assert {plural(c) for c in ("skis", "tv", "box")} == {"skis", "tvs", "boxes"}


# --- figures --------------------------------------------------------------------------------------------------------
def test_overall_is_the_mean_over_tags_not_over_pictures():
    verdicts = [Verdict(tag, "p", i < n) for tag, n in zip(TAGS, (1, 2, 3, 4, 0, 4), strict=True) for i in range(4)]
    verdicts += [Verdict("single_object", "p", True)] * 4
    found = figures(verdicts)
    assert found["tags"]["single_object"] == {"right": 5 / 8, "pictures": 8}
    assert found["overall"] == pytest.approx((5 / 8 + 2 / 4 + 3 / 4 + 1 + 0 + 1) / 6) and found["missing"] == []
    some = figures(verdicts[:8])
    assert some["overall"] is None and some["missing"] == list(TAGS[2:]) and some["tags"]["two_object"]["right"] == 0.5


def test_agreement_and_kappa():
    ours = {str(i): ("colors", i < 5) for i in range(10)} | {"x": ("counting", True), "mine": ("colors", True)}
    theirs = {str(i): ("colors", i in (0, 1, 2, 3, 7)) for i in range(10)} | {"x": ("counting", True)}
    found = agreement(ours, theirs)
    # 8 of 10 the same; both say right to 5: by chance 0.5
    assert found["tags"]["colors"] == {"pictures": 10, "agreement": 0.8, "kappa": pytest.approx(0.6), "ours": 0.5} | {
        "theirs": 0.5
    }
    assert found["tags"]["counting"]["kappa"] is None and found["tags"]["counting"]["agreement"] == 1
    assert found["overall"]["pictures"] == 11 and found["overall"]["agreement"] == pytest.approx(9 / 11)
    assert found["differ"] == ["4", "7"] and (found["only_ours"], found["only_theirs"]) == (1, 0)
    assert agreement(ours, {k: (t, not c) for k, (t, c) in ours.items()})["tags"]["colors"]["kappa"] < 0
    with pytest.raises(InputError, match="no picture was judged by both"):
        agreement(ours, {"y": ("colors", True)})
    with pytest.raises(InputError, match="has the tags 'counting' and 'colors'"):
        agreement(ours, {"x": ("colors", True)})


def test_verdicts_of_genevals_own_program(tmp_path):
    rows = [
        {"filename": f"out/00000/samples/000{i}.png", "tag": "colors", "correct": i == 0, "reason": ""} for i in (0, 1)
    ]
    theirs = read_verdicts(written(tmp_path / "results.jsonl", rows))
    assert theirs == {"00000/samples/0000.png": ("colors", True), "00000/samples/0001.png": ("colors", False)}
    for broken, part in (
        ("{\n", "not a JSON object"),
        ({"filename": "a", "tag": "colors", "correct": 1}, "true or false"),
        (rows[0], "again"),
        ("3\n", "it has no filename"),
    ):
        with pytest.raises(InputError, match=rf"line 3 of the file of verdicts.*{part}"):
            read_verdicts(written(tmp_path / "results.jsonl", [*rows, broken]))
    with pytest.raises(InputError, match="is empty"):
        read_verdicts(written(tmp_path / "results.jsonl", []))


# --- the whole ------------------------------------------------------------------------------------------------------
class Drawn:
    """A detector that knows what was drawn: what it says of a picture is given."""

    labels = ("mouse", "dog")

    def __init__(self, *found: list[Detection]) -> None:
        self.found, self.least = list(found), []

    def find(self, images, least=0.0):
        self.least.append(least)
        return [self.found.pop(0) for _ in images]


def test_pictures_are_judged_in_order_by_genevals_names():
    rows = [record(asked("computer mouse"), tag="single_object"), record(asked("dog"), tag="single_object")] * 3
    detector = Drawn(*[[thing("mouse")]] * 6)
    verdicts = judge_pictures(rows, [noise()] * 6, detector)
    assert [v.correct for v in verdicts] == [True, False] * 3
    assert set(detector.least) == {0.3} and verdicts[0].found[0].label == "computer mouse"
    config = GenEvalConfig(threshold=0.5, counting_threshold=0.2)
    detector = Drawn([thing("mouse")])
    judge_pictures(rows[:1], [noise()], detector, config=config)
    assert detector.least == [0.2]  # nothing that counts for some tag is left out


def test_what_could_not_be_judged_is_refused_before_any_picture():
    with pytest.raises(InputError, match="1 records and 2 pictures"):
        judge_pictures([record(asked("dog"))], [noise()] * 2, Drawn())
    with pytest.raises(InputError, match="does not know the class 'cat'"):
        judge_pictures([record(asked("cat"))], [noise()], Drawn())
    with pytest.raises(InputError, match="ask for a colour"):
        judge_pictures([record(asked("dog", color="red"))], [noise()], Drawn())


def test_end_to_end_with_tiny_models_of_the_real_classes(tmp_path, clip):
    rows = geneval_records(6, 0)
    layout(tmp_path, rows, samples=1)
    records, files = read_pictures(tmp_path)
    assert [r.to_dict() for r in records] == rows
    detector = InstanceDetector.from_pretrained(tiny_mask2former())
    low = GenEvalConfig(threshold=0.0, counting_threshold=0.0)  # random weights are sure of nothing
    colours = ColourClassifier(clip)
    verdicts = judge_pictures(records, Pictures(files), detector, colours, low)
    assert [v.tag for v in verdicts] == list(TAGS) and all(v.found for v in verdicts)
    # the same from its parts, with the other judge
    for row, path, ours in zip(rows, files, verdicts, strict=True):
        image = Image.open(path)
        (found,) = detector.find([image])
        named = [(RENAMED.get(d.label, d.label), d.score + 1, d.box, i) for i, d in enumerate(found)]

        def colour_of(d, image=image, found=found):
            return colours(image, [found[d[3]]], d[0])[0]

        assert brute_force(row, named, colour_of) == ours.correct
    strict = judge_pictures(records, Pictures(files), detector, colours)
    assert not any(v.correct or v.found for v in strict)
    assert figures(strict)["overall"] == 0
    names = [layout_name(p) for p in files]
    assert agreement(marks(names, verdicts), marks(names, verdicts))["overall"]["agreement"] == 1


def test_a_picture_has_one_verdict_whatever_the_order(clip):
    detector, colours = InstanceDetector.from_pretrained(tiny_mask2former()), ColourClassifier(clip)
    rows = geneval_records(6, 2)
    low = GenEvalConfig(threshold=0.0, counting_threshold=0.0)
    pictures = [noise(seed=i) if i % 2 else noise(48, 80, seed=i) for i in range(6)]
    ours = judge_pictures(rows, pictures, detector, colours, low)
    order = random.Random(0).sample(range(6), 6)
    again = judge_pictures([rows[i] for i in order], [pictures[i] for i in order], detector, colours, low)
    assert [v.correct for v in again] == [ours[i].correct for i in order]
