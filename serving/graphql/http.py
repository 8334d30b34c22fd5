"""``/graphql`` over HTTP: queries by GET or POST, subscriptions as server-sent events by POST, or over a WebSocket.

As the draft "GraphQL over HTTP" has it: with ``application/graphql-response+json``, the default, a request that is not
run is a 400; with ``application/json`` it is a 200 whose answer has errors and no data, but for what a limit refuses,
which is a 4xx however it is answered. What is no GraphQL request at all is a problem (RFC 9457). Batches are not taken,
and there are no mutations. Subscriptions follow "GraphQL over Server-Sent Events", distinct connections.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response, WebSocket
from fastapi.responses import StreamingResponse

from lakehouse.settings import Settings
from serving import formats
from serving.auth import Caller
from serving.graphql.context import Context, Platform
from serving.graphql.execution import Engine, Operation, RefusedError, refused
from serving.graphql.limits import Limits
from serving.graphql.live import OfHub, Polled, Seats, Source
from serving.graphql.requests import EVENTS, JSON, RESPONSE, Asked, accepted, asked_of, expiry, json_of, read
from serving.graphql.schema import schema
from serving.graphql.sockets import Socket
from serving.live.hub import Hub
from serving.predictions import Predictions
from serving.problems import Problem, documented
from serving.recommend import Recommendations
from serving.served import Snapshot
from serving.service import Service

HEARTBEAT_S = 15.0
SUBSCRIPTIONS, ALL_SUBSCRIPTIONS = 10, 500
"""At a time: of one token's subject, and of all."""
_HEADERS = {"Cache-Control": "private, no-store", "Vary": "Accept, Authorization"}


def router(
    service: Service,
    recommend: Recommendations,
    predictions: Predictions,
    settings: Settings,
    allowed: Callable[..., Awaitable[Caller]],
    check: Callable[[str], Awaitable[Caller]],
    streams: Hub | None = None,
    source: Source | None = None,
    limits: Limits | None = None,
) -> APIRouter:
    """The route.

    Args:
        service: tables and stores.
        recommend: users' recommendations.
        predictions: the models.
        settings: the profile, and how long a query may take.
        allowed: a dependency that knows the caller of a valid token, whatever its scopes; 401 without one.
        check: whom a token names, for WebSockets that bring theirs with their first message.
        streams: the hub of ``/v1/stream``; without it there are no alerts, and other news are polled.
        source: of what subscriptions listen to, in place of both.
        limits: of each request.
    """
    within_s = settings.api.query_timeout.total_seconds()
    engine = Engine(schema(), limits or Limits(), 1.5 * within_s)  # a question to the lake says itself that it is late

    async def snapshot(name: str) -> Snapshot:
        known = service.served.now(name)
        return known if known is not None else await service.thread(lambda: service.served.snapshot(name), name)

    polled = Polled(service.reads, snapshot)
    platform = Platform(service, recommend, predictions, source or (OfHub(streams, polled) if streams else polled))
    seats = Seats(SUBSCRIPTIONS, ALL_SUBSCRIPTIONS)
    made = APIRouter(tags=["graphql"])
    reader = Annotated[Caller, Depends(allowed)]

    def prepared(asked: Asked, caller: Caller) -> Operation:
        introspection = settings.profile == "local" or settings.api.introspection or "admin" in caller.scopes
        return engine.prepare(asked.query, asked.name, asked.variables, introspection)

    async def answered(asked: Asked, caller: Caller, request: Request, kind: str) -> Response:
        request_id = request.state.request_id
        try:
            operation = prepared(asked, caller)
            if request.method == "GET" and operation.kind != "query":
                raise Problem(405, "method", f"A {operation.kind} is sent by POST.", {"Allow": "POST"})
            if kind == EVENTS:
                return await _stream(engine, platform, seats, operation, caller, request)
            if operation.kind == "subscription":
                detail = f"A subscription is answered as {EVENTS}, or over a WebSocket: accept that."
                raise Problem(406, "not-acceptable", detail)
            answer = await engine.run(operation, Context(platform, caller), request_id)
        except RefusedError as refusal:
            status = refusal.status if kind != JSON or refusal.bounded else 200
            # Who accepts events alone gets what went wrong as a response all the same.
            return _response({"errors": refusal.errors}, status, RESPONSE if kind == EVENTS else kind)
        return _response(answer, 200, kind)

    described: dict[int | str, dict[str, Any]] = {
        200: {
            "content": {kind: {"schema": ANSWER} for kind in (RESPONSE, JSON)},
            "description": "An answer of GraphQL",
        },
        400: {"description": "What is asked is not valid, or over a limit: `errors` say why, or a problem"},
        **documented(401, 403, 405, 406, 413, 415, 422, 429, 503, 504),
    }
    body = {"application/json": {"schema": {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "operationName": {"type": ["string", "null"]},
            "variables": {"type": ["object", "null"]},
            "extensions": {"type": ["object", "null"]},
        },
        "required": ["query"],
        "additionalProperties": False,
    }}}  # fmt: skip

    @made.post("/graphql", responses=described, openapi_extra={"requestBody": {"content": body, "required": True}})
    async def post(request: Request, caller: reader) -> Response:
        """Ask what `docs/schema.graphql` describes."""
        kind = accepted(request.headers.get("accept"))
        return await answered(await read(request, engine.limits.body_bytes), caller, request, kind)

    @made.get("/graphql", responses=described)
    async def get(
        request: Request,
        caller: reader,
        query: Annotated[str | None, Query(description="The document.", examples=["{ __typename }"])] = None,
        operationName: Annotated[
            str | None, Query(description="Which of the document's operations.", examples=["Newest"])
        ] = None,
        variables: Annotated[str | None, Query(description="An object, as JSON.", examples=["{}"])] = None,
        extensions: Annotated[str | None, Query(description="An object, as JSON.", examples=["{}"])] = None,
    ) -> Response:
        """The same for queries; variables are JSON."""
        kind = accepted(request.headers.get("accept"))
        given = {"query": query, "operationName": operationName, "variables": json_of(variables, "variables")}
        return await answered(
            asked_of(given | {"extensions": json_of(extensions, "extensions")}), caller, request, kind
        )

    @made.websocket("/graphql")
    async def socket(websocket: WebSocket) -> None:
        """The same by the protocol graphql-transport-ws, subscriptions among them."""
        await Socket(websocket, engine, platform, seats, prepared, check).serve()

    return made


