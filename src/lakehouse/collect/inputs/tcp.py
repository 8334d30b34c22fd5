"""``tcp``: connections that send lines. There is no acknowledgement in it: what was read is on disk at once.

While the queue is full nothing is read, so that the sender waits.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Literal

from lakehouse.collect.codecs import CodecName, codec
from lakehouse.collect.event import METADATA, Event, put
from lakehouse.collect.inputs.listening import READ_BYTES, ListenOptions, marking, serve
from lakehouse.collect.plugins import Intake, Plugin

STOP_S = 1.0
"""Seconds that an unfinished line may wait for room in the queue when the collector stops."""


class TcpOptions(ListenOptions):
    """``mode => client`` has no meaning here."""

    codec: CodecName = "line"
    mode: Literal["server"] = "server"


class Tcp:
    """Takes lines of any number of connections. ``port`` is told when it listens."""

    def __init__(self, options: TcpOptions, plugin: Plugin) -> None:
        self._options, self._mark = options, marking(options)
        self._codec = codec(plugin, options.codec, "stream")
        self.port: Future[int] = Future()

    async def run(self, intake: Intake) -> None:
        """Listen until cancelled."""

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connection(intake, reader, writer)

        await serve("tcp", self._options, connect, self.port)

    async def _connection(self, intake: Intake, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = self._codec()
        peer = writer.get_extra_info("peername")
        source = {"ip": peer[0], "port": peer[1]}

        async def keep(events: list[Event]) -> None:
            for event in events:
                put(event, (METADATA, "input", "tcp", "source"), source)
            if events:
                await intake.put(self._mark(events))

        try:
            while True:
                try:
                    async with asyncio.timeout(decoder.silence):
                        data = await reader.read(READ_BYTES)
                except TimeoutError:
                    await keep(list(decoder.idle()))
                    continue
                if not data:
                    break
                await keep(list(decoder.decode(data)))
        except ConnectionError:
            pass  # what came before is kept
        except asyncio.CancelledError:
            async with asyncio.timeout(STOP_S):
                await keep(list(decoder.flush()))
            raise
        await keep(list(decoder.flush()))
