"""Inversion in bulk: shards, each one file, written then renamed; what is finished is not done again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from accord.data.images import open_image
from accord.data.pairs import SUFFIXES, table_bytes
from accord.data.shards import share_of
from accord.methods.invert.invert import Bank, invert
from accord.methods.invert.inverter import Inverter
from accord.outputs import write_file
from accord.types import InputError

CHUNK = 256


def shard_path(out: Path, index: int, count: int) -> Path:
    """`out` itself for one shard, else out-00003-of-00008.suffix.

    Raises:
        InputError: for another suffix than SUFFIXES.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise InputError(f"output {str(out)!r} is none of {', '.join(SUFFIXES)}; choose one of them")
    return out if count == 1 else out.with_name(f"{out.stem}-{index:05d}-of-{count:05d}{out.suffix}")


def invert_files(
    paths: Sequence[Path],
    out: Path,
    shard: tuple[int, int] = (1, 1),
    inverter: Inverter | None = None,
    bank: Bank | None = None,
    readable: bool = False,
    progress: bool = False,
    **kwargs: Any,
) -> dict[str, Any]:
    """Invert this shard's share of the files (every N-th) into one table with a row an image.

    Returns:
        {"out", "images", "skipped": [{"image", "reason"}], "done_before"}; a finished shard is left as it is.
    """
    index, count = shard
    target = shard_path(Path(out), index, count)
    if target.is_file():
        return {"out": str(target), "images": 0, "skipped": [], "done_before": True}
    inverter = inverter or Inverter.from_pretrained()
    mine = share_of(list(paths), shard)
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    with tqdm(total=len(mine), desc="invert", disable=not progress) as bar:
        for names, images in _chunks(mine, skipped):
            for name, result in zip(names, invert(images, inverter, bank, readable=readable, **kwargs), strict=True):
                rows.append({"image": str(name), **result.to_dict()})
            bar.update(len(names))
    write_file(target, table_bytes(rows, target.suffix.lower()))
    return {"out": str(target), "images": len(rows), "skipped": skipped, "done_before": False}


def _chunks(paths: Sequence[Path], skipped: list[dict[str, str]]) -> Iterator[tuple[list[Path], list[Image.Image]]]:
    for start in range(0, len(paths), CHUNK):
        names, images = [], []
        for path in paths[start : start + CHUNK]:
            try:
                images.append(open_image(path))
            except InputError as error:
                skipped.append({"image": str(path), "reason": str(error)})
                continue
            names.append(path)
        if names:
            yield names, images
