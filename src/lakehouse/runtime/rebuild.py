"""Batch twins: a gold or silver table, quarantine, or a store, filled again from what lies before it.

The stream must not run meanwhile (both take the same lock). A rebuilt table is swapped in by one commit and recorded
in the ledger like a batch without records, so that cuts, recovery and audit go on from it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from lakehouse.contracts import contracts
from lakehouse.flows import FLOWS, TABLES, Flow
from lakehouse.gold import trending_posts
from lakehouse.runtime import fanout
from lakehouse.runtime.checkpoints import Generation
from lakehouse.runtime.fold import Buckets
from lakehouse.runtime.fused import Progress, arrow, changed_rows, row_key
from lakehouse.runtime.ledger import CHANGES, LEDGER
from lakehouse.runtime.recovery import create_tables, roll_back
from lakehouse.runtime.separate import silver_rows
from lakehouse.session import spark_session
from lakehouse.settings import Settings
from lakehouse.silver import quarantine
from lakehouse.sinks.delta import DeltaWriter, Storage
from lakehouse.sinks.elasticsearch import HEALTH, ElasticsearchSink
from lakehouse.sinks.mongo import COLLECTIONS, MongoSink
from lakehouse.sinks.redis import RedisSink
from lakehouse.sources.lake import Lake


class RebuildError(Exception):
    """A rebuild can't be done; the message says what to do first."""


@contextmanager
def only_writer(settings: Settings, who: str) -> Iterator[None]:
    """Held by whoever writes tables from this machine: the stream or a rebuild.

    Raises:
        RebuildError: somebody else holds it.
    """
    path = settings.home / "writer.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RebuildError(
                f"{file.read().strip() or 'another process'} is writing the tables: `lakehouse down`, then "
                "`lakehouse up --servers`, and again"
            ) from None
        file.truncate(0)
        file.write(who)
        file.flush()
        yield


def rebuild(settings: Settings, table: str | None = None, store: str | None = None) -> dict[str, Any]:
    """Fill a table (``gold.*``, ``silver.*``) or a store again; what was done.

    Raises:
        RebuildError: the name is unknown, or the stream is running.
    """
    if (table is None) == (store is None):
        raise RebuildError("name a table or --store, one of the two")
    if store is not None and store not in settings.stream.stores:
        raise RebuildError(f"{store}: not a store; one of {', '.join(settings.stream.stores)}")
    flows = [f for f in FLOWS if table in {t.name for t in (f.silver, quarantine.TABLE, *f.gold_tables)}]
    if table is not None and not flows:
        raise RebuildError(
            f"{table}: can't be rebuilt; silver and gold tables can, bronze and ops are the record itself"
        )
    with only_writer(settings, "lakehouse rebuild"):
        spark = spark_session(settings, "lakehouse-rebuild")
        lake = Lake(settings)
        storage = Storage(spark, settings.home / "tmp")
        if store is not None:
            return {store: _store(settings, spark, lake, storage, store)}
        writers = create_tables(storage, lake)
        progress = roll_back(lake, writers, check=False)
        done = {}
        for flow in flows:
            job = _Rebuild(spark, lake, writers, flow, progress[flow.topic])
            done[flow.topic] = job.table(str(table))
        return {str(table): done}


