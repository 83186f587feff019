"""`accord bench rewards`: which reward sees what (`--sensitivity`), and what tuning with it brings.

Judged by the reader, which no reward and no method sees. Training prompts are drawn apart from SceneBench.
"""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from accord.data.images import to_tensor
from accord.data.prompts import exchanged, parse, swaps
from accord.data.shards import share_of
from accord.diffusion.generate import generate
from accord.diffusion.lora import remove_lora
from accord.diffusion.pipelines import SD, Pipeline, load
from accord.embedded import TUNING
from accord.files import check_writable, write_file
from accord.methods.invert.alignment import InversionScore
from accord.methods.realign.config import RealignConfig
from accord.methods.tune.config import TuneConfig
from accord.methods.tune.strategies.raft import Raft
from accord.methods.tune.train import train_reward
from accord.outputs import in_a_row, labelled_row, png
from accord.rewards.captioners import load_captioner
from accord.rewards.clip import load_clip
from accord.rewards.rewards import NAMES, Reward, make_rewards
from accord.types import InputError
from accord_lab.bench.cache import cache_folder, known_rows, slug
from accord_lab.bench.prompts import draw, scenebench
from accord_lab.bench.scenes import (
    Bench,
    Job,
    Method,
    bootstrap,
    lead,
    make_jobs,
    plot,
    results,
    right_by_prompt,
    row_of,
    run_method,
    table,
    told_lead,
)
from accord_lab.scenes.ask import lab_lexicon
from accord_lab.scenes.edits import KINDS
from accord_lab.scenes.grammar import Saying, caption
from accord_lab.scenes.pairs import rendered_pairs
from accord_lab.scenes.read import read
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import Scene, sample_scene

TOLD = Saying(color=1, size=0, background=0, relation=1, opening=0, paraphrase=0)
STRATEGIES = ("sft", "refl", "draft", "raft", "grpo")
SHIPS = "refl"  # the strategy that is trained with three seeds
CONTROL = "sft"  # what ships without its reward: the same adapter, rate, anchors and steps
REWARD = {"contrast": 1.0}
# the held-out score: how well the prompt is read back from the picture (embedded CLIP is at chance here)
GUARD = "inversion"
LONG = 2  # times the minutes of the others, for the strategy that ships
RIVAL = "best-of-4"  # four times the cost of sampling
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
        return Question(image, true, exchanged(true, *colors))
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
    """Rank true prompts against swapped ones with every reward, and with the held-out score; writes `sensitivity.json`
    and `.md`.
    """
    check_writable(out)
    pipe, captioner, clip = load(model, classes=SD), load_captioner(), load_clip()
    rewards: dict[str, Reward] = {n: make_rewards({n: 1.0}, captioner, clip).rewards[n] for n in NAMES}
    rewards[GUARD] = InversionScore()
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
                cells[kind] = {
                    "right": round(share, 4),
                    "ci95": [round(low, 4), round(high, 4)],
                    "questions": len(right),
                }
            rows.append({"pictures": source, "reward": name, **cells})
    data = {"bench": "rewards --sensitivity", "quick": quick, "rows": rows}
    lines = ["| pictures | reward | " + " | ".join(KINDS) + " |", "|" + "---|" * (len(KINDS) + 2)]
    for row in rows:
        shown = [
            f"{100 * row[k]['right']:.0f} [{100 * row[k]['ci95'][0]:.0f}, {100 * row[k]['ci95'][1]:.0f}]" for k in KINDS
        ]
        lines.append(f"| {row['pictures']} | {row['reward']} | " + " | ".join(shown) + " |")
    text = (
        "# Which reward sees what\n\nHow often, in %, a reward ranks a picture's true prompt above the same prompt "
        "with one "
        "thing swapped (a coin: 50) [95 %]. Generated pictures are captioned as the reader reads them.\n\n"
        + "\n".join(lines)
        + "\n"
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


@dataclass(frozen=True)
class Tuning:
    """One run of a strategy."""

    strategy: str
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.strategy}, seed {self.seed}" if self.seed else self.strategy

    @property
    def rows(self) -> tuple[str, ...]:
        """The tuned pipeline alone; for the first run of what ships, also with `realign` on top."""
        return (self.name, f"{self.name} + realign") if self == Tuning(SHIPS) else (self.name,)


def tunings(quick: bool) -> list[Tuning]:
    """Every strategy, the one that ships with three seeds."""
    return [Tuning(s, k) for s in STRATEGIES for k in range(3 if s == SHIPS and not quick else 1)]


