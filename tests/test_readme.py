"""Pages: Python examples run, commands parse, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from accord.cli import app

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("how-to/*.md"), ROOT / "docs/schemas/README.md"])
LOG = sorted((ROOT / "docs" / "log").glob("*.md"))
METHODS = sorted((ROOT / "src" / "accord" / "methods").glob("*/README.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS, *LOG, *METHODS]
# what commands have written: tables, and the card of an adapter, whose example leaves a name open
WRITTEN = sorted({*(ROOT / "docs" / "bench").glob("*.md"), *(ROOT / "src").rglob("README.md")} - {*METHODS})
FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.M)


def name_of(page):
    return str(page.relative_to(ROOT))


def text_of(page):
    return page.read_text(encoding="utf8")


def blocks_of(page, language):
    return [code for info, code in FENCE.findall(text_of(page)) if info.strip() == language]


EXAMPLES = [(page, number) for page in PAGES for number in range(len(blocks_of(page, "python")))]


@pytest.mark.parametrize(("page", "number"), EXAMPLES, ids=[f"{name_of(p)}-{n}" for p, n in EXAMPLES])
def test_python_example_runs(page, number, tmp_path, monkeypatch):
    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks_of(page, "python")[number], f"{name_of(page)} block {number}", "exec"), {})


def commands_of(page):
    lines = [line for code in blocks_of(page, "bash") for line in code.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("accord ")]


@pytest.mark.parametrize("page", [p for p in PAGES if commands_of(p)], ids=name_of)
def test_every_command_is_one(page):
    """Its options and arguments are known and complete; nothing is run."""
    for words in commands_of(page):
        command, rest = get_command(app), words
        while isinstance(command, TyperGroup):
            assert rest and rest[0] in command.commands, words
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context(command.name, rest)


def test_there_are_commands():
    assert len(commands_of(README)) == 6
    assert sum(len(commands_of(page)) for page in PAGES) > 20


def without_fences(page):
    return FENCE.sub("", text_of(page))


def anchors_of(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_fences(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *WRITTEN], ids=name_of)
def test_every_relative_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_fences(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT) and target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), link


def test_readme_is_short():
    """700 words at most, code and tables left out."""
    prose = [line for line in without_fences(README).splitlines() if not line.startswith("|")]
    assert len(" ".join(prose).split()) <= 700


def test_readme_example_has_eight_lines():
    (code,) = blocks_of(README, "python")
    assert len(code.splitlines()) == 8


@pytest.mark.parametrize("page", [*DOCS, *LOG], ids=name_of)
def test_page_begins_with_a_heading_and_a_sentence(page):
    heading, empty, sentence = text_of(page).splitlines()[:3]
    assert re.fullmatch(r"# \S.*", heading) and not empty
    assert re.match(r"[A-Z]", sentence)
    paragraph = without_fences(page).split("\n\n")[1]
    assert re.search(r"[.!?]$", paragraph.strip())
    assert len(re.findall(r"^# ", without_fences(page), re.M)) == 1


def test_readme_links_every_page():
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text_of(README))}
    assert {name_of(page) for page in DOCS} | {"CONTRIBUTING.md", "CHANGELOG.md"} <= links
    assert "docs/log/README.md" in links


def test_log_index_links_every_page():
    index, *_ = [page for page in LOG if page.name == "README.md"]
    links = set(re.findall(r"\]\(([^)\s]+)\)", text_of(index)))
    assert {page.name for page in LOG if page != index} <= links


@pytest.mark.parametrize("page", [page for page in LOG if page.name != "README.md"], ids=name_of)
def test_entries_of_the_log_are_dated_oldest_first(page):
    headings = re.findall(r"^##+ (.+)$", without_fences(page), re.M)
    assert headings and all(re.match(r"20\d\d-\d\d-\d\d \S", heading) for heading in headings)
    assert len(set(headings)) == len(headings)
    dates = [heading[:10] for heading in headings]
    assert dates == sorted(dates)
