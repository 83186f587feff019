"""A gallery: one page for all pictures of a run, which opens from the file system and asks for nothing else.

The page is `gallery.html`, `gallery.css`, `frame.js` and `gallery.js` of this package in one file, with the rows as
JSON in it.
Nothing of a row becomes markup: the script writes it as text, and the page lets no other script run.
"""

from __future__ import annotations

import html
import io
import json
import math
import os
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from accord.data.images import open_image
from accord.data.manifest import read_manifest
from accord.data.typed import read_typed
from accord.files import check_writable, parse_json, read_json, read_text, write_file
from accord.reports.pictures import found_and_target, png, thing_colors
from accord.reports.results import Try
from accord.types import InputError, reason_of

MOST = 10_000  # rows on a page; of more the first are shown, and the page says so
LAB_SIDE = 128  # pictures of at most so many pixels a side are shown crisp, and copied as they are
COPIED_SIDE = 768  # longest side of the copy of a larger one
RIGHT = 0.5  # probability from which on a word counts as shown


@dataclass(frozen=True)
class Entry:
    """A picture of a gallery. What is None or empty is not shown.

    Attributes:
        number: of the row in its run.
        file_name: the picture, from the gallery's folder on; one elsewhere is copied, reduced.
        before: the picture before a repair, an edit or a training, likewise.
        score, score_before: higher is better.
        verdict: whether the picture is right; None if nobody judged.
        words, words_before: [{text, kind, start, end, probability, reads_as}], as of the two pictures; start and end
            are characters of the prompt, and a word without them is shown after it. One of the kind "read" was read off
            the picture, and cannot be missed.
        phrases: [{text, start, end}] of the prompt's things; where start is missing it is looked for.
        regions: [{phrase, box, planned, found_box}]: a thing's text, and (x0, y0, x1, y1) as shares of width and
            height of where it is, or was to be put, if it was planned or found_box, where it was found, is elsewhere.
        reasons: sentences that say why the verdict is what it is.
        seconds: that the picture took.
        caption: what the judge reads off the picture.
    """

    number: int
    prompt: str
    file_name: str
    before: str | None = None
    seed: int | None = None
    tags: Sequence[str] = ()
    score: float | None = None
    score_before: float | None = None
    verdict: bool | None = None
    words: Sequence[Mapping[str, Any]] = ()
    words_before: Sequence[Mapping[str, Any]] = ()
    phrases: Sequence[Mapping[str, Any]] = ()
    regions: Sequence[Mapping[str, Any]] = ()
    reasons: Sequence[str] = ()
    seconds: float | None = None
    caption: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any] | Entry) -> Entry:
        """An entry from a row of a run, whose further columns are passed over.

        Raises:
            InputError: for a row without number, prompt or picture.
        """
        if isinstance(row, Entry):
            return row
        known = {f.name: row[f.name] for f in fields(cls) if row.get(f.name) is not None}
        if missing := {"number", "prompt", "file_name"} - known.keys():
            raise InputError(f"a row of the gallery has no {min(missing)!r}; give number, prompt and file_name")
        for name in ("tags", "reasons"):
            if isinstance(known.get(name), str):
                known[name] = [known[name]]
        return cls(**known)

    @classmethod
    def of_scores(
        cls, number: int, file_name: str, score: Mapping[str, Any], before: Mapping[str, Any] | None = None, **more: Any
    ) -> Entry:
        """An entry from what `Alignment.to_dict` gives, of the picture and of the one before it.

        Args:
            more: further fields. `before` cannot be among them: the picture before is `before_file`.
        """
        reasons = [str(score["reason"])] if score.get("reason") else []
        if score.get("unjudged"):
            reasons.append(f"not judged: {', '.join(score['unjudged'])}")
        words = score["words"]
        return cls(
            number=number,
            prompt=score["prompt"],
            file_name=file_name,
            before=more.pop("before_file", None),
            score=score["overall"],
            score_before=None if before is None else before["overall"],
            verdict=all(w["probability"] >= RIGHT for w in words) if words else None,
            words=words,
            words_before=[] if before is None else before["words"],
            phrases=score["phrases"],
            reasons=reasons,
            caption=score.get("caption"),
            **more,
        )


