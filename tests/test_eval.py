"""`accord eval`: suites, runs as folders, figures, comparisons."""

import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import KEY, assert_refused, check_schema, picture
from PIL import Image

import accord
import accord_lab.suite
from accord.cli.evaluate import SUITES
from accord.data.pair_folders import stream_pairs
from accord.data.pairs import PairsFile
from accord.data.typed import read_typed, typed_bytes, write_typed
from accord.evaluation import run as running
from accord.evaluation.compare import compare, page_of, table_of, write_comparison
from accord.evaluation.pictures import Found, picture_name
from accord.evaluation.registry import NEEDS, Judged, Record, suite_named, suite_names
from accord.evaluation.rows import KINDS, TIMES, Journal, read_rows, row_of
from accord.evaluation.run import Task, merge, read_about, run_suite
from accord.evaluation.stats import best_of, figure_of, mean_of_groups
from accord.evaluation.suites.questions import Asked, Questions, question_records, verdicts
from accord.judges.protocol import Answers
from accord.types import InputError
from accord_lab.scenes.ask import ask_of
from accord_lab.scenes.pairs import rendered_pairs
from accord_lab.suite import Scenes


# --- suites -----------------------------------------------------------------------------------------------------------
def test_every_suite_is_a_command_and_a_file():
    assert set(suite_names()) == set(SUITES)
    for name in suite_names():
        kind = suite_named(name)
        assert kind.name == name and set(kind.needs) <= set(NEEDS)
    with pytest.raises(InputError, match="suite 'nothing' is unknown; use captions"):
        suite_named("nothing")


class Told:
    """A judge whose probabilities are given by hand, question by question."""

    name = "told"
    image_size = 8

    def __init__(self, probabilities):
        self.probabilities, self.asked = probabilities, []

    def answer(self, images, questions, image_of):
        self.asked += [(q.text, q.answers, i) for q, i in zip(questions, image_of, strict=True)]
        return [np.asarray(self.probabilities[q.text]) for q in questions]


def white(count):
    return [Image.new("RGB", (8, 8), "white") for _ in range(count)]


def test_vqascore_asks_as_published_and_takes_the_probability_of_yes():
    judge = Told({'Does this figure show "a cat"? Please answer Yes or No.': [0.75]})
    assert isinstance(judge, Answers)
    found = suite_named("vqascore")(answers=judge).judge([Record(0, "a cat")], white(1))
    assert found[0].score == 0.75 and judge.asked[0][1] == (("Yes",),)


def asked(*rows):
    return [Asked(f"q{n}", (("yes",), ("no",)), tag, n, needs) for n, tag, needs in rows]


def test_a_question_whose_premise_is_wrong_is_wrong():
    own = asked((1, "entity", ()), (2, "attribute", (1,)), (3, "relation", (1, 2)), (4, "entity", (9,)))
    yes, no = np.array([0.9, 0.1]), np.array([0.2, 0.6])
    assert verdicts(own, [yes, yes, yes, yes]) == [True] * 4
    assert verdicts(own, [no, yes, yes, yes]) == [False, False, False, True]
    assert verdicts(own, [yes, no, yes, yes]) == [True, False, False, True]
    circle = asked((1, "", (2,)), (2, "", (1,)))
    assert verdicts(circle, [yes, yes]) == [True, True] and verdicts(circle, [no, yes]) == [False, False]
    assert verdicts([Asked("how many", (("two",),), number=1)], [np.array([0.4])]) == [False]


def test_figures_of_questions_by_hand():
    own = [Record(0, "p", about={"asked": tuple(asked((1, "entity", ()), (2, "attribute", (1,))))})]
    judge = Told({"q1": [0.2, 0.8], "q2": [0.8, 0.1]})
    found = Questions(judge).judge(own, white(1))[0]
    assert found.score == 0 and found.verdict is False  # the second needs the first
    assert found.figures == pytest.approx({"AM": 0.5, "GM": 0.4}) and found.by_tag == {"entity": 0, "attribute": 0}
    assert found.reasons == ["q1 not 'yes'", "q2 not 'yes'"]
    alike = Questions(Told({"q1": [math.nan, 0.5], "q2": [0.8, math.nan, 0.1]})).judge(own, white(1))[0]
    assert alike.score == 1 and alike.unjudged == ["q1"] and alike.figures["AM"] == pytest.approx(0.8)
    assert Questions(Told({"q1": [math.nan], "q2": [math.nan]})).judge(own, white(1))[0].score is None
    without = Questions(Told({"q1": [0.6], "q2": [0.8, math.nan]})).judge(own, white(1))[
        0
    ]  # none of its rivals is left
    assert without.score == 1 and without.unjudged == ["q2"]
    zero = Questions(Told({"q1": [0.0, 0.8], "q2": [0.8, 0.1]})).judge(own, white(1))[0]
    assert zero.figures["AM"] == pytest.approx(0.4) and zero.figures["GM"] == 0
    soft = suite_named("geneval2")(answers=judge).judge(own, white(1))[0]
    assert soft.score == pytest.approx(0.4) and soft.by_tag == pytest.approx({"entity": 0.2, "attribute": 0.8})


def test_questions_are_read_in_every_layout(tmp_path):
    def read(name, text, instruction=""):
        (tmp_path / name).write_text(text, encoding="utf8")
        return question_records(tmp_path / name, skipped, instruction)

    skipped = PairsFile()
    tifa = {"id": "coco_1", "caption": "a red cat", "question": "what color is the cat?", "choices": ["blue", "red"]}
    tifa |= {"answer": "red", "element_type": "color"}
    record = read("tifa.json", json.dumps([tifa, {**tifa, "question": ""}, {**tifa, "id": "coco_2"}]))[0]
    assert (record.key, record.prompt, record.tags) == ("coco_1", "a red cat", ("color",))
    assert [a[0] for a in record.about["asked"][0].answers] == ["red", "blue"]
    assert skipped.skipped == [{"row": 2, "reason": "no question"}]
    head = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple"
    dsg = f"{head},question_natural_language\nt1,a red cat,,1,0,entity,whole,x,Is there a cat?\n"
    dsg += 't1,a red cat,,2,"1",attribute,color,x,Is the cat red?\nt2,dogs,,1,0,entity,whole,x,Are there dogs?\n'
    one, two = read("dsg.csv", dsg)
    assert [(a.number, a.needs, a.tag) for a in one.about["asked"]] == [(1, (), "entity"), (2, (1,), "attribute")]
    assert [a[0] for a in one.about["asked"][1].answers] == ["yes", "no"] and two.number == 1 and two.key == "t2"
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "t2.txt").write_text("two dogs\nthat play", encoding="utf8")
    assert read("dpg.csv", dsg)[1].prompt == "two dogs that play"
    row = {
        "prompt": "two cats",
        "vqa_list": [["How many cats?", "two"], ["Cats?", "Yes"]],
        "skills": ["count", "object"],
    }
    record = read("g2.jsonl", json.dumps(row) + "\n", "Answer in one word.")[0]
    first = record.about["asked"][0]
    assert first.text == "How many cats? Answer in one word." and "2" in first.answers[0] and len(first.answers) == 1
    assert record.tags == ("count", "object")
    own = read("own.csv", "prompt,question,answer,choices,tag\na cat,what animal?,cat,cat|dog,animal\n")[0]
    assert len(own.about["asked"][0].answers) == 2 and own.tags == ("animal",)
    for name, text, part in (
        ("x.csv", "a,b\n1,2\n", "no columns of prompts and questions"),
        ("x.json", "{}", "is no JSON list"),
        ("x.jsonl", '{"prompt": "a"}\n', r"holds no question \(row 1: no question\)"),
        ("x.txt", "a", "is none of"),
    ):
        skipped = PairsFile()
        with pytest.raises(InputError, match=part):
            read(name, text)


