"""The API while its stores are away: each in turn refuses, or says nothing, and comes back."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pymongo import MongoClient
from redis import Redis

from lakehouse import stack as servers
from lakehouse.flows import TABLES
from lakehouse.settings import PROJECT, Settings
from lakehouse.sinks.elasticsearch import ElasticsearchSink
from lakehouse.stack import supervisor
from serving.auth import SCOPES, issue, keys
from tests.integration.lake import environment

pytestmark = pytest.mark.integration
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
AT = "2026-11-24T12:00:00.500Z"
LAKE = [
    "/v1/tables/gold.activity_minute/rows", "/v1/tables/gold.activity_minute", "/v1/activity",
    "/v1/posts/p1/engagement", "/v1/services", "/v1/services/gateway/health", "/v1/hosts", "/v1/anomalies",
    "/v1/models/trend/decisions",
]  # fmt: skip
NEEDS = {
    **dict.fromkeys(LAKE, "hdfs"),
    "/v1/activity/live": "redis", "/v1/posts/trending": "redis", "/v1/users/u1/recommendations": "redis",
    "/v1/users/u1/notifications": "mongodb", "/v1/alerts": "mongodb",
    "/v1/logs/search?from=2026-11-24&to=2026-11-25": "elasticsearch",
}  # fmt: skip
NOTHING = ["/healthz", "/v1/tables", "/v1/models", "/v1/status"]
ROWS = {
    "gold.activity_minute": {"window_start": NOON, "event_type": "view", "events": 3, "users": 2},
    "gold.post_engagement_daily": {"date": date(2026, 11, 24), "post_id": "p1", "views": 3},
    "gold.user_activity_daily": {"date": date(2026, 11, 24), "user_id": "u1", "events": 3},
    "gold.service_health_minute": {"window_start": NOON, "service": "gateway", "requests": 3, "errors": 0},
    "gold.host_utilization_minute": {"window_start": NOON, "host": "h", "metric": "m", "avg": 0.5},
    "gold.anomalies": {"series": "s", "time": NOON, "score": 0.9},
    "ops.promotions": {"id": "1", "model": "trend", "version": "1", "action": "promoted", "decided_at": NOON},
    "ops.ledger": {"topic": "user-events", "seq": 1, "partition": 0, "end_offset": 3, "committed_at": NOON},
}
STORES = {"redis": "redis", "mongodb": "mongodb", "elasticsearch": "elasticsearch", "hdfs": "namenode"}
"""What a problem calls a store, and the server that it is."""
LONGEST_S = 15.0
"""For an answer on a busy machine; by itself none waits for a store longer than 6.5 s."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Servers of this module's own, without Kafka and the stream, and something in each."""
    jars = Path(os.environ.get("LAKEHOUSE_JARS", PROJECT / ".lakehouse" / "jars"))
    settings = Settings(home=tmp_path_factory.mktemp("home"), jars=jars)
    try:
        settings = servers.up(settings, only=STORES.values(), progress=False)
        for name, row in ROWS.items():
            schema = TABLES[name].arrow
            rows = pa.Table.from_pylist([{column: row.get(column) for column in schema.names}], schema)
            write_deltalake(settings.table_uri(name), rows)
        log = {"@timestamp": AT, "message": "hello", "service": {"name": "gateway"}, "log": {"level": "info"}}
        elastic = ElasticsearchSink(settings)
        elastic.prepare()
        elastic.index("logs-service", [("l1", orjson.dumps(log), None)])
        elastic.refresh()
        with MongoClient[dict[str, Any]](settings.mongo.uri.get_secret_value()) as client:
            told = {"_id": "n1", "user_id": "u1", "rule": "r", "severity": "info", "kind": "fired", "subject": "p1",
                    "at": AT, "text": "told"}  # fmt: skip
            client[settings.mongo.database].notifications.insert_one(told)
        with Redis.from_url(settings.redis.url.get_secret_value()) as redis:
            redis.zadd("trending:posts", {"p1": 1.0})
            made = {"model_version": "1", "at": AT, "items": [{"post_id": "p1", "score": 1.0}]}
            redis.set("recs:u1", orjson.dumps(made))
            redis.hset("live:site", mapping={"at": AT, "active_users": 1})
        yield settings
    finally:
        servers.down(settings)


