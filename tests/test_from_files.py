"""Work from files: rows with seeds and sizes, skipped rows, the manifest by which a run goes on, shards, the bar."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_refused
from PIL import Image

import accord
from accord.cli.jobs import FileRun, Job, Making, Task, in_batches
from accord.data.manifest import Manifest, manifest_name
from accord.data.pairs import PairsFile
from accord.data.prompt_files import PromptRow, read_prompts, read_rows
from accord.diffusion.opened import watched
from accord.diffusion.progress import step_bar
from accord.judges.captioners import load_captioner
from accord.prompts.parser import negative_text
from accord.prompts.phrases import phrases_of
from accord.types import InputError, Notice

LONG = "a star " * 40
TABLE = f"""prompt,seed,width,height,negative_prompt
a red star,3,,,
a blue key,,32,64,
two green fish,x,,,
a pink crown,,65,64,
"a big heart. Negative prompt: blurry, fish",,,,
{LONG},,,,
a yellow sun,1,2
a purple moon,,,,a star
"""


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def lines_of(folder: Path, name: str = "manifest.jsonl") -> list[dict]:
    """A manifest without its seconds, which are other ones each time."""
    found = [json.loads(text) for text in (folder / name).read_text(encoding="utf8").splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in found]


def contents(folder: Path) -> dict[str, bytes]:
    """All that a run has made but for its manifest."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.jsonl"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


# --- rows -----------------------------------------------------------------------------------------------------------
ROWS = [PromptRow(1, "a star", 7, 64, 32, "a key"), PromptRow(2, "a moon")]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_rows_of_every_format_have_their_own_seed_and_size(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    told = [{"prompt": "a  star\n", "seed": 7, "width": 64, "height": 32, "negative_prompt": "a key"}]
    told += [{"prompt": "a moon", "seed": None, "width": None, "height": None, "negative_prompt": None}]
    if suffix == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist([{**r, "seed": r["seed"] and float(r["seed"])} for r in told]), path)
    elif suffix == "json":
        path.write_text(json.dumps({"annotations": [{**r, "caption": r.pop("prompt")} for r in told]}))
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in told))
    else:
        mark = "," if suffix == "csv" else "\t"
        rows = [told[0], *told[1:]]
        cells = [["" if v is None else f'"{v}"' for v in r.values()] for r in rows]
        path.write_text("\n".join(mark.join(r) for r in [list(told[0]), *cells]) + "\n")
    assert read_rows(path) == ROWS
    assert read_prompts(path) == ["a star", "a moon"]


