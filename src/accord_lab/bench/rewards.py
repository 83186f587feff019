"""`accord bench rewards`: what tuning with a reward brings, strategy by strategy.

Judged by the reader, which no reward and no method sees. Training prompts are drawn apart from SceneBench.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from accord.diffusion.generate import generate
from accord.diffusion.lora import remove_lora
from accord.diffusion.pipelines import SD, Pipeline, load
from accord.embedded import TUNING
from accord.judges.captioners import Captioner, load_captioner
from accord.judges.clip import ClipScorer, load_clip
from accord.methods.invert.alignment import InversionScore
from accord.methods.realign.config import RealignConfig
from accord.methods.tune.config import TuneConfig
from accord.methods.tune.forward import Forward
from accord.methods.tune.pairs import passing_pairs
from accord.methods.tune.strategies.raft import Raft
from accord.methods.tune.train import train_reward
from accord.reports.pictures import png
from accord.rewards.composed import make_rewards
from accord.rewards.registry import reward_names
from accord.training.limits import Limits
from accord.types import InputError
from accord_lab.bench.prompts import draw, scenebench
from accord_lab.bench.report import sheet
from accord_lab.bench.runner import Bench, cache_folder, kept, known_rows, slug
from accord_lab.bench.scenes import (
    Job,
    Maker,
    Method,
    lead,
    lead_line,
    make_jobs,
    overall,
    page,
    plot,
    results,
    run_method,
)
from accord_lab.recipes.tokenizers import corpus
from accord_lab.scenes.pairs import rendered_pairs
from accord_lab.scenes.paraphrase import paraphrase, paraphrases

SHIPS = "refl"  # the strategy that is trained with three seeds
CONTROL = "sft"  # what ships without its reward: the same adapter, rate, anchors and steps
REWARD = {"contrast": 1.0}
# the held-out score: how well the prompt is read back from the picture (embedded CLIP is at chance here)
GUARD = "inversion"
LONG = 2  # times the minutes of the others, for the strategy that ships
RIVAL = "best-of-4"  # four times the cost of sampling
PAIRS = 2000  # rendered scenes with captions for the denoising term
SEEDS = 4  # of sampling, for the diversity
RETOLD = "base, other words"  # SceneBench as the grammar says it otherwise
# the strict reward, where it is; with the other a picture that is likelier than all of its swaps is kept
STRICT = next((name for name in ("pass", "passes") if name in reward_names()), "contrast")
LEAST = 0.0 if STRICT == "contrast" else 0.5
OWN_PAIRS = 20_000  # pictures of the pipeline itself, of which those that pass are learned from


@dataclass(frozen=True)
class Setting:
    """How the pipeline of a row is tuned.

    Attributes:
        strategy: its name.
        knobs: those that differ from the lab's usual ones.
        quick: those of `--quick`, over them.
        reward: name -> weight.
        longer: times the minutes of the others.
        offline: learn from the pipeline's own pictures that pass, not from rendered ones.
        limited: stopped by the limits of drift, and measured on paraphrases too.
    """

    strategy: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    reward: Mapping[str, float] = field(default_factory=lambda: REWARD)
    longer: float = 1.0
    offline: bool = False
    limited: bool = True


# A round of 1,152 pictures, gone through twice, 128 of them in a step. Their own loss alone, with a distance to the
# untuned model in it
_ROUND = {
    "batch_size": 8,
    "gradient_accumulation": 8,
    "group_size": 16,
    "times": 1,
    "refresh": 18,
    "passes": 2,
    "rank": 32,
    "reward_weight": 1.0,
    "pretrain_weight": 0.0,
    "kl_weight": 0.0,
    "save_every": 1,
    "eval_every": 18,
}
_FEW = {
    "batch_size": 2,
    "gradient_accumulation": 2,
    "group_size": 4,
    "refresh": 2,
    "rank": 4,
    "eval_prompts": 4,
    "anchors": 8,
}
_STRICT = {STRICT: 1.0}
# the pass fails a quarter of the right pictures; which of those that fail is better, the contrast says
_GRADED = {STRICT: 1.0, "contrast": 1.0}
SETTINGS: dict[str, Setting] = {
    "sft": Setting("sft", longer=LONG, limited=False),
    "refl": Setting("refl", longer=LONG, limited=False),
    # the gradient reaches back to t = 799, where the layout is decided; K = 1 of 40 is at t = 24
    "draft, last 8 of 10": Setting(
        "draft", {"num_inference_steps": 10, "last_steps": 8}, {"batch_size": 2, "eval_prompts": 4, "anchors": 8}
    ),
    # the pictures of 256 prompts every other step, what passes alone, at the guided output
    "raft, what passes": Setting(
        "raft",
        {
            "batch_size": 256,
            "gradient_accumulation": 32,
            "candidates": 4,
            "refresh": 2,
            "least": LEAST,
            "guided": True,
            "num_inference_steps": 10,
            "pretrain_weight": 0.0,
        },
        {"batch_size": 4, "gradient_accumulation": 2, "eval_prompts": 4, "anchors": 8},
        _STRICT,
        longer=4,
    ),
    # no denoising term, which is five times the size of its own; the steps that decide what is where
    "grpo, 850 to 500": Setting(
        "grpo",
        {"group_size": 16, "pretrain_weight": 0.0, "time_from": 500, "time_until": 850},
        {"batch_size": 2, "group_size": 4, "eval_prompts": 4, "anchors": 8},
        _STRICT,
        longer=4,
    ),
    "sft, pairs that pass": Setting("sft", {}, {"eval_prompts": 4, "anchors": 8}, _STRICT, longer=LONG, offline=True),
    "nft": Setting("nft", _ROUND, _FEW, _GRADED, longer=4),
    "nft, caption": Setting("nft", _ROUND, _FEW, {"caption": 1.0}, longer=4),
    "awm": Setting("awm", _ROUND, _FEW, _GRADED, longer=4),
}
# Rows that were measured with settings that were no test of their methods: shown as long as they are known, not made
# again. DRaFT's gradient of one step at t = 24 cannot move a layout; GRPO's denoising term was five times the size of
# its own; RAFT took 20 steps on 8 pictures, a fifth of them wrong, and was guided twice.
BEFORE: dict[str, Setting] = {name: Setting(name, limited=False) for name in ("draft", "raft", "grpo")}
ROWS = SETTINGS | BEFORE


def training_prompts(count: int = 512, seed: int = 65) -> list[str]:
    """Prompts like SceneBench's, none of them in it, no held-out combination among them."""
    bench = {p.text for p in scenebench()}
    drawn = [p for k in range(3) for p in draw(seed + 100 * k)]
    texts = list(dict.fromkeys(p.text for p in drawn if not p.held_out and p.text not in bench))
    order = np.random.default_rng(seed).permutation(len(texts))
    return [texts[i] for i in order[:count]]


