"""The stream's detector: each closed minute of gold against what its series was before, as one stateful query.

It follows ``_internal.gold_changes``. The state of a series is its detector and the minutes that are not closed yet;
Spark keeps it with the checkpoint, so a batch that is done again says the same again. A minute is closed once the
batch before knew a later one of its series: what still comes for it then changes gold, but not the verdict.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.state import GroupState, GroupStateTimeout

from lakehouse import alerts
from lakehouse.gold import anomalies
from lakehouse.predict import Champion, PredictError
from lakehouse.predict.anomaly import THRESHOLD, Detector, Tuning
from lakehouse.runtime.checkpoints import Since
from lakehouse.runtime.effects import perform
from lakehouse.runtime.fanout import Following, follow
from lakehouse.runtime.fused import arrow
from lakehouse.runtime.ledger import CHANGES
from lakehouse.settings import Settings
from lakehouse.sinks.analysis import put
from lakehouse.sources.topics import NOTIFICATIONS, producer

QUERY = "anomalies"
MEASURES = ("requests", "error_rate", "p95_ms")
"""Of gold.service_health_minute; of gold.host_utilization_minute it is the average of every share, ``*.pct``."""
UNTRAINED = "untrained"
"""The version of what the detector says before the first champion."""
RECENT = 720
"""Minutes of a series that are kept, for the detector of another version to learn from."""
MINUTE_S = 60
_FOUND = f"{anomalies.TABLE.schema.simpleString()[len('struct<') : -1].replace(':', ' ')}, begins boolean"
_log = logging.getLogger("lakehouse.anomalies")


def values(changes: DataFrame) -> DataFrame:
    """Rows of gold_changes -> (series, minute, seq, value), ``minute`` in minutes since 1970."""
    row = F.from_json(
        "row",
        "window_start timestamp, service string, host string, metric string, avg double, requests double, "
        "error_rate double, p95_ms double",
    )
    read = changes.where(F.col("table").isin("gold.service_health_minute", "gold.host_utilization_minute")).select(
        "seq", row.alias("row")
    )
    service = F.array(
        *[
            F.struct(F.concat(F.lit("service/"), "row.service", F.lit(f"/{name}")), F.col(f"row.{name}"))
            for name in MEASURES
        ]
    )
    host = F.array(F.struct(F.concat_ws("/", F.lit("host"), "row.host", "row.metric"), F.col("row.avg")))
    of = F.when(F.col("row.service").isNotNull(), service).when(F.col("row.metric").endswith(".pct"), host)
    flat = read.select("seq", F.col("row.window_start").alias("at"), F.explode(of).alias("one"))
    minute = (F.unix_seconds("at") / MINUTE_S).cast("bigint").alias("minute")
    return flat.select(F.col("one.col1").alias("series"), minute, "seq", F.col("one.col2").alias("value")).where(
        "value is not null"
    )


@dataclass
class Series:
    """What is known of one series."""

    version: str = ""
    detector: bytes | None = None
    newest: int = -1
    """The newest minute of the batches before."""
    closed: int = -1
    pending: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Minute -> (seq, value) of those that are not closed."""
    recent: list[tuple[int, float]] = field(default_factory=list)
    alarmed: int = -(10**9)
    """The last minute with an alarm."""

    def fold(
        self, rows: Iterable[tuple[int, int, float]], version: str, tuning: Tuning
    ) -> list[tuple[int, float, float, float, bool]]:
        """Take (minute, seq, value); (minute, value, expected, score, begins) of every closed minute with an alarm."""
        newest = self.newest
        for minute, seq, value in rows:
            newest = max(newest, minute)
            if minute > self.closed and seq >= self.pending.get(minute, (-1, 0.0))[0]:
                self.pending[minute] = (seq, value)
        detector = self._detector(version, tuning)
        found = []
        for minute in sorted(m for m in self.pending if m < self.newest):
            _, value = self.pending.pop(minute)
            score, expected, _ = detector.step(minute * MINUTE_S, value)
            self.closed = minute
            self.recent.append((minute, value))
            if score >= THRESHOLD:
                found.append((minute, value, expected, score, minute - self.alarmed > ONE_INCIDENT))
                self.alarmed = minute
        del self.recent[:-RECENT]
        self.newest, self.detector = newest, detector.state()
        return found

    def _detector(self, version: str, tuning: Tuning) -> Detector:
        if version == self.version and self.detector is not None:
            return Detector(tuning, self.detector)
        self.version, fresh = version, Detector(tuning)
        for minute, value in self.recent:
            fresh.step(minute * MINUTE_S, value)
        return fresh


