"""``GET /v1/stream``: who may have what of it, and how it is sent."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.types import Receive, Scope, Send

from serving.auth import Caller
from serving.live import frames
from serving.live.hub import KINDS, Hub, Kind, Stream, Wish
from serving.live.position import MOST_CHARACTERS
from serving.problems import Problem, documented

PII = "read:pii"
SCOPES: dict[Kind, tuple[str, ...]] = {
    "live": ("read:metrics",),
    "trending": ("read:metrics",),
    "alert": ("read:metrics",),
    "table": ("read:metrics", "read:tables"),
    "notification": ("read:users",),
}
"""What each kind of event needs, one of."""
HEARTBEAT_S = 15.0
WRITE_S = 10.0
"""How long a client may take to accept what it is sent, which is up to what its and our buffers hold."""
RETRY_MS = (1000, 3000)
"""A client comes again after a time between these, so that those of a process that ended do not come at once."""
ABORT = "lakehouse.abort"
"""The ASGI extension of :mod:`serving.server` that drops a connection."""
_EXAMPLE = """retry: 1804

event: live
data: {"at":"2026-01-31T12:00:00.120000Z","active_users":31,"events_1m":{"view":204,"like":17}}

event: alert
id: AcZk1kWTCQeDCKOvTT0
data: {"id":"4ce3cd7d","rule":"host cpu high","severity":"warning","kind":"fired","subject":"web-1",\
"at":"2026-01-31T12:00:00Z","quiet":false,"state":"firing","text":"web-1: processors are busy 71% of the time"}

"""


def wish(caller: Caller, events: str | None, user_id: str | None) -> Wish:
    """What a caller is to get: all that its scopes allow, or what is asked for.

    Raises:
        Problem: 422 no such event, 403 a scope is missing, 404 another user than the token's.
    """
    permitted = {kind for kind in KINDS if caller.scopes.intersection(SCOPES[kind])}
    if caller.user_id is not None and user_id not in (None, caller.user_id):
        raise Problem(404, "no-such-user", "There is no such user for this token.")
    if events is None:
        kinds = frozenset(permitted)
        if not kinds:
            raise _lacking("read:metrics", "A stream needs read:metrics or, for notifications, read:users.")
    else:
        asked = {word.strip() for word in events.split(",")}
        if unknown := sorted(asked - set(KINDS)):
            detail = f"There is no event {unknown[0][:50]!r}: there are {', '.join(KINDS)}."
            raise Problem(422, "invalid-request", detail)
        kinds = frozenset(kind for kind in KINDS if kind in asked)
        for kind in KINDS:
            if kind in kinds - permitted:
                raise _lacking(SCOPES[kind][0], f"Events {kind} need the scope {' or '.join(SCOPES[kind])}.")
    if user_id is not None and "notification" not in kinds:
        raise _lacking("read:users", "user_id chooses notifications, which need the scope read:users.")
    mine = caller.user_id
    return Wish(kinds, mine or user_id, mine, masked=mine is None and PII not in caller.scopes)


def _lacking(scope: str, detail: str) -> Problem:
    challenge = f'Bearer realm="lakehouse", error="insufficient_scope", scope="{scope}"'
    return Problem(403, "insufficient-scope", detail, {"WWW-Authenticate": challenge}, scope=scope)


class EventStream(Response):
    """The answer: sent until the client leaves, is too slow, or the stream ends.

    Args:
        hub: where events come from.
        key: whose stream it is, for the limit of streams.
        wanted: what it holds.
        last_id: where to go on.
        expires: when the token does, in seconds since 1970.
        heartbeat_s: what is silent for so long gets a comment.
        write_s: see :data:`WRITE_S`.
    """

    def __init__(
        self,
        hub: Hub,
        key: str,
        wanted: Wish,
        last_id: str | None = None,
        expires: float | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        write_s: float = WRITE_S,
    ) -> None:
        self.status_code, self.background = 200, None  # and no body, whose length would be told
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Content-Type": "text/event-stream"})
        self._hub, self._key, self._wish, self._last_id = hub, key, wanted, last_id
        self._expires, self._heartbeat_s, self._write_s = expires, heartbeat_s, write_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send; the place among the streams is given back whatever happens."""
        with self._hub.stream(self._key, self._wish, self._last_id) as stream:
            leaving = asyncio.create_task(_leave(receive, stream))
            try:
                async with stream.within(self._write_s):
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self._send(stream, send)
            except TimeoutError:
                self._hub.counts["end:slow"] += 1
                if extension := scope.get("extensions", {}).get(ABORT):
                    extension["abort"]()
                    await asyncio.wait([leaving], timeout=1.0)  # then the server knows that nobody is there
            finally:
                leaving.cancel()

    async def _send(self, stream: Stream, send: Send) -> None:
        async def write(body: bytes, more: bool = True) -> None:
            async with stream.within(self._write_s):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        ends = time.monotonic() + self._hub.lasts_s * random.uniform(0.9, 1.0)
        expires = None if self._expires is None else time.monotonic() + self._expires - time.time()
        until = ends if expires is None else min(ends, expires)
        await write(frames.retry(random.randint(*RETRY_MS)))
        beat = time.monotonic() + self._heartbeat_s
        while not stream.gone:
            now = time.monotonic()
            if now >= until:
                stream.end("expired" if until == expires else "lifetime")
            stream.awake.clear()
            body = b"" if stream.over else await stream.due()
            if not body and stream.over:
                await write(stream.last())
                await write(b"", more=False)
                return
            if not body and now >= beat:
                body = stream.heartbeat()
            if body:
                await write(body)
                beat = time.monotonic() + self._heartbeat_s
            elif stream.awake.is_set():
                await asyncio.sleep(0)  # it looked through much, and found nothing for this one
            else:
                try:
                    async with asyncio.timeout_at(asyncio.get_running_loop().time() + min(until, beat) - now):
                        await stream.awake.wait()
                except TimeoutError:
                    pass
        self._hub.counts["end:left"] += 1


