"""`train_inverter`: pairs on disk to a saved inverter with its report. Prepare, split, train, measure, save."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from accord.data.pair_folders import stream_pairs
from accord.data.pairs import PairsFile
from accord.files import check_writable, only_writer, read_json, write_file
from accord.judges.captioners import Captioner, load_captioner
from accord.methods.invert.config import InvertTrainConfig, PredictorConfig
from accord.methods.invert.data import Embed, PairSet, load_pairs
from accord.methods.invert.equations import ensemble, ensemble_weights
from accord.methods.invert.inverter import Inverter, check_weights
from accord.methods.invert.predictors import LAB_SIDE, tower_side
from accord.methods.invert.split import SIMILAR, Split, group_near_duplicates, split_groups
from accord.methods.invert.train import predict, train_predictor
from accord.methods.invert.vocabulary import Vocabulary, words_of
from accord.rewards.sentence import load_sentence
from accord.training.fingerprint import fingerprint
from accord.types import InputError


def train_inverter(
    pairs: str | Path,
    out: str | Path,
    kinds: Sequence[PredictorConfig],
    config: InvertTrainConfig,
    *,
    weights: Sequence[float] | None = None,
    similar: float = SIMILAR,
    limit: int | None = None,
    other: str | Path | None = None,
    embed: Embed | None = None,
    captioner: Captioner | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Train predictors on a folder of pairs and save the inverter into `out/inverter`, with `out/report.json`.

    Args:
        pairs: folder or file, see `stream_pairs`.
        kinds: one config a predictor.
        weights: of the ensemble; fitted on the validation split if None.
        similar: cosine above which two prompts may not be in two parts of the split.
        limit: read at most so many pairs.
        other: pairs of another domain, on which the report measures too.

    Raises:
        InputError: for pairs, settings or a folder that cannot be used.
    """
    check_weights(weights, len(kinds))
    folder = check_writable(Path(out))
    with only_writer(folder):
        return _trained(
            pairs, folder, kinds, config, weights, similar, limit, other, embed, captioner, device, progress
        )


def _trained(
    pairs: str | Path,
    folder: Path,
    kinds: Sequence[PredictorConfig],
    config: InvertTrainConfig,
    weights: Sequence[float] | None,
    similar: float,
    limit: int | None,
    other: str | Path | None,
    embed: Embed | None,
    captioner: Captioner | None,
    device: str,
    progress: bool,
) -> dict[str, Any]:
    """`train_inverter` in a folder that nobody else writes to."""
    embed = embed or load_sentence(device=device)
    skipped = PairsFile()
    rows = list(islice(stream_pairs(pairs, skipped), limit))
    if len(rows) < 10:
        raise InputError(f"{len(rows)} pairs in {str(pairs)!r} are too few to split and train on; give at least 10")
    needs_captions = any(k.needs_captions for k in kinds)
    captioner = (captioner or load_captioner(device=device)) if needs_captions else None
    sides = [tower_side(k) for k in kinds] + ([captioner.image_size] if captioner is not None else [])
    data = load_pairs(rows, max(sides), embed, skipped, progress)
    lab = max(Counter(data.sizes).items(), key=lambda kv: kv[1])[0] == (LAB_SIDE, LAB_SIDE)
    if len(data) < 10:
        raise InputError(f"of {len(rows)} pairs only {len(data)} have a readable picture; give at least 10")
    split = safe_split(data.targets.cpu(), similar)
    parts = {}
    if other is not None:
        parts["out of domain"] = load_pairs(list(stream_pairs(other, skipped)), max(sides), embed, skipped, progress)
    if captioner is not None:
        for name, part in {"pairs": data, **parts}.items():
            kept_captions(part, captioner, folder / f"captions of {name}.json", progress)
    train, validation, test = (data.subset(r) for r in (split.train, split.validation, split.test))
    del data  # the parts are copies
    parts = {"validation": validation, "test": test, **parts}
    vocabulary = Vocabulary.build(train.prompts, config.vocabulary_size)
    predictors = [
        train_predictor(kind, train, vocabulary, folder / "runs" / f"{i}-{kind.kind}", config, device)
        for i, kind in enumerate(kinds)
    ]
    answers = [
        {name: predict(p, part, batch_size=config.batch_size) for name, part in parts.items()} for p in predictors
    ]
    if weights is None and len(kinds) > 1:
        weights = [round(w, 4) for w in ensemble_weights([a["validation"][0] for a in answers], validation.targets)]
    inverter = Inverter(
        predictors, list(kinds), vocabulary, list(weights) if weights is not None else None, captioner, lab=lab
    )
    inverter.save_pretrained(folder / "inverter")
    report: dict[str, Any] = {
        "pairs": len(split.train) + len(split.validation) + len(split.test),
        "skipped": len(skipped.skipped),
        "split": {"train": len(train), **{name: len(part) for name, part in parts.items()}},
        "vocabulary": len(vocabulary),
        "predictors": [
            {"kind": kind.kind, **{name: measure(part, *answer[name], vocabulary) for name, part in parts.items()}}
            for kind, answer in zip(kinds, answers, strict=True)
        ],
    }
    if len(kinds) > 1:
        report["weights"] = inverter.weights
        report["ensemble"] = {
            name: measure(part, ensemble([a[name][0] for a in answers], weights), None, vocabulary)
            for name, part in parts.items()
        }
    report["mean embedding"] = {
        "test": cosine_of(F.normalize(train.targets.mean(0, keepdim=True), dim=-1).expand(len(test), -1), test.targets)
    }
    write_file(folder / "report.json", (json.dumps(report, indent=1) + "\n").encode())
    return report


