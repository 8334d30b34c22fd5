"""Each topic in a query of its own, on a cluster: what `runtime/fused.py` does, with Spark's writer, joins and MERGE.

No record goes through the driver, which sees counts, spans of time and table versions: it orders the effects and
writes the ledger. State is what the tables hold: duplicates are found by a join with silver, gold rows are recomputed
from silver for the keys that a batch touches.

A cluster may lose what it has cached and compute it again, after the batch has written some of its tables. So every
table is read at a version that was known before, and "now" is one moment a batch.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from delta.tables import DeltaTable
from pyspark.sql import DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F

from lakehouse.bronze.landed import COLUMNS
from lakehouse.contracts import Contract
from lakehouse.erasure.identifiers import Erased
from lakehouse.flows import Flow
from lakehouse.gold import trending_posts
from lakehouse.gold.aggregate import Aggregate
from lakehouse.runtime import effects
from lakehouse.runtime.batches import Batches, in_its_batch, side_by_side
from lakehouse.runtime.fused import MIRRORED, REPLAY_HEADER, Progress, append, leaf_names, row_key
from lakehouse.runtime.ledger import CHANGES, LEDGER, MAX_DRIFT
from lakehouse.silver import quarantine
from lakehouse.silver.checked import checked
from lakehouse.sinks.delta import DeltaWriter
from lakehouse.sources.lake import Lake
from lakehouse.tables import Table

ENGINE = "separate"
POOL = "spark.scheduler.pool"
PLACE = ["partition", "offset"]
MAX_SPANS = 100
"""Above this many spans of time a scan is narrowed to their hull only."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_HOURS_A_DAY = 24
_ORIGINS = (
    f"transform(filter(headers, h -> h.key = '{REPLAY_HEADER}'), "
    f"h -> concat('{REPLAY_HEADER}', char(31), decode(coalesce(h.value, X''), 'UTF-8')))"
)
"""What a replay claims besides its identity: the coordinates of its original. Null where there are no headers."""
_CLAIMS = f"concat(array_compact(array(_identity)), coalesce({_ORIGINS}, cast(array() as array<string>)))"
_REPLAY = f"exists(headers, h -> h.key = '{REPLAY_HEADER}')"


def silver_rows(flow: Flow, contract: Contract, accepted: DataFrame) -> DataFrame:
    """Accepted checked rows -> silver's rows: one a sample, or the record under its identity or else its place."""
    if contract.samples:
        accepted = accepted.withColumn("_sample", F.explode("samples")).drop("value")
        accepted = accepted.withColumns({"metric": F.col("_sample.metric"), "value": F.col("_sample.value")})
    else:
        place = F.concat_ws("/", "topic", *PLACE)
        accepted = accepted.withColumn("event_id", F.coalesce("event_id", place))
    return accepted.select(*flow.silver.schema.names)


def repeated(batches: Iterable[pa.RecordBatch], horizon: int) -> Iterator[pa.RecordBatch]:
    """The places of records whose claims an earlier one of the same batch holds.

    In: (group, at, partition, offset, claims), sorted by them; records that share a claim share a group. ``at`` and
    ``horizon`` are microseconds. Only an accepted record claims, and does so for all of the horizon.
    """
    group, newest = None, dict[str, int]()
    for batch in batches:
        lost = []
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            of, at, partition, offset, claims = row
            if of != group:
                group, newest = of, {}
            if any(claim in newest and at - newest[claim] <= horizon for claim in claims):
                lost.append({"partition": partition, "offset": offset})
            else:
                newest |= dict.fromkeys(claims, at)
        yield pa.RecordBatch.from_pylist(lost, schema=pa.schema([("partition", pa.int32()), ("offset", pa.int64())]))


def newest(lake: Lake, silver: Table) -> int | None:
    """Append time of silver's newest record, in microseconds; from the files' statistics where all have them.

    Asked through Spark, it cost every start ten seconds of planning on a slow processor.
    """
    files = pa.table(lake.table(silver.name).get_add_actions(flatten=True))
    highest = files.column("max.timestamp") if "max.timestamp" in files.column_names else None
    if highest is None or highest.null_count:
        latest = lake.query(f"select max(timestamp) from {silver.name}").fetchall()[0][0]
    else:
        latest = pc.max(highest).as_py()
    return None if latest is None else round(latest.timestamp() * 1e6)


