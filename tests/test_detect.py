"""Detectors: what is made of a network's answer, tiny ones of the real classes, and regions of phrases for realign."""

import numpy as np
import pytest
import torch
from conftest import assert_refused, is_held, last_json, tiny_blip, tiny_pipeline
from PIL import Image
from tiny_detectors import COCO, tiny_grounding_dino, tiny_mask2former, tiny_owlv2, tiny_sam

import accord
from accord.cli.options import HUB_DETECTOR
from accord.evaluation.geneval_records import CLASSES
from accord.judges.detect import (
    PHRASES,
    SAME,
    BoxOutlines,
    Detection,
    InstanceDetector,
    instances,
    load_detector,
    overlap,
)
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.fine import realign
from accord.methods.realign.regions import DetectedRegions, detected_regions
from accord.prompts.phrases import phrases_of
from accord.types import InputError


def noise(width: int = 80, height: int = 48, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


# --- what is made of a network's answer -----------------------------------------------------------------------------
def test_instances_by_hand():
    """Two queries, two classes: each number of one detection is computed beside."""
    classes = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 5.0]])
    masks = torch.full((2, 4, 4), -3.0)
    masks[0, 1:3, 2:4] = 1.0
    masks[1, 0, 0] = 2.0
    found = instances(classes, masks, ["cat", "dog"], (4, 4))
    assert [d.label for d in found] == ["cat", "dog", "cat", "dog"]
    share = np.exp(2) / (np.exp(2) + 1 + np.exp(1))  # "no object" has its part of the softmax
    assert found[0].score == pytest.approx(share / (1 + np.exp(-1)), rel=1e-5)
    assert found[0].box == (2.0, 1.0, 4.0, 3.0)
    assert found[0].mask.sum() == 4 and found[0].mask[1:3, 2:4].all() and found[0].mask.dtype == bool
    assert found[1].box == found[0].box  # the same query with its other class
    assert found[2].score == pytest.approx(1 / (2 + np.exp(5)) / (1 + np.exp(-2)), rel=1e-4)


def test_masks_are_made_at_the_pictures_size_and_empty_ones_left_out():
    masks = torch.full((2, 2, 2), -1.0)
    masks[0, :, 1] = 1.0
    found = instances(torch.tensor([[5.0, 0.0], [5.0, 0.0]]), masks, ["cat"], (6, 8))
    assert len(found) == 1  # the other mask is empty
    assert found[0].mask.shape == (6, 8) and found[0].box == (4.0, 0.0, 8.0, 6.0)  # bilinear: half-way


def test_of_all_pairs_a_hundred_are_kept_and_none_below_the_least():
    torch.manual_seed(0)
    classes, masks = torch.randn(30, 21), torch.randn(30, 8, 8)
    labels = [str(i) for i in range(20)]
    everything = instances(classes, masks, labels, (16, 16))
    assert len(everything) == 100
    shares = classes.softmax(-1)[:, :-1].flatten().sort(descending=True).values
    assert min(d.score for d in everything) <= float(shares[99])
    assert [d.score for d in everything] == sorted((d.score for d in everything), reverse=True)
    least = everything[40].score
    assert instances(classes, masks, labels, (16, 16), least) == everything[:40]  # though fewer masks are made


def test_overlap_of_boxes():
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0


# --- tiny ones of the real classes ----------------------------------------------------------------------------------
def test_a_mask2former_finds_instances_of_cocos_classes():
    detector = InstanceDetector.from_pretrained(tiny_mask2former())
    assert detector.labels == tuple(COCO) and len(CLASSES) == 80
    pictures = [noise(), noise(seed=1), noise(48, 80, seed=2)]
    together = detector.find(pictures)
    assert [len(f) for f in together] == [100] * 3 and together[0] != together[1]
    assert together[2][0].mask.shape == (80, 48)  # height and width
    for picture, found in zip(pictures, together, strict=True):  # its neighbours do not change a verdict
        for a, b in zip(detector.find([picture])[0], found, strict=True):
            assert a.label == b.label and a.score == pytest.approx(b.score, abs=1e-5)


def test_a_detector_of_another_class_is_refused():
    with pytest.raises(InputError, match="is a owlv2 model; use a Mask2Former"):
        InstanceDetector.from_pretrained(tiny_owlv2())
    with pytest.raises(InputError, match="is a mask2former model; use an OWLv2 or a Grounding DINO"):
        load_detector(tiny_mask2former())
    with pytest.raises(InputError, match="use a SAM"):
        BoxOutlines.from_pretrained(tiny_owlv2())


