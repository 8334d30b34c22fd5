"""A small lake, stores in memory, and an application that has GraphQL alone; what is asked of them is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI
from pydantic import SecretStr

from lakehouse.settings import Redis, Settings
from serving import auth, problems
from serving.auth import Caller, issue
from serving.graphql import http
from serving.graphql.limits import Limits
from serving.graphql.live import Source
from serving.live.hub import Hub
from serving.predictions import Predictions
from serving.problems import Problem
from serving.recommend import Recommendations
from serving.served import Served
from serving.service import Service
from tests.unit.local_lake import local_lake, write
from tests.unit.serving.fakes import KEYS

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
USERS = [f"u{n:02}" for n in range(20)]


class Stores:
    """The role of :class:`serving.reads.Reads`; every question is noted."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.away: set[str] = set()
        self.live: dict[str, dict[str, Any]] = {}
        self.batch: dict[str, dict[str, Any]] = {}
        self.told: dict[str, list[dict[str, Any]]] = {}
        self.site_now: dict[str, Any] = {"at": "2026-11-24T12:00:00Z", "active_users": 2, "events_1m": {"view": 3}}
        self.posts = [{"rank": n, "post_id": f"p{n}", "score": 10.0 / n} for n in range(1, 31)]

    def _ask(self, *what: Any, store: str) -> None:
        self.asked.append(what)
        if store in self.away:
            raise Problem(503, "store-away", f"{store} does not answer.", store=store)

    async def site(self) -> dict[str, Any]:
        self._ask("site", store="redis")
        return self.site_now

    async def trending(self, part: str | None, limit: int) -> list[dict[str, Any]]:
        self._ask("trending", part, limit, store="redis")
        return self.posts[:limit]

    async def live_users(self, users: Sequence[str]) -> dict[str, dict[str, Any]]:
        self._ask("live_users", *users, store="redis")
        return {user: {"page": "/home"} for user in users if user in self.live}

    async def live_recommendations(self, users: Sequence[str]) -> dict[str, dict[str, Any]]:
        self._ask("live_recommendations", *users, store="redis")
        return {user: self.live[user] for user in users if user in self.live}

    async def profiles(self, users: Sequence[str]) -> dict[str, dict[str, Any]]:
        self._ask("profiles", *users, store="mongodb")
        return {user: {"likes": ["cats"]} for user in users if user in self.live}

    async def recommendations(self, users: Sequence[str]) -> dict[str, dict[str, Any]]:
        self._ask("recommendations", *users, store="mongodb")
        return {user: self.batch[user] for user in users if user in self.batch}

    async def notifications(self, user: str, before: tuple[str, str] | None, limit: int) -> list[dict[str, Any]]:
        self._ask("notifications", user, before, limit, store="mongodb")
        found = sorted(self.told.get(user, []), key=lambda row: (row["at"], row["id"]), reverse=True)
        return [row for row in found if before is None or (row["at"], row["id"]) < tuple(before)][:limit]

    async def newest_notifications(self, users: Sequence[str], limit: int) -> dict[str, list[dict[str, Any]]]:
        self._ask("newest_notifications", *users, store="mongodb")
        return {user: self.told.get(user, [])[:limit] for user in users}

    async def close(self) -> None:
        pass


