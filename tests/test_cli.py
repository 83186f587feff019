"""The command line: help, clear refusals, and what is loaded when."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from conftest import HEADING, MODELS, assert_refused
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import accord
from accord import cli
from accord.cli.options import file_name
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import Scene, Thing

STAR = Scene("white", (Thing("star", "red", "big", (18, 18, 46, 45)),))


def commands(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every command below one, with the words that lead to it."""
    found = [(path, command)]
    for name, child in getattr(command, "commands", {}).items():
        found += commands(child, (*path, name))
    return found


COMMANDS = commands(typer.main.get_command(cli.app))


def subprocess_call(*arguments: str, folder: Path) -> tuple[int, str, str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "accord.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def star_image(folder: Path, name: str = "star.png") -> Path:
    Image.fromarray(render(STAR)).save(folder / name)
    return folder / name


# --- help ----------------------------------------------------------------------------------------------------------
def test_all_commands_are_there():
    names = {" ".join(path) for path, _ in COMMANDS}
    assert {"generate", "score", "realign", "train lab", "bench scenes", "bench speed", "info"} <= names


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_help_of_every_command_names_its_options(path, command):
    result = CliRunner().invoke(cli.app, [*path, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    said = result.output
    for parameter in command.params:
        assert parameter.help, parameter.name
        shown = parameter.opts[-1] if parameter.param_type_name == "option" else parameter.name
        assert shown in said.lower(), shown
    for name in getattr(command, "commands", {}):
        assert name in said
    assert command.params or command.commands


# --- refusals ------------------------------------------------------------------------------------------------------
def test_score_refuses_a_missing_image(accord_cli):
    assert_refused(accord_cli("score", "no.png", "a star"), "'no.png' does not exist")


def test_score_refuses_a_file_that_is_no_image(accord_cli, tmp_path):
    (tmp_path / "x.png").write_text("no picture")
    assert_refused(accord_cli("score", "x.png", "a star"), "'x.png' cannot be read")


def test_score_refuses_an_empty_prompt(accord_cli, tmp_path):
    assert_refused(accord_cli("score", star_image(tmp_path), "..."), "is empty")


def test_score_refuses_both_kinds_of_input(accord_cli):
    assert_refused(accord_cli("score", "x.png", "a star", "--pairs", "p.csv"), "both --pairs and an IMAGE")


@pytest.mark.parametrize("arguments", [(), ("x.png",)])
def test_score_refuses_nothing_to_score(accord_cli, arguments):
    assert_refused(accord_cli("score", *arguments), "nothing to score")


@pytest.mark.parametrize(
    ("pairs", "out", "part"),
    [
        ("p.txt", "s.csv", "'p.txt' is none of .csv, .jsonl, .parquet"),
        ("p.csv", "s.txt", "'s.txt' is none of"),
        ("p.csv", None, "needs --out"),
        ("p.csv", "s.csv", "'p.csv' does not exist"),
    ],
)
def test_score_refuses_unusable_pairs(accord_cli, pairs, out, part):
    assert_refused(accord_cli("score", "--pairs", pairs, *(["--out", out] if out else [])), part)


def test_score_refuses_an_unknown_judge_and_clip(accord_cli, tmp_path):
    image, nothing = star_image(tmp_path), tmp_path / "nothing"
    for name in ("--judge", "--captioner"):
        assert_refused(accord_cli("score", image, "a star", name, nothing), f"judge '{nothing}' cannot be loaded")
    assert_refused(accord_cli("score", image, "a star", "--clip", nothing), f"CLIP '{nothing}' cannot be loaded")


@pytest.mark.parametrize("command", ["generate", "realign"])
def test_an_unknown_model_is_refused(accord_cli, tmp_path, command):
    (tmp_path / "empty").mkdir()
    nothing = tmp_path / "no" / "such" / "model"
    assert_refused(accord_cli(command, "a star", "--model", nothing), f"'{nothing}'")
    assert_refused(accord_cli(command, "a star", "--model", "empty"), "'empty' holds no pipeline")


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_an_unknown_device_is_refused(accord_cli, tmp_path, device):
    image = star_image(tmp_path)
    (tmp_path / "p.csv").write_text("image,prompt\nstar.png,a star\n", encoding="utf8")
    for command in (
        ("generate", "a star"),
        ("realign", "a star"),
        ("score", image, "a star"),
        ("score", "--pairs", "p.csv", "--out", "s.csv"),
        ("train", "lab", "vae"),
    ):
        assert_refused(accord_cli(*command, "--device", device), f"'{device}'")


@pytest.mark.parametrize("command", ["generate", "realign"])
def test_an_unwritable_out_is_refused_before_any_model_is_read(accord_cli, tmp_path, command):
    (tmp_path / "file").write_text("no folder")
    result = accord_cli(command, "a star", "--model", "no/model", "--out", "file/out")
    assert_refused(result, "'file/out' cannot be written")


@pytest.mark.parametrize(("good_enough", "rounds"), [(0, 0), (1, 1)])
def test_a_picture_that_is_good_enough_is_left_alone(accord_cli, good_enough, rounds):
    words = ["realign", "a red star", "--steps", 2, "--rounds", 1, "--good-enough", good_enough, "--json"]
    code, out, _ = accord_cli(*words)
    assert code == 0 and [r["rounds"] for r in json.loads(out)["results"]] == [rounds]


@pytest.mark.parametrize(("option", "value"), [("--mode", "sideways"), ("--rounds", "-1")])
def test_realign_refuses_a_knob_out_of_range_by_name(accord_cli, option, value):
    assert_refused(accord_cli("realign", "a star", option, value), option[2:], value)


def test_train_refuses_an_unknown_part(accord_cli):
    assert_refused(accord_cli("train", "lab", "unet"), "no part 'unet'", "vae, clip, captioner, denoiser")


def test_train_refuses_what_is_not_ready(accord_cli, tmp_path):
    assert_refused(accord_cli("train", "lab", "denoiser", "--out", "lab"), "builds on vae and clip")
    (tmp_path / "lab" / "clip").mkdir(parents=True)
    (tmp_path / "lab" / "clip" / "config.json").write_text("{}")
    assert_refused(accord_cli("train", "lab", "denoiser", "--out", "lab"), "builds on vae, not found")
    assert_refused(accord_cli("train", "lab", "vae", "--steps", "0"), "steps must be at least 1")
    assert_refused(accord_cli("train", "lab", "denoiser", "--start", "lab"), "no finished denoiser is in 'lab'")
    assert_refused(accord_cli("train", "lab", "clip", "--start", "lab", "--out", "./lab"), "train into another folder")
    assert_refused(accord_cli("train", "lab", "clip", "--start", "lab", "--continue"), "--continue and --start")


def test_train_goes_on_from_another_runs_weights(accord_cli, tmp_path):
    code, _, error = accord_cli("train", "lab", "captioner", "--steps", "1", "--start", MODELS, "--out", "lab")
    assert code == 0, error
    before, after = (load_file(f / "captioner" / "model.safetensors") for f in (MODELS, tmp_path / "lab"))
    far = max(float((before[k].float() - after[k].float()).abs().max()) for k in after)
    assert 0 < far < 2e-3  # one step of warm-up away


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("score", "no.png", "a star"), "'no.png' does not exist"),
        (("generate", "a star", "--model", "nobody/nothing"), "'nobody/nothing'"),
    ],
)
def test_a_real_process_refuses_in_one_line(tmp_path, arguments, part):
    assert_refused(subprocess_call(*arguments, folder=tmp_path), part)


