"""`accord bench invert`: predictors against plain baselines on the lab's own pairs.

Columns: the test split; prompts of held-out combinations; rendered scenes, which no pipeline made. The reader judges
what the readable prompt says. Finished parts (pairs, runs) are kept under `.cache` beside the table, so a stopped run
goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from accord.data.pair_folders import stream_pairs
from accord.data.pairs import PairsFile
from accord.diffusion.pipelines import SD, Pipeline, device_name, load
from accord.embedded import INVERTER
from accord.files import replace_file
from accord.judges.captioners import Captioner, load_captioner
from accord.judges.clip import ClipScorer, load_clip
from accord.methods.invert.config import KINDS, InvertTrainConfig, PredictorConfig
from accord.methods.invert.data import PairSet, load_pairs
from accord.methods.invert.equations import ensemble, ensemble_weights
from accord.methods.invert.fit import cosine_of, interval, safe_split, text_f1, word_f1
from accord.methods.invert.inverter import Inverter
from accord.methods.invert.kernel import DomainKernel
from accord.methods.invert.pairs import make_pairs
from accord.methods.invert.predictors import Predictor, build
from accord.methods.invert.reader import invert
from accord.methods.invert.train import predict, train_predictor
from accord.methods.invert.vocabulary import Vocabulary
from accord.rewards.sentence import load_sentence
from accord.types import InputError
from accord_lab.bench.report import figure_png, table, within
from accord_lab.bench.runner import Bench, at_least_one, cache_folder, slug
from accord_lab.scenes.ask import ask_of, check
from accord_lab.scenes.grammar import caption
from accord_lab.scenes.lexicon import IMAGE_SIZE
from accord_lab.scenes.read import read
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import Scene, sample_scene

SIMILAR = 0.98  # the grammar's prompts are alike: at 0.9 nearly all of them hang together
PAIR_STEPS = 8  # denoising steps of the pairs' pictures: 62 % of 64 are right, 66 % with 12
DOMAINS = ("test", "held out", "renders")
PARTS = (*DOMAINS, "validation")
ENSEMBLE, PLAIN_ENSEMBLE, WEIGHTED, DAKL = "ensemble", "ensemble of plain", "weighted ", " + DAKL"
CHOSEN = "weighted ensemble of the best on validation"
FULL_ROW, EMBEDDED_ROW = WEIGHTED + ENSEMBLE + DAKL, "embedded inverter"
PLAIN, WORDS, WHOLE, RANDOM = "plain", "+ vocabulary", "+ curriculum", "random order"
PROBED = ("clip", "blip")  # towers whose frozen features the linear probes read


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    pairs: int
    extra: int  # pairs of each further domain
    steps: int
    batch_size: int
    kinds: tuple[str, ...]
    seeds: int  # of the full system
    readable: int  # test images whose readable prompt is judged


# --- pairs ------------------------------------------------------------------------------------------------------------
def scene_prompts(count: int, seed: int, held_out: bool) -> list[str]:
    """Captions of random scenes, all or none of them with a held-out combination."""
    rng = np.random.default_rng(seed)
    out: list[str] = []
    while len(out) < count:
        scene = sample_scene(rng, allow_held_out=held_out)
        if scene.held_out == held_out:
            out.append(caption(scene, rng))
    return out


def rendered_set(count: int, seed: int, embed: Any) -> PairSet:
    """Rendered scenes with captions: another domain than the pipeline's pictures."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    images = torch.from_numpy(np.stack([render(s) for s in scenes])).permute(0, 3, 1, 2).contiguous()
    prompts = [caption(s, rng) for s in scenes]
    return PairSet(images, prompts, embed(prompts).cpu())


