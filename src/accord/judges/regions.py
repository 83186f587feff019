"""What a judge says of regions of a picture: each cropped, or the whole picture with the region's box drawn in it.

Letters in shapes: H, W size of a picture, R regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from accord.data.images import crop
from accord.judges.calibrate import Calibrated
from accord.judges.chat import ChatJudge
from accord.judges.diagnosis import align
from accord.judges.protocol import Answers, Judge, Question
from accord.judges.questions import Asked
from accord.types import Alignment, InputError, Prompt, WordScore

VIEWS = ("crop", "box")
CROP_MARGIN = 0.15  # of the box, around it, when its content is described
WITHIN = "Look only at what is inside the box that is drawn in the picture."
DESCRIBE_WITHIN = "Describe in one sentence what is inside the box that is drawn in this picture."
LINE = 0.008  # width of each of a box's two lines, as a share of the picture's longer side
Box = tuple[float, float, float, float]


def align_regions(
    image: torch.Tensor, boxes: Sequence[Box], prompts: Sequence[Prompt], judge: Judge, captions: bool = True
) -> list[Alignment]:
    """An Alignment for each region and its prompt, seen as the judge sees regions: its `regions`, or else "crop".

    Args:
        image: [3,H,W] in 0..1.
        boxes: R boxes (x0, y0, x1, y1), as shares of width and height.
        prompts: R prompts.
        captions: whether to caption the regions too.

    Raises:
        InputError: for boxes that a judge without questions is to look into, and as `align`.
    """
    if not boxes:
        return []
    if getattr(judge, "regions", "crop") == "crop":
        crops = torch.cat([crop(image, box, CROP_MARGIN, judge.image_size) for box in boxes])
        return align(crops, prompts, judge, captions=captions)
    return align(torch.stack([with_box(image, box) for box in boxes]), prompts, within_box(judge), captions=captions)


def with_box(image: torch.Tensor, box: Box) -> torch.Tensor:
    """A picture [3,H,W] with a box drawn around a region: a black line and a white one in it, so that it is seen on any
    ground and names no color. What is inside the box stays as it is.
    """
    out = image.clone()
    height, width = image.shape[-2:]
    line = max(1, round(LINE * max(height, width)))
    x0, x1 = (round(v * width) for v in (box[0], box[2]))
    y0, y1 = (round(v * height) for v in (box[1], box[3]))
    for out_by, shade in ((2 * line, 0.0), (line, 1.0)):
        rows, columns = slice(max(y0 - out_by, 0), y1 + out_by), slice(max(x0 - out_by, 0), x1 + out_by)
        out[:, rows, columns] = shade
    out[:, y0:y1, x0:x1] = image[:, y0:y1, x0:x1]
    return out


def within_box(judge: Any) -> Judge:
    """The same judge, asked about what is inside the box that is drawn in each picture.

    Raises:
        InputError: for one that answers no questions.
    """
    if isinstance(judge, Calibrated):
        return replace(judge, judge=within_box(judge.judge))
    own = judge.answers if isinstance(judge, Asked) else judge
    check_sees_boxes(own)
    say = partial(own.caption, text=DESCRIBE_WITHIN) if isinstance(own, ChatJudge) else None
    return _AskedWithinBox(_WithinBox(own, own.name), say, judge.image_size, judge.any_size, judge.lexicon)


def check_sees_boxes(judge: Any) -> None:
    """Refuse a judge that cannot be told of a box. Raises InputError."""
    if not isinstance(judge, Answers):
        raise InputError(
            f"judge {judge.name!r} answers no questions, so it cannot be told to look into a box; have regions "
            "cropped, or use a chat model"
        )


@dataclass
class _WithinBox:
    judge: Answers
    name: str

    def answer(self, images: torch.Tensor, questions: Sequence[Question], image_of: Sequence[int]) -> list[np.ndarray]:
        asked = [replace(q, text=f"{WITHIN} {q.text}") for q in questions]
        return self.judge.answer(images, asked, image_of)


class _AskedWithinBox(Asked):
    def verdicts(self, images: torch.Tensor, prompts: Sequence[Prompt]) -> list[tuple[WordScore, ...]]:
        found = super().verdicts(images, prompts)
        return [tuple(replace(s, how=f"{s.how}, within a box drawn in the picture") for s in own) for own in found]
