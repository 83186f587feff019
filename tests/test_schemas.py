"""Every command that prints JSON has a schema in `docs/schemas`; `accord_cli` holds each output of every test to it."""

import typer
from conftest import SCHEMAS, schema_of

from accord import cli

FILES = {"run", "summary"}  # of a run


def printing(command, path=()):
    """The words of every command with --json."""
    if any("--json" in p.opts for p in command.params):
        yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from printing(child, (*path, name))


def test_every_json_has_a_schema_and_every_schema_a_command():
    from accord.cli.evaluate import SUITES

    names = {
        path[0] if path[0] == "bench" or (path[0] == "eval" and path[1] in SUITES) else "-".join(path)
        for path in printing(typer.main.get_command(cli.app))
    }
    found = {p.stem for p in SCHEMAS.glob("*.json")}
    assert found == names | FILES
    page = (SCHEMAS / "README.md").read_text(encoding="utf8")
    for name in found:
        schema = schema_of(name).schema
        assert schema["$id"] == f"accord.{name}/1" and schema["title"]
        assert {"schema", "accord"} <= set(schema["required"])
        assert f"[{name}]({name}.json)" in page
        if name not in FILES:
            assert list(schema["properties"])[:3] == ["schema", "accord", "command"]
