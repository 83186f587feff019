"""Generated inputs: a number makes a file, a folder or a text, sound or damaged, and what reads it through Accord's
public functions.

Reading may succeed or be refused with `InputError`. `Silent` is raised for a result that is not what was written, which
nobody would notice.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from bases import MAKERS, PROMPTS, Bases, moving
from damage import FATAL, damaged_bytes, damaged_json, damaged_tensors, dumped, linked, not_a_file, remove, write
from runs import RUNS


class Silent(AssertionError):
    """A result that is wrong, with nothing said."""


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        what: what it is and what was done to it.
        read: reads it.
        budget: whose budget of memory it has: "picture", "video" or "table"; "" for none.
        writes: whether reading writes into the folder; what is hidden must be gone afterwards all the same.
    """

    what: str
    read: Callable[[], object]
    budget: str = ""
    writes: bool = False


Generator = Callable[[Random, Path, Bases], Case]


def bomb_of(kind: str, rng: Random, suffixes: tuple[str, ...] = ("",)) -> str:
    return rng.choice([n for n in MAKERS if n.startswith(f"{kind}/") and "small" not in n and n.endswith(suffixes)])


# --- pictures
# -------------------------------------------------------------------------------------------------------------
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "WEBP": ("L", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I"),
    "ICO": ("RGBA",),
    "TGA": ("L", "RGB", "RGBA"),
    "EPS": ("RGB",),
    "PDF": ("RGB",),
    "DDS": ("RGBA",),
    "JPEG2000": ("L", "RGB", "RGBA"),
}
USUAL = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def picture_bytes(rng: Random) -> tuple[str, bytes]:
    """A small picture of any usual format and mode."""
    from PIL import Image

    kind = rng.choice(USUAL) if rng.random() < 0.9 else rng.choice(list(MODES))
    mode = rng.choice(MODES[kind])
    size = rng.choice(((1, 1), (1, 90), (64, 64), (33, 17), (rng.randrange(1, 120), rng.randrange(1, 120))))
    frames = [
        _picture(mode, size, rng)
        for _ in range(rng.choice((1, 1, 1, 3)) if kind in ("GIF", "WEBP", "TIFF", "PNG") else 1)
    ]
    options: dict[str, Any] = {}
    if len(frames) > 1:
        options |= {"save_all": True, "append_images": frames[1:]}
    if kind == "JPEG":
        options |= {"progressive": rng.random() < 0.3, "quality": rng.randrange(1, 96)}
    if kind == "TIFF":
        options["compression"] = rng.choice(("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"))
    if kind in ("JPEG", "PNG", "WEBP", "TIFF") and rng.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = rng.randrange(0, 12)  # how it is rotated
        exif[0x010E] = "a note" * rng.randrange(1, 99)
        options["exif"] = exif.tobytes() if rng.random() < 0.6 else damaged_bytes(exif.tobytes(), rng)[1]
    if kind in ("JPEG", "PNG", "WEBP", "TIFF") and rng.random() < 0.2:
        options["icc_profile"] = rng.randbytes(rng.choice((4, 128, 3000)))
    if kind in ("PNG", "GIF") and mode in ("L", "P", "RGB") and rng.random() < 0.2:
        options["transparency"] = (1, 2, 3) if mode == "RGB" and kind == "PNG" else 1
    data = io.BytesIO()
    for told in (options, {}):
        with suppress(Exception):  # not every mode goes with every option
            data.seek(0)
            frames[0].save(data, kind, **told)
            return f"{kind} {mode}", data.getvalue()
    Image.new("RGB", size).save(data, "PNG")
    return "PNG RGB", data.getvalue()


def _picture(mode: str, size: tuple[int, int], rng: Random) -> Any:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    if rng.random() < 0.6:
        noise[:] = noise[0, 0]
    picture = Image.fromarray(noise)
    if mode == "F":
        odd = rng.choice((1.0, 1e-9, 1e30, -5.0, float("nan"), float("inf")))
        return Image.fromarray(np.asarray(picture.convert("L"), np.float32) * np.float32(odd))
    if mode in ("I", "I;16"):
        kind = np.int32 if mode == "I" else np.uint16
        return Image.fromarray((np.asarray(picture.convert("L"), np.int64) * rng.choice((1, 256, -300))).astype(kind))
    if mode == "LAB":
        return Image.merge("LAB", picture.split())
    return picture.convert(mode)