class Tunings:
    """Makes rows of the table. A row is kept once it is made; so are the pictures' verdicts and the runs behind it.

    Args:
        cache: folder of these models, for rows without tuning.
        tuned_caches: strategy -> folder of these models and its knobs.
        known: rows of a table that was made with the same models, knobs and pictures.
    """

    def __init__(
        self,
        model: str | None,
        cache: Path,
        tuned_caches: dict[str, Path],
        known: dict[str, dict[str, Any]],
        jobs: list[Job],
        minutes: float,
        quick: bool,
        progress: bool,
    ) -> None:
        self.model, self.cache, self.tuned_caches, self.known, self.jobs = model, cache, tuned_caches, known, jobs
        self.minutes, self.quick, self.progress = minutes, quick, progress
        self.captioner, self.clip, self.guard = load_captioner(), load_clip(), InversionScore()
        self.pairs = rendered_pairs(200 if quick else PAIRS)

    def bench(self, pipe: Pipeline) -> Bench:
        return Bench(pipe, self.captioner, RealignConfig())

    def row(self, name: str, make: Callable[[], dict[str, Any]], cache: Path) -> dict[str, Any]:
        """The kept row of this name, or the one made now."""
        if name in self.known:
            return self.known[name]
        kept = kept_row(name, cache, len(self.jobs))
        if kept is None:
            write_file(_row_file(name, cache, len(self.jobs)), json.dumps(make()).encode())
            kept = kept_row(name, cache, len(self.jobs))
            assert kept is not None
        return kept

    def plain(
        self, name: str, method: Callable[[Bench], Method], cache: Path, pipe: Pipeline | None = None
    ) -> dict[str, Any]:
        """What a method makes of SceneBench."""
        records = run_method(
            name,
            method(self.bench(pipe or load(self.model, classes=SD))),
            self.jobs,
            cache / f"{slug(name)}.jsonl",
            self.progress,
        )
        return row_of(name, records, self.jobs)

    def base(self) -> list[dict[str, Any]]:
        def make() -> dict[str, Any]:
            plain = self.plain("base", lambda b: b.base, self.cache)
            return {**plain, "diversity": diversity(load(self.model, classes=SD), self.quick)}

        return [self.row("base", make, self.cache)]

    def best_of_four(self) -> list[dict[str, Any]]:
        return [self.row(RIVAL, lambda: self.plain(RIVAL, lambda b: b.best_of(4, stop=False), self.cache), self.cache)]

    def tuned(self, tuning: Tuning) -> list[dict[str, Any]]:
        """The rows of a run."""

        @functools.cache  # tuned at most once, and only if a row is missing
        def trained() -> tuple[Pipeline, dict[str, Any]]:
            pipe = load(self.model, classes=SD)
            return pipe, self.train(pipe, tuning)

        def alone() -> dict[str, Any]:
            pipe, report = trained()
            return {
                **self.plain(tuning.name, lambda b: b.base, cache, pipe),
                **report,
                "diversity": diversity(pipe, self.quick),
            }

        def with_realign(name: str) -> dict[str, Any]:
            return self.plain(name, lambda b: b.realigned(), cache, trained()[0])

        cache = self.tuned_caches[tuning.strategy]
        own, *both = tuning.rows
        return [
            self.row(own, alone, cache),
            *(self.row(name, functools.partial(with_realign, name), cache) for name in both),
        ]

    def config(self, tuning: Tuning) -> TuneConfig:
        return TuneConfig.of(tuning.strategy, seed=tuning.seed, **TUNING.get(tuning.strategy, {}))

    def folder(self, tuning: Tuning) -> Path:
        return self.tuned_caches[tuning.strategy] / "tuned" / slug(tuning.name)

    def steps(self, pipe: Pipeline, tuning: Tuning) -> int:
        """What fits into the minutes; the control takes as many steps as what ships."""
        if tuning.strategy == CONTROL:
            tuning = Tuning(SHIPS, tuning.seed)
            done = self.known.get(tuning.name)
            if done is not None:
                return int(done["steps"])
        minutes = self.minutes * (LONG if tuning.strategy == SHIPS else 1)
        return _affordable(
            pipe, self.config(tuning), self.pairs, self.captioner, self.clip, minutes, self.folder(tuning)
        )

    def train(self, pipe: Pipeline, tuning: Tuning) -> dict[str, Any]:
        """Tune the pipeline; what the run's report says of it."""
        config, folder = self.config(tuning), self.folder(tuning)
        config = replace(config, steps=self.steps(pipe, tuning))
        reward = make_rewards(REWARD, self.captioner, self.clip)
        began = time.perf_counter()
        tuned = train_reward(
            pipe,
            training_prompts(),
            reward,
            folder,
            config=config,
            held_out=self.guard,
            pairs=self.pairs,
            progress=self.progress,
        )
        report = tuned.report
        return {
            "steps": report["steps_taken"],
            "tuning_seconds": round(time.perf_counter() - began),
            "verdict": report["verdict"],
            "gains": report["gains"],
        }


