"""Minutes of a series close once, in order, whatever comes late or again; what begins is told once."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from lakehouse import alerts
from lakehouse.predict.anomaly import Tuning
from lakehouse.runtime.detect import MINUTES, Series, tell

START = 29_000_000
rng = np.random.default_rng(3)
CALM = [(START + at, at, 50 + float(rng.normal())) for at in range(600)]


def fold(series: Series, rows: list[tuple[int, int, float]], batch: int = 7) -> list[Any]:
    found = []
    for at in range(0, len(rows), batch):
        series = pickle.loads(pickle.dumps(series))  # as Spark keeps it between batches
        found += series.fold(rows[at : at + batch], "1", MINUTES)
    return found


def test_a_jump_is_found_in_its_minute_and_begins_something() -> None:
    rows = [*CALM[:500], (START + 500, 500, 90.0), *CALM[501:]]
    found = fold(Series(), rows)
    assert [(minute, begins) for minute, *_, begins in found if minute >= START + 500] == [(START + 500, True)]
    _, value, expected, score, _ = next(row for row in found if row[0] == START + 500)
    assert value == 90 and abs(expected - 50) < 3 and 0.5 <= score <= 1


def test_a_minute_is_judged_by_its_last_value_before_it_closes_and_never_again() -> None:
    at = 500
    before = [*CALM[:at], (START + at, at, 900.0), (START + at, at + 1, 50.0)]
    corrected = fold(Series(), [*before, *CALM[at + 1 : at + 50], (START + at, 9999, 900.0), *CALM[at + 50 :]])
    assert not [row for row in corrected if row[0] >= START + at]


def test_the_cut_into_batches_does_not_change_the_verdict() -> None:
    rows = [*CALM[:500], (START + 500, 500, 90.0), *CALM[501:]]
    one, other = fold(Series(), rows, 1), fold(Series(), rows, 50)
    assert [row[0] for row in one] == [row[0] for row in other] and one


def test_another_version_learns_from_the_minutes_that_are_kept() -> None:
    series = Series()
    series.fold(CALM[:500], "1", MINUTES)
    series.fold(CALM[500:501], "1", MINUTES)
    found = series.fold([(START + 501, 501, 90.0), (START + 502, 502, 50.0)], "2", Tuning(rest=3))
    found += series.fold([(START + 503, 503, 50.0)], "2", Tuning(rest=3))
    assert series.version == "2" and START + 501 in [row[0] for row in found]


@pytest.mark.parametrize(("age", "suppressed"), [(timedelta(minutes=2), False), (timedelta(days=2), True)])
def test_who_is_to_be_told_is_told_with_the_same_id_however_often_it_is_made(age: timedelta, suppressed: bool) -> None:
    now = datetime(2026, 11, 26, tzinfo=UTC)
    row = {"series": "service/feed/p95_ms", "time": now - age, "value": 90.0, "expected": 50.0, "score": 0.8}
    (once,), (again,) = tell(alerts.read(), row, now), tell(alerts.read(), row, now)
    assert once == again and once["suppressed"] is suppressed and once["user_id"] == "ops"
    assert once["text"] == "service/feed/p95_ms is unusual: 90, expected were about 50"
