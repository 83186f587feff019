"""The committed tables are what the code makes of the committed rows, and takes the rows for its own.

A field that is renamed, or a knob that is added, changes the name of a bench's cache. Rows that took hours would then
be unknown, and nothing else would say so.
"""

import json
import shutil
from pathlib import Path

import pytest

from accord_lab.bench import context, hacking, invert, rewards, scenes, speed_large, video

TABLES = Path(__file__).parents[1] / "docs" / "bench"


@pytest.mark.parametrize("bench", [context, hacking, invert, scenes, speed_large, video])
def test_a_page_says_what_its_rows_say(bench):
    stem = bench.__name__.rpartition(".")[2].replace("_", "-")
    page = (TABLES / f"{stem}.md").read_text(encoding="utf8")
    rendered = bench.table(json.loads((TABLES / f"{stem}.json").read_text(encoding="utf8")))
    assert page.startswith(rendered) and len(page) < len(rendered) + 2_000  # a note on pictures may follow


REWARDS = {"minutes": 10.0, "seeds": 1}  # as the committed table was made


def test_committed_rows_of_tuning_are_known(tmp_path, monkeypatch):
    """The rows alone, as their intervals take a minute."""
    shutil.copy(TABLES / "rewards.json", tmp_path)
    monkeypatch.setattr(rewards, "_write", lambda out, stem, rows, jobs, about: ({"rows": rows}, ""))
    found = rewards.main(tmp_path, so_far=True, progress=False, **REWARDS)[0]["rows"]
    committed = json.loads((TABLES / "rewards.json").read_text(encoding="utf8"))["rows"]
    assert {r["method"] for r in found} == {r["method"] for r in committed if "made_with" in r}


@pytest.mark.parametrize(
    ("bench", "settings"), [(context, {}), pytest.param(rewards, REWARDS, marks=pytest.mark.slow), (video, {})]
)
def test_committed_rows_are_known(tmp_path, bench, settings):
    stem = bench.__name__.rpartition(".")[2]
    for path in TABLES.glob(f"{stem}*"):
        shutil.copy(path, tmp_path)
    _, text = bench.main(tmp_path, so_far=True, progress=False, **settings)
    assert text == (TABLES / f"{stem}.md").read_text(encoding="utf8")
