"""Inversion in bulk: shards, each one file, written then renamed; what is finished is not done again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from accord.data.images import open_image
from accord.data.pair_folders import stream_pairs
from accord.data.pairs import PairsFile, check_table_path, table_bytes
from accord.data.shards import shard_name, share_of
from accord.data.typed import typed_bytes
from accord.files import parse_json, read_json, read_text, write_file
from accord.methods.invert.data import Embed
from accord.methods.invert.inverter import Inverter
from accord.methods.invert.kernel import DomainKernel
from accord.methods.invert.reader import Reader
from accord.reports.gallery import Entry, gallery_beside, write_gallery
from accord.training.fingerprint import fingerprint
from accord.types import InputError, reason_of

CHUNK, CHUNK_PIXELS = 64, 100_000_000  # pictures that are held at once, each at its full size

KINDS = {  # of the columns of a table in Parquet
    "image": "string",
    "prompt": "string",
    "score": "double",
    "words": [{"word": "string", "probability": "double"}],
    "retrieved": [{"prompt": "string", "cosine": "double"}],
    "embedding": ["float"],
}

Chunk = tuple[list[str], list[Image.Image]]  # what pictures are called, and the pictures
Labelled = tuple[
    torch.Tensor, torch.Tensor
]  # predictions [N,E] and true embeddings [N,E] of images that were not trained on


def labelled_by(
    inverter: Inverter, pairs: str | Path, embed: Embed, skipped: PairsFile, progress: bool = False
) -> Labelled:
    """What domain adaptation is fitted on, of pairs that the inverter has not been trained on.

    Raises:
        InputError: if none can be read.
    """
    rows = {str(Path(pair.image)): pair for pair in stream_pairs(pairs, skipped)}
    unread: list[dict[str, str]] = []
    vectors, said = [], []
    for places, images in _shown(_chunks([Path(p) for p in rows], unread), "labelled", len(rows), progress):
        vectors.append(inverter(images)[0])
        said += [rows[p].prompt for p in places]
    for row in unread:
        pair = rows[row["image"]]
        skipped.skip(pair.row, row["reason"].replace(*_shown_as(pair.image, pair.name)))
    if not vectors:
        raise InputError(f"pairs {str(pairs)!r} have no readable picture to adapt with; check the paths")
    return torch.cat(vectors), embed(said).cpu()


def shard_path(out: Path, index: int, count: int) -> Path:
    """`out` itself for one shard, else out-00003-of-00008.suffix.

    Raises:
        InputError: for a kind of file that cannot be written.
    """
    check_table_path(out)
    return out.with_name(shard_name(out.stem, index, count) + out.suffix)


def check_target(target: Path) -> None:
    """Refuse to take a file for a finished table that nothing says was made here.

    Raises:
        InputError: if the file is there without a readable record of what it was made of, or its place cannot be a
            file.
    """
    if target.exists():
        _record(target)


def _record(target: Path) -> dict[str, Any]:
    """What a finished table was made of."""
    kept = target.with_suffix(".made.json")
    if not target.is_file():
        raise InputError(
            f"output {str(target)!r} is no file, and no table can be put in its place; choose another name"
        )
    if not kept.exists():
        raise InputError(
            f"{str(target)!r} is there already, and nothing says that accord made it ({kept.name} is missing); remove "
            "it, or give another `out`"
        )
    return read_json(kept, "record of the table", f"remove it and {target.name}, and invert again")


def _skipped_before(path: Path) -> list[dict[str, str]]:
    """The pictures that a finished table was made without."""
    if not path.exists():
        return []
    mend = "remove it, and the table, and invert again"
    try:
        found = parse_json(read_text(path, "list of skipped pictures"))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"list of skipped pictures {str(path)!r} is no valid JSON ({reason_of(error)}); {mend}"
        ) from error
    if not isinstance(found, list) or any(
        not isinstance(row, dict) or {"image", "reason"} - row.keys() for row in found
    ):
        raise InputError(f"list of skipped pictures {str(path)!r} is no list of pictures and reasons; {mend}")
    return found


def invert_files(
    paths: Sequence[Path],
    out: Path,
    shard: tuple[int, int] = (1, 1),
    reader: Reader | None = None,
    progress: bool = False,
    labelled: Labelled | None = None,
    names: Sequence[str] | None = None,
    gallery: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Invert this shard's share of the files (every N-th) into one table with a row an image.

    Args:
        reader: reads the pictures; if None the embedded inverter, without a bank and readable prompts.
        labelled: what domain adaptation (DAKL) is fitted on, beside this shard's images; none without it.
        names: what the table calls each file; its path if None.
        gallery: whether to write a page of the pictures too, in a folder beside the table.
        options: `top_words` and such, of `Reader`.

    Returns:
        {"out", "images", "skipped": [{"image", "reason"}], "done_before"}, and "gallery", the page, if one was written;
        a finished shard is left as it is. What was skipped, and of what the table was made, is kept beside it, in files
        that end in .skipped.json and .made.json.

    Raises:
        InputError: if the finished shard is of other pictures, was made otherwise or is no table of ours, if none of
            its pictures can be read (nothing is written then), or if domain adaptation would harm.
    """
    index, count = shard
    target = shard_path(Path(out), index, count)
    check_target(target)
    left_out, kept = target.with_suffix(".skipped.json"), target.with_suffix(".made.json")
    reader = reader or Reader.of(readable=False)
    inverter, bank = reader.inverter, reader.bank
    made = {
        "pictures": fingerprint([str(p) for p in paths]),
        "inverter": fingerprint(*inverter.predictors, inverter.weights),
        "bank": bank and fingerprint(bank.prompts),
        "readable": reader.captioner is not None,
        "adapted": labelled and fingerprint(*labelled),
        "suffix": target.suffix,  # a.csv and a.jsonl have one record
    }
    if target.is_file():
        before = {"suffix": target.suffix, **_record(target)}
        other = [k for k in made if before.get(k) != made[k]]
        if other:
            raise InputError(
                f"{str(target)!r} is there already, and was made with other {other[0]!r}; remove it, or give another "
                "`out`"
            )
        return {"out": str(target), "images": 0, "skipped": _skipped_before(left_out), "done_before": True}
    mine = share_of(list(paths), shard)
    called = share_of([str(p) for p in paths] if names is None else list(names), shard)
    if labelled is not None and mine:
        found = [inverter(images)[0] for _, images in _shown(_chunks(mine, []), "adapt", len(mine), progress)]
        if not found:
            raise InputError("no picture can be read, so there is nothing to adapt to; check the paths")
        kernel = DomainKernel.best(*labelled, torch.cat(found))
        reader = replace(reader, inverter=replace(inverter, kernel=kernel))
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for part, images in _shown(_chunks(mine, skipped, called), "invert", len(mine), progress):
        rows += [{"image": n, **r.to_dict()} for n, r in zip(part, reader(images, **options), strict=True)]
    if mine and not rows:
        raise InputError(
            f"none of {len(mine)} pictures can be read (the first: {skipped[0]['reason'].partition(';')[0]}); check "
            "the paths"
        )
    if skipped:  # before the table, which says that all is done
        write_file(left_out, json.dumps(skipped, indent=1).encode())
    else:
        left_out.unlink(missing_ok=True)
    write_file(kept, (json.dumps(made, indent=1) + "\n").encode())
    parquet = target.suffix.lower() == ".parquet"
    write_file(target, typed_bytes(rows, KINDS) if parquet else table_bytes(rows, target.suffix.lower()))
    done = {"out": str(target), "images": len(rows), "skipped": skipped, "done_before": False}
    if gallery and rows:
        done["gallery"] = str(_gallery(target, rows, dict(zip(called, mine, strict=True))))
    return done


