"""GenEval (2310.11513), written anew from its description: detections in, a verdict with its reasons out.

Equal to what was published: the thresholds, the order of the checks, which things are looked at, colours and positions,
the mean over the tags. Another is the detector: the hub's Mask2Former has other weights than the one of the paper (see
docs/geneval.md, and `agreement`, which measures what that changes).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from PIL import Image
from torch.nn import functional as F

from accord.data.images import to_tensor
from accord.evaluation.geneval_prompts import plural
from accord.evaluation.geneval_records import COLOURS, RENAMED, TAGS, Asked, Record
from accord.judges.clip import ClipScorer, load_clip
from accord.judges.detect import TOGETHER, Box, Detection
from accord.types import InputError, check_numbers

CLIP = "openai/clip-vit-large-patch14"
GREY = (0x99, 0x99, 0x99)
LONGEST = 16  # a thing that is longer, in widths, is cut to its middle before it is scaled
TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
# the colour of each of some things of a class
Colours = Callable[[Sequence[Detection], str], Sequence[str]]


@dataclass(frozen=True)
class GenEvalConfig:
    """The thresholds, as published. Raises ValueError for a field out of range, named in the message."""

    threshold: float = 0.3  # a thing counts if its score is above it
    counting_threshold: float = 0.9  # the same for the tag `counting`
    most: int = 16  # things of a class that count, the surest first
    shortening: float = 0.1  # of the offset of two things, by this share of their sizes along each axis
    direction: float = 0.5  # share of the offset's length that is more than this is a direction
    # colour and place are those of the surest `count` things of the class; if False, of all that count
    surest: bool = True

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("threshold", "counting_threshold", "direction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, not {getattr(self, name)}")
        if self.most < 1:
            raise ValueError(f"most must be at least 1, not {self.most}")
        if self.shortening < 0:
            raise ValueError(f"shortening must not be negative, not {self.shortening}")


@dataclass(frozen=True)
class Verdict:
    """Whether a picture is right, and why not.

    Attributes:
        reasons: sentences, one for each check that failed; empty for a right picture.
        found: what counted, class by class, the surest first; without masks.
        colours: of those of `found` whose colour was asked for, by their index.
    """

    tag: str
    prompt: str
    correct: bool
    reasons: tuple[str, ...] = ()
    found: tuple[Detection, ...] = ()
    colours: Mapping[int, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; boxes in pixels."""
        found = [
            {"class": d.label, "score": d.score, "box": list(d.box), "color": self.colours.get(i)}
            for i, d in enumerate(self.found)
        ]
        return {
            "tag": self.tag,
            "prompt": self.prompt,
            "correct": self.correct,
            "reasons": list(self.reasons),
            "found": found,
        }


# --- the judge ------------------------------------------------------------------------------------------------------
def judge(
    record: Record | Mapping[str, Any],
    detections: Iterable[Detection],
    colours: Colours | None = None,
    config: GenEvalConfig | None = None,
) -> Verdict:
    """GenEval's verdict on a picture.

    Each included thing in order: are there enough of the class; if a colour is asked for, do enough have it; if a
    position is asked for and all was well so far, was the thing that it refers to found as asked, and does each stand
    so to each of those. Then each excluded thing: are there fewer than so many.

    Args:
        record: a `Record`, or a row as GenEval writes it.
        detections: of the picture, by the record's names of classes.
        colours: says the colours of things of a class; asked only where the record asks.

    Raises:
        InputError: for a broken record, or one that asks for a colour where nobody says them.
    """
    record, config = Record.of(record), config or GenEvalConfig()
    kept = counted(detections, record.tag, config)
    seen: dict[int, str] = {}  # colours, by the things' identity
    reasons: list[str] = []
    matched: list[list[Detection]] = []  # of each included thing those that are as asked; empty if it is not
    for asked in record.include:
        found = kept.get(asked.name, [])
        chosen = found[: asked.count] if config.surest else found
        reason = ""
        if len(found) < asked.count:
            reason = f"The prompt asks for {_things(asked.name, asked.count)}, and {_number(len(found))} found."
        elif asked.color is not None:
            reason = _wrong_colour(asked, chosen, _colours_of(colours, chosen, asked, seen))
        if asked.position is not None and not reason:
            reason = _wrong_place(asked, chosen, record.include[asked.position[1]].name, matched, config)
        reasons += [reason] if reason else []
        matched.append([] if reason else chosen)
    for asked in record.exclude:
        if len(found := kept.get(asked.name, [])) >= asked.count:
            there = f"{_number(len(found))} found"
            reasons.append(f"The prompt asks for fewer than {_things(asked.name, asked.count)}, and {there}.")
    things = [d for group in kept.values() for d in group]
    return Verdict(
        record.tag,
        record.prompt,
        not reasons,
        tuple(reasons),
        tuple(replace(d, mask=None) for d in things),
        {i: seen[id(d)] for i, d in enumerate(things) if id(d) in seen},
    )


