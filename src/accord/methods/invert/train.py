"""Training one predictor: joint loss, curriculum from out-of-fold scores. The loop is `Run`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from accord.files import check_regular, replace_file
from accord.methods.invert.config import InvertTrainConfig, PredictorConfig
from accord.methods.invert.data import PairSet
from accord.methods.invert.equations import curriculum_prefix, joint_loss
from accord.methods.invert.predictors import Predictor, build
from accord.methods.invert.split import group_near_duplicates
from accord.methods.invert.vocabulary import Vocabulary
from accord.training.claim import claim
from accord.training.fingerprint import fingerprint
from accord.training.loop import LoopConfig, Run
from accord.types import InputError, reason_of

SCORES = "scores.npy"  # of the curriculum, out of fold


def train_predictor(
    kind: PredictorConfig,
    data: PairSet,
    vocabulary: Vocabulary,
    folder: Path,
    config: InvertTrainConfig,
    device: str = "cpu",
) -> Predictor:
    """A predictor trained on `data`, with averaged weights, in eval mode. An unfinished run in `folder` is resumed.

    Raises:
        InputError: for a run in `folder` that was begun with other settings, or too few pairs.
    """
    folder = Path(folder)
    if len(data) < 2 * config.folds:
        raise InputError(f"{len(data)} pairs are too few to train an inverter on; give at least {2 * config.folds}")
    settings = {
        **asdict(kind),
        **asdict(config),
        "pairs": len(data),
        "data": fingerprint(data.images, data.prompts, data.captions),
    }
    with claim(folder, settings) as anew:
        if anew:
            (folder / SCORES).unlink(missing_ok=True)
        return _trained(kind, data, vocabulary, folder, config, device)


def _trained(
    kind: PredictorConfig, data: PairSet, vocabulary: Vocabulary, folder: Path, config: InvertTrainConfig, device: str
) -> Predictor:
    order = _order(kind, data, vocabulary, folder, config, device)
    present = vocabulary.present(data.prompts)
    predictor = build(kind, len(vocabulary) if config.vocabulary_weight else 0, config.seed, data.targets.shape[1]).to(
        device
    )
    if config.freeze_tower:
        predictor.freeze_tower()
    # what is frozen (a pipeline's VAE and text encoder) comes from its source again when the run is resumed
    run = Run(
        {"predictor": predictor},
        LoopConfig.of(config, warmup_steps=min(100, config.steps // 10)),
        folder,
        save_frozen=False,
    )

    def loss_fn(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        rows = order if config.curriculum == "none" else curriculum_prefix(step / config.steps, order)
        rows = rows[torch.randint(len(rows), (config.batch_size,), generator=generator)]
        images = data.pixels(rows, predictor.side).to(device)
        captions = data.captions_of(rows) if predictor.needs_captions else None
        predicted, logits = predictor(images, captions)
        loss = joint_loss(
            predicted, data.targets[rows].to(device), logits, present[rows].to(device), config.vocabulary_weight
        )
        cosine = F.cosine_similarity(predicted.detach().float(), data.targets[rows].to(device), dim=-1).mean()
        return loss, {"cosine": float(cosine)}

    run.train(loss_fn, f"inverter {kind.kind}")
    run.use_ema()
    return predictor.eval()


def _order(
    kind: PredictorConfig, data: PairSet, vocabulary: Vocabulary, folder: Path, config: InvertTrainConfig, device: str
) -> torch.Tensor:
    """Row numbers [N], easiest first (`prefix`), at random (`random`), or as they are (`none`)."""
    if config.curriculum == "none":
        return torch.arange(len(data))
    if config.curriculum == "random":
        return torch.randperm(len(data), generator=torch.Generator().manual_seed(config.seed + 1))
    saved = folder / SCORES
    if saved.exists():
        return _kept_scores(saved, len(data)).argsort(descending=True, stable=True)
    scores = out_of_fold_scores(kind, data, vocabulary, folder / "folds", config, device)

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.save(file, scores.numpy())

    replace_file(saved, write)
    return scores.argsort(descending=True, stable=True)


def _kept_scores(path: Path, count: int) -> torch.Tensor:
    """The scores [N] that a run has kept.

    Raises:
        InputError: for a file that is not of this run.
    """
    check_regular(path, "the run's")
    try:
        scores = torch.from_numpy(np.load(path, allow_pickle=False))
        if scores.shape != (count,) or not torch.isfinite(scores).all():
            raise ValueError(f"it has not {count} finite scores")
        return scores
    except (OSError, ValueError, EOFError, TypeError, SyntaxError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read ({reason_of(error)}); remove it, and it is made again"
        ) from error


def out_of_fold_scores(
    kind: PredictorConfig, data: PairSet, vocabulary: Vocabulary, folder: Path, config: InvertTrainConfig, device: str
) -> torch.Tensor:
    """Cosine of each pair's prediction and target [N], by a model that has seen neither: low is noise in the label.

    In-sample scores would call memorised pairs clean.
    """
    fold_of = _folds(data, config)
    scores = torch.empty(len(data))
    for fold in range(config.folds):
        rows = (fold_of != fold).nonzero()[:, 0].numpy()
        short = replace(
            config, curriculum="none", steps=max(1, int(config.fold_share * config.steps)), seed=config.seed + 1 + fold
        )
        model = train_predictor(kind, data.subset(rows), vocabulary, folder / str(fold), short, device)
        rest = (fold_of == fold).nonzero()[:, 0]
        predicted = predict(model, data, rest, config.batch_size)[0]
        scores[rest] = F.cosine_similarity(predicted, data.targets[rest], dim=-1)
    return scores


def _folds(data: PairSet, config: InvertTrainConfig) -> torch.Tensor:
    """Fold of each pair [N]. Near-duplicates of one prompt are in one fold: else the target of a pair would have been
    trained on.

    Raises:
        InputError: if nearly all prompts hang together.
    """
    _, group, sizes = np.unique(
        group_near_duplicates(data.targets.cpu(), config.fold_similar), return_inverse=True, return_counts=True
    )
    fold_of_group, filled = np.zeros(len(sizes), dtype=np.int64), np.zeros(config.folds)
    order = np.random.default_rng(config.seed).permutation(len(sizes))
    for k in order[np.argsort(-sizes[order], kind="stable")]:  # the largest first, each to the fold that has least
        fold_of_group[k] = filled.argmin()
        filled[fold_of_group[k]] += sizes[k]
    if filled.min() < len(data) / (4 * config.folds):
        raise InputError(
            "nearly all prompts are near-duplicates of each other, so none can be scored by a model that has not seen "
            "it; use the curriculum none"
        )
    return torch.from_numpy(fold_of_group[group])


@torch.no_grad()
def predict(
    predictor: Predictor,
    data: PairSet,
    rows: torch.Tensor | np.ndarray | None = None,
    batch_size: int = 256,
    progress: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Unit vectors [N,E] and word logits [N,V] (None without a vocabulary), on the CPU."""
    index = torch.arange(len(data)) if rows is None else torch.as_tensor(rows)
    device = next(predictor.parameters()).device
    vectors, words = [], []
    for start in tqdm(range(0, len(index), batch_size), desc="predict", disable=not progress):
        part = index[start : start + batch_size]
        captions = data.captions_of(part) if predictor.needs_captions else None
        vector, logits = predictor(data.pixels(part, predictor.side).to(device), captions)
        vectors.append(vector.float().cpu())
        if logits is not None:
            words.append(logits.float().cpu())
    return torch.cat(vectors), torch.cat(words) if words else None
