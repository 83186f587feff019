"""Guards of a tuning run beside the held-out score: each is shown stopping a run, and leaving a harmless one alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline

from accord.data.pairs import PairsFile
from accord.data.prompt_files import read_paraphrases
from accord.methods.tune.config import TuneConfig
from accord.methods.tune.drift import brightness, contrast, diversity, norms
from accord.methods.tune.train import train_reward
from accord.rewards.composed import Composed
from accord.training.limits import Drift, Limits
from accord.types import InputError
from accord_lab.bench.prompts import scenebench
from accord_lab.scenes.ask import ask_of
from accord_lab.scenes.paraphrase import paraphrase, paraphrases

pytestmark = pytest.mark.usefixtures("no_curve")
PROMPTS = ["a red star", "a blue key", "two green fish", "a pink crown"]
WIDE = Limits(norm=1e9, brightness=1e9, contrast=1e9, diversity=1e9, paraphrase=1e9)


class Bright:
    """Mean of the pictures, or its opposite."""

    differentiable = True

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign

    def __call__(self, images, prompts):
        return self.sign * images.mean((1, 2, 3))


CONFIG = TuneConfig.of(
    "draft",
    steps=12,
    batch_size=2,
    num_inference_steps=2,
    eval_every=2,
    eval_prompts=1,
    warmup_steps=0,
    ema_decay=0.0,
    learning_rate=5e-2,
    reward_weight=1.0,
    pretrain_weight=0.0,
    kl_weight=0.0,
    margin=1e3,
    guidance_scale=1.0,
    anchors=2,
    bf16=False,
)


def run(folder: Path, **how):
    reward = how.pop("reward", Bright())
    config = how.pop("config", CONFIG)
    return train_reward(tiny_pipeline(), PROMPTS, reward, folder, config=config, progress=False, **how).report


# --- measures --------------------------------------------------------------------------------------------------------
def test_measures_by_hand():
    pictures = torch.tensor([0.0, 1.0]).repeat(3, 3, 2, 1) * torch.tensor([0.5, 1.0, 0.0]).view(3, 1, 1, 1)
    assert brightness(pictures).tolist() == pytest.approx([0.25, 0.5, 0.0])
    assert contrast(pictures).tolist() == pytest.approx([0.25 * (12 / 11) ** 0.5, 0.5 * (12 / 11) ** 0.5, 0.0])
    assert norms(torch.tensor([[3.0, 4.0], [1.0, -1.0]])).tolist() == pytest.approx([12.5**0.5, 1.0])
    group = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2), torch.zeros(3, 2, 2)])
    assert diversity(group[None]).tolist() == pytest.approx([2 / 3])  # two of three pairs differ by 1
    assert diversity(torch.ones(2, 4, 3, 2, 2)).tolist() == [0.0, 0.0]


FLAT = torch.ones(8)


@pytest.mark.parametrize(
    ("name", "first", "now", "said"),
    [
        ("norm", FLAT, FLAT * 1.2, "norm of the latents changed by +20% (at most 15%)"),
        ("norm", FLAT, FLAT * 0.8, "norm of the latents changed by -20% (at most 15%)"),
        ("brightness", FLAT * 0.4, FLAT * 0.55, "brightness changed by +0.15 (at most 0.10)"),
        ("brightness", FLAT * 0.4, FLAT * 0.25, "brightness changed by -0.15 (at most 0.10)"),
        ("contrast", FLAT, FLAT * 0.6, "contrast changed by -40% (at most 30%)"),
        ("diversity", FLAT, FLAT * 0.5, "their distance changed by -50% (at most -40%)"),
    ],
)
def test_a_drift_beyond_its_limit_stops_at_once_and_says_so(name, first, now, said):
    drift = Drift(Limits(), {}, {})
    drift.update(0, {name: first})
    drift.update(10, {name: first + 0.1 * (now - first)})
    assert not drift.stopped and not drift.in_doubt and drift.sentence == ""
    drift.update(20, {name: now})
    assert drift.stopped and drift.in_doubt and said in drift.sentence and drift.sentence.startswith("By step 20 ")
    unlimited = Drift(None, {}, {})
    for step, values in ((0, first), (20, now)):
        unlimited.update(step, {name: values})
    assert not unlimited.stopped and not unlimited.in_doubt


def test_more_diversity_is_no_drift():
    drift = Drift(Limits(), {}, {})
    for step in (0, 10):
        found = drift.update(step, {"diversity": FLAT * (1 + step)})
    assert not drift.stopped and found["diversity"] == pytest.approx(10.0)


@pytest.mark.parametrize(("share", "stopped"), [(1.0, False), (0.8, False), (0.1, True), (-0.5, True)])
def test_a_gain_that_paraphrases_lack_stops_after_two_evaluations(share, stopped):
    make = torch.Generator().manual_seed(0)
    told = torch.randn(12, generator=make)
    drift = Drift(Limits(), {}, {})
    drift.update(0, {"told": told, "retold": told + 0.3})
    for step in (10, 20):
        assert not drift.stopped
        noise = 0.05 * torch.randn(12, generator=make)
        found = drift.update(step, {"told": told + 1, "retold": told + 0.3 + share + noise})
    assert drift.stopped == stopped and found["paraphrase"] == pytest.approx(1 - share, abs=0.05)
    assert not stopped or "in other words lost" in drift.sentence


def test_a_fall_of_both_wordings_is_no_lost_gain():
    drift = Drift(Limits(), {}, {})
    for step in (0, 10, 20):
        drift.update(step, {"told": FLAT - step, "retold": FLAT - 3 * step})
    assert not drift.stopped


def test_the_watching_judge_stops_where_its_score_falls_while_the_reward_rises():
    for fall, rise, stopped in ((-0.5, 1.0, True), (0.5, 1.0, False), (-0.5, -1.0, False)):
        drift = Drift(Limits(), {}, {})
        for step in (0, 1, 2):
            drift.update(step, {"reward": FLAT + rise * step, "watch": FLAT + fall * step})
        assert drift.stopped == stopped
        assert not stopped or "the watching judge's score fell by 1.000" in drift.sentence


def test_limits_out_of_range_are_named():
    for name in ("norm", "brightness", "contrast", "diversity", "paraphrase", "z", "patience"):
        with pytest.raises(ValueError, match=name):
            Limits(**{name: 0})
    with pytest.raises(ValueError, match="norm"):
        Limits(norm=float("nan"))


# --- runs that are stopped -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_reward_that_brightens_or_darkens_is_stopped(tmp_path, sign):
    report = run(tmp_path, reward=Bright(sign), limits=replace(WIDE, brightness=0.01))
    word = "+" if sign > 0 else "-"
    assert f"brightness changed by {word}" in report["stopped_by"] and report["steps_taken"] <= 12
    assert report["verdict"].startswith(report["stopped_by"]) and report["kept_step"] < report["steps_taken"]
    rows = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert sign * rows[-1]["drift/brightness"] > 0.01 and {"drift/norm", "drift/contrast"} <= rows[-1].keys()
    assert "drift/watch" not in rows[-1] and report["stopped_by"] in (tmp_path / "README.md").read_text()


def test_the_same_run_goes_on_where_nothing_limits_it(tmp_path):
    report = run(tmp_path, reward=Bright(), config=replace(CONFIG, steps=2))
    assert report["stopped_by"] is None and report["steps_taken"] == 2
    assert report["evaluations"][-1]["drift"]["brightness"] > 0


class Grey(Bright):
    """Pictures that are alike: the opposite of their distance from one grey."""

    def __call__(self, images, prompts):
        return -(images - 0.5).square().mean((1, 2, 3))


def test_a_reward_that_makes_pictures_alike_is_stopped(tmp_path):
    report = run(tmp_path, reward=Grey(), limits=replace(WIDE, diversity=0.01), config=replace(CONFIG, steps=24))
    assert "became alike" in report["stopped_by"]


@pytest.mark.parametrize("name", ["norm", "contrast"])
def test_a_drift_of_norm_or_contrast_is_stopped(tmp_path, name):
    report = run(tmp_path, reward=Bright(), limits=replace(WIDE, **{name: 1e-4}))
    assert ("norm of the latents" if name == "norm" else "contrast") in report["stopped_by"]


def test_a_watching_judge_stops_a_run_and_the_best_weights_before_are_kept(tmp_path):
    report = run(tmp_path, reward=Bright(), watcher=Bright(-1.0), limits=WIDE)
    assert "watching judge's score fell" in report["stopped_by"] and report["kept_step"] == 0
    alone = run(tmp_path / "alone", reward=Bright(), watcher=Bright(-1.0), config=replace(CONFIG, steps=4))
    assert alone["stopped_by"] is None and alone["evaluations"][-1]["drift"]["watch"] < 0


def test_a_gain_that_is_lost_in_other_words_stops_a_run(tmp_path, monkeypatch):
    from accord.methods.tune.watching import Watching

    rewards = Watching._rewards

    def of_wording(rollouts, texts, asked):  # a model that has learnt the words of its prompts: no gain on others
        return rewards(rollouts, texts, asked) * (1.0 if texts == asked else 0.0)

    monkeypatch.setattr(Watching, "_rewards", staticmethod(of_wording))
    others = {p: f"an image of {p}" for p in PROMPTS}
    report = run(tmp_path, reward=Bright(), paraphrases=others, limits=WIDE, config=replace(CONFIG, steps=4))
    assert report["stopped_by"] is None  # a limit beyond 1 lets all of it be lost
    report = run(
        tmp_path / "limited", reward=Bright(), paraphrases=others, limits=replace(WIDE, paraphrase=0.5, z=1e-9)
    )
    assert "in other words lost 100% of the gain" in report["stopped_by"]


def test_what_would_not_watch_is_refused(tmp_path):
    reward = Composed({"bright": Bright()}, {"bright": 1.0})
    with pytest.raises(InputError, match="none of the `paraphrases`"):
        run(tmp_path, reward=reward, paraphrases={"a tree": "one tree"})
    with pytest.raises(InputError, match="judge of `watcher`"):
        run(tmp_path, reward=reward, watcher=reward.rewards["bright"])
    assert not any(tmp_path.iterdir())


# --- paraphrases -----------------------------------------------------------------------------------------------------
def test_the_grammar_says_every_prompt_of_the_bench_in_other_words():
    texts = [p.text for p in scenebench()[::9]]
    found = paraphrases(texts, seed=3)
    assert len(found) > 0.99 * len(texts)
    for text, other in found.items():
        assert other != text and ask_of(other) == ask_of(text), (text, other)
    shared = np.mean([len(set(t.split()) & set(o.split())) / len(set(t.split())) for t, o in found.items()])
    assert shared < 0.97
    with pytest.raises(InputError, match="the lab has no 'dragon'"):
        paraphrase("a red dragon", np.random.default_rng(0))


def test_paraphrases_are_read_from_a_file(tmp_path):
    path = tmp_path / "others.csv"
    path.write_text("prompt,paraphrase\na red star,one crimson star\na key,\n", encoding="utf8")
    skipped = PairsFile()
    assert read_paraphrases(path, skipped) == {"a red star": "one crimson star"}
    assert [row["row"] for row in skipped.skipped] == [2] and "no paraphrase" in skipped.skipped[0]["reason"]
