"""Metrics of one line, as those of torchmetrics: pictures and prompts in, a mean with its interval out.

    metric = Alignment(judge="Qwen/Qwen3-VL-8B-Instruct")
    metric.update(images, prompts)
    metric.compute()  # {"alignment": ..., "alignment_low": ..., "alignment_high": ..., "color": ..., ...}

They are real `torchmetrics.Metric`s: `forward`, `reset`, `MetricCollection`, and processes that share the pictures. The
figures are those of `accord eval`: pictures of one prompt are one draw, and its interval is over prompts.

Letters in shapes: N pictures of all updates.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from accord.data.extras import need
from accord.data.images import to_pil, to_rgb
from accord.data.prompts import check_sayable
from accord.evaluation.pixels import judged_by_size
from accord.evaluation.registry import Judged, Record
from accord.evaluation.stats import figure_of
from accord.evaluation.suites.checks import judged_of
from accord.evaluation.suites.vqascore import VqaScore
from accord.judges.diagnosis import align
from accord.judges.loading import load_judge
from accord.judges.protocol import Answers, Judge
from accord.judges.questions import as_judge
from accord.judges.vqascore import ClipFlanT5
from accord.types import InputError, a_kind

need("torchmetrics", "metrics", "metrics")
from torchmetrics import Metric  # noqa: E402 (after the sentence that says how to install it)

KINDS = tuple("noun color count size material modifier action relation background absence other".split())
PARTS = 4  # numbers of a row that stand for its prompt
COLUMNS = PARTS + 2 + len(KINDS)  # and how many words are unjudged, the score, a mean for each kind

Pictures = torch.Tensor | Image.Image | Sequence[torch.Tensor | Image.Image]


class OfPictures(Metric):
    """The mean over prompts of the mean over a prompt's pictures, of whatever `judged` finds in them.

    The state is a row for each picture; processes put theirs together, in any number each. The judge is no part of it:
    `metric.to(device)` leaves it where it was loaded.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    name: ClassVar[str] = "score"

    # float32, rows of COLUMNS one after the other: torchmetrics knows no other type where a process has no picture
    rows: list[torch.Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def judged(self, records: Sequence[Record], images: Sequence[Image.Image]) -> list[Judged]:
        """What is found in each RGB picture."""

    def update(self, images: Pictures, prompts: str | Sequence[str]) -> None:
        """Judge pictures, and keep what is found.

        Args:
            images: PIL pictures of any size and mode, or tensors [B,3,H,W], uint8 or floats in 0..1.
            prompts: one for all pictures, or one each.

        Raises:
            InputError: for other pictures, or prompts that are not as many.
        """
        pictures = pictures_of(images)
        texts = [prompts] * len(pictures) if isinstance(prompts, str) else list(prompts)
        if len(texts) != len(pictures):
            raise InputError(
                f"{len(pictures)} images were given with {len(texts)} prompts; give one prompt for each image"
            )
        for text in texts:
            check_sayable(text)
        if not pictures:
            return
        found = self.judged([Record(i, text) for i, text in enumerate(texts)], pictures)
        rows = [[*name_of(text), *_row_of(own)] for text, own in zip(texts, found, strict=True)]
        self.rows.append(torch.tensor(rows, dtype=torch.float32, device=self.device).flatten())

    def compute(self) -> dict[str, torch.Tensor]:
        """Scalars by name. Each figure comes with `_low` and `_high`, the ends of its 95 % interval over prompts:

        - the metric's own, then one for each kind of check that the prompts have ("noun", "color", ...);
        - `prompts` and `pictures` that are judged;
        - `unjudged` pictures, which are in no mean, and `unjudged_words` of all pictures.

        A figure of nothing is NaN, and so is the interval of one prompt.
        """
        state = torch.cat(self.rows) if isinstance(self.rows, list) and self.rows else self.rows
        rows = torch.as_tensor(state).reshape(-1, COLUMNS).tolist()
        names = [tuple(row[:PARTS]) for row in rows]
        unjudged, scores, *kinds = ([row[i] for row in rows] for i in range(PARTS, COLUMNS))
        whole = _figure(names, scores)
        out = _with_ends(self.name, whole)
        for kind, found in zip(KINDS, kinds, strict=True):
            if not all(map(math.isnan, found)):
                out |= _with_ends(kind, _figure(names, found))
        out |= {name: float(whole[name]) for name in ("prompts", "pictures")}
        out |= {"unjudged": float(sum(map(math.isnan, scores))), "unjudged_words": float(sum(unjudged))}
        return {name: torch.tensor(value, device=self.device) for name, value in out.items()}


class Alignment(OfPictures):
    """How well pictures say their prompts: the geometric mean of the probabilities of a prompt's words, as `accord
    score` and `accord eval checks` have it, and the mean of each kind of word.

    Args:
        judge: folder or hub id for `accord.load_judge`, or a judge; the embedded captioner, for the lab's pictures
            alone, if None.
        device: where a judge that is named is put.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        InputError: for a judge that cannot be read, or pictures that the embedded one does not know.
    """

    name = "alignment"

    def __init__(self, judge: str | Judge | Answers | None = None, device: str = "cpu", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        own = load_judge(judge, device) if judge is None or isinstance(judge, str) else judge
        # beside the modules: its weights are none of this metric's, and in no checkpoint
        self.__dict__["judge"], self.__dict__["of_the_lab"] = as_judge(own), judge is None

    def judged(self, records: Sequence[Record], images: Sequence[Image.Image]) -> list[Judged]:
        side = max(max(image.size) for image in images)
        if self.of_the_lab and side > self.judge.image_size:
            raise InputError(
                f"the embedded captioner knows the lab's small scenes alone, not pictures of {side} pixels; give "
                "judge=ID, a folder or hub id"
            )
        return judged_by_size(records, images, self.judge, self._asked)

    def _asked(self, records: Sequence[Record], pixels: torch.Tensor) -> list[Judged]:
        found = align(pixels, [r.prompt for r in records], self.judge, captions=False)
        return [judged_of(alignment) for alignment in found]


class VQAScore(OfPictures):
    """The probability that a chat model says "Yes" when it is asked whether a picture shows its prompt (arXiv
    2404.01291), as `accord eval vqascore` has it.

    Args:
        judge: folder or hub id of a chat model that sees pictures, what answers questions, or a `ClipFlanT5`.
        device: where a judge that is named is put.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        InputError: for a judge that cannot be read or answers no questions.
    """

    name = "vqascore"

    def __init__(self, judge: str | Answers | ClipFlanT5, device: str = "cpu", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        own = load_judge(judge, device) if isinstance(judge, str) else judge
        if not isinstance(own, Answers | ClipFlanT5):
            raise InputError(
                f"the judge is {a_kind(own)}, which answers no questions; give a chat model that sees pictures"
            )
        self.__dict__["suite"] = VqaScore(own)

    def judged(self, records: Sequence[Record], images: Sequence[Image.Image]) -> list[Judged]:
        return self.suite.judge(records, images)


def pictures_of(images: Pictures) -> list[Image.Image]:
    """RGB pictures of PIL pictures, or of tensors [B,3,H,W] or [3,H,W], uint8 or floats in 0..1.

    Raises:
        InputError: for anything else.
    """
    if isinstance(images, Image.Image):
        return [to_rgb(images)]
    if isinstance(images, torch.Tensor):
        return _of_tensor(images)
    if not isinstance(images, Sequence) or isinstance(images, str):
        raise InputError(f"images is {a_kind(type(images).__name__)}; give PIL pictures, or a tensor [B,3,H,W]")
    return [picture for one in images for picture in pictures_of(one)]


def _of_tensor(images: torch.Tensor) -> list[Image.Image]:
    pixels = images[None] if images.dim() == 3 else images
    if pixels.dim() != 4 or pixels.shape[1] != 3:
        raise InputError(f"images has the shape {list(images.shape)}; give [B,3,H,W]")
    if pixels.dtype == torch.uint8:
        return to_pil(pixels.float() / 255)
    if not pixels.is_floating_point():
        raise InputError(f"images is of {pixels.dtype}; give uint8, or floats in 0..1")
    low, high = (float(v) for v in pixels.float().aminmax()) if pixels.numel() else (0.0, 1.0)
    if not (low >= 0 and high <= 1):  # NaN too
        raise InputError(f"images has values from {low:g} to {high:g}; give floats in 0..1, or uint8")
    return to_pil(pixels.float())


def name_of(prompt: str) -> list[int]:
    """What stands for a prompt in a row, the same in all processes and runs: 64 bits of its hash, in PARTS numbers that
    float32 holds.
    """
    digest = hashlib.sha256(prompt.encode()).digest()
    return [int.from_bytes(digest[i : i + 2], "big") for i in range(0, 2 * PARTS, 2)]


def _row_of(found: Judged) -> list[float]:
    """How many words are not judged, the score and the mean of each kind of check; NaN for what there is not."""
    by_kind = found.by_tag or {}
    return [len(found.unjudged), _or_nan(found.score), *(_or_nan(by_kind.get(kind)) for kind in KINDS)]


def _figure(names: Sequence[tuple[float, ...]], values: Sequence[float]) -> dict[str, Any]:
    """`figure_of` what is judged. Prompts are in the order of their names, whatever order they came in."""
    order = {name: number for number, name in enumerate(sorted(set(names)))}
    by_prompt: dict[int, list[float]] = {}
    for name, value in zip(names, values, strict=True):
        if not math.isnan(value):
            by_prompt.setdefault(order[name], []).append(value)
    return figure_of(by_prompt)


def _with_ends(name: str, figure: dict[str, Any]) -> dict[str, float]:
    low, high = figure["ci95"] or (None, None)
    return {name: _or_nan(figure["mean"]), f"{name}_low": _or_nan(low), f"{name}_high": _or_nan(high)}


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)