def huge_header(data: bytes, rng: Random) -> bytes:
    """The same data under a head that tells of another size."""
    import zlib

    side = rng.choice((0, 1, 2**15, 2**16 - 1, 100_000, 2**31 - 1, 2**32 - 1))
    out = bytearray(data)
    if data[:4] == b"\x89PNG":
        out[16:24] = side.to_bytes(4, "big") + rng.choice((1, side)).to_bytes(4, "big")
        if rng.random() < 0.5:
            out[24:26] = bytes((rng.choice((1, 2, 4, 8, 16, 9)), rng.choice((0, 2, 3, 4, 6, 5))))
        out[29:33] = zlib.crc32(out[12:29]).to_bytes(4, "big")
    elif data[:2] == b"BM":
        out[18:26] = side.to_bytes(4, "little") * 2
    elif data[:3] == b"GIF":
        out[6:10] = (side % 2**16).to_bytes(2, "little") * 2
    elif (at := data.find(b"\xff\xc0")) > 0 or (at := data.find(b"\xff\xc2")) > 0:
        out[at + 5 : at + 9] = (side % 2**16).to_bytes(2, "big") * 2
    elif data[:2] in (b"II", b"MM"):
        end = "little" if data[:2] == b"II" else "big"
        for tag in (256, 257):
            if (at := data.find(tag.to_bytes(2, end))) > 0:
                out[at + 8 : at + 12] = side.to_bytes(4, end)  # type: ignore[arg-type]
    elif data[:4] == b"RIFF" and data[12:16] == b"VP8X":
        out[24:30] = (side % 2**24).to_bytes(3, "little") * 2
    return bytes(out)


def write_picture(path: Path, rng: Random, bases: Bases) -> str:
    """A picture file, sound or damaged."""
    what, data = picture_bytes(rng)
    chance = rng.random()
    if chance < 0.15:
        pass
    elif chance < 0.85:
        how, data = damaged_bytes(data, rng, picture_bytes(rng)[1])
        what = f"{what}, {how}"
    elif chance < 0.95:
        data, what = huge_header(data, rng), f"{what}, another size in its head"
    elif chance < 0.985:
        return not_a_file(path, rng)
    else:
        name = bomb_of("pictures", rng)
        if rng.random() < 0.5:
            path.symlink_to(bases(name))
            return name
        how, data = damaged_bytes(bases(name).read_bytes(), rng)
        what = f"{name}, {how}"
    write(path, data)
    return what


def pictures(rng: Random, folder: Path, bases: Bases) -> Case:
    from accord.data.images import fit, open_image, to_tensor

    name = rng.choice(("a", "a", "é\u202eb", "x" * 200, "a b", "-a", os.fsdecode(b"\xff\xfe"))) + rng.choice(SUFFIXES)
    path = folder / name
    what = write_picture(path, rng, bases)

    def read() -> None:
        image = open_image(path)
        if image.mode != "RGB":
            raise Silent(f"a picture of mode {image.mode}")
        if image.width * image.height < 2**20:
            pixels = fit(to_tensor(image), 64)
            if not bool(pixels.isfinite().all()) or float(pixels.min()) < 0 or float(pixels.max()) > 1:
                raise Silent("pixels outside of 0..1")

    return Case(what, read, "picture")


# --- videos
# ----------------------------------------------------------------------------------------------------------------
def videos(rng: Random, folder: Path, bases: Bases) -> Case:
    from accord.data.video import read_video

    start, stop, fps = rng.choice((0,) * 8 + (2, 10**6, -1)), rng.choice((None,) * 5 + (4, 1, 0, 10**9)), None
    if rng.random() < 0.35:
        path, what = folder / rng.choice(("frames", "frames.mp4", "frames.gif")), "frames"
        path.mkdir()
        for i, frame in enumerate(moving(rng.randrange(0, 5))):
            frame.save(path / f"{i:05d}.{rng.choice(('png', 'jpg'))}")
        for _ in range(rng.choice((0, 0, 1, 2))):
            name = rng.choice(
                (
                    "00001.png",
                    "00000.jpg",
                    "٣.png",
                    "²3.png",
                    "a.txt",
                    ".hidden.png",
                    "9" * 200 + ".png",
                    "12.PNG",
                    "²²²٣٣.jpg",
                )
            )
            remove(path / name)
            what += f", {name[:20]}: {write_picture(path / name, rng, bases)}"
        fps = rng.choice((None, 8, 24.0, 0, -3, float("nan"), float("inf"), 1e300, 1e-300))
        what += f", fps {fps}"
    else:
        name = f"videos/small.{rng.choice(('gif', 'mp4', 'webm', 'mkv', 'avi'))}"
        if rng.random() < 0.06:
            name = bomb_of("videos", rng)
        path, what, data = (
            folder / f"a{rng.choice((Path(name).suffix,) * 5 + ('.gif', '.mp4', '.webm', '.mov', '.txt'))}",
            name,
            bases(name).read_bytes(),
        )
        if rng.random() < 0.05:
            what = not_a_file(path, rng)
        else:
            if rng.random() < 0.75:
                how, data = damaged_bytes(
                    data, rng, bases(f"videos/small.{rng.choice(('gif', 'mp4', 'webm'))}").read_bytes()
                )
                what = f"{name}, {how}"
            write(path, data)

    def read() -> None:
        video = read_video(path, start, stop, fps)
        if not len(video) or not 0 < video.fps < math.inf:
            raise Silent(f"{len(video)} frames at {video.fps}")
        if fps is not None and not 0 < fps < math.inf:
            raise Silent(f"fps {fps} was taken")
        if fps is not None and abs(float(video.fps) / fps - 1) > 0.01:
            raise Silent(f"fps {fps} became {video.fps}")

    return Case(f"{what}, {start}:{stop}", read, "video")


