"""The benchmarks of tuning, inversion and video at a size that only proves they run, and their own arithmetic."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import MODELS
from diffusers import DDIMScheduler, UNet2DConditionModel
from PIL import Image

from accord.data.video import read_video
from accord.evaluation.stats import wilson
from accord.methods.invert.data import PairSet
from accord.rewards.registry import reward_names
from accord.rewards.video import background_psnr
from accord.types import InputError
from accord_lab.bench import context as bench_context
from accord_lab.bench import context_cost, sensitivity, transplant, video_memory
from accord_lab.bench import invert as bench_invert
from accord_lab.bench import judging as bench_judging
from accord_lab.bench import kernel as bench_kernel
from accord_lab.bench import rewards as bench_rewards
from accord_lab.bench import video as bench_video
from accord_lab.bench.hacking import Hacking
from accord_lab.bench.invert_speed import InvertSpeed
from accord_lab.bench.prompts import scenebench
from accord_lab.bench.report import sheet
from accord_lab.bench.scenes import make_jobs, right_by_prompt
from accord_lab.bench.speed_large import NETWORKS
from accord_lab.bench.tuning_memory import held_by, others, parameters, with_adapter
from accord_lab.scenes.ask import ask_of, check
from accord_lab.scenes.edits import KINDS
from accord_lab.scenes.read import read
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import Scene, Thing

ROOT = Path(__file__).parents[1]


# --- rewards -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_questions_are_true_and_false_of_their_picture(kind):
    for q in sensitivity.questions(kind, 25, sensitivity.rendered()):
        scene = read(q.image)
        assert check(scene, ask_of(q.true)).right, q.true
        assert not check(scene, ask_of(q.false)).right, (q.true, q.false)


def test_ranking_counts_ties_half():
    picture = Image.new("RGB", (64, 64))
    asked = [sensitivity.Question(picture, t, f) for t, f in (("aaa", "b"), ("b", "aaa"), ("cc", "dd"))]
    length = lambda images, prompts: torch.tensor([float(len(p)) for p in prompts])  # noqa: E731
    assert sensitivity.ranks_right(length, asked).tolist() == [1, 0, 0.5]
    low, high = wilson(0.5, 100)
    assert low == pytest.approx(0.404, abs=2e-3) and high == pytest.approx(0.596, abs=2e-3)


def test_training_prompts_are_none_of_the_bench_and_hold_nothing_out():
    texts = bench_rewards.training_prompts()
    assert len(texts) == len(set(texts)) == 512 and not set(texts) & {p.text for p in scenebench()}
    assert not any(ask_of(t).held_out for t in texts)


def test_diversity_is_zero_for_equal_pictures():
    assert bench_rewards.spread(torch.ones(8, 4, 3 * 4 * 4)) == 0
    checker = torch.arange(4).repeat(8).view(8, 4, 1).expand(8, 4, 3 * 4 * 4) % 2
    assert bench_rewards.spread(checker) == pytest.approx(2 / 3, abs=1e-5)  # of 6 pairs 4 differ by 1


@pytest.mark.slow
def test_rows_of_tuning_are_made_once(tmp_path):
    """Shards, one table, and a second table that takes its rows from the first."""
    made = []

    class Untrained(bench_rewards.Rewards):
        def train(self, pipe, tuning):
            made.append(tuning.name)
            return {"setting": "how", "steps": 1, "tuning_seconds": 2, "verdict": "Fine.", "gains": {}}

        def diversity(self, pipe):
            return 0.5

    def run(**how):
        return Untrained(out=tmp_path, quick=True, progress=False, jobs=make_jobs(True, 1)[:2]).run(**how)

    run(shard=(1, 2))
    with pytest.raises(InputError, match="best-of-4 are not finished"):
        run(so_far=True)
    run(shard=(2, 2))
    assert sorted(made) == sorted(bench_rewards.SETTINGS) and [p.name for p in tmp_path.iterdir()] == [".cache"]
    so_far, _ = run(so_far=True)
    data, text = run()
    count = len(bench_rewards.SETTINGS)
    assert data == so_far and len(made) == count and "refl: 1 steps in 2 s, how. Fine." in text
    names = [r["method"] for r in data["rows"]]
    assert names[:6] == ["base", "best-of-4", "base, other words", "sft", "refl", "refl + realign"]
    assert names[-2:] == ["awm", "awm, other words"] and "- awm: +0.0 points, and +0.0 in other words" in text
    # of pipelines, not of methods
    assert [r["diversity"] for r in data["rows"] if "diversity" in r] == [0.5] * (1 + count)
    shutil.rmtree(tmp_path / ".cache")
    assert run()[0] == data and len(made) == count


def test_every_setting_says_its_reward_and_how_it_is_tuned(tmp_path):
    """Whole and quick; those that were measured before are no cells of their own any more."""
    for quick in (True, False):
        bench = bench_rewards.Rewards(out=tmp_path, quick=quick, jobs=make_jobs(True, 1)[:1])
        bench.known = {}
        tunings = [cell for cell in bench.cells() if isinstance(cell, bench_rewards.Tuning)]
        assert {t.setting for t in tunings} == set(bench_rewards.SETTINGS)
        for tuning in tunings:
            said = bench_rewards.said_of(tuning.setting, bench.config(tuning))
            assert f"{bench.config(tuning).batch_size} prompts a step" in said and "reward " in said
    said = {name: bench_rewards.said_of(name, bench.config(bench_rewards.Tuning(name))) for name in bench_rewards.ROWS}
    assert said["draft"] == "reward contrast; K = 1 of 40 steps; 8 prompts a step; denoising term 1"
    assert "K = 8 of 10 steps" in said["draft, last 8 of 10"] and "reward caption" in said["nft, caption"]
    round_of = bench.config(bench_rewards.Tuning("nft"))
    assert round_of.batch_size * round_of.strategy.group_size * round_of.strategy.refresh == 2 * 1152
    assert round_of.strategy.passes == 2 and round_of.pretrain_weight == 0
    scheduler = DDIMScheduler.from_pretrained(MODELS / "pipeline" / "scheduler")
    scheduler.set_timesteps(10)
    assert 750 < int(scheduler.timesteps[2]) <= 850  # the first step of DRaFT's gradient


def test_what_tuning_holds_is_counted_in_networks_without_weights():
    """By hand: a layer keeps its input, a product of two pictures keeps both; a checkpoint keeps what goes in."""

    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleList([torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)])

        def forward(self, x):
            for block in self.blocks:
                x = block(x) * 2.0
            return x

    with torch.device("meta"):
        held = held_by(Small(), {"x": torch.empty(3, 8)})
    row = 3 * 8 * 4
    assert held.whole == 2 * row  # the input of each layer
    assert held.checkpointed == 2 * row  # what goes into each block; nothing within is kept beside it
    sd15 = next(n for n in NETWORKS if n.name == "Stable Diffusion 1.5")
    assert parameters(UNet2DConditionModel, **sd15.config) == 859_520_964
    assert others("Stable Diffusion 1.5") == pytest.approx(123_060_480 + 83_653_863, rel=0.01)  # CLIP-L and the VAE
    assert with_adapter(sd15, False)[1] < with_adapter(sd15, True)[1]


def test_what_is_left_of_a_gain_in_other_words():
    rows = [("base", 0.6), (bench_rewards.RETOLD, 0.5), ("nft", 0.8), ("nft, other words", 0.55), ("sft", 0.6)]
    text = bench_rewards.retold_lines([{"method": name, "overall": value} for name, value in rows])
    assert text.endswith("- nft: +20.0 points, and +5.0 in other words\n") and "sft" not in text
    assert bench_rewards.retold_lines([]) == ""


def test_the_control_takes_as_many_steps_as_what_ships(tmp_path):
    """The steps that fit are found on trial, once, and kept beside the run."""
    tried = []

    class Tried(bench_rewards.Rewards):
        def _affordable(self, pipe, tuning, folder):
            tried.append((tuning.name, folder.relative_to(tmp_path).as_posix()))
            return 30

    bench = Tried(out=tmp_path, jobs=make_jobs(True, 1)[:1])
    bench.caches = {name: tmp_path / name for name in ("refl", "sft")}
    bench.known = {"refl, seed 1": {"steps": 7}}
    sft, refl = (bench_rewards.Tuning(s) for s in ("sft", "refl"))
    assert [bench.steps(None, t) for t in (refl, sft, refl)] == [30] * 3 and tried == [("refl", "refl/tuned/refl")]
    assert bench.steps(None, bench_rewards.Tuning("sft", 1)) == 7


def test_training_seeds_are_pooled_prompt_by_prompt():
    shared = {"atoms": {"noun": 1.0}, "denoiser_calls": 40.0, "seconds_per_image": 1.0}
    a = {"pictures": 4, "right_by_prompt": "20", "heldout": 1.0, "by_category": {"one": 1.0, "two": 0.0}, **shared}
    b = {"pictures": 4, "right_by_prompt": "11", "heldout": 0.5, "by_category": {"one": 0.5, "two": 0.5}, **shared}
    row = bench_rewards.pooled([a, b], "both")
    assert row["right_by_prompt"] == [3, 1] and row["pictures"] == 8 and row["overall"] == 0.5
    assert right_by_prompt(row).tolist() == [0.75, 0.25] and row["heldout"] == 0.75
    assert row["by_category"] == {"one": 0.75, "two": 0.25} and row["ci95"] == [0.25, 0.75]


def coloured(*colors: str) -> list[Image.Image]:
    return [Image.new("RGB", (64, 64), c) for c in colors]


def written(image: Image.Image) -> bool:
    return bool((np.asarray(image.convert("L")) < 60).any())


def colors_at(sheet: Image.Image, bottom: int, side: int = 192, gap: int = 8) -> list[tuple[int, ...]]:
    """Of the pictures of a row that ends there."""
    return [sheet.getpixel((x + 5, bottom - 5)) for x in range(0, sheet.width, side + gap)]


def test_pictures_before_and_after_tuning_say_which_and_of_what():
    jobs = [
        SimpleNamespace(prompt=SimpleNamespace(text=f"a star {i}", category=f"c{i % 4}"), noise_seed=lambda: 0)
        for i in range(6)
    ]
    rows = [
        {"method": "base", "right_by_prompt": "000011"},
        {"method": "refl", "right_by_prompt": "111000"},
    ]
    colors = {None: "red", "lab": "blue"}
    sheet = bench_rewards.before_and_after(rows, jobs, lambda lora, jobs: coloured(*[colors[lora]] * len(jobs)))
    assert bench_rewards.before_and_after(rows[1:], jobs) is None
    assert sheet.width == 5 * 192 + 4 * 8  # three that were mended, two that were broken
    assert colors_at(sheet, sheet.height) == [(0, 0, 255)] * 5
    middle = next(y for y in range(100, sheet.height) if sheet.getpixel((5, y)) == (255, 255, 255))
    assert colors_at(sheet, middle) == [(255, 0, 0)] * 5
    first = middle - 192
    for x in range(0, sheet.width, 200):
        assert written(sheet.crop((x, 30, x + 192, first)))  # its prompt
    assert written(sheet.crop((0, 0, 192, 30))) and written(sheet.crop((0, middle, 192, sheet.height - 192)))


def test_a_sheet_names_rows_and_columns():
    found = {"untuned": coloured("red", "lime"), "kept": coloured("blue", "white")}
    made = sheet(found, ["a star", "a key"])
    assert made.width == 392 and colors_at(made, made.height) == [(0, 0, 255), (255, 255, 255)]
    assert all(written(made.crop((x, 30, x + 192, 60))) for x in (0, 200)) and written(made.crop((0, 0, 100, 30)))


@pytest.mark.slow
def test_the_hacking_bench_runs_whole(tmp_path):
    data, text = Hacking(out=tmp_path, quick=True, progress=False).run()
    assert {p.name for p in tmp_path.iterdir()} == {"hacking-quick.json", "hacking-quick.md", "hacking-quick.png"}
    assert [r["step"] for r in data["evaluations"]] == [0, 2, 4][: len(data["evaluations"])]
    assert list(data["right"]) == ["untuned", "kept", "at the stop"] and data["verdict"] in text


@pytest.mark.slow
def test_the_sensitivity_bench_runs_whole(tmp_path):
    plan = sensitivity.Plan(questions=3, pictures=4)
    data, text = sensitivity.Sensitivity(out=tmp_path, plan=plan, progress=False).run()
    assert {p.name for p in tmp_path.iterdir()} == {"sensitivity.json", "sensitivity.md"}
    rewards = [r["reward"] for r in data["rows"]]
    assert rewards == [*reward_names(), "inversion"] * 2 and "| generated | inversion |" in text
    assert all(r[k]["questions"] == 3 for r in data["rows"] if r["pictures"] == "renders" for k in KINDS)


# --- inversion -----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_speed_bench_of_inversion_runs_whole(tmp_path):
    data, text = InvertSpeed(out=tmp_path, device="cpu", quick=True, progress=False).run()
    assert {p.name for p in tmp_path.iterdir()} == {"invert-speed-quick.json", "invert-speed-quick.md"}
    assert json.loads((tmp_path / "invert-speed-quick.json").read_text()) == data and "embedded (blip), cpu" in text
    assert (
        all(f"| {v:.0f} images a second |" in text for v in data["images_per_second"].values())
        and "| 64 PNG files" in text
    )


@pytest.mark.slow
def test_the_inversion_bench_runs_whole(tmp_path):
    plan = bench_invert.Plan(pairs=60, extra=8, steps=2, batch_size=8, kinds=("unet", "vit"), seeds=2, readable=3)
    trained = []

    class Counted(bench_invert.Invert):
        def trained(self, trial):
            trained.append(trial.kind)
            return super().trained(trial)

    def run(shard=None, **knobs):
        bench = Counted(out=tmp_path, plan=plan, progress=False, make=_drawn_pairs, similar=0.9999, **knobs)
        return bench.run(shard)

    run(only_pairs=True)
    for i in (1, 2):
        run(shard=(i, 2))
    assert len(trained) == len(bench_invert.trials(plan)) == 10 and [p.name for p in tmp_path.iterdir()] == [".cache"]
    data, text = run()
    with pytest.raises(InputError, match="kind must be one of"):
        run(kind=["gan"])
    assert len(trained) == 12  # the two of the inverter are read again; the rest is known by its answers
    names = [r["method"] for r in data["rows"]]
    assert names[:3] == ["mean embedding", "caption -> embedding", "CLIP nearest neighbour"]
    assert {
        "vit, plain",
        "unet, + vocabulary",
        "vit, + curriculum + DAKL",
        "vit, random order",
        "ensemble",
        "weighted ensemble, seed 1 + DAKL",
    } <= set(names)
    assert all(sum(w.values()) == pytest.approx(1, abs=2e-3) for w in data["weights"].values()) and data[
        "chosen"
    ].keys() == {"unet", "vit"}
    assert all(r["test"]["ci95"][0] <= r["test"]["cosine"] <= r["test"]["ci95"][1] for r in data["rows"])
    assert next(r for r in data["rows"] if r["method"] == data["full"])["full_system_over_it"]["mean"] == 0
    assert data["device"] == "cpu" and "Of 3 test images" in text
    assert {p.name for p in tmp_path.iterdir()} == {".cache", "invert.json", "invert.md", "invert.png"}
    inverter = next((tmp_path / ".cache").glob("invert-*/inverter"))
    bench = transplant.Transplant(out=tmp_path, inverter=inverter, progress=False, jobs=make_jobs(True, 1)[:2])
    again, text = bench.run()
    names = [r["method"] for r in again["rows"]]
    assert names[:3] == ["base", "transplanted, weight 0.05", "moved at random, weight 0.05"]
    for i, found in enumerate(again["against_control"]):
        ours, theirs = (again["rows"][1 + 2 * i + k]["overall"] for k in (0, 1))
        assert found["lead"] == pytest.approx(ours - theirs) and f"weight {transplant.WEIGHTS[i]:g}" in found["of"]


def test_a_transplant_needs_an_inverter(tmp_path):
    with pytest.raises(InputError, match="needs an inverter"):
        transplant.Transplant(out=tmp_path)


def test_effects_are_differences_of_the_rows():
    """Answers that are the truth with so much of another direction: cosines, and so differences, are known."""
    plan = bench_invert.Plan(pairs=0, extra=0, steps=1, batch_size=1, kinds=("clip", "vit"), seeds=1, readable=1)
    targets = torch.eye(4)[:2]

    def with_cosine(c):
        return {"test": c * targets + (1 - c**2) ** 0.5 * torch.eye(4)[2:]}

    sets = SimpleNamespace(parts={"test": PairSet(torch.zeros(2, 3, 4, 4), ["a", "b"], targets)})
    cosines = {bench_invert.PLAIN: 0.5, bench_invert.WORDS: 0.6, bench_invert.WHOLE: 0.8, bench_invert.RANDOM: 0.7}
    answers = {
        bench_invert.Trial(k, v).name: with_cosine(c + 0.1 * (k == "vit"))
        for k in plan.kinds
        for v, c in cosines.items()
    }
    answers |= {
        bench_invert.Trial(k, bench_invert.WHOLE).name + bench_invert.DAKL: with_cosine(0.9) for k in plan.kinds
    }
    answers |= {
        n: with_cosine(c)
        for n, c in (
            ("ensemble", 0.8),
            ("weighted ensemble", 0.9),
            ("weighted ensemble of plain", 0.6),
            (bench_invert.FULL_ROW, 0.95),
        )
    }
    found = {e["change"]: e for e in bench_invert.effects(answers, sets, plan)}
    expected = {
        "vocabulary, over plain": 0.1,
        "curriculum, over vocabulary": 0.2,
        "curriculum, over its random order": 0.1,
        "both and DAKL, over plain": 0.35,
        "DAKL, over one predictor": 0.05,
        "DAKL, over the weighted ensemble": 0.05,
        "weighted ensemble, over that of plain": 0.3,
        "fitted weights, over equal ones": 0.1,
    }
    assert {k: v["mean"] for k, v in found.items()} == pytest.approx(expected, abs=1e-4)
    assert found["DAKL, over one predictor"]["kinds"]["clip"]["mean"] == pytest.approx(0.1, abs=1e-4)


def test_both_routes_to_the_domain_adaptation_agree():
    """Different clusters, the same regression: with a smooth truth both predict it."""
    truth = bench_kernel.rows_of(1200, 3)
    bent = torch.nn.functional.normalize(truth + 0.1 * truth.square(), dim=-1)
    found = {n: way(bent[:1000], truth[:1000], bent[1000:], 20) for n, way in bench_kernel.WAYS.items()}
    assert (found["ours"] * found["direct"]).sum(-1).min() > 0.99
    assert (found["ours"] * truth[1000:]).sum(-1).mean() > 0.9


@pytest.mark.slow
def test_the_kernel_bench_runs(tmp_path):
    data, text = bench_kernel.Kernel(out=tmp_path, quick=True, progress=False).run()
    row = data["rows"][0]
    assert row["ours"]["seconds"] > 0 < row["direct"]["seconds"] and "2,000" in text
    assert {p.name for p in tmp_path.iterdir()} == {"kernel-quick.json", "kernel-quick.md"}


def test_the_bench_of_judging_runs(tmp_path):
    plan = bench_judging.Plan((64,), pictures=12, held=())
    data, text = bench_judging.Judging(out=tmp_path, plan=plan, progress=False).run()
    (row,) = data["rows"]
    assert row["side"] == 64 and row["pictures"] == 12 and row["things"] > 4 and min(row["a_second"].values()) > 0
    assert "64x64" in text and {p.name for p in tmp_path.iterdir()} == {"judging.json", "judging.md"}
    bench_judging._judge(bench_judging.geneval_records(3))  # what the peak of memory is of


def test_cost_of_context_is_of_the_same_loop_with_and_without(tmp_path, monkeypatch):
    calls, new_relation = [], context_cost.new_relation

    def counted(pipe):
        relation = new_relation(pipe)
        relation.register_forward_hook(lambda *a: calls.append(1))
        return relation

    monkeypatch.setattr(context_cost, "new_relation", counted)
    plan = context_cost.Plan(tuple(replace(s, pictures=1, steps=1) for s in context_cost.SIZES[:2]), repeats=2)
    data, text = context_cost.ContextCost(out=tmp_path, plan=plan, quick=True, progress=False).run()
    assert [r["name"] for r in data["rows"]] == ["the lab's denoiser", "the reduced one of the runs from nothing"]
    assert len(calls) == 2 * 3  # one a step, in the runs with context alone
    for row in data["rows"]:
        assert (
            row["relation_parameters"] <= 0.15 * row["parameters"]
            and row["ratio_range"][0] <= row["ratio"] <= row["ratio_range"][1]
        )
        assert f"{row['ratio']:.3f}" in text and text == (tmp_path / "context-cost-quick.md").read_text()


def test_pair_sets_are_kept_as_they_were(tmp_path):
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    made = PairSet(images, ["a «star»", "two"], torch.randn(2, 6), ["", "b\n"])
    made.save(tmp_path / "set.safetensors")
    again = PairSet.load(tmp_path / "set.safetensors")
    assert torch.equal(again.images, images) and torch.equal(again.targets, made.targets)
    assert (again.prompts, again.captions) == (made.prompts, made.captions)


def _drawn_pairs(pipe, prompts, out, **how):
    from accord.data.pair_folders import write_metadata, write_part

    rows = [{"p": p, "se": 0, "c": 5.0, "st": 1, "sa": "none"} for p in prompts]
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in prompts]
    if not (out / "part-000001").is_dir():
        write_part(out, 1, images, rows)
    return write_metadata(out)


def test_what_a_readable_prompt_says_is_parsed():
    scene = Scene("white", (Thing("star", "red", "big", (10, 10, 38, 37)),))
    assert bench_invert._says("a red star", scene) and not bench_invert._says("a blue star", scene)
    assert not bench_invert._says("a unicorn", scene)
    assert bench_invert._asks_the_same("a star that is red and a key", "a key and a star") is False
    assert bench_invert._asks_the_same("a red star and a key", "a key and a red star")


def test_the_linear_probe_is_the_least_squares_solution():
    """Against an augmented least-squares problem."""
    rng = np.random.default_rng(0)
    x, y, other = rng.normal(3, 2, (60, 5)), rng.normal(size=(60, 3)), rng.normal(3, 2, (4, 5))
    found = bench_invert.ridge(torch.tensor(x), torch.tensor(y), {"other": torch.tensor(other)}, 0.1)["other"]
    mean, spread = x.mean(0), x.std(0, ddof=1)
    rows = np.concatenate([(x - mean) / spread, np.sqrt(0.1 * 60) * np.eye(5)])
    weights = np.linalg.lstsq(rows, np.concatenate([y - y.mean(0), np.zeros((5, 3))]), rcond=None)[0]
    expected = (other - mean) / spread @ weights + y.mean(0)
    assert np.allclose(found.numpy(), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


# --- video ---------------------------------------------------------------------------------------------------------
def test_the_sheet_of_videos_names_edits_and_methods():
    names = ("source", *bench_video.NAMES)
    clips = [SimpleNamespace(frames=coloured(*["red", "blue"] * n)) for n in (2, 4)]
    titles = ("a star -> a key", "a moon -> a fish")
    sheet = bench_video.sheet([(title, [clip] * len(names)) for title, clip in zip(titles, clips, strict=True)])
    assert sheet.width == 8 * 64 and sheet.getpixel((8 * 64 - 1, 100)) == (255, 255, 255)
    assert colors_at(sheet, sheet.height, 64, 0) == [(255, 0, 0), (0, 0, 255)] * 4
    label = (sheet.height - 2 * len(names) * 64) / (2 * len(names))
    assert 20 < label < 40  # between the rows
    assert written(sheet.crop((0, 0, 200, 30)))


@pytest.mark.slow
def test_the_video_bench_runs_whole(tmp_path):
    small = tuple(
        (replace(c, tune_steps=min(1, c.tune_steps), num_inference_steps=2, inversion_iterations=1), ways)
        for c, ways in bench_video.METHODS
    )

    def run(edits=1, **how):
        bench = bench_video.Video(out=tmp_path, quick=True, progress=False, edits=edits, methods=small)
        return bench.run(**how)

    with pytest.raises(InputError, match="no edit is finished"):
        run(so_far=True)
    run(edits=2, shard=(1, 2))
    so_far, _ = run(edits=2, so_far=True)
    data, text = run()
    assert data == so_far and data["edits"] == 1 and set(data["parts"]) == {"noun", "8 frames"}
    assert [r["method"] for r in data["rows"]] == list(bench_video.NAMES) and "frames right" in text
    measured = {r["method"]: r["track_error"]["mean"] for r in data["rows"]}
    first = data["differences"][0]
    assert first["track_error"]["mean"] == pytest.approx(measured["context"] - measured["Tune-A-Video"], abs=2e-4)
    assert json.loads((tmp_path / "video-quick.json").read_text()) == data
    seconds = [r["seconds"]["mean"] for r in data["rows"]]
    again, _ = run()
    assert [r["seconds"]["mean"] for r in again["rows"]] == seconds  # from the cache
    picture = (tmp_path / "video-quick.png").read_bytes()
    assert read_video(tmp_path / "video-quick-0.mp4").size == (64 * (1 + len(bench_video.NAMES)), 64)
    kept = sorted((tmp_path / ".cache").glob("video-quick-*/*.json"))
    for path in kept:  # measured otherwise: the edits are there, and are measured alone
        path.write_text(json.dumps(json.loads(path.read_text()) | {"judged": "by eye", "right": 7.0}))
    again, _ = run()
    assert [r["right"]["mean"] for r in again["rows"]] == [r["right"]["mean"] for r in data["rows"]]
    assert [r["seconds"]["mean"] for r in again["rows"]] == seconds
    shutil.rmtree(tmp_path / ".cache")
    again, _ = run()
    assert [r["seconds"]["mean"] for r in again["rows"]] == seconds  # from the table's own folder
    assert (tmp_path / "video-quick.png").read_bytes() == picture


def test_edits_are_told_apart_by_kind_and_length():
    rows = [
        {"kind": k, "frames": f, "right": float(i)}
        for i, (k, f) in enumerate([("noun", 8), ("color", 8), ("noun", 16)])
    ]
    parts = bench_video._parts({name: rows for name in bench_video.NAMES})
    found = {part: [r["right"] for r in of["context"]] for part, of in parts.items()}
    assert found == {"noun": [0, 2], "color": [1], "8 frames": [0, 1], "16 frames": [2]}


def test_time_is_of_one_machine():
    rows = [{"device": "A100", "seconds": 1.0}, {"seconds": 9.0}, {"device": "cpu", "seconds": 11.0}]
    assert bench_video.timed_on({"one": rows[:1], "other": rows[1:]}) == "cpu"
    assert [r["seconds"] for r in rows] == [None, 9.0, 11.0]
    assert bench_video.timed_on({"one": [{"device": "A100", "seconds": 1.0}]}) == "A100"


def test_memory_of_an_edit_stands_beside_that_of_the_window(tmp_path):
    class Here(video_memory.VideoMemory):
        def measure(self, cell):
            row = video_memory.edit_of(cell, self.plan.config)
            # in this process, which has run other tests, an edit may take no more than there is
            return row | {"peak_mib": max(row["peak_mib"], 0.1)}

    config = replace(video_memory.CONFIG, window=2, overlap=0, tune_steps=1, num_inference_steps=2)
    data, text = Here(out=tmp_path, plan=video_memory.Plan((2, 4), config), progress=False).run()
    assert [r["frames"] for r in data["rows"]] == [2, 4] and data["rows"][0]["ratio"] == 1 and "| 4 |" in text
    # what must grow: 3 latents of 4 x 16 x 16 float32 a frame
    assert [r["path_mib"] for r in data["rows"]] == [
        pytest.approx(3 * n * 4 * 16 * 16 * 4 / 2**20, rel=1e-3) for n in (2, 4)
    ]


def test_a_stray_thing_is_damage_to_the_ground():
    task = bench_video.tasks(2)[1]
    clean, keep = task.source.video.frames, bench_video.background(task)
    stray = [f.copy() for f in clean]
    for frame in stray:
        frame.paste((0, 0, 0), (0, 0, 6, 6))
    assert all(k[:6, :6].all() for k in keep)
    empty = tuple(Image.new("RGB", f.size, f.getpixel((0, 0))) for f in clean)
    assert bench_video.reader_track_error(empty, task.source) == pytest.approx(64 * 0.5**0.5)
    assert max(background_psnr(stray, clean), background_psnr(stray, clean, keep)) < 30


def test_a_perfect_edit_is_perfect():
    task = bench_video.tasks(8)[1]
    assert [t.kind for t in bench_video.tasks(8)] == ["noun", "color", "both", "background"] * 2
    frames = tuple(Image.fromarray(render(f)) for f in task.target.frames)
    assert bench_video.reader_track_error(frames, task.target) < 1
    assert all(check(read(f), ask_of(task.target.image_prompt)).right for f in frames)
    assert not any(check(read(f), ask_of(task.target.image_prompt)).right for f in task.source.video.frames)


# --- context -------------------------------------------------------------------------------------------------------
def test_frechet_distance_of_known_gaussians():
    """Against the closed form for Gaussians that share their axes."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    spread_a, spread_b = np.array([1.0, 2.0, 0.5, 1.5]), np.array([2.0, 1.0, 0.5, 0.1])
    shift = np.array([0.3, 0, -0.2, 0])

    def exactly(spread: np.ndarray, mean: np.ndarray) -> np.ndarray:
        x = rng.normal(size=(500, 4))
        x = np.linalg.qr(x - x.mean(0))[0] * np.sqrt(499)  # sample covariance exactly the identity
        return (x - x.mean(0)) * spread @ basis.T + mean

    a, b = exactly(spread_a, np.zeros(4)), exactly(spread_b, shift)
    expected = (shift**2).sum() + ((spread_a - spread_b) ** 2).sum()
    assert bench_context.frechet_distance(a, b) == pytest.approx(expected, rel=1e-2)
    assert bench_context.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_the_control_has_the_parameters_of_the_relational_network(lab):
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    small, wider = bench_context.reduced_unet(lab), bench_context.reduced_unet(lab, wider=True)
    relation = bench_context.new_relation(bench_context.with_unet(lab, small))
    assert 2e6 < count(small) < 3.3e6 and count(relation) <= 0.15 * count(small)
    assert abs(count(wider) - count(small) - count(relation)) < 0.05 * count(small)


