"""`lakehouse maintain` beside a stream: what it moves and deletes, and what it must not."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import SecretStr
from pyspark.sql import SparkSession

from lakehouse.runtime.checkpoints import Generation
from lakehouse.runtime.compaction import Compactor, compact
from lakehouse.runtime.holds import Log, held, holds
from lakehouse.settings import Elasticsearch, Mongo
from lakehouse.sinks.files import Files
from lakehouse.sources.lake import LakeError
from lakehouse.upkeep.closed import APPENDED, closed_days, live
from lakehouse.upkeep.maintain import checkpoints, maintain
from lakehouse.upkeep.reset import reset
from tests.streaming.feed import Run, checked, history, split
from tests.streaming.test_compaction import files

DAY = timedelta(days=1)
ORIGIN = datetime(2026, 10, 1, 20, tzinfo=UTC)
SILVER, GOLD = "silver.user_events", "gold.activity_minute"
AWAY = {
    "mongo": Mongo(uri=SecretStr("mongodb://127.0.0.1:1/")),
    "elasticsearch": Elasticsearch(url=SecretStr("http://127.0.0.1:1")),
}


@pytest.fixture(scope="module")
def batches(spark: SparkSession) -> list[dict[str, pa.Table]]:
    """Of two days: appended from 20:00 to 02:00."""
    return checked(spark, split(history(ORIGIN, seed=11, each=120), 6))


def kept(run: Run, **changes: Any) -> Run:
    stream = run.settings.stream.model_copy(update=changes)
    run.settings = run.settings.model_copy(update={"stream": stream, "off": ("mongodb", "elasticsearch")})
    run.__post_init__()
    return run


def maintained(run: Run, **options: Any) -> dict[str, Any]:
    return maintain(run.settings, storage=run.storage, **options)


def follow(run: Run, spark: SparkSession, table: str, query: str = "mongodb") -> list[Any]:
    """Read what is new in a table as the store's query does, with its checkpoint; the rows."""
    got: list[Any] = []
    (
        spark.readStream.format("delta")
        .option("skipChangeCommits", "true")
        .load(run.settings.table_uri(table))
        .writeStream.option("checkpointLocation", f"{run.settings.root}/_checkpoints/{query}/g1")
        .foreachBatch(lambda frame, _: got.extend(frame.collect()))
        .trigger(availableNow=True)
        .start()
        .awaitTermination()
    )
    return got


def older(run: Run, by: timedelta) -> None:
    """Make all that the lake's file system holds look as old as that, what logs say of files too."""
    then = datetime.now(UTC) - by
    for path in Path(run.settings.root.removeprefix("file://")).rglob("*"):
        if path.suffix == ".json" and path.parent.name == "_delta_log":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            for line in lines:
                for action in line.values():
                    for name in ("deletionTimestamp", "modificationTime", "timestamp"):
                        if name in action:
                            action[name] = int(then.timestamp() * 1000)
            path.write_text("\n".join(map(json.dumps, lines)))
            path.with_name(f".{path.name}.crc").unlink(missing_ok=True)
    for path in Path(run.settings.root.removeprefix("file://")).rglob("*"):
        os.utime(path, (then.timestamp(), then.timestamp()))


