"""Kafka read again, by a reader of its own: every record that the broker still has, held against bronze."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, TopicPartition

from lakehouse.audit.run import Run, Topic

STALL_S = 30
"""Seconds without a record or an end after which the broker counts as unreachable."""
_BATCH = 10_000
_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("arrival", pa.int64()),
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("headers", pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))),
    ]
)


Row = tuple[int, int, int, bytes | None, bytes | None, list[dict[str, Any]]]
"""Partition, offset, append time (microseconds), key, value, headers."""
_DIGEST = "coalesce(sha256(key), 'null') || coalesce(sha256(value), 'null')"


def _row(message: Message) -> Row:
    headers = [{"key": key, "value": value} for key, value in message.headers() or []]
    time_us = message.timestamp()[1] * 1000
    return message.partition(), message.offset(), time_us, message.key(), message.value(), headers


def _read(consumer: Consumer, starts: dict[int, int], ends: dict[int, int], topic: str) -> Iterator[list[Row]]:
    """Every committed record from ``starts`` to before ``ends``, per partition.

    Raises:
        KafkaException: the broker failed or stalled.
    """
    unread = {partition for partition, end in ends.items() if starts[partition] < end}
    consumer.assign([TopicPartition(topic, partition, starts[partition]) for partition in unread])
    heard = time.monotonic()
    while unread:
        rows: list[Row] = []
        for message in consumer.consume(_BATCH, timeout=0.1):
            heard = time.monotonic()
            partition, error = message.partition(), message.error()
            if error is None and message.offset() < ends[partition]:
                rows.append(_row(message))
            elif error is None or error.code() == KafkaError._PARTITION_EOF:
                unread.discard(partition)
            elif not error.retriable():
                raise KafkaException(error)
        # The end may lie behind transaction markers, which are never handed out: then only the position tells.
        for place in consumer.position([TopicPartition(topic, partition) for partition in unread]):
            if place.offset != OFFSET_INVALID and place.offset >= ends[place.partition]:
                unread.discard(place.partition)
        done = [TopicPartition(topic, partition) for partition in starts if partition not in unread]
        if done and unread:
            consumer.pause([place for place in done if place in consumer.assignment()])
        yield rows
        if time.monotonic() - heard > STALL_S:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"nothing from {topic} for {STALL_S} s"))


def prepare(run: Run, starts: dict[int, int]) -> None:
    """Make empty table ``kafka``, and ``lows``: where each partition's records begin."""
    run.numbers("lows", "low", starts)
    run.rows(
        'create or replace table kafka (partition integer, "offset" bigint, arrival bigint, digest varchar, headers '
        "struct(key varchar, value blob)[])"
    )


def add(run: Run, rows: list[Row]) -> None:
    """Add records to table ``kafka``; keys and values as SHA-256."""
    columns = zip(*rows, strict=True) if rows else [()] * len(_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    run.db.register("kafka_rows", pa.Table.from_arrays(arrays, schema=_SCHEMA))
    run.rows(f'insert into kafka select partition, "offset", arrival, {_DIGEST}, headers from kafka_rows')


def kafka(run: Run, topic: Topic) -> int:
    """Hold Kafka's records before the cut against bronze, byte for byte; how many bronze rows Kafka has expired.

    Problems go to ``run``. An offset without a record here and in bronze is a transaction marker.
    """
    run.progress(f"{topic.name}: reading Kafka again")
    ends = run.cuts[topic.name].ends
    consumer = Consumer(
        {
            "bootstrap.servers": run.settings.kafka.bootstrap_servers,
            "group.id": "lakehouse-audit",  # never joined: partitions are assigned, nothing is committed
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "log_level": 0,
        }
    )
    starts: dict[int, int] = {}
    try:
        for partition, end in ends.items():
            starts[partition], high = consumer.get_watermark_offsets(TopicPartition(topic.name, partition), timeout=10)
            if high < end:
                run.problem(
                    "kafka.end",
                    f"Kafka ends at {high}, the cut at {end}: the topic was made anew or has lost records",
                    topic=topic.name,
                    partition=partition,
                    first=high,
                    last=end - 1,
                    count=end - high,
                )
        prepare(run, starts)
        for rows in _read(consumer, starts, ends, topic.name):
            add(run, rows)
    except KafkaException as error:
        where = run.settings.kafka.bootstrap_servers
        run.problem("kafka.unreachable", f"{where}: {error.args[0].str()}; see `lakehouse status`", topic=topic.name)
        return 0
    finally:
        consumer.close()
    return compare(run, topic)


def compare(run: Run, topic: Topic) -> int:
    """Hold table ``kafka`` against bronze, in both directions; how many bronze rows lie before ``lows``.

    Of a record that was erased only its place is compared.
    """
    run.offsets(
        "kafka.missing",
        topic.bronze,
        topic.name,
        """select partition, "offset", 'in Kafka, not in bronze' as detail
        from kafka join starts using (partition) anti join state using (partition, "offset")
        where "offset" >= start_offset""",
    )
    run.offsets(
        "kafka.extra",
        topic.bronze,
        topic.name,
        """select s.partition, s."offset", 'in bronze, not in Kafka' as detail
        from state as s join lows using (partition)
        anti join kafka as k on k.partition = s.partition and k."offset" = s."offset"
        where s."offset" >= low""",
    )
    run.offsets(
        "kafka.bytes",
        topic.bronze,
        topic.name,
        f"""select partition, "offset", concat_ws(', ',
            case when b.digest <> k.digest then 'key or value' end,
            case when b.arrival is distinct from k.arrival then 'timestamp' end,
            case when b.headers is distinct from k.headers then 'headers' end) || ' not as in Kafka' as detail
        from (select partition, "offset", epoch_us(timestamp) as arrival, coalesce(headers, []) as headers,
                {_DIGEST} as digest from bronze where erased_at is null) as b
        join kafka as k using (partition, "offset")
        where b.digest <> k.digest or b.arrival is distinct from k.arrival or b.headers is distinct from k.headers""",
    )
    return int(run.one('select count(*) from state join lows using (partition) where "offset" < low'))
