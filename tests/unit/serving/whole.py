"""A platform in small: every table with rows of every kind, stores that have something, and a real server before it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pyspark.sql import types as T

from lakehouse.settings import Api, Rate, Rates, Redis, Settings
from lakehouse.sources.delivery import Delivery
from serving.app import create_app
from serving.auth import issue
from serving.catalog import catalog
from tests.unit.local_lake import local_lake, write
from tests.unit.serving.fakes import KEYS, Broker, Remembered

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
MARK = "SECRET"
USER = "u1"
SCOPES = ("read:tables", "read:metrics", "read:users", "read:logs", "read:pii", "predict", "admin", "write:events")
AT = "2026-11-24T12:00:00.5Z"


def value(kind: T.DataType, number: int, secret: bool = False) -> Any:
    """A value of any type; one that is to stay secret says so in every leaf."""
    match kind:
        case T.StringType():
            return f"{MARK}-{number}" if secret else f"word-{number}"
        case T.BinaryType():
            return f"{MARK}-{number}".encode()
        case T.StructType():
            return {field.name: value(field.dataType, number, secret) for field in kind}
        case T.ArrayType():
            return [value(kind.elementType, number, secret)]
        case T.MapType():
            return [(value(kind.keyType, number, secret), value(kind.valueType, number, secret))]
        case T.TimestampType():
            return NOON + timedelta(seconds=number)
        case T.DateType():
            return date(2026, 11, 24)
        case T.BooleanType():
            return True
        case T.DoubleType():
            return float(number)
    return number


def nowhere(folder: Path) -> Settings:
    """A lake in a folder, no servers, and no limits of rates."""
    settings = local_lake(folder)
    no_limit = Rates(**{kind: Rate(per_minute=0) for kind in ("read", "write", "predict", "anonymous")})
    return settings.model_copy(
        update={
            "redis": Redis(url="redis://127.0.0.1:1/0"),  # type: ignore[arg-type]
            "kafka": settings.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"}),
            "mongo": settings.mongo.model_copy(update={"uri": type(settings.mongo.uri)("mongodb://127.0.0.1:1")}),
            "elasticsearch": settings.elasticsearch.model_copy(
                update={"url": type(settings.elasticsearch.url)("http://127.0.0.1:1")}
            ),
            "api": Api(rate=no_limit),
        }
    )


def filled(folder: Path) -> Settings:
    """Rows in every table: full ones, one of nulls, and one of NaN."""
    settings = nowhere(folder)
    for name, table in catalog().items():
        rows = [{field.name: value(field.dataType, number) for field in table.table.schema} for number in range(5)]
        rows.append({column: rows[0][column] for column in table.table.key} | {"offset": 9, "post_id": None})
        rows.append({
            f.name: float("nan") if isinstance(f.dataType, T.DoubleType) else value(f.dataType, 7)
            for f in table.table.schema
        })  # fmt: skip
        write(settings, name, rows)
    return settings


class Stores:
    """The role of :class:`serving.reads.Reads`, for user ``u1``; nobody else is known."""

    async def site(self) -> dict[str, Any]:
        return {"at": AT, "active_users": 3, "events_1m": {"view": 2}}

    async def trending(self, part: str | None, limit: int) -> list[dict[str, Any]]:
        return [{"rank": n, "post_id": f"p{n}", "score": 10 / n} for n in range(1, 31)][:limit]

    async def live_users(self, users: Sequence[str]) -> dict[str, dict[str, Any]]:
        live = {
            "last_at": AT, "page": "/home", "device": None, "minute": AT, "events_1m": {"view": 1},
            "events_15m": {"view": 4}, "session": {"start": AT, "end": AT, "events": 5, "funnel_step": None},
        }  # fmt: skip
        return {USER: live} if USER in users else {}

    async def live_recommendations(self, users: Sequence[str]) -> dict[str, dict[str, Any]]:
        made = {"model_version": "3", "at": AT, "items": [{"post_id": f"p{n}", "score": 1 / n} for n in range(1, 30)]}
        return {USER: made} if USER in users else {}

    async def recommendations(self, users: Sequence[str]) -> dict[str, dict[str, Any]]:
        return {}

    async def profiles(self, users: Sequence[str]) -> dict[str, dict[str, Any]]:
        made = {
            "first_at": NOON, "last_at": NOON, "events": 5, "late_events": 0, "by_type": {"view": 5}, "sessions": 1,
            "session_s": 4.5, "last_session": {"start": NOON, "end": NOON, "events": 5}, "page": None, "device": None,
            "recent_posts": ["p1"],
        }  # fmt: skip
        return {USER: made} if USER in users else {}

    async def notifications(self, user: str, before: tuple[str, str] | None, limit: int) -> list[dict[str, Any]]:
        told = [
            {"id": f"n{n:03}", "user_id": user, "rule": "r", "severity": "info", "kind": "fired", "subject": "p1",
             "at": f"2026-11-24T12:{n:02}:00Z", "text": "told", "quiet": False, "suppressed": False}
            for n in range(59, -1, -1)
        ]  # fmt: skip
        return (
            [one for one in told if before is None or (one["at"], one["id"]) < before][:limit] if user == USER else []
        )

    async def newest_notifications(self, users: Sequence[str], limit: int) -> dict[str, list[dict[str, Any]]]:
        return {user: await self.notifications(user, None, limit) for user in users}

    async def processors(self) -> dict[str, Any]:
        return {}

    async def search(self, index: str, **body: Any) -> dict[str, Any]:
        source = {"@timestamp": AT, "log": {"level": "info"}, "service": {"name": "gateway"}, "message": "hello",
                  "event": {"duration": 1_500_000}, "http": {"response": {"status_code": 200}}}  # fmt: skip
        after = int(body["search_after"][0]) if "search_after" in body else 250
        hits = [
            {"_id": f"l{n}", "_source": source if n % 2 else {}, "sort": [n, f"l{n}"]} for n in range(after - 1, -1, -1)
        ][: body["size"]]
        bars = [{"key_as_string": AT, "doc_count": 3, "errors": {"doc_count": 1}}]
        named = {name: {"buckets": [{"key": "x", "doc_count": 3}]} for name in ("service", "level", "host")}
        found: dict[str, Any] = {"hits": {"hits": hits, "total": {"value": 250}}}
        return found | ({"aggregations": {"histogram": {"buckets": bars}, **named}} if "aggs" in body else {})

    async def close(self) -> None:
        pass


def application(settings: Settings, **more: Any) -> FastAPI:
    delivery = Delivery(lambda: Broker(), timedelta(seconds=5))
    return create_app(settings, delivery, Remembered(), KEYS, **{"reads": Stores(), **more})


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of an application behind a real server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=3))
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
        thread.start()
        try:
            until(lambda: server.started)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def until(holds: Callable[[], bool], within_s: float = 60) -> float:
    """Seconds until something holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s
        time.sleep(0.02)
    return time.monotonic() - began


def token(*scopes: str, user: str | None = None, subject: str = "somebody") -> dict[str, str]:
    return {"Authorization": f"Bearer {issue(KEYS, subject, list(scopes), timedelta(hours=2), user_id=user)}"}
