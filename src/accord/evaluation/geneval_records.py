"""What GenEval asks: its records, the file of them, and its layout of pictures. The data are the user's own.

A record says what a picture must and must not hold. GenEval's `evaluation_metadata.jsonl` has one a line; a folder of
pictures in its layout has one in each `00000/metadata.jsonl`, beside `00000/samples/0000.png` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.data.pairs import Broken, json_lines
from accord.files import entries, read_json
from accord.types import InputError

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
# COCO's 80 classes, three of them renamed so that a prompt can hold them
CLASSES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, "
    "clock, vase, scissors, teddy bear, hair drier, toothbrush"
).split(", ")
RENAMED = {
    "mouse": "computer mouse",  # three of COCO's own names
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "motorbike": "motorcycle",  # six of an older list, which some detectors of COCO have
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}
_MOST = 1000  # of a count


@dataclass(frozen=True)
class Asked:
    """A thing that a record asks for, or rules out.

    Attributes:
        name: its class.
        count: at least so many; where it is ruled out, so many or more are wrong.
        color: of each, or None.
        position: what it is to another: ("left of", index of an earlier one), or None.
    """

    name: str
    count: int = 1
    color: str | None = None
    position: tuple[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As GenEval writes it."""
        found: dict[str, Any] = {"class": self.name, "count": self.count}
        found |= {} if self.color is None else {"color": self.color}
        return found | ({} if self.position is None else {"position": list(self.position)})


@dataclass(frozen=True)
class Record:
    """What a picture of a prompt must hold (`include`, all of it) and must not (`exclude`, any of it)."""

    tag: str
    prompt: str
    include: tuple[Asked, ...]
    exclude: tuple[Asked, ...] = ()

    @staticmethod
    def of(row: Record | Mapping[str, Any]) -> Record:
        """A record of a row as GenEval writes it.

        Raises:
            InputError: saying what is wrong with the row.
        """
        if isinstance(row, Record):
            return row
        if not isinstance(row, Mapping):
            raise InputError("a record of GenEval is no JSON object; write one with tag, prompt and include")
        tag, prompt = row.get("tag"), row.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError("a record of GenEval has no prompt; give it one")
        if tag not in TAGS:
            raise InputError(f"the record {prompt!r} has the tag {tag!r}; use one of {', '.join(TAGS)}")
        include, exclude = (_asked(row.get(part, []), part, prompt) for part in ("include", "exclude"))
        if not include and not exclude:
            raise InputError(f"the record {prompt!r} asks for nothing; give it an include")
        return Record(tag, prompt, include, exclude)

    def to_dict(self) -> dict[str, Any]:
        """As GenEval writes it."""
        found: dict[str, Any] = {"tag": self.tag, "include": [a.to_dict() for a in self.include]}
        found |= {"exclude": [a.to_dict() for a in self.exclude]} if self.exclude else {}
        return found | {"prompt": self.prompt}


def _asked(rows: Any, part: str, prompt: str) -> tuple[Asked, ...]:
    """The `include` or `exclude` of a record. Raises InputError."""
    where = f"the {part} of the record {prompt!r}"
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise InputError(f"{where} is no list of objects; write [{{'class': 'dog', 'count': 1}}]")
    found: list[Asked] = []
    for row in rows:
        name, count, color = row.get("class"), row.get("count", 1), row.get("color")
        if not isinstance(name, str) or not name:
            raise InputError(f"{where} has a thing without a class; give it one")
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MOST:
            raise InputError(f"{where} has the count {count!r}; give a whole number from 1 to {_MOST}")
        if color is not None and color not in COLOURS:
            raise InputError(f"{where} has the colour {color!r}; use one of {', '.join(COLOURS)}")
        found.append(Asked(name, count, color, _position(row.get("position"), len(found), where)))
    return tuple(found)


