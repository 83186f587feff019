"""Clips in and out with PyAV: mp4, webm, gif, or a folder of frames (DAVIS's layout)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from accord.data.extras import need
from accord.data.images import open_image, to_rgb
from accord.types import InputError

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif")
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_FRAME_PIXELS = 4096 * 4096
MAX_FRAMES = 2000
FOLDER_FPS = Fraction(24)  # DAVIS's rate; a folder of frames does not say its own
# (container's suffix -> codecs in order of preference, pixel format)
_CODECS = {
    ".mp4": (("libx264", "mpeg4"), "yuv420p"),
    ".mov": (("libx264", "mpeg4"), "yuv420p"),
    ".mkv": (("libx264", "mpeg4"), "yuv420p"),
    ".avi": (("mpeg4",), "yuv420p"),
    ".webm": (("libvpx-vp9", "libvpx"), "yuv420p"),
}


@dataclass(frozen=True)
class Clip:
    """Frames of one size, RGB, at a constant rate."""

    frames: tuple[Image.Image, ...]
    fps: Fraction

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.frames[0].size


def read_clip(path: str | Path, start: int = 0, stop: int | None = None, fps: float | None = None) -> Clip:
    """Frames [start, stop) of a video file or a folder of frames.

    Args:
        fps: of a folder of frames (24 if None); must be None for a file, which says its own.

    Raises:
        InputError: for a file that is missing, damaged, without pictures, too large, or of a changing frame rate, and for a
            range that is empty.
    """
    path = Path(path)
    if start < 0 or (stop is not None and stop <= start):
        raise InputError(f"frames {start} to {stop} of {str(path)!r} are no range; give a start below the stop")
    if not path.exists():
        raise InputError(f"clip {str(path)!r} does not exist; check the path")
    if path.is_dir():
        frames, rate = _from_folder(path, start, stop), Fraction(fps or FOLDER_FPS).limit_denominator(1001)
    elif path.suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(f"clip {str(path)!r} is none of {', '.join(VIDEO_SUFFIXES)} and no folder of frames; convert it")
    elif path.suffix.lower() == ".gif":
        frames, rate = _from_gif(path, start, stop)
    else:
        frames, rate = _from_video(path, start, stop)
    if not frames:
        raise InputError(f"clip {str(path)!r} has no frame from {start} on; choose an earlier start")
    sizes = {f.size for f in frames}
    if len(sizes) > 1:
        raise InputError(f"the frames of {str(path)!r} have different sizes ({sorted(sizes)[0]} and {sorted(sizes)[1]}); scale them to one")
    return Clip(tuple(frames), rate)


def _check_size(path: Path, width: int, height: int, count: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise InputError(f"clip {str(path)!r} has frames of {width}x{height}, more than {MAX_FRAME_PIXELS // 2**20} megapixels; scale it down")
    if count > MAX_FRAMES:
        raise InputError(f"clip {str(path)!r} has more than {MAX_FRAMES} frames in the range; give a shorter one (--frames START:STOP)")


def _from_folder(path: Path, start: int, stop: int | None) -> list[Image.Image]:
    names = sorted((p for p in path.iterdir() if p.suffix.lower() in FRAME_SUFFIXES), key=_by_number)
    if not names:
        raise InputError(f"folder {str(path)!r} holds no frame ({', '.join(FRAME_SUFFIXES)}); check the path")
    chosen = names[start:stop]
    _check_size(path, 1, 1, len(chosen))  # before they are all read
    frames = [open_image(p) for p in chosen]
    if frames:
        _check_size(path, *frames[0].size, count=len(frames))
    return frames


def _by_number(path: Path) -> list[tuple[int, int | str]]:
    """A name as numbers and text, so that frame 10 comes after frame 9."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", path.name)]


def _from_gif(path: Path, start: int, stop: int | None) -> tuple[list[Image.Image], Fraction]:
    frames: list[Image.Image] = []
    durations: list[int] = []
    try:
        with Image.open(path) as image:
            for frame in ImageSequence.Iterator(image):
                if stop is not None and len(frames) >= stop:
                    break
                _check_size(path, *frame.size, count=len(frames) + 1)
                frames.append(to_rgb(frame.copy()))
                durations.append(int(frame.info.get("duration", 100)) or 100)
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever a damaged or oversized file leads them to
        raise InputError(f"clip {str(path)!r} cannot be read, it is damaged, oversized or no gif; save it again") from error
    if not frames:
        return [], Fraction(10)
    # writers merge equal frames into one that is shown as many times as long, and round to hundredths of a second
    shortest = [d for d in durations if d <= 1.5 * min(durations)]
    one = sum(shortest) / len(shortest)
    times = [max(1, round(d / one)) for d in durations]
    if any(abs(d - n * one) > 10 for d, n in zip(durations, times, strict=True)):
        raise _changing_rate(path)
    every = [frame for frame, n in zip(frames, times, strict=True) for _ in range(n)]
    _check_size(path, 1, 1, len(every[start:stop]))
    return every[start:stop], Fraction(1000 * sum(times), sum(durations))