@pytest.fixture(scope="module")
def drawn():
    """Scenes of the lab with their captions."""
    images, captions = rendered_pairs(6, 3)
    return [Image.fromarray(np.asarray(i)) for i in images], list(captions)


def test_checks_and_captions_are_those_of_score(drawn):
    images, prompts = drawn[0][:2], drawn[1][:2]
    records = [Record(i, p) for i, p in enumerate(prompts)]
    captioner = accord.load_captioner()
    scored = [s.alignment for s in accord.score(images, prompts, captioner)]
    for found, of in zip(suite_named("checks")(captioner).judge(records, images), scored, strict=True):
        assert found.score == pytest.approx(of.overall, abs=1e-5) and found.caption == of.caption
        assert [w["text"] for w in found.words] == [s.word.text for s in of.words]
        assert set(found.by_tag) == {s.word.kind for s in of.words}
        assert found.verdict == all(s.probability >= 0.5 for s in of.words)
    embed = accord.load_sentence()
    cosine = (embed([prompts[0]]) * embed([scored[0].caption])).sum()
    found = suite_named("captions")(captioner, embed).judge(records, images)
    assert found[0].score == pytest.approx(float(cosine), abs=1e-5) and found[0].caption == scored[0].caption


# --- figures ----------------------------------------------------------------------------------------------------------
def test_seeds_count_within_their_prompt():
    found = figure_of({0: [1.0, 1.0, 1.0, 1.0], 1: [0.0]})
    assert found["mean"] == 0.5 and (found["prompts"], found["pictures"]) == (2, 5) and found["ci95"] == [0.0, 1.0]
    assert figure_of({})["mean"] is None


def test_what_was_seen_too_seldom_has_no_narrow_interval():
    assert figure_of({0: [1.0, 1.0]}) == {"mean": 1.0, "ci95": None, "prompts": 1, "pictures": 2}
    right, wrong = figure_of({n: [1.0] for n in range(20)}), figure_of({n: [0.0] for n in range(20)})
    assert right["ci95"] == pytest.approx([0.8389, 1.0], abs=1e-4)  # Wilson's, of 20 of 20
    assert wrong["ci95"] == pytest.approx([0.0, 0.1611], abs=1e-4)
    assert figure_of({n: [0.5] for n in range(20)})["ci95"] == [0.5, 0.5]  # no share of right pictures


def test_the_mean_of_groups_weighs_them_alike():
    groups = [{n: [float(n % 2)] for n in range(30)}, {30: [0.0], 31: [0.0]}]
    found = mean_of_groups(groups)
    assert found["mean"] == 0.25 and found["prompts"] == 32
    assert found["ci95"][1] < 0.4  # the small group is in each draw, so half of the mean is 0
    assert mean_of_groups([groups[0], {}])["mean"] is None  # a group without a prompt could not be compared
    lone = mean_of_groups([groups[0], {30: [0.0]}])
    assert lone["mean"] == 0.25 and lone["ci95"] is None


def test_the_best_of_some_is_the_mean_over_all_choices():
    scores, values = [0.3, 0.9, 0.1, 0.5], [1.0, 2.0, 3.0, 4.0]
    for tries in (1, 2, 3, 4, 9):
        choices = list(itertools.combinations(range(4), min(tries, 4)))
        best = [max(choice, key=lambda i: scores[i]) for choice in choices]
        assert best_of(scores, tries) == pytest.approx(np.mean([scores[i] for i in best]))
        assert best_of(scores, tries, values) == pytest.approx(np.mean([values[i] for i in best]))


# --- rows -------------------------------------------------------------------------------------------------------------
def row(number, seed, score=1.0, **more):
    judged = Judged(score, None if score is None else score > 0.5, **more)
    return row_of(
        Record(number, f"prompt {number}", ("odd",) if number % 2 else ("even",)),
        seed,
        "images/x.png",
        judged,
        4,
        2.0,
        0.5,
    )


def test_a_torn_line_and_a_torn_batch_are_dropped(tmp_path):
    path, due = tmp_path / "rows.jsonl", [(0, 0), (0, 1), (1, 0), (1, 1)]
    journal = Journal(path)
    journal.append([row(0, 0), row(0, 1)])
    journal.append([row(1, 0), row(1, 1)])
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    again = Journal(path)
    assert again.done == {(0, 0), (0, 1), (1, 0)}
    again.mend(due)
    assert again.done == {(0, 0), (0, 1)} and path.read_bytes().count(b"\n") == 2
    again.append([row(1, 0), row(1, 1)])
    again.close()
    assert path.read_bytes() == whole
    again.mend(due)
    assert path.read_bytes() == whole and again.done == set(due)  # whatever the batches are that it goes on with
    with pytest.raises(InputError, match="not finite"):
        again.append([row(2, 0, math.nan)])


def test_rows_that_are_not_due_any_more_are_dropped_alone(tmp_path):
    journal = Journal(tmp_path / "rows.jsonl")
    journal.append([row(0, 0), row(1, 0), row(2, 0)])
    journal.close()
    journal.mend([(0, 0), (2, 0), (3, 0)])
    assert journal.done == {(0, 0), (2, 0)}


def test_a_line_in_the_middle_that_is_no_row_is_named_and_nothing_is_dropped(tmp_path):
    path = tmp_path / "rows.jsonl"
    journal = Journal(path)
    journal.append([row(0, 0), row(1, 0)])
    journal.close()
    before = path.read_bytes()
    path.write_bytes(b"x\n" + before)
    with pytest.raises(InputError, match=r"line 1 of .* is no row of a run; take it away"):
        Journal(path)
    assert path.read_bytes() == b"x\n" + before


def test_columns_have_types(tmp_path):
    import pyarrow.parquet as pq

    words = [{"text": "cat", "kind": "noun", "start": 2, "end": 5, "probability": 0.5, "reads_as": "dog"}]
    write_typed(tmp_path / "r.parquet", [row(0, 0, None), row(1, 0, words=words)], KINDS)
    schema = pq.read_schema(tmp_path / "r.parquet")
    assert {name: str(schema.field(name).type) for name in ("score", "verdict", "tags", "seed")} == {
        "score": "double",
        "verdict": "bool",
        "tags": "list<element: string>",
        "seed": "int64",
    }
    assert str(schema.field("words").type.value_type.field("probability").type) == "double"
    rows = list(read_typed(tmp_path / "r.parquet", "rows"))
    assert rows[1]["words"] == words and rows[0]["score"] is None and rows[0]["words"] == []
    (tmp_path / "e.parquet").write_bytes(typed_bytes([{"e": [0.5, 1.0]}], {"e": ["float"]}))
    assert str(pq.read_schema(tmp_path / "e.parquet").field("e").type) == "list<element: float>"