class _Rebuild:
    def __init__(
        self, spark: SparkSession, lake: Lake, writers: dict[str, DeltaWriter], flow: Flow, progress: Progress
    ):
        self.spark, self.lake, self.writers, self.flow, self.progress = spark, lake, writers, flow, progress

    def read(self, name: str) -> DataFrame:
        return self.spark.read.format("delta").load(self.lake.settings.table_uri(name))

    def table(self, name: str) -> int:
        """Rebuild one table; its rows of this topic."""
        touched: dict[str, pa.Table] = {}
        if name.startswith("gold."):
            rows = arrow(self._gold(name))
            touched[name] = rows
            self._swap_gold(name, rows)
        elif name == quarantine.TABLE.name:
            rows = arrow(self._quarantine())
            mine = self.read(name).where(F.col("topic") != self.flow.topic)
            self._swap(name, pa.concat_tables([rows, arrow(mine).cast(rows.schema)]))
        else:
            rows = arrow(self._silver())
            self._swap(name, rows)
        self._record(touched)
        return int(rows.num_rows)

    def _gold(self, name: str) -> DataFrame:
        silver = self.read(self.flow.silver.name)
        if name == trending_posts.TABLE.name:
            return trending_posts.trending_posts(silver)
        return next(a for a in self.flow.gold if a.name == name).recompute(silver)

    def _checked(self) -> DataFrame:
        return self.flow.check(self.read(self.flow.bronze.name), contracts()[self.flow.topic])

    def _quarantine(self) -> DataFrame:
        """Every invalid bronze record, with the status that the old table had for it."""
        at = ["topic", "partition", "offset"]
        old = self.read(quarantine.TABLE.name).select(*at, "status", "updated_at")
        bad = self._checked().where("_reasons is not null").withColumnRenamed("_reasons", "reasons")
        joined = bad.join(old, at, "left").withColumns(
            {
                "status": F.coalesce("status", F.lit("open")),
                "updated_at": F.coalesce("updated_at", F.lit(datetime.now(UTC))),
            }
        )
        return joined.select(*quarantine.TABLE.schema.names)

    def _silver(self) -> DataFrame:
        """Every valid bronze record that wins its identity: the recorded winner, or else the first by append time."""
        at = ["topic", "partition", "offset"]
        recorded = self.read(self.flow.silver.name).select(*at).distinct().withColumn("_won", F.lit(0))
        valid = self._checked().where("_reasons is null").join(recorded, at, "left")
        horizon = int(contracts()[self.flow.topic].duplicate_horizon.total_seconds())
        own = F.concat_ws("/", *at)
        name = F.coalesce("_identity", own)
        order = Window.partitionBy(name).orderBy(F.coalesce("_won", F.lit(1)), "timestamp", "partition", "offset")
        winner = F.first("timestamp").over(order)
        # Recorded winners all stay; of the rest only those whose identity nobody holds, or held too long ago.
        ranked = valid.withColumn("_rank", F.row_number().over(order)).withColumn(
            "_age", F.abs(F.unix_seconds("timestamp") - F.unix_seconds(winner))
        )
        kept = ranked.where(f"_won = 0 or _rank = 1 or (_age > {horizon} and _won is null)")
        return silver_rows(self.flow, contracts()[self.flow.topic], kept)

    def _swap(self, name: str, rows: pa.Table) -> None:
        writer = self.writers[name]
        rows = rows.sort_by([(column, "ascending") for column in writer.table.order])
        writer.commit([writer.stage(rows)] if rows.num_rows else [], self._files(name), operation="REBUILD")

    def _swap_gold(self, name: str, rows: pa.Table) -> None:
        writer = self.writers[name]
        if name == trending_posts.TABLE.name:
            parts = [rows]
        else:
            aggregate = next(a for a in self.flow.gold if a.name == name)
            numbers = Buckets(aggregate, self.lake, writer).numbers(rows)
            parts = [rows.filter(pc.equal(numbers, number)) for number in pc.unique(numbers).to_pylist()]
        writer.commit([writer.stage(part) for part in parts], self._files(name), operation="REBUILD")

    def _files(self, name: str) -> list[tuple[str, int]]:
        actions = pa.table(self.lake.table(name).get_add_actions()).to_pylist()
        return [(action["path"], action["size_bytes"]) for action in actions]

    def _record(self, touched: dict[str, pa.Table]) -> None:
        """A ledger row without records: the tables' new versions, and the rows that the stores must take over."""
        seq, now = self.progress.seq + 1, datetime.now(UTC)
        changes = changed_rows(self.flow.topic, seq, touched, self.writers)
        if changes.num_rows:
            self.writers[CHANGES.name].append(changes)
        versions = {t.name: self.writers[t.name].version for t in self.flow.tables if t is not LEDGER}
        nothing = {
            "records": 0,
            "valid": 0,
            "quarantined": 0,
            "duplicates": 0,
            "warnings": [],
            "drift": [],
            "batch_ms": 0,
        }
        rows = [
            {
                "topic": self.flow.topic, "seq": seq, "partition": partition, "start_offset": end, "end_offset": end,
                **nothing, "versions": list(versions.items()), "engine": "rebuild", "committed_at": now,
            }
            for partition, end in self.progress.ends.items()
        ]  # fmt: skip
        if rows:
            self.writers[LEDGER.name].append(pa.Table.from_pylist(rows, schema=LEDGER.arrow))


