"""Kafka topics and how records are put on them: made as the design says, sent until acknowledged, never guessed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from lakehouse.contracts import TOPICS
from lakehouse.settings import Settings

NOTIFICATIONS = "notifications"
MAX_BYTES = 16 * 1024 * 1024
"""Largest record, in bytes, that topics take and producers send."""
CONFIG = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(MAX_BYTES), "retention.ms": "-1"}
_ANSWER_S = 10.0
_log = logging.getLogger(__name__)
_client_log = logging.getLogger("lakehouse.kafka")
_client_log.addHandler(logging.NullHandler())  # librdkafka tells of each lost connection: for those who set up logging


class TopicError(Exception):
    """Kafka does not answer, or a topic is missing or made wrongly; one line that names the mend."""


class DeliveryError(Exception):
    """A record was not acknowledged: ``number`` counts the records sent from 1; all before it were acknowledged."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"record {number} was not acknowledged by Kafka: {reason}")
        self.number = number
        self.reason = reason


class Transport(Protocol):
    """What :class:`Outbox` needs of a producer; ``confluent_kafka.Producer`` has it."""

    def produce(
        self, topic: str, *, value: bytes | None, key: bytes | None, on_delivery: Callable[[Any, Any], None]
    ) -> None:
        """Queue one record; BufferError when the queue is full."""

    def poll(self, timeout: float) -> int:
        """Serve delivery reports for up to ``timeout`` seconds."""

    def flush(self) -> int:
        """Wait until every queued record is acknowledged or has failed."""


def _topics(settings: Settings) -> tuple[AdminClient, set[str]]:
    """An admin client and the names of the topics there are."""
    servers = settings.kafka.bootstrap_servers
    admin = AdminClient({"bootstrap.servers": servers}, logger=_client_log)
    try:
        return admin, set(admin.list_topics(timeout=_ANSWER_S).topics)
    except KafkaException as error:
        raise TopicError(
            f"no Kafka broker answers at {servers} ({error.args[0].str()}): start it with `lakehouse up --servers`"
        ) from None


def topic_config(settings: Settings) -> dict[str, str]:
    """How the platform's topics are made."""
    return CONFIG | {"min.insync.replicas": str(settings.kafka.min_in_sync)}


def require_topics(settings: Settings, names: Iterable[str]) -> None:
    """Return when Kafka answers and has the topics.

    Raises:
        TopicError: it does not answer, or a topic is missing.
    """
    if missing := sorted(set(names) - _topics(settings)[1]):
        raise TopicError(f"Kafka has no topic {', '.join(missing)}: `lakehouse up --servers` creates the platform's")


def create_topics(settings: Settings, prefix: str = "") -> list[str]:
    """Create the topics that are missing; check those that are there. May be called any number of times.

    Args:
        settings: broker, partitions and replication.
        prefix: put before every name, for trials beside the platform's own topics.

    Returns:
        The names of the topics created now.

    Raises:
        TopicError: Kafka does not answer, refuses a topic, or an existing one stamps records with the producers'
            clocks: the horizon within which duplicates are recognised rests on append time.
    """
    admin, existing = _topics(settings)
    names = [prefix + name for name in (*TOPICS, NOTIFICATIONS)]
    new = [
        NewTopic(name, settings.kafka.partitions, settings.kafka.replication, config=topic_config(settings))
        for name in names
        if name not in existing
    ]
    created = []
    for name, future in (admin.create_topics(new, request_timeout=_ANSWER_S) if new else {}).items():
        try:
            future.result()
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another process was quicker: checked below
                raise TopicError(f"topic {name} could not be created: {error.args[0].str()}") from None
    deadline = time.monotonic() + _ANSWER_S
    while not set(names) <= _topics(settings)[1] and time.monotonic() < deadline:
        time.sleep(0.05)  # a topic is made before every broker's view of the cluster shows it
    require_topics(settings, names)
    for other in differing(admin, [name for name in names if name not in created], settings):
        if other.must:
            raise TopicError(
                f"topic {other.topic} has {other.key}={other.have}, needs {other.wanted}: mend with `{other.mend}`"
            )
        _log.warning(
            "topic %s has %s=%s, made as %s: `%s`", other.topic, other.key, other.have, other.wanted, other.mend
        )
    return created


