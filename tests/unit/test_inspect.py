from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lakehouse.inspect import Targets, _not_in_gold, _since, behind, tables, targets
from lakehouse.settings import Settings
from lakehouse.sources.lake import Lake
from lakehouse.trace import TraceError, render, trace
from tests.unit.local_lake import local_lake, write

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOTHING: Targets = {"changes": {}, "silver": {}}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Two batches of logs: one valid record each, a duplicate in the first, a broken record in the second."""
    made = local_lake(tmp_path).model_copy(update={"stream": Settings().stream.model_copy(update={"stores": ()})})
    here = {"topic": "service-logs", "partition": 0}
    value = b'{"@timestamp": "2026-01-02T03:04:05Z", "event": {"id": "one"}, "service": {"name": "users"}}'
    for offset, bytes_ in enumerate((value, value, value.replace(b"one", b"two"), b"{")):
        write(made, "bronze.service_logs", [{**here, "offset": offset, "timestamp": AT, "value": bytes_}])
    status = {"http": {"response": {"status_code": 200}}, "service": {"name": "users"}}
    rows = [
        {**here, "offset": n, "timestamp": AT, "time": AT, "event_id": i, **status} for n, i in ((0, "one"), (2, "two"))
    ]
    write(made, "silver.service_logs", rows)
    for table in ("silver.user_events", "silver.system_metrics", "bronze.user_events", "bronze.system_metrics"):
        write(made, table, [])
    write(
        made,
        "silver.quarantine",
        [{**here, "offset": 3, "timestamp": AT, "reasons": ["/: not JSON"], "status": "open"}],
    )
    window = AT.replace(second=0)
    write(
        made, "gold.service_health_minute", [{"window_start": window, "service": "users", "requests": 2, "errors": 0}]
    )
    for seq in (1, 2):
        counts = {
            "start_offset": 2 * seq - 2,
            "end_offset": 2 * seq,
            "records": 2,
            "batch_ms": 10,
            "versions": [("x", seq)],
        }
        at = AT + timedelta(seconds=seq)
        write(made, "ops.ledger", [{**here, "seq": seq, "committed_at": at, "versions": [("x", seq)], **counts}])
        write(made, "_internal.gold_changes", [{"topic": "service-logs", "seq": seq, "table": "x", "version": seq}])
    return made


def test_a_store_must_hold_all_changes_and_elasticsearch_silver_too(settings: Settings) -> None:
    cuts = Lake(settings).cuts()
    assert targets(settings, cuts, "redis") == {"changes": {"service-logs": 2}, "silver": {}}
    assert targets(settings, cuts, "elasticsearch")["silver"] == {"silver.service_logs": {"0": 2}}


def test_a_store_is_behind_since_the_oldest_batch_it_lacks(settings: Settings) -> None:
    wanted = targets(settings, Lake(settings).cuts(), "elasticsearch")
    gaps = behind(wanted, {"changes": {"service-logs": 1}, "silver": {"silver.service_logs": {"0": 2}}})
    assert [gap.text for gap in gaps] == ["batches 2 to 2 of service-logs"]
    assert _since(settings, gaps) == AT + timedelta(seconds=2)
    assert _since(settings, behind(wanted, NOTHING)) == AT + timedelta(seconds=1)
    assert behind(wanted, wanted) == []


def test_gold_lacks_what_lies_beyond_the_ledger(settings: Settings) -> None:
    cuts = Lake(settings).cuts()
    assert _not_in_gold({"service-logs": {0: 4}}, cuts) == []
    assert _not_in_gold({"service-logs": {0: 6, 1: 1}}, cuts) == [
        "gold lacks service-logs/0 from offset 4 to 5",
        "gold lacks service-logs/1 from offset 0 to 0",
    ]


def test_tables_tell_rows_files_and_what_is_missing(settings: Settings) -> None:
    found = {row["table"]: row for row in tables(settings)}
    assert (found["bronze.service_logs"]["rows"], found["bronze.service_logs"]["files"]) == (4, 4)
    assert "no such table" in found["gold.trending_posts"]["error"]


def test_an_accepted_record_is_followed_into_gold(settings: Settings) -> None:
    [record] = trace(settings, "two")["records"]
    assert (record["id"], record["outcome"], record["ledger"]["seq"]) == ("service-logs/0/2", "valid", 2)
    [gold] = record["gold"]
    assert (gold["table"], gold["row"]["requests"]) == ("gold.service_health_minute", 2)


def test_a_duplicate_names_the_record_that_was_accepted(settings: Settings) -> None:
    [record] = trace(settings, "service-logs/0/1")["records"]
    assert (record["outcome"], record["duplicate_of"]["id"]) == ("duplicate", "service-logs/0/0")


def test_a_broken_record_is_found_with_its_reasons(settings: Settings) -> None:
    found = trace(settings, "service-logs/0/3")
    assert found["records"][0]["quarantine"]["reasons"] == ["/: not JSON"]
    assert "quarantine open: /: not JSON" in render(found)


def test_a_record_beyond_the_ledger_is_waiting(settings: Settings) -> None:
    assert trace(settings, "service-logs/0/4")["records"][0]["outcome"] == "waiting"


def test_an_unknown_id_is_a_clear_error(settings: Settings) -> None:
    with pytest.raises(TraceError, match="no record is known as 'nobody'"):
        trace(settings, "nobody")
