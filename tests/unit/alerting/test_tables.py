"""What is read of a lake on the local disk, and of a log that stands for Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lakehouse.alerting.database import moment
from lakehouse.alerting.facts import DAY, HOUR, MINUTE
from lakehouse.alerting.tables import Anomalies, Drift, Freshness, Health, Ledger, Made, Quality, Volume, asking, parts
from lakehouse.predict import PredictError, findings
from lakehouse.settings import Settings
from lakehouse.sources.topics import TopicError
from tests.unit.local_lake import local_lake, write

from .made import NOON, RULES

QUARTER = timedelta(minutes=15)
TOPICS = ("user-events", "service-logs", "system-metrics")


class Log:
    """Kafka of one partition a topic: when each record was appended."""

    def __init__(self, **appended: list[int]) -> None:
        self.appended = {topic: appended.get(topic.replace("-", "_"), []) for topic in TOPICS}
        self.asked = 0
        self.away = False

    def ends(self, topic: str, at_us: int | None) -> dict[int, tuple[int, int]]:
        self.asked += 1
        if self.away:
            raise TopicError("no Kafka broker answers (test)")
        known = self.appended[topic]
        return {0: (0, len(known) if at_us is None else sum(when < at_us for when in known))}

    def appended_us(self, topic: str, partition: int, offset: int) -> int | None:
        known = self.appended[topic]
        return known[offset] if offset < len(known) else None


class Asked:
    """Questions to a lake, counted by table."""

    def __init__(self, settings: Settings) -> None:
        self.ask, self.questions = asking(settings), []  # type: ignore[var-annotated]

    def __call__(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        self.questions.append(sql)
        return self.ask(sql, parameters)


def row(seq: int, start: int, end: int, committed_us: int, topic: str = "user-events", **more: Any) -> dict[str, Any]:
    return {
        "topic": topic, "seq": seq, "partition": 0, "start_offset": start, "end_offset": end, "records": end - start,
        "valid": end - start, "quarantined": 0, "duplicates": 0, "first_at": moment(committed_us - 2_000_000),
        "last_at": moment(committed_us - 1_000_000), "warnings": [], "drift": [], "versions": [], "engine": "fused",
        "batch_ms": 5, "committed_at": moment(committed_us), **more,
    }  # fmt: skip


def ledger(settings: Settings, log: Log, now_us: int = NOON) -> Ledger:
    found = Ledger(asking(settings), log)
    found.begin(now_us)
    return found


@pytest.fixture
def lake(tmp_path: Path) -> Settings:
    settings = local_lake(tmp_path)
    for name in ("ops.ledger", "gold.activity_minute", "gold.service_health_minute", "gold.host_utilization_minute",
                 "gold.anomalies", "gold.forecasts", "gold.recommendations"):  # fmt: skip
        write(settings, name, [])
    return settings


# --- the ledger and Kafka ------------------------------------------------------------------------------------------


def test_lag_is_known_of_every_minute_that_was_missed(lake: Settings) -> None:
    write(lake, "ops.ledger", [row(1, 0, 2, NOON - 10 * MINUTE), row(2, 2, 3, NOON - MINUTE - 1)])
    log = Log(user_events=[NOON - 11 * MINUTE, NOON - 11 * MINUTE, NOON - 4 * MINUTE, NOON - 1_000_000])
    read = Freshness(ledger(lake, log)).read(NOON - 5 * MINUTE, NOON, timedelta(0))
    found = [read.facts(at_us, QUARTER)["user-events"] for at_us in range(NOON - 5 * MINUTE, NOON + 1, MINUTE)]
    assert [facts["lag_records"] for facts in found] == [0, 0, 1, 1, 0, 1]
    # The record that the second batch brought is known by that batch, the last one by Kafka alone.
    came = (NOON - MINUTE - 1 - 2_000_000) / 1e6
    assert [facts["lag_seconds"] for facts in found[2:]] == [
        pytest.approx((NOON - 3 * MINUTE) / 1e6 - came), pytest.approx((NOON - 2 * MINUTE) / 1e6 - came), 0.0, 1.0,
    ]  # fmt: skip
    assert found[0]["age_seconds"] == 300 and found[0]["objective_seconds"] == 1.5


def test_a_topic_without_a_cut_lags_with_all_that_it_has(lake: Settings) -> None:
    log = Log(service_logs=[NOON - HOUR, NOON - MINUTE])
    read = Freshness(ledger(lake, log)).read(NOON, NOON, timedelta(0))
    facts = read.facts(NOON, QUARTER)
    assert (facts["service-logs"]["lag_records"], facts["service-logs"]["lag_seconds"]) == (2, 3600.0)
    assert facts["service-logs"]["age_seconds"] is None and facts["user-events"]["lag_records"] == 0


def test_after_the_first_turn_only_what_is_new_is_read_of_the_ledger(lake: Settings) -> None:
    old = [row(1, 0, 10, NOON - 9 * DAY, "service-logs"), row(1, 0, 5, NOON - 5 * MINUTE)]
    write(lake, "ops.ledger", old)
    asked = Asked(lake)
    known = Ledger(asked, Log())
    for turn in range(5):
        now_us = NOON + turn * MINUTE
        known.begin(now_us)
        found = sorted(known.batches(now_us - 15 * MINUTE), key=lambda batch: batch.seq)
        assert {batch.topic: batch.end for batch in found} == {"service-logs": 10, "user-events": 5 + turn}
        write(lake, "ops.ledger", [row(2 + turn, 5 + turn, 6 + turn, now_us + 1_000_000)])
    assert len(asked.questions) == 2 + 4


def test_a_batch_that_came_in_late_is_not_overlooked(lake: Settings) -> None:
    write(lake, "ops.ledger", [row(1, 0, 5, NOON - 40_000_000)])
    known = Ledger(asking(lake), Log())
    known.begin(NOON)
    known.batches(NOON)
    write(lake, "ops.ledger", [row(2, 5, 9, NOON - 20_000_000)])  # says that it is older than the last look
    known.begin(NOON + MINUTE)
    assert max(batch.end for batch in known.batches(NOON + MINUTE)) == 9


def test_one_wait_for_a_broker_that_is_away_is_enough_a_turn(lake: Settings) -> None:
    log = Log()
    log.away = True
    shared, over = parts(lake, asking(lake), log)
    shared.begin(NOON)
    failed = []
    for part in over:
        try:
            part.read(NOON, NOON, QUARTER)
        except TopicError:
            failed.append(part.name)
    assert failed == ["freshness/topics", *(f"volume/{topic}" for topic in TOPICS), "health"] and log.asked == 1


def test_quality_is_of_batches_as_they_were_committed(lake: Settings) -> None:
    more: dict[str, Any] = {"quarantined": 4, "warnings": [("a", 3)], "drift": [("x", 2)]}
    write(lake, "ops.ledger", [row(1, 0, 40, NOON - MINUTE, **more), row(2, 40, 50, NOON + 1)])
    facts = Quality(ledger(lake, Log())).read(NOON, NOON, QUARTER).facts(NOON, QUARTER)["user-events"]
    assert (facts["quarantined_share"], facts["warnings"], facts["unknown_fields"]) == (0.1, 3, 2)


# --- minutes of gold -----------------------------------------------------------------------------------------------


def activity(settings: Settings, minutes: range, events: int = 4) -> None:
    rows = [
        {"window_start": moment(NOON + number * MINUTE), "event_type": kind, "events": events, "users": 1}
        for number in minutes for kind in ("view", "like")
    ]  # fmt: skip
    write(settings, "gold.activity_minute", rows)


def test_volume_is_compared_with_the_days_before_which_are_read_once_an_hour(lake: Settings) -> None:
    for day in (1, 2, 3):
        activity(lake, range(-day * 1440 - 90, -day * 1440 + 90))
    activity(lake, range(-20, 0), events=1)
    asked = Asked(lake)
    shared = Ledger(asking(lake), Log())
    part = Volume("user-events", asked, shared)
    for turn in range(5, 8):
        shared.begin(NOON + turn * MINUTE)
        read = part.read(NOON, NOON + turn * MINUTE, QUARTER)
        facts = read.facts(NOON, QUARTER)["user-events"]
        assert (facts["records"], facts["usual"], facts["ratio"], facts["days"]) == (30, 120.0, 0.25, 3)
    assert len(asked.questions) == 2 + 3


def test_minutes_wait_until_they_are_over_and_in_the_tables(lake: Settings) -> None:
    write(lake, "ops.ledger", [row(1, 0, 1, NOON - 6 * MINUTE)])
    lagging = Log(user_events=[NOON - 6 * MINUTE, NOON - 3 * MINUTE - 1])
    shared = ledger(lake, lagging, NOON + 15_000_000)
    assert shared.closed_us("user-events") == NOON - 4 * MINUTE  # what waits may be of minutes until half of one ago
    assert shared.closed_us("service-logs") == NOON - MINUTE  # nothing waits: the last minute is over for half of one
    assert Volume("user-events", asking(lake), shared).read(NOON, NOON, QUARTER).until_us == NOON - 4 * MINUTE


def test_health_reads_the_hour_before_the_span(lake: Settings) -> None:
    write(lake, "gold.service_health_minute", [
        {"window_start": moment(NOON - back * MINUTE), "service": "feed", "requests": 60, "errors": 0,
         "error_rate": 0.0, "p50_ms": 1.0, "p95_ms": 300.0 if back <= 5 else 100.0, "p99_ms": 2.0}
        for back in range(1, 60)
    ])  # fmt: skip
    read = Health(asking(lake), ledger(lake, Log(), NOON + MINUTE)).read(NOON, NOON, timedelta(minutes=5))
    facts = read.facts(NOON, timedelta(minutes=5))["feed"]
    assert (facts["requests"], facts["p95_ms"], facts["slowdown"]) == (300, 300.0, 3.0)


def test_anomalies_of_half_an_hour(lake: Settings) -> None:
    write(lake, "gold.anomalies", [
        {"series": "service/feed/p95_ms", "time": moment(NOON - back * MINUTE), "value": 1.0, "expected": 0.0,
         "score": 0.9, "model_version": "1"} for back in range(0, 40)
    ])  # fmt: skip
    read = Anomalies(asking(lake)).read(NOON, NOON, timedelta(minutes=30))
    assert read.facts(NOON, timedelta(minutes=30))["service/feed"]["count"] == 30


def test_what_jobs_make_has_an_age_once_it_was_made(lake: Settings) -> None:
    part = Made(asking(lake))
    assert part.read(NOON, NOON, QUARTER).facts(NOON, QUARTER) == {}
    made = {"series": "a", "time": moment(NOON), "made_at": moment(NOON - HOUR), "mean": 1.0}
    write(lake, "gold.forecasts", [made])
    facts = part.read(NOON, NOON, QUARTER).facts(NOON, QUARTER)
    assert facts == {"gold.forecasts": {"subject": "gold.forecasts", "kind": "table", "age_seconds": 3600.0}}


def test_a_table_that_is_missing_is_said_by_what_needs_it(tmp_path: Path) -> None:
    settings = local_lake(tmp_path)
    shared, over = parts(settings, asking(settings), Log())
    shared.begin(NOON)
    for part in over[:-1]:
        with pytest.raises(Exception, match=r"(?i)ops\.ledger|gold\."):
            part.read(NOON, NOON, QUARTER)
    assert over[-1].read(NOON, NOON, QUARTER).facts(NOON, QUARTER) == {}  # drift: no job has looked yet


def test_every_rule_over_tables_has_a_part_and_every_part_a_rule(lake: Settings) -> None:
    _, over = parts(lake, asking(lake), Log())
    assert {part.feed for part in over} == {"freshness", "volume", "quality", "health", "anomalies", "drift"}
    assert {part.feed for part in over} <= {rule.on for rule in RULES.rules}
    assert len({part.name for part in over}) == len(over)


# --- drift ---------------------------------------------------------------------------------------------------------


def test_drift_is_what_jobs_noted(lake: Settings) -> None:
    folder = lake.published / "trend"
    findings.note(folder, "4", {"kind": 0.1}, datetime(2026, 11, 26, 9, tzinfo=UTC))
    findings.note(folder, "5", {"kind": 0.3, "odd": float("nan")}, datetime(2026, 11, 26, 11, tzinfo=UTC))
    facts = Drift(lake).read(NOON, NOON, QUARTER).facts
    assert (facts(NOON, QUARTER)["trend"]["psi"], facts(NOON, QUARTER)["trend"]["age_seconds"]) == (0.3, 3600.0)
    assert facts(NOON - 2 * HOUR, QUARTER)["trend"]["version"] == "4"


def test_only_the_newest_findings_are_kept_and_a_broken_file_is_said_and_mended(tmp_path: Path) -> None:
    for number in range(findings.KEPT + 5):
        findings.note(tmp_path, str(number), {}, datetime(2026, 1, 1, tzinfo=UTC))
    assert [one["version"] for one in findings.read(tmp_path)] == [str(n) for n in range(5, findings.KEPT + 5)]
    for rubbish in (b"{", b"[1]", b"{}", b"\xff"):
        (tmp_path / findings.FILE).write_bytes(rubbish)
        with pytest.raises(PredictError, match="the next training writes it anew"):
            findings.read(tmp_path)
    findings.note(tmp_path, "new", {}, datetime(2026, 1, 1, tzinfo=UTC))
    assert [one["version"] for one in findings.read(tmp_path)] == ["new"]
