"""SceneBench's machinery: jobs, records, the table, and the methods on the embedded pipeline."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from accord.diffusion.call import STEPS
from accord.diffusion.generate import generate
from accord.judges.captioners import load_captioner
from accord.methods.realign.config import RealignConfig
from accord.training.watching import load_watcher
from accord.types import InputError
from accord_lab.bench.prompts import scenebench
from accord_lab.bench.scenes import (
    BATCH,
    SEEDS,
    Job,
    Made,
    Maker,
    Records,
    Scenes,
    compared,
    lead,
    lead_line,
    make_jobs,
    noun_tokens,
    page,
    removed,
    results,
    right_by_prompt,
    row_of,
    run_method,
)
from accord_lab.scenes.ask import ask_of
from accord_lab.scenes.paraphrase import fullest
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import Scene, Thing


@pytest.fixture(scope="module")
def bench(lab):
    return Maker(lab, load_captioner(), RealignConfig(rounds=1))


def jobs_of(texts: tuple[str, ...], seed: int = 1) -> list[Job]:
    by_text = {j.prompt.text: j for j in make_jobs(False) if j.seed == SEEDS[0]}
    return [Job(by_text[t].number, by_text[t].prompt, seed) for t in texts]


def star(jobs: list[Job]) -> list[Made]:
    """A renderer in a model's place: always one red star."""
    image = render(Scene("white", (Thing("star", "red", "big", (10, 10, 38, 37)),)))
    return [Made(Image.fromarray(image), 7) for _ in jobs]


def test_what_a_full_prompt_adds_is_all_that_it_adds():
    for k, prompt in enumerate(scenebench()):
        text = fullest(prompt.text, np.random.default_rng(k))
        asked, told = prompt.ask, ask_of(text)
        assert [(t.noun, t.count) for t in told.things] == [(t.noun, t.count) for t in asked.things], text
        for before, after in zip(asked.things, told.things, strict=True):
            assert after.color and after.size and before.color in (None, after.color)
            assert before.size in (None, after.size)
        assert set(asked.relations) <= set(told.relations) and told.background
        assert asked.background in (None, told.background) and told.held_out == asked.held_out, text
    assert fullest("a star and a key", np.random.default_rng(0)) == fullest(
        "a star and a key", np.random.default_rng(0)
    )