@dataclass(frozen=True)
class Tuning:
    """One run with a setting of ROWS."""

    setting: str
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.setting}, seed {self.seed}" if self.seed else self.setting

    @property
    def how(self) -> Setting:
        return ROWS[self.setting]

    @property
    def rows(self) -> tuple[str, ...]:
        """The tuned pipeline alone; for the first run of what ships, also with `realign` on top; for one that is
        limited, also on prompts in other words.
        """
        more = (f"{self.name} + realign",) if self == Tuning(SHIPS) else ()
        return (self.name, *more, *((f"{self.name}, other words",) if self.how.limited else ()))


@dataclass(kw_only=True)
class Rewards(Bench[Tuning | str, list[dict[str, Any]]]):
    """Every strategy for as long (LONG times that what ships), measured on SceneBench. A cell is a run, or a method
    without tuning, and has a row or two. A row is kept once it is made; so are the pictures' verdicts and the runs
    behind it. Rows of a table that is there already are taken over if it was made with the same models, knobs and
    pictures.

    Attributes:
        minutes: processor time of each strategy, over threads.
        seeds: of sampling.

    Raises:
        InputError: if `minutes` is not positive, or for a number of seeds that there are not.
    """

    name = "rewards"
    keeps = True
    each = True
    minutes: float = 12.0
    model: str | None = None
    seeds: int | None = None
    jobs: list[Job] = field(default_factory=list)  # SceneBench's if empty

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minutes <= 0:
            raise InputError(f"minutes must be positive, not {self.minutes:g}")
        self.jobs = self.jobs or make_jobs(self.quick, self.seeds)

    # --- what is there ------------------------------------------------------------------------------------------------
    @cached_property
    def models(self) -> tuple[Pipeline, Captioner, ClipScorer]:
        return load(self.model, classes=SD), load_captioner(), load_clip()

    @cached_property
    def caches(self) -> dict[str, Path]:
        """Folder of these models, for rows without tuning, as ""; of each strategy, also of its knobs."""
        found = {"": cache_folder(self.out, self.stem, *self.models, RealignConfig())}
        for name, how in ROWS.items():
            minutes = self.minutes * how.longer
            parts: tuple[Any, ...] = (
                *self.models,
                RealignConfig(),
                self.config(Tuning(name)),
                dict(how.reward),
                minutes,
                GUARD,
            )
            parts += (("own pictures", OWN_PAIRS, LEAST),) if how.offline else ()
            parts += (Limits(),) if how.limited else ()
            found[name] = cache_folder(self.out, f"{self.stem}-{slug(name)}", *parts)
        return found

    @cached_property
    def known(self) -> dict[str, dict[str, Any]]:
        """Rows of the table that is there, by name."""
        rows = known_rows(self.out / f"{self.stem}.json", *(c.name for c in self.caches.values()))
        return {r["method"]: r for r in rows if r["pictures"] == len(self.jobs)}

    def cells(self) -> Sequence[Tuning | str]:
        """Base and rival, the base on prompts in other words, and every setting, what ships with three seeds."""
        seeds = {SHIPS: 1 if self.quick else 3}
        named = [*SETTINGS, *(name for name in BEFORE if name in self.known)]
        return ["base", RIVAL, RETOLD, *(Tuning(name, k) for name in named for k in range(seeds.get(name, 1)))]

    def finished(self, cell: Tuning | str) -> list[dict[str, Any]] | None:
        return [r for name in _rows(cell) if (r := self.row(name, cell)) is not None] or None

    def row(
        self, name: str, cell: Tuning | str, make: Callable[[], dict[str, Any]] | None = None
    ) -> dict[str, Any] | None:
        """The row of this name that is known or kept, or the one made now."""
        if name in self.known:
            return self.known[name]
        cache = self.cache(cell)
        row = kept(cache / f"{slug(name)}-{len(self.jobs)}.json", make)
        return row and {**row, "made_with": cache.name}

    def cache(self, cell: Tuning | str) -> Path:
        return self.caches["" if isinstance(cell, str) else cell.setting]

    def missing(self, rows: Sequence[list[dict[str, Any]]]) -> str:
        there = [r["method"] for row in rows[:2] for r in row]
        return "" if there[:2] == ["base", RIVAL] else f"base and {RIVAL} are not finished yet"

    # --- making rows --------------------------------------------------------------------------------------------------
    @cached_property
    def pairs(self) -> tuple[list[Image.Image], list[str]]:
        return rendered_pairs(200 if self.quick else PAIRS)

    @cached_property
    def own_pairs(self) -> tuple[list[Image.Image], list[str]]:
        """The pipeline's own pictures of captions that pass."""
        _, captioner, clip = self.models
        texts = corpus(16 if self.quick else OWN_PAIRS, 100)
        pipe = load(self.model, classes=SD)
        images = [i for k in range(0, len(texts), 32) for i in _made(pipe, texts[k : k + 32], k)]
        return passing_pairs(images, texts, make_rewards(_STRICT, captioner, clip), LEAST)

    @cached_property
    def retold(self) -> list[Job]:
        """The jobs with their prompts in other words."""
        rng = np.random.default_rng(5)
        others = {text: paraphrase(text, rng) for text in dict.fromkeys(j.prompt.text for j in self.jobs)}
        return [replace(job, prompt=replace(job.prompt, text=others[job.prompt.text])) for job in self.jobs]

    def measure(self, cell: Tuning | str) -> list[dict[str, Any]]:
        @functools.cache  # tuned at most once, and only if a row is missing
        def pipe() -> tuple[Pipeline, dict[str, Any]]:
            fresh = load(self.model, classes=SD)
            return fresh, {} if isinstance(cell, str) else self.train(fresh, cell)

        def alone(name: str) -> dict[str, Any]:
            made = self.plain(name, lambda m: m.best_of(4, stop=False) if cell == RIVAL else m.base, cell, pipe()[0])
            return {**made, **pipe()[1], **({} if cell == RIVAL else {"diversity": self.diversity(pipe()[0])})}

        def with_realign(name: str) -> dict[str, Any]:
            return self.plain(name, lambda m: m.realigned(), cell, pipe()[0])

        def in_other_words(name: str) -> dict[str, Any]:
            return self.plain(name, lambda m: m.base, cell, pipe()[0], self.retold)

        rows = []
        for name in _rows(cell):
            make = in_other_words if name.endswith("other words") else alone
            make = with_realign if name.endswith("+ realign") else make
            row = self.row(name, cell, functools.partial(make, name))
            assert row is not None
            rows.append(row)
        return rows

    def plain(
        self,
        name: str,
        method: Callable[[Maker], Method],
        cell: Tuning | str,
        pipe: Pipeline,
        jobs: list[Job] | None = None,
    ) -> dict[str, Any]:
        """What a method makes of SceneBench."""
        maker = Maker(pipe, self.models[1], RealignConfig())
        return run_method(
            name, method(maker), jobs or self.jobs, self.cache(cell) / f"{slug(name)}.jsonl", self.progress
        )

    def diversity(self, pipe: Pipeline) -> float:
        """`spread` of a share of SceneBench."""
        texts = [p.text for p in scenebench()[:: 64 if self.quick else 16]]
        images = generate(pipe, texts, list(range(SEEDS)), output_type="pt")
        assert isinstance(images, torch.Tensor)
        return spread(images.view(len(texts), SEEDS, -1))

    def train(self, pipe: Pipeline, tuning: Tuning) -> dict[str, Any]:
        """Tune the pipeline; what the run's report says of it."""
        _, captioner, clip = self.models
        folder, how = self.folder(tuning), tuning.how
        config = replace(self.config(tuning), steps=self.steps(pipe, tuning))
        prompts = training_prompts()
        began = time.perf_counter()
        tuned = train_reward(
            pipe,
            prompts,
            make_rewards(how.reward, captioner, clip),
            folder,
            config=config,
            held_out=InversionScore(),
            pairs=self.own_pairs if how.offline else self.pairs,
            progress=self.progress,
            limits=Limits() if how.limited else None,
            paraphrases=paraphrases(prompts) if how.limited else None,
        )
        report = tuned.report
        return {
            "setting": said_of(tuning.setting, config),
            "steps": report["steps_taken"],
            "tuning_seconds": round(time.perf_counter() - began),
            "verdict": report["verdict"],
            "gains": report["gains"],
        }

    def config(self, tuning: Tuning) -> TuneConfig:
        how = tuning.how
        knobs = {**TUNING.get(how.strategy, {}), **how.knobs, **(how.quick if self.quick else {})}
        return TuneConfig.of(how.strategy, seed=tuning.seed, **knobs)

    def folder(self, tuning: Tuning) -> Path:
        return self.cache(tuning) / "tuned" / slug(tuning.name)

    def steps(self, pipe: Pipeline, tuning: Tuning) -> int:
        """What fits into the minutes; the control takes as many steps as what ships."""
        if tuning.setting == CONTROL:
            tuning = Tuning(SHIPS, tuning.seed)
            if (done := self.known.get(tuning.name)) is not None:
                return int(done["steps"])
        folder = self.folder(tuning)
        saved = kept(
            folder.with_name(f"{folder.name}-steps.json"), lambda: {"steps": self._affordable(pipe, tuning, folder)}
        )
        assert saved is not None
        return int(saved["steps"])

    def _affordable(self, pipe: Pipeline, tuning: Tuning, folder: Path) -> int:
        """Steps that fit into the wall time, from steps taken on trial.

        What they cost is processor time over threads: other work on the machine would stretch the wall time of so short
        a trial.
        """
        _, captioner, clip = self.models
        config, minutes = self.config(tuning), self.minutes * tuning.how.longer
        probe = folder.with_name(f".probe-{folder.name}")  # of this run alone: shards may probe at once
        seconds = []
        # their difference has no loading and no evaluation in it, and of RAFT's collecting as much as there is in the
        # mean; two of the strategies whose step takes half a minute
        few, extra = 2, {"grpo": 2, "draft": 2}.get(tuning.how.strategy, 12)
        if isinstance(config.strategy, Raft):
            extra = config.strategy.refresh
        elif isinstance(config.strategy, Forward):  # whole rounds, as short ones as there are
            few = extra = config.strategy.passes
            config = replace(config, strategy=replace(config.strategy, refresh=few))
        many = few + extra
        for steps in (few, many):
            shutil.rmtree(probe, ignore_errors=True)
            began = time.process_time()
            train_reward(
                pipe,
                training_prompts(16),
                make_rewards(tuning.how.reward, captioner, clip),
                probe,
                config=replace(config, steps=steps, eval_every=1000, eval_prompts=2),
                pairs=(self.pairs[0][:16], self.pairs[1][:16]),
                progress=False,
            )
            seconds.append((time.process_time() - began) / torch.get_num_threads())
            remove_lora(pipe)
            shutil.rmtree(probe, ignore_errors=True)
        least = 2 if self.quick and tuning.how.limited else 10
        return max(least, int(60 * minutes / max(1e-3, (seconds[1] - seconds[0]) / (many - few))))

    # --- the table ----------------------------------------------------------------------------------------------------
    def results(self, rows: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
        found = [r for row in rows for r in row]
        seeds = [r for r in found if r["method"] in {Tuning(SHIPS, k).name for k in range(3)}]
        if len(seeds) > 1:
            found.append(pooled(seeds, f"{SHIPS}, mean of {len(seeds)} training seeds"))
        named = {r["method"]: r for r in found}
        unseen = np.asarray([held for _, held in sorted({j.number: j.prompt.held_out for j in self.jobs}.items())])
        against = [
            {"of": name, "over": other, **lead(row, named[other], unseen)}
            for name, row in named.items()
            for other in ("base", CONTROL)
            if other in named and name not in ("base", RIVAL, RETOLD, other) and not name.endswith("other words")
        ]
        about = {"minutes": self.minutes, "longer_for_what_ships": LONG, "guard": GUARD}
        return {**about, **results(found, self.jobs, RIVAL), "against": against}

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        rows = data["rows"]
        text = page(data, "Reward tuning on SceneBench")
        text += "\nMean distance of pictures of one prompt across seeds: "
        text += ", ".join(f"{r['method']} {r['diversity']:.4f}" for r in rows if "diversity" in r) + ".\n\n"
        text += "".join(map(lead_line, data["against"]))
        text += "".join(
            f"- {r['method']}: {r['steps']} steps in {r['tuning_seconds']} s, {_setting_of(r)}. {r['verdict']}\n"
            for r in rows
            if "verdict" in r
        )
        return text + retold_lines(rows)

    def pictures(self, data: dict[str, Any]) -> dict[str, bytes]:
        found = {".png": plot(data)}
        if not self.quick and (picture := before_and_after(data["rows"], self.jobs)) is not None:
            found["-pictures.png"] = png(picture)
        return found


def _rows(cell: Tuning | str) -> tuple[str, ...]:
    """The names of a cell's rows."""
    return (cell,) if isinstance(cell, str) else cell.rows


def _made(pipe: Pipeline, texts: list[str], first: int) -> list[Image.Image]:
    made = generate(pipe, texts, list(range(first, first + len(texts))))
    assert isinstance(made, list)
    return made


def said_of(name: str, config: TuneConfig) -> str:
    """The reward of a setting and what else tells it from others: how long a gradient, how many pictures."""
    rewards = " and ".join(ROWS[name].reward) if config.strategy.has_loss else "none"
    flat, size = config.flat(), config.batch_size
    told = {
        "draft": "K = {last_steps} of {num_inference_steps} steps",
        "refl": "one step between {stop_from:.0%} and {stop_until:.0%} of {num_inference_steps}",
        "raft": "best of {candidates} of {batch_size} prompts every {refresh} steps",
        "grpo": "groups of {group_size}, {trained_steps} of {num_inference_steps} steps",
        "nft": "groups of {group_size}, rounds of {refresh} steps, {passes} passes of {times} times a picture in "
        "{time_from}..{time_until}",
        "awm": "groups of {group_size}, rounds of {refresh} steps, {passes} passes of {times} times a picture in "
        "{time_from}..{time_until}",
        "sft": "the pictures that pass" if ROWS[name].offline else "rendered pictures",
    }[config.strategy.name]
    weight = f"denoising term {config.pretrain_weight:g}"
    return f"reward {rewards}; {told.format(**flat)}; {size} prompts a step; {weight}"


def _setting_of(row: Mapping[str, Any]) -> str:
    """What a row says of its setting; of one that was made before rows did, what its name stands for."""
    name = str(row["method"]).partition(", seed")[0]
    if "setting" in row:
        return str(row["setting"])
    how = ROWS[name]
    return said_of(name, TuneConfig.of(how.strategy, **{**TUNING.get(how.strategy, {}), **how.knobs}))


def retold_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """What is left of each gain on the same prompts in other words; nothing where that was not measured."""
    named = {str(r["method"]): r for r in rows}
    lines = []
    for name, row in named.items():
        other = named.get(f"{name}, other words")
        if name == "base" or other is None or RETOLD not in named:
            continue
        gains = [
            100 * (float(a["overall"]) - float(b["overall"])) for a, b in ((row, named["base"]), (other, named[RETOLD]))
        ]
        lines.append(f"- {name}: {gains[0]:+.1f} points, and {gains[1]:+.1f} in other words\n")
    return "\nThe same prompts in other words:\n\n" + "".join(lines) if lines else ""


def spread(pictures: torch.Tensor) -> float:
    """Mean distance of two pictures of one prompt, [T,S,D] for T prompts and S seeds: root mean square of pixels in
    0..1.
    """
    prompts, seeds, pixels = pictures.shape
    distances = torch.cdist(pictures.float(), pictures.float()) / pixels**0.5
    return float(distances.sum() / (prompts * seeds * (seeds - 1)))


def pooled(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """One row of the training seeds of a strategy: their means, and the interval over the prompts."""
    counts = np.asarray([[int(c) for c in r["right_by_prompt"]] for r in rows]).sum(0)
    mean = lambda values: round(float(np.mean(list(values))), 4)  # noqa: E731
    row: dict[str, Any] = {
        "method": name,
        "pictures": sum(r["pictures"] for r in rows),
        "right_by_prompt": [int(c) for c in counts],
    }
    nested = {k: {c: mean(r[k][c] for r in rows) for c in rows[0][k]} for k in ("by_category", "atoms")}
    alike = {k: mean(r[k] for r in rows) for k in ("heldout", "denoiser_calls", "seconds_per_image")}
    return {**row, **overall(row), **nested, **alike}


def of_the_lab(lora: str | None, jobs: Sequence[Job]) -> list[Image.Image]:
    """The embedded pipeline's pictures, with an adapter or without."""
    pipe = load(lora=lora)
    made: list[Any] = [generate(pipe, j.prompt.text, j.noise_seed())[0] for j in jobs]
    return made


def before_and_after(
    rows: Sequence[dict[str, Any]],
    jobs: Sequence[Job],
    pictures: Callable[[str | None, Sequence[Job]], list[Image.Image]] = of_the_lab,
) -> Image.Image | None:
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
    made = {name: pictures(lora, chosen) for name, lora in (("base", None), (f"tuned ({SHIPS})", "lab"))}
    return sheet(made, [j.prompt.text for j in chosen])
