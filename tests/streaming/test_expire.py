"""Records past their retention are deleted batch by batch: what they made stays, and the audit still balances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession

from lakehouse.audit import audit
from lakehouse.contracts import contracts
from lakehouse.erasure.identifiers import Wanted
from lakehouse.erasure.lake import TopicErasure
from lakehouse.erasure.run import rewrite_tables
from lakehouse.flows import FLOWS
from lakehouse.runtime import recovery
from lakehouse.runtime.rebuild import rebuild, record
from lakehouse.runtime.recovery import create_tables, roll_back
from lakehouse.trace import trace
from lakehouse.upkeep import expire as expiry
from lakehouse.upkeep.expire import expire
from tests.streaming.feed import Record, Run, checked, history, split
from tests.streaming.test_separate import Separate

DAY = timedelta(days=1)
ORIGIN = datetime(2026, 6, 1, 20, tzinfo=UTC)
LATER = ORIGIN + 4 * DAY
MIDNIGHT = datetime(2026, 6, 2, tzinfo=UTC)
LOGS = MIDNIGHT + contracts()["service-logs"].retention
"""From here on what was appended before midnight is past the retention of logs and metrics."""
EVENTS = MIDNIGHT + contracts()["user-events"].retention
"""Of user events; then nothing else is left of the others."""
OLD: list[Record] = history(ORIGIN, seed=31, each=100)
"""Appended from 20:00 to 01:00."""
NEW = [replace(one, offset=one.offset + 1000) for one in history(LATER, seed=37, each=60)]
"""Days later; some are as late as the first ones."""
Batches = list[dict[str, pa.Table]]


@pytest.fixture(scope="module")
def batches(spark: SparkSession) -> Batches:
    return checked(spark, [*split(OLD, 4), *split(NEW, 2)])


@pytest.fixture
def alone(run: Run) -> Run:
    """A lake without stores, which lets records expire."""
    stream = run.settings.stream.model_copy(update={"stores": (), "expire": True})
    return Run(run.spark, run.settings.model_copy(update={"stream": stream}))


def expired(run: Run, now: datetime, dry_run: bool = False) -> dict[str, int]:
    found = expire(run.settings, now, dry_run, lambda: run.storage)
    return {topic: one["records"] for topic, one in found.items()}


def audited(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = audit(run.settings, stores=False, kafka=False)
    return found


def balanced(run: Run) -> dict[str, dict[str, int]]:
    found = audited(run)
    assert found["problems"] == []
    return found["topics"]


def places(run: Run, name: str, topic: str) -> set[tuple[int, int]]:
    return {(r["partition"], r["offset"]) for r in run.rows(name) if r["topic"] == topic}


def test_nothing_expires_unless_it_is_said(alone: Run, batches: Batches) -> None:
    alone.start().feed(*batches)
    before = alone.contents()
    kept = alone.settings.model_copy(update={"stream": alone.settings.stream.model_copy(update={"expire": False})})
    found = expire(kept, LOGS, False, lambda: alone.storage)
    assert found["service-logs"]["records"] > 0 and not found["service-logs"]["deleted"]
    assert expired(alone, LOGS, dry_run=True)["service-logs"] > 0
    assert expired(alone, LOGS - DAY) == dict.fromkeys(contracts(), 0)
    assert alone.contents() == before and balanced(alone)["service-logs"]["past_retention"] == 0


def test_whole_batches_go_and_the_rest_stays_as_it_was(alone: Run, batches: Batches) -> None:
    alone.start().feed(*batches)
    before, gold = balanced(alone), {n: rows for n, rows in alone.contents().items() if n.startswith("gold.")}
    there = {
        (name, flow.topic): places(alone, name, flow.topic)
        for flow in FLOWS for name in (flow.bronze.name, flow.silver.name, "silver.quarantine")
    }  # fmt: skip
    gone = expired(alone, LOGS)
    assert gone["user-events"] == 0 and gone["service-logs"] > 40 and gone["system-metrics"] > 40
    after, cuts = balanced(alone), alone.lake.cuts()
    assert {n: rows for n, rows in alone.contents().items() if n.startswith("gold.")} == gold
    for (name, topic), were in there.items():
        starts = cuts[topic].starts
        assert places(alone, name, topic) == {(p, o) for p, o in were if o >= starts.get(p, 0)}, name
    for topic, count in gone.items():
        assert after[topic]["past_retention"] == count == before[topic]["bronze"] - after[topic]["bronze"]
        assert after[topic]["records"] == before[topic]["records"]
        assert cuts[topic].sealed == (MIDNIGHT + DAY if count else None)
    partition, offset = min(there["bronze.service_logs", "service-logs"])
    assert trace(alone.settings, f"service-logs/{partition}/{offset}")["records"][0]["outcome"] == "expired"
    assert expired(alone, LOGS) == dict.fromkeys(gone, 0), "once"
    version = alone.lake.table("ops.ledger").version()
    expired(alone, LOGS + timedelta(hours=5))
    assert alone.lake.table("ops.ledger").version() == version


@pytest.mark.parametrize("engine", [Run, pytest.param(Separate, marks=pytest.mark.long)])
def test_the_stream_goes_on_and_late_records_leave_sealed_windows_alone(
    alone: Run, batches: Batches, engine: type[Run]
) -> None:
    run = engine(alone.spark, alone.settings)
    alone.start().feed(*batches[:4])
    expired(alone, LOGS)
    tables = ("gold.service_health_minute", "gold.host_utilization_minute")
    sealed = {name: alone.rows(name) for name in tables}
    if isinstance(run, Separate):
        run.begin().take(*split(NEW, 1))
    else:
        run.start().feed(*batches[4:])
    counts = balanced(run)
    for name, rows in sealed.items():
        now = run.rows(name)
        before = [row for row in now if row["window_start"] < MIDNIGHT + DAY]
        assert sorted(map(str, before)) == sorted(map(str, rows)) and len(now) > len(rows), name
    late = [r for r in run.rows("silver.service_logs") if r["time"] < MIDNIGHT and r["timestamp"] > LATER]
    assert len(late) > 3, "they are kept"
    alone.start()
    assert balanced(alone) == counts
    expired(alone, EVENTS + 30 * DAY)
    assert all(one["bronze"] == 0 and one["past_retention"] > 0 for one in balanced(alone).values())


@pytest.mark.parametrize("step", [pytest.param("silver", marks=pytest.mark.long), "ledger", "quarantine"])
def test_a_death_half_way_loses_nothing_and_the_next_run_does_the_rest(
    alone: Run, batches: Batches, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone.start().feed(*batches)
    before = alone.contents()
    calls: list[str] = []

    def dying(of: str, do: Callable[..., Any], table: str = "") -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if step == of and (not table or args[1].table.name == table):
                raise OSError("died")
            calls.append(of)
            return do(*args)

        return call

    with monkeypatch.context() as patched:
        table = {"silver": "bronze.service_logs", "quarantine": "silver.quarantine"}.get(step, "")
        patched.setattr(expiry, "delete", dying(step if table else "", recovery.delete, table))
        patched.setattr(expiry, "record", dying("ledger", record))
        with pytest.raises(OSError, match="died"):
            expired(alone, LOGS)
    assert calls
    alone.start()
    if step != "quarantine":  # the ledger does not say so yet
        assert alone.contents() == before and balanced(alone)
    expired(alone, LOGS)
    assert balanced(alone)["service-logs"]["past_retention"] > 0
    held = alone.lake.dataset("silver.quarantine").to_table().filter(pc.field("topic") == "service-logs")
    starts = alone.lake.cuts()["service-logs"].starts
    assert all(o >= starts[p] for p, o in zip(held["partition"].to_pylist(), held["offset"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gold.user_activity_daily", marks=pytest.mark.long),
        "gold.host_utilization_minute",
        "silver.service_logs",
        pytest.param("silver.quarantine", marks=pytest.mark.long),
    ],
)
def test_a_rebuild_leaves_what_is_sealed(alone: Run, batches: Batches, name: str) -> None:
    alone.start().feed(*batches[:5])
    expired(alone, EVENTS - 5 * DAY if "user" in name else LOGS)
    alone.start().feed(*batches[5:])
    before, counts = alone.contents(), balanced(alone)
    rebuild(alone.settings, name)
    assert alone.contents()[name] == before[name] and balanced(alone) == counts
    if name != "silver.quarantine":
        rebuild(alone.settings, name, span=(ORIGIN - 20 * DAY, LATER + DAY))
        assert alone.contents()[name] == before[name] and balanced(alone) == counts


def test_who_is_erased_goes_from_sealed_gold_too(alone: Run, batches: Batches) -> None:
    alone.start().feed(*batches)
    expired(alone, EVENTS)
    assert any(r["user_id"] == "u3" and r["date"] < MIDNIGHT.date() for r in alone.rows("gold.user_activity_daily"))
    wanted, writers = Wanted(["u3"]), create_tables(alone.storage, alone.lake)
    progress = roll_back(alone.lake, writers)
    done = rewrite_tables(
        alone.lake, writers, progress, TopicErasure.of_all(alone.lake, wanted), wanted, datetime.now(UTC)
    )
    assert balanced(alone)["user-events"]["erased"] > 0
    assert {r["user_id"] for r in alone.rows("gold.user_activity_daily")} >= {"u1", "u2", "u4"}
    assert "u3" not in {r["user_id"] for r in alone.rows("gold.user_activity_daily")}
    assert {row["user_id"] for row in done.vanished["gold.user_activity_daily"]} == {"u3"}
    assert any(row["date"] < MIDNIGHT.date() for row in done.vanished["gold.user_activity_daily"])


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda starts, sealed: ({p: s + 1 for p, s in starts.items()}, sealed), "retention.batches"),
        (lambda starts, sealed: (starts, sealed - 2 * DAY), "retention.batches"),
        pytest.param(lambda starts, sealed: ({}, sealed), "retention.batches", marks=pytest.mark.long),
        (lambda starts, sealed: ({p: s + 30 for p, s in starts.items()}, sealed), "retention.past"),
    ],
)
def test_the_audit_tells_what_was_deleted_wrongly(
    alone: Run, batches: Batches, change: Callable[..., Any], rule: str
) -> None:
    alone.start().feed(*batches)
    expired(alone, LOGS)
    writers = create_tables(alone.storage, alone.lake)
    mine = roll_back(alone.lake, writers)["service-logs"]
    mine.starts, mine.sealed = change(mine.starts, mine.sealed)
    record(writers, next(f for f in FLOWS if f.topic == "service-logs"), mine, {}, "spoilt")
    assert rule in {one["rule"] for one in audited(alone)["problems"]}
