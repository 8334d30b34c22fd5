"""What the integration tests do with the platform: run the stream as its own process, send records, ask and audit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from confluent_kafka import Consumer, Message, TopicPartition

from lakehouse.audit import audit
from lakehouse.inspect import wait
from lakehouse.settings import PROJECT, Settings
from lakehouse.sources.topics import Outbox, create_topics, producer


def environment(settings: Settings, **extra: str) -> dict[str, str]:
    jars = str(settings.jars) if settings.jars else ""
    own = {"LAKEHOUSE_HOME": str(settings.home), "LAKEHOUSE_JARS": jars, "LAKEHOUSE_STREAM__FANOUT_TRIGGER": "PT1S"}
    return {k: v for k, v in os.environ.items() if k != "LAKEHOUSE_KILL"} | own | extra


class StreamProcess:
    """`lakehouse stream` in a process of its own, with its log beside the servers' logs."""

    def __init__(self, settings: Settings, **extra: str):
        self.log = settings.home / "logs" / "stream-under-test.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lakehouse.cli", "stream"],
                cwd=PROJECT, env=environment(settings, **extra), stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> StreamProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop() if self.process.poll() is None else self.end()

    def died(self, timeout: float) -> int:
        """The exit code, once it ends."""
        try:
            return self.process.wait(timeout)
        finally:
            self.end()

    def stop(self) -> int:
        """Stop it as a user does; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.end()

    def end(self) -> None:
        """Kill what is left of its process group: the JVM and its Python workers outlive a killed driver."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait()

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event(number: str, **fields: Any) -> bytes:
    base = {
        "event_id": f"e-{number}",
        "event_type": "view",
        "user_id": f"u-{number}",
        "occurred_at": now(),
        "post_id": "p-1",
    }
    return orjson.dumps(base | fields)


def log_record(number: str, **fields: Any) -> bytes:
    base = {
        "@timestamp": now(), "message": f"GET /{number}", "service": {"name": "web"}, 
        "event": {"id": f"l-{number}", "duration": 1_500_000},
        "http": {"response": {"status_code": 200}},
    }  # fmt: skip
    return orjson.dumps(base | fields)


def metric(number: int, **fields: Any) -> bytes:
    base = {
        "@timestamp": now(), "host": {"name": "h-1"}, "event": {"dataset": "system.cpu"}, 
        "service": {"address": str(number)},
        "system": {"cpu": {"total": {"pct": number / 1000}}},
    }  # fmt: skip
    return orjson.dumps(base | fields)


def send(settings: Settings, *records: tuple[str, bytes | None]) -> None:
    """Send records and wait for the broker to acknowledge them."""
    create_topics(settings)
    outbox = Outbox(producer(settings))
    for topic, value in records:
        outbox.send(topic, None, value)
    outbox.finish()


def records_of(settings: Settings, topics: list[str]) -> list[Message]:
    """Every record of the topics."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": uuid4().hex,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    partitions = [TopicPartition(topic, p, 0) for topic in topics for p in range(settings.kafka.partitions)]
    consumer.assign(partitions)
    records: list[Message] = []
    ended = 0
    while ended < len(partitions):
        for message in consumer.consume(1000, 0.2):
            if message.error():
                ended += 1
            else:
                records.append(message)
    consumer.close()
    return records


def mixed(run: str, count: int = 40) -> list[tuple[str, bytes | None]]:
    """Valid, repeated and broken records of every topic; of each topic at least one of every kind."""
    records: list[tuple[str, bytes | None]] = []
    for i in range(count):
        records += [("user-events", event(f"{run}-{i}")), ("service-logs", log_record(f"{run}-{i}"))]
        records += [("system-metrics", metric(hash((run, i)) % 100_000))]
    records += records[:3]
    return [*records, ("user-events", b"\xff"), ("service-logs", b"{"), ("system-metrics", None)]


def settled(settings: Settings, seconds: float = 180) -> dict[str, Any]:
    """The audit, once everything sent is in gold and in the stores."""
    missing = wait(settings, seconds)
    assert not missing, f"{missing}; {stream_log(settings)}"
    return audit(settings)


def stream_log(settings: Settings) -> str:
    path: Path = settings.home / "logs" / "stream-under-test.log"
    return "\n".join(path.read_text(errors="replace").splitlines()[-20:]) if path.exists() else ""


def problems(result: dict[str, Any]) -> str:
    return json.dumps(result["problems"], default=str)[:3000]


def until(condition: Any, seconds: float) -> None:
    """Wait for a condition; it failing to come true is the test's failure."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.2)