def test_the_sheet_of_context_is_labelled_and_can_be_read_again(tmp_path, monkeypatch):
    """Pictures that no cache has any more are taken from the sheet that is there."""
    monkeypatch.setattr(bench_context, "plot", lambda data: b"")
    committed, told = json.loads((ROOT / "docs" / "bench" / "context.json").read_text()), {}
    shown, rng = committed["shown"], np.random.default_rng(0)
    strips = [rng.integers(0, 256, (64, 8 * 64, 3), dtype=np.uint8) for _ in shown]
    for turn in range(2):
        bench = bench_context.Context(out=tmp_path)
        bench.cache = tmp_path / f"cache {turn}"
        for variant, strip in zip(bench.variants, strips, strict=True) if not turn else ():
            bench.folder(variant).mkdir(parents=True)
            Image.fromarray(strip).save(bench.folder(variant) / "pictures.png")
        told[turn], text = bench.write(committed["rows"])
        sheet = Image.open(tmp_path / "context-pictures.png")
        sheet.load()
        assert told[turn]["shown"] == shown and "; ".join(shown) in text and sheet.width == 8 * 192 + 7 * 8
        for strip, (top, end) in zip(strips, told[turn]["shown_at"], strict=True):
            assert written(sheet.crop((0, top - 40, sheet.width, top)))
            for k in range(8):
                found = np.asarray(sheet.crop((200 * k, top, 200 * k + 192, end)))
                assert np.array_equal(found, strip[:, 64 * k : 64 * k + 64].repeat(3, 0).repeat(3, 1))
    assert told[0] == told[1]


