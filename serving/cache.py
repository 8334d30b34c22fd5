"""Answers kept for a short while, here and in Redis for other processes; each made once however many ask at a time.

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

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from lakehouse.settings import Settings

PREFIX = "api:"
KEPT_S = 60
LARGEST = 1024 * 1024
"""Bytes of an answer that is kept."""
NEAR_BYTES = 16 * 1024 * 1024
"""Answers that are kept in this process, the last ones asked for."""
REST_S = 2.0
"""For how long a Redis that did not answer is left alone."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """An answer's body, the number of its rows, and the cursor of the next page."""

    body: bytes
    rows: int
    next: str | None


class Cache:
    """Makes answers, or has them."""

    def __init__(self, settings: Settings) -> None:
        self._client = redis.asyncio.Redis.from_url(
            settings.redis.url.get_secret_value(),
            socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0), max_connections=64,
        )  # fmt: skip
        self._near: OrderedDict[str, Kept] = OrderedDict()
        self._near_bytes = 0
        self._making: dict[str, asyncio.Future[Kept]] = {}
        self._rests_until = 0.0
        self.hits = self.misses = 0

    async def get(self, key: str, make: Callable[[], Awaitable[Kept]]) -> Kept:
        """The answer of a key, made if it is not there; an error of ``make`` is everybody's who waits for it."""
        if (near := self._near.get(key)) is not None:
            self._near.move_to_end(key)
            self.hits += 1
            return near
        if (waiting := self._making.get(key)) is not None:
            return await asyncio.shield(waiting)
        # It is made to the end even if the first who asked goes away: others may wait for it.
        made = asyncio.ensure_future(self._find(key, make))
        self._making[key] = made
        made.add_done_callback(lambda _: self._making.pop(key, None))
        return await asyncio.shield(made)

    async def _find(self, key: str, make: Callable[[], Awaitable[Kept]]) -> Kept:
        name = PREFIX + hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        if (found := await self._ask(self._client.get, name)) is not None:
            self.hits += 1
            head, _, body = found.partition(b"\n")
            rows, _, following = head.decode().partition(" ")
            return self._keep(key, Kept(body, int(rows), following or None))
        self.misses += 1
        made = self._keep(key, await make())
        if len(made.body) <= LARGEST:
            await self._ask(
                self._client.set, name, b"%d %s\n" % (made.rows, (made.next or "").encode()) + made.body, KEPT_S
            )
        return made

    def _keep(self, key: str, made: Kept) -> Kept:
        if len(made.body) <= LARGEST:
            self._near[key] = made
            self._near_bytes += len(made.body)
            while self._near_bytes > NEAR_BYTES:
                self._near_bytes -= len(self._near.popitem(last=False)[1].body)
        return made

    async def _ask(self, command: Callable[..., Awaitable[bytes | None]], *args: object) -> bytes | None:
        if time.monotonic() < self._rests_until:
            return None
        try:
            return await command(*args)
        except (RedisError, OSError) as error:
            self._rests_until = time.monotonic() + REST_S
            _log.warning("answers are made without Redis for a while: %s", error)
            return None

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.aclose()