class Sets:
    """The data of one plan. Made once, kept in `folder`.

    Args:
        make: what makes pictures of prompts, as `make_pairs` does.
        similar: the cosine of two prompts above which they are in one part of the split.
    """

    def __init__(
        self, plan: Plan, folder: Path, pipe: Pipeline, progress: bool, make: Callable[..., Any], similar: float
    ) -> None:
        self.plan, self.folder, self.pipe, self.progress, self.make = plan, folder, pipe, progress, make
        self.device, self.similar = str(pipe.device), similar

    def render(self, shard: tuple[int, int] | None = None) -> None:
        """Make the pairs' pictures, or only a shard's share of them."""
        prompts = {"pairs": (self.plan.pairs, 200, False), "held-out": (self.plan.extra, 201, True)}
        for name, of in prompts.items():
            self.make(
                self.pipe,
                scene_prompts(*of),
                self.folder / name,
                num_inference_steps=PAIR_STEPS,
                shard=shard,
                progress=self.progress,
            )

    @cached_property
    def all(self) -> dict[str, PairSet]:
        """Pairs, held out and renders, with captions of the pictures."""
        kept = {n: self.folder / f"{n}.safetensors" for n in ("pairs", "held-out", "renders")}
        missing = {n: p for n, p in kept.items() if not p.is_file()}
        if missing:
            if missing.keys() - {"renders"}:
                self.render()
            embed, captioner = load_sentence(device=self.device), load_captioner(device=self.device)
        for name, path in missing.items():
            if name == "renders":
                part = rendered_set(self.plan.extra, 202, embed)
            else:
                pairs = list(stream_pairs(self.folder / name, PairsFile()))
                part = load_pairs(pairs, IMAGE_SIZE, embed, PairsFile(), self.progress)
            part.add_captions(captioner, progress=self.progress)
            part.save(path)
        return {n: PairSet.load(p) for n, p in kept.items()}

    @cached_property
    def train(self) -> PairSet:
        return self._split[0]

    @cached_property
    def parts(self) -> dict[str, PairSet]:
        """What is predicted: the three domains and the validation split."""
        return {
            "test": self._split[2],
            "held out": self.all["held-out"],
            "renders": self.all["renders"],
            "validation": self._split[1],
        }

    @cached_property
    def _split(self) -> tuple[PairSet, PairSet, PairSet]:
        pairs = self.all["pairs"]
        split = safe_split(pairs.targets, self.similar)
        return pairs.subset(split.train), pairs.subset(split.validation), pairs.subset(split.test)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.build(self.train.prompts, 1000)


# --- training ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Trial:
    """One predictor to train."""

    kind: str
    variant: str
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.variant}" + (f", seed {self.seed}" if self.seed else "")

    @property
    def settings(self) -> PredictorConfig:
        return PredictorConfig(kind=self.kind)

    def config(self, plan: Plan) -> InvertTrainConfig:
        base = InvertTrainConfig(
            steps=plan.steps, batch_size=plan.batch_size, curriculum="none", vocabulary_weight=0.0, seed=self.seed
        )
        more: dict[str, dict[str, Any]] = {
            PLAIN: {},
            WORDS: {"vocabulary_weight": 0.1},
            WHOLE: {"vocabulary_weight": 0.1, "curriculum": "prefix"},
            RANDOM: {"vocabulary_weight": 0.1, "curriculum": "random"},
        }
        return replace(base, **more[self.variant])


def trials(plan: Plan) -> list[Trial]:
    """Every kind with every part of the method; the whole of it with every seed."""
    first = [Trial(k, v) for k in plan.kinds for v in (WHOLE, WORDS, PLAIN, RANDOM)]
    return first + [Trial(k, WHOLE, s) for s in range(1, plan.seeds) for k in plan.kinds]


Answers = dict[str, torch.Tensor]  # unit vectors [N,E] of each part, and "words": logits [N,V] on the test split


# --- running ----------------------------------------------------------------------------------------------------------