class CountedLake(Served):
    """The lake, counting the questions it answers."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.questions: list[str] = []

    def select(self, snapshot: Any, sql: str, bound: list[Any], within_s: float) -> Any:
        self.questions.append(snapshot.name)
        return super().select(snapshot, sql, bound, within_s)


class Api:
    """A client, and what stands behind it."""

    def __init__(self, client: httpx2.AsyncClient, app: FastAPI, stores: Stores, lake: CountedLake) -> None:
        self.client, self.app, self.stores, self.lake = client, app, stores, lake
        self.records: list[tuple[str, tuple[str, ...], int | None]] = []

    def record(
        self, caller: Caller, resource: str, columns: tuple[str, ...], rows: int | None, digest: str | None
    ) -> None:
        self.records.append((resource, columns, rows))

    async def ask(self, query: str, headers: dict[str, str] | None = None, **variables: Any) -> dict[str, Any]:
        """The answer to a document that is run."""
        answer = await self.client.post(
            "/graphql",
            json={"query": query, "variables": variables},
            headers=EVERYTHING if headers is None else headers,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def refused(self, query: str, headers: dict[str, str] | None = None, **variables: Any) -> tuple[int, str]:
        """The status and code of one that is not."""
        answer = await self.client.post(
            "/graphql",
            json={"query": query, "variables": variables},
            headers=EVERYTHING if headers is None else headers,
        )
        body = answer.json()
        assert "data" not in body
        return answer.status_code, body["errors"][0]["extensions"]["code"]


def token(
    *scopes: str, subject: str = "tester", ttl: timedelta = timedelta(hours=2), user: str | None = None
) -> dict[str, str]:
    return {"Authorization": f"Bearer {issue(KEYS, subject, list(scopes), ttl, user)}"}


READ = ("read:tables", "read:metrics", "read:users", "predict")
EVERYTHING = token(*READ)
TRUSTED = token(*READ, "read:pii")


def filled(folder: Path) -> Settings:
    """A lake with some rows in the tables that GraphQL reads."""
    settings = local_lake(folder).model_copy(update={"redis": Redis(url=SecretStr("redis://127.0.0.1:1/0"))})
    write(
        settings, "gold.activity_minute",
        [
            {"window_start": NOON + timedelta(minutes=n), "event_type": kind, "events": 10 * n + add, "users": n}
            for n in range(30) for add, kind in enumerate(("like", "view"))
        ],
    )  # fmt: skip
    write(
        settings, "gold.user_activity_daily",
        [
            {"date": (NOON - timedelta(days=day)).date(), "user_id": user, "events": 100 * n + day, "first_at": NOON}
            for n, user in enumerate(USERS) for day in range(5)
        ],
    )  # fmt: skip
    write(
        settings, "gold.post_engagement_daily",
        [
            {"date": (NOON - timedelta(days=day)).date(), "post_id": f"p{n}", "views": n, "likes": -day}
            for n in range(1, 31) for day in range(3)
        ],
    )  # fmt: skip
    write(
        settings, "gold.service_health_minute",
        [
            {"window_start": NOON + timedelta(minutes=n), "service": name, "requests": n, "errors": 0}
            for n in range(3) for name in ("gateway", "posts")
        ],
    )  # fmt: skip
    write(
        settings, "gold.host_utilization_minute",
        [
            {"window_start": NOON + timedelta(minutes=n), "host": name, "metric": "system.cpu.total.norm.pct",
             "avg": 0.5, "max": float("nan"), "samples": 1}
            for n in range(3) for name in ("web-1", "web-2")
        ],
    )  # fmt: skip
    write(
        settings, "gold.recommendations",
        [
            {"user_id": user, "rank": rank, "post_id": f"p{rank}", "score": 1 / rank, "at": NOON}
            for user in USERS[:3] for rank in (1, 2)
        ],
    )  # fmt: skip
    write(settings, "gold.anomalies", [{"series": "s", "time": NOON, "value": 1.0, "score": 0.9}])
    write(settings, "gold.forecasts", [{"series": "s", "time": NOON, "mean": 1.0, "made_at": NOON}])
    write(
        settings, "ops.promotions",
        [
            {"id": "1", "model": "recommender", "version": "1", "reasons": ["good"], "data": [("gold.x", 2)],
             "decided_at": NOON}
        ],
    )  # fmt: skip
    write(
        settings, "silver.service_logs",
        [
            {
                "topic": "service-logs", "partition": 0, "offset": n, "time": NOON, "timestamp": NOON,
                "service": {"name": name}, "url": {"path": f"/{name}/{n % 2}"}, "event": {"duration": 1_000_000 * n},
                "http": {"response": {"status_code": 500 if n == 3 else 200}},
            }
            for name in ("gateway", "posts") for n in range(4)
        ],
    )  # fmt: skip
    return settings


@asynccontextmanager
async def serving(
    settings: Settings,
    stores: Stores | None = None,
    limits: Limits | None = None,
    source: Source | None = None,
    streams: Hub | None = None,
) -> AsyncIterator[Api]:
    """An application with GraphQL alone."""
    stores, lake, app = stores or Stores(), CountedLake(settings), FastAPI()
    problems.install(app)
    made = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://api")
    api = Api(made, app, stores, lake)
    service = Service(settings, KEYS, lake, stores, api.record)  # type: ignore[arg-type]
    app.include_router(
        http.router(
            service, Recommendations(settings, stores), Predictions(settings), settings,  # type: ignore[arg-type]
            auth.anyone(KEYS), auth.Tokens(KEYS).check, streams, source, limits,
        )
    )  # fmt: skip
    async with made:
        yield api
    await service.close()
