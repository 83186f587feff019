"""`accord bench scenes`: every method on SceneBench with the same prompts and seeds, judged by the reader.

The reader is never part of a method: realign and best-of-N choose by the captioner's score alone. Results are kept
per picture in a cache beside the table, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from tqdm.auto import tqdm

from accord.data.images import to_tensor
from accord.data.prompts import parse
from accord.diffusion.generate import GUIDANCE, STEPS
from accord.diffusion.pipelines import load, token_spans, tokens_of
from accord.lab.bench.cache import cache_folder
from accord.lab.bench.prompts import BenchPrompt, scenebench
from accord.lab.scenes.ask import check
from accord.lab.scenes.read import read
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.fine import realign
from accord.outputs import check_writable, write_file
from accord.rewards.captioners import Captioner, load_captioner
from accord.rewards.diagnosis import align
from accord.types import InputError

SEEDS = (1001, 1002, 1003, 1004)
BATCH = 16


@dataclass(frozen=True)
class Job:
    """One picture to make: prompt number in SceneBench, seed."""

    number: int
    prompt: BenchPrompt
    seed: int


@dataclass(frozen=True)
class Made:
    """A picture with what it cost."""

    image: Image.Image
    denoiser_calls: float


@dataclass
class Bench:
    """The models that all methods share."""

    pipe: StableDiffusionPipeline
    captioner: Captioner
    config: RealignConfig

    def base(self, jobs: Sequence[Job]) -> list[Made]:
        images = self._pictures(jobs, [j.seed for j in jobs])
        return [Made(i, 2 * STEPS) for i in images]

    def best_of_n(self, jobs: Sequence[Job]) -> list[Made]:
        """As many tries as realign has, stopped by the same rule and picked by the same score, from new seeds."""
        images = self._pictures(jobs, [j.seed for j in jobs])
        found = align(to_tensor(images), [j.prompt.text for j in jobs], self.captioner, captions=False)
        calls = [2 * STEPS] * len(jobs)
        for number in range(1, self.config.rounds + 1):
            todo = [
                i for i, a in enumerate(found) if any(w.probability < self.config.good_enough for w in a.words)
            ]
            if not todo:
                break
            again = [jobs[i] for i in todo]
            new = self._pictures(again, [j.seed + 100_000 * number for j in again])
            scores = align(to_tensor(new), [j.prompt.text for j in again], self.captioner, captions=False)
            for i, image, alignment in zip(todo, new, scores, strict=True):
                calls[i] += 2 * STEPS
                if alignment.overall > found[i].overall:
                    images[i], found[i] = image, alignment
        return [Made(i, c) for i, c in zip(images, calls, strict=True)]

    def realigned(self, **changes: Any) -> Callable[[Sequence[Job]], list[Made]]:
        from dataclasses import replace

        config = replace(self.config, **changes)

        def method(jobs: Sequence[Job]) -> list[Made]:
            out = []
            for job in _by_seed(jobs):
                results = realign(
                    self.pipe,
                    [j.prompt.text for j in job],
                    job[0].seed,
                    config=config,
                    captioner=self.captioner,
                    num_inference_steps=STEPS,
                    guidance_scale=GUIDANCE,
                    batch_size=BATCH,
                    captions=False,
                )
                out += [Made(r.after, r.denoiser_calls) for r in results]
            return out

        return method

    def attend_and_excite(self, jobs: Sequence[Job]) -> list[Made]:
        """diffusers' own pipeline on the same parts, told the nouns; its processors stay, so the U-Net is put back."""
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
                        generator=torch.Generator().manual_seed(job.seed),
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

    def _pictures(self, jobs: Sequence[Job], seeds: Sequence[int]) -> list[Image.Image]:
        """One picture a job, in one batch; each from its own seed."""
        from accord.diffusion.loop import decode, generators, run, sample

        steps = sample(
            self.pipe,
            [j.prompt.text for j in jobs],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=generators(seeds),
        )
        return decode(self.pipe, run(steps))


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
    return [t for i in prompt.things for t in tokens_of(spans, prompt.phrases[i].head.start, prompt.phrases[i].head.end)]


