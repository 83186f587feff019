"""Detectors: what is where in a picture, with its outline. Of COCO's classes (Mask2Former), or of any phrase (OWLv2,
Grounding DINO), there with SAM's outlines if wished.

Letters in shapes: Q queries of a network, C classes, P phrases, N things, H, W size of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from accord.data.prompts import words_beyond
from accord.diffusion.loading import load_model, load_tokenizer
from accord.diffusion.state import held
from accord.judges.processors import check_kind, load_image_processor
from accord.types import InputError

INSTANCES = "facebook/mask2former-swin-small-coco-instance"
PHRASES = "IDEA-Research/grounding-dino-tiny"
MOST = 100  # pairs of query and class that a picture keeps
SAME = 0.7  # share of their union that two boxes of one phrase have in common where they are of one thing
TOGETHER = 4  # pictures of one size in a forward pass
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """A thing that was found.

    Attributes:
        label: its class, or the phrase that it was found by.
        score: in 0..1.
        box: (x0, y0, x1, y1) in pixels; x1 and y1 are just beyond it.
        mask: bool [H,W], or None where there is but a box.
    """

    label: str
    score: float
    box: Box
    mask: np.ndarray | None = field(default=None, repr=False, compare=False)


def overlap(a: Box, b: Box) -> float:
    """Share of the union of two boxes that both cover."""
    inside = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inside / (area - inside) if area > inside else 0.0


# --- classes --------------------------------------------------------------------------------------------------------
def instances(
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    labels: Sequence[str],
    size: tuple[int, int],
    least: float = 0.0,
) -> list[Detection]:
    """What a Mask2Former says of one picture, the surest first.

    Of the probabilities of all queries and classes, "no object" left out once the softmax is taken, the MOST highest
    are kept. The mask is where the logit is above 0 at the picture's size; the score is the probability times the mean
    sigmoid within the mask; the box is the mask's extent. A query may be there with several classes.

    Args:
        class_logits: [Q, C + 1], "no object" last.
        mask_logits: [Q, h, w] of the whole picture, at any size.
        labels: C names.
        size: H, W.
        least: only scores above it; masks of what cannot reach it are not made.
    """
    shares = class_logits.float().softmax(-1)[:, :-1]
    best, order = (t[:MOST].tolist() for t in shares.flatten().sort(descending=True, stable=True))
    outlines: dict[int, tuple[np.ndarray, float]] = {}
    found = []
    for share, index in zip(best, order, strict=True):
        if share <= least:  # the mean sigmoid is at most 1
            break
        query, kind = divmod(index, shares.shape[1])
        if query not in outlines:
            outlines[query] = _outline(mask_logits[query].float(), size)
        mask, inside = outlines[query]
        if share * inside > least:
            found.append(Detection(labels[kind], share * inside, _extent(mask), mask))
    return sorted(found, key=lambda d: -d.score)


def _outline(logits: torch.Tensor, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """The mask [H,W] of logits [h,w], and the mean sigmoid within it; 0 where it is empty."""
    full = F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    mask = full > 0
    inside = (full.sigmoid() * mask).sum() / mask.sum().clamp(min=1)
    return mask.cpu().numpy(), float(inside)


def _extent(mask: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


class Sees(nn.Module):
    """A network of transformers that is shown pictures.

    Args:
        model: the transformers model.
        processor: its image processor, on PIL.
        source: folder or hub id that it was read from.
    """

    def __init__(self, model: Any, processor: Any, source: str = "") -> None:
        super().__init__()
        self.model, self.processor, self.source = model, processor, source


class InstanceDetector(Sees):
    """`Mask2FormerForUniversalSegmentation`, trained for instances of classes."""

    def __init__(self, model: Any, processor: Any, source: str = "") -> None:
        super().__init__(model, processor, source)
        self.labels = tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))

    @classmethod
    def from_pretrained(
        cls, model: str = INSTANCES, device: str = "cpu", dtype: torch.dtype | None = None
    ) -> InstanceDetector:
        """A detector from a folder or hub id.

        Raises:
            InputError: for a model that cannot be read or is of another class.
        """
        from transformers import Mask2FormerForUniversalSegmentation
        from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

        what = f"detector {model!r}"
        check_kind(model, what, {"mask2former"}, f"a Mask2Former that finds instances, such as {INSTANCES}")
        network = load_model(Mask2FormerForUniversalSegmentation, model, what, dtype=dtype or torch.float32)
        return cls(network, load_image_processor(Mask2FormerImageProcessorPil, model, what), model).to(device)

    @torch.no_grad()
    def find(self, images: Sequence[Image.Image], least: float = 0.0) -> list[list[Detection]]:
        """What is in each RGB picture: see `instances`. Only pictures of one size share a forward pass, so that none
        is padded.
        """
        found: list[list[Detection]] = []
        for size, group in groupby(images, key=lambda image: image.size):
            same = list(group)
            for start in range(0, len(same), TOGETHER):
                inputs = self.processor(same[start : start + TOGETHER], return_tensors="pt")
                with held(self.model):
                    out = self.model(pixel_values=inputs.pixel_values.to(self.model.device, self.model.dtype))
                for classes, masks in zip(out.class_queries_logits, out.masks_queries_logits, strict=True):
                    found.append(instances(classes, masks, self.labels, size[::-1], least))
        return found


# --- phrases --------------------------------------------------------------------------------------------------------
class PhraseDetector(Sees):
    """Finds what phrases say: the base of `Owlv2` and `GroundingDino`.

    Args:
        model, tokenizer, processor: of transformers; the image processor is one on PIL.
        outlines: makes masks of boxes; without it there are boxes alone.
        source: folder or hub id that it was read from.
    """

    least: ClassVar[float]  # score that is too low for what is found

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, outlines: BoxOutlines | None = None, source: str = ""
    ) -> None:
        super().__init__(model, processor, source)
        self.tokenizer, self.outlines = tokenizer, outlines

    def check_length(self, phrases: Sequence[str]) -> None:
        """Refuse phrases whose last words would not be read.

        Raises:
            InputError: naming the words that fall off.
        """
        raise NotImplementedError

    def boxes(self, image: Image.Image, phrases: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [Q,P] in 0..1, and boxes [Q,4] as shares of the picture: centre x and y, width, height."""
        raise NotImplementedError

    @torch.no_grad()
    def find(self, image: Image.Image, phrases: Sequence[str], least: float | None = None) -> list[Detection]:
        """What of these phrases is in an RGB picture, the surest first.

        A box is of the phrase that it suits best. Of boxes of one phrase that have more than SAME in common, the surest
        is kept; one of less than a pixel is left out.

        Args:
            phrases: such as "a red star"; what is found has them as its label.
            least: only scores above it; the usual threshold of the model's family if None.

        Raises:
            InputError: for phrases that are too long.
        """
        phrases = list(dict.fromkeys(phrases))
        if not phrases:
            return []
        self.check_length(phrases)
        scores, boxes = self.boxes(image, phrases)
        best, which = scores.float().max(-1)
        found: list[Detection] = []
        for query in best.argsort(descending=True, stable=True).tolist():
            score, phrase = float(best[query]), phrases[int(which[query])]
            if score <= (self.least if least is None else least):
                break
            box = _corners(boxes[query].float().tolist(), image.size)
            known = any(d.label == phrase and overlap(d.box, box) > SAME for d in found)
            if box[2] - box[0] >= 1 and box[3] - box[1] >= 1 and not known:
                found.append(Detection(phrase, score, box))
        return found if self.outlines is None else self.outlines(image, found)