# --- tables
# ---------------------------------------------------------------------------------------------------------------
ODD_TEXTS = (
    "a red star",
    "two green fish, and a key",
    'a "quoted" star',
    "a star\nand a key",
    "=1+1",
    "-a",
    "@x",
    " padded ",
    "ein Würfel",
    "星と鍵",
    "a star; a key",
    "line\u2028separator",
    "next\x85line",
    "form\x0cfeed",
    "null\0byte",
    "tab\there",
    "\ufeffmark",
    "🌟" * 9,
    "مفتاح",
    "x" * 200_000,
    "'",
    "a\\",
    "nan",
    "1e999",
)


def _said(text: Any) -> str:
    """A prompt as readers give it: spaces joined, nothing around it."""
    return " ".join(str(text).split())


def _texts(rng: Random) -> list[str]:
    odd = 0.5 if rng.random() < 0.7 else 0.0
    return [
        rng.choice(ODD_TEXTS) if rng.random() < odd else f"{rng.choice(PROMPTS)} {i}"
        for i in range(rng.randrange(1, 30))
    ]


def _table_text(rng: Random, texts: list[str], suffix: str) -> tuple[str, str]:
    """(what was done, the table)."""
    out = io.StringIO()
    separator = "\t" if suffix == ".tsv" else rng.choice((",",) * 8 + (";", "|", "\t"))
    columns = rng.choice(
        (
            ["image", "prompt"],
            ["prompt", "image"],
            ["file_name", "text", "seed"],
            ["image", "caption", "prompt"],
            ["Image", "Prompt"],
            ["prompt"],
            [" prompt ", "image"],
        )
    )
    if rng.random() < 0.08:
        columns = rng.choice(
            (
                ["image", "prompt", "prompt"],
                ["prompt", "prompt"],
                ["a", "b"],
                [""],
                ["image", "prompt", ""],
                ["image", "image", "prompt"],
            )
        )
    writer = csv.writer(out, delimiter=separator, lineterminator=rng.choice(("\n", "\r\n", "\n", "\r")))
    if rng.random() < 0.9:
        writer.writerow(columns)
    for i, text in enumerate(texts):
        writer.writerow([text if c.strip().lower() in ("prompt", "caption", "text") else f"{i}.png" for c in columns])
    how = rng.choice(("sound",) * 4 + ("unquoted", "unclosed", "longer rows", "shorter rows", "blank rows"))
    lines = out.getvalue().split("\n")
    at = rng.randrange(len(lines))
    if how == "unquoted":
        lines = [line.replace('"', "") for line in lines]
    elif how == "unclosed":
        place = rng.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:place] + '"' + lines[at][place:]
    elif how == "longer rows":
        lines[at] += f"{separator}and more{separator}x"
    elif how == "shorter rows" and at:
        lines[at] = lines[at].split(separator)[0]
    elif how == "blank rows":
        lines[at] += "\n\n , \n"
    return f"{how}, {separator!r}, {columns}", "\n".join(lines)


def _json_rows(rng: Random, texts: list[str]) -> list[Any]:
    rows: list[Any] = []
    for i, text in enumerate(texts):
        row: Any = {
            rng.choice(("image", "file_name")): f"{i}.png",
            rng.choice(("prompt", "prompt", "text", "caption")): text,
        }
        if rng.random() < 0.1:
            row = rng.choice(
                (
                    [text],
                    [text, text],
                    text,
                    None,
                    3,
                    {"prompt": [text]},
                    {"prompt": {"text": text}},
                    {"image": 3, "prompt": text},
                    {"prompt": 5},
                    {},
                    [row],
                    {"image": {"bytes": "x"}, "prompt": text},
                    {"image": "\0", "prompt": text},
                    {"image": "\ud800", "prompt": "\udfff"},
                )
            )
        rows.append(row)
    return rows


