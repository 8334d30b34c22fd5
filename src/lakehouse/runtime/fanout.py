"""Fan-out to stores by ``foreachBatch``: one query a store, each behind the tables with its own progress.

Every query follows append-only tables: silver, and ``_internal.gold_changes``, which holds each gold row as a batch
left it. A store that is down stops its own query, which is started again with growing pauses; nothing else waits.
Progress is written to the store itself, after the documents.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import orjson
import pyarrow as pa
from deltalake import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from lakehouse.flows import STORES, TABLES
from lakehouse.runtime.checkpoints import Since
from lakehouse.runtime.effects import perform
from lakehouse.runtime.fused import arrow, row_key
from lakehouse.runtime.ledger import CHANGES
from lakehouse.settings import Settings
from lakehouse.sinks import elasticsearch as es
from lakehouse.sinks.elasticsearch import ElasticsearchSink
from lakehouse.sinks.mongo import COLLECTIONS, MongoSink
from lakehouse.sinks.redis import NEWEST_ROWS, RedisSink
from lakehouse.sources.datasets import pruned_dataset
from lakehouse.sources.lake import Lake

MAX_BYTES_PER_TRIGGER = "8m"
SILVER_INDEX = {"silver.service_logs": es.LOGS, "silver.system_metrics": es.METRICS}
FOLLOWED = (CHANGES.name, *SILVER_INDEX)
"""The tables that fan-out queries follow."""
HEALTH_TABLE = "gold.service_health_minute"


Following = tuple[DataFrame, Callable[[DataFrame, int], None]]
"""A store's source and its ``foreachBatch``."""


class Store(Protocol):
    """What the fan-out needs of every sink."""

    def progress(self) -> dict[str, Any]:
        """How far the fan-out is: changes by topic, silver rows by table and partition."""

    def advance(self, progress: dict[str, Any]) -> None:
        """Record progress."""


def follow(spark: SparkSession, settings: Settings, table: str, since: Since) -> DataFrame:
    """A table's appended rows; rewritten files (recovery, erasure) are passed over."""
    reader = (
        spark.readStream.format("delta")
        .option("maxBytesPerTrigger", MAX_BYTES_PER_TRIGGER)
        .option("skipChangeCommits", "true")
    )
    if table in since:
        reader = reader.option("startingVersion", since[table])
    return reader.load(settings.table_uri(table))


def _json(columns: dict[str, Column]) -> Column:
    """One JSON object of the columns, nulls left out; times with microseconds and Z."""
    options = {"timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'", "ignoreNullFields": "true"}
    return F.to_json(F.struct(*[column.alias(name) for name, column in columns.items()]), options)


def _source(rescued: Column | None = None) -> Column:
    fields = [F.col("topic"), F.col("partition"), F.col("offset")]
    return F.struct(*fields, *([rescued.alias("rescued")] if rescued is not None else []))


def log_documents(silver: DataFrame) -> DataFrame:
    """silver.service_logs -> (table, topic, partition, offset, id, body)."""
    nested = ("message", "log", "service", "host", "trace", "http", "event", "url", "error")
    body = _json(
        {"@timestamp": F.col("time"), **{n: F.col(n) for n in nested}, "lakehouse": _source(F.col("_rescued"))}
    )
    return _documents(silver, "silver.service_logs", F.col("event_id"), body)


def metric_documents(silver: DataFrame) -> DataFrame:
    """silver.system_metrics -> (table, topic, partition, offset, id, body), one document a sample."""
    body = _json(
        {
            "@timestamp": F.col("time"),
            "host": F.struct(F.col("host").alias("name")),
            "metric": F.col("metric"),
            "value": F.col("value"),
            "dimensions": F.col("dimensions"),
            "lakehouse": _source(),
        }
    )
    return _documents(silver, "silver.system_metrics", F.concat_ws(":", "record_id", "metric"), body)


def _documents(silver: DataFrame, table: str, identity: Column, body: Column) -> DataFrame:
    return silver.select(
        F.lit(table).alias("table"), "topic", "partition", "offset", identity.alias("id"), body.alias("body"),
        F.lit(None).cast("bigint").alias("version"),
    )  # fmt: skip


def _changes(spark: SparkSession, settings: Settings, since: Since) -> DataFrame:
    """gold_changes in the shape of documents: ``offset`` is the batch's seq, ``partition`` -1."""
    return follow(spark, settings, CHANGES.name, since).select(
        "table", "topic", F.lit(-1).alias("partition"), F.col("seq").alias("offset"), F.col("key").alias("id"),
        F.col("row").alias("body"), "version",
    )  # fmt: skip


def _advance(store: Store, query: str, rows: pa.Table) -> None:
    progress = store.progress()
    marks = rows.group_by(["table", "topic", "partition"]).aggregate([("offset", "max")]).to_pylist()
    for mark in marks:
        if mark["partition"] < 0:
            place, name = progress["changes"], mark["topic"]
        else:
            place, name = progress["silver"].setdefault(mark["table"], {}), str(mark["partition"])
        place[name] = max(place.get(name, 0), mark["offset_max"])
    perform(query, "progress", lambda: progress, store.advance)


def _newest(rows: pa.Table) -> dict[str, dict[str, tuple[int, str]]]:
    """table -> key -> (version, row) with only the newest version of each key."""
    newest: dict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
    for row in rows.filter(pa.compute.is_valid(rows.column("body"))).to_pylist():
        known = newest[row["table"]].get(row["id"])
        if known is None or known[0] <= row["version"]:
            newest[row["table"]][row["id"]] = (row["version"], row["body"])
    return newest


