"""The fused pass: gold equals its recomputation, every record ends once, and a crash anywhere changes nothing."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from lakehouse.contracts import contracts
from lakehouse.flows import FLOWS, SHARED
from lakehouse.quality.checks import checker
from lakehouse.quality.quarantine import mark
from lakehouse.runtime.compaction import compact
from lakehouse.runtime.fused import REPLAY_HEADER
from lakehouse.runtime.rebuild import rebuild
from lakehouse.runtime.recovery import RecoveryError
from lakehouse.settings import Hdfs, Settings
from lakehouse.sources.lake import LakeError
from tests.streaming.feed import Cut, Record, Run, again, checked, event, history, log, metric, split

AT = datetime(2026, 10, 1, 12, 0, 30, tzinfo=UTC)
RECENT = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=5)
MINUTE = timedelta(minutes=1)


def assert_gold_is_its_recomputation(run: Run) -> None:
    for flow in FLOWS:
        silver = run.spark.read.format("delta").load(run.settings.table_uri(flow.silver.name)).cache()
        for table in flow.gold_tables:
            name = table.name.partition(".")[2]
            wanted = getattr(import_module(f"lakehouse.gold.{name}"), name)(silver).toPandas()
            assert_same_rows(run.lake.dataset(table.name).to_table().to_pandas(), wanted, list(table.key))
        silver.unpersist()


def assert_same_rows(found: Any, wanted: Any, key: list[str]) -> None:
    """Equal as sets of rows; floats to 1e-9 relative."""
    from pandas.testing import assert_frame_equal

    assert not found.duplicated(key).any()
    for column in wanted.columns:
        if str(wanted[column].dtype).startswith("datetime64") and wanted[column].dt.tz is None:
            wanted[column] = wanted[column].dt.tz_localize("UTC")
        if str(wanted[column].dtype).startswith("datetime64"):
            wanted[column] = wanted[column].astype("datetime64[us, UTC]")
            found[column] = found[column].astype("datetime64[us, UTC]")
    found, wanted = (frame.sort_values(key).reset_index(drop=True) for frame in (found, wanted))
    assert_frame_equal(found[list(wanted.columns)], wanted, rtol=1e-9, check_dtype=False)


@pytest.mark.parametrize("origin", [AT, RECENT], ids=["long ago", "just now"])
def test_gold_equals_its_recomputation_for_late_shuffled_and_repeated_records_and_a_restart(
    run: Run, origin: datetime
) -> None:
    batches = split(history(origin), 4)
    run.start(flush_rows=0).ingest(*batches[:2])
    run.start(flush_rows=0).ingest(*batches[1:])
    assert_gold_is_its_recomputation(run)


def test_every_record_ends_exactly_once(run: Run) -> None:
    records = history(AT, seed=11)
    run.start().feed(*checked(run.spark, split(records, 4)))
    for flow in FLOWS:
        mine, judge = [r for r in records if r.topic == flow.topic], checker(contracts()[flow.topic])
        bad = {(r.partition, r.offset) for r in mine if judge(r.value, int(r.at.timestamp() * 1e6)).reasons}
        silver = {(r["partition"], r["offset"]) for r in run.rows(flow.silver.name)}
        held = {(r["partition"], r["offset"]) for r in run.rows("silver.quarantine") if r["topic"] == flow.topic}
        landed = sorted((r["partition"], r["offset"], r["value"]) for r in run.rows(flow.bronze.name))
        assert landed == sorted((r.partition, r.offset, r.value) for r in mine)
        assert held == bad and not held & silver
        assert run.counts(flow.topic) == (len(mine), len(silver), len(bad), len(mine) - len(silver) - len(bad))


def places(run: Run, table: str = "silver.user_events") -> list[tuple[int, int]]:
    return sorted((r["partition"], r["offset"]) for r in run.rows(table))


@pytest.mark.parametrize("cut", [1, 3], ids=["across batches", "within one batch"])
def test_of_equal_identities_the_first_appended_wins(run: Run, cut: int) -> None:
    first = Record("user-events", 1, 7, AT, event(AT, "same"))
    second, third = again(first, 8), again(first, 0, MINUTE * 2, partition=0)
    batches = [batch for batch in ([third, second, first][3 - cut :], [third, second, first][: 3 - cut]) if batch]
    run.start().feed(*checked(run.spark, batches))
    assert places(run) == [(1, 7)]
    assert run.counts("user-events") == (3, 1, 0, 2)


def test_only_an_accepted_record_claims_an_identity(run: Run) -> None:
    broken = Record("user-events", 0, 0, AT, event(AT, "same", rating=9))
    run.start().feed(*checked(run.spark, [[broken], [again(broken, 1, value=event(AT, "same"))]]))
    assert places(run) == [(0, 1)]


def test_an_identity_is_new_again_after_the_horizon(run: Run) -> None:
    first = Record("user-events", 0, 0, AT, event(AT, "same"))
    week = timedelta(days=7)
    run.start(flush_rows=0)
    run.feed(*checked(run.spark, [[first], [again(first, 1, week)], [again(first, 2, week + MINUTE)]]))
    assert places(run) == [(0, 0), (0, 2)]


def test_a_backlog_older_than_the_horizon_is_deduplicated_like_any_other(run: Run) -> None:
    first = Record("user-events", 0, 0, AT, event(AT, "same"))
    run.start(flush_rows=0).feed(*checked(run.spark, [[first], [again(first, 1)], [again(first, 2)]]))
    assert places(run) == [(0, 0)]


def test_a_replay_lands_once_however_often_it_is_replayed(run: Run) -> None:
    header = ((REPLAY_HEADER, b"user-events/0/0"),)
    broken = Record("user-events", 0, 0, AT, b"{")
    fixed = [again(broken, i, MINUTE * i, value=event(AT, f"fixed{i}"), headers=header) for i in (1, 2, 3, 4)]
    batches = checked(run.spark, [[broken, fixed[0]], fixed[1:2], fixed[2:3], fixed[3:]])
    run.start().feed(*batches[:3])
    shutil.rmtree(run.settings.home / "index")
    run.start().feed(*batches[3:])
    assert places(run) == [(0, 1)]
    assert run.counts("user-events") == (5, 1, 1, 3)


def test_logs_without_identity_are_never_duplicates_and_are_named_by_their_place(run: Run) -> None:
    one = Record("service-logs", 0, 0, AT, log(AT, None))
    run.start().feed(*checked(run.spark, [[one, again(one, 1)], [again(one, 2, value=log(AT, " "))]]))
    assert sorted(r["event_id"] for r in run.rows("silver.service_logs")) == [f"service-logs/0/{i}" for i in range(3)]


def test_a_metric_record_with_one_bad_leaf_is_quarantined_whole(run: Run) -> None:
    good = Record("system-metrics", 0, 0, AT, metric(AT, "h", cpu=0.5, load=2))
    bad = again(good, 1, value=metric(AT, "h", load=2, **{"a.b": 1, "a": {"b": 2}}))
    run.start().feed(*checked(run.spark, [[good, bad]]))
    assert [(r["offset"], r["metric"]) for r in run.rows("silver.system_metrics")] == [
        (0, "system.cpu"),
        (0, "system.load"),
    ]
    assert run.rows("silver.quarantine")[0]["reasons"] == ["/system/a/b: a second value named system.a.b"]


def test_trending_is_dated_by_silver_even_if_the_newest_record_is_broken(run: Run) -> None:
    good = Record("user-events", 0, 0, AT, event(AT - MINUTE, "a"))
    run.start().feed(*checked(run.spark, [[good, again(good, 1, MINUTE * 5, value=b"{")]]))
    assert_gold_is_its_recomputation(run)


# Crash as input.


@pytest.fixture(scope="session")
def batches(spark: SparkSession) -> list[dict[str, pa.Table]]:
    """Three batches of every topic; the crash comes in the second."""
    return checked(spark, split(history(AT, seed=5, each=24), 3))


@pytest.fixture(scope="session")
def undisturbed(
    spark: SparkSession, base: Settings, tmp_path_factory: pytest.TempPathFactory, batches: list[dict[str, pa.Table]]
) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    run = Run(spark, base.model_copy(update={"home": folder / "home", "hdfs": Hdfs(uri=f"file://{folder}")}))
    run.start().feed(*batches)
    return run.contents()


OWN = [[table.name for table in flow.tables if table not in SHARED] for flow in FLOWS]
LAST = ("ops.ledger", "after")
CRASHES = [
    *(tuple((name, "before") for name in names if name) for names in zip_longest(*OWN)),
    *(((table.name, "before"),) for table in SHARED),
    (LAST,),  # before the index
]
"""Each effect in order dies before its commit, those of the topics side by side."""
LATE = ("ops.ledger", "before")
"""A crash that leaves every table but the ledger written."""


@pytest.mark.parametrize("effects", CRASHES, ids=lambda e: " ".join(e[0]))
def test_a_crash_at_any_effect_changes_nothing(
    run: Run, batches: list[dict[str, pa.Table]], undisturbed: dict[str, list[str]], effects: tuple[tuple[str, str]]
) -> None:
    run.start().feed(batches[0])
    run.die(batches[1], *effects)
    run.start().feed(*batches)
    assert run.contents() == undisturbed


def crashed(run: Run, batches: list[dict[str, pa.Table]]) -> Run:
    run.start().feed(batches[0])
    run.die(batches[1], LATE)
    return run


HOUR = timedelta(hours=1)


def test_silver_is_ahead_until_a_cut_holds_all_that_landed(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    run.start(cut_every=HOUR).feed(*batches)
    before = {topic: cut.seq for topic, cut in run.lake.cuts().items()}
    held = {flow.topic: run.counts(flow.topic)[0] for flow in FLOWS}
    run.fused.rest()
    run.fused.written()
    assert set(before.values()) == {1} == {cut.seq for cut in run.lake.cuts().values()}, "a cut before it was due"
    run.fused.rest(wholly=True)
    run.fused.written()
    for flow in FLOWS:
        sent = [batch[flow.topic].num_rows for batch in batches]
        assert held[flow.topic] == sent[0]
        assert run.counts(flow.topic)[0] == sum(sent) == len(run.rows(flow.bronze.name))
    assert {cut.seq for cut in run.lake.cuts().values()} == {2}
    assert_gold_is_its_recomputation(run)


def test_a_repetition_within_a_cut_is_a_duplicate(run: Run) -> None:
    first = Record("user-events", 0, 0, AT, event(AT, "same"))
    other = Record("user-events", 0, 1, AT, event(AT, "other"))
    run.start(cut_every=HOUR).feed(*checked(run.spark, [[other], [again(first, 2)], [again(first, 3, MINUTE)]]))
    run.fused.rest(wholly=True)
    run.fused.written()
    assert places(run) == [(0, 1), (0, 2)]
    assert run.counts("user-events") == (3, 2, 0, 1)


def test_what_landed_without_a_cut_is_taken_back_and_landed_again(
    run: Run, batches: list[dict[str, pa.Table]], undisturbed: dict[str, list[str]]
) -> None:
    run.start(cut_every=HOUR).feed(*batches)
    run.start().feed(*batches)
    assert run.contents() == undisturbed


def test_nothing_is_cut_after_a_failure(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    run.start(cut_every=HOUR).feed(batches[0])
    run.writers["silver.service_logs"].dies = "before"
    run.fused._begin(lambda: run.fused.write(batches[1], 0.0))
    with pytest.raises(Cut):
        run.fused.written()
    run.fused.rest(wholly=True)
    assert run.fused.writing is not None
    assert isinstance(run.fused.writing.exception(60), Cut)
    assert {cut.seq for cut in run.lake.cuts().values()} == {1}


def test_compaction_between_crash_and_restart_changes_nothing(
    run: Run, batches: list[dict[str, pa.Table]], undisturbed: dict[str, list[str]]
) -> None:
    crashed(run, batches)
    for name in ("bronze.user_events", "silver.user_events", "silver.quarantine", "ops.ledger"):
        compact(run.lake, run.writers[name], above_files=0)
    for name in ("silver.service_logs", "gold.activity_minute", "gold.host_utilization_minute"):
        run.spark.sql(f"optimize delta.`{run.settings.table_uri(name)}`")
    run.start().feed(*batches)
    assert run.contents() == undisturbed


def test_marks_in_quarantine_between_crash_and_restart_change_nothing_else(
    run: Run, batches: list[dict[str, pa.Table]], undisturbed: dict[str, list[str]]
) -> None:
    run.start().feed(batches[0])
    marked = next((row["topic"], row["partition"], row["offset"]) for row in run.rows("silver.quarantine"))
    run.die(batches[1], LATE)
    compact(run.lake, run.writers["silver.quarantine"], above_files=0)  # several topics in one file
    assert mark(run.settings, [marked], "discarded") == 1
    run.start().feed(*batches)
    compact(run.lake, run.writers["silver.quarantine"], above_files=0)
    assert mark(run.settings, [marked], "open") == 1
    assert run.contents() == undisturbed


def test_a_restore_between_crash_and_restart_changes_nothing(
    run: Run, batches: list[dict[str, pa.Table]], undisturbed: dict[str, list[str]]
) -> None:
    crashed(run, batches)
    for name in ("bronze.user_events", "gold.user_activity_daily"):
        run.spark.sql(f"restore table delta.`{run.settings.table_uri(name)}` to version as of 0")
    run.start().feed(*batches)
    assert run.contents() == undisturbed


def clean(run: Run, name: str, until: int) -> None:
    """A checkpoint of version ``until``, and no log before it."""
    uri = run.settings.table_uri(name)
    DeltaTable(uri, version=until).create_checkpoint()
    for path in (Path(uri.removeprefix("file://")) / "_delta_log").glob("*.json"):
        if int(path.stem) < until:
            path.unlink()


def test_log_clean_up_between_crash_and_restart_changes_nothing(
    run: Run, batches: list[dict[str, pa.Table]], undisturbed: dict[str, list[str]]
) -> None:
    crashed(run, batches)
    for name in ("bronze.user_events", "silver.user_events", "gold.activity_minute", "gold.service_health_minute"):
        clean(run, name, until=1)
    for name in ("silver.quarantine", "ops.ledger"):
        clean(run, name, until=run.writers[name].version)
    run.start().feed(*batches)
    assert run.contents() == undisturbed


def test_a_log_cleaned_up_past_the_cut_stops_the_restart_instead_of_counting_twice(
    run: Run, batches: list[dict[str, pa.Table]]
) -> None:
    crashed(run, batches)
    clean(run, "bronze.user_events", until=2)
    with pytest.raises((RecoveryError, LakeError), match=r"bronze\.user_events"):
        run.start()


def test_losing_the_index_changes_nothing(
    run: Run, batches: list[dict[str, pa.Table]], undisturbed: dict[str, list[str]]
) -> None:
    for batch in batches:
        run.start().feed(batch)
        shutil.rmtree(run.settings.home / "index")
    assert run.contents() == undisturbed


def test_a_quarantine_that_lost_rows_stops_the_restart_and_names_the_command(
    run: Run, batches: list[dict[str, pa.Table]]
) -> None:
    run.start().feed(batches[0])
    run.spark.sql(f"delete from delta.`{run.settings.table_uri('silver.quarantine')}` where true")
    with pytest.raises(RecoveryError, match=r"lakehouse rebuild silver\.quarantine"):
        run.start()


def test_a_silver_table_rebuilt_from_bronze_is_the_same(run: Run, batches: list[dict[str, pa.Table]]) -> None:
    run.start().feed(*batches)
    before = run.contents()
    for flow in FLOWS:
        assert rebuild(run.settings, flow.silver.name)[flow.silver.name][flow.topic] == len(before[flow.silver.name])
    after = run.contents()
    assert {f.silver.name: after[f.silver.name] for f in FLOWS} == {f.silver.name: before[f.silver.name] for f in FLOWS}
