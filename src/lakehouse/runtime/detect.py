"""The stream's detector: each closed minute of a service or host against what it was before, as one stateful query.

It follows ``_internal.gold_changes`` and ``silver.system_metrics``. The state of a subject is its chart and the minutes that are not closed yet;
Spark keeps it with the checkpoint, so a batch that is done again says the same again. A minute is closed once the
batch before knew a later one of its subject: what still comes for it then changes gold, but not the verdict.
"""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.state import GroupState, GroupStateTimeout

from lakehouse import alerts
from lakehouse.gold import anomalies
from lakehouse.predict import Champion, PredictError
from lakehouse.predict.chart import THRESHOLD, Chart, Limits, Observation
from lakehouse.runtime.checkpoints import Since
from lakehouse.runtime.effects import perform
from lakehouse.runtime.fanout import Following, follow
from lakehouse.runtime.fused import arrow
from lakehouse.runtime.ledger import CHANGES
from lakehouse.settings import Settings
from lakehouse.sinks.analysis import put
from lakehouse.sources.topics import NOTIFICATIONS, producer

QUERY = "anomalies"
MEASURES: Mapping[str, tuple[str, ...]] = {
    "service": ("error_rate", "p95_ms"),
    "host": ("system.cpu.total.norm.pct", "system.filesystem.used.pct", "system.memory.actual.used.pct"),
}
"""What is watched together, of each service in gold.service_health_minute (more requests are no trouble by themselves)
and the averages of each host in gold.host_utilization_minute."""
FEWEST = 20
"""Requests of a minute below which its error rate and percentiles say nothing."""
UNTRAINED = "untrained"
"""The version of what is said before the first champion."""
RECENT = 720
"""Minutes that are kept, for another version to learn from."""
ONE_INCIDENT = 15
"""Minutes without an alarm after which another one of a series begins something new, which is told."""
LATELY = 3
"""Minutes that the recent mean of a chart is about."""
TELLING = 3.0
"""Deviations from which a measure is named in an alarm, beside the one that deviates most."""
MINUTE_S = 60
_FOUND = (
    "series string, time timestamp, value double, expected double, score double, model_version string, begins boolean"
)
_log = logging.getLogger("lakehouse.anomalies")


def services(changes: DataFrame) -> DataFrame:
    """Rows of gold_changes -> (subject, measure, minute, seq, value) of services' minutes with FEWEST requests.

    ``subject`` is ``service/<name>``, ``minute`` counts from 1970; of equal ones that of the highest ``seq`` is valid.
    """
    measures = MEASURES["service"]
    row = F.from_json(
        "row", f"window_start timestamp, service string, requests bigint, {', '.join(f'{m} double' for m in measures)}"
    )
    each = F.array(*[F.struct(F.lit(m).alias("measure"), F.col(f"row.{m}").alias("value")) for m in measures])
    return (
        changes.where(F.col("table") == "gold.service_health_minute")
        .select("seq", row.alias("row"))
        .where(F.col("row.requests") >= FEWEST)
        .select(
            F.concat(F.lit("service/"), "row.service").alias("subject"),
            _minute("row.window_start"), "seq", F.explode(each).alias("one"),
        )
        .select("subject", "one.measure", "minute", "seq", "one.value")
        .where("value is not null")
    )  # fmt: skip


def hosts(system_metrics: DataFrame) -> DataFrame:
    """silver.system_metrics -> (subject, measure, minute, seq, value), a row a sample, of which a minute's mean counts.

    gold_changes has no row of gold.host_utilization_minute, which no store mirrors; ``seq`` is -1.
    """
    return system_metrics.where(F.col("metric").isin(*MEASURES["host"])).select(
        F.concat(F.lit("host/"), "host").alias("subject"), F.col("metric").alias("measure"), _minute("time"),
        F.lit(-1).cast("bigint").alias("seq"), "value",
    )  # fmt: skip


def _minute(time: str) -> Column:
    return F.floor(F.unix_seconds(F.col(time)) / MINUTE_S).alias("minute")


class Alarm(NamedTuple):
    """One measure of a closed minute with an alarm; ``begins``: the measure's first for a while."""

    measure: str
    minute: int
    value: float
    expected: float
    score: float
    begins: bool


