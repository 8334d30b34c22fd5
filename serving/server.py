"""The HTTP server: uvicorn, which says that it ends before it waits, and can drop a connection."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.live.route import ABORT


class Droppable(HttpToolsProtocol):
    """HTTP/1.1 whose scope lets an application drop the connection, with all that waits to be written.

    Closing it, which is what the server does by itself, waits for a client that does not read, for ever.
    """

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: {"abort": self.transport.abort}}


class Server(uvicorn.Server):
    """A server that tells ``ending`` as soon as it is to end, in the event loop.

    It then waits for the answers under way; streams, which have no end of their own, end by this word.
    """

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        self._ending()
        await super().shutdown(sockets)
