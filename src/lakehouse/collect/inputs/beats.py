"""``beats``: lumberjack version 2, the protocol of Filebeat's and Metricbeat's ``output.logstash``.

A window of events is acknowledged when every output has all of its events; until then a keep-alive (an acknowledgement
of nothing) every few seconds keeps the Beat from giving up. Events of a connection that ends unacknowledged are sent
again by the Beat. Source: elastic/logstash-input-beats, PROTOCOL.md; elastic/go-lumber.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime

from pydantic import Field

from lakehouse.collect.codecs import NOT_JSON, CodecName, Decoder, codec, objects, text_of
from lakehouse.collect.event import METADATA, Event, made, put
from lakehouse.collect.inputs.listening import READ_BYTES, ListenOptions, ProtocolError, marking, serve
from lakehouse.collect.plugins import Intake, Plugin

KEEP_ALIVE_S = 5.0
"""Seconds between keep-alives, as Logstash has it; Filebeat waits 30 for an answer."""
FRAME_BYTES = 64 << 20
"""Largest event taken: Filebeat cuts lines at 10 MiB, JSON may write a byte as six."""
_PART_BYTES = 8 << 20
_WINDOWS = 4
_INFLATED_BYTES = 1 << 20


class BeatsOptions(ListenOptions):
    """``client_inactivity_timeout``: seconds after which a silent connection without open windows is closed."""

    codec: CodecName = "plain"
    client_inactivity_timeout: float = Field(default=60, ge=0)


class Frames:
    """Windows and events out of bytes, however they are cut; memory is bounded by one frame, compressed or not."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._inner = bytearray()
        self._inflate = zlib.decompressobj()
        self._left = 0

    def feed(self, data: bytes) -> Iterator[int | tuple[int, bytes]]:
        """The size of a window where one starts, and (sequence number, JSON) of each event.

        Raises:
            ProtocolError: the peer does not speak lumberjack version 2.
        """
        self._bytes += data
        while True:
            if self._left:
                if not self._bytes:
                    return
                yield from self._inflated()
            else:
                yield from self._frames(self._bytes, "WJC")
                if not self._left:
                    return

    def _inflated(self) -> Iterator[int | tuple[int, bytes]]:
        piece = bytes(self._bytes[: self._left])
        del self._bytes[: len(piece)]
        self._left -= len(piece)
        try:
            while piece:
                self._inner += self._inflate.decompress(piece, _INFLATED_BYTES)
                piece = self._inflate.unconsumed_tail
                yield from self._frames(self._inner, "J")
            if not self._left and not self._inflate.eof:
                self._inner += self._inflate.flush()
                yield from self._frames(self._inner, "J")
        except zlib.error as error:
            raise ProtocolError(f"a compressed frame is damaged: {error}") from None
        if not self._left and (self._inner or not self._inflate.eof):
            raise ProtocolError("a compressed frame ends inside an event")

    def _frames(self, buffer: bytearray, allowed: str) -> Iterator[int | tuple[int, bytes]]:
        while buffer:
            if buffer[0] != 0x32:
                raise ProtocolError(_refusal(buffer[0]))
            if len(buffer) < 2:
                return
            kind = chr(buffer[1])
            if kind not in allowed:
                raise ProtocolError(f"frame type {kind!r} has no meaning here")
            if len(buffer) < (10 if kind == "J" else 6):
                return
            first, second = struct.unpack_from(">II", buffer, 2) if kind == "J" else (*_U32.unpack_from(buffer, 2), 0)
            if kind == "W":
                del buffer[:6]
                yield first
            elif kind == "C":
                del buffer[:6]
                self._left, self._inflate = first, zlib.decompressobj()
                return
            else:
                if second > FRAME_BYTES:
                    raise ProtocolError(f"an event of {second} bytes is larger than {FRAME_BYTES}")
                if len(buffer) < 10 + second:
                    return
                payload = bytes(buffer[10 : 10 + second])
                del buffer[: 10 + second]
                yield first, payload


_U32 = struct.Struct(">I")


