"""Videos in and out with PyAV: mp4, webm, gif, or a folder of frames (DAVIS's layout)."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence
from PIL.PngImagePlugin import PngInfo

from accord.data.extras import need
from accord.data.images import image_size, open_image, to_rgb
from accord.files import budget, check_regular, entries, reason, replace_file, replace_folder, sweep
from accord.types import InputError

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif")
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_FRAME_PIXELS = 4096 * 4096
MAX_FRAMES = 2000
FRAME_BYTES = 4  # of a pixel as PIL holds it; the frames together have to be within the budget "video"
MAX_FPS = 1_000_000
WHOLE = 0.9  # share of the frames or seconds a file announces that it must hold
WRITER = "accord"  # what a folder of frames says wrote it, so that nothing else is ever replaced
FOLDER_FPS = Fraction(24)  # DAVIS's rate; a folder of frames does not say its own
# readers of containers that people have; others (playlists, lists of files) open files and addresses that they name
_READERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ogg,flv,asf,gif,apng,ivf"
# (container's suffix -> codecs in order of preference, pixel format)
_CODECS = {
    ".mp4": (("libx264", "mpeg4"), "yuv420p"),
    ".mov": (("libx264", "mpeg4"), "yuv420p"),
    ".mkv": (("libx264", "mpeg4"), "yuv420p"),
    ".avi": (("mpeg4",), "yuv420p"),
    ".webm": (("libvpx-vp9", "libvpx"), "yuv420p"),
}


@dataclass(frozen=True)
class Video:
    """Frames of one size, RGB, at a constant rate."""

    frames: tuple[Image.Image, ...]
    fps: Fraction

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.frames[0].size


def read_video(path: str | Path, start: int = 0, stop: int | None = None, fps: float | None = None) -> Video:
    """Frames [start, stop) of a video file or a folder of frames.

    Args:
        fps: of a folder of frames (24 if None); must be None for a file, which says its own.

    Raises:
        InputError: for a file that is missing, damaged, without pictures, too large, or of a changing frame rate, and
            for a range that is empty. The frames of the range may take ACCORD_MAX_VIDEO_MB together.
    """
    path = Path(path)
    if fps is not None:
        check_fps(fps)
    if start < 0 or (stop is not None and stop <= start):
        raise InputError(f"frames {start} to {stop} of {str(path)!r} are no range; give a start below the stop")
    if os.path.isdir(path):
        frames, rate = _from_folder(path, start, stop), check_fps(FOLDER_FPS if fps is None else fps)
        return Video(tuple(frames), rate)
    check_regular(path, "video")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(
            f"video {str(path)!r} is none of {', '.join(VIDEO_SUFFIXES)} and no folder of frames; convert it"
        )
    elif path.suffix.lower() == ".gif":
        frames, rate = _from_gif(path, start, stop)
    else:
        frames, rate = _from_video(path, start, stop)
    if not frames:
        raise _no_frame(path, start)
    for frame in frames:
        _check_same(path, frames[0].size, frame.size)
    return Video(tuple(frames), rate)


def check_fps(fps: float | Fraction) -> Fraction:
    """Frames a second as a fraction that containers can hold.

    Raises:
        InputError: for what is no number above 0, or too small or large for any container.
    """
    if not math.isfinite(fps) or fps <= 0:
        raise InputError(f"fps must be positive, not {float(fps):g}; give the frames a second")
    rate = Fraction(fps).limit_denominator(1001)
    if not 0 < rate <= MAX_FPS:
        raise InputError(f"fps must be from 0.001 to {MAX_FPS}, not {float(fps):g}; give the frames a second")
    return rate


def _no_frame(path: Path, start: int) -> InputError:
    return InputError(f"video {str(path)!r} has no frame from {start} on; choose an earlier start")


def _check_same(path: Path, first: tuple[int, int], other: tuple[int, int]) -> None:
    if first != other:
        one, two = sorted((first, other))
        raise InputError(f"the frames of {str(path)!r} have different sizes ({one} and {two}); scale them to one")


def _check_size(path: Path, width: int, height: int, count: float) -> None:
    """Refuse frames that are too large, one or all of them together."""
    if width * height > MAX_FRAME_PIXELS:
        raise InputError(
            f"video {str(path)!r} has frames of {width}x{height}, more than {MAX_FRAME_PIXELS // 2**20} megapixels; "
            "scale it down"
        )
    most = min(MAX_FRAMES, budget("video") // (FRAME_BYTES * max(1, width * height)))
    if count > most:
        knob = "" if most == MAX_FRAMES else ", or set ACCORD_MAX_VIDEO_MB"
        raise InputError(
            f"video {str(path)!r} has more than {most} frames of {width}x{height} in the range; read fewer of "
            f"them, or scale it down{knob}"
        )


def _from_folder(path: Path, start: int, stop: int | None) -> list[Image.Image]:
    names = sorted((p for p in entries(path, "folder") if p.suffix.lower() in FRAME_SUFFIXES), key=_by_number)
    if not names:
        raise InputError(f"folder {str(path)!r} holds no frame ({', '.join(FRAME_SUFFIXES)}); check the path")
    frames: list[Image.Image] = []
    for name in (chosen := names[start:stop]):
        _check_size(path, *image_size(name), count=len(chosen))  # before it is decoded
        frames.append(open_image(name))
        _check_same(path, frames[0].size, frames[-1].size)
    if not frames:
        raise _no_frame(path, start)
    return frames


def _by_number(path: Path) -> list[tuple[int, int | str]]:
    """A name as numbers and text, so that frame 10 comes after frame 9."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", path.name)]


