"""Each filter does to an event what Logstash's does."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lakehouse.collect.config import read
from lakehouse.collect.filters import block

APACHE = (
    '127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326 '
    '"http://www.example.com/start.html" "Mozilla/4.08 [en] (Win98; I ;Nav)"'
)


@pytest.fixture
def through(tmp_path: Path) -> Any:
    """The event as a filter section leaves it; None if it was dropped."""

    def run(section: str, **event: Any) -> dict[str, Any] | None:
        path = tmp_path / "pipeline.conf"
        path.write_text(f"input {{ stdin {{}} }} filter {{ {section} }} output {{ stdout {{}} }}")
        return event if block(read(path, {}).filters)(event) else None

    return run


def test_grok_reads_a_combined_access_log(through: Any) -> None:
    event = through(
        'grok { match => { "message" => "%{COMBINEDAPACHELOG}" } } '
        'date { match => ["timestamp", "dd/MMM/yyyy:HH:mm:ss Z"] remove_field => ["timestamp"] }',
        message=APACHE,
    )
    assert event == {
        "message": APACHE, "clientip": "127.0.0.1", "ident": "-", "auth": "frank", "verb": "GET",
        "request": "/apache_pb.gif", "httpversion": "1.0", "response": "200", "bytes": "2326",
        "referrer": '"http://www.example.com/start.html"', "agent": '"Mozilla/4.08 [en] (Win98; I ;Nav)"',
        "@timestamp": datetime(2000, 10, 10, 20, 55, 36, tzinfo=UTC),
    }  # fmt: skip


def test_grok_tags_what_it_does_not_match_and_leaves_it(through: Any) -> None:
    assert through('grok { match => { "message" => "^%{INT:n:int}$" } add_tag => ["ok"] }', message="x") == {
        "message": "x", "tags": ["_grokparsefailure"],
    }  # fmt: skip


def test_grok_types_nests_overwrites_and_defines(through: Any) -> None:
    event = through(
        """grok {
          match => { "message" => ["nothing", "%{ID:[event][code]} %{NUMBER:[event][t]:float} %{GREEDYDATA:message}"] }
          pattern_definitions => { "ID" => "[A-Z]\\d+" } overwrite => ["message"]
        }""",
        message="A17 2.5 the rest",
    )
    assert event == {"message": "the rest", "event": {"code": "A17", "t": 2.5}}


def test_grok_makes_a_list_of_what_is_there_already(through: Any) -> None:
    assert through('grok { match => { "m" => "%{WORD:w} %{WORD:w}" } }', m="a b", w="z")["w"] == ["z", "a", "b"]


def test_grok_gives_up_in_time(through: Any) -> None:
    slow = 'grok { match => { "m" => "^(?:a|aa)+$" } timeout_millis => 50 }'
    assert through(slow, m="a" * 60 + "b")["tags"] == ["_groktimeout"]


def test_grok_loses_empty_captures(through: Any) -> None:
    assert through('grok { match => { "m" => "%{WORD:a}:%{DATA:b};" } }', m="x:;") == {"m": "x:;", "a": "x"}


def test_hexadecimal_digits_are_onigurumas(through: Any) -> None:
    assert through(r'grok { match => { "m" => "(?<hex>\h+) [\h]" } }', m="z deadbeef 1")["hex"] == "deadbeef"


@pytest.mark.parametrize(
    ("mapping", "text", "fields"),
    [
        ("%{ts} %{level} [%{of}] %{rest}", "t1 INFO [web] a b", dict(ts="t1", level="INFO", of="web", rest="a b")),
        ("%{d} %{+d} %{+d}: %{}", "Jun 4 12:00: x", dict(d="Jun 4 12:00")),
        ("%{+d/2} %{+d/1}", "a b", dict(d="b a")),
        ("%{a->} %{b}", "x    y", dict(a="x", b="y")),
        ("%{?k}=%{&k};%{r}", "color=red;z", dict(color="red", r="z")),
        ("<%{pri}>%{?skip} %{m}", "<13>x y", dict(pri="13", m="y")),
        ("%{a},%{b},%{c}", "1,,3", dict(a="1", b="", c="3")),
        ("%{[log][level]} %{m}", "INFO y", dict(log={"level": "INFO"}, m="y")),
        ("%{a}: %{b}.", "x: y. z", dict(a="x", b="y")),
    ],
)  # fmt: skip
def test_dissect_cuts_at_delimiters(through: Any, mapping: str, text: str, fields: dict[str, Any]) -> None:
    event = through(f'dissect {{ mapping => {{ "message" => "{mapping}" }} }}', message=text)
    assert event == {"message": text, **fields}


def test_dissect_is_all_or_nothing(through: Any) -> None:
    event = through('dissect { mapping => { "message" => "%{a} %{b}: %{c}" } }', message="x y z")
    assert event == {"message": "x y z", "tags": ["_dissectfailure"]}


def test_dissect_converts(through: Any) -> None:
    event = through(
        'dissect { mapping => { "m" => "%{a} %{b}" } convert_datatype => { a => int b => float } }', m="5 x"
    )
    assert event == {"m": "5 x", "a": 5, "b": "x", "tags": ["_dataconversionmissing_b_float"]}


def test_json_merges_at_the_top_and_its_time_is_the_events(through: Any) -> None:
    event = through('json { source => "message" }', message='{"@timestamp": "2026-01-01T00:00:00Z", "a": {"b": 1}}')
    assert event["@timestamp"] == datetime(2026, 1, 1, tzinfo=UTC) and event["a"] == {"b": 1}
    late = through('json { source => "message" }', message='{"@timestamp": "soon", "tags": "x"}')
    assert late["_@timestamp"] == "soon" and late["tags"] == ["x", "_timestampparsefailure"]


@pytest.mark.parametrize("text", ["{", "[1]", "5", "{} x", "\ud800"])
def test_json_tags_what_is_no_object(through: Any, text: str) -> None:
    assert through('json { source => "message" }', message=text) == {"message": text, "tags": ["_jsonparsefailure"]}


def test_json_under_a_target_may_be_anything(through: Any) -> None:
    assert through('json { source => "m" target => "[d]" }', m="[1]") == {"m": "[1]", "d": [1]}


def test_kv_reads_pairs(through: Any) -> None:
    event = through('kv { source => "m" target => "k" }', m="a=1 b=\"two words\" c=[x y] d= e='z' a=2")
    assert event["k"] == {"a": ["1", "2"], "b": "two words", "c": "x y", "e": "z"}


def test_kv_takes_other_separators_and_chosen_keys(through: Any) -> None:
    event = through(
        'kv { source => "m" field_split => "&?" value_split => ":" include_keys => ["a", "b"] prefix => "q_" '
        'trim_value => "<>" include_brackets => false }',
        m="?a:1&b:<2>&c:3",
    )
    assert event == {"m": "?a:1&b:<2>&c:3", "q_a": "1", "q_b": "2"}


def test_mutate_works_in_its_fixed_order(through: Any) -> None:
    event = through(
        """mutate {
          copy => { "n" => "m" } merge => { "tags" => "s" } split => { "s" => "," } strip => ["x"] lowercase => ["x"]
          gsub => ["x", "[0-9]+", "<\\0>"] convert => { "n" => "integer" "f" => "float" "b" => "boolean" }
          replace => { "r" => "%{x}!" } update => { "u" => "never" } rename => { "a" => "[b][c]" }
          coerce => { "z" => "0" } add_tag => ["t-%{n}"]
        }""",
        a=1, x=" A12 ", n="5 apples", f="1,000.5", s="p,q,", tags=["g"], z=None,
    )  # fmt: skip
    assert event == {
        "x": "a<12>", "n": 5, "f": 1000.5, "m": 5, "s": ["p", "q"], "tags": ["g", "p", "q", "t-5"],
        "r": " A12 !", "b": {"c": 1}, "z": "0",
    }  # fmt: skip


def test_mutate_joins_removes_and_adds(through: Any) -> None:
    event = through(
        'mutate { join => { "l" => "-" } remove_field => ["gone", "[a][b]"] add_field => { "[x][y]" => "%{l} %{no}" } '
        'remove_tag => ["t"] }',
        l=["a", 1], gone=1, a={"b": 2, "c": 3}, tags=["t", "u"],
    )  # fmt: skip
    assert event == {"l": "a-1", "a": {"c": 3}, "tags": ["u"], "x": {"y": "a-1 %{no}"}}


def test_drop_drops(through: Any) -> None:
    assert through('if [level] == "debug" { drop { } } mutate { add_tag => ["x"] }', level="debug") is None
    assert through("drop { percentage => 0 }", a=1) == {"a": 1}


def test_fingerprint_is_logstashs_digest(through: Any) -> None:
    event = through(
        'fingerprint { source => ["b", "a", "c"] concatenate_sources => true method => "SHA256" target => "[e][id]" }',
        a="x", b=5,
    )  # fmt: skip
    assert event["e"]["id"] == hashlib.sha256(b"|a|x|b|5|c||").hexdigest()
    assert through('fingerprint { method => "MD5" }', message="m")["fingerprint"] == hashlib.md5(b"m").hexdigest()
    assert through('fingerprint { source => "nope" }', message="m") == {"message": "m"}


def test_a_date_that_is_none_is_tagged(through: Any) -> None:
    assert through('date { match => ["t", "ISO8601", "UNIX"] }', t="soon") == {
        "t": "soon",
        "tags": ["_dateparsefailure"],
    }
