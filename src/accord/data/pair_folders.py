"""Pairs of picture and prompt in folders: DiffusionDB's layout, streamed, a folder with a table, or a plain pairs file (tables are read whole).

DiffusionDB: `part-000001/` holds PNG files and `part-000001.json` ({"name.png": {"p": prompt, "se": seed, ...}});
`metadata.parquet` has the columns image_name, prompt and part_id. The parts are beside it or, as in the dataset's own repository,
in `images/`. Parts that were not fetched are passed over.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accord.data.pairs import PairsFile, need_parquet, parquet_columns, parquet_rows, read_pairs, sayable
from accord.types import InputError, Pair

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def stream_pairs(path: str | Path, skipped: PairsFile) -> Iterator[Pair]:
    """The pairs of a folder or file, one after the other; broken rows go to `skipped`.

    Raises:
        InputError: for a path that is missing or a folder in none of the layouts.
    """
    path = Path(path)
    if path.is_file():
        table = read_pairs(path)
        skipped.skipped += table.skipped
        yield from table.pairs
        return
    if not path.is_dir():
        raise InputError(f"pairs {str(path)!r} do not exist; check the path")
    places = (path, path / "images")
    inside, parts = next(((p, found) for p in places if (found := sorted(d for d in p.glob("part-*") if d.is_dir()))), (path, []))
    if (path / "metadata.parquet").is_file() and parts:
        rows = _metadata_rows(path / "metadata.parquet", inside, parts, skipped)
    elif parts:
        rows = _part_rows(parts, skipped)
    elif (path / "metadata.jsonl").is_file():
        yield from stream_pairs(path / "metadata.jsonl", skipped)
        return
    elif (path / "metadata.parquet").is_file():
        if "part_id" in parquet_columns(path / "metadata.parquet"):
            raise InputError(f"folder {str(path)!r} has DiffusionDB's metadata and none of its parts; fetch and unpack one (part-000001/)")
        yield from stream_pairs(path / "metadata.parquet", skipped)
        return
    else:
        raise InputError(f"folder {str(path)!r} holds no pairs; it needs metadata.jsonl, metadata.parquet or part-000001/")
    for number, (image, prompt) in enumerate(rows, start=1):
        if not isinstance(prompt, str) or not prompt.strip():
            skipped.skip(number, "no prompt")
        elif image is None or not _is_file(image):
            skipped.skip(number, f"no image {image.name if image is not None else ''}".strip())
        else:
            yield Pair(str(image), sayable(prompt.strip()), number)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _metadata_rows(path: Path, inside: Path, parts: list[Path], skipped: PairsFile) -> Iterator[tuple[Path | None, Any]]:
    """Rows of the metadata whose part is in the folder `inside`, then those of parts that it does not name."""
    pyarrow, pq = need_parquet()
    there, named = {p.name for p in parts}, set()
    try:
        file = pq.ParquetFile(path)
        missing = [c for c in ("image_name", "prompt", "part_id") if c not in file.schema_arrow.names]
        if missing:
            raise InputError(f"{str(path)!r} has no column {missing[0]!r}; DiffusionDB's has")
        for row in parquet_rows(file, ["image_name", "prompt", "part_id"]):
            name, number = row["image_name"], row["part_id"]
            part = f"part-{int(number):06d}" if str(number).isdigit() else None
            if part is None or not isinstance(name, str) or not name:
                yield None, row["prompt"]
            elif part in there:
                named.add(part)
                yield inside / part / name, row["prompt"]
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); fetch it again") from error
    yield from _part_rows([p for p in parts if p.name not in named], skipped)


def _part_rows(parts: list[Path], skipped: PairsFile) -> Iterator[tuple[Path | None, Any]]:
    """Rows of every part; one whose index is broken goes to `skipped` as row 0."""
    for part in parts:
        try:
            rows = json.loads((part / f"{part.name}.json").read_text(encoding="utf8"))
            if not isinstance(rows, dict):
                raise ValueError
        except (OSError, ValueError):
            skipped.skip(0, f"{part.name}.json cannot be read")
            continue
        for name, row in rows.items():
            yield part / name, row.get("p") if isinstance(row, dict) else None


def read_part(folder: Path, number: int) -> list[dict[str, Any]] | None:
    """The rows of a part that `write_part` wrote, or None if there is none that can be read."""
    name = f"part-{number:06d}"
    try:
        return list(json.loads((folder / name / f"{name}.json").read_text(encoding="utf8")).values())
    except (OSError, ValueError, AttributeError):
        return None


def write_part(folder: Path, number: int, images: list[Any], rows: list[dict[str, Any]]) -> None:
    """Write one part of DiffusionDB's layout under another name, then rename it; `rows` have p, se, c, st, sa."""
    final = folder / f"part-{number:06d}"
    part = folder / f".part-{number:06d}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    index = {}
    for i, (image, row) in enumerate(zip(images, rows, strict=True)):
        name = f"{number:06d}-{i:06d}.png"
        image.save(part / name)
        index[name] = row
    (part / f"{final.name}.json").write_text(json.dumps(index, indent=0), encoding="utf8")
    shutil.rmtree(final, ignore_errors=True)
    try:
        os.replace(part, final)
    except OSError:
        if not final.is_dir():
            raise
        shutil.rmtree(part, ignore_errors=True)  # another process has just written the same


def write_metadata(folder: Path) -> int:
    """Write `metadata.parquet` over all parts of a folder; returns the number of rows."""
    pa, pq = need_parquet()
    rows = []
    for part in sorted(p for p in folder.glob("part-*") if p.is_dir()):
        for name, row in json.loads((part / f"{part.name}.json").read_text(encoding="utf8")).items():
            rows.append(
                {
                    "image_name": name,
                    "prompt": row["p"],
                    "part_id": int(part.name[5:]),
                    "seed": row["se"],
                    "step": row["st"],
                    "cfg": row["c"],
                    "sampler": row["sa"],
                }
            )
    part = folder / f".metadata.parquet.{os.getpid()}.part"  # shards may end at once
    pq.write_table(pa.Table.from_pylist(rows), part)
    os.replace(part, folder / "metadata.parquet")
    return len(rows)


def list_images(folder: str | Path) -> list[Path]:
    """All pictures under a folder, sorted.

    Raises:
        InputError: if the folder is missing or holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} does not exist; check the path")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise InputError(f"folder {str(folder)!r} holds no picture ({', '.join(IMAGE_SUFFIXES)}); check the path")
    return found
