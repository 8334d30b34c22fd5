"""``POST /v1/events``: events are checked as the stream checks them, sent to Kafka, and answered one by one."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol
from uuid import uuid4

import orjson
from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import BaseModel

from lakehouse.contracts import Contract
from lakehouse.quality.checks import checker, located
from lakehouse.replay import record_key
from serving import body as bodies
from serving.auth import Caller, Keys, caller
from serving.problems import Problem, documented
from serving.stores import Answer, Answers, KeyBusy, KeyReused, StoreAway

RETRY_AFTER_S = 5
MAX_AT_ONCE = 64
"""Requests whose bodies are held at once, each with up to 5 MB and what is made of them."""
IN_THREAD_BYTES = 64 * 1024
"""Bodies from here on are checked in a thread: that takes longer than other requests should wait."""
MAX_KEY = 255
_log = logging.getLogger(__name__)


class Reason(BaseModel):
    """What is wrong with an event, and where: an RFC 6901 pointer into the event, ``""`` for all of it."""

    pointer: str
    reason: str


class Result(BaseModel):
    """What became of one event. ``line``: of NDJSON, from 1. ``unacknowledged`` is seen in problems only."""

    index: int
    line: int | None = None
    status: Literal["accepted", "rejected", "unacknowledged"]
    event_id: str | None
    reasons: list[Reason]


class Results(BaseModel):
    """What became of every event, in the order of the request."""

    accepted: int
    rejected: int
    results: list[Result]


class Sending(Protocol):
    """What is needed of :class:`lakehouse.sources.delivery.Delivery`."""

    async def send(self, topic: str, records: list[tuple[bytes | None, bytes]]) -> list[str | None]:
        """For each record None once it is kept, else why that is not known."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A checked event: its answer, and the record to be sent where it is valid."""

    result: dict[str, Any]
    record: tuple[bytes | None, bytes] | None


def judge(events: list[bodies.Event], contract: Contract, arrival_us: int, user_id: str | None = None) -> list[Judged]:
    """Check events as :mod:`lakehouse.silver` will when they arrive: what is accepted here is valid there.

    ``arrival_us`` is microseconds since 1970 UTC, by the clock of this machine; the stream goes by the broker's.
    ``user_id`` is that of a user's token, which may tell of no one else.
    """
    check = checker(contract)
    judged = []
    for index, event in enumerate(events):
        checked = check(event.value, arrival_us)
        reasons = [dict(zip(("pointer", "reason"), located(r), strict=True)) for r in checked.reasons or ()]
        key = None if reasons else record_key(event.value, contract.key)
        if user_id is not None and not reasons and key != user_id.encode():
            reasons.append({"pointer": "/user_id", "reason": "not the user of the token"})
        result: dict[str, Any] = {"index": index} | ({} if event.line is None else {"line": event.line})
        result |= {
            "status": "rejected" if reasons else "accepted",
            "event_id": checked.identity,
            "reasons": reasons,
        }
        record = None if reasons else (key, event.value)
        judged.append(Judged(result, record))
    return judged