def _corners(box: Sequence[float], size: tuple[int, int]) -> Box:
    """A box in pixels, within the picture, of one in shares of it."""
    x, y, w, h = box
    across, down = (
        np.clip((c - s / 2, c + s / 2), 0, 1) * side for c, s, side in zip((x, y), (w, h), size, strict=True)
    )
    return float(across[0]), float(down[0]), float(across[1]), float(down[1])


class Owlv2(PhraseDetector):
    """`Owlv2ForObjectDetection`."""

    least = 0.1

    def check_length(self, phrases: Sequence[str]) -> None:
        most = int(self.model.config.text_config.max_position_embeddings)
        for phrase in phrases:
            _check_length(self.tokenizer, phrase, most)

    def boxes(self, image: Image.Image, phrases: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        most = int(self.model.config.text_config.max_position_embeddings)
        with held(self.tokenizer):
            ids = self.tokenizer(
                list(phrases), padding="max_length", truncation=True, max_length=most, return_tensors="pt"
            ).to(self.model.device)
        pixels = self.processor(image, return_tensors="pt").pixel_values.to(self.model.device, self.model.dtype)
        with held(self.model):
            out = self.model(input_ids=ids.input_ids, attention_mask=ids.attention_mask, pixel_values=pixels)
        # the picture was made a square by padding it to the right or below
        square = max(image.size) / out.pred_boxes.new_tensor([*image.size, *image.size])
        return out.logits[0].sigmoid(), out.pred_boxes[0] * square


class GroundingDino(PhraseDetector):
    """`GroundingDinoForObjectDetection`. A phrase's score is that of its surest token."""

    least = 0.25

    @staticmethod
    def _text(phrases: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
        """The phrases as one text, each lower-case and with a full stop, and where each stands in it."""
        text, places = "", []
        for phrase in phrases:
            words = phrase.lower().replace(".", " ").replace("?", " ").strip()  # both end a phrase
            places.append((len(text), len(text) + len(words)))
            text += f"{words}. "
        return text.strip(), places

    def check_length(self, phrases: Sequence[str]) -> None:
        _check_length(self.tokenizer, self._text(phrases)[0], int(self.model.config.max_text_len))

    def boxes(self, image: Image.Image, phrases: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        text, places = self._text(phrases)
        with held(self.tokenizer):
            ids = self.tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
        spans = ids.pop("offset_mapping")[0]
        inputs = self.processor(image, return_tensors="pt")
        with held(self.model):
            out = self.model(
                pixel_values=inputs.pixel_values.to(self.model.device, self.model.dtype),
                pixel_mask=inputs.pixel_mask.to(self.model.device),
                **ids.to(self.model.device),
            )
        tokens = out.logits[0, :, : len(spans)].sigmoid()
        starts, ends = spans.to(tokens.device).unbind(-1)
        scores = [tokens[:, (starts >= a) & (ends <= b) & (ends > starts)] for a, b in places]
        each = [s.amax(-1) if s.shape[-1] else tokens.new_zeros(len(tokens)) for s in scores]
        return torch.stack(each, -1), out.pred_boxes[0]


def _check_length(tokenizer: Any, text: str, most: int) -> None:
    with held(tokenizer):
        lost = words_beyond(text, lambda part: len(tokenizer(part).input_ids), most)
    if lost:
        raise InputError(
            f"what is to be found is longer than the {most} tokens that the detector reads, these words would fall "
            f"off: {lost!r}; shorten it"
        )


def load_detector(
    model: str = PHRASES, outlines: str | None = None, device: str = "cpu", dtype: torch.dtype | None = None
) -> PhraseDetector:
    """A detector of phrases from a folder or hub id: an OWLv2 or a Grounding DINO.

    Args:
        outlines: folder or hub id of a SAM that makes masks of the boxes; boxes alone if None.

    Raises:
        InputError: for a model that cannot be read or is of another class.
    """
    from transformers import AutoModelForZeroShotObjectDetection
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

    families: dict[str, tuple[type[PhraseDetector], Any]] = {
        "owlv2": (Owlv2, Owlv2ImageProcessorPil),
        "grounding-dino": (GroundingDino, GroundingDinoImageProcessorPil),
    }
    what = f"detector {model!r}"
    use = f"an OWLv2 or a Grounding DINO, such as {PHRASES}"
    family, processor = families[check_kind(model, what, families, use)]
    made = None if outlines is None else BoxOutlines.from_pretrained(outlines, dtype=dtype)
    network = load_model(AutoModelForZeroShotObjectDetection, model, what, dtype=dtype or torch.float32)
    seeing = load_image_processor(processor, model, what)
    return family(network, load_tokenizer(model, what), seeing, made, model).to(device)


# --- outlines -------------------------------------------------------------------------------------------------------
class BoxOutlines(Sees):
    """Masks of boxes, by a `SamModel`."""

    @classmethod
    def from_pretrained(cls, model: str, device: str = "cpu", dtype: torch.dtype | None = None) -> BoxOutlines:
        """A SAM from a folder or hub id.

        Raises:
            InputError: for a model that cannot be read or is of another class.
        """
        from transformers import SamModel
        from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

        what = f"model of outlines {model!r}"
        check_kind(model, what, {"sam"}, "a SAM, such as facebook/sam-vit-base")
        network = load_model(SamModel, model, what, dtype=dtype or torch.float32)
        return cls(network, load_image_processor(SamImageProcessorPil, model, what), model).to(device)

    @torch.no_grad()
    def __call__(self, image: Image.Image, found: Sequence[Detection]) -> list[Detection]:
        """The same things, each with the mask of its box; one whose mask would be empty keeps its box alone."""
        if not found:
            return []
        inputs = self.processor(image, return_tensors="pt")
        height, width = inputs.reshaped_input_sizes[0].tolist()
        scale = torch.tensor([width, height, width, height]) / torch.tensor([*image.size, *image.size])
        boxes = (torch.tensor([d.box for d in found]) * scale)[None]
        with held(self.model):
            out = self.model(
                pixel_values=inputs.pixel_values.to(self.model.device, self.model.dtype),
                input_boxes=boxes.to(self.model.device, self.model.dtype),
                multimask_output=False,
            )
        masks = self.processor.post_process_masks(
            out.pred_masks.float().cpu(), inputs.original_sizes, inputs.reshaped_input_sizes
        )[0][:, 0]
        outlined = [m.numpy() if m.any() else None for m in masks]
        return [Detection(d.label, d.score, d.box, m) for d, m in zip(found, outlined, strict=True)]