# --- runs -------------------------------------------------------------------------------------------------------------
class Stopped(Exception):
    """What ends a run here as a kill does."""


class Counting(Found):
    """Pictures of a folder, that count what they give and stop after some batches."""

    def __init__(self, folder, batches=10**9):
        super().__init__(folder)
        self.left, self.given = batches, []

    def __call__(self, jobs):
        if not self.left:
            raise Stopped
        self.left -= 1
        self.given += [(r.number, s) for r, s in jobs]
        return super().__call__(jobs)


@pytest.fixture(scope="module")
def pictures(drawn, tmp_path_factory):
    """A folder of lab pictures in a run's own naming, two seeds a prompt: with the second some are wrong; and the
    prompts.
    """
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        drawn[0][number].save(folder / f"{number:05d}-0.png")
        drawn[0][(number + number % 2) % 6].save(folder / f"{number:05d}-1.png")
    (folder / "p.txt").write_text("\n".join(drawn[1]) + "\n", encoding="utf8")
    return folder


def task(pictures, source=None, **settings):
    records = Scenes.records(pictures / "p.txt", PairsFile())
    about = {"settings": settings, "judges": {}, "prompts": {"count": len(records)}, "device": "cpu"}
    return Task(Scenes, records, source or Found(pictures), Scenes, (), about)


def timeless(run):
    rows = list(read_typed(run / "rows.parquet", "rows"))
    return [{k: v for k, v in r.items() if k not in TIMES} for r in rows]


def test_a_run_that_was_stopped_ends_as_one_that_was_not(pictures, tmp_path):
    whole = run_suite(task(pictures), tmp_path / "whole", batch_size=5)
    assert whole["finished"] and whole["new"] == 12
    given = []
    for batches in (1, 0, 1):
        source = Counting(pictures, batches)
        with pytest.raises(Stopped):
            run_suite(task(pictures, source), tmp_path / "cut", batch_size=5)
        given += source.given
    with open(tmp_path / "cut" / "rows.jsonl", "ab") as file:
        file.write(b'{"number"')
    source = Counting(pictures)
    assert run_suite(task(pictures, source), tmp_path / "cut", batch_size=5)["new"] == 2
    given += source.given
    assert len(given) == len(set(given)) == 12, "nothing is done twice"
    assert timeless(tmp_path / "cut") == timeless(tmp_path / "whole")
    again = Counting(pictures, 0)  # a finished run asks for no picture
    assert run_suite(task(pictures, again), tmp_path / "cut", batch_size=5)["new"] == 0
    summary = json.loads((tmp_path / "cut" / "summary.json").read_text())
    assert summary["overall"]["prompts"] == 6 and summary["pictures"] == 12 and summary["skipped"] == []
    assert summary["overall"]["mean"] == summary["right"]["mean"] < 1


def test_what_was_done_is_kept_in_other_batches_and_where_pictures_came_in_between(pictures, tmp_path):
    folder = tmp_path / "p"
    shutil.copytree(pictures, folder)
    first = (folder / "00000-0.png").rename(tmp_path / "first.png")
    with pytest.raises(Stopped):
        run_suite(task(folder, Counting(folder, 2)), tmp_path / "r", batch_size=2)
    source = Counting(folder)
    assert run_suite(task(folder, source), tmp_path / "r", batch_size=6)["new"] == 7 and len(source.given) == 7
    first.rename(folder / "00000-0.png")
    source = Counting(folder)
    run_suite(task(folder, source), tmp_path / "r", batch_size=6)
    assert source.given == [(0, 0)]
    run_suite(task(pictures), tmp_path / "whole")
    assert timeless(tmp_path / "r") == timeless(tmp_path / "whole")  # in the order of the prompts


def test_a_run_is_read_by_others(pictures, tmp_path):
    run_suite(task(pictures), tmp_path)
    rows = list(read_typed(tmp_path / "metadata.parquet", "rows"))
    assert all((tmp_path / r["file_name"]).is_file() for r in rows) and next(iter(rows[0])) == "file_name"
    pairs = list(stream_pairs(tmp_path, PairsFile()))
    assert [p.prompt for p in pairs] == [r["prompt"] for r in rows]
    assert rows[0]["denoiser_calls"] is None
    found = Found(tmp_path)  # another suite's run takes its pictures, and what they cost
    records = Scenes.records(pictures / "p.txt", PairsFile())
    assert sorted(found.of(records[0])) == [0, 1] and len(found.jobs(records, (1,))) == 6


def test_shards_make_one_run(pictures, tmp_path):
    run_suite(task(pictures), tmp_path / "whole")
    assert not run_suite(task(pictures), tmp_path / "both", (2, 2))["finished"]
    assert run_suite(task(pictures), tmp_path / "both", (1, 2))["finished"]
    assert timeless(tmp_path / "both") == timeless(tmp_path / "whole")
    for i in (1, 2):
        run_suite(task(pictures), tmp_path / f"at{i}", (i, 2))
    with pytest.raises(InputError, match="1 of 2 shards are missing"):
        merge([tmp_path / "at1"], tmp_path / "at1")
    with pytest.raises(InputError, match="rows-00001-of-00002 is in two"):
        merge([tmp_path / "at1", tmp_path / "both"], tmp_path / "merged")
    merge([tmp_path / "at2", tmp_path / "at1"], tmp_path / "merged")
    assert timeless(tmp_path / "merged") == timeless(tmp_path / "whole")
    assert len(list((tmp_path / "merged" / "images").iterdir())) == 12


def test_another_run_in_the_folder_is_refused(pictures, tmp_path):
    run_suite(task(pictures, steps=5), tmp_path / "r")
    with pytest.raises(InputError, match="was begun with steps 5, and not 6; go on with the same settings"):
        run_suite(task(pictures, steps=6), tmp_path / "r")
    with pytest.raises(InputError, match="was begun with shards 1, and not 2"):
        run_suite(task(pictures, steps=5), tmp_path / "r", (1, 2))
    (tmp_path / "r" / "run.json").unlink()
    with pytest.raises(InputError, match=r"run\.json is missing"):
        run_suite(task(pictures, steps=5), tmp_path / "r")


def test_a_picture_that_cannot_be_read_is_skipped_and_named(pictures, tmp_path):
    import shutil

    folder = tmp_path / "p"
    shutil.copytree(pictures, folder)
    (folder / "00003-1.png").write_text("no picture")
    summary = run_suite(task(folder), tmp_path / "r", batch_size=4)["summary"]
    assert summary["pictures"] == 11 and [(s["number"], s["seed"]) for s in summary["skipped"]] == [(3, 1)]
    assert "'00003-1.png' cannot be read" in summary["skipped"][0]["reason"]
    for path in folder.glob("*.png"):
        path.write_text("no picture")
    with pytest.raises(InputError, match="cannot be read"):
        run_suite(task(folder), tmp_path / "none", batch_size=4)
    assert not (tmp_path / "none").exists(), "a run that is refused leaves nothing"