def test_jobs_are_all_prompts_with_four_seeds():
    full, quick = make_jobs(False), make_jobs(True)
    assert make_jobs(False, 1) == full[: len(full) // 4]
    assert len(make_jobs(True, 2)) == len(quick) == 2 * len(make_jobs(True, 1))
    with pytest.raises(InputError, match="seeds must be from 1 to 4, not 5"):
        make_jobs(False, 5)
    with pytest.raises(InputError, match="`quick` takes two seeds at most"):
        make_jobs(True, 3)
    assert len(full) == 512 * 4 and len({(j.number, j.seed) for j in full}) == len(full)
    noises = [j.noise_seed(attempt) for j in full for attempt in range(3)]
    assert len(set(noises)) == len(noises)  # no two pictures, and no two tries of one, start from the same noise
    assert len(quick) == 32 and {j.prompt.category for j in quick} == {j.prompt.category for j in full}


def test_errors_removed_is_the_share_of_the_bases_errors():
    assert removed(np.asarray([[0.5, 0.75], [0.5, 0.25], [1.0, 1.0]])).tolist() == [0.5, -0.5, 0.0]


def test_rows_are_compared_prompt_by_prompt():
    jobs = [j for j in make_jobs(False, 2) if j.number < 4]
    record = lambda right: {"right": right, "atoms": {"noun": [right]}, "calls": 50, "seconds": 1.0}  # noqa: E731
    base = row_of("base", [record(j.number < 2 and j.seed == SEEDS[0]) for j in jobs], jobs)
    other = row_of("other", [record(j.number < 3) for j in jobs], jobs)
    assert right_by_prompt(base).tolist() == [0.5, 0.5, 0, 0] and right_by_prompt(other).tolist() == [1, 1, 1, 0]
    first, second = compared([base, other], "base")
    assert (first["errors_removed"], first["lead"], first["lead_ci95"]) == (0, 0, [0, 0])
    assert second["errors_removed"] == pytest.approx(2 / 3, abs=1e-4) and second["lead"] == 0.5
    assert second["lead_ci95"][0] < 0.5 < second["lead_ci95"][1]


def test_intervals_of_differences_hold_for_all_rows_at_once():
    jobs, rng = make_jobs(False, 1)[:64], np.random.default_rng(0)

    def row(name: str, share: float) -> dict:
        found = [{"right": bool(r < share), "atoms": {}, "calls": 50, "seconds": 1.0} for r in rng.random(len(jobs))]
        return row_of(name, found, jobs)

    rows = [row("base", 0.5), row("a", 0.6), *(row(f"other {k}", 0.6) for k in range(8))]
    (_, alone), (_, among, *_) = (compared(some, "base") for some in (rows[:2], rows))
    for key in ("errors_removed", "lead"):
        (low, high), (lower, higher) = alone[f"{key}_ci95"], among[f"{key}_ci95"]
        assert lower < low < alone[key] == among[key] < high < higher
    assert alone["lead_ci95"] == lead(rows[1], rows[0])["ci95"]
    data = results(rows, jobs, "base")
    assert data["comparisons"] == 9 and "hold for all 9 rows at once" in page(data)
    assert "at once" not in page({key: value for key, value in data.items() if key != "comparisons"})


def test_rows_judge_by_the_reader_and_a_stopped_run_goes_on(tmp_path):
    jobs = [j for j in make_jobs(False) if j.prompt.category in ("single", "color")][: BATCH + 3]
    seen = []

    def method(part):
        seen.append(len(part))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return star(part)

    cache = tmp_path / "star.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_method("star", method, jobs, cache, False)
    assert len(cache.read_text().splitlines()) == BATCH
    row = run_method("star", star, jobs, cache, False)
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    assert len(lines) == len(jobs) == row["pictures"] and row["denoiser_calls"] == 7
    records = {(r["number"], r["seed"]): r for r in lines}
    for job in jobs:
        things = job.prompt.ask.things
        assert records[job.number, job.seed]["right"] == (
            things[0].noun == "star" and things[0].count == 1 and things[0].color in (None, "red")
        )
    (again,) = compared([row], "star", base="star")
    assert again["errors_removed"] == 0
    assert again["overall"] == pytest.approx(np.mean([r["right"] for r in lines]), abs=1e-4)
    data = {**results([{**row, "method": "base"}], jobs, "base"), "quick": False}
    assert "| base |" in page(data) and json.dumps(data)


def test_a_watcher_is_in_the_records_and_the_page(tmp_path):
    jobs = [j for j in make_jobs(False, 1) if j.prompt.category == "color"][:BATCH]
    records = Records(tmp_path / "star.jsonl", load_captioner())
    row = row_of("base", records.run(star, jobs), jobs)
    assert row["watched"] == row["overall"]  # the lab's captioner sees what the reader sees of a drawn scene
    assert "passes the watcher %" in page(results([row], jobs, "base"))
    assert "watched" not in row_of("base", Records(tmp_path / "other.jsonl").run(star, jobs), jobs)


def test_the_judge_itself_is_no_watcher():
    with pytest.raises(InputError, match="`watcher` 'lab' has the weights of the judge that selects"):
        load_watcher("lab", load_captioner())
    assert load_watcher("lab", None).name == "of the lab"


def test_base_is_the_plain_pipeline(bench):
    (made,) = bench.base(jobs_of(("an egg",)))
    plain = generate(bench.pipe, "an egg", jobs_of(("an egg",))[0].noise_seed())[0]
    assert np.array_equal(np.asarray(made.image), np.asarray(plain))
    assert made.denoiser_calls == 2 * STEPS


def test_best_of_n_and_realign_spend_the_same_at_most(bench):
    jobs = jobs_of(("an egg",))
    for method in (bench.best_of(2), bench.realigned()):
        (made,) = method(jobs)
        assert 2 * STEPS <= made.denoiser_calls <= 2 * STEPS * 2


def test_more_steps_and_other_words_are_the_plain_pipelines(bench):
    jobs = jobs_of(("an egg",))
    noise = jobs[0].noise_seed()
    (made,) = bench.with_steps(4)(jobs)
    assert made.denoiser_calls == 8
    assert made.image.tobytes() == generate(bench.pipe, "an egg", noise, num_inference_steps=4)[0].tobytes()
    heard = []
    (made,) = bench.said(lambda text, rng: heard.append((text, rng.random())) or "a big red egg")(jobs)
    assert heard == [("an egg", np.random.default_rng(noise).random())] and made.denoiser_calls == 2 * STEPS
    assert made.image.tobytes() == generate(bench.pipe, "a big red egg", noise)[0].tobytes()


def test_rows_with_an_adapter_are_of_another_pipeline_and_kept_apart(tmp_path):
    seen = {}

    def plain(maker):
        seen["plain"] = maker.pipe
        return star

    def tuned(maker):
        seen["tuned"] = maker.pipe
        return star

    jobs = jobs_of(("an egg", "a star"))
    bench = Scenes(
        out=tmp_path,
        progress=False,
        jobs=jobs,
        methods={"base": plain, "best-of-N": plain},
        tuned={"tuned": tuned},
    )
    data, _ = bench.run()
    assert [r["method"] for r in data["rows"]] == ["base", "best-of-N", "tuned"]
    layers = [any("lora" in name for name, _ in seen[which].unet.named_modules()) for which in ("plain", "tuned")]
    assert layers == [False, True]
    assert len(list((tmp_path / ".cache").iterdir())) == 2
    assert Scenes(out=tmp_path, model="elsewhere").lora is None and Scenes(out=tmp_path).lora == "lab"


def test_best_of_four_without_stopping_spends_four(bench):
    (made,) = bench.best_of(4, stop=False)(jobs_of(("an egg",)))
    assert made.denoiser_calls == 2 * STEPS * 4


def test_shards_fill_the_cache_of_the_whole_run(tmp_path):
    jobs = [j for k in range(BATCH // 2 + 1) for j in jobs_of(("an egg",), k)]
    jobs += [j for k in range(BATCH // 2) for j in jobs_of(("a key",), k)]  # a batch and a picture
    made = []

    def drawn(maker):
        return lambda batch: made.append(len(batch)) or star(batch)

    def run(method, shard=None):
        methods = {name: method for name in ("base", "best-of-N")}
        return Scenes(out=tmp_path, progress=False, jobs=jobs, methods=methods, tuned={}).run(shard)

    for i in (1, 2):
        data, _ = run(drawn, (i, 2))
        assert data["cells"] == 1 and [p.name for p in tmp_path.iterdir()] == [".cache"]
    assert made == [BATCH, BATCH, 1, 1]
    data, _ = run(lambda maker: None)  # all is there
    assert data["prompts"] == 2 and data["seeds"] == list(range(BATCH // 2 + 1))
    assert {p.name for p in tmp_path.iterdir()} == {".cache", "scenes.json", "scenes.md", "scenes.png"}


def test_attend_and_excite_runs_and_leaves_no_processor_behind(bench):
    before = {k: id(v) for k, v in bench.pipe.unet.attn_processors.items()}
    plain = generate(bench.pipe, "an egg", 1, num_inference_steps=2, output_type="latent")
    (made,) = bench.attend_and_excite(jobs_of(("an egg",)))
    assert made.image.size == (64, 64) and made.denoiser_calls > 2 * STEPS
    assert {k: id(v) for k, v in bench.pipe.unet.attn_processors.items()} == before
    assert torch.equal(plain, generate(bench.pipe, "an egg", 1, num_inference_steps=2, output_type="latent"))


def test_noun_tokens_are_the_head_nouns(lab):
    text = "a red star to the left of two blue keys on a white background"
    tokens = lab.tokenizer.convert_ids_to_tokens(lab.tokenizer(text).input_ids)
    assert [tokens[i] for i in noun_tokens(lab, text)] == ["star</w>", "keys</w>"]


def test_a_lead_is_paired_by_prompt():
    ours, theirs = ({"pictures": 4, "right_by_prompt": r} for r in ("1110", "1001"))
    found = lead(ours, theirs)
    assert found["lead"] == 0.25 and (found["mended"], found["broken"]) == (2, 1)
    assert found["ci95"][0] <= found["lead"] <= found["ci95"][1]
    assert lead_line({"of": "a", "over": "b", **found}).startswith("- a less b: +25.0 points [")
    some = lead(ours, theirs, np.asarray([False, True, True, False]))
    assert some["lead"] == 0.25 and some["unseen"] == {"lead": 1.0, "ci95": [1.0, 1.0]}
    assert lead_line({"of": "a", "over": "b", **some}).endswith(
        "; on unseen combinations +100.0 points [+100.0, +100.0]\n"
    )
    assert "unseen" not in lead(ours, theirs, np.zeros(4, dtype=bool))