def _gallery(target: Path, rows: Sequence[dict[str, Any]], paths: dict[str, Path]) -> Path:
    """The page of a table's pictures, each over the prompt that was read from it."""
    entries = (
        Entry(
            number,
            row["prompt"] or "(words alone)",
            str(paths[row["image"]].absolute()),
            score=row["score"] if row["prompt"] else None,
            words=[{"text": w["word"], "kind": "read", "probability": w["probability"]} for w in row["words"]],
            reasons=[row["image"], *(f"bank, {r['cosine']:.2f}: {r['prompt']}" for r in row["retrieved"])],
        )
        for number, row in enumerate(rows)
    )
    return write_gallery(gallery_beside(target), entries, "accord invert")


def reason_as_named(error: InputError, path: str | Path, name: str) -> str:
    """What is wrong with a picture, which is called what its table calls it: results tell no place of this machine."""
    return str(error).replace(*_shown_as(path, name))


def _shown_as(path: str | Path, name: str) -> tuple[str, str]:
    """A path and a name as sentences show them, without the quotes."""
    return repr(str(path))[1:-1], repr(name)[1:-1]


def _shown(chunks: Iterable[Chunk], what: str, total: int, progress: bool) -> Iterator[Chunk]:
    """These with a bar of pictures, which is not there before the first of them is: what is refused as a whole shows
    none.
    """
    with contextlib.ExitStack() as open_bars:
        bar: tqdm[Any] | None = None
        for chunk in chunks:
            if bar is None:
                bar = open_bars.enter_context(tqdm(total=total, desc=what, disable=not progress))
            yield chunk
            bar.update(len(chunk[0]))


def _chunks(
    paths: Sequence[Path], skipped: list[dict[str, str]], names: Sequence[str] | None = None
) -> Iterator[Chunk]:
    """Pictures that can be read, some at once, and what they are called."""
    taken: list[str] = []
    images: list[Image.Image] = []
    for path, name in zip(paths, [str(p) for p in paths] if names is None else names, strict=True):
        try:
            images.append(open_image(path))
        except InputError as error:
            skipped.append({"image": name, "reason": reason_as_named(error, path, name)})
            continue
        taken.append(name)
        if len(taken) == CHUNK or sum(i.width * i.height for i in images) > CHUNK_PIXELS:
            yield taken, images
            taken, images = [], []
    if taken:
        yield taken, images
