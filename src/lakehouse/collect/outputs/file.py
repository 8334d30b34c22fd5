"""``file``: events appended to files.

Guarantee: at least once; a file is synced to disk before its events count, and a crash between the two writes them
again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from lakehouse.collect.codecs import CodecName, codec
from lakehouse.collect.deadletters import Refuse, append
from lakehouse.collect.event import Event, template
from lakehouse.collect.options import OutputOptions
from lakehouse.collect.plugins import Away, Plugin


class FileOutputOptions(OutputOptions):
    """``path`` is a template; an event can't lead it out of the folder before its first field."""

    path: str
    codec: CodecName = "json_lines"
    write_behavior: Literal["append"] = "append"

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        if not path.startswith("/"):
            raise ValueError("the path has to be absolute")
        if os.path.dirname(path.partition("%{")[0]) == "/" and "%{" in path:
            raise ValueError("the path needs a folder before its first field")
        return path


class FileOutput:
    """Appends to files."""

    def __init__(self, options: FileOutputOptions, plugin: Plugin, refuse: Refuse) -> None:
        self._path, self._refuse = template(options.path), refuse
        self._root = os.path.normpath(os.path.dirname(options.path.partition("%{")[0])).rstrip("/") + "/"
        self._codec = codec(plugin, options.codec, "stream", encodes=True)()

    def send(self, events: list[Event]) -> None:
        """Return once the events are on disk, or are dead letters."""
        files: dict[str, tuple[list[Event], list[bytes]]] = {}
        refused: list[tuple[Event, str]] = []
        for event in events:
            path = os.path.normpath(self._path(event))
            try:
                data = self._codec.encode(event)
            except (TypeError, ValueError) as error:
                refused.append((event, str(error)))
                continue
            if not path.startswith(self._root) or "\0" in path:
                refused.append((event, f"{path!r} is not in {self._root}"))
                continue
            held, lines = files.setdefault(path, ([], []))
            held.append(event)
            lines.append(data)
        if refused:
            self._refuse(refused)
        left: list[Event] = []
        reason = ""
        for path, (held, lines) in files.items():
            try:
                append(Path(path), b"".join(lines))
            except OSError as error:
                left += held
                reason = reason or f"{path}: {error.strerror}"
        if left:
            raise Away(reason, left)

    def close(self) -> None:
        """Nothing is open between calls."""