# --- answers ---------------------------------------------------------------------------------------------------------


ANSWER: dict[str, Any] = {
    "type": "object",
    "description": "What was asked for, and what went wrong (GraphQL, 7).",
    "properties": {
        "data": {"type": ["object", "null"]},
        "errors": {"type": "array", "items": {"type": "object"}},
        "extensions": {"type": "object"},
    },
}


def _response(answer: dict[str, Any], status: int, kind: str) -> Response:
    return Response(formats.dumps(answer), status, _HEADERS, f"{kind}; charset=utf-8")


async def _stream(
    engine: Engine, platform: Platform, seats: Seats, operation: Operation, caller: Caller, request: Request
) -> Response:
    """The answer as server-sent events: each a ``next``, and at last ``complete``."""
    request_id = request.state.request_id
    if operation.kind == "query":
        answer = await engine.run(operation, Context(platform, caller), request_id)
        frames = [frame("next", answer), frame("complete")]
        return Response(b"".join(frames), 200, _HEADERS, EVENTS)
    held = ExitStack()
    held.enter_context(seats.taken(caller.subject))
    ends = expiry(request.headers.get("authorization", "").partition(" ")[2])
    events = engine.events(operation, lambda: Context(platform, caller), request_id)
    try:
        first = asyncio.ensure_future(anext(events))
        await asyncio.wait([first], timeout=0.05)
        if first.done() and first.exception() and isinstance(first.exception(), RefusedError):
            await first  # what is refused at once is answered as such
    except BaseException:
        held.close()
        raise

    async def written() -> AsyncIterator[bytes]:
        coming: asyncio.Future[Any] = first
        try:
            while True:
                left = ends - time.time()
                if left <= 0:
                    yield frame("next", {"errors": refused(Problem(401, "expired", "The token has expired.")).errors})
                    break
                done, _ = await asyncio.wait([coming], timeout=min(HEARTBEAT_S, left))
                if not done:
                    yield b":\n\n"  # keeps the connection, and shows that a client is gone
                    continue
                try:
                    yield frame("next", coming.result())
                except StopAsyncIteration:
                    break
                except RefusedError as refusal:
                    yield frame("next", {"errors": refusal.errors})
                    break
                coming = asyncio.ensure_future(anext(events))
            yield frame("complete")
        finally:
            held.close()
            coming.cancel()
            await asyncio.wait([coming])
            await events.aclose()  # type: ignore[attr-defined]

    return StreamingResponse(written(), 200, {**_HEADERS, "X-Accel-Buffering": "no"}, EVENTS)


def frame(event: str, answer: dict[str, Any] | None = None) -> bytes:
    """One server-sent event; JSON has no line breaks of its own."""
    data = b"" if answer is None else formats.dumps(answer)
    return b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"
