"""Batch twins: a gold or silver table, quarantine, or a store, filled again from what lies before it.

The stream gives way meanwhile (``turns.py``). A rebuilt table is swapped in by one commit and recorded in the ledger
like a batch without records, so that cuts, recovery and audit go on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from lakehouse.contracts import contracts
from lakehouse.flows import FLOWS, TABLES, Flow
from lakehouse.gold import trending_posts
from lakehouse.inspect import behind, open_store, targets
from lakehouse.runtime import fanout
from lakehouse.runtime.checkpoints import Generation
from lakehouse.runtime.fold import Buckets
from lakehouse.runtime.fused import Progress, arrow, changed_rows, row_key
from lakehouse.runtime.ledger import CHANGES, LEDGER
from lakehouse.runtime.recovery import beyond, create_tables, roll_back
from lakehouse.runtime.refill import (
    Span,
    live_files,
    recompute,
    refill,
    replace,
    rewrite,
    snapshot,
    unsealed,
    windows_between,
    windows_of,
    within,
)
from lakehouse.runtime.separate import silver_rows
from lakehouse.runtime.turns import only_writer
from lakehouse.session import spark_session
from lakehouse.settings import Settings
from lakehouse.silver import quarantine
from lakehouse.sinks.delta import DeltaWriter, Storage
from lakehouse.sinks.elasticsearch import HEALTH, ElasticsearchSink
from lakehouse.sinks.mongo import COLLECTIONS, MongoSink
from lakehouse.sinks.redis import RedisSink
from lakehouse.sources.lake import Cut, Lake

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime(9999, 1, 1, tzinfo=UTC)


class RebuildError(Exception):
    """A rebuild can't be done; the message says what to do first."""


GIVES_WAY = timedelta(minutes=5)
"""How long the stream may take for its last cut."""


def rebuild(
    settings: Settings, table: str | None = None, store: str | None = None, span: Span | None = None
) -> dict[str, Any]:
    """Fill a table (``gold.*``, ``silver.*``) or a store again; what was done.

    ``span``: only that part of the table, by gold's windows, or by the append time of silver's and quarantine's
    records; gold follows them. It is prepared beside the stream, which gives way for the swap.

    Raises:
        RebuildError: the name is unknown, or has no parts.
        TurnError: the stream does not give way.
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
    if span is not None and (store is not None or table == trending_posts.TABLE.name):
        raise RebuildError(f"{store or table}: is filled again as a whole, without --from and --to")
    if span is not None and span[0] >= span[1]:
        raise RebuildError("--from is not before --to")
    spark = spark_session(settings, "lakehouse-rebuild")
    lake = Lake(settings)
    storage = Storage(spark, settings.home / "tmp")
    cuts = lake.cuts() if span is not None else {}
    parts = [_Part(spark, lake, flow, str(table), span, cuts[flow.topic]) for flow in flows if flow.topic in cuts]  # type: ignore[arg-type]
    for part in parts:
        part.prepare()
    with only_writer(settings, "lakehouse rebuild", GIVES_WAY):
        if store is not None:
            return {store: refill_store(settings, spark, lake, storage, store)}
        writers = create_tables(storage, lake)
        progress = roll_back(lake, writers, check=False)
        if span is not None:
            late = late_stores(settings, lake)
            swapped = {part.flow.topic: part.swap(writers, progress[part.flow.topic]) for part in parts}
            for one in late:
                refill_store(settings, spark, lake, storage, one)
            for part in parts:
                fanout.drop(settings, part.vanished)
            return {str(table): swapped}
        done = {}
        for flow in flows:
            job = _Rebuild(spark, lake, writers, flow, progress[flow.topic])
            done[flow.topic] = job.table(str(table))
        return {str(table): done}


def late_stores(settings: Settings, lake: Lake) -> list[str]:
    """The stores that lack something of the cut: they are filled again where rows are taken out of tables."""
    cuts = lake.cuts()
    return [
        name
        for name in settings.stream.stores
        if behind(targets(settings, cuts, name), open_store(settings, name).progress())
    ]


class _Again:
    """What a topic's bronze says, judged again, at versions of the tables or as they are now."""

    def __init__(
        self,
        spark: SparkSession,
        lake: Lake,
        flow: Flow,
        versions: Mapping[str, int] | None = None,
        where: str = "true",
        sealed: datetime | None = None,
    ):
        self.spark, self.lake, self.flow, self.versions, self.where = spark, lake, flow, versions or {}, where
        self.sealed = sealed

    def read(self, name: str) -> DataFrame:
        reader = self.spark.read.format("delta")
        if name in self.versions:
            reader = reader.option("versionAsOf", self.versions[name])
        return reader.load(self.lake.settings.table_uri(name))

    def _checked(self) -> DataFrame:
        there = self.read(self.flow.bronze.name).where("erased_at is null").where(self.where)
        return self.flow.check(there, contracts()[self.flow.topic])

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
        names = quarantine.TABLE.schema.names
        gone = self.read(quarantine.TABLE.name).where(f"topic = '{self.flow.topic}' and erased_at is not null")
        return joined.select(*names).union(gone.select(*names))

    def _silver(self) -> DataFrame:
        """Every valid bronze record that wins its identity: the recorded winner, or else the first by append time."""
        at = ["topic", "partition", "offset"]
        recorded = self.read(self.flow.silver.name).select(*at).distinct().withColumn("_won", F.lit(0))
        valid = self._checked().where("_reasons is null").join(recorded, at, "left")
        horizon = int(contracts()[self.flow.topic].duplicate_horizon.total_seconds())
        if self.sealed:  # whose winner may be among the records that were deleted wins no more than it did
            decided = self.sealed + timedelta(seconds=horizon)
            valid = valid.where(f"_won = 0 or timestamp >= timestamp'{decided.isoformat()}'")
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