def page(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = []
    for row in data["rows"]:
        test = row["test"]
        rows.append(
            [
                row["method"] + (f" (refused on: {', '.join(row['refused'])})" if row.get("refused") else ""),
                f"{test['cosine']:.4f}",
                "-".join(f"{v:.4f}" for v in test["ci95"]),
                f"{row['held out']['cosine']:.4f}",
                f"{row['renders']['cosine']:.4f}",
                f"{row['word_f1']:.3f}" if "word_f1" in row else "-",
                "-" if row["method"] == data["full"] else _signed(row["full_system_over_it"]),
            ]
        )
    changes = [
        [e["change"], _signed(e), ", ".join(f"{k} {v['mean']:+.4f}" for k, v in e["kinds"].items())]
        for e in data["effects"]
    ]
    words = []
    for name, found in data["readable"].items():
        for way in ("readable prompt", "caption alone"):
            shares = [
                f"{100 * found[way][k]:.1f} %" for k in ("says_what_the_image_shows", "says_what_the_prompt_asked")
            ]
            words.append([f"{name}, {way}", *shares, f"{found[way]['word_f1']:.3f}"])
    split, images = data["split"], next(iter(data["readable"].values()))["images"]
    return (
        "# Inversion\n\n"
        f"{data['pairs']} pairs rendered by the pipeline in {data['pair_steps']} steps; {split['train']} to train, "
        f"{split['validation']} "
        f"to validate, {split['test']} to test (no two prompts of two parts with a cosine above {split['similar']}); "
        f"{data['steps']} steps "
        f"of {data['batch_size']} a predictor, on {data['device']}. Mean cosine to the true prompt's embedding; 95 % "
        "intervals over the images. "
        "Held out: combinations that no pair has. Renders: drawn scenes instead of generated pictures; their prompts "
        "are drawn like those of the pairs, and some are among them.\n\n"
        + table(["method", "test", "95 %", "held out", "renders", "word F1", "full system over it"], rows)
        + "\n\nWeights of the ensembles, fitted on the validation split: "
        + "; ".join(f"{n}: {', '.join(f'{k} {w:g}' for k, w in found.items())}" for n, found in data["weights"].items())
        + f". Best on validation: {', '.join(f'{k} {v}' for k, v in data['chosen'].items())}.\n\nWhat each part "
        "brings on the test split, mean over the predictors:\n\n"
        + table(["part of the method", "brings", "predictor by predictor"], changes)
        + f"\n\nOf {images} test images, judged by the reader and by the true prompt:\n\n"
        + table(["readable prompts of", "says what the image shows", "what the prompt asked", "word F1"], words)
        + "\n"
    )


def _signed(found: dict[str, Any]) -> str:
    return within(found["mean"], found["ci95"], "+.4f")


@dataclass(kw_only=True)
class Invert(Bench[Trial, Answers]):
    """Makes pairs, trains, measures. A cell is a predictor to train; the rows of the table are made of all of them.

    Attributes:
        device: of pictures and training; CUDA if there is one, if None.
        steps, kinds, seeds: of each predictor, of predictors, of the full system; the plan's if None or empty.
        only_pairs: make the pairs (with a shard, a share of them) and stop.
        make, similar: see `Sets`.

    Raises:
        InputError: for a kind that there is not, a number of seeds or steps below 1, or what `only_pairs` does not use.
    """

    name = "invert"
    keeps = True
    plans = (
        Plan(20_000, 1000, 600, 32, ("unet", "clip", "vit", "swin", "blip"), 3, 500),
        Plan(400, 60, 60, 32, ("clip", "vit"), 1, 20),
    )
    model: str | None = None
    device: str | None = None
    steps: int | None = None
    kind: Sequence[str] | None = None
    seeds: int | None = None
    only_pairs: bool = False
    make: Callable[..., Any] = make_pairs
    similar: float = SIMILAR

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kind", "seeds", "steps") if self.only_pairs else ():
            if getattr(self, name):
                raise InputError(f"`{name}` is not used with `only_pairs`; leave it out")
        wrong = [k for k in self.kind or () if k not in KINDS]
        if wrong:
            raise InputError(f"kind must be one of {', '.join(KINDS)}, not {wrong[0]!r}")
        at_least_one(seeds=self.seeds, steps=self.steps)
        self.plan = replace(
            self.plan,
            kinds=tuple(self.kind or self.plan.kinds),
            seeds=self.seeds or self.plan.seeds,
            steps=self.steps or self.plan.steps,
        )

    @cached_property
    def pipe(self) -> Pipeline:
        return load(self.model, self.device, classes=SD)

    @cached_property
    def judges(self) -> tuple[Captioner, ClipScorer]:
        return load_captioner(device=str(self.pipe.device)), load_clip(device=str(self.pipe.device))

    @cached_property
    def sets(self) -> Sets:
        parts = (self.pipe, self.judges[0], self.plan.pairs, self.plan.extra, PAIR_STEPS)
        folder = cache_folder(self.out, "pairs", *parts)
        return Sets(self.plan, folder, self.pipe, self.progress, self.make, self.similar)

    @cached_property
    def cache(self) -> Path:
        return cache_folder(self.out, self.name, self.pipe, *self.judges, replace(self.plan, kinds=(), seeds=0))

    def run(self, shard: tuple[int, int] | None = None, so_far: bool = False) -> tuple[dict[str, Any], str]:
        if not self.only_pairs:
            return super().run(shard, so_far)
        if so_far:
            raise InputError("`so_far` makes no pairs; leave it or `only_pairs` out")
        with self._writing(shard):
            self.sets.render(shard)
            return {"bench": self.name, "pairs": str(self.sets.folder)}, f"pairs are in {self.sets.folder}"

    def cells(self) -> Sequence[Trial]:
        return trials(self.plan)

    def trained(self, trial: Trial) -> Predictor:
        """The predictor of a trial, trained or resumed."""
        folder, config = self.cache / "runs" / _slug(trial.name), trial.config(self.plan)
        return train_predictor(trial.settings, self.sets.train, self.sets.vocabulary, folder, config, self.sets.device)

    def measure(self, cell: Trial) -> Answers:
        """What the predictor of a trial says of every part; kept."""
        path = self.cache / "answers" / f"{_slug(cell.name)}.safetensors"
        if not path.is_file():
            predictor = self.trained(cell)
            found = {n: predict(predictor, part, progress=self.progress) for n, part in self.sets.parts.items()}
            answers = {name: vectors.contiguous() for name, (vectors, _) in found.items()}
            words = found["test"][1]
            replace_file(
                path, lambda p: save_file(answers | ({} if words is None else {"words": words.contiguous()}), p)
            )
        return load_file(path)

    def results(self, rows: Sequence[Answers]) -> dict[str, Any]:
        sets, plan, (captioner, clip) = self.sets, self.plan, self.judges
        embed = load_sentence(device=sets.device)
        answers = _baselines(sets, embed, clip) | {t.name: a for t, a in zip(self.cells(), rows, strict=True)}
        refused, weights, chosen = _combine(answers, sets, plan)
        readers = self._readers(weights[WEIGHTED + ENSEMBLE])
        if EMBEDDED_ROW in readers:
            shipped = readers[EMBEDDED_ROW]
            answers[EMBEDDED_ROW] = {
                name: ensemble([predict(p, part)[0] for p in shipped.predictors], shipped.weights)
                for name, part in sets.parts.items()
            }
        full, test = answers[FULL_ROW], sets.parts["test"]
        return {
            "device": device_name(sets.device),
            "pairs": len(sets.all["pairs"]),
            "pair_steps": PAIR_STEPS,
            "split": {
                "train": len(sets.train),
                "validation": len(sets.parts["validation"]),
                "test": len(test),
                "similar": sets.similar,
            },
            "vocabulary": len(sets.vocabulary),
            "steps": plan.steps,
            "batch_size": plan.batch_size,
            "full": FULL_ROW,
            "weights": {
                name: dict(zip(plan.kinds, (round(w, 3) for w in found), strict=True))
                for name, found in weights.items()
            },
            "chosen": chosen,
            "rows": [_row(name, found, sets, refused.get(name), full) for name, found in answers.items()],
            "effects": effects(answers, sets, plan),
            "readable": {n: _readable(i, test, plan.readable, captioner, embed) for n, i in readers.items()},
        }

    def _readers(self, weights: list[float]) -> dict[str, Inverter]:
        """The full system, which is saved, and the embedded inverter beside the embedded pipeline."""
        whole, captioner = [Trial(k, WHOLE) for k in self.plan.kinds], self.judges[0]
        predictors, settings = [self.trained(t) for t in whole], [t.settings for t in whole]
        inverter = Inverter(predictors, settings, self.sets.vocabulary, weights, captioner)
        inverter.save_pretrained(self.cache / "inverter")
        embedded = self.model is None and INVERTER.is_dir()
        shipped = {EMBEDDED_ROW: Inverter.from_pretrained(device=self.sets.device)} if embedded else {}
        return {"full system": inverter, **shipped}

    render = staticmethod(page)

    def pictures(self, data: dict[str, Any]) -> dict[str, bytes]:
        return {".png": _plot(data)}


def _slug(name: str) -> str:
    return slug(name.replace("+ ", ""))


def _baselines(sets: Sets, embed: Any, clip: Any) -> dict[str, Answers]:
    """Mean embedding, caption to embedding, the prompt of the nearest training image by CLIP, and linear probes."""
    mean = F.normalize(sets.train.targets.mean(0, keepdim=True), dim=-1)

    @torch.no_grad()
    def features(part: PairSet) -> torch.Tensor:
        return torch.cat([clip.image_features(p.to(sets.device)).cpu() for p in _pixels(part)])

    known = features(sets.train)
    nearest = {}
    for name in DOMAINS:
        own = features(sets.parts[name])
        index = torch.cat([(own[i : i + 256] @ known.T).argmax(-1) for i in range(0, len(own), 256)])
        nearest[name] = sets.train.targets[index]
    return {
        "mean embedding": {d: mean.expand(len(sets.parts[d]), -1) for d in DOMAINS},
        "caption -> embedding": {d: embed([c or " " for c in sets.parts[d].captions]).cpu() for d in DOMAINS},
        "CLIP nearest neighbour": nearest,
        **{f"linear probe, {kind}": _probe(kind, sets) for kind in PROBED},
    }


def _pixels(part: PairSet, size: int = 256) -> Iterator[torch.Tensor]:
    """All pictures, a batch [B,3,S,S] at a time."""
    return (part.pixels(range(i, min(len(part), i + size))) for i in range(0, len(part), size))


@torch.no_grad()
def _probe(kind: str, sets: Sets) -> Answers:
    """Ridge regression from a tower's features as they are, its penalty chosen on the validation split."""
    tower = build(PredictorConfig(kind=kind), 0).tower.eval().to(sets.device)

    def features(part: PairSet) -> torch.Tensor:
        return torch.cat([tower(p.to(sets.device)).cpu() for p in _pixels(part)])

    known, own = features(sets.train), {name: features(part) for name, part in sets.parts.items()}
    truth = sets.parts["validation"].targets
    tried = [ridge(known, sets.train.targets, own, penalty) for penalty in (1e-4, 1e-3, 1e-2, 1e-1)]
    return max(tried, key=lambda found: cosine_of(found["validation"], truth)["cosine"])


def ridge(known: torch.Tensor, targets: torch.Tensor, own: dict[str, torch.Tensor], penalty: float) -> Answers:
    """argmin_W,b mean |W x + b - y|^2 + penalty * |W|^2 over standardised features [N,F], answered for others as unit
    vectors [M,E].
    """
    mean, spread = known.mean(0), known.std(0).clamp(min=1e-6)
    x, bias = ((known - mean) / spread).double(), targets.double().mean(0)
    gram = x.T @ x / len(x) + penalty * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, x.T @ (targets.double() - bias) / len(x))
    return {
        name: F.normalize(((v - mean) / spread).double() @ weights + bias, dim=-1).float() for name, v in own.items()
    }


