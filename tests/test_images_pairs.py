"""Pictures and pairs files in, whatever they look like."""

import csv
import io
import json
import os
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from conftest import png_chunk
from PIL import Image

from accord.data.images import Pictures, crop, fit, open_image, to_pil, to_tensor
from accord.data.pairs import read_pairs, table_bytes
from accord.types import InputError, Pair


# --- pictures ------------------------------------------------------------------------------------------------------
def opened(tmp_path, image: Image.Image, name: str = "x.png", **kwargs) -> np.ndarray:
    image.save(tmp_path / name, **kwargs)
    found = open_image(tmp_path / name)
    assert found.mode == "RGB"
    return np.asarray(found)


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_rgb_comes_back_as_it_is(tmp_path):
    pixels = random_pixels(5, 7, 3)
    assert np.array_equal(opened(tmp_path, Image.fromarray(pixels)), pixels)


def test_a_str_path_works(tmp_path):
    Image.new("RGB", (3, 2), "red").save(tmp_path / "x.png")
    assert open_image(str(tmp_path / "x.png")).size == (3, 2)


def test_pictures_are_opened_when_they_are_asked_for(tmp_path):
    for i in range(4):
        Image.new("RGBA", (3 + i, 2), (255, 0, 0, 255)).save(tmp_path / f"{i}.png")
    pictures = Pictures([tmp_path / f"{i}.png" for i in range(4)])
    assert len(pictures) == 4 and [(p.width, p.mode) for p in pictures[1:3]] == [(4, "RGB"), (5, "RGB")]
    (tmp_path / "2.png").unlink()
    assert pictures[-1].width == 6
    with pytest.raises(InputError, match=r"2\.png"):
        list(pictures)


def test_gray_and_bilevel_become_rgb(tmp_path):
    pixels = random_pixels(4, 4)
    assert np.array_equal(opened(tmp_path, Image.fromarray(pixels)), np.stack([pixels] * 3, -1))
    assert np.array_equal(opened(tmp_path, Image.fromarray(pixels > 100)), np.stack([(pixels > 100) * 255] * 3, -1))


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0] = [(200, 0, 0, 255), (200, 0, 0, 0), (200, 0, 0, 51)]
    found = opened(tmp_path, Image.fromarray(pixels))
    assert np.abs(found[0].astype(int) - [(200, 0, 0), (255, 255, 255), (244, 204, 204)]).max() <= 1


