"""What subscriptions listen to: states, of which the newest counts, and events, of which each does."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, NamedTuple, Protocol

import orjson

from serving.auth import Caller
from serving.catalog import PII
from serving.live.hub import Hub, Kind, Stream, Wish
from serving.problems import Problem
from serving.reads import Reads
from serving.served import Snapshot

STATES: frozenset[Kind] = frozenset({"live", "trending", "table"})
"""Of these a listener that is behind gets only the newest."""
TOLD: frozenset[Kind] = frozenset({"live", "notification", "alert"})
"""What the hub of ``/v1/stream`` knows of."""
MOST_WAITING = 200
"""Events that a listener may be behind."""
TRENDING = 100
_log = logging.getLogger(__name__)


class Topic(NamedTuple):
    """What is listened to: of ``trending`` a part or None, of ``notification`` a user, of ``table`` its name."""

    kind: Kind
    about: str | None = None


class Source(Protocol):
    """Where the live platform's news come from."""

    def listen(self, caller: Caller, *topics: Topic) -> AsyncIterator[tuple[Topic, Any]]:
        """What happens from now on; of states first what is the case. Closing it ends it.

        The caller may hear of the topics. Alerts are such as they may be shown; whoever asks masks notifications.

        ``live`` is ``{"at", "active_users", "events_1m"}``, ``trending`` a list of ``{"rank", "post_id", "score"}``,
        ``notification`` a row of MongoDB's, ``alert`` an object of ``/v1/alerts``, ``table``
        ``{"name", "version", "at"}``.

        Raises:
            Problem: 503 for what this process does not know; 429 for a listener that is too far behind.
        """
        ...


class Listener:
    """What one listener has yet to take."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Topic, Any]] = deque()
        self._filled = asyncio.Event()
        self._lost = False

    def put(self, topic: Topic, value: Any) -> None:
        """Give it something; never waits."""
        if topic.kind in STATES:
            self._waiting = deque(held for held in self._waiting if held[0] != topic)
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append((topic, value))
        else:
            self._lost = True
        self._filled.set()

    async def take(self) -> tuple[Topic, Any]:
        """The next.

        Raises:
            Problem: 429, it is so far behind that something had to be left out.
        """
        if self._lost:
            raise too_slow()
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        return self._waiting.popleft()


class Polled:
    """A source that asks the stores, once for however many listen, and only while somebody does.

    Args:
        reads: the stores.
        snapshot: the version of a table that is served, as :meth:`serving.service.Service.snapshot` finds it.
        every_s: between two questions.
    """

    def __init__(self, reads: Reads, snapshot: Callable[[str], Awaitable[Snapshot]], every_s: float = 1.0) -> None:
        self._reads, self._snapshot, self._every_s = reads, snapshot, every_s
        self._listeners: dict[Topic, list[Listener]] = {}
        self._known: dict[Topic, Any] = {}
        self._running: dict[Topic, asyncio.Task[None]] = {}

    async def listen(self, caller: Caller, *topics: Topic) -> AsyncGenerator[tuple[Topic, Any]]:
        """See :class:`Source`."""
        for topic in topics:
            if topic.kind == "alert":
                raise Problem(503, "no-alerts", "This process does not follow alerts: GET /v1/alerts shows them.")
        listener = Listener()
        for topic in topics:
            self._listeners.setdefault(topic, []).append(listener)
            if topic not in self._running:
                self._running[topic] = asyncio.create_task(self._follow(topic))
            elif topic.kind in STATES and topic in self._known:
                listener.put(topic, self._known[topic])
        try:
            while True:
                yield await listener.take()
        finally:
            for topic in topics:
                self._listeners[topic].remove(listener)
                if not self._listeners[topic]:
                    del self._listeners[topic]
                    self._known.pop(topic, None)
                    self._running.pop(topic).cancel()

    async def _follow(self, topic: Topic) -> None:
        seen: set[str] | None = None
        away = False
        while True:
            try:
                if topic.kind == "notification":
                    seen = await self._news(topic, seen)
                else:
                    await self._state(topic)
                away = False
            except Problem as problem:
                if not away:
                    _log.warning("%s is not followed for a while: %s", topic, problem.detail)
                away = True
            except Exception:
                _log.exception("%s cannot be followed", topic)
            await asyncio.sleep(self._every_s)

    async def _state(self, topic: Topic) -> None:
        value = await self._now(topic)
        if topic not in self._known or self._known[topic] != value:
            self._known[topic] = value
            self._tell(topic, value)

    async def _now(self, topic: Topic) -> Any:
        if topic.kind == "live":
            return await self._reads.site()
        if topic.kind == "trending":
            return await self._reads.trending(topic.about, TRENDING)
        snapshot = await self._snapshot(topic.about or "")
        return {"name": snapshot.name, "version": snapshot.version, "at": snapshot.at}

    async def _news(self, topic: Topic, seen: set[str] | None) -> set[str]:
        """The user's notifications that were not among the newest before; none the first time."""
        newest = await self._reads.notifications(topic.about or "", None, MOST_WAITING)
        for row in reversed(newest):
            if seen is not None and row["id"] not in seen:
                self._tell(topic, row)
        return {row["id"] for row in newest}

    def _tell(self, topic: Topic, value: Any) -> None:
        for listener in self._listeners.get(topic, []):
            listener.put(topic, value)