def mongodb(spark: SparkSession, settings: Settings, since: Since) -> Following:
    """The MongoDB query: its source and its ``foreachBatch``."""
    sink = MongoSink(settings)

    def write(batch: DataFrame, _: int) -> None:
        rows = arrow(batch)
        if not rows.num_rows:
            return
        for table, keys in _newest(rows).items():
            if table not in COLLECTIONS:
                continue
            documents = [(key, version, orjson.loads(text)) for key, (version, text) in keys.items()]
            half = len(documents) // 2
            perform(
                "mongodb",
                COLLECTIONS[table],
                lambda t=table, d=documents[:half]: sink.upsert(TABLES[t], d),  # type: ignore[misc]
                lambda _, t=table, d=documents[half:]: sink.upsert(TABLES[t], d),  # type: ignore[misc]
            )
        _advance(sink, "mongodb", rows)

    return _changes(spark, settings, since), write


def newest_rows(table: str, handle: DeltaTable) -> list[dict[str, Any]]:
    """The newest rows of a gold table: window or date descending, then the other key columns ascending."""
    key, *others = TABLES[table].key
    files = pa.table(handle.get_add_actions(flatten=True)).to_pylist()
    data = pruned_dataset(handle)
    # Only the newest files that together hold enough rows are read, and what else lies in their span of time.
    condition, lowest, enough = None, None, 0
    bound = f"max.{key}"
    if files and all(bound in f for f in files):
        for file in sorted(files, key=lambda f: str(f[bound]), reverse=True):
            enough += file["num_records"]
            low = file[f"min.{key}"]
            lowest = low if lowest is None else min(lowest, low)
            if enough >= NEWEST_ROWS:
                kind = data.schema.field(key).type
                condition = pa.compute.field(key) >= pa.scalar(lowest, pa.scalar(lowest).type).cast(kind)
                break
    rows = data.to_table(filter=condition)
    order = [(key, "descending"), *((name, "ascending") for name in others)]
    return rows.sort_by(order).slice(0, NEWEST_ROWS).to_pylist()  # type: ignore[no-any-return]


def redis(spark: SparkSession, settings: Settings, since: Since) -> Following:
    """The Redis query: its source and its ``foreachBatch``."""
    sink, lake = RedisSink(settings), Lake(settings)
    handles: dict[str, DeltaTable] = {}

    def newest(table: str) -> tuple[int, list[dict[str, Any]]]:
        # Opening a table reads its log from the last checkpoint on; going on from where it was costs a thirtieth.
        if table in handles:
            handles[table].update_incremental()
        else:
            handles[table] = lake.table(table)
        return handles[table].version(), newest_rows(table, handles[table])

    def write(batch: DataFrame, _: int) -> None:
        rows = arrow(batch.groupBy("table", "topic", "partition").agg(F.max("offset").alias("offset")))
        for table in sorted(set(rows.column("table").to_pylist())):
            at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

            def commit(latest: tuple[int, list[dict[str, Any]]], table: str = table, at: str = at) -> None:
                sink.put_latest(table, latest[0], at, latest[1])

            perform("redis", table, partial(newest, table), commit)
        if rows.num_rows:
            _advance(sink, "redis", rows)

    return _changes(spark, settings, since), write


def elasticsearch(spark: SparkSession, settings: Settings, since: Since) -> Following:
    """The Elasticsearch query: its source (logs, metrics and changes in one) and its ``foreachBatch``."""
    sink = ElasticsearchSink(settings)
    sink.prepare()

    def put(index: str, documents: list[tuple[str, bytes, int | None]]) -> None:
        half = len(documents) // 2
        perform(
            "elasticsearch",
            index,
            lambda: sink.index(index, documents[:half]),
            lambda _: sink.index(index, documents[half:]),
        )

    def write(batch: DataFrame, _: int) -> None:
        rows = arrow(batch)
        if not rows.num_rows:
            return
        for table, index in SILVER_INDEX.items():
            part = rows.filter(pa.compute.equal(rows.column("table"), table))
            if part.num_rows:
                pairs = zip(part.column("id").to_pylist(), part.column("body").to_pylist(), strict=True)
                put(index, [(identity, body.encode(), None) for identity, body in pairs])
        changes = rows.filter(pa.compute.equal(rows.column("table"), HEALTH_TABLE))
        for keys in _newest(changes).values():
            put(
                es.HEALTH,
                [
                    (key, orjson.dumps({**orjson.loads(text), "version": version}), version)
                    for key, (version, text) in keys.items()
                ],
            )
        _advance(sink, "elasticsearch", rows)

    logs = log_documents(follow(spark, settings, "silver.service_logs", since))
    metrics = metric_documents(follow(spark, settings, "silver.system_metrics", since))
    return logs.unionByName(metrics).unionByName(_changes(spark, settings, since)), write


def drop(settings: Settings, vanished: Mapping[str, list[dict[str, Any]]]) -> None:
    """Take gold rows that are no longer there out of the stores that mirror them; by table the rows as they were."""
    for one in STORES:
        rows = vanished.get(one.table)
        if not rows or one.store not in settings.stream.stores or one.store == "redis":
            continue
        keys = [
            row_key(orjson.loads(orjson.dumps(row, option=orjson.OPT_UTC_Z)), TABLES[one.table].key) for row in rows
        ]
        if one.store == "mongodb":
            MongoSink(settings).delete(one.table, keys)
        else:
            ElasticsearchSink(settings).delete(one.name, keys)


FANOUT: dict[str, Callable[[SparkSession, Settings, Since], Following]] = {
    "mongodb": mongodb,
    "redis": redis,
    "elasticsearch": elasticsearch,
}
