"""What is shown of alerts: of tables as they stand, of the live stream as was told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pymongo import MongoClient

from lakehouse.alerting.database import StandingsError
from lakehouse.alerting.evaluate import Alert
from lakehouse.alerting.facts import MINUTE
from lakehouse.alerting.now import alerts_now, critical, query, rows
from lakehouse.alerting.silences import Silence

from .made import NOON, RULES, at

STANDING = Alert(
    "pipeline lags", "user-events", "freshness/topics", "warning", NOON - 5 * MINUTE, NOON - 3 * MINUTE,
    NOON - 5 * MINUTE, 0, True, NOON, 90.0, "user-events: 7 records wait",
)  # fmt: skip


def told(kind: str, minute: int, rule: str = "host cpu out of range", subject: str = "web-1") -> dict[str, Any]:
    return {
        "_id": f"{rule}{subject}{kind}{minute}", "user_id": "ops", "rule": rule, "severity": "critical", "kind": kind,
        "subject": subject, "at": at(minute).isoformat()[:16] + ":00Z", "text": f"{subject} {minute}",
    }  # fmt: skip


def shown(*found: Any, silences: tuple[Silence, ...] = (), minute: float = 0) -> list[dict[str, Any]]:
    alerts = [one for one in found if isinstance(one, Alert)]
    return rows(alerts, [one for one in found if isinstance(one, dict)], silences, RULES, at(minute))


def test_an_alert_of_a_table_is_shown_as_it_stands() -> None:
    [row] = shown(STANDING)
    assert row == {
        "rule": "pipeline lags", "subject": "user-events", "severity": "warning", "state": "firing",
        "since": "2026-11-26T11:55:00Z", "value": 90.0, "text": "user-events: 7 records wait", "silenced": False,
        "silenced_until": None, "recovered_at": None, "at": "2026-11-26T12:00:00Z", "source": "tables",
    }  # fmt: skip
    assert shown(replace(STANDING, fired_us=0))[0]["state"] == "pending"


def test_what_has_recovered_is_shown_for_a_day() -> None:
    ended = replace(STANDING, since_us=0, recovered_us=NOON - MINUTE)
    [row] = shown(ended)
    assert (row["state"], row["recovered_at"]) == ("recovered", "2026-11-26T11:59:00Z")
    assert shown(ended, minute=24 * 60) == []


def test_an_alert_of_the_stream_fires_from_word_to_word() -> None:
    [row] = shown(told("fired", -40), told("fired", -25), told("fired", -10))
    assert (row["state"], row["since"], row["at"]) == ("firing", "2026-11-26T11:17:00Z", "2026-11-26T11:50:00Z")
    assert (row["value"], row["source"], row["text"]) == (None, "realtime", "web-1 -10")
    [row] = shown(told("fired", -40), told("recovered", -12))
    assert (row["state"], row["recovered_at"]) == ("recovered", "2026-11-26T11:48:00Z")
    [row] = shown(told("recovered", -12), told("fired", -40), told("fired", -5))
    assert (row["state"], row["since"]) == ("firing", "2026-11-26T11:52:00Z")


def test_what_nobody_tells_the_end_of_is_not_shown_as_if_it_held() -> None:
    assert shown(told("fired", -5, "unusual"), told("fired", -5, "new follower"), told("fired", -5, "gone rule")) == []
    assert shown(told("recovered", -5)) == []
    names = query(RULES, at(0))["rule"]["$in"]
    assert "host cpu high" in names and "unusual" not in names and "pipeline lags" not in names


def test_subjects_stand_apart_and_the_gravest_that_fires_comes_first() -> None:
    found = shown(
        STANDING, replace(STANDING, subject="service-logs", fired_us=0),
        told("fired", -5), told("fired", -5, subject="b"),
        told("fired", -9, subject="c"), told("recovered", -8, subject="c"),
    )  # fmt: skip
    assert [(row["subject"], row["state"]) for row in found] == [
        ("b", "firing"), ("web-1", "firing"), ("user-events", "firing"),
        ("service-logs", "pending"), ("c", "recovered"),
    ]  # fmt: skip


def test_a_silence_is_shown_with_its_end_and_makes_nothing_critical() -> None:
    silence = Silence("s1", "host cpu out of range", "web-1", at(-9), at(60), "ann", "moving")
    [row] = shown(told("fired", -5), silences=(silence,))
    assert row["silenced"] and row["silenced_until"].startswith("2026-11-26T13:00:15") and not critical([row])
    [row] = shown(told("fired", -5), silences=(replace(silence, until=at(-1)),))
    assert not row["silenced"] and critical([row])


def test_a_rule_that_is_gone_from_the_file_is_not_shown() -> None:
    assert shown(replace(STANDING, rule="an old one")) == []


def test_nothing_critical_where_it_is_pending_recovered_or_a_warning() -> None:
    assert not critical(shown(STANDING, told("fired", -5), told("recovered", -2)))


def test_a_database_that_is_away_is_an_error_that_says_what_to_do() -> None:
    client: Any = MongoClient("mongodb://127.0.0.1:1/", serverSelectionTimeoutMS=50)
    with pytest.raises(StandingsError, match=r"MongoDB does not answer .*lakehouse up"):
        alerts_now(client["lakehouse"], RULES, at(0))
