"""Records sent to Kafka from an event loop, with the broker's word on each of them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaException

from lakehouse.settings import Settings
from lakehouse.sources.topics import producer

GRACE = timedelta(seconds=2)
"""librdkafka looks for records that are over their time once a second; its word names the cause, so it is awaited."""
_STEP = 500
"""Records handed over between two looks at the event loop's other work: under a millisecond."""
_log = logging.getLogger(__name__)


class Producing(Protocol):
    """What :class:`Delivery` needs of a producer; ``confluent_kafka.Producer`` has it."""

    def produce(
        self, topic: str, *, value: bytes | None, key: bytes | None, on_delivery: Callable[[Any, Any], None]
    ) -> None:
        """Queue one record; BufferError when the queue is full."""

    def poll(self, timeout: float) -> int:
        """Serve delivery reports, waiting up to ``timeout`` seconds for the first."""

    def flush(self, timeout: float) -> int:
        """Wait up to ``timeout`` seconds until every queued record is acknowledged or has failed."""

    def list_topics(self, topic: str, timeout: float) -> Any:
        """Ask the broker for a topic's metadata; KafkaException when it does not answer."""


def bounded_producer(settings: Settings) -> Producing:
    """A producer that gives a record up after ``api.delivery_timeout`` and looks for a lost broker every second."""
    wait_ms = int(settings.api.delivery_timeout / timedelta(milliseconds=1))
    made: Producing = producer(settings, **{"message.timeout.ms": wait_ms, "reconnect.backoff.max.ms": 1000})
    return made


class _Records:
    """The records of one call and what became of each; ``done`` is set once all are known."""

    def __init__(self, count: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self._outcomes: list[str | None] = ["no acknowledgement in time"] * count
        self._left = count
        self._lock = threading.Lock()

    def report(self, number: int, error: Any, _message: Any = None) -> None:
        """Called from any thread, once a record."""
        with self._lock:
            self._outcomes[number] = None if error is None else error.str() if hasattr(error, "str") else str(error)
            self._left -= 1
            last = self._left == 0
        if last:
            with suppress(RuntimeError):  # the loop has ended, and nobody waits
                self.loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def outcomes(self) -> list[str | None]:
        """As known now: None for an acknowledged record, else why it is not."""
        with self._lock:
            return [*self._outcomes]


class Delivery:
    """One producer, shared by all requests of a process.

    A thread serves the delivery reports. A producer that librdkafka declares unusable (a fatal error of idempotence, as
    when a topic was made anew under it) is replaced, so that only the records it held have failed.

    Args:
        make: makes a producer.
        timeout: how long :meth:`send` waits for acknowledgements.
        grace: how much longer it waits for the producer's word on the others.
    """

    def __init__(self, make: Callable[[], Producing], timeout: timedelta, grace: timedelta = GRACE) -> None:
        self._make, self._timeout_s, self._grace_s = make, timeout.total_seconds(), grace.total_seconds()
        self._producer = make()
        self._stopping, self._fatal = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, name="kafka-delivery", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                self._producer.poll(0.1)
                if self._fatal.is_set():
                    self._producer = self._make()
                    self._fatal.clear()
            except Exception:  # without this thread no request would ever be acknowledged
                _log.exception("delivery reports could not be served")
                self._stopping.wait(1)

    async def send(self, topic: str, records: Sequence[tuple[bytes | None, bytes]]) -> list[str | None]:
        """Send records, given as (key, value), in order, and wait for the broker's word.

        Returns:
            For each record None when all in-sync replicas have it, else why that is not known. A record that is not
            known to be kept may be kept all the same, so what is sent again needs an identity.
        """
        if not records:
            return []
        sent = _Records(len(records))
        deadline = sent.loop.time() + self._timeout_s
        for number, (key, value) in enumerate(records):
            while True:
                try:
                    self._producer.produce(topic, value=value, key=key, on_delivery=partial(self._report, sent, number))
                except BufferError:
                    if sent.loop.time() < deadline:
                        await asyncio.sleep(0.01)
                        continue
                    self._report(sent, number, "too many records wait for the broker")
                except KafkaException as error:  # refused at once
                    self._report(sent, number, error.args[0])
                break
            if number % _STEP == _STEP - 1:
                await asyncio.sleep(0)
        await asyncio.wait([sent.done], timeout=max(0.0, deadline - sent.loop.time()) + self._grace_s)
        return sent.outcomes()

    def _report(self, sent: _Records, number: int, error: Any, _message: Any = None) -> None:
        if error is not None and getattr(error, "fatal", bool)():
            _log.error("Kafka's client has failed for good and is replaced: %s", error)
            self._fatal.set()
        sent.report(number, error)

    async def trouble(self, topic: str, timeout: float = 2.0) -> str | None:
        """Why no record could be sent to ``topic`` now, or None; waits up to ``timeout`` seconds for the broker."""
        try:
            found = await asyncio.to_thread(self._producer.list_topics, topic, timeout)
        except KafkaException as error:
            return f"Kafka does not answer: {error.args[0].str()}"
        wrong = found.topics[topic].error
        return None if wrong is None else f"topic {topic}: {wrong.str()}"

    def close(self, timeout: float = 5.0) -> None:
        """Wait up to ``timeout`` seconds for what is still under way, then stop."""
        self._stopping.set()
        self._thread.join()
        self._producer.flush(timeout)
