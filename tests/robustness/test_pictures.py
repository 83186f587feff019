"""Pictures that are none, that are bombs, that hang: refused in one sentence, or read within the budget."""

import io
import os
import socket
import struct
import subprocess
import zlib

import numpy as np
import pytest
from apart import run, within
from conftest import png_chunk
from PIL import Image

from accord.data import images
from accord.data.images import open_image
from accord.data.pair_folders import list_images
from accord.types import InputError

MEMORY = """
import resource, sys
from accord.data.images import open_image
for path in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = open_image(path).size
    print(*size, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def png_of_zeros(path, width: int, height: int, kind: int = 2, more: bytes = b"", bits: int = 8) -> None:
    """A PNG of one value, written without holding it; `kind` is PNG's color type."""
    row = b"\0" * (1 + width * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind] * bits // 8)
    pack, body = zlib.compressobj(1), io.BytesIO()
    for _ in range(height):
        body.write(pack.compress(row))
    body.write(pack.flush())
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + more + png_chunk(b"IDAT", body.getvalue()) + png_chunk(b"IEND", b""))


# --- what is no file ------------------------------------------------------------------------------------------------
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with within(5), pytest.raises(InputError, match="is a pipe, a device or a socket"):
        open_image(tmp_path / "x.png")


def test_devices_sockets_loops_and_impossible_names_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.png")
        (tmp_path / "a.png").symlink_to("b.png")
        (tmp_path / "b.png").symlink_to("a.png")
        for name, why in (
            ("s.png", "is a pipe, a device or a socket"),
            ("/dev/zero", "is a pipe, a device or a socket"),
            ("a.png", "cannot be opened .*symbolic links"),
            ("a\0.png", "cannot be opened .*null"),
            ("x" * 300 + ".png", "cannot be opened .*name too long"),
        ):
            with pytest.raises(InputError, match=why):
                open_image(name)


def test_a_file_that_a_program_would_have_to_draw_is_refused(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: pytest.fail("a program was started"))
    Image.new("RGB", (4, 4)).save(tmp_path / "x.eps")
    os.rename(tmp_path / "x.eps", tmp_path / "x.png")
    with pytest.raises(InputError, match="no picture"):
        open_image(tmp_path / "x.png")


def test_hidden_files_pipes_and_linked_folders_are_no_pictures_of_a_folder(tmp_path):
    for name in ("b.png", ".accord.ab.1-2.0.part.png", ".part/a.png", "in/a.png", ".accord.ab.1-2.1.part/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    (tmp_path / "in" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert list_images(tmp_path) == [tmp_path / "b.png", tmp_path / "in" / "a.png"]


def test_a_very_deep_folder_is_walked(tmp_path):
    where = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=where)
        where, last = os.open("d", os.O_RDONLY, dir_fd=where), where
        os.close(last)
    os.close(where)
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    try:
        assert list_images(tmp_path) == [tmp_path / "a.png"]
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest's own clean-up does not reach so deep


# --- budgets --------------------------------------------------------------------------------------------------------
def test_a_picture_beyond_its_budget_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("RGB", (600, 600)).save(tmp_path / "x.png")
    Image.new("L", (600, 600)).save(tmp_path / "gray.png")
    monkeypatch.setenv("ACCORD_MAX_PICTURE_MB", "1")
    with pytest.raises(InputError, match=r"600x600 pixels takes 2 MB, more than the 1 .*ACCORD_MAX_PICTURE_MB"):
        open_image(tmp_path / "x.png")
    assert open_image(tmp_path / "gray.png").size == (600, 600)
    monkeypatch.setenv("ACCORD_MAX_PICTURE_MB", "2")
    assert open_image(tmp_path / "x.png").size == (600, 600)
    monkeypatch.setenv("ACCORD_MAX_PICTURE_MB", "much")
    with pytest.raises(InputError, match="no whole number of megabytes"):
        open_image(tmp_path / "x.png")


def test_large_pictures_take_little_more_than_once_their_size(tmp_path):
    png_of_zeros(tmp_path / "gray.png", 6_000, 6_000, 0, bits=16)
    png_of_zeros(
        tmp_path / "palette.png", 6_000, 6_000, 3, png_chunk(b"PLTE", bytes(range(6))) + png_chunk(b"tRNS", b"\x80")
    )
    png_of_zeros(tmp_path / "rgba.png", 10_000, 10_000, 6)
    told = run(
        MEMORY, *(str(tmp_path / f"{name}.png") for name in ("gray", "palette", "rgba")), seconds=120
    ).splitlines()
    for line, most in zip(told, (400, 400, 1000), strict=True):
        width, height, grown = map(int, line.split())
        assert width == height <= 4096 and grown < most


@pytest.fixture
def small(monkeypatch):
    """Pictures of more than 64x64 are large."""
    monkeypatch.setattr(images, "WHOLE_PIXELS", 64 * 64, raising=False)


def smooth(mode: str, width: int = 150, height: int = 130) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    gray = x / width * 0.7 + y / height * 0.3
    if mode == "F":
        return Image.fromarray((gray * 200).astype(np.float32))
    if mode == "I;16":
        return Image.fromarray((gray * 65535).astype(np.uint16))
    if mode == "I":
        return Image.fromarray((gray * 65535).astype(np.int32))
    rgba = np.stack([gray, 1 - gray, gray * 0.5, np.where(x > width / 2, 1, gray)], -1)
    return Image.fromarray((rgba * 255).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "png"),
        ("RGBA", "png"),
        ("LA", "png"),
        ("L", "png"),
        ("1", "png"),
        ("I;16", "png"),
        ("P", "png"),
        ("I", "tif"),
        ("F", "tif"),
        ("CMYK", "tif"),
        ("RGB", "webp"),
        ("RGB", "jpg"),
        ("CMYK", "jpg"),
    ],
)
def test_a_large_picture_is_what_it_would_be_reduced_afterwards(tmp_path, small, mode, suffix):
    """Each mode, in strips, against the whole picture converted and then averaged."""
    path = tmp_path / f"x.{suffix}"
    smooth(mode).save(path, exif=exif_turned() if suffix == "jpg" else b"")
    found = open_image(path)
    with Image.open(path) as image:
        whole = images.to_rgb(image)
    factor = whole.width // found.width + (whole.width % found.width > 0)
    assert found.width * found.height <= 64 * 64 and found.mode == "RGB" and found.getexif().get(274, 1) == 1
    expected = np.asarray(whole.reduce(factor), dtype=float)
    assert np.abs(np.asarray(found, dtype=float) - expected).max() <= (24 if suffix == "jpg" else 1.5)


def exif_turned() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return exif.tobytes()


def test_a_picture_of_the_size_that_stays_whole_is_whole(tmp_path, small):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "x.png")), pixels)
    Image.fromarray(pixels).resize((65, 64)).save(tmp_path / "y.png")
    assert open_image(tmp_path / "y.png").size == (33, 32)
    Image.new("RGB", (1, 9000)).save(tmp_path / "line.png")
    assert open_image(tmp_path / "line.png").size == (1, 3000)
