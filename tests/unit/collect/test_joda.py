"""Dates are read and written by Joda-Time's patterns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from lakehouse.collect.joda import formatter, parser


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("ISO8601", "2015-10-18T18:01:47.978Z", "2015-10-18T18:01:47.978"),
        ("ISO8601", "2015-10-18 18:01:47,5", "2015-10-18T18:01:47.5"),
        ("ISO8601", "2015-10-18T18:01:47+09:00", "2015-10-18T09:01:47"),
        ("UNIX", "1445191307.25", "2015-10-18T18:01:47.25"),
        ("UNIX_MS", "1445191307250", "2015-10-18T18:01:47.25"),
        ("dd/MMM/yyyy:HH:mm:ss Z", "10/Oct/2000:13:55:36 -0700", "2000-10-10T20:55:36"),
        ("EEE MMM dd HH:mm:ss yyyy", "Sun Dec 04 04:47:44 2005", "2005-12-04T04:47:44"),
        ("yyMMdd HHmmss", "081109 203615", "2008-11-09T20:36:15"),
        ("yyyy-MM-dd HH:mm:ss,SSS", "2015-10-18 18:01:47,978", "2015-10-18T18:01:47.978"),
        ("yyyy-MM-dd'T'HH:mm:ss.SSSSSSZZ", "2015-10-18T18:01:47.978123Z", "2015-10-18T18:01:47.978123"),
        ("d MMMM yyyy hh:mm a", "4 December 2005 12:05 AM", "2005-12-04T00:05:00"),
        ("d MMMM yyyy hh:mm a", "4 december 2005 12:05 pm", "2005-12-04T12:05:00"),
    ],
)
def test_a_text_of_a_pattern_is_a_time(pattern: str, text: str, expected: str) -> None:
    assert parser(pattern)(text) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("ISO8601", "yesterday"),
        ("UNIX", "1e400"),
        ("UNIX_MS", "99999999999999999999"),
        ("yyyy-MM-dd", "2015-02-30"),
        ("yyyy-MM-dd", "2015-02-03 "[:-2]),
        ("MMM d", "Foo 3"),
        ("HH:mm:ss", "25:00:00"),
        ("yyyy", "99999999"),
    ],
)
def test_a_text_that_is_no_such_time_is_none(pattern: str, text: str) -> None:
    assert parser(pattern)(text) is None


def test_a_zone_holds_for_texts_without_one() -> None:
    parse = parser("yyyy-MM-dd HH:mm", ZoneInfo("Asia/Seoul"))
    assert parse("2026-01-01 09:00") == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_date_without_a_year_is_never_far_ahead() -> None:
    now = datetime.now(UTC)
    ahead, ago = now + timedelta(days=90), now - timedelta(days=2)
    parse = parser("MMM d HH:mm:ss", year=lambda: ahead.year)
    assert parse(f"{ahead:%b} {ahead.day} 00:00:00") == datetime(ahead.year - 1, ahead.month, ahead.day, tzinfo=UTC)
    assert parser("MMM d")(f"{ago:%b} {ago.day}") is not None


def test_a_time_is_written_in_a_pattern() -> None:
    at = datetime(2026, 3, 4, 15, 6, 7, 89_000, tzinfo=UTC)
    assert formatter("yyyy.MM.dd")(at) == "2026.03.04"
    assert formatter("EEE, d MMM yy hh:mm:ss.SSS a 'o''clock' Z")(at) == "Wed, 4 Mar 26 03:06:07.089 PM o'clock +0000"


@pytest.mark.parametrize("pattern", ["yyyy-ww", "G", "'open"])
def test_a_letter_without_meaning_is_an_error(pattern: str) -> None:
    with pytest.raises(ValueError, match="match: in date pattern"):
        parser(pattern)
