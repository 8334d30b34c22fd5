"""What the API keeps in stores: the answers given under an ``Idempotency-Key``, in Redis.

The API is the only writer of ``idempotency:*``. Guarantee: of two requests with one key only one goes ahead at a time,
and once an answer is kept it does not change until it expires.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from lakehouse.settings import Settings

PREFIX = "idempotency:"
KEPT = timedelta(hours=24)
"""For how long an answer is repeated."""


class KeyReused(Exception):
    """The key came with another request before."""


class KeyBusy(Exception):
    """A request with the key is being served."""


class StoreAway(Exception):
    """The store does not answer."""


@dataclass(frozen=True)
class Answer:
    """An answer that is final: its HTTP status and body."""

    status: int
    body: bytes


class Answers(Protocol):
    """Answers by key. ``digest`` names the request, ``owner`` the attempt to serve it; all raise :class:`StoreAway`."""

    async def begin(self, key: str, digest: str, owner: str) -> Answer | None:
        """Take the key (None), or the answer already given; raises :class:`KeyReused` or :class:`KeyBusy`."""

    async def keep(self, key: str, owner: str, answer: Answer) -> None:
        """Make an answer the key's, if ``owner`` still has it."""

    async def release(self, key: str, owner: str) -> None:
        """Give the key back without an answer, if ``owner`` has it."""

    async def close(self) -> None:
        """Let go of connections."""


def claimed(owner: str, digest: str, held: tuple[str, str, Answer | None]) -> Answer | None:
    """What :meth:`Answers.begin` says of a key that is held, as (owner, digest, answer)."""
    held_by, held_digest, answer = held
    if held_digest != digest:
        raise KeyReused
    if answer is None and held_by != owner:
        raise KeyBusy
    return answer


# A hash a key: owner, digest, and once there is an answer, status and body. Each may run twice: a client that lost the
# reply sends it again, and finds itself the owner.
_BEGIN = """
if redis.call('exists', KEYS[1]) == 0 then
  redis.call('hset', KEYS[1], 'owner', ARGV[1], 'digest', ARGV[2])
  redis.call('pexpire', KEYS[1], ARGV[3])
end
return redis.call('hmget', KEYS[1], 'owner', 'digest', 'status', 'body')
"""
_KEEP = """
if redis.call('hget', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('hset', KEYS[1], 'status', ARGV[2], 'body', ARGV[3])
redis.call('pexpire', KEYS[1], ARGV[4])
return 1
"""
_RELEASE = """
if redis.call('hget', KEYS[1], 'owner') == ARGV[1] and redis.call('hexists', KEYS[1], 'status') == 0 then
  return redis.call('del', KEYS[1])
end
return 0
"""


class RedisAnswers:
    """:class:`Answers` in Redis.

    Args:
        settings: where Redis is.
        busy: for how long a key stays taken when its owner died; longer than any request takes.
    """

    def __init__(self, settings: Settings, busy: timedelta) -> None:
        self._busy_ms = int(busy / timedelta(milliseconds=1))
        self._client = redis.asyncio.Redis.from_url(
            settings.redis.url.get_secret_value(),
            socket_timeout=2,
            socket_connect_timeout=2,
            retry=Retry(NoBackoff(), 1),  # a connection that Redis has closed; a Redis that is away is said at once
        )
        self._begin, self._keep, self._release = map(self._client.register_script, (_BEGIN, _KEEP, _RELEASE))

    async def begin(self, key: str, digest: str, owner: str) -> Answer | None:
        """See :class:`Answers`."""
        held_by, held_digest, status, body = await self._run(self._begin, key, owner, digest, self._busy_ms)
        answer = None if status is None else Answer(int(status), zlib.decompress(body))
        return claimed(owner, digest, (held_by.decode(), held_digest.decode(), answer))

    async def keep(self, key: str, owner: str, answer: Answer) -> None:
        """See :class:`Answers`."""
        kept_ms = int(KEPT / timedelta(milliseconds=1))
        await self._run(self._keep, key, owner, answer.status, zlib.compress(answer.body, 1), kept_ms)

    async def release(self, key: str, owner: str) -> None:
        """See :class:`Answers`."""
        await self._run(self._release, key, owner)

    async def close(self) -> None:
        """See :class:`Answers`."""
        await self._client.aclose()

    async def _run(self, script: Any, key: str, *args: Any) -> Any:
        try:
            return await script(keys=[PREFIX + key], args=args)
        except (RedisError, OSError) as error:
            raise StoreAway(str(error)) from None
