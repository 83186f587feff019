"""Which tests of this folder fail on the code as it was: a test that passes there proves nothing about what was mended.

python tests/robustness/before.py db9b4d7 --out docs/bench
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

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def outcomes(source: Path, junit: Path) -> dict[tuple[str, str], Counter[str]]:
    """(file, test without its parameters) -> how often it passed and failed with the package in `source`."""
    files = sorted(p for p in HERE.glob("test_*.py") if p.name != "test_fuzz_sample.py")
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
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=False)
    found: dict[tuple[str, str], Counter[str]] = {}
    for case in ElementTree.parse(junit).iter("testcase"):
        failed = case.find("failure") is not None or case.find("error") is not None
        name = (case.get("classname", "").rpartition(".")[2], case.get("name", "").partition("[")[0])
        found.setdefault(name, Counter())["failed" if failed else "passed"] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", help="the code as it was")
    parser.add_argument("--out", type=Path, required=True, help="folder for robustness-before.md")
    told = parser.parse_args()
    short = subprocess.run(
        ["git", "rev-parse", "--short", told.commit], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as scratch:
        archive = subprocess.run(
            ["git", "archive", told.commit, "src"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            tar.extractall(scratch, filter="data")
        found = outcomes(Path(scratch) / "src", Path(scratch) / "junit.xml")
    rows = [
        f"| {file} | {test} | {count['failed']} | {count['passed']} |" for (file, test), count in sorted(found.items())
    ]
    failing = sum(1 for c in found.values() if c["failed"])
    lines = [
        "# Tests of robustness on the code as it was",
        "",
        f"The tests of `tests/robustness/` with the package of commit {short} (`python tests/robustness/before.py "
        f"{short} --out docs/bench`):",
        f"{failing} of {len(found)} fail in at least one case. Those that pass keep what was right already.",
        "",
        "| file | test | cases that fail | cases that pass |",
        "|---|---|---|---|",
        *rows,
    ]
    (told.out / "robustness-before.md").write_text("\n".join(lines) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