def counted(detections: Iterable[Detection], tag: str, config: GenEvalConfig) -> dict[str, list[Detection]]:
    """What counts, by class, the surest first: all above the tag's threshold, at most so many a class. Things that
    cover each other count each.
    """
    least = config.counting_threshold if tag == "counting" else config.threshold
    kept: dict[str, list[Detection]] = defaultdict(list)
    for one in sorted(detections, key=lambda d: -d.score):
        if one.score > least and len(kept[one.label]) < config.most:
            kept[one.label].append(one)
    return dict(kept)


def directions(a: Box, b: Box, config: GenEvalConfig) -> set[str]:
    """What the thing in box `a` is to the one in `b`: "left of", "right of", "above", "below", two of them or none.

    The offset of the centres is shortened along each axis by a share of both sizes, and divided by its full length.
    """
    axes = (0, 2), (1, 3)  # where a box begins and ends
    offset = [(a[i] + a[j] - b[i] - b[j]) / 2 for i, j in axes]
    sizes = [a[j] - a[i] + b[j] - b[i] for i, j in axes]
    short = [math.copysign(max(abs(o) - config.shortening * s, 0), o) for o, s in zip(offset, sizes, strict=True)]
    if max(map(abs, short)) < 1e-3:
        return set()
    dx, dy = (s / math.hypot(*offset) for s in short)
    sides = {
        "left of": dx < -config.direction,
        "right of": dx > config.direction,
        "above": dy < -config.direction,
        "below": dy > config.direction,
    }
    return {side for side, there in sides.items() if there}


def _colours_of(colours: Colours | None, things: list[Detection], asked: Asked, seen: dict[int, str]) -> list[str]:
    """The colours of these things, which are noted in `seen`. Raises InputError."""
    if colours is None:
        raise InputError(
            f"a record asks for a {asked.color} {asked.name}, and nobody says colours; give a colour classifier"
        )
    found = list(colours(things, asked.name))
    seen.update(zip(map(id, things), found, strict=True))
    return found


def _wrong_colour(asked: Asked, things: list[Detection], colours: list[str]) -> str:
    """Why too few of these things have the colour that is asked for; nothing if enough have."""
    if colours.count(str(asked.color)) >= asked.count:
        return ""
    wanted = _things(asked.name, asked.count, asked.color)
    if len(things) == 1:
        return f"The prompt asks for {wanted}, and the one looked at is {colours[0]}."
    several = " and ".join(f"{n} {colour}" for colour, n in Counter(colours).items())
    return f"The prompt asks for {wanted}, and of those looked at there are {several}."


def _wrong_place(
    asked: Asked, things: list[Detection], other: str, matched: list[list[Detection]], config: GenEvalConfig
) -> str:
    """Why not each of these things stands as asked to each of what it refers to; nothing if all do."""
    if asked.position is None:
        return ""
    relation, index = asked.position
    if not matched[index]:
        return f"The {asked.name} cannot be {relation} the {other}, which is not there as asked."
    for one in things:
        for reference in matched[index]:
            sides = directions(one.box, reference.box, config)
            if relation not in sides:
                where = " and ".join(sorted(sides)) or "on no side of"
                return f"The {asked.name} is to be {relation} the {other}, and is {where} it."
    return ""


def _things(name: str, count: int, colour: str | None = None) -> str:
    noun = name if count == 1 else plural(name)
    return f"{count} {noun}" if colour is None else f"{count} {colour} {noun}"


def _number(count: int) -> str:
    return {0: "none is", 1: "1 is"}.get(count, f"{count} are")


