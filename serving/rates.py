"""How often each caller may ask: limits by GCRA, counted in each process and brought together in Redis.

No request waits for Redis: what was used up is told it twenty times a second, and it answers with what all processes
used. So one process limits exactly, and of several each may grant what is asked of it within 50 ms too much. While
Redis is away each counts for itself. (A call a request was measured to cost as much processor time as a request.)

The API is the only writer of ``rate:*``. A key holds the time at which its caller will have used up nothing
(microseconds since 1970, by Redis' clock), and is gone then.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lakehouse.settings import Rate, Rates, Settings
from serving.auth import Caller
from serving.problems import Problem, refuse

PREFIX = "rate:"
TELL_S = 0.05
ANSWERS_S = 0.25
"""How long Redis may take."""
REST_S = 5.0
"""For how long a Redis that did not answer is left alone."""
MOST_LOCAL = 10_000
"""Callers that a process counts for itself; the one that was away longest is forgotten first."""
FREE = frozenset({"/healthz", "/readyz"})
"""Paths without a limit: who watches over the process asks them, and they must not need Redis."""
Kind = Literal["read", "write", "predict", "anonymous"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Taken:
    """What became of a request's turn: whether it has one, what is left, and seconds until there is one more."""

    allowed: bool
    left: int
    more_in: float


def take(until_us: float, now_us: float, every_us: float, burst: int) -> tuple[Taken, float]:
    """One turn by the generic cell rate algorithm (ITU-T I.371): the outcome, and until when its caller used turns up.

    ``until_us`` is what it was before; a turn costs ``every_us``, and ``burst`` of them may be used up ahead.
    """
    until = max(until_us, now_us)
    used = until - now_us  # what the caller is ahead of its time
    if used + every_us > burst * every_us + 0.5:  # half a microsecond: sums of fractions
        return Taken(False, 0, (used + every_us - burst * every_us) / 1e6), until_us
    used += every_us
    left = math.floor(burst - used / every_us + 1e-6)
    return Taken(True, left, (used - (burst - left - 1) * every_us) / 1e6), until + every_us


# Adds what was used to each key; how far each is ahead of its time then. One clock for all processes.
_TELL = """
local t, ahead = redis.call('time'), {}
local now = t[1] * 1000000 + t[2]
for i, key in ipairs(KEYS) do
  local after = math.max(tonumber(redis.call('get', key) or '0'), now) + tonumber(ARGV[i])
  redis.call('set', key, string.format('%.3f', after), 'px', math.ceil((after - now) / 1000))
  ahead[i] = math.ceil(after - now)
end
return ahead
"""


class Turns:
    """Gives turns.

    Args:
        settings: where Redis is.
        clock: seconds, never running backwards.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = redis.asyncio.Redis.from_url(
            settings.redis.url.get_secret_value(),
            socket_timeout=ANSWERS_S, socket_connect_timeout=ANSWERS_S, retry=Retry(NoBackoff(), 0),
        )  # fmt: skip
        self._script = self._client.register_script(_TELL)
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()
        self._used: dict[str, float] = {}
        self._away_until: float | None = None
        self._telling: asyncio.Task[None] | None = None

    def take(self, key: str, rate: Rate) -> Taken:
        """One turn of ``key``."""
        every_us = 60e6 / rate.per_minute
        outcome, until = take(self._until.pop(key, 0.0), self._clock() * 1e6, every_us, rate.burst)
        self._until[key] = until
        if len(self._until) > MOST_LOCAL:
            self._until.popitem(last=False)
        if outcome.allowed:
            self._used[key] = self._used.get(key, 0.0) + every_us
            if self._telling is None:
                self._telling = asyncio.get_running_loop().create_task(self._tell_on())
        return outcome

    async def tell(self) -> None:
        """Tell Redis what was used up since the last time, and learn what others used."""
        used, self._used = self._used, {}
        if not used or (self._away_until is not None and self._clock() < self._away_until):
            return
        try:
            ahead = await self._script(keys=[PREFIX + key for key in used], args=[*used.values()])
        except (RedisError, OSError) as error:
            if self._away_until is None:
                _log.warning("Redis is away (%s): each process limits callers for itself", error)
            self._away_until = self._clock() + REST_S
            return
        if self._away_until is not None:
            self._away_until = None
            _log.info("Redis answers again: limits hold for all processes together")
        now_us = self._clock() * 1e6
        for key, ahead_us in zip(used, ahead, strict=True):
            if key in self._until:  # with what was used meanwhile
                shared = now_us + ahead_us + self._used.get(key, 0.0)
                self._until[key] = max(self._until[key], shared)

    async def _tell_on(self) -> None:
        try:
            while self._used:
                await asyncio.sleep(TELL_S)
                await self.tell()
        finally:
            self._telling = None

    async def close(self) -> None:
        """Tell what is left, and let go of connections."""
        if self._telling is not None:
            self._telling.cancel()
        await self.tell()
        await self._client.aclose()


class RateLimits:
    """Answers 429 to who asks too often, and tells everybody what is left (draft-ietf-httpapi-ratelimit-headers-11).

    It needs ``state["caller"]``. A valid token has a limit of each kind by whom it names, however many it has; whoever
    comes without one, or with a bad one, has that of their address, so that guessing costs no one else.
    """

    def __init__(self, app: ASGIApp, turns: Turns, rates: Rates) -> None:
        self.app, self.turns, self.rates = app, turns, rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in FREE:
            return await self.app(scope, receive, send)
        kind, who = asker(scope)
        rate: Rate = getattr(self.rates, kind)
        if not rate.per_minute:
            return await self.app(scope, receive, send)
        taken = self.turns.take(f"{kind}:{who}", rate)
        wait = max(1, math.ceil(taken.more_in))
        told = [
            (b"ratelimit", f'"{kind}";r={taken.left};t={wait}'.encode()),
            (b"ratelimit-policy", f'"{kind}";q={rate.per_minute};w=60;lakehouse-burst={rate.burst}'.encode()),
        ]

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *told]
            await send(message)

        if taken.allowed:
            return await self.app(scope, receive, telling)
        detail = f"This is more than {rate.per_minute:,} requests of the kind {kind} a minute: wait {wait} s."
        violated: dict[str, Any] = {"violated-policies": [kind]}
        problem = Problem(429, "quota-exceeded", detail, {"Retry-After": str(wait)}, **violated)
        await refuse(problem, scope, receive, telling)


def asker(scope: Scope) -> tuple[Kind, str]:
    """The kind of a request's limit, and whose it is."""
    caller = scope.get("state", {}).get("caller")
    if isinstance(caller, Caller):
        words = f"{caller.subject}\0{caller.user_id}" if caller.user_id is not None else caller.subject
        return kind_of(scope), hashlib.blake2b(words.encode("utf-8", "replace"), digest_size=12).hexdigest()
    return "anonymous", address(scope)


def kind_of(scope: Scope) -> Kind:
    """The kind of limit that a request with a valid token has."""
    path = scope["path"]
    if path == "/v1/events":
        return "write"
    return "predict" if path.startswith("/v1/predictions/") else "read"


def address(scope: Scope) -> str:
    """The client's address; of IPv6 the network, since a household has one."""
    host = (scope.get("client") or ("unknown", 0))[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return str(host)[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found), 64), strict=False))
    return str(found)
