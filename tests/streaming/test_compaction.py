"""What is deleted beside the stream, and what is not: a promised version stays readable."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from lakehouse.flows import TABLES
from lakehouse.runtime.compaction import CHECKPOINT_EVERY, Compactor, checkpoint, compact, trim, vacuum
from lakehouse.runtime.ledger import CHANGES
from tests.streaming.feed import Run, checked, history, split

DAY = timedelta(days=1)
GOLD = "gold.activity_minute"


@pytest.fixture(scope="module")
def batches(spark: SparkSession) -> list[dict[str, pa.Table]]:
    return checked(spark, split(history(datetime(2026, 10, 1, 12, tzinfo=UTC), seed=5, each=12), 3))


def files(run: Run, name: str) -> set[str]:
    folder = Path(run.settings.table_uri(name).removeprefix("file://"))
    return {path.name for path in folder.glob("*.parquet")}


def age(run: Run, name: str, by: timedelta) -> None:
    """Make every data file on disk look as old as that; what the log says of them stays."""
    then = (datetime.now(UTC) - by).timestamp()
    for path in files(run, name):
        os.utime(Path(run.settings.table_uri(name).removeprefix("file://")) / path, (then, then))


def live(run: Run, name: str) -> set[str]:
    return {uri.rsplit("/", 1)[-1] for uri in run.lake.table(name).file_uris()}


def versions(run: Run, name: str) -> list[list[dict[str, Any]]]:
    newest = run.lake.table(name).version()
    return [run.lake.dataset(name, version).to_table().to_pylist() for version in range(newest + 1)]


def test_files_that_a_promised_version_holds_stay_however_old_they_are(
    run: Run, batches: list[dict[str, pa.Table]]
) -> None:
    run.start().feed(*batches)
    before = versions(run, GOLD)
    age(run, GOLD, 3 * DAY)
    assert vacuum(run.lake, run.writers[GOLD], DAY) == 0
    assert versions(run, GOLD) == before and files(run, GOLD) > live(run, GOLD)


def test_what_only_older_versions_hold_is_deleted(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    run.start().feed(*batches)
    rows, dead = run.rows(GOLD), files(run, GOLD) - live(run, GOLD)
    assert dead and vacuum(run.lake, run.writers[GOLD], timedelta(0)) == len(dead)
    assert files(run, GOLD) == live(run, GOLD) and run.rows(GOLD) == rows
    assert run.lake.table(GOLD).version() == run.writers[GOLD].version, "it left the log alone"


def test_an_orphan_is_deleted_once_it_is_old(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    run.start().feed(batches[0])
    run.writers[GOLD].stage(TABLES[GOLD].arrow.empty_table())  # as a batch that died leaves it
    held = live(run, GOLD)
    assert len(files(run, GOLD)) == len(held) + 1
    vacuum(run.lake, run.writers[GOLD], DAY)
    assert len(files(run, GOLD)) == len(held) + 1
    age(run, GOLD, 2 * DAY)
    vacuum(run.lake, run.writers[GOLD], DAY)
    assert files(run, GOLD) == held


def test_old_changes_are_trimmed_and_the_stream_goes_on(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    run.start().feed(*batches[:2])
    assert trim(run.lake, run.writers[CHANGES.name], DAY) == 0 and run.rows(CHANGES.name)
    assert trim(run.lake, run.writers[CHANGES.name], timedelta(0)) == 2
    assert not run.rows(CHANGES.name)
    run.start().feed(*batches)
    assert {row["seq"] for row in run.rows(CHANGES.name)} == {3}


def test_an_idle_lake_keeps_the_version_of_its_last_cut(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    run.start().feed(*batches)
    cut = run.lake.cuts()["user-events"].versions
    silver = run.lake.dataset("silver.user_events", cut["silver.user_events"]).to_table().num_rows
    assert compact(run.lake, run.writers["silver.user_events"], above_files=0) == len(batches)
    assert Compactor(run.lake, run.writers, 100, timedelta(0)).tidy() == 0
    assert run.lake.dataset("silver.user_events", cut["silver.user_events"]).to_table().num_rows == silver
    assert Compactor(run.lake, run.writers, 100, timedelta(seconds=600)).tidy() == 0
    assert run.lake.dataset("silver.user_events", cut["silver.user_events"]).to_table().num_rows == silver


def test_a_long_log_is_summed_up_once(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    run.start().feed(*batches)
    writer = run.writers[GOLD]
    assert checkpoint(run.lake, run.writers) == [] and writer.checkpointed() == -1
    rows = run.rows(GOLD)
    for _ in range(CHECKPOINT_EVERY - writer.version - 1):
        writer.commit([])
    assert checkpoint(run.lake, run.writers) == [GOLD] and writer.checkpointed() == writer.version
    assert checkpoint(run.lake, run.writers) == [] and run.rows(GOLD) == rows
