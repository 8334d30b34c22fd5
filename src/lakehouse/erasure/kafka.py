"""Erasing from Kafka: what everybody has taken in is deleted up to there, and what is left says until when.

Records cannot be taken out one by one, so all of a partition before the place that every reader has committed go; the
lake has them. State topics keep the newest value of each key: the rest goes when Kafka compacts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, ConsumerGroupTopicPartitions, KafkaError, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

from lakehouse.contracts import TOPICS
from lakehouse.erasure.identifiers import Wanted
from lakehouse.settings import Settings

COMPACTS_WITHIN = timedelta(hours=1)
"""How long Kafka may keep what newer values of a key replace."""
_ANSWER_S = 30.0
Ends = Mapping[tuple[str, int], int]
"""(topic, partition) -> offset."""


class Broker:
    """One conversation with Kafka."""

    def __init__(self, settings: Settings):
        self.servers = settings.kafka.bootstrap_servers
        self.admin = AdminClient({"bootstrap.servers": self.servers})

    def topics(self) -> dict[str, int]:
        """Every topic but Kafka's own, and its partitions."""
        found = self.admin.list_topics(timeout=_ANSWER_S).topics
        return {name: len(topic.partitions) for name, topic in sorted(found.items()) if not name.startswith("__")}

    def compacted(self, topics: list[str]) -> set[str]:
        """The topics that keep the newest value of each key."""
        asked = self.admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in topics])
        return {
            resource.name
            for resource, answer in asked.items()
            if "compact" in str(answer.result(_ANSWER_S)["cleanup.policy"].value)
        }

    def committed(self) -> dict[tuple[str, int], int]:
        """Of every partition that consumer groups read, how far the slowest of them is."""
        found: dict[tuple[str, int], int] = {}
        groups = self.admin.list_consumer_groups(request_timeout=_ANSWER_S).result(_ANSWER_S).valid
        for group in groups:
            request = [ConsumerGroupTopicPartitions(group.group_id)]
            [answer] = self.admin.list_consumer_group_offsets(request).values()
            for place in answer.result(_ANSWER_S).topic_partitions or []:
                if place.offset >= 0:
                    at = (place.topic, place.partition)
                    found[at] = min(place.offset, found.get(at, place.offset))
        return found

    def delete(self, upto: Ends) -> dict[tuple[str, int], int]:
        """Delete the records before each offset; where the partitions begin then."""
        wanted = [TopicPartition(topic, partition, offset) for (topic, partition), offset in upto.items() if offset > 0]
        done = self.admin.delete_records(wanted) if wanted else {}
        return {(p.topic, p.partition): answer.result(_ANSWER_S).low_watermark for p, answer in done.items()}

    def compact_soon(self, topics: set[str]) -> None:
        """Have Kafka compact state topics within :data:`COMPACTS_WITHIN`."""
        within = str(COMPACTS_WITHIN // timedelta(milliseconds=1))
        resources = [
            ConfigResource(
                ResourceType.TOPIC,
                name,
                incremental_configs=[
                    ConfigEntry("max.compaction.lag.ms", within, incremental_operation=AlterConfigOpType.SET),
                    ConfigEntry("delete.retention.ms", within, incremental_operation=AlterConfigOpType.SET),
                ],
            )
            for name in sorted(topics)
        ]
        for answer in self.admin.incremental_alter_configs(resources).values() if resources else ():
            answer.result(_ANSWER_S)

    def ends(self, topics: Mapping[str, int]) -> dict[tuple[str, int], int]:
        """The end of every partition."""
        asked = {TopicPartition(name, n): OffsetSpec.latest() for name, count in topics.items() for n in range(count)}
        answers = self.admin.list_offsets(asked, request_timeout=_ANSWER_S) if asked else {}
        return {(p.topic, p.partition): answer.result(_ANSWER_S).offset for p, answer in answers.items()}

    def naming(self, wanted: Wanted, ends: Ends, compacted: set[str]) -> Iterator[tuple[str, int, int]]:
        """(topic, partition, offset) of the records before ``ends`` that name somebody.

        Of a compacted topic only the newest value of each key counts.
        """
        consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": "lakehouse-erase",  # never joined: partitions are assigned, nothing is committed
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )
        try:
            left = {place for place, end in ends.items() if end > 0}
            consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in left])
            newest: dict[tuple[str, int, Any], int] = {}
            while left:
                for message in consumer.consume(5000, 1.0):
                    place = (message.topic(), message.partition())
                    error = message.error()
                    if error is not None:
                        if error.code() == KafkaError._PARTITION_EOF:
                            left.discard(place)
                        elif not error.retriable():
                            raise RuntimeError(f"{place[0]}: {error.str()}")
                        continue
                    if message.offset() >= ends[place]:
                        left.discard(place)
                        continue
                    parts = [message.key(), message.value(), *(value for _, value in message.headers() or [])]
                    hit = any(part is not None and in_state(wanted, part) for part in parts)
                    if place[0] in compacted:
                        newest.pop((*place, message.key()), None)
                        if hit and message.value() is not None:
                            newest[(*place, message.key())] = message.offset()
                    elif hit:
                        yield (*place, message.offset())
            yield from ((topic, partition, offset) for (topic, partition, _), offset in newest.items())
        finally:
            consumer.close()


def in_state(wanted: Wanted, data: bytes) -> bool:
    """Whether a record's key or value names somebody: MessagePack, as the real-time processor writes, or else text."""
    import msgspec

    if data[:1] in b'{["' or not data:
        return wanted.in_bytes(data)
    try:
        return wanted.in_strings(msgspec.msgpack.decode(data)) or wanted.in_bytes(data)
    except msgspec.DecodeError:
        return wanted.in_bytes(data)


def delete_taken(settings: Settings, cut: Ends) -> dict[str, Any]:
    """Delete what every reader has taken, of the lake's topics no more than the cut holds; what was done, and until
    when the rest goes."""
    broker = Broker(settings)
    topics = broker.topics()
    compacted = broker.compacted([*topics])
    committed = broker.committed()
    upto = {}
    for place, offset in {**committed, **{place: end for place, end in cut.items()}}.items():
        if place[0] in compacted or place[0] not in topics:
            continue
        if place[0] in TOPICS and place not in cut:
            continue
        upto[place] = min(offset, committed.get(place, offset))
    lows = broker.delete(upto)
    broker.compact_soon(compacted)
    return {
        "deleted_before": {f"{topic}/{partition}": low for (topic, partition), low in sorted(lows.items())},
        "compacted_by": (datetime.now(UTC) + 2 * COMPACTS_WITHIN).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
