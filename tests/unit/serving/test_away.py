"""Stores that refuse, and stores that say nothing: 503 in time for what needs them, by name, and 200 for the rest."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr

from lakehouse.settings import Settings
from lakehouse.sources.delivery import Delivery
from serving.app import create_app
from serving.catalog import catalog
from tests.unit.serving.fakes import KEYS, Broker, Remembered
from tests.unit.serving.whole import SCOPES, USER, filled, token

pytestmark = pytest.mark.anyio
LAKE = [
    *(f"/v1/tables/{name}/rows" for name in catalog()), "/v1/tables/gold.activity_minute", "/v1/activity",
    "/v1/posts/p1/engagement", "/v1/services", "/v1/services/word-1/health", "/v1/services/word-1/paths", "/v1/hosts",
    "/v1/hosts/word-1/utilization", "/v1/anomalies", "/v1/forecasts", "/v1/models/trend/decisions",
]  # fmt: skip
STORES = {
    "/v1/activity/live": "redis", "/v1/posts/trending": "redis", f"/v1/users/{USER}/recommendations": "redis",
    f"/v1/users/{USER}/notifications": "mongodb", "/v1/alerts": "mongodb",
    "/v1/logs/search": "elasticsearch", "/v1/logs/search?source=live": "elasticsearch",
}  # fmt: skip
NOTHING = ["/healthz", "/readyz", "/openapi.json", "/v1/tables", "/v1/models", "/v1/status", "/v1/lineage"]


@contextmanager
def silent() -> Iterator[int]:
    """A port on which somebody listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield listening.getsockname()[1]


def without(settings: Settings, port: int) -> Settings:
    """No store but the lake: a port where nobody says anything."""
    return settings.model_copy(
        update={
            "redis": settings.redis.model_copy(update={"url": SecretStr(f"redis://127.0.0.1:{port}/0")}),
            "mongo": settings.mongo.model_copy(update={"uri": SecretStr(f"mongodb://127.0.0.1:{port}")}),
            "elasticsearch": settings.elasticsearch.model_copy(update={"url": SecretStr(f"http://127.0.0.1:{port}")}),
        }
    )


def away(settings: Settings, port: int) -> Settings:
    """No lake."""
    hdfs = settings.hdfs.model_copy(update={"uri": f"hdfs://127.0.0.1:{port}", "root": "/lake"})
    return settings.model_copy(update={"hdfs": hdfs})


@asynccontextmanager
async def api(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    delivery = Delivery(lambda: Broker(), settings.api.delivery_timeout)
    app = create_app(settings, delivery, Remembered(), KEYS)
    transport = httpx2.ASGITransport(app)
    headers = token(*SCOPES)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://localhost", headers=headers, timeout=None) as client,
    ):
        yield client


async def told(client: httpx2.AsyncClient, paths: list[str]) -> dict[str, tuple[int, str | None, float]]:
    """The status, the store that is named, and the seconds that it took, of requests that are made together."""

    async def ask(path: str) -> tuple[int, str | None, float]:
        began = time.monotonic()
        answer = await client.get(path)
        store = answer.json().get("store") if answer.status_code >= 400 else None
        return answer.status_code, store, time.monotonic() - began

    return dict(zip(paths, await asyncio.gather(*map(ask, paths)), strict=True))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return filled(tmp_path_factory.mktemp("lake"))


async def test_stores_that_refuse_are_named_at_once_and_all_else_goes_on(lake: Settings) -> None:
    async with api(without(lake, 1)) as client:
        for path, store in STORES.items():
            found = (await told(client, [path]))[path]
            assert found[:2] == (503, store) and found[2] < 4, (path, found)
        for path, (status, _, seconds) in (await told(client, [*LAKE, *NOTHING])).items():
            assert status == 200, path
            assert seconds < 30
        assert (await client.get(f"/v1/users/{USER}/activity")).json()["store"] == "redis"


async def test_stores_that_say_nothing_are_named_in_time_and_all_else_goes_on(lake: Settings) -> None:
    with silent() as port:
        async with api(without(lake, port)) as client:
            began = time.monotonic()
            found = await told(client, [*STORES] * 5)
            assert {path: one[:2] for path, one in found.items()} == {path: (503, one) for path, one in STORES.items()}
            assert time.monotonic() - began < 15
            for path, (status, _, seconds) in (await told(client, LAKE)).items():
                assert status == 200, path
                assert seconds < 15, path


async def test_a_lake_that_refuses_is_named_at_once_and_all_else_goes_on(lake: Settings) -> None:
    async with api(away(lake, 1)) as client:
        for path, found in (await told(client, LAKE)).items():
            assert found[:2] == (503, "hdfs"), path
            assert found[2] < 10
        for path in NOTHING:
            assert (await client.get(path)).status_code == 200


async def test_a_lake_that_says_nothing_is_named_in_time_and_all_else_goes_on(lake: Settings) -> None:
    with silent() as port:
        async with api(away(lake, port)) as client:
            began = time.monotonic()
            for path, found in (await told(client, LAKE * 4)).items():
                assert found[:2] == (503, "hdfs"), path
            assert time.monotonic() - began < 15
            # What says how the lake is asks it first.
            asks = {"/v1/status", "/v1/lineage"}
            for path in NOTHING:
                began = time.monotonic()
                assert (await client.get(path)).status_code == 200, path
                assert time.monotonic() - began < (20 if path in asks else 3), path


async def test_what_was_asked_before_is_answered_while_redis_is_away(lake: Settings, tmp_path: Path) -> None:
    async with api(without(lake, 1)) as client:
        first = await client.get("/v1/activity")
        again = await client.get("/v1/activity", headers={"If-None-Match": first.headers["etag"]})
        assert (first.status_code, again.status_code) == (200, 304)