def _json_line(row: Any, rng: Random) -> str:
    text = json.dumps(row, ensure_ascii=rng.random() < 0.5, allow_nan=True)
    chance = rng.random()
    if chance < 0.02:
        return "[" * 100_000
    if chance < 0.03:
        return '{"prompt": "a star", "image": "a.png", "seed": ' + "9" * 5000 + "}"
    if chance < 0.05:
        return '{"prompt": "a star", "prompt": "a key", "image": "a.png"}'
    if chance < 0.06:
        return '{"prompt": "a star", "image": "a.png", "seed": NaN}'
    if chance < 0.08:
        return text[: rng.randrange(len(text) + 1)]
    if chance < 0.09:
        return text + text
    return text


def tables(rng: Random, folder: Path, bases: Bases) -> Case:
    from accord.data.pair_folders import stream_pairs
    from accord.data.pairs import PairsFile, read_pairs
    from accord.data.prompt_files import read_prompts

    suffix = rng.choice((".csv", ".csv", ".jsonl", ".jsonl", ".json", ".tsv", ".txt", ".parquet", ".parquet", "folder"))
    if suffix == "folder":
        return pair_folders(rng, folder, bases)
    path, texts = folder / f"a{suffix}", _texts(rng)
    trusted = True  # whether what is read can be compared with what was written
    if suffix == ".parquet":
        what, data, trusted = parquet_bytes(rng, texts, bases)
    elif suffix in (".csv", ".tsv"):
        what, text = _table_text(rng, texts, suffix)
        data = text.encode("utf8", "surrogatepass")
    elif suffix == ".jsonl":
        end = rng.choice(("\n", "\n", "\r\n", "\n\n"))
        what, data = (
            "rows",
            end.join(_json_line(r, rng) for r in _json_rows(rng, texts)).encode("utf8", "surrogatepass"),
        )
    elif suffix == ".json":
        rows: Any = _json_rows(rng, texts)
        value = rng.choice((rows, {"annotations": rows}, {"prompts": texts}, texts, {"annotations": {"a": 1}}))
        what, data = "JSON", dumped(value)
        if rng.random() < 0.3:
            what, data = damaged_json(value, rng)
            trusted = False
    else:
        texts = [t.replace("\n", " ") for t in texts]
        what, data = "lines", rng.choice(("\n", "\r\n", "\r")).join(texts).encode("utf8", "surrogatepass")
    chance = rng.random()
    if chance < 0.06 and suffix != ".parquet":
        encoding = rng.choice(("latin-1", "utf-16", "utf-32", "shift_jis", "cp1252", "utf-8-sig", "utf-7"))
        data = data.decode("utf8", "replace").encode(encoding, "replace")
        what, trusted = f"{what}, {encoding}", False
    elif chance < 0.3:
        how, data = damaged_bytes(data, rng)
        what, trusted = f"{what}, {how}", False
    write(path, data)
    if chance > 0.97:
        what = not_a_file(path, rng)
    readers: list[Callable[[], list[str]]] = []
    if suffix in (".csv", ".jsonl", ".parquet"):
        readers += [
            lambda: [p.prompt for p in read_pairs(path).pairs],
            lambda: [p.prompt for p in stream_pairs(path, PairsFile())],
        ]
    if suffix in (".csv", ".jsonl", ".json", ".tsv", ".txt"):
        readers.append(lambda: read_prompts(path))
    reader = rng.choice(readers)
    # a text that is no UTF-8 has "?" in it
    lines = [line for t in texts for line in t.split("\n")]  # without its quotes a text of two lines is two rows
    written = {
        _said(t.lstrip("\ufeff")).replace('"', "")
        for t in [
            *texts,
            *lines,
            *(t.replace("\0", "") for t in texts),
            "a star",
            "a key",
            "5",
            "3",
            "prompt",
            "Prompt",
            "",
            *(f"{i}.png" for i in range(len(texts))),
        ]
    }  # of a table of one column without a name

    # rows that were put between the others may be read: their cells are texts too
    trusted = trusted and not any(odd in what for odd in ("longer rows", "blank rows"))

    def read() -> None:
        found = reader()
        if not trusted:
            return
        for prompt in found:
            if _said(prompt).replace('"', "") not in written and "?" not in prompt and "\ufeff" not in prompt:
                raise Silent(f"the prompt {prompt[:60]!r} was read, which nobody wrote")

    return Case(f"{suffix}: {what}", read, "table")


