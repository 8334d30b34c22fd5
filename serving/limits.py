"""How much one request may take: bytes of its body, time, and places among those under way."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from urllib.parse import quote

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.live.route import ABORT
from serving.problems import Problem, refuse

OWN_LIMIT = frozenset({"/v1/events"})
"""Paths whose bodies are bounded where they are read."""
OWN_TIME = ("/reports/",)
"""Beginnings of paths whose work is bounded where it is done: a page of a day may take minutes to make."""
EVENT_STREAM = b"text/event-stream"
_log = logging.getLogger(__name__)


def header(headers: list[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value of a header; names are in small letters."""
    return next((value for found, value in headers if found == name), None)


class Bodies:
    """Answers 413 to a body that is too large, by what it says of its length or as soon as it is longer."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in OWN_LIMIT:
            return await self.app(scope, receive, send)
        detail = f"The body is over {self.most:,} bytes."
        problem = Problem(413, "too-large", detail, {"Connection": "close"})
        said = header(scope["headers"], b"content-length")
        if said is not None and said.isdigit() and int(said) > self.most:
            return await refuse(problem, scope, receive, send)
        read, over, begun = 0, False, False

        async def bounded() -> Message:
            nonlocal read, over
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:
                over = True
                raise problem
            return message

        async def answered(message: Message) -> None:
            nonlocal begun
            if over and not begun:
                return  # whatever the application made of a body that broke off
            begun = True
            await send(message)

        try:
            await self.app(scope, bounded, answered)
        except Problem as error:
            if error is not problem:
                raise
        if over and not begun:
            await refuse(problem, scope, receive, send)


class Room:
    """Answers 503 where as many requests are under way as there is room for. A stream of events that has begun is not
    one of them: it may go on for ever, and who serves it bounds their number.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most, self.taken = app, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] == "/healthz":
            return await self.app(scope, receive, send)
        if self.taken >= self.most:
            detail = f"{self.most} requests are under way: try again."
            return await refuse(Problem(503, "busy", detail, {"Retry-After": "1"}), scope, receive, send)
        self.taken += 1
        held = True

        async def answered(message: Message) -> None:
            nonlocal held
            if held and message["type"] == "http.response.start" and streams(message):
                held = False
                self.taken -= 1
            await send(message)

        try:
            await self.app(scope, receive, answered)
        finally:
            if held:
                self.taken -= 1


class Deadlines:
    """Answers 503 where an answer does not begin in time, and breaks off one that is not taken in time.

    Args:
        app: what is served.
        begins: how long until the answer begins, the arrival of the body included.
        ends: how long an answer that has begun may take; a stream of events has no end.
    """

    def __init__(self, app: ASGIApp, begins: timedelta, ends: timedelta) -> None:
        self.app, self.begins_s, self.ends_s = app, begins.total_seconds(), ends.total_seconds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        loop, begun = asyncio.get_running_loop(), False

        async def answered(message: Message) -> None:
            nonlocal begun
            if not begun and message["type"] == "http.response.start":
                begun = True
                deadline.reschedule(None if streams(message) else loop.time() + self.ends_s)
            await send(message)

        try:
            async with asyncio.timeout(None if scope["path"].startswith(OWN_TIME) else self.begins_s) as deadline:
                await self.app(scope, receive, answered)
        except TimeoutError:
            if not deadline.expired():
                raise
            if begun:  # the end of the connection shows that it is broken off
                _log.warning("an answer to %s was not taken within %g s", quote(scope["path"][:500]), self.ends_s)
                if (drop := scope.get("extensions", {}).get(ABORT)) is not None:
                    drop["abort"]()
                raise ClientDisconnect from None
            detail = f"The answer did not begin within {self.begins_s:g} s: ask for less, or try again."
            problem = Problem(503, "too-slow", detail, {"Retry-After": "5", "Connection": "close"})
            await refuse(problem, scope, receive, send)


def streams(message: Message) -> bool:
    """Whether the start of an answer is one of a stream of events."""
    return (header(message["headers"], b"content-type") or b"").startswith(EVENT_STREAM)
