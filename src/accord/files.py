"""Files in and out: only regular ones are read, within budgets; what is written is whole or not there; a folder has one
writer.

No torch here.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from accord.types import InputError, reason_of

try:
    import fcntl
except ImportError:  # not a Unix: a folder is then not kept from a second process
    fcntl = None  # type: ignore[assignment]

# megabytes that one input may take once it is decoded; ACCORD_MAX_PICTURE_MB and so on set others
BUDGETS = {"picture": 400, "video": 1024, "table": 1024}
_LIVES = 7 * 86_400  # seconds after which what a process of another machine was writing is a left-over
_COUNTER = itertools.count()
STORES = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss")  # what addresses begin with, which jobs on a cluster read
_STORE = re.compile(rf"({'|'.join(STORES)}):/+")


# --- reading --------------------------------------------------------------------------------------------------------
def budget(kind: str) -> int:
    """Bytes that a decoded "picture", "video" or "table" may take.

    Raises:
        InputError: for an environment variable that is no positive number.
    """
    name = f"ACCORD_MAX_{kind.upper()}_MB"
    setting = os.environ.get(name, "")
    if not setting:
        return BUDGETS[kind] * 2**20
    if not re.fullmatch(r"\d{1,9}", setting) or not int(setting):
        raise InputError(
            f"the environment variable {name} is {setting!r}, no whole number of megabytes; set one, or unset it"
        )
    return int(setting) * 2**20


def _check_here(path: str | Path, what: str) -> None:
    """Refuse an address, of which `Path` would make a place below this folder."""
    if match := _STORE.match(str(path)):
        address = f"{match[1]}://{str(path)[match.end() :]}"
        raise InputError(
            f"{what} {address!r} is an address, and only rows of --engine ray come from one or go to one; give a path"
        )


def check_regular(path: str | Path, what: str) -> Path:
    """Refuse what is no regular file: opening a pipe or a device may never return.

    Args:
        what: what the file is, as the sentence begins ("image", "pairs file").

    Raises:
        InputError: naming the path.
    """
    _check_here(path, what)
    shown = repr(str(path))
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{what} {shown} does not exist; check the path") from error
    except (
        OSError,
        ValueError,
    ) as error:  # a loop of links, a name that no file can have, a folder that may not be read
        raise InputError(f"{what} {shown} cannot be opened ({reason(error)}); check the path") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{what} {shown} is a folder; give a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{what} {shown} is a pipe, a device or a socket; save it as a file, and give that")
    return Path(path)


def read_bytes(path: str | Path, what: str, most: int | None = None) -> bytes:
    """The content of a regular file.

    Args:
        most: bytes that it may have; the budget of a table if None.

    Raises:
        InputError: for a file that is missing, none, too large or cannot be read.
    """
    path, most = check_regular(path, what), budget("table") if most is None else most
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise InputError(
            f"{what} {str(path)!r} cannot be read ({reason(error)}); check the path and its rights"
        ) from error
    if len(data) > most:
        raise InputError(
            f"{what} {str(path)!r} is larger than {most // 2**20} MB; split it, or set ACCORD_MAX_TABLE_MB"
        )
    return data


def read_text(path: str | Path, what: str, most: int | None = None) -> str:
    """The text of a UTF-8 file, a byte-order mark left out; line breaks as they are.

    Raises:
        InputError: as `read_bytes`, and for another encoding.
    """
    try:
        return read_bytes(path, what, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {str(path)!r} cannot be read ({reason(error)}); save it again as UTF-8") from error


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: for what is no JSON, names a key twice, holds NaN or Infinity, or is nested too deeply.
    """
    try:
        return _DECODER.decode(text) if isinstance(text, str) else json.loads(text, cls=_Strict)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(
            "it holds a number of thousands of digits" if "digits" in str(error) else reason_of(error)
        ) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [k for k, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} is there twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


class _Strict(json.JSONDecoder):
    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_object, parse_constant=_no_number)


_DECODER = _Strict()  # made once: a table has a million rows