def test_rows_of_text_are_numbered_by_their_lines(tmp_path):
    (tmp_path / "p.txt").write_text("a star\n\na moon\n")
    assert read_rows(tmp_path / "p.txt") == [PromptRow(1, "a star"), PromptRow(3, "a moon")]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"seed": -1}, "its seed '-1' is no whole number of at least 0"),
        ({"seed": 1.5}, "its seed '1.5' is no whole number"),
        ({"seed": True}, "its seed 'True' is no whole number"),
        ({"seed": 2**63}, "is no whole number"),
        ({"width": 64}, "width and height go together"),
        ({"width": 0, "height": 64}, "its width '0' is no whole number of at least 1"),
        ({"negative_prompt": ["x"]}, "its negative_prompt is no text"),
        ({"prompt": 3}, "its prompt is no text"),
        ({"prompt": "x" * 100_001}, "longer than 100,000"),
    ],
)
def test_a_broken_row_is_listed_with_its_number_and_text(tmp_path, more, reason):
    rows = [{"prompt": "a star"}, {"prompt": "a moon", **more}, {"prompt": "a key"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    broken = PairsFile()
    assert [r.number for r in read_rows(tmp_path / "p.jsonl", broken)] == [1, 3]
    (one,) = broken.skipped
    assert one["row"] == 2 and reason in one["reason"] and 0 < len(one["text"]) <= 100
    with pytest.raises(InputError, match="line 2 of prompts file"):
        read_rows(tmp_path / "p.jsonl")


def test_a_line_that_is_no_json_is_listed_with_its_text(tmp_path):
    (tmp_path / "p.jsonl").write_text('"a star"\n{"prompt": "a mo\n')
    broken = PairsFile()
    read_rows(tmp_path / "p.jsonl", broken)
    assert broken.skipped == [{"row": 2, "text": '{"prompt": "a mo', "reason": "not a JSON object"}]


def test_a_parquet_file_without_a_prompt_column_is_refused(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"x": ["a star"]}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match="no prompt column among x; name it 'prompt'"):
        read_rows(tmp_path / "p.parquet")


def test_jobs_are_made_with_their_like_and_none_is_lost():
    sizes = [{}, {"width": 8, "height": 8}, {}, {}, {"width": 8, "height": 8}]
    jobs = [Job(i, "a", "a", 0, "x" if i == 3 else "", own) for i, own in enumerate(sizes)]
    assert [[j.index for j in batch] for batch in in_batches(jobs, 2)] == [[0, 2], [1, 4], [3]]


# --- the manifest ---------------------------------------------------------------------------------------------------
def line_of(row: int, folder: Path, prompt: str = "a star", seed: int = 0) -> dict:
    (folder / f"{row}.png").write_bytes(b"x" * row)
    return {"row": row, "seed": seed, "prompt": prompt, "status": "done", "file": f"{row}.png", "bytes": row}


def test_a_torn_last_line_is_dropped_and_written_over(tmp_path):
    Manifest(tmp_path, {"steps": 2}).add([line_of(1, tmp_path), line_of(2, tmp_path)])
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    again = Manifest(tmp_path, {"steps": 2})
    assert again.has({"row": 1, "prompt": "a star"}, 0) and not again.has({"row": 2, "prompt": "a star"}, 0)
    again.add([line_of(2, tmp_path)])
    assert [line["row"] for line in lines_of(tmp_path)] == [1, 2]


def test_what_is_gone_or_of_another_size_is_not_there(tmp_path):
    Manifest(tmp_path, {}).add([line_of(1, tmp_path), line_of(2, tmp_path)])
    (tmp_path / "1.png").write_bytes(b"other")
    (tmp_path / "2.png").unlink()
    again = Manifest(tmp_path, {})
    assert not again.has({"row": 1, "prompt": "a star"}, 0) and not again.has({"row": 2, "prompt": "a star"}, 0)


def test_other_settings_another_row_and_a_damaged_line_are_refused(tmp_path):
    Manifest(tmp_path, {"steps": 2}).add([line_of(1, tmp_path), line_of(2, tmp_path)])
    with pytest.raises(InputError, match="begun with steps=2, not 3; go on with the same settings, or give another"):
        Manifest(tmp_path, {"steps": 3})
    with pytest.raises(InputError, match="begun with eta=None, not 1"):
        Manifest(tmp_path, {"steps": 2, "eta": 1})
    with pytest.raises(InputError, match=r"row 1 .* was made with the prompt 'a star', not 'a key'"):
        Manifest(tmp_path, {"steps": 2}).has({"row": 1, "prompt": "a key"}, 0)
    with pytest.raises(InputError, match=r"row 1 .* was made with the width None, not 8"):
        Manifest(tmp_path, {"steps": 2}).has({"row": 1, "prompt": "a star", "width": 8}, 0)
    path = tmp_path / "manifest.jsonl"
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(InputError, match=r"line 1 of manifest .* cannot be read .*; take it out"):
        Manifest(tmp_path, {"steps": 2})
    (tmp_path / "run.json").unlink()
    path.write_text("".join(path.read_text().splitlines(True)[1:]))
    with pytest.raises(InputError, match=r"holds a manifest and no run\.json"):
        Manifest(tmp_path, {"steps": 2})


def test_shards_are_joined_and_a_row_that_was_mended_is_skipped_no_longer(tmp_path):
    for index in (2, 1):
        shard = Manifest(tmp_path, {}, (index, 2))
        skipped = {"row": 5, "seed": None, "prompt": "x", "status": "skipped", "reason": "too long"}
        shard.add([line_of(index, tmp_path), *([skipped] if index == 2 else [])])
        shard.finish()
    assert not (tmp_path / "manifest.jsonl").exists()
    joined = Manifest(tmp_path, {})
    joined.add([line_of(5, tmp_path)])
    joined.finish()
    assert [(line["row"], line["status"]) for line in lines_of(tmp_path)] == [(1, "done"), (2, "done"), (5, "done")]
    assert {p.name for p in tmp_path.glob("*.json*")} == {"manifest.jsonl", "run.json"}
    assert manifest_name((1, 2)) == "manifest-00001-of-00002.jsonl"


# --- rows that fail while they are made -----------------------------------------------------------------------------
def file_run(folder: Path, prompts: list[str], fails: str) -> FileRun:
    """A run whose rows fail if they say so."""

    def make(jobs, _arguments):
        if any(fails in job.text for job in jobs):
            raise InputError("it makes no `width` so")
        return [job.text for job in jobs]

    def write(name, made):
        (folder / name).write_text(made)
        return {"file": name, "bytes": len(made)}

    told = {"negative_prompt": "", "call": {}}
    task = Task("x", told, Making(lambda told: None, lambda text: None, make), write, batch_size=4, quietly=True)
    rows = [PromptRow(i, text) for i, text in enumerate(prompts, start=1)]
    return FileRun(task, rows, (), [0], None, Manifest(folder, {}))


def test_a_row_that_fails_in_a_batch_costs_itself_alone(tmp_path):
    run = file_run(tmp_path, ["a star", "a moon", "a key"], fails="moon")
    run.run()
    assert (run.made, run.kept) == (2, 0) and (tmp_path / "00003-a-key-s0").read_text() == "a key"
    assert run.skipped == [{"row": 2, "text": "a moon", "reason": "it makes no width so"}]
    assert [(line["row"], line["seed"], line["status"]) for line in lines_of(tmp_path)] == [
        (1, 0, "done"),
        (2, 0, "skipped"),
        (3, 0, "done"),
    ]
    again = file_run(tmp_path, ["a star", "a moon", "a key"], fails="nothing")
    again.run()
    assert (again.made, again.kept) == (1, 2) and {line["status"] for line in lines_of(tmp_path)} == {"done"}


def test_where_all_fail_the_others_are_not_tried(tmp_path):
    run = file_run(tmp_path, ["a star"] * 100, fails="star")
    with pytest.raises(InputError, match="the first 16 pictures cannot be made, the last of them because it makes no"):
        run.run()
    assert list(tmp_path.iterdir()) == []


# --- generate -------------------------------------------------------------------------------------------------------
GENERATE = ["generate", "--prompts", "p.csv", "--steps", 2, "--batch-size", 2]


def test_generate_from_a_file_goes_on_where_it_ended(accord_cli, lab, tmp_path):
    (tmp_path / "p.csv").write_text(TABLE)
    code, out, err = accord_cli(*GENERATE, "--out", "a", "--seed", 0, "--seed", 1, "--json")
    told, a = json.loads(out), tmp_path / "a"
    assert code == 0 and (told["made"], told["kept"], told["manifest"]) == (7, 0, "a/manifest.jsonl")
    reasons = {s["row"]: s["reason"] for s in told["skipped"]}
    assert list(reasons) == [3, 4, 6, 7] and "multiple of 4" in reasons[4] and "fall off" in reasons[6]
    assert "skipped row 6 ('a star a star" in err and "row 5 has a negative prompt" in err and "0%" not in err
    done = [line for line in lines_of(a) if line["status"] == "done"]
    assert [(line["row"], line["seed"]) for line in done] == [(1, 3), (2, 0), (2, 1), (5, 0), (5, 1), (8, 0), (8, 1)]
    assert done[0]["file"] == "00001-a-red-star-s3.png"
    page = (a / "index.html").read_text()
    assert told["gallery"] == "a/index.html" and all(f'"image":"{line["file"]}"' in page for line in done)
    assert '"number":2,"prompt":"a blue key","seed":"1"' in page

    # each picture is what the library makes of its row
    def drawn(prompt, seeds, **call):
        return [np.asarray(image) for image in accord.generate(lab, prompt, seeds, num_inference_steps=2, **call)]

    seen = {(line["row"], line["seed"]): pixels(a / line["file"]) for line in done}
    assert seen[2, 0].shape == (64, 32, 3)
    for row, prompt, call in (
        (2, "a blue key", {"width": 32, "height": 64}),
        (5, "a big heart.", {"negative_prompt": "blurry, fish"}),
        (8, "a purple moon", {"negative_prompt": "a star"}),
    ):
        assert all(np.array_equal(seen[row, s], x) for s, x in enumerate(drawn(prompt, [0, 1], **call))), row

    # a kill: the last line torn, a picture without a line, another gone
    before, manifest = contents(a), a / "manifest.jsonl"
    whole = lines_of(a)
    manifest.write_bytes(manifest.read_bytes()[:-5])
    (a / done[1]["file"]).unlink()
    times = {p.name: p.stat().st_mtime_ns for p in a.glob("*.png")}
    code, out, _ = accord_cli(*GENERATE, "--out", "a", "--seed", 0, "--seed", 1, "--json")
    told = json.loads(out)
    assert (
        code == 0 and (told["made"], told["kept"]) == (2, 5) and sorted(reasons) == [s["row"] for s in told["skipped"]]
    )
    assert contents(a) == before and lines_of(a) == whole
    unchanged = [n for n, t in times.items() if (a / n).stat().st_mtime_ns == t]
    assert len(unchanged) == 5

    # runs do not mix
    refused = accord_cli(*GENERATE, "--guidance", 3, "--out", "a")
    assert_refused(refused, "the run in 'a' was begun with --guidance=5.0, not 3.0; go on", "another --out")
    (tmp_path / "p.csv").write_text(TABLE.replace("a purple moon", "a purple sun"))
    assert_refused(accord_cli(*GENERATE, "--out", "a"), "row 8 of the run in 'a' was made with the prompt")
    assert contents(a) == before


def test_shards_of_generate_make_what_one_run_makes(accord_cli, tmp_path):
    (tmp_path / "p.csv").write_text("prompt,width,height\na star,,\na key,,\na moon,32,32\na fish,,\n?,5,5\na sun,,\n")
    whole = [*GENERATE, "--json", "--out"]
    accord_cli(*whole, "whole")
    for index in (2, 1):
        code, _, err = accord_cli(*whole, "parts", "--shard", f"{index}/2")
        assert code == 0, err
    parts = tmp_path / "parts"
    assert {p.name for p in parts.glob("man*")} == {"manifest-00001-of-00002.jsonl", "manifest-00002-of-00002.jsonl"}
    shared = [line for i in (1, 2) for line in lines_of(parts, f"manifest-0000{i}-of-00002.jsonl")]
    assert len(shared) == 6 and len({(line["row"], line["seed"]) for line in shared}) == 6
    told = json.loads(accord_cli(*whole, "parts")[1])
    assert (told["made"], told["kept"]) == (0, 5)
    assert contents(parts) == contents(tmp_path / "whole") and lines_of(parts) == lines_of(tmp_path / "whole")


def test_a_file_with_no_row_that_can_be_made_is_refused_and_leaves_nothing(accord_cli, tmp_path):
    (tmp_path / "p.csv").write_text(f"prompt,width,height\n{LONG},,\na star,65,65\n")
    assert_refused(
        accord_cli(*GENERATE, "--out", "a"), "no row of the prompts file could be made (row 1: the prompt is"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["p.csv"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("generate", "no prompt was given; give PROMPTS, each in quotes, or --prompts FILE"),
        ("realign", "no prompt was given"),
        ("generate star --prompts p.txt", "both PROMPTS and --prompts were given"),
        ("realign star --shard 1/2", "--shard is not used without --prompts"),
        ("generate --prompts p.txt --shard 3/2", "shard '3/2' is not I/N"),
        ("generate --prompts no.txt", "'no.txt' does not exist"),
        ("realign --prompts p.pdf", "is none of .txt"),
    ],
)
def test_bad_words_about_files_are_refused(accord_cli, tmp_path, words, part):
    (tmp_path / "p.txt").write_text("a star\n")
    assert_refused(accord_cli(*words.split()), part)


def test_pairs_are_made_without_rows_that_are_too_long(accord_cli, tmp_path):
    (tmp_path / "p.txt").write_text(f"a star\n{LONG}\n(a key:1.2)\n")
    code, out, err = accord_cli("pairs", "make", "--prompts", "p.txt", "--steps", 2, "--out", "pairs", "--json")
    told = json.loads(out)
    assert code == 0 and told["pairs"] == 2 and [s["row"] for s in told["skipped"]] == [2]
    assert "row 3 has syntax that no pipeline reads; set aside: weight" in err


# --- realign and score ----------------------------------------------------------------------------------------------
def test_realign_from_a_file_then_score_its_manifest(accord_cli, lab, tmp_path):
    prompt = "a red star. Negative prompt: fish"
    (tmp_path / "p.txt").write_text(f"{prompt}\n{LONG}\n")
    told = ["realign", "--prompts", "p.txt", "--steps", 2, "--rounds", 1, "--json", "--out", "r"]
    code, out, err = accord_cli(*told)
    assert code == 0 and json.loads(out)["made"] == 1 and "row 1 has a negative prompt" in err
    name = "00001-a-red-star-s0"
    line, skipped = lines_of(tmp_path / "r")
    assert line["file"] == f"{name}/after.png" and line["after"] >= line["before"] and skipped["row"] == 2
    report = json.loads((tmp_path / "r" / name / "report.json").read_text())
    assert "absence" in {w["kind"] for w in report["before"]["words"]}  # it is judged too
    wanted = accord.generate(lab, "a red star.", negative_prompt="fish", num_inference_steps=2)[0]
    assert np.array_equal(pixels(tmp_path / "r" / name / "before.png"), np.asarray(wanted))
    assert json.loads(accord_cli(*told)[1])["kept"] == 1
    assert_refused(accord_cli(*told[:5], "--rounds", 2, "--out", "r"), "begun with rounds=1, not 2")

    code, out, _ = accord_cli("score", "--pairs", "r/manifest.jsonl", "--out", "s.jsonl", "--json")
    assert code == 0 and json.loads(out)["scored"] == 1
    assert json.loads(out)["skipped"][0]["reason"] == skipped["reason"]
    (scored,) = [json.loads(text) for text in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert scored["image"] == f"{name}/after.png" and scored["overall"] == pytest.approx(
        line["after"], abs=0.01
    )  # of 8 bits


def test_realign_measures_the_text_that_is_judged(lab):
    programs = "a red star " + "<lora:one:0.5> " * 30
    config = accord.RealignConfig(rounds=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        found = accord.realign(lab, programs, config=config, num_inference_steps=2, captions=False)[0]
    assert found.prompt.text == phrases_of("a red star").text
    with pytest.raises(InputError, match="fall off"):
        accord.realign(lab, LONG, config=config, num_inference_steps=2, captioner=load_captioner())


# --- negative prompts that are written in prompts -------------------------------------------------------------------
@pytest.mark.parametrize(
    ("prompt", "negative"),
    [
        ("a star", ""),
        ("a star\nNegative prompt: (blurry:1.4), fish\nSteps: 20, Sampler: Euler, Seed: 5", "blurry, fish"),
        ("a star --no fish, key --ar 3:2", "fish, key"),
        ('a star --neg "a fish"', "a fish"),
        ("a star Negative prompt:", ""),
    ],
)
def test_a_negative_prompt_is_found_in_a_prompt(prompt, negative):
    assert negative_text(prompt) == negative


def test_the_pipeline_gets_a_negative_prompt_that_is_written_in_the_prompt(accord_cli, lab, tmp_path):
    prompt = "a red star --no fish"
    code, _, err = accord_cli("generate", prompt, "a key", "--steps", 2, "--negative-prompt", "moon", "--out", "o")
    assert code == 0 and "note: the prompt is read as 'a red star', with the negative prompt 'moon, fish'\n" in err
    for name, text, negative in (("000-a-red-star-s0", "a red star", "moon, fish"), ("001-a-key-s0", "a key", "moon")):
        wanted = accord.generate(lab, text, negative_prompt=negative, num_inference_steps=2)[0]
        assert np.array_equal(pixels(tmp_path / "o" / f"{name}.png"), np.asarray(wanted))
    # without guidance there is none
    code, _, err = accord_cli("generate", prompt, "--steps", 2, "--guidance", 1, "--out", "o")
    assert code == 0 and "read as 'a red star'; set aside: negative prompt\n" in err


# --- the bar --------------------------------------------------------------------------------------------------------
def test_steps_are_seen_and_change_nothing(lab):
    told = {"num_inference_steps": 2, "output_type": "pt", "batch_size": 2}
    plain = accord.generate(lab, "a red star", [0, 1, 2], **told)
    seen: list[tuple[int, int]] = []
    with watched(lambda pictures, steps: seen.append((pictures, steps))):
        assert accord.generate(lab, "a red star", [0, 1, 2], **told).equal(plain)
    assert seen == [(2, 2)] * 2 + [(1, 2)] * 2
    assert accord.generate(lab, "a red star", [0, 1, 2], progress=True, **told).equal(plain)
    assert len(seen) == 4  # the block is over


def test_realign_moves_the_bar_in_each_round_and_changes_nothing(lab, capfd):
    told = {"config": accord.RealignConfig(rounds=1), "num_inference_steps": 2, "captions": False}
    plain = accord.realign(lab, "a red star to the left of a blue key", [0, 1], **told)
    capfd.readouterr()
    shown = accord.realign(lab, "a red star to the left of a blue key", [0, 1], progress=True, **told)
    for one, other in zip(plain, shown, strict=True):
        assert one.after.tobytes() == other.after.tobytes() and one.to_dict() == other.to_dict()
    assert "2.0/2" in capfd.readouterr().err


def test_a_bar_counts_pictures_by_their_steps():
    with step_bar(10, "x", False, passes=2) as bar:
        bar.pass_over(2)  # from a run before
        assert bar.bar is None  # not there before the first step
        bar.step(4, 5)
        assert bar.bar is not None and bar.bar.n == pytest.approx(2.4) and bar.bar.initial == 2
        bar.finish(4)
        assert bar.bar.n == 6
        bar.leave_out(1)
        bar.pass_over(3)
        assert bar.bar.n == bar.bar.total == 9
    with step_bar(10, "x", True) as bar:
        bar.step(4, 5)
        bar.pass_over(2)
        bar.leave_out(1)
        bar.finish(4)
        assert bar.bar is None