def _store(settings: Settings, spark: SparkSession, lake: Lake, storage: Storage, store: str) -> int:
    """Write everything of the last cut to one store; how many documents or keys. What it should not hold is removed.

    The store's query goes on from there, however far behind it was.
    """
    cuts = lake.cuts()
    versions = {name: version for cut in cuts.values() for name, version in cut.versions.items()}
    count = 0
    sink: fanout.Store
    if store == "mongodb":
        sink = mongo = MongoSink(settings)
        for name, collection in COLLECTIONS.items():
            mongo.database[collection].drop()
            version = versions.get(name, 0)
            for batch in lake.dataset(name, version).to_batches(batch_size=20_000):
                rows = [orjson.loads(orjson.dumps(row, option=orjson.OPT_UTC_Z)) for row in batch.to_pylist()]
                mongo.upsert(TABLES[name], [(row_key(row, TABLES[name].key), version, row) for row in rows])
                count += len(rows)
    elif store == "redis":
        sink = redis = RedisSink(settings)
        for flow in FLOWS:
            for table in flow.gold_tables:
                version = versions.get(table.name, 0)
                at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
                redis.client.delete(f"gold:{table.name.removeprefix('gold.')}:latest")
                redis.put_latest(
                    table.name, version, at, fanout.newest_rows(table.name, lake.table(table.name, version))
                )
                count += 1
    else:
        sink = elastic = ElasticsearchSink(settings)
        elastic.clear()
        elastic.prepare()
        for name, documents in (
            ("silver.service_logs", fanout.log_documents),
            ("silver.system_metrics", fanout.metric_documents),
        ):
            silver = spark.read.format("delta").option("versionAsOf", versions.get(name, 0))
            frame = documents(silver.load(settings.table_uri(name)))
            for row in frame.select("id", "body").toLocalIterator(prefetchPartitions=True):
                elastic.add(fanout.SILVER_INDEX[name], row["id"], row["body"].encode(), None)
                count += 1
        version = versions.get(fanout.HEALTH_TABLE, 0)
        for batch in lake.dataset(fanout.HEALTH_TABLE, version).to_batches():
            for row in batch.to_pylist():
                body = orjson.dumps({**row, "version": version}, option=orjson.OPT_UTC_Z)
                elastic.add(HEALTH, row_key(orjson.loads(body), TABLES[fanout.HEALTH_TABLE].key), body, version)
                count += 1
        elastic.flush()
    sink.advance(
        {
            "changes": {topic: cut.seq for topic, cut in cuts.items()},
            "silver": {
                flow.silver.name: {str(p): end - 1 for p, end in cuts[flow.topic].ends.items()}
                for flow in FLOWS
                if store == "elasticsearch" and flow.silver.name in fanout.SILVER_INDEX and flow.topic in cuts
            },
        }
    )
    since = {
        name: min((c.versions[name] for c in cuts.values() if name in c.versions), default=0)
        for name in fanout.FOLLOWED
    }
    Generation.begin(storage, settings, store, since)
    return count
