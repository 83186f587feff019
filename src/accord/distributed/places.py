"""Files of this machine, of S3 and of Google Cloud Storage alike, through pyarrow's file systems."""

from __future__ import annotations

import contextlib
import re
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.data.extras import need
from accord.files import STORES, check_writable, only_writer, reason, write_file
from accord.types import InputError

_SCHEME = re.compile(rf"({'|'.join((*STORES, 'file'))}):/+")


def place_of(given: str | Path) -> Place:
    """A path, or an address such as s3://bucket/folder.

    An address may have come through `Path`, which takes one of its two slashes away.

    Raises:
        InputError: for an address that pyarrow does not understand.
    """
    text = str(given)
    match = _SCHEME.match(text)
    fs = need("pyarrow.fs", "parquet", "Jobs on a cluster")
    if match is None:
        return Place(fs.LocalFileSystem(), str(Path(text).absolute()), text, Path(text))
    address = f"{match[1]}://{'/' if match[1] == 'file' else ''}{text[match.end() :]}"
    try:
        system, path = fs.FileSystem.from_uri(address)
    except Exception as error:  # pyarrow raises ValueError, OSError and its own
        raise InputError(f"place {address!r} cannot be used ({str(error)[:200]}); check it") from error
    return Place(system, path, address, Path(path) if match[1] == "file" else None)


def within(folder: str, name: str) -> str:
    """The path or address of what is in a folder; options of an address, such as ?region=eu-west-1, stay at its end."""
    address, options = _parted(folder)
    return f"{address.rstrip('/')}/{name}{options}"


def around(file: str) -> str:
    """The folder that a file is in."""
    address, options = _parted(file)
    return address.rpartition("/")[0] + options


def _parted(place: str) -> tuple[str, str]:
    address, mark, options = place.partition("?") if _SCHEME.match(place) else (place, "", "")
    return address, mark + options


@dataclass(frozen=True)
class Place:
    """A file or folder.

    Attributes:
        system: the file system of pyarrow that has it.
        path: within that.
        shown: as it was given.
        local: the same as a path of this machine; None if it is elsewhere.
    """

    system: Any
    path: str
    shown: str
    local: Path | None

    def __truediv__(self, name: str) -> Place:
        path, local = f"{self.path.rstrip('/')}/{name}", None if self.local is None else self.local / name
        return Place(self.system, path, within(self.shown, name), local)

    def __str__(self) -> str:
        return self.shown

    @property
    def everywhere(self) -> str:
        """What it is called by a process that works in another folder."""
        return self.shown if self.local is None else str(self.local.absolute())

    @property
    def suffix(self) -> str:
        return Path(self.path).suffix.lower()

    def kind(self) -> str:
        """ "file", "folder" or ""; raises InputError if the place cannot be reached."""
        fs = need("pyarrow.fs", "parquet", "Jobs on a cluster")
        try:
            found = self.system.get_file_info(self.path).type
        except OSError as error:
            raise InputError(
                f"place {self.shown!r} cannot be reached ({_said(error)}); check address and credentials"
            ) from error
        return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(found, "")

    def names(self, *suffixes: str) -> Iterator[str]:
        """What is in a folder with one of these suffixes, as paths within it, folder by folder and each in order;
        hidden ones are left out. There may be millions.

        Raises:
            InputError: if it cannot be listed.
        """
        fs = need("pyarrow.fs", "parquet", "Jobs on a cluster")
        start, folders = len(self.path.rstrip("/")) + 1, [self.path]
        while folders:
            try:
                found = self.system.get_file_info(fs.FileSelector(folders.pop(), allow_not_found=True))
            except OSError as error:
                raise InputError(
                    f"folder {self.shown!r} cannot be listed ({_said(error)}); check its rights"
                ) from error
            shown = sorted((f.path, f.type) for f in found if not f.base_name.startswith("."))
            del found  # of a store's listing each entry is some hundred bytes
            folders += [path for path, kind in reversed(shown) if kind == fs.FileType.Directory]
            for path, kind in shown:
                if kind == fs.FileType.File and Path(path).suffix.lower() in suffixes:
                    yield path[start:]

    def files(self, *suffixes: str) -> list[Place]:
        """The same as places."""
        return [self / name for name in self.names(*suffixes)]

    def read(self) -> bytes:
        """Its bytes. Raises InputError if it cannot be read."""
        try:
            with self.system.open_input_file(self.path) as file:
                return bytes(file.read())
        except OSError as error:
            raise InputError(f"file {self.shown!r} cannot be read ({_said(error)}); check that it is there") from error

    def write(self, data: bytes) -> None:
        """Be these bytes, as a whole or not at all. Raises InputError if it cannot be written."""
        if self.local is not None:
            self.local.parent.mkdir(parents=True, exist_ok=True)
            write_file(self.local, data)
            return
        try:  # an object of a store is there once its stream is closed
            with self.system.open_output_stream(self.path) as file:
                file.write(data)
        except OSError as error:
            raise InputError(f"file {self.shown!r} cannot be written ({_said(error)}); check its rights") from error

    def remove(self) -> None:
        """Take the file away. Raises InputError if that cannot be done."""
        try:
            self.system.delete_file(self.path)
        except OSError as error:
            raise InputError(f"file {self.shown!r} cannot be removed ({_said(error)}); check its rights") from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only one who writes to a folder of this machine; a store has no locks.

        Raises:
            InputError: if another one does, or it cannot be written to.
        """
        if self.local is not None:
            with only_writer(check_writable(self.local)):
                yield
            return
        probe = f"{self.path.rstrip('/')}/.probe-{uuid.uuid4().hex}"
        try:
            self.system.open_output_stream(probe).close()
            self.system.delete_file(probe)
        except OSError as error:
            raise InputError(
                f"output folder {self.shown!r} cannot be written ({_said(error)}); check address and credentials"
            ) from error
        yield

    @contextlib.contextmanager
    def filled(self) -> Iterator[Path]:
        """A folder of this machine, whose files are in this one after the block."""
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)
            yield self.local
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    (self / path.relative_to(folder).as_posix()).write(path.read_bytes())


_OF_AWS = re.compile(r"AWS Error (\w+).*? during \w+ operation: *(.*)", re.DOTALL)


def _said(error: OSError) -> str:
    """Why; of a store's own words the name of its error, and what follows it."""
    match = _OF_AWS.search(str(error))
    if match is None:
        return reason(error)
    more = " ".join(match[2].split()).rstrip(".")[:160]
    return match[1] if not more or more == "No response body" else f"{match[1]}: {more}"