def _refusal(version: int) -> str:
    if version == 0x31:
        return "it speaks lumberjack version 1 (logstash-forwarder); this input takes version 2: use Beats 5 or newer"
    if version == 0x16:
        return "it speaks TLS; this input has no ssl_enabled => true"
    return f"it does not speak lumberjack version 2 (first byte 0x{version:02x})"


class Beats:
    """Takes events of Beats. ``port`` is told when it listens; ``keep_alive`` is in seconds."""

    def __init__(self, options: BeatsOptions, plugin: Plugin, keep_alive: float = KEEP_ALIVE_S) -> None:
        self._options, self._keep_alive = options, keep_alive
        self._mark = marking(options)
        self.port: Future[int] = Future()
        named = options.codec if isinstance(options.codec, str) else options.codec.name
        if named == "multiline":
            raise plugin.error("codec multiline can't join lines of several files: use Filebeat's multiline parser")
        self._codec: Decoder | None = None if named == "plain" else codec(plugin, options.codec, "unit")()

    async def run(self, intake: Intake) -> None:
        """Listen until cancelled."""
        await serve("beats", self._options, lambda *streams: _Connection(self, intake, *streams).run(), self.port)

    def events(self, payload: bytes, address: str) -> list[Event]:
        """The event, or with a codec the events, of one frame."""
        now = datetime.now(UTC)
        found = objects(payload)
        if found is None:  # refused, it would come again for ever
            events: list[Event] = [{"message": text_of(payload), "@timestamp": now, "tags": [NOT_JSON]}]
        else:
            events = [made(fields, now) for fields in found]
            if self._codec is not None:
                events = [event for fields in events for event in self._decoded(self._codec, fields)]
        for event in events:
            put(event, (METADATA, "input", "beats", "host", "ip"), address)
        return self._mark(events)

    def _decoded(self, codec: Decoder, fields: Event) -> list[Event]:
        message = fields.get("message")
        if not isinstance(message, str):
            return [fields]
        del fields["message"]
        data = message.encode()
        return [{**event, **fields} for event in (*codec.decode(data), *codec.flush())]


class _Connection:
    def __init__(self, beats: Beats, intake: Intake, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._beats, self._intake, self._reader, self._writer = beats, intake, reader, writer
        self._open = 0
        self._windows: asyncio.Queue[tuple[int, list[asyncio.Future[None]]]] = asyncio.Queue(_WINDOWS)

    async def run(self) -> None:
        tasks = [asyncio.create_task(self._acknowledge()), asyncio.create_task(self._keep_alive())]
        try:
            await self._read()
        finally:
            for task in tasks:
                task.cancel()

    async def _read(self) -> None:
        address = (self._writer.get_extra_info("peername") or ("",))[0]
        frames = Frames()
        expected = size = 0
        events: list[Event] = []
        parts: list[asyncio.Future[None]] = []
        while data := await self._received():
            for item in frames.feed(data):
                if isinstance(item, int):
                    if expected:
                        raise ProtocolError(f"a window starts while {expected} events of the last one are missing")
                    expected = item
                    self._open += bool(item)
                    continue
                if not expected:
                    raise ProtocolError("an event comes without a window")
                sequence, payload = item
                expected -= 1
                size += len(payload)
                events += self._beats.events(payload, address)
                if not expected or size >= _PART_BYTES:
                    parts.append(asyncio.wrap_future(await self._intake.put(events)))
                    events, size = [], 0
                if not expected:
                    await self._windows.put((sequence, parts))
                    parts = []

    async def _received(self) -> bytes:
        idle = self._beats._options.client_inactivity_timeout
        try:
            async with asyncio.timeout(idle if idle and not self._open else None):
                return await self._reader.read(READ_BYTES)
        except TimeoutError:
            return b""

    async def _acknowledge(self) -> None:
        while True:
            sequence, parts = await self._windows.get()
            for part in parts:
                await part
            self._open -= 1
            await self._send(sequence)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._beats._keep_alive)
            if self._open:
                await self._send(0)

    async def _send(self, sequence: int) -> None:
        self._writer.write(b"2A" + _U32.pack(sequence))
        with suppress(ConnectionError):  # the reader hears of it
            await self._writer.drain()