def spans(hours: Iterable[int], width: timedelta) -> list[tuple[datetime, datetime]]:
    """Touched hours (since 1970) -> the half-open spans of time that hold every window of ``width`` they lie in."""
    step = _HOURS_A_DAY if width > timedelta(hours=1) else 1
    found: list[tuple[int, int]] = []
    for low in sorted({hour // step * step for hour in hours}):
        if found and found[-1][1] == low:
            found[-1] = (found[-1][0], low + step)
        else:
            found.append((low, low + step))
    if len(found) > MAX_SPANS:
        found = [(found[0][0], found[-1][1])]
    return [(_EPOCH + timedelta(hours=low), _EPOCH + timedelta(hours=high)) for low, high in found]


def within(column: str, kind: str, found: list[tuple[datetime, datetime]]) -> str:
    """SQL: a column of type date or timestamp lies in one of the spans; literals, so that files are skipped."""

    def literal(at: datetime) -> str:
        return f"date'{at:%Y-%m-%d}'" if kind == "date" else f"timestamp'{at.isoformat()}'"

    return " or ".join(f"({column} >= {literal(low)} and {column} < {literal(high)})" for low, high in found)


@contextmanager
def in_pool(spark: SparkSession, name: str) -> Iterator[None]:
    """The jobs of this thread go to this pool of the fair scheduler; so do those of queries that it starts."""
    spark.sparkContext.setLocalProperty(POOL, name)
    try:
        yield
    finally:
        spark.sparkContext.setLocalProperty(POOL, None)  # type: ignore[arg-type]


class SeparatePass(Batches):
    """The ``foreachBatch`` of one topic. One instance serves one run; after any error make a new one.

    Guarantee: as of the fused pass. A batch that died half way is rolled back by ``runtime/recovery.py`` before its
    repetition, one that reached the ledger is skipped; gold is set to absolute values by key.
    """

    def __init__(
        self,
        spark: SparkSession,
        flow: Flow,
        contract: Contract,
        lake: Lake,
        writers: Mapping[str, DeltaWriter],
        progress: Progress,
        horizon: timedelta,
        perform: effects.Perform = effects.perform,
        erased: Erased | None = None,
    ):
        super().__init__()
        self.flow, self.contract, self.lake, self.writers = flow, contract, lake, writers
        self.progress, self.horizon, self.perform = progress, horizon // _MICROSECOND, perform
        self.erased = erased
        # Readers find nothing by time in the statistics of Spark's default, INT96. Set before a query copies them.
        spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        self.pool = ThreadPoolExecutor(8, flow.topic, spark.sparkContext.setLocalProperty, (POOL, flow.topic))
        self.newest: int | None = None
        if trending_posts.TABLE in flow.snapshots:
            self.newest = newest(lake, flow.silver)

    @in_its_batch
    def take(self, batch: DataFrame) -> None:
        """Write one micro-batch of Kafka's records everywhere."""
        _Batch(self, batch).write()

    def _read(self, spark: SparkSession, table: Table, version: int) -> DataFrame:
        uri = self.lake.settings.table_uri(table.name)
        return spark.read.format("delta").option("versionAsOf", version).load(uri)

    def _version(self, table: Table) -> int:
        """A table's newest version; its writer in this process (compaction's) goes on from it."""
        version, writer = int(self.lake.table(table.name).version()), self.writers[table.name]
        writer.version = max(writer.version, version)
        return version


class _Batch:
    """One micro-batch on its way."""

    def __init__(self, one: SeparatePass, kafka: DataFrame):
        self.one, self.flow, self.spark = one, one.flow, kafka.sparkSession
        self.seq, self.now, self.started = one.progress.seq + 1, datetime.now(UTC), time.monotonic()
        self.kept: list[DataFrame] = []
        for partition, end in one.progress.ends.items():
            kafka = kafka.where(f"partition <> {partition} or offset >= {end}")
        parser = replace(self.flow.parse, contract=one.contract, erased=one.erased)
        self.rows = self._keep(checked(self.flow.land(kafka), parser))
        self.silver_before = one._version(self.flow.silver)

    def _keep(self, frame: DataFrame) -> DataFrame:
        self.kept.append(frame.persist())
        return frame

    def write(self) -> None:
        """All effects, in order: records, gold, changes, ledger."""
        try:
            self._write()
        finally:
            for frame in self.kept:
                frame.unpersist()

    def _write(self) -> None:
        one, flow = self.one, self.flow
        facts = self.rows.agg(
            F.count("*").alias("records"),
            F.min(F.unix_micros("timestamp")).alias("first"),
            F.max(F.unix_micros("timestamp")).alias("last"),
            F.count_if(F.expr(f"_reasons is null and {_REPLAY}")).alias("replays"),
        ).collect()[0]
        if not facts["records"]:
            return
        lost = self._keep(self._duplicates(facts)).withColumn("_lost", F.lit(True))
        fates = self.rows.join(lost, PLACE, "left")
        counts = self._counts(fates)
        bad = fates.where("_reasons is not null and erased_at is null")
        # Kept, so that the plans of all that follows begin here: on small batches planning is most of the time.
        silver = self._keep(silver_rows(flow, one.contract, fates.where("_reasons is null and _lost is null")))
        jobs = [partial(self._append, flow.bronze, self.rows.select(*COLUMNS.names))]
        if any(c["valid"] for c in counts):
            jobs.append(partial(self._append, flow.silver, silver))
        if any(c["quarantined"] for c in counts):
            jobs.append(partial(self._append, quarantine.TABLE, self._quarantined(bad)))
        side_by_side(one.pool, jobs)
        accepted = [c["newest"] for c in counts if c["valid"]]
        if accepted:
            self._gold(silver, max(accepted))
        self._ledger(counts)

    def _append(self, table: Table, rows: DataFrame) -> None:
        uri = self.one.lake.settings.table_uri(table.name)
        self.one.perform(
            self.flow.topic,
            table.name,
            lambda: rows.write.format("delta").mode("append"),
            lambda writer: writer.save(uri),
        )

    def _quarantined(self, bad: DataFrame) -> DataFrame:
        bad = bad.withColumns(
            {"reasons": F.col("_reasons"), "status": F.lit("open"), "updated_at": F.lit(self.now).cast("timestamp")}
        )
        return bad.select(*quarantine.TABLE.schema.names)

    # Duplicates.

    def _duplicates(self, facts: Row) -> DataFrame:
        """The places of valid records whose identity, or original, an accepted one holds: of silver or of the batch."""
        horizon = self.one.horizon
        named = self.rows.where("_reasons is null").selectExpr(
            *PLACE, "unix_micros(timestamp) as at", f"{_CLAIMS} as claims"
        )
        named = named.where("size(claims) > 0")
        claims = named.select(*PLACE, "at", F.explode("claims").alias("claim"))
        old = claims.join(self._known(facts), "claim").where(f"abs(at - known_at) <= {horizon}")
        old = old.select(*PLACE).distinct()
        fresh = named.join(old, PLACE, "left_anti")
        if facts["replays"]:
            # A replay ties its identity to its original: what shares either with it is decided with it, in order.
            tied = fresh.where(f"size(claims) > 1 or startswith(claims[0], '{REPLAY_HEADER}')")
            tied = tied.select(F.explode("claims").alias("_claim")).distinct().withColumn("_tied", F.lit(""))
            fresh = fresh.join(tied, F.expr("claims[0] = _claim"), "left").withColumn(
                "group", F.expr("coalesce(_tied, claims[0])")
            )
        else:
            fresh = fresh.withColumn("group", F.expr("claims[0]"))
        several = fresh.withColumn("_size", F.count("*").over(Window.partitionBy("group"))).where("_size > 1")
        order = ["group", "at", *PLACE]
        ordered = several.select(*order, "claims").repartition("group").sortWithinPartitions(*order)
        return old.union(ordered.mapInArrow(lambda batches: repeated(batches, horizon), "partition int, offset bigint"))

    def _known(self, facts: Row) -> DataFrame:
        """(claim, known_at) of the records that silver holds, as far as the horizon reaches."""
        one, flow = self.one, self.flow
        low, high = facts["first"] - one.horizon, facts["last"] + one.horizon
        near = f"timestamp between timestamp_micros({low}) and timestamp_micros({high})"
        at = "unix_micros(timestamp) as known_at"
        silver = one._read(self.spark, flow.silver, self.silver_before).where(near)
        known = silver.selectExpr(f"{'record_id' if one.contract.samples else 'event_id'} as claim", at)
        if facts["replays"]:
            # Only bronze holds the header that names an accepted replay's original.
            bronze = one._read(self.spark, flow.bronze, one._version(flow.bronze)).where(near).where(_REPLAY)
            origins = bronze.join(silver.select(*PLACE), PLACE, "left_semi")
            known = known.union(origins.selectExpr(f"explode({_ORIGINS}) as claim", at))
        return known

    # Gold.

    def _gold(self, silver: DataFrame, newest: int) -> None:
        """Every gold table from silver as it is now, and what changed for the stores."""
        one, flow = self.one, self.flow
        version = one._version(flow.silver)
        whole = one._read(self.spark, flow.silver, version)
        counting = [f"{a.where} as _{i}" for i, a in enumerate(flow.gold)]
        hours = silver.selectExpr(f"unix_seconds({flow.gold[0].source_time}) div 3600 as hour", *counting).distinct()
        touched = hours.collect()
        if sealed := one.progress.sealed:
            first = int((sealed - _EPOCH) // timedelta(hours=1))
            touched = [row for row in touched if row["hour"] >= first]
        jobs: list[Callable[[], tuple[Table, DataFrame]]] = []
        for i, aggregate in enumerate(flow.gold):
            if mine := [row["hour"] for row in touched if row[f"_{i}"]]:
                jobs.append(lambda a=aggregate, m=mine: self._merge(a, silver, whole, m))  # type: ignore[misc]
        if trending_posts.TABLE in flow.snapshots:
            one.newest = max(newest, one.newest or newest)
            jobs.append(lambda: self._trending(whole))
        changes = [self._changes(table, rows) for table, rows in side_by_side(one.pool, jobs)]
        if changes:
            every = changes[0]
            for more in changes[1:]:
                every = every.union(more)
            self._append(CHANGES, every.coalesce(one.lake.settings.spark.shuffle_partitions))

    def _merge(
        self, aggregate: Aggregate, silver: DataFrame, whole: DataFrame, hours: list[int]
    ) -> tuple[Table, DataFrame]:
        """Set the rows of the keys that the batch's silver rows touch to what all their silver rows say."""
        a, table = aggregate, aggregate.table
        found = spans(hours, a.width)
        keys = [expression for _, expression in a.keys.values()]
        touched = silver.where(a.where).selectExpr(*(f"{key} as _{i}" for i, key in enumerate(keys))).distinct()
        mine = whole.where(within(a.source_time, "timestamp", found)).where(a.where).select(*a.inputs)
        mine = mine.join(touched, F.expr(" and ".join(f"{key} <=> _{i}" for i, key in enumerate(keys))), "left_semi")
        rows = self._keep(a.recompute(mine))
        on = " and ".join(f"old.{key} <=> new.{key}" for key in a.keys)
        on += f" and ({within(f'old.{a.window}', a.keys[a.window][0], found)})"

        def merge(rows: DataFrame) -> None:
            old = DeltaTable.forPath(self.spark, self.one.lake.settings.table_uri(table.name)).alias("old")
            old.merge(rows.alias("new"), on).whenMatchedUpdateAll().whenNotMatchedInsertAll().execute()

        self.one.perform(self.flow.topic, table.name, lambda: rows, merge)
        return table, rows

    def _trending(self, whole: DataFrame) -> tuple[Table, DataFrame]:
        """The snapshot, dated by silver's newest record; only the last hour's events are read."""
        table, uri = trending_posts.TABLE, self.one.lake.settings.table_uri(trending_posts.TABLE.name)
        as_of = f"date_trunc('minute', timestamp_micros({self.one.newest}))"
        hour = int(trending_posts.WINDOW.total_seconds())
        recent = whole.where(f"occurred_at >= {as_of} - interval {hour} seconds")
        rows = self._keep(self.spark.sql(trending_posts.sql("{recent}", as_of, "spark"), recent=recent))
        self.one.perform(
            self.flow.topic,
            table.name,
            lambda: rows.coalesce(1).write.format("delta").mode("overwrite"),
            lambda writer: writer.save(uri),
        )
        return table, rows

    def _changes(self, table: Table, rows: DataFrame) -> DataFrame:
        """Gold rows as this batch left them -> rows of ``_internal.gold_changes``, as the fused pass makes them."""
        keys = table.key
        if table.name in MIRRORED:

            def texts(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
                for batch in batches:
                    found = batch.to_pylist()
                    names = pa.array([row_key(row, keys) for row in found], pa.string())
                    bodies = [orjson.dumps(row, option=orjson.OPT_UTC_Z).decode() for row in found]
                    yield pa.RecordBatch.from_arrays([names, pa.array(bodies, pa.string())], names=["key", "row"])

            named = rows.mapInArrow(texts, "key string, row string")
        else:
            named = self.spark.range(1).selectExpr("cast(null as string) as key", "cast(null as string) as row")
        return named.select(
            F.lit(self.flow.topic).alias("topic"),
            F.lit(self.seq).cast("bigint").alias("seq"),
            F.lit(table.name).alias("table"),
            F.lit(self.one._version(table)).cast("bigint").alias("version"),
            "key",
            "row",
        )

    # The ledger.

    def _counts(self, fates: DataFrame) -> list[Row]:
        """One row a partition: how many records ended where, and their ends in offsets and time."""
        flags = [name for name in ("_warnings", "_rescued") if name in fates.columns]
        accepted = "_reasons is null and _lost is null"
        return (
            fates.groupBy("partition")
            .agg(
                F.count("*").alias("records"),
                F.count_if(F.expr(accepted)).alias("valid"),
                F.count_if(F.expr("_reasons is not null and erased_at is null")).alias("quarantined"),
                F.count("erased_at").alias("erased"),
                F.count("_lost").alias("duplicates"),
                (F.max("offset") + 1).alias("end"),
                F.min(F.unix_micros("timestamp")).alias("first"),
                F.max(F.unix_micros("timestamp")).alias("last"),
                F.max(F.expr(f"case when {accepted} then unix_micros(timestamp) end")).alias("newest"),
                F.count_if(F.expr(" or ".join(f"{name} is not null" for name in flags))).alias("flagged"),
            )
            .collect()
        )

    def _tallies(self) -> dict[tuple[int, str], dict[str, int]]:
        """(partition, ``warnings`` or ``drift``) -> name -> records."""
        found = self.rows.select("partition", F.lit("warnings").alias("kind"), F.explode("_warnings").alias("name"))
        if "_rescued" in self.rows.columns:

            def leaves(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
                for batch in batches:
                    rows = [
                        (partition, "drift", name)
                        for partition, text in zip(*(column.to_pylist() for column in batch.columns), strict=True)
                        for name in sorted(leaf_names(orjson.loads(text)))
                    ]
                    parts, kinds, names = zip(*rows, strict=True) if rows else ((), (), ())
                    yield pa.RecordBatch.from_arrays(
                        [pa.array(parts, pa.int32()), pa.array(kinds, pa.string()), pa.array(names, pa.string())],
                        names=["partition", "kind", "name"],
                    )

            rescued = self.rows.where("_rescued is not null").select("partition", "_rescued")
            found = found.union(rescued.mapInArrow(leaves, "partition int, kind string, name string"))
        tallies: dict[tuple[int, str], dict[str, int]] = defaultdict(dict)
        for row in found.groupBy("partition", "kind", "name").count().orderBy(F.desc("count"), "name").collect():
            tally = tallies[row["partition"], row["kind"]]
            if row["kind"] == "warnings" or len(tally) < MAX_DRIFT:
                tally[row["name"]] = row["count"]
        return tallies

    def _ledger(self, counts: list[Row]) -> None:
        one, flow, progress = self.one, self.flow, self.one.progress
        tables = [table for table in flow.tables if table is not LEDGER]
        versions = dict(zip([t.name for t in tables], one.pool.map(one._version, tables), strict=True))
        tallies = self._tallies() if any(c["flagged"] for c in counts) else {}
        by_partition = {c["partition"]: c for c in counts}
        rows = []
        for partition in sorted({*progress.ends, *by_partition}):
            start, here = progress.ends.get(partition, 0), by_partition.get(partition)
            rows.append(
                {
                    "topic": flow.topic,
                    "seq": self.seq,
                    "partition": partition,
                    "start_offset": start,
                    "end_offset": here["end"] if here else start,
                    **{n: here[n] if here else 0 for n in ("records", "valid", "quarantined", "duplicates", "erased")},
                    "first_at": _EPOCH + here["first"] * _MICROSECOND if here else None,
                    "last_at": _EPOCH + here["last"] * _MICROSECOND if here else None,
                    "warnings": list(tallies.get((partition, "warnings"), {}).items()),
                    "drift": list(tallies.get((partition, "drift"), {}).items()),
                    "versions": list(versions.items()),
                    "engine": ENGINE,
                    "batch_ms": int((time.monotonic() - self.started) * 1000),
                    "committed_at": self.now,
                    **progress.kept(partition),
                }
            )
        table = pa.Table.from_pylist(rows, schema=LEDGER.arrow)
        append(flow.topic, one.writers[LEDGER.name], table, one.perform)
        progress.seq, progress.versions = self.seq, versions
        progress.ends |= {row["partition"]: row["end_offset"] for row in rows}
