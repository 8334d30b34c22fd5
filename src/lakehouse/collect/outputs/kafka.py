"""``kafka``: records by an idempotent producer, acknowledged by all replicas.

Guarantee: at least once, in order but for records sent again; a repeated record has the same ``event.id``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException, Producer
from pydantic import Field

from lakehouse.collect.codecs import CodecName, codec
from lakehouse.collect.deadletters import Refuse
from lakehouse.collect.event import Event, template
from lakehouse.collect.options import OutputOptions
from lakehouse.collect.plugins import Away, Plugin
from lakehouse.settings import Kafka, Settings
from lakehouse.sources.topics import MAX_BYTES, Transport, producer

TIMEOUT_MS = 30_000
_RECORD = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError.INVALID_RECORD, KafkaError._INVALID_ARG}
"""What the record itself is to blame for."""
_TOPIC = {
    KafkaError.TOPIC_EXCEPTION, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION, KafkaError.TOPIC_AUTHORIZATION_FAILED,
}  # fmt: skip
"""What a topic's name is to blame for, where an event chose it."""


class KafkaOptions(OutputOptions):
    """``topic_id`` and ``message_key`` are templates."""

    topic_id: str
    bootstrap_servers: str = "localhost:9092"
    message_key: str | None = None
    codec: CodecName = "plain"
    acks: Literal["all", "-1"] = "all"  # Logstash: 1, with which a broker that dies takes acknowledged records along
    compression_type: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    client_id: str = "logstash"
    linger_ms: int = Field(default=5, ge=0)  # Logstash: 0; batches fill at any rate that matters
    batch_size: int = Field(default=1_000_000, ge=1)  # bytes; Logstash: 16384
    max_request_size: int = Field(MAX_BYTES, ge=1)  # bytes; Logstash: 1 MiB; the platform's topics take 16


class KafkaOutput:
    """Sends to Kafka; ``connect`` makes the producer, again after an error that it does not outlive."""

    def __init__(
        self, options: KafkaOptions, plugin: Plugin, refuse: Refuse, connect: Callable[[], Transport] | None = None
    ) -> None:
        self._options, self._refuse = options, refuse
        self._connect = connect or self._producer
        self._topic, self._chosen = template(options.topic_id), "%{" in options.topic_id
        self._key = template(options.message_key) if options.message_key is not None else None
        self._codec = codec(plugin, options.codec, "unit", encodes=True)()
        self._transport: Transport | None = None

    def _producer(self) -> Producer:
        options = self._options
        return producer(
            Settings(kafka=Kafka(bootstrap_servers=options.bootstrap_servers)),
            **{
                "client.id": options.client_id,
                "compression.type": options.compression_type,
                "linger.ms": options.linger_ms,
                "batch.size": options.batch_size,
                "message.max.bytes": options.max_request_size,
                "message.timeout.ms": TIMEOUT_MS,  # what is not taken then is sent again, for as long as it takes
            },
        )

    def send(self, events: list[Event]) -> None:
        """Return once Kafka has acknowledged the events, or they are dead letters."""
        if self._transport is None:
            self._transport = self._connect()
        transport = self._transport
        reports: list[KafkaError | str | None] = ["no report"] * len(events)

        def report(number: int, error: KafkaError | None, _message: Any) -> None:
            reports[number] = error

        for number, event in enumerate(events):
            try:
                topic, value = self._topic(event), self._codec.encode(event)
                key = self._key(event).encode(errors="backslashreplace") if self._key else None
                self._produce(transport, topic, value, key, partial(report, number))
            except KafkaException as error:
                reports[number] = error.args[0]
            except (TypeError, ValueError) as error:  # can't be written as JSON, or no name for a topic
                self._refuse([(event, str(error))])
                reports[number] = None
        transport.flush()
        self._settle(events, reports)

    @staticmethod
    def _produce(
        transport: Transport, topic: str, value: bytes, key: bytes | None, report: Callable[[Any, Any], None]
    ) -> None:
        while True:
            try:
                return transport.produce(topic, value=value, key=key, on_delivery=report)
            except BufferError:
                transport.poll(0.05)

    def _settle(self, events: list[Event], reports: list[KafkaError | str | None]) -> None:
        refused: list[tuple[Event, str]] = []
        left: list[Event] = []
        reason = ""
        for event, error in zip(events, reports, strict=True):
            if error is None:
                continue
            code = error.code() if isinstance(error, KafkaError) else None
            said = error.str() if isinstance(error, KafkaError) else error
            if isinstance(error, KafkaError) and error.fatal():
                self._transport = None
            if code in _RECORD or (self._chosen and code in _TOPIC):
                refused.append((event, f"{self._topic(event)}: {said}"))
            else:
                left.append(event)
                reason = reason or said
        if refused:
            self._refuse(refused)
        if left:
            raise Away(f"Kafka at {self._options.bootstrap_servers}, {self._options.topic_id}: {reason}", left)

    def close(self) -> None:
        """Nothing is left to send: :meth:`send` waits for every record."""
        self._transport = None