class Differing(NamedTuple):
    """A setting of a topic that is not as it is made, and the command that mends it."""

    topic: str
    key: str
    have: str | None
    wanted: str
    mend: str

    @property
    def must(self) -> bool:
        """Whether the platform rests on it; the others (retention, size) an operator may have chosen."""
        return self.key == "message.timestamp.type"


def differing(admin: AdminClient, names: Sequence[str], settings: Settings) -> Iterator[Differing]:
    """Settings of topics that differ from :func:`topic_config`.

    Raises:
        TopicError: a topic cannot be described.
    """
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    for resource, future in (admin.describe_configs(resources, request_timeout=_ANSWER_S) if resources else {}).items():
        try:
            found = future.result()
        except KafkaException as error:
            raise TopicError(f"topic {resource.name} cannot be described: {error.args[0].str()}") from None
        for key, wanted in topic_config(settings).items():
            have = found[key].value if key in found else None
            if have != wanted:
                mend = (
                    f"kafka-configs.sh --bootstrap-server {settings.kafka.bootstrap_servers} --alter "
                    f"--entity-type topics --entity-name {resource.name} --add-config {key}={wanted}"
                )
                yield Differing(resource.name, key, have, wanted, mend)


def producer(settings: Settings, **extra: Any) -> Producer:
    """A producer whose acknowledgement means that the record is kept, once and in order.

    Args:
        settings: the broker.
        extra: librdkafka settings by their own names, which win over these: ``**{"linger.ms": 50}``.
    """
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka.bootstrap_servers,
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": "lz4",  # as cheap as none in trials; zstd cost up to a third more
        "message.max.bytes": MAX_BYTES,
        "linger.ms": 5,  # fills batches at any rate that matters and is lost in a second of freshness
        "partitioner": "murmur2_random",  # Java's: one key, one partition, whichever client wrote it
        "queue.buffering.max.kbytes": 131_072,  # bounds memory; a full queue makes the sender wait
        "message.timeout.ms": 120_000,  # outlives a broker's restart (12 s), still ends
    }
    return Producer(config | extra, logger=_client_log)


class Outbox:
    """Sends records in order and knows which the broker acknowledged.

    ``sent`` counts records handed over, ``acknowledged`` those the broker confirmed; they are equal after
    :meth:`finish`, or it raises.
    """

    def __init__(self, transport: Transport) -> None:
        self.sent = 0
        self.acknowledged = 0
        self._failed: tuple[int, str] | None = None
        self._transport = transport

    def send(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        """Queue one record, waiting while the queue is full.

        Raises:
            DeliveryError: this record or an earlier one has failed.
        """
        number = self.sent + 1
        while True:
            try:
                self._transport.produce(topic, value=value, key=key, on_delivery=partial(self._delivered, number))
                break
            except BufferError:
                self._transport.poll(0.05)
            except KafkaException as error:  # refused at once, for instance larger than MAX_BYTES
                self._delivered(number, error.args[0], None)
                break
            finally:
                if self._failed:
                    self.finish()
        self.sent = number
        if not number & 255:
            self._transport.poll(0)

    def wait_until(self, moment: float) -> None:
        """Serve delivery reports until ``time.monotonic()`` reaches ``moment`` (seconds), or up to 5 ms longer.

        Steps of 5 ms, made up for by what is sent at once after each: a wait for every record would never sleep.
        """
        while (left := moment - time.monotonic()) > 0:
            self._transport.poll(min(max(left, 0.005), 0.05))

    def finish(self) -> int:
        """Wait for every acknowledgement.

        Returns:
            The number of records acknowledged, which is the number sent.

        Raises:
            DeliveryError: naming the first record that was not acknowledged.
        """
        self._transport.flush()
        if self._failed:
            raise DeliveryError(*self._failed)
        if self.acknowledged != self.sent:
            raise DeliveryError(self.acknowledged + 1, f"{self.sent} sent, {self.acknowledged} acknowledged")
        return self.acknowledged

    def _delivered(self, number: int, error: Any, _message: Any) -> None:
        if error is None:
            self.acknowledged += 1
        elif self._failed is None or number < self._failed[0]:
            self._failed = (number, error.str() if hasattr(error, "str") else str(error))