# --- results -------------------------------------------------------------------------------------------------------
def test_score_prints_one_json_object_and_saves_its_report(accord_cli, tmp_path):
    code, out, _ = accord_cli("score", star_image(tmp_path), "a red star", "--json", "--out", "report")
    assert code == 0
    data = json.loads(out)
    assert data["prompt"] == "a red star" and 0 <= data["overall"] <= 1
    assert [w["text"] for w in data["words"]] == ["a", "red", "star"]
    assert {p.name for p in (tmp_path / "report").iterdir()} == {"image.png", "score.json", "index.html"}
    assert json.loads((tmp_path / "report" / "score.json").read_text(encoding="utf8")).items() <= data.items()


def test_score_of_pairs_sets_bad_rows_aside(accord_cli, tmp_path):
    star_image(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows = ["image,prompt", "star.png,a red star", "gone.png,a star", "bad.png,a star", "star.png,", "star.png,?!"]
    (tmp_path / "p.csv").write_text("\n".join([*rows, "star.png,a blue star"]) + "\n", encoding="utf8")
    code, out, _ = accord_cli("score", "--pairs", "p.csv", "--out", "scores/s.jsonl", "--json")
    assert code == 0
    data = json.loads(out)
    found = [json.loads(s) for s in (tmp_path / "scores" / "s.jsonl").read_text(encoding="utf8").splitlines()]
    assert [r["row"] for r in found] == [1, 6] and data["scored"] == 2
    assert data["mean"] == pytest.approx(np.mean([r["overall"] for r in found]))
    assert sorted(s["row"] for s in data["skipped"]) == [2, 3, 4, 5]
    assert {p.name for p in (tmp_path / "scores").iterdir()} == {"s.jsonl", "s-gallery"}
    page = tmp_path / "scores" / "s-gallery" / "index.html"
    assert data["gallery"] == str(page.relative_to(tmp_path)) and str(tmp_path) not in page.read_text(encoding="utf8")
    assert {p.name for p in page.parent.rglob("*.png")} == {"00000.png", "00001.png"}


def test_info_prints_one_json_object(accord_cli):
    code, out, _ = accord_cli("info", "--json")
    data = json.loads(out)
    assert code == 0 and data["accord"] == accord.__version__ and data["devices"][0] == "cpu"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A red star, to the left!", "003-a-red-star-to-the-left-s5"),
        ("../../etc/passwd", "003-etc-passwd-s5"),
        ("x" * 200, "003-" + "x" * 60 + "-s5"),
    ],
)
def test_file_names_come_from_the_prompt_and_stay_in_the_folder(prompt, expected):
    assert file_name(3, prompt, 5) == expected


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("generate star --ancestral", "--ancestral"),
        ("generate star --clip x", "--clip"),
        ("edit x.mp4 --source a --target b --tune-steps 0 --tuned t", "--tuned"),
        ("pairs make --out o --prompts p.txt --count 5", "--count"),
        ("train reward --prompts p.txt --strategy raft --stop-from 0.5", "--stop-from"),
        ("train reward --prompts p.txt --reward clip --held-out none --captioner x", "--judge"),
        ("train reward --prompts p.txt --held-out none --clip x", "--clip"),
        ("train context --denoiser frozen --rank 4", "--rank"),
        ("train context --text-only --pixels", "--pixels"),
        ("train context --pairs p --scenes 5", "--scenes"),
        ("train context --clip x", "--clip"),
        ("train inverter --pairs p --judge x", "--judge"),
        ("bench rewards --so-far --shard 1/2", "--shard"),
        ("bench invert --only-pairs --kind vit", "--kind"),
        ("bench kernel --quick --large", "--large"),
        ("bench judge --sheets s --watcher w", "--watcher"),
        ("realign star --rounds 0 --select pass", "--select"),
        ("realign star --rounds 0 --good-enough 0.5", "--good-enough"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(accord_cli, words, option):
    Path("p.txt").write_text("a star\na key\n")
    assert_refused(accord_cli(*words.split()), f"{option} is not used", "leave it out")


def test_an_unknown_bench_is_refused_with_the_names_that_there_are(accord_cli):
    names = [path[1] for path, _ in COMMANDS if path[:1] == ("bench",) and len(path) > 1]
    assert_refused(
        accord_cli("bench", "bogus"), "bench 'bogus' is unknown; use scenes, judge, rewards", ", ".join(names)
    )


def test_a_thing_that_the_lab_has_not_is_said(accord_cli, tmp_path):
    image, note = star_image(tmp_path), "note: the lab has no 'dog'; its nouns are star,"
    assert f"{note} heart" in accord_cli("score", image, "a red dog")[2]
    assert "note:" not in accord_cli("score", image, "a red star")[2]
    assert note not in accord_cli("score", image, "a red dog", "--judge", MODELS / "captioner")[2]
    Image.new("RGB", (128, 128)).save(tmp_path / "large.png")
    assert "the lab has no" not in accord_cli("score", tmp_path / "large.png", "a red dog")[2]
    told = ("a red star", "a dog", "two cats", "--steps", 1, "--json", "--out")
    for command, more in (("generate", ()), ("realign", ("--rounds", 0))):
        code, out, err = accord_cli(command, *told, command, *more)
        assert code == 0 and json.loads(out)
        assert err.count(note) == 1 and "'cats'" not in err and "for others give --model ID" in err
    assert note not in accord_cli("generate", *told, "other", "--model", MODELS / "pipeline")[2]


# --- imports -------------------------------------------------------------------------------------------------------
# --- arguments in messages -------------------------------------------------------------------------------------------
ROOT = Path(__file__).parents[1]


def named_arguments() -> list[tuple[str, str]]:
    """(file:line, name) of each `name` in the text of an InputError of the library."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if not isinstance(call, ast.Call) or getattr(call.func, "id", "") != "InputError":
                continue
            texts = [n.value for n in ast.walk(call) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            where = f"{path.relative_to(ROOT)}:{call.lineno}"
            found += [(where, name) for text in texts for name in re.findall(r"`(\w+)[^`]*`", text)]
    return found


def public_arguments() -> set[str]:
    """Arguments of all functions whose name does not begin with _, and fields of all classes."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                found |= {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
            if isinstance(node, ast.ClassDef):
                found |= {
                    f.target.id for f in node.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)
                }
    return found


