"""Answers kept for a short while, in this process and in Redis, each made once however many ask for it at a time.

The API is the only writer of ``api:*``. A key names the version of the table, the question, and who may see the answer,
so that nothing in it ever becomes wrong. A Redis that is away costs its use, not the answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from lakehouse.settings import Settings

PREFIX = "api:"
KEPT_S = 60
LARGEST = 1024 * 1024
"""Bytes of an answer that is kept."""
AT_HAND = 32 * 1024 * 1024
"""Bytes of answers in this process, which need no way to Redis."""
REST_S = 2.0
"""For how long a Redis that did not answer is left alone."""
CONNECTIONS = 64
"""What more requests at a time would need, they do without, unless one is free in a tenth of a second."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """An answer's body, the number of its rows, and the cursor of the next page."""

    body: bytes
    rows: int
    next: str | None


class Store(Protocol):
    """What is needed of Redis."""

    async def get(self, name: str) -> bytes | None:
        """What is kept under a name."""

    async def set(self, name: str, value: bytes, ex: int) -> Any:
        """Keep it for ``ex`` seconds."""

    async def aclose(self) -> None:
        """Let go of connections."""


class Cache:
    """Makes answers, or has them.

    Args:
        store: Redis's role.
        clock: seconds that only go on.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._making: dict[str, asyncio.Future[Kept]] = {}
        self._at_hand: OrderedDict[str, tuple[float, Kept]] = OrderedDict()
        self._held = 0
        self._rests_until = 0.0
        self.hits = self.misses = 0

    def at_hand(self, key: str) -> Kept | None:
        """The answer of a key if it is in this process; counted as one that was there."""
        found = self._at_hand.get(key)
        if found is None or self._clock() >= found[0]:
            return None
        self._at_hand.move_to_end(key)
        self.hits += 1
        return found[1]

    async def get(self, key: str, make: Callable[[], Awaitable[Kept]]) -> Kept:
        """The answer of a key, made if it is not there; an error of ``make`` is everybody's who waits for it."""
        if (found := self.at_hand(key)) is not None:
            return found
        if (waiting := self._making.get(key)) is None:
            # It is made to the end even if the first who asked goes away: others may wait for it.
            waiting = self._making[key] = asyncio.ensure_future(self._find(key, make))
            waiting.add_done_callback(lambda made: self._made(key, made))
        return await asyncio.shield(waiting)

    def _made(self, key: str, made: asyncio.Future[Kept]) -> None:
        self._making.pop(key, None)
        if made.cancelled() or made.exception() is not None:
            return
        kept = made.result()
        if len(kept.body) > LARGEST:
            return
        if (before := self._at_hand.pop(key, None)) is not None:
            self._held -= len(before[1].body)
        self._at_hand[key] = (self._clock() + KEPT_S, kept)
        self._held += len(kept.body)
        while self._held > AT_HAND:
            self._held -= len(self._at_hand.popitem(last=False)[1][1].body)

    async def _find(self, key: str, make: Callable[[], Awaitable[Kept]]) -> Kept:
        name = PREFIX + hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        if (found := _read(await self._ask(self._store.get, name))) is not None:
            self.hits += 1
            return found
        self.misses += 1
        made = await make()
        if len(made.body) <= LARGEST:
            written = b"%d %s\n" % (made.rows, (made.next or "").encode()) + made.body
            await self._ask(self._store.set, name, written, KEPT_S)
        return made

    async def _ask(self, command: Callable[..., Awaitable[Any]], *args: object) -> Any:
        if self._clock() < self._rests_until:
            return None
        try:
            return await command(*args)
        except (RedisError, OSError) as error:
            if self._clock() >= self._rests_until:
                _log.warning("answers are made without Redis for a while: %s", error)
            self._rests_until = self._clock() + REST_S
            return None

    async def close(self) -> None:
        """Let go of connections."""
        await self._store.aclose()


def _read(found: Any) -> Kept | None:
    """What was kept; nothing where somebody else has written there."""
    head, newline, body = found.partition(b"\n") if isinstance(found, bytes) else (b"", b"", b"")
    rows, blank, following = head.partition(b" ")
    if not newline or not blank or not rows.isdigit() or not following.isascii():
        return None
    return Kept(body, int(rows), following.decode() or None)


def client(settings: Settings) -> Store:
    """Redis, which has to answer at once: making an answer takes some ten milliseconds."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.redis.url.get_secret_value(), max_connections=CONNECTIONS, timeout=0.1,
        socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0),
    )  # fmt: skip
    made: Store = redis.asyncio.Redis.from_pool(pool)
    return made
