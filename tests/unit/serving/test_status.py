"""How the pipeline is: from the ledger, whatever is away, asked once for everybody and in the background."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from lakehouse.settings import Settings
from serving.status import FRESH_S
from tests.unit.local_lake import write
from tests.unit.serving.whole import SCOPES, application, nowhere, token

pytestmark = pytest.mark.anyio
NOW = datetime.now(UTC)


def batch(topic: str, seq: int, partition: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "topic": topic, "seq": seq, "partition": partition, "start_offset": 10 * seq - 10, "end_offset": 10 * seq,
        "records": 10, "valid": 8, "quarantined": 1, "duplicates": 1, "batch_ms": 100 + seq,
        "versions": [("gold.activity_minute", seq), ("_internal.gold_changes", seq)],
        "committed_at": NOW - timedelta(seconds=100 - seq), **more,
    }  # fmt: skip


@pytest.fixture
def lake(tmp_path: Path) -> Settings:
    settings = nowhere(tmp_path)
    write(settings, "ops.ledger", [batch("user-events", seq, part) for seq in range(1, 71) for part in (0, 1)])
    return settings


@pytest.fixture
async def api(anyio_backend: str, lake: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    app = application(lake)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://localhost", headers=token(*SCOPES), timeout=None
        ) as client,
    ):
        yield client


async def test_what_is_known_of_the_ledger_is_told_though_all_else_is_away(api: httpx2.AsyncClient) -> None:
    found = (await api.get("/v1/status")).json()
    since = (datetime.now(UTC) - NOW).total_seconds()
    events, logs = found["topics"]["user-events"], found["topics"]["service-logs"]
    assert (events["seq"], events["lag_records"]) == (70, None) and "Kafka" in events["error"]
    assert since < events["cut_age_s"] < since + 100 and logs["seq"] is None
    assert [(one["name"], one["version"]) for one in found["tables"]] == [("gold.activity_minute", 70)]
    assert [one["seq"] for one in found["batches"]] == [*range(11, 71)]
    assert {one["records"] for one in found["batches"]} == {20}
    assert found["totals"] == [
        {"topic": "user-events", "records": 1400, "valid": 1120, "quarantined": 140, "duplicates": 140}
    ]
    assert {name: store["reachable"] for name, store in found["stores"].items()} == dict.fromkeys(
        ("mongodb", "redis", "elasticsearch"), False
    )


async def test_who_asks_again_is_answered_at_once_and_the_state_moves_on_meanwhile(api: httpx2.AsyncClient) -> None:
    first, began = (await api.get("/v1/status")).json()["at"], time.monotonic()
    asked = 0
    while (await api.get("/v1/status")).json()["at"] == first:
        asked += 1
        await asyncio.sleep(0.01)
        assert time.monotonic() - began < 30
    assert (time.monotonic() - began) / (asked + 1) < 0.1  # none of them waited for what is away
    assert time.monotonic() - began > FRESH_S - 1


async def test_many_who_ask_first_cause_one_question(api: httpx2.AsyncClient) -> None:
    answers = await asyncio.gather(*(api.get("/v1/status") for _ in range(20)))
    assert len({answer.json()["at"] for answer in answers}) == 1


async def test_a_lake_without_a_ledger_is_said_and_answered(anyio_backend: str, tmp_path: Path) -> None:
    app = application(nowhere(tmp_path))
    transport = httpx2.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport, timeout=None) as client:
        answer = await client.get("http://localhost/v1/status", headers=token(*SCOPES))
    assert answer.status_code == 200 and "lakehouse up" in answer.json()["topics"]["user-events"]["error"]
