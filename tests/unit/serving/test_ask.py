"""Questions to a table: checked, bound, and page by page the same rows as at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.tables import Table, columns
from serving.ask import Ask, Condition, ask, following, moment
from serving.auth import Caller
from serving.catalog import Readable, find
from serving.problems import Problem

THINGS = Readable(
    Table(
        "gold.things",
        columns("day date, name string, number bigint, share double, good boolean, at timestamp"), ("name",),
    ),
    time="at", owner=None, personal=frozenset({"name"}), closed=False, admin=False,
)  # fmt: skip
ANYBODY = Caller("somebody", frozenset({"read:tables"}))
ALL = Caller("somebody", frozenset({"read:tables", "read:pii"}))
CONNECTION = duckdb.connect()
CONNECTION.execute("set TimeZone = 'UTC'")
VALUES = {
    "day": st.dates(date(2026, 1, 1), date(2026, 1, 3)),
    "number": st.integers(-2, 2),
    "share": st.sampled_from([0.0, 0.1, -1.5]),
    "good": st.booleans(),
    "at": st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 1, 0, 0, 1)).map(lambda at: at.replace(tzinfo=UTC)),
}
ROW = st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()})
ORDER = st.lists(st.sampled_from([*VALUES]), unique=True, max_size=3).flatmap(
    lambda names: st.tuples(*(st.sampled_from(["", "-"]).map(lambda sign, n=name: sign + n) for name in names))
)


def answered(rows: list[dict[str, Any]], question: Ask, caller: Caller = ALL) -> list[dict[str, Any]]:
    CONNECTION.register("rows", pa.Table.from_pylist(rows, THINGS.table.arrow))
    sql, bound = question.sql("rows", caller)
    found: list[dict[str, Any]] = CONNECTION.sql(sql, params=bound).to_arrow_table().to_pylist()
    return found


@settings(deadline=None)
@given(st.lists(ROW, max_size=12), ORDER, st.integers(1, 5))
def test_pages_by_cursor_are_the_rows_at_once(made: list[dict[str, Any]], order: tuple[str, ...], size: int) -> None:
    rows = [row | {"name": f"n{number}"} for number, row in enumerate(made)]
    question = ask(THINGS, ALL, order=",".join(order), limit=size)
    whole = answered(rows, replace(question, limit=100))
    assert sorted(row["name"] for row in whole) == sorted(row["name"] for row in rows)
    paged: list[dict[str, Any]] = []
    while page := answered(rows, question):
        paged += page[:size]
        if len(page) <= size:
            break
        question = following(question, page[size - 1])
    assert paged == whole


@settings(deadline=None)
@given(
    st.lists(ROW, max_size=8),
    st.sampled_from([*VALUES]),
    st.sampled_from(["eq", "ne", "gt", "ge", "lt", "le"]),
    st.data(),
)
def test_a_condition_holds_as_in_python(
    made: list[dict[str, Any]], column: str, operator: str, data: st.DataObject
) -> None:
    rows = [row | {"name": f"n{number}"} for number, row in enumerate(made)]
    value = data.draw(VALUES[column])
    text = value.isoformat() if isinstance(value, date) else str(value).lower() if column == "good" else repr(value)
    question = ask(THINGS, ALL, filters=[f"{column}:{operator}:{text}"], limit=100)
    tests = {
        "eq": lambda v: v is not None and v == value,
        "ne": lambda v: v is None or v != value,
        "gt": lambda v: v is not None and v > value,
        "ge": lambda v: v is not None and v >= value,
        "lt": lambda v: v is not None and v < value,
        "le": lambda v: v is not None and v <= value,
    }
    wanted = {row["name"] for row in rows if tests[operator](row[column])}
    assert {row["name"] for row in answered(rows, question)} == wanted


def test_texts_are_found_as_they_are_written() -> None:
    rows = [{"name": name} for name in ("a%b", "a_b", "aXb", "'; drop table rows; --", "ÄÖ한글")]

    def names(*filters: str) -> set[str]:
        return {row["name"] for row in answered(rows, ask(THINGS, ALL, filters=filters, limit=100))}

    assert names("name:contains:%") == {"a%b"} and names("name:contains:_") == {"a_b"}
    assert names("name:eq:'; drop table rows; --") == {"'; drop table rows; --"}
    assert names("name:in:aXb,ÄÖ한글") == {"aXb", "ÄÖ한글"} and names("name:contains:한") == {"ÄÖ한글"}
    assert names("number:null:true") == {row["name"] for row in rows} and names("number:null:false") == set()


@pytest.mark.parametrize(
    ("wrong", "parameter"),
    [
        ({"filters": ["nothing:eq:1"]}, "filter"),
        ({"filters": ["number:like:1"]}, "filter"),
        ({"filters": ["number"]}, "filter"),
        ({"filters": ["number:eq:1.5"]}, "filter"),
        ({"filters": ["number:eq:9223372036854775808"]}, "filter"),
        ({"filters": ["share:eq:nan"]}, "filter"),
        ({"filters": ["share:eq:1e999"]}, "filter"),
        ({"filters": ["good:eq:yes"]}, "filter"),
        ({"filters": ["at:gt:2026-01-01T00:00:00"]}, "filter"),
        ({"filters": ["at:gt:yesterday"]}, "filter"),
        ({"filters": ["number:contains:1"]}, "filter"),
        ({"filters": ["number:null:perhaps"]}, "filter"),
        ({"filters": ["name:eq:" + "x" * 1001]}, "filter"),
        ({"filters": ["name:eq:a\x00b"]}, "filter"),
        ({"filters": ["name:in:" + ",".join("x" * 201)]}, "filter"),
        ({"filters": ["number:gt:0"] * 21}, "filter"),
        ({"filters": ['number" or 1=1 --:eq:1']}, "filter"),
        ({"select": "number,nothing"}, "select"),
        ({"select": 'number" from x --'}, "select"),
        ({"order": "-"}, "order"),
        ({"order": "number,-number"}, "order"),
        ({"order": "number;drop table x"}, "order"),
        ({"since": "2026-13-01"}, "from"),
        ({"until": "0001-01-01T00:00:00+14:00"}, "to"),
    ],
)
def test_what_the_table_does_not_have_is_refused_by_name(wrong: dict[str, Any], parameter: str) -> None:
    with pytest.raises(Problem) as found:
        ask(THINGS, ALL, **wrong)
    assert found.value.status == 422 and found.value.members["reasons"][0]["pointer"] == f"/query/{parameter}"


@pytest.mark.parametrize("asked", [{"filters": ["name:eq:x"]}, {"order": "-name"}, {"filters": ["name:null:true"]}])
def test_what_is_hidden_cannot_be_asked_by(asked: dict[str, Any]) -> None:
    with pytest.raises(Problem) as found:
        ask(THINGS, ANYBODY, **asked)
    assert found.value.status == 403
    assert ask(THINGS, ALL, **asked)


def test_a_users_token_has_its_own_rows_alone_whatever_it_asks() -> None:
    table = find("gold.user_activity_daily")
    user = Caller("app", frozenset({"read:users", "read:tables"}), "u1")
    question = ask(table, user, filters=["user_id:ne:u1"], where=[Condition("user_id", "eq", "u2")])
    sql, bound = question.sql("rows", user)
    assert sql.count('"user_id" = ?') == 2 and bound.count("u1") == 2
    assert '"user_id" = ?' not in question.sql("rows", ALL)[0].partition("where")[0]


def test_times_have_an_offset_or_are_days() -> None:
    assert moment("2026-01-01") == datetime(2026, 1, 1, tzinfo=UTC)
    assert moment("2026-01-01T09:00:00 09:00") == moment("2026-01-01T00:00:00Z")  # an unescaped plus
    with pytest.raises(ValueError):
        moment("2026-01-01T00:00:00")
