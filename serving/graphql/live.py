"""What subscriptions listen to: states, of which the newest counts, and events, of which each does."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Protocol

from serving.problems import Problem
from serving.reads import Reads
from serving.served import Snapshot

Kind = Literal["live", "trending", "notification", "alert", "table"]
STATES: frozenset[Kind] = frozenset({"live", "trending", "table"})
"""Of these a listener that is behind gets only the newest."""
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

    def listen(self, *topics: Topic) -> AsyncIterator[tuple[Topic, Any]]:
        """What happens from now on; of states first what is the case. Closing it ends it.

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
            raise Problem(429, "too-slow", "The subscription was read too slowly and has ended: subscribe again.")
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

    async def listen(self, *topics: Topic) -> AsyncGenerator[tuple[Topic, Any]]:
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