@pytest.mark.slow
def test_the_context_bench_runs_whole(tmp_path):
    plan = bench_context.Plan(scenes=24, steps=2, evaluations=2, prompts=8, looked_at=4, reference=150)
    variants = tuple(v for v in bench_context.VARIANTS if v.name in ("plain, wider", "full context"))
    ways = {k: {**bench_context.WAYS[k], "num_inference_steps": 2} for k in ("DDPM 10", "guidance 3")}
    knobs = {"plan": plan, "seeds": 1, "variants": variants, "ways": ways, "sampling": {"num_inference_steps": 2}}

    def run(kind=bench_context.Context, **how):
        return kind(out=tmp_path, progress=False, **knobs).run(**how)

    with pytest.raises(InputError, match="no run is finished"):
        run(so_far=True)
    run(shard=(1, 4))
    so_far, _ = run(so_far=True)
    assert [r["variant"] for r in so_far["rows"]] == ["plain, wider"] and not so_far["sampling"]
    data, text = run()
    assert [r["variant"] for r in data["rows"]] == ["plain, wider", "full context"]
    assert data["rows"][0] == so_far["rows"][0]
    assert all(set(r["curve"]) == {"1", "2"} and np.isfinite(r["bound"]) for r in data["rows"])
    assert all(len(r["curve"][k]["per_prompt"]) == n for r in data["rows"] for k, n in (("1", 4), ("2", 8)))
    assert data["rows"][0]["relation_parameters"] == 0 < data["rows"][1]["relation_parameters"]
    assert set(data["sampling"]) == {"plain, wider", "full context"}
    assert set(data["sampling"]["full context"]) == {"DDPM 10", "guidance 3"}
    assert "full context less plain, wider" in text and (tmp_path / "context.png").is_file()

    class Untrained(bench_context.Context):
        row = sweep = None  # a table that is there needs no training

    shutil.rmtree(tmp_path / ".cache")
    again, _ = run(Untrained)
    assert again == data
