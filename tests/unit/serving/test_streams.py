"""Answers of many rows over a real connection: the memory they take, readers that leave or stall, and turns."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from lakehouse.flows import TABLES
from lakehouse.settings import Settings
from serving import service as module
from serving.auth import issue
from serving.formats import ARROW, CSV, NDJSON
from serving.problems import Problem
from serving.service import STREAMS, _in_time, _turn, in_thread
from tests.unit.serving import whole
from tests.unit.serving.fakes import KEYS
from tests.unit.serving.whole import application, nowhere, until

TABLE = "gold.service_health_minute"
ROWS = 300_000
TOKEN = issue(KEYS, "reader", ["read:tables", "read:metrics"], timedelta(hours=1))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = nowhere(tmp_path_factory.mktemp("lake"))
    minutes = np.arange(ROWS)
    rows = {"window_start": pa.array(minutes * 60_000_000, pa.timestamp("us", "UTC")), "requests": minutes,
            "service": [f"service-{n % 50}" for n in minutes]}  # fmt: skip
    schema = TABLES[TABLE].arrow
    whole = [rows.get(field.name, pa.nulls(ROWS, field.type)) for field in schema]
    folder = Path(settings.table_uri(TABLE).removeprefix("file://"))
    folder.parent.mkdir(parents=True)
    write_deltalake(str(folder), pa.Table.from_arrays([pa.array(column) for column in whole], schema=schema))
    return settings


@contextmanager
def served(settings: Settings) -> Iterator[httpx2.Client]:
    """A client of the API behind a real server."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with whole.served(application(settings)) as url, httpx2.Client(base_url=url, headers=headers, timeout=60) as client:
        yield client


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def querying() -> int:
    return sum(thread.name == "query" for thread in threading.enumerate())


@pytest.mark.parametrize("kind", [NDJSON, CSV, ARROW])
def test_many_rows_come_whole_and_in_order_and_take_little_memory(lake: Settings, kind: str) -> None:
    with served(lake) as api:
        api.get(f"/v1/tables/{TABLE}/rows?limit=1")
        before, most, size, lines = resident_mb(), 0.0, 0, 0
        path = f"/v1/tables/{TABLE}/rows?limit=1000000&order=window_start&select=window_start,service,requests"
        whole = bytearray()
        with api.stream("GET", path, headers={"Accept": kind}) as answer:
            assert answer.status_code == 200
            for part in answer.iter_bytes():
                size, most, lines = size + len(part), max(most, resident_mb()), lines + part.count(b"\n")
                if kind == ARROW:
                    whole += part
        if kind == ARROW:
            assert pa.ipc.open_stream(bytes(whole)).read_all()["requests"].to_pylist() == list(range(ROWS))
        else:
            assert lines == ROWS + (kind == CSV) and size > 6_000_000
            assert most - before < 150
        until(lambda: querying() == 0)


def test_a_reader_who_leaves_in_the_middle_leaves_no_thread_and_no_turn_behind(lake: Settings) -> None:
    with served(lake) as api:
        for _ in range(3 * STREAMS):
            path = f"/v1/tables/{TABLE}/rows?limit=1000000"
            with api.stream("GET", path, headers={"Accept": NDJSON}) as answer:
                assert next(answer.iter_bytes())
        until(lambda: querying() == 0)
        with api.stream("GET", path, headers={"Accept": ARROW}) as answer:
            assert sum(1 for _ in answer.iter_bytes()) > 1


def test_readers_who_take_nothing_hold_up_no_page_and_are_given_up(
    lake: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALLED_S", 1.0)
    with served(lake) as api:
        api.get(f"/v1/tables/{TABLE}/rows?limit=1")
        port = int(str(api.base_url).rstrip("/").rpartition(":")[2])
        words = f"GET /v1/tables/{TABLE}/rows?limit=1000000 HTTP/1.1\r\nHost: localhost\r\nAccept: {NDJSON}\r\n"
        stalled = [socket.create_connection(("127.0.0.1", port)) for _ in range(STREAMS)]
        for one in stalled:
            one.sendall(f"{words}Authorization: Bearer {TOKEN}\r\n\r\n".encode())
        until(lambda: querying() == STREAMS)
        answer = api.get(f"/v1/tables/{TABLE}/rows?limit=5")
        assert answer.status_code == 200 and answer.elapsed < timedelta(seconds=10)
        until(lambda: querying() == 0)
        for one in stalled:  # they get what was on its way, and then the end of the connection
            size = 0
            while part := one.recv(1 << 20):
                size += len(part)
                end = part
            assert size < 40_000_000 and not end.endswith(b"0\r\n\r\n")
            one.close()


def test_more_streams_than_there_are_turns_wait_and_are_told_in_time(lake: Settings) -> None:
    api = lake.api.model_copy(update={"query_timeout": timedelta(seconds=1)})
    with served(lake.model_copy(update={"api": api})) as client:
        path, accept = f"/v1/tables/{TABLE}/rows?limit=1000000", {"Accept": NDJSON}
        with client.stream("GET", path, headers=accept), client.stream("GET", path, headers=accept):
            answer = client.get(path, headers=accept)
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:lakehouse:problem:busy")
            assert "retry-after" in answer.headers


pytestmark = pytest.mark.anyio


async def test_a_turn_is_given_back_whatever_happens_in_it() -> None:
    turns = asyncio.Semaphore(1)
    with pytest.raises(ValueError):
        async with _turn(turns, 1):
            raise ValueError
    async with _turn(turns, 1):
        with pytest.raises(Problem) as found:
            async with _turn(turns, 0.01):
                pass
    assert (found.value.status, found.value.name) == (503, "busy")
    async with _turn(turns, 1):
        pass


async def test_a_call_that_does_not_come_back_is_given_up_and_hurts_nobody() -> None:
    hanging = threading.Event()
    with pytest.raises(Problem) as found:
        await _in_time(in_thread(hanging.wait), 0.05, "gold.x")
    assert (found.value.status, found.value.members["store"]) == (503, "hdfs")
    hanging.set()

    def fails() -> Any:
        raise KeyError("x")

    assert await _in_time(in_thread(lambda: 7), 5, "gold.x") == 7
    with pytest.raises(KeyError):
        await _in_time(in_thread(fails), 5, "gold.x")
