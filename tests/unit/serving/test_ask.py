"""Questions to a table: checked, bound, and page by page the same rows as at once."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import dataset

from lakehouse.tables import Table, columns
from serving.ask import Ask, Condition, ask, following, moment
from serving.auth import Caller, Keys
from serving.catalog import Readable, find
from serving.cursors import Cursors
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
    "share": st.sampled_from([0.0, -0.0, 0.1, -1.5, math.nan, math.inf, -math.inf]),
    "good": st.booleans(),
    "at": st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 1, 0, 0, 1)).map(lambda at: at.replace(tzinfo=UTC)),
}
ROW = st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()})
WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=5)
CURSORS = Cursors(Keys({"key": "k" * 32}))
SECOND = timedelta(seconds=1)
ORDER = st.lists(st.sampled_from([*VALUES]), unique=True, max_size=3).flatmap(
    lambda names: st.tuples(*(st.sampled_from([name, f"-{name}"]) for name in names))
)


def answered(
    rows: list[dict[str, Any]], question: Ask, caller: Caller = ALL, scanned: bool = False
) -> list[dict[str, Any]]:
    """The answer from memory, or from a dataset that DuckDB leaves conditions to, as it does for large tables."""
    made = pa.Table.from_pylist(rows, THINGS.table.arrow)
    CONNECTION.register("rows", dataset.dataset(made) if scanned else made)
    sql, bound = question.sql("rows", caller, "secret")
    found: list[dict[str, Any]] = CONNECTION.sql(sql, params=bound).to_arrow_table().to_pylist()
    return found


@settings(deadline=None)
@given(
    st.lists(ROW, max_size=12), ORDER, st.integers(1, 5), st.sampled_from([ALL, ANYBODY]), st.booleans(), st.booleans()
)
def test_pages_by_cursor_are_the_rows_at_once(
    made: list[dict[str, Any]], order: tuple[str, ...], size: int, caller: Caller, scanned: bool, counted: bool
) -> None:
    rows = [row | {"name": f"n{number}"} for number, row in enumerate(made)]
    question = ask(THINGS, caller, order=",".join(order), limit=size)
    whole = answered(rows, replace(question, limit=100), caller)
    assert sorted(row["name"] for row in whole) == sorted(row["name"] for row in rows)
    paged: list[dict[str, Any]] = []
    while page := answered(rows, question, caller, scanned):
        paged += page[:size]
        if len(page) <= size:
            break
        if counted:
            question = replace(question, skip=len(paged))
        else:
            place = following(question, page[size - 1]).after
            assert place is not None
            question = replace(question, after=CURSORS.open(caller, "it", CURSORS.seal(caller, "it", place, None))[0])
    assert [row["name"] for row in paged] == [row["name"] for row in whole]
    assert whole == sorted(whole, key=lambda row: [placed(row[word.strip("-")], word) for word in order])


def placed(value: Any, word: str) -> tuple[Any, ...]:
    """A key by which Python sorts as an order of the API does."""
    if value is None:
        return (1,)
    if isinstance(value, datetime):
        value = (value - datetime.min.replace(tzinfo=UTC)) / SECOND
    elif isinstance(value, date):
        value = (value - date.min) / SECOND
    beyond, value = (1, 0) if math.isnan(value) else (0, value)
    return (0, -beyond, -value) if word.startswith("-") else (0, beyond, value)


@settings(deadline=None)
@given(
    st.lists(ROW, max_size=8),
    st.sampled_from([*VALUES]),
    st.sampled_from(["eq", "ne", "gt", "ge", "lt", "le"]),
    st.booleans(),
    st.data(),
)
def test_a_condition_holds_as_in_python(
    made: list[dict[str, Any]], column: str, operator: str, scanned: bool, data: st.DataObject
) -> None:
    rows = [row | {"name": f"n{number}"} for number, row in enumerate(made)]
    value = data.draw(VALUES[column].filter(lambda v: not isinstance(v, float) or math.isfinite(v)))
    text = value.isoformat() if isinstance(value, date) else str(value).lower() if column == "good" else repr(value)
    question = ask(THINGS, ALL, filters=[f"{column}:{operator}:{text}"], limit=100)
    tests = {
        "eq": lambda v: v is not None and v == value,
        "ne": lambda v: v is None or v != value,
        "gt": lambda v: v is not None and (v > value or v != v),  # NaN is more than any number
        "ge": lambda v: v is not None and (v >= value or v != v),
        "lt": lambda v: v is not None and v < value,
        "le": lambda v: v is not None and v <= value,
    }
    wanted = {row["name"] for row in rows if tests[operator](row[column])}
    assert {row["name"] for row in answered(rows, question, scanned=scanned)} == wanted


@settings(deadline=None)
@given(
    st.lists(st.none() | WORD, max_size=8),
    st.lists(WORD.filter(lambda word: "," not in word), min_size=1),
    st.booleans(),
)
def test_words_are_found_as_python_finds_them(made: list[str | None], words: list[str], scanned: bool) -> None:
    rows = [{"name": word, "number": number} for number, word in enumerate(made)]
    for operator, holds in (
        ("in", lambda word: word in words),
        ("contains", lambda word: words[0] in word),
        ("eq", lambda word: word == words[0]),
        ("ge", lambda word: word.encode() >= words[0].encode()),
    ):
        value = ",".join(words) if operator == "in" else words[0]
        question = ask(THINGS, ALL, filters=[f"name:{operator}:{value}"], limit=100)
        found = {row["number"] for row in answered(rows, question, scanned=scanned)}
        assert found == {number for number, word in enumerate(made) if word is not None and holds(word)}, operator


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
        ({"filters": ["number:eq:1_0"]}, "filter"),
        ({"filters": ["number:eq: 1"]}, "filter"),
        ({"filters": ["number:eq:٣"]}, "filter"),
        ({"filters": ["number:eq:" + "9" * 900]}, "filter"),
        ({"filters": ["number:in:1,,2"]}, "filter"),
        ({"filters": ["share:eq:nan"]}, "filter"),
        ({"filters": ["share:lt:inf"]}, "filter"),
        ({"filters": ["share:eq:0x10"]}, "filter"),
        ({"filters": ["day:eq:2026-02-30"]}, "filter"),
        ({"filters": ["day:eq:20260201"]}, "filter"),
        ({"filters": ["day:eq:2026-W05-1"]}, "filter"),
        ({"filters": ["day:eq:2026-01-01T00:00:00Z"]}, "filter"),
        ({"filters": ["at:gt:2026-01-01T12Z"]}, "filter"),
        ({"filters": ["at:gt:2026-01-01T24:00:00Z"]}, "filter"),
        ({"filters": ["at:gt:9999-12-31T23:00:00-05:00"]}, "filter"),
        ({"filters": [":eq:1"]}, "filter"),
        ({"filters": [" number:eq:1"]}, "filter"),
        ({"filters": ["number,share:eq:1"]}, "filter"),
        ({"filters": [""]}, "filter"),
        ({"filters": ["\x00"]}, "filter"),
        ({"filters": ["x" * 100_000]}, "filter"),
        ({"filters": ["name:in:" + "x," * 50_000]}, "filter"),
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
        ({"order": "x" * 100_000}, "order"),
        ({"select": ","}, "select"),
        ({"since": ""}, "from"),
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


def test_a_table_by_days_has_the_days_that_a_time_touches() -> None:
    table = find("gold.post_engagement_daily")
    times: dict[str, Any] = {"since": "2026-01-02T12:00:00Z", "until": "2026-01-03T00:00:01+00:00"}
    assert [c.value for c in ask(table, ALL, **times).where] == [date(2026, 1, 2), date(2026, 1, 4)]
    assert [c.value for c in ask(table, ALL, since="2026-01-02", until="2026-01-03").where] == [
        date(2026, 1, 2), date(2026, 1, 3),
    ]  # fmt: skip


def test_rows_stand_in_no_order_that_tells_whose_pseudonym_is_whose() -> None:
    table = find("gold.user_activity_daily")
    users = [f"u{number:02}" for number in range(50)]
    CONNECTION.register(
        "rows", pa.Table.from_pylist([{"date": date(2026, 1, 1), "user_id": user} for user in users], table.table.arrow)
    )
    found = {}
    for caller, secret in ((ANYBODY, "one"), (ANYBODY, "two"), (ALL, "one")):
        sql, bound = ask(table, caller, limit=100).sql("rows", caller, secret)
        found[caller, secret] = CONNECTION.sql(sql, params=bound).to_arrow_table()["user_id"].to_pylist()
    assert found[ALL, "one"] == users
    assert users != found[ANYBODY, "one"] != found[ANYBODY, "two"] != users
    assert sorted(found[ANYBODY, "one"]) == users
    with pytest.raises(ValueError):
        ask(table, ANYBODY).sql("rows", ANYBODY)
