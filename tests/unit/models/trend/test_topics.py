"""A topic trends if its share rises by more than chance."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from models.trend.topics import trending

NOW = datetime(2026, 5, 2, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
STEADY = [(NOW - k * HOUR, term, n) for k in range(1, 26) for term, n in (("weather", 40), ("sport", 60), ("tea", 1))]


def test_the_term_that_rises_is_found_and_the_frequent_ones_are_not() -> None:
    topics = trending([*STEADY, (NOW - HOUR / 2, "election", 30)], NOW, HOUR, DAY)
    assert [(t.term, t.count, t.before) for t in topics] == [("election", 30, 0)]


def test_that_everything_grows_makes_nothing_trend() -> None:
    assert trending([*STEADY, *((NOW - HOUR, term, 9 * n) for _, term, n in STEADY[:3])], NOW, HOUR, DAY) == []


def test_a_rare_term_needs_more_than_one_more() -> None:
    assert trending([*STEADY, (NOW - HOUR, "tea", 1)], NOW, HOUR, DAY) == []
    assert [t.term for t in trending([*STEADY, (NOW - HOUR, "tea", 15)], NOW, HOUR, DAY)] == ["tea"]


def test_what_is_outside_of_both_times_does_not_count() -> None:
    outside = [(NOW, "late", 99), (NOW - 26 * HOUR, "election", 99)]
    topics = trending([*STEADY, *outside, (NOW - HOUR, "election", 30)], NOW, HOUR, DAY)
    assert [(t.term, t.before) for t in topics] == [("election", 0)]
    assert trending([], NOW, HOUR, DAY) == []
