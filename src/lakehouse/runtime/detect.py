"""The stream's detector: each minute of a service, a host and a log against what it was before, as one stateful query.

It follows ``_internal.gold_changes``, ``silver.system_metrics`` and ``silver.service_logs``. The state of a subject
(``predict/watch.py``) is what it has learnt and the minutes that are not over; Spark keeps it with the checkpoint, so a
batch that is done again says the same again. A minute is over once the batch before knew a later one of its subject, or
this one knows much later ones: what still comes for it then changes gold, but not the verdict.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.state import GroupState, GroupStateTimeout

from lakehouse import alerts
from lakehouse.gold import anomalies
from lakehouse.predict import Champion, PredictError
from lakehouse.predict.watch import FEWEST, MEASURES, MINUTE_S, Alarm, Lines, Record, Version, Watched, watch
from lakehouse.runtime.checkpoints import Since
from lakehouse.runtime.effects import perform
from lakehouse.runtime.fanout import Following, follow
from lakehouse.runtime.fused import arrow
from lakehouse.runtime.ledger import CHANGES
from lakehouse.settings import Settings
from lakehouse.sinks.analysis import put
from lakehouse.sources.topics import NOTIFICATIONS, Outbox, producer

QUERY = "anomalies"
TEXT_KEPT = 200
"""Characters of a template in the name of a series."""
FOUND = (
    "series string, time timestamp, value double, expected double, score double, model_version string, begins boolean"
)
"""The columns of :func:`rows`."""
_log = logging.getLogger("lakehouse.anomalies")


def services(changes: DataFrame) -> DataFrame:
    """Rows of gold_changes -> those of :func:`service_minutes` with their ``seq``, the highest of which is valid."""
    measures = ", ".join(f"{measure} double" for measure in MEASURES["service"])
    row = F.from_json("row", f"window_start timestamp, service string, requests bigint, {measures}")
    read = changes.where(F.col("table") == "gold.service_health_minute").select("seq", row.alias("row"))
    return service_minutes(read.select("seq", "row.*"), "seq")


def service_minutes(service_health: DataFrame, *carried: str) -> DataFrame:
    """gold.service_health_minute -> (subject, measure, minute, value) of minutes with FEWEST requests.

    ``subject`` is ``service/<name>``, ``minute`` counts from 1970; columns ``carried`` come along.
    """
    each = F.array(*[F.struct(F.lit(m).alias("measure"), F.col(m).alias("value")) for m in MEASURES["service"]])
    return (
        service_health.where(F.col("requests") >= FEWEST)
        .select(
            F.concat(F.lit("service/"), "service").alias("subject"),
            _minute("window_start"), *carried, F.explode(each).alias("one"),
        )
        .select("subject", "one.measure", "minute", *carried, "one.value")
        .where("value is not null")
    )  # fmt: skip


def hosts(system_metrics: DataFrame) -> DataFrame:
    """silver.system_metrics -> (subject, measure, minute, seq, value), a row a sample, of which a minute's mean counts.

    Not gold.host_utilization_minute, which means over all file systems, whichever of them reported in a minute; of them
    only that of ``/`` is watched. ``seq`` is -1.
    """
    mount = F.coalesce(F.col("dimensions")["system.filesystem.mount_point"], F.lit("/"))
    return system_metrics.where(F.col("metric").isin(*MEASURES["host"]) & (mount == "/")).select(
        F.concat(F.lit("host/"), "host").alias("subject"), F.col("metric").alias("measure"), _minute("time"),
        F.lit(-1).cast("bigint").alias("seq"), "value",
    )  # fmt: skip


def _minute(time: str) -> Column:
    return F.floor(F.unix_seconds(F.col(time)) / MINUTE_S).alias("minute")


def lines(service_logs: DataFrame, folder: Path) -> DataFrame:
    """silver.service_logs -> (subject, measure, minute, seq, value): lines of a template, counted by part.

    ``measure`` is the template by the champion in ``folder``, else the line with its values masked.
    """
    found: DataFrame = (
        service_logs.where("message is not null")
        .select(
            F.concat(F.lit("logs/"), F.coalesce("service.name", F.lit("unknown"))).alias("subject"),
            _minute("time"), F.col("message").alias("line"),
        )
        .mapInPandas(partial(_counted, folder=folder), "subject string, measure string, minute bigint, value double")
        .withColumn("seq", F.lit(-1).cast("bigint"))
    )  # fmt: skip
    return found


def _counted(parts: Iterator[pd.DataFrame], folder: Path) -> Iterator[pd.DataFrame]:
    version = champion(folder)
    for part in parts:
        part["measure"] = [version.template(line)[:TEXT_KEPT] for line in part["line"]]
        counts = part.groupby(["subject", "measure", "minute"]).size()
        yield counts.astype("float64").rename("value").reset_index()


_champions: dict[Path, Champion[Version]] = {}
_STOCK = Version()


def champion(folder: Path) -> Version:
    """What answers now, for this worker; stock charts before the first version."""
    follower = _champions.setdefault(folder, Champion(folder, Version))
    try:
        return follower.look() or _STOCK
    except PredictError as error:
        _log.error("%s", error)
        return _STOCK


def judge(key: tuple[str], parts: Iterable[pd.DataFrame], state: GroupState, folder: Path) -> Iterator[pd.DataFrame]:
    """The stateful function of one subject; rows of gold.anomalies with ``begins``."""
    known: Watched | Lines = pickle.loads(state.get[0]) if state.exists else watch(key[0])
    version = champion(folder)
    found = known.fold((record for part in parts for record in records(part)), version)
    state.update((pickle.dumps(known),))
    if found:
        yield rows(key[0], found, version.version)


def records(part: pd.DataFrame) -> Iterator[Record]:
    """The records of a frame with the columns measure, minute, seq and value."""
    return part[["measure", "minute", "seq", "value"]].itertuples(index=False, name=None)


def rows(subject: str, found: list[Alarm], version: str) -> pd.DataFrame:
    """Alarms of a subject as rows of gold.anomalies with ``begins``."""
    return pd.DataFrame(
        {
            # The type is said, for where there is none: Spark takes no numbers for texts.
            "series": pd.Series([f"{subject}/{alarm.measure}" for alarm in found], dtype=object),
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
    folder = settings.published / "anomaly"
    found = (
        services(follow(spark, settings, CHANGES.name, since))
        .unionByName(hosts(follow(spark, settings, "silver.system_metrics", since)))
        .unionByName(lines(follow(spark, settings, "silver.service_logs", since), folder))
        .groupBy("subject")
        .applyInPandasWithState(
            partial(judge, folder=folder),
            FOUND, "subject binary", "append", GroupStateTimeout.NoTimeout,
        )
    )  # fmt: skip
    told = alerts.read()

    def write(batch: DataFrame, _: int) -> None:
        alarms = arrow(batch)
        if alarms.num_rows:
            perform(QUERY, anomalies.TABLE.name, lambda: alarms, lambda alarms: announce(settings, told, alarms))

    return found, write


def announce(settings: Settings, rules: alerts.Alerts, alarms: pa.Table) -> None:
    """Rows into table and index; then notifications of those that begin something, which their ids make one each."""
    put(settings, anomalies.TABLE, alarms)
    now = datetime.now(UTC)
    told = [document for row in alarms.to_pylist() if row["begins"] for document in tell(rules, row, now)]
    if told:
        outbox = Outbox(producer(settings))
        for document in told:
            outbox.send(NOTIFICATIONS, document["user_id"].encode(), orjson.dumps(document))
        outbox.finish()


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