class Networked(Scenes):
    """The suite of the lab with a judge, which it does not ask."""

    name, needs = "networked", ("judge",)

    def __init__(self, judge=None):
        self.judging = judge


def test_the_weights_of_every_kind_of_judge_are_told_apart(drawn):
    from accord.evaluation.geneval import ColourClassifier
    from accord.evaluation.weights import modules_of, weights_of
    from accord.judges.contrast import ClipJudge

    scorer = accord.load_clip()
    for held in (scorer, ClipJudge(scorer, "clip"), ColourClassifier(scorer), {"a": [ClipJudge(scorer, "clip")]}):
        assert modules_of(Networked(held)) == [scorer]
    suite = Networked(ClipJudge(scorer, "clip"))
    before = weights_of(suite)
    with torch.no_grad():
        scorer.model.logit_scale += 1
        assert weights_of(suite) != before
        scorer.model.logit_scale -= 1
    with pytest.raises(AssertionError, match="'networked' hides the networks"):
        weights_of(Networked(Told({})))
    assert weights_of(Scenes())  # the lab's exact reader has none


class Refusing(Scenes):
    def judge(self, records, images):
        raise InputError("this judge reads nothing")


def test_a_shard_that_is_refused_leaves_the_others_alone(pictures, tmp_path):
    import dataclasses

    from accord.files import only_writer

    out = tmp_path / "r"
    with only_writer(out, "rows-00002-of-00002"):  # the other shard has a picture, and no row yet
        (out / "images").mkdir()
        (out / "images" / "00001-0.png").write_bytes(b"its own")
        with pytest.raises(InputError, match="reads nothing"):
            run_suite(dataclasses.replace(task(pictures), make=Refusing), out, (1, 2), batch_size=4)
        assert [p.name for p in (out / "images").iterdir()] == ["00001-0.png"] and (out / "run.json").exists()
        assert not list(out.glob("rows*.jsonl"))
    with pytest.raises(InputError, match="reads nothing"):
        run_suite(dataclasses.replace(task(pictures), make=Refusing), tmp_path / "alone")
    assert not (tmp_path / "alone").exists()


def test_a_shard_that_was_stopped_is_not_finished(pictures, tmp_path):
    from accord.files import only_writer

    out = tmp_path / "r"
    run_suite(task(pictures), out, (1, 2), batch_size=2)
    with pytest.raises(Stopped):
        run_suite(task(pictures, Counting(pictures, 1)), out, (2, 2), batch_size=2)
    assert json.loads((out / "run.json").read_text())["pictures"] == 12
    with pytest.raises(InputError, match="4 of 12 pictures are missing, as a shard was stopped"):
        merge([out], out)
    assert run_suite(task(pictures), out, (2, 2), batch_size=2)["finished"] and merge([out], out)["pictures"] == 12
    for name in ("rows", "rows-00001-of-00002"):
        with only_writer(out, name), pytest.raises(InputError, match="is being written to by another"):
            merge([out], out)