class _Part(_Again):
    """A part of one table: prepared from the last cut beside the stream, swapped in at a later one."""

    def __init__(self, spark: SparkSession, lake: Lake, flow: Flow, name: str, span: Span, cut: Cut):
        low, high = span
        horizon = contracts()[flow.topic].duplicate_horizon
        # Who holds an identity is decided among records that arrived within the horizon.
        near = (
            f"timestamp >= timestamp'{max(low - horizon, _EPOCH).isoformat()}' "
            f"and timestamp < timestamp'{min(high + horizon, _END).isoformat()}'"
        )
        super().__init__(spark, lake, flow, cut.versions, near, cut.sealed)
        self.name, self.span, self.cut = name, span, cut
        self.aggregate = next((a for a in flow.gold if a.name == name), None)
        self.vanished: dict[str, list[dict[str, Any]]] = {}
        self.windows: list[Span] = []

    def prepare(self) -> None:
        """Make the part's rows as of the cut."""
        low, high = self.span
        if self.aggregate is not None:
            silver = self.lake.dataset(self.aggregate.source, self.versions[self.flow.silver.name])
            time = silver.to_table(columns=[self.aggregate.source_time]).column(0)
            if len(time):
                ends = pc.min_max(pc.cast(time, pa.timestamp("us", "UTC"))).as_py()
                low, high = max(low, ends["min"]), min(high, ends["max"] + timedelta(microseconds=1))
            self.windows = windows_between(self.aggregate, low, high) if len(time) and low < high else []
            self.windows = unsealed(self.windows, self.sealed)
            self.rows = recompute(self.lake, self.aggregate, self.windows, self.versions[self.flow.silver.name])
            return
        frame = self._quarantine() if self.name == quarantine.TABLE.name else self._silver()
        self.rows = arrow(
            frame.where(f"timestamp >= timestamp'{low.isoformat()}' and timestamp < timestamp'{high.isoformat()}'")
        )

    def swap(self, writers: Mapping[str, DeltaWriter], progress: Progress) -> int:
        """Put the rows in place of those that are there, with what has arrived since the cut; how many."""
        touched: dict[str, pa.Table] = {}
        if self.aggregate is not None:
            again = windows_of(self.aggregate, self._since(self.flow.silver.name, list(self.aggregate.inputs)))
            again = [both for here in self.windows for there in again if (both := _both(here, there))]
            kept = self.rows.filter(pa.array(~within(self.aggregate, self.rows, again)))
            new = pa.concat_tables([kept, recompute(self.lake, self.aggregate, again)])
            if self.windows:
                touched[self.name], self.vanished[self.name] = replace(
                    self.lake, writers[self.name], self.aggregate, self.windows, new
                )
        else:
            new = self._unclaimed(self.rows)
            new = new.select(writers[self.name].table.schema.names).cast(writers[self.name].table.arrow)
            old = rewrite(
                self.lake, writers[self.name], self._mine, lambda rows, mask: rows.filter(pa.array(~mask)), new
            )
            if self.name == self.flow.silver.name:
                for aggregate in self.flow.gold:
                    inputs = list(aggregate.inputs)
                    both_ways = pa.concat_tables(
                        [old.select(inputs).cast(new.select(inputs).schema), new.select(inputs)]
                    )
                    if windows := unsealed(windows_of(aggregate, both_ways), self.sealed):
                        touched[aggregate.name], self.vanished[aggregate.name] = refill(
                            self.lake, writers[aggregate.name], aggregate, windows
                        )
                if trending_posts.TABLE in self.flow.snapshots:
                    touched[trending_posts.TABLE.name] = snapshot(self.lake, writers[trending_posts.TABLE.name])
        record(writers, self.flow, progress, touched, "rebuild")
        return int(new.num_rows)

    def _mine(self, path: str, fragment: Any, schema: pa.Schema) -> Any:
        """The rows of the part that the cut holds."""
        low, high = (pa.scalar(edge, pa.timestamp("us", "UTC")) for edge in self.span)
        if not fragment.subset((pc.field("timestamp") >= low) & (pc.field("timestamp") < high)).row_groups:
            return None
        rows = fragment.to_table(schema=schema, columns=["topic", "partition", "offset", "timestamp"])
        times = pc.cast(rows.column("timestamp"), pa.timestamp("us", "UTC"))
        mask = pc.and_(pc.greater_equal(times, low), pc.less(times, high))
        mask = pc.and_(mask, pc.equal(rows.column("topic"), self.flow.topic)).to_numpy(zero_copy_only=False)
        return mask & ~self._after(rows)

    def _after(self, rows: pa.Table) -> Any:
        """Which rows' records came after the cut."""
        partitions, offsets = rows.column("partition").to_numpy(), rows.column("offset").to_numpy()
        after = np.ones(rows.num_rows, dtype=bool)
        for partition, end in self.cut.ends.items():
            after &= (partitions != partition) | (offsets >= end)
        return after

    def _since(self, name: str, columns: list[str]) -> pa.Table:
        """Rows of a table whose records came after the cut."""
        return self.lake.dataset(name).to_table(columns=columns, filter=beyond(self.flow.topic, self.cut))

    def _unclaimed(self, rows: pa.Table) -> pa.Table:
        """Without the records that only now would win an identity, which one that came since the cut has won."""
        if self.name == quarantine.TABLE.name:
            return rows
        contract = contracts()[self.flow.topic]
        name = "record_id" if contract.samples else "event_id"
        taken = self._since(self.name, [name]).column(name)
        held = self.lake.dataset(self.name, self.versions[self.name]).to_table(columns=["partition", "offset"])
        won = set(zip(held.column("partition").to_pylist(), held.column("offset").to_pylist(), strict=True))
        places = zip(rows.column("partition").to_pylist(), rows.column("offset").to_pylist(), strict=True)
        new = pa.array([place not in won for place in places], pa.bool_())
        lost = pc.and_(new, pc.is_in(rows.column(name), value_set=pc.unique(taken).cast(rows.column(name).type)))
        return rows.filter(pc.invert(lost))