def _combine(
    answers: dict[str, Answers], sets: Sets, plan: Plan
) -> tuple[dict[str, dict[str, str]], dict[str, list[float]], dict[str, str]]:
    """Add the ensembles and the domain adaptations to `answers`.

    Returns:
        for each domain adaptation the domains where it refused, and why; the fitted weights of each ensemble, one for
        each kind; of each kind the variant that is best on the validation split.
    """
    refused: dict[str, dict[str, str]] = {}
    weights: dict[str, list[float]] = {}
    truth = sets.parts["validation"].targets

    def second(name: str) -> None:
        answers[name + DAKL], refused[name + DAKL] = _adapted(answers[name], sets)

    def weighted(name: str, members: Sequence[Answers]) -> None:
        weights[name] = ensemble_weights([m["validation"] for m in members], truth)
        answers[name] = {part: ensemble([m[part] for m in members], weights[name]) for part in PARTS}

    for kind in plan.kinds:
        second(Trial(kind, WHOLE).name)
    for name, variant, seed in (
        (PLAIN_ENSEMBLE, PLAIN, 0),
        *((_of_seed(ENSEMBLE, s), WHOLE, s) for s in range(plan.seeds)),
    ):
        members = [answers[Trial(k, variant, seed).name] for k in plan.kinds]
        answers[name] = {part: ensemble([m[part] for m in members]) for part in PARTS}
        weighted(WEIGHTED + name, members)
        if variant == WHOLE:
            second(WEIGHTED + name)
    best = {
        k: max((PLAIN, WORDS, WHOLE), key=lambda v: cosine_of(answers[Trial(k, v).name]["validation"], truth)["cosine"])
        for k in plan.kinds
    }
    weighted(CHOSEN, [answers[Trial(k, v).name] for k, v in best.items()])
    return refused, weights, best


