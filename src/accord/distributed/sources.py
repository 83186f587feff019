"""Rows with ids, for workers: tables, folders of pictures, and archives of pictures with their texts.

A row has `id`, a text that no other row has, and of `image` (the bytes of a picture file, or None), `place` (where that
file is, if it is not read yet), `prompt`, `seed`, `width`, `height` and `negative_prompt` what its source says.

    rows.parquet, .jsonl or .csv   a column `id`; pictures as bytes, as {"bytes", "path"}, or as paths and addresses
    a folder of such files         as one table
    shard-000.tar                  webdataset: archive and key are the id; .txt is the prompt, .json says more
    a folder of pictures           the path within the folder is the id
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from accord.data.pair_folders import IMAGE_SUFFIXES
from accord.data.pairs import IMAGE_KEYS, PROMPT_KEYS, whole_number
from accord.data.typed import arrow_type
from accord.distributed.places import Place, around, place_of, within
from accord.types import InputError

TABLES = (".parquet", ".jsonl", ".csv")
BLOCKS = 1024  # that a list of pictures is held in at most
LISTED = 2**16  # names that are held as texts of Python at once
KINDS = {
    "id": "string",
    "image": "binary",
    "place": "string",
    "prompt": "string",
    "seed": "int64",
    "width": "int64",
    "height": "int64",
    "negative_prompt": "string",
    "wrong": "string",
}
Row = dict[str, Any]


class Done:
    """Ids that are done, as sorted digests of 16 bytes: of ten millions 160 MB."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.digests = np.unique(np.fromiter(map(digest, ids), dtype="S16"))

    def __len__(self) -> int:
        return len(self.digests)

    def __contains__(self, name: str) -> bool:
        return bool(self.of([name])[0])

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """bool [N]: which of these are."""
        asked = np.array([digest(name) for name in ids], dtype="S16")
        if not len(self.digests):
            return np.zeros(len(asked), dtype=bool)
        found = np.searchsorted(self.digests, asked).clip(max=len(self.digests) - 1)
        return np.asarray(self.digests[found] == asked)


def digest(name: str) -> bytes:
    """16 bytes of an id; its last is no zero, which numpy would drop."""
    return hashlib.blake2b(name.encode(), digest_size=15).digest() + b"\1"


def table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Rows as a table of Arrow with the columns KINDS."""
    import pyarrow as pa

    schema = pa.schema([(name, arrow_type(kind)) for name, kind in KINDS.items()])
    return pa.Table.from_pylist([{name: row.get(name) for name in KINDS} for row in rows], schema=schema)


def of_rows(rows: Sequence[Row], done: Done, blocks: int) -> Any:
    """A dataset of rows that this process has read, those that are done left out."""
    import ray.data

    left = [row for row in rows if row["id"] not in done]
    if not left:
        return None
    size = -(-len(left) // max(1, min(blocks, len(left))))
    return ray.data.from_arrow([table(left[start : start + size]) for start in range(0, len(left), size)])


def of_place(
    given: Place, done: Done, needs: Sequence[str], seeds: Sequence[int] | None = None
) -> tuple[Any, int | None]:
    """A dataset of a file or folder, and how many rows it has that are not done, if that is known without reading it.

    Args:
        needs: of "image" and "prompt" those that a row must have.
        seeds: of a row that has none; there is a row for each then, and ids end in the seed. Without them rows stay as
            they are.

    Raises:
        InputError: for a place without such files, or a table without ids or what is needed.
    """
    import ray.data

    kind = given.kind()
    if not kind:
        raise InputError(f"{given.shown!r} does not exist; check the path")
    files, pictures = ([given], None) if kind == "file" else _listed(given)
    tables = [f for f in files if f.suffix in TABLES]
    archives = [f for f in files if f.suffix == ".tar"]
    if not tables and not archives:
        if not pictures:
            raise InputError(
                f"{given.shown!r} holds nothing that is read; give Parquet, JSONL, CSV, .tar or a folder of pictures"
            )
        if "prompt" in needs:
            raise InputError(f"{given.shown!r} holds pictures without prompts; give a table of pairs, or a webdataset")
        return _of_pictures(pictures, given.everywhere, done)
    if tables and archives:
        raise InputError(f"{given.shown!r} holds tables and archives; give one kind of them")
    suffixes = sorted({f.suffix for f in files})
    if len(suffixes) > 1:
        raise InputError(f"{given.shown!r} holds files of several kinds ({', '.join(suffixes)}); give one kind")
    paths, told = [f.path for f in files], {"filesystem": given.system}
    if archives:
        data = ray.data.read_webdataset(paths, decoder=None, include_paths=True, **told)
        return data.map_batches(_normalised(_of_archive, given, done, needs, seeds), batch_format="pyarrow"), None
    read = {".parquet": ray.data.read_parquet, ".jsonl": ray.data.read_json, ".csv": ray.data.read_csv}[suffixes[0]]
    data = read(paths, **told)
    _check_columns(data.columns() or [], given, needs)
    return data.map_batches(_normalised(_of_table, given, done, needs, seeds), batch_format="pyarrow"), None


def _listed(given: Place) -> tuple[list[Place], Any]:
    """Tables and archives in a folder, and its pictures' names as one array of Arrow: there may be millions."""
    import pyarrow as pa

    files: list[Place] = []

    def pictures() -> Iterator[str]:
        for name in given.names(*TABLES, ".tar", *IMAGE_SUFFIXES):
            if name.lower().endswith((*TABLES, ".tar")):
                files.append(given / name)
            else:
                yield name

    names = pictures()
    parts = iter(lambda: pa.array(islice(names, LISTED), pa.large_string()), pa.array([], pa.large_string()))
    return files, pa.chunked_array(list(parts), pa.large_string())


