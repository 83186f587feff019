"""`accord bench rewards`: which reward sees what (`--sensitivity`), and what tuning with it brings.

Judged by the reader, which no reward and no method sees. Training prompts are drawn apart from SceneBench.
"""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

import accord
from accord.data.images import to_tensor
from accord.data.prompts import parse, swaps
from accord.diffusion.generate import GUIDANCE, STEPS, generate
from accord.diffusion.lora import remove_lora
from accord.diffusion.pipelines import Pipeline, load
from accord.lab.bench.cache import cache_folder
from accord.lab.bench.prompts import draw, scenebench
from accord.lab.bench.scenes import Bench, make_jobs, row_of, run_method, table
from accord.lab.scenes.ask import lab_lexicon
from accord.lab.scenes.edits import KINDS
from accord.lab.scenes.grammar import Saying, caption
from accord.lab.scenes.read import read
from accord.lab.scenes.render import render
from accord.lab.scenes.scene import Scene, sample_scene
from accord.methods.realign.config import TuneConfig
from accord.methods.realign.tuning import tune
from accord.outputs import check_writable, write_file
from accord.rewards.captioners import load_captioner
from accord.rewards.clip import load_clip
from accord.rewards.rewards import NAMES, Reward, make_rewards
from accord.types import InputError

TOLD = Saying(color=1, size=0, background=0, relation=1, opening=0, paraphrase=0)
STRATEGIES = ("sft", "refl", "draft", "raft", "grpo")
SHIPS = "refl"  # the strategy that is trained with three seeds
PAIRS = 2000  # rendered scenes with captions for the denoising term


# --- sensitivity ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Question:
    """A picture, its true prompt, and the prompt with one thing swapped."""

    image: Image.Image
    true: str
    false: str


def question(scene: Scene, image: Image.Image, kind: str, rng: np.random.Generator) -> Question | None:
    """A Question about `scene` (what the picture shows), or None if this kind of swap does not apply to it."""
    true = caption(scene, rng, TOLD)
    prompt = parse(true)
    if kind == "binding":
        colors = [w for p in prompt.phrases for w in p.words if w.kind == "color"]
        if len(scene.things) != 2 or len({w.text for w in colors}) != 2:
            return None
        if len({t.noun for t in scene.things}) != 2:
            return None
        a, b = colors
        return Question(image, true, true[: a.start] + b.text + true[a.end : b.start] + a.text + true[b.end :])
    options = [s for w in prompt.words if w.kind == kind for s in swaps(prompt, w, lab_lexicon())]
    if kind == "count" and not options:  # "a star" has no counting word
        return None
    if not options:
        return None
    return Question(image, true, options[int(rng.integers(len(options)))][1])


Shown = tuple[Scene, Image.Image]  # a picture and what it shows


def rendered(seed: int = 5) -> Iterator[Shown]:
    """Random scenes without end."""
    rng = np.random.default_rng(seed)
    while True:
        scene = sample_scene(rng)
        yield scene, Image.fromarray(render(scene))


def questions(kind: str, count: int, shown: Iterable[Shown], seed: int = 5) -> list[Question]:
    """At most `count` questions of one kind about pictures."""
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    found = (question(scene, image, kind, rng) for scene, image in shown)
    return list(itertools.islice((q for q in found if q), count))


def generated(pipe: Pipeline, count: int) -> list[Shown]:
    """Up to `count` pictures of the pipeline, those that the reader understands, with what it reads."""
    prompts = [p.text for p in draw(66)]
    order = np.random.default_rng(0).permutation(len(prompts))[:count]
    images = generate(pipe, [prompts[i] for i in order], 0, progress=True)
    assert isinstance(images, list)
    shown = [(read(i), i) for i in images]
    return [
        (s, i)
        for s, i in shown
        if 1 <= len(s.things) <= 3 and all("unknown" not in (t.noun, t.color, s.background) for t in s.things)
    ]


