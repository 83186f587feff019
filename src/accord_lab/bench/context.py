"""`accord bench context`: does the context help? Denoisers trained from scratch on the same data, steps and schedule.

plain; plain with the relational network's parameters added to the U-Net (the honest control); shift from the text only;
full context; and as an adapter on the finished denoiser, beside a plain adapter of as many parameters. All see the same
scenes in the same order, by the curriculum without which a small denoiser learns no silhouettes
(`recipes/denoiser.py`). Judged by the reader on SceneBench, by the Fréchet distance on features of the lab's captioner
(which no compared model was trained with), by caption similarity, and by the denoising bound. Runs and measured points
are kept under `.cache`.
"""

from __future__ import annotations

import copy
import io
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tqdm.auto import tqdm

from accord.data.images import to_tensor
from accord.data.shards import share_of
from accord.diffusion.pipelines import SD, load
from accord.files import check_writable, write_file
from accord.methods.context.config import ContextTrainConfig
from accord.methods.context.data import encode_images
from accord.methods.context.network import RelationalNetwork
from accord.methods.context.pipeline import generate_with_context, new_relation
from accord.methods.context.train import Objective, train_context
from accord.outputs import GAP, in_a_row, labelled_row, png
from accord.rewards.captioners import Captioner, load_captioner
from accord.rewards.sentence import load_sentence
from accord.training.fingerprint import fingerprint
from accord.types import InputError
from accord_lab.bench.cache import cache_folder, known_rows, slug
from accord_lab.bench.prompts import BenchPrompt, scenebench
from accord_lab.bench.scenes import bootstrap
from accord_lab.recipes.denoiser import build, centred_scene, draw_scenes, shares
from accord_lab.scenes.ask import check
from accord_lab.scenes.grammar import FULL as FULL_TOLD
from accord_lab.scenes.grammar import Saying, caption
from accord_lab.scenes.pairs import rendered_pairs
from accord_lab.scenes.read import read
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import sample_scene

WIDTHS = (48, 80, 80)  # 2-3 million parameters
GUIDANCES = (1.5, 3.0, 7.5, 9.0)  # beside 5, which the rows have
SAMPLERS = (("DDIM", 10), ("DDIM", 50), ("DDPM", 10), ("DDPM", 25), ("DDPM", 50))  # beside DDIM 25, which the rows have
SWEPT = (
    "plain, wider",
    "full context",
    "adapter, plain, wider",
    "adapter, full context",
)  # sampled in all these ways, seed 0


@dataclass(frozen=True)
class Variant:
    """A run.

    `wider` adds the relational network's parameters to the U-Net instead; `adapter` starts from the finished denoiser.
    """

    name: str
    changes: dict[str, Any]
    wider: bool = False
    main: bool = True  # of the four that are trained with three seeds
    adapter: bool = False
    trained: bool = True


PAPER = {"estimated_share": 0.0}  # r of the true picture in training; ours is of the network's own guess
VARIANTS = (
    Variant("plain", {"gain": 0.0}),
    Variant("plain, wider", {"gain": 0.0}, wider=True),
    Variant("text only", {"use_image": False}),
    Variant("full context", {}),
    Variant("full, prior shift", {"shift": "prior"}, main=False),
    Variant("full, data shift", {"shift": "data"}, main=False),
    Variant("full, as in the paper", PAPER, main=False),
    Variant("untouched", {"gain": 0.0}, main=False, adapter=True, trained=False),
    Variant("adapter, plain", {"gain": 0.0}, main=False, adapter=True),
    Variant(
        "adapter, plain, wider", {"gain": 0.0, "rank": 66}, main=False, adapter=True
    ),  # the parameters of LoRA and relational network
    Variant("adapter, full context", {}, main=False, adapter=True),
    Variant("adapter, as in the paper", PAPER, main=False, adapter=True),
)


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    scenes: int
    steps: int
    evaluations: int  # points of training that are measured
    prompts: int  # of SceneBench for a finished model, a seed each
    looked_at: int  # of them at the points before the end, and for each way of sampling
    reference: int  # rendered scenes for the Fréchet distance


