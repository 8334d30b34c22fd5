"""The API's role for the pages: its shapes, scopes and problems, with a small service's data that are always alike.

Everything is a function of the minute and of ``World.now``, which stands still; a test changes the world: a store goes
away, the stream says something or breaks off. Tokens are checked by the API's own code, and the pages are served by it.
"""

import asyncio
import math
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.responses import StreamingResponse

from serving import pages, problems
from serving.auth import Caller, Keys, caller
from serving.problems import Problem
from serving.rest import lineage
from serving.steps import minutes

MINUTE = timedelta(minutes=1)
NOW = datetime(2026, 11, 26, 9, 30, 20, tzinfo=UTC)
KEYS = Keys({"browser": "b" * 32})
Metrics = Annotated[Caller, Depends(caller(KEYS, "read:metrics"))]
Tables = Annotated[Caller, Depends(caller(KEYS, "read:tables"))]
Users = Annotated[Caller, Depends(caller(KEYS, "read:users"))]
Logs = Annotated[Caller, Depends(caller(KEYS, "read:logs"))]
TYPES = {
    "view": 96.0, "like": 31.0, "visit": 14.0, "comment": 15.0, "search": 11.0, "bookmark": 7.5, "share": 5.5,
    "follow": 4.6, "unlike": 2.8, "post": 1.9,
}  # fmt: skip
SERVICES = {
    "feed": (315, 35.0), "gateway": (421, 12.0), "notify": (80, 15.0), "posts": (254, 20.0), "search": (165, 60.0),
    "users": (170, 8.0),
}  # fmt: skip
PATHS = {
    "gateway": ("/", "/login", "/assets/app.js"), "users": ("/v1/users/me", "/v1/users/find", "/v1/sessions"),
    "posts": ("/v1/posts", "/v1/posts/new", "/v1/comments"), "feed": ("/v1/feed", "/v1/feed/home", "/v1/trending"),
    "search": ("/v1/search", "/v1/suggest"), "notify": ("/v1/notify", "/v1/devices"),
}  # fmt: skip
HOSTS = {
    "app-1": (0.39, 0.63, 0.54), "app-2": (0.36, 0.6, 0.51), "db-1": (0.31, 0.83, 0.69), "web-1": (0.25, 0.45, 0.35),
    "web-2": (0.24, 0.47, 0.36),
}  # fmt: skip
METRICS = ("system.cpu.total.norm.pct", "system.memory.actual.used.pct", "system.filesystem.used.pct")
TOPICS = {"user-events": (214, 39604), "service-logs": (131, 19803), "system-metrics": (37, 7046)}
INCIDENT = (38, 19)
"""Minutes before now between which `notify` fails and `web-2` is busy."""


def noise(key: str, step: int) -> float:
    """A number in [0, 1) that is always the same of a key and a step."""
    x = (zlib.crc32(key.encode()) * 0x9E3779B1 + step * 0x85EBCA77) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return (x ^ (x >> 16)) / 2**32


def tide(at: datetime) -> float:
    """How busy a day is: 0.4 at night, 1 in the afternoon."""
    return 0.7 + 0.3 * math.sin((at.hour + at.minute / 60 - 8) / 24 * 2 * math.pi)


@dataclass
class World:
    """What a test may change, and what it may look at.

    Args:
        now: the time there.
        away: stores that do not answer: redis, mongodb, elasticsearch, hdfs.
        quiet: nothing is there yet: every collection is empty.
        slow_s: how long every answer takes.
    """

    now: datetime = NOW
    away: set[str] = field(default_factory=set)
    quiet: bool = False
    slow_s: float = 0.0
    streams: list[str | None] = field(default_factory=list)
    """`Last-Event-ID` of each stream that was opened."""
    asked: list[str] = field(default_factory=list)
    """Every request under /v1, in order."""
    refuse_stream: Problem | None = None
    _told: list[tuple[str, bytes]] = field(default_factory=list)
    _cut: int = 0
    _beat: int = 0

    def say(self, event: str, data: dict[str, Any]) -> None:
        """Put an event into the stream; who comes back with its place gets it, too."""
        number = len(self._told) + 1
        frame = b"id: %d\nevent: %s\ndata: %s\n\n" % (number, event.encode(), orjson.dumps(data))
        self._told.append((event, frame))

    def drop(self) -> None:
        """Break off every stream."""
        self._cut += 1

    def site(self) -> dict[str, Any]:
        """As Redis shows it, another one each time."""
        self._beat += 1
        at = self.now + timedelta(seconds=self._beat)
        counts = {kind: round(n * (0.9 + 0.2 * noise(kind, self._beat))) for kind, n in TYPES.items()}
        return {
            "at": _z(at),
            "active_users": 118 + round(14 * math.sin(self._beat / 9) + 6 * noise("users", self._beat)),
            "events_1m": counts,
        }

    def need(self, store: str) -> None:
        """Raises:
        Problem: 503, as the API has it, where the store is away."""
        if store in self.away:
            detail = f"{store} does not answer (ConnectionError): try again later; `lakehouse status` shows it."
            raise Problem(503, "store-away", detail, {"Retry-After": "5"}, store=store)