def _of_seed(name: str, seed: int) -> str:
    return name + (f", seed {seed}" if seed else "")


def _adapted(answers: Answers, sets: Sets) -> tuple[Answers, dict[str, str]]:
    """DAKL, for each domain by itself, fitted on the validation split; why it refuses, where it does."""
    out, refused = {}, {}
    validation = sets.parts["validation"]
    for domain in DOMAINS:
        try:
            out[domain] = DomainKernel.best(answers["validation"], validation.targets, answers[domain])(answers[domain])
        except InputError as error:
            out[domain], refused[domain] = answers[domain], str(error)
    return out, refused


def _row(name: str, found: Answers, sets: Sets, refused: dict[str, str] | None, full: Answers) -> dict[str, Any]:
    """Mean cosine of every domain, and what the full system has over it on the test split."""
    row: dict[str, Any] = {"method": name, **{d: cosine_of(found[d], sets.parts[d].targets) for d in DOMAINS}}
    test = sets.parts["test"]
    if "words" in found:
        row["word_f1"] = word_f1(found["words"] > 0, sets.vocabulary.present(test.prompts).bool())
    row["full_system_over_it"] = interval(_cosines(full, test) - _cosines(found, test))
    return row | ({"refused": refused} if refused else {})


def _cosines(found: Answers, test: PairSet) -> np.ndarray:
    return F.cosine_similarity(found["test"].float(), test.targets, dim=-1).numpy()