def parquet_bytes(rng: Random, texts: list[str], bases: Bases) -> tuple[str, bytes, bool]:
    """(what it is, a Parquet file, whether its prompts are texts)."""
    import datetime
    import decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    if rng.random() < 0.03:
        name = bomb_of("tables", rng)
        return name, bases(name).read_bytes(), False
    images: Any = [f"{i}.png" for i in range(len(texts))]
    prompts: Any = pa.array([t.replace("\0", "") for t in texts])
    kind = rng.choice(
        ("text",) * 3
        + (
            "large",
            "dictionary",
            "bytes",
            "list",
            "struct",
            "numbers",
            "nulls",
            "dates",
            "decimal",
            "picture",
            "bad UTF-8",
            "twice",
            "none",
            "metadata",
        )
    )
    columns: dict[str, Any] = {"image": images, "prompt": prompts}
    if kind == "large":
        columns["prompt"] = prompts.cast(pa.large_string())
    elif kind == "dictionary":
        columns["prompt"] = prompts.dictionary_encode()
    elif kind == "bytes":
        columns["prompt"] = prompts.cast(pa.binary())
    elif kind == "list":
        columns["prompt"] = pa.array([[t] for t in texts])
    elif kind == "struct":
        columns["prompt"] = pa.array([{"text": t, "deep": [{"a": 1}]} for t in texts])
    elif kind == "numbers":
        columns["prompt"] = list(range(len(texts)))
    elif kind == "nulls":
        columns["prompt"] = pa.nulls(len(texts))
    elif kind == "dates":
        odd = rng.choice((2**62, -(2**62), 0))
        columns[rng.choice(("prompt", "when"))] = pa.array([odd] * len(texts), pa.int64()).cast(
            pa.timestamp(rng.choice(("ms", "us", "ns"))), safe=False
        )
    elif kind == "decimal":
        columns["prompt"] = pa.array([decimal.Decimal(7)] * len(texts), pa.decimal128(38))
    elif kind == "picture":
        columns["image"] = pa.array([{"bytes": b"x", "path": "a.png"}] * len(texts))
    elif kind == "bad UTF-8":
        columns["prompt"] = pa.Array.from_buffers(
            pa.string(), len(texts), pa.array([b"\xff\xfe"] * len(texts), pa.binary()).buffers()
        )
    elif kind == "metadata":
        columns["extra"] = pa.array([datetime.date(1, 1, 1)] * len(texts))
    table = pa.table(columns)
    if kind == "twice":
        table = pa.Table.from_arrays([pa.array(images), prompts, prompts], names=["image", "prompt", "prompt"])
    elif kind == "none":
        table = table.slice(0, 0)
    out = io.BytesIO()
    pq.write_table(
        table, out, row_group_size=rng.choice((1, 7, 1000)), compression=rng.choice(("snappy", "zstd", "gzip", "none"))
    )
    return f"Parquet, {kind}", out.getvalue(), kind in ("text", "large", "dictionary", "metadata")


