"""``file``: lines as they are appended to files (``mode => tail``).

How far a file has been read is stored in the queue's own transaction, so that no line is lost or doubled on its way
into it. A file is known by device and inode and by its first bytes: a renamed file is read on, a truncated one and a
new one that was given the inode of an old one from their start. A last line without its end waits for it, until the
file is deleted.
"""

from __future__ import annotations

import asyncio
import fnmatch
import glob
import hashlib
import logging
import os
import socket
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from lakehouse.collect.codecs import CUT, LINE_BYTES, CodecName, Decoder, Delimiter, Splitter, codec
from lakehouse.collect.event import Event, put, tag
from lakehouse.collect.inputs.listening import from_host, marking
from lakehouse.collect.options import InputOptions, Listed
from lakehouse.collect.plugins import Intake, Plugin

_HEAD_BYTES = 256
_log = logging.getLogger(__name__)


class FileOptions(InputOptions):
    """``stat_interval`` in seconds, ``discover_interval`` in as many of those, ``close_older`` in seconds.

    Positions are in the queue; ``sincedb_path`` only names them, ``/dev/null`` keeps none, as in Logstash.
    """

    path: Listed
    codec: CodecName = "plain"
    exclude: Listed = []
    start_position: Literal["beginning", "end"] = "end"
    sincedb_path: str | None = None
    stat_interval: float = Field(default=1, gt=0)
    discover_interval: int = Field(default=15, ge=1)
    close_older: float = Field(default=3600, gt=0)
    delimiter: Delimiter = "\n"
    mode: Literal["tail"] = "tail"
    file_chunk_size: int = Field(default=256 * 1024, ge=1)  # Logstash: 32 KiB; a chunk here is one transaction

    @field_validator("path")
    @classmethod
    def _absolute(cls, paths: list[str]) -> list[str]:
        if not paths or not all(Path(path).is_absolute() for path in paths):
            raise ValueError("paths are absolute")
        return paths


@dataclass
class _Tail:
    """One open file. ``offset``: bytes whose events are in the queue; ``read``: bytes taken from the file."""

    path: str
    key: str
    descriptor: int
    decoder: Decoder
    splitter: Splitter
    offset: int
    read: int
    head: bytes = b""
    ends: deque[int] = field(default_factory=deque)
    """Ends of the lines that the codec holds in no event yet, and of the line before them."""
    grown: float = 0.0


