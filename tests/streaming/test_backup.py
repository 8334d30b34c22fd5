"""A lake that is restored from a backup is the lake of the cut, and goes on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from lakehouse.audit import audit
from lakehouse.flows import STREAMED, TABLES
from lakehouse.runtime.compaction import compact
from lakehouse.settings import Hdfs
from lakehouse.sources.lake import LakeError
from lakehouse.upkeep.backup import BackupError, backup, manifests, restore
from tests.streaming.feed import Run, checked, history, split

SILVER, GOLD = "silver.user_events", "gold.activity_minute"


@pytest.fixture(scope="module")
def batches(spark: SparkSession) -> list[dict[str, pa.Table]]:
    return checked(spark, split(history(datetime(2026, 10, 1, 12, tzinfo=UTC), seed=5, each=40), 4))


def fresh(run: Run, folder: Path) -> Run:
    return Run(
        run.spark, run.settings.model_copy(update={"home": folder / "home", "hdfs": Hdfs(uri=f"file://{folder}")})
    )


def proof(run: Run) -> dict[str, Any]:
    return audit(run.settings, stores=False, kafka=False, wait=timedelta(0))


def test_a_restored_lake_is_that_of_the_cut_and_goes_on(
    run: Run, batches: list[dict[str, pa.Table]], tmp_path: Path, spark: SparkSession
) -> None:
    run.start().feed(*batches[:3])
    compact(run.lake, run.writers[SILVER], above_files=0)
    wanted, cuts = run.contents(), run.lake.cuts()
    run.die(batches[3], ("ops.ledger", "before"))
    found = backup(run.settings, str(tmp_path / "kept"))
    other = fresh(run, tmp_path / "other")
    done = restore(other.settings, str(tmp_path / "kept"))
    assert found["bytes"] == done["bytes"] and set(done["tables"]) == set(TABLES)
    assert other.contents() == wanted and other.lake.cuts() == cuts
    for name in (SILVER, GOLD, "ops.ledger"):
        assert spark.read.format("delta").load(other.settings.table_uri(name)).count() == len(other.rows(name))
    assert proof(other)["balanced"], proof(other)["problems"]
    other.start()
    assert other.contents() == wanted, "recovery has nothing to take back"
    other.feed(batches[3])
    run.start().feed(batches[3])
    assert {n: r for n, r in other.contents().items() if n in STREAMED} == {
        n: r for n, r in run.contents().items() if n in STREAMED
    }
    assert proof(other)["balanced"], proof(other)["problems"]


def test_a_second_backup_copies_what_is_new_alone_and_both_can_be_restored(
    run: Run, batches: list[dict[str, pa.Table]], tmp_path: Path
) -> None:
    run.start().feed(*batches[:2])
    first, before = backup(run.settings, str(tmp_path / "kept")), run.contents()
    assert backup(run.settings, str(tmp_path / "kept"))["files_copied"] == 0
    run.feed(batches[2])
    second = backup(run.settings, str(tmp_path / "kept"))
    assert 0 < second["files_copied"] < first["files_copied"] and second["files_there_already"]
    old = manifests(str(tmp_path / "kept"))[0]
    other = fresh(run, tmp_path / "other")
    restore(other.settings, str(tmp_path / "kept"), at=old)
    assert other.contents() == before
    with pytest.raises(BackupError, match="there already; --force"):
        restore(other.settings, str(tmp_path / "kept"))
    restore(other.settings, str(tmp_path / "kept"), force=True)
    assert other.contents() == run.contents()
    assert proof(other)["balanced"]


def test_a_damaged_backup_is_found_out_before_anything_is_replaced(
    run: Run, batches: list[dict[str, pa.Table]], tmp_path: Path
) -> None:
    run.start().feed(*batches[:2])
    backup(run.settings, str(tmp_path / "kept"))
    before = run.contents()
    path = next((tmp_path / "kept" / "data" / "gold" / "activity_minute").glob("*.parquet"))
    body = bytearray(path.read_bytes())
    body[100] ^= 1
    path.write_bytes(body)
    with pytest.raises(BackupError, match=r"gold\.activity_minute: part-.* is damaged"):
        restore(run.settings, str(tmp_path / "kept"), force=True)
    assert run.contents() == before


def test_a_table_that_lost_files_is_mended_at_the_cut_and_never_set_back(
    run: Run, batches: list[dict[str, pa.Table]], tmp_path: Path
) -> None:
    run.start().feed(*batches[:2])
    backup(run.settings, str(tmp_path / "kept"), GOLD)
    rows = run.rows(GOLD)
    for path in Path(run.settings.table_uri(GOLD).removeprefix("file://")).glob("*.parquet"):
        path.unlink()
    with pytest.raises((LakeError, OSError)):
        run.rows(GOLD)
    with pytest.raises(BackupError, match="name the table"):
        restore(run.settings, str(tmp_path / "kept"), force=True)
    restore(run.settings, str(tmp_path / "kept"), GOLD, force=True)
    assert run.rows(GOLD) == rows
    run.start().feed(batches[2])
    assert proof(run)["balanced"]
    with pytest.raises(BackupError, match=r"lakehouse rebuild gold\.activity_minute"):
        restore(run.settings, str(tmp_path / "kept"), GOLD, force=True)
    with pytest.raises(BackupError, match="restore --all"):
        restore(run.settings, str(tmp_path / "kept"), "ops.ledger", force=True)


def test_names_that_are_wrong_are_told(run: Run, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="no such table"):
        backup(run.settings, str(tmp_path), "gold.nothing")
    with pytest.raises(BackupError, match="no backup there"):
        restore(run.settings, str(tmp_path))