def test_gray_with_alpha_is_laid_on_white(tmp_path):
    pixels = np.array([[(40, 255), (40, 0)]], dtype=np.uint8)
    assert opened(tmp_path, Image.fromarray(pixels, "LA"))[0].tolist() == [[40] * 3, [255] * 3]


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_with_transparency_is_laid_on_white(tmp_path, suffix):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 250, 0, 0])
    image.putpixel((1, 0), 1)
    assert opened(tmp_path, image, f"x.{suffix}", transparency=1)[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_rgb_with_a_transparent_color_is_laid_on_white(tmp_path):
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((0, 0), (9, 9, 9))
    assert opened(tmp_path, image, transparency=(9, 9, 9))[0].tolist() == [[255, 255, 255], [1, 2, 3]]


@pytest.mark.parametrize("values", [[0, 257, 32896, 65535], [0, 100, 200, 255]])
def test_16_bit_gray_is_scaled_by_its_depth_and_not_by_its_content(tmp_path, values):
    found = opened(tmp_path, Image.fromarray(np.array([values], dtype=np.uint16)))
    assert found[0, :, 0].tolist() == [v // 257 for v in values]
    assert (found == found[..., :1]).all()


def test_cmyk_becomes_rgb(tmp_path):
    found = opened(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "x.jpg", quality=95)
    assert np.abs(found.astype(int) - (255, 0, 0)).max() < 12


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    found = opened(tmp_path, frames[0], "x.gif", save_all=True, append_images=frames[1:])
    assert (found == (255, 0, 0)).all()


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # to be turned 90 degrees clockwise
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    pixels[:, :8] = 255
    found = opened(tmp_path, Image.fromarray(pixels), "x.jpg", exif=exif.tobytes(), quality=95)
    assert found.shape == (16, 8, 3) and found[:6].min() > 200 and found[10:].max() < 50


def test_a_missing_image_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no\.png' does not exist"):
        open_image(tmp_path / "no.png")
    with pytest.raises(InputError, match="is a folder"):
        open_image(tmp_path)


def test_a_name_of_other_bytes_than_utf8_is_read(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xe9.png"
    Image.new("RGB", (2, 2)).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", name)
    assert open_image(os.fsdecode(name)).size == (2, 2)


@pytest.mark.parametrize("data", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n", b"GIF89a" + b"\xff" * 20])
def test_a_file_that_is_no_picture_is_refused(tmp_path, data):
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.png' cannot be read"):
        open_image(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_a_picture_cut_short_is_refused(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(random_pixels(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="damaged"):
        open_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tiff"])
def test_damaged_bytes_are_refused_or_read_and_nothing_else(tmp_path, suffix):
    path, rng, refused = tmp_path / f"x.{suffix}", random.Random(1), 0
    Image.fromarray(random_pixels(24, 24, 3)).save(path)
    good = path.read_bytes()
    for _ in range(60):
        data = bytearray(good)
        for _ in range(rng.choice((1, 3))):
            data[rng.randrange(min(len(data), 150))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert open_image(path).mode == "RGB"
        except InputError:
            refused += 1
    assert refused


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes."""

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(40_000, 40_000), (12_000, 9_000)])
def test_an_image_bomb_is_refused_quietly(tmp_path, width, height):
    (tmp_path / "x.png").write_bytes(png_header(width, height))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with pytest.raises(
            InputError,
            match=r"more than 178 million pixels|"
            r"of 12000x9000 pixels takes 412 MB, more than the 400 .* ACCORD_MAX_PICTURE_MB",
        ):
            open_image(tmp_path / "x.png")


def test_broken_exif_and_impossible_names_are_refused_like_any_damage(tmp_path):
    path = tmp_path / "exif.png"
    Image.fromarray(random_pixels(8, 8, 3)).save(path, exif=b"Exif\x00\x00no TIFF at all")
    with pytest.raises(InputError, match="damaged or no picture"):
        open_image(path)
    with pytest.raises(InputError, match=r"cannot be opened .*name too long"):
        open_image(tmp_path / ("x" * 300 + ".png"))


def test_floating_point_gray_is_scaled(tmp_path):
    Image.fromarray(np.asarray([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "float.tiff")
    assert np.asarray(open_image(tmp_path / "float.tiff"))[0, :, 0].tolist() == [0, 127, 255]


def test_tensors_and_pictures_round_trip():
    pictures = [Image.fromarray(random_pixels(6, 4, 3)), Image.new("RGB", (4, 6), "white")]
    tensor = to_tensor(pictures)
    assert tensor.shape == (2, 3, 6, 4) and tensor.dtype == torch.float32
    assert tensor[1].eq(1).all() and tensor[0, 2, 5, 1] == random_pixels(6, 4, 3)[5, 1, 2] / 255
    assert all(np.array_equal(a, b) for a, b in zip(to_pil(tensor), pictures, strict=True))
    assert to_tensor(pictures[0]).shape == (1, 3, 6, 4)


def test_fit_scales_to_a_square():
    images = torch.rand(2, 3, 16, 16)
    assert fit(images, 16) is images
    wide = torch.full((1, 3, 10, 30), 0.25)
    assert torch.allclose(fit(wide, 8), torch.full((1, 3, 8, 8), 0.25))


# --- crops ---------------------------------------------------------------------------------------------------------
def window_of(height: int, width: int, box, margin: float, side: int = 8) -> tuple[float, float, float, float]:
    """left, top, right, bottom in pixels of the window that `crop` takes, read off a picture of its own coordinates."""
    rows = (torch.arange(height) + 0.5) / 1000
    columns = (torch.arange(width) + 0.5) / 1000
    image = torch.stack(
        [columns.expand(height, width), rows[:, None].expand(height, width), torch.zeros(height, width)]
    )
    found = crop(image, box, margin, side)
    assert found.shape == (1, 3, side, side)
    x, y = found[0, 0].mean() * 1000, found[0, 1].mean() * 1000
    step = (found[0, 0, 0, side // 2] - found[0, 0, 0, side // 2 - 1]) * 1000  # pixels per output pixel
    half = float(step) * side / 2
    return float(x) - half, float(y) - half, float(x) + half, float(y) + half


@pytest.mark.parametrize(
    ("height", "width", "box", "margin", "expected"),
    [
        (64, 64, (0.25, 0.25, 0.75, 0.75), 0.0, (16, 16, 48, 48)),
        (64, 64, (0.25, 0.25, 0.75, 0.75), 0.25, (8, 8, 56, 56)),
        (64, 64, (0.25, 0.375, 0.75, 0.625), 0.0, (16, 16, 48, 48)),  # square around the middle of a flat box
        (64, 64, (0.0, 0.0, 0.25, 0.25), 0.5, (0, 0, 32, 32)),  # pushed back inside
        (64, 64, (0.75, 0.75, 1.0, 1.0), 0.5, (32, 32, 64, 64)),
        (64, 64, (0.0, 0.0, 1.0, 1.0), 0.5, (0, 0, 64, 64)),  # never larger than the picture
        (32, 64, (0.0, 0.0, 1.0, 1.0), 0.0, (16, 0, 48, 32)),
        (64, 128, (0.5, 0.25, 0.75, 0.75), 0.0, (64, 16, 96, 48)),  # shares of width and height
    ],
)
def test_crop_window(height, width, box, margin, expected):
    assert np.allclose(window_of(height, width, box, margin), expected, atol=0.6)


def test_crop_of_a_speck_still_has_pixels():
    image = torch.rand(3, 32, 32)
    assert crop(image, (0.5, 0.5, 0.5, 0.5), 0.0, 8).isfinite().all()
    assert crop(image, (1.0, 1.0, 1.0, 1.0), 0.0, 8).shape == (1, 3, 8, 8)


def test_crop_without_scaling_is_a_slice():
    image = torch.rand(3, 32, 32)
    assert torch.allclose(crop(image, (0.25, 0.5, 0.5, 0.75), 0.0, 8)[0], image[:, 16:24, 8:16], atol=1e-6)


# --- pairs files ---------------------------------------------------------------------------------------------------
def test_csv_with_byte_order_mark_and_many_line_fields(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes(
        b'\xef\xbb\xbfimage,prompt\r\na.png,"a star,\r\non ""white"""\r\n,a key\r\nb.png,\r\nc/d.png, an egg \r\n'
    )
    found = read_pairs(path)
    assert found.pairs == [
        Pair(str(tmp_path.resolve() / "a.png"), 'a star,\r\non "white"', 1),
        Pair(str(tmp_path.resolve() / "c" / "d.png"), "an egg", 4),
    ]
    assert found.skipped == [{"row": 2, "reason": "no image"}, {"row": 3, "reason": "no prompt"}]


def test_csv_rows_of_wrong_length_are_skipped_and_never_cut(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("image,prompt\na.png\nb.png,a star,too,much\nc.png,a key\n", encoding="utf8")
    found = read_pairs(path)
    assert [(p.row, p.prompt) for p in found.pairs] == [(3, "a key")]
    assert found.skipped == [
        {"row": 1, "reason": "1 cells where the head has 2"},
        {"row": 2, "reason": "4 cells where the head has 2"},
    ]


def test_only_line_ends_part_csv_rows(tmp_path):
    for rows, prompts in (
        ('a.png,"a star\non ""white"""\nb.png,a key\n', ['a star\non "white"', "a key"]),
        ("a.png,a star\rb.png,a key\r", ["a star", "a key"]),
        ("a.png,a\u2028star\x0b\x0c\x85\nb.png,a key\n", ["a\u2028star", "a key"]),
    ):
        (tmp_path / "p.csv").write_bytes(f"image,prompt\n{rows}".encode())
        assert [p.prompt for p in read_pairs(tmp_path / "p.csv").pairs] == prompts


def test_jsonl_rows_of_other_kinds_are_listed(tmp_path):
    lines = (
        '["a.png", "a star"]',
        '"a star"',
        '{"image": "a.png", "prompt": "a star", "seed": ' + "9" * 5000 + "}",
        '{"image": "b.png", "prompt": "a key"}',
    )
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    found = read_pairs(tmp_path / "p.jsonl")
    assert [p.prompt for p in found.pairs] == ["a key"] and [s["row"] for s in found.skipped] == [1, 2, 3]


def test_lone_surrogates_are_no_reason_to_stop(tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"image": "a.png", "prompt": "a cat \\ud83d"}\n{"image": "\\ud83d.png", "prompt": "a cat"}\n'
    )
    table = read_pairs(tmp_path / "p.jsonl")
    assert [p.prompt for p in table.pairs] == ["a cat ?"] and [s["reason"] for s in table.skipped] == ["no image"]


def test_jsonl_broken_rows_are_skipped_with_their_line_numbers(tmp_path):
    path = tmp_path / "p.JSONL"
    lines = [
        '{"file_name": "a.png", "text": "a star"}',
        "",
        "{not json",
        "[1, 2]",
        '{"file_name": 3, "text": "a star"}',
        '{"file_name": "b.png", "text": null}',
        '{"file_name": "b.png", "caption": "\u00fcber a star"}',
    ]
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf8")
    found = read_pairs(path)
    assert [(p.row, p.prompt) for p in found.pairs] == [(1, "a star"), (7, "\u00fcber a star")]
    assert [(s["row"], s["reason"]) for s in found.skipped] == [
        (3, "not a JSON object"),
        (4, "not a JSON object"),
        (5, "no image"),
        (6, "no prompt"),
    ]


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "p.parquet"
    path.write_bytes(
        table_bytes([{"path": "a.png", "caption": "a star"}, {"path": None, "caption": "a key"}], ".parquet")
    )
    found = read_pairs(path)
    assert found.pairs == [Pair(str(tmp_path.resolve() / "a.png"), "a star", 1)]
    assert found.skipped == [{"row": 2, "reason": "no image"}]


def test_an_absolute_image_path_is_kept(tmp_path):
    image = tmp_path / "elsewhere" / "a.png"
    (tmp_path / "p.jsonl").write_text(json.dumps({"image": str(image), "prompt": "a star"}), encoding="utf8")
    assert read_pairs(tmp_path / "p.jsonl").pairs[0].image == str(image.resolve())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.txt", b"image,prompt\n", "is none of .csv, .jsonl, .parquet"),
        ("p", b"image,prompt\n", "is none of"),
        ("p.csv", b"foo,bar\n1,2\n", "no image and prompt columns"),
        ("p.csv", b"image,bar\na.png,2\n", "no image and prompt columns"),
        ("p.csv", b"", "no image and prompt columns"),
        ("p.jsonl", b"{nonsense\n", "no image and prompt columns"),
        ("p.csv", b"image,prompt\na.png,\xff\xfe\n", "cannot be read"),
        ("p.jsonl", b'{"image": "a.png", "prompt": "\xff"}\n', "no image and prompt columns.*in UTF-8"),
        ("p.parquet", b"PAR1 and no more", "cannot be read"),
        ("p.parquet", b"", "cannot be read"),
    ],
)
def test_an_unusable_pairs_file_is_refused_by_name(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_pairs(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_row_that_is_no_utf8_is_skipped_and_the_others_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = json.dumps({"image": "a.png", "prompt": "a star"}).encode()
    (tmp_path / "p.jsonl").write_bytes(
        b"\xef\xbb\xbf" + good + b'\n{"image": "b.png", "prompt": "\xff"}\n' + good + b"\n"
    )
    texts = pa.array([b"a star", b"\xff", b"a star"]).cast(pa.binary()).view(pa.string())
    pq.write_table(
        pa.table({"image": ["a.png", "b.png", "a.png"], "prompt": texts, "other": [1, 2, 3]}), tmp_path / "p.parquet"
    )
    for name, reason in (("p.jsonl", "not a JSON object"), ("p.parquet", "no prompt")):
        found = read_pairs(tmp_path / name)
        assert [(p.prompt, p.row) for p in found.pairs] == [("a star", 1), ("a star", 3)] and found.skipped == [
            {"row": 2, "reason": reason}
        ]
    pq.write_table(
        pa.table({"image": [{"bytes": b"PNG", "path": "a.png"}], "text": ["a star"]}), tmp_path / "hub.parquet"
    )
    assert "its picture is within the table" in read_pairs(tmp_path / "hub.parquet").skipped[0]["reason"]


def test_a_missing_pairs_file_and_a_folder_are_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name, message in (("no.csv", "does not exist"), ("folder.csv", "is a folder; give a file")):
        with pytest.raises(InputError, match=message):
            read_pairs(tmp_path / name)


def test_columns_without_a_good_row_are_no_error(tmp_path):
    (tmp_path / "p.csv").write_text("image,prompt\n,\n", encoding="utf8")
    found = read_pairs(tmp_path / "p.csv")
    assert not found.pairs and [s["row"] for s in found.skipped] == [1]


# --- tables out ----------------------------------------------------------------------------------------------------
ROWS = [
    {
        "row": 1,
        "image": "a.png",
        "prompt": 'a "red" star,\nbig',
        "overall": 0.5,
        "clip": None,
        "words": [{"text": "red"}],
    },
    {"row": 2, "image": "\u00fc.png", "prompt": "an egg", "overall": 0.25, "clip": 0.125, "words": []},
]


def test_jsonl_round_trips_exactly():
    assert [json.loads(s) for s in table_bytes(ROWS, ".jsonl").decode().splitlines()] == ROWS
    odd = [{"image": "a\udce9.png", "prompt": "a \ud83d star"}]  # a file name whose bytes are no UTF-8; half an emoji
    for suffix in (".csv", ".jsonl", ".parquet"):
        assert table_bytes(odd, suffix)
    assert "a?.png,a ? star" in table_bytes(odd, ".csv").decode()


def test_csv_round_trips_with_lists_as_json():
    found = list(csv.DictReader(io.StringIO(table_bytes(ROWS, ".csv").decode("utf8"), newline="")))
    assert [json.loads(r["words"]) for r in found] == [r["words"] for r in ROWS]
    assert [(r["prompt"], float(r["overall"]), r["clip"]) for r in found] == [
        (ROWS[0]["prompt"], 0.5, ""),
        ("an egg", 0.25, "0.125"),
    ]


def test_parquet_round_trips_with_lists_as_json():
    parquet = pytest.importorskip("pyarrow.parquet")
    found = parquet.read_table(io.BytesIO(table_bytes(ROWS, ".parquet"))).to_pylist()
    assert found == [{**r, "words": json.dumps(r["words"])} for r in ROWS]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_can_be_read_as_pairs(tmp_path, suffix):
    (tmp_path / f"p{suffix}").write_bytes(table_bytes(ROWS, suffix))
    assert [p.prompt for p in read_pairs(tmp_path / f"p{suffix}").pairs] == [r["prompt"] for r in ROWS]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_empty_table_can_be_written(suffix):
    assert isinstance(table_bytes([], suffix), bytes)


def test_csv_takes_the_columns_of_all_rows():
    found = list(csv.DictReader(io.StringIO(table_bytes([{"a": 1}, {"a": 2, "b": 3}], ".csv").decode())))
    assert found == [{"a": "1", "b": ""}, {"a": "2", "b": "3"}]


def test_another_suffix_is_refused():
    with pytest.raises(InputError, match=r"'\.xlsx' is none of"):
        table_bytes(ROWS, ".xlsx")