# --- colours --------------------------------------------------------------------------------------------------------
class ColourClassifier:
    """The colour of a thing, by CLIP: the likeliest of ten for its crop, with grey around its outline.

    Args:
        clip: ViT-L/14 in the paper.
    """

    def __init__(self, clip: ClipScorer) -> None:
        self.clip = clip
        self._vectors: dict[str, torch.Tensor] = {}

    @classmethod
    def from_pretrained(
        cls, model: str = CLIP, device: str = "cpu", dtype: torch.dtype | None = None
    ) -> ColourClassifier:
        """With a CLIP from a folder or hub id.

        Raises:
            InputError: for a model that cannot be read.
        """
        return cls(load_clip(model, device, dtype))

    @torch.no_grad()
    def __call__(self, image: Image.Image, things: Sequence[Detection], name: str) -> list[str]:
        """The colour of each of these things of the class `name` in an RGB picture."""
        if not things:
            return []
        crops = [centre_square(on_grey(image, one), self.clip.image_size) for one in things]
        features = self.clip.image_features(to_tensor(crops))
        return [COLOURS[i] for i in (features @ self.vectors(name).T).argmax(-1).tolist()]

    @torch.no_grad()
    def vectors(self, name: str) -> torch.Tensor:
        """A unit vector [10, D] for each colour of a thing of this class: the mean over the templates."""
        if name not in self._vectors:
            rows = [
                self.clip.text_features([t.format(colour=colour, name=name) for t in TEMPLATES]).mean(0)
                for colour in COLOURS
            ]
            self._vectors[name] = F.normalize(torch.stack(rows), dim=-1)
        return self._vectors[name]


def on_grey(image: Image.Image, one: Detection) -> Image.Image:
    """The box of a thing cut out of a picture, grey outside its mask; of one without a mask the whole box."""
    left, top, right, bottom = (round(v) for v in one.box)
    box = left, top, max(right, left + 1), max(bottom, top + 1)
    cut = image.crop(box)
    if one.mask is None:
        return cut
    inside = Image.fromarray(one.mask[box[1] : box[3], box[0] : box[2]])
    return Image.composite(cut, Image.new("RGB", cut.size, GREY), inside)


def centre_square(image: Image.Image, side: int) -> Image.Image:
    """As CLIP sees a picture: the shorter side scaled to `side` (bicubic), the middle of the longer one."""
    shorter = min(image.size)
    if max(image.size) > LONGEST * shorter:  # scaled whole it could have millions of pixels
        wide, high = (min(length, LONGEST * shorter) for length in image.size)
        x, y = (image.width - wide) // 2, (image.height - high) // 2
        image = image.crop((x, y, x + wide, y + high))
    width, height = image.size
    across, down = side * width // shorter, side * height // shorter
    left, top = (across - side) // 2, (down - side) // 2
    return image.resize((across, down), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))


# --- pictures -------------------------------------------------------------------------------------------------------
class Detector(Protocol):
    """What finds the things of a picture; `accord.judges.detect.InstanceDetector` is one.

    Attributes:
        labels: the classes that it knows.
    """

    labels: Sequence[str]

    def find(self, images: Sequence[Image.Image], least: float = 0.0) -> list[list[Detection]]:
        """What is in each picture with a score above `least`."""
        ...


def judge_pictures(
    records: Sequence[Record | Mapping[str, Any]],
    images: Sequence[Image.Image],
    detector: Detector,
    colours: ColourClassifier | Callable[[Image.Image, Sequence[Detection], str], Sequence[str]] | None = None,
    config: GenEvalConfig | None = None,
) -> list[Verdict]:
    """A verdict for each picture, in order. A few pictures are held at a time.

    Args:
        records: one for each picture.
        images: RGB; a sequence that opens its pictures when asked (`accord.data.images.Pictures`) is fine.
        colours: says the colours of things; needed where a record asks for one.

    Raises:
        InputError: for as many records as there are not pictures, a broken record, a class that the detector does not
            know, or a colour that nobody can say.
    """
    asked, config = [Record.of(r) for r in records], config or GenEvalConfig()
    if len(asked) != len(images):
        raise InputError(f"there are {len(asked)} records and {len(images)} pictures; give one record for each picture")
    check_classes(asked, detector)
    if colours is None and any(a.color for r in asked for a in r.include):
        raise InputError("some records ask for a colour, and nobody says colours; give a colour classifier")
    least = min(config.threshold, config.counting_threshold)
    verdicts: list[Verdict] = []
    for start in range(0, len(asked), TOGETHER):
        part = asked[start : start + TOGETHER]
        pictures = [images[start + i] for i in range(len(part))]
        for record, image, found in zip(part, pictures, detector.find(pictures, least), strict=True):
            say = None if colours is None else partial(colours, image)
            verdicts.append(judge(record, map(as_asked, found), say, config))
    return verdicts