def _from_video(path: Path, start: int, stop: int | None) -> tuple[list[Image.Image], Fraction]:
    av = need("av", "video", "mp4 and webm")
    frames: list[Image.Image] = []
    times: list[Fraction] = []
    seen = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                kind = "sound only" if container.streams.audio else "no pictures"
                raise InputError(f"clip {str(path)!r} holds {kind}; give a video")
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            for i, frame in enumerate(container.decode(stream)):
                if stop is not None and i >= stop:
                    break
                seen += 1
                if i < start:
                    continue
                if frame.pts is not None and frame.time_base is not None:
                    times.append(frame.pts * frame.time_base)
                _check_size(path, frame.width, frame.height, len(frames) + 1)
                picture = frame.to_image()
                frames.append(picture.rotate(frame.rotation, expand=True) if frame.rotation else picture)  # as players show it
    except InputError:
        raise
    except (OSError, ValueError, EOFError, LookupError, av.error.FFmpegError) as error:
        raise InputError(f"clip {str(path)!r} cannot be read, it is empty, damaged or no video ({error}); save it again") from error
    if not seen:
        raise InputError(f"clip {str(path)!r} has no frame; save it again")
    steps = np.diff(np.asarray([float(t) for t in times]))
    if len(steps) and (steps.min() <= 0 or steps.max() > 1.5 * np.median(steps) or steps.min() < np.median(steps) / 1.5):
        raise _changing_rate(path)
    if len(steps) and (not rate or abs(float(rate) * steps.mean() - 1) > 0.03):  # the file's rate is not that of the range
        rate = Fraction(1 / float(steps.mean())).limit_denominator(1001)
    return frames, Fraction(rate or FOLDER_FPS)


def _changing_rate(path: Path) -> InputError:
    return InputError(f"clip {str(path)!r} has a changing frame rate; make it constant (ffmpeg -i IN -vf fps=8 OUT.mp4)")


def check_clip_path(path: Path) -> None:
    """Refuse a place that `write_clip` could not write to, before hours of work are spent.

    Raises:
        InputError: for an unknown suffix, a codec that is missing, a file where a folder is to be or a folder where a file is to
            be, or a folder that holds other things than a clip's frames.
    """
    suffix = path.suffix.lower()
    if suffix and path.is_dir():
        raise InputError(f"output {str(path)!r} is a folder; give a file, or a folder's name without a suffix")
    if not suffix and path.is_file():
        raise InputError(f"output {str(path)!r} is a file; give a folder's name, or a file with a suffix")
    if suffix in _CODECS:
        _codec(suffix)
    elif suffix not in (".gif", ""):
        raise InputError(f"output {str(path)!r} is none of {', '.join((*_CODECS, '.gif'))} and no folder; choose one of them")
    elif not suffix and path.name in ("", ".", ".."):
        raise InputError(f"output {str(path)!r} has no name; give a folder of its own, or a file")
    elif not suffix and path.is_dir() and any(not re.fullmatch(r"\d{5}\.png", p.name) for p in path.iterdir()):
        raise InputError(f"folder {str(path)!r} holds other things than frames that accord wrote, and would be replaced; choose another --out")


def write_clip(path: str | Path, frames: Sequence[Image.Image], fps: float | Fraction) -> Path:
    """Write frames of one size as mp4, webm, gif, or (no suffix) a folder of PNG; under another name first, then renamed.

    A gif counts in hundredths of a second, so that 8 frames a second become 8.33.

    A side of odd length is kept by repeating the last row or column if the codec wants it even; nothing is scaled.

    Raises:
        InputError: for no frames, frames of different sizes, an unknown suffix, or a place that cannot be written.
    """
    path = Path(path)
    if not frames:
        raise InputError(f"there is no frame to write to {str(path)!r}; give at least one")
    if len({f.size for f in frames}) > 1:
        raise InputError(f"the frames for {str(path)!r} have different sizes; scale them to one")
    if fps <= 0:
        raise InputError(f"fps must be positive, not {float(fps):g}")
    check_clip_path(path)
    suffix = path.suffix.lower()
    part = path.with_name(f".{path.stem}.part{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == "":
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            for i, frame in enumerate(frames):
                frame.convert("RGB").save(part / f"{i:05d}.png")
            shutil.rmtree(path, ignore_errors=True)
        elif suffix == ".gif":
            first, *rest = [f.convert("RGB") for f in frames]
            first.save(part, save_all=True, append_images=rest, duration=max(20, 10 * round(100 / float(fps))), loop=0, disposal=2)
        else:
            _encode(part, frames, Fraction(fps).limit_denominator(1001), suffix)
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"clip {str(path)!r} cannot be written ({error.strerror or error}); choose another --out") from error
    except ValueError as error:  # PyAV's, of a rate or size that the codec does not take
        raise InputError(f"clip {str(path)!r} cannot be written at {float(fps):g} frames a second ({error}); choose another suffix") from error
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        elif part.exists():
            part.unlink()
    return path


def _codec(suffix: str) -> str:
    """The first codec for a container that is installed."""
    av = need("av", "video", "mp4 and webm")
    names = _CODECS[suffix][0]
    known = [n for n in names if n in av.codecs_available]
    if not known:
        raise InputError(f"no codec for {suffix} is installed ({', '.join(names)}); write a .gif or a folder")
    return known[0]


def _encode(part: Path, frames: Sequence[Image.Image], fps: Fraction, suffix: str) -> None:
    av = need("av", "video", "mp4 and webm")
    codec, pixel_format = _codec(suffix), _CODECS[suffix][1]
    width, height = frames[0].size
    even = (width + width % 2, height + height % 2)
    with av.open(str(part), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = even[0], even[1], pixel_format
        if codec == "libx264":
            stream.options = {"crf": "12"}
        elif codec == "libvpx-vp9":
            stream.options = {"crf": "12", "b:v": "0"}
        else:
            stream.bit_rate = 8_000_000
        for frame in frames:
            array = np.asarray(frame.convert("RGB"))
            array = np.pad(array, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            for packet in stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