def _row_file(name: str, cache: Path, pictures: int) -> Path:
    return cache / f"{slug(name)}-{pictures}.json"


def kept_row(name: str, cache: Path, pictures: int) -> dict[str, Any] | None:
    """The row of this name that is finished in a cache, if there is one."""
    path = _row_file(name, cache, pictures)
    return {**json.loads(path.read_text(encoding="utf8")), "made_with": cache.name} if path.is_file() else None


def main(
    out: Path,
    minutes: float = 12.0,
    model: str | None = None,
    quick: bool = False,
    progress: bool = True,
    seeds: int = 4,
    shard: tuple[int, int] | None = None,
    so_far: bool = False,
) -> tuple[dict[str, Any], str]:
    """Tune with every strategy for as long (LONG times that what ships) and measure on SceneBench; writes
    `rewards.json`, `.md`, `.png` and `rewards-pictures.png` after each row.

    Rows of a table that is there already are taken over if it was made with the same models, knobs and pictures.

    Args:
        shard: (i, n): only every n-th row from the i-th on, into the cache alone; a run without takes them from there.
        so_far: nothing is tuned; the table of what is finished.

    Raises:
        InputError: if `minutes` is not positive, for a number of seeds (of sampling) that there are not, or if the rows
            without which there is no table are not finished yet.
    """
    if minutes <= 0:
        raise InputError(f"minutes must be positive, not {minutes:g}")
    check_writable(out)
    stem = "rewards-quick" if quick else "rewards"
    jobs = make_jobs(quick, seeds)
    models = load(model, classes=SD), load_captioner(), load_clip()
    cache = cache_folder(out, stem, *models, RealignConfig())
    tuned_caches = {s: _tuned_cache(out, stem, s, minutes, *models) for s in STRATEGIES}
    known = {
        r["method"]: r
        for r in known_rows(out / f"{stem}.json", *(c.name for c in (cache, *tuned_caches.values())))
        if r["pictures"] == len(jobs)
    }
    about = {"quick": quick, "minutes": minutes, "longer_for_what_ships": LONG, "guard": GUARD}
    if so_far:
        named = [("base", cache), (RIVAL, cache)]
        named += [(name, tuned_caches[t.strategy]) for t in tunings(quick) for name in t.rows]
        rows = [r for r in (known.get(name) or kept_row(name, folder, len(jobs)) for name, folder in named) if r]
        if [r["method"] for r in rows[:2]] != ["base", RIVAL]:
            raise InputError(f"base and {RIVAL} are not finished yet; run it without `so_far`")
        return _write(out, stem, rows, jobs, about)
    maker = Tunings(model, cache, tuned_caches, known, jobs, minutes, quick, progress)
    parts: list[Callable[[], list[dict[str, Any]]]] = [
        maker.base,
        maker.best_of_four,
        *(functools.partial(maker.tuned, t) for t in tunings(quick)),
    ]
    if shard is not None:
        for part in share_of(parts, shard):
            part()
        return {"bench": "rewards", "shard": list(shard)}, f"every {shard[1]}. row is in {out / '.cache'}"
    rows = []
    for number, part in enumerate(parts):
        rows += part()
        if number:  # base and rival are there; the table so far is kept
            data, text = _write(out, stem, rows, jobs, about)
    return data, text


def _tuned_cache(out: Path, stem: str, strategy: str, minutes: float, *models: Any) -> Path:
    """Folder of one strategy's runs with these models and all that bears on it."""
    minutes *= LONG if strategy in (SHIPS, CONTROL) else 1
    knobs = TuneConfig.of(strategy, **TUNING.get(strategy, {}))
    return cache_folder(out, f"{stem}-{strategy}", *models, RealignConfig(), knobs, REWARD, minutes, GUARD)