def pair_folders(rng: Random, folder: Path, bases: Bases) -> Case:
    """Folders in DiffusionDB's layout, or with a table in them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from accord.data.pair_folders import list_images, stream_pairs
    from accord.data.pairs import PairsFile

    inside = folder / "images" if rng.random() < 0.2 else folder
    written = {""}
    rows: list[dict[str, Any]] = []
    for number in range(1, rng.randrange(1, 4)):
        part = inside / f"part-{number:06d}"
        part.mkdir(parents=True)
        index: dict[str, Any] = {}
        for i in range(rng.randrange(0, 4)):
            name, prompt = f"{number}-{i}.png", f"{rng.choice(PROMPTS)} {number} {i}"
            moving(1)[0].save(part / name)
            index[name] = {"p": prompt, "se": 1, "c": 5.0, "st": 3, "sa": "x"}
            rows.append({"image_name": name, "prompt": prompt, "part_id": number})
            written.add(prompt)
        (part / f"{part.name}.json").write_bytes(dumped(index) if rng.random() < 0.5 else damaged_json(index, rng)[1])
        if rng.random() < 0.1:
            not_a_file(part / f"{part.name}.json", rng)
    if rng.random() < 0.2:
        hidden = inside / f".part-000009.{rng.randrange(9)}.part"  # what a killed process has left is no part
        hidden.mkdir(parents=True, exist_ok=True)
        (hidden / "part-000009.json").write_text(json.dumps({"x.png": {"p": "left over"}}))
    if rng.random() < 0.5 and rows:
        odd = rng.choice(
            (
                lambda r: r,
                lambda r: {**r, "part_id": rng.choice((str(r["part_id"]), "²", "-1", "999999999999"))},
                lambda r: {**r, "part_id": None},
            )
        )
        out = io.BytesIO()
        pq.write_table(
            pa.Table.from_pylist(
                [odd(r) | {"part_id": str(odd(r)["part_id"])} for r in rows] if rng.random() < 0.5 else rows
            ),
            out,
        )
        write(
            folder / "metadata.parquet", out.getvalue() if rng.random() < 0.6 else damaged_bytes(out.getvalue(), rng)[1]
        )
    if rng.random() < 0.3:
        (folder / "metadata.jsonl").write_text(
            "\n".join(json.dumps({"file_name": f"part-000001/{r['image_name']}", "text": r["prompt"]}) for r in rows)
        )
    if rng.random() < 0.1 and (folder / "metadata.jsonl").exists():
        not_a_file(folder / "metadata.jsonl", rng)
    if rng.random() < 0.15:
        (folder / "loop").symlink_to(".")

    listed = rng.random() < 0.2

    def read() -> None:
        if listed:
            list_images(folder)
        for pair in stream_pairs(folder, PairsFile()):
            if pair.prompt == "left over":
                raise Silent("what a killed process left was read")

    return Case("a folder of pairs", read, "table")


# --- prompts
# --------------------------------------------------------------------------------------------------------------
WORDS = (
    "a an the two 2 2024 three no not without red big star stars key cat dogs on of to the left of above behind and , "
    ". ; : ! ? ( ) (star:1.3) [key] {a|b} <lora:x:1> "
    "BREAK background pair photo painting walking being \n \t \u200b \u202e \u2066 \u0301 \ud83c 🌟 👨‍👩‍👧 ² ٣ Ⅷ ½ ß İ "
    "ﬁ ａ 中 一个 مفتاح \0 \x07 \x1b[31m ' ’ - -- _ __ 1e9 99999999999999999999 0 it's o’clock"
).split(" ")


def prompt_text(rng: Random) -> str:
    how = rng.choice(("words", "words", "words", "characters", "long", "letters", "one"))
    if how == "words":
        return rng.choice((" ", "", "  ", ", ")).join(rng.choice(WORDS) for _ in range(rng.randrange(0, 40)))
    if how == "characters":
        return "".join(
            chr(rng.randrange(rng.choice((128, 0x300, 0x3000, 0x110000)))) for _ in range(rng.randrange(0, 80))
        )
    if how == "letters":  # of one kind: all that count as digits, marks, spaces
        kind = rng.choice(("Nd", "No", "Nl", "Mn", "Zs", "Cf", "Lm", "Pd", "Sk", "Cc", "Cs"))
        return "".join(rng.choice(_of_kind(kind)) for _ in range(rng.randrange(1, 30)))
    if how == "long":
        return rng.choice((" ", ", ", " and ", "")).join(
            [rng.choice(("a red star", "x", "2", "big", "the left of", "star", "🌟", "two"))]
            * rng.choice((100, 3000, 100_000))
        )
    return rng.choice(WORDS)


@cache
def _of_kind(kind: str) -> str:
    return "".join(c for c in map(chr, range(0x20000)) if unicodedata.category(c) == kind) or "x"


@cache
def _pipe(bases: Bases, name: str = "models/sd") -> Any:
    """A pipeline that is used and never changed."""
    from accord.diffusion.pipelines import load

    return load(str(bases(name)), "cpu")


def prompts(rng: Random, folder: Path, bases: Bases) -> Case:
    from accord.data.lexicon import DEFAULT
    from accord.diffusion.pipelines import check_prompt_length, token_spans
    from accord.prompts.phrases import phrases_of
    from accord.prompts.swaps import exchanged, spelled, swaps
    from accord.types import InputError

    text, pipe = prompt_text(rng), _pipe(bases)

    def read() -> None:
        refused = None
        try:
            check_prompt_length(pipe, text)
        except InputError as error:
            refused = error
        else:
            token_spans(pipe, text)
        prompt = phrases_of(text)
        words = prompt.words
        for word in words:
            # a noun of a negative prompt, which the plain text has not, has no place
            if word.start < word.end and prompt.text[word.start : word.end] != word.text:
                raise Silent(f"the word {word.text!r} is not at its place")
        for word in rng.sample(words, min(5, len(words))) if len(text) < 5000 else words[:1]:
            for _, changed in swaps(prompt, word, DEFAULT):
                changed.encode("utf8")
        if len(text) < 5000:
            spelled(prompt)
            if len(words) > 1:
                exchanged(prompt.text, words[0], words[-1])
        if refused is not None:
            raise refused

    return Case(f"{text[:40]!r}, {len(text)} letters", read)


# --- models
# ---------------------------------------------------------------------------------------------------------------
EVIL = """import pathlib
pathlib.Path({canary!r}).write_text("run")
class Evil:
    def __init__(self, *args, **kwargs): pass
    @classmethod
    def from_pretrained(cls, *args, **kwargs): return cls()
    from_dict = from_config = register_for_auto_class = from_pretrained
"""


class _Opened:
    """A pickle that writes a file when it is opened."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return open, (str(self.canary), "w")


def _load_pipeline(path: Path, bases: Bases) -> Any:
    import accord

    return [m for m in accord.load(str(path), "cpu").components.values() if hasattr(m, "parameters")]