@torch.no_grad()
def ranks_right(reward: Reward, asked: Sequence[Question]) -> np.ndarray:
    """1 where the true prompt is ranked above the false one, 1/2 for a tie; [Q]."""
    out = []
    for i in range(0, len(asked), 32):
        part = asked[i : i + 32]
        images = to_tensor([q.image for q in part])
        own, other = (reward(images, [getattr(q, side) for q in part]) for side in ("true", "false"))
        out.append(((own > other).float() + 0.5 * (own == other).float()).cpu().numpy())
    return np.concatenate(out) if out else np.zeros(0)


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share."""
    if not count:
        return 0.0, 1.0
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * ((share * (1 - share) + z * z / (4 * count)) / count) ** 0.5 / (1 + z * z / count)
    return middle - half, middle + half


def sensitivity(out: Path, model: str | None = None, quick: bool = False) -> tuple[dict[str, Any], str]:
    """Rank true prompts against swapped ones with every reward; writes `sensitivity.json` and `.md`."""
    check_writable(out)
    pipe, captioner, clip = load(model), load_captioner(), load_clip()
    rewards = {n: make_rewards({n: 1.0}, captioner, clip).rewards[n] for n in NAMES}
    count = 60 if quick else 400
    rows = []
    pictures = generated(pipe, 120 if quick else 512)
    for source in ("renders", "generated"):
        asked = {k: questions(k, count, rendered() if source == "renders" else pictures) for k in KINDS}
        for name, reward in tqdm(rewards.items(), desc=source):
            cells = {}
            for kind in KINDS:
                right = ranks_right(reward, asked[kind])
                share = float(right.mean()) if len(right) else float("nan")
                low, high = wilson(share, len(right))
                cells[kind] = {"right": round(share, 4), "ci95": [round(low, 4), round(high, 4)], "questions": len(right)}
            rows.append({"pictures": source, "reward": name, **cells})
    data = {"bench": "rewards --sensitivity", "quick": quick, "rows": rows}
    lines = ["| pictures | reward | " + " | ".join(KINDS) + " |", "|" + "---|" * (len(KINDS) + 2)]
    for row in rows:
        shown = [
            f"{100 * row[k]['right']:.0f} [{100 * row[k]['ci95'][0]:.0f}, {100 * row[k]['ci95'][1]:.0f}]" for k in KINDS
        ]
        lines.append(f"| {row['pictures']} | {row['reward']} | " + " | ".join(shown) + " |")
    text = (
        "# Which reward sees what\n\nHow often, in %, a reward ranks a picture's true prompt above the same prompt with one "
        "thing swapped (a coin: 50) [95 %]. Generated pictures are told as the reader reads them.\n\n" + "\n".join(lines) + "\n"
    )
    stem = "sensitivity-quick" if quick else "sensitivity"
    write_file(out / f"{stem}.json", (json.dumps(data, indent=1) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    return data, text


# --- tuning -----------------------------------------------------------------------------------------------------------
def training_prompts(count: int = 512, seed: int = 65) -> list[str]:
    """Prompts like SceneBench's, none of them in it, no held-out combination among them."""
    bench = {p.text for p in scenebench()}
    drawn = [p for k in range(3) for p in draw(seed + 100 * k)]
    texts = list(dict.fromkeys(p.text for p in drawn if not p.held_out and p.text not in bench))
    order = np.random.default_rng(seed).permutation(len(texts))
    return [texts[i] for i in order[:count]]


