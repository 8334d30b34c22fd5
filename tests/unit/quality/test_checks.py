"""The validity table of the design, section 3: valid records, and every reason against the others."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.contracts import TOPICS, contracts
from lakehouse.quality.checks import Checked, checker, metric_identity, parse, rfc3339_us

ARRIVAL = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()) * 1_000_000
EVENT = {
    "event_id": "e",
    "event_type": "view",
    "user_id": "u",
    "post_id": "p",
    "occurred_at": "2026-11-24T11:00:00Z",
}
LOG = {"@timestamp": "2026-11-24T11:00:00Z", "service": {"name": "shop"}}
METRIC = {
    "@timestamp": "2026-11-24T11:00:00Z",
    "host": {"name": "h"},
    "event": {"dataset": "system.cpu"},
    "system": {"cpu": {"total": {"norm": {"pct": 0.25}}}},
}


def check(topic: str, value: Any) -> Checked:
    return checker(contracts()[topic])(value if isinstance(value, bytes | None) else orjson.dumps(value), ARRIVAL)


def event(**fields: Any) -> Checked:
    return check("user-events", {k: v for k, v in (EVENT | fields).items() if v is not ...})


def log(**fields: Any) -> Checked:
    return check("service-logs", LOG | fields)


def metric(**fields: Any) -> Checked:
    return check("system-metrics", METRIC | fields)


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "/: value is null"),
        (b"", "/: not JSON: "),
        (b"{", "/: not JSON: "),
        (b"[]", "/: not a JSON object"),
        (b'"text"', "/: not a JSON object"),
        (b"null", "/: not a JSON object"),
        (b"\xff", "/: not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "/: not UTF-8"),
        (b'{"a": NaN}', "/: not JSON: "),
        (b'{"a": Infinity}', "/: not JSON: "),
        (b"\xef\xbb\xbf{}", "/: not JSON: "),
    ],
)
def test_what_is_no_json_object_has_one_reason(topic: str, value: bytes | None, reason: str) -> None:
    (found,) = check(topic, value).reasons or []
    assert found == reason or (reason.endswith(": ") and found.startswith(reason))


def test_a_plain_event_is_valid_and_its_columns_are_typed() -> None:
    checked = event(rating=5, duration_ms=0, properties={"a": "b"})
    assert checked.reasons is None and checked.identity == "e" and checked.rescued is None
    assert checked.values["rating"] == 5.0 and type(checked.values["rating"]) is float
    assert checked.values["occurred_at"] == ARRIVAL - 3_600_000_000
    assert checked.values["session_id"] is None and checked.values["properties"] == {"a": "b"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"event_id": ...}, "/event_id: missing"),
        ({"event_id": None}, "/event_id: missing"),
        ({"event_id": 5}, "/event_id: not a string"),
        ({"event_id": ""}, "/event_id: blank"),
        ({"user_id": " \t\u2003"}, "/user_id: blank"),
        ({"event_type": "VIEW"}, "/event_type: not one of the allowed values"),
        ({"event_type": "nope", "post_id": None}, "/event_type: not one of the allowed values"),
        ({"event_type": ["view"]}, "/event_type: not a string"),
        ({"event_type": {"a": 1}, "post_id": None}, "/event_type: not a string"),
        ({"occurred_at": 1764000000}, "/occurred_at: not a string"),
        ({"occurred_at": "2026-11-24T11:00:00"}, "/occurred_at: not an RFC 3339 time with offset"),
        ({"occurred_at": "1969-12-31T23:59:59.999999Z"}, "/occurred_at: time outside 1970-01-01 to arrival + 24 h"),
        ({"occurred_at": "2026-11-25T12:00:00.000001Z"}, "/occurred_at: time outside 1970-01-01 to arrival + 24 h"),
        ({"session_id": 5}, "/session_id: not a string"),
        ({"rating": "5"}, "/rating: not a number"),
        ({"rating": True}, "/rating: not a number"),
        ({"rating": 0.49}, "/rating: out of bounds 0.5..5"),
        ({"rating": 5.01}, "/rating: out of bounds 0.5..5"),
        ({"duration_ms": -1}, "/duration_ms: out of bounds 0.."),
        ({"properties": []}, "/properties: not an object"),
        ({"properties": {"a": 1}}, "/properties: not a map of strings"),
        ({"properties": {"a": None}}, "/properties: not a map of strings"),
    ],
)
def test_each_fault_of_an_event_is_named_by_place_and_rule(fields: dict[str, Any], reason: str) -> None:
    assert event(**fields).reasons == [reason]


@pytest.mark.parametrize("kind", ["view", "like", "unlike", "comment", "share", "bookmark", "post"])
@pytest.mark.parametrize("post", [..., None, "", " "])
def test_an_interaction_names_its_post(kind: str, post: Any) -> None:
    assert event(event_type=kind, post_id=post, text="x").reasons == ["/post_id: missing (post_id_of_interaction)"]


@pytest.mark.parametrize("kind", ["visit", "follow", "search"])
def test_other_events_need_no_post(kind: str) -> None:
    assert event(event_type=kind, post_id=...).reasons is None


@pytest.mark.parametrize(
    "fields",
    [
        {"occurred_at": "1970-01-01T00:00:00Z"},
        {"occurred_at": "2026-11-25T12:00:00Z"},
        {"rating": 0.5},
        {"rating": None},
        {"user_id": " u "},
        {"session_id": ""},
        {"duration_ms": 1e300},
        {"properties": {}},
    ],
)
def test_bounds_are_inclusive_and_optional_fields_may_be_null_or_blank(fields: dict[str, Any]) -> None:
    assert event(**fields).reasons is None


def test_all_reasons_are_collected_in_the_contracts_order() -> None:
    assert event(event_id=5, event_type="like", user_id="", post_id=..., rating="x", properties=[]).reasons == [
        "/event_id: not a string",
        "/user_id: blank",
        "/rating: not a number",
        "/properties: not an object",
        "/post_id: missing (post_id_of_interaction)",
    ]


def test_a_warning_flags_a_valid_record_and_stays_silent_on_a_wrong_one() -> None:
    assert event(event_type="comment").warnings == ["text_of_comment"]
    assert event(event_type="comment", text="x").warnings is None
    assert event(event_type="comment", rating=9).warnings is None
    assert check("service-logs", {"@timestamp": LOG["@timestamp"]}).warnings == ["service_named"]


def test_unknown_fields_are_valid_and_rescued_where_they_stood() -> None:
    assert json.loads(event(more={"a": [1, None]}).rescued or "") == {"more": {"a": [1, None]}}
    nested = log(http={"version": "2", "response": {"status_code": 200, "bytes": 7}})
    assert json.loads(nested.rescued or "") == {"http": {"version": "2", "response": {"bytes": 7}}}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"@timestamp": None}, "/@timestamp: missing"),
        ({"log": "info"}, "/log: not an object"),
        ({"http": {"response": 5}}, "/http/response: not an object"),
        ({"http": {"response": {"status_code": "200"}}}, "/http/response/status_code: not a number"),
        ({"http": {"response": {"status_code": 200.5}}}, "/http/response/status_code: not a 64-bit integer"),
        ({"event": {"duration": 2**63}}, "/event/duration: not a 64-bit integer"),
        ({"event": {"duration": 1e300}}, "/event/duration: not a 64-bit integer"),
        ({"event": {"id": 5}}, "/event/id: not a string"),
    ],
)
def test_each_fault_of_a_log_is_named_by_place_and_rule(fields: dict[str, Any], reason: str) -> None:
    assert log(**fields).reasons == [reason]


def test_a_whole_number_is_an_integer_however_it_is_written() -> None:
    checked = log(http={"response": {"status_code": 503.0}}, event={"duration": -(2**63)})
    assert checked.reasons is None
    assert checked.values["http"]["response"]["status_code"] == 503
    assert type(checked.values["http"]["response"]["status_code"]) is int


@pytest.mark.parametrize(("named", "identity"), [("x", "x"), (" ", None), ("", None), (None, None)])
def test_a_log_is_named_by_event_id_or_by_its_place(named: str | None, identity: str | None) -> None:
    checked = log(event={"id": named})
    assert checked.reasons is None and checked.identity == identity


def test_samples_are_the_numeric_leaves_by_dotted_path_outside_the_base_fields() -> None:
    checked = metric(labels={"a": 1}, tags=5, message="m", up=True, list=[1, {"a": 2}], n={"labels": 3})
    assert checked.samples == [("system.cpu.total.norm.pct", 0.25), ("n.labels", 3.0)]
    assert checked.dimensions == {"event.dataset": "system.cpu"}


@pytest.mark.parametrize(
    ("value", "reasons"),
    [
        (METRIC | {"system": {}}, ["/: no number in the record, so no sample"]),
        (METRIC | {"a.b": 1, "a": {"b": 2}}, ["/a/b: a second value named a.b"]),
        (METRIC | {"a.b": "x", "a": {"b": "y"}}, ["/a/b: a second value named a.b"]),
        (METRIC | {"host": "h"}, ["/host: not an object"]),
        (METRIC | {"host": {"name": 5}}, ["/host/name: not a string"]),
        (
            METRIC | {"@timestamp": "x", "host": []},
            ["/@timestamp: not an RFC 3339 time with offset", "/host: not an object"],
        ),
    ],
)
def test_each_fault_of_a_metric_is_named_by_place_and_rule(value: Any, reasons: list[str]) -> None:
    assert check("system-metrics", value).reasons == reasons


def test_a_number_and_a_string_of_one_path_are_a_sample_and_a_dimension() -> None:
    checked = metric(**{"a.b": 1, "a": {"b": "x"}})
    assert ("a.b", 1.0) in (checked.samples or ()) and (checked.dimensions or {})["a.b"] == "x"


def test_a_pointer_escapes_slashes_and_tildes() -> None:
    found = check("system-metrics", METRIC | {"a/b": {"~": 1}, "a/b.~": 2})
    assert found.reasons == ["/a~1b.~0: a second value named a/b.~"]


def test_a_metric_record_is_named_by_host_time_dataset_and_strings_alone() -> None:
    same = metric(system={"cpu": {"total": {"norm": {"pct": 0.99}}}}).identity
    assert metric().identity == same and len(same or "") == 32
    others = [
        metric(host={"name": "g"}),
        metric(event={"dataset": "x"}),
        metric(device="sda"),
        metric(**{"@timestamp": "2026-11-24T11:00:00.000001Z"}),
    ]
    assert len({same, *(other.identity for other in others)}) == 5
    assert metric(a="1", b="2").identity == metric(b="2", a="1").identity
    assert metric(**{"@timestamp": "2026-11-24T12:00:00+01:00"}).identity == same


def test_parts_of_a_metric_identity_do_not_run_into_each_other() -> None:
    assert metric_identity("a", 1, "b", {}) != metric_identity("ab", 1, "", {})
    assert metric_identity(None, 1, None, {}) != metric_identity("", 1, "", {})
    assert metric_identity("h", 1, None, {"a": "b,c"}) != metric_identity("h", 1, None, {"a": "b", "c": ""})


@pytest.mark.parametrize(("levels", "valid"), [(99, True), (100, False)])
@pytest.mark.parametrize(("opens", "closes"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_a_hundred_levels_are_the_limit(levels: int, valid: bool, opens: bytes, closes: bytes) -> None:
    value = orjson.dumps(EVENT | {"more": 0}).replace(b'"more":0', b'"more":' + opens * levels + b"1" + closes * levels)
    assert check("user-events", value).reasons == (None if valid else ["/: nested over 100 levels"])


def test_brackets_in_strings_and_side_by_side_are_no_depth() -> None:
    assert event(text='[{"\\' * 200, more=[[]] * 200).reasons is None


def test_any_depth_is_a_reason_and_no_crash() -> None:
    assert parse(b"[" * 1_000_000)[1] == "/: nested over 100 levels"


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01T00:00:00.1Z", 100_000),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1970-01-01T00:00:00.0000019Z", 1),
        ("1970-01-01T00:00:00.123456789012Z", 123_456),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:00:00-01:00", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T00:00:00+23:59", -86_340_000_000),
        ("1969-12-31T23:59:59.5Z", -500_000),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
        ("9999-12-31T23:59:59Z", 253_402_300_799_000_000),
    ],
)
def test_an_rfc_3339_time_is_microseconds_of_utc(text: str, instant: int) -> None:
    assert rfc3339_us(text) == instant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-24",
        "2026-11-24T11:00:00",
        "2026-11-24 11:00:00Z",
        "2026-11-24T11:00Z",
        "2026-11-24T11:00:00.Z",
        "2026-11-24T11:00:00,5Z",
        "2026-11-24T24:00:00Z",
        "2026-11-24T11:60:00Z",
        "2026-11-24T11:00:61Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-11-24T11:00:00+24:00",
        "2026-11-24T11:00:00+01:60",
        "2026-11-24T11:00:00+0100",
        "2026-11-24T11:00:00+01",
        "2026-11-24T11:00:00Z ",
        "2026-11-24T11:00:00Z\n",
        "+2026-11-24T11:00:00Z",
        "٢٠٢٦-11-24T11:00:00Z",
        "20261124T110000Z",
    ],
)
def test_what_is_no_rfc_3339_time_is_none(text: str) -> None:
    assert rfc3339_us(text) is None


@settings(max_examples=60, deadline=None)
@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.timezones()))
def test_every_time_that_python_writes_with_whole_minutes_of_offset_is_read_back(time: datetime) -> None:
    offset = time.utcoffset()
    if offset is not None and offset.seconds % 60 == 0:
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        delta = time.astimezone(UTC) - epoch
        assert rfc3339_us(time.isoformat()) == (delta.days * 86400 + delta.seconds) * 10**6 + delta.microseconds


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NAMES = ["event_id", "event_type", "user_id", "occurred_at", "post_id", "rating", "duration_ms", "properties"]
NAMES += ["@timestamp", "log", "service", "host", "http", "event", "url", "error", "labels", "message", "a.b", "a"]
DOCUMENT = st.dictionaries(st.sampled_from(NAMES) | st.text(), JSON | st.just("view") | st.just(EVENT["occurred_at"]))


def assert_a_verdict(topic: str, value: bytes) -> None:
    checked = check(topic, value)
    assert checked.reasons is None or (checked.reasons and all(r.startswith("/") for r in checked.reasons))
    if checked.reasons is None:
        assert checked.values["occurred_at" if topic == "user-events" else "time"] >= 0
        assert all(math.isfinite(number) for _, number in checked.samples or ())
        assert checked.rescued is None or isinstance(json.loads(checked.rescued), dict)


@pytest.mark.parametrize("topic", TOPICS)
@settings(max_examples=100, deadline=None)
@given(value=st.binary())
def test_arbitrary_bytes_get_a_verdict_and_never_an_exception(topic: str, value: bytes) -> None:
    assert_a_verdict(topic, value)


@pytest.mark.parametrize("topic", TOPICS)
@settings(max_examples=100, deadline=None)
@given(document=JSON | DOCUMENT | DOCUMENT.map(lambda d: EVENT | d) | DOCUMENT.map(lambda d: METRIC | d))
def test_arbitrary_json_gets_a_verdict_and_never_an_exception(topic: str, document: Any) -> None:
    assert_a_verdict(topic, json.dumps(document).encode())