def _load_captioner(path: Path, bases: Bases) -> Any:
    import accord

    captioner = accord.load_captioner(str(path))
    return [captioner]


def _load_clip(path: Path, bases: Bases) -> Any:
    import accord

    return [accord.load_clip(str(path))]


def _load_sentence(path: Path, bases: Bases) -> Any:
    import accord

    return [accord.load_sentence(str(path))]


def _load_inverter(path: Path, bases: Bases) -> Any:
    import accord

    return accord.Inverter.from_pretrained(path).predictors


def _load_lora(path: Path, bases: Bases) -> Any:
    import accord

    pipe = accord.load(str(bases("models/sd")), "cpu", lora=path)
    before = _pipe(bases).unet.state_dict()
    found = [p for n, p in pipe.unet.named_parameters() if "lora" in n]
    if not found or not any(bool(p.count_nonzero()) for p in found) or len(pipe.unet.state_dict()) == len(before):
        raise Silent("the adapter is not on")
    return [pipe.unet]


def _load_context(path: Path, bases: Bases) -> Any:
    import accord

    pipe = accord.load(str(bases("models/sd")), "cpu")
    return [accord.load_context(pipe, path)[0], pipe.unet]


LOADERS: dict[str, Callable[[Path, Bases], Any]] = {
    "sd": _load_pipeline,
    "sdxl": _load_pipeline,
    "blip": _load_captioner,
    "clip": _load_clip,
    "sentence": _load_sentence,
    "inverter": _load_inverter,
    "lora": _load_lora,
    "context-frozen": _load_context,
    "context-lora": _load_context,
    "context-full": _load_context,
}


def _finite(modules: Any) -> None:
    for module in modules:
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_meta:
                raise Silent(f"{name} has no numbers")
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise Silent(f"{name} is not finite")


def models(rng: Random, folder: Path, bases: Bases) -> Case:
    kind = rng.choice(
        (
            "sd",
            "sd",
            "sdxl",
            "blip",
            "blip",
            "clip",
            "clip",
            "sentence",
            "inverter",
            "inverter",
            "lora",
            "lora",
            *(k for k in LOADERS if "context" in k),
        )
    )
    target, canary = linked(bases(f"models/{kind}"), folder / "model"), folder / "canary"
    files = sorted(p for p in target.rglob("*") if p.suffix in (".json", ".safetensors", ".txt"))
    files = [
        p for p in files if "pipeline" not in p.relative_to(target).parts or p.parent.name == "unet"
    ]  # all that is read of a context's pipeline
    fatal, done = False, []
    chosen = [
        rng.choice([p for p in files if p.suffix == rng.choice((".json", ".json", ".safetensors", ".txt"))] or files)
    ]
    if rng.random() < 0.25:
        chosen += rng.sample([p for p in files if p not in chosen], min(1, len(files) - 1))
    for path in chosen:
        place, chance = str(path.relative_to(target)), rng.random()
        if chance < 0.07:
            how = not_a_file(path, rng)
        elif chance < 0.12 and path.suffix == ".safetensors":
            how = _pickled(path, rng, canary)
            fatal = fatal or "beside" not in how
        elif path.suffix == ".safetensors":
            how, data = damaged_tensors(path.read_bytes(), rng)
            fatal = fatal or (
                how.startswith(FATAL) and not ("pooler" in how and kind == "sentence")
            )  # whose states are pooled by their mean
            write(path, data)
        elif path.suffix == ".json":
            how, data = damaged_json(json.loads(path.read_bytes()), rng)
            write(path, data)
        else:
            how, data = damaged_bytes(path.read_bytes(), rng)
            write(path, data)
        done.append(f"{place}: {how}")
    for inner in [p for p in (target, *target.rglob("*")) if p.is_dir() and not p.is_symlink()]:
        (inner / "evil.py").write_text(EVIL.format(canary=str(canary)))

    def read() -> None:
        try:
            modules = LOADERS[kind](target, bases)
            _finite(modules)
            if fatal:
                raise Silent("it was loaded")
        finally:
            if canary.exists():
                canary.unlink()
                raise Silent("code of the folder was run")

    return Case(f"{kind}, {'; '.join(done)}", read)


def _pickled(path: Path, rng: Random, canary: Path) -> str:
    """Weights as a pickle, sound or with code in it."""
    import pickle

    import torch
    from safetensors.torch import load_file

    names = {
        "diffusion_pytorch_model": "diffusion_pytorch_model.bin",
        "pytorch_lora_weights": "pytorch_lora_weights.bin",
    }
    target = path.with_name(names.get(path.stem, "pytorch_model.bin"))
    tensors, how = load_file(path), rng.choice(("instead", "instead", "beside"))
    if rng.random() < 0.5:
        torch.save(tensors, target)
    else:
        target.write_bytes(pickle.dumps(_Opened(canary)))
    if how == "instead":
        path.unlink()
    return f"a pickle {how}"


