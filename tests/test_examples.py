"""The notebooks of `examples/`: each one's cells run, in their order, in an empty folder."""

import ast
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
BOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def read(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf8"))


def test_there_is_one_for_each_task():
    assert {"repair", "evaluate", "tune", "invert", "edit"} <= set(BOOKS)


@pytest.mark.parametrize("name", BOOKS)
def test_notebook_is_whole_and_has_no_outputs(name):
    book = read(name)
    assert book["nbformat"] == 4 and book["cells"][0]["cell_type"] == "markdown"
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            ast.parse("".join(cell["source"]))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "repair" else pytest.mark.slow) for n in BOOKS])
def test_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, cell in enumerate(read(name)["cells"]):
        if cell["cell_type"] == "code":
            show(run("".join(cell["source"]), f"{name}.ipynb cell {number}", names))


def run(code, where, names):
    """What a cell ends with, as a notebook would show it."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), where, "eval"), names)


def show(value):
    for form in ("_repr_html_", "_repr_png_"):
        if hasattr(value, form):
            assert getattr(value, form)()
    assert repr(value)