def _from_gif(path: Path, start: int, stop: int | None) -> tuple[list[Image.Image], Fraction]:
    frames: list[Image.Image] = []
    durations: list[int] = []
    try:
        with warnings.catch_warnings(), Image.open(path, formats=("GIF",)) as image:
            warnings.simplefilter("ignore")  # what a damaged file's reader has to say is said below
            for frame in ImageSequence.Iterator(image):
                if stop is not None and len(frames) >= stop:
                    break
                _check_size(path, *frame.size, count=len(frames) + 1)
                frames.append(to_rgb(frame.copy()))
                durations.append(int(frame.info.get("duration", 100)) or 100)
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever a damaged or oversized file leads them to
        raise InputError(
            f"video {str(path)!r} cannot be read, it is damaged, oversized or no gif; save it again"
        ) from error
    if not frames:
        return [], Fraction(10)
    if min(durations) <= 0:
        raise _changing_rate(path)
    # writers merge equal frames into one that is shown as many times as long, and round to hundredths of a second
    shortest = [d for d in durations if d <= 1.5 * min(durations)]
    one = sum(shortest) / len(shortest)
    times = [max(1, round(d / one)) for d in durations]
    one = sum(durations) / sum(
        times
    )  # of all of them, so that a frame that stands for many is not off by as many roundings
    if any(abs(d - n * one) > 10 for d, n in zip(durations, times, strict=True)):
        raise _changing_rate(path)
    _check_size(
        path, *frames[0].size, count=len(range(sum(times))[start:stop])
    )  # one that is shown for long counts as many
    every = [frame for frame, n in zip(frames, times, strict=True) for _ in range(n)]
    return every[start:stop], Fraction(1000 * sum(times), sum(durations))


