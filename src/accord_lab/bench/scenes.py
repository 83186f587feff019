"""`accord bench scenes`: every method on SceneBench with the same prompts and seeds, judged by the reader.

The reader is never part of a method: realign and best-of-N choose by the captioner's score alone. Results are kept
per picture in a cache beside the table, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from tqdm.auto import tqdm

from accord.data.images import to_pil
from accord.data.prompts import parse
from accord.data.shards import share_of
from accord.diffusion.generate import GUIDANCE, STEPS
from accord.diffusion.loop import decode, generators, initial_noise, run, sample
from accord.diffusion.pipelines import SD, load, token_spans, tokens_of
from accord.files import check_writable, write_file
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.fine import NEW_SEED, Picture, Rounds
from accord.rewards.captioners import Captioner, load_captioner
from accord.rewards.diagnosis import align
from accord.types import InputError
from accord_lab.bench.cache import cache_folder
from accord_lab.bench.prompts import BenchPrompt, scenebench
from accord_lab.scenes.ask import check
from accord_lab.scenes.read import read

SEEDS = (1001, 1002, 1003, 1004)
BATCH = 16
RIVAL = "best-of-N"  # what realign has to beat


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
class Bench:
    """The models that all methods share, and the first pictures of the last batch, which most methods begin with."""

    pipe: StableDiffusionPipeline
    captioner: Captioner
    config: RealignConfig
    _first: tuple[Sequence[Job], list[Picture], float, float] | None = field(default=None, repr=False)

    def rounds(self, **changes: Any) -> Rounds:
        return Rounds(self.pipe, replace(self.config, **changes), self.captioner, None, STEPS, GUIDANCE, captions=False)

    def first(self, jobs: Sequence[Job]) -> tuple[list[Picture], float, float]:
        """The plain pipeline's pictures, judged by the captioner; seconds an image to make and to make and judge them.

        Made once for all methods of a batch; their time counts for each.
        """
        if self._first is None or self._first[0] != jobs:
            began, rounds = time.perf_counter(), self.rounds()
            pairs = [(parse(j.prompt.text), j.noise_seed()) for j in jobs]
            each = generators([s for _, s in pairs])
            noise = initial_noise(self.pipe, len(jobs), each)
            images, maps, calls = rounds.denoise([p for p, _ in pairs], noise, each)
            sampled = time.perf_counter()
            pictures = rounds.judge(pairs, images, maps, calls)
            judged = time.perf_counter()
            self._first = jobs, pictures, (sampled - began) / len(jobs), (judged - began) / len(jobs)
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
                todo = [i for i, (_, alignment) in enumerate(best) if not (stop and rounds.good(alignment))]
                if not todo:
                    break
                again = [jobs[i] for i in todo]
                new = self.pictures(again, attempt)
                scores = align(new, [j.prompt.text for j in again], self.captioner, captions=False)
                for i, image, alignment in zip(todo, new, scores, strict=True):
                    calls[i] += 2 * STEPS
                    if alignment.overall > best[i][1].overall:
                        best[i] = image, alignment
            seconds = shared + (time.perf_counter() - began) / len(jobs)
            return [Made(to_pil(x[None])[0], c, seconds) for (x, _), c in zip(best, calls, strict=True)]

        return method

    def realigned(self, **changes: Any) -> Method:
        def method(jobs: Sequence[Job]) -> list[Made]:
            pictures, _, shared = self.first(jobs)
            began = time.perf_counter()
            results = self.rounds(**changes).repair(pictures)
            seconds = shared + (time.perf_counter() - began) / len(jobs)
            return [Made(r.after, r.denoiser_calls, seconds) for r in results]

        return method

    def attend_and_excite(self, jobs: Sequence[Job]) -> list[Made]:
        """diffusers' own pipeline on the same parts, given the nouns; its processors stay, so the U-Net is put back."""
        import warnings

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
                counter = _Calls(pipe.unet)
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

    def pictures(self, jobs: Sequence[Job], attempt: int) -> torch.Tensor:
        """One picture a job by the plain pipeline, [B,3,H,W] in 0..1, in one batch; each from its own noise."""
        steps = sample(
            self.pipe,
            [j.prompt.text for j in jobs],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=generators([j.noise_seed(attempt) for j in jobs]),
        )
        return torch.as_tensor(decode(self.pipe, run(steps), "pt")).float()