def _z(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _minutes(since: datetime, until: datetime) -> Iterator[tuple[datetime, int]]:
    """Whole minutes, the newest first, and their numbers since 1970."""
    at = until.replace(second=0, microsecond=0)
    while at >= since:
        if at < until:
            yield at, int(at.timestamp()) // 60
        at -= MINUTE


def create(world: World, dist: Path = pages.DIST) -> FastAPI:
    """The application."""
    app = FastAPI(title="fake", docs_url=None, redoc_url=None)
    problems.install(app)
    app.include_router(pages.router(dist))

    @app.middleware("http")
    async def watched(request: Request, call_next: Any) -> Any:
        if request.url.path.startswith("/v1/"):
            world.asked.append(f"{request.url.path}?{request.url.query}".rstrip("?"))
            if world.slow_s and request.url.path != "/v1/stream":
                await asyncio.sleep(world.slow_s)
        return await call_next(request)

    # --- metrics -----------------------------------------------------------------------------------------------------

    @app.get("/v1/activity")
    def activity(_: Metrics, request: Request) -> Response:
        world.need("hdfs")

        def rows(since: datetime, until: datetime) -> Iterator[dict[str, Any]]:
            for at, minute in _minutes(since, min(until, world.now - MINUTE)):
                for kind, mean in TYPES.items():
                    events = round(mean * tide(at) * (0.75 + 0.5 * noise(kind, minute)))
                    if events:
                        users_ = max(1, round(events * (0.6 + 0.2 * noise(f"u{kind}", minute))))
                        yield {"window_start": _z(at), "event_type": kind, "events": events, "users": users_}

        return _collection(world, request, "window_start", rows)

    @app.get("/v1/activity/live")
    def live(_: Metrics) -> dict[str, Any]:
        world.need("redis")
        if world.quiet:
            return {"at": None, "active_users": None, "events_1m": {}}
        return world.site()

    @app.get("/v1/posts/trending")
    def trending(_: Metrics, limit: int = 20, device: str | None = None, referrer: str | None = None) -> dict[str, Any]:
        world.need("redis")
        part = device or referrer or ""
        if part == "nowhere.example" or world.quiet:
            return _page([])
        return _page(_trending(part, limit))

    @app.get("/v1/posts/{post}/engagement")
    def engagement(post: str, _: Metrics, request: Request) -> Response:
        world.need("hdfs")

        def rows(since: datetime, until: datetime) -> Iterator[dict[str, Any]]:
            if not post.startswith("p"):
                return
            for back in range(9):
                day = world.now.date() - timedelta(days=back)
                views = round(260 * math.exp(-back / 3) * (0.6 + 0.8 * noise(post, day.toordinal())))
                yield {
                    "date": day.isoformat(), "post_id": post, "views": views, "likes": views // 5 - (back == 8) * 3,
                    "comments": views // 11, "shares": views // 23, "bookmarks": views // 17, "users": views * 2 // 3,
                }  # fmt: skip

        return _collection(world, request, None, rows)

    @app.get("/v1/services")
    def services(_: Metrics) -> dict[str, Any]:
        world.need("hdfs")
        newest = world.now.replace(second=0) - 2 * MINUTE
        return _page([] if world.quiet else [_health(world, name, newest) for name in SERVICES])

    @app.get("/v1/services/{name}/health")
    def health(name: str, _: Metrics, request: Request) -> Response:
        world.need("hdfs")

        def rows(since: datetime, until: datetime) -> Iterator[dict[str, Any]]:
            if name in SERVICES:
                for at, _minute in _minutes(since, min(until, world.now - MINUTE)):
                    yield _health(world, name, at)

        return _collection(world, request, "window_start", rows)

    @app.get("/v1/services/{name}/paths")
    def paths(name: str, _: Metrics, minutes: int = 60, limit: int = 20) -> dict[str, Any]:
        world.need("hdfs")
        if not 1 <= minutes <= 1440:
            raise Problem(422, "invalid-request", "The parameter minutes is wrong: 1 to 1440.")
        found = []
        for place, path in enumerate(PATHS.get(name, ()) if not world.quiet else ()):
            p50 = SERVICES[name][1] * (1.3 - 0.3 * place)
            found.append({
                "path": path, "requests": 4000 - 900 * place, "errors": (7, 0, 2)[place], "p50_ms": p50,
                "p95_ms": p50 * 2.1, "max_ms": p50 * 9.3,
            })  # fmt: skip
        return _page(found[:limit])

    @app.get("/v1/hosts")
    def hosts(_: Metrics) -> dict[str, Any]:
        world.need("hdfs")
        newest = world.now.replace(second=0) - MINUTE
        return _page([] if world.quiet else [
            {"host": host, "last_seen": _z(newest), **{
                name: _used(world, host, metric, newest)[0]
                for name, metric in zip(("cpu", "memory", "disk"), METRICS, strict=True)
            }}
            for host in HOSTS
        ])  # fmt: skip

    @app.get("/v1/hosts/{name}/utilization")
    def utilization(name: str, _: Metrics, request: Request) -> Response:
        world.need("hdfs")

        def rows(since: datetime, until: datetime) -> Iterator[dict[str, Any]]:
            for at, _minute in _minutes(since, min(until, world.now)):
                for metric in METRICS if name in HOSTS else ():
                    mean, most = _used(world, name, metric, at)
                    yield {
                        "window_start": _z(at), "host": name, "metric": metric, "avg": mean, "max": most, "samples": 6,
                    }  # fmt: skip

        return _collection(world, request, "window_start", rows)

    @app.get("/v1/anomalies")
    def anomalies(_: Metrics, request: Request) -> Response:
        world.need("hdfs")
        begins = world.now.replace(second=0) - INCIDENT[0] * MINUTE
        unusual = [
            ("host/web-2/system.cpu.total.norm.pct", 6, 0.34), ("service/notify/error_rate", 5, 0.011),
            ("service/notify/p95_ms", 8, 31.0),
        ]  # fmt: skip

        def rows(since: datetime, until: datetime) -> Iterator[dict[str, Any]]:
            for series, after, expected in unusual:
                at = begins + after * MINUTE
                kind, name, measure = series.split("/")
                value = _used(world, name, measure, at)[0] if kind == "host" else _health(world, name, at)[measure]
                yield {
                    "series": series, "time": _z(at), "value": value, "expected": expected, "score": 0.93,
                    "model_version": "3",
                }  # fmt: skip

        return _collection(world, request, "time", rows)

    @app.get("/v1/forecasts")
    def forecasts(_: Metrics, request: Request) -> Response:
        world.need("hdfs")

        def rows(since: datetime, until: datetime) -> Iterator[dict[str, Any]]:
            made = world.now.replace(minute=0, second=0)
            for host, used in HOSTS.items():
                for metric, base in zip(METRICS, used, strict=True):
                    for step in range(48):
                        at = made + 5 * step * MINUTE
                        mean = _expected(base, metric, at)
                        wide = (0.035 if metric == METRICS[0] else 0.012) * (1 + step / 30)
                        yield {
                            "series": f"host/{host}/{metric}", "time": _z(at), "mean": mean, "lo": mean - wide,
                            "hi": mean + wide, "model_version": "2", "made_at": _z(made),
                        }  # fmt: skip

        return _collection(world, request, "time", rows)

    @app.get("/v1/alerts")
    def alerts(_: Metrics) -> dict[str, Any]:
        world.need("mongodb")
        return _page([] if world.quiet else _alerts(world))

    @app.get("/reports")
    def reports(_: Metrics, limit: int = 100) -> dict[str, Any]:
        world.need("hdfs")
        days = [] if world.quiet else [world.now.date() - timedelta(days=back) for back in range(1, 1 + min(limit, 9))]
        made = [{"date": day.isoformat(), "made_at": f"{day + timedelta(days=1)}T00:10:00Z"} for day in days]
        return _page(
            [{**one, "languages": ["en", "ko"], "pdf": ["en"], "url": f"/reports/{one['date']}"} for one in made]
        )

    @app.get("/reports/{name}")
    def report(name: str, _: Metrics, lang: str = "en") -> Response:
        world.need("hdfs")
        return Response(f"{name} {lang}", media_type="text/html" if name.endswith("html") else "application/pdf")

    # --- the platform ------------------------------------------------------------------------------------------------

    @app.get("/v1/status")
    def status(_: Metrics) -> dict[str, Any]:
        return _status(world)

    @app.get("/v1/lineage")
    def lineage_(_: Tables) -> dict[str, Any]:
        return lineage.all_of(_status(world))

    @app.get("/v1/lineage/{name}")
    def lineage_of(name: str, _: Tables) -> dict[str, Any]:
        return lineage.one(name, _status(world))

    @app.get("/v1/tables")
    def tables_(_: Tables) -> dict[str, Any]:
        return _page([{"name": name, "key": [], "time": None, "columns": []} for name in _TABLES])

    @app.get("/v1/tables/{name}")
    def table(name: str, _: Tables) -> dict[str, Any]:
        world.need("hdfs")
        if name not in _TABLES:
            raise Problem(404, "no-such-table", f"There is no table {name}.")
        rows, size, _version = _TABLES[name]
        return {"name": name, "rows": rows, "bytes": size, "version": 3, "at": _z(world.now), "age_s": 1.0}

    # --- users and logs ----------------------------------------------------------------------------------------------

    @app.get("/v1/users/{user}/activity")
    def user_activity(user: str, who: Users, days: int = 30) -> dict[str, Any]:
        _own(who, user)
        world.need("mongodb")
        if not user.startswith("u") or world.quiet:
            raise Problem(404, "no-such-user", "There is no such user for this token.")
        return _user(world, user, days)

    @app.get("/v1/users/{user}/recommendations")
    def recommendations(user: str, who: Users, limit: int = 20) -> dict[str, Any]:
        _own(who, user)
        world.need("redis")
        items = [{"post_id": one["post_id"], "score": one["score"] / 250} for one in _trending(user, limit)]
        return {
            "user_id": user, "source": "realtime", "model_version": "7", "at": _z(world.now - timedelta(seconds=42)),
            "age_s": 42.0, "items": items,
        }  # fmt: skip

    @app.get("/v1/users/{user}/notifications")
    def notifications(user: str, who: Users, limit: int = 50, cursor: str | None = None) -> dict[str, Any]:
        _own(who, user)
        world.need("mongodb")
        begin = int(cursor or 0)
        found = [_notification(world, user, n, who) for n in range(begin, min(begin + limit, 47))]
        return _page(found, str(begin + limit) if begin + limit < 47 else None)

    @app.get("/v1/logs/search")
    def search(who: Logs, request: Request) -> dict[str, Any]:
        return _search(world, who, request)

    # --- live --------------------------------------------------------------------------------------------------------

    @app.get("/v1/stream")
    async def stream(
        who: Metrics, events: str, user_id: str | None = None, last_event_id: Annotated[str | None, Header()] = None
    ) -> Response:
        kinds = set(events.split(","))
        if unknown := sorted(kinds - {"live", "trending", "notification", "alert", "table"}):
            raise Problem(422, "invalid-request", f"There is no event {unknown[0]}.")
        if "notification" in kinds and "read:users" not in who.scopes:
            raise Problem(403, "insufficient-scope", "Events notification need read:users.", scope="read:users")
        if user_id is not None and "notification" not in kinds:
            raise Problem(403, "insufficient-scope", "user_id chooses notifications.", scope="read:users")
        world.streams.append(last_event_id)
        if world.refuse_stream:
            raise world.refuse_stream
        after = int(last_event_id or len(world._told))
        return StreamingResponse(_stream(world, kinds, after), media_type="text/event-stream")

    return app


async def _stream(world: World, kinds: set[str], after: int) -> AsyncIterator[bytes]:
    cut, beat = world._cut, 0
    yield b"retry: 300\n\n: hello\n\n"
    while world._cut == cut:
        for kind, told in world._told[after:]:
            after += 1
            if kind in kinds:
                yield told
        if not world.quiet and beat % 5 == 0:
            yield b"event: live\ndata: %s\n\n" % orjson.dumps(world.site())
            data = {"data": [{**one, "score": one["score"] + world._beat % 7} for one in _trending("", 10)]}
            yield b"event: trending\r\ndata: %s\r\n\r\n" % orjson.dumps(data)
        beat += 1
        await asyncio.sleep(0.1)


def _page(rows: list[dict[str, Any]], following: str | None = None) -> dict[str, Any]:
    return {"data": rows, "next": following, "version": 3}


_KNOWN = {"from", "to", "filter", "select", "order", "limit", "cursor", "version", "step"}


def _collection(world: World, request: Request, time: str | None, rows: Any) -> Response:
    """Rows of a table, as a request's parameters want them: `from`, `to`, `filter`, `select`, `limit`."""
    wanted = request.query_params
    if unknown := sorted(set(wanted.keys()) - _KNOWN):
        raise Problem(422, "invalid-request", f"The parameter {unknown[0]} does not exist.")
    since = datetime.fromisoformat(wanted.get("from", "1970-01-01T00:00:00Z"))
    until = datetime.fromisoformat(wanted.get("to", "2100-01-01T00:00:00Z"))
    since = max(since, world.now - timedelta(days=8))
    limit = int(wanted.get("limit", 100))
    etag = f'"{zlib.crc32(f"{world.quiet} {request.url}".encode()):x}"'
    headers = {"ETag": etag, "Lakehouse-Data-Age": "4.2", "Lakehouse-Table-Version": "3"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    found: list[dict[str, Any]] = []
    for row in rows(since, until) if not world.quiet else ():
        if time is not None and not _z(since) <= row[time] < _z(until):
            continue
        if all(_holds(text, row) for text in wanted.getlist("filter")):
            found.append(row)
        if len(found) == limit and "step" not in wanted:
            break
    if "step" in wanted:
        found = _folded(found, minutes(wanted["step"]))[:limit]
    if select := wanted.get("select"):
        found = [{name: row[name] for name in select.split(",")} for row in found]
    if "ndjson" in request.headers.get("accept", ""):
        body = b"".join(orjson.dumps(row) + b"\n" for row in found)
        return Response(body, 200, headers, "application/x-ndjson")
    if limit > 10_000:
        raise Problem(422, "invalid-request", "JSON has at most 10000 rows: ask for NDJSON, CSV or Arrow.")
    return Response(orjson.dumps(_page(found)), 200, headers, "application/json")


def _folded(rows: list[dict[str, Any]], length: int) -> list[dict[str, Any]]:
    """Minutes folded into steps: counts are added up, of all else it is the largest."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        at = datetime.fromisoformat(row["window_start"]).timestamp() // (60 * length) * 60 * length
        begins = _z(datetime.fromtimestamp(at, UTC))
        key = (begins, *(value for name, value in row.items() if isinstance(value, str) and name != "window_start"))
        if (before := found.get(key)) is None:
            found[key] = {**row, "window_start": begins}
            continue
        for name, value in row.items():
            if name in ("events", "requests", "errors", "samples"):
                before[name] += value
            elif not isinstance(value, str) and value is not None:
                before[name] = max(before[name] or 0, value)
    for row in found.values():
        if row.get("requests"):
            row["error_rate"] = row["errors"] / row["requests"]
    return list(found.values())


def _holds(text: str, row: dict[str, Any]) -> bool:
    column, operator, value = text.split(":", 2)
    if column not in row:
        raise Problem(422, "invalid-request", f"The parameter filter is wrong: no column {column!r}.")
    return row[column] == value if operator == "eq" else value in row[column]


def _trending(part: str, limit: int) -> list[dict[str, Any]]:
    scores = sorted(240 * math.exp(-place / 4) * (0.8 + 0.4 * noise(part + "t", place)) for place in range(40))[::-1]
    names = [f"p5fd3b5dc1c{zlib.crc32(f'{part}{place}'.encode()) % 65536:04x}" for place in range(40)]
    return [
        {"rank": rank, "post_id": name, "score": round(score, 2)}
        for rank, (name, score) in enumerate(zip(names, scores, strict=True), 1)
    ][:limit]


def _trouble(world: World, at: datetime) -> float:
    """How bad the incident is at a time: 0 outside it, up to 1."""
    back = (world.now.replace(second=0) - at) / MINUTE
    begins, ends = INCIDENT
    return math.sin(math.pi * (begins - back) / (begins - ends)) if ends < back < begins else 0.0


def _health(world: World, name: str, at: datetime) -> dict[str, Any]:
    busy, median = SERVICES[name]
    minute = int(at.timestamp()) // 60
    trouble = _trouble(world, at) if name == "notify" else 0.0
    requests = round(busy * tide(at) * (0.9 + 0.2 * noise(name, minute)))
    errors = round(requests * (0.012 * noise(f"e{name}", minute) ** 2 * 3 + 0.22 * trouble))
    p50 = median * (0.92 + 0.16 * noise(f"m{name}", minute)) * (1 + trouble)
    return {
        "window_start": _z(at), "service": name, "requests": requests, "errors": errors,
        "error_rate": errors / requests, "p50_ms": p50, "p95_ms": p50 * (2 + 0.4 * noise(f"q{name}", minute) + trouble),
        "p99_ms": p50 * (2.9 + 0.9 * noise(f"r{name}", minute) + 2 * trouble),
    }  # fmt: skip


def _expected(base: float, metric: str, at: datetime) -> float:
    if metric == METRICS[0]:
        return base * (0.55 + 0.6 * (tide(at) - 0.4))
    return base + (0.03 * (tide(at) - 0.7) if metric == METRICS[1] else 0.0)


def _used(world: World, host: str, metric: str, at: datetime) -> tuple[float, float]:
    base = HOSTS[host][METRICS.index(metric)]
    minute = int(at.timestamp()) // 60
    wobble = (noise(host + metric, minute) - 0.5) * (0.05 if metric == METRICS[0] else 0.008)
    trouble = 0.55 * _trouble(world, at) if (host, metric) == ("web-2", METRICS[0]) else 0.0
    mean = min(_expected(base, metric, at) + wobble + trouble, 1.0)
    return mean, min(mean * 1.08, 1.0)


def _alerts(world: World) -> list[dict[str, Any]]:
    def ago(minutes: float) -> str:
        return _z(world.now - timedelta(minutes=minutes))

    return [
        {"rule": "host memory out of range", "subject": "db-1", "severity": "warning", "state": "pending",
         "since": ago(3), "value": 0.831, "text": "db-1: 83% of the memory is in use", "silenced": False},
        {"rule": "quarantine share", "subject": "user-events", "severity": "critical", "state": "firing",
         "since": ago(12), "value": 0.061, "text": "user-events: 6.1% of the records of the last hour broke their "
         "contract; look at them with `lakehouse quarantine ls`", "silenced": False},
        {"rule": "service error rate", "subject": "notify", "severity": "warning", "state": "recovered",
         "since": ago(19), "value": 0.012, "text": "notify: 1.2% of 80 requests a minute fail", "silenced": False},
        {"rule": "host cpu high", "subject": "web-2", "severity": "warning", "state": "firing", "since": ago(31),
         "value": 0.71, "text": "web-2: processors are busy 71% of the time", "silenced": True},
        {"rule": "anomaly", "subject": "service/search/p95_ms", "severity": "info", "state": "firing",
         "since": ago(140), "value": None, "text": "search: responses take longer than expected", "silenced": False},
    ]  # fmt: skip


_TABLES = {
    "bronze.user_events": (39604, 2280902, 214), "silver.user_events": (38990, 1276191, 214),
    "silver.service_logs": (19481, 1518074, 131), "silver.system_metrics": (71628, 799604, 154),
    "silver.quarantine": (328, 89468, 41), "gold.activity_minute": (11950, 54521, 214),
    "gold.post_engagement_daily": (1524, 24118, 214), "gold.user_activity_daily": (2538, 66745, 214),
    "gold.trending_posts": (50, 1989, 214), "gold.service_health_minute": (8861, 296113, 131),
    "gold.host_utilization_minute": (51235, 601424, 151),
}  # fmt: skip


def _status(world: World) -> dict[str, Any]:
    lost = None if "hdfs" not in world.away else "hdfs://127.0.0.1:8020 does not answer: start it with `lakehouse up`"
    topics, batches, totals = {}, [], []
    for topic, (seq, records) in TOPICS.items():
        cut = world.now - timedelta(seconds=len(topic) - 10)
        lag = {
            "lag_records": 0 if topic != "service-logs" else 41,
            "lag_seconds": 0.0 if topic != "service-logs" else 1.8,
        }
        topics[topic] = {
            **(lag if lost is None else {"lag_records": None, "lag_seconds": None, "error": lost}),
            "seq": seq if lost is None else None, "last_cut_at": _z(cut) if lost is None else None, "cut_age_s": 3.1,
        }  # fmt: skip
        for back in range(min(60, seq) if lost is None and not world.quiet else 0):
            n = round(190 * (0.6 + 0.8 * noise(topic, seq - back)))
            turned, again = n // 31 if noise("q" + topic, seq - back) > 0.6 else 0, n // 60
            batches.append({
                "topic": topic, "seq": seq - back, "records": n, "valid": n - turned - again, "quarantined": turned,
                "duplicates": again, "batch_ms": 240 + 700 * noise("b" + topic, seq - back) ** 3,
                "committed_at": _z(cut - timedelta(seconds=back * 2.5)),
            })  # fmt: skip
        if lost is None:
            parts = {"valid": records - 614, "quarantined": 190, "duplicates": 424}
            totals.append({"topic": topic, "records": records, **parts})
    tables = [] if lost or world.quiet else [
        {"name": name, "version": version, "at": _z(world.now - timedelta(seconds=len(name)))}
        for name, (_rows, _bytes, version) in _TABLES.items() if not name.startswith("bronze")
    ]  # fmt: skip
    stores = {
        name: {"reachable": False, "error": f"{name} does not answer (ConnectionError)"}
        if name in world.away
        else {"reachable": True, "behind_batches": {t: 2 if name == "elasticsearch" else 0 for t in TOPICS}}
        for name in ("mongodb", "redis", "elasticsearch")
    }
    return {
        "at": _z(world.now), "topics": topics, "tables": tables, "stores": stores, "batches": batches, "totals": totals,
    }  # fmt: skip


def _own(who: Caller, user: str) -> None:
    mine = getattr(who, "user_id", None)
    if mine is not None and mine != user:
        raise Problem(404, "no-such-user", "There is no such user for this token.")


def _user(world: World, user: str, days: int) -> dict[str, Any]:
    found = []
    for back in range(min(days, 12)):
        day: date = world.now.date() - timedelta(days=back)
        events = round(20 + 60 * noise(user, day.toordinal()))
        found.append({
            "date": day.isoformat(), "events": events, "sessions": 1 + events // 12, "posts": events // 40,
            "first_at": f"{day}T06:12:00.000Z", "last_at": f"{day}T09:21:00.000Z",
        })  # fmt: skip
    live = {
        "last_at": _z(world.now - timedelta(seconds=42)), "page": "/posts/p00265", "device": "ios", "minute": None,
        "events_1m": {"view": 3}, "events_15m": {"view": 21, "like": 4},
        "session": {"start": _z(world.now - timedelta(minutes=11)), "events": 25},
    }  # fmt: skip
    profile = {
        "first_at": "2026-11-14T08:00:00.000Z", "last_at": live["last_at"], "events": 812, "late_events": 4,
        "by_type": {"view": 531, "like": 120, "visit": 61, "comment": 40, "search": 38, "follow": 22},
        "sessions": 77, "session_s": 30123.5, "page": "/posts/p00265", "device": "ios",
        "recent_posts": ["p00265", "p00012"],
    }  # fmt: skip
    return {"user_id": user, "days": found, "live": live, "profile": profile, "version": 3}


def _notification(world: World, user: str, n: int, who: Caller) -> dict[str, Any]:
    rule, text = (
        ("comment on my post", f"u{1000 + n:05d} commented on your post p{n:05d}"),
        ("new follower", f"u{1500 + n:05d} follows you"),
        ("your post is trending", f"Your post p{n:05d} is trending: {20 + n} interactions in five minutes"),
    )[n % 3]
    return {
        "id": f"{n:032x}", "user_id": user, "rule": rule, "severity": "info" if n % 7 else "warning", "kind": "fired",
        "subject": f"p{n:05d}", "at": _z(world.now - timedelta(minutes=7 * n + 2)),
        "text": text if "read:pii" in who.scopes else None, "quiet": False, "suppressed": False,
    }  # fmt: skip


_MESSAGES = (
    ("info", "GET {path} 200 in {ms:.0f} ms"),
    ("info", "cache refreshed, {n} entries in {ms:.0f} ms"),
    ("debug", "connection pool holds {n} of 64"),
    ("warn", "slow query {n} took {ms:.0f} ms"),
    ("info", "POST {path} 201 in {ms:.0f} ms"),
    ("error", "TimeoutError: upstream did not answer within {ms:.0f} ms"),
    ("info", "댓글 알림 {n}건을 보냈습니다 <b>&amp;</b>"),
)
_LOG_STEP = timedelta(seconds=7)


def _log(number: int, readable: bool) -> dict[str, Any]:
    """The log of a step of seven seconds since 1970."""
    at = datetime.fromtimestamp(number * _LOG_STEP.total_seconds(), UTC) + timedelta(
        milliseconds=round(6000 * noise("ms", number))
    )
    service = list(SERVICES)[int(noise("s", number) * len(SERVICES))]
    level, text = _MESSAGES[int(noise("l", number) * len(_MESSAGES))]
    path = PATHS[service][number % len(PATHS[service])]
    ms = 8 + 240 * noise("d", number) ** 2
    status = 504 if level == "error" else 200
    return {
        "id": f"log-{number:x}", "time": _z(at), "level": level, "service": service,
        "host": list(HOSTS)[int(noise("h", number) * len(HOSTS))],
        "message": text.format(path=path, ms=ms, n=number % 977) if readable else None, "error": None,
        "trace_id": f"{number // 4:032x}", "path": path, "status": status, "duration_ms": ms,
    }  # fmt: skip


_SEARCH = {"q", "service", "level", "host", "trace_id", "from", "to", "source", "limit", "cursor"}


def _search(world: World, who: Caller, request: Request) -> dict[str, Any]:
    world.need("elasticsearch")
    wanted = request.query_params
    if unknown := sorted(set(wanted.keys()) - _SEARCH):
        raise Problem(422, "invalid-request", f"The parameter {unknown[0]} does not exist.")
    readable = "read:pii" in who.scopes
    words = (wanted.get("q") or "").lower().split()
    if words and not readable:
        raise Problem(403, "insufficient-scope", "To search messages needs the scope read:pii.", scope="read:pii")
    until = datetime.fromisoformat(wanted["to"]) if "to" in wanted else world.now
    since = max(
        datetime.fromisoformat(wanted["from"]) if "from" in wanted else until - timedelta(days=1),
        world.now - timedelta(days=2),
    )
    step = _LOG_STEP.total_seconds()
    numbers = range(int(min(until, world.now).timestamp() // step) - 1, int(since.timestamp() // step), -1)
    fields = {"service": "service", "level": "level", "host": "host", "trace_id": "trace_id"}
    found = []
    for number in numbers if not world.quiet else ():
        log = _log(number, True)
        if any(wanted.get(name) not in (None, log[of]) for name, of in fields.items()):
            continue
        if not all(word in log["message"].lower() for word in words):
            continue
        found.append(log)
    begin, limit = int(wanted.get("cursor") or 0), int(wanted.get("limit", 100))
    rows = [log if readable else {**log, "message": None} for log in found[begin : begin + limit]]
    following = str(begin + limit) if len(found) > begin + limit else None
    if begin:
        return {**_page(rows, following), "version": None}
    bar = next(s for s in (10, 30, 60, 300, 600, 1800, 3600, 10800) if (until - since).total_seconds() / s <= 90)
    bars: dict[int, list[int]] = {}
    for log in found:
        place = int(datetime.fromisoformat(log["time"]).timestamp() // bar) * bar
        counts = bars.setdefault(place, [0, 0])
        counts[0] += 1
        counts[1] += log["level"] == "error"
    facets: dict[str, list[dict[str, Any]]] = {}
    for name in ("service", "level", "host"):
        values = [log[name] for log in found]
        facets[name] = sorted(
            ({"value": v, "count": values.count(v)} for v in set(values)), key=lambda one: (-one["count"], one["value"])
        )
    return {
        **_page(rows, following), "version": None, "total": len(found), "facets": facets, "step_s": bar,
        "from": _z(since), "to": _z(until),
        "histogram": [
            {"time": _z(datetime.fromtimestamp(at, UTC)), "count": n, "errors": e}
            for at, (n, e) in sorted(bars.items())
        ],
    }  # fmt: skip
