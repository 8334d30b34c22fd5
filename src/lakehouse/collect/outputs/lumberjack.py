"""``lumberjack``: to a ``beats`` input, ours or Logstash's, by version 2 of the protocol, as Filebeat sends.

Guarantee: at least once, in order; a repeated event has the same ``event.id``. An event is taken once the peer has
acknowledged it. One window is under way at a time, so a peer that waits for its own outputs makes this one wait.
Source: elastic/go-lumber, ``client/v2/client.go``.
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import struct
import zlib
from pathlib import Path

from pydantic import Field, field_validator

from lakehouse.collect.deadletters import Refuse
from lakehouse.collect.event import Event, delivered
from lakehouse.collect.inputs.beats import FRAME_BYTES
from lakehouse.collect.options import Listed, OutputOptions
from lakehouse.collect.plugins import Away, Plugin

TIMEOUT_S = 30.0
"""Seconds in which a peer that works says something, if only a keep-alive; Filebeat's ``timeout``."""
WINDOW_BYTES = 4 << 20
"""JSON bytes of a window, unless one event has more: a ``beats`` input reads as much before it waits for its queue."""
_COMPRESSION = 3  # Filebeat's level
_EVENT = struct.Struct(">2sII")
_FRAME = struct.Struct(">2sI")


class LumberjackOptions(OutputOptions):
    """``ssl_certificate`` is the peer's certificate or its authority's, ``flush_size`` the most events of a window."""

    hosts: Listed = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    ssl_certificate: Path | None = None  # Logstash: required; without it nothing is encrypted
    flush_size: int = Field(default=1024, ge=1)

    @field_validator("hosts")
    @classmethod
    def _names(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            host.encode("idna")  # what is no name fails now, not over each event
        return hosts


class LumberjackOutput:
    """Sends to one of the hosts, any of them. ``timeout`` is in seconds."""

    def __init__(self, options: LumberjackOptions, plugin: Plugin, refuse: Refuse, timeout: float = TIMEOUT_S) -> None:
        self._options, self._refuse, self._timeout = options, refuse, timeout
        self._context = _context(options.ssl_certificate) if options.ssl_certificate else None
        self._socket: socket.socket | None = None

    def send(self, events: list[Event]) -> None:
        """Return once the peer has acknowledged the events, or they are dead letters."""
        end = 0
        while end < len(events):
            window, end = self._window(events, end)
            if not window:
                continue
            acknowledged = 0
            try:
                connection = self._connected()
                connection.sendall(_frames([body for _, body in window]))
                while acknowledged < len(window):
                    acknowledged = max(acknowledged, _answer(connection, len(window)))  # 0 is a keep-alive
            except OSError as error:
                self.close()
                left = [event for event, _ in window[acknowledged:]] + events[end:]
                raise Away(f"beats input at {self._where()}: {self._reason(error)}", left) from None

    def _window(self, events: list[Event], start: int) -> tuple[list[tuple[Event, bytes]], int]:
        """The events of the next window with their JSON, and where the one after it starts."""
        window: list[tuple[Event, bytes]] = []
        size = 0
        for number in range(start, len(events)):
            try:
                body = delivered(events[number])
                if len(body) > FRAME_BYTES:
                    raise ValueError(f"its JSON has {len(body)} bytes, the protocol's limit here is {FRAME_BYTES}")
            except (TypeError, ValueError) as error:
                self._refuse([(events[number], str(error))])
                continue
            if window and (len(window) == self._options.flush_size or size + len(body) > WINDOW_BYTES):
                return window, number
            window.append((events[number], body))
            size += len(body)
        return window, len(events)

    def _connected(self) -> socket.socket:
        """The connection; a new one where there is none. Between windows a peer has nothing to say but that it ends."""
        if self._socket is not None:
            word = select.poll()
            word.register(self._socket, select.POLLIN)
            if word.poll(0):
                self.close()
        if self._socket is None:
            self._socket = self._connect()
        return self._socket

    def _connect(self) -> socket.socket:
        failed: OSError | None = None
        for host in random.sample(self._options.hosts, len(self._options.hosts)):
            try:
                made = socket.create_connection((host, self._options.port), self._timeout)
                try:
                    return self._context.wrap_socket(made, server_hostname=host) if self._context else made
                except OSError:
                    made.close()
                    raise
            except OSError as error:
                failed = error
        assert failed is not None  # there is a host
        raise failed

    def _where(self) -> str:
        return ", ".join(f"{host}:{self._options.port}" for host in self._options.hosts)

    def _reason(self, error: OSError) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout:g} s"
        return error.strerror or str(error)

    def close(self) -> None:
        """Let go of the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _context(certificate: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=certificate)
    except OSError as error:  # SSLError is one
        raise ValueError(f"ssl_certificate: {certificate} can't be read: {error.strerror or error}") from None


def _frames(bodies: list[bytes]) -> bytes:
    """A window: its size, then its events, numbered from 1, in one compressed frame."""
    events = b"".join(_EVENT.pack(b"2J", number, len(body)) + body for number, body in enumerate(bodies, 1))
    packed = zlib.compress(events, _COMPRESSION)
    return _FRAME.pack(b"2W", len(bodies)) + _FRAME.pack(b"2C", len(packed)) + packed


def _answer(connection: socket.socket, window: int) -> int:
    """How many events of the window the peer's next answer acknowledges.

    Raises:
        OSError: none comes in time, the connection ends, or the answer is not lumberjack's.
    """
    answer = b""
    while len(answer) < _FRAME.size:
        piece = connection.recv(_FRAME.size - len(answer))
        if not piece:
            raise ConnectionError("it closed the connection before it acknowledged all events")
        answer += piece
    kind, number = _FRAME.unpack(answer)
    if kind != b"2A" or number > window:
        raise ConnectionError(f"it answered {answer!r}, which acknowledges nothing in lumberjack version 2")
    return int(number)