def as_asked(one: Detection) -> Detection:
    """A detection by the name that GenEval has for its class."""
    return replace(one, label=RENAMED.get(one.label, one.label))


def check_classes(records: Iterable[Record], detector: Detector) -> None:
    """Refuse records on classes that the detector cannot find: all of their pictures would be wrong.

    Raises:
        InputError: naming a class.
    """
    known = {RENAMED.get(label, label) for label in detector.labels}
    asked = {a.name for r in records for a in (*r.include, *r.exclude)}
    if unknown := sorted(asked - known):
        raise InputError(
            f"the detector does not know the class {unknown[0]!r} that a record asks for; give a detector of COCO's "
            "classes, or another record"
        )


# --- figures --------------------------------------------------------------------------------------------------------
def figures(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """The shares of right pictures: of each tag that is there, and `overall`, the unweighted mean of the six tags.

    `overall` is None where a tag is `missing`: a mean over fewer could not be compared.
    """
    rights: dict[str, list[bool]] = defaultdict(list)
    for verdict in verdicts:
        rights[verdict.tag].append(verdict.correct)
    tags = {
        tag: {"right": sum(rights[tag]) / len(rights[tag]), "pictures": len(rights[tag])} for tag in TAGS if rights[tag]
    }
    missing = [tag for tag in TAGS if tag not in tags]
    overall = None if missing else sum(t["right"] for t in tags.values()) / len(TAGS)
    return {"overall": overall, "tags": tags, "missing": missing}


def agreement(ours: Mapping[str, tuple[str, bool]], theirs: Mapping[str, tuple[str, bool]]) -> dict[str, Any]:
    """How often two judges say the same of the same pictures.

    Args:
        ours, theirs: by the name of a picture its tag and whether it is right (`read_verdicts`, `marks`).

    Returns:
        `overall` and each of `tags` with `pictures`, `agreement` (share), `kappa` (Cohen's; None where one of both
        could say but one thing), and the shares of right pictures `ours` and `theirs`; the names of the pictures that
        they `differ` on, and how many only one of them judged.

    Raises:
        InputError: if no picture was judged by both, or one has two tags.
    """
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        raise InputError("no picture was judged by both; check that the verdicts are of this folder of pictures")
    pairs: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for name in both:
        (tag, mine), (other, yours) = ours[name], theirs[name]
        if tag != other:
            raise InputError(f"picture {name!r} has the tags {tag!r} and {other!r}; the verdicts are of other pictures")
        pairs[tag].append((mine, yours))
    return {
        "overall": _agreement([p for found in pairs.values() for p in found]),
        "tags": {tag: _agreement(pairs[tag]) for tag in TAGS if tag in pairs},
        "differ": [name for name in both if ours[name] != theirs[name]],
        "only_ours": len(ours) - len(both),
        "only_theirs": len(theirs) - len(both),
    }


def _agreement(pairs: list[tuple[bool, bool]]) -> dict[str, Any]:
    count = len(pairs)
    same = sum(a == b for a, b in pairs) / count
    ours, theirs = (sum(p[i] for p in pairs) / count for i in (0, 1))
    chance = ours * theirs + (1 - ours) * (1 - theirs)
    kappa = None if chance == 1 else (same - chance) / (1 - chance)
    return {"pictures": count, "agreement": same, "kappa": kappa, "ours": ours, "theirs": theirs}


def marks(names: Iterable[str], verdicts: Iterable[Verdict]) -> dict[str, tuple[str, bool]]:
    """Verdicts as `agreement` takes them, by the names of their pictures (`geneval_records.layout_name`)."""
    return {name: (v.tag, v.correct) for name, v in zip(names, verdicts, strict=True)}