def _by_seed(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Runs of jobs with one seed, order kept."""
    start = 0
    for i in range(1, len(jobs) + 1):
        if i == len(jobs) or jobs[i].seed != jobs[start].seed:
            yield list(jobs[start:i])
            start = i


# --- running ----------------------------------------------------------------------------------------------------------
def run_method(name: str, method: Callable[[Sequence[Job]], list[Made]], jobs: list[Job], cache: Path, progress: bool) -> list[dict[str, Any]]:
    """A row per picture, from the cache where it is there."""
    done: dict[tuple[int, int], dict[str, Any]] = {}
    if cache.exists():
        for line in cache.read_text(encoding="utf8").splitlines():
            row = json.loads(line)
            done[row["number"], row["seed"]] = row
    todo = [j for j in jobs if (j.number, j.seed) not in done]
    cache.parent.mkdir(parents=True, exist_ok=True)
    with open(cache, "a", encoding="utf8") as file:
        for start in tqdm(range(0, len(todo), BATCH), desc=name, disable=not progress or not todo):
            part = todo[start : start + BATCH]
            began = time.perf_counter()
            made = method(part)
            seconds = (time.perf_counter() - began) / len(part)
            for job, result in zip(part, made, strict=True):
                verdict = check(read(result.image), job.prompt.ask)
                row = {
                    "number": job.number,
                    "seed": job.seed,
                    "right": verdict.right,
                    "atoms": verdict.atoms,
                    "calls": result.denoiser_calls,
                    "seconds": seconds,
                }
                done[job.number, job.seed] = json.loads(json.dumps(row))
                file.write(json.dumps(row) + "\n")
            file.flush()
    return [done[j.number, j.seed] for j in jobs]


def main(
    model: str | None, device: str | None, out: Path, quick: bool = False, progress: bool = True, seeds: int = len(SEEDS)
) -> tuple[dict[str, Any], str]:
    """Run all methods; write `scenes.json`, `scenes.md` and `scenes.png` (`scenes-quick.*` with `quick`).

    Raises:
        InputError: for a number of seeds that there are not.
    """
    check_writable(out)
    jobs = make_jobs(quick, seeds)
    pipe = load(model, device)
    bench = Bench(pipe, load_captioner(device=str(pipe.device)), RealignConfig())
    methods: dict[str, Callable[[Sequence[Job]], list[Made]]] = {
        "base": bench.base,
        "best-of-N": bench.best_of_n,
        "attend-and-excite": bench.attend_and_excite,
        "modulated, unweighted": bench.realigned(omega_gain=0.0, escalation=0.0),
        "realign same_seed": bench.realigned(mode="same_seed"),
        "realign renoise": bench.realigned(mode="renoise"),
    }
    cache = cache_folder(out, "scenes", pipe, bench.captioner, bench.config, STEPS, GUIDANCE)
    records = {}
    for name, method in methods.items():
        records[name] = run_method(name, method, jobs, cache / f"{name.replace(' ', '-')}.jsonl", progress)
    rows = [row_of(name, records[name], records["base"], jobs) for name in methods]
    data = {
        "bench": "scenes",
        "quick": quick,
        "prompts": len({j.number for j in jobs}),
        "seeds": sorted({j.seed for j in jobs}),
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "rows": rows,
    }
    stem = "scenes-quick" if quick else "scenes"
    text = table(data)
    write_file(out / f"{stem}.json", json.dumps(data, indent=1).encode())
    write_file(out / f"{stem}.md", text.encode())
    write_file(out / f"{stem}.png", _plot(data))
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
    """95 % interval of a statistic of rows [P, ...], prompts drawn with replacement (seeds of a prompt stay together)."""
    rng = np.random.default_rng(seed)
    values = [statistic(per_prompt[rng.integers(len(per_prompt), size=len(per_prompt))]) for _ in range(draws)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _per_prompt(records: list[dict[str, Any]], jobs: list[Job]) -> np.ndarray:
    """Share of seeds that are right, per prompt."""
    sums: dict[int, list[bool]] = {}
    for record, job in zip(records, jobs, strict=True):
        sums.setdefault(job.number, []).append(record["right"])
    return np.asarray([np.mean(v) for _, v in sorted(sums.items())])


def _removed(pair: np.ndarray) -> float:
    """Share of the base's errors that are gone: rows (base, method)."""
    base, method = pair.mean(0)
    return float((method - base) / (1 - base)) if base < 1 else 0.0


def row_of(name: str, records: list[dict[str, Any]], base: list[dict[str, Any]], jobs: list[Job]) -> dict[str, Any]:
    right = _per_prompt(records, jobs)
    pair = np.stack([_per_prompt(base, jobs), right], 1)
    share = lambda keep: [r["right"] for r, j in zip(records, jobs, strict=True) if keep(j)]  # noqa: E731
    categories = list(dict.fromkeys(j.prompt.category for j in jobs))
    held = share(lambda j: j.prompt.held_out)
    atoms: dict[str, list[bool]] = {}
    for record in records:
        for kind, values in record["atoms"].items():
            atoms.setdefault(kind, []).extend(values)
    return {
        "method": name,
        "overall": round(float(right.mean()), 4),
        "ci95": [round(v, 4) for v in bootstrap(right, lambda x: float(x.mean()))],
        "errors_removed": round(_removed(pair), 4),
        "errors_removed_ci95": [round(v, 4) for v in bootstrap(pair, _removed)],
        "by_category": {c: round(float(np.mean(share(lambda j, c=c: j.prompt.category == c))), 4) for c in categories},
        "heldout": round(float(np.mean(held)), 4) if held else None,
        "atoms": {k: round(float(np.mean(v)), 4) for k, v in atoms.items()},
        "denoiser_calls": round(float(np.mean([r["calls"] for r in records])), 1),
        "seconds_per_image": round(float(np.mean([r["seconds"] for r in records])), 3),
    }


def table(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    categories = list(data["rows"][0]["by_category"])
    head = ["method", "right %", "95 %", "errors removed % [95 %]", *categories, "held out", "calls", "s/image"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    percent = lambda v: "-" if v is None else f"{100 * v:.1f}"  # noqa: E731
    for r in data["rows"]:
        removed = f"{percent(r['errors_removed'])} [{', '.join(percent(v) for v in r['errors_removed_ci95'])}]"
        cells = [
            r["method"],
            percent(r["overall"]),
            "-".join(percent(v) for v in r["ci95"]),
            "" if r["method"] == "base" else removed,
            *(percent(r["by_category"][c]) for c in categories),
            percent(r["heldout"]),
            f"{r['denoiser_calls']:.0f}",
            f"{r['seconds_per_image']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    note = f"{data['prompts']} prompts x {len(data['seeds'])} seeds, {data['num_inference_steps']} steps, guidance {data['guidance_scale']}"
    return f"# SceneBench\n\n{note}. Judged by the reader, which no method sees.\n\n" + "\n".join(lines) + "\n"


def _plot(data: dict[str, Any]) -> bytes:
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
        axis.errorbar(k * width, 100 * row["overall"], [[100 * row["overall"] - low], [high - 100 * row["overall"]]], color="black", capsize=2)
    axis.set_xticks(np.arange(len(categories)) + 0.4 - width / 2, categories)
    axis.set(ylabel="prompts right, %", ylim=(0, 100))
    axis.legend(ncols=3, fontsize=8, loc="upper right")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()
