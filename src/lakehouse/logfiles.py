"""Service logs as a service writes them: as text, to a file of its own that is rotated by size.

A record is ``time LEVEL [service,trace,id] host dataset NNNns message`` and, where there is one, the lines of its stack
trace, which belong to the line before that begins with ``\\d{4}-``. ``conf/logstash/service-logs.conf`` reads it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Self

LIMIT = 16 * 2**20
"""Bytes of a file beyond which the next record goes to a new one."""
OLD = 3
"""Old files that are kept. Who reads slower than they are written loses what was in the oldest."""


class LogFileError(Exception):
    """A log file cannot be written; one line that says which and why."""


def as_text(log: dict[str, Any]) -> str:
    """A record of the simulated service as a service writes it, with its last line's end.

    A field that the format does not know is left out; a duration or trace that is not there is ``-``.
    """
    event, error = log["event"], log.get("error")
    duration = f"{event['duration']}ns" if "duration" in event else "-"
    failed = ""
    if error:
        failed = f" {error['type']} {error['code']} {error['id']}: {error['message']}\n{error['stack_trace']}"
    return (
        f"{log['@timestamp']} {log['log']['level'].upper()} "
        f"[{log['service']['name']},{log.get('trace', {}).get('id', '-')},{event['id']}] "
        f"{log['host']['name']} {event['dataset']} {duration} {log['message']}{failed}\n"
    )


class LogFiles:
    """``<service>.log`` in a folder, to which each record is appended in one write and at once; one writer a folder.

    A file that would grow over the limit is renamed to ``.log.1`` first, and the ones before it to ``.log.2`` and
    ``.log.3``, so a reader that knows files by inode reads on, and one that was away finds them as ``*.log*``. A file
    is on disk when it has been rotated or closed. ``written`` counts records.
    """

    def __init__(self, folder: Path, services: Iterable[str], limit: int = LIMIT) -> None:
        self.written = 0
        self._folder, self._limit = folder, limit
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._files = {service: _opened(folder / f"{service}.log") for service in services}
        except OSError as error:
            raise self._error(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, log: dict[str, Any]) -> None:
        """Append one record; a reader sees it when this returns.

        Raises:
            LogFileError: it could not be written.
        """
        service, text = log["service"]["name"], as_text(log).encode()
        try:
            size = self._files[service].tell()
            if size and size + len(text) > self._limit:
                self._rotate(service)
            self._files[service].write(text)
            self._files[service].flush()
        except OSError as error:
            raise self._error(error) from None
        self.written += 1

    def close(self) -> None:
        """Put on disk what was written.

        Raises:
            LogFileError: that failed.
        """
        try:
            for file in self._files.values():
                if not file.closed:  # as one is whose rotation failed
                    _close(file)
        except OSError as error:
            raise self._error(error) from None

    def _rotate(self, service: str) -> None:
        path = self._folder / f"{service}.log"
        _close(self._files[service])
        names = [str(path), *(f"{path}.{age}" for age in range(1, OLD + 1))]
        for newer, older in reversed([*pairwise(names)]):
            with suppress(FileNotFoundError):
                os.replace(newer, older)
        self._files[service] = _opened(path)

    def _error(self, error: OSError) -> LogFileError:
        return LogFileError(
            f"log files in {self._folder} cannot be written ({error.strerror}): make room, or name another folder"
        )


def _opened(path: Path) -> BinaryIO:
    """The file, to append to; a last line that a killed writer left without its end is ended, not continued."""
    file = path.open("a+b")
    if file.tell():
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.write(b"\n")
    return file


def _close(file: BinaryIO) -> None:
    with file:
        file.flush()
        os.fsync(file.fileno())
