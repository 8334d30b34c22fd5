"""Erasing somebody from the tables: nothing on the disk names them, gold is right, the audit balances."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from lakehouse.audit import audit
from lakehouse.erasure.files import in_file
from lakehouse.erasure.identifiers import Wanted
from lakehouse.erasure.lake import Done, TopicErasure
from lakehouse.erasure.run import rewrite_tables
from lakehouse.erasure.tombstones import erased, remember
from lakehouse.flows import FLOWS, TABLES
from lakehouse.runtime.fold import Buckets
from lakehouse.runtime.recovery import create_tables, roll_back
from tests.streaming.feed import Record, Run, event, history, split

ORIGIN = datetime(2026, 10, 1, 12, tzinfo=UTC)
WHO = "u3"
LATER = ORIGIN + timedelta(hours=10)


def told(run: Run, who: str = WHO) -> set[date]:
    """Erase somebody, as ``lakehouse erase`` does between two runs of the stream."""
    wanted = Wanted([who])
    remember(run.settings, run.lake, wanted.identifiers, datetime.now(UTC))
    writers = create_tables(run.storage, run.lake)
    progress = roll_back(run.lake, writers, check=False)
    topics = TopicErasure.of_all(run.lake, wanted)
    return rewrite_tables(run.lake, writers, progress, topics, wanted, datetime.now(UTC)).days


def on_disk(run: Run, who: str = WHO) -> list[str]:
    """The files under the lake that name somebody, live or not, logs and statistics too."""
    root = Path(run.settings.root.removeprefix("file://"))
    wanted = Wanted([who])
    paths = [path for path in root.rglob("*") if path.is_file() and path.name[0] != "."]
    assert len(paths) > 20
    return [str(path.relative_to(root)) for path in paths if in_file(wanted, path.name, path.read_bytes())]


def balanced(run: Run) -> dict[str, Any]:
    found = audit(run.settings, stores=False, kafka=False)
    assert found["problems"] == []
    return found["topics"]["user-events"]


@pytest.fixture
def records() -> list[Record]:
    """A history in which others name u3, too, and in which one of its events is repeated in other words."""
    found = history(ORIGIN, seed=11, each=60)
    ends = {p: max(r.offset for r in found if r.topic == "user-events" and r.partition == p) + 1 for p in (0, 1)}
    at = LATER - timedelta(hours=1)
    more = [
        event(at, "f1", event_type="follow", user_id="u1", properties={"followed": WHO}),
        event(at, "once", user_id=WHO, post_id="only-u3-saw-it"),
        event(at, "once", user_id="u30"),
        event(at, "f3", user_id="u30", text="u31 and u33 say hi"),
        b'{"user_id":"u3", broken',
    ]
    return found + [Record("user-events", 0, ends[0] + i, at, value, key=b"u1") for i, value in enumerate(more)]


def test_nothing_on_the_disk_names_them_and_the_rest_is_as_if_they_had_never_been(
    run: Run, spark: SparkSession, base: Any, records: list[Record], tmp_path: Path
) -> None:
    run.start().ingest(*split(records, 4))
    before = balanced(run)
    assert len(on_disk(run)) > 5
    told(run)
    assert on_disk(run) == []
    after = balanced(run)
    assert after["erased"] >= 5 and before["erased"] == 0
    lost = {k: before[k] - after[k] for k in ("valid", "quarantined", "duplicates")}
    assert sum(lost.values()) == after["erased"] and after["records"] == before["records"]
    bronze = [row for row in run.rows("bronze.user_events") if row["erased_at"]]
    assert len(bronze) == after["erased"] and {(r["key"], r["value"], r["headers"]) for r in bronze} == {(None,) * 3}
    quarantined = [row for row in run.rows("silver.quarantine") if row["erased_at"]]
    assert [row["reasons"] for row in quarantined] == [["erased"]] * lost["quarantined"] and lost["quarantined"] >= 1
    gone = {(r["topic"], r["partition"], r["offset"]) for r in bronze}
    left = [r for r in records if (r.topic, r.partition, r.offset) not in gone]
    twin = Run(spark, run.settings.model_copy(update=_elsewhere(run, tmp_path))).start()
    twin.ingest(*split(left, 3))
    for flow in FLOWS:
        for table in (flow.silver, *flow.gold_tables):
            assert run.contents()[table.name] == twin.contents()[table.name], table.name


def _elsewhere(run: Run, tmp_path: Path) -> dict[str, Any]:
    return {
        "home": tmp_path / "twin-home",
        "hdfs": run.settings.hdfs.model_copy(update={"uri": f"file://{tmp_path}/twin"}),
    }


def test_what_comes_late_stays_out_and_the_stream_goes_on(run: Run, records: list[Record]) -> None:
    run.start().ingest(*split(records, 2))
    told(run)
    before = balanced(run)
    run.start(erased=erased(run.settings, run.lake))
    end = max(r.offset for r in records if r.topic == "user-events" and r.partition == 0) + 1
    late = [
        Record("user-events", 0, end, LATER, event(LATER, "late1", user_id=WHO), key=WHO.encode()),
        Record("user-events", 0, end + 1, LATER, event(LATER, "late2", user_id="u1", text=f"where is {WHO}?")),
        Record("user-events", 0, end + 2, LATER, event(LATER, "new", user_id="u1")),
        Record("user-events", 0, end + 3, LATER, b"no json of " + WHO.encode(), headers=(("by", b"x"),)),
    ]
    run.ingest(late)
    after = balanced(run)
    assert after["erased"] == before["erased"] + 3 and after["valid"] == before["valid"] + 1
    assert after["quarantined"] == before["quarantined"]
    assert on_disk(run) == []


def test_it_may_be_done_again_and_after_it_was_cut_short(run: Run, records: list[Record]) -> None:
    run.start().ingest(*split(records, 2))
    wanted = Wanted([WHO])
    remember(run.settings, run.lake, wanted.identifiers, datetime.now(UTC))
    writers = create_tables(run.storage, run.lake)
    progress = roll_back(run.lake, writers, check=False)
    one = TopicErasure.of_all(run.lake, wanted)[0]
    one.erase(writers, progress[one.flow.topic], datetime.now(UTC), Done())  # no ledger row: it died here
    run.start(erased=erased(run.settings, run.lake))  # goes back to the last cut
    assert on_disk(run) != []
    told(run)
    first = balanced(run)
    told(run)
    assert balanced(run) == first and on_disk(run) == []
    assert len(erased(run.settings, run.lake).digests) == 1


def test_gold_is_still_one_file_a_bucket_and_every_reader_finds_the_newest_version(
    run: Run, records: list[Record]
) -> None:
    run.start().ingest(*split(records, 3))
    told(run)
    writers = create_tables(run.storage, run.lake)
    for flow in FLOWS:
        for aggregate in flow.gold:
            files = Buckets(aggregate, run.lake, writers[aggregate.name]).files.values()
            assert all(low == high for _, low, high in files)
    for name in TABLES:
        assert run.spark.read.format("delta").load(run.settings.table_uri(name)).count() == len(run.rows(name))


def test_what_was_made_of_a_days_texts_is_taken_out_to_be_made_again(run: Run, records: list[Record]) -> None:
    run.start().ingest(*split(records, 2))
    name = "gold.text_insights_daily"
    same = {"source": "comments", "kind": "keyword", "term": "coffee", "score": 1.0, "count": 2}
    days = [ORIGIN.date(), (ORIGIN + timedelta(days=40)).date()]
    rows = pa.Table.from_pylist([{"date": day, **same} for day in days], schema=TABLES[name].arrow)
    write_deltalake(run.settings.table_uri(name), rows, mode="append")
    assert told(run) >= {ORIGIN.date()}
    assert [row["date"] for row in run.rows(name)] == days[1:]


def test_statistics_of_others_stay(run: Run, records: list[Record]) -> None:
    run.start().ingest(*split(records, 2))
    told(run)
    log = Path(run.settings.table_uri("silver.user_events").removeprefix("file://")) / "_delta_log"
    checkpoints = [*log.glob("*.checkpoint.parquet")]
    assert len(checkpoints) == 1
    stats = [row for row in pq.read_table(checkpoints[0]).column("add").to_pylist() if row]
    assert stats and all(json.loads(row["stats"])["numRecords"] for row in stats)


def test_bytes_that_nobody_asked_to_erase_are_as_they_were(run: Run, records: list[Record]) -> None:
    run.start().ingest(*split(records, 2))
    told(run)
    sent = {(r.topic, r.partition, r.offset): r.value for r in records}
    kept = [row for row in run.rows("bronze.user_events") if row["erased_at"] is None]
    assert kept and all(row["value"] == sent[row["topic"], row["partition"], row["offset"]] for row in kept)