@pytest.fixture(scope="module")
def api(platform: Settings) -> Iterator[httpx2.Client]:
    """`lakehouse serve` in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lakehouse.cli", "serve", "--port", "0"],
        cwd=PROJECT, env=environment(platform), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        url = next((m[1] for line in process.stderr if (m := re.search(r"serving on (http://\S+:\d+)", line))), None)
        assert url is not None
        threading.Thread(target=process.stderr.read, daemon=True).start()
        token = issue(keys(platform), "test", [*SCOPES], timedelta(hours=1))
        with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=120) as client:
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def until(holds: Callable[[], bool], within_s: float = 90) -> float:
    """Seconds until something holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s
        time.sleep(0.2)
    return time.monotonic() - began


@contextmanager
def stopped(settings: Settings, server: str) -> Iterator[None]:
    """Its port refuses."""
    supervisor._rpc(settings).stopProcess(server)
    try:
        yield
    finally:
        supervisor._rpc(settings).startProcess(server)
        until(lambda: servers.status(settings)[server]["ready"])


@contextmanager
def silent(settings: Settings, server: str) -> Iterator[None]:
    """It takes connections, and says nothing."""
    pid = servers.kill_server(settings, server, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def ask(api: httpx2.Client, path: str) -> tuple[int, str | None, float]:
    began = time.monotonic()
    answer = api.get(path)
    return answer.status_code, answer.json().get("store"), time.monotonic() - began


def all_well(api: httpx2.Client) -> bool:
    return all(ask(api, path)[0] == 200 for path in (*NEEDS, *NOTHING))


@pytest.mark.parametrize("how", [stopped, silent])
@pytest.mark.parametrize("store", [*STORES])
def test_a_store_that_is_away_is_503_for_what_needs_it_200_for_the_rest_and_comes_back(
    platform: Settings, api: httpx2.Client, store: str, how: Callable[[Settings, str], AbstractContextManager[None]]
) -> None:
    until(lambda: all_well(api))
    needing = [path for path, needed in NEEDS.items() if needed == store]

    def asked(beside: ThreadPoolExecutor) -> list[tuple[int, str | None, float]]:
        return [*beside.map(lambda path: ask(api, path), needing)]

    with how(platform, STORES[store]), ThreadPoolExecutor(4) as beside:  # as many as may read tables at once
        # Tables that were read before are served for some seconds more, each since its own last look at the lake.
        until(lambda: all(status == 503 for status, _, _ in asked(beside)), 30)
        for path, (status, named, seconds) in zip(needing, asked(beside), strict=True):
            assert (status, named) == (503, store) and seconds < LONGEST_S, path
        for path in {*NEEDS, *NOTHING} - {*needing}:
            status, named, seconds = ask(api, path)
            assert (status, named) == (200, None) and seconds < LONGEST_S, path
        status = api.get("/v1/status").json()
        if store != "hdfs":
            until(lambda: api.get("/v1/status").json()["stores"][store]["reachable"] is False, 30)
        assert set(status["topics"]) == {"user-events", "service-logs", "system-metrics"}
    back = until(lambda: all_well(api))
    print(f"{store} {how.__name__}: all well {back:.1f} s after it was back")


def test_rows_that_lie_in_files_are_503_while_nobody_reads_them_out(platform: Settings, api: httpx2.Client) -> None:
    """Without the DataNode the log of a table can be listed, but no file of it read."""
    until(lambda: all_well(api))
    with stopped(platform, "datanode"):
        assert ask(api, "/v1/activity")[0] == 200  # from memory
        status, store, seconds = ask(api, "/v1/tables/gold.user_activity_daily/rows")
        assert (status, store) == (503, "hdfs") and seconds < LONGEST_S
    until(lambda: ask(api, "/v1/tables/gold.user_activity_daily/rows")[0] == 200)
