"""What the collector's tests pass in: an intake in memory, plugins as a file would write them, a lumberjack client."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson

from lakehouse.collect.event import Event
from lakehouse.collect.plugins import Away, Plugin


def plugin(name: str, section: str = "input", **options: Any) -> Plugin:
    return Plugin(section, name, 1, {key: (value, 2) for key, value in options.items()}, "test.conf")


class Intake:
    """Keeps what is put; ``room`` is how many events it takes before puts wait."""

    def __init__(self, room: int | None = None) -> None:
        self.events: list[Event] = []
        self.puts: list[tuple[list[Event], Future[None]]] = []
        self.marks: dict[str, Any] = {}
        self.room = room
        self._changed = asyncio.Condition()

    async def put(self, events: list[Event], mark: tuple[str, Any] | None = None) -> Future[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self.room is None or len(self.events) < self.room)
            self.events += events
            if mark is not None:
                self.marks[mark[0]] = mark[1]
            self.puts.append((events, Future()))
            self._changed.notify_all()
            return self.puts[-1][1]

    def mark(self, key: str) -> Any:
        return self.marks.get(key)

    async def until(self, count: int) -> list[Event]:
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(lambda: len(self.events) >= count), 10)
        return self.events

    def deliver(self) -> None:
        for _, future in self.puts:
            if not future.done():
                future.set_result(None)

    def messages(self) -> list[str]:
        return [event["message"] for event in self.events]


class Acknowledging(Intake):
    """Acknowledges what is put at once."""

    async def put(self, events: list[Event], mark: tuple[str, Any] | None = None) -> Future[None]:
        future = await super().put(events, mark)
        future.set_result(None)
        return future


@asynccontextmanager
async def running(source: Any, intake: Any) -> AsyncIterator[int]:
    """The port of an input that listens."""
    task = asyncio.create_task(source.run(intake))
    listening = asyncio.wrap_future(source.port)
    await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        listening.cancel()
        await task
    try:
        yield await listening
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def frames(events: list[Any], compressed: bool = False, start: int = 1) -> bytes:
    """A lumberjack window: a number of events, or of bytes that stand for one."""
    bodies = [event if isinstance(event, bytes) else orjson.dumps(event) for event in events]
    data = b"".join(b"2J" + struct.pack(">II", n, len(body)) + body for n, body in enumerate(bodies, start))
    if compressed:
        packed = zlib.compress(data)
        data = b"2C" + struct.pack(">I", len(packed)) + packed
    return b"2W" + struct.pack(">I", len(events)) + data


class Beat:
    """A lumberjack client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> Beat:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def acknowledged(self) -> int:
        """The sequence number of the next acknowledgement."""
        answer = await asyncio.wait_for(self.reader.readexactly(6), 10)
        assert answer[:2] == b"2A"
        return int.from_bytes(answer[2:], "big")


class Taker:
    """An output: away for so many calls, breaks over the events named, then takes ``part`` a call."""

    def __init__(self, away: int = 0, poison: str | None = None, part: int | None = None) -> None:
        self.taken: list[str] = []
        self.calls = 0
        self.closed = False
        self.away, self.poison, self.part = away, poison, part

    def send(self, events: list[Event]) -> None:
        self.calls += 1
        if self.calls <= self.away:
            raise Away("down for a test")
        if self.poison is not None and any(event["message"] == self.poison for event in events):
            raise RuntimeError("poison")
        now = events[: self.part]
        self.taken += [event["message"] for event in now]
        if len(now) < len(events):
            raise Away("slow for a test", events[len(now) :])

    def close(self) -> None:
        self.closed = True
