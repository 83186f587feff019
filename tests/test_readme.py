"""The README's Python examples run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf8"), re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_example_runs(number, tmp_path, monkeypatch):
    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"README.md block {number}", "exec"), {})


def test_every_picture_and_file_the_readme_links_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf8"))
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link
