"""Facts of rows: what was so at the end of a minute, whenever it is asked."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lakehouse.alerting.facts import (
    DAY,
    HOUR,
    MINUTE,
    Anomaly,
    Batch,
    Finding,
    Minute,
    anomalies,
    cut,
    drift,
    freshness,
    health,
    made,
    quality,
    volume,
    waiting,
)
from lakehouse.alerts import FEEDS

from .made import NOON

QUARTER = timedelta(minutes=15)
OBJECTIVE = timedelta(seconds=1.5)


def batch(seq: int, start: int, end: int, committed_us: int, partition: int = 0, **more: int) -> Batch:
    counts: dict[str, Any] = {"records": end - start, "quarantined": 0, "duplicates": 0} | more
    return Batch("user-events", seq, partition, start, end, first_us=committed_us - 1, last_us=committed_us - 1,
                 committed_us=committed_us, **counts)  # fmt: skip


def minute(
    number: int, service: str = "feed", requests: int = 60, p95: float | None = 100.0, errors: int = 0
) -> Minute:
    return Minute(NOON + number * MINUTE, service, requests, errors, p95, p95, p95)


# --- freshness -----------------------------------------------------------------------------------------------------


def test_a_cut_is_as_of_its_time() -> None:
    batches = [batch(1, 0, 5, NOON), batch(2, 5, 9, NOON + MINUTE), batch(1, 0, 4, NOON, partition=1)]
    assert cut(batches, NOON) == ({0: 5, 1: 4}, NOON)
    assert cut(batches, NOON + 2 * MINUTE) == ({0: 9, 1: 4}, NOON + MINUTE)
    assert cut(batches, NOON - 1) == ({}, None) == cut([], NOON)


def test_what_waits_is_what_kafka_has_beyond_the_cut_and_has_not_expired() -> None:
    assert waiting({0: 5, 1: 4}, {0: (0, 9), 1: (0, 4), 2: (3, 8)}) == {0: (5, 9), 2: (3, 8)}
    assert waiting({0: 5}, {0: (7, 9)}) == {0: (7, 9)}
    assert waiting({0: 9}, {0: (0, 5)}) == {}


def test_lag_is_counted_in_records_and_since_the_oldest_came() -> None:
    found = freshness("user-events", NOON - MINUTE, {0: (5, 9), 2: (3, 8)}, NOON - 3_000_000, OBJECTIVE, NOON)
    assert found["user-events"] == {
        "subject": "user-events", "kind": "topic", "age_seconds": 60.0, "lag_records": 9, "lag_seconds": 3.0,
        "objective_seconds": 1.5,
    }  # fmt: skip
    idle = freshness("user-events", None, {}, None, OBJECTIVE, NOON)["user-events"]
    assert (idle["age_seconds"], idle["lag_records"], idle["lag_seconds"]) == (None, 0, 0.0)


def test_a_table_that_no_job_has_made_has_no_age() -> None:
    newest = {"gold.forecasts": NOON - HOUR, "gold.recommendations": None}
    assert made(newest, NOON) == {
        "gold.forecasts": {"subject": "gold.forecasts", "kind": "table", "age_seconds": 3600.0}
    }
    assert made(newest, NOON - 2 * HOUR) == {}


# --- volume --------------------------------------------------------------------------------------------------------


def steady(each: int, days: int) -> dict[int, int]:
    """As many records a minute for days."""
    return {NOON - back * MINUTE: each for back in range(1, days * 24 * 60 + 30)}


def test_a_usual_span_has_a_ratio_of_one() -> None:
    found = volume("user-events", steady(4, 4), NOON - 4 * DAY - HOUR, NOON, QUARTER)["user-events"]
    assert found == {"topic": "user-events", "records": 60, "usual": 60.0, "days": 4, "ratio": 1.0}


def test_one_day_that_was_odd_does_not_make_the_usual_odd() -> None:
    minutes = steady(4, 5)
    minutes |= {NOON - DAY - back * MINUTE: 1000 for back in range(1, 20)}
    minutes |= {NOON - 2 * DAY - back * MINUTE: 0 for back in range(1, 20)}
    assert volume("user-events", minutes, NOON - 5 * DAY - HOUR, NOON, QUARTER)["user-events"]["usual"] == 60.0


def test_days_before_the_first_minute_say_nothing_and_silent_ones_since_say_none() -> None:
    minutes = {NOON - MINUTE: 7}
    young = volume("user-events", minutes, NOON - HOUR, NOON, QUARTER)["user-events"]
    assert (young["records"], young["usual"], young["days"], young["ratio"]) == (7, None, 0, None)
    old = volume("user-events", minutes, NOON - 9 * DAY, NOON, QUARTER)["user-events"]
    assert (old["usual"], old["days"], old["ratio"]) == (0.0, 7, None)
    assert volume("user-events", {}, None, NOON, QUARTER) == {}


@given(st.dictionaries(st.integers(-20, 5), st.integers(0, 9)))
def test_a_span_holds_its_minutes_and_no_others(counts: dict[int, int]) -> None:
    minutes = {NOON + number * MINUTE: count for number, count in counts.items()}
    found = volume("user-events", minutes, NOON - DAY, NOON, QUARTER)["user-events"]
    assert found["records"] == sum(count for number, count in counts.items() if -15 <= number < 0)


# --- quality -------------------------------------------------------------------------------------------------------


def test_shares_are_of_all_records_that_came_into_the_tables_in_the_span() -> None:
    batches = [
        batch(1, 0, 10, NOON - 16 * MINUTE, quarantined=10),
        batch(2, 10, 90, NOON - 15 * MINUTE + 1, quarantined=8, duplicates=4),
        batch(3, 90, 110, NOON, quarantined=2),
        batch(4, 110, 200, NOON + 1, quarantined=90),
    ]
    found = quality(batches, NOON, QUARTER)["user-events"]
    assert (found["records"], found["quarantined"], found["quarantined_share"]) == (100, 10, 0.1)
    assert (found["duplicates"], found["duplicate_share"], found["warnings"]) == (4, 0.04, 0)
    assert quality(batches, NOON - HOUR, QUARTER) == {}


def test_warnings_and_unknown_fields_are_summed_over_their_names_and_no_records_have_no_share() -> None:
    one = Batch("user-events", 1, 0, 5, 5, 0, 0, 0, None, None, NOON, {"a": 2, "b": 3}, {"x": 4})
    found = quality([one], NOON, QUARTER)["user-events"]
    assert (found["warnings"], found["unknown_fields"]) == (5, 4)
    assert found["warning_share"] is None and found["quarantined_share"] is None


# --- health --------------------------------------------------------------------------------------------------------


def test_latency_is_weighed_by_requests_and_compared_with_the_hour_before() -> None:
    before = [minute(-back) for back in range(6, 40)] + [minute(-66, p95=9999)]  # not of the hour
    now = [minute(-1, requests=30, p95=400.0, errors=3), minute(-2, requests=10, p95=200.0, errors=1)]
    found = health(before + now, NOON, timedelta(minutes=5))["feed"]
    assert (found["requests"], found["errors"], found["error_rate"]) == (40, 4, 0.1)
    assert (found["p95_ms"], found["usual_p95_ms"], found["slowdown"]) == (350.0, 100.0, 3.5)


def test_a_service_without_durations_or_without_a_past_has_no_slowdown() -> None:
    found = health([minute(-1, p95=None), minute(-1, "new")], NOON, timedelta(minutes=5))
    assert found["feed"]["p95_ms"] is None and found["feed"]["slowdown"] is None
    assert found["new"]["p95_ms"] == 100.0 and found["new"]["slowdown"] is None


def test_a_service_that_is_gone_has_no_facts() -> None:
    assert health([minute(-20)], NOON, timedelta(minutes=5)) == {}


# --- models --------------------------------------------------------------------------------------------------------


def test_anomalies_are_counted_by_what_they_are_of() -> None:
    series = ["service/feed/p95_ms", "service/feed/error_rate", "host/web-1/system.load.1", "logs/feed/a/b <*>"]
    rows = [Anomaly(name, NOON - MINUTE, 0.5 + number / 10) for number, name in enumerate(series)]
    rows += [Anomaly(series[0], NOON - 2 * MINUTE, 0.9), Anomaly(series[0], NOON - HOUR, 1.0), Anomaly("x", NOON, 1.0)]
    found = anomalies(rows, NOON, timedelta(minutes=30))
    assert found.keys() == {"service/feed", "host/web-1", "logs/feed"}
    feed = found["service/feed"]
    assert (feed["kind"], feed["name"], feed["count"], feed["series"], feed["score"]) == ("service", "feed", 3, 2, 0.9)


def test_the_drift_of_a_model_is_the_newest_finding_and_its_worst_feature() -> None:
    findings = [
        Finding("trend", "1", NOON - 2 * HOUR, {"kind": 0.9}),
        Finding("trend", "2", NOON - HOUR, {"kind": 0.1, "level": 0.3, "odd": None, "odder": float("inf")}),
        Finding("trend", "3", NOON + HOUR, {"kind": 5.0}),
    ]
    assert drift(findings, NOON) == {
        "trend": {"model": "trend", "version": "2", "feature": "level", "psi": 0.3, "age_seconds": 3600.0}
    }
    assert drift(findings, NOON - 90 * MINUTE)["trend"]["psi"] == 0.9
    nothing = drift([Finding("trend", "1", NOON, {"kind": None})], NOON)["trend"]
    assert nothing["psi"] is None and nothing["feature"] is None


def test_facts_have_the_fields_that_rules_may_name() -> None:
    found = {
        "freshness": freshness("user-events", NOON, {}, None, OBJECTIVE, NOON),
        "volume": volume("user-events", {}, NOON, NOON, QUARTER),
        "quality": quality([batch(1, 0, 5, NOON)], NOON, QUARTER),
        "health": health([minute(-1)], NOON, QUARTER),
        "anomalies": anomalies([Anomaly("host/a/b", NOON - MINUTE, 1.0)], NOON, QUARTER),
        "drift": drift([Finding("trend", "1", NOON, {"a": 1.0})], NOON),
    }
    assert found.keys() == {name for name, feed in FEEDS.items() if feed.tables}
    for name, facts in found.items():
        [(subject, known)] = facts.items()
        assert known.keys() == FEEDS[name].fields.keys() and known[FEEDS[name].subjects[0]] == subject