def _both(one: Span, other: Span) -> Span | None:
    low, high = max(one[0], other[0]), min(one[1], other[1])
    return (low, high) if low < high else None


class _Rebuild(_Again):
    def __init__(
        self, spark: SparkSession, lake: Lake, writers: Mapping[str, DeltaWriter], flow: Flow, progress: Progress
    ):
        super().__init__(spark, lake, flow, sealed=progress.sealed)
        self.writers, self.progress = writers, progress

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
        record(self.writers, self.flow, self.progress, touched, "rebuild")
        return int(rows.num_rows)

    def _gold(self, name: str) -> DataFrame:
        silver = self.read(self.flow.silver.name)
        if name == trending_posts.TABLE.name:
            return trending_posts.trending_posts(silver)
        aggregate = next(a for a in self.flow.gold if a.name == name)
        rows = aggregate.recompute(silver)
        if self.sealed is None:
            return rows
        before = f"{aggregate.window} < timestamp'{self.sealed.isoformat()}'"
        names = aggregate.table.schema.names
        return rows.where(f"not ({before})").select(*names).union(self.read(name).where(before).select(*names))

    def _swap(self, name: str, rows: pa.Table) -> None:
        writer = self.writers[name]
        rows = rows.sort_by([(column, "ascending") for column in writer.table.order])
        writer.commit([writer.stage(rows)] if rows.num_rows else [], live_files(self.lake, writer), operation="REBUILD")

    def _swap_gold(self, name: str, rows: pa.Table) -> None:
        writer = self.writers[name]
        if name == trending_posts.TABLE.name:
            parts = [rows]
        else:
            aggregate = next(a for a in self.flow.gold if a.name == name)
            numbers = Buckets(aggregate, self.lake, writer).numbers(rows)
            parts = [rows.filter(pc.equal(numbers, number)) for number in pc.unique(numbers).to_pylist()]
        writer.commit([writer.stage(part) for part in parts], live_files(self.lake, writer), operation="REBUILD")


def record(
    writers: Mapping[str, DeltaWriter], flow: Flow, progress: Progress, touched: dict[str, pa.Table], engine: str
) -> None:
    """A ledger row without records: the tables' new versions, and the gold rows that the stores must take over."""
    seq, now = progress.seq + 1, datetime.now(UTC)
    changes = changed_rows(flow.topic, seq, touched, writers)
    if changes.num_rows:
        writers[CHANGES.name].append(changes)
    versions = {t.name: writers[t.name].version for t in flow.tables if t is not LEDGER}
    nothing = {
        "records": 0,
        "valid": 0,
        "quarantined": 0,
        "duplicates": 0,
        "warnings": [],
        "drift": [],
        "batch_ms": 0,
        "erased": 0,
    }
    rows = [
        {
            "topic": flow.topic, "seq": seq, "partition": partition, "start_offset": end, "end_offset": end,
            **nothing, "versions": list(versions.items()), "engine": engine, "committed_at": now,
            **progress.kept(partition),
        }
        for partition, end in progress.ends.items()
    ]  # fmt: skip
    if rows:
        writers[LEDGER.name].append(pa.Table.from_pylist(rows, schema=LEDGER.arrow))


def refill_store(settings: Settings, spark: SparkSession, lake: Lake, storage: Storage, store: str) -> int:
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