def read_json(path: str | Path, what: str, mend: str = "save it again", most: int | None = None) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        InputError: as `read_text`, and for what is no JSON object.
    """
    found = _read_json(path, what, mend, most)
    if not isinstance(found, dict):
        raise InputError(f"{what} {str(path)!r} holds no JSON object; {mend}")
    return found


def read_json_list(path: str | Path, what: str, mend: str = "save it again") -> list[Any]:
    """The JSON list of a file.

    Raises:
        InputError: as `read_text`, and for what is no JSON list.
    """
    found = _read_json(path, what, mend, None)
    if not isinstance(found, list):
        raise InputError(f"{what} {str(path)!r} is no JSON list; {mend}")
    return found


def _read_json(path: str | Path, what: str, mend: str, most: int | None) -> Any:
    text = read_text(path, what, most)
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"{what} {str(path)!r} is no valid JSON ({reason_of(error)}); {mend}") from error


def reason(error: BaseException) -> str:
    """Why a file could not be read or written, without its name, which the sentence has."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no UTF-8"
    return (isinstance(error, OSError) and error.strerror) or reason_of(error)


def entries(folder: str | Path, what: str) -> list[Path]:
    """What is in a folder, sorted; hidden entries left out, as what is still being written is.

    Raises:
        InputError: for a folder that is missing, none, or cannot be read.
    """
    try:
        return sorted(Path(folder, name) for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{what} {str(folder)!r} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{what} {str(folder)!r} cannot be read ({reason(error)}); check the path and its rights"
        ) from error


def is_hidden(path: Path, below: Path) -> bool:
    """Whether a file or a folder on the way to it from `below` is hidden, as what is still being written is."""
    return any(part.startswith(".") for part in path.relative_to(below).parts)


# --- writing --------------------------------------------------------------------------------------------------------
def part_of(path: Path) -> Path:
    """A name beside `path` for what is being written: hidden, of this process alone, with the same suffix."""
    return path.with_name(
        f".accord.{_host()}.{os.getpid()}-{_born(os.getpid())}.{next(_COUNTER)}.part{path.suffix[:16]}"
    )


def sweep(folder: Path) -> None:
    """Remove what killed processes were writing in `folder`."""
    for path in folder.glob(".accord.*.part*"):
        match = re.fullmatch(r"\.accord\.(\w+)\.(\d+)-(\d+)\.\d+\.part.*", path.name)
        if match is None:
            continue
        host, pid, born = match[1], int(match[2]), int(match[3])
        with contextlib.suppress(OSError):
            gone = not _is_alive(pid, born) if host == _host() else time.time() - path.lstat().st_mtime > _LIVES
            if gone:
                _remove(path)


def _host() -> str:
    """This machine, in a few digits that do not tell its name."""
    parts = [socket.gethostname()]
    for place in (
        "/proc/sys/kernel/random/boot_id",
        "/proc/self/ns/pid",
    ):  # containers count their processes for themselves
        with contextlib.suppress(OSError):
            parts.append(os.readlink(place) if os.path.islink(place) else Path(place).read_text())
    return sha256(" ".join(parts).encode("utf8", "replace")).hexdigest()[:8]