def rendered_pairs(count: int = PAIRS, seed: int = 11) -> tuple[list[Image.Image], list[str]]:
    """Rendered scenes and captions, for the denoising term of every strategy and of the control."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    return [Image.fromarray(render(s)) for s in scenes], [caption(s, rng) for s in scenes]


def main(
    out: Path, minutes: float = 12.0, model: str | None = None, quick: bool = False, progress: bool = True, seeds: int = 4
) -> tuple[dict[str, Any], str]:
    """Tune with every strategy at equal wall time and measure on SceneBench; writes `rewards.json`, `.md` and adapters.

    Raises:
        InputError: if `minutes` is not positive, or for a number of seeds (of sampling) that there are not.
    """
    if minutes <= 0:
        raise InputError(f"minutes must be positive, not {minutes:g}")
    check_writable(out)
    captioner, clip = load_captioner(), load_clip()
    jobs = make_jobs(quick, seeds)
    pairs = rendered_pairs(200 if quick else PAIRS)
    base = Bench(load(model), captioner, accord.RealignConfig())
    cache = cache_folder(out, f"rewards{'-quick' if quick else ''}", base.pipe, captioner, clip, base.config, minutes)
    runs = cache / "tuned"
    records = {
        "base": run_method("base", base.base, jobs, cache / "base.jsonl", progress),
        "best-of-4": run_method("best-of-4", base.best_of(4, stop=False), jobs, cache / "best-of-4.jsonl", progress),
    }
    spread, reports = {"base": diversity(base.pipe, quick)}, {}
    for strategy in STRATEGIES:
        for seed in range(3 if strategy == SHIPS and not quick else 1):
            name = f"{strategy}, seed {seed}" if seed else strategy
            pipe = load(model)
            config = TuneConfig(strategy=strategy, seed=seed, num_inference_steps=20 if strategy in ("raft", "grpo") else 40)
            folder = runs / name.replace(", ", "-").replace(" ", "-")
            config = replace(config, steps=_affordable(pipe, config, pairs, captioner, clip, minutes, runs))
            reward = make_rewards({"contrast": 1.0}, captioner, clip)
            guard = make_rewards({"clip": 1.0}, clip=clip).rewards["clip"]
            began = time.perf_counter()
            tuned = tune(
                pipe, training_prompts(), reward, folder, config=config, held_out=guard, pairs=pairs,
                resume=(folder / "config.json").is_file(), progress=progress,
            )  # fmt: skip
            reports[name] = {"steps": tuned.report["steps_taken"], "seconds": time.perf_counter() - began, **tuned.report}
            bench = Bench(pipe, captioner, base.config)
            records[name] = run_method(name, bench.base, jobs, cache / f"{folder.name}.jsonl", progress)
            spread[name] = diversity(pipe, quick)
            if strategy == SHIPS and seed == 0:
                both = f"{strategy} + realign"
                records[both] = run_method(both, bench.realigned(), jobs, cache / f"{folder.name}-realign.jsonl", progress)
    rows = [row_of(name, records[name], records["base"], jobs) for name in records]
    for row in rows:
        row["diversity"] = spread.get(row["method"])
        row["steps"] = reports.get(row["method"], {}).get("steps")
    data = {
        "bench": "rewards",
        "quick": quick,
        "minutes": minutes,
        "prompts": len({j.number for j in jobs}),
        "seeds": sorted({j.seed for j in jobs}),
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "rows": rows,
        "reports": {k: {"verdict": v["verdict"], "gains": v["gains"], "seconds": round(v["seconds"])} for k, v in reports.items()},
    }
    text = table(data).replace("# SceneBench", "# Reward tuning on SceneBench", 1)
    text += "\nMean distance of pictures of one prompt across seeds: "
    text += ", ".join(f"{k} {v:.4f}" for k, v in spread.items()) + ".\n"
    stem = "rewards-quick" if quick else "rewards"
    write_file(out / f"{stem}.json", (json.dumps(data, indent=1) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    return data, text


def _affordable(
    pipe: Pipeline, config: TuneConfig, pairs: Any, captioner: Any, clip: Any, minutes: float, runs: Path
) -> int:
    """Steps of this strategy that fit into the wall time, from four steps taken on trial."""
    saved = runs / f"{config.strategy}-steps.json"
    if saved.is_file():
        return int(json.loads(saved.read_text(encoding="utf8"))["steps"])
    probe = runs / f".probe-{config.strategy}"
    seconds = []
    for steps in (1, 5):
        shutil.rmtree(probe, ignore_errors=True)
        began = time.perf_counter()
        trial = replace(config, steps=steps, eval_every=1000, eval_prompts=2)
        tune(pipe, training_prompts(16), make_rewards({"contrast": 1.0}, captioner, clip), probe, config=trial,
             pairs=(pairs[0][:16], pairs[1][:16]), progress=False)  # fmt: skip
        seconds.append(time.perf_counter() - began)
        remove_lora(pipe)
        shutil.rmtree(probe, ignore_errors=True)
    steps = max(10, int(60 * minutes / max(1e-3, (seconds[1] - seconds[0]) / 4)))
    write_file(saved, json.dumps({"steps": steps}).encode())
    return steps


def diversity(pipe: Pipeline, quick: bool = False, seeds: int = 4) -> float:
    """Mean distance of two pictures of one prompt from two seeds: root mean square of pixels in 0..1."""
    texts = [p.text for p in scenebench()[:: 64 if quick else 16]]
    images = generate(pipe, texts, list(range(seeds)), output_type="pt")
    assert isinstance(images, torch.Tensor)
    grouped = images.float().view(len(texts), seeds, -1)
    distances = torch.cdist(grouped, grouped) / grouped.shape[-1] ** 0.5
    return float(distances.sum() / (len(texts) * seeds * (seeds - 1)))
