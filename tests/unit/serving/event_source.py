"""A client of server-sent events by the letter of the standard (WHATWG HTML, 9.2.6)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Event:
    name: str
    data: str
    last_id: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclass
class EventSource:
    """What a client knows: the events it had, and where it would go on."""

    last_id: str = ""
    retry: int | None = None
    comments: int = 0
    events: list[Event] = field(default_factory=list)
    _rest: bytes = b""
    _name: str = ""
    _data: str = ""
    _id: str = ""

    def begin(self) -> None:
        """A new connection: what was not whole on the one before is dropped."""
        self._rest, self._name, self._data, self._id = b"", "", "", self.last_id

    def feed(self, body: bytes) -> list[Event]:
        """Take bytes as they come; the events that they complete. Lines end with ``\\n``, as ours do."""
        *lines, self._rest = (self._rest + body).split(b"\n")
        found = []
        for line in lines:
            if event := self._take(line.decode()):
                found.append(event)
        self.events += found
        return found

    def _take(self, line: str) -> Event | None:
        assert "\r" not in line
        if line == "":
            self.last_id = self._id
            name, data, self._name, self._data = self._name, self._data, "", ""
            return Event(name or "message", data.removesuffix("\n"), self.last_id) if data else None
        if line.startswith(":"):
            self.comments += 1
            return None
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match key:
            case "event":
                self._name = value
            case "data":
                self._data += value + "\n"
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isdigit():
                self.retry = int(value)
        return None