def _of_pictures(names: Any, root: str, done: Done) -> tuple[Any, int]:
    """A dataset of a folder's pictures; their rows are made where they are worked on."""
    import pyarrow as pa
    import ray.data

    keep = [pa.array(~done.of(part.to_pylist())) for part in names.chunks]
    left = names.filter(pa.chunked_array(keep, pa.bool_())).combine_chunks()
    if not len(left):
        return None, 0

    def placed(batch: Any) -> Any:
        return table([{"id": name, "place": within(root, name)} for name in batch.column("id").to_pylist()])

    size = max(64, -(-len(left) // BLOCKS))
    data = ray.data.from_arrow([pa.table({"id": left[i : i + size]}) for i in range(0, len(left), size)])
    return data.map_batches(placed, batch_format="pyarrow"), len(left)


def _check_columns(columns: Sequence[str], given: Place, needs: Sequence[str]) -> None:
    if "id" not in columns:
        raise InputError(f"{given.shown!r} has no column 'id', which says what is done already; give each row one")
    for need, keys in (("image", IMAGE_KEYS), ("prompt", PROMPT_KEYS)):
        if need in needs and not set(keys) & set(columns):
            raise InputError(f"{given.shown!r} has no {need} column; name it {need!r}")


def _normalised(
    row_of: Callable[[Row, str], Row], given: Place, done: Done, needs: Sequence[str], seeds: Sequence[int] | None
) -> Any:
    """What makes a batch of a source into rows of KINDS, those that are done left out."""
    root = given.everywhere if given.kind() == "folder" else around(given.everywhere)

    def normalise(batch: Any) -> Any:
        rows = [one for row in batch.to_pylist() for one in seeded(_checked(row_of(row, root), needs), seeds)]
        keep = ~done.of([row["id"] for row in rows])
        return table([row for row, one in zip(rows, keep, strict=True) if one])

    return normalise


def seeded(row: Row, seeds: Sequence[int] | None) -> list[Row]:
    """A row for each seed that it is to have."""
    if seeds is None:
        return [row]
    numbers = seeds if row.get("seed") is None else [row["seed"]]
    return [{**row, "id": f"{row['id']}-s{seed}", "seed": seed} for seed in numbers]


def _checked(row: Row, needs: Sequence[str]) -> Row:
    """The row; what is wrong with it is said in `wrong`."""
    missing = {"image": row.get("image") is None and not row.get("place"), "prompt": not (row.get("prompt") or "")}
    wrong = row.get("wrong") or next((f"no {name}" for name in needs if missing[name]), None)
    return {**row, "wrong": wrong}


def _of_table(row: Row, root: str) -> Row:
    out: Row = {"id": str(row["id"])}
    image = next((row[key] for key in IMAGE_KEYS if row.get(key)), None)
    if isinstance(image, Mapping):  # as the hub's own tables hold pictures
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes):
        out["image"] = image
    elif isinstance(image, str):
        out["place"] = image if "://" in image or image.startswith("/") else within(root, image)
    return out | _said(row)


def _of_archive(row: Row, root: str) -> Row:  # noqa: ARG001 (a picture of an archive has no other place)
    more = row.get("json")
    said = json.loads(more) if isinstance(more, (str, bytes)) else more
    text = row.get("txt")
    out = _said({**(said if isinstance(said, dict) else {})})
    if text:
        out["prompt"] = text.decode("utf8", "replace") if isinstance(text, bytes) else str(text)
    image = next((row[s[1:]] for s in IMAGE_SUFFIXES if isinstance(row.get(s[1:]), bytes)), None)
    archive = str(row.get("path") or "").rpartition("/")[2]
    key = row["__key__"]
    return {**out, "id": f"{archive}/{key.decode() if isinstance(key, bytes) else key}", "image": image}


def _said(row: Row) -> Row:
    """What a row says beside its picture."""
    prompt = next((row[key] for key in PROMPT_KEYS if row.get(key)), None)
    out: Row = {"prompt": " ".join(prompt.split()) if isinstance(prompt, str) else None}
    for name, least in (("seed", 0), ("width", 1), ("height", 1)):
        number = whole_number(row.get(name), name, least)
        if isinstance(number, str):
            out["wrong"] = str(number)
        else:
            out[name] = number
    negative = row.get("negative_prompt")
    out["negative_prompt"] = negative if isinstance(negative, str) and negative else None
    return out


def picture_bytes(row: Row) -> bytes:
    """The picture file of a row. Raises InputError if it cannot be read."""
    if row.get("image") is not None:
        return bytes(row["image"])
    return place_of(row["place"]).read()