def _born(pid: int) -> int:
    """When a process began, in ticks since the machine started: its number may be given to another one later. 0 if it
    is not known.
    """
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _is_alive(pid: int, born: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is another user's
    return not born or not _born(pid) or _born(pid) == born


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """`replace_file` with what is at hand already."""
    replace_file(path, lambda part: part.write_bytes(data))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)`, then rename: a reader never sees half a file.

    Raises:
        InputError: if the place cannot be written to, or is no regular file.
    """
    _check_target(path)
    if os.path.islink(path):  # what it stands for is replaced, and the link stays
        path = Path(os.path.realpath(path))
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, path)
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__name__ not in (
            "SafetensorError",
            "ArrowException",
            "ArrowInvalid",
        ):
            raise
        raise InputError(
            f"{str(path)!r} cannot be written ({reason(error)}); make room, or choose another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _check_target(path: Path) -> None:
    """Refuse to put a file in the place of a folder, a device or a pipe."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
        raise InputError(f"output {str(path)!r} is {kind}, and no file can be put in its place; choose another name")


def replace_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write into a fresh folder beside `path`, then put it in the place of `path`.

    Raises:
        OSError: if the place cannot be written to; nothing is left of what was filled.
    """
    part = part_of(path)
    part.mkdir(parents=True)
    try:
        fill(part)
        old = part_of(path)
        there = path.exists()
        if there:
            os.replace(path, old)
        try:
            os.replace(part, path)
        except OSError:
            if there:
                os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_writable(folder: Path) -> Path:
    """Prove that `folder` can be written to, or made, before hours of work are spent. A folder that is not there yet is
    not made.

    What killed processes have left in it is swept.

    Raises:
        InputError: naming the folder; or for an address, of which `Path` would make a folder here.
    """
    _check_here(folder, "output folder")
    try:
        place = folder
        while not place.exists() and place != place.parent:  # follows links: one that leads nowhere is no place
            if place.is_symlink():
                raise OSError(errno.ENOENT, "it is a link that leads nowhere")
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        probe = part_of(place / "probe")
        probe.write_bytes(b"")
        probe.unlink()
        os.stat(folder) if place == folder else _check_name(place, folder)
        sweep(folder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"output folder {str(folder)!r} cannot be written ({reason(error)}); choose another place"
        ) from error
    return folder


def _check_name(place: Path, folder: Path) -> None:
    """Raise OSError for a folder's name that the system could not make below `place`."""
    first = place / folder.relative_to(place).parts[0]
    for part in folder.relative_to(place).parts:
        if len(os.fsencode(part)) > 255:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    made = not first.exists()
    first.mkdir(exist_ok=True)
    if made:
        first.rmdir()


def save_folder(folder: str | Path, fill: Callable[[Path], None]) -> Path:
    """Let `fill` write into a fresh folder, then move its files into `folder`: all or nothing, and by one process at a
    time.

    Raises:
        InputError: if the place cannot be written to.
    """
    folder = check_writable(Path(folder))
    with only_writer(folder):
        part = part_of(folder / "new")
        try:
            part.mkdir()
            fill(part)
            for path in sorted(part.iterdir()):
                os.replace(path, folder / path.name)
        except OSError as error:
            raise InputError(
                f"output folder {str(folder)!r} cannot be written ({reason(error)}); choose another place"
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


# --- one writer -----------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def only_writer(place: Path, name: str = "", wait: bool = False) -> Iterator[None]:
    """Be the only one who writes to a folder, or to a file, for the time of the block.

    The lock is the file `.accord.lock` in the folder (`.accord.NAME.lock` beside a file), with the process and the
    machine in it. The system lets go of it when a process dies, however it dies, so a stale one is taken over. A folder
    that is not there is made, and removed again if the block leaves it empty.

    Args:
        place: a folder, or a file if `name` is given: then its folder.
        name: what within the folder is written to; all of it if empty.
        wait: for another one, who is to be done in a moment.

    Raises:
        InputError: at once, if another process or thread is writing there and `wait` is not given.
    """
    named = name if len(os.fsencode(name)) < 200 else sha256(os.fsencode(name)).hexdigest()[:16]
    path = place / (f".accord.{named}.lock" if name else ".accord.lock")
    made = [p for p in (place, *place.parents) if not p.exists()]
    try:
        place.mkdir(parents=True, exist_ok=True)
        file = _locked(path, wait)
    except OSError as error:
        raise InputError(
            f"output folder {str(place)!r} cannot be written ({reason(error)}); choose another place"
        ) from error
    try:
        sweep(place)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        file.close()
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _locked(path: Path, wait: bool) -> BinaryIO:
    while True:
        file = open(path, "a+b")  # noqa: SIM115 (it is the lock that is held)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(200).decode("utf8", "replace").strip()
            file.close()
            who = (
                "another thread"
                if owner.startswith(f"{os.getpid()} on ")
                else "another process" + (f" (process {owner})" if owner else "")
            )
            raise InputError(
                f"{str(path.parent)!r} is being written to by {who}; wait for it, or choose another place"
            ) from None
        except OSError:
            pass  # a file system without locks
        try:
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                break
        except FileNotFoundError:
            pass
        file.close()  # who held it removed it just now
    file.truncate(0)
    file.write(f"{os.getpid()} on {socket.gethostname()}\n".encode("utf8", "replace"))
    file.flush()
    return file


# --- terminals ------------------------------------------------------------------------------------------------------
def bar_options() -> dict[str, Any]:
    """Further arguments of tqdm: on a terminal, or in a notebook, its bar as it is; in a file or a pipe a line every
    half a minute, and one at the end.
    """
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return {}
    return {"file": _Lines(), "mininterval": 30.0, "maxinterval": 30.0}


class _Lines:
    """Standard error for a bar that has no terminal: each state of the bar is a line."""

    def write(self, text: str) -> None:
        if state := text.strip("\r\n "):
            sys.stderr.write(state + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def speak_any_language() -> None:
    """Let terminals that are ASCII, and names that are no UTF-8, show what they cannot say as escapes."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