async def collect(
    body: bytes, form: bodies.Form, contract: Contract, delivery: Sending, user_id: str | None = None
) -> Answer:
    """Check, send, and answer once the broker has answered: 202, or 422 where every event is rejected.

    Raises:
        Problem: as :func:`serving.body.split`; 503 where the broker has not acknowledged every valid event, with what
            became of each.
    """

    def checked() -> list[Judged]:
        return judge(bodies.split(body, form), contract, time.time_ns() // 1000, user_id)

    judged = await asyncio.to_thread(checked) if len(body) >= IN_THREAD_BYTES else checked()
    valid = [(one.result, one.record) for one in judged if one.record is not None]
    outcomes = await delivery.send(contract.topic, [record for _, record in valid])
    for (result, _), failure in zip(valid, outcomes, strict=True):
        if failure is not None:
            result["status"] = "unacknowledged"
            result["reasons"] = [{"pointer": "", "reason": failure}]
    results = [one.result for one in judged]
    failed = sum(failure is not None for failure in outcomes)
    counts = {"accepted": len(valid) - failed, "rejected": len(judged) - len(valid)}
    if failed:
        raise Problem(
            503,
            "broker-away",
            f"The broker has not acknowledged {failed:,} of {len(valid):,} valid events. Nothing that it acknowledged "
            "is lost. Send all of them again: an event that is there already counts once, by its event_id.",
            {"Retry-After": str(RETRY_AFTER_S)},
            **counts,
            unacknowledged=failed,
            results=results,
        )
    return Answer(202 if valid else 422, orjson.dumps({**counts, "results": results}))


async def once(answers: Answers, key: str, digest: str, work: Callable[[], Awaitable[Answer]]) -> tuple[Answer, bool]:
    """Do the work of a request unless its key has an answer; the answer, and whether it is an earlier one.

    An answer that cannot be kept is given all the same: its events are in Kafka, and carry their event_id.

    Raises:
        Problem: 422 for a key of another request, 409 while that is served, 503 without the store; whatever ``work``
            raises, which leaves the key free.
    """
    owner = uuid4().hex
    try:
        earlier = await answers.begin(key, digest, owner)
    except KeyReused:
        raise Problem(422, "key-reused", "The Idempotency-Key came with another body before: use a new one.") from None
    except KeyBusy:
        detail = "A request with this Idempotency-Key is being served: ask again for its answer."
        raise Problem(409, "key-busy", detail, {"Retry-After": "1"}) from None
    except StoreAway as error:
        raise Problem(
            503,
            "answers-away",
            f"Redis, which keeps answers by Idempotency-Key, is away ({error}). Nothing was sent: try again, or "
            "without the key, as event_id makes a repeat count once.",
            {"Retry-After": str(RETRY_AFTER_S)},
        ) from None
    if earlier is not None:
        return earlier, True
    try:
        answer = await work()
    except BaseException:
        with suppress(StoreAway):  # then the key frees itself
            await answers.release(key, owner)
        raise
    try:
        await answers.keep(key, owner, answer)
    except StoreAway as error:
        _log.warning("an answer was given but not kept under its Idempotency-Key: %s", error)
    return answer, False


_EVENT = {"type": "object", "description": "An event as conf/contracts/user-events.yaml has it."}
_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"oneOf": [_EVENT, {"type": "array", "items": _EVENT, "minItems": 1}]}},
        "application/x-ndjson": {"schema": {"type": "string", "description": "One event a line."}},
    },
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    202: {"model": Results, "description": "The broker has acknowledged every accepted event."},
    422: {
        "model": Results,
        "description": "Every event is rejected; or a problem: no event, a key used before.",
        "content": documented(422)[422]["content"],
    },
}


def router(contract: Contract, delivery: Sending, answers: Answers, keys: Keys) -> APIRouter:
    """The route, for a contract's topic."""
    routes, allowed, room = (
        APIRouter(tags=["events"]),
        Depends(caller(keys, "write:events")),
        asyncio.Semaphore(MAX_AT_ONCE),
    )

    @routes.post(
        "/v1/events",
        status_code=202,
        responses=_ANSWERS | documented(400, 401, 403, 408, 409, 413, 415, 503),
        openapi_extra={"requestBody": _BODY},
    )
    async def post_events(
        request: Request,
        sender: Caller = allowed,
        idempotency_key: Annotated[
            str | None,
            Header(description="Makes a repeat of the request be answered as the first one was, for a day."),
        ] = None,
    ) -> Response:
        """Take one event, an array of events, or NDJSON; up to 5 MB, gzip or not; the scope is write:events."""
        if idempotency_key is not None and not 0 < len(idempotency_key) <= MAX_KEY:
            raise Problem(400, "key", f"An Idempotency-Key has 1 to {MAX_KEY} characters.")
        form = bodies.form(request)
        if room.locked():
            detail = f"{MAX_AT_ONCE} requests are under way. Nothing was sent: try again."
            raise Problem(503, "busy", detail, {"Retry-After": "1"})
        async with room:
            body = await bodies.read(request)

            async def work() -> Answer:
                return await collect(body, form, contract, delivery, sender.user_id)

            replayed = False
            if idempotency_key is None:
                answer = await work()
            else:
                who = f"{sender.subject}\0{sender.user_id or ''}"
                key = hashlib.sha256(f"{who}\0{idempotency_key}".encode()).hexdigest()
                digest = hashlib.sha256(form.encode() + b"\0" + body).hexdigest()
                answer, replayed = await once(answers, f"events:{key}", digest, work)
        headers = {"Idempotency-Replayed": "true"} if replayed else None
        return Response(answer.body, answer.status, headers, "application/json")

    return routes
