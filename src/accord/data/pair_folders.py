"""Pairs of picture and prompt in folders: DiffusionDB's layout, a folder with a table, or a plain pairs file; all are
streamed.

DiffusionDB: `part-000001/` holds PNG files and `part-000001.json` ({"name.png": {"p": prompt, "se": seed, ...}});
`metadata.parquet` has the columns image_name, prompt and part_id. The parts are beside it or, as in the dataset's own
repository, in `images/`. Parts that were not fetched are passed over, and so is what is hidden: it is still being
written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accord.data.pairs import PairsFile, need_parquet, no_prompt, pairs_of, parquet_columns, parquet_rows, sayable
from accord.files import entries, read_json, reason, replace_file, replace_folder
from accord.types import InputError, Pair, reason_of

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def stream_pairs(path: str | Path, skipped: PairsFile, seeds: bool = False) -> Iterator[Pair]:
    """The pairs of a folder or file, one after the other while it is read; broken rows go to `skipped`.

    Args:
        seeds: whether a table's `seed` is read, as by `pairs_of`; of DiffusionDB's parts it is not.

    Raises:
        InputError: for a path that is missing or a folder in none of the layouts, and as `pairs_of`.
    """
    path = Path(path)
    if not os.path.isdir(path):
        if not os.path.lexists(path):
            raise InputError(f"pairs {str(path)!r} do not exist; check the path")
        yield from pairs_of(path, skipped, seeds)
        return
    inside, parts = "", _parts(path)
    if not parts and os.path.isdir(path / "images"):
        inside, parts = "images/", _parts(path / "images")
    metadata = path / "metadata.parquet"
    if os.path.lexists(metadata) and parts:
        rows = _metadata_rows(metadata, path, inside, parts, skipped)
    elif parts:
        rows = _part_rows(path, inside, parts, skipped)
    elif os.path.lexists(path / "metadata.jsonl"):
        yield from pairs_of(path / "metadata.jsonl", skipped, seeds)
        return
    elif os.path.lexists(metadata):
        if "part_id" in parquet_columns(metadata, "pairs file"):
            raise InputError(
                f"folder {str(path)!r} has DiffusionDB's metadata and none of its parts; fetch and unpack one "
                "(part-000001/)"
            )
        yield from pairs_of(metadata, skipped, seeds)
        return
    else:
        raise InputError(
            f"folder {str(path)!r} holds no pairs; it needs metadata.jsonl, metadata.parquet or part-000001/"
        )
    for number, (image, prompt) in enumerate(rows, start=1):
        if why := no_prompt(prompt):
            skipped.skip(number, why)
        elif image is None or not os.path.isfile(path / image):
            skipped.skip(number, f"no image {image.rpartition('/')[2][:200] if image is not None else ''}".strip())
        else:
            yield Pair(str(path / image), sayable(prompt.strip()), number, sayable(image))


def _parts(folder: Path) -> list[str]:
    """Names of the parts in a folder."""
    return [p.name for p in entries(folder, "folder") if re.fullmatch(r"part-\d{1,9}", p.name) and os.path.isdir(p)]


def _in_part(part: str, name: Any) -> str | None:
    """A picture's name from the folder of parts on; None for what is no file of the part."""
    return (
        f"{part}/{name}"
        if isinstance(name, str) and name and name not in (".", "..") and not re.search(r"[/\\\0]", name)
        else None
    )


def _metadata_rows(
    path: Path, folder: Path, inside: str, parts: list[str], skipped: PairsFile
) -> Iterator[tuple[str | None, Any]]:
    """Rows of the metadata whose part is in `inside`, then those of parts that it does not name."""
    there, named = set(parts), set()
    columns = ["image_name", "prompt", "part_id"]
    missing = [c for c in columns if c not in parquet_columns(path, "metadata")]
    if missing:
        raise InputError(f"{str(path)!r} has no column {missing[0]!r}; DiffusionDB's has")
    for row in parquet_rows(path, "metadata", columns):
        number = str(row["part_id"])
        part = f"part-{int(number):06d}" if re.fullmatch(r"[0-9]{1,9}", number) else None
        if part is None or not isinstance(row["image_name"], str) or not row["image_name"]:
            yield None, row["prompt"]
        elif part in there:
            named.add(part)
            yield _in_part(f"{inside}{part}", row["image_name"]), row["prompt"]
    yield from _part_rows(folder, inside, [p for p in parts if p not in named], skipped)


