"""``/metrics``: what Prometheus scrapes. Requests are counted as they are answered, the rest is asked for when scraped.

A scrape never hangs and never asks anything twice at once: facts that are a few seconds old are good, older ones are
asked for, for at most :data:`WITHIN_S`; what has not answered by then is shown as it was last, with its age, and left
out when that is too long ago. A registry of its own: what libraries put into the global one is not ours to publish.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter, Request, Response
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.auth import Caller
from serving.facts import gauge
from serving.problems import Problem, documented

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds; what is promised is among them: 10 ms, 30 ms, 150 ms."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
WITHIN_S = 1.0
"""How long a scrape waits for facts."""
GIVEN_UP_S = 20.0
"""After which nobody waits for an answer any more, and it is asked for again."""
STALE_S = 120.0
"""What is older is not shown."""
_EVENT_STREAM = b"text/event-stream"
_log = logging.getLogger(__name__)
# Another series for each counter, which Prometheus' text format has no use for.
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass
class Source:
    """Something to ask for facts.

    Args:
        name: in the metrics about scrapes.
        ask: the facts now.
        fresh_s: for how long they are good.
    """

    name: str
    ask: Callable[[], Awaitable[Iterable[Metric]]]
    fresh_s: float = 5.0
    known: list[Metric] = field(default_factory=list)
    made: float = float("-inf")
    took_s: float = 0.0
    asking: asyncio.Task[None] | None = None


class Metrics(Collector):
    """All metrics of a process of the API."""

    def __init__(self, sources: Sequence[Source] = (), within_s: float = WITHIN_S) -> None:
        self.sources, self._within_s = sources, within_s
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "lakehouse_api_requests", "Requests that were answered.", ["route", "method", "status"],
            registry=self.registry,
        )  # fmt: skip
        self._durations = Histogram(
            "lakehouse_api_request_duration_seconds",
            "From a request's head to the end of its answer; to its beginning, of event streams.",
            ["route", "method"], buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._in_progress = Gauge(
            "lakehouse_api_requests_in_progress", "Requests under way, event streams among them.",
            registry=self.registry,
        )  # fmt: skip
        self._limited = Counter(
            "lakehouse_api_rate_limited", "Requests that were answered with 429.", registry=self.registry
        )
        self._errors = Counter(
            "lakehouse_scrape_errors", "Facts that could not be had when asked for.", ["source"],
            registry=self.registry,
        )  # fmt: skip
        for source in sources:
            self._errors.labels(source.name)
        self.registry.register(self)

    # --- requests --------------------------------------------------------------------------------------------------

    def begun(self) -> None:
        """A request has come."""
        self._in_progress.inc()

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """It was answered; ``status`` 0: nobody was there any more."""
        self._in_progress.dec()
        method = method if method in METHODS else "other"
        self._requests.labels(route, method, str(status or "gone")).inc()
        self._durations.labels(route, method).observe(seconds)
        if status == 429:
            self._limited.inc()

    # --- scrapes ---------------------------------------------------------------------------------------------------

    async def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics, and their media type."""
        now = time.monotonic()
        for source in self.sources:
            if source.asking is None and now - source.made >= source.fresh_s:
                source.asking = asyncio.create_task(self._ask(source))
        if waiting := [source.asking for source in self.sources if source.asking is not None]:
            await asyncio.wait(waiting, timeout=self._within_s)
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type

    async def _ask(self, source: Source) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(GIVEN_UP_S):
                source.known = list(await source.ask())
            source.made = time.monotonic()
        except Exception as error:
            self._errors.labels(source.name).inc()
            _log.warning("/metrics lacks %s: %s", source.name, str(error) or type(error).__name__)
        finally:
            source.took_s, source.asking = time.monotonic() - began, None

    def collect(self) -> Iterator[Metric]:
        """What is known, as the registry asks for it."""
        now = time.monotonic()
        known = [source for source in self.sources if now - source.made < STALE_S]
        for source in known:
            yield from source.known
        yield gauge(
            "scrape_age_seconds", "Time since facts were asked for.", ["source"],
            [([source.name], now - source.made) for source in known],
        )  # fmt: skip
        yield gauge(
            "scrape_duration_seconds", "How long facts took when they were last asked for.", ["source"],
            [([source.name], source.took_s) for source in self.sources],
        )  # fmt: skip

    def describe(self) -> Iterable[Metric]:
        """Nothing before it is collected."""
        return []

    async def close(self) -> None:
        """Ask no more."""
        asking = [source.asking for source in self.sources if source.asking is not None]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


class Measured:
    """Counts and times requests by the template of their route, never by what stands in their path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status, took = time.perf_counter(), 0, 0.0
        self.metrics.begun()

        async def answered(message: Message) -> None:
            nonlocal status, took
            if message["type"] == "http.response.start":
                status = message["status"]
                if any(n == b"content-type" and v.startswith(_EVENT_STREAM) for n, v in message["headers"]):
                    took = time.perf_counter() - began
            await send(message)

        try:
            await self.app(scope, receive, answered)
        finally:
            took = took or time.perf_counter() - began
            self.metrics.answered(route_of(scope), scope["method"], status, took)


def route_of(scope: Scope) -> str:
    """The template of a request's route: what was mounted there, of files; ``none`` where there is no route."""
    path = getattr(scope.get("route"), "path", None)
    if isinstance(path, str):
        return path
    return scope.get("root_path") or "none" if "endpoint" in scope else "none"


def router(
    metrics: Metrics,
    caller: Callable[[Request], Awaitable[Caller | None]],
    token: SecretStr | None,
    behind_proxy: bool = False,
) -> APIRouter:
    """The route, for programs of this machine, for the token of the settings, and for callers with ``admin``.

    Args:
        metrics: see there.
        caller: whom a request's token names; None, or a problem, without a valid one.
        token: ``api.metrics_token``.
        behind_proxy: whether everybody seems to come from this machine.
    """
    made = APIRouter(tags=["platform"])

    async def admit(request: Request) -> None:
        if not behind_proxy and _is_loopback(request.client.host if request.client else ""):
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if (
            token is not None
            and scheme.lower() == "bearer"
            and hmac.compare_digest(given.strip().encode(), token.get_secret_value().encode())
        ):
            return
        found = await caller(request)
        if found is None:
            detail = "Metrics are for this machine, for api.metrics_token, and for tokens with the scope admin."
            raise Problem(401, "unauthorised", detail, {"WWW-Authenticate": 'Bearer realm="lakehouse"'})
        if "admin" not in found.scopes:
            challenge = 'Bearer realm="lakehouse", error="insufficient_scope", scope="admin"'
            detail = "The token lacks the scope admin."
            raise Problem(403, "insufficient-scope", detail, {"WWW-Authenticate": challenge}, scope="admin")

    @made.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
            **documented(401, 403),
        },
    )
    async def scraped(request: Request) -> Response:
        """Metrics of pipeline, stores, models and the API, for Prometheus.

        For programs of this machine without a token; for others with `api.metrics_token`, or with the scope admin.
        """
        await admit(request)
        body, media_type = await metrics.scrape(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": media_type, "Cache-Control": "no-store"})

    return made


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