@pytest.mark.parametrize("folder", [tiny_owlv2, tiny_grounding_dino])
def test_a_detector_finds_phrases(folder):
    detector, picture = load_detector(folder()), noise()
    phrases = ["a red star", "a blue key"]
    found = detector.find(picture, phrases, least=0.0)
    assert found and {d.label for d in found} <= set(phrases)
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)
    for one in found:
        assert 0 <= one.box[0] < one.box[2] <= 80 and 0 <= one.box[1] < one.box[3] <= 48 and one.mask is None
    for label in phrases:
        own = [d.box for d in found if d.label == label]
        assert all(overlap(a, b) <= SAME for i, a in enumerate(own) for b in own[:i])
    assert detector.find(picture, [*phrases, "a red star"], least=0.0) == found  # said twice is sought once
    assert detector.find(picture, []) == [] == detector.find(picture, phrases, least=1.0)
    assert len(detector.find(picture, phrases)) == len([d for d in found if d.score > detector.least])


def test_owlv2_answers_as_the_librarys_own_post_processing():
    detector, picture = load_detector(tiny_owlv2()), noise()
    phrases = ["a red star", "a blue key"]
    scores, boxes = detector.boxes(picture, phrases)
    ids = detector.tokenizer(phrases, padding="max_length", max_length=16, return_tensors="pt")
    pixels = detector.processor(picture, return_tensors="pt").pixel_values
    with torch.no_grad():
        out = detector.model(input_ids=ids.input_ids, attention_mask=ids.attention_mask, pixel_values=pixels)
    (theirs,) = detector.processor.post_process_object_detection(out, 0.0, [(48, 80)])
    assert torch.allclose(scores.max(-1).values, theirs["scores"], atol=1e-6)
    x, y, w, h = (boxes * torch.tensor([80.0, 48, 80, 48])).unbind(-1)
    ours = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
    assert torch.allclose(ours, theirs["boxes"], atol=1e-3)


def test_grounding_dino_reads_each_phrase_from_its_own_tokens():
    detector, picture = load_detector(tiny_grounding_dino()), noise()
    phrases = ["A red star", "the blue key.", "fish"]
    text, places = detector._text(phrases)
    assert text == "a red star. the blue key. fish."
    assert [text[a:b] for a, b in places] == ["a red star", "the blue key", "fish"]
    scores, boxes = detector.boxes(picture, phrases)
    assert scores.shape == (12, 3) and boxes.shape == (12, 4)
    ids = detector.tokenizer(text, return_tensors="pt")
    inputs = detector.processor(picture, return_tensors="pt")
    with torch.no_grad():
        tokens = detector.model(**inputs, **ids).logits[0].sigmoid()
    # [CLS] a red star . the blue key . fish . [SEP]
    for phrase, own in enumerate(([1, 2, 3], [5, 6, 7], [9])):
        assert torch.allclose(scores[:, phrase], tokens[:, own].amax(-1), atol=1e-6)


@pytest.mark.parametrize(("folder", "most"), [(tiny_owlv2, 16), (tiny_grounding_dino, 24)])
def test_phrases_that_would_not_be_read_whole_are_refused(folder, most):
    detector = load_detector(folder())
    with pytest.raises(InputError, match=f"longer than the {most} tokens that the detector reads.*fish"):
        detector.find(noise(), ["a red star " * 8 + "fish"])


def test_sam_outlines_boxes():
    outlines = BoxOutlines.from_pretrained(tiny_sam())
    boxes = [Detection("a", 0.9, (5.0, 4.0, 40.0, 30.0)), Detection("b", 0.8, (50.0, 10.0, 70.0, 44.0))]
    found = outlines(noise(), boxes)
    assert [(d.label, d.score, d.box) for d in found] == [(d.label, d.score, d.box) for d in boxes]
    masks = [d.mask for d in found if d.mask is not None]
    assert masks and all(m.shape == (48, 80) and m.dtype == bool and m.any() for m in masks)
    assert outlines(noise(), []) == []
    # the box is scaled as the picture is: the same box of a picture of half the size has other numbers
    alone = outlines(noise(), boxes[:1])[0]
    assert alone.mask is None or (alone.mask == found[0].mask).all()
    with_them = load_detector(tiny_owlv2(), tiny_sam()).find(noise(), ["a red star"], least=0.0)
    assert with_them and any(d.mask is not None for d in with_them)


def test_a_detector_that_runs_is_held():
    """Another thread could not run it meanwhile."""
    found, picture = [], noise()
    classes = InstanceDetector.from_pretrained(tiny_mask2former())
    phrases = [load_detector(tiny_owlv2(), tiny_sam()), load_detector(tiny_grounding_dino())]
    networks = [classes.model, *(d.model for d in phrases), phrases[0].outlines.model]
    for network in networks:
        network.register_forward_pre_hook(lambda network, *_: found.append(is_held(network)))
    classes.find([picture])
    for detector in phrases:
        detector.find(picture, ["a red star"], least=0.0)
    assert found == [True] * 4


