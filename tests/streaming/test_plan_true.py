"""What `lakehouse plan` says of a change is what happens: the old code runs, then the new."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from lakehouse.contracts import contracts
from lakehouse.flows import FLOWS, TABLES, Flow
from lakehouse.gold.aggregate import Aggregate, Distinct, Sum
from lakehouse.runtime import recovery
from lakehouse.runtime.fused import FusedPass, Progress, arrow
from lakehouse.runtime.rebuild import _Rebuild
from lakehouse.runtime.recovery import fill_index
from lakehouse.runtime.seen import SeenIndex
from lakehouse.sinks.delta import DeltaWriter
from lakehouse.tables import Table, columns
from lakehouse.upkeep.plan import differences
from tests.streaming.feed import Run, checked, history, split
from tests.streaming.test_maintain import follow
from tests.unit.test_plan import CHANGES, HOME, NOW

EVENTS = FLOWS[0]
DEVICES = Aggregate(
    "gold.devices_daily", "silver.user_events", "occurred_at", timedelta(days=1),
    {"date": ("date", "cast(occurred_at as date)"), "post_id": ("string", "post_id")},
    (Sum("events"), Distinct("users", "user_id")), ("occurred_at", "post_id", "user_id"),
)  # fmt: skip


@pytest.fixture(scope="module")
def batches(spark: SparkSession) -> list[dict[str, pa.Table]]:
    return checked(spark, split(history(datetime(2026, 10, 1, 12, tzinfo=UTC), seed=5, each=60), 6))


def verdict(change: str) -> str:
    return differences(NOW, CHANGES[change][0], HOME)[0].verdict


class NewCode:
    """The pass of user events with another declaration, over the lake of an old one."""

    def __init__(self, run: Run, flow: Flow):
        run.start()
        self.run, self.flow = run, flow
        for aggregate in flow.gold:
            if aggregate.name not in run.writers:
                uri = run.settings.table_uri(aggregate.name)
                DeltaWriter.create(run.storage, aggregate.table, uri, timedelta(days=1))
                version = run.lake.table(aggregate.name).version()
                run.writers[aggregate.name] = DeltaWriter(run.storage, aggregate.table, uri, version)  # type: ignore[assignment]
        cut = run.lake.cuts()[flow.topic]
        self.progress = Progress(cut.seq, dict(cut.ends), cut.versions)

    def rebuild(self, name: str) -> None:
        _Rebuild(self.run.spark, self.run.lake, self.run.writers, self.flow, self.progress).table(name)
        self.progress.seq += 1

    def feed(self, *batches: dict[str, pa.Table]) -> None:
        index, contract = SeenIndex(self.run.settings.home / "index" / self.flow.topic), contracts()[self.flow.topic]
        fill_index(index, self.flow, contract, self.run.lake, self.progress, contract.duplicate_horizon)
        one = FusedPass(
            self.flow, contract, self.run.lake, self.run.writers, index, self.progress, contract.duplicate_horizon
        )
        for batch in batches:
            one.land(batch[self.flow.topic])
            if (written := one.fold()) is not None:
                one.done(written, one.ledger(written, 0.0))

    def holds(self, aggregate: Aggregate) -> bool:
        """Whether the table is what silver says."""
        silver = self.run.spark.read.format("delta").load(self.run.settings.table_uri(aggregate.source))
        wanted = arrow(aggregate.recompute(silver)).to_pylist()
        return sorted(map(str, wanted)) == sorted(map(str, self.run.rows(aggregate.name)))


def test_a_new_gold_table_is_right_after_the_commands_and_wrong_without(
    run: Run, batches: list[dict[str, pa.Table]]
) -> None:
    assert CHANGES["a gold table that is new"][1:] == (
        "migration", ("rm -r /home-of-it/index/user-events", "lakehouse rebuild gold.devices_daily"),
    )  # fmt: skip
    flow = replace(EVENTS, gold=(*EVENTS.gold, DEVICES))
    run.start().feed(*batches[:3])
    for one in run.passes.values():
        one._flush(0, every=-1)
    new = NewCode(run, flow)
    new.feed(batches[3])
    assert not new.holds(DEVICES), "it lacks the history"
    new.rebuild(DEVICES.name)
    assert new.holds(DEVICES)
    new.feed(batches[4])
    assert not new.holds(DEVICES), "members of the history count again"
    shutil.rmtree(run.settings.home / "index" / EVENTS.topic)
    new.rebuild(DEVICES.name)
    new.feed(batches[5])
    assert new.holds(DEVICES)


def test_a_column_of_another_type_can_not_be_read(spark: SparkSession, run: Run, batches: Any) -> None:
    assert verdict("a column of another type") == "refused"
    table = Table("silver.user_events", columns("event_id string, rating string"), ("event_id",))
    run.start().feed(batches[0])
    writer = DeltaWriter(
        run.storage, table, run.settings.table_uri(table.name), run.writers["silver.user_events"].version
    )
    writer.append(pa.table({"event_id": ["e"], "rating": ["five"]}))
    with pytest.raises(Py4JJavaError, match="Parquet column cannot be converted"):
        spark.read.format("delta").load(writer.uri).select("rating").collect()
    with pytest.raises((pa.ArrowInvalid, pa.ArrowNotImplementedError)):
        run.lake.dataset(table.name).to_table(columns=["rating"])


def test_a_column_that_is_gone_stays_null(spark: SparkSession, run: Run, batches: Any) -> None:
    assert verdict("a column that is gone") == "compatible"
    run.start().feed(batches[0])
    before = [row["device"] for row in run.rows("silver.user_events")]
    old = TABLES["silver.user_events"]
    table = replace(old, schema=T.StructType([field for field in old.schema if field.name != "device"]))
    writer = DeltaWriter(run.storage, table, run.settings.table_uri(table.name), run.writers[table.name].version)
    writer.append(run.lake.dataset(table.name).to_table().drop_columns(["device"]).slice(0, 1))
    assert sorted(map(str, (row["device"] for row in run.rows(table.name)))) == sorted(map(str, [*before, None]))
    assert spark.read.format("delta").load(writer.uri).select("device").count() == len(before) + 1


def test_a_column_that_is_new_is_added_by_the_start(spark: SparkSession, run: Run, batches: Any) -> None:
    assert verdict("a column that is new") == "compatible"
    run.start().feed(*batches[:2])
    old = TABLES["silver.user_events"]
    followed = follow(run, spark, old.name)
    table = replace(old, schema=T.StructType([*old.schema, *columns("mood string")]))
    version = recovery.add_columns(run.lake, table)
    writer = DeltaWriter(run.storage, table, run.settings.table_uri(table.name), version)
    rows = run.lake.dataset(table.name).to_table().slice(0, 1).drop_columns(["mood"])
    writer.append(rows.append_column("mood", pa.array(["well"])))
    assert {row["mood"] for row in run.rows(table.name)} == {None, "well"}
    assert {row.mood for row in spark.read.format("delta").load(writer.uri).collect()} == {None, "well"}
    # A query that follows the table goes on from its checkpoint, and has the column.
    assert followed and [row.mood for row in follow(run, spark, old.name)] == ["well"]


def test_a_query_with_another_source_fails_on_its_checkpoint(spark: SparkSession, run: Run, batches: Any) -> None:
    assert verdict("a query with another source") == "migration"
    run.start().feed(batches[0])

    def counted(batch: DataFrame, _: int) -> None:
        batch.count()

    def follow(generation: int, *tables: str) -> None:
        frame = None
        for name in tables:
            one = spark.readStream.format("delta").load(run.settings.table_uri(name)).select("topic")
            frame = one if frame is None else frame.union(one)
        assert frame is not None
        writer = frame.writeStream.option("checkpointLocation", f"{run.settings.root}/_checkpoints/x/g{generation}")
        writer.foreachBatch(counted).trigger(availableNow=True).start().awaitTermination()

    follow(1, "silver.service_logs", "silver.system_metrics")
    with pytest.raises(PySparkException):
        follow(1, "silver.service_logs")
    follow(2, "silver.service_logs")
