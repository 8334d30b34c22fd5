"""GraphQL over a WebSocket: the protocol graphql-transport-ws, for queries and subscriptions.

The token comes in the header ``Authorization``, or in the payload of ``connection_init``:
``{"Authorization": "Bearer ..."}``. When it ends, so does the connection (4403).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Any

import orjson
from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from serving import formats
from serving.auth import Caller
from serving.graphql.context import Context, Platform
from serving.graphql.execution import Engine, Error, Operation, RefusedError, refused
from serving.graphql.live import Seats
from serving.graphql.requests import Asked, asked_of, expiry
from serving.problems import Problem

PROTOCOL = "graphql-transport-ws"
INIT_S = 10.0
SEND_S = 10.0
"""How long a client may take to accept a message."""
OPERATIONS = 20
"""Under way on one connection."""
"""Close codes of the protocol, and what they say."""
INVALID, UNAUTHORIZED, FORBIDDEN, INIT_LATE, EXISTS, MANY_INITS = 4400, 4401, 4403, 4408, 4409, 4429


class _Closed(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Socket:
    """One connection.

    Args:
        websocket: not yet accepted.
        engine: runs documents.
        platform: what they ask.
        seats: bounds subscriptions.
        prepared: an operation that a caller may run.
        check: whom a token names.
    """

    def __init__(
        self,
        websocket: WebSocket,
        engine: Engine,
        platform: Platform,
        seats: Seats,
        prepared: Callable[[Asked, Caller], Operation],
        check: Callable[[str], Awaitable[Caller]],
    ) -> None:
        self._socket, self._engine, self._platform = websocket, engine, platform
        self._seats, self._prepared, self._check = seats, prepared, check
        self._running: dict[str, asyncio.Task[None]] = {}
        self._sending = asyncio.Lock()
        self._caller: Caller | None = None
        self._ends = float("inf")

    async def serve(self) -> None:
        """Serve the connection to its end."""
        if PROTOCOL not in self._socket.scope.get("subprotocols", []):
            await self._socket.close(4406, "Subprotocol not acceptable")
            return
        await self._socket.accept(PROTOCOL)
        began = time.time()
        try:
            while True:
                ends = began + INIT_S if self._caller is None else self._ends
                try:
                    async with asyncio.timeout(None if ends == float("inf") else max(ends - time.time(), 0)):
                        message = await self._received()
                except TimeoutError:
                    late = self._caller is None
                    raise _Closed(
                        INIT_LATE if late else FORBIDDEN,
                        "Connection initialisation timeout" if late else "The token has expired",
                    ) from None
                await self._taken(message)
        except _Closed as end:
            with suppress(RuntimeError, WebSocketDisconnect):
                await self._socket.close(end.code, end.reason[:120])
        except (WebSocketDisconnect, TimeoutError, RuntimeError):
            pass  # nobody is there, or takes what is sent
        finally:
            for task in list(self._running.values()):
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _received(self) -> dict[str, Any]:
        event = await self._socket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code") or 1000)
        text = event.get("text")
        if text is None or len(text) > self._engine.limits.body_bytes:
            raise _Closed(INVALID, "A message is a text of bounded size")
        try:
            message = orjson.loads(text)
        except (orjson.JSONDecodeError, UnicodeEncodeError):
            raise _Closed(INVALID, "A message is JSON") from None
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise _Closed(INVALID, "A message is an object with a type")
        return message

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._sending, asyncio.timeout(SEND_S):
            await self._socket.send_text(formats.dumps(message).decode())

    async def _taken(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "connection_init":
                await self._init(message.get("payload"))
            case "ping":
                await self._send({"type": "pong"})
            case "pong":
                pass
            case "subscribe":
                if self._caller is None:
                    raise _Closed(UNAUTHORIZED, "Unauthorized")
                self._subscribe(message, self._caller)
            case "complete":
                if (task := self._running.pop(str(message.get("id")), None)) is not None:
                    task.cancel()
            case _:
                raise _Closed(INVALID, "There is no such message")

    async def _init(self, payload: Any) -> None:
        if self._caller is not None:
            raise _Closed(MANY_INITS, "Too many initialisation requests")
        given = payload.get("Authorization") or payload.get("authorization") if isinstance(payload, dict) else None
        words = str(given or self._socket.headers.get("authorization", ""))
        scheme, _, token = words.strip().partition(" ")
        try:
            if scheme.lower() != "bearer" or not token.strip():
                raise Problem(401, "unauthorised", "A bearer token is needed")
            self._caller = await self._check(token.strip())
        except Problem as problem:
            raise _Closed(FORBIDDEN, problem.detail) from None
        self._ends = expiry(token.strip())
        await self._send({"type": "connection_ack"})

    def _subscribe(self, message: dict[str, Any], caller: Caller) -> None:
        identity = message.get("id")
        if not isinstance(identity, str) or not 0 < len(identity) <= 100:
            raise _Closed(INVALID, "An id is a text of up to 100 characters")
        if identity in self._running:
            raise _Closed(EXISTS, f"Subscriber for {identity} already exists")
        if len(self._running) >= OPERATIONS:
            raise _Closed(INVALID, f"At most {OPERATIONS} operations at a time")
        try:
            asked = asked_of(message.get("payload"))
        except Problem as problem:
            raise _Closed(INVALID, problem.detail) from None
        task = asyncio.create_task(self._run(identity, asked, caller))
        self._running[identity] = task
        task.add_done_callback(lambda done: self._done(identity, done))

    def _done(self, identity: str, task: asyncio.Task[None]) -> None:
        if self._running.get(identity) is task:
            del self._running[identity]
        if not task.cancelled():
            task.exception()  # a client that is gone

    async def _run(self, identity: str, asked: Asked, caller: Caller) -> None:
        errors: list[Error] = []
        try:
            operation = self._prepared(asked, caller)
            if operation.kind == "subscription":
                with ExitStack() as held:
                    held.enter_context(self._seats.taken(caller.subject))
                    await self._events(identity, operation, caller)
            else:
                answer = await self._engine.run(operation, Context(self._platform, caller), identity)
                await self._send({"id": identity, "type": "next", "payload": answer})
        except RefusedError as refusal:
            errors = refusal.errors
        except Problem as problem:
            errors = refused(problem).errors
        self._running.pop(identity, None)  # from here on its id may be used again
        if errors:
            await self._send({"id": identity, "type": "error", "payload": errors})
        else:
            await self._send({"id": identity, "type": "complete"})

    async def _events(self, identity: str, operation: Operation, caller: Caller) -> None:
        events = self._engine.events(operation, lambda: Context(self._platform, caller), identity)
        try:
            async for answer in events:
                await self._send({"id": identity, "type": "next", "payload": answer})
        finally:
            await events.aclose()  # type: ignore[attr-defined]
