"""Whether commands still make what they made at another commit: pictures, adapters and curves, byte for byte.

    python tests/same_as.py d47a05e
    python tests/same_as.py d47a05e --only bench

Runs the demo, scores, every tuning strategy, trainings of context, a training of an inverter, inversions, edits and
three quick tables with both trees, each on the embedded lab with a few steps, and compares what they have written.
Exit code 1 if anything differs. Both trees must know the commands as they are called here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DEMO = ("two yellow stars and a purple moon", "a green fish and a pink heart", "a red star to the left of a blue key")
PROMPTS = "".join(f"a {color} {noun}\n" for color in ("red", "blue", "green") for noun in ("star", "key", "fish"))
TUNING = "--steps 2 --batch-size 2 --inference-steps 4 --anchors 4 --eval-every 2 --held-out none --reward likelihood"
EDIT = ("edit", "frames", "--source", "a red star", "--target", "a blue key", "--tune-steps", "2")
COLORS = ("red", "green", "blue", "purple", "orange", "yellow")
SHAPES = [f"pictures/{i}.png" for i in range(12)]
# the only number that depends on how many texts are embedded at once, in its last digits
SCORE = re.compile(rb'("score": )(-?[\d.]+(?:e-?\d+)?)')
# a command's words, and the files of its folder that are compared (reports name settings, which may be renamed); a
# command that says itself where it writes is given no folder
COMMANDS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "demo": (
        ["realign", *DEMO, "--seed", "1", "--seed", "2", "--mode", "same_seed"],
        ("*/before.png", "*/after.png"),
    ),
    "new-seed": (["realign", DEMO[0], "--seed", "5", "--rounds", "2"], ("*/*.png", "*/report.json", "*/index.html")),
    "score": (["score", "pictures/0.png", "a red star"], ("*",)),
    "score-pairs": (["score", "--pairs", "pairs.csv", "--out", "out/scores.jsonl"], ("scores.jsonl",)),
    "invert-pictures": (["invert", *SHAPES, "--bank", "prompts.txt", "--json"], ("stdout",)),
    "invert-words": (["invert", *SHAPES, "--words-only", "--json"], ("stdout",)),
    "invert-folder": (
        ["invert", "--folder", "pictures", "--bank", "prompts.txt", "--out", "out/found.jsonl"],
        ("found.jsonl",),
    ),
    **{
        f"tune-{strategy}": (
            ["train", "reward", "--prompts", "prompts.txt", "--strategy", strategy, *TUNING.split()],
            ("*.safetensors", "curve.jsonl"),
        )
        for strategy in ("refl", "draft", "raft", "grpo", "sft")
    },
    "context": (
        ["train", "context", "--scenes", "8", "--steps", "2", "--batch-size", "2"],
        ("**/*.safetensors", "curve.jsonl"),
    ),
    "context-bound": (
        "train context --scenes 8 --steps 2 --batch-size 2 --loss kl --estimated-share 0.5 --denoiser full".split(),
        ("**/*.safetensors", "curve.jsonl"),
    ),
    "inverter": (
        ["train", "inverter", "--pairs", "pairs.csv", "--kind", "clip", "--steps", "3", "--batch-size", "4"],
        ("inverter/*.safetensors",),
    ),
    "edit": (
        [*EDIT, "--steps", "4"],
        ("*.png",),
    ),
    "edit-windows": (  # 8 frames in two windows of 6, which share 4; what was tuned is beside the frames
        [*EDIT, *"--steps 5 --window 6 --strength 0.8 --injection 0.7 --mask-blending 1 --tuned tuned".split()],
        ("*.png", "../tuned/*.safetensors", "../tuned/*/*.safetensors", "../tuned/*.json*"),
    ),
    # rows of tables, apart from their times; with so few minutes each strategy takes the ten steps that are the least
    "bench-scenes": (["bench", "scenes", "--quick"], ("scenes-quick.json", "scenes-quick.png")),
    "bench-video": (["bench", "video", "--quick"], ("video-quick.json",)),
    "bench-rewards": (["bench", "rewards", "--quick", "--minutes", "0.01"], ("rewards-quick.json",)),
    "edit-plain": (
        [*EDIT, *"--steps 4 --window 6 --no-context --injection 0 --mask-blending 0 --modulation 1".split()],
        ("*.png",),
    ),
}


def inputs(folder: Path) -> None:
    """What the commands read: prompts, pairs, shapes of several sizes and modes, and a video of eight frames."""
    import numpy as np
    from PIL import Image, ImageDraw

    (folder / "prompts.txt").write_text(PROMPTS, encoding="utf8")
    rng = np.random.default_rng(0)
    rows = ["image,prompt"]
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{PROMPTS.splitlines()[i % 9]} number {i} of {rng.integers(10**6)}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n", encoding="utf8")
    (folder / "pictures").mkdir()
    for i, name in enumerate(SHAPES):
        shape = Image.new("RGB", (64 + 16 * (i % 3), 64), "white")
        draw, box = ImageDraw.Draw(shape), (4 + 3 * i, 8, 40 + 2 * i, 50)
        (draw.rectangle, draw.ellipse)[i % 2](box, fill=COLORS[i % 6])
        draw.rectangle((2, 40, 20, 60), fill=COLORS[(i + 2) % 6])
        shape.convert(("RGB", "RGBA", "L", "P")[i % 4]).save(folder / name)
    (folder / "frames").mkdir()
    for i in range(8):
        pixels = np.full((64, 64, 3), 200, np.uint8)
        pixels[20:40, 4 + 4 * i : 24 + 4 * i] = (200, 30, 30)
        Image.fromarray(pixels).save(folder / "frames" / f"{i:05d}.png")


def made(source: Path, folder: Path, name: str) -> dict[str, bytes] | str:
    """Files that a command writes with the package in `source`, or what it said when it failed."""
    words, compared = COMMANDS[name]
    folder.mkdir()
    inputs(folder)
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    place = [] if "--out" in words or "stdout" in compared else ["--out", "out"]
    command = [sys.executable, "-m", "accord.cli", *words, *place]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    out = folder / "out"
    files = {str(p.relative_to(out)): p.read_bytes() for pattern in compared for p in sorted(out.glob(pattern))}
    if words[0] == "bench":
        files = {n: _untimed(content) if n.endswith(".json") else content for n, content in files.items()}
    said = {"stdout": done.stdout.encode()} if "stdout" in compared else {}
    return {name: SCORE.sub(_rounded, content) for name, content in (files | said).items()}


def _rounded(found: re.Match[bytes]) -> bytes:
    return found[1] + b"%.5f" % float(found[2])


def _untimed(table: bytes) -> bytes:
    """A table's JSON without times, and without what names the bench and its cache."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: kept(v) for k, v in value.items() if not re.search("second|bench|made_with", k)}
        return [kept(v) for v in value] if isinstance(value, list) else value

    return json.dumps(kept(json.loads(table)), sort_keys=True).encode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the code as it was")
    parser.add_argument("--only", default="", help="commands with this in their name")
    options = parser.parse_args()
    differing = 0
    with tempfile.TemporaryDirectory() as scratch:
        before = Path(scratch) / "before"
        archive = subprocess.run(["git", "archive", options.commit, "src"], cwd=ROOT, capture_output=True, check=True)
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
            tar.extractall(before, filter="data")
        for name in (n for n in COMMANDS if options.only in n):
            old, new = (
                made(source, Path(scratch) / f"{name}-{when}", name)
                for when, source in (("before", before / "src"), ("now", ROOT / "src"))
            )
            if isinstance(old, str) or isinstance(new, str):
                same, said = (
                    False,
                    f"before: {old if isinstance(old, str) else 'ran'}; now: {new if isinstance(new, str) else 'ran'}",
                )
            else:
                other = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
                same, said = (
                    bool(old) and not other,
                    f"{len(old)} files" + (f", other: {', '.join(other)}" if other else ""),
                )
            differing += not same
            print(f"{'same ' if same else 'OTHER'} {name}: {said}", flush=True)
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