def test_closed_days_become_sorted_files_and_no_row_changes(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    kept(run).start().feed(*batches)
    before, cuts = run.contents(), run.lake.cuts()
    found = maintained(run)
    assert set(found["tables"][SILVER]["compacted"]) == {"2026-10-01", "2026-10-02"}
    assert found["tables"][SILVER]["files"] == [6, 2] and run.contents() == before
    for path in live(run.lake, APPENDED[SILVER], run.lake.table(SILVER).version()):
        one = pa.parquet.read_table(Path(run.settings.table_uri(SILVER).removeprefix("file://")) / path.path)
        times = one.column("occurred_at").to_pylist()
        assert times == sorted(times)
        column = (
            pa.parquet.read_metadata(Path(run.settings.table_uri(SILVER).removeprefix("file://")) / path.path)
            .row_group(0)
            .column(0)
        )
        assert column.compression == "ZSTD"
    for cut in cuts.values():
        for name, version in cut.versions.items():
            run.lake.dataset(name, version).to_table()
    assert maintained(run)["tables"][SILVER].get("compacted") is None, "nothing is left to do"


def test_the_open_day_is_left_to_the_stream(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    kept(run).start().feed(*batches)
    found = maintained(run, now=ORIGIN.replace(day=2, hour=3))
    assert set(found["tables"][SILVER]["compacted"]) == {"2026-10-01"}


def test_the_stream_goes_on_beside_it_and_after_a_restart(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    kept(run).start().feed(*batches[:4])
    maintained(run)
    run.feed(batches[4])
    assert compact(run.lake, run.writers[SILVER], above_files=0) == 1, "the files of closed days are left as they are"
    maintained(run)
    run.start().feed(*batches)
    other = Run(run.spark, run.settings.model_copy(update={"hdfs": run.settings.hdfs.model_copy(update={"root": "b"})}))
    other.settings = other.settings.model_copy(update={"home": run.settings.home / "other"})
    other.start().feed(*batches)
    mine, wanted = run.contents(), other.contents()
    for name in wanted:
        if not name.startswith(("ops.", "_internal.")):
            assert mine[name] == wanted[name], name


def test_a_batch_that_died_is_taken_back_though_files_were_moved_since(
    run: Run, batches: list[dict[str, pa.Table]]
) -> None:
    kept(run).start().feed(*batches[:3])
    before = {name: sorted(map(str, run.rows(name))) for name in (SILVER, "bronze.user_events")}
    run.die(batches[3], ("ops.ledger", "before"))
    assert len(run.rows(SILVER)) > len(before[SILVER])
    maintained(run)
    run.start()
    assert {name: sorted(map(str, run.rows(name))) for name in before} == before


def test_another_writer_who_was_first_is_no_failure(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    kept(run).start().feed(*batches)

    class Late(type(run.storage)):  # type: ignore[misc]
        done = False

        def put(self, local: Path, uri: str) -> None:
            super().put(local, uri)
            if "user_events" in uri and "silver" in uri and ".zstd." in uri and not self.done:
                self.done = True
                assert compact(run.lake, run.writers[SILVER], above_files=0) == 6

    late = Late(run.spark, run.settings.home / "tmp")
    before = sorted(map(str, run.rows(SILVER)))
    found = maintain(run.settings, storage=late)
    assert any("another writer" in why for why in found["tables"][SILVER]["skipped"])
    assert sorted(map(str, run.rows(SILVER))) == before


def test_a_dry_run_touches_nothing(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    kept(run, time_travel=timedelta(0)).start().feed(*batches)
    root = Path(run.settings.root.removeprefix("file://"))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    found = maintained(run, dry_run=True)
    assert found["tables"][SILVER]["compacted"] and found["tables"][GOLD]["deleted_files"]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before


def test_promised_versions_stay_and_older_ones_go(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    kept(run).start().feed(*batches[:3])
    older(run, 2 * DAY)
    run.start().feed(*batches[3:])
    promised = {v: run.lake.dataset(GOLD, v).to_table().to_pylist() for v in range(3, 7)}
    dead = len(files(run, GOLD))
    found = maintained(run)
    assert found["tables"][GOLD]["deleted_files"] and len(files(run, GOLD)) < dead
    assert {v: run.lake.dataset(GOLD, v).to_table().to_pylist() for v in promised} == promised
    with pytest.raises((LakeError, FileNotFoundError, OSError)):
        run.lake.dataset(GOLD, 1).to_table()


def test_an_idle_topic_keeps_its_last_cut(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    kept(run).start().feed(*batches)
    older(run, 3 * DAY)
    maintained(run)
    older(run, 3 * DAY)
    maintained(run)
    for cut in run.lake.cuts().values():
        for name, version in cut.versions.items():
            assert run.lake.dataset(name, version).to_table().num_rows == len(run.rows(name))
    run.start()


def test_a_store_that_stands_still_finds_what_it_has_not_read(
    run: Run, spark: SparkSession, batches: list[dict[str, pa.Table]]
) -> None:
    kept(run).start().feed(*batches[:2])
    read = follow(run, spark, SILVER)
    run.feed(*batches[2:])
    maintained(run)
    older(run, 3 * DAY)
    run.start()
    run.writers[SILVER].commit([])
    found = maintained(run)
    assert {"mongodb"} == {hold["who"] for hold in found["held"] if hold["onwards"]}
    Compactor(run.lake, run.writers, 100, DAY).tidy()
    read += follow(run, spark, SILVER)
    assert sorted((row.partition, row.offset) for row in read) == sorted(
        (row["partition"], row["offset"]) for row in run.rows(SILVER)
    )


def test_a_store_that_stands_still_for_too_long_is_given_up(
    run: Run, spark: SparkSession, batches: list[dict[str, pa.Table]]
) -> None:
    kept(run, follower_kept=2 * DAY).start().feed(*batches[:2])
    follow(run, spark, SILVER)
    assert {h.table for h in holds(run.settings, run.lake, datetime.now(UTC)) if h.who == "mongodb"} == {SILVER}
    older(run, 3 * DAY)
    assert not [hold for hold in holds(run.settings, run.lake, datetime.now(UTC)) if hold.who == "mongodb"]


def test_a_reader_keeps_its_version_for_as_long_as_it_said(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    kept(run, time_travel=timedelta(0)).start().feed(*batches)
    wanted = run.lake.dataset(GOLD, 1).to_table().to_pylist()
    with held(run.settings, "an export", {GOLD: 1}, DAY):
        maintained(run)
        assert run.lake.dataset(GOLD, 1).to_table().to_pylist() == wanted
    maintained(run)
    assert files(run, GOLD) == {uri.rsplit("/", 1)[-1] for uri in run.lake.table(GOLD).file_uris()}


def test_a_long_log_is_summed_up_and_cut(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    kept(run).start().feed(*batches)
    rows = run.rows(GOLD)
    for _ in range(70):
        run.writers[GOLD].commit([])
    assert maintained(run)["tables"][GOLD]["checkpointed"]
    older(run, 2 * DAY)
    run.start().feed(*batches)
    for _ in range(70):
        run.writers[GOLD].commit([])
    # The cut of before is at a version below the checkpoint: all from there on stays.
    maintained(run)
    log = Log.of(Files(run.settings.root), "gold/activity_minute")
    assert min(log.entries) <= run.lake.cuts()["user-events"].versions[GOLD]
    assert run.rows(GOLD) == rows


def test_old_generations_of_checkpoints_go(run: Run) -> None:
    root = Path(run.settings.root.removeprefix("file://")) / "_checkpoints"
    for folder in ("mongodb/g1", "mongodb/g2", "mongodb/g3", "redis/g1"):
        (root / folder / "offsets").mkdir(parents=True)
        (root / folder / "offsets" / "0").touch()
    (root / "mongodb" / "generation").write_text("2\n{}")
    assert checkpoints(run.settings, False) == ["_checkpoints/mongodb/g1"]
    assert sorted(path.parts[-3] for path in root.glob("*/*/offsets/0")) == ["g1", "g2", "g3"]
    assert checkpoints(run.settings, False) == []


def test_a_detector_that_is_reset_begins_from_the_tables_as_they_are(
    run: Run, spark: SparkSession, batches: list[dict[str, pa.Table]]
) -> None:
    kept(run).start().feed(batches[0])
    assert follow(run, spark, "silver.service_logs", "anomalies")
    reset(run.settings, "detector")
    own = Generation.current(run.storage, run.settings, "anomalies")
    assert own.number == 2 and own.since["silver.service_logs"] == run.lake.table("silver.service_logs").version()
    assert not list(Path(own.folder.removeprefix("file://")).glob("g1/offsets/*"))


def test_a_store_that_is_away_is_told_and_the_rest_is_done(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    kept(run).start().feed(*batches)
    found = maintain(run.settings.model_copy(update={"off": (), **AWAY}), storage=run.storage)
    assert {line.partition(":")[0] for line in found["problems"]} == {"mongodb", "logs-live"}
    assert found["tables"][SILVER]["compacted"]


def test_files_without_a_known_time_are_left_alone() -> None:
    from lakehouse.upkeep.closed import File

    assert closed_days([File("a", 1, 1, None)], datetime.now(UTC).date()) == {}