@pytest.mark.parametrize(
    "name", ["../x.png", "/etc/x.png", "images/../x.png", "images/..", "x.png", "images/a/b.png", 3]
)
def test_a_row_that_names_a_file_elsewhere_is_refused(pictures, tmp_path, name):
    run_suite(task(pictures), tmp_path / "a", (1, 2))
    run_suite(task(pictures), tmp_path / "b", (2, 2))
    path = tmp_path / "a" / "rows-00001-of-00002.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(r) + "\n" for r in [*rows[:-1], {**rows[-1], "file_name": name}]))
    with pytest.raises(InputError, match="which is not in the run's images/"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    if isinstance(name, str):
        write_typed(tmp_path / "b" / "rows.parquet", [{**row(0, 0), "file_name": name}], KINDS)
        with pytest.raises(InputError, match="which is not in the run's images/"):
            Found(tmp_path / "b")


def test_other_versions_and_batches_are_said_and_kept(pictures, tmp_path):
    import warnings

    from accord.types import Notice

    with pytest.raises(Stopped):
        run_suite(task(pictures, Counting(pictures, 1)), tmp_path, batch_size=4)
    path = tmp_path / "run.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "versions": {**about["versions"], "torch": "1.0"}}))
    said = f"was begun with torch '1.0', and not {str(torch.__version__)!r} and batch_size 4, and not 5"
    with pytest.warns(Notice) as notes, pytest.raises(Stopped):
        run_suite(task(pictures, Counting(pictures, 1)), tmp_path, batch_size=5)
    assert said in str(notes[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)  # it is said once
        run_suite(task(pictures), tmp_path, batch_size=5)
    now = json.loads(path.read_text())
    assert now["versions"]["torch"] == "1.0" and now["batch_size"] == 4
    assert [(r["versions"]["torch"], r["batch_size"]) for r in now["resumed_with"]] == [(torch.__version__, 5)]


def test_the_journal_is_closed_when_a_batch_raises(pictures, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(Journal, "close", lambda self, close=Journal.close: (closed.append(self.path), close(self)))
    with pytest.raises(Stopped):
        run_suite(task(pictures, Counting(pictures, 1)), tmp_path, batch_size=4)
    assert closed == [tmp_path / "rows.jsonl"]


def test_pictures_have_the_seeds_of_their_table(drawn, tmp_path):
    image, record = drawn[0][0], Record(0, "a cat")
    rows = [("x.png", 7), ("y.png", None), ("z.png", 7), ("w.png", "odd"), ("v.png", 3.0)]
    for name, _ in rows:
        image.save(tmp_path / name)
    lines = [json.dumps({"file_name": n, "text": "a cat", **({} if s is None else {"seed": s})}) for n, s in rows]
    (tmp_path / "metadata.jsonl").write_text("\n".join([*lines, '{"file_name": "u.png"}']) + "\n")
    found = Found(tmp_path)
    assert {s: p.name for s, p in found.of(record).items()} == {7: "x.png", 0: "y.png", 3: "v.png"}
    assert sorted((s["row"], s["reason"]) for s in found.skipped.skipped) == [
        (3, "its prompt has a picture with seed 7 already"),
        (4, "its seed 'odd' is no whole number of at least 0"),
        (6, "no prompt"),
    ]
    (tmp_path / "metadata.jsonl").unlink()
    table = [{"file_name": "x.png", "prompt": "a cat", "seed": 9}, {"file_name": "y.png", "prompt": "a cat", "seed": 2}]
    write_typed(tmp_path / "metadata.parquet", table, {"file_name": "string", "prompt": "string", "seed": "int64"})
    assert {s: p.name for s, p in Found(tmp_path).of(record).items()} == {9: "x.png", 2: "y.png"}


def test_pictures_of_generate_are_those_of_their_rows(drawn, accord_cli, tmp_path):
    Path("p.txt").write_bytes(b"a red star\n\na blue (key:1.2)\n\xff\na red star\n")
    words = "generate --prompts p.txt --steps 1 --seed 4 --device cpu --out g --json".split()
    code, _, err = accord_cli(*words)
    assert code == 0, err
    with pytest.warns(accord.types.Notice):
        records = suite_named("checks").records(Path("p.txt"), PairsFile())
    assert [(r.number, r.prompt) for r in records] == [(0, "a red star"), (2, "a blue key"), (4, "a red star")]
    found = Found("g")
    names = [found.of(r)[4].name for r in records]
    assert [n[:5] for n in names] == ["00001", "00003", "00005"] and [s["row"] for s in found.skipped.skipped] == [4]
    assert found([(records[0], 4)])[0].seconds > 0
    Path("g/manifest.jsonl").unlink()  # names alone
    assert [Found("g").of(r)[4].name for r in records] == names


def test_numbers_stay_when_a_row_is_mended(accord_cli, tmp_path):
    kind, skipped = suite_named("checks"), PairsFile()
    (tmp_path / "p.jsonl").write_text('{"prompt": "a cat"}\n{broken\n\n{"prompt": "a dog", "seed": 5}\n')
    records = kind.records(tmp_path / "p.jsonl", skipped)
    assert [(r.number, r.prompt) for r in records] == [(0, "a cat"), (3, "a dog")]
    assert [s["row"] for s in skipped.skipped] == [2]
    (tmp_path / "own.jsonl").write_text('\n{"prompt": "a dog", "seed": 5}\n')
    words = "eval checks --prompts own.jsonl --model lab --out new --device cpu".split()
    assert_refused(accord_cli(*words), "row 2 of the prompts file has its own seed", "give them as --images")
    assert not Path("new").exists()
    Image.new("RGB", (8, 8)).save(tmp_path / "00003-5.png")  # pictures that are there may have been made so
    assert Found(tmp_path).jobs(records, ()) == [(records[1], 5)]


def test_folders_are_read_in_every_layout(drawn, tmp_path):
    image, record = drawn[0][0], Record(7, "a cat", key="coco_9")

    def of(*names):
        folder = tmp_path / names[0].replace("/", "-")
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            image.save(folder / name)
        return sorted(Found(folder).of(record))

    assert of("00007-3.png", "00008-0.png") == [3]
    assert of("00007/samples/0000.png", "00007/samples/0002.png", "00001/samples/0001.png") == [0, 2]
    assert of("coco_9.png") == [0] and of("coco_9-4.png") == [4] and of("coco_9/x.png", "coco_9/y.png") == [0, 1]
    assert of("other.png") == []
    table = tmp_path / "named"
    table.mkdir()
    image.save(table / "x.png")
    (table / "metadata.jsonl").write_text('{"file_name": "x.png", "text": "a  cat"}\n')
    assert sorted(Found(table).of(record)) == [0]
    with pytest.raises(InputError, match="has no picture of these prompts"):
        Found(table).jobs([Record(0, "a dog")], ())
    assert picture_name(record, 3) == "images/00007-3.png" == picture_name(record, 3, Path("a.PNG"))


# --- comparing --------------------------------------------------------------------------------------------------------
def made_run(folder, scores, seconds=2.0, judge_seconds=0.5, calls=4.0, mean_of_tags=(), **more):
    """A finished run with these scores: {number: [score, ...]}."""
    folder.mkdir(parents=True)
    about = {"schema": running.SCHEMA, "suite": "scenes", "figure": "right", "mean_of_tags": mean_of_tags, "shards": 1}
    about |= {"seeds": [], "versions": {}, **more}
    (folder / "run.json").write_text(json.dumps(about))
    journal = Journal(folder / "rows.jsonl")
    rows = [row(n, s, v) for n, values in scores.items() for s, v in enumerate(values)]
    journal.append([{**r, "seconds": seconds, "judge_seconds": judge_seconds, "denoiser_calls": calls} for r in rows])
    journal.close()
    running.finish(folder)
    return folder


def test_a_difference_is_b_less_a_prompt_by_prompt(tmp_path):
    a = made_run(tmp_path / "a", {0: [0.0, 0.0], 1: [1.0, 1.0], 2: [0.5, 0.5], 3: [None, 0.2]})
    b = made_run(tmp_path / "b", {0: [1.0, 1.0], 1: [1.0, 1.0], 2: [0.0, 0.5], 3: [0.4, 0.4], 9: [1.0]})
    found = compare(a, b)
    assert (found["overall"]["a"], found["overall"]["b"]) == (0.425, 0.6625)
    assert found["overall"]["difference"] == pytest.approx(0.2375) and found["prompts"] == 4 and found["left_out"] == 1
    assert found["wins"] == {"wins": 2, "ties": 1, "losses": 1}
    assert found["same_seeds"] == 7 and found["wins_of_pictures"] == {"wins": 3, "ties": 3, "losses": 1}
    assert (found["best"][0]["number"], found["best"][0]["difference"]) == (0, 1.0)
    assert [(p["number"], p["seed"]) for p in found["worst"]] == [(2, 0)]
    tags = {t["name"]: t for t in found["tags"]}
    assert tags["even"]["difference"] == pytest.approx(0.375) and tags["odd"]["prompts"] == 2
    back = compare(b, a)
    assert back["overall"]["difference"] == -found["overall"]["difference"]
    assert back["overall"]["ci95"] == pytest.approx([-v for v in found["overall"]["ci95"][::-1]])
    assert "+0.237" in table_of(found) and "| overall |" in page_of(found) and "prompt 0" in page_of(found)


def test_intervals_of_tags_are_corrected_for_their_number(tmp_path):
    rng = np.random.default_rng(0)
    a = made_run(tmp_path / "a", {n: [float(v)] for n, v in enumerate(rng.random(60))})
    b = made_run(tmp_path / "b", {n: [float(v)] for n, v in enumerate(rng.random(60))})
    from accord.evaluation.stats import paired

    tag = compare(a, b)["tags"][0]
    x, y = ([r["score"] for r in read_rows(p / "rows.jsonl") if r["number"] % 2 == 0] for p in (a, b))
    assert tag["name"] == "even" and tag["ci95"] == paired(y, x, comparisons=2)["ci95"] != paired(y, x)["ci95"]


def test_at_equal_cost_the_cheaper_run_has_more_tries(tmp_path):
    a = made_run(tmp_path / "a", {0: [0.0, 1.0], 1: [0.0, 0.0]}, seconds=1.0, judge_seconds=0.5, calls=10)
    b = made_run(tmp_path / "b", {0: [0.5, 0.5], 1: [0.5, 0.5]}, seconds=3.0, calls=10)
    found = compare(a, b)
    assert found["tries"] == {"seconds": (2, 1), "denoiser_calls": (1, 1)}  # 2 (1 s + .5 s) fit into 3 s
    overall = found["overall"]
    assert overall["difference"] == 0.25 == overall["equal_denoiser_calls"]["difference"]
    assert overall["equal_seconds"]["difference"] == 0.0  # the best of A's two: 1 and 0
    assert "A has the best of 2" in table_of(found) and "at equal seconds" in table_of(found)
    assert compare(b, a)["tries"]["seconds"] == (1, 2)


def test_no_more_tries_are_told_than_there_are_seeds(tmp_path):
    a = made_run(tmp_path / "a", {0: [0.0, 1.0], 1: [0.0, 0.0]}, calls=1)
    b = made_run(tmp_path / "b", {0: [0.5, 0.5], 1: [0.5, 0.5]}, calls=10)
    found = compare(a, b)
    assert found["tries"]["denoiser_calls"] == (2, 1) and found["fitting_tries"]["denoiser_calls"] == (10, 1)
    said = "At equal denoiser calls A has the best of 2, all its seeds, where 10 would cost as much."
    assert said in table_of(found) and said in page_of(found)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        (
            "thresholds",
            {"settings": {"thresholds": {"threshold": 0.3}}},
            {"settings": {"thresholds": {"threshold": 0.5}}},
        ),
        ("the judge's weights", {"weights": {"judge": "aa"}}, {"weights": {"judge": "bb"}}),
    ],
)
def test_runs_that_were_judged_otherwise_are_not_compared(tmp_path, name, one, other):
    a, b = made_run(tmp_path / "a", {0: [1.0]}, **one), made_run(tmp_path / "b", {0: [1.0]}, **other)
    with pytest.raises(InputError, match=f"differ in {name}: .*; compare runs of one suite that were judged alike"):
        compare(a, b)


def test_one_prompt_has_no_interval(tmp_path):
    a, b = made_run(tmp_path / "a", {0: [0.0]}), made_run(tmp_path / "b", {0: [1.0]})
    found = compare(a, b)
    assert (found["overall"]["difference"], found["overall"]["ci95"]) == (1.0, None)
    assert "| overall | 0.000 | 1.000 | +1.000 |" in page_of(found) and "+1.000" in table_of(found)
    check_schema(json.loads(json.dumps({**found, "command": "eval compare"})))


def test_runs_are_called_so_that_they_are_told_apart(tmp_path, monkeypatch):
    a, b = made_run(tmp_path / "sd15" / "run", {0: [0.0]}), made_run(tmp_path / "lora" / "run", {0: [1.0]})
    assert [compare(a, b)[r]["run"] for r in "ab"] == ["sd15/run", "lora/run"]
    monkeypatch.chdir(a)
    found = compare(Path(), Path("../../lora/run"))
    assert [found[r]["run"] for r in "ab"] == ["sd15/run", "lora/run"]
    write_comparison(found, Path(), b, tmp_path / "out")
    assert '"against":"sd15/run"' in (tmp_path / "out" / "index.html").read_text("utf8")


def test_no_text_breaks_the_table(tmp_path):
    found = compare(made_run(tmp_path / "a", {0: [0.0]}), made_run(tmp_path / "b", {0: [1.0]}))
    found["tags"][0]["name"] = found["best"][0]["prompt"] = "a|b\nc"
    assert page_of(found).count("a\\|b c |") == 2


def test_where_tags_weigh_alike_so_do_their_differences(tmp_path):
    scores = {0: [0.0], 2: [0.0], 4: [0.0], 1: [0.0]}
    a = made_run(tmp_path / "a", dict(sorted(scores.items())), mean_of_tags=("even", "odd"))
    b = made_run(tmp_path / "b", {n: [1.0 if n == 1 else 0.0] for n in sorted(scores)}, mean_of_tags=("even", "odd"))
    assert compare(a, b)["overall"]["difference"] == 0.5  # of even and odd, not of four prompts
    assert compare(a, b)["overall"]["ci95"] is None  # of one odd prompt nobody knows how others would be
    with pytest.raises(InputError, match="holds no run"):
        compare(a, tmp_path)
    lacking = made_run(tmp_path / "c", {0: [1.0]}, mean_of_tags=("even", "odd"))
    summary = json.loads((lacking / "summary.json").read_text())
    assert summary["overall"]["mean"] is None and summary["missing_tags"] == ["odd"]
    found = compare(lacking, b)
    assert found["overall"]["a"] is found["overall"]["difference"] is found["overall"]["ci95"] is None
    assert found["missing_tags"] == ["odd"] and found["tags"][0]["difference"] == -1.0
    assert "No figure of the whole: no prompt of both is tagged odd." in table_of(found)
    check_schema(json.loads(json.dumps({**found, "command": "eval compare"})))


# --- the command line -------------------------------------------------------------------------------------------------
def test_eval_from_the_command_line(accord_cli, pictures, tmp_path):
    words = ("eval", "scenes", "--images", pictures, "--prompts", pictures / "p.txt", "--device", "cpu")
    code, out, err = accord_cli(*words, "--out", "a", "--json")
    assert code == 0, err
    data = json.loads(out)
    assert data["finished"] and data["summary"]["pictures"] == 12 and data["pictures"] == 12
    code, out, _ = accord_cli(*words, "--seeds", 1, "--out", "b")
    assert code == 0 and "right" in out and "1.000" in out
    code, out, _ = accord_cli("eval", "compare", "a", "b", "--out", "c", "--json")
    assert code == 0 and json.loads(out)["overall"]["b"] == 1.0
    assert json.loads(Path("c/compare.json").read_text())["overall"] == json.loads(out)["overall"]
    assert_refused(accord_cli(*words, "--seeds", 1, "--out", "a"), "begun with", "give another --out")
    assert accord_cli("eval", "merge", "b", "--json")[0] == 0
    about = json.loads(Path("a/run.json").read_text())
    check_schema(about)
    check_schema(json.loads(Path("a/summary.json").read_text()))
    assert about["versions"]["torch"] == torch.__version__ and about["settings"]["images"] == str(pictures)


def test_generating_for_a_suite(accord_cli, tmp_path):
    words = "eval scenes --model lab --every 256 --seeds 2 --steps 1 --device cpu --batch-size 2 --out r --json".split()
    code, _, err = accord_cli(*words)
    assert code == 0, err
    rows = list(read_typed(Path("r/rows.parquet"), "rows"))
    assert [(r["number"], r["seed"]) for r in rows] == [(0, 1001), (0, 1002), (256, 1001), (256, 1002)]
    assert all(r["denoiser_calls"] == 2 and r["seconds"] > 0 for r in rows)  # one step, both halves
    own = accord.generate(accord.load(device="cpu"), rows[2]["prompt"], 1001256, num_inference_steps=1, batch_size=1)[0]
    kept = np.asarray(Image.open(Path("r") / rows[2]["file_name"])).astype(int)
    assert np.abs(kept - np.asarray(own)).max() <= 1
    assert json.loads(Path("r/run.json").read_text())["settings"]["num_inference_steps"] == 1
    assert_refused(accord_cli(*words[:-5], "--out", "r", "--lora", "lab"), "was begun with lora None")


def test_a_lab_picture_that_is_wrong_says_what_was_asked_and_what_was_read():
    record = Record(0, "x", about={"ask": ask_of("two red stars on a white background")})
    wrong = Scenes().judge([record], [picture(KEY)])[0]
    assert wrong.reasons == ["asked: two red stars on white; read: blue key on white", "wrong: noun, color, count"]
    right = Scenes().judge([replace(record, about={"ask": ask_of("a big blue key")})], [picture(KEY)])[0]
    assert right.verdict and right.reasons == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("bogus", "suite 'bogus' is unknown; use checks"),
        ("scenes", "give --images DIR or --model ID"),
        ("scenes --model lab --images .", "give --images DIR or --model ID"),
        ("scenes --images . --steps 3", "--steps is not used with --images"),
        ("scenes --images . --dtype float32", "--dtype is not used with --images"),
        ("checks --model lab", "needs --prompts"),
        ("checks --model lab --prompts no.txt", "'no.txt' does not exist"),
        ("scenes --images nowhere", "'nowhere' does not exist"),
        ("scenes --model lab --shard 3/2", "shard '3/2' is not I/N"),
        ("scenes --model nobody/nothing --out new", "nobody/nothing"),
        ("scenes --model lab --call nothing=1 --every 512 --out new", "takes no nothing"),
        ("compare a b", "holds no run"),
        ("merge a", "holds no run"),
        ("merge a b", "give it as --out"),
    ],
)
def test_eval_refuses_in_one_sentence(accord_cli, words, part):
    assert_refused(accord_cli("eval", *words.split()), part)
    assert not Path("new").exists()