# --- regions for realign --------------------------------------------------------------------------------------------
PROMPT = phrases_of("a red star to the left of two blue keys")


def box(x: float, y: float) -> tuple[float, float, float, float]:
    return x, y, x + 20.0, y + 20.0


def test_regions_are_the_surest_detections_and_no_place_is_given_twice():
    found = [
        Detection("a blue key", 0.9, box(60, 10)),
        Detection("a red star", 0.8, box(61, 10)),  # where a key is, which was surer
        Detection("a red star", 0.7, box(10, 10)),
        Detection("a red star", 0.6, box(10, 60)),  # one star is asked for
        Detection("a blue key", 0.5, box(60, 60)),
        Detection("a green fish", 0.5, box(30, 30)),
    ]
    regions = detected_regions(PROMPT, found, (100, 100), (10, 10))
    assert [r.phrase for r in regions] == [0, 1, 1]
    assert [r.box for r in regions] == [(0.1, 0.1, 0.3, 0.3), (0.6, 0.1, 0.8, 0.3), (0.6, 0.6, 0.8, 0.8)]
    for region in regions:
        assert region.mask.shape == (10, 10) and region.mask.dtype == np.float32
        assert region.mask.sum() == pytest.approx(4)
    assert detected_regions(PROMPT, found[:1], (100, 100), (10, 10))[0].phrase == 1
    assert detected_regions(phrases_of("on a white background"), found, (100, 100), (10, 10)) == []


def test_the_mask_of_a_region_is_the_covered_share_of_each_cell():
    mask = np.zeros((40, 80), dtype=bool)  # width 80, height 40
    mask[10:20, 20:25] = True
    one = Detection("a red star", 0.9, (20.0, 10.0, 25.0, 20.0), mask)
    (region,) = detected_regions(PROMPT, [one], (80, 40), (4, 8))
    assert region.box == (0.25, 0.25, 0.3125, 0.5)
    assert region.mask[1, 2] == 0.5 and region.mask.sum() == 0.5


@pytest.mark.parametrize("folder", [tiny_owlv2, tiny_grounding_dino])
def test_realign_takes_its_regions_from_a_detector(folder, monkeypatch):
    detector, pipe = load_detector(folder(), tiny_sam()), tiny_pipeline()
    detector.least = 0.0
    calls = []
    find = DetectedRegions.find

    def noted(self, image, prompt, maps):
        calls.append(find(self, image, prompt, maps))
        return calls[-1]

    monkeypatch.setattr(DetectedRegions, "find", noted)
    prompt, config = "a red star and a key", RealignConfig(rounds=1, good_enough=1.0)
    options = {"config": config, "captioner": tiny_blip(), "num_inference_steps": 2, "captions": False}
    (result,) = realign(pipe, prompt, 1, regions=detector, **options)
    assert len(calls) == 1 and {r.phrase for r in calls[0]} <= {0, 1} and result.rounds == 1
    assert all(r.mask.shape == (16, 16) for r in calls[0])
    monkeypatch.setattr(DetectedRegions, "find", lambda *_: pytest.fail("it was asked"))
    realign(pipe, prompt, 1, **options)  # by attention


def test_realign_refuses_phrases_that_the_detector_would_not_read_before_it_draws():
    detector = load_detector(tiny_owlv2())
    detector.model.config.text_config.max_position_embeddings = 4
    pipe = tiny_pipeline()
    pipe.unet.forward = lambda *_, **__: pytest.fail("it drew")
    with pytest.raises(InputError, match=r"longer than the 4 tokens that the detector reads.*'key'"):
        realign(pipe, ["a star", "a blue key"], regions=detector, captioner=tiny_blip(), num_inference_steps=2)


def test_regions_from_the_command_line(accord_cli):
    assert HUB_DETECTOR == PHRASES and accord.load_detector is load_detector
    words = ["realign", "a red star and a blue key", "--rounds", 1, "--steps", 2, "--json"]
    found = last_json(accord_cli(*words, "--regions", "detector", "--detector", tiny_owlv2())[1])
    assert len(found["results"]) == 1
    assert_refused(accord_cli(*words, "--regions", "eyes"), "--regions 'eyes' is unknown; use attention or detector")
    assert_refused(accord_cli(*words, "--detector", "x"), "--detector is not used without --regions detector")
    assert_refused(accord_cli(*words, "--outlines", "x"), "--outlines is not used without --regions detector")
    code, out, err = accord_cli(*words, "--regions", "detector", "--detector", "no/where")
    assert code == 2 and out == "" and "detector 'no/where'" in err and "Traceback" not in err
