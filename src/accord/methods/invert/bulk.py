"""Inversion in bulk: shards, each one file, written then renamed; what is finished is not done again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from accord.data.images import open_image
from accord.data.pair_folders import stream_pairs
from accord.data.pairs import PairsFile, check_table_path, table_bytes
from accord.data.shards import share_of
from accord.methods.invert.data import Embed
from accord.methods.invert.invert import Bank, invert
from accord.methods.invert.inverter import Inverter
from accord.methods.invert.kernel import DomainKernel
from accord.outputs import write_file
from accord.training.fingerprint import fingerprint
from accord.types import InputError

CHUNK, CHUNK_PIXELS = 64, 100_000_000  # pictures that are held at once, each at its full size

Labelled = tuple[torch.Tensor, torch.Tensor]  # predictions [N,E] and true embeddings [N,E] of images that were not trained on


def labelled_by(inverter: Inverter, pairs: str | Path, embed: Embed, skipped: PairsFile, progress: bool = False) -> Labelled:
    """What a second level is fitted on, of pairs that the inverter has not been trained on.

    Raises:
        InputError: if none can be read.
    """
    prompts = {pair.image: pair.prompt for pair in stream_pairs(pairs, skipped)}
    unread: list[dict[str, str]] = []
    vectors, said = [], []
    for names, images in tqdm(_chunks([Path(p) for p in prompts], unread), desc="labelled", disable=not progress):
        vectors.append(inverter(images)[0])
        said += [prompts[str(n)] for n in names]
    for row in unread:
        skipped.skip(0, row["reason"])
    if not vectors:
        raise InputError(f"pairs {str(pairs)!r} have no readable picture to adapt with; check the paths")
    return torch.cat(vectors), embed(said).cpu()


def shard_path(out: Path, index: int, count: int) -> Path:
    """`out` itself for one shard, else out-00003-of-00008.suffix.

    Raises:
        InputError: for a kind of file that cannot be written.
    """
    check_table_path(out)
    return out if count == 1 else out.with_name(f"{out.stem}-{index:05d}-of-{count:05d}{out.suffix}")


def invert_files(
    paths: Sequence[Path],
    out: Path,
    shard: tuple[int, int] = (1, 1),
    inverter: Inverter | None = None,
    bank: Bank | None = None,
    readable: bool = False,
    progress: bool = False,
    labelled: Labelled | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Invert this shard's share of the files (every N-th) into one table with a row an image.

    Args:
        labelled: what the second level (DAKL) is fitted on, beside this shard's images; none without it.

    Returns:
        {"out", "images", "skipped": [{"image", "reason"}], "done_before"}; a finished shard is left as it is. What was skipped, and
        of what the table was made, is kept beside it, in files that end in .skipped.json and .made.json.

    Raises:
        InputError: if the finished shard is of other pictures or was made otherwise, or a second level would harm.
    """
    index, count = shard
    target = shard_path(Path(out), index, count)
    left_out, kept = target.with_suffix(".skipped.json"), target.with_suffix(".made.json")
    inverter = inverter or Inverter.from_pretrained()
    made = {
        "pictures": fingerprint([str(p) for p in paths]),
        "inverter": fingerprint(*inverter.predictors, inverter.weights),
        "bank": bank and fingerprint(bank.prompts),
        "readable": readable,
        "adapted": labelled and fingerprint(*labelled),
    }
    if target.is_file():
        before = json.loads(kept.read_text(encoding="utf8")) if kept.is_file() else made
        other = [k for k in made if before.get(k) != made[k]]
        if other:
            raise InputError(f"{str(target)!r} is there already, and was made with other {other[0]!r}; remove it, or give another --out")
        before = json.loads(left_out.read_text(encoding="utf8")) if left_out.is_file() else []
        return {"out": str(target), "images": 0, "skipped": before, "done_before": True}
    mine = share_of(list(paths), shard)
    if labelled is not None and mine:
        found = [inverter(images)[0] for _, images in tqdm(_chunks(mine, []), desc="look", disable=not progress)]
        if not found:
            raise InputError("no picture can be read, so there is nothing to adapt to; check the paths")
        inverter = replace(inverter, kernel=DomainKernel.best(*labelled, torch.cat(found)))
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    with tqdm(total=len(mine), desc="invert", disable=not progress) as bar:
        for names, images in _chunks(mine, skipped):
            for name, result in zip(names, invert(images, inverter, bank, readable=readable, **kwargs), strict=True):
                rows.append({"image": str(name), **result.to_dict()})
            bar.update(len(names))
    if skipped:  # before the table, which says that all is done
        write_file(left_out, json.dumps(skipped, indent=1).encode())
    else:
        left_out.unlink(missing_ok=True)
    write_file(kept, (json.dumps(made, indent=1) + "\n").encode())
    write_file(target, table_bytes(rows, target.suffix.lower()))
    return {"out": str(target), "images": len(rows), "skipped": skipped, "done_before": False}


def _chunks(paths: Sequence[Path], skipped: list[dict[str, str]]) -> Iterator[tuple[list[Path], list[Image.Image]]]:
    names: list[Path] = []
    images: list[Image.Image] = []
    for path in paths:
        try:
            images.append(open_image(path))
        except InputError as error:
            skipped.append({"image": str(path), "reason": str(error)})
            continue
        names.append(path)
        if len(names) == CHUNK or sum(i.width * i.height for i in images) > CHUNK_PIXELS:
            yield names, images
            names, images = [], []
    if names:
        yield names, images