def effects(answers: dict[str, Answers], sets: Sets, plan: Plan) -> list[dict[str, Any]]:
    """What each part of the method brings on the test split: mean difference over kinds, interval over images."""
    whole = {k: Trial(k, WHOLE).name for k in plan.kinds}
    changes = {
        "vocabulary, over plain": {k: (Trial(k, WORDS).name, Trial(k, PLAIN).name) for k in plan.kinds},
        "curriculum, over vocabulary": {k: (whole[k], Trial(k, WORDS).name) for k in plan.kinds},
        "curriculum, over its random order": {k: (whole[k], Trial(k, RANDOM).name) for k in plan.kinds},
        "both and DAKL, over plain": {k: (whole[k] + DAKL, Trial(k, PLAIN).name) for k in plan.kinds},
        "DAKL, over one predictor": {k: (whole[k] + DAKL, whole[k]) for k in plan.kinds},
        "fitted weights, over equal ones": {"all": (WEIGHTED + ENSEMBLE, ENSEMBLE)},
        "DAKL, over the weighted ensemble": {"all": (FULL_ROW, WEIGHTED + ENSEMBLE)},
        "weighted ensemble, over that of plain": {"all": (WEIGHTED + ENSEMBLE, WEIGHTED + PLAIN_ENSEMBLE)},
    }
    test = sets.parts["test"]
    rows = []
    for name, pairs in changes.items():
        each = {k: _cosines(answers[a], test) - _cosines(answers[b], test) for k, (a, b) in pairs.items()}
        row = {"change": name, **interval(np.mean(list(each.values()), axis=0))}
        rows.append(row | {"kinds": {k: interval(v) for k, v in each.items()}})
    return rows


