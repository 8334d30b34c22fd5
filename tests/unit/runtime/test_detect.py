"""The stream's detector: who is told what, and the same again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from lakehouse import alerts
from lakehouse.predict.watch import Alarm
from lakehouse.runtime.detect import FOUND, rows, tell


@pytest.mark.parametrize(("age", "suppressed"), [(timedelta(minutes=2), False), (timedelta(days=2), True)])
def test_who_is_to_be_told_is_told_with_the_same_id_however_often_it_is_made(age: timedelta, suppressed: bool) -> None:
    now = datetime(2026, 11, 26, tzinfo=UTC)
    row = {"series": "service/feed/p95_ms", "time": now - age, "value": 90.0, "expected": 50.0, "score": 0.8}
    (once,), (again,) = tell(alerts.read(), row, now), tell(alerts.read(), row, now)
    assert once == again and once["suppressed"] is suppressed and once["user_id"] == "ops"
    assert once["text"] == "service/feed/p95_ms is unusual: 90, expected were about 50"


def test_rows_have_their_types_also_where_there_are_none() -> None:
    assert str(rows("host/a", [], "1").dtypes["series"]) == "object"
    found = rows("host/a", [Alarm("cpu", 29_000_000, 0.9, 0.2, 0.8, True)], "1")
    assert found["series"].tolist() == ["host/a/cpu"] and list(found.columns) == [
        part.split()[0] for part in FOUND.split(", ")
    ]