@dataclass(frozen=True)
class Shown:
    """A run beside another one: its title, its folder and its rows."""

    title: str
    folder: Path
    rows: Iterable[Mapping[str, Any] | Entry] = field(repr=False)


def gallery_beside(table: Path) -> Path:
    """The folder of the gallery that belongs to a file, or to a folder that holds nothing else: `scores-gallery`
    beside `scores.csv`.
    """
    return table.with_name(f"{table.stem if table.suffix else table.name}-gallery")


def read_run(folder: str | Path) -> Shown:
    """The rows of a run's folder: `rows.parquet` or `rows.jsonl`.

    Raises:
        InputError: for a folder without them, or whose rows cannot be read.
    """
    folder = Path(folder)
    table, lines = folder / "rows.parquet", folder / "rows.jsonl"
    if table.is_file():
        rows = list(read_typed(table, "rows", "run the evaluation again"))
    elif lines.is_file():
        try:
            rows = [parse_json(line) for line in read_text(lines, "rows").splitlines() if line.strip()]
        except InputError:
            raise
        except ValueError as error:
            raise InputError(
                f"rows {str(lines)!r} are no valid JSON ({reason_of(error)}); run the evaluation again"
            ) from error
    else:
        raise InputError(f"folder {str(folder)!r} holds no rows.parquet and no rows.jsonl; give the folder of a run")
    return Shown(folder.resolve().name, folder, rows)


def of_repairs(rows: Iterable[Mapping[str, Any]]) -> Iterator[Entry]:
    """An entry for each repaired picture.

    Args:
        rows: what `Realigned.to_dict` gives, and `folder`, where `Realigned.save` left it below the gallery.
    """
    for number, row in enumerate(rows):
        name = Path(row["folder"]).name
        tries = [Try(**{**told, "words": tuple(told["words"])}) for told in row.get("tries", ())]
        entry = Entry.of_scores(
            row.get("number", number),
            f"{name}/after.png",
            row["after"],
            row["before"],
            before_file=f"{name}/before.png",
            seed=row["seed"],
            tags=["improved" if row["improved"] else "as it was", *sorted({t.operator for t in tries})],
            regions=row["regions"],
            seconds=row.get("seconds"),
        )
        told = [f"round {k}: {one}" for k, one in enumerate(tries, start=1)]
        yield replace(entry, reasons=[*told, *entry.reasons])


def repairs_in(folder: Path) -> Iterator[Entry]:
    """An entry for each repair that is kept below a folder, whichever run made it, in the order of their names, which
    begin with their numbers.

    Raises:
        InputError: for a report that cannot be read.
    """
    for path in sorted(folder.glob("[0-9]*-*/report.json")):
        report = read_json(path, "report", "repair the picture again")
        number = int(re.match(r"\d+", path.parent.name)[0])  # type: ignore[index]
        try:
            yield from of_repairs([{**report, "folder": path.parent.name, "number": number}])
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"report {str(path)!r} is not what accord realign wrote; take its folder away, and repair the picture "
                "again"
            ) from error


def made_in(folder: Path) -> Iterator[Entry]:
    """An entry for each picture that the manifests in a folder name; videos have none. What a picture took is left out,
    so that a run that was stopped has the page of one that was not.

    Raises:
        InputError: for a manifest that is damaged.
    """
    for line in read_manifest(folder):
        if line["status"] == "done" and line["file"].endswith(".png"):
            yield Entry(line["row"], str(line.get("prompt", "")), line["file"], seed=line["seed"])


def of_frames(
    folder: Path, prompt: str, before: Sequence[Image.Image], after: Sequence[Image.Image]
) -> Iterator[Entry]:
    """An entry for each frame of an edited video; the frames are written into `folder`, where the page is to be."""
    for number, frames in enumerate(zip(before, after, strict=True)):
        names = [
            save_small(frame, folder / "frames" / f"{number:05d}-{when}").relative_to(folder).as_posix()
            for frame, when in zip(frames, ("before", "after"), strict=True)
        ]
        yield Entry(number, prompt, names[1], before=names[0])


