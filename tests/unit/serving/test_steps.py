"""Minutes folded into steps: as plain Python folds them, with conditions, pages and formats as ever."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from lakehouse.settings import Settings
from serving import steps
from serving.catalog import find
from tests.unit.local_lake import write
from tests.unit.serving.whole import application, nowhere, token

pytestmark = pytest.mark.anyio
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SINCE, UNTIL = NOON - timedelta(minutes=100), NOON + timedelta(minutes=101)
Row = dict[str, Any]


def service_minutes(chance: random.Random) -> list[Row]:
    made = []
    for n in range(-200, 300):
        for service in ("a", "b"):
            if chance.random() < 0.8:
                requests = chance.choice([0, 1, 50, 400])
                errors = chance.randrange(requests + 1)
                p50 = chance.choice([None, chance.random() * 100])
                made.append({
                    "window_start": NOON + timedelta(minutes=n), "service": service, "requests": requests,
                    "errors": errors, "error_rate": errors / requests if requests else None, "p50_ms": p50,
                    "p95_ms": p50 and 2 * p50, "p99_ms": p50 and 3 * p50,
                })  # fmt: skip
    return made


def folded(rows: list[Row], length: int) -> dict[datetime, Row]:
    """Of one service."""
    found: dict[datetime, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["window_start"] - (row["window_start"] - EPOCH) % timedelta(minutes=length)].append(row)
    made = {}
    for at, minutes in found.items():
        requests, errors = (sum(row[column] for row in minutes) for column in ("requests", "errors"))
        known = [row["p95_ms"] for row in minutes if row["p95_ms"] is not None]
        rate = errors / requests if requests else None
        made[at] = {"requests": requests, "errors": errors, "error_rate": rate, "p95_ms": max(known, default=None)}
    return made


MINUTES = service_minutes(random.Random(11))


@pytest.fixture
def lake(tmp_path: Path) -> Settings:
    settings = nowhere(tmp_path)
    write(settings, "gold.service_health_minute", MINUTES)
    of_host = {"host": "h", "metric": "m"}
    samples = [
        {"window_start": NOON + timedelta(minutes=n), **of_host, "avg": avg, "max": 2 * avg, "samples": n}
        for n, avg in ((1, 0.1), (3, 0.5))
    ]
    write(settings, "gold.host_utilization_minute", samples)
    return settings


@pytest.fixture
async def api(anyio_backend: str, lake: Settings) -> Any:
    app = application(lake)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://localhost", headers=token("read:metrics")
        ) as client,
    ):
        yield client


async def page(api: httpx2.AsyncClient, path: str, **params: Any) -> Any:
    answer = await api.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(("step", "length"), [("1m", 1), ("7m", 7), ("30m", 30), ("1h", 60), ("1d", 1440)])
async def test_steps_say_what_their_minutes_say(api: httpx2.AsyncClient, step: str, length: int) -> None:
    wanted = folded([r for r in MINUTES if r["service"] == "a" and SINCE <= r["window_start"] < UNTIL], length)
    span = {"step": step, "from": SINCE.isoformat(), "to": UNTIL.isoformat()}
    path = "/v1/services/a/health"
    found = (await page(api, path, limit=1000, **span))["data"]
    assert [datetime.fromisoformat(row["window_start"]) for row in found] == sorted(wanted, reverse=True)
    assert {row["service"] for row in found} == {"a"}
    for row in found:
        expected = wanted[datetime.fromisoformat(row["window_start"])]
        assert {name: row[name] for name in expected} == pytest.approx(expected)
    # Pages of steps are the same rows, and a condition on what a step says is of the step.
    paged: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        part = await page(api, path, limit=3, order="requests", **span, **cursor)
        paged += part["data"]
        if part["next"] is None:
            break
        cursor = {"cursor": part["next"]}
    assert [row["requests"] for row in paged] == sorted(row["requests"] for row in found)
    assert {row["window_start"] for row in paged} == {row["window_start"] for row in found}
    most = max(row["requests"] for row in found)
    largest = (await page(api, path, filter=f"requests:ge:{most}", **span))["data"]
    assert largest == [row for row in found if row["requests"] == most]


async def test_a_mean_is_of_all_samples_of_the_step(api: httpx2.AsyncClient) -> None:
    [row] = (await page(api, "/v1/hosts/h/utilization", step="5m"))["data"]
    assert row == {
        "window_start": "2026-11-24T12:00:00Z", "host": "h", "metric": "m", "samples": 4, "max": 1.0,
        "avg": pytest.approx((0.1 + 3 * 0.5) / 4),
    }  # fmt: skip
    asked = {"query": '{ host(name: "h") { utilization(step: "5m") { nodes { avg samples } } } }'}
    answer = (await api.post("/graphql", json=asked)).json()
    [node] = answer["data"]["host"]["utilization"]["nodes"]
    assert node == {"avg": row["avg"], "samples": 4}


@pytest.mark.parametrize("step", ["", "0m", "5", "m", "-5m", "25h", "2d", "1.5h", "5m;drop", "1w", "99999m", "٥m"])
async def test_what_is_no_step_is_said(api: httpx2.AsyncClient, step: str) -> None:
    answer = await api.get("/v1/services/a/health", params={"step": step})
    assert answer.status_code == 422 and answer.json()["reasons"][0]["pointer"] == "/query/step"


async def test_a_table_without_steps_says_so(api: httpx2.AsyncClient) -> None:
    answer = await api.get("/v1/anomalies", params={"step": "1h"})
    assert answer.status_code == 422 and "gold.activity_minute" in answer.json()["detail"]


def test_every_column_of_a_stepped_table_is_said() -> None:
    for name, folds in steps.FOLDS.items():
        table = find(name)
        assert {*folds, *table.table.key} == set(table.table.schema.names) and table.time in table.table.key
