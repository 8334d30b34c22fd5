"""Codecs: the same bytes give the same events however they are cut, and nothing is lost of what can't be read."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.collect.codecs import MultilineOptions, Splitter, codec, text_of
from lakehouse.collect.event import made
from lakehouse.collect.plugins import ConfigError, Plugin
from tests.unit.collect.fakes import plugin

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def chosen(name: str, **options: Any) -> Plugin:
    return plugin(name, "codec", **options)


def decoded(name: str, pieces: list[bytes], shape: Any = "stream", **options: Any) -> list[dict[str, Any]]:
    decoder = codec(plugin("tcp"), chosen(name, **options), shape)()
    events = [event for piece in pieces for event in decoder.decode(piece)]
    events += decoder.flush()
    for event in events:
        del event["@timestamp"]
    return events


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(ends)]


LINES = st.lists(
    st.sampled_from([b"a", b" b", b"", b'{"c":1}', b"[]", b"\xff\r", b"long" * 9, b" \xc3\xa9"]), max_size=9
)
CODECS = [
    ("line", {}),
    ("line", {"decode_size_limit_bytes": 7, "delimiter": r"\r\n"}),
    ("json_lines", {"decode_size_limit_bytes": 20}),
    ("multiline", {"pattern": r"^\s", "what": "previous"}),
    ("multiline", {"pattern": "a", "what": "next", "negate": True, "max_lines": 3}),
]


@given(LINES, st.lists(st.integers(0, 200), max_size=12), st.sampled_from(CODECS), st.sampled_from([b"\n", b"\r\n"]))
def test_the_events_do_not_depend_on_how_the_bytes_arrive(
    lines: list[bytes], places: list[int], which: tuple[str, dict[str, Any]], end: bytes
) -> None:
    data = end.join(lines)
    name, options = which
    assert decoded(name, cut(data, places), **options) == decoded(name, [data], **options)


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 300), max_size=9), st.integers(1, 12))
def test_a_splitter_gives_back_every_byte_and_says_how_many_it_took(
    lines: list[bytes], places: list[int], limit: int
) -> None:
    data, splitter = b"\n".join(lines), Splitter(b"\n", limit)
    found = [piece for part in cut(data, places) for piece in splitter.feed(part)]
    assert sum(size for _, _, size in found) + splitter.held == len(data)
    found += splitter.rest()
    assert sum(size for _, _, size in found) == len(data)
    assert all(len(line) <= limit for line, _, _ in found)
    assert b"".join(line for line, _, _ in found) == data.replace(b"\n", b"")


def test_a_line_longer_than_the_limit_is_cut_into_tagged_events() -> None:
    events = decoded("line", [b"abcdefgh\nxyz\n"], decode_size_limit_bytes=3)
    assert [(e["message"], e.get("tags")) for e in events] == [
        ("abc", ["_cut"]), ("def", ["_cut"]), ("gh", ["_cut"]), ("xyz", None)
    ]  # fmt: skip


def test_a_flood_without_newlines_holds_no_more_than_the_limit() -> None:
    splitter = Splitter(b"\n", 1000)
    for _ in range(100):
        splitter.feed(b"x" * 999)
        assert splitter.held <= 1000


def test_bytes_that_are_not_valid_become_escapes_as_in_logstash() -> None:
    assert text_of(b"a\xff\x00\xc3\xa9\xc3") == "a\\xFF\x00é\\xC3"
    assert decoded("plain", [b"caf\xe9"], "unit", charset="ISO-8859-1") == [{"message": "café"}]


def test_what_is_not_json_keeps_its_text_and_is_tagged() -> None:
    for data in (b"{", b"5", b'{"a":\xff}', b"[1]", b"[" * 300 + b"]" * 300, b'{"a":NaN}'):
        (event,) = decoded("json", [data], "unit")
        assert event == {"message": text_of(data), "tags": ["_jsonparsefailure"]}
    assert decoded("json", [b'[{"a":1},{"a":2}]'], "unit") == [{"a": 1}, {"a": 2}]
    assert decoded("json", [b" \n"], "unit") == []
    assert decoded("json", [b'{"a":1}'], "unit", target="[b][c]") == [{"b": {"c": {"a": 1}}}]


def test_fields_from_outside_get_their_types() -> None:
    at = made({"@timestamp": "2026-01-02T03:04:05.006+01:00"}, NOW)["@timestamp"]
    assert at == datetime(2026, 1, 2, 2, 4, 5, 6000, UTC)
    assert made({"@timestamp": "soon"}, NOW) == {
        "@timestamp": NOW, "_@timestamp": "soon", "tags": ["_timestampparsefailure"]
    }  # fmt: skip
    assert made({"tags": "a"}, NOW)["tags"] == ["a"]
    assert made({"tags": [1]}, NOW) == {"@timestamp": NOW, "_tags": [1], "tags": ["_tagsparsefailure"]}
    assert made({"@metadata": 5}, NOW) == {"@timestamp": NOW, "_@metadata": 5}


def test_lines_are_joined_to_the_previous_or_the_next() -> None:
    trace = [b"Error\n at a\n at b\nnext\n"]
    assert decoded("multiline", trace, pattern=r"^\s", what="previous") == [
        {"message": "Error\n at a\n at b", "tags": ["multiline"]}, {"message": "next"}
    ]  # fmt: skip
    continued = [b"a\\\nb\\\nc\nd\n"]
    assert [e["message"] for e in decoded("multiline", continued, pattern=r"\\$", what="next")] == ["a\\\nb\\\nc", "d"]
    started = [b"1 x\ny\n2 z\n"]
    assert [
        e["message"] for e in decoded("multiline", started, pattern=r"^\d", what="previous", negate=True)
    ] == ["1 x\ny", "2 z"]  # fmt: skip


def test_lines_are_joined_by_groks_patterns_too() -> None:
    lines = [b"2026-01-02T03:04:05Z a\n", b"  at b\n", b"2026-01-02T03:04:06Z c\n"]
    events = decoded("multiline", lines, pattern="^%{TIMESTAMP_ISO8601} ", what="previous", negate=True)
    assert [e["message"] for e in events] == ["2026-01-02T03:04:05Z a\n  at b", "2026-01-02T03:04:06Z c"]


def test_a_joined_event_is_bounded_in_lines_and_bytes() -> None:
    many = decoded("multiline", [b" x\n" * 5], pattern=r"^\s", what="previous", max_lines=2)
    assert [e.get("tags") for e in many] == [["multiline", "multiline_codec_max_lines_reached"]] * 2 + [None]
    long = decoded("multiline", [b" 1234\n" * 4], pattern=r"^\s", what="previous", max_bytes="10")
    assert [len(e["message"].split("\n")) for e in long] == [2, 2]


@pytest.mark.parametrize(("written", "size"), [("10 MiB", 10 << 20), ("64kb", 64_000), (7, 7), ("8", 8)])
def test_sizes_are_written_as_in_logstash(written: Any, size: int) -> None:
    assert MultilineOptions(pattern="a", what="next", max_bytes=written).max_bytes == size


def test_a_stream_takes_plain_as_line_and_json_as_json_lines() -> None:
    assert [e["message"] for e in decoded("plain", [b"a\nb\n"])] == ["a", "b"]
    assert decoded("json", [b'{"a":1}\n{"a":2}\n']) == [{"a": 1}, {"a": 2}]


def test_an_event_is_written_as_its_codec_says() -> None:
    event = {"@timestamp": NOW, "message": "m", "host": {"name": "h"}, "@metadata": {"x": 1}}
    shapes: dict[str, bytes] = {
        "plain": b"2026-01-02T00:00:00.000Z h m",
        "line": b"2026-01-02T00:00:00.000Z h m\n",
        "json": b'{"@timestamp":"2026-01-02T00:00:00.000Z","message":"m","host":{"name":"h"}}',
        "json_lines": b'{"@timestamp":"2026-01-02T00:00:00.000Z","message":"m","host":{"name":"h"}}\n',
        "dots": b".",
    }
    for name, data in shapes.items():
        assert codec(plugin("file", "output"), name, "unit", encodes=True)().encode(event) == data
    shown = codec(plugin("stdout", "output"), "rubydebug", "stream", encodes=True)().encode(event).decode()
    assert '"message" => "m"' in shown and "@metadata" not in shown
    custom = codec(
        plugin("file", "output"), chosen("line", format="%{[host][name]}:%{message}"), "stream", encodes=True
    )
    assert custom().encode(event) == b"h:m\n"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("avro", r"test.conf:1: input tcp: codec 'avro' is not supported; known are plain"),
        (chosen("multiline", pattern="(", what="next"), "pattern: .*not a regular expression"),
        (chosen("multiline", pattern="%{NOPE}", what="next"), "is not defined"),
        (chosen("line", charset="latin-99"), "no charset 'latin-99'"),
        (chosen("json", colour=1), "option 'colour' is not supported"),
    ],
)
def test_a_wrong_codec_is_an_error_that_names_it(named: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        codec(plugin("tcp"), named, "stream")
