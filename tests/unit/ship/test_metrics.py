"""Metric documents keep their contract and Metricbeat's meanings; an outage of Kafka costs the oldest, and is told."""

from __future__ import annotations

import asyncio
import fcntl
import queue
import re
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException

from lakehouse.contracts import contracts
from lakehouse.quality.checks import checker
from lakehouse.settings import Api, Kafka, Settings
from lakehouse.ship.logs import ShipError
from lakehouse.ship.metrics import Document, Sampler, Shipper, cpu, run
from lakehouse.sources.delivery import Delivery, bounded_producer

SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    sampler = Sampler(10 * SECOND, "web-1")
    found = sampler.documents()
    until = time.monotonic() + 5
    while not any(document["metricset"]["name"] == "cpu" for document in found) and time.monotonic() < until:
        found = sampler.documents()
    return found


def of(documents: list[Document], name: str) -> list[dict[str, Any]]:
    return [one["system"][name] for one in documents if one["metricset"]["name"] == name]


def test_every_document_keeps_the_contract_and_has_a_name_of_its_own(documents: list[Document]) -> None:
    check = checker(contracts()["system-metrics"])
    checked = [check(orjson.dumps(document), time.time_ns() // 1000) for document in documents]
    assert [one.reasons or one.warnings for one in checked] == [None] * len(documents)
    assert len({one.identity for one in checked}) == len(documents)


def test_a_document_says_where_when_and_of_what_it_is(documents: list[Document]) -> None:
    assert {document["metricset"]["name"] for document in documents} >= {"cpu", "load", "memory", "uptime"}
    for document in documents:
        name = document["metricset"]["name"]
        assert document["event"]["duration"] >= 0 and len(document["@timestamp"]) == len("2026-11-25T16:00:00.123Z")
        assert {key: value for key, value in document.items() if key not in ("@timestamp", "system")} == {
            "host": {"name": "web-1"},
            "event": {
                "dataset": f"system.{name}",
                "module": "system",
                "duration": document["event"]["duration"],
            },
            "metricset": {"name": name, "period": 10_000},
            "service": {"type": "system"},
            "agent": {"type": "metricbeat", "name": "web-1"},
            "ecs": {"version": "1.12.0"},
        }


def test_values_are_those_of_a_machine(documents: list[Document]) -> None:
    (load,), (memory,), (uptime,), (spent,) = (of(documents, name) for name in ("load", "memory", "uptime", "cpu"))
    assert load["norm"]["5"] == pytest.approx(load["5"] / load["cores"], abs=1e-3)
    assert memory["used"]["bytes"] + memory["free"] == memory["total"] > 0
    assert memory["actual"]["used"]["pct"] == pytest.approx(1 - memory["actual"]["free"] / memory["total"], abs=1e-3)
    assert uptime["duration"]["ms"] > 0
    assert spent["total"]["pct"] == pytest.approx(spent["cores"] * spent["total"]["norm"]["pct"], abs=1e-3)
    for name in ("network", "diskio", "filesystem"):
        for one in of(documents, name):
            assert all(number >= 0 for number in numbers(one)), one
    for mount in of(documents, "filesystem"):
        assert 0 <= mount["used"]["pct"] <= 1 and mount["used"]["bytes"] + mount["free"] == mount["total"]


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers(inner)]
    return [value] if isinstance(value, int | float) else []


def test_processor_time_is_shared_out_over_what_passed() -> None:
    before = SimpleNamespace(user=10.0, system=5.0, nice=0.0, idle=100.0, iowait=2.0, irq=0.0, softirq=0.0, steal=0.0)
    after = SimpleNamespace(user=13.0, system=6.0, nice=0.0, idle=105.0, iowait=1.5, irq=0.0, softirq=0.0, steal=1.0)
    found = cpu(before, after, 4)
    assert found is not None and found["cores"] == 4
    assert found["user"] == {"pct": 1.2, "norm": {"pct": 0.3}} and found["idle"]["norm"]["pct"] == 0.5
    assert found["total"] == {"pct": 2.0, "norm": {"pct": 0.5}} and found["iowait"]["pct"] == 0.0
    assert cpu(after, after, 4) is None


def test_what_can_not_be_read_is_left_out_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    there = SimpleNamespace(mountpoint="/", device="/dev/a", fstype="ext4")
    gone = SimpleNamespace(mountpoint="/there-is-no-such-mount", device="/dev/b", fstype="ext4")
    sampler = Sampler(SECOND)
    for _ in range(3):
        assert [one["device_name"] for one in sampler.filesystems([gone, there])] == ["/dev/a"]
    assert len(caplog.records) == 1 and "/there-is-no-such-mount" in caplog.text


class Broker:
    """A producer's role: what it took has arrived, unless it is away."""

    def __init__(self) -> None:
        self.away = True
        self.values: list[int] = []
        self.keys: set[bytes | None] = set()
        self.reports: queue.Queue[tuple[Callable[[Any, Any], None], KafkaError | None]] = queue.Queue()

    def produce(
        self, topic: str, *, value: bytes | None, key: bytes | None, on_delivery: Callable[[Any, Any], None]
    ) -> None:
        if not self.away:
            self.values.append(orjson.loads(value or b"")["n"])
            self.keys.add(key)
        self.reports.put((on_delivery, KafkaError(KafkaError._MSG_TIMED_OUT) if self.away else None))

    def poll(self, timeout: float) -> int:
        try:
            report, error = self.reports.get(timeout=timeout)
        except queue.Empty:
            return 0
        report(error, None)
        return 1

    def flush(self, timeout: float) -> int:
        return 0

    def list_topics(self, topic: str, timeout: float) -> Any:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_while_kafka_is_away_the_newest_are_kept_and_the_loss_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    broker, sent = Broker(), 0

    def sample() -> list[Document]:
        nonlocal sent
        sent += 1
        return [{"n": sent}]

    async def test() -> None:
        delivery = Delivery(lambda: broker, SECOND)
        shipper = Shipper(sample, delivery, SECOND / 1000, "web-1", held=5, retry=0.01)
        running = asyncio.create_task(shipper.run())
        await until(lambda: shipper.dropped >= 3)
        broker.away = False
        await until(lambda: shipper.delivered >= 10)
        shipper.stop()
        await running
        await asyncio.to_thread(delivery.close)

    asyncio.run(test())
    assert broker.values == sorted(broker.values) and broker.values[0] > 1 and broker.keys == {b"web-1"}
    assert len(broker.values) == len({*broker.values})
    told = [record.getMessage() for record in caplog.records if "ship" in record.name]
    assert "Kafka is away, the last 5 documents are kept until it is back: Kafka does not answer" in told[0]
    back = re.fullmatch(r"Kafka is back; (\d+) documents were dropped meanwhile", told[1])
    assert back is not None and int(back[1]) >= 3


def test_a_broker_that_is_not_there_is_said_and_nothing_ends(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    settings = Settings(kafka=Kafka(bootstrap_servers=nobody), api=Api(delivery_timeout=SECOND / 10))

    async def test() -> None:
        delivery = Delivery(partial(bounded_producer, settings), SECOND / 10, timedelta(0))
        documents: list[Document] = [{"n": n} for n in range(9)]
        shipper = Shipper(lambda: documents, delivery, 60 * SECOND, "web-1", held=4, retry=0.01)
        running = asyncio.create_task(shipper.run())
        await until(lambda: "Kafka is away" in caplog.text)
        shipper.stop()
        await running
        await asyncio.to_thread(delivery.close, 0.0)
        assert (shipper.dropped, shipper.delivered) == (5, 0)

    asyncio.run(test())
    assert "ended before Kafka acknowledged 4 documents; 5 were dropped" in caplog.text


def test_a_second_one_in_a_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ship").mkdir()
    with (tmp_path / "ship" / "metrics.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ShipError, match="runs already"):
            run(Settings(home=tmp_path), timedelta(seconds=10))