def _part_rows(folder: Path, inside: str, parts: list[str], skipped: PairsFile) -> Iterator[tuple[str | None, Any]]:
    """Rows of every part; one whose index is broken goes to `skipped` as row 0."""
    for part in parts:
        try:
            rows = _index(folder / inside / part)
        except InputError:
            skipped.skip(0, f"{part}.json cannot be read")
            continue
        for name, row in rows.items():
            yield _in_part(f"{inside}{part}", name), row.get("p") if isinstance(row, dict) else None


def _index(part: Path) -> dict[str, Any]:
    """The index of a part. Raises InputError."""
    return read_json(part / f"{part.name}.json", "index of the part", "make or fetch that part again")


def read_part(folder: Path, number: int) -> list[dict[str, Any]] | None:
    """The rows of a part that `write_part` wrote, or None if there is none that can be read."""
    try:
        return list(_index(folder / f"part-{number:06d}").values())
    except InputError:
        return None


def write_part(folder: Path, number: int, images: list[Any], rows: list[dict[str, Any]]) -> None:
    """Write one part of DiffusionDB's layout under another name, then rename it; `rows` have p, se, c, st, sa.

    Raises:
        InputError: if the place cannot be written to, a full disk say; nothing is left of the part then.
    """
    final = folder / f"part-{number:06d}"

    def fill(part: Path) -> None:
        index = {}
        for i, (image, row) in enumerate(zip(images, rows, strict=True)):
            name = f"{number:06d}-{i:06d}.png"
            image.save(part / name)
            index[name] = row
        (part / f"{final.name}.json").write_text(json.dumps(index, indent=0), encoding="utf8")

    try:
        replace_folder(final, fill)
    except OSError as error:
        raise InputError(
            f"part {str(final)!r} cannot be written ({reason(error)}); make room, or choose another place"
        ) from error


def write_metadata(folder: Path) -> int:
    """Write `metadata.parquet` over all parts of a folder; returns the number of rows.

    Raises:
        InputError: for a part whose index is broken, or a place that cannot be written to.
    """
    pa, pq = need_parquet()
    rows: list[dict[str, Any]] = []
    for part in _parts(folder):
        try:
            for name, row in _index(folder / part).items():
                sampling = {"seed": row["se"], "step": row["st"], "cfg": row["c"], "sampler": row["sa"]}
                rows.append({"image_name": name, "prompt": row["p"], "part_id": int(part[5:]), **sampling})
        except (KeyError, TypeError) as error:
            raise InputError(
                f"index of part {str(folder / part)!r} has a row without p, se, st, c or sa; make that part again"
            ) from error
    try:
        table = pa.Table.from_pylist([{k: sayable(v) for k, v in row.items()} for row in rows])
    except Exception as error:  # columns of mixed kinds, numbers too large for one
        raise InputError(
            f"the parts of folder {str(folder)!r} do not make one table ({reason_of(error)}); make them again"
        ) from error
    replace_file(folder / "metadata.parquet", lambda part: pq.write_table(table, part))  # shards may end at once
    return len(rows)


def list_images(folder: str | Path) -> list[Path]:
    """All pictures under a folder, sorted. Hidden files and folders are left out, and linked folders are not followed.

    Raises:
        InputError: if the folder is missing, it or one in it cannot be read, or it holds no picture.
    """
    found, due = [], [Path(folder)]
    while due:
        for path in entries(due.pop(), "folder"):
            if os.path.isdir(path):
                if not os.path.islink(path):
                    due.append(path)
            elif path.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(path):
                found.append(path)
    if not found:
        raise InputError(f"folder {str(folder)!r} holds no picture ({', '.join(IMAGE_SUFFIXES)}); check the path")
    return sorted(found)