METHODS: dict[str, Callable[[Bench], Method]] = {
    "base": lambda b: b.base,
    "best-of-N": lambda b: b.best_of(1 + b.config.rounds),  # as many tries as realign has
    "attend-and-excite": lambda b: b.attend_and_excite,
    "modulated, unweighted": lambda b: b.realigned(mode="same_seed", omega_gain=0.0, escalation=0.0),
    "realign same_seed": lambda b: b.realigned(mode="same_seed"),
    "realign renoise": lambda b: b.realigned(mode="renoise"),
    "realign new_seed": lambda b: b.realigned(mode="new_seed"),  # from the noises of best-of-N's tries
}


class _Calls:
    """Counts the samples that go through a U-Net (a batch of two counts two)."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self.unet, self.samples = unet, 0

    def __enter__(self) -> _Calls:
        self.handle = self.unet.register_forward_pre_hook(self._count)
        return self

    def _count(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        self.samples += len(args[0])

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


def noun_tokens(pipe: StableDiffusionPipeline, text: str) -> list[int]:
    """Token indices of the prompt's head nouns."""
    prompt, spans = parse(text), token_spans(pipe, text)
    return [
        t for i in prompt.things for t in tokens_of(spans, prompt.phrases[i].head.start, prompt.phrases[i].head.end)
    ]