def kept_captions(part: PairSet, captioner: Captioner, path: Path, progress: bool = False) -> None:
    """Caption every image; the captions are kept in a file, as a run that is resumed must have the same."""
    of = fingerprint(part.images, captioner.source)
    if path.exists():
        kept = read_json(path, "the run's captions", "remove it, and it is made again")
        captions = kept.get("captions")
        if (
            kept.get("of") == of
            and isinstance(captions, list)
            and len(captions) == len(part)
            and all(isinstance(c, str) for c in captions)
        ):
            part.captions = captions
    part.add_captions(captioner, progress=progress)
    write_file(path, json.dumps({"of": of, "captions": part.captions}).encode())


def safe_split(targets: torch.Tensor, similar: float = SIMILAR, seed: int = 0) -> Split:
    """Groups of near-duplicates, whole, to train, validation and test.

    Raises:
        InputError: if nearly all prompts hang together.
    """
    try:
        return split_groups(group_near_duplicates(targets, similar), seed=seed)
    except ValueError as error:
        raise InputError(str(error)) from error


def measure(
    part: PairSet, predicted: torch.Tensor, logits: torch.Tensor | None, vocabulary: Vocabulary
) -> dict[str, Any]:
    """Mean cosine with its 95 % interval over the images, and the words' F1."""
    out = cosine_of(predicted, part.targets)
    if logits is not None:
        out["word_f1"] = word_f1(logits > 0, vocabulary.present(part.prompts).bool())
    return out


def cosine_of(predicted: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
    """Mean cosine of rows [N,E] and its bootstrapped 95 % interval."""
    found = interval(F.cosine_similarity(predicted.float(), targets.float().cpu(), dim=-1).numpy())
    return {"cosine": found["mean"], "ci95": found["ci95"]}


def interval(values: np.ndarray, draws: int = 1000) -> dict[str, Any]:
    """Mean of values [N] and its bootstrapped 95 % interval."""
    rng = np.random.default_rng(0)
    means = (
        np.asarray([values[rng.integers(len(values), size=len(values))].mean() for _ in range(draws)])
        if len(values)
        else np.zeros(1)
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": round(float(values.mean()), 4), "ci95": [round(float(low), 4), round(float(high), 4)]}


def word_f1(found: torch.Tensor, present: torch.Tensor) -> float:
    """Mean over images of the F1 of two word sets, bool [N,V]."""
    both = (found & present).sum(1).float()
    total = found.sum(1) + present.sum(1)
    return round(float((2 * both / total.clamp(min=1)).mean()), 4)


def text_f1(said: str, true: str) -> float:
    """F1 of the content words of two texts."""
    a, b = set(words_of(said)), set(words_of(true))
    return 2 * len(a & b) / max(1, len(a) + len(b))