def _position(value: Any, before: int, where: str) -> tuple[str, int] | None:
    """[relation, index of an earlier thing], of which there are `before`. Raises InputError."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 2 or value[0] not in RELATIONS:
        raise InputError(
            f"{where} has the position {value!r}; write ['left of', 0], with one of {', '.join(RELATIONS)}"
        )
    index = value[1]
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < before:
        raise InputError(f"{where} has a position by thing {index!r}; give the number of an earlier one, from 0")
    return value[0], index


def read_records(path: str | Path) -> list[Record]:
    """The records of a file such as GenEval's `evaluation_metadata.jsonl`, in order.

    Raises:
        InputError: for a file that cannot be read or is empty, and for a broken line, by its number.
    """
    records = []
    for number, row in json_lines(Path(path), "file of GenEval's records"):
        try:
            if isinstance(row, Broken):
                raise InputError(str(row))
            records.append(Record.of(row))
        except InputError as error:
            raise InputError(
                f"line {number} of the file of GenEval's records {str(path)!r} cannot be used: {error}"
            ) from error
    if not records:
        raise InputError(f"the file of GenEval's records {str(path)!r} is empty; give its evaluation_metadata.jsonl")
    return records


def read_pictures(folder: str | Path) -> tuple[list[Record], list[Path]]:
    """A record and a file for each picture of a folder in GenEval's layout: `00000/metadata.jsonl` says what the
    pictures `00000/samples/0000.png`, `0001.png`, ... are to show.

    Raises:
        InputError: for a folder that is missing or not in this layout, by the part of it that is broken.
    """
    records, pictures = [], []
    for place in entries(folder, "folder of pictures"):
        if not place.name.isdecimal() or not place.is_dir():
            continue
        about = place / "metadata.jsonl"
        row = read_json(about, "record")
        try:
            record = Record.of(row)
        except InputError as error:
            raise InputError(f"the record {str(about)!r} cannot be used: {error}") from error
        samples = [p for p in entries(place / "samples", "folder of samples") if re.fullmatch(r"\d+\.png", p.name)]
        if not samples:
            raise InputError(f"folder {str(place / 'samples')!r} holds no picture such as 0000.png; put one there")
        records += [record] * len(samples)
        pictures += samples
    if not pictures:
        raise InputError(
            f"folder {str(folder)!r} holds no pictures in GenEval's layout; it needs 00000/metadata.jsonl and "
            "00000/samples/0000.png"
        )
    return records, pictures


# --- verdicts of others ---------------------------------------------------------------------------------------------
def layout_name(path: str | Path) -> str:
    """What a picture is called in GenEval's layout, wherever the folder lies: `00000/samples/0000.png`."""
    return "/".join(Path(str(path).replace("\\", "/")).parts[-3:])


def read_verdicts(path: str | Path) -> dict[str, tuple[str, bool]]:
    """By the name of a picture the tag and whether it is right, from a file as GenEval's own program writes it: JSONL
    with `filename`, `tag` and `correct`.

    Raises:
        InputError: for a file that cannot be read or is empty, and for a broken line, by its number.
    """
    found: dict[str, tuple[str, bool]] = {}
    for number, row in json_lines(Path(path), "file of verdicts"):
        name, tag, correct = (
            (row.get(k) for k in ("filename", "tag", "correct")) if isinstance(row, dict) else [None] * 3
        )
        if not isinstance(name, str) or not isinstance(tag, str) or not isinstance(correct, bool):
            why = row if isinstance(row, Broken) else "it has no filename, tag and correct (true or false)"
            raise InputError(f"line {number} of the file of verdicts {str(path)!r} cannot be used: {why}")
        if layout_name(name) in found:
            raise InputError(
                f"line {number} of the file of verdicts {str(path)!r} names {layout_name(name)!r} again; remove one"
            )
        found[layout_name(name)] = tag, correct
    if not found:
        raise InputError(f"the file of verdicts {str(path)!r} is empty; give the results.jsonl of GenEval's program")
    return found
