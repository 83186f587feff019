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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tqdm.auto import tqdm

from accord.data.images import to_tensor
from accord.diffusion.pipelines import SD, load
from accord.evaluation.stats import bootstrap, interval
from accord.files import write_file
from accord.judges.captioners import Captioner, load_captioner
from accord.methods.context.config import ContextTrainConfig
from accord.methods.context.data import encode_images
from accord.methods.context.network import RelationalNetwork
from accord.methods.context.pipeline import new_relation
from accord.methods.context.sampling import generate_with_context
from accord.methods.context.train import Objective, train_context
from accord.reports.pictures import GAP, in_a_row, png
from accord.rewards.sentence import load_sentence
from accord.training.fingerprint import fingerprint
from accord_lab.bench.measure import turns
from accord_lab.bench.prompts import BenchPrompt, scenebench
from accord_lab.bench.report import figure_png, percent, sheet_rows, table, within
from accord_lab.bench.runner import Bench, at_least_one, cache_folder, kept, known_rows, read_json, slug
from accord_lab.recipes.denoiser import build, centred_scene, draw_scenes, shares
from accord_lab.scenes.ask import check
from accord_lab.scenes.grammar import FULL as FULL_CAPTION
from accord_lab.scenes.grammar import Saying, caption
from accord_lab.scenes.pairs import rendered_pairs
from accord_lab.scenes.read import read
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import sample_scene

WIDTHS = (48, 80, 80)  # 2-3 million parameters
# ways of sampling seed 0, beside DDIM 25 with guidance 5, which the rows have
WAYS: dict[str, dict[str, Any]] = {
    f"{n} {k}": {"ancestral": n == "DDPM", "num_inference_steps": k}
    for n, k in (("DDIM", 10), ("DDIM", 50), ("DDPM", 10), ("DDPM", 25), ("DDPM", 50))
} | {f"guidance {g:g}": {"guidance_scale": g} for g in (1.5, 3.0, 7.5, 9.0)}
SWEPT = ("plain, wider", "full context", "adapter, plain, wider", "adapter, full context")  # sampled in all of them


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


# --- measures ---------------------------------------------------------------------------------------------------------
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
    """Everything that a trained model is measured by.

    Args:
        sampling: how pictures are made, where it is not as by default.
    """

    def __init__(self, plan: Plan, captioner: Captioner, sampling: dict[str, Any]) -> None:
        self.number = {p: i for i, p in enumerate(scenebench())}
        self.prompts, self.fewer = judged(plan.prompts), judged(plan.looked_at)
        self.captioner, self.embed, self.sampling = captioner, load_sentence(), sampling
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
            **{**self.sampling, **sampling},
        )
        if strip is not None:
            first = {p.category: image for p, image in reversed(list(zip(prompts, images, strict=True)))}
            write_file(strip, png(in_a_row([first[c] for c in dict.fromkeys(p.category for p in prompts)][:SHOWN])))
        right = [check(read(i), p.ask).right for i, p in zip(images, prompts, strict=True)]
        seen, fewer = features(images, self.captioner), set(self.fewer)
        pixels = to_tensor(images)
        said = [c or " " for i in range(0, len(images), 64) for c in self.captioner.caption(pixels[i : i + 64])]
        by_category: dict[str, list[bool]] = {}
        for p, r in zip(prompts, right, strict=True):
            by_category.setdefault(p.category, []).append(r)
        return {
            **interval(right, "right"),
            "by_category": {k: round(float(np.mean(v)), 4) for k, v in by_category.items()},
            "frechet": round(frechet_distance(seen, self.reference), 4),
            "frechet_of_fewer": round(frechet_distance(seen[[p in fewer for p in prompts]], self.reference), 4),
            "caption_similarity": round(float((self.embed(said) * self.embed(texts)).sum(-1).mean()), 4),
            "per_prompt": [int(r) for r in right],
        }

    def cost(self, pipe: StableDiffusionPipeline, relation: RelationalNetwork, repeats: int = 3) -> float:
        """Time of sampling with context as a multiple of the plain one's, best of `repeats` in turn."""

        def sampled(scale: float) -> None:
            texts = [self.prompts[0].text] * 8
            generate_with_context(
                pipe, relation, texts, [0], context_scale=scale, output_type="latent", **self.sampling
            )

        taken = turns({"plain": lambda: sampled(0.0), "context": lambda: sampled(1.0)}, repeats + 1, "cpu")
        plain, shifted = (min(times[1:]) for times in taken.values())
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
        self.captions = [caption(s, rng, FULL_CAPTION if i >= count else Saying()) for i, s in enumerate(scenes)]
        single = np.flatnonzero([len(s.things) == 1 for s in scenes[:count]])
        self.pools = (np.arange(count, len(scenes)), single, np.arange(count))
        self.latents = encode_images(pipe, [Image.fromarray(render(s)) for s in scenes], cache, progress=progress)

    def __call__(self, rng: np.random.Generator, size: int, done: float) -> tuple[torch.Tensor, list[str]]:
        rows = draw_scenes(rng, size, shares(done), self.pools)
        return self.latents[rows].float(), [self.captions[int(i)] for i in rows]

    def finished(self, rng: np.random.Generator, size: int, done: float) -> tuple[torch.Tensor, list[str]]:
        """As at the end of the curriculum, for a denoiser that has been through it."""
        return self(rng, size, 1.0)


