"""A sample of the long checks (`make fuzz`, `make kill`), and properties that hold of every text."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.data.lexicon import DEFAULT
from accord.data.pairs import read_pairs, table_bytes
from accord.data.prompt_files import read_prompts
from accord.prompts.phrases import phrases_of
from accord.prompts.swaps import swaps
from accord.types import InputError

HERE = Path(__file__).parent
SAMPLE = "import fuzz, kill, sys; sys.exit(fuzz.main({fuzz!r}) or kill.main({kill!r}))"


def run(fuzz: list[str], kill: list[str]) -> subprocess.CompletedProcess[str]:
    """Both in one process, which imports everything once."""
    code = SAMPLE.format(fuzz=fuzz, kill=kill)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=HERE,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_sample_of_inputs_and_kills(tmp_path):
    done = run(
        ["--inputs-only", "--count", "50", "--seed", "202700", "--processes", "1", "--out", str(tmp_path)],
        ["--count", "1", "--command", "pairs", "--out", str(tmp_path)],
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    told = json.loads((tmp_path / "robustness.json").read_text())
    assert told["fuzz"]["rows"][-1]["inputs"] == 50
    assert told["kill"]["rows"][-1]["kills"] >= 1
    page = (tmp_path / "robustness.md").read_text()
    assert str(tmp_path) not in page and "/tmp" not in page and os.uname().nodename not in page


TEXTS = st.text(max_size=60)


@given(TEXTS)
@settings(max_examples=300, deadline=None, database=None)
def test_every_text_is_taken_apart_or_refused(text):
    try:
        prompt = phrases_of(text)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
        return
    for word in prompt.words:
        # a noun of a negative prompt, which the plain text has not, has no place
        assert word.start == word.end or prompt.text[word.start : word.end] == word.text
        for _, changed in swaps(prompt, word, DEFAULT):
            assert changed != prompt.text


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_was_written_is_read(tmp_path_factory, suffix):
    place = tmp_path_factory.mktemp("tables")

    @given(st.lists(TEXTS.filter(lambda t: t.strip() and "\0" not in t), min_size=1, max_size=5))
    @settings(max_examples=60, deadline=None, database=None)
    def holds(prompts):
        path = place / f"a{suffix}"
        path.write_bytes(table_bytes([{"image": f"{i}.png", "prompt": p} for i, p in enumerate(prompts)], suffix))
        # in CSV what a spreadsheet would take for a formula has an apostrophe before it
        told = [f"'{p}" if suffix == ".csv" and p.startswith(("=", "+", "-", "@", "\t", "\r")) else p for p in prompts]
        assert [" ".join(p.prompt.split()) for p in read_pairs(path).pairs] == [" ".join(p.split()) for p in told]
        if suffix != ".parquet":
            assert read_prompts(path) == [" ".join(p.split()) for p in told]

    holds()