def test_questions_need_a_judge_that_answers(accord_cli):
    Path("q.csv").write_text("prompt,question,answer\na cat,a cat?,yes\n")
    words = ("eval", "questions", "--prompts", "q.csv", "--model", "lab")
    assert_refused(accord_cli(*words), "--judge is missing")


def test_the_suite_of_the_lab_reads_the_labs_prompts_alone(tmp_path):
    (tmp_path / "p.txt").write_text("a red star\na green elephant\n", encoding="utf8")
    skipped = PairsFile()
    assert [r.prompt for r in accord_lab.suite.Scenes.records(tmp_path / "p.txt", skipped)] == ["a red star"]
    assert skipped.skipped[0]["row"] == 2 and "no 'elephant'" in skipped.skipped[0]["reason"]


# --- geneval ----------------------------------------------------------------------------------------------------------
def test_geneval_from_the_command_line_with_tiny_models(accord_cli, tmp_path):
    from tiny_detectors import tiny_mask2former

    from accord.embedded import CLIP

    assert accord_cli("eval", "prompts", "--count", 12, "--out", "p.jsonl", "--json")[0] == 0
    records = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    for number, record in enumerate(records[:6]):
        place = tmp_path / "pictures" / f"{number:05d}"
        (place / "samples").mkdir(parents=True)
        (place / "metadata.jsonl").write_text(json.dumps(record))
        for sample in range(2):
            Image.new("RGB", (64, 64), (40 * number, 90 * sample, 9)).save(place / "samples" / f"{sample:04d}.png")
    words = ("eval", "geneval", "--images", "pictures", "--detector", tiny_mask2former(), "--clip", CLIP)
    code, out, err = accord_cli(*words, "--device", "cpu", "--threshold", 0.0, "--out", "r", "--json")
    assert code == 0, err
    summary = json.loads(out)["summary"]
    assert summary["pictures"] == 12 and set(summary["tags"]) == {r["tag"] for r in records[:6]}
    assert summary["overall"]["mean"] == pytest.approx(np.mean([t["mean"] for t in summary["tags"].values()]), abs=1e-3)
    rows = list(read_typed(Path("r/rows.parquet"), "rows"))
    assert any(r["regions"] for r in rows) and all(0 <= v <= 1 for r in rows for g in r["regions"] for v in g["box"])
    assert all(r["reasons"] for r in rows if not r["verdict"])
    about = json.loads(Path("r/run.json").read_text())
    assert about["settings"]["thresholds"]["threshold"] == 0 and about["settings"]["thresholds"]["most"] == 16
    theirs = [
        {"filename": f"/x/{r['number']:05d}/samples/{r['seed']:04d}.png", "tag": r["tags"][0], "correct": r["verdict"]}
        for r in rows
    ]
    theirs[0]["correct"] = not theirs[0]["correct"]
    Path("v.jsonl").write_text("".join(json.dumps(v) + "\n" for v in theirs))
    code, out, _ = accord_cli("eval", "agreement", "r", "v.jsonl", "--json")
    assert code == 0 and json.loads(out)["overall"]["agreement"] == pytest.approx(11 / 12)
    assert json.loads(out)["differ"] == ["00000/samples/0000.png"]
    code, _, err = accord_cli(*words, "--prompts", "p.jsonl", "--threshold", 2, "--out", "n")
    assert code == 2 and "threshold must be in 0..1" in err


