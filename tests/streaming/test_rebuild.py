"""A part of a table filled again while records keep coming: the rest stays, gold follows, the audit balances."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from lakehouse.audit import audit
from lakehouse.flows import FLOWS
from lakehouse.runtime.rebuild import RebuildError, _Part, rebuild
from lakehouse.runtime.recovery import create_tables, roll_back
from lakehouse.runtime.refill import windows_between
from lakehouse.sinks.delta import DeltaWriter
from tests.streaming.feed import Run, history, split

ORIGIN = datetime(2026, 10, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SPAN = (ORIGIN + HOUR, ORIGIN + 2 * HOUR)
BATCHES = split(history(ORIGIN, seed=23, each=60), 4)


@pytest.fixture
def alone(run: Run) -> Run:
    """A lake without stores."""
    stream = run.settings.stream.model_copy(update={"stores": ()})
    return Run(run.spark, run.settings.model_copy(update={"stream": stream}))


def spoil(run: Run, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change all rows of a table behind everybody's back, as the new cut."""
    from lakehouse.runtime.rebuild import record

    writers = create_tables(run.storage, run.lake)
    progress = roll_back(run.lake, writers, check=False)
    files = pa.table(run.lake.table(name).get_add_actions()).to_pylist()
    writer: DeltaWriter = writers[name]
    rows = change(run.lake.dataset(name).to_table())
    writer.commit([writer.stage(rows)], [(file["path"], file["size_bytes"]) for file in files])
    for flow in FLOWS:
        record(writers, flow, progress[flow.topic], {}, "spoilt")


def problems(run: Run) -> list[dict[str, Any]]:
    return audit(run.settings, stores=False, kafka=False)["problems"]


def test_a_span_of_gold_is_mended_and_what_lies_outside_is_left(alone: Run) -> None:
    run = alone
    run.start().ingest(*BATCHES)
    right = run.rows("gold.activity_minute")
    spoil(run, "gold.activity_minute", lambda rows: rows.set_column(2, "events", pa.array([99] * rows.num_rows)))
    assert rebuild(run.settings, "gold.activity_minute", span=SPAN)["gold.activity_minute"]["user-events"] > 0
    now = {(r["window_start"], r["event_type"]): r["events"] for r in run.rows("gold.activity_minute")}
    for row in right:
        inside = SPAN[0] <= row["window_start"] < SPAN[1]
        assert now[row["window_start"], row["event_type"]] == (row["events"] if inside else 99)
    rebuild(run.settings, "gold.activity_minute", span=(ORIGIN - 400 * 24 * HOUR, ORIGIN + 400 * 24 * HOUR))
    assert problems(run) == [] and sorted(map(str, run.rows("gold.activity_minute"))) == sorted(map(str, right))


def test_lost_rows_of_silver_come_back_and_gold_follows(alone: Run) -> None:
    run = alone
    run.start().ingest(*BATCHES)
    right = run.contents()
    spoil(run, "silver.user_events", lambda rows: rows.slice(0, rows.num_rows // 2))
    assert problems(run) != []
    rebuild(run.settings, "silver.user_events", span=(ORIGIN - HOUR, ORIGIN + 9 * HOUR))
    now = run.contents()
    for name in ("silver.user_events", "gold.activity_minute", "gold.user_activity_daily", "gold.trending_posts"):
        assert now[name] == right[name], name
    assert problems(run) == []


def test_quarantine_is_filled_again_in_part_and_keeps_its_marks(alone: Run) -> None:
    run = alone
    run.start().ingest(*BATCHES)
    right = run.contents()["silver.quarantine"]
    rebuild(run.settings, "silver.quarantine", span=SPAN)
    assert run.contents()["silver.quarantine"] == right and problems(run) == []


@pytest.mark.parametrize("name", ["gold.activity_minute", "silver.user_events"])
def test_what_arrives_between_preparation_and_swap_is_not_lost(alone: Run, name: str) -> None:
    run = alone
    run.start().ingest(*BATCHES[:2])
    flow = FLOWS[0]
    span = (ORIGIN - 20 * 24 * HOUR, ORIGIN + 9 * HOUR)
    part = _Part(run.spark, run.lake, flow, name, span, run.lake.cuts()[flow.topic])
    part.prepare()
    run.ingest(*BATCHES[2:])
    right = run.contents()
    writers = create_tables(run.storage, run.lake)
    progress = roll_back(run.lake, writers)
    part.swap(writers, progress[flow.topic])
    now = run.contents()
    for table in (flow.silver, *flow.gold_tables):
        assert now[table.name] == right[table.name], table.name
    assert problems(run) == []


def test_a_span_is_cut_into_the_buckets_of_its_table() -> None:
    aggregate = FLOWS[0].gold[1]
    low = datetime(2026, 10, 1, 12, 30, tzinfo=UTC)
    assert windows_between(aggregate, low, low + timedelta(days=1)) == [
        (datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 10, 2, tzinfo=UTC)),
        (datetime(2026, 10, 2, tzinfo=UTC), datetime(2026, 10, 3, tzinfo=UTC)),
    ]


@pytest.mark.parametrize(
    ("table", "span"), [("gold.trending_posts", SPAN), ("gold.activity_minute", (SPAN[1], SPAN[0]))]
)
def test_what_has_no_parts_is_refused(alone: Run, table: str, span: Any) -> None:
    with pytest.raises(RebuildError):
        rebuild(alone.settings, table, span=span)