class File:
    """Reads files that match patterns."""

    def __init__(self, options: FileOptions, plugin: Plugin) -> None:
        self._options, self._mark = options, marking(options)
        self._codec = codec(plugin, options.codec, "line")
        self._space = options.sincedb_path or "\n".join(options.path)
        self._tails: dict[tuple[int, int], _Tail] = {}
        self._host = socket.gethostname()

    async def run(self, intake: Intake) -> None:
        """Look for files and read what they have grown by, until cancelled."""
        try:
            await self.discover(intake, self._options.start_position == "beginning")
            while True:
                for _ in range(self._options.discover_interval):
                    while await self.read(intake):
                        pass
                    await asyncio.sleep(self._options.stat_interval)
                await self.discover(intake, True)
        finally:
            for tail in self._tails.values():
                os.close(tail.descriptor)
            self._tails.clear()

    async def discover(self, intake: Intake, beginning: bool) -> None:
        """Open files that are new; without ``beginning`` one without a position is read from its present end."""
        for path in await asyncio.to_thread(self._matching):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    _log.warning("file input: %s: %s", path, error.strerror)
                continue
            status = os.fstat(descriptor)
            inode = (status.st_dev, status.st_ino)
            if inode in self._tails:
                os.close(descriptor)
                self._tails[inode].path = path
                continue
            key = f"file:{self._space}:{inode[0]}:{inode[1]}"
            known = intake.mark(key)
            if known is not None and status.st_size >= known["offset"] and _head(descriptor, known) == known["head"]:
                offset = known["offset"]
            else:
                offset = 0 if beginning or known is not None else status.st_size
            self._tails[inode] = self._tail(path, key, descriptor, offset)
            if known is None:  # where it began is remembered even if nothing comes before a restart
                await self._keep(intake, self._tails[inode], [])

    def _matching(self) -> list[str]:
        found = {path: None for pattern in self._options.path for path in sorted(glob.glob(pattern, recursive=True))}
        return [
            path
            for path in found
            if os.path.isfile(path)
            and not any(fnmatch.fnmatch(os.path.basename(path), pattern) for pattern in self._options.exclude)
        ]

    def _tail(self, path: str, key: str, descriptor: int, offset: int) -> _Tail:
        splitter = Splitter(self._options.delimiter.encode(), LINE_BYTES)
        tail = _Tail(path, key, descriptor, self._codec(), splitter, offset, offset)
        tail.head = os.pread(descriptor, min(offset, _HEAD_BYTES), 0)
        tail.ends.append(offset)
        tail.grown = asyncio.get_running_loop().time()
        return tail

    async def read(self, intake: Intake) -> bool:
        """One chunk of each file that has grown; whether any had."""
        grown = False
        for inode, tail in list(self._tails.items()):
            try:
                status = os.fstat(tail.descriptor)
                if status.st_size < tail.read or os.pread(tail.descriptor, len(tail.head), 0) != tail.head:
                    _log.info("file input: %s was truncated, read from its start", tail.path)
                    left = self._rest(tail)
                    tail = self._tails[inode] = self._tail(tail.path, tail.key, tail.descriptor, 0)
                    await self._keep(intake, tail, left)
                data = os.pread(tail.descriptor, self._options.file_chunk_size, tail.read)
            except OSError as error:
                _log.warning("file input: %s: %s; looked for again later", tail.path, error.strerror)
                await self._close(intake, inode, tail, gone=False)
                continue
            now = asyncio.get_running_loop().time()
            if data:
                grown, tail.grown = True, now
                await self._keep(intake, tail, self._events(tail, data))
            elif status.st_nlink == 0 or (self._remembers() and now - tail.grown > self._options.close_older):
                await self._close(intake, inode, tail, gone=status.st_nlink == 0)
            elif tail.decoder.silence and tail.decoder.pending and now - tail.grown > tail.decoder.silence:
                await self._keep(intake, tail, self._committed(tail, list(tail.decoder.flush())))
        return grown

    async def _close(self, intake: Intake, inode: tuple[int, int], tail: _Tail, gone: bool) -> None:
        """Let go of a file; one that is gone leaves its unfinished line, and its position is forgotten."""
        del self._tails[inode]
        try:
            if gone:
                events = self._finished(tail, self._rest(tail))
                if events or self._remembers():
                    await intake.put(events, (tail.key, None) if self._remembers() else None)
        finally:
            os.close(tail.descriptor)

    def _events(self, tail: _Tail, data: bytes) -> list[Event]:
        if len(tail.head) < _HEAD_BYTES and tail.read == len(tail.head):
            tail.head += data[: _HEAD_BYTES - len(tail.head)]
        end = tail.read - tail.splitter.held
        tail.read += len(data)
        return self._lines(tail, tail.splitter.feed(data), end)

    def _lines(self, tail: _Tail, lines: list[tuple[bytes, bool, int]], end: int) -> list[Event]:
        events: list[Event] = []
        for line, cut, size in lines:
            new = list(tail.decoder.decode(line))
            if cut:
                for event in new:
                    tag(event, [CUT])
            events += new
            end += size
            tail.ends.append(end)
            while len(tail.ends) > tail.decoder.pending + 1:
                tail.ends.popleft()
        return self._committed(tail, events)

    def _committed(self, tail: _Tail, events: list[Event]) -> list[Event]:
        while len(tail.ends) > tail.decoder.pending + 1:
            tail.ends.popleft()
        tail.offset = tail.ends[0]
        return events

    def _rest(self, tail: _Tail) -> list[Event]:
        """Everything that was read and is in no event, as events."""
        end = tail.read - tail.splitter.held
        events = self._lines(tail, tail.splitter.rest(), end)
        return self._committed(tail, events + list(tail.decoder.flush()))

    def _finished(self, tail: _Tail, events: list[Event]) -> list[Event]:
        for event in events:
            put(event, ("log", "file", "path"), tail.path)
            from_host(event, "name", self._host)
        return self._mark(events)

    def _remembers(self) -> bool:
        return self._options.sincedb_path != os.devnull

    async def _keep(self, intake: Intake, tail: _Tail, events: list[Event]) -> None:
        known: Any = {"offset": tail.offset, "head": _digest(tail.head[: tail.offset]), "path": tail.path}
        known["length"] = min(len(tail.head), tail.offset)
        if events or self._remembers():
            await intake.put(self._finished(tail, events), (tail.key, known) if self._remembers() else None)


def _digest(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()[:32]


def _head(descriptor: int, known: dict[str, Any]) -> str:
    """The digest of as many first bytes of a file as a mark knows."""
    return _digest(os.pread(descriptor, known["length"], 0))
