"""What inputs share: sockets, TLS, and what ``type``, ``tags`` and ``add_field`` do."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from lakehouse.collect.event import Event, append, reference, tag, template
from lakehouse.collect.options import InputOptions, Listed

READ_BYTES = 256 * 1024
Connect = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_log = logging.getLogger(__name__)


class InputError(Exception):
    """An input that can't run; the message names it, and what is in its way."""


class ProtocolError(Exception):
    """A peer that does not speak the protocol; the connection ends, others go on."""


class ListenOptions(InputOptions):
    """Where an input listens, and with which certificate."""

    host: str = "127.0.0.1"  # Logstash: 0.0.0.0; here the world is let in by saying so
    port: int = Field(ge=0, le=65535)
    ssl_enabled: bool = False
    ssl_certificate: Path | None = None
    ssl_key: Path | None = None
    ssl_certificate_authorities: Listed = []
    ssl_client_authentication: Literal["none", "optional", "required"] = "none"

    @model_validator(mode="after")
    def _certified(self) -> Self:
        if self.ssl_enabled and not (self.ssl_certificate and self.ssl_key):
            raise ValueError("ssl_enabled needs ssl_certificate and ssl_key")
        if self.ssl_client_authentication != "none" and not self.ssl_certificate_authorities:
            raise ValueError("ssl_client_authentication needs ssl_certificate_authorities")
        return self

    def context(self) -> ssl.SSLContext | None:
        """The server's TLS context, or ``None`` without TLS.

        Raises:
            InputError: a certificate or key can't be read.
        """
        if not self.ssl_enabled or self.ssl_certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.ssl_certificate, self.ssl_key)
            for file in self.ssl_certificate_authorities:
                context.load_verify_locations(file)
        except OSError as error:  # SSLError is one
            raise InputError(f"{self.ssl_certificate}: certificate, key or authority can't be read: {error}") from None
        context.verify_mode = {
            "none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED
        }[self.ssl_client_authentication]  # fmt: skip
        return context


def bound(host: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A socket at an address, listening if it is of streams.

    Raises:
        InputError: the address is taken, or is none of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(family, kind)
        try:
            if kind == socket.SOCK_STREAM:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            if kind == socket.SOCK_STREAM:
                made.listen(1024)
            made.setblocking(False)
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise InputError(f"can't listen on {host}:{port}: {error.strerror or error}") from None
    return made


async def serve(name: str, options: ListenOptions, connect: Connect, port: Future[int]) -> None:
    """Accept connections until cancelled, which ends them too; ``port`` is told once peers can connect.

    Raises:
        InputError: the address or the certificate can't be used.
    """
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        peer = writer.get_extra_info("peername")
        try:
            await connect(reader, writer)
        except ProtocolError as error:
            _log.warning("%s: %s: %s", name, _shown(peer), error)
        except (OSError, EOFError) as error:  # the peer is gone
            _log.debug("%s: %s: %s", name, _shown(peer), error)
        except asyncio.CancelledError:
            pass  # the input ends
        except Exception:
            _log.exception("%s: %s", name, _shown(peer))
        finally:
            connections.discard(task)
            writer.close()

    context, listener = options.context(), bound(options.host, options.port)
    server = await asyncio.start_server(connected, sock=listener, ssl=context, limit=READ_BYTES)
    port.set_result(listener.getsockname()[1])
    try:
        await server.serve_forever()
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


def _shown(peer: object) -> str:
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "a peer"


def marking(options: InputOptions) -> Callable[[list[Event]], list[Event]]:
    """A function that gives events the ``type``, ``tags`` and ``add_field`` of an input, and returns them.

    Raises:
        ValueError: a field reference or template is wrong.
    """
    fields = [
        (reference(name), template(value) if isinstance(value, str) else None, value)
        for name, value in options.add_field.items()
    ]
    if not fields and not options.tags and options.type is None:
        return lambda events: events

    def mark(events: list[Event]) -> list[Event]:
        for event in events:
            for path, filled, value in fields:
                append(event, path, filled(event) if filled else value)
            if options.tags:
                tag(event, options.tags)
            if options.type is not None:
                event.setdefault("type", options.type)
        return events

    return mark


def from_host(event: Event, field: str, value: str) -> None:
    """Set a field of ``host``, unless the event says something of it itself."""
    host = event.setdefault("host", {})
    if isinstance(host, dict):
        host.setdefault(field, value)
