"""Plain files on the lake, beside its tables, without a JVM."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileSelector, FileType, PyFileSystem

One = TypeVar("One")
Done = TypeVar("Done")


def put(handler: DeltaStorageHandler, path: str, content: bytes) -> None:
    """Put a file in place of the one before, under the handler's root.

    Raises:
        OSError: it could not be written; the file before stays.
    """
    # The handler's own stream: what its public method returns takes no bytes from pyarrow (delta-rs 1.6.6).
    stream = handler._handler.open_output_stream(path)
    stream.write(content)
    stream.close()  # not where writing failed: closing is what puts the file in place


CHUNK_BYTES = 4 << 20
AT_ONCE = 16
"""Files on their way at once: delta-rs waits half a second for HDFS to have one in place, however small it is."""


def at_once(work: Callable[[One], Done], of: Iterable[One]) -> Iterator[Done]:
    """The results of work on files, in their order. An error of the work ends it, once what was begun has ended."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(work, of)


class Copied(NamedTuple):
    """Bytes that were read, and their SHA-256."""

    size: int
    sha256: str


class Found(NamedTuple):
    """A file or folder: its name in the folder that was listed, bytes, and when it was written."""

    name: str
    size: int
    written_at: datetime | None
    folder: bool


class Files:
    """The files under one root, ``hdfs://``, ``file://`` or whatever delta-rs knows; paths are relative to it."""

    def __init__(self, root: str):
        self.root = root
        if root.startswith("file://"):  # elsewhere folders come with their first file
            Path(root.removeprefix("file://")).mkdir(parents=True, exist_ok=True)
        self.handler = DeltaStorageHandler(root)
        self.system = PyFileSystem(self.handler)

    def ls(self, folder: str) -> list[Found]:
        """What a folder holds, by name; nothing where there is none."""
        found = self.system.get_file_info(FileSelector(folder, allow_not_found=True))
        return sorted(Found(one.base_name, one.size or 0, one.mtime, one.type == FileType.Directory) for one in found)

    def walk(self, folder: str) -> list[str]:
        """The paths of all files in a folder and below."""
        found = self.system.get_file_info(FileSelector(folder, allow_not_found=True, recursive=True))
        return sorted(one.path for one in found if one.type == FileType.File)

    def read(self, path: str) -> bytes | None:
        """The bytes of a file; None where there is none."""
        try:
            with self.system.open_input_stream(path) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def put(self, path: str, content: bytes) -> None:
        """As :func:`put`."""
        put(self.handler, path, content)

    def copy(self, path: str, other: Files, to: str) -> Copied:
        """Copy a file elsewhere; what was copied. The target appears whole, once all of it is written.

        Raises:
            OSError: it can't be read or written.
        """
        digest, size = hashlib.sha256(), 0
        stream = other.handler._handler.open_output_stream(to)
        with self.system.open_input_stream(path) as source:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                stream.write(bytes(chunk))
        stream.close()
        return Copied(size, digest.hexdigest())

    def summed(self, path: str) -> Copied:
        """Size and checksum of a file, as :meth:`copy` would have them."""
        digest, size = hashlib.sha256(), 0
        with self.system.open_input_stream(path) as source:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
        return Copied(size, digest.hexdigest())

    def delete(self, path: str) -> None:
        """Delete a file; one that is not there is passed over."""
        try:
            self.system.delete_file(path)
        except FileNotFoundError:
            return
