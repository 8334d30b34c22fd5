"""Reads what rules over tables are told: one round trip a table for all minutes that are due, without Spark.

Each part of the evaluation reads for itself and has minutes of its own, so that one which cannot be read delays only
itself. Minutes of event time are read once the topic's cut covers them, as a window closes by its watermark: a pipeline
that lags makes them wait instead of looking empty.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaException, TopicPartition

from lakehouse.alerting import facts as of
from lakehouse.alerting.database import micros, moment
from lakehouse.alerting.facts import DAY, DAYS, HOUR, MINUTE, Anomaly, Batch, Facts, Finding, Minute
from lakehouse.contracts import TOPICS, contracts
from lakehouse.predict import findings
from lakehouse.query import query
from lakehouse.settings import Settings
from lakehouse.sources.datasets import within
from lakehouse.sources.topics import TopicError

LATENESS_US = 30_000_000
"""How long after a minute its records may still come, as in the real-time processor."""
ANSWERS_WITHIN = 60.0
"""Seconds that a table is given; on ``hdfs://`` delta-rs was seen to wait for ever."""
MODELS = ("recommender", "anomaly", "trend")
_ANSWER_S = 10.0
_VOLUME = {
    "user-events": ("gold.activity_minute", "events"),
    "service-logs": ("gold.service_health_minute", "requests"),
    "system-metrics": ("gold.host_utilization_minute", "samples"),
}
"""Topic -> the table and column that its volume is counted by."""
_MADE = {"gold.recommendations": "at", "gold.forecasts": "made_at"}
"""What jobs make: the column that says when."""

Ask = Callable[..., list[tuple[Any, ...]]]
"""(SQL, parameters) -> rows."""


@dataclass(frozen=True)
class Read:
    """What a part knows: facts of every minute that ends up to ``until_us``, of any span that was asked for."""

    until_us: int
    facts: Callable[[int, timedelta], Facts]


class Part(Protocol):
    """A part of the evaluation: what is read together, and has its place in time."""

    @property
    def name(self) -> str:
        """Of its place."""

    @property
    def feed(self) -> str:
        """Which rules it has."""

    def read(self, first_us: int, last_us: int, longest: timedelta) -> Read:
        """Read for all minutes that end from ``first_us`` to ``last_us``, and spans of up to ``longest`` before."""


class Log(Protocol):
    """What is asked of Kafka; raises :class:`TopicError` where it does not answer."""

    def ends(self, topic: str, at_us: int | None) -> dict[int, tuple[int, int]]:
        """By partition the first offset there is, and the one after the last record that was there at a time (now)."""

    def appended_us(self, topic: str, partition: int, offset: int) -> int | None:
        """When the first record at or after an offset was appended; None where there is none."""


# --- Kafka ---------------------------------------------------------------------------------------------------------