def write_gallery(
    folder: str | Path,
    rows: Iterable[Mapping[str, Any] | Entry],
    title: str,
    against: Shown | str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Path:
    """Write `index.html` into `folder`, and copies of the pictures that are not in it into `thumbnails`.

    Args:
        rows: an Entry, or a mapping with its fields, a picture.
        against: another run, or its folder, whose pictures stand beside these; rows belong together that have the same
            prompt and seed, or else the same number.
        about: what else the head of the page says, a name and a value each.
        name: of these pictures, where another run's stand beside them; the title if None.

    Returns:
        the page.

    Raises:
        InputError: if there are no rows, a row has no number, prompt or picture, or the place cannot be written to.
    """
    folder = check_writable(Path(folder))
    here = [Entry.of(r) for r in islice(rows, MOST + 1)]
    if not here:
        raise InputError(f"there is no picture for the gallery {str(folder)!r}; give at least one row")
    told = dict(about or {})
    if len(here) > MOST:
        here, told["shown"] = here[:MOST], f"the first {MOST:,} rows"
    other = read_run(against) if isinstance(against, (str, Path)) else against
    found = [_row(folder, folder, e, f"{i:05d}") for i, e in enumerate(here)]
    if other is not None:
        beside = _partners(here, [Entry.of(r) for r in other.rows])
        for i, (own, entry) in enumerate(zip(found, beside, strict=True)):
            own["other"] = None if entry is None else _row(folder, other.folder, entry, f"b{i:05d}")
    data = {
        "title": title,
        "name": name or title,
        "against": None if other is None else other.title,
        "about": [[str(k), str(v)] for k, v in told.items()],
        "crisp": LAB_SIDE,
        "right": RIGHT,
        "rows": found,
    }
    index = folder / "index.html"
    write_file(index, _page(title, data).encode())
    return index


def shown_row(folder: Path, entry: Entry) -> dict[str, Any]:
    """What a page is told of an entry, its pictures as addresses within `folder`; for pages other than the gallery."""
    return _row(folder, folder, entry, "00000")


def _partners(entries: Sequence[Entry], others: Sequence[Entry]) -> list[Entry | None]:
    by_prompt = {(e.prompt, e.seed): e for e in reversed(others)}
    by_number = {e.number: e for e in reversed(others)}

    def partner(entry: Entry) -> Entry | None:
        same = by_number.get(entry.number)
        if same is not None and (same.prompt, same.seed) == (entry.prompt, entry.seed):
            return same  # of several with one prompt and seed
        return by_prompt.get((entry.prompt, entry.seed), same if same and same.prompt == entry.prompt else None)

    return [partner(e) for e in entries]


def _row(folder: Path, home: Path, entry: Entry, copy: str) -> dict[str, Any]:
    """What the page is told of an entry. `copy` is the name of its picture's copy; numbers name several seeds."""
    reasons = [str(r) for r in entry.reasons]
    names = [
        _link(folder, home, name, f"{copy}{suffix}", reasons)
        for name, suffix in ((entry.file_name, ""), (entry.before, "-before"))
    ]
    things = _things(entry)
    texts = [t["text"] for t in things]
    regions = []
    for r in entry.regions:
        if r.get("box") is not None:
            found, target = found_and_target(r["box"], bool(r.get("planned")), r.get("found_box"))
            regions.append({"thing": texts.index(r["phrase"]), "found": _box(found), "target": _box(target)})
    return {
        "number": int(entry.number),
        "prompt": entry.prompt,
        "seed": None if entry.seed is None else str(entry.seed),  # it may have more digits than a script's numbers
        "tags": [str(t) for t in entry.tags],
        "image": names[0],
        "before": names[1],
        "score": _finite(entry.score),
        "scoreBefore": _finite(entry.score_before),
        "verdict": None if entry.verdict is None else bool(entry.verdict),
        "words": [_word(w) for w in entry.words],
        "wordsBefore": [_word(w) for w in entry.words_before],
        "things": things,
        "regions": regions,
        "reasons": reasons,
        "seconds": _finite(entry.seconds),
        "caption": str(entry.caption or ""),
    }


def _finite(value: Any) -> float | None:
    return round(float(value), 4) if value is not None and math.isfinite(value) else None


def _box(box: Sequence[float] | None) -> list[float] | None:
    return None if box is None else [round(min(1.0, max(0.0, float(v))), 4) for v in box]


def _word(word: Mapping[str, Any]) -> dict[str, Any]:
    text, start = str(word["text"]), word.get("start")
    end = word.get("end")
    return {
        "text": text,
        "kind": str(word.get("kind") or ""),
        "start": None if start is None else int(start),
        "end": None if start is None else int(start) + len(text) if end is None else int(end),
        "p": _finite(word.get("probability")),
        "reads": str(word.get("reads_as") or ""),
    }


def _things(entry: Entry) -> list[dict[str, Any]]:
    """The prompt's phrases, each with a color that none of its own words names."""
    phrases = [dict(p) for p in entry.phrases]
    known = {p["text"] for p in phrases}
    phrases += [{"text": text} for text in dict.fromkeys(r["phrase"] for r in entry.regions) if text not in known]
    out: list[dict[str, Any]] = []
    at = 0
    for phrase in phrases:
        text, start = str(phrase["text"]), phrase.get("start")
        if start is None:
            start = _found(text, entry.prompt, at)
        at = max(at, start + len(text))
        end = phrase.get("end") or start + len(text)
        out.append({"text": text, "start": start if start >= 0 else None, "end": end if start >= 0 else None})
    colored = [w for w in map(_word, entry.words) if w["kind"] in ("color", "colour") and w["start"] is not None]
    said = [
        [w["text"] for w in colored if t["start"] is not None and t["start"] <= w["start"] < t["end"]]
        or t["text"].split()
        for t in out
    ]
    return [{**t, "color": color} for t, color in zip(out, thing_colors(said), strict=True)]


def _found(text: str, prompt: str, after: int) -> int:
    """Where a phrase begins in a prompt, as words of its own: from `after` on, or else anywhere; -1 for nowhere."""
    starts = [m.start() for m in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", prompt)] if text else []
    return next((s for s in starts if s >= after), starts[0] if starts else -1)


def _link(folder: Path, home: Path, name: str | None, copy: str, reasons: list[str]) -> str | None:
    """Where the page finds a picture: beside it, or a copy; None, with a reason, for one that cannot be read."""
    if name is None:
        return None
    path = home / name
    if not os.path.isabs(name) and os.pardir not in Path(name).parts and home == folder:
        return quote(Path(name).as_posix())
    inside = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
    if not inside.startswith(os.pardir):
        return quote(Path(inside).as_posix())
    try:
        image = open_image(path)
    except InputError:
        reasons.append(f"the picture {path.name} cannot be read")
        return None
    return f"thumbnails/{save_small(image, folder / 'thumbnails' / copy).name}"


def save_small(image: Image.Image, path: Path) -> Path:
    """Write a picture as a page shows it: small ones as they are in PNG, larger ones reduced in JPEG. Its path has the
    suffix.
    """
    if max(image.size) <= LAB_SIDE:
        target, data = path.with_name(f"{path.name}.png"), png(image)
    else:
        reduced, buffer = image.copy(), io.BytesIO()
        reduced.thumbnail((COPIED_SIDE, COPIED_SIDE), Image.Resampling.LANCZOS)
        reduced.save(buffer, "JPEG", quality=88)
        target, data = path.with_name(f"{path.name}.jpg"), buffer.getvalue()
    write_file(target, data)
    return target


def _page(title: str, data: Mapping[str, Any]) -> str:
    """The page: nothing but its own style and script runs in it."""
    here = files("accord.reports")
    style, shared, own = (
        (here / name).read_text(encoding="utf8") for name in ("gallery.css", "frame.js", "gallery.js")
    )
    script = re.sub(r"^export ", "", shared, flags=re.M) + own  # one script, as a page of one file has no modules
    said = json.dumps(data, allow_nan=False, separators=(",", ":"))  # in ASCII
    for letter in "<>&":
        said = said.replace(letter, f"\\u{ord(letter):04x}")
    parts = {
        "title": html.escape(title),
        "style-hash": _hash(style),
        "script-hash": _hash(script),
        "style": style,
        "script": script,
        "data": said,
    }
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda m: parts[m[1]], (here / "gallery.html").read_text(encoding="utf8"))


def _hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()
