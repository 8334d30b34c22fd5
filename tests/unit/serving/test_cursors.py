"""Cursors: what goes in comes out, and nothing but what was made here, for this caller and question, is taken."""

from __future__ import annotations

import base64
import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.auth import Caller, Keys
from serving.cursors import LASTS, LONGEST, Cursors
from serving.problems import Problem

CURSORS = Cursors(Keys({"new": "n" * 32, "old": "o" * 32}))
CALLER = Caller("somebody", frozenset({"read:tables", "read:pii"}))
PLACE = [17, "한글 \x00 ' \"", datetime(2026, 1, 1, 12, 0, 0, 1, UTC), date(2026, 1, 1), None, True, -1.5]
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.dates(), st.datetimes(timezones=st.just(UTC)),
)  # fmt: skip


def refused(cursor: str, caller: Caller = CALLER, about: str = "question", cursors: Cursors = CURSORS) -> str:
    with pytest.raises(Problem) as found:
        cursors.open(caller, about, cursor)
    assert (found.value.status, found.value.name) == (422, "invalid-cursor")
    assert found.value.members["reasons"][0]["pointer"] == "/query/cursor"
    return found.value.detail


@given(st.lists(VALUES, max_size=6), st.none() | st.integers(0, 2**53))
def test_what_was_sealed_comes_out_the_same(values: list[object], version: int | None) -> None:
    opened, at = CURSORS.open(CALLER, "question", CURSORS.seal(CALLER, "question", values, version))
    assert at == version and [type(value) for value in opened] == [type(value) for value in values]
    for one, other in zip(opened, values, strict=True):
        assert one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))  # type: ignore[arg-type]


def test_no_character_of_a_cursor_can_be_changed_added_or_left_out() -> None:
    cursor = CURSORS.seal(CALLER, "question", PLACE, 3)
    for at in range(len(cursor)):
        for other in "A", "B", "_", "!", "=", "\n":
            if cursor[at] != other:
                refused(cursor[:at] + other + cursor[at + 1 :])
            refused(cursor[:at] + other + cursor[at:])
        refused(cursor[:at] + cursor[at + 1 :])
        refused(cursor[:at])
    for more in ("=", "==", "A", "!", " ", "\n", "\x00"):
        refused(cursor + more)


@given(st.text(max_size=200))
def test_what_was_never_a_cursor_is_refused(words: str) -> None:
    refused(words)
    refused(words * 100)


def test_a_cursor_is_of_one_caller_one_question_and_these_keys() -> None:
    cursor = CURSORS.seal(CALLER, "question", PLACE, 3)
    assert "another token" in refused(cursor, replace(CALLER, subject="else"))
    assert "another token" in refused(cursor, replace(CALLER, user_id="u1"))
    assert "another token" in refused(cursor, replace(CALLER, scopes=frozenset({"read:tables"})))
    assert "another question" in refused(cursor, about="other")
    assert "not made here" in refused(cursor, cursors=Cursors(Keys({"new": "x" * 32})))


def test_a_cursor_outlives_the_rotation_of_its_key_until_that_is_taken_away() -> None:
    old = Cursors(Keys({"old": "o" * 32})).seal(CALLER, "question", PLACE, 3)
    assert CURSORS.open(CALLER, "question", old) == (tuple(PLACE), 3)
    refused(old, cursors=Cursors(Keys({"new": "n" * 32})))


def test_a_cursor_of_yesterday_is_stale() -> None:
    cursor = CURSORS.seal(CALLER, "question", PLACE, 3)
    inside = CURSORS._fernet.decrypt(cursor.encode() + b"=" * (-len(cursor) % 4))
    for age, good in ((LASTS - timedelta(minutes=1), True), (LASTS + timedelta(minutes=1), False)):
        at = int((datetime.now(UTC) - age).timestamp())
        old = CURSORS._fernet.encrypt_at_time(inside, at).decode().rstrip("=")
        if good:
            assert CURSORS.open(CALLER, "question", old) == (tuple(PLACE), 3)
        else:
            assert "too long ago" in refused(old)


def test_nothing_of_a_row_can_be_read_in_a_cursor() -> None:
    cursor = CURSORS.seal(CALLER, "question", ["a secret word"], 3)
    assert b"secret" not in base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)) and len(cursor) < LONGEST
