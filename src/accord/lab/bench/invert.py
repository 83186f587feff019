"""`accord bench invert`: predictors against plain baselines on the lab's own pairs.

Columns: the test split; prompts of held-out combinations; rendered scenes, which no pipeline made. The reader judges what the
readable prompt says. Finished parts (pairs, runs) are kept under `.cache` beside the table, so a stopped run goes on.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from accord.data.pair_folders import stream_pairs
from accord.data.pairs import PairsFile
from accord.diffusion.pipelines import load
from accord.lab.bench.cache import cache_folder
from accord.lab.scenes.ask import ask_of, check
from accord.lab.scenes.grammar import caption
from accord.lab.scenes.lexicon import IMAGE_SIZE
from accord.lab.scenes.read import read
from accord.lab.scenes.render import render
from accord.lab.scenes.scene import Scene, sample_scene
from accord.methods.invert.config import InvertTrainConfig, PredictorConfig
from accord.methods.invert.data import PairSet, load_pairs
from accord.methods.invert.equations import ensemble
from accord.methods.invert.fit import cosine_of, safe_split, text_f1, word_f1
from accord.methods.invert.invert import invert
from accord.methods.invert.inverter import Inverter
from accord.methods.invert.kernel import DomainKernel
from accord.methods.invert.pairs import make_pairs
from accord.methods.invert.predictors import Predictor
from accord.methods.invert.train import predict, train_predictor
from accord.methods.invert.vocabulary import Vocabulary
from accord.outputs import check_writable, write_file
from accord.rewards.captioners import load_captioner
from accord.rewards.clip import load_clip
from accord.rewards.sentence import load_sentence
from accord.types import InputError

SIMILAR = 0.98  # the grammar's prompts are alike: at 0.9 nearly all of them hang together
DOMAINS = ("test", "held out", "renders")
FULL_KINDS = ("clip", "vit", "swin", "blip", "unet")


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    pairs: int
    extra: int  # pairs of each further domain
    steps: int
    kinds: tuple[str, ...]
    seeds: int  # of the full system
    readable: int  # test images whose readable prompt is judged


FULL = Plan(20_000, 1000, 3000, FULL_KINDS, 3, 500)
QUICK = Plan(400, 60, 60, ("clip", "vit"), 1, 20)


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
    return PairSet(images, prompts, embed(prompts))


def main(
    out: Path, quick: bool = False, model: str | None = None, progress: bool = True, plan: Plan | None = None
) -> tuple[dict[str, Any], str]:
    """Make pairs, train, measure; writes `invert.json`, `.md` and `.png` (`invert-quick.*` with `quick`)."""
    check_writable(out)
    plan = plan or (QUICK if quick else FULL)
    embed, captioner, clip = load_sentence(), load_captioner(), load_clip()
    pipe = load(model)
    cache = cache_folder(out, "invert", pipe, captioner, clip, plan)
    sets = {}
    for name, prompts in (
        ("pairs", scene_prompts(plan.pairs, 200, False)),
        ("held out", scene_prompts(plan.extra, 201, True)),
    ):
        folder = cache / name.replace(" ", "-")
        make_pairs(pipe, prompts, folder, progress=progress)
        sets[name] = load_pairs(list(stream_pairs(folder, PairsFile())), IMAGE_SIZE, embed, PairsFile(), progress)
    sets["renders"] = rendered_set(plan.extra, 202, embed)
    for part in sets.values():
        part.add_captions(captioner, progress=progress)
    split = safe_split(sets["pairs"].targets, SIMILAR)
    train, validation = sets["pairs"].subset(split.train), sets["pairs"].subset(split.validation)
    domains = {"test": sets["pairs"].subset(split.test), "held out": sets["held out"], "renders": sets["renders"]}
    vocabulary = Vocabulary.build(train.prompts, 1000)
    rows = _baselines(train, domains, embed, clip)
    base = InvertTrainConfig(steps=plan.steps, curriculum="none", vocabulary_weight=0.0)
    variants = {
        "linear probe": replace(base, freeze_tower=True),
        "plain": base,
        "+ vocabulary": replace(base, vocabulary_weight=0.1),
        "+ curriculum": replace(base, vocabulary_weight=0.1, curriculum="prefix"),
        "random order": replace(base, vocabulary_weight=0.1, curriculum="random"),
    }
    answers: dict[str, dict[str, torch.Tensor]] = {}
    full: dict[int, list[tuple[PredictorConfig, Predictor]]] = {}
    for kind in plan.kinds:
        for name, config in variants.items():
            if name == "linear probe" and kind != "clip":
                continue
            whole = name == "+ curriculum"
            for seed in range(plan.seeds if whole else 1):
                settings = PredictorConfig(kind=kind, hidden=0 if name == "linear probe" else 512)
                folder = cache / "runs" / f"{kind}-{name.replace(' ', '')}-{seed}"
                predictor = train_predictor(settings, train, vocabulary, folder, replace(config, seed=seed))
                found = {d: predict(predictor, part) for d, part in {**domains, "validation": validation}.items()}
                label = f"{kind}, {name}" + (f", seed {seed}" if seed else "")
                rows.append(_row(label, {d: found[d][0] for d in DOMAINS}, domains, {d: found[d][1] for d in DOMAINS}, vocabulary))
                if whole:
                    full.setdefault(seed, []).append((settings, predictor))
                    answers[f"{kind}-{seed}"] = {d: v[0] for d, v in found.items()}
                    if seed == 0:
                        rows.append(_second_level(f"{kind}, + DAKL", answers[f"{kind}-0"], validation, domains))
    for seed in range(plan.seeds):
        together = {d: ensemble([answers[f"{k}-{seed}"][d] for k in plan.kinds]) for d in (*DOMAINS, "validation")}
        suffix = f", seed {seed}" if seed else ""
        rows.append(_row(f"ensemble{suffix}", together, domains))
        rows.append(_second_level(f"ensemble + DAKL{suffix}", together, validation, domains))
    inverter = Inverter([p for _, p in full[0]], [k for k, _ in full[0]], vocabulary, captioner=captioner)
    single = Inverter([full[0][0][1]], [full[0][0][0]], vocabulary, captioner=captioner)
    data = {
        "bench": "invert",
        "quick": quick,
        "pairs": len(sets["pairs"]),
        "split": {"train": len(train), "validation": len(validation), "test": len(domains["test"]), "similar": SIMILAR},
        "vocabulary": len(vocabulary),
        "steps": plan.steps,
        "rows": rows,
        "readable": _readable(inverter, domains["test"], plan.readable, captioner, embed),
        "speed": _speed(single, domains["renders"], captioner, embed),
    }
    text = table(data)
    stem = "invert-quick" if quick else "invert"
    write_file(out / f"{stem}.json", (json.dumps(data, indent=1) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    write_file(out / f"{stem}.png", _plot(data))
    return data, text


def _baselines(train: PairSet, domains: dict[str, PairSet], embed: Any, clip: Any) -> list[dict[str, Any]]:
    """Mean embedding, caption to embedding, and the prompt of the nearest training image by CLIP."""
    mean = F.normalize(train.targets.mean(0, keepdim=True), dim=-1)

    @torch.no_grad()
    def features(part: PairSet) -> torch.Tensor:
        return torch.cat([clip.image_features(part.pixels(range(i, min(len(part), i + 256)))) for i in range(0, len(part), 256)])

    known = features(train)
    nearest = {}
    for name, part in domains.items():
        own = features(part)
        index = torch.cat([(own[i : i + 256] @ known.T).argmax(-1) for i in range(0, len(own), 256)])
        nearest[name] = train.targets[index]
    return [
        _row("mean embedding", {d: mean.expand(len(p), -1) for d, p in domains.items()}, domains),
        _row("caption -> embedding", {d: embed([c or " " for c in p.captions]) for d, p in domains.items()}, domains),
        _row("CLIP nearest neighbour", nearest, domains),
    ]


def _second_level(
    name: str, answers: dict[str, torch.Tensor], validation: PairSet, domains: dict[str, PairSet]
) -> dict[str, Any]:
    """A row of DAKL, for each domain by itself, fitted on the validation split; where it refuses, the row says why."""
    out, refused = {}, {}
    for domain in DOMAINS:
        try:
            level = DomainKernel.fit(answers["validation"], validation.targets, answers[domain], centroids=min(256, 2 * (len(validation) // 4)))
            out[domain] = level(answers[domain])
        except InputError as error:
            out[domain], refused[domain] = answers[domain], str(error)
    row = _row(name, out, domains)
    return {**row, "refused": refused} if refused else row


def _row(
    name: str,
    predicted: dict[str, torch.Tensor],
    domains: dict[str, PairSet],
    logits: dict[str, torch.Tensor | None] | None = None,
    vocabulary: Vocabulary | None = None,
) -> dict[str, Any]:
    row: dict[str, Any] = {"method": name, **{d: cosine_of(predicted[d], domains[d].targets) for d in DOMAINS}}
    test = logits["test"] if logits else None
    if test is not None and vocabulary is not None:
        row["word_f1"] = word_f1(test > 0, vocabulary.present(domains["test"].prompts).bool())
    return row


def _readable(inverter: Inverter, test: PairSet, count: int, captioner: Any, embed: Any) -> dict[str, Any]:
    """Of the readable prompts: how many say what the reader sees in the image, and what the true prompt asks; word F1."""
    part = test.subset(range(min(count, len(test))))
    images = [Image.fromarray(i.permute(1, 2, 0).numpy()) for i in part.images]
    found = invert(images, inverter, captioner=captioner, embed=embed)
    seen, asked = [], []
    for image, result, prompt in zip(images, found, part.prompts, strict=True):
        seen.append(_says(result.prompt, read(image)))
        asked.append(_asks_the_same(result.prompt, prompt))
    return {
        "images": len(images),
        "says_what_the_image_shows": round(float(np.mean(seen)), 4),
        "says_what_the_prompt_asked": round(float(np.mean(asked)), 4),
        "word_f1": round(float(np.mean([text_f1(r.prompt, p) for r, p in zip(found, part.prompts, strict=True)])), 4),
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


def _speed(inverter: Inverter, part: PairSet, captioner: Any, embed: Any) -> dict[str, float]:
    """Seconds for one image with everything, and images a second in bulk with embedding and words."""
    images = [Image.fromarray(i.permute(1, 2, 0).numpy()) for i in part.images]
    invert(images[:2], inverter, captioner=captioner, embed=embed)  # the warm-up
    began = time.perf_counter()
    for image in images[:5]:
        invert(image, inverter, captioner=captioner, embed=embed)
    one = (time.perf_counter() - began) / len(images[:5])
    many: Sequence[Image.Image] = (images * (1 + 1000 // len(images)))[:1000]
    began = time.perf_counter()
    inverter(many)
    return {"seconds_one_image": round(one, 4), "images_per_second": round(len(many) / (time.perf_counter() - began), 1)}


def table(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| method | test | 95 % | held out | renders | word F1 |", "|---|---|---|---|---|---|"]
    for row in data["rows"]:
        test = row["test"]
        f1 = f"{row['word_f1']:.3f}" if "word_f1" in row else "-"
        name = row["method"] + (f" (refused on: {', '.join(row['refused'])})" if row.get("refused") else "")
        lines.append(
            f"| {name} | {test['cosine']:.4f} | {test['ci95'][0]:.4f}-{test['ci95'][1]:.4f} "
            f"| {row['held out']['cosine']:.4f} | {row['renders']['cosine']:.4f} | {f1} |"
        )
    split, readable, speed = data["split"], data["readable"], data["speed"]
    return (
        "# Inversion\n\n"
        f"{data['pairs']} pairs rendered by the pipeline; {split['train']} to train, {split['validation']} to validate, {split['test']} to "
        f"test (no two prompts of two parts with a cosine above {split['similar']}); {data['steps']} steps a predictor. Mean cosine to "
        "the true prompt's embedding.\n\n" + "\n".join(lines) + "\n\n"
        f"Readable prompts of {readable['images']} test images: {100 * readable['says_what_the_image_shows']:.1f} % say what the image "
        f"shows, {100 * readable['says_what_the_prompt_asked']:.1f} % what the prompt asked, word F1 {readable['word_f1']:.3f}. One image "
        f"takes {speed['seconds_one_image']:.3f} s; in bulk {speed['images_per_second']:.0f} images a second.\n"
    )


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
    axis.invert_yaxis()
    axis.set(xlabel="mean cosine on the test split", xlim=(max(0.0, min(values) - 0.05), 1))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
