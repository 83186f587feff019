"""Which tests of this folder fail on the code as it was: a test that passes there proves nothing about what was mended.

python tests/robustness/before.py db9b4d7 d9889b5 --out docs/bench

The code is that of the first commit and the tests are those of the second: today's may ask for other names.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]


def short(commit: str) -> str:
    """A commit's short name."""
    command = ["git", "rev-parse", "--short", commit]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def extract(commit: str, names: list[str], folder: Path) -> None:
    """These files and folders of a commit."""
    archive = subprocess.run(["git", "archive", commit, *names], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")


def outcomes(source: Path, root: Path, junit: Path) -> dict[tuple[str, str], Counter[str]]:
    """(file, test without its parameters) -> how often it passed and failed.

    Args:
        source: with the package.
        root: with `tests` and their settings.
    """
    files = sorted(p for p in (root / "tests/robustness").glob("test_*.py") if p.name != "test_fuzz_sample.py")
    environment = os.environ | {"PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--timeout=20",
        "--continue-on-collection-errors",
        f"--junitxml={junit}",
        *map(str, files),
    ]
    subprocess.run(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, check=False)
    found: dict[tuple[str, str], Counter[str]] = {}
    for case in ElementTree.parse(junit).iter("testcase"):
        failed = case.find("failure") is not None or case.find("error") is not None
        name = (case.get("classname", "").rpartition(".")[2], case.get("name", "").partition("[")[0])
        found.setdefault(name, Counter())["failed" if failed else "passed"] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("code", help="commit of the package")
    parser.add_argument("tests", help="commit of the tests")
    parser.add_argument("--out", type=Path, required=True, help="folder for robustness-before.md")
    options = parser.parse_args()
    code, tests = short(options.code), short(options.tests)
    with tempfile.TemporaryDirectory() as scratch:
        extract(code, ["src"], Path(scratch) / "code")
        extract(tests, ["tests", "pyproject.toml"], Path(scratch) / "tests")
        found = outcomes(Path(scratch) / "code/src", Path(scratch) / "tests", Path(scratch) / "junit.xml")
    rows = [
        f"| {file} | {test} | {count['failed']} | {count['passed']} |" for (file, test), count in sorted(found.items())
    ]
    failing = sum(1 for c in found.values() if c["failed"])
    lines = [
        "# Tests of robustness on the code as it was",
        "",
        f"The tests of `tests/robustness/` of commit {tests} with the package of commit {code} "
        f"(`python tests/robustness/before.py {code} {tests} --out docs/bench`):",
        f"{failing} of {len(found)} fail in at least one case. Those that pass keep what was right already.",
        "",
        "| file | test | cases that fail | cases that pass |",
        "|---|---|---|---|",
        *rows,
    ]
    (options.out / "robustness-before.md").write_text("\n".join(lines) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
