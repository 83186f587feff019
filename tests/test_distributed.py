"""Work on a cluster of Ray: sources, engine and the commands with `--engine ray`, on a real cluster of two workers."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from accord.distributed.cluster import Cluster
from accord.distributed.engine import run_rows, worked
from accord.distributed.places import around, place_of, within
from accord.distributed.sources import Done, of_place, of_rows
from accord.types import InputError

CLUSTER = Cluster(workers=2)


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine, for all tests of this file."""
    with CLUSTER.opened() as module:
        module.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not find this file
        yield module
        module.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def source(count):
    rows = [{"id": f"{i:03d}", "prompt": f"prompt {i}"} for i in range(count)]
    return lambda done: (of_rows(rows, done, 4), None)


def table_of(out, kind="rows"):
    parts = sorted((Path(str(out)) / kind).glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


@dataclass(frozen=True)
class Lengths:
    """The length of each prompt; some rows fail, and the first worker at `dies_at` is killed, once."""

    notes: str = ""
    dies_at: str = ""
    fails: tuple[str, ...] = ()
    refuses: str = ""
    settings: dict = field(default_factory=dict)
    kinds: dict = field(default_factory=lambda: {"length": "int64", "process": "int64"})

    def load(self):
        if self.refuses:
            raise InputError(self.refuses)
        return "weights", self.lengths

    def lengths(self, rows):
        for row in rows:
            if row["id"] == self.dies_at and not os.path.exists(self.notes):
                Path(self.notes).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if row["id"] in self.fails:
                raise ValueError("too short")
        return [{"length": len(row["prompt"]), "process": os.getpid()} for row in rows]


# --- engine -----------------------------------------------------------------------------------------------------------
def test_each_row_is_there_once_though_a_worker_is_killed_and_the_job_is_stopped(ray, tmp_path):
    out = place_of(tmp_path / "out")
    work = Lengths(str(tmp_path / "died"), dies_at="013", fails=("003", "007"))
    first = run_rows(work, source(40), out, CLUSTER, batch_size=4)
    assert (tmp_path / "died").exists()
    assert (first["made"], first["kept"], first["failures"]) == (38, 0, 2)
    assert {row["id"]: row["reason"] for row in table_of(out, "failed")} == {
        "003": "ValueError: too short",
        "007": "ValueError: too short",
    }
    before = {row["id"]: row["process"] for row in table_of(out)}
    assert len(before) == 38 and len(set(before.values())) > 1
    again = run_rows(Lengths(), source(44), out, CLUSTER, batch_size=4)  # what failed, and four more
    assert (again["made"], again["kept"], again["failures"]) == (6, 38, 0)
    rows = table_of(out)
    assert sorted(row["id"] for row in rows) == [f"{i:03d}" for i in range(44)]
    assert all(row["length"] == len(f"prompt {int(row['id'])}") for row in rows)
    assert before.items() <= {row["id"]: row["process"] for row in rows}.items()
    assert not table_of(out, "failed")
    assert run_rows(Lengths(), source(44), out, CLUSTER)["made"] == 0


@pytest.mark.slow
def test_a_share_of_failures_stops_the_job_and_keeps_what_was_made(ray, tmp_path):
    fails = tuple(f"{i:03d}" for i in range(0, 200, 3))
    with pytest.raises(InputError, match=r"rows failed, more than a share of 0\.2"):
        run_rows(Lengths(fails=fails), source(200), place_of(tmp_path / "out"), CLUSTER, 4, failures=0.2)
    assert table_of(tmp_path / "out")
    told = run_rows(Lengths(fails=fails), source(200), place_of(tmp_path / "out"), CLUSTER, 4, failures=1.0)
    assert told["kept"] and told["kept"] + told["made"] == 133


@pytest.mark.slow
def test_other_settings_and_models_that_cannot_be_loaded_are_refused(ray, tmp_path):
    out = place_of(tmp_path / "out")
    with pytest.raises(InputError, match="no such model"):
        run_rows(Lengths(refuses="there is no such model"), source(3), out, CLUSTER)
    assert not list((tmp_path / "out").glob("rows/*"))
    run_rows(Lengths(settings={"model": "a"}), source(3), out, CLUSTER)
    with pytest.raises(InputError, match="begun with model='a', not 'b'"):
        run_rows(Lengths(settings={"model": "b"}), source(3), out, CLUSTER)


def test_a_fault_stays_with_its_row():
    def lengths(rows):
        return Lengths(fails=("b",)).lengths(rows)

    rows = [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y"}, {"id": "c", "prompt": "zz", "wrong": "no image"}]
    good, failed, broken = worked(lengths, rows)
    assert good["length"] == 1
    assert str(failed) == "ValueError: too short" and str(broken) == "no image"


# --- sources ----------------------------------------------------------------------------------------------------------
def png(color="red", size=8):
    data = io.BytesIO()
    Image.new("RGB", (size, size), color).save(data, "PNG")
    return data.getvalue()


def rows_of(place, needs=("image",), done=(), seeds=None):
    data, _ = of_place(place_of(place), Done(done), needs, seeds)
    return [] if data is None else sorted(data.take_all(), key=lambda row: row["id"])


def test_tables_are_read_with_pictures_as_bytes_or_places(ray, tmp_path):
    table = pa.table({"id": ["1", "2"], "image": [{"bytes": png(), "path": "a"}] * 2, "prompt": ["a", " b  c "]})
    pq.write_table(table, tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text(
        '{"id": 1, "image": "a.png", "prompt": "a", "seed": 3}\n{"id": 2, "image": null, "prompt": "b", "seed": -1}\n'
    )
    whole = rows_of(tmp_path / "rows.parquet", ("image", "prompt"))
    assert [(row["id"], row["prompt"], row["image"]) for row in whole] == [("1", "a", png()), ("2", "b c", png())]
    named, broken = rows_of(f"file://{tmp_path}/rows.jsonl", ("image", "prompt"))
    assert named["place"] == f"{tmp_path}/a.png" and named["seed"] == 3 and named["wrong"] is None
    assert "its seed '-1' is no whole number" in broken["wrong"]
    assert [row["id"] for row in rows_of(tmp_path / "rows.parquet", done=["1"])] == ["2"]
    both = rows_of(tmp_path / "rows.jsonl", ("prompt",), seeds=(0, 1))
    assert [row["id"] for row in both] == ["1-s3", "2-s0", "2-s1"]


def test_archives_and_folders_of_pictures_are_read(ray, tmp_path):
    with tarfile.open(tmp_path / "shard-000.tar", "w") as archive:
        for name, data in (
            ("a.png", png()),
            ("a.txt", b"a red star"),
            ("b.jpg", b"none"),
            ("b.json", b'{"prompt": 3}'),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    first, second = rows_of(tmp_path / "shard-000.tar", ("image", "prompt"))
    assert (first["id"], first["prompt"], first["image"]) == ("shard-000.tar/a", "a red star", png())
    assert second["wrong"] == "no prompt"
    pictures = tmp_path / "pictures" / "deep"
    pictures.mkdir(parents=True)
    for name in ("one.png", "two.png", ".hidden.png"):
        (pictures / name).write_bytes(png())
    assert [row["id"] for row in rows_of(tmp_path / "pictures")] == ["deep/one.png", "deep/two.png"]
    assert [row["id"] for row in rows_of(tmp_path / "pictures", done=["deep/one.png"])] == ["deep/two.png"]


@pytest.mark.parametrize(
    ("make", "needs", "said"),
    [
        (lambda p: pq.write_table(pa.table({"prompt": ["a"]}), p / "a.parquet"), ("prompt",), "has no column 'id'"),
        (lambda p: pq.write_table(pa.table({"id": ["a"]}), p / "a.parquet"), ("prompt",), "has no prompt column"),
        (lambda p: (p / "a.md").write_text("x"), ("image",), "holds nothing that is read"),
        (lambda p: (p / "a.png").write_bytes(png()), ("prompt",), "holds pictures without prompts"),
        (lambda p: [(p / n).write_text("id\n1\n") for n in ("a.csv", "b.jsonl")], ("image",), "files of several kinds"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused(ray, tmp_path, make, needs, said):
    make(tmp_path)
    with pytest.raises(InputError, match=said):
        of_place(place_of(tmp_path), Done(), needs)


def test_digests_find_what_is_done():
    names = [str(i) for i in range(1000)]
    done = Done(names[::2])
    assert np.array_equal(done.of(names), [i % 2 == 0 for i in range(1000)])
    assert len(done) == 500 and "4" in done and "5" not in done
    assert not Done().of(names).any()


def test_an_address_that_lost_a_slash_is_the_same_place(tmp_path):
    assert place_of(Path(f"file://{tmp_path}/a")) == place_of(f"file://{tmp_path}/a")
    assert place_of(tmp_path / "a").local == tmp_path / "a"
    with pytest.raises(InputError, match="cannot be used"):
        place_of("s3://?bucket")


# --- commands ---------------------------------------------------------------------------------------------------------
PROMPTS = ["two green fish", "a red star", "a blue key and a pink heart"]


@pytest.fixture
def pairs(tmp_path):
    """A table of pictures of the lab with their prompts, and one that is no picture."""
    from accord_lab.scenes.render import render
    from accord_lab.scenes.scene import sample_scene

    rng, rows = np.random.default_rng(5), []
    for number in range(6):
        Image.fromarray(render(sample_scene(rng))).save(tmp_path / f"{number}.png")
        rows.append({"id": number, "image": f"{number}.png", "prompt": PROMPTS[number % 3]})
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows.append({"id": 6, "image": "broken.png", "prompt": PROMPTS[0]})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "pairs.jsonl"


def test_score_on_two_workers_is_score_in_one_process(ray, accord_cli, pairs, tmp_path):
    assert accord_cli("score", "--pairs", pairs, "--out", "one.jsonl")[0] == 0
    code, out, _ = accord_cli(
        "score", "--pairs", pairs, "--out", "many", "--engine", "ray", "--num-workers", 2, "--batch-size", 2,
        "--max-failures", 1, "--json",
    )  # fmt: skip
    assert code == 0
    told = json.loads(out)
    assert (told["made"], told["failures"]) == (6, 1) and told["failed"][0]["id"] == "6"
    one = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    many = {row["id"]: row for row in table_of("many")}
    assert len(many) == len(one) == 6
    for row in one:
        other = many[row["image"].removesuffix(".png")]
        assert other["overall"] == pytest.approx(row["overall"], abs=1e-5)
        assert [w["text"] for w in other["words"]] == [w["text"] for w in row["words"]]
        assert other["caption"] == row["caption"] and other["passes"] == row["passes"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["generate", "realign"])
def test_pictures_of_two_workers_are_those_of_one_process(ray, accord_cli, tmp_path, command):
    (tmp_path / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in [*PROMPTS, "a star " * 40]))
    told = [command, "--prompts", "prompts.txt", "--steps", 4, "--seed", 1, "--seed", 2, "--batch-size", 2]
    assert accord_cli(*told, "--out", "one")[0] == 0
    code, _, _ = accord_cli(*told, "--out", "many", "--engine", "ray", "--num-workers", 2, "--max-failures", 1)
    assert code == 0
    rows = {(row["prompt"], row["seed"]): row for row in table_of("many")}
    lines = [json.loads(line) for line in (tmp_path / "one" / "manifest.jsonl").read_text().splitlines()]
    done = [line for line in lines if line["status"] == "done"]
    assert len(done) == len(rows) == 6
    assert len(table_of("many", "failed")) == 2  # a prompt that is too long, with both seeds
    for line in done:
        row = rows[line["prompt"], line["seed"]]
        assert row["file"] == line["file"]
        pictures = [np.asarray(Image.open(tmp_path / where / row["file"])).astype(int) for where in ("one", "many")]
        assert np.abs(pictures[0] - pictures[1]).max() <= 2  # other company in a batch is other rounding


@pytest.mark.slow
def test_invert_on_two_workers_is_invert_in_one_process(ray, accord_cli, pairs, tmp_path):
    (tmp_path / "broken.png").unlink()
    assert accord_cli("invert", "--pairs", pairs, "--out", "one.parquet", "--words-only")[0] == 0
    told = ("--engine", "ray", "--num-workers", 2, "--max-failures", 1, "--words-only")
    assert accord_cli("invert", "--pairs", pairs, "--out", "many", *told)[0] == 0
    one, many = pq.read_table(tmp_path / "one.parquet").to_pylist(), {row["id"]: row for row in table_of("many")}
    assert len(one) == len(many) == 6
    for row in one:
        other = many[row["image"].removesuffix(".png")]
        assert np.allclose(other["embedding"], row["embedding"], atol=1e-4)
        assert [w["word"] for w in other["words"]] == [w["word"] for w in row["words"]]


@pytest.mark.slow
def test_a_run_of_eval_on_two_workers_is_one_of_one_process(ray, accord_cli, tmp_path):
    (tmp_path / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    told = [
        "eval",
        "checks",
        "--prompts",
        "prompts.txt",
        "--model",
        "lab",
        "--steps",
        4,
        "--batch-size",
        2,
        "--seeds",
        2,
    ]
    assert accord_cli(*told, "--out", "one")[0] == 0
    assert accord_cli(*told, "--out", "many", "--engine", "ray", "--num-workers", 2)[0] == 0
    one, many = (json.loads((tmp_path / n / "summary.json").read_text()) for n in ("one", "many"))
    assert one["overall"]["mean"] == pytest.approx(many["overall"]["mean"], abs=1e-4)
    assert one["pictures"] == many["pictures"] == 6
    weights = [json.loads((tmp_path / n / "run.json").read_text())["weights"] for n in ("one", "many")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_pairs_of_two_workers_are_those_of_one_process(ray, accord_cli, monkeypatch, tmp_path):
    (tmp_path / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    told = ["pairs", "make", "--prompts", "prompts.txt", "--steps", 2]
    assert accord_cli(*told, "--out", "one")[0] == 0
    assert accord_cli(*told, "--out", "many", "--engine", "ray", "--num-workers", 2)[0] == 0
    names = [sorted(p.relative_to(tmp_path / n).as_posix() for p in (tmp_path / n).rglob("*")) for n in ("one", "many")]
    assert names[0] == names[1]
    for name in names[0]:
        if name.endswith(".png"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


@pytest.mark.slow
def test_a_job_of_two_nodes_is_one_of_this_machine(ray, accord_cli, pairs, tmp_path):
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        nodes.add_node(num_cpus=2)
        told = ["score", "--pairs", str(pairs), "--engine", "ray", "--num-workers", "2", "--batch-size", "2"]
        told += ["--max-failures", "1", "--address", nodes.address, "--out", "many"]
        subprocess.run([sys.executable, "-m", "accord.cli", *told], cwd=tmp_path, check=True)
    finally:
        nodes.shutdown()
    assert accord_cli("score", "--pairs", pairs, "--out", "one.jsonl")[0] == 0
    one = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    many = {row["id"]: row for row in table_of("many")}
    for row in one:
        assert many[row["image"].removesuffix(".png")]["overall"] == pytest.approx(row["overall"], abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "a star", "--engine", "spark"], "--engine 'spark' is unknown; use local or ray"),
        (["generate", "a star", "--num-workers", 2], "--num-workers is not used without --engine ray"),
        (["generate", "a star", "--engine", "ray"], "works on --prompts FILE"),
        (["score", "a.png", "a star", "--engine", "ray"], "--engine is not used without --pairs or --prompts"),
        (["score", "--pairs", "none", "--out", "x", "--engine", "ray"], "'none' does not exist"),
        (["invert", "a.png", "--engine", "ray"], "--engine ray inverts --folder or --pairs"),
        (
            ["generate", "--prompts", "p.txt", "--engine", "ray", "--gpus-per-worker", 64],
            "a worker is to have 64 GPUs, and the cluster has 0; give a smaller --gpus-per-worker",
        ),
        (
            ["generate", "--prompts", "p.txt", "--engine", "ray", "--num-workers", 64],
            "64 workers need a core each, and one is needed to read for them",
        ),
    ],
)
def test_what_a_cluster_cannot_do_is_said_in_one_sentence(ray, accord_cli, tmp_path, arguments, said):
    (tmp_path / "p.txt").write_text("a star\n")
    code, out, err = accord_cli(*arguments)
    assert code == 2 and not out
    assert said in err and "Traceback" not in err


# --- S3 ---------------------------------------------------------------------------------------------------------------
@pytest.fixture
def s3(monkeypatch):
    """A store of S3 on this machine with a bucket; how to put an object into it."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"ENDPOINT_URL": f"http://{host}:{port}", "DEFAULT_REGION": "us-east-1"}
    for name, value in {**settings, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    made = place_of("s3://bucket?allow_bucket_creation=true")
    made.system.create_dir(made.path)
    yield lambda name, data: place_of(f"s3://bucket/{name}").write(data)
    server.stop()


def test_what_a_store_refuses_is_said_in_one_sentence(s3, monkeypatch):
    s3("pictures/a.png", png())
    s3("pictures/deep/b.png", png())
    assert list(place_of("s3://bucket/pictures?region=us-east-1").names(".png")) == ["a.png", "deep/b.png"]
    assert place_of("s3://none/pictures").kind() == ""
    with (
        pytest.raises(InputError, match=r"'s3://none/out' cannot be written \(NO_SUCH_BUCKET: .*\); check"),
        place_of("s3://none/out").writing(),
    ):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(InputError, match=r"'s3://bucket/pictures' cannot be reached \(NETWORK_CONNECTION: .*\); check"):
        place_of("s3://bucket/pictures").kind()
    with pytest.raises(InputError, match="cannot be listed"):
        place_of("s3://bucket/pictures").files(".png")


def test_options_of_an_address_stay_at_its_end():
    assert within("s3://bucket/a?region=x", "b.png") == "s3://bucket/a/b.png?region=x"
    assert around("s3://bucket/a/b.parquet?region=x") == "s3://bucket/a?region=x"
    assert within("/a/what?", "b.png") == "/a/what?/b.png" and around("/a?/b.png") == "/a?"


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "checks", "--model", "lab", "--prompts", "p.txt", "--out", "s3://bucket/run", "--engine", "ray"],
        ["pairs", "make", "--prompts", "p.txt", "--out", "s3://bucket/pairs", "--engine", "ray"],
        ["score", "--pairs", "s3://bucket/pairs.parquet", "--out", "scores.jsonl"],
        ["score", "--pairs", "p.jsonl", "--out", "s3://bucket/scores.jsonl"],
        ["generate", "--prompts", "p.txt", "--out", "s3://bucket/pictures"],
    ],
)
def test_an_address_is_refused_where_no_rows_of_ray_are(accord_cli, tmp_path, arguments):
    (tmp_path / "p.txt").write_text("a star\n")
    (tmp_path / "p.jsonl").write_text('{"image": "a.png", "prompt": "a star"}\n')
    code, out, err = accord_cli(*arguments)
    assert code == 2 and not out
    assert "'s3://bucket" in err and "is an address" in err
    assert not list(tmp_path.glob("s3*"))