# --- chat models ------------------------------------------------------------------------------------------------------
def test_a_question_says_how_it_is_answered(tmp_path):
    """A chat model that is not told begins with "The", whatever is in the picture."""
    rows = [
        ("Is there a cat?", "yes", None, "Answer yes or no."),
        ("Is there a dog?", "No", ["Yes", "No"], "Answer yes or no."),
        ("What color is it?", "red", ["blue", "red", "sea green"], "Answer with one of: blue, red, sea green."),
        ("What animal?", "cat", ["dog", "bird"], "Answer with one of: bird, cat, dog."),
        ("What is it doing?", "sleeping", None, "Answer in one word."),
    ]
    file = tmp_path / "own.jsonl"
    lines = [
        {"prompt": "a {red} cat", "question": q, "answer": a} | ({"choices": c} if c else {}) for q, a, c, _ in rows
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (record,) = Questions.records(file, PairsFile())
    assert [a.text for a in record.about["asked"]] == [f"{q} {how}" for q, _, _, how in rows]
    assert [len(a.answers) for a in record.about["asked"]] == [2, 2, 3, 3, 1]


def test_a_broken_row_of_questions_is_skipped_whole_and_in_a_sentence(tmp_path):
    pairs, file, skipped = [["A cat?", "Yes"], ["Two?", "Yes"]], tmp_path / "g.jsonl", PairsFile()
    rows = [
        {"prompt": "a", "vqa_list": [*pairs, ["Red?"]]},
        {"prompt": "b", "vqa_list": pairs, "skills": ["object", "count", "color"]},
        {"prompt": "c", "vqa_list": pairs, "skills": 2},
        {"prompt": "d", "vqa_list": []},
        {"prompt": "e", "vqa_list": pairs, "skills": ["object", "count"]},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = suite_named("geneval2").records(file, skipped)
    assert [(r.prompt, len(r.about["asked"])) for r in found] == [("e", 2)]
    assert [s["reason"] for s in skipped.skipped] == [
        "its vqa_list holds no pairs of question and answer",
        "its vqa_list has 2 questions, and its skills are 3; give each question one",
        "its skills are no list; give each question one",
        "its vqa_list is empty",
    ]


def test_suites_of_questions_with_a_tiny_chat_model(tmp_path):
    """The figures of the suites are those of `vqa_score` and `soft_tifa`, of pictures of two sizes in one batch."""
    from tiny_judges import shared

    from accord.data.images import to_tensor
    from accord.judges.vqascore import soft_tifa, vqa_score

    judge = shared("qwen25")
    images = [Image.new("RGB", size, color) for size, color in (((56, 56), "red"), ((56, 84), "blue"))]
    pixels = [to_tensor(image) for image in images]
    prompts = ["a red star", "a blue key"]
    records = [Record(i, p) for i, p in enumerate(prompts)]
    found = suite_named("vqascore")(answers=judge).judge(records, images)
    wanted = [vqa_score(judge, x, [p])[0] for x, p in zip(pixels, prompts, strict=True)]
    assert [j.score for j in found] == pytest.approx(wanted, abs=1e-6)
    pairs = [["How many stars are there?", "two"], ["Is there a star?", "Yes"]]
    (tmp_path / "g.jsonl").write_text(
        "".join(json.dumps({"prompt": p, "vqa_list": pairs, "skills": ["count", "object"]}) + "\n" for p in prompts)
    )
    kind = suite_named("geneval2")
    found = kind(answers=judge).judge(kind.records(tmp_path / "g.jsonl", PairsFile()), images)
    for judged, x in zip(found, pixels, strict=True):
        of = soft_tifa(judge, x, [[tuple(p) for p in pairs]])
        assert 100 * judged.figures["AM"] == pytest.approx(of.am, abs=1e-3) and 100 * judged.score == pytest.approx(
            of.gm, abs=1e-3
        )


def test_the_walk_of_the_how_to_with_tiny_models(accord_cli, tmp_path):
    """docs/how-to/evaluate-your-model.md: a model, the same with an adapter, and what the adapter has changed."""
    from conftest import tiny_pipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = tiny_pipeline("sd1")
    pipe.save_pretrained("model")
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=64, target_modules=["to_q", "to_v"], init_lora_weights=False))
    pipe.save_lora_weights("lora", unet_lora_layers=get_peft_model_state_dict(pipe.unet))
    Path("my.txt").write_text("a red star\na blue key and a green fish\n?!\n", encoding="utf8")
    words = "eval checks --prompts my.txt --model model --judge lab --seeds 2 --steps 2 --device cpu --json".split()
    for more in (("--out", "base"), ("--lora", "lora", "--out", "tuned")):
        code, out, err = accord_cli(*words, *more)
        assert code == 0 and json.loads(out)["summary"]["pictures"] == 4, err
        assert json.loads(out)["skipped_rows"][0]["row"] == 3 and (Path(more[-1]) / "index.html").is_file()
    code, out, _ = accord_cli("eval", "compare", "base", "tuned", "--out", "both", "--json")
    data = json.loads(out)
    assert code == 0 and data["prompts"] == 2 and data["same_seeds"] == 4 and data["overall"]["difference"] != 0
    assert {"noun", "color"} <= {t["name"] for t in data["tags"]}
    assert {"index.html", "compare.json", "compare.md"} <= {p.name for p in Path("both").iterdir()}
    assert len(list(Path("both/thumbnails").iterdir())) == 8, "each picture of both runs has a copy of its own"
    one, two = (np.asarray(Image.open(f"{run}/images/00000-0.png")).astype(int) for run in ("base", "tuned"))
    assert np.abs(one - two).max() > 1