def _from_video(path: Path, start: int, stop: int | None) -> tuple[list[Image.Image], Fraction]:
    av = need("av", "video", "mp4 and webm")
    frames: list[Image.Image] = []
    times: list[Fraction] = []
    seen = 0
    try:
        # an open file, for a name may be an address or a list of files to the library
        with (
            open(path, "rb") as file,
            av.open(file, options={"format_whitelist": _READERS, "protocol_whitelist": "file"}) as container,
        ):
            streams = [
                s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic
            ]  # a song's cover
            if not streams:
                kind = "sound only" if container.streams.audio else "no pictures"
                raise InputError(f"video {str(path)!r} holds {kind}; give a video")
            stream = streams[0]
            rate = stream.average_rate or stream.guessed_rate
            announced = announced_frames(container, stream)
            size = _shown_size(stream, stream.sample_aspect_ratio)
            _check_size(
                path, *size, count=WHOLE * min(announced, announced if stop is None else stop) - start
            )  # before one is decoded
            stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}  # it may grow on the way
            for i, frame in enumerate(container.decode(stream)):
                if stop is not None and i >= stop:
                    announced = 0
                    break
                if frame.is_corrupt:
                    raise ValueError(f"frame {i} is broken")
                seen += 1
                if i < start:
                    continue
                if frame.pts is not None and frame.time_base is not None:
                    times.append(frame.pts * frame.time_base)
                _check_size(path, *_shown_size(frame, stream.sample_aspect_ratio), count=len(frames) + 1)
                frames.append(as_shown(frame, stream.sample_aspect_ratio))
            if seen < WHOLE * announced:
                raise ValueError(f"{seen} of {announced:.0f} frames are there")
    except InputError:
        raise
    except Exception as error:  # the library raises whatever a damaged file leads it to
        raise InputError(
            f"video {str(path)!r} cannot be read, it is empty, damaged or no video ({reason(error)}); save it again"
        ) from error
    if not seen:
        raise InputError(f"video {str(path)!r} has no frame; save it again")
    steps = np.diff(np.asarray([float(t) for t in times]))
    if len(steps) and (
        steps.min() <= 0 or steps.max() > 1.5 * np.median(steps) or steps.min() < np.median(steps) / 1.5
    ):
        raise _changing_rate(path)
    if len(steps) and (
        not rate or abs(float(rate) * steps.mean() - 1) > 0.03
    ):  # the file's rate is not that of the range
        rate = Fraction(1 / float(steps.mean())).limit_denominator(1001)
    return frames, check_fps(Fraction(rate or FOLDER_FPS)) if rate is None or rate <= MAX_FPS else FOLDER_FPS


def announced_frames(container: Any, stream: Any) -> float:
    """How many frames a video file says it has, by its own count or by its length; 0 if it says neither."""
    if stream.frames:
        return float(stream.frames)
    seconds = stream.duration * stream.time_base if stream.duration and stream.time_base else None
    if (
        seconds is None and container.duration and not container.streams.audio
    ):  # in microseconds; sound may be longer than pictures
        seconds = container.duration / 1e6
    return float(seconds * (stream.average_rate or 0)) if seconds else 0.0


def as_shown(frame: Any, aspect: Fraction | None) -> Image.Image:
    """A decoded frame as players show it: its pixels square (`aspect` is width by height of one), its right side up."""
    picture: Image.Image = frame.to_image()
    if (size := _shown_size(picture, aspect)) != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture


def _shown_size(frame: Any, aspect: Fraction | None) -> tuple[int, int]:
    """Width and height of a frame once its pixels are square, before it is turned."""
    believed = aspect and 1 / 4 <= aspect <= 4  # beyond, the file is not to be believed
    return (max(1, round(frame.width * aspect)) if believed else frame.width), frame.height


def _changing_rate(path: Path) -> InputError:
    return InputError(
        f"video {str(path)!r} has a changing frame rate, or frames are missing; make it constant (ffmpeg -i IN -vf "
        "fps=8 OUT.mp4)"
    )