class OfHub:
    """A source that is told: by the hub of ``/v1/stream``, whose notifications and alerts come from Kafka.

    Of trending posts it knows those of everybody alone, and of tables those of gold; the others are polled.
    """

    def __init__(self, hub: Hub, polled: Polled) -> None:
        self._hub, self._polled = hub, polled

    async def listen(self, caller: Caller, *topics: Topic) -> AsyncGenerator[tuple[Topic, Any]]:
        """See :class:`Source`; all topics are of one kind. It ends when the process does."""
        told = topics[0].kind in TOLD
        masked = topics[0].kind == "alert" and caller.user_id is None and PII not in caller.scopes
        wish = Wish(frozenset({topics[0].kind} if told else ()), topics[0].about, caller.user_id, masked)
        with self._hub.stream(f"graphql {caller.subject}", wish) as stream:
            news = self._told(stream, topics[0]) if told else self._asked(stream, caller, *topics)
            async with aclosing(news):
                async for found in news:
                    yield found

    async def _told(self, stream: Stream, topic: Topic) -> AsyncGenerator[tuple[Topic, Any]]:
        while True:
            stream.awake.clear()
            body = b"" if stream.over else await stream.due()
            for data in _data(body, topic.kind):
                yield topic, data
            if not body:
                if stream.over == "slow":
                    raise too_slow()
                if stream.over:
                    return
                await stream.awake.wait()

    async def _asked(self, stream: Stream, caller: Caller, *topics: Topic) -> AsyncGenerator[tuple[Topic, Any]]:
        async with aclosing(self._polled.listen(caller, *topics)) as polled:
            end = asyncio.ensure_future(stream.awake.wait())
            coming: asyncio.Future[tuple[Topic, Any]] | None = None
            try:
                while not stream.over:
                    coming = coming or asyncio.ensure_future(anext(polled))
                    both: list[asyncio.Future[Any]] = [coming, end]
                    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                    if coming.done():
                        yield coming.result()
                        coming = None
            finally:
                end.cancel()
                if coming is not None:
                    coming.cancel()
                    await asyncio.wait([coming])


def _data(body: bytes, kind: Kind) -> Iterator[Any]:
    """What events of a kind hold, of whole server-sent events as the hub makes them."""
    for block in body.split(b"\n\n"):
        lines = block.split(b"\n")
        if lines[0] == b"event: " + kind.encode():
            yield orjson.loads(b"".join(line[6:] for line in lines if line.startswith(b"data: ")))


def too_slow() -> Problem:
    """429: something would have had to be left out."""
    return Problem(429, "too-slow", "The subscription was read too slowly and has ended: subscribe again.")


class Seats:
    """How many subscriptions there may be: of one token's subject, and of all together."""

    def __init__(self, each: int, total: int) -> None:
        self._each, self._total = each, total
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, subject: str) -> Iterator[None]:
        """Take one while it lasts.

        Raises:
            Problem: 429, there is none left.
        """
        if self._taken[subject] >= self._each or self._taken.total() >= self._total:
            detail = f"There are too many subscriptions (at most {self._each} at a time): end one first."
            raise Problem(429, "too-many-subscriptions", detail, {"Retry-After": "5"})
        self._taken[subject] += 1
        try:
            yield
        finally:
            self._taken[subject] -= 1
            if not self._taken[subject]:
                del self._taken[subject]
