"""``stdin``: lines until the end; the collector then delivers what it has and stops."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading

from lakehouse.collect.codecs import CodecName, codec
from lakehouse.collect.event import Event
from lakehouse.collect.inputs.listening import READ_BYTES, from_host, marking
from lakehouse.collect.options import InputOptions
from lakehouse.collect.plugins import Intake, Plugin


class StdinOptions(InputOptions):
    """Nothing but the codec."""

    codec: CodecName = "line"


class Stdin:
    """Reads a file descriptor, standard input unless another is given."""

    def __init__(self, options: StdinOptions, plugin: Plugin, descriptor: int | None = None) -> None:
        self._codec, self._mark, self._descriptor = codec(plugin, options.codec, "stream"), marking(options), descriptor

    async def run(self, intake: Intake) -> None:
        """Read to the end."""
        loop, decoder = asyncio.get_running_loop(), self._codec()
        pieces: asyncio.Queue[bytes] = asyncio.Queue(1)
        descriptor = sys.stdin.fileno() if self._descriptor is None else self._descriptor

        def read() -> None:
            data = b"-"
            while data:
                data = os.read(descriptor, READ_BYTES)
                try:
                    asyncio.run_coroutine_threadsafe(pieces.put(data), loop).result()
                except RuntimeError:  # the loop has ended
                    return

        # A thread of its own, as a terminal's read can't be cancelled; a daemon, so that it holds up no exit.
        threading.Thread(target=read, name="collect-stdin", daemon=True).start()
        while data := await pieces.get():
            await self._keep(intake, list(decoder.decode(data)))
        await self._keep(intake, list(decoder.flush()))

    async def _keep(self, intake: Intake, events: list[Event]) -> None:
        for event in events:
            from_host(event, "hostname", socket.gethostname())
        if events:
            await intake.put(self._mark(events))
