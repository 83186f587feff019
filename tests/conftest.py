"""Fixtures, and what several files of tests use.

What makes tiny pipelines is in `tiny_models.py` and can be imported from here. It is loaded when it is first asked for:
the process that only shares the tests out does without torch and diffusers, for whose import the others would wait.
"""

import functools
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def __getattr__(name: str) -> Any:
    if name.startswith(("_", "pytest", "collect_ignore")):  # what pytest and Python look for
        raise AttributeError(name)
    import tiny_models

    return getattr(tiny_models, name)


# of the longest tests: begun last, one of them would run while the other processes have nothing left to do
FIRST = (
    "test_two_processes_learn_what_one_learns",
    "test_a_sample_of_inputs_and_kills",
    "test_inversion_then_sampling_with_the_source_prompt_returns_the_video",
    "test_twenty_interleavings_of_realign_on_one_pipeline",
    "test_tuning_from_the_command_line",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.name.partition("[")[0] not in FIRST)  # all others stay in their order


@pytest.fixture(scope="session", params=["sd1", "sd2"])
def tiny(request: pytest.FixtureRequest) -> Any:
    from tiny_models import tiny_pipeline

    return tiny_pipeline(request.param)


@pytest.fixture(scope="session")
def lab() -> Any:
    import accord

    return accord.load(device="cpu")


@pytest.fixture
def no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no `curve.png`, which takes longer than the runs; those of `test_training.py` and of commands do."""
    from accord.training.loop import Run

    monkeypatch.setattr(Run, "plot", lambda run, draw=None: None)


@pytest.fixture(scope="session")
def commands_once() -> Callable[[Any], Any]:
    """typer's tree of an application's commands, which it would make anew for each call: half of the time of most."""
    import typer.main

    return functools.cache(typer.main.get_command)


@pytest.fixture
def accord_cli(monkeypatch, capfd, tmp_path, commands_once):
    """Call `accord ...` in this process, in an empty folder: (exit code, stdout, stderr)."""
    from accord import cli

    monkeypatch.setattr("typer.main.get_command", commands_once)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["accord", *map(str, arguments)])
        capfd.readouterr()
        before = budgets_set()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        assert budgets_set() == before, "a command left a setting in the environment"
        code = int(end.value.code or 0)
        if code == 0 and "--json" in arguments:
            for line in out.splitlines():
                check_schema(json.loads(line))
        return code, out, err

    return call


def budgets_set() -> dict[str, str]:
    """Accord's settings in the environment: one that stays there would hold for all tests that come after."""
    return {name: value for name, value in os.environ.items() if name.startswith("ACCORD_")}


SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"
HEADING = {"schema", "accord", "command"}  # what the JSON of every command begins with


@functools.cache
def schema_of(name: str) -> Any:
    """The validator of a schema in `docs/schemas`."""
    from jsonschema import Draft202012Validator

    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def check_schema(data: dict[str, Any]) -> None:
    """What a command prints, or a run leaves, is as its documented schema says."""
    name, slash, version = data["schema"].removeprefix("accord.").partition("/")
    assert slash and version.isdigit(), data["schema"]
    found = schema_of(name)
    assert found.schema["$id"] == data["schema"]
    errors = [f"{'.'.join(map(str, e.absolute_path))}: {e.message[:300]}" for e in found.iter_errors(data)]
    assert not errors, errors


def names(folder: Path) -> set[str]:
    """What is in a folder and below it, by names relative to it."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def assert_refused(result: tuple[int, str, str], *parts: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr."""
    code, out, err = result
    assert code == 2 and out == "", (code, out, err)
    assert err.startswith("accord: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert "Traceback" not in err
    for part in parts:
        assert part in err, err


def last_json(text: str) -> dict:
    """Stdout that must be one JSON object and nothing else."""
    return json.loads(text)
