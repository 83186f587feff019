"""Command lines that must be refused, and what commands leave, print and keep to themselves."""

import importlib
import io
import json
import os
import re
import resource
import shlex
import sys
import typing
from pathlib import Path

import pytest
import typer
from commands import FLOATS, LEAST, bad_commands
from conftest import assert_refused, names
from PIL import Image

import accord
from accord import cli

# of the bad command lines, some that once ended in a box, in several lines, with a folder left behind, or in work
SAMPLE = """
bogus
train bogus
--bogus
score a b c
info --no-such-option
bench speed --quick=maybe
generate 'a star' --out
realign 'a star' --seed 1.5
edit video.gif --source 'a star'
train lab vae --seed 9999999999999999999999999
train reward --prompts prompts.txt --rank 1.5
train context --gain much
generate 'a star' --steps 1001
generate 'a star' --seed 9223372036854775808
generate 'a star' --model folder --out new
generate 'a star' --model nobody/nothing --out new/deep/out
generate 'a star' --lora folder
realign 'a star' --mode sideways
realign 'a star' --rounds 0 --mode renoise
realign 'a star' --model nobody/nothing --out new/deep
score star.png 'a star' --clip nowhere --out new/report
score --pairs pairs.csv --out new/s.csv --captioner nowhere
score --pairs loop.csv --out s.csv
score --pairs gone.csv --out new/s.csv
edit video.gif --source 'a star' --target 'a key' --model folder --out new/x.gif
edit video.gif --source 'a star' --target 'a key' --clip nowhere --out new/x.gif
invert --folder pictures --out mine.csv
invert --folder pictures --out damaged.csv
invert --folder unreadable --out new/i.csv
invert --pairs gone.csv --out new/i.csv
train inverter --pairs folder --out new
train inverter --pairs pairs.csv --out new
train reward --prompts prompts.txt --pairs gone.csv --out new
train context --pairs gone.csv --out new
pairs make --out made --steps 1.5
pairs videos --out made --frames 1
studio --port 0 --host 0.0.0.0 --folder new
studio --port 0 --host '' --folder new
studio --port 0 --host .. --share-token abcdefghijklmnop --folder new
studio --port 0 --host 'a b' --share-token abcdefghijklmnop --folder new
studio --port 65536
studio --port 0 --share-token short --folder new
studio --port 0 --share-token 'abcdefghijklmnop; path=/' --folder new
studio --port 0 --folder afile
studio --port 0 --folder afile/studio
studio --port 0 --folder /dev/null
studio --port 0 --folder dangling
studio --port 0 --folder badstudio
studio --port 0 --folder oldstudio
studio --port 0 --folder hollowstudio
studio --port 0 --show nowhere --folder new
studio --port 0 --show folder --folder new
studio --port 0 --show afile --folder new
studio --port 0 --inverter nowhere --folder new
studio --port 0 --device toaster --folder new
studio --port 0 --dtype int8 --folder new
eval scenes --model folder --out new
eval checks --model lab --prompts one.txt --judge nowhere --out new/deep
eval geneval --model lab --prompts records.jsonl --detector nowhere --out new
eval scenes --model lab --out lostrun
bench scenes --out table --model folder
bench rewards --out table --model folder
bench invert --out table --kind gan
bench video --out table --quick --so-far
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, list[list[str]]]:
    """A folder with the files of the bad command lines, and these."""
    folder = tmp_path_factory.mktemp("commands")
    return folder, bad_commands(folder)


def star(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (64, 64), "white")
    image.paste("red", (20, 20, 44, 44))
    image.save(path)
    return path


# --- refusals ------------------------------------------------------------------------------------------------------
def test_there_are_many_bad_commands_over_all_commands(files):
    lines = files[1]
    assert len({tuple(line) for line in lines}) >= 250
    for least in LEAST.values():
        assert any(line[: len(least)] == least for line in lines)


@pytest.mark.parametrize("line", [shlex.split(line) for line in SAMPLE.strip().splitlines()], ids=" ".join)
def test_a_bad_command_is_one_line_and_leaves_nothing(accord_cli, monkeypatch, files, line):
    folder, lines = files
    assert line in lines
    monkeypatch.chdir(folder)
    before = names(folder)
    result = accord_cli(*line)
    assert_refused(result)
    assert not re.search(r"`\w+(=True)?`", result[2]), "an argument of the library, and not the command's option"
    assert names(folder) == before, line


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("bogus", "no such command 'bogus'; see accord --help"),
        ("train lab", "missing argument 'part'; see accord train lab --help"),
        ("generate star --steps 0", "'--steps'"),
        ("generate star --seed x", "'--seed'"),
        ("generate star --bogus", "no such option: --bogus"),
        ("score a b c", "unexpected extra argument"),
        ("pairs make", "missing option '--out'"),
    ],
)
def test_a_usage_error_is_one_line(accord_cli, words, part):
    assert_refused(accord_cli(*words.split()), part)


@pytest.mark.parametrize("words", ["", "train", "pairs", "eval", "bench"])
def test_no_words_are_answered_with_the_help(accord_cli, words):
    code, out, err = accord_cli(*words.split())
    assert code == 2 and "Usage: accord" in out and err == ""


@pytest.mark.parametrize("words", ["--help", "--version", "generate --help"])
def test_help_and_version_are_no_errors(accord_cli, words):
    code, out, err = accord_cli(*words.split())
    assert code == 0 and out and err == ""


def test_a_command_that_is_stopped_says_so_in_one_line(accord_cli, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    star(Path("star.png"))
    monkeypatch.setattr(accord, "load_judge", stop)
    assert accord_cli("score", "star.png", "a star") == (130, "", "accord: stopped\n")


def test_every_option_that_takes_a_float_is_tried():
    found = {}
    for path, command in _commands(typer.main.get_command(cli.app)):
        hints = typing.get_type_hints(command.callback)
        takes = [
            p.opts[0] for p in command.params if p.name in hints and float in (hints[p.name], *_parts(hints[p.name]))
        ]
        if takes:
            found[" ".join(path)] = sorted(takes)
    assert found == {name: sorted(options.split()) for name, options in FLOATS.items()}


def _commands(command, path=()):
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, (*path, name))
    if not getattr(command, "commands", {}):
        yield path, command


def _parts(hint):
    return [part for one in typing.get_args(hint) for part in (one, *_parts(one))]


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize(("name", "option"), [(n, o) for n, options in FLOATS.items() for o in options.split()])
def test_a_number_that_is_none_is_refused_by_its_option(accord_cli, files, monkeypatch, name, option, value):
    monkeypatch.chdir(files[0])
    result = accord_cli(*LEAST[name], option, value)
    assert_refused(result, option)
    assert (
        f"{option} must be a finite number" in result[2] or f"invalid value for '{option}'" in result[2]
    )  # of an option with a range


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("realign star --rounds 0 --mode renoise", "--mode"),
        ("edit video.gif --source a --target b --tune-steps 0 --seed 3", "--seed"),
        ("edit video.gif --source a --target b --tune-steps 0 --context", "--context"),
        ("train reward --prompts prompts.txt --strategy sft --reward-weight 1", "--reward-weight"),
        ("train reward --prompts prompts.txt --pretrain-weight 0 --kl-weight 0 --pairs pairs.csv", "--pairs"),
        ("train inverter --pairs pairs.csv --weight 1", "--weight"),
        ("train inverter --pairs pairs.csv --vocabulary-weight 0 --vocabulary-size 1000", "--vocabulary-size"),
        ("train context --gain 0 --estimated-share 1", "--estimated-share"),
        ("bench rewards --so-far --shard 1/2 --out table", "--shard"),
        ("bench context --so-far --shard 1/2 --out table", "--shard"),
        ("bench video --so-far --shard 1/2 --out table", "--shard"),
        ("bench kernel --quick --large --out table", "--large"),
        ("bench invert --only-pairs --steps 5 --out table", "--steps"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(accord_cli, files, monkeypatch, words, option):
    monkeypatch.chdir(files[0])
    assert_refused(accord_cli(*words.split()), f"{option} is not used", "leave it out")


def test_pairs_without_a_readable_picture_are_refused_without_a_bar(accord_cli, files, monkeypatch):
    monkeypatch.chdir(files[0])
    for line in (("train", "context", "--out", "new"), ("train", "reward", "--prompts", "prompts.txt", "--out", "new")):
        assert_refused(
            accord_cli(*line, "--pairs", "gone.csv"),
            "'gone.csv' have no readable picture (row 1: image 'no.png' does not exist)",
        )
    assert_refused(
        accord_cli("score", "--pairs", "gone.csv", "--out", "new/s.csv"), "no row of 'gone.csv' could be scored"
    )
    assert not Path("new").exists()


# --- terminals and JSON --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("encoding", "words", "shown"),
    [
        ("ascii", ["generate", "a rød star", "--steps", "1", "--out", "o"], "a-r\\xf8d-star"),
        ("utf-8", ["pairs", "videos", "--count", "1", "--frames", "2", "--out", os.fsdecode(b"caf\xe9")], "caf\\udce9"),
    ],
)
def test_what_a_terminal_cannot_show_is_escaped(monkeypatch, tmp_path, encoding, words, shown):
    monkeypatch.chdir(tmp_path)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "argv", ["accord", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    terminal.flush()
    assert not end.value.code and shown in terminal.buffer.getvalue().decode(encoding)


def test_json_holds_no_number_that_is_none(capsys):
    from accord.cli.options import emit
    from accord.types import InputError

    with pytest.raises(InputError, match="not finite"):
        emit(True, {"overall": float("nan")}, "")
    assert capsys.readouterr().out == ""


def test_a_result_that_cannot_be_printed_is_refused(monkeypatch):
    from accord.cli.options import emit
    from accord.types import InputError

    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(InputError, match="cannot be printed"):
            emit(False, {}, "text")
        monkeypatch.undo()
        with pytest.raises(OSError):
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def test_a_file_name_fits_into_its_255_bytes():
    from accord.cli.options import file_name

    for prompt in ("𝒳" * 80, "星" * 80, "a star"):
        assert len(f"{file_name(123, prompt, 2**63 - 1)}.png".encode()) <= 255


# --- one writer ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("place", "name", "words"),
    [
        ("o", "", "generate star --steps 1 --out o"),
        ("o", "", "realign star --steps 1 --rounds 0 --out o"),
        (".", "s.csv", "score --pairs pairs.csv --out s.csv"),
        (".", "i.csv", "invert --folder pictures --words-only --out i.csv"),
        (".", "i.csv", "invert --pairs pairs.csv --words-only --out i.csv"),
        (".", "i-00001-of-00002.csv", "invert --folder pictures --words-only --out i.csv --shard 1/2"),
        (".", "new.gif", "edit video.gif --source star --target key --tune-steps 1 --steps 2 --out new.gif"),
        ("o", "shard-1-of-1", "pairs make --count 1 --steps 1 --out o"),
        ("o", "shard-1-of-2", "pairs make --count 1 --steps 1 --out o --shard 1/2"),
        ("o", "", "pairs videos --count 1 --frames 2 --out o"),
        ("o", "context", "bench context --quick --so-far --out o"),
        ("o", "video-shard-2-of-9", "bench video --quick --edits 1 --shard 2/9 --out o"),
        ("o", "speed", "bench speed --quick --out o"),
        ("o", "kernel", "bench kernel --quick --out o"),
    ],
)
def test_a_second_writer_is_refused_at_once(accord_cli, files, monkeypatch, place, name, words):
    from accord.files import only_writer

    monkeypatch.chdir(files[0])
    before = names(files[0])
    with only_writer(Path(place), name):
        assert_refused(accord_cli(*words.split()), "is being written to by another")
    assert names(files[0]) == before


def test_shards_are_made_at_once(accord_cli):
    from accord.files import only_writer

    with only_writer(Path("o"), "shard-2-of-2"):
        code, out, err = accord_cli(
            "pairs", "make", "--count", 1, "--steps", 1, "--shard", "1/2", "--out", "o", "--json"
        )
    assert code == 0, err
    assert json.loads(out)["pairs"] == 1 and not list(Path("o").glob(".accord*"))


# --- what is written -----------------------------------------------------------------------------------------------
def test_inversion_takes_no_file_for_its_own_table(accord_cli, files, monkeypatch):
    monkeypatch.chdir(files[0])
    for name, part in (
        ("mine", "nothing says that accord made it"),
        ("damaged", "'damaged.made.json' is no valid JSON"),
        ("listed", "'listed.made.json' holds no JSON object"),
    ):
        text = Path(f"{name}.csv").read_bytes()
        assert_refused(accord_cli("invert", "--folder", "pictures", "--words-only", "--out", f"{name}.csv"), part)
        assert Path(f"{name}.csv").read_bytes() == text
    for source, path in (("--folder", "unreadable"), ("--pairs", "gone.csv")):
        assert_refused(
            accord_cli("invert", source, path, "--words-only", "--out", "new/i.csv"),
            f"no picture of '{path}' can be read",
        )
    assert not Path("new").exists()


def test_inversion_in_python_takes_no_file_for_its_own_table(tmp_path):
    from accord.methods.invert.bulk import invert_files
    from accord.types import InputError

    picture = star(tmp_path / "star.png")
    (tmp_path / "mine.csv").write_text("a table,of somebody else\n")
    with pytest.raises(InputError, match="nothing says that accord made it"):
        invert_files([picture], tmp_path / "mine.csv")
    (tmp_path / "bad.png").write_text("no picture")
    before = names(tmp_path)
    with pytest.raises(InputError, match="none of 1 pictures can be read"):
        invert_files([tmp_path / "bad.png"], tmp_path / "new.csv")
    assert names(tmp_path) == before


def test_tables_name_pictures_as_they_were_named(accord_cli, tmp_path):
    star(tmp_path / "in" / "deep" / "star.png")
    (tmp_path / "in" / "bad.png").write_text("no picture")
    (tmp_path / "in" / "pairs.csv").write_text(
        "image,prompt\ndeep/star.png,a red star\nbad.png,a key\n", encoding="utf8"
    )
    told = {
        "score": ("score", "--pairs", "in/pairs.csv", "--out", "out/score.jsonl"),
        "pairs": ("invert", "--pairs", "in/pairs.csv", "--words-only", "--out", "out/pairs.jsonl"),
        "folder": ("invert", "--folder", tmp_path / "in", "--words-only", "--out", "out/folder.jsonl"),
    }
    for name, line in told.items():
        code, out, err = accord_cli(*line, "--json")
        assert code == 0, err
        assert [json.loads(row)["image"] for row in Path(f"out/{name}.jsonl").read_text().splitlines()] == [
            "deep/star.png"
        ]
        assert "bad.png" in json.dumps(json.loads(out)["skipped"])
        for path in (p for p in Path("out").rglob("*") if p.is_file()):  # pages and their pictures too
            assert str(tmp_path).encode() not in path.read_bytes(), path
        assert str(tmp_path) not in out
    Path("out/folder.skipped.json").write_text("[1]")
    assert_refused(accord_cli(*told["folder"]), "'out/folder.skipped.json' is no list of pictures and reasons")
    Path("out/folder.skipped.json").write_text("[")
    assert_refused(accord_cli(*told["folder"]), "'out/folder.skipped.json' is no valid JSON")


def test_broken_rows_of_prompts_are_listed_and_the_rest_is_used(accord_cli):
    Path("p.jsonl").write_text('{"prompt": "a red star"}\n{"prompt": \n"a blue key"\n', encoding="utf8")
    code, out, err = accord_cli("pairs", "make", "--prompts", "p.jsonl", "--steps", 1, "--out", "o", "--json")
    data = json.loads(out)
    assert code == 0 and data["pairs"] == 2 and [row["row"] for row in data["skipped"]] == [2]
    assert err.startswith("""skipped row 2 ('{"prompt":'): """)
    star(Path("star.png"))
    code, out, err = accord_cli("invert", "star.png", "--words-only", "--bank", "p.jsonl", "--json")
    data = json.loads(out)
    assert code == 0 and [row["row"] for row in data["skipped"]] == [2] and len(data["results"][0]["retrieved"]) == 2
    assert """skipped row 2 ('{"prompt":'): """ in err


def test_tuning_lists_broken_rows_of_prompts(accord_cli, monkeypatch):
    from accord.types import InputError

    Path("p.jsonl").write_text('{"prompt": "a red star"}\n[\n"a blue key"\n', encoding="utf8")
    asked = []

    def tune(pipe, prompts, *_: object, **__: object) -> None:
        asked.extend(prompts)
        raise InputError("enough")

    monkeypatch.setattr(accord, "train_reward", tune)
    code, _, err = accord_cli(
        "train", "reward", "--prompts", "p.jsonl", "--reward", "clip", "--held-out", "none", "--out", "o"
    )
    assert code == 2 and asked == ["a red star", "a blue key"] and err.startswith("skipped row 2 ('['): ")


def test_a_full_disk_ends_the_making_of_pairs_in_one_line(accord_cli):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    accord_cli("pairs", "make", "--count", 1, "--steps", 1, "--out", "fits", "--json")  # what is loaded once is loaded
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))  # no picture is so small, and a sentence is
    try:
        result = accord_cli("pairs", "make", "--count", 2, "--steps", 1, "--out", "full", "--json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_refused(result, "cannot be written")
    assert not Path("full").exists()


@pytest.mark.timeout(120)
def test_twenty_thousand_prompts_are_checked_together(monkeypatch, tmp_path):
    from accord.types import InputError

    module = importlib.import_module("accord.methods.invert.pairs")

    def drawn(*_: object, **__: object) -> None:
        raise InputError("the run has begun")

    pipe = accord.load(device="cpu")
    monkeypatch.setattr(module, "generate_each", drawn)
    prompts = [f"a red star number {i}" for i in range(20_000)]
    calls, real = [], type(pipe.tokenizer).__call__
    monkeypatch.setattr(type(pipe.tokenizer), "__call__", lambda self, *a, **k: calls.append(1) or real(self, *a, **k))
    with pytest.raises(InputError, match="the run has begun"):
        module.make_pairs(pipe, prompts, tmp_path / "made", num_inference_steps=1)
    assert len(calls) < 20  # and not one for each
