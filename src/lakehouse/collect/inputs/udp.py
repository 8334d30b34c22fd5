"""``udp``: one datagram is one event, or what its codec makes of it.

While the queue is full nothing is read, and the system drops what its buffer does not hold: UDP can't make a sender
wait.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import Future

from pydantic import Field

from lakehouse.collect.codecs import CodecName, codec
from lakehouse.collect.event import Event
from lakehouse.collect.inputs.listening import bound, from_host, marking
from lakehouse.collect.options import InputOptions
from lakehouse.collect.plugins import Intake, Plugin


class UdpOptions(InputOptions):
    """``buffer_size``: longest datagram, ``receive_buffer_bytes``: the system's buffer, ``queue_size``: datagrams."""

    host: str = "127.0.0.1"  # Logstash: 0.0.0.0; here the world is let in by saying so
    port: int = Field(ge=0, le=65535)
    codec: CodecName = "plain"
    buffer_size: int = Field(default=65536, ge=1)
    queue_size: int = Field(default=2000, ge=1)
    receive_buffer_bytes: int = Field(default=8 << 20, ge=1)  # Logstash: the system's; for a burst while the disk syncs


class Udp:
    """Takes datagrams. ``port`` is told when it listens."""

    def __init__(self, options: UdpOptions, plugin: Plugin) -> None:
        self._options, self._mark = options, marking(options)
        self._codec = codec(plugin, options.codec, "unit")
        self.port: Future[int] = Future()

    async def run(self, intake: Intake) -> None:
        """Listen until cancelled."""
        with bound(self._options.host, self._options.port, socket.SOCK_DGRAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._options.receive_buffer_bytes)
            self.port.set_result(listener.getsockname()[1])
            size = self._options.buffer_size
            while True:
                datagrams = [await asyncio.get_running_loop().sock_recvfrom(listener, size)]
                try:
                    while len(datagrams) < self._options.queue_size:
                        datagrams.append(listener.recvfrom(size))
                except BlockingIOError:
                    pass
                if events := [event for data, peer in datagrams for event in self._events(data, peer[0])]:
                    await intake.put(events)

    def _events(self, data: bytes, address: str) -> list[Event]:
        decoder = self._codec()
        events = [*decoder.decode(data), *decoder.flush()]
        for event in events:
            from_host(event, "ip", address)
        return self._mark(events)
