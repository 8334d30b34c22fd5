"""What DeltaWriter writes is a Delta table to every reader, commits are exclusive, and its bounds hold."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from lakehouse.settings import Settings
from lakehouse.sinks.delta import CommitConflict, DeltaWriter, Storage, statistics
from lakehouse.sources.datasets import pruned_dataset
from lakehouse.tables import Table, columns

DAY = timedelta(days=1)
TABLE = Table(
    "silver.things",
    columns(
        "id bigint, name string, at timestamp, day date, raw binary, rate double, "
        "tags map<string,string>, parts array<struct<a:string,b:double>>, deep struct<x:struct<y:bigint>>"
    ),
    key=("id",),
    order=("id", "at", "day", "name"),
)
AT = datetime(2026, 11, 24, 12, 0, 0, 123_456, tzinfo=UTC)


def row(number: int, **fields: Any) -> dict[str, Any]:
    full = {
        "id": number,
        "name": f"n{number} é",
        "at": AT,
        "day": date(2026, 11, 24),
        "raw": b"\x00\xff",
        "rate": 0.1,
        "tags": [("a", "b")],
        "parts": [{"a": "x", "b": None}],
        "deep": {"x": {"y": 7}},
    }
    return full | fields


def rows(*found: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([*found], schema=TABLE.arrow)


@pytest.fixture
def writer(spark: SparkSession, base: Settings, tmp_path: Path) -> DeltaWriter:
    """A writer of a table of its own."""
    storage, uri = Storage(spark, base.home / "tmp"), f"file://{tmp_path}/things"
    assert DeltaWriter.create(storage, TABLE, uri, DAY) and not DeltaWriter.create(storage, TABLE, uri, DAY)
    return DeltaWriter(storage, TABLE, uri, 0)


def other(writer: DeltaWriter) -> DeltaWriter:
    """A writer of another process, which knows nothing of the first one's commits."""
    return DeltaWriter(writer.storage, writer.table, writer.uri, writer.version)


def ids(writer: DeltaWriter) -> list[int]:
    return sorted(DeltaTable(writer.uri).to_pyarrow_table()["id"].to_pylist())


def test_spark_and_delta_rs_read_what_is_written(spark: SparkSession, writer: DeltaWriter) -> None:
    empty = {name: None for name in TABLE.schema.names if name != "id"}
    wanted = rows(row(1), row(2, **empty), row(3, tags=[], parts=[]))
    writer.append(wanted)
    by_rust = DeltaTable(writer.uri).to_pyarrow_table().cast(TABLE.arrow).sort_by("id")
    assert by_rust.to_pylist() == wanted.to_pylist()
    frame = spark.read.format("delta").load(writer.uri)
    assert frame.schema.simpleString() == TABLE.schema.simpleString()
    by_spark = pa.Table.from_batches(frame.orderBy("id")._collect_as_arrow()).cast(TABLE.arrow)
    assert by_spark.to_pylist() == wanted.to_pylist()


def test_staged_rows_are_invisible_until_committed(writer: DeltaWriter) -> None:
    file = writer.stage(rows(row(1)))
    assert ids(writer) == []
    assert writer.commit([file]) == 1 and ids(writer) == [1]


def test_two_writers_at_once_lose_nothing(writer: DeltaWriter) -> None:
    second = other(writer)
    for number in range(3):
        files = writer.stage(rows(row(number))), second.stage(rows(row(number + 10)))
        assert writer.commit([files[0]]) < second.commit([files[1]])
    assert ids(writer) == [0, 1, 2, 10, 11, 12]


def test_a_writer_goes_on_after_a_commit_of_spark(spark: SparkSession, writer: DeltaWriter) -> None:
    writer.append(rows(row(1), row(2)))
    spark.sql(f"delete from delta.`{writer.uri}` where id = 1")
    assert writer.append(rows(row(3))) == 3 and ids(writer) == [2, 3]


def test_removing_a_file_that_another_removed_is_a_conflict_and_changes_nothing(writer: DeltaWriter) -> None:
    file, second = writer.stage(rows(row(1))), other(writer)
    writer.commit([file])
    second.version = 1
    writer.commit([writer.stage(rows(row(2)))], [(file.path, file.size)])
    with pytest.raises(CommitConflict, match=r"silver\.things: version 2"):
        second.commit([second.stage(rows(row(3)))], [(file.path, file.size)])
    assert ids(writer) == [2]