# --- long checks ------------------------------------------------------------------------------------------------------
MANY = """
import os, resource, sys
from pathlib import Path
from PIL import Image
from accord.evaluation.pictures import Found
from accord.evaluation.registry import Judged, Record, Suite
from accord.evaluation.run import Task, run_suite

class Red(Suite):
    name = figure = "red"
    @classmethod
    def records(cls, path, skipped):
        return [Record(n, f"prompt {n}") for n in range(int(sys.argv[2]))]
    def judge(self, records, images):
        return [Judged(i.getpixel((0, 0))[0] / 255, reasons=["a reason"] * 3) for i in images]

folder = Path(sys.argv[1])
(folder / "p").mkdir()
Image.new("RGB", (64, 64), "red").save(folder / "one.png")
records = Red.records(None, None)
for record in records:
    os.link(folder / "one.png", folder / "p" / f"{record.number:05d}-0.png")
task = Task(Red, records, Found(folder / "p"), Red, (), {"settings": {}, "judges": {}, "device": "cpu"})
assert run_suite(task, folder / "r")["summary"]["pictures"] == len(records)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def memory_of(folder, count):
    """Peak of memory, in MiB, of a process that judges so many pictures."""
    import subprocess
    import sys

    folder.mkdir()
    done = subprocess.run([sys.executable, "-c", MANY, folder, str(count)], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_pictures(tmp_path):
    few, many = memory_of(tmp_path / "few", 1000), memory_of(tmp_path / "many", 10_000)
    print(f"1,000 pictures: {few:.0f} MiB, 10,000: {many:.0f} MiB")
    assert many < few + 128  # rows as they are shown on the page; the pictures alone would take 110 MiB


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_ends_with_the_same_tables(tmp_path):
    import sys

    sys.path.insert(0, str(Path(__file__).parent / "robustness"))
    import kill

    assert kill.main(["--command", "eval", "--count", "20"]) == 0


@pytest.mark.slow
def test_the_suite_of_the_lab_has_the_plain_row_of_scenebench(accord_cli):
    """Same prompts, same noise, same reader: the row `base` of the quick table."""
    table = json.loads((Path(__file__).parents[1] / "docs" / "bench" / "scenes-quick.json").read_text())
    wanted = next(r for r in table["rows"] if r["method"] == "base")
    words = "eval scenes --model lab --every 32 --seeds 2 --device cpu --out r --json".split()
    summary = json.loads(accord_cli(*words)[1])["summary"]
    assert (summary["overall"]["mean"], summary["overall"]["ci95"]) == (wanted["overall"], wanted["ci95"])
    tags = {name: figure["mean"] for name, figure in summary["tags"].items()}
    assert tags.pop("held out") == wanted["heldout"] and tags == wanted["by_category"]
    assert summary["denoiser_calls"] == wanted["denoiser_calls"]


def test_many_questions_that_need_each_other_take_no_time():
    """All before each, and a chain; each was once asked for all of them again and again."""
    every = [Asked("q", (("yes",), ("no",)), "t", n, tuple(range(n))) for n in range(200)]
    chain = [Asked("q", (("yes",), ("no",)), "t", n, (n - 1,) if n else ()) for n in range(1500)]
    yes, no = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    assert verdicts(every, [yes] * 200) == [True] * 200
    assert verdicts(every, [yes] * 100 + [no] + [yes] * 99) == [True] * 100 + [False] * 100
    assert verdicts(chain, [yes] * 1500)[-1] and not verdicts(chain, [no, *[yes] * 1499])[-1]


def test_a_damaged_record_of_a_run_is_one_sentence(tmp_path):
    (tmp_path / "run.json").write_text('{"schema": "accord.run/1", "suite": "geneval"}')
    with pytest.raises(InputError, match=r"run\.json of the run in .* says no figure; run it again"):
        read_about(tmp_path)
