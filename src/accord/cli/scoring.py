"""`accord score` of many pictures: a table and a page, which the same command goes on with where it ended.

The manifest in the folder of the page has a line for each picture that was scored. The table is written anew from it
every half a minute, when the command is stopped, and at the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from accord.cli.options import check_file, counted, emit, is_same, pick_device
from accord.data.manifest import Manifest, read_manifest
from accord.data.pairs import PairsFile, check_table_path, read_pairs, table_bytes
from accord.files import check_writable, only_writer, write_file
from accord.types import InputError

WRITTEN = 30.0  # seconds after which the table is
Row = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """One to be scored.

    Attributes:
        row: of the table, or of the prompts file, from 1.
        name: what the table or the folder calls it.
        seed: None where nothing says it.
    """

    row: int
    name: str
    path: Path
    prompt: str
    seed: int | None

    @property
    def line(self) -> Row:
        """What a manifest says of it, whether it was scored or not."""
        return {"row": self.row, "seed": self.seed, "prompt": self.prompt, "image": self.name}


@dataclass(frozen=True)
class Judges:
    """What scores: models by their names, as options give them."""

    judge: str | None
    clip: str | None
    calibration: Path | None
    device: str | None


def of_pairs(pairs: Path, out: Path, broken: PairsFile) -> list[Picture]:
    """The pictures of a table. Raises InputError if it cannot be read, or is what is to be written."""
    if is_same(out, pairs):
        raise InputError(f"--out {str(out)!r} is the pairs file itself, and would be replaced; give another name")
    table = read_pairs(pairs, seeds=True)
    broken.skipped += table.skipped
    return [Picture(p.row, p.name, Path(p.image), p.prompt, p.seed) for p in table.pairs]


def of_prompts(prompts: Path, images: Path, out: Path, broken: PairsFile) -> list[Picture]:
    """The pictures of a folder, in any layout that `accord eval --images` reads, of the prompts of a file.

    Raises:
        InputError: if one of the two cannot be read, none of the pictures is of one of the prompts, or the file is what
            is to be written.
    """
    from accord.evaluation.pictures import Found
    from accord.evaluation.prompts import prompt_records

    if is_same(out, prompts):
        raise InputError(f"--out {str(out)!r} is the prompts file itself, and would be replaced; give another name")
    records, found = prompt_records(prompts, broken), Found(images)
    for row in found.skipped.skipped:
        broken.skip(row["row"], f"{row['reason']} (of the table in --images)")
    out_of = [(record, seed, found.of(record)[seed]) for record, seed in found.jobs(records, ())]
    return [
        Picture(record.number + 1, os.path.relpath(path, images), path, record.prompt, seed)
        for record, seed, path in out_of
    ]


def check_out(out: Path | None, given: str) -> Path:
    """The table that is to be written, with the page beside it. Raises InputError if one of them cannot be."""
    from accord.reports.gallery import gallery_beside

    if out is None:
        raise InputError(f"{given} needs --out FILE.csv, .jsonl or .parquet to write the scores to")
    check_table_path(out)
    check_file(out)
    check_writable(out.parent)
    check_writable(gallery_beside(out))
    return out


def score_all(
    pictures: Sequence[Picture],
    broken: PairsFile,
    source: Path,
    out: Path,
    judges: Judges,
    as_json: bool,
    batch_size: int,
) -> None:
    """Score what is not scored yet, write table and page, and say so.

    Args:
        broken: rows that are left out; what cannot be scored is added.
        source: the file that the rows are of.
        batch_size: pictures that are scored at once, and after which their lines are written.

    Raises:
        InputError: if nothing can be scored, or the table was begun by another judge.
    """
    from accord.reports.gallery import Entry, gallery_beside, write_gallery

    with only_writer(out.parent, out.name):
        judging, similarity, settings = load_judges(judges)
        folder = gallery_beside(out)
        manifest = Manifest(folder, settings)
        due = [p for p in pictures if not _is_scored(manifest, p)]
        written, lines = time.monotonic(), []
        try:
            for line in counted(
                _scored(due, judging, similarity, folder, broken, batch_size), "score", len(due), as_json
            ):
                lines.append(line)
                if len(lines) == batch_size:
                    manifest.add(lines)
                    lines.clear()
                    if time.monotonic() - written > WRITTEN:
                        _write(out, _rows(pictures, folder))
                        written = time.monotonic()
        finally:  # what was scored is not lost when the rest is stopped
            manifest.add(lines)
            if rows := _rows(pictures, folder):
                _write(out, rows)
        if not rows:
            why = f" (row {broken.skipped[0]['row']}: {broken.skipped[0]['reason']})" if broken.skipped else ""
            raise InputError(f"no row of {source.name!r} could be scored{why}; mend them there")
        entries = (Entry.of_scores(p.row, str(p.path.absolute()), score, seed=p.seed) for p, score in rows)
        index = write_gallery(folder, entries, "accord score")
    known = [score["overall"] for _, score in rows if score["overall"] is not None]
    mean = sum(known) / len(known) if known else None
    broken.skipped.sort(key=lambda row: row["row"])
    data = {
        "scored": len(rows),
        "kept": len(pictures) - len(due),
        "without_score": len(rows) - len(known),
        "mean": mean,
        "skipped": broken.skipped,
        "out": str(out),
        "gallery": str(index),
    }
    emit(as_json, data, _text(data))


def load_judges(judges: Judges) -> tuple[Any, Any, Row]:
    """Judge, CLIP, and what a manifest says of both."""
    import accord
    from accord.evaluation.weights import modules_of
    from accord.training.fingerprint import fingerprint

    where = pick_device(judges.device)
    judging = accord.load_judge(judges.judge, where, calibration=judges.calibration)
    similarity = accord.load_clip(judges.clip, where)
    weights = fingerprint(*modules_of(SimpleNamespace(judge=judging, clip=similarity)))
    calibration = None if judges.calibration is None else fingerprint(judges.calibration.read_bytes())
    return judging, similarity, {"judge": judging.name, "weights": weights, "calibration": calibration}


def _is_scored(manifest: Manifest, picture: Picture) -> bool:
    """Whether a manifest has it as it is now; a row with another prompt or picture is scored again."""
    try:
        return manifest.has(picture.line, picture.seed)
    except InputError:
        return False


def _scored(
    due: Sequence[Picture], judge: Any, clip: Any, folder: Path, broken: PairsFile, batch_size: int
) -> Iterator[Row]:
    """The line of each picture, its score within; what cannot be scored is listed in `broken`."""
    from accord.data.batches import each
    from accord.methods.invert.bulk import reason_as_named

    home = os.path.realpath(folder)
    for start in range(0, len(due), batch_size):
        batch = due[start : start + batch_size]
        found = each(lambda some: scores([(p.path, p.prompt) for p in some], judge, clip), batch)
        for one, score in zip(batch, found, strict=True):
            if isinstance(score, InputError):
                broken.skip(one.row, reason_as_named(score, one.path, one.name))
                continue
            place = os.path.relpath(os.path.realpath(one.path), home)
            yield {**one.line, "status": "done", "file": place, "bytes": one.path.stat().st_size, "score": score}


def scores(pairs: Sequence[tuple[Path, str]], judge: Any, clip: Any) -> list[Row]:
    """The alignment of pictures and prompts, as JSON has it. Raises InputError if one cannot be scored."""
    import accord
    from accord.data.images import open_image

    images, prompts = [open_image(path) for path, _ in pairs], [prompt for _, prompt in pairs]
    return [found.alignment.to_dict() for found in accord.score(images, prompts, judge, clip, batch_size=len(images))]


def _rows(pictures: Sequence[Picture], folder: Path) -> list[tuple[Picture, Row]]:
    """The pictures that are scored, with their scores."""
    done = {(line["row"], line["seed"]): line for line in read_manifest(folder) if line["status"] == "done"}
    found = [(p, done.get((p.row, p.seed))) for p in pictures]
    return [(p, line["score"]) for p, line in found if line is not None and p.line.items() <= line.items()]


def _write(out: Path, rows: Sequence[tuple[Picture, Row]]) -> None:
    """The table. A picture without a seed has none there."""
    seeds = [{} if p.seed is None else {"seed": p.seed} for p, _ in rows]
    table = [{"row": p.row, "image": p.name, **s, **score} for (p, score), s in zip(rows, seeds, strict=True)]
    write_file(out, table_bytes(table, out.suffix.lower()))


def _text(data: Row) -> str:
    from accord.reports.page import score_text

    kept = f", {data['kept']} of them before" if data["kept"] else ""
    missing = f" ({data['without_score']} without a score are not in it)" if data["without_score"] else ""
    mean = f"mean alignment {score_text(data['mean'], 3)}{missing}"
    lines = [f"scored {data['scored']}{kept}, {mean}, written to {data['out']}", f"pictures: {data['gallery']}"]
    return "\n".join([*lines, *(f"skipped row {s['row']}: {s['reason']}" for s in data["skipped"])])
