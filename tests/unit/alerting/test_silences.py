"""Silences: what they are of, what is wrong with one, and that they are followed without asking all the time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lakehouse.alerting.database import StandingsError
from lakehouse.alerting.silences import Silence, Silenced, chosen, holding, new
from lakehouse.alerts import AlertsError

from .made import RULES, at

HELD = Silence("s1", "pipeline lags", "user-events", at(0), at(120), "ann", "moving to the new disks")


def test_a_silence_is_of_a_rule_that_there_is_and_says_why() -> None:
    made = new(RULES, "pipeline lags", None, timedelta(hours=2), "ann", "moving", at(0))
    assert (made.until - made.made_at, made.who, made.why) == (timedelta(hours=2), "ann", "moving")
    with pytest.raises(AlertsError, match="no rule 'pipeline lag': did you mean 'pipeline lags'"):
        new(RULES, "pipeline lag", None, timedelta(hours=2), "ann", "moving", at(0))
    with pytest.raises(AlertsError, match="no rule 'xyz': there are new follower, "):
        new(RULES, "xyz", None, timedelta(hours=2), "ann", "moving", at(0))
    with pytest.raises(AlertsError, match="says why"):
        new(RULES, "pipeline lags", None, timedelta(hours=2), "ann", " ", at(0))


def test_the_silence_that_lasts_longest_holds() -> None:
    longer = replace(HELD, id="s2", subject=None, until=at(300))
    assert holding([longer, HELD], "pipeline lags", "user-events", at(1)) == longer
    assert holding([longer, HELD], "pipeline lags", "service-logs", at(121)) == longer
    assert holding([HELD], "pipeline lags", "service-logs", at(1)) is None
    assert holding([HELD], "pipeline lags", "user-events", at(120)) is None


def test_silences_are_ended_by_id_by_rule_or_by_subject() -> None:
    held = [HELD, replace(HELD, id="s2", subject=None), replace(HELD, id="s3", rule="nothing arrives")]
    assert [s.id for s in chosen(held, "s3", None)] == ["s3"]
    assert [s.id for s in chosen(held, "pipeline lags", None)] == ["s1", "s2"]
    assert [s.id for s in chosen(held, "pipeline lags", "user-events")] == ["s1"]
    for what, subject in (("s9", None), ("pipeline lags", "metrics")):
        with pytest.raises(AlertsError, match="lakehouse alerts silences"):
            chosen(held, what, subject)


def test_who_asks_often_looks_seldom_and_remembers_while_the_database_is_away() -> None:
    now = datetime.now(UTC)
    current = replace(HELD, until=now + timedelta(hours=1))
    looks: list[int] = []

    def ask() -> list[Silence]:
        looks.append(1)
        if len(looks) > 1:
            raise StandingsError("MongoDB does not answer (test)")
        return [current]

    seconds = iter([0.0, 9.0, 10.0])
    silenced = Silenced(ask, lambda: next(seconds))
    assert silenced("pipeline lags", "user-events") and not silenced("pipeline lags", "service-logs")
    assert len(looks) == 1
    assert silenced("pipeline lags", "user-events") and len(looks) == 2


def test_a_database_that_never_answered_silences_nothing() -> None:
    def away() -> list[Silence]:
        raise StandingsError("MongoDB does not answer (test)")

    assert not Silenced(away)("pipeline lags", "user-events")