# --- runs
# -----------------------------------------------------------------------------------------------------------------
CHOSEN = ("loop",) * 8 + ("inverter", "reward", "context", "edit", "pairs", "pairs", "table", "table")
# whose damage shows: a run that goes on after it must end where it would have ended without
PLAIN = ("config.json", "curve.jsonl", "curve.png", "metadata.parquet", "words.skipped.json", "words.made.json")


def run_files(rng: Random, folder: Path, bases: Bases) -> Case:
    name = rng.choice(CHOSEN)
    kind, base = RUNS[name], bases(f"runs/{name}")
    state = rng.choice(("half", "half", "half", "whole"))
    target = linked(base / state, folder / "run")
    for link in [p for p in target.rglob("*") if p.is_file()]:  # a run may write into its files
        write(link, link.read_bytes())
    wanted = json.loads((base / "artefacts.json").read_text())
    files = sorted(p for p in target.rglob("*") if p.is_file() and "tensorboard" not in p.parts)
    same, done = True, []
    for path in rng.sample(files, min(len(files), rng.choice((1, 1, 2)))):
        place, chance = str(path.relative_to(target)), rng.random()
        if chance < 0.1:
            how = f"{not_a_file(path, rng)} instead"
        elif chance < 0.2:
            how = "missing"
            path.unlink()
        elif path.suffix == ".safetensors":
            how, data = damaged_tensors(path.read_bytes(), rng)
            same = same and not how.startswith(
                ("flipped", "zeroed", "spliced", "repeated", "appended", "header", "noise")
            )
            write(path, data)
        elif path.suffix == ".json":
            how, data = damaged_json(json.loads(path.read_bytes()), rng)
            same = same and path.name in PLAIN
            write(path, data)
        else:
            how, data = damaged_bytes(path.read_bytes(), rng)
            same = same and path.name in PLAIN
            write(path, data)
        done.append(f"{place}: {how}")
    if any(place in " ".join(done) for place in wanted):
        same = False  # of a finished thing that is kept, a byte that was changed is not seen
    if rng.random() < 0.2:
        done.append(
            _leave_over(
                target,
                {"table": ".accord.words.jsonl.lock", "pairs": ".accord.shard-1-of-1.lock"}.get(name, ".accord.lock"),
                rng,
            )
        )
    with_rate: dict[str, float] = {}
    if name == "loop" and rng.random() < 0.15:  # the settings are lost, and it is called with others
        remove(target / "config.json")
        with_rate, same = {"learning_rate": 3e-2}, True
        done = ["config.json is lost, and the rate is another"]

    def read() -> None:
        RUNS[name].resume(target, bases, **with_rate)
        if not same:
            return
        expected = wanted
        if with_rate:
            RUNS[name].resume(folder / "anew", bases, **with_rate)
            expected = kind.artefacts(folder / "anew")
        found = kind.artefacts(target)
        if found != expected:
            other = sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
            raise Silent(f"it ended elsewhere: {other[0]}")

    return Case(f"{name}, {state}, {'; '.join(done)}", read, writes=True)


def _leave_over(folder: Path, lock: str, rng: Random) -> str:
    """What a killed process may have been writing."""
    from accord.files import _host

    host = _host()
    dead = 2**22 - 1  # the highest number that a process can have here
    name = rng.choice((f".accord.{host}.{dead}-5.0.part.json", f".accord.{host}.{dead}-5.3.part", lock))
    place = (
        rng.choice([p for p in (folder, folder / "checkpoints") if p.is_dir() and (p == folder or "lock" not in name)])
        / name
    )
    if name.endswith(".part"):
        place.mkdir()
        (place / "x").write_bytes(b"x")
    else:
        place.write_bytes(b"3 on nowhere\n")
    return f"left over: {name}"


KINDS: dict[str, Generator] = {
    "pictures": pictures,
    "videos": videos,
    "tables": tables,
    "prompts": prompts,
    "models": models,
    "runs": run_files,
}
SHARES = {"pictures": 34, "tables": 30, "prompts": 16, "videos": 6, "models": 11, "runs": 3}  # of a hundred inputs
_ORDER = [kind for _, kind in sorted(((k + 0.5) / share, kind) for kind, share in SHARES.items() for k in range(share))]


def kind_of(number: int) -> str:
    """Which kind input `number` is of, where all are asked for: spread evenly."""
    return _ORDER[number % len(_ORDER)]


def make(kind: str, number: int, folder: Path, bases: Bases) -> Case:
    """Input `number` of a kind, in an empty folder: the same each time."""
    return KINDS[kind](Random(f"{kind} {number}"), folder, bases)
