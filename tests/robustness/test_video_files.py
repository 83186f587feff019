"""Videos that are bombs, that hang, or at rates that are none; what is written is whole or not there."""

import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from apart import run, within
from PIL import Image

from accord.data.video import check_video_path, read_video, write_video
from accord.types import InputError


def noise(count: int = 3, side: int = 32) -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return [Image.fromarray(p) for p in pixels]


def test_pipes_are_refused_and_not_waited_for(tmp_path):
    (tmp_path / "frames").mkdir()
    for name in ("a.gif", "a.mp4", "frames/00000.png"):
        os.mkfifo(tmp_path / name)
    for name in ("a.gif", "a.mp4", "frames"):
        with within(5), pytest.raises(InputError, match="is a pipe, a device or a socket"):
            read_video(tmp_path / name)
    with within(5), pytest.raises(InputError, match="would be replaced"):
        check_video_path(tmp_path / "frames")


def test_loops_and_impossible_names_are_refused(tmp_path):
    (tmp_path / "a.mp4").symlink_to("a.mp4")
    for name in ("a.mp4", "x" * 300 + ".gif", "a\0.mp4"):
        with pytest.raises(InputError, match="cannot be opened"):
            read_video(tmp_path / name)
    with pytest.raises(InputError, match=r"cannot be opened|cannot be written"):
        write_video(tmp_path / ("x" * 300 + ".gif"), noise(), 8)
    with pytest.raises(InputError):
        write_video(tmp_path / ("x" * 300), noise(), 8)


def test_what_is_still_being_written_is_no_frame(tmp_path):
    for name in ("0.png", "1.png", ".accord.ab.1-2.0.part.png"):
        noise()[0].save(tmp_path / name)
    assert len(read_video(tmp_path)) == 2


@pytest.mark.parametrize("fps", [math.nan, math.inf, -math.inf, 0, -1, 1e-9, 1e300])
def test_a_rate_that_is_none_is_refused(tmp_path, fps):
    write_video(tmp_path / "frames", noise(), 8)
    for call in (
        lambda: read_video(tmp_path / "frames", fps=fps),
        lambda: write_video(tmp_path / "x.gif", noise(), fps),
        lambda: write_video(tmp_path / "x.mp4", noise(), fps),
    ):
        with pytest.raises(InputError, match="fps must be"):
            call()
    assert not (tmp_path / "x.gif").exists() and read_video(tmp_path / "frames", fps=29.97).fps == Fraction(
        29.97
    ).limit_denominator(1001)


# --- budgets --------------------------------------------------------------------------------------------------------
MEMORY = """
import resource, sys
from accord.data.video import read_video
from accord.types import InputError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_video(sys.argv[1])
except InputError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_gif_bomb_is_refused_within_the_budget(tmp_path, monkeypatch):
    frames = [Image.new("P", (2000, 2000), i % 2) for i in range(24)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:], duration=100)
    monkeypatch.setenv("ACCORD_MAX_VIDEO_MB", "64")
    told, grown = run(MEMORY, str(tmp_path / "x.gif")).splitlines()
    assert "more than 4 frames of 2000x2000" in told and "ACCORD_MAX_VIDEO_MB" in told and int(grown) < 200


@pytest.mark.parametrize("name", ["x.mp4", "x.gif", "frames"])
def test_frames_beyond_the_budget_are_refused(tmp_path, monkeypatch, name):
    path = write_video(tmp_path / name, [Image.new("RGB", (256, 256), (30 * i, 0, 0)) for i in range(8)], 8)
    assert len(read_video(path)) == 8
    monkeypatch.setenv("ACCORD_MAX_VIDEO_MB", "1")
    with pytest.raises(InputError, match=r"more than 4 frames of 256x256.*ACCORD_MAX_VIDEO_MB"):
        read_video(path)
    assert len(read_video(path, 0, 4)) == 4


def test_frames_are_measured_before_they_are_decoded(tmp_path, monkeypatch):
    from accord.data import video

    monkeypatch.setattr(video, "MAX_FRAME_PIXELS", 100)
    for name in ("x.mp4", "frames"):
        path = write_video(tmp_path / name, noise(2), 8)
        monkeypatch.setattr(video, "open_image", lambda path: pytest.fail("a frame was decoded"))
        monkeypatch.setattr(video, "as_shown", lambda *a: pytest.fail("a frame was decoded"))
        with pytest.raises(InputError, match="scale it down"):
            read_video(path)


def test_a_playlist_is_no_video(tmp_path):
    """It names files and addresses that the library would open."""
    av = pytest.importorskip("av")
    write_video(tmp_path / "secret.mp4", noise(), 8)
    (tmp_path / "x.mp4").write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'secret.mp4'}'\n")
    (tmp_path / "y.mp4").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path / 'secret.mp4'}\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "z.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    for name in ("x.mp4", "y.mp4", "z.mp4"):
        with pytest.raises(InputError, match="cannot be read"):
            read_video(tmp_path / name)
    assert av


# --- out ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["x.gif", "x.mp4", "x.MKV", "frames"])
def test_what_is_being_written_has_a_name_of_its_own(tmp_path, name):
    """Two processes that write the same video at once do not write into each other's file."""
    theirs = tmp_path / f".{Path(name).stem}.part{Path(name).suffix.lower()}"
    theirs.write_text("another process's")
    assert len(read_video(write_video(tmp_path / name, noise(), 8))) == 3
    assert theirs.read_text() == "another process's" and sorted(os.listdir(tmp_path)) == sorted([theirs.name, name])