FULL = Plan(20_000, 1000, 4, 512, 64, 2000)
QUICK = Plan(400, 60, 2, 32, 32, 200)


def runs(seeds: int) -> list[tuple[Variant, int]]:
    """Variants and training seeds; one of each first, then more of the main ones."""
    return [(v, 0) for v in VARIANTS] + [(v, k) for k in range(1, seeds) for v in VARIANTS if v.main]


def reduced_unet(pipe: StableDiffusionPipeline, wider: bool = False, seed: int = 0) -> UNet2DConditionModel:
    """A fresh small denoiser; `wider` by about the parameters of its relational network."""
    width = pipe.unet.config.cross_attention_dim

    def made(widths: tuple[int, ...]) -> UNet2DConditionModel:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build(width, widths)

    small = made(WIDTHS)
    if not wider:
        return small
    base = sum(p.numel() for p in small.parameters())
    pipe_small = with_unet(pipe, small)
    wanted = base + sum(p.numel() for p in new_relation(pipe_small).parameters())
    options = [made(tuple(w + 16 * (i == k) for i, w in enumerate(WIDTHS))) for k in range(3)]  # one level wider
    return min(options, key=lambda u: abs(sum(p.numel() for p in u.parameters()) - wanted))


def with_unet(pipe: StableDiffusionPipeline, unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """A pipeline with the same other parts."""
    parts = {**pipe.components, "unet": unet.to(pipe.device)}
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


# --- measures
# -----------------------------------------------------------------------------------------------------------
def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of two sets of features [N,D], by eigenvalues."""
    mean = np.square(a.mean(0) - b.mean(0)).sum()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    between = np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)
    return float(mean + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(between).sum())


@torch.no_grad()
def features(images: Iterable[Image.Image], captioner: Captioner) -> np.ndarray:
    """Mean patch state of the captioner's vision tower, [N,D]."""
    pictures = list(images)
    parts = [captioner.encode(to_tensor(pictures[i : i + 64])).mean(1) for i in range(0, len(pictures), 64)]
    return torch.cat(parts).float().cpu().numpy()


@torch.no_grad()
def bound(
    pipe: StableDiffusionPipeline,
    relation: RelationalNetwork,
    config: ContextTrainConfig,
    latents: torch.Tensor,
    captions: list[str],
) -> float:
    """Mean of the exact bound's terms over timesteps, in nats a latent element, on pairs that were not trained on."""
    objective = Objective(pipe, relation, replace(config, loss="kl", estimated_share=0.0, caption_dropout=0.0))
    generator = torch.Generator().manual_seed(0)
    values = []
    for i in range(0, len(latents), 32):
        part = latents[i : i + 32].float()
        loss, _ = objective(part, captions[i : i + 32], *objective.chance(part.shape, generator))
        values.append(float(loss))
    return float(np.mean(values))


JUDGED = "every prompt from its own noise"  # and the same for all models
SEED = 1001  # of that noise
SHOWN = 8  # pictures of a model in the sheet, one a category


def judged(count: int) -> list[BenchPrompt]:
    """About `count` prompts of SceneBench, evenly spread."""
    bench = scenebench()
    return bench[:: max(1, len(bench) // count)]


class Judge:
    """Everything that a trained model is measured by."""

    def __init__(self, plan: Plan, captioner: Captioner) -> None:
        self.number = {p: i for i, p in enumerate(scenebench())}
        self.prompts, self.fewer = judged(plan.prompts), judged(plan.looked_at)
        self.captioner, self.embed = captioner, load_sentence()
        images, _ = rendered_pairs(plan.reference, seed=77)
        self.reference = features(images, captioner)

    def __call__(
        self,
        pipe: StableDiffusionPipeline,
        relation: RelationalNetwork,
        config: ContextTrainConfig,
        prompts: list[BenchPrompt],
        strip: Path | None = None,
        **sampling: Any,
    ) -> dict[str, Any]:
        """Measures of a model's pictures; the first of each category go into the file `strip`."""
        texts, seeds = [p.text for p in prompts], [1000 * SEED + self.number[p] for p in prompts]
        images = generate_with_context(
            pipe,
            relation,
            texts,
            seeds,
            shift=config.shift,
            context_scale=float(config.gain > 0),
            each=True,
            **sampling,
        )
        if strip is not None:
            first = {p.category: image for p, image in reversed(list(zip(prompts, images, strict=True)))}
            write_file(strip, png(in_a_row([first[c] for c in dict.fromkeys(p.category for p in prompts)][:SHOWN])))
        right = np.asarray([check(read(i), p.ask).right for i, p in zip(images, prompts, strict=True)], dtype=float)
        low, high = bootstrap(right, lambda v: float(v.mean()))
        seen, fewer = features(images, self.captioner), set(self.fewer)
        pixels = to_tensor(images)
        said = [c or " " for i in range(0, len(images), 64) for c in self.captioner.caption(pixels[i : i + 64])]
        by_category: dict[str, list[float]] = {}
        for p, r in zip(prompts, right, strict=True):
            by_category.setdefault(p.category, []).append(r)
        return {
            "right": round(float(right.mean()), 4),
            "ci95": [round(low, 4), round(high, 4)],
            "by_category": {k: round(float(np.mean(v)), 4) for k, v in by_category.items()},
            "frechet": round(frechet_distance(seen, self.reference), 4),
            "frechet_of_fewer": round(frechet_distance(seen[[p in fewer for p in prompts]], self.reference), 4),
            "caption_similarity": round(float((self.embed(said) * self.embed(texts)).sum(-1).mean()), 4),
            "per_prompt": [int(r) for r in right],
        }


def sampling_cost(pipe: StableDiffusionPipeline, relation: RelationalNetwork, prompt: str, repeats: int = 3) -> float:
    """Time of sampling with context as a multiple of the plain one's, best of `repeats` in turn."""
    seconds: dict[float, list[float]] = {0.0: [], 1.0: []}
    for _ in range(repeats + 1):
        for scale, times in seconds.items():
            began = time.perf_counter()
            generate_with_context(pipe, relation, [prompt] * 8, [0], context_scale=scale, output_type="latent")
            times.append(time.perf_counter() - began)
    plain, shifted = (min(times[1:]) for times in seconds.values())
    return round(shifted / plain, 3)


class LabScenes:
    """Encoded scenes with a caption each, drawn by the lab's curriculum: a `Draw`.

    Args:
        pipe: whose VAE encodes.
        count: scenes; a tenth as many centred ones come on top.
        cache: file for the latents.
    """

    def __init__(
        self, pipe: StableDiffusionPipeline, count: int, cache: Path, progress: bool = False, seed: int = 31
    ) -> None:
        rng = np.random.default_rng(seed)
        scenes = [sample_scene(rng) for _ in range(count)] + [centred_scene(rng) for _ in range(max(1, count // 10))]
        self.captions = [caption(s, rng, FULL_TOLD if i >= count else Saying()) for i, s in enumerate(scenes)]
        single = np.flatnonzero([len(s.things) == 1 for s in scenes[:count]])
        self.pools = (np.arange(count, len(scenes)), single, np.arange(count))
        self.latents = encode_images(pipe, [Image.fromarray(render(s)) for s in scenes], cache, progress=progress)

    def __call__(self, rng: np.random.Generator, size: int, done: float) -> tuple[torch.Tensor, list[str]]:
        rows = draw_scenes(rng, size, shares(done), self.pools)
        return self.latents[rows].float(), [self.captions[int(i)] for i in rows]

    def finished(self, rng: np.random.Generator, size: int, done: float) -> tuple[torch.Tensor, list[str]]:
        """As at the end of the curriculum, for a denoiser that has been through it."""
        return self(rng, size, 1.0)


# --- running
# ------------------------------------------------------------------------------------------------------------
class Trainings:
    """Trains and measures variants. A run, each of its measured points and its row are kept once they are made."""

    def __init__(
        self, pipe: StableDiffusionPipeline, captioner: Captioner, plan: Plan, cache: Path, progress: bool
    ) -> None:
        self.pipe, self.plan, self.cache = pipe, plan, cache
        self.draw = LabScenes(pipe, plan.scenes, cache / "latents.safetensors", progress)
        images, self.held_captions = rendered_pairs(256 if plan.reference > 256 else 32, seed=78)
        self.held = encode_images(pipe, images)
        self.judge = Judge(plan, captioner)

    def config(self, variant: Variant, seed: int) -> ContextTrainConfig:
        config = ContextTrainConfig(steps=self.plan.steps, denoiser="full", learning_rate=8e-4, seed=seed)
        if variant.adapter:
            config = replace(config, steps=max(1, self.plan.steps // 4), denoiser="lora", learning_rate=3e-4)
        evaluations = max(1, self.plan.evaluations // 2) if variant.adapter else self.plan.evaluations
        return replace(config, save_every=max(1, config.steps // evaluations), **variant.changes)

    def folder(self, variant: Variant, seed: int) -> Path:
        return _folder(self.cache, variant, seed)

    def trained(self, variant: Variant, seed: int) -> tuple[StableDiffusionPipeline, RelationalNetwork]:
        """The finished run's models; what is missing of the run is made."""
        config, folder = self.config(variant, seed), self.folder(variant, seed)
        own = with_unet(
            self.pipe,
            copy.deepcopy(self.pipe.unet) if variant.adapter else reduced_unet(self.pipe, variant.wider, seed),
        )

        def evaluate(step: int, relation: RelationalNetwork) -> None:
            if 0 < config.steps - step < config.save_every:
                return  # the end, which is measured anyway, is near
            path, end = folder / f"evaluation-{step}.json", step == config.steps
            if not path.is_file():
                strip = folder / "pictures.png" if end else None
                write_file(
                    path,
                    json.dumps(
                        self.judge(own, relation, config, self.judge.prompts if end else self.judge.fewer, strip)
                    ).encode(),
                )

        if not variant.trained:
            relation = new_relation(own, gain=0.0)
            evaluate(config.steps, relation)
            return own, relation
        source = self.draw.finished if variant.adapter else self.draw
        relation = train_context(own, source, folder, config, evaluate=evaluate)
        evaluate(config.steps, relation)  # of a run that was killed after its last step
        return own, relation

    def row(self, variant: Variant, seed: int) -> dict[str, Any]:
        """What the table says of a run."""
        saved = self.folder(variant, seed) / "row.json"
        if saved.is_file():
            return _read(saved)
        own, relation = self.trained(variant, seed)
        config = self.config(variant, seed)
        evaluations = {int(p.stem[11:]): _read(p) for p in self.folder(variant, seed).glob("evaluation-*.json")}
        count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
        row = {
            "variant": variant.name,
            "seed": seed,
            "made_with": made_with(self.cache, variant),
            "unet_parameters": count(own.unet),
            "relation_parameters": count(relation) if config.gain else 0,
            "cost": sampling_cost(own, relation, self.judge.prompts[0].text) if config.gain else 1.0,
            "bound": round(bound(own, relation, config, self.held, self.held_captions), 5),
            "curve": {str(k): evaluations[k] for k in sorted(evaluations)},
        }
        write_file(saved, json.dumps(row).encode())
        return row

    def sweep(self, variant: Variant) -> dict[str, Any]:
        """Seed 0 sampled in other ways: name of the way -> what comes of it, on the fewer prompts."""
        saved = self.folder(variant, 0) / "sampling.json"
        if saved.is_file():
            return _read(saved)
        (own, relation), config = self.trained(variant, 0), self.config(variant, 0)
        ways: dict[str, dict[str, Any]] = {
            f"{n} {k}": {"ancestral": n == "DDPM", "num_inference_steps": k} for n, k in SAMPLERS
        }
        ways |= {f"guidance {g:g}": {"guidance_scale": g} for g in GUIDANCES}
        found = {}
        for name, way in tqdm(ways.items(), desc=f"sampling, {variant.name}"):
            measured = self.judge(own, relation, config, self.judge.fewer, **way)
            found[name] = {k: measured[k] for k in ("right", "ci95", "frechet")}
        write_file(saved, json.dumps(found).encode())
        return found


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    return found


def _folder(cache: Path, variant: Variant, seed: int) -> Path:
    return cache / f"{slug(variant.name)}-{seed}-{fingerprint(variant)}"


def made_with(cache: Path, variant: Variant) -> str:
    """What a row depends on: the models and the plan, and the variant. Others may be added to it."""
    return f"{cache.name}-{fingerprint(variant)}"


def main(
    out: Path,
    quick: bool = False,
    model: str | None = None,
    progress: bool = True,
    plan: Plan | None = None,
    seeds: int = 3,
    shard: tuple[int, int] | None = None,
    so_far: bool = False,
) -> tuple[dict[str, Any], str]:
    """Train and measure all variants; writes `context.json`, `.md`, `.png` and `context-pictures.png` (`context-quick*`
    with `quick`) after each run.

    Rows of a table that is there already are taken over if they were made with the same models and plan.

    Args:
        seeds: training seeds of the four main variants.
        shard: (i, n): only every n-th run from the i-th on, into the cache alone; a call without takes them from there.
        so_far: nothing is trained; the table of what is finished.

    Raises:
        InputError: for a number of seeds below 1, or if nothing is finished yet that `so_far` could show.
    """
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, not {seeds}")
    check_writable(out)
    plan = plan or (QUICK if quick else FULL)
    stem = "context-quick" if quick else "context"
    pipe, captioner = load(model, classes=SD), load_captioner()
    cache = cache_folder(out, stem, pipe, captioner, plan, ContextTrainConfig(), JUDGED)
    table_file = out / f"{stem}.json"
    known = {(r["variant"], r["seed"]): r for r in known_rows(table_file, *(made_with(cache, v) for v in VARIANTS))}
    ways: dict[str, Any] = _read(table_file)["sampling"] if known else {}
    swept = [v for v in VARIANTS if v.name in SWEPT]
    about = {"bench": "context", "quick": quick, **asdict(plan)}
    if so_far:
        for variant, seed in runs(seeds):
            for path in _folder(cache, variant, seed).glob("row.json"):
                known[variant.name, seed] = _read(path)
        ways |= {v.name: _read(p) for v in swept for p in _folder(cache, v, 0).glob("sampling.json")}
        rows = [known[v.name, k] for v, k in runs(seeds) if (v.name, k) in known]
        if not rows:
            raise InputError("no run is finished yet; run it without `so_far`")
        return _write(out, stem, {**about, "rows": rows, "sampling": ways}, cache)
    maker = Trainings(pipe, captioner, plan, cache, progress)
    todo = [lambda v=v, k=k: maker.row(v, k) for v, k in runs(seeds)] + [lambda v=v: maker.sweep(v) for v in swept]
    if shard is not None:
        for part in share_of(todo, shard):
            part()
        return {"bench": "context", "shard": list(shard)}, f"every {shard[1]}. run is in {cache}"
    rows = []
    for variant, seed in runs(seeds):
        rows.append(known.get((variant.name, seed)) or maker.row(variant, seed))
        data, text = _write(out, stem, {**about, "rows": rows, "sampling": ways}, cache)
    for variant in swept:
        ways.setdefault(variant.name, {}).update({} if ways.get(variant.name) else maker.sweep(variant))
        data, text = _write(out, stem, {**about, "rows": rows, "sampling": ways}, cache)
    return data, text


def _write(out: Path, stem: str, data: dict[str, Any], cache: Path) -> tuple[dict[str, Any], str]:
    """The table of these rows in all forms, and their pictures, from the cache or else from the existing sheet."""
    sheet, strips = out / f"{stem}-pictures.png", _strips_of(out, stem)
    for variant in VARIANTS:
        if (path := _folder(cache, variant, 0) / "pictures.png").is_file():
            strips[variant.name] = Image.open(path)
    first: dict[str, str] = {}
    for p in judged(data["prompts"]):
        first.setdefault(p.category, p.text)
    told = list(first.values())[:SHOWN]
    strips = {n: s for n, s in strips.items() if s.width == len(told) * s.height}
    shown = [r["variant"] for r in data["rows"] if not r["seed"] and r["variant"] in strips]
    labelled = [labelled_row(_panels(strips[n]), [] if i else told, n) for i, n in enumerate(shown)]
    if shown:
        write_file(sheet, png(in_a_row(labelled, across=False)))
    ends = np.cumsum([row.height for row in labelled]).tolist()
    side = (labelled[0].width - GAP * (len(told) - 1)) // len(told) if shown else 0
    data = {
        **data,
        "differences": _differences(data["rows"]),
        "shown": shown,
        "shown_at": [[e - side, e] for e in ends],
    }
    text = table(data)
    if shown:
        text += f"\nPictures ({stem}-pictures.png), from above: {'; '.join(shown)}. "
        text += "The first prompt of each category of SceneBench, each with its own noise.\n"
    write_file(out / f"{stem}.json", (json.dumps(data) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    write_file(out / f"{stem}.png", _plot(data))
    return data, text


def _strips_of(out: Path, stem: str) -> dict[str, Image.Image]:
    """The strips of the sheet that is there, by variant."""
    if not all((out / name).is_file() for name in (f"{stem}.json", f"{stem}-pictures.png")):
        return {}
    data, sheet = _read(out / f"{stem}.json"), Image.open(out / f"{stem}-pictures.png")
    names, places = data.get("shown", []), data.get("shown_at")
    if places is None:  # of before there were labels
        high = sheet.height // max(1, len(names))
        places = [(i * high, (i + 1) * high) for i in range(len(names))]
    rows = {n: sheet.crop((0, top, sheet.width, end)) for n, (top, end) in zip(names, places, strict=True)}
    gap = 0 if "shown_at" not in data else GAP
    return {n: in_a_row(_panels(row, gap)) for n, row in rows.items()}


def _panels(strip: Image.Image, gap: int = 0) -> list[Image.Image]:
    """The square pictures of a strip."""
    side = strip.height
    return [strip.crop((x, 0, x + side, side)) for x in range(0, strip.width, side + gap)]


def _last(row: dict[str, Any]) -> dict[str, Any]:
    end: dict[str, Any] = row["curve"][max(row["curve"], key=int)]
    return end


AGAINST = (
    ("full context", "plain, wider"),
    ("full context", "plain"),
    ("full context", "text only"),
    ("full context", "full, as in the paper"),
    ("adapter, full context", "adapter, plain, wider"),
    ("adapter, full context", "adapter, plain"),
    ("adapter, full context", "adapter, as in the paper"),
    ("adapter, full context", "untouched"),
    ("adapter, plain", "untouched"),
)


def _differences(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One variant less another over the seeds that both have: paired by prompt, seeds of a prompt together, 95 %."""
    found = []
    for name, other in AGAINST:
        a, b = ({r["seed"]: _last(r) for r in rows if r["variant"] == n} for n in (name, other))
        shared = sorted(set(a) & set(b))
        if not shared:
            continue
        right = np.mean([np.asarray(a[k]["per_prompt"]) - np.asarray(b[k]["per_prompt"]) for k in shared], 0)
        low, high = bootstrap(right, lambda v: float(v.mean()))
        found.append(
            {
                "of": name,
                "over": other,
                "seeds": shared,
                "right": round(float(right.mean()), 4),
                "ci95": [round(low, 4), round(high, 4)],
                "frechet": [round(a[k]["frechet"] - b[k]["frechet"], 4) for k in shared],
            }
        )
    return found


def _of_fewer(per_prompt: list[int], data: dict[str, Any]) -> list[int]:
    """Of a finished model's prompts those that are looked at before the end too."""
    return per_prompt[:: max(1, data["prompts"] // data["looked_at"])]


def table(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    first = _last(data["rows"][0])
    head = [
        "variant",
        "seed",
        "U-Net",
        "relation",
        "right %",
        "95 %",
        "Fréchet",
        "caption",
        "bound",
        "cost",
        *first["by_category"],
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in data["rows"]:
        end = _last(row)
        cells = [
            row["variant"],
            str(row["seed"]),
            f"{row['unet_parameters'] / 1e6:.2f} M",
            f"{row['relation_parameters'] / 1e6:.2f} M",
            f"{100 * end['right']:.1f}",
            f"{100 * end['ci95'][0]:.1f}-{100 * end['ci95'][1]:.1f}",
            f"{end['frechet']:.2f}",
            f"{end['caption_similarity']:.3f}",
            f"{row['bound']:.4f}",
            f"{row['cost']:.2f}",
            *(f"{100 * v:.0f}" for v in end["by_category"].values()),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    text = (
        f"# Context\n\nTrained on {data['scenes']} scenes: from scratch, {data['steps']} steps; adapters on the "
        "finished denoiser, a quarter of them; "
        f"judged on {data['prompts']} prompts of SceneBench.\n\n" + "\n".join(lines) + "\n\n"
    )
    for d in data["differences"]:
        text += (
            f"- {d['of']} less {d['over']}: {100 * d['right']:+.1f} points [{100 * d['ci95'][0]:+.1f}, "
            f"{100 * d['ci95'][1]:+.1f}]; "
            f"Fréchet distance by training seed {', '.join(f'{f:+.2f}' for f in d['frechet'])}\n"
        )
    if data["sampling"]:
        ways = list(next(iter(data["sampling"].values())))
        text += (
            f"\nSampled in other ways ({data['looked_at']} prompts, training seed 0): right %, Fréchet distance.\n\n"
        )
        text += "| variant | DDIM 25, guidance 5 | " + " | ".join(ways) + " |\n" + "|---" * (len(ways) + 2) + "|\n"
        ends = {r["variant"]: _last(r) for r in data["rows"] if not r["seed"]}
        judged = {name: found for name, found in data["sampling"].items() if name in ends}
        for name, found in judged.items():
            end = ends[name]
            usual = {
                "right": np.mean(_of_fewer(end["per_prompt"], data)),
                "frechet": end.get("frechet_of_fewer", float("nan")),
            }
            text += (
                f"| {name} | "
                + " | ".join(f"{100 * w['right']:.0f}, {w['frechet']:.1f}" for w in (usual, *map(found.get, ways)))
                + " |\n"
            )
    return text


def _plot(data: dict[str, Any]) -> bytes:
    from matplotlib.figure import Figure

    rows = data["rows"]
    figure = Figure(figsize=(13, 4), layout="constrained")
    curve, distance, end = figure.subplots(1, 3)
    names = list(dict.fromkeys(r["variant"] for r in rows))
    adapters = [v.name for v in VARIANTS if v.adapter]
    for place, name in enumerate(names):
        tuned = name in adapters
        color, style = f"C{adapters.index(name) if tuned else place}", "s--" if tuned else "o-"
        mine = [r["curve"] for r in rows if r["variant"] == name]
        steps = sorted(mine[0], key=int)
        at = [int(s) for s in steps]
        looked = [
            100 * np.mean([c[s]["per_prompt"] if s != steps[-1] else _of_fewer(c[s]["per_prompt"], data) for c in mine])
            for s in steps
        ]
        curve.plot(at, looked, style, color=color, label=name)
        away = [
            np.mean([c[s].get("frechet_of_fewer", np.nan if s == steps[-1] else c[s]["frechet"]) for c in mine])
            for s in steps
        ]
        distance.plot(at, away, style, color=color)
        right = np.mean([c[steps[-1]]["per_prompt"] for c in mine], 0)
        low, high = bootstrap(right, lambda v: float(v.mean()))
        end.errorbar(
            100 * right.mean(),
            place,
            xerr=[[100 * (right.mean() - low)], [100 * (high - right.mean())]],
            fmt=style[0],
            color=color,
            capsize=3,
        )
    curve.set(xlabel="step", ylabel="prompts right, %", title=f"{data['looked_at']} prompts")
    distance.set(xlabel="step", ylabel="Fréchet distance", title=f"{data['looked_at']} prompts")
    curve.legend(fontsize=7)
    end.set(
        xlabel="prompts right, % [95 %]",
        title=f"{data['prompts']} prompts, at the end",
        yticks=range(len(names)),
        yticklabels=names,
    )
    end.invert_yaxis()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
