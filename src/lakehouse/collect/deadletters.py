"""Events that an output refuses for good: kept in a file with the reason, so that they neither block nor vanish."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import orjson

from lakehouse.collect.event import Event, iso

Refuse = Callable[[list[tuple[Event, str]]], None]
"""Takes (event, reason) pairs and returns once they are on disk."""


class DeadLetters:
    """Appends lines ``{"at", "reason", "event"}`` to ``<folder>/<output>.jsonl``; an event may come twice."""

    def __init__(self, folder: Path, output: str) -> None:
        self.path = folder / f"{output}.jsonl"
        self.count = 0

    def add(self, refused: list[tuple[Event, str]]) -> None:
        """Return once the events are on disk.

        Raises:
            OSError: they can't be written.
        """
        at = iso(datetime.now(UTC))
        lines = b"".join(_line({"at": at, "reason": reason, "event": event}) for event, reason in refused)
        append(self.path, lines)
        self.count += len(refused)


def _line(letter: Event) -> bytes:
    try:
        return orjson.dumps(letter, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS, default=str) + b"\n"
    except TypeError:  # deeper than it writes
        return json.dumps({**letter, "event": repr(letter["event"])}).encode() + b"\n"


def append(path: Path, data: bytes) -> None:
    """Add bytes to a file, made with its folders where it is missing, and return once they are on disk.

    What a failed write left of them is cut off again.

    Raises:
        OSError: they can't be written.
    """
    new = not path.exists()
    if new:
        path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        start, left = os.fstat(descriptor).st_size, memoryview(data)
        try:
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, start)
            raise
    finally:
        os.close(descriptor)
    if new:  # the name is on disk when its folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
