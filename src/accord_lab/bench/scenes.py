"""`accord bench scenes`: every method on SceneBench with the same prompts and seeds, judged by the reader.

The reader is never part of a method: realign and best-of-N choose by the captioner's score alone. Results are kept
per picture in a cache beside the table, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from tqdm.auto import tqdm

from accord.data.images import to_pil, to_tensor
from accord.diffusion.call import GUIDANCE, STEPS
from accord.diffusion.counting import Calls
from accord.diffusion.generate import generators
from accord.diffusion.opened import Opened
from accord.diffusion.pipelines import SD, load, token_spans, tokens_of
from accord.evaluation.stats import interval, of_means, paired
from accord.judges.captioners import Captioner, load_captioner
from accord.judges.diagnosis import align
from accord.judges.strict import LIKELY, selector_named
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.fine import NEW_SEED, Picture, Rounds
from accord.methods.realign.routing import ROUTINGS, Budget, Routing
from accord.prompts.phrases import phrases_of
from accord.training.watching import load_watcher
from accord.types import InputError
from accord_lab.bench.prompts import BenchPrompt, scenebench
from accord_lab.bench.report import figure_png, percent, within
from accord_lab.bench.report import table as markdown
from accord_lab.bench.runner import Bench, cache_folder, slug
from accord_lab.scenes.ask import check
from accord_lab.scenes.paraphrase import fullest, paraphrase
from accord_lab.scenes.read import EDITION, read

SEEDS = (1001, 1002, 1003, 1004)
BATCH = 16
RIVAL = "best-of-N"  # what realign has to beat
MORE_ROUNDS = 7  # with the first try as many as best-of-8 has


@dataclass(frozen=True)
class Job:
    """One picture to make: prompt number in SceneBench, seed."""

    number: int
    prompt: BenchPrompt
    seed: int

    def noise_seed(self, attempt: int = 0) -> int:
        """Where z_T comes from: every prompt has its own, as one noise for all would make all err together."""
        return 1000 * self.seed + self.number + attempt * NEW_SEED


@dataclass(frozen=True)
class Made:
    """A picture with what it cost; without `seconds`, what the batch took is shared out."""

    image: Image.Image
    denoiser_calls: float
    seconds: float | None = None


Method = Callable[[Sequence[Job]], list[Made]]


@dataclass
class Maker:
    """The models that all methods share, and the first pictures of the last batch, which most methods begin with."""

    pipe: StableDiffusionPipeline
    captioner: Captioner
    config: RealignConfig
    select: str = "score"  # what the better picture is chosen by
    _first: tuple[Sequence[Job], list[Picture], float, float] | None = field(default=None, repr=False)

    @cached_property
    def by_pass(self) -> Maker:
        """The same with the pass as the selector, from LIKELY on: fewer pictures are redone that were right, and there
        are more rounds for the others.
        """
        return Maker(self.pipe, self.captioner, replace(self.config, good_enough=LIKELY, rounds=MORE_ROUNDS), "pass")

    def rounds(self, routing: Routing | None = None, **changes: Any) -> Rounds:
        """The method's rounds; with a routing within the calls that as many tries from noise take."""
        opened = Opened(self.pipe, STEPS, guidance_scale=GUIDANCE)
        config, budget = replace(self.config, **changes), None
        if routing is not None:  # an edit takes fewer calls than a try
            budget = Budget((1 + config.rounds) * 2 * STEPS, "calls")
        selector = selector_named(self.select, config.good_enough)
        return Rounds(opened, config, self.captioner, captions=False, routing=routing, budget=budget, selector=selector)

    def first(self, jobs: Sequence[Job]) -> tuple[list[Picture], float, float]:
        """The plain pipeline's pictures, judged by the captioner; seconds an image to make and to make and judge them.

        Made once for all methods of a batch; their time counts for each.
        """
        if self._first is None or self._first[0] != jobs:
            rounds = self.rounds(Routing())  # which keeps the states that edits begin from
            pictures = rounds.generate([(phrases_of(j.prompt.text), j.noise_seed()) for j in jobs])
            judged = pictures[0].seconds
            self._first = jobs, pictures, judged - pictures[0].judge_seconds, judged
        return self._first[1:]

    def base(self, jobs: Sequence[Job]) -> list[Made]:
        pictures, seconds, _ = self.first(jobs)
        return [Made(to_pil(p.image[None])[0], p.calls, seconds) for p in pictures]

    def best_of(self, tries: int, stop: bool = True) -> Method:
        """The best of so many pictures by the score that realign goes by, each from new noise.

        Args:
            stop: whether a picture that realign would leave alone ends it.
        """

        def method(jobs: Sequence[Job]) -> list[Made]:
            pictures, _, shared = self.first(jobs)
            began, rounds = time.perf_counter(), self.rounds()
            best = [(p.image, p.alignment) for p in pictures]
            calls = [p.calls for p in pictures]
            for attempt in range(1, tries):
                todo = [i for i, (_, alignment) in enumerate(best) if not (stop and rounds.selects.good(alignment))]
                if not todo:
                    break
                again = [jobs[i] for i in todo]
                new = self.pictures(again, attempt)
                scores = rounds.align(new, [phrases_of(j.prompt.text) for j in again])
                for i, image, alignment in zip(todo, new, scores, strict=True):
                    calls[i] += 2 * STEPS
                    if rounds.selects.better(alignment, best[i][1]):
                        best[i] = image, alignment
            seconds = shared + (time.perf_counter() - began) / len(jobs)
            return [Made(to_pil(x[None])[0], c, seconds) for (x, _), c in zip(best, calls, strict=True)]

        return method

    def realigned(self, routing: Routing | None = None, **changes: Any) -> Method:
        def method(jobs: Sequence[Job]) -> list[Made]:
            pictures, _, shared = self.first(jobs)
            began = time.perf_counter()
            results = self.rounds(routing, **changes).repair(pictures)
            seconds = shared + (time.perf_counter() - began) / len(jobs)
            return [Made(r.after, r.denoiser_calls, seconds) for r in results]

        return method

    def attend_and_excite(self, jobs: Sequence[Job]) -> list[Made]:
        """diffusers' own pipeline on the same parts, given the nouns; its processors stay, so the U-Net is put back."""
        from diffusers import StableDiffusionAttendAndExcitePipeline

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = {k: v for k, v in self.pipe.components.items() if k != "image_encoder"}
            pipe = StableDiffusionAttendAndExcitePipeline(**parts, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        before = dict(pipe.unet.attn_processors)
        side = int(pipe.unet.config.sample_size)
        out = []
        try:
            for job in jobs:
                counter = Calls(pipe.unet)
                with counter:
                    image = pipe(
                        job.prompt.text,
                        token_indices=noun_tokens(pipe, job.prompt.text),
                        generator=torch.Generator().manual_seed(job.noise_seed()),
                        num_inference_steps=STEPS,
                        guidance_scale=GUIDANCE,
                        attn_res=(side, side),
                        max_iter_to_alter=STEPS // 2,
                        thresholds={0: 0.05, STEPS // 5: 0.5, 2 * STEPS // 5: 0.8},
                        height=side * pipe.vae_scale_factor,
                        width=side * pipe.vae_scale_factor,
                    ).images[0]
                out.append(Made(image, counter.samples))
        finally:
            pipe.unet.set_attn_processor(before)
        return out

    def with_steps(self, steps: int) -> Method:
        """The plain pipeline with so many steps."""

        def method(jobs: Sequence[Job]) -> list[Made]:
            return [Made(image, 2 * steps) for image in to_pil(self.pictures(jobs, 0, steps))]

        return method

    def said(self, say: Callable[[str, np.random.Generator], str]) -> Method:
        """The plain pipeline, given each prompt as `say` says it; what is right stays what the prompt asks for."""

        def method(jobs: Sequence[Job]) -> list[Made]:
            others = [say(j.prompt.text, np.random.default_rng(j.noise_seed())) for j in jobs]
            again = [replace(j, prompt=replace(j.prompt, text=t)) for j, t in zip(jobs, others, strict=True)]
            return [Made(image, 2 * STEPS) for image in to_pil(self.pictures(again, 0))]

        return method

    def pictures(self, jobs: Sequence[Job], attempt: int, steps: int = STEPS) -> torch.Tensor:
        """One picture a job by the plain pipeline, [B,3,H,W] in 0..1, in one batch; each from its own noise."""
        opened = Opened(self.pipe, steps, guidance_scale=GUIDANCE)
        seeds = [j.noise_seed(attempt) for j in jobs]
        return opened.pictures([j.prompt.text for j in jobs], generators(seeds)).float()


METHODS: dict[str, Callable[[Maker], Method]] = {
    "base": lambda m: m.base,
    "best-of-N": lambda m: m.best_of(1 + m.config.rounds),  # as many tries as realign has
    "attend-and-excite": lambda m: m.attend_and_excite,
    "modulated, unweighted": lambda m: m.realigned(mode="same_seed", omega_gain=0.0, escalation=0.0),
    "realign same_seed": lambda m: m.realigned(mode="same_seed"),
    "realign renoise": lambda m: m.realigned(mode="renoise"),
    "realign new_seed": lambda m: m.realigned(mode="new_seed"),  # from the noises of best-of-N's tries
    "realign edit": lambda m: m.realigned(ROUTINGS["edit"]),
    "realign route": lambda m: m.realigned(ROUTINGS["route"]),
    "more steps": lambda m: m.with_steps(2 * STEPS),  # for what realign spends at most on two tries
    "rewritten": lambda m: m.said(fullest),
    "best-of-8, pass": lambda m: m.by_pass.best_of(1 + MORE_ROUNDS),
    "realign, pass": lambda m: m.by_pass.realigned(),
    "realign route, pass": lambda m: m.by_pass.realigned(ROUTINGS["route"]),
    "other words": lambda m: m.said(paraphrase),
}
# compared besides: the row of the first, less that of the second
AGAINST = (
    ("realign, pass", "best-of-8, pass"),
    ("realign route, pass", "best-of-8, pass"),
    ("tuned", "base"),
    ("tuned + realign, pass", "realign, pass"),
    ("tuned + realign, pass", "best-of-8, pass"),
    ("other words", "base"),
    ("tuned, other words", "other words"),
)
# of the pipeline with its adapter
TUNED: dict[str, Callable[[Maker], Method]] = {
    "tuned": lambda m: m.base,
    "tuned + realign, pass": lambda m: m.by_pass.realigned(),
    "tuned, other words": lambda m: m.said(paraphrase),
}


def noun_tokens(pipe: StableDiffusionPipeline, text: str) -> list[int]:
    """Token indices of the prompt's head nouns."""
    prompt, spans = phrases_of(text), token_spans(pipe, text)
    return [
        t for i in prompt.things for t in tokens_of(spans, prompt.phrases[i].head.start, prompt.phrases[i].head.end)
    ]


# --- running ----------------------------------------------------------------------------------------------------------
Record = dict[str, Any]  # a picture: `number`, `seed`, `right`, `atoms`, `calls`, `seconds`; `watched` with a watcher


class Records:
    """A record per picture of one method, kept in a file of JSON lines; what is there is not made again.

    Args:
        watcher: a captioner that no method sees; whether each picture passes by it is in its record too.
    """

    def __init__(self, path: Path, watcher: Captioner | None = None) -> None:
        self.path, self.watcher = path, watcher
        self.rows: dict[tuple[int, int], Record] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text(encoding="utf8").splitlines() if path.exists() else []:
            row = json.loads(line)
            self.rows[row["number"], row["seed"]] = row

    def run(self, method: Method, jobs: Sequence[Job]) -> list[Record]:
        """The records of a batch; what is missing of it is made and judged."""
        todo = [j for j in jobs if (j.number, j.seed) not in self.rows]
        if todo:
            began = time.perf_counter()
            made = method(todo)
            seconds = (time.perf_counter() - began) / len(todo)
            rows = [_judged(job, result, seconds) for job, result in zip(todo, made, strict=True)]
            if self.watcher is not None:
                pixels = torch.cat([to_tensor(m.image) for m in made])
                found = align(pixels, [j.prompt.text for j in todo], self.watcher)
                rows = [{**row, "watched": bool(a.passes)} for row, a in zip(rows, found, strict=True)]
            self.rows |= {(row["number"], row["seed"]): row for row in rows}
            with open(self.path, "a", encoding="utf8") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
        return [self.rows[j.number, j.seed] for j in jobs]


def _judged(job: Job, result: Made, seconds: float) -> Record:
    verdict = check(read(result.image), job.prompt.ask)
    return {
        "number": job.number,
        "seed": job.seed,
        "right": verdict.right,
        "atoms": verdict.atoms,
        "calls": result.denoiser_calls,
        "seconds": seconds if result.seconds is None else result.seconds,
    }


def run_method(name: str, method: Method, jobs: Sequence[Job], cache: Path, progress: bool) -> dict[str, Any]:
    """A method's row, from a record per picture, which are kept in the file `cache`."""
    records, found = Records(cache), []
    for batch in tqdm(batches(jobs), desc=name, disable=not progress, leave=False):
        found += records.run(method, batch)
    return row_of(name, found, jobs)


def batches(jobs: Sequence[Job]) -> list[Sequence[Job]]:
    return [jobs[start : start + BATCH] for start in range(0, len(jobs), BATCH)]


def page(data: dict[str, Any], title: str = "SceneBench") -> str:
    """The results as Markdown."""
    categories, watched = list(data["rows"][0]["by_category"]), "watched" in data["rows"][0]
    head = [
        "method",
        "right %",
        "95 %",
        "errors removed % [95 %]",
        f"points over {data.get('lead_over', 'base')} [95 %]",
        *categories,
        "held out",
        "calls",
        "s/image",
        *(["passes the watcher %"] if watched else []),
    ]
    body = [
        [
            r["method"],
            percent(r["overall"]),
            "-".join(percent(v) for v in r["ci95"]),
            "" if r["method"] == "base" else within(r["errors_removed"], r["errors_removed_ci95"], times=100),
            "" if r["method"] == data["lead_over"] else within(r["lead"], r["lead_ci95"], "+.1f", 100),
            *(percent(r["by_category"][c]) for c in categories),
            percent(r["heldout"]),
            f"{r['denoiser_calls']:.0f}",
            f"{r['seconds_per_image']:.2f}",
            *([percent(r["watched"])] if watched else []),
        ]
        for r in data["rows"]
    ]
    note = f"{data['prompts']} prompts x {len(data['seeds'])} seeds, {data['num_inference_steps']} steps, "
    note += f"guidance {data['guidance_scale']}"
    if data.get("select") == "pass":
        note += ", the better picture chosen by the strict pass"
    judged = "Judged by the reader, which no method sees."
    if data.get("comparisons", 1) > 1:  # tables of before had none
        judged += f" The intervals of differences hold for all {data['comparisons']} rows at once."
    return f"# {title}\n\n{note}. {judged}\n\n{markdown(head, body)}\n"


def page_with_leads(data: dict[str, Any]) -> str:
    """`page`, and what is compared besides; the intervals of these hold at once too."""
    lines = "".join(map(lead_line, data.get("against", [])))
    return page(data) + (f"\n{lines}" if lines else "")


@dataclass(kw_only=True)
class Scenes(Bench[Sequence[Job], dict[str, list[Record]]]):
    """All methods, batch by batch, so that those of one batch share its first pictures."""

    name = "scenes"
    keeps = True
    model: str | None = None
    device: str | None = None
    seeds: int | None = None  # all four, or two with `quick`, if None
    select: str | None = None  # what methods choose the better picture by: "score" (if None) or "pass"
    watcher: Path | None = None  # folder of a second captioner, which no method sees
    lora: str | None = None  # adapter of the rows of TUNED; the embedded one, for the lab, if None
    jobs: list[Job] = field(default_factory=list)  # SceneBench's if empty
    methods: Mapping[str, Callable[[Maker], Method]] = field(default_factory=lambda: METHODS)
    tuned: Mapping[str, Callable[[Maker], Method]] = field(default_factory=lambda: TUNED)

    def __post_init__(self) -> None:
        super().__post_init__()
        selector_named(self.select or "score")
        self.jobs = self.jobs or make_jobs(self.quick, self.seeds)
        self.lora = self.lora or ("lab" if self.model is None else None)

    @cached_property
    def made(self) -> dict[str, tuple[Method, Records]]:
        """Each method and what is kept of it; the tuned pipeline is another one, with first pictures of its own."""
        with_adapter = self._made(self.tuned, self.lora) if self.lora and self.tuned else {}
        return self._made(self.methods) | with_adapter

    def _made(
        self, methods: Mapping[str, Callable[[Maker], Method]], lora: str | None = None
    ) -> dict[str, tuple[Method, Records]]:
        pipe = load(self.model, self.device, lora=lora, classes=SD)
        maker = Maker(pipe, load_captioner(device=str(pipe.device)), RealignConfig(), self.select or "score")
        watches = None if self.watcher is None else load_watcher(str(self.watcher), maker.captioner)
        parts = [part for part in (self.select if self.select != "score" else None, watches) if part is not None]
        cache = cache_folder(self.out, "scenes", pipe, maker.captioner, maker.config, STEPS, GUIDANCE, EDITION, *parts)
        return {n: (m(maker), Records(cache / f"{slug(n)}.jsonl", watches)) for n, m in methods.items()}

    def cells(self) -> Sequence[Sequence[Job]]:
        return batches(self.jobs)

    def measure(self, cell: Sequence[Job]) -> dict[str, list[Record]]:
        return {name: records.run(method, cell) for name, (method, records) in self.made.items()}

    def results(self, rows: Sequence[dict[str, list[Record]]]) -> dict[str, Any]:
        records = {name: [r for row in rows for r in row[name]] for name in rows[0]}
        found = results([row_of(name, found, self.jobs) for name, found in records.items()], self.jobs, RIVAL)
        named = {row["method"]: row for row in found["rows"]}
        unseen = np.asarray([held for _, held in sorted({j.number: j.prompt.held_out for j in self.jobs}.items())])
        found["against"] = [
            {"of": of, "over": over, **lead(named[of], named[over], unseen, len(AGAINST))}
            for of, over in AGAINST
            if of in named and over in named
        ]
        said = {"select": self.select, "watcher": self.watcher and self.watcher.name}
        return {**{key: value for key, value in said.items() if value}, **found}

    render = staticmethod(page_with_leads)

    def pictures(self, data: dict[str, Any]) -> dict[str, bytes]:
        return {".png": plot(data)}


def make_jobs(quick: bool, seeds: int | None = None) -> list[Job]:
    """All prompts with the first `seeds` of four seeds; with `quick` two prompts a category with two seeds at most.

    Raises:
        InputError: for a number of seeds that there are not.
    """
    if seeds is not None and not 1 <= seeds <= len(SEEDS):
        raise InputError(f"seeds must be from 1 to {len(SEEDS)}, not {seeds}")
    if quick and (seeds or 0) > 2:
        raise InputError("`quick` takes two seeds at most; give `seeds` 1 or 2, or leave `quick` out")
    prompts = scenebench()
    numbers = range(0, len(prompts), len(prompts) // 16) if quick else range(len(prompts))
    return [Job(n, prompts[n], s) for s in SEEDS[: seeds or (2 if quick else len(SEEDS))] for n in numbers]


# --- the table --------------------------------------------------------------------------------------------------------
def right_by_prompt(row: dict[str, Any]) -> np.ndarray:
    """Share of a prompt's pictures that are right, [P] in the order of the prompts."""
    return np.asarray([int(c) for c in row["right_by_prompt"]]) * len(row["right_by_prompt"]) / row["pictures"]


def removed(means: np.ndarray) -> np.ndarray:
    """Share of the base's errors that are gone, of shares that are right (base, method), [..., 2]."""
    base, method = means[..., 0], means[..., 1]
    return np.where(base < 1, (method - base) / np.where(base < 1, 1 - base, 1), 0.0)


def row_of(name: str, records: Sequence[Record], jobs: Sequence[Job]) -> dict[str, Any]:
    """A method's row of the table, by itself.

    `right_by_prompt` has a digit a prompt: how many of its pictures are right.
    """
    sums: dict[int, int] = {}
    by_category: dict[str, list[bool]] = {}
    held: list[bool] = []
    atoms: dict[str, list[bool]] = {}
    for record, job in zip(records, jobs, strict=True):
        sums[job.number] = sums.get(job.number, 0) + record["right"]
        by_category.setdefault(job.prompt.category, []).append(record["right"])
        if job.prompt.held_out:
            held.append(record["right"])
        for kind, values in record["atoms"].items():
            atoms.setdefault(kind, []).extend(values)
    row: dict[str, Any] = {
        "method": name,
        "pictures": len(jobs),
        "right_by_prompt": "".join(str(n) for _, n in sorted(sums.items())),
    }
    return {
        **row,
        **overall(row),
        "by_category": {c: round(float(np.mean(v)), 4) for c, v in by_category.items()},
        "heldout": round(float(np.mean(held)), 4) if held else None,
        "atoms": {k: round(float(np.mean(v)), 4) for k, v in atoms.items()},
        "denoiser_calls": round(float(np.mean([r["calls"] for r in records])), 1),
        "seconds_per_image": round(float(np.mean([r["seconds"] for r in records])), 3),
        **({"watched": round(float(np.mean([r["watched"] for r in records])), 4)} if "watched" in records[0] else {}),
    }


def overall(row: dict[str, Any]) -> dict[str, Any]:
    """The share of all pictures that is right, and its interval over the prompts."""
    return interval(right_by_prompt(row), "overall")


def compared(rows: Sequence[dict[str, Any]], rival: str, base: str = "base") -> list[dict[str, Any]]:
    """Rows with the share of the base's errors that are gone and the lead over the rival, paired by prompt; the
    intervals of all rows hold at once.
    """
    right = {r["method"]: right_by_prompt(r) for r in rows}
    comparisons = max(1, len(rows) - 1)
    out = []
    for row in rows:
        pair = np.stack([right[base], right[row["method"]]], 1)
        duel = paired(right[row["method"]], right[rival], "lead", comparisons)
        out.append(
            {
                **row,
                "errors_removed": round(float(removed(pair.mean(0))), 4),
                "errors_removed_ci95": of_means(pair, removed, comparisons),
                "lead": duel["lead"],
                "lead_ci95": duel["ci95"],
            }
        )
    return out


def lead(
    row: dict[str, Any], other: dict[str, Any], unseen: np.ndarray | None = None, comparisons: int = 1
) -> dict[str, Any]:
    """By how much a row is right more often than another, paired by prompt, and the prompts with more and with fewer
    right pictures; the interval is one of so many comparisons.

    With `unseen`, bool [P], also over these prompts alone.
    """
    of, over = right_by_prompt(row), right_by_prompt(other)
    counts = {"mended": int((of > over).sum()), "broken": int((of < over).sum())}
    some = unseen is not None and unseen.any()
    alone = {"unseen": paired(of[unseen], over[unseen], "lead", comparisons)} if some else {}
    return {**paired(of, over, "lead", comparisons), **counts, **alone}


def lead_line(found: dict[str, Any]) -> str:
    """`of` less `over`, and what `lead` says of it, in words."""
    points = lambda d: within(d["lead"], d["ci95"], "+.1f", 100, " points")  # noqa: E731
    counts = f"{found['mended']} prompts better, {found['broken']} worse"
    alone = f"; on unseen combinations {points(found['unseen'])}" if "unseen" in found else ""
    return f"- {found['of']} less {found['over']}: {points(found)}; {counts}{alone}\n"


def results(rows: Sequence[dict[str, Any]], jobs: Sequence[Job], rival: str) -> dict[str, Any]:
    """What `page` reads: the rows, compared, and how the pictures were made."""
    return {
        "lead_over": rival,
        "comparisons": max(1, len(rows) - 1),
        "prompts": len({j.number for j in jobs}),
        "seeds": sorted({j.seed for j in jobs}),
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "rows": compared(rows, rival),
    }


def plot(data: dict[str, Any]) -> bytes:
    """The results as bars: a group a category, a bar a method, the overall one with its interval."""
    from matplotlib.figure import Figure

    rows = data["rows"]
    categories = ["overall", *rows[0]["by_category"]]
    figure = Figure(figsize=(11, 4))
    axis = figure.subplots()
    width = 0.8 / len(rows)
    for k, row in enumerate(rows):
        values = [row["overall"], *row["by_category"].values()]
        axis.bar(np.arange(len(values)) + k * width, [100 * v for v in values], width, label=row["method"])
        low, high = (100 * v for v in row["ci95"])
        right = 100 * row["overall"]
        axis.errorbar(k * width, right, [[right - low], [high - right]], color="black", capsize=2)
    axis.set_xticks(np.arange(len(categories)) + 0.4 - width / 2, categories)
    axis.set(ylabel="prompts right, %", ylim=(0, 100))
    axis.legend(ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.tight_layout()
    return figure_png(figure)
