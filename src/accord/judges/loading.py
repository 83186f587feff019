"""`load_judge`: whichever kind of judge a model makes."""

from __future__ import annotations

from pathlib import Path

import torch

from accord.diffusion.loading import kind_of
from accord.judges.calibrate import Calibrated, Calibration
from accord.judges.captioners import Captioner, load_captioner
from accord.judges.chat import ChatJudge
from accord.judges.contrast import ClipJudge
from accord.judges.regions import VIEWS, check_sees_boxes
from accord.types import InputError, a_kind

AnyJudge = Captioner | ClipJudge | ChatJudge | Calibrated


def load_judge(
    model: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    calibration: str | Path | None = None,
    regions: str = "crop",
) -> AnyJudge:
    """A judge of pictures: a captioner (BLIP, BLIP-2, Florence-2), a chat model that sees pictures, a CLIP or SigLIP.

    Args:
        model: folder or hub id; the embedded captioner if None or "lab".
        dtype: of its weights; float32 if None, for a chat model that is not on a CPU what they were saved in.
        calibration: file that `calibrate` wrote for this judge.
        regions: how it sees a region of a picture where regions are judged: "crop", or "box" for the whole picture with
            the region's box drawn in it, which a chat model alone can be told of.

    Raises:
        InputError: for a model that cannot be read or is none of them, a calibration of another judge, or boxes for a
            judge that answers no questions.
    """
    if regions not in VIEWS:
        raise InputError(f"the view of regions {regions!r} is unknown; use {' or '.join(VIEWS)}")
    judge = _load(model, device, dtype)
    if regions == "box":
        check_sees_boxes(judge)
        judge.regions = regions  # type: ignore[union-attr]
    return judge if calibration is None else Calibrated(judge, Calibration.load(calibration, judge.name))


def _load(model: str | None, device: str, dtype: torch.dtype | None) -> Captioner | ClipJudge | ChatJudge:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CHAT

    if model in (None, "lab"):
        return load_captioner(model, device, dtype)
    kind = kind_of(str(model), f"judge {model!r}")
    if kind in ("blip", "blip-2", "florence2"):  # the last is a chat model to transformers, but answers no questions
        return load_captioner(model, device, dtype)
    if kind in ("clip", "siglip"):
        return ClipJudge.from_pretrained(str(model), device, dtype)
    if kind in CHAT:
        return ChatJudge.from_pretrained(str(model), device, dtype)
    raise InputError(
        f"judge {model!r} is {a_kind(kind)} model; use a BLIP, BLIP-2 or Florence-2, a CLIP or SigLIP, or a chat model "
        "that sees pictures, such as Qwen/Qwen3-VL-8B-Instruct"
    )