def pooled(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """One row of the training seeds of a strategy: their means, and the interval over the prompts."""
    counts = np.asarray([[int(c) for c in r["right_by_prompt"]] for r in rows]).sum(0)
    mean = lambda values: round(float(np.mean(list(values))), 4)  # noqa: E731
    row: dict[str, Any] = {
        "method": name,
        "pictures": sum(r["pictures"] for r in rows),
        "right_by_prompt": [int(c) for c in counts],
    }
    right = right_by_prompt(row)
    nested = {k: {c: mean(r[k][c] for r in rows) for c in rows[0][k]} for k in ("by_category", "atoms")}
    return {
        **row,
        "overall": round(float(right.mean()), 4),
        "ci95": [round(v, 4) for v in bootstrap(right, lambda x: float(x.mean()))],
        **nested,
        **{k: mean(r[k] for r in rows) for k in ("heldout", "denoiser_calls", "seconds_per_image")},
    }


def _write(
    out: Path, stem: str, rows: list[dict[str, Any]], jobs: list[Job], about: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """The table of these rows, in both forms."""
    seeds = [r for r in rows if r["method"] in {Tuning(SHIPS, k).name for k in range(3)}]
    if len(seeds) > 1:
        rows = [*rows, pooled(seeds, f"{SHIPS}, mean of {len(seeds)} training seeds")]
    named = {r["method"]: r for r in rows}
    unseen = np.asarray([held for _, held in sorted({j.number: j.prompt.held_out for j in jobs}.items())])
    against = [
        {"of": name, "over": other, **lead(row, named[other], unseen)}
        for name, row in named.items()
        for other in ("base", CONTROL)
        if other in named and name not in ("base", RIVAL, other)
    ]
    data = {"bench": "rewards", **about, **results(rows, jobs, RIVAL), "against": against}
    text = table(data).replace("# SceneBench", "# Reward tuning on SceneBench", 1)
    text += "\nMean distance of pictures of one prompt across seeds: "
    text += ", ".join(f"{r['method']} {r['diversity']:.4f}" for r in rows if "diversity" in r) + ".\n\n"
    text += "".join(f"- {told_lead(a)}\n" for a in against)
    text += "".join(
        f"- {r['method']}: {r['steps']} steps in {r['tuning_seconds']} s. {r['verdict']}\n"
        for r in rows
        if "verdict" in r
    )
    write_file(out / f"{stem}.json", (json.dumps(data, indent=1) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    write_file(out / f"{stem}.png", plot(data))
    if not about["quick"] and (picture := before_and_after(rows, jobs)) is not None:
        write_file(out / f"{stem}-pictures.png", png(picture))
    return data, text


def before_and_after(rows: Sequence[dict[str, Any]], jobs: Sequence[Job]) -> Image.Image | None:
    """The lab's pictures without (above) and with the embedded adapter, same noise: of each category the first prompt
    that the first run of what ships has mended, and the first two that it has broken. None if one of the two rows is
    missing.
    """
    named = {r["method"]: [int(c) for c in r["right_by_prompt"]] for r in rows}
    if not {"base", SHIPS} <= named.keys() or len(jobs) != len(named["base"]):
        return None
    change = [b - a for a, b in zip(named["base"], named[SHIPS], strict=True)]
    mended: dict[str, Job] = {}
    for job, c in zip(jobs, change, strict=True):
        if c > 0:
            mended.setdefault(job.prompt.category, job)
    chosen = [*mended.values(), *[j for j, c in zip(jobs, change, strict=True) if c < 0][:2]]
    made: list[Image.Image] = []
    for name, lora in (("base", None), (f"tuned ({SHIPS})", "lab")):
        pipe = load(lora=lora)
        pictures: list[Any] = [generate(pipe, j.prompt.text, j.noise_seed())[0] for j in chosen]
        made.append(labelled_row(pictures, [] if made else [j.prompt.text for j in chosen], name))
    return in_a_row(made, across=False)


def _affordable(
    pipe: Pipeline, config: TuneConfig, pairs: Any, captioner: Any, clip: Any, minutes: float, folder: Path
) -> int:
    """Steps of the run in `folder` that fit into the wall time, from steps taken on trial; kept beside it.

    What they cost is processor time over threads: other work on the machine would stretch the wall time of so short a
    trial.
    """
    saved = folder.with_name(f"{folder.name}-steps.json")
    if saved.is_file():
        return int(json.loads(saved.read_text(encoding="utf8"))["steps"])
    probe = folder.with_name(f".probe-{folder.name}")  # of this run alone: shards may probe at once
    seconds = []
    # their difference has no loading and no looks in it, and of RAFT's collecting as much as there is in the mean; two
    # of the strategies whose step takes half a minute
    extra = {"grpo": 2, "draft": 2}.get(config.strategy.name, 12)
    few, many = 2, 2 + (config.strategy.refresh if isinstance(config.strategy, Raft) else extra)
    for steps in (few, many):
        shutil.rmtree(probe, ignore_errors=True)
        began = time.process_time()
        trial = replace(config, steps=steps, eval_every=1000, eval_prompts=2)
        train_reward(
            pipe,
            training_prompts(16),
            make_rewards(REWARD, captioner, clip),
            probe,
            config=trial,
            pairs=(pairs[0][:16], pairs[1][:16]),
            progress=False,
        )
        seconds.append((time.process_time() - began) / torch.get_num_threads())
        remove_lora(pipe)
        shutil.rmtree(probe, ignore_errors=True)
    steps = max(10, int(60 * minutes / max(1e-3, (seconds[1] - seconds[0]) / (many - few))))
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