@dataclass
class Subject:
    """What is known of one service or host."""

    measures: tuple[str, ...]
    version: str = ""
    chart: bytes | None = None
    newest: int = -1
    """The newest minute of the batches before."""
    closed: int = -1
    pending: dict[int, dict[str, tuple[int, float]]] = field(default_factory=dict)
    """Minute -> measure -> (seq, value) of the minutes that are not closed; of means (-number of samples, mean)."""
    recent: list[tuple[int, list[float]]] = field(default_factory=list)
    alarmed: dict[str, int] = field(default_factory=dict)
    """Measure -> the last minute with an alarm."""

    def fold(self, rows: Iterable[tuple[str, int, int, float]], version: str, limits: Limits) -> list[Alarm]:
        """Take (measure, minute, seq, value), a sample where ``seq`` is -1; the alarms of all minutes that close now."""
        newest = self.newest
        for measure, minute, seq, value in rows:
            newest = max(newest, minute)
            if minute > self.closed and measure in self.measures:
                known = self.pending.setdefault(minute, {})
                before, mean = known.get(measure, (0, 0.0))
                if seq < 0:
                    known[measure] = (before - 1, mean + (value - mean) / (1 - before))
                elif seq >= before:
                    known[measure] = (seq, value)
        chart = self._chart(version, limits)
        found: list[Alarm] = []
        for minute in sorted(m for m in self.pending if m < self.newest):
            known = self.pending.pop(minute)
            values = [known[measure][1] if measure in known else math.nan for measure in self.measures]
            seen = chart.step(minute * MINUTE_S, values)
            self.closed = minute
            self.recent.append((minute, values))
            if seen.score >= THRESHOLD:
                found += self._alarms(minute, values, seen)
        del self.recent[:-RECENT]
        self.newest, self.chart = newest, chart.state()
        return found

    def _alarms(self, minute: int, values: list[float], seen: Observation) -> Iterator[Alarm]:
        sizes = np.nan_to_num(np.abs(seen.deviations))
        # Where the minute itself is not far off, the alarm is for those just before.
        lately = [minute - self.alarmed.get(measure, -ONE_INCIDENT) <= LATELY for measure in self.measures]
        least = TELLING if sizes.max() >= TELLING or any(lately) else sizes.max()
        for place, measure in enumerate(self.measures):
            told = sizes[place] >= least or (lately[place] and sizes.max() < TELLING)
            if told and math.isfinite(values[place]):
                begins = minute - self.alarmed.get(measure, -ONE_INCIDENT) >= ONE_INCIDENT
                self.alarmed[measure] = minute
                yield Alarm(measure, minute, values[place], float(seen.expected[place]), seen.score, begins)

    def _chart(self, version: str, limits: Limits) -> Chart:
        if version == self.version and self.chart is not None:
            return Chart(len(self.measures), limits, self.chart)
        self.version, fresh = version, Chart(len(self.measures), limits)
        for minute, values in self.recent:
            fresh.step(minute * MINUTE_S, values)
        return fresh


def limits(manifest: dict[str, Any], _: dict[str, Any]) -> tuple[str, Limits]:
    """A published version's name and its charts' limits."""
    return manifest["version"], Limits(**manifest["limits"])


_champions: dict[Path, Champion[tuple[str, Limits]]] = {}


def champion(folder: Path) -> tuple[str, Limits]:
    """What answers now, for this worker; charts with their stock limits before the first version."""
    follower = _champions.setdefault(folder, Champion(folder, limits))
    try:
        return follower.look() or (UNTRAINED, Limits())
    except PredictError as error:
        _log.error("%s", error)
        return UNTRAINED, Limits()


def subject(name: str) -> Subject:
    """Nothing known yet of ``service/<name>`` or ``host/<name>``."""
    return Subject(MEASURES[name.partition("/")[0]])


def judge(key: tuple[str], parts: Iterable[pd.DataFrame], state: GroupState, folder: Path) -> Iterator[pd.DataFrame]:
    """The stateful function of one subject; rows of gold.anomalies with ``begins``."""
    known: Subject = pickle.loads(state.get[0]) if state.exists else subject(key[0])
    version, now = champion(folder)
    columns = ["measure", "minute", "seq", "value"]
    rows = (row for part in parts for row in part[columns].itertuples(index=False, name=None))
    found = known.fold(rows, version, now)
    state.update((pickle.dumps(known),))
    yield frame(key[0], found, version)


def frame(name: str, found: list[Alarm], version: str) -> pd.DataFrame:
    """Alarms of a subject as rows of gold.anomalies with ``begins``."""
    return pd.DataFrame(
        {
            "series": [f"{name}/{alarm.measure}" for alarm in found],
            "time": pd.to_datetime([alarm.minute * MINUTE_S for alarm in found], unit="s"),
            "value": [alarm.value for alarm in found],
            "expected": [alarm.expected for alarm in found],
            "score": [alarm.score for alarm in found],
            "model_version": version,
            "begins": [alarm.begins for alarm in found],
        }
    )


def detect(spark: SparkSession, settings: Settings, since: Since) -> Following:
    """The query: its source, and what is done with what it finds: table, Elasticsearch, then whoever is to be told."""
    found = (
        services(follow(spark, settings, CHANGES.name, since))
        .unionByName(hosts(follow(spark, settings, "silver.system_metrics", since)))
        .groupBy("subject")
        .applyInPandasWithState(
            partial(judge, folder=settings.published / "anomaly"),
            _FOUND, "subject binary", "append", GroupStateTimeout.NoTimeout,
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