# --- running ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Cell:
    """A run, which is a row of the table, or (`swept`) a finished run that is sampled in other ways."""

    variant: Variant
    seed: int = 0
    swept: bool = False

    @property
    def key(self) -> tuple[str, int, bool]:
        return self.variant.name, self.seed, self.swept


def _last(row: dict[str, Any]) -> dict[str, Any]:
    end: dict[str, Any] = row["curve"][max(row["curve"], key=int)]
    return end


def _of_fewer(per_prompt: list[int], data: dict[str, Any]) -> list[int]:
    """Of a finished model's prompts those that are looked at before the end too."""
    return per_prompt[:: max(1, data["prompts"] // data["looked_at"])]


def page(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = []
    for row in data["rows"]:
        end = _last(row)
        rows.append(
            [
                row["variant"],
                row["seed"],
                f"{row['unet_parameters'] / 1e6:.2f} M",
                f"{row['relation_parameters'] / 1e6:.2f} M",
                percent(end["right"]),
                "-".join(map(percent, end["ci95"])),
                f"{end['frechet']:.2f}",
                f"{end['caption_similarity']:.3f}",
                f"{row['bound']:.4f}",
                f"{row['cost']:.2f}",
                *(f"{100 * v:.0f}" for v in end["by_category"].values()),
            ]
        )
    head = ["variant", "seed", "U-Net", "relation", "right %", "95 %", "Fréchet", "caption", "bound", "cost"]
    text = (
        f"# Context\n\nTrained on {data['scenes']} scenes: from scratch, {data['steps']} steps; adapters on the "
        f"finished denoiser, a quarter of them; judged on {data['prompts']} prompts of SceneBench.\n\n"
        + table([*head, *_last(data["rows"][0])["by_category"]], rows)
        + "\n\n"
    )
    for d in data["differences"]:
        text += (
            f"- {d['of']} less {d['over']}: {within(d['right'], d['ci95'], '+.1f', 100, ' points')}; "
            f"Fréchet distance by training seed {', '.join(f'{f:+.2f}' for f in d['frechet'])}\n"
        )
    if data["sampling"]:
        text += (
            f"\nSampled in other ways ({data['looked_at']} prompts, training seed 0): right %, Fréchet distance.\n\n"
            + _sampling_table(data)
            + "\n"
        )
    if data.get("shown"):
        stem = "context-quick" if data["quick"] else "context"
        text += f"\nPictures ({stem}-pictures.png), from above: {'; '.join(data['shown'])}. "
        text += "The first prompt of each category of SceneBench, each with its own noise.\n"
    return text


def _sampling_table(data: dict[str, Any]) -> str:
    ways = list(next(iter(data["sampling"].values())))
    ends = {r["variant"]: _last(r) for r in data["rows"] if not r["seed"]}
    rows = []
    for name, found in data["sampling"].items():
        if name in ends:
            end = ends[name]
            usual = {
                "right": np.mean(_of_fewer(end["per_prompt"], data)),
                "frechet": end.get("frechet_of_fewer", float("nan")),
            }
            shown = (usual, *map(found.get, ways))
            rows.append([name, *(f"{100 * w['right']:.0f}, {w['frechet']:.1f}" for w in shown)])
    return table(["variant", "DDIM 25, guidance 5", *ways], rows)


@dataclass(kw_only=True)
class Context(Bench[Cell, dict[str, Any]]):
    """Trains and measures variants. A run, each of its measured points and its row are kept once they are made. Rows of
    a table that is there already are taken over if they were made with the same models and plan.

    Attributes:
        seeds: training seeds of the four main variants.
        sampling: how pictures are made, where it is not as by default.

    Raises:
        InputError: for a number of seeds below 1.
    """

    name = "context"
    keeps = True
    plans = (Plan(20_000, 1000, 4, 512, 64, 2000), Plan(400, 60, 2, 32, 32, 200))
    each = True
    indent = None
    model: str | None = None
    seeds: int | None = None  # 3 if None
    variants: tuple[Variant, ...] = VARIANTS
    ways: dict[str, dict[str, Any]] = field(default_factory=lambda: WAYS)
    sampling: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(seeds=self.seeds)

    @cached_property
    def models(self) -> tuple[StableDiffusionPipeline, Captioner]:
        return load(self.model, classes=SD), load_captioner()

    @cached_property
    def cache(self) -> Path:
        return cache_folder(self.out, self.stem, *self.models, self.plan, ContextTrainConfig(), JUDGED)

    @cached_property
    def scenes(self) -> LabScenes:
        return LabScenes(self.models[0], self.plan.scenes, self.cache / "latents.safetensors", self.progress)

    @cached_property
    def held(self) -> tuple[torch.Tensor, list[str]]:
        """Latents and captions that were not trained on."""
        images, captions = rendered_pairs(256 if self.plan.reference > 256 else 32, seed=78)
        return encode_images(self.models[0], images), captions

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.plan, self.models[1], self.sampling)

    @cached_property
    def known(self) -> dict[tuple[str, int, bool], dict[str, Any]]:
        """What the table that is there says of cells, by their keys."""
        table_file = self.out / f"{self.stem}.json"
        rows = known_rows(table_file, *map(self.made_with, self.variants))
        found = {(r["variant"], r["seed"], False): r for r in rows}
        swept = read_json(table_file)["sampling"] if found else {}
        return found | {(name, 0, True): {"swept": name, "ways": ways} for name, ways in swept.items() if ways}

    def made_with(self, variant: Variant) -> str:
        """What a row depends on: the models and the plan, and the variant. Others may be added to it."""
        return f"{self.cache.name}-{fingerprint(variant)}"

    def cells(self) -> Sequence[Cell]:
        """Runs with one training seed, then more seeds of the main variants, then the ways of sampling."""
        runs = [Cell(v) for v in self.variants]
        runs += [Cell(v, k) for k in range(1, self.seeds or 3) for v in self.variants if v.main]
        return [*runs, *(Cell(v, swept=True) for v in self.variants if v.name in SWEPT)]

    def finished(self, cell: Cell) -> dict[str, Any] | None:
        return self.known.get(cell.key) or self.kept(cell)

    def missing(self, rows: Sequence[dict[str, Any]]) -> str:
        return "" if any("variant" in r for r in rows) else "no run is finished yet"

    def measure(self, cell: Cell) -> dict[str, Any]:
        make = (lambda: self.sweep(cell.variant)) if cell.swept else (lambda: self.row(cell.variant, cell.seed))
        row = self.known.get(cell.key) or self.kept(cell, make)
        assert row is not None
        return row

    def kept(self, cell: Cell, make: Callable[[], dict[str, Any]] | None = None) -> dict[str, Any] | None:
        """What the cache has of a cell, made now if it can be."""
        found = kept(self.folder(cell.variant, cell.seed) / ("sampling.json" if cell.swept else "row.json"), make)
        return {"swept": cell.variant.name, "ways": found} if found and cell.swept else found

    def config(self, variant: Variant, seed: int) -> ContextTrainConfig:
        config = ContextTrainConfig(steps=self.plan.steps, denoiser="full", learning_rate=8e-4, seed=seed)
        if variant.adapter:
            config = replace(config, steps=max(1, self.plan.steps // 4), denoiser="lora", learning_rate=3e-4)
        evaluations = max(1, self.plan.evaluations // 2) if variant.adapter else self.plan.evaluations
        return replace(config, save_every=max(1, config.steps // evaluations), **variant.changes)

    def folder(self, variant: Variant, seed: int = 0) -> Path:
        return self.cache / f"{slug(variant.name)}-{seed}-{fingerprint(variant)}"

    def trained(self, variant: Variant, seed: int) -> tuple[StableDiffusionPipeline, RelationalNetwork]:
        """The finished run's models; what is missing of the run is made."""
        config, folder = self.config(variant, seed), self.folder(variant, seed)
        pipe, source = self.models[0], self.scenes.finished if variant.adapter else self.scenes
        unet = copy.deepcopy(pipe.unet) if variant.adapter else reduced_unet(pipe, variant.wider, seed)
        own = with_unet(pipe, unet)

        def evaluate(step: int, relation: RelationalNetwork) -> None:
            if 0 < config.steps - step < config.save_every:
                return  # the end, which is measured anyway, is near
            path, end = folder / f"evaluation-{step}.json", step == config.steps
            prompts, strip = (self.judge.prompts, folder / "pictures.png") if end else (self.judge.fewer, None)
            kept(path, lambda: self.judge(own, relation, config, prompts, strip))

        if not variant.trained:
            relation = new_relation(own, gain=0.0)
            evaluate(config.steps, relation)
            return own, relation
        relation = train_context(own, source, folder, config, evaluate=evaluate)
        evaluate(config.steps, relation)  # of a run that was killed after its last step
        return own, relation

    def row(self, variant: Variant, seed: int) -> dict[str, Any]:
        """What the table says of a run."""
        own, relation = self.trained(variant, seed)
        config = self.config(variant, seed)
        evaluations = {int(p.stem[11:]): read_json(p) for p in self.folder(variant, seed).glob("evaluation-*.json")}
        count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
        return {
            "variant": variant.name,
            "seed": seed,
            "made_with": self.made_with(variant),
            "unet_parameters": count(own.unet),
            "relation_parameters": count(relation) if config.gain else 0,
            "cost": self.judge.cost(own, relation) if config.gain else 1.0,
            "bound": round(bound(own, relation, config, *self.held), 5),
            "curve": {str(k): evaluations[k] for k in sorted(evaluations)},
        }

    def sweep(self, variant: Variant) -> dict[str, Any]:
        """Seed 0 sampled in other ways: name of the way -> what comes of it, on the fewer prompts."""
        (own, relation), config = self.trained(variant, 0), self.config(variant, 0)
        found = {}
        for name, way in tqdm(self.ways.items(), desc=f"sampling, {variant.name}", disable=not self.progress):
            measured = self.judge(own, relation, config, self.judge.fewer, **way)
            found[name] = {k: measured[k] for k in ("right", "ci95", "frechet")}
        return found

    # --- the table ----------------------------------------------------------------------------------------------------
    def results(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        runs = [r for r in rows if "variant" in r]
        self.sheet, about = self._sheet(runs)
        sampling = {r["swept"]: r["ways"] for r in rows if "swept" in r}
        return {**asdict(self.plan), "rows": runs, "sampling": sampling, "differences": _differences(runs), **about}

    def _sheet(self, rows: Sequence[dict[str, Any]]) -> tuple[Image.Image | None, dict[str, Any]]:
        """The runs' pictures, from the cache or else from the sheet that is there; whose they are, and from where to
        where.
        """
        found = pictures_of(self.out, self.stem)
        for variant in self.variants:
            if (path := self.folder(variant) / "pictures.png").is_file():
                found[variant.name] = panels(Image.open(path), 0)
        first: dict[str, str] = {}
        for p in judged(self.plan.prompts):
            first.setdefault(p.category, p.text)
        prompts = list(first.values())[:SHOWN]
        names = [r["variant"] for r in rows if not r["seed"]]
        shown = {n: found[n] for n in names if len(found.get(n, ())) == len(prompts)}
        labelled = sheet_rows(shown, prompts)
        ends = np.cumsum([row.height for row in labelled]).tolist()
        side = (labelled[0].width - GAP * (len(prompts) - 1)) // len(prompts) if shown else 0
        about = {"shown": list(shown), "shown_at": [[end - side, end] for end in ends]}
        return in_a_row(labelled, across=False) if shown else None, about

    render = staticmethod(page)

    def pictures(self, data: dict[str, Any]) -> dict[str, bytes]:
        sheet = {} if self.sheet is None else {"-pictures.png": png(self.sheet)}
        return {".png": plot(data), **sheet}


def pictures_of(out: Path, stem: str) -> dict[str, list[Image.Image]]:
    """The pictures of the sheet that is there, by variant."""
    if not all((out / name).is_file() for name in (f"{stem}.json", f"{stem}-pictures.png")):
        return {}
    data, sheet = read_json(out / f"{stem}.json"), Image.open(out / f"{stem}-pictures.png")
    rows = zip(data["shown"], data["shown_at"], strict=True)
    return {name: panels(sheet.crop((0, top, sheet.width, end)), GAP) for name, (top, end) in rows}


def panels(row: Image.Image, gap: int) -> list[Image.Image]:
    """The square pictures of a row."""
    side = row.height
    return [row.crop((x, 0, x + side, side)) for x in range(0, row.width, side + gap)]


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


def _differences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One variant less another over the seeds that both have: paired by prompt, seeds of a prompt together, 95 %."""
    found = []
    for name, other in AGAINST:
        a, b = ({r["seed"]: _last(r) for r in rows if r["variant"] == n} for n in (name, other))
        shared = sorted(set(a) & set(b))
        if shared:
            right = [np.subtract(a[k]["per_prompt"], b[k]["per_prompt"]) for k in shared]
            frechet = [round(a[k]["frechet"] - b[k]["frechet"], 4) for k in shared]
            about = {"of": name, "over": other, "seeds": shared}
            found.append({**about, **interval(np.mean(right, 0), "right"), "frechet": frechet})
    return found


def plot(data: dict[str, Any]) -> bytes:
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
    return figure_png(figure)
