"""The stream's detector: who is told what, and the same again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from lakehouse import alerts
from lakehouse.runtime.detect import tell


@pytest.mark.parametrize(("age", "suppressed"), [(timedelta(minutes=2), False), (timedelta(days=2), True)])
def test_who_is_to_be_told_is_told_with_the_same_id_however_often_it_is_made(age: timedelta, suppressed: bool) -> None:
    now = datetime(2026, 11, 26, tzinfo=UTC)
    row = {"series": "service/feed/p95_ms", "time": now - age, "value": 90.0, "expected": 50.0, "score": 0.8}
    (once,), (again,) = tell(alerts.read(), row, now), tell(alerts.read(), row, now)
    assert once == again and once["suppressed"] is suppressed and once["user_id"] == "ops"
    assert once["text"] == "service/feed/p95_ms is unusual: 90, expected were about 50"
