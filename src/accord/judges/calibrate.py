"""Calibration of a judge on labelled pictures: Platt scaling, p' = sigmoid(scale * logit(p) + bias).

J. Platt, Probabilistic Outputs for Support Vector Machines, 1999, with its targets (N+ + 1)/(N+ + 2) and 1/(N- + 2).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import optimize

from accord.data.images import open_image, to_tensor
from accord.data.lexicon import Lexicon
from accord.data.pairs import DELIMITERS, csv_head, csv_rows, json_lines
from accord.files import check_regular, read_json, write_file
from accord.judges.protocol import Answers, Judge, Question, check_scores
from accord.judges.questions import NO, YES, YES_OR_NO
from accord.types import InputError, Notice, Prompt, WordScore

FORMAT = 1
NARROW = 1e-6  # probabilities are held this far from 0 and 1
FEWEST = 8  # labelled pictures
_COLUMNS = ("image", "prompt", "question", "label")


@dataclass(frozen=True)
class Calibration:
    """What a judge's probabilities are mapped with.

    Attributes:
        judge: name of the judge that it was fitted to.
        scale, bias: of the logit; a scale below 1 makes a judge less sure of itself.
        threshold: the calibrated probability that parts right from wrong with the fewest errors.
        pictures: how many it was fitted on.
        before, after: mean log-loss on them.
        accuracy: share of them on the right side of the threshold.
    """

    judge: str
    scale: float
    bias: float
    threshold: float
    pictures: int
    before: float
    after: float
    accuracy: float

    def __call__(self, probabilities: np.ndarray | float) -> np.ndarray:
        """Calibrated probabilities."""
        return _sigmoid(self.scale * _logit(probabilities) + self.bias)

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        write_file(Path(path), json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode())

    @classmethod
    def load(cls, path: str | Path, judge: str) -> Calibration:
        """Read what `save` wrote.

        Raises:
            InputError: for a file that holds none, or one of another judge.
        """
        raw = read_json(Path(path), "calibration", "fit it again with accord.judges.calibrate")
        try:
            if raw.pop("format") != FORMAT:
                raise ValueError("it is of another format")
            found = cls(**raw)
            if not (np.isfinite([found.scale, found.bias]).all() and found.scale > 0):
                raise ValueError("its scale is not above 0")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"calibration {str(path)!r} cannot be used ({error}); fit it again with accord.judges.calibrate"
            ) from error
        if found.judge != judge:
            raise InputError(
                f"calibration {str(path)!r} was fitted to {found.judge!r}, not to {judge!r}; give that of this judge"
            )
        return found


def fit(judge: str, probabilities: Sequence[float], labels: Sequence[int]) -> Calibration:
    """Scale and bias by maximum likelihood, from a judge's probabilities of N pictures and what people say.

    Raises:
        InputError: for too few pictures, or of one label alone, probabilities that are not finite, or a judge that is
            surer of the wrong ones.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    check_scores(p, f"judge {judge!r}")
    right, wrong = int(y.sum()), int((1 - y).sum())
    if len(y) < FEWEST or not right or not wrong:
        raise InputError(
            f"a calibration needs at least {FEWEST} labelled pictures, right ones and wrong ones, and got {right} and "
            f"{wrong}; label more"
        )
    x, targets = _logit(p), np.where(y > 0, (right + 1) / (right + 2), 1 / (wrong + 2))

    def loss(ab: np.ndarray) -> tuple[float, np.ndarray]:
        z = ab[0] * x + ab[1]
        off = _sigmoid(z) - targets
        return float((np.logaddexp(0, z) - targets * z).mean()), np.array([(off * x).mean(), off.mean()])

    scale, bias = optimize.minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    if scale <= 0:
        raise InputError(
            f"judge {judge!r} is surer of the pictures that are labelled wrong, so no calibration helps; check the "
            "labels, or use another judge"
        )
    after = _sigmoid(scale * x + bias)
    cuts = np.concatenate([[0.0], np.sort(after) + 1e-12])
    hits = [float(((after >= cut) == (y > 0)).mean()) for cut in cuts]
    best = int(np.argmax(hits))
    above = after[after >= cuts[best]]
    below = after[after < cuts[best]]
    threshold = float((above.min() + below.max()) / 2) if len(above) and len(below) else float(cuts[best])
    return Calibration(
        judge, float(scale), float(bias), threshold, len(y), _log_loss(p, y), _log_loss(after, y), max(hits)
    )


