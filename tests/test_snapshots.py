"""What others call and read: the public names with their signatures, and every command's help, as they were last time.

A change of them is seen here and in the diff of `tests/snapshots`. `make snapshots` writes them anew. Nothing of it
depends on the terminal, the environment or the locale.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import accord
from accord.cli import app

HERE = Path(__file__).parent / "snapshots"
SOURCE = Path(accord.__file__).parent
WRITE = os.environ.get("ACCORD_SNAPSHOTS") == "write"
WIDTH = 100  # columns


def check(name: str, text: str) -> None:
    """Compare with what was kept under that name, or keep it."""
    path = HERE / name
    if WRITE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")
        return
    kept = path.read_text(encoding="utf8") if path.is_file() else ""
    if text != kept:
        lines = [t.splitlines() for t in (kept, text)]
        changed = "\n".join(difflib.unified_diff(*lines, "before", "now", lineterm="", n=1))
        pytest.fail(
            f"{path.name} is not what it was; if that is meant, run: make snapshots\n\n{changed}", pytrace=False
        )


# --- names ----------------------------------------------------------------------------------------------------------
def shown(value: Any) -> str:
    """A default or an annotation, without what differs from one run to the next."""
    name = getattr(value, "__qualname__", None)
    return name or (type(value).__name__ if " at 0x" in repr(value) else repr(value))


def signature(function: Any) -> Iterator[str]:
    """A line for each parameter, as it is written in the source, and one for what is returned."""
    found = inspect.signature(function)
    mark = False
    for parameter in found.parameters.values():
        if parameter.name in ("self", "cls") or parameter.name.startswith("_"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not mark:
            yield "*"
        mark = mark or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        line = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "") + parameter.name
        if parameter.annotation is not parameter.empty:
            line += (
                f": {parameter.annotation if isinstance(parameter.annotation, str) else shown(parameter.annotation)}"
            )
        yield line if parameter.default is parameter.empty else f"{line} = {shown(parameter.default)}"
    of = found.return_annotation
    if of is not found.empty and not isinstance(function, type):
        yield f"-> {of if isinstance(of, str) else shown(of)}"


def methods(kind: type) -> Iterator[tuple[str, Any]]:
    """Public ones of a class and of those it is made of in this package, by name."""
    named: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("accord."):
            named |= {n: v for n, v in vars(base).items() if not n.startswith("_") or n == "__call__"}
    yield from sorted(named.items())


def described(name: str, value: Any) -> Iterator[str]:
    if not callable(value):
        yield f"{name}: {type(value).__name__}"
        return
    yield name
    protocol = isinstance(value, type) and getattr(value, "_is_protocol", False)
    yield from () if protocol else (f"    {line}" for line in signature(value))
    for method, of in methods(value) if isinstance(value, type) else ():
        function = getattr(of, "__func__", of)
        if isinstance(of, property):
            yield f"{name}.{method}: {of.fget.__annotations__.get('return', 'Any')}"
        elif inspect.isfunction(function):
            yield f"{name}.{method}"
            yield from (f"    {line}" for line in signature(function))


def test_public_names_and_their_signatures():
    assert dir(accord) == sorted(accord.__all__)
    lines = [line for name in sorted(accord.__all__) for line in described(f"accord.{name}", getattr(accord, name))]
    check("names.txt", "\n".join(lines) + "\n")


def defined(path: Path) -> list[str]:
    """Names without an underscore that a module defines, its constants in capitals among them; nothing is imported."""
    names = []
    for node in ast.parse(path.read_text(encoding="utf8")).body:
        targets = {ast.Assign: "targets", ast.AnnAssign: "target"}.get(type(node))
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif targets:
            of = getattr(node, targets)
            names += [
                n.id for t in (of if isinstance(of, list) else [of]) for n in ast.walk(t) if isinstance(n, ast.Name)
            ]
    return sorted({n for n in names if not n.startswith("_")})


def test_public_names_of_the_packages_that_are_built_on():
    text = ""
    for folder in ("evaluation", "judges", "methods", "rewards", "training"):
        for path in sorted((SOURCE / folder).rglob("*.py")):
            module = ".".join(("accord", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
            text += "".join([module, "\n", *(f"    {name}\n" for name in defined(path))]) if defined(path) else ""
    check("modules.txt", text)


# --- help -----------------------------------------------------------------------------------------------------------
def helps(command: Any, path: tuple[str, ...], parent: Any = None) -> Iterator[tuple[str, str]]:
    """The help of a command and of all below it, in plain text of WIDTH columns, whatever the terminal is."""
    command.rich_markup_mode = None
    context = command.context_class(command, info_name=path[-1], parent=parent, terminal_width=WIDTH, color=False)
    yield "-".join(path), command.get_help(context) + "\n"
    for name, child in getattr(command, "commands", {}).items():
        yield from helps(child, (*path, name), context)


HELPS = dict(helps(typer.main.get_command(app), ("accord",)))


@pytest.mark.parametrize("name", HELPS)
def test_help(name):
    assert max(map(len, HELPS[name].splitlines())) <= WIDTH
    check(f"help/{name}.txt", HELPS[name])


def test_no_help_is_kept_of_what_is_no_command():
    for path in (HERE / "help").glob("*.txt"):
        if path.stem not in HELPS:
            if WRITE:
                path.unlink()
            else:
                pytest.fail(f"{path.name} is the help of no command; run: make snapshots", pytrace=False)


@pytest.mark.parametrize(("columns", "term", "locale"), [("40", "dumb", "C"), ("300", "xterm-256color", "de_DE.UTF-8")])
def test_the_terminal_makes_no_difference(columns, term, locale, monkeypatch):
    for name, value in (
        ("COLUMNS", columns),
        ("TERM", term),
        ("LANGUAGE", locale),
        ("LC_ALL", locale),
        ("FORCE_COLOR", "1"),
    ):
        monkeypatch.setenv(name, value)
    assert dict(helps(typer.main.get_command(app), ("accord",))) == HELPS