async def _leave(receive: Receive, stream: Stream) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.leave()


def _key(caller: Caller) -> str:
    return f"{caller.subject}\0{caller.user_id or ''}"


def router(
    hub: Hub,
    allowed: Callable[..., Awaitable[Caller]],
    record: Callable[[Caller], object] = lambda caller: None,
) -> APIRouter:
    """The route.

    Args:
        hub: see there; its ``close`` is for who made it.
        allowed: a dependency that knows the caller of a valid token, whatever its scopes.
        record: is told of a stream that holds personal data, before it begins.
    """
    made = APIRouter(tags=["live"])
    known = Depends(allowed)
    text: dict[str, Any] = {"schema": {"type": "string"}, "example": _EXAMPLE}

    @made.get(
        "/v1/stream",
        response_class=Response,
        responses={
            200: {"description": "Server-sent events, until either side ends.", "content": {"text/event-stream": text}},
            **documented(401, 403, 404, 422, 429, 503),
        },
    )
    async def stream(
        request: Request,
        caller: Caller = known,
        events: Annotated[
            str | None,
            Query(
                max_length=200,
                description=f"Which of {', '.join(KINDS)}; all that the scopes allow.",
                examples=["live,trending"],
            ),
        ] = None,
        user_id: Annotated[
            str | None, Query(max_length=300, description="Notifications of this user alone.", examples=["u00036"])
        ] = None,
        last_event_id: Annotated[
            str | None, Header(max_length=MOST_CHARACTERS, description="What was had last: more follows from there on.")
        ] = None,
        since: Annotated[
            str | None,
            Query(
                alias="last_event_id",
                max_length=MOST_CHARACTERS,
                description="For clients that cannot set the header.",
                examples=["MTcx"],
            ),
        ] = None,
    ) -> Response:
        """What happens now: counters, trending posts, tables' versions, alerts, notifications.

        A client that comes again with `Last-Event-ID` gets each notification and alert that it missed, once; of the
        others the newest state. `gap` says that this cannot be, and why (`malformed`, `other topic`, `ahead`,
        `too old`): then all that is kept follows. `store` says that what some events need is away, or back; `end`
        why the stream ends (`shutdown`, `slow`, `lifetime`, `expired`). Texts are null and users are pseudonyms
        without read:pii, but for a user's own token.
        """
        wanted = wish(caller, events, user_id)
        if "notification" in wanted.kinds and not wanted.masked:
            record(caller)
        return EventStream(hub, _key(caller), wanted, last_event_id or since or None, caller.expires)

    return made