ONE_INCIDENT = 30
"""Minutes without an alarm after which another one of a series begins something new, which is told."""


def tuning(manifest: dict[str, Any], _: dict[str, Any]) -> tuple[str, Tuning]:
    """A published version's name and parameters."""
    return manifest["version"], Tuning(**manifest["tuning"])


_champions: dict[Path, Champion[tuple[str, Tuning]]] = {}


def champion(folder: Path) -> tuple[str, Tuning]:
    """What answers now, for this worker; the untrained detector before the first version."""
    follower = _champions.setdefault(folder, Champion(folder, tuning))
    try:
        return follower.look() or (UNTRAINED, MINUTES)
    except PredictError as error:
        _log.error("%s", error)
        return UNTRAINED, MINUTES


MINUTES = Tuning(rest=15)
"""For minutes of a service, where an alarm is to come again when trouble does."""


def judge(key: tuple[str], parts: Iterable[pd.DataFrame], state: GroupState, folder: Path) -> Iterator[pd.DataFrame]:
    """The stateful function of one series; rows of gold.anomalies with ``begins``, whether an incident does."""
    known: Series = pickle.loads(state.get[0]) if state.exists else Series()
    version, parameters = champion(folder)
    rows = (row for part in parts for row in part[["minute", "seq", "value"]].itertuples(index=False, name=None))
    found = known.fold(rows, version, parameters)
    state.update((pickle.dumps(known),))
    yield pd.DataFrame(
        {
            "series": key[0],
            "time": pd.to_datetime([minute * MINUTE_S for minute, *_ in found], unit="s"),
            **{name: [row[place] for row in found] for place, name in ((1, "value"), (2, "expected"), (3, "score"))},
            "model_version": version,
            "begins": [row[4] for row in found],
        }
    )


def detect(spark: SparkSession, settings: Settings, since: Since) -> Following:
    """The query: its source, and what is done with what it finds: table, Elasticsearch, then whoever is to be told."""
    changes = follow(spark, settings, CHANGES.name, since)
    found = (
        values(changes)
        .groupBy("series")
        .applyInPandasWithState(
            partial(judge, folder=settings.published / "anomaly"),
            _FOUND, "series binary", "append", GroupStateTimeout.NoTimeout,
        )
    )  # fmt: skip
    told = alerts.read()

    def write(batch: DataFrame, _: int) -> None:
        rows = arrow(batch)
        if rows.num_rows:
            perform(QUERY, anomalies.TABLE.name, lambda: rows, lambda rows: announce(settings, told, rows))

    return found, write


def announce(settings: Settings, rules: alerts.Alerts, rows: pa.Table) -> None:
    """Rows into table and index; then notifications of those that begin something, which their ids make one each."""
    put(settings, anomalies.TABLE, rows)
    now = datetime.now(UTC)
    told = [document for row in rows.to_pylist() if row["begins"] for document in tell(rules, row, now)]
    if told:
        sender = producer(settings)
        for document in told:
            sender.produce(NOTIFICATIONS, value=orjson.dumps(document), key=document["user_id"].encode())
        if sender.flush(30):
            raise TimeoutError("Kafka has not acknowledged notifications within 30 s")


def tell(rules: alerts.Alerts, row: dict[str, Any], now: datetime) -> Iterator[dict[str, Any]]:
    """The notifications of an anomaly that begins something, as topic ``notifications`` has them.

    Their ids are the same if they are made again; what is a day old is kept, but told to nobody.
    """
    kind, name, measure = row["series"].split("/", 2)
    facts = {
        "series": row["series"], "kind": kind, "name": name, "measure": measure,
        **{field: row[field] for field in ("value", "expected", "score")},
    }  # fmt: skip
    at_us = round(row["time"].timestamp() * 1e6) + MINUTE_S * 1_000_000
    for rule in rules.rules:
        if rule.on == "anomaly" and alerts.matches(rule, facts):
            made = alerts.notification(rule, facts, row["series"], at_us)
            if made:
                quiet = alerts.quiet(rules.quiet_hours, made.severity, at_us)
                yield {**made.document(), "quiet": quiet, "suppressed": now - row["time"] > timedelta(days=1)}