def check_video_path(path: Path) -> None:
    """Refuse a place that `write_video` could not write to, before hours of work are spent.

    Raises:
        InputError: for an unknown suffix, a codec that is missing, a file where a folder is to be or a folder where a
            file is to be, or a folder that holds other things than a video's frames.
    """
    suffix, is_folder = path.suffix.lower(), os.path.isdir(path)
    if suffix and is_folder:
        raise InputError(f"output {str(path)!r} is a folder; give a file, or a folder's name without a suffix")
    if not suffix and not is_folder and os.path.exists(path):
        raise InputError(f"output {str(path)!r} is a file; give a folder's name, or a file with a suffix")
    if suffix in _CODECS:
        _codec(suffix)
    elif suffix not in (".gif", ""):
        raise InputError(
            f"output {str(path)!r} is none of {', '.join((*_CODECS, '.gif'))} and no folder; choose one of them"
        )
    elif not suffix and path.name in ("", ".", ".."):
        raise InputError(f"output {str(path)!r} has no name; give a folder of its own, or a file")
    elif not suffix and is_folder and not _is_ours(path):
        raise InputError(
            f"folder {str(path)!r} holds other things than frames that accord wrote, and would be replaced; choose "
            "another place"
        )


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty or holds the frames of one video that `write_video` wrote, and nothing else."""
    try:
        names = sorted(os.listdir(folder))
        if not names or names != [f"{i:05d}.png" for i in range(len(names))]:
            return not names
        if not os.path.isfile(folder / names[0]):
            return False
        with Image.open(folder / names[0], formats=("PNG",)) as first:
            return first.info.get("Software") == WRITER
    except Exception:  # a folder that may not be looked into, a picture that is none
        return False


def write_video(path: str | Path, frames: Sequence[Image.Image], fps: float | Fraction) -> Path:
    """Write frames of one size as mp4, webm, gif, or (no suffix) a folder of PNG; under another name first, then
    renamed.

    A gif counts in hundredths of a second, so that its frames' times differ by one; it shows 50 frames a second at
    most.

    A side of odd length is kept by repeating the last row or column if the codec wants it even; nothing is scaled.

    Raises:
        InputError: for no frames, frames of different sizes, an unknown suffix, fps that are none, or a place that
            cannot be written.
    """
    path = Path(path)
    if os.path.islink(path):  # what it stands for is replaced, and the link stays
        path = Path(os.path.realpath(path))
    if not frames:
        raise InputError(f"there is no frame to write to {str(path)!r}; give at least one")
    if len({f.size for f in frames}) > 1:
        raise InputError(f"the frames for {str(path)!r} have different sizes; scale them to one")
    rate = check_fps(fps)
    check_video_path(path)
    suffix = path.suffix.lower()
    try:
        if os.path.isdir(path.parent):
            sweep(path.parent)
        if suffix == "":
            replace_folder(path, lambda part: _save_frames(part, frames))
        elif suffix == ".gif":
            replace_file(path, lambda part: _save_gif(part, frames, float(fps)))
        else:
            replace_file(path, lambda part: _encode(part, frames, rate, suffix))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"video {str(path)!r} cannot be written ({reason(error)}); choose another place") from error
    except ValueError as error:  # a rate or size that the codec does not take
        size = "x".join(str(s) for s in frames[0].size)
        raise InputError(
            f"video {str(path)!r} cannot be written at {float(fps):g} frames a second of {size} ({error}); choose "
            "another suffix"
        ) from error
    return path


def _save_frames(folder: Path, frames: Sequence[Image.Image]) -> None:
    signed = PngInfo()
    signed.add_text("Software", WRITER)
    for i, frame in enumerate(frames):
        frame.convert("RGB").save(folder / f"{i:05d}.png", pnginfo=signed)


def _save_gif(path: Path, frames: Sequence[Image.Image], fps: float) -> None:
    first, *rest = [f.convert("RGB") for f in frames]
    first.save(path, save_all=True, append_images=rest, duration=gif_times(len(frames), fps), loop=0, disposal=2)


def gif_times(count: int, fps: float) -> list[int]:
    """Milliseconds that each frame of a gif is shown: whole hundredths of a second that keep up with `fps`, 20 at
    least.
    """
    ends = [round(100 * i / fps) for i in range(count + 1)]
    return [max(20, 10 * (b - a)) for a, b in pairwise(ends)]


def _codec(suffix: str) -> str:
    """The first codec for a container that is installed."""
    av = need("av", "video", "mp4 and webm")
    names = _CODECS[suffix][0]
    known = [n for n in names if n in av.codecs_available]
    if not known:
        raise InputError(f"no codec for {suffix} is installed ({', '.join(names)}); write a .gif or a folder")
    return known[0]


def _encode(part: Path, frames: Sequence[Image.Image], fps: Fraction, suffix: str) -> None:
    """Raises OSError, or ValueError for what the codec refuses."""
    av = need("av", "video", "mp4 and webm")
    codec, pixel_format = _codec(suffix), _CODECS[suffix][1]
    width, height = frames[0].size
    even = (width + width % 2, height + height % 2)
    try:
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
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(str(error)) from error
