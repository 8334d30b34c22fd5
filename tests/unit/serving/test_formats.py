"""Formats: each says the same, whatever is in the rows, and Accept is understood as the standard has it."""

from __future__ import annotations

import csv
import io
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.formats import ARROW, CSV, JSON, NDJSON, dumps, page, wanted
from serving.problems import Problem

NAMES = pa.map_(pa.string(), pa.int64())
SCHEMA = pa.schema(
    {
        "whole": pa.int64(), "real": pa.float64(), "word": pa.string(), "good": pa.bool_(), "bytes": pa.binary(),
        "day": pa.date32(), "at": pa.timestamp("us", "UTC"), "exact": pa.decimal128(20, 4), "counts": NAMES,
        "nested": pa.struct({"inner": pa.struct({"words": pa.list_(pa.string())})}),
    }
)  # fmt: skip
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ROW = st.fixed_dictionaries(
    {
        "whole": st.none() | st.integers(-(2**63), 2**63 - 1),
        "real": st.none() | st.floats(),
        "word": st.none() | WORDS,
        "good": st.none() | st.booleans(),
        "bytes": st.none() | st.binary(max_size=10),
        "day": st.none() | st.dates(date(1900, 1, 1)),
        "at": st.none() | st.datetimes(datetime(1900, 1, 1), timezones=st.just(UTC)),
        "exact": st.none() | st.decimals(-1000, 1000, places=4),
        "counts": st.none() | st.lists(st.tuples(WORDS, st.integers(0, 9)), max_size=3, unique_by=lambda pair: pair[0]),
        "nested": st.none() | st.builds(lambda words: {"inner": {"words": words}}, st.none() | st.lists(WORDS)),
    }
)
ODD = {
    "whole": 2**53 + 1, "real": math.nan, "word": '=1+1,"\r\n한글\x00', "good": True, "bytes": b"\xff\x00",
    "day": date(2026, 1, 2), "at": datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "exact": Decimal("1.5000"),
    "counts": [("a", 1), ("a", 2)], "nested": {"inner": {"words": ["x", None]}},
}  # fmt: skip


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), SCHEMA)


def test_odd_values_have_their_json() -> None:
    assert orjson.loads(page(table(ODD), JSON, "c", 7)) == {
        "data": [
            {
                "whole": 9007199254740993, "real": None, "word": '=1+1,"\r\n한글\x00', "good": True, "bytes": "/wA=",
                "day": "2026-01-02", "at": "2026-01-02T03:04:05.000006Z", "exact": 1.5, "counts": {"a": 2},
                "nested": {"inner": {"words": ["x", None]}},
            }
        ],
        "next": "c",
        "version": 7,
    }  # fmt: skip
    infinite = page(table({"real": math.inf}, {"real": -math.inf}), NDJSON, None, 7)
    assert [orjson.loads(line)["real"] for line in infinite.splitlines()] == [None, None]


def test_odd_values_have_their_csv() -> None:
    header, row, nothing = csv.reader(io.StringIO(page(table(ODD, {}), CSV, None, 7).decode(), newline=""))
    assert header == SCHEMA.names and nothing == [""] * len(header)
    assert row == [
        "9007199254740993", "", '=1+1,"\r\n한글\x00', "true", "/wA=", "2026-01-02", "2026-01-02T03:04:05.000006Z",
        "1.5", '{"a":2}', '{"inner":{"words":["x",null]}}',
    ]  # fmt: skip


@given(st.lists(ROW, max_size=4))
def test_every_format_says_the_same(made: list[dict[str, Any]]) -> None:
    rows = table(*made)
    data = orjson.loads(page(rows, JSON, None, 1))["data"]
    lines = page(rows, NDJSON, None, 1)
    assert [orjson.loads(line) for line in lines.split(b"\n")[:-1]] == data
    cells = list(csv.reader(io.StringIO(page(rows, CSV, None, 1).decode(), newline="")))[1:]
    read = [["" if value is None else value for value in row.values()] for row in data]
    assert [[again(value, name) for name, value in zip(SCHEMA.names, row, strict=True)] for row in cells] == read
    assert pa.ipc.open_stream(page(rows, ARROW, None, 1)).read_all().equals(rows) or nan(made)


def again(text: str, name: str) -> Any:
    """A cell as JSON has it."""
    if text == "":
        return ""
    if name in ("word", "bytes", "day", "at"):
        return text
    return float(text) if name in ("real", "exact") else orjson.loads(text)


def nan(made: list[dict[str, Any]]) -> bool:
    return any(row["real"] is not None and math.isnan(row["real"]) for row in made)


@pytest.mark.parametrize("kind", [JSON, NDJSON, CSV, ARROW])
def test_no_row_is_an_answer_too(kind: str) -> None:
    empty = page(SCHEMA.empty_table(), kind, None, 1)
    if kind == JSON:
        assert orjson.loads(empty) == {"data": [], "next": None, "version": 1}
    elif kind == NDJSON:
        assert empty == b""
    elif kind == CSV:
        assert empty.decode() == ",".join(SCHEMA.names) + "\r\n"
    else:
        assert pa.ipc.open_stream(empty).read_all().schema == SCHEMA


def test_times_are_utc_wherever_they_were_made() -> None:
    seoul = pa.array([datetime(2026, 1, 1, tzinfo=UTC)]).cast(pa.timestamp("us", "Asia/Seoul"))
    assert page(pa.table({"at": seoul}), CSV, None, 1) == b"at\r\n2026-01-01T00:00:00Z\r\n"
    assert b'"2026-01-01T00:00:00Z"' in page(pa.table({"at": seoul}), JSON, None, 1)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("text/csv", CSV),
        ("TEXT/CSV; header=present", CSV),
        ("text/*", CSV),
        ("application/*", JSON),
        ("application/json;q=0.5, text/csv;q=0.9", CSV),
        ("text/csv, application/json", JSON),
        ("application/json;q=0, */*", NDJSON),
        ("application/json;q=0, application/*;q=0.1, text/csv;q=0", NDJSON),
        ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", JSON),
        ("*/*;q=0.1, application/vnd.apache.arrow.stream", ARROW),
        ("application/x-ndjson; q=nan, text/csv; q=0.001", CSV),
        ("application/x-ndjson; q=2, text/csv; q=0.001", CSV),
        (";;;,,,text/csv", CSV),
    ],
)
def test_the_most_specific_range_says_how_much_a_format_is_liked(accept: str | None, kind: str) -> None:
    assert wanted(accept) == kind


@pytest.mark.parametrize(
    "accept", ["image/png", "*/*;q=0", "application/json;q=0", "text/csv;q=0.0", "csv", "%", "\x00", "application/jso"]
)
def test_what_takes_no_format_is_406(accept: str) -> None:
    with pytest.raises(Problem) as found:
        wanted(accept)
    assert found.value.status == 406


@given(st.text(max_size=50))
def test_any_accept_has_an_answer_or_406(accept: str) -> None:
    try:
        assert wanted(accept) in (JSON, NDJSON, CSV, ARROW)
    except Problem as problem:
        assert problem.status == 406


def test_no_value_is_beyond_json() -> None:
    assert dumps([Decimal("NaN"), {1: b"\xff"}, math.inf, memoryview(b"x"), 1 + 1j])
