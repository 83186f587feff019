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
from accord.files import check_writable, only_writer, reason, write_file
from accord.types import InputError

_SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss", "file")
_SCHEME = re.compile(rf"({'|'.join(_SCHEMES)}):/+")


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
        return Place(
            self.system,
            f"{self.path.rstrip('/')}/{name}",
            f"{self.shown.rstrip('/')}/{name}",
            None if self.local is None else self.local / name,
        )

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
            raise InputError(f"place {self.shown!r} cannot be reached ({reason(error)}); check it") from error
        return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(found, "")

    def files(self, *suffixes: str, below: bool = True) -> list[Place]:
        """The files in a folder with one of these suffixes, in order; hidden ones are left out."""
        fs = need("pyarrow.fs", "parquet", "Jobs on a cluster")
        found = self.system.get_file_info(fs.FileSelector(self.path, allow_not_found=True, recursive=below))
        start = len(self.path.rstrip("/")) + 1
        names = sorted(f.path[start:] for f in found if f.type == fs.FileType.File)
        shown = [n for n in names if not any(part.startswith(".") for part in n.split("/"))]
        return [self / name for name in shown if Path(name).suffix.lower() in suffixes]

    def read(self) -> bytes:
        """Its bytes. Raises InputError if it cannot be read."""
        try:
            with self.system.open_input_file(self.path) as file:
                return bytes(file.read())
        except OSError as error:
            raise InputError(f"file {self.shown!r} cannot be read ({reason(error)}); check that it is there") from error

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
            raise InputError(f"file {self.shown!r} cannot be written ({reason(error)}); check its rights") from error

    def remove(self) -> None:
        self.system.delete_file(self.path)

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
        probe = self / f".probe-{uuid.uuid4().hex}"
        probe.write(b"")
        probe.remove()
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