def test_every_argument_that_a_message_names_is_one_and_has_an_option():
    named, arguments = named_arguments(), public_arguments()
    options = {p.name for _, command in COMMANDS for p in command.params if p.opts[0].startswith("--")}
    assert len(named) > 15
    assert [(where, name) for where, name in named if name not in arguments] == []
    # `embed` is of a reader made in Python; commands always load the embedder
    assert {name for _, name in named} - options == {"embed"}


@pytest.mark.parametrize("place", ["new", "`out`", "it's `out`", "it's \"`out`", "`out`, the models' `seed`"])
def test_arguments_are_shown_as_options_and_what_a_user_wrote_as_it_is(place):
    command = dict(COMMANDS)["generate",]
    text = f"the run's folder {place!r} holds pictures; give `resume=True`, another `out`, or a `strategy`"
    assert command._with_options(text) == text.replace("another `out`", "another --out")


@pytest.mark.parametrize("module", ["accord", "accord.cli"])
def test_importing_loads_no_heavy_library(module):
    heavy = {"torch", "diffusers", "transformers", "scipy", "matplotlib"}
    code = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_resolves():
    assert {"load", "generate", "score", "realign", "RealignConfig", "InputError"} <= set(accord.__all__)
    for name in accord.__all__:
        assert getattr(accord, name) is not None
    assert set(accord.__all__) <= set(dir(accord))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        accord.nonsense  # noqa: B018