def labelled(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a CSV or JSONL file of labelled pictures, with columns image (relative to the file), label, and
    prompt or question.

    Raises:
        InputError: for a file that is missing, of another kind or broken.
    """
    path, what = Path(path), "file of labelled pictures"
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise InputError(f"{what} {str(path)!r} is neither .csv nor .jsonl; convert it to one of them")
    check_regular(path, what)
    if path.suffix.lower() == ".csv":
        head = csv_head(path, what, DELIMITERS, (("image",), ("label",)))
        if head is None:
            raise InputError(f"{what} {str(path)!r} has no columns image and label; name them so")
        rows: list[tuple[int, Any]] = list(csv_rows(path, what, *head, frozenset(_COLUMNS)))
    else:
        rows = list(json_lines(path, what))
    for number, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"row {number} of the {what} {str(path)!r} is broken ({row}); mend it")
    return [{**row, "image": str(path.parent / str(row.get("image", "")))} for _, row in rows]


def calibrate(judge: Any, rows: str | Path | Sequence[dict[str, Any]], out: str | Path | None = None) -> Calibration:
    """Fit a calibration to labelled pictures.

    Args:
        judge: of `load_judge`.
        rows: file for `labelled`, or its rows: each with `image` (a path), `label` (1 if the picture shows it, else 0)
            and `prompt`, which is judged as a whole (best one with one check), or `question`, to be answered yes. Rows
            that the judge says nothing of are left out, and a Notice says how many.
        out: file to write it to.

    Raises:
        InputError: for a row that lacks one of them, questions for a judge that answers none, and as `labelled` and
            `fit`.
    """
    rows = labelled(rows) if isinstance(rows, (str, Path)) else rows
    _check_rows(rows, judge)
    found = np.array([_probability(judge, row) for row in rows])
    labels = np.array([int(row["label"]) for row in rows])
    said = np.isfinite(found)
    if not said.all():
        warnings.warn(
            f"{(~said).sum()} of {len(rows)} labelled pictures are left out: judge {judge.name!r} says nothing of them",
            Notice,
            stacklevel=2,
        )
    calibration = fit(judge.name, found[said].tolist(), labels[said].tolist())
    if out is not None:
        calibration.save(out)
    return calibration


def _check_rows(rows: Sequence[dict[str, Any]], judge: Any) -> None:
    """Raises InputError for a row that lacks something, or that this judge cannot be asked."""
    for number, row in enumerate(rows, 1):
        if (
            str(row.get("label")) not in ("0", "1")
            or not row.get("image")
            or not (row.get("prompt") or row.get("question"))
        ):
            raise InputError(
                f"row {number} of the labelled pictures needs image, label (0 or 1), and prompt or question"
            )
        if row.get("question") and not isinstance(judge, Answers):
            raise InputError(
                f"row {number} of the labelled pictures is a question, and judge {judge.name!r} answers none; give "
                "prompts, or a chat model"
            )


def _probability(judge: Any, row: dict[str, Any]) -> float:
    """That the picture of a row shows what it says; NaN where the judge does not say."""
    from accord.judges.diagnosis import align

    image = to_tensor(open_image(row["image"]))
    if not row.get("question"):
        overall = align(image, [str(row["prompt"])], judge, captions=False)[0].overall
        return float("nan") if overall is None else overall
    yes, no = judge.answer(image, [Question(f"{row['question']} {YES_OR_NO}", (YES, NO))], [0])[0]
    return float(yes / (yes + no)) if yes + no > 0 else float("nan")


@dataclass
class Calibrated:
    """A judge whose probabilities are calibrated. Which word the picture shows instead stays as it was."""

    judge: Judge
    calibration: Calibration
    differentiable, writes = False, True  # gradients are none; captions are the judge's own

    @property
    def name(self) -> str:
        return self.judge.name

    @property
    def image_size(self) -> int:
        return self.judge.image_size

    @property
    def any_size(self) -> bool:
        return self.judge.any_size

    @property
    def regions(self) -> str:
        """How the judge sees a region: "crop" or "box"."""
        return getattr(self.judge, "regions", "crop")

    @property
    def lexicon(self) -> Lexicon:
        return self.judge.lexicon

    def check_length(self, text: str) -> None:
        """As the judge's own."""
        self.judge.check_length(text)

    def caption(self, images: torch.Tensor) -> list[str]:
        """As the judge's own."""
        return self.judge.caption(images)

    def verdicts(self, images: torch.Tensor, prompts: Sequence[Prompt]) -> list[tuple[WordScore, ...]]:
        """The judge's own with calibrated probabilities; the rest goes to what it reads instead, in proportion."""
        return [tuple(map(self._calibrated, scores)) for scores in self.judge.verdicts(images, prompts)]

    def _calibrated(self, score: WordScore) -> WordScore:
        probability = float(self.calibration(score.probability))
        rest = (1 - probability) / max(1 - score.probability, 1e-12)
        how = score.how or f"likelihood against {score.against} others in its place"
        return replace(
            score,
            probability=probability,
            reads_as_probability=min(score.reads_as_probability * rest, 1 - probability),
            how=f"{how}, calibrated",
        )


def _logit(p: np.ndarray | float) -> np.ndarray:
    q = np.clip(p, NARROW, 1 - NARROW)
    return np.log(q) - np.log1p(-q)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _log_loss(p: np.ndarray, y: np.ndarray) -> float:
    q = np.clip(p, NARROW, 1 - NARROW)
    return float(-(y * np.log(q) + (1 - y) * np.log1p(-q)).mean())