# --- running ----------------------------------------------------------------------------------------------------------
class Records:
    """A row per picture of one method, kept in a file of JSON lines; what is there is not made again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[int, int], dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text(encoding="utf8").splitlines() if path.exists() else []:
            row = json.loads(line)
            self.rows[row["number"], row["seed"]] = row

    def run(self, method: Method, jobs: Sequence[Job]) -> None:
        """Make and judge what is missing of a batch."""
        todo = [j for j in jobs if (j.number, j.seed) not in self.rows]
        if not todo:
            return
        began = time.perf_counter()
        made = method(todo)
        seconds = (time.perf_counter() - began) / len(todo)
        rows = []
        for job, result in zip(todo, made, strict=True):
            verdict = check(read(result.image), job.prompt.ask)
            row = {
                "number": job.number,
                "seed": job.seed,
                "right": verdict.right,
                "atoms": verdict.atoms,
                "calls": result.denoiser_calls,
                "seconds": seconds if result.seconds is None else result.seconds,
            }
            rows.append(json.dumps(row) + "\n")
            self.rows[job.number, job.seed] = json.loads(rows[-1])
        with open(self.path, "a", encoding="utf8") as file:
            file.write("".join(rows))

    def of(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        return [self.rows[j.number, j.seed] for j in jobs]


def run_method(name: str, method: Method, jobs: list[Job], cache: Path, progress: bool) -> list[dict[str, Any]]:
    """A row per picture, from the cache where it is there."""
    return run_methods({name: method}, jobs, {name: Records(cache)}, progress, name)[name]


def run_methods(
    methods: dict[str, Method], jobs: list[Job], records: dict[str, Records], progress: bool, name: str = "scenes"
) -> dict[str, list[dict[str, Any]]]:
    """Batch by batch, so that the methods of one batch share its first pictures."""
    for start in tqdm(range(0, len(jobs), BATCH), desc=name, disable=not progress):
        for key, method in methods.items():
            records[key].run(method, jobs[start : start + BATCH])
    return {key: records[key].of(jobs) for key in methods}


def main(
    model: str | None,
    device: str | None,
    out: Path,
    quick: bool = False,
    progress: bool = True,
    seeds: int = len(SEEDS),
    shard: tuple[int, int] | None = None,
) -> tuple[dict[str, Any], str]:
    """Run all methods; write `scenes.json`, `scenes.md` and `scenes.png` (`scenes-quick.*` with `quick`).

    Args:
        shard: (i, n): only every n-th batch from the i-th on, into the cache alone; a run without takes them from
            there.

    Raises:
        InputError: for a number of seeds that there are not.
    """
    check_writable(out)
    jobs = make_jobs(quick, seeds)
    pipe = load(model, device, classes=SD)
    bench = Bench(pipe, load_captioner(device=str(pipe.device)), RealignConfig())
    cache = cache_folder(out, "scenes", pipe, bench.captioner, bench.config, STEPS, GUIDANCE)
    methods = {name: method(bench) for name, method in METHODS.items()}
    kept = {name: Records(cache / f"{name.replace(' ', '-')}.jsonl") for name in methods}
    if shard is not None:
        jobs = [j for start in share_of(range(0, len(jobs), BATCH), shard) for j in jobs[start : start + BATCH]]
        run_methods(methods, jobs, kept, progress)
        return {
            "bench": "scenes",
            "shard": list(shard),
            "pictures": len(jobs),
        }, f"{len(jobs)} pictures of each method are in {cache}"
    records = run_methods(methods, jobs, kept, progress)
    rows = [row_of(name, records[name], jobs) for name in records]
    data = {"bench": "scenes", "quick": quick, **results(rows, jobs, RIVAL)}
    stem = "scenes-quick" if quick else "scenes"
    text = table(data)
    write_file(out / f"{stem}.json", json.dumps(data, indent=1).encode())
    write_file(out / f"{stem}.md", text.encode())
    write_file(out / f"{stem}.png", plot(data))
    return data, text


def make_jobs(quick: bool, seeds: int = len(SEEDS)) -> list[Job]:
    """All prompts with the first `seeds` of four seeds; with `quick` two prompts a category with two seeds."""
    if not 1 <= seeds <= len(SEEDS):
        raise InputError(f"seeds must be from 1 to {len(SEEDS)}, not {seeds}")
    prompts = scenebench()
    numbers = range(0, len(prompts), len(prompts) // 16) if quick else range(len(prompts))
    return [Job(n, prompts[n], s) for s in SEEDS[: min(seeds, 2) if quick else seeds] for n in numbers]


# --- the table --------------------------------------------------------------------------------------------------------
def bootstrap(
    per_prompt: np.ndarray, statistic: Callable[[np.ndarray], float], draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a statistic of rows [P, ...]; prompts are drawn with replacement, with all their seeds."""
    rng = np.random.default_rng(seed)
    values = [statistic(per_prompt[rng.integers(len(per_prompt), size=len(per_prompt))]) for _ in range(draws)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def right_by_prompt(row: dict[str, Any]) -> np.ndarray:
    """Share of a prompt's pictures that are right, [P] in the order of the prompts."""
    return np.asarray([int(c) for c in row["right_by_prompt"]]) * len(row["right_by_prompt"]) / row["pictures"]


def _removed(pair: np.ndarray) -> float:
    """Share of the base's errors that are gone: rows (base, method)."""
    base, method = pair.mean(0)
    return float((method - base) / (1 - base)) if base < 1 else 0.0


def _lead(pair: np.ndarray) -> float:
    """By how much the method is right more often: rows (other, method)."""
    return float(pair[:, 1].mean() - pair[:, 0].mean())


def row_of(name: str, records: list[dict[str, Any]], jobs: list[Job]) -> dict[str, Any]:
    """A method's row of the table, by itself.

    `right_by_prompt` has a digit a prompt: how many of its pictures are right.
    """
    sums: dict[int, int] = {}
    for record, job in zip(records, jobs, strict=True):
        sums[job.number] = sums.get(job.number, 0) + record["right"]
    row: dict[str, Any] = {
        "method": name,
        "pictures": len(jobs),
        "right_by_prompt": "".join(str(n) for _, n in sorted(sums.items())),
    }
    right = right_by_prompt(row)
    share = lambda keep: [r["right"] for r, j in zip(records, jobs, strict=True) if keep(j)]  # noqa: E731
    categories = list(dict.fromkeys(j.prompt.category for j in jobs))
    held = share(lambda j: j.prompt.held_out)
    atoms: dict[str, list[bool]] = {}
    for record in records:
        for kind, values in record["atoms"].items():
            atoms.setdefault(kind, []).extend(values)
    return {
        **row,
        "overall": round(float(right.mean()), 4),
        "ci95": [round(v, 4) for v in bootstrap(right, lambda x: float(x.mean()))],
        "by_category": {c: round(float(np.mean(share(lambda j, c=c: j.prompt.category == c))), 4) for c in categories},
        "heldout": round(float(np.mean(held)), 4) if held else None,
        "atoms": {k: round(float(np.mean(v)), 4) for k, v in atoms.items()},
        "denoiser_calls": round(float(np.mean([r["calls"] for r in records])), 1),
        "seconds_per_image": round(float(np.mean([r["seconds"] for r in records])), 3),
    }


def compared(rows: Sequence[dict[str, Any]], rival: str, base: str = "base") -> list[dict[str, Any]]:
    """Rows with the share of the base's errors that are gone and the lead over the rival, paired by prompt."""
    right = {r["method"]: right_by_prompt(r) for r in rows}
    out = []
    for row in rows:
        pair = np.stack([right[base], right[row["method"]]], 1)
        duel = np.stack([right[rival], right[row["method"]]], 1)
        out.append(
            {
                **row,
                "errors_removed": round(_removed(pair), 4),
                "errors_removed_ci95": [round(v, 4) for v in bootstrap(pair, _removed)],
                "lead": round(_lead(duel), 4),
                "lead_ci95": [round(v, 4) for v in bootstrap(duel, _lead)],
            }
        )
    return out


def lead(row: dict[str, Any], other: dict[str, Any], unseen: np.ndarray | None = None) -> dict[str, Any]:
    """By how much a row is right more often than another, paired by prompt, and the prompts with more and with fewer
    right pictures.

    With `unseen`, bool [P], also over these prompts alone.
    """
    difference = right_by_prompt(row) - right_by_prompt(other)
    counts = {"mended": int((difference > 0).sum()), "broken": int((difference < 0).sum())}
    alone = {} if unseen is None or not unseen.any() else {"unseen": _mean_of(difference[unseen])}
    return {**_mean_of(difference), **counts, **alone}


def _mean_of(difference: np.ndarray) -> dict[str, Any]:
    low, high = bootstrap(difference, lambda v: float(v.mean()))
    return {"lead": round(float(difference.mean()), 4), "ci95": [round(low, 4), round(high, 4)]}


def told_lead(found: dict[str, Any]) -> str:
    """`of` less `over`, and what `lead` says of it, in words."""

    def points(d: dict[str, Any]) -> str:
        return f"{100 * d['lead']:+.1f} points [{100 * d['ci95'][0]:+.1f}, {100 * d['ci95'][1]:+.1f}]"

    counts = f"{found['mended']} prompts better, {found['broken']} worse"
    alone = f"; on unseen combinations {points(found['unseen'])}" if "unseen" in found else ""
    return f"{found['of']} less {found['over']}: {points(found)}; {counts}{alone}"


def results(rows: Sequence[dict[str, Any]], jobs: Sequence[Job], rival: str) -> dict[str, Any]:
    """What `table` reads: the rows, compared, and how the pictures were made."""
    return {
        "lead_over": rival,
        "prompts": len({j.number for j in jobs}),
        "seeds": sorted({j.seed for j in jobs}),
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "rows": compared(rows, rival),
    }


def table(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    categories = list(data["rows"][0]["by_category"])
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
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    percent = lambda v: "-" if v is None else f"{100 * v:.1f}"  # noqa: E731
    for r in data["rows"]:
        removed = f"{percent(r['errors_removed'])} [{', '.join(percent(v) for v in r['errors_removed_ci95'])}]"
        lead = f"{100 * r['lead']:+.1f} [{', '.join(f'{100 * v:+.1f}' for v in r['lead_ci95'])}]"
        cells = [
            r["method"],
            percent(r["overall"]),
            "-".join(percent(v) for v in r["ci95"]),
            "" if r["method"] == "base" else removed,
            "" if r["method"] == data["lead_over"] else lead,
            *(percent(r["by_category"][c]) for c in categories),
            percent(r["heldout"]),
            f"{r['denoiser_calls']:.0f}",
            f"{r['seconds_per_image']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    note = f"{data['prompts']} prompts x {len(data['seeds'])} seeds, {data['num_inference_steps']} steps, "
    note += f"guidance {data['guidance_scale']}"
    return f"# SceneBench\n\n{note}. Judged by the reader, which no method sees.\n\n" + "\n".join(lines) + "\n"


def plot(data: dict[str, Any]) -> bytes:
    """The results as bars: a group a category, a bar a method, the overall one with its interval."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = data["rows"]
    categories = ["overall", *rows[0]["by_category"]]
    figure, axis = plt.subplots(figsize=(11, 4))
    width = 0.8 / len(rows)
    for k, row in enumerate(rows):
        values = [row["overall"], *row["by_category"].values()]
        axis.bar(np.arange(len(values)) + k * width, [100 * v for v in values], width, label=row["method"])
        low, high = (100 * v for v in row["ci95"])
        axis.errorbar(
            k * width,
            100 * row["overall"],
            [[100 * row["overall"] - low], [high - 100 * row["overall"]]],
            color="black",
            capsize=2,
        )
    axis.set_xticks(np.arange(len(categories)) + 0.4 - width / 2, categories)
    axis.set(ylabel="prompts right, %", ylim=(0, 100))
    axis.legend(ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()
