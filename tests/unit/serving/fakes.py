"""A broker and a store of answers that do as told; shared by the tests of the application."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from pydantic import SecretStr

from lakehouse.settings import Redis, Settings
from serving.auth import Keys
from serving.stores import Answer, claimed

AWAY = Settings(redis=Redis(url=SecretStr("redis://127.0.0.1:1/0")))
"""No Redis of this machine is touched: limits are each process' own."""
KEYS = Keys({"new": "n" * 32, "old": "o" * 32})
EVENT = {
    "event_id": "e1",
    "event_type": "view",
    "user_id": "u1",
    "post_id": "p1",
    "occurred_at": "2026-11-24T11:00:00Z",
}


class Broker:
    """A producer's role: acknowledges what it took, unless it is silent or a value is among those that fail."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes | None, bytes | None]] = []
        self.fails: dict[bytes, KafkaError] = {}
        self.silent = self.away = False
        self.took = asyncio.Event()
        self.room = 1_000_000
        self.reports: queue.Queue[tuple[Callable[[Any, Any], None], KafkaError | None]] = queue.Queue()

    def produce(
        self, topic: str, *, value: bytes | None, key: bytes | None, on_delivery: Callable[[Any, Any], None]
    ) -> None:
        if self.reports.qsize() >= self.room:
            raise BufferError
        self.records.append((topic, key, value))
        self.took.set()
        timed_out = KafkaError(KafkaError._MSG_TIMED_OUT)
        error = timed_out if self.away else self.fails.get(value or b"")
        if not self.silent:
            self.reports.put((on_delivery, error))

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
        if self.away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None)})


class Remembered:
    """Answers in memory."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, str, Answer | None]] = {}
        self.away: Exception | None = None

    def _answers(self) -> None:
        if self.away:
            raise self.away

    async def begin(self, key: str, digest: str, owner: str) -> Answer | None:
        self._answers()
        return claimed(owner, digest, self.held.setdefault(key, (owner, digest, None)))

    async def keep(self, key: str, owner: str, answer: Answer) -> None:
        self._answers()
        if self.held[key][0] == owner:
            self.held[key] = (owner, self.held[key][1], answer)

    async def release(self, key: str, owner: str) -> None:
        self._answers()
        if self.held[key][0] == owner:
            del self.held[key]

    async def close(self) -> None:
        pass