class Broker:
    """:class:`Log` of the platform's Kafka, or of a trial beside it (setting ``realtime.prefix``); joins no group.

    Not for several threads at once.
    """

    def __init__(self, settings: Settings) -> None:
        self._servers, self._prefix = settings.kafka.bootstrap_servers, settings.realtime.prefix
        self._consumer = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": "lakehouse-alerts",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "fetch.message.max.bytes": 1 << 16,
                "fetch.wait.max.ms": 20,
            },
            logger=logging.getLogger("lakehouse.kafka"),
        )

    def close(self) -> None:
        """Give the connections back."""
        self._consumer.close()

    def ends(self, topic: str, at_us: int | None) -> dict[int, tuple[int, int]]:
        """See :class:`Log`; by append time, which Kafka itself stamps."""
        topic = self._prefix + topic
        try:
            known = self._consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic]
            if known.error:
                raise TopicError(f"Kafka has no topic {topic}: `lakehouse up` creates the platform's")
            places = [TopicPartition(topic, partition) for partition in sorted(known.partitions)]
            found = {p.partition: self._consumer.get_watermark_offsets(p, timeout=_ANSWER_S) for p in places}
            if at_us is None:
                return found
            asked = [TopicPartition(topic, p.partition, at_us // 1000) for p in places]
            for place in self._consumer.offsets_for_times(asked, timeout=_ANSWER_S):
                if place.error:
                    raise KafkaException(place.error)
                low, high = found[place.partition]
                if place.offset >= 0:  # else nothing came since
                    found[place.partition] = (low, min(place.offset, high))
            return found
        except KafkaException as error:
            raise self._away(error) from None

    def appended_us(self, topic: str, partition: int, offset: int) -> int | None:
        """See :class:`Log`."""
        try:
            self._consumer.assign([TopicPartition(self._prefix + topic, partition, offset)])
            message = self._consumer.poll(_ANSWER_S)
            if message is None:
                raise TopicError(f"Kafka at {self._servers} does not deliver from {topic}/{partition}")
            if error := message.error():
                if error.name() == "_PARTITION_EOF":
                    return None
                raise KafkaException(error)
            return int(message.timestamp()[1]) * 1000
        except KafkaException as error:
            raise self._away(error) from None
        finally:
            self._consumer.unassign()  # or it goes on reading, which makes other questions wait

    def _away(self, error: KafkaException) -> TopicError:
        return TopicError(f"no Kafka broker answers at {self._servers} ({error.args[0].str()}): see `lakehouse status`")


# --- tables --------------------------------------------------------------------------------------------------------


def asking(settings: Settings) -> Ask:
    """Questions to the lake.

    Raises:
        TimeoutError: a table has not answered for so long that it will not.
    """

    def ask(sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        return within(ANSWERS_WITHIN, lambda: query(settings, sql, parameters).rows)

    return ask


class Ledger:
    """``ops.ledger``, read once a turn for all that go by it, and what Kafka has beyond it.

    After the first turn only what is new is read: the newest row of each partition before that is remembered.
    """

    def __init__(self, ask: Ask, log: Log) -> None:
        self._ask, self._log = ask, log
        self.now_us = 0
        self._read_us = 0
        self._since_us: int | None = None
        self._batches: list[Batch] = []
        self._ends: dict[tuple[str, int | None], dict[int, tuple[int, int]]] = {}
        self._away: TopicError | None = None

    def begin(self, now_us: int) -> None:
        """A turn begins: all is read anew."""
        self.now_us, self._read_us, self._away = now_us, -1, None
        self._ends.clear()

    def batches(self, since_us: int) -> list[Batch]:
        """The rows committed after a time, and of each partition the newest before; more where more is known."""
        if self._read_us == self.now_us and self._since_us is not None and self._since_us <= since_us:
            return self._batches
        known = self._since_us
        if known is not None:
            # Rows that came into the table since it was read last may say that they are a little older.
            since_us = min(since_us, max((b.committed_us for b in self._batches), default=since_us) - MINUTE)
        if known is not None and known <= since_us:
            newest: dict[tuple[str, int], Batch] = {}
            for batch in self._batches:
                place = (batch.topic, batch.partition)
                if batch.committed_us <= since_us and (place not in newest or batch.seq > newest[place].seq):
                    newest[place] = batch
            before = [*newest.values()]
        else:
            before = self._rows(
                "where committed_at <= ? "
                "qualify row_number() over (partition by topic, partition order by seq desc) = 1",
                since_us,
            )
        self._batches = before + self._rows("where committed_at > ?", since_us)
        self._since_us, self._read_us = since_us, self.now_us
        return self._batches

    def _rows(self, where: str, since_us: int) -> list[Batch]:
        rows = self._ask(
            "select topic, seq, partition, start_offset, end_offset, records, quarantined, duplicates, "
            "epoch_us(first_at), epoch_us(last_at), epoch_us(committed_at), "
            "coalesce(warnings, map {}), coalesce(drift, map {}) "
            f"from ops.ledger {where}",
            [moment(since_us)],
        )
        return [Batch(*row) for row in rows]

    def lag(
        self, topic: str, at_us: int | None, since_us: int
    ) -> tuple[int | None, dict[int, tuple[int, int]], int | None]:
        """Of a topic at a time (None: now): when its newest cut was, which offsets wait, when the oldest came.

        ``since_us`` is no later than that time.
        """
        batches = [batch for batch in self.batches(since_us) if batch.topic == topic]
        held, when = of.cut(batches, at_us if at_us is not None else max((b.committed_us for b in batches), default=0))
        lag = of.waiting(held, self._asked(topic, at_us))
        came = [self._appended(topic, partition, first, batches) for partition, (first, _) in lag.items()]
        return when, lag, min((one for one in came if one is not None), default=None)

    def _asked(self, topic: str, at_us: int | None) -> dict[int, tuple[int, int]]:
        if self._away:  # one wait a turn is enough
            raise self._away
        if (topic, at_us) not in self._ends:
            try:
                self._ends[topic, at_us] = self._log.ends(topic, at_us)
            except TopicError as error:
                self._away = error
                raise
        return self._ends[topic, at_us]

    def _appended(self, topic: str, partition: int, offset: int, batches: list[Batch]) -> int | None:
        """When a record came that was not in the tables: the batch that brought it later knows, else Kafka does."""
        for batch in batches:
            if batch.partition == partition and batch.start == offset < batch.end and batch.first_us is not None:
                return batch.first_us
        return self._log.appended_us(topic, partition, offset)

    def closed_us(self, topic: str) -> int:
        """The end of the last minute that no record will come for any more: it is over, and all of it in the tables."""
        _, lag, oldest_us = self.lag(topic, None, self.now_us)
        covered_us = self.now_us if not lag or oldest_us is None else min(oldest_us, self.now_us)
        return (covered_us - LATENESS_US) // MINUTE * MINUTE


@dataclass(frozen=True)
class Freshness:
    """How far each topic's tables are behind Kafka."""

    ledger: Ledger
    name: str = "freshness/topics"
    feed: str = "freshness"

    def read(self, first_us: int, last_us: int, longest: timedelta) -> Read:
        """See :class:`Part`; read whole before the first minute is evaluated."""
        known: dict[int, Facts] = {}
        for at_us in range(first_us, last_us + 1, MINUTE):
            known[at_us] = {}
            for topic in TOPICS:
                when, lag, oldest_us = self.ledger.lag(topic, at_us, first_us)
                known[at_us] |= of.freshness(topic, when, lag, oldest_us, contracts()[topic].freshness, at_us)
        return Read(last_us, lambda at_us, _: known[at_us])


@dataclass(frozen=True)
class Made:
    """How old what jobs make is."""

    ask: Ask
    name: str = "freshness/tables"
    feed: str = "freshness"

    def read(self, first_us: int, last_us: int, longest: timedelta) -> Read:
        """See :class:`Part`."""
        asked = [f'select epoch_us(max("{column}")) from {table}' for table, column in _MADE.items()]
        newest = [row[0] for row in self.ask(" union all ".join(f"({one})" for one in asked))]
        return Read(last_us, lambda at_us, _: of.made(dict(zip(_MADE, newest, strict=True)), at_us))


@dataclass(frozen=True)
class Volume:
    """What a topic brought, and brought on the days before, which is read once an hour."""

    topic: str
    ask: Ask
    ledger: Ledger
    feed: str = "volume"
    _past: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """See :class:`Part`."""
        return f"volume/{self.topic}"

    def read(self, first_us: int, last_us: int, longest: timedelta) -> Read:
        """See :class:`Part`."""
        until_us = min(self.ledger.closed_us(self.topic), last_us)
        if until_us < first_us:
            return Read(until_us, lambda at_us, over: {})
        since_us = first_us - longest // timedelta(microseconds=1)
        past = self._read_past(since_us, until_us)
        minutes = past["minutes"] | self._minutes([(since_us, until_us)])
        return Read(until_us, lambda at_us, over: of.volume(self.topic, minutes, past["since_us"], at_us, over))

    def _read_past(self, since_us: int, until_us: int) -> dict[str, Any]:
        known = self._past
        if not known or since_us < known["from"] or until_us > known["to"]:
            begin, end = since_us // HOUR * HOUR, -(-until_us // HOUR) * HOUR
            table, _ = _VOLUME[self.topic]
            first = self.ask(f"select epoch_us(min(window_start)) from {table}")[0][0]
            days = [(begin - day * DAY, end - day * DAY) for day in range(1, DAYS + 1)]
            there = [(start, stop) for start, stop in days if first is not None and stop > first]
            known.update({"from": begin, "to": end, "since_us": first, "minutes": self._minutes(there)})
        return known

    def _minutes(self, spans: list[tuple[int, int]]) -> dict[int, int]:
        table, column = _VOLUME[self.topic]
        one = f"(select epoch_us(window_start) as start, sum({column})::bigint from {table} " + (
            "where window_start >= ? and window_start < ? group by start)"
        )
        if not spans:
            return {}
        rows = self.ask(" union all ".join([one] * len(spans)), [moment(at) for span in spans for at in span])
        return dict(rows)


@dataclass(frozen=True)
class Quality:
    """What became of records."""

    ledger: Ledger
    name: str = "quality"
    feed: str = "quality"

    def read(self, first_us: int, last_us: int, longest: timedelta) -> Read:
        """See :class:`Part`."""
        batches = self.ledger.batches(first_us - longest // timedelta(microseconds=1))
        return Read(last_us, partial(of.quality, batches))


@dataclass(frozen=True)
class Health:
    """How services answer, percentiles among it, which the real-time rules do not have."""

    ask: Ask
    ledger: Ledger
    name: str = "health"
    feed: str = "health"

    def read(self, first_us: int, last_us: int, longest: timedelta) -> Read:
        """See :class:`Part`."""
        until_us = min(self.ledger.closed_us("service-logs"), last_us)
        if until_us < first_us:
            return Read(until_us, lambda at_us, over: {})
        since_us = first_us - (longest + of.BASELINE) // timedelta(microseconds=1)
        rows = self.ask(
            "select epoch_us(window_start), service, requests, errors, p50_ms, p95_ms, p99_ms "
            "from gold.service_health_minute where window_start >= ? and window_start < ?",
            [moment(since_us), moment(until_us)],
        )
        return Read(until_us, partial(of.health, [Minute(*row) for row in rows]))


@dataclass(frozen=True)
class Anomalies:
    """What the stream's detector found."""

    ask: Ask
    name: str = "anomalies"
    feed: str = "anomalies"

    def read(self, first_us: int, last_us: int, longest: timedelta) -> Read:
        """See :class:`Part`."""
        since_us = first_us - longest // timedelta(microseconds=1)
        rows = self.ask(
            "select series, epoch_us(time), score from gold.anomalies where time >= ? and time < ?",
            [moment(since_us), moment(last_us)],
        )
        return Read(last_us, partial(of.anomalies, [Anomaly(*row) for row in rows]))


@dataclass(frozen=True)
class Drift:
    """What jobs last found of the models' inputs: they note it beside what is published, Spark is not asked."""

    settings: Settings
    name: str = "drift"
    feed: str = "drift"

    def read(self, first_us: int, last_us: int, longest: timedelta) -> Read:
        """See :class:`Part`."""
        noted = [
            Finding(model, one["version"], micros(datetime.fromisoformat(one["at"])), one["indices"])
            for model in MODELS
            for one in findings.read(self.settings.published / model)
        ]
        return Read(last_us, lambda at_us, _: of.drift(noted, at_us))


def parts(settings: Settings, ask: Ask, log: Log) -> tuple[Ledger, list[Part]]:
    """All parts, and the ledger that some of them share."""
    ledger = Ledger(ask, log)
    volumes = [Volume(topic, ask, ledger) for topic in TOPICS]
    return ledger, [
        # Quality looks back furthest: what it has read of the ledger is enough for all others.
        Quality(ledger), Freshness(ledger), *volumes, Health(ask, ledger), Made(ask), Anomalies(ask), Drift(settings),
    ]  # fmt: skip
