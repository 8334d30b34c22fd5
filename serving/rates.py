"""How often each caller may ask: limits by GCRA, counted in Redis for all processes of the API together.

The API is the only writer of ``rate:*``. A key holds the time at which its caller will have used up nothing
(microseconds since 1970, by Redis' clock), and is gone then. While Redis is away each process counts for itself.
"""

from __future__ import annotations

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


# The same, next to the data: one round trip, and one clock for all processes.
_TAKE = """
local t = redis.call('time')
local now, every, burst = t[1] * 1000000 + t[2], tonumber(ARGV[1]), tonumber(ARGV[2])
local before = math.max(tonumber(redis.call('get', KEYS[1]) or '0'), now)
local used = before - now
if used + every > burst * every + 0.5 then
  return {0, 0, math.ceil(used + every - burst * every)}
end
used = used + every
redis.call('set', KEYS[1], string.format('%.3f', before + every), 'px', math.ceil(used / 1000))
local left = math.floor(burst - used / every + 0.000001)
return {1, left, math.ceil(used - (burst - left - 1) * every)}
"""


class Turns:
    """Gives turns, by Redis while it answers.

    Args:
        settings: where Redis is.
        clock: seconds, never running backwards.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = redis.asyncio.Redis.from_url(
            settings.redis.url.get_secret_value(),
            socket_timeout=ANSWERS_S, socket_connect_timeout=ANSWERS_S, retry=Retry(NoBackoff(), 0),
            max_connections=64,
        )  # fmt: skip
        self._script = self._client.register_script(_TAKE)
        self._clock = clock
        self._local: OrderedDict[str, float] = OrderedDict()
        self._away_until: float | None = None

    async def take(self, key: str, rate: Rate) -> Taken:
        """One turn of ``key``."""
        every_us = 60e6 / rate.per_minute
        if self._away_until is None or self._clock() >= self._away_until:
            if self._away_until is not None:
                self._away_until = self._clock() + REST_S  # one request finds out, the others do not wait with it
            try:
                return self._told(await self._script(keys=[PREFIX + key], args=[every_us, rate.burst]))
            except (RedisError, OSError) as error:
                self._miss(error)
        outcome, until = take(self._local.pop(key, 0.0), self._clock() * 1e6, every_us, rate.burst)
        self._local[key] = until
        if len(self._local) > MOST_LOCAL:
            self._local.popitem(last=False)
        return outcome

    def _told(self, answer: list[int]) -> Taken:
        if self._away_until is not None:
            self._away_until = None
            self._local.clear()
            _log.info("Redis answers again: limits hold for all processes together")
        allowed, left, more_us = answer
        return Taken(bool(allowed), left, more_us / 1e6)

    def _miss(self, error: Exception) -> None:
        if self._away_until is None:
            _log.warning("Redis is away (%s): each process limits callers for itself", error)
        self._away_until = self._clock() + REST_S

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.aclose()


class RateLimits:
    """Answers 429 to who asks too often, and tells everybody what is left (draft-ietf-httpapi-ratelimit-headers-11).

    It needs ``state["caller"]``. A valid token has a limit of each kind by whom it names, however many it has; whoever
    comes without one, or with a bad one, has that of their address, so that guessing costs no one else.
    """

    def __init__(self, app: ASGIApp, turns: Any, rates: Rates) -> None:
        self.app, self.turns, self.rates = app, turns, rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in FREE:
            return await self.app(scope, receive, send)
        kind, who = asker(scope)
        rate: Rate = getattr(self.rates, kind)
        if not rate.per_minute:
            return await self.app(scope, receive, send)
        taken: Taken = await self.turns.take(f"{kind}:{who}", rate)
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