def test_replacing_another_file_than_the_winner_did_is_no_conflict(writer: DeltaWriter) -> None:
    one, two = writer.stage(rows(row(1))), writer.stage(rows(row(2)))
    writer.commit([one, two])
    second = other(writer)
    writer.commit([writer.stage(rows(row(10)))], [(one.path, one.size)])
    assert second.commit([second.stage(rows(row(20)))], [(two.path, two.size)]) == 3
    assert ids(writer) == [10, 20]


def test_changed_columns_are_a_conflict(spark: SparkSession, writer: DeltaWriter) -> None:
    spark.sql(f"alter table delta.`{writer.uri}` add columns (more string)")
    with pytest.raises(CommitConflict):
        writer.append(rows(row(1)))


def test_one_version_holds_adds_and_removes_together(writer: DeltaWriter) -> None:
    file = writer.stage(rows(row(1)))
    writer.commit([file])
    writer.commit([writer.stage(rows(row(2))), writer.stage(rows(row(3)))], [(file.path, file.size)])
    assert ids(writer) == [2, 3]
    assert DeltaTable(writer.uri, version=1).to_pyarrow_table()["id"].to_pylist() == [1]


def test_bounds_enclose_every_value_and_count_nulls() -> None:
    later = datetime(2026, 11, 24, 12, 0, 0, 999_999, tzinfo=UTC)
    found = statistics(rows(row(5), row(-3, at=later, name=None), row(9, at=None)), TABLE.order)
    assert found == {
        "numRecords": 3,
        "minValues": {"id": -3, "at": "2026-11-24T12:00:00.123Z", "day": "2026-11-24", "name": "n5 é"},
        "maxValues": {"id": 9, "at": "2026-11-24T12:00:01.000Z", "day": "2026-11-24", "name": "n9 é"},
        "nullCount": {"id": 0, "at": 1, "day": 0, "name": 1},
    }


def test_a_column_of_nulls_and_no_rows_have_no_bounds() -> None:
    nothing = statistics(rows(row(1, at=None)), ("at",))
    assert (nothing["minValues"], nothing["maxValues"], nothing["nullCount"]) == ({}, {}, {"at": 1})
    assert statistics(rows(), TABLE.order)["minValues"] == {}


@pytest.mark.parametrize("micros", [0, 1, 500, 999, 123_456, 999_999])
def test_no_reader_skips_a_file_by_a_bound_that_was_cut(spark: SparkSession, writer: DeltaWriter, micros: int) -> None:
    at = AT.replace(microsecond=micros)
    writer.append(rows(row(1, at=at)))
    text = at.isoformat()
    assert spark.read.format("delta").load(writer.uri).where(f"at = timestamp '{text}'").count() == 1
    table, kind = DeltaTable(writer.uri), pa.timestamp("us", "UTC")
    assert pruned_dataset(table).count_rows(filter=pa.compute.field("at") >= pa.scalar(at, kind)) == 1
    assert pruned_dataset(table).count_rows(filter=pa.compute.field("at") <= pa.scalar(at, kind)) == 1


def test_optimize_and_restore_of_spark_work_on_the_table(spark: SparkSession, writer: DeltaWriter) -> None:
    for number in range(3):
        writer.append(rows(row(number)))
    spark.sql(f"optimize delta.`{writer.uri}`")
    assert ids(writer) == [0, 1, 2] and len(DeltaTable(writer.uri).file_uris()) == 1
    spark.sql(f"restore table delta.`{writer.uri}` to version as of 2")
    assert ids(writer) == [0, 1]
    with pytest.raises(CommitConflict):  # RESTORE writes the columns again: whoever goes on has read them anew
        writer.append(rows(row(9)))
    writer.version = DeltaTable(writer.uri).version()
    assert writer.append(rows(row(9))) == 6 and ids(writer) == [0, 1, 9]


def test_a_compaction_commit_says_that_no_data_changed(writer: DeltaWriter) -> None:
    file = writer.stage(rows(row(1)))
    writer.commit([file])
    writer.commit([writer.stage(rows(row(1)))], [(file.path, file.size)], operation="OPTIMIZE", data_change=False)
    changes = [a for a in writer.actions(2) if "add" in a or "remove" in a]
    assert [next(iter(a.values()))["dataChange"] for a in changes] == [False, False]
    assert json.loads(changes[0]["add"]["stats"])["numRecords"] == 1