def _readable(inverter: Inverter, test: PairSet, count: int, captioner: Any, embed: Any) -> dict[str, Any]:
    """How many readable prompts say what the reader sees in the image, and what the true prompt asks; word F1."""
    part = test.subset(range(min(count, len(test))))
    images = [Image.fromarray(i.permute(1, 2, 0).numpy()) for i in part.images]
    found = invert(images, inverter, captioner=captioner, embed=embed)
    said = {"readable prompt": [r.prompt for r in found], "caption alone": [c or "a picture" for c in part.captions]}
    shown = [read(i) for i in images]
    share = lambda values: round(float(np.mean(values)), 4)  # noqa: E731
    return {
        "images": len(images),
        **{
            name: {
                "says_what_the_image_shows": share([_says(t, s) for t, s in zip(texts, shown, strict=True)]),
                "says_what_the_prompt_asked": share(
                    [_asks_the_same(t, p) for t, p in zip(texts, part.prompts, strict=True)]
                ),
                "word_f1": share([text_f1(t, p) for t, p in zip(texts, part.prompts, strict=True)]),
            }
            for name, texts in said.items()
        },
        "examples": [{"true": p, "read": r.prompt} for p, r in list(zip(part.prompts, found, strict=True))[:8]],
    }


def _says(text: str, scene: Scene) -> bool:
    try:
        return check(scene, ask_of(text)).right
    except (InputError, KeyError):
        return False


def _asks_the_same(said: str, true: str) -> bool:
    """Whether two prompts ask for the same things, colours and counts."""
    try:
        a, b = (sorted((t.noun, t.color or "", t.count) for t in ask_of(x).things) for x in (said, true))
    except (InputError, KeyError):
        return False
    return a == b


def _plot(data: dict[str, Any]) -> bytes:
    from matplotlib.figure import Figure

    rows = data["rows"]
    figure = Figure(figsize=(8, 0.28 * len(rows) + 1), layout="constrained")
    axis = figure.subplots()
    values = [r["test"]["cosine"] for r in rows]
    low = [r["test"]["cosine"] - r["test"]["ci95"][0] for r in rows]
    high = [r["test"]["ci95"][1] - r["test"]["cosine"] for r in rows]
    axis.barh(range(len(rows)), values, xerr=[low, high], color="#4c78a8", ecolor="black", capsize=2)
    axis.set_yticks(range(len(rows)), [r["method"] for r in rows], fontsize=7)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set(xlabel="mean cosine on the test split", xlim=(max(0.0, min(values) - 0.05), 1))
    return figure_png(figure)