def test_tuning_from_the_command_line(accord_cli, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red star\na blue key\ntwo green fish\na pink crown\n", encoding="utf8")
    start = ["train", "reward", "--prompts", prompts]
    small = "--steps 1 --batch-size 2 --inference-steps 3 --eval-every 1 --rank 2 --anchors 2".split()
    code, out, _ = accord_cli(*start, "--out", "run", "--json", *small)
    report = json.loads(out)
    assert code == 0 and report["steps_taken"] == 1 and report["rewards"] == {"contrast": 1.0}
    assert Path("run/pytorch_lora_weights.safetensors").is_file()
    assert report["gallery"] == "run/index.html" and Path("run/index.html").is_file()
    steps = {p.name: len(list(p.iterdir())) for p in Path("run/evaluations").iterdir()}
    assert steps == {"step-000000": 2, "step-000001": 2}
    assert "evaluations/step-000001/001.png" in Path("run/index.html").read_text(encoding="utf8")
    look = ("a red star", "--steps", "2", "--json")
    for command in ("generate", "realign"):
        code, out, _ = accord_cli(command, *look, "--lora", "run", "--out", command)
        assert code == 0 and json.loads(out)
    assert_refused(accord_cli("generate", *look, "--dtype", "int8"), "dtype 'int8' is unknown")
    assert_refused(accord_cli("generate", *look, "--lora", "nowhere"), "adapter 'nowhere'", "is no folder or file here")
    assert_refused(accord_cli("realign", *look, "--lora", tmp_path), "does not fit this pipeline, or is none")
    assert_refused(accord_cli("generate", *look, "--lora", "run", "--context", "run"), "brings its own adapter")
    assert accord_cli(*start, "--out", "run", *small)[0] == 0  # the same command again: it is finished already
    assert_refused(accord_cli(*start, "--out", "run", *small, "--rank", "3"), "was begun with rank=2, not 3")
    of_grpo = ("--strategy", "grpo", "--strategy-option")
    assert_refused(accord_cli(*start, *of_grpo, "groups=8"), "no knob 'groups'; its own are group_size")
    assert_refused(
        accord_cli(*start, *of_grpo, "group_size=1"), "--strategy-option group_size must be at least 2, not 1"
    )
    assert_refused(accord_cli(*start, *of_grpo, "group_size"), "is not NAME=NUMBER")
    assert_refused(
        accord_cli(*start, *of_grpo, "group_size=2.5"), "--strategy-option group_size must be a whole number, not 2.5"
    )
    assert_refused(accord_cli(*start, *of_grpo, "group_size=2", *of_grpo[2:], "group_size=3"), "given twice")
    assert_refused(accord_cli(*start, "--stop-from", "0.5", "--strategy-option", "stop_from=0.3"), "given twice")
    assert_refused(accord_cli(*start, "--reward", "beauty"), "score 'beauty' is unknown")
    assert_refused(
        accord_cli(*start, "--reward", "clip", "--held-out", "clip"), "is trained on; choose another --held-out"
    )
    assert_refused(
        accord_cli(*start, "--held-out", "inversion", "--model", "some/model"), "reads pictures of the lab alone"
    )
    assert_refused(accord_cli(*start, "--reward", "clip=much"), "is not NAME or NAME=WEIGHT")
    assert_refused(accord_cli(*start, "--strategy", "ppo"), "strategy must be one of")
    assert_refused(
        accord_cli(*start, "--reward", "caption-clip", "--out", "z", *small), "use the strategy raft, grpo, nft or awm"
    )
    assert_refused(accord_cli(*start, "--accumulate", "3"), "--batch-size 8 must be a multiple of --accumulate 3")
    assert_refused(accord_cli("train", "reward", "--prompts", "none.txt"), "does not exist")
    assert not Path("z").exists()


def test_each_batch_is_written_before_the_next(accord_cli, monkeypatch):
    from accord.diffusion import generate as module
    from accord.types import InputError

    real, calls = module.generate_each, []

    def once(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise InputError("no memory is left")
        return real(*arguments, **options)

    monkeypatch.setattr(module, "generate_each", once)
    result = accord_cli(
        "generate", "a red star", "a key", "--seed", 0, "--seed", 1, "--steps", 1, "--batch-size", 1, "--out", "o"
    )
    assert result[0] == 2 and "no memory is left" in result[2]
    assert sorted(p.name for p in Path("o").iterdir()) == ["000-a-red-star-s0.png", "001-a-red-star-s1.png"]
    code, out, _ = accord_cli(
        "realign", "a red star", "a key", "--steps", 1, "--rounds", 0, "--batch-size", 1, "--out", "r", "--json"
    )
    made = ["000-a-red-star-s0", "001-a-key-s0"]
    assert code == 0 and [Path(r["folder"]).name for r in json.loads(out)["results"]] == made
    page = Path(json.loads(out)["gallery"])
    assert page == Path("r/index.html") and all(f"{n}/after.png" in page.read_text(encoding="utf8") for n in made)


def test_context_from_the_command_line(accord_cli, tmp_path):
    small = "--scenes 8 --steps 2 --batch-size 2 --save-every 1".split()
    code, out, _ = accord_cli("train", "context", "--out", "run", "--json", *small)
    assert code == 0 and json.loads(out)["out"] == "run" and Path("run/relation/config.json").is_file()
    code, out, _ = accord_cli("generate", "a red star", "--steps", 2, "--context", "run", "--out", "a", "--json")
    with_context = Path(json.loads(out)["images"][0]["image"]).read_bytes()
    code, out, _ = accord_cli("generate", "a red star", "--steps", 2, "--out", "b", "--json")
    assert with_context != Path(json.loads(out)["images"][0]["image"]).read_bytes()
    assert accord_cli("train", "context", "--out", "run", *small)[0] == 0
    kept = Path("run/latents.safetensors").read_bytes()
    other = [*small[:1], "9", *small[2:]]
    assert_refused(accord_cli("train", "context", "--out", "run", *other, "--gain", "0.5"), "was begun with gain=")
    assert Path("run/latents.safetensors").read_bytes() == kept  # refused before anything is encoded
    assert_refused(accord_cli("train", "context", "--out", "x", "--fresh"), "add --denoiser full")
    assert_refused(accord_cli("train", "context", "--out", "x", "--pairs", "none"), "pairs 'none' do not exist")
    assert_refused(accord_cli("train", "context", "--out", "x", "--pairs", "run"), "folder 'run' holds no pairs")
    Path("pictures").mkdir()
    Image.new("RGB", (64, 64)).save("pictures/a.png")
    Path("pictures/metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "a star"}))
    assert accord_cli("train", "context", "--out", "folder", "--pairs", "pictures", "--json", *small[2:])[0] == 0
    assert_refused(accord_cli("train", "context", "--out", "x", "--shift", "cubic"), "shift must be one of")
    assert_refused(accord_cli("generate", "a red star", "--context", "nowhere"), "holds no relational network")
    assert not Path("x").exists()


def test_inversion_from_the_command_line(accord_cli, tmp_path):
    rng = np.random.default_rng(0)
    Path("pairs").mkdir()
    from accord_lab.scenes.grammar import caption
    from accord_lab.scenes.scene import sample_scene

    rows = []
    for i in range(24):
        scene = sample_scene(rng, "one")
        Image.fromarray(render(scene)).save(f"pairs/{i}.png")
        rows.append({"file_name": f"{i}.png", "text": caption(scene, rng)})
    Path("pairs/metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    small = "--steps 2 --batch-size 4 --curriculum none --similar 0.999 --kind vit".split()
    code, out, _ = accord_cli("train", "inverter", "--pairs", "pairs", "--out", "run", "--json", *small)
    assert code == 0 and json.loads(out)["split"]["test"] > 0
    Path("bank.txt").write_text("a red star\na blue key\n")
    code, out, _ = accord_cli("invert", "pairs/0.png", "--inverter", "run/inverter", "--bank", "bank.txt", "--json")
    result = json.loads(out)["results"][0]
    assert code == 0 and result["prompt"] and len(result["retrieved"]) == 2 and result["words"]
    bulk = ["invert", "--folder", "pairs", "--inverter", "run/inverter", "--words-only", "--json"]
    code, out, _ = accord_cli(*bulk, "--out", "all.parquet", "--shard", "2/2")
    assert code == 0 and json.loads(out)["images"] == 12 and Path("all-00002-of-00002.parquet").is_file()
    assert len(list(Path("all-00002-of-00002-gallery/thumbnails").iterdir())) == 12
    assert Path(json.loads(out)["gallery"]) == Path("all-00002-of-00002-gallery/index.html")
    assert json.loads(accord_cli(*bulk, "--out", "all.parquet", "--shard", "2/2")[1])["done_before"]
    schema = pq.read_schema("all-00002-of-00002.parquet")
    assert str(schema.field("embedding").type) == "list<element: float>"
    assert str(schema.field("words").type.value_type.field("probability").type) == "double"
    code, out, _ = accord_cli(*bulk[:-1], "--out", "no.jsonl", "--shard", "30/30")  # of which no picture is left
    assert code == 0 and out.startswith("inverted 0,") and "pictures:" not in out
    assert_refused(accord_cli("invert"), "exactly one of them")
    assert_refused(
        accord_cli("invert", "pairs/0.png", "--out", "x.csv"), "--out is not used without --folder or --pairs"
    )
    assert_refused(accord_cli("invert", "pairs/0.png", "--folder", "pairs"), "exactly one of them")
    assert_refused(accord_cli(*bulk[:-1]), "need --out FILE.parquet")
    assert_refused(accord_cli(*bulk[:-1], "--out", "all.csv", "--shard", "3/2"), "is not I/N")
    assert_refused(accord_cli("invert", "none.png", "--inverter", "run/inverter"), "does not exist")
    Path("one.txt").write_text("a star\n")
    assert_refused(
        accord_cli("invert", "pairs/0.png", "--inverter", "run/inverter", "--bank", "one.txt"), "nothing to choose from"
    )
    assert_refused(
        accord_cli("train", "inverter", "--pairs", "pairs", "--out", "y", "--kind", "gan"), "kind must be one of"
    )
    assert_refused(accord_cli("train", "inverter", "--pairs", "nowhere", "--out", "y"), "do not exist")
    code, out, _ = accord_cli("pairs", "make", "--out", "made", "--count", 3, "--steps", 2, "--json")
    assert code == 0 and json.loads(out)["pairs"] == 3 and Path("made/metadata.parquet").is_file()


def test_editing_a_video_from_the_command_line(accord_cli):
    from accord.data.video import read_video, write_video
    from accord_lab.scenes.videos import moving_scene

    scene = moving_scene(np.random.default_rng(0), 4)
    write_video("video.mp4", scene.video.frames, 8)
    words = ["--source", scene.image_prompt, "--target", "a blue key"]
    small = "--tune-steps 1 --steps 3 --window 4".split()
    code, out, _ = accord_cli(
        "edit", "video.mp4", *words, *small, "--out", "new.gif", "--frames", "1:4", "--tuned", "t", "--json"
    )
    data = json.loads(out)
    assert code == 0 and data["frames"] == 3 and len(read_video("new.gif")) == 3 and "track_error" in data
    assert data["gallery"] == "new-gallery/index.html" and len(list(Path("new-gallery/frames").iterdir())) == 6
    assert 0 <= data["frames_right"] <= 1  # of the lab, by the reader
    assert Path("t/temporal/config.json").is_file()
    code, out, _ = accord_cli("score", "--video", "new.gif", "--prompt-of-video", "a blue key", "--json")
    assert code == 0 and set(json.loads(out)) - HEADING == {
        "text_alignment",
        "temporal_consistency",
        "flicker",
        "frames_right",
    }
    code, out, _ = accord_cli("pairs", "videos", "--out", "videos", "--count", 2, "--frames", 3, "--json")
    truth = [json.loads(s) for s in Path("videos/truth.jsonl").read_text().splitlines()]
    assert (
        code == 0
        and len(json.loads(out)["videos"]) == 2
        and len(truth[0]["boxes"]) == len(read_video("videos/00000.mp4")) == 3
    )
    code, out, _ = accord_cli("score", "--video", "videos/00001.mp4", "--prompt-of-video", truth[1]["prompt"], "--json")
    assert code == 0 and json.loads(out)["frames_right"] == 1
    assert_refused(accord_cli("score", "--video", "new.gif"), "--video needs --prompt-of-video")
    assert_refused(accord_cli("score", "--prompt-of-video", "a key"), "--prompt-of-video is not used without --video")
    assert_refused(accord_cli("edit", "video.mp4", *words, "--out", "video.mp4"), "is the video itself")
    assert_refused(
        accord_cli("edit", "video.mp4", *words[:2], "--target", "blue " * 99, "--out", "x.gif"), "is longer than"
    )
    assert_refused(accord_cli("edit", "none.mp4", *words), "does not exist")
    assert_refused(accord_cli("edit", "video.mp4", *words, "--frames", "3"), "is not START:STOP")
    assert_refused(accord_cli("edit", "video.mp4", *words, "--strength", 2), "strength must be in")
    assert_refused(accord_cli("edit", "video.mp4", *words, *small, "--out", "new.avif"), "is none of")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--place", "moon"], "is not THING=X0,Y0,X1,Y1"),
        (["--place", "=0,0,1,1"], "names no thing"),
        (["--place", "moon=0,0,1,1", "--rounds", "0"], "--place is not used"),
        (["--place", "fish=0,0,1,1"], "asks for no thing 'fish'"),
        (["--strength", "0.5"], "--strength is not used without --mode renoise"),
        (["--strength", "0", "--mode", "renoise"], "strength must be in"),
    ],
)
def test_places_and_strength_that_cannot_be_are_refused(accord_cli, options, said):
    assert_refused(accord_cli("realign", "a purple moon", *options), said)
