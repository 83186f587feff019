"""Uploads: pictures and videos that somebody sent. Bounded before they are decoded and while they are, and kept under
names of ours.

A small file can take hours to decode (a JPEG of thousands of scans), and a thread that decodes cannot be ended. So each
upload is looked at in a process of its own.
"""

from __future__ import annotations

import math
import shutil
import signal
from multiprocessing import get_context
from multiprocessing.connection import Connection
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
        InputError: for what is no picture and no video, has more pixels than one may, or takes too long to decode.
    """
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    suffix = suffix if suffix in (*VIDEO_SUFFIXES, ".png", ".jpg", ".jpeg", ".webp") else ""
    identity = uuid4().hex
    place = folder / identity
    place.mkdir(parents=True)
    try:
        kept = place / f"original{suffix}"
        shutil.move(sent, kept)
        about = _looked_at(kept, limits)
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


def _looked_at(path: Path, limits: Limits) -> dict[str, Any]:
    """`_look` in a process of its own, which ends when `limits.decode_seconds` are over."""
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(there, path, limits), daemon=True)
    process.start()
    there.close()  # so that its end is seen here
    try:
        if not here.poll(limits.decode_seconds):
            raise InputError(
                f"{str(path)!r} was not decoded within {limits.decode_seconds:g} seconds; save it again, or make it "
                "smaller"
            )
        about, refused = here.recv()
    except EOFError:
        raise InputError(f"{str(path)!r} cannot be decoded, it is damaged; save it again") from None
    finally:
        here.close()
        process.kill()
        process.join()
    if refused:
        raise InputError(refused)
    found: dict[str, Any] = about
    return found


def _tell(there: Connection, path: Path, limits: Limits) -> None:
    """Send what `_look` finds, or why it is refused. The alarm ends it if the studio is gone."""
    if hasattr(signal, "alarm"):
        signal.alarm(math.ceil(limits.decode_seconds) + 1)
    try:
        there.send((_look(path, limits), ""))
    except InputError as error:
        there.send(({}, str(error)))


def _look(path: Path, limits: Limits) -> dict[str, Any]:
    return _video(path, limits) if path.suffix in VIDEO_SUFFIXES else _picture(path, limits)


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
