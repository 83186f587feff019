"""Uploads: pictures and videos that somebody sent. Bounded before they are decoded, and kept under names of ours."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from accord.data.images import image_size, open_image
from accord.data.stated import stated_prompt
from accord.data.video import VIDEO_SUFFIXES, read_video
from accord.files import write_file
from accord.reports.pictures import png
from accord.studio.settings import Limits
from accord.types import InputError

SHOWN = 1024  # pixels of the longer side of what the page shows


def keep_upload(folder: Path, sent: Path, name: str, limits: Limits) -> dict[str, Any]:
    """Look at a file that was sent, and keep it in a folder of its own below `folder`.

    Args:
        sent: where its bytes are; moved.
        name: what the visitor calls it. Its suffix says how a video is read, and the rest is only shown.

    Returns:
        {"id", "kind": "picture" or "video", "name", "file", "width", "height", "frames", "fps", "stated"}.

    Raises:
        InputError: for what is no picture and no video, or has more pixels than one may.
    """
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    suffix = suffix if suffix in (*VIDEO_SUFFIXES, ".png", ".jpg", ".jpeg", ".webp") else ""
    identity = uuid4().hex
    place = folder / identity
    place.mkdir(parents=True)
    try:
        kept = place / f"original{suffix}"
        shutil.move(sent, kept)
        about = _video(kept, limits) if suffix in VIDEO_SUFFIXES else _picture(kept, limits)
    except InputError as error:
        shutil.rmtree(place, ignore_errors=True)
        raise InputError(str(error).replace(repr(str(kept)), repr(_shown(name)))) from error
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return {"id": identity, "name": _shown(name), "file": kept.name, **about}


def _shown(name: str) -> str:
    """A name without a path, of letters that can be shown."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable())[:80] or "upload"


def _picture(path: Path, limits: Limits) -> dict[str, Any]:
    width, height = image_size(path)
    _check(path, width, height, limits)
    image = open_image(path)
    shown = image.copy()
    shown.thumbnail((SHOWN, SHOWN))
    write_file(path.with_name("shown.png"), png(shown))
    size = {"width": image.width, "height": image.height, "frames": 1, "fps": None}
    return {"kind": "picture", **size, "stated": stated_prompt(path)[: limits.letters]}


def _video(path: Path, limits: Limits) -> dict[str, Any]:
    video = read_video(path, 0, limits.frames)
    _check(path, *video.size, limits)
    first = video.frames[len(video) // 2].copy()
    first.thumbnail((SHOWN, SHOWN))
    write_file(path.with_name("shown.png"), png(first))
    size = {"width": video.size[0], "height": video.size[1], "frames": len(video), "fps": float(video.fps)}
    return {"kind": "video", **size, "stated": ""}


def _check(path: Path, width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise InputError(
            f"{str(path)!r} of {width}x{height} pixels is larger than the {limits.pixels / 1e6:g} million that one may "
            "be; make it smaller"
        )
