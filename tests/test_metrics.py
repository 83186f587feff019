"""`accord.metrics`: figures of `accord eval` as metrics of torchmetrics."""

import math

import numpy as np
import pytest
import tiny_judges
import torch
from torchmetrics import Metric, MetricCollection

import accord
from accord.data.images import fit, to_tensor
from accord.evaluation.registry import Record
from accord.evaluation.stats import figure_of
from accord.evaluation.suites.vqascore import VqaScore
from accord.judges.diagnosis import align
from accord.metrics import COLUMNS, KINDS, Alignment, VQAScore, name_of, pictures_of
from accord.types import InputError
from accord_lab.scenes.pairs import rendered_pairs


@pytest.fixture(scope="module")
def captioner():
    return accord.load_captioner()


@pytest.fixture(scope="module")
def pairs():
    images, prompts = rendered_pairs(3)
    return [*images, *reversed(images)], [*prompts, *prompts]  # three prompts with a right and a wrong picture or two


def values(found):
    return {name: float(value) for name, value in found.items()}


def same(one, other):
    return one.keys() == other.keys() and all(np.isclose(one[k], other[k], equal_nan=True, atol=1e-4) for k in one)


def test_the_figures_are_those_of_the_scores(captioner, pairs):
    images, prompts = pairs
    metric = Alignment(captioner)
    assert isinstance(metric, Metric) and accord.metrics.Alignment is Alignment
    metric.update(images[:2], prompts[:2])
    metric.update(to_tensor(images[2:]), prompts[2:])
    found = values(metric.compute())
    scored = align(fit(to_tensor(images), captioner.image_size), prompts, captioner, captions=False)
    by_prompt = {}
    for prompt, alignment in zip(prompts, scored, strict=True):
        by_prompt.setdefault(tuple(name_of(prompt)), []).append(alignment.overall)
    wanted = figure_of(by_prompt)
    assert math.isclose(found["alignment"], wanted["mean"], abs_tol=2e-4)
    assert np.allclose([found["alignment_low"], found["alignment_high"]], wanted["ci95"], atol=1e-3)
    assert (found["prompts"], found["pictures"], found["unjudged"]) == (3, 6, 0)
    kinds = {w.word.kind for a in scored for w in a.words}
    assert kinds == {name for name in found if name in KINDS} and {"noun", "color"} <= kinds
    nouns = {}
    for prompt, alignment in zip(prompts, scored, strict=True):
        own = [w.probability for w in alignment.words if w.word.kind == "noun"]
        nouns.setdefault(tuple(name_of(prompt)), []).append(np.mean(own))
    assert math.isclose(found["noun"], figure_of(nouns)["mean"], abs_tol=2e-4)
    right = Alignment(captioner)
    right.rows = [metric.rows[0], metric.rows[1][:COLUMNS]]  # no wrong picture among the first three
    right._update_count = 1
    assert values(right.compute())["alignment"] > found["alignment"]


def test_pictures_are_the_same_however_they_are_given(pairs):
    images, _ = pairs
    floats = to_tensor(images[:2])
    bytes_ = (floats * 255).round().to(torch.uint8)
    for given in (images[:2], floats, bytes_, floats.double(), list(floats), [images[0], bytes_[1]]):
        assert [np.asarray(p).tolist() for p in pictures_of(given)] == [np.asarray(p).tolist() for p in images[:2]]
    for given, said in (
        (floats * 2, "values from"),
        (floats - 1, "values from"),
        (floats * float("nan"), "values from nan"),
        (floats[:, :1], "give .B,3,H,W."),
        (bytes_.int(), "torch.int32"),
        ("picture.png", "a str"),
        (np.asarray(images[0]), "give PIL pictures"),
    ):
        with pytest.raises(InputError, match=said):
            pictures_of(given)


def test_what_cannot_be_judged_is_counted_and_in_no_mean(captioner, pairs):
    images, prompts = pairs
    metric = Alignment(captioner)
    once = values(metric(images[0], prompts[0]))  # forward
    assert once["alignment"] > 0 and math.isnan(once["alignment_low"]) and once["unjudged"] == 0
    alone = values(metric(images[1], "trending, 8k, very detailed"))
    assert math.isnan(alone["alignment"]) and alone["unjudged"] == 1 and alone["pictures"] == 0
    both = values(metric.compute())
    assert both["alignment"] == once["alignment"] and (both["pictures"], both["unjudged"]) == (1, 1)
    assert both["unjudged_words"] == once["unjudged_words"] + alone["unjudged_words"] > 0
    metric.reset()
    metric.update([], [])
    assert math.isnan(values(metric.compute())["alignment"]) and values(metric.compute())["pictures"] == 0
    with pytest.raises(InputError, match="1 images were given with 2 prompts"):
        metric.update(images[0], prompts[:2])
    with pytest.raises(InputError, match="the embedded captioner knows the lab's small scenes alone"):
        Alignment().update(images[0].resize((256, 256)), prompts[0])


def test_processes_find_what_one_finds(captioner, pairs):
    images, prompts = pairs
    whole, first, second, empty = (Alignment(captioner) for _ in range(4))
    whole.update(images[:4], prompts[:4])
    first.update(images[:1], prompts[:1])
    second.update(images[1:4], prompts[1:4])
    wanted = values(whole.compute())
    for metric in (second, empty):
        first.merge_state(metric)
    first._computed = None
    assert same(values(first.compute()), wanted)


def _share(rank, port, images, prompts, wanted):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    metric = Alignment(accord.load_captioner())
    metric.update(images[rank::2], prompts[rank::2])
    assert same(values(metric.compute()), wanted)
    lonely = Alignment(metric.judge)
    if rank:
        lonely.update(images, prompts)
    assert same(values(lonely.compute()), wanted)


@pytest.mark.slow
def test_two_processes_gather(captioner, pairs):
    """Over gloo; of the second metric one process has no picture."""
    images, prompts = pairs
    whole = Alignment(captioner)
    whole.update(images, prompts)
    arguments = (29_731, images, prompts, values(whole.compute()))
    torch.multiprocessing.start_processes(_share, arguments, nprocs=2, start_method="fork")


def test_a_collection_of_both(captioner, pairs):
    images, prompts = pairs
    judge = tiny_judges.shared("qwen25")
    found = values(MetricCollection([Alignment(captioner), VQAScore(judge)])(images[:2], prompts[:2]))
    rated = VqaScore(judge).judge([Record(i, p) for i, p in enumerate(prompts[:2])], images[:2])
    assert math.isclose(found["VQAScore_vqascore"], np.mean([r.score for r in rated]), abs_tol=1e-4)
    assert found["Alignment_alignment"] > 0
    with pytest.raises(InputError, match="judge is a Captioner, which answers no questions"):
        VQAScore(captioner)
    assert not [name for name in Alignment(captioner).state_dict() if "judge" in name]
