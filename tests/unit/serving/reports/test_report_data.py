"""The facts of a day, from small tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lakehouse import alerts
from lakehouse.settings import Settings
from lakehouse.sources.lake import LakeError
from serving.report import data
from serving.report.facts import Day, Figure, Report
from serving.report.operations import episodes, limits
from serving.report.told import Told, firings, operators, rules
from tests.unit.local_lake import local_lake, write
from tests.unit.serving.reports import week
from tests.unit.serving.reports.week import CPU, DATE, DAY, DISK, NOW

TABLES = week.tables()
HOUR = timedelta(hours=1)


def total(table: str, column: str, back: int, time: str = "window_start", until: timedelta = timedelta(days=1)) -> int:
    begin = DAY - timedelta(days=back)
    return sum(row[column] for row in TABLES[table] if begin <= row[time] < begin + until)


def nobody(day: Day, operators: Any) -> list[Told]:
    return []


def test_events_are_counted_beside_the_day_and_the_week_before(report: Report) -> None:
    found = report.activity.events
    assert found == Figure(*(total("gold.activity_minute", "events", back) for back in (0, 1, 7)))
    assert [one.name for one in report.activity.types] == list(week.TYPES)
    assert sum(filter(None, report.activity.hours)) == found.value
    assert sum(filter(None, report.activity.week_before)) == found.week_before


def test_users_are_distinct_in_each_hour_type_and_day(report: Report) -> None:
    assert report.activity.users == Figure(40, 40, None)
    assert report.activity.users_by_hour == (24.0,) * 24
    assert {one.name: one.users for one in report.activity.types if one.users} == {"view": 40, "visit": 40}


def test_a_day_that_goes_on_is_compared_with_the_same_hours(lake: Settings) -> None:
    found = data.report(lake, DATE, DAY + 10 * HOUR + HOUR / 2, nobody)
    until = 10 * HOUR + HOUR / 2
    events = found.activity.events
    assert events == Figure(*(total("gold.activity_minute", "events", back, until=until) for back in (0, 1, 7)))
    assert found.activity.hours[11:] == (None,) * 13
    assert None not in found.activity.day_before  # the line of the day before goes on
    assert found.quality.records.day_before == total("ops.ledger", "records", 1, "committed_at", until)
    assert not found.day.whole


def test_before_a_platform_there_was_nothing_to_compare_with(tmp_path: Path) -> None:
    lake = local_lake(tmp_path)
    write(lake, "gold.activity_minute", [row for row in TABLES["gold.activity_minute"] if row["window_start"] >= DAY])
    found = data.report(lake, DATE, NOW, nobody).activity.events
    assert (found.day_before, found.week_before, found.change) == (None, None, None)


def test_posts_are_ranked_by_attention_and_by_what_they_gained(report: Report) -> None:
    assert [one.post_id for one in report.engagement.top[:3]] == ["post-2", "post-6", "post-0"]
    assert [one.post_id for one in report.engagement.rising] == ["post-2", "post-6", "post-13"]
    first = report.engagement.top[0]
    assert first.attention == first.views + 3 * first.likes + 5 * (first.comments + first.shares) + 4 * first.bookmarks
    assert report.engagement.rising[2].before == 0


def test_posts_of_a_day_that_goes_on_are_set_against_the_same_hours(lake: Settings) -> None:
    found = data.report(lake, DATE, DAY + 2 * HOUR, nobody).engagement
    # Two hours of the day before had 20 users a hour, each second of them on one of five posts.
    assert found.posts.day_before == 5
    assert sum(post.before for post in found.top) == 20


def test_services_have_their_requests_errors_and_percentiles(report: Report) -> None:
    gateway = report.services.each[0]
    rows = [row for row in TABLES["gold.service_health_minute"] if row["service"] == "gateway"]
    today = [row for row in rows if row["window_start"] >= DAY]
    assert (gateway.name, gateway.requests.value) == ("gateway", sum(row["requests"] for row in today))
    assert gateway.error_rate.value == pytest.approx(gateway.errors / (gateway.requests.value or 0))
    assert gateway.p50_ms == pytest.approx(30.0 * 0.65)  # 0.3 to 1.0 of 30 ms, evenly
    assert gateway.p95_ms.value == pytest.approx(30.0)
    assert max((rate or 0, hour) for hour, rate in enumerate(gateway.error_rate_by_hour))[1] == 14


def test_the_worst_minutes_are_those_of_the_failure(report: Report) -> None:
    assert {(one.service, one.at.hour) for one in report.services.failing[:4]} == {("gateway", 14)}
    assert {(one.service, one.at.hour) for one in report.services.slow} == {("gateway", 14)}


def test_a_minute_with_hardly_any_requests_is_not_called_slow(tmp_path: Path) -> None:
    lake = local_lake(tmp_path)
    rows = [{"window_start": DAY + n * timedelta(minutes=1), "service": "s", "requests": 2} for n in range(20)]
    write(
        lake, "gold.service_health_minute", [row | {"errors": 0, "p95_ms": float(n + 1)} for n, row in enumerate(rows)]
    )
    assert data.report(lake, DATE, NOW, nobody).services.slow == ()


def test_alarms_of_a_subject_are_one_episode_until_a_quarter_of_an_hour_passes() -> None:
    def at(minute: int) -> datetime:
        return DAY + minute * timedelta(minutes=1)

    rows = [
        ("service/a/error_rate", at(0), 0.5, 0.1, 0.6),
        ("service/a/p95_ms", at(10), 90.0, 30.0, 0.9),
        ("service/a/p95_ms", at(24), 80.0, 30.0, 0.8),
        ("service/a/p95_ms", at(39), 80.0, 30.0, 0.8),
        ("host/a/cpu", at(41), 1.0, 0.1, 0.7),
    ]
    found = episodes(rows)
    assert [(one.kind, one.begin, one.end, one.minutes) for one in found] == [
        ("service", at(0), at(25), 3),
        ("service", at(39), at(40), 1),
        ("host", at(41), at(42), 1),
    ]
    assert (found[0].measures, found[0].value, found[0].score) == (("p95_ms", "error_rate"), 90.0, 0.9)


def test_an_episode_that_began_before_midnight_is_of_the_day_before(tmp_path: Path) -> None:
    lake = local_lake(tmp_path)
    times = [DAY - timedelta(minutes=5), DAY + timedelta(minutes=5), DAY + HOUR]
    row = {"series": "host/h/m", "value": 1.0, "expected": 0.0, "score": 0.9, "model_version": "1"}
    write(lake, "gold.anomalies", [row | {"time": at} for at in times])
    assert [one.begin for one in data.report(lake, DATE, NOW, nobody).incidents.episodes] == [DAY + HOUR]


def test_rules_confirm_what_is_unusual_about_the_same_subject(report: Report) -> None:
    found = {one.name: one.confirmed for one in report.incidents.recurring}
    assert found == {"gateway": ("service error rate",), "web-1": ("host cpu out of range",), "feed": ()}


def test_a_rule_about_what_the_detector_finds_does_not_confirm_it(lake: Settings) -> None:
    known = alerts.read()
    rule = next(one.name for one in known.rules if one.on == "anomalies" and one.recovered)
    said = [Told(rule, "warning", "fired", "service/gateway", DAY + 14 * HOUR)]
    found = data.report(lake, DATE, NOW, lambda day, rules: said).incidents
    assert [one.subject for one in found.firings] == ["gateway"]
    assert not [one for one in found.episodes if one.confirmed]


def test_what_varies_in_an_unusual_log_line_is_not_told(report: Report) -> None:
    measure = next(one.measures[0] for one in report.incidents.episodes if one.kind == "logs")
    assert "17" not in measure and "alice" not in measure


def test_a_rule_holds_from_when_it_fires_until_it_recovers() -> None:
    def told(rule: str, kind: str, hour: float, subject: str = "h") -> Told:
        return Told(rule, "critical", kind, subject, DAY + hour * HOUR)

    rule = "host cpu out of range"
    said = [
        told(rule, "fired", -2), told(rule, "recovered", 1), told(rule, "fired", 5), told(rule, "fired", 6),
        told(rule, "recovered", 7), told(rule, "fired", 20), told(rule, "fired", -30, "x"),
        told(rule, "recovered", -29, "x"), told("your post is trending", "fired", 3), told(rule, "recovered", 4, "y"),
    ]  # fmt: skip
    found = [
        ((one.begin - DAY) / HOUR, one.end and (one.end - DAY) / HOUR)
        for one in firings(alerts.read(), said, Day(DATE, NOW))
    ]
    assert found == [(-2, 1), (5, 7), (20, None)]


def test_rules_are_counted_by_what_they_told_in_the_day(report: Report) -> None:
    counted = {one.rule: (one.fired, one.recovered, one.suppressed) for one in report.incidents.rules}
    assert counted["new follower"] == (450, 0, 18)
    assert counted["service error rate"] == (2, 1, 0)
    assert rules(alerts.read(), [Told("r", "info", "fired", "", DAY - HOUR)], Day(DATE, NOW)) == ()


def test_only_rules_that_tell_a_fixed_person_of_no_user_count_as_the_operators_own() -> None:
    found = operators(alerts.read())
    assert "host cpu out of range" in found
    assert not {"new follower", "comment on my post", "your post is trending"} & {*found}


def test_limits_of_hosts_are_those_that_the_rules_alarm_at() -> None:
    known = alerts.read()
    critical = {
        condition.field: condition.operand
        for rule in known.rules
        if rule.on == "host" and rule.severity == "critical"
        for condition in rule.when
    }
    assert limits(known) == {CPU: critical[CPU], "system.memory.actual.used.pct": 0.92, DISK: 0.9}


def test_hosts_near_a_limit_come_first_and_a_filling_disk_is_foreseen(report: Report) -> None:
    first = report.hosts.each[0]
    assert first.name == "db-1"
    assert first.disk is not None and first.disk.near and first.disk.over
    # 2 % a day from 90.9 %.
    assert first.full_in_days == pytest.approx((1 - 0.909) / 0.02, abs=0.3)
    web = next(one for one in report.hosts.each if one.name == "web-1")
    assert web.cpu is not None and web.cpu.over and not web.cpu.near
    assert web.full_in_days is None


def test_forecasts_are_judged_by_what_came(report: Report) -> None:
    found = {one.measure: one for one in report.forecasts.judged}
    assert found["requests"].steps == 3 * 288
    actual = {(row["service"], row["window_start"]): row["requests"] for row in TABLES["gold.service_health_minute"]}
    said = [
        row for row in TABLES["gold.forecasts"] if row["series"].endswith("/requests") and row["time"] < DAY + 24 * HOUR
    ]
    inside = [row["lo"] <= actual[row["series"].split("/")[1], row["time"]] <= row["hi"] for row in said]
    assert found["requests"].coverage == pytest.approx(sum(inside) / len(inside))
    assert found["requests"].error is not None and found["requests"].error < 1


def test_a_forecast_made_after_its_time_began_is_not_judged(tmp_path: Path) -> None:
    lake = local_lake(tmp_path)
    at = DAY + 3 * HOUR
    write(lake, "gold.activity_minute", [{"window_start": at, "event_type": "view", "events": 5, "users": 1}])
    row = {"series": "activity/view", "mean": 5.0, "lo": 4.0, "hi": 6.0, "model_version": "1"}
    write(lake, "gold.forecasts", [
        row | {"time": at, "made_at": at + timedelta(seconds=1)},
        row | {"time": at + timedelta(minutes=5), "made_at": at},  # nothing happened then: 0 is not in [4, 6]
    ])  # fmt: skip
    judged = data.report(lake, DATE, NOW, nobody).forecasts.judged
    assert [(one.steps, one.coverage) for one in judged] == [(1, 0.0)]


def test_what_is_ahead_is_told_beside_the_same_hours_before(report: Report) -> None:
    views = report.forecasts.outlooks[0]
    assert views.series == "activity/view" and views.counts
    ahead = [row for row in TABLES["gold.forecasts"] if row["series"] == "activity/view" and row["time"] >= NOW]
    assert views.expected == pytest.approx(sum(row["mean"] for row in ahead))
    assert views.same_hours_before == pytest.approx(views.expected, rel=0.05)
    assert [(one.series, one.certain) for one in report.forecasts.reaching] == [(f"host/db-1/{DISK}", False)]


def test_the_champion_is_the_last_one_that_was_not_refused(report: Report) -> None:
    recommender = report.models.each[0]
    assert recommender.champion is not None and recommender.champion.version == "3"
    assert (recommender.previous, recommender.last.action, recommender.decisions, recommender.refused) == (
        "2",
        "refused",
        2,
        1,
    )
    first = recommender.measures[0]
    assert (first.name, first.value, first.rival) == ("ndcg@10", 0.163, 0.151)


def test_a_day_knows_no_decision_of_a_later_one(lake: Settings) -> None:
    found = data.report(lake, DATE - timedelta(days=1), NOW, nobody).models.each[0]
    assert found.champion is not None and found.champion.version == "2"


@pytest.mark.parametrize("measured", [None, "", "nonsense", "[]", '{"candidate": 3}', '{"candidate": {"value": "x"}}'])
def test_figures_of_a_decision_that_cannot_be_read_are_left_out(tmp_path: Path, measured: str | None) -> None:
    lake = local_lake(tmp_path)
    row = week.decision("m", "1", "promoted", None, DAY, 0.1, 0.1, "baseline")
    write(lake, "ops.promotions", [row | {"measured": measured}])
    assert data.report(lake, DATE, NOW, nobody).models.each[0].measures == ()


def test_terms_that_were_hardly_used_are_not_told(report: Report) -> None:
    told = {one.term for words in report.texts.keywords.values() for one in words}
    assert "cheap flights" in told and "alice smith" not in told


def test_texts_are_set_against_the_day_before(report: Report) -> None:
    assert [one.term for one in report.texts.keywords["searches"] if one.new] == ["한국 여행"]
    whole = report.texts.moods[0]
    assert (whole.language, whole.negative) == (None, 150) and whole.negative_before == pytest.approx(60 / 480)
    assert [(one.message, one.before) for one in report.texts.errors if not one.before] == [("no space left on <*>", 0)]


def test_every_record_that_came_in_is_accounted_for(report: Report) -> None:
    for intake in report.quality.intakes:
        assert intake.balanced and intake.gaps == 0
        assert intake.valid + (intake.quarantined.value or 0) + intake.duplicates == intake.records.value
    assert report.quality.records.value == total("ops.ledger", "records", 0, "committed_at")


def test_a_batch_that_does_not_add_up_or_skips_offsets_is_told(tmp_path: Path) -> None:
    lake = local_lake(tmp_path)
    rows = [row for row in TABLES["ops.ledger"] if row["topic"] == "user-events" and row["committed_at"] >= DAY]
    rows[3] = rows[3] | {"valid": rows[3]["valid"] - 1}
    del rows[7]
    write(lake, "ops.ledger", rows)
    found = data.report(lake, DATE, NOW, nobody).quality
    assert not found.balanced and found.intakes[0].gaps == 1


def test_reasons_are_counted_by_what_became_of_their_records(report: Report) -> None:
    found = {one.reason: (one.records, one.open, one.replayed) for one in report.quality.reasons}
    # Names of properties are the senders' own, and not told.
    assert found == {"/user_id: blank": (8, 6, 2), "/properties/*: not a string": (4, 3, 1)}


def test_a_field_is_new_that_was_not_there_in_the_week_before(report: Report) -> None:
    assert {one.field: one.new for one in report.quality.drift} == {"app_version": False, "beta_flag": True}


def test_freshness_is_by_the_oldest_record_of_a_batch(report: Report) -> None:
    found = report.freshness.topics[0]
    assert (found.topic, found.number) == ("user-events", 48)
    assert found.on_time == pytest.approx(47 / 48)  # the batch of 14:00 took 9 s, 1.5 s are promised
    assert found.delay_by_hour[14] is not None and found.delay_by_hour[14] > 5


def test_jobs_are_told_that_began_in_the_day(report: Report) -> None:
    found = {one.name: (one.runs, one.failed, one.last) for one in report.freshness.jobs}
    assert found == {"audit": (24, 0, "ok"), "insights": (1, 1, "failed")}


def test_without_any_table_every_section_is_empty(tmp_path: Path) -> None:
    found = data.report(local_lake(tmp_path), DATE, NOW, nobody)
    assert found.empty and len(found.missing) == 13 and not found.versions
    for name in ("activity", "engagement", "services", "hosts", "forecasts", "models", "texts", "quality", "freshness"):
        assert getattr(found, name).empty, name


def test_a_day_before_all_is_empty(lake: Settings) -> None:
    assert data.report(lake, DATE.replace(year=1970, month=1, day=1), NOW, nobody).empty


def test_a_lake_that_is_away_is_an_error_and_no_empty_report(tmp_path: Path) -> None:
    away = local_lake(tmp_path).model_copy(
        update={"hdfs": Settings().hdfs.model_copy(update={"uri": "hdfs://127.0.0.1:1"})}
    )
    with pytest.raises(LakeError, match="lakehouse status"):
        data.report(away, DATE, NOW, nobody)


def test_a_broken_file_is_an_error_that_says_so(tmp_path: Path) -> None:
    lake = local_lake(tmp_path)
    write(lake, "gold.activity_minute", TABLES["gold.activity_minute"])
    for file in Path(lake.table_uri("gold.activity_minute").removeprefix("file://")).glob("*.parquet"):
        file.write_bytes(b"nonsense")
    with pytest.raises(LakeError, match="cannot be read"):
        data.report(lake, DATE, NOW, nobody)


def test_what_is_not_a_number_is_passed_over(tmp_path: Path) -> None:
    lake = local_lake(tmp_path)
    rows = [row for row in TABLES["gold.host_utilization_minute"] if row["window_start"] >= DAY]
    write(lake, "gold.host_utilization_minute", [row | {"avg": float("nan"), "max": float("nan")} for row in rows])
    assert data.report(lake, DATE, NOW, nobody).hosts.empty


def test_times_of_the_day_are_utc() -> None:
    assert Day(DATE, NOW).begin == datetime(2026, 11, 25, tzinfo=UTC)
    assert Day(DATE, NOW).end == datetime(2026, 11, 26, tzinfo=UTC)
