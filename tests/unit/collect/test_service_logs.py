"""`conf/logstash/service-logs.conf` makes records of the contract out of every format that it names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from lakehouse.collect.config import read
from lakehouse.collect.event import delivered
from lakehouse.collect.filters import block
from lakehouse.contracts import contracts
from lakehouse.quality.checks import checker
from lakehouse.settings import PROJECT

FILTERS = block(read(PROJECT / "conf" / "logstash" / "service-logs.conf", {}).filters)


def parsed(message: str, **fields: Any) -> dict[str, Any]:
    event: dict[str, Any] = {
        "@timestamp": datetime(2026, 11, 1, tzinfo=UTC), "message": message, "@metadata": {"id": "e-1"},
        "host": {"name": "shipper"}, "agent": {"type": "filebeat"}, **fields,
    }  # fmt: skip
    assert FILTERS(event)
    assert "agent" not in event
    return event


SERVICE = (
    "2026-11-25T16:00:00.123Z ERROR [checkout,0af7,l1-9] web-1 checkout.access 2500000ns "
    "POST /pay/1 503 2ms Timeout E503 00ff: no answer\nTimeout: no answer\n  at handle (checkout.py:7)"
)


def test_a_services_own_text_with_its_stack_trace() -> None:
    event = parsed(SERVICE)
    assert event["@timestamp"] == datetime(2026, 11, 25, 16, 0, 0, 123_000, tzinfo=UTC)
    assert event["log"]["level"] == "error" and event["service"]["name"] == "checkout"
    assert event["trace"]["id"] == "0af7" and event["host"]["name"] == "web-1"
    assert event["message"] == "POST /pay/1 503 2ms"
    assert event["event"] == {"dataset": "checkout.access", "duration": 2_500_000, "id": "l1-9"}
    assert event["http"] == {"request": {"method": "POST"}, "response": {"status_code": 503}}
    assert event["error"] == {
        "type": "Timeout", "code": "E503", "id": "00ff", "message": "no answer",
        "stack_trace": "Timeout: no answer\n  at handle (checkout.py:7)",
    }  # fmt: skip


def test_a_line_keeps_the_name_that_its_shipper_gave_it() -> None:
    line = '{"event": {"dataset": "shop.app"}, "message": "hello", "service": {"name": "shop"}}'
    assert parsed(line, event={"id": "line-7"})["event"] == {"dataset": "shop.app", "id": "line-7"}
    own = '{"event": {"id": "own-1"}, "message": "hello"}'
    assert parsed(own, event={"id": "line-8"})["event"] == {"id": "own-1"}
    assert parsed(own.replace('"own-1"', "null"))["event"]["id"] == "e-1"


def test_a_combined_access_log() -> None:
    event = parsed(
        '10.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a/b.gif?x=1 HTTP/1.1" 404 - "-" "Mozilla/4.08 [en]"',
        fields={"service": "web"},
    )
    assert event["@timestamp"] == datetime(2000, 10, 10, 20, 55, 36, tzinfo=UTC)
    assert event["url"] == {"path": "/a/b.gif", "query": "x=1"} and event["http"]["response"]["status_code"] == 404
    assert event["service"]["name"] == "web" and event["log"]["level"] == "warn" and event["event"]["id"] == "e-1"
    assert event["user"]["name"] == "frank" and event["user_agent"]["original"] == "Mozilla/4.08 [en]"


def test_a_common_access_log_with_a_broken_request() -> None:
    event = parsed('h.example.com - - [10/Oct/2000:13:55:36 +0000] "\\x16\\x03" 400 226')
    assert event["url"]["original"] == "\\x16\\x03" and event["http"]["response"]["body"]["bytes"] == 226


def test_syslog_of_rfc_5424() -> None:
    event = parsed(
        "<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog 8710 ID47 "
        '[exampleSDID@32473 iut="3" eventSource="App\\]"] An event'
    )
    assert event["@timestamp"] == datetime(2003, 10, 11, 22, 14, 15, 3000, tzinfo=UTC)
    assert event["host"]["name"] == "mymachine.example.com" and event["message"] == "An event"
    assert event["process"] == {"name": "evntslog", "pid": 8710} and event["service"]["name"] == "evntslog"
    assert event["log"]["syslog"]["priority"] == 165 and event["log"]["syslog"]["msgid"] == "ID47"
    assert "tags" not in parsed("<34>1 - - - - - -")


def test_syslog_of_rfc_3164() -> None:
    event = parsed("<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8")
    assert (event["@timestamp"].month, event["@timestamp"].day, event["@timestamp"].hour) == (10, 11, 22)
    assert event["process"]["name"] == "su" and event["message"].startswith("'su root' failed")
    assert parsed("Jun  4 15:16:01 combo sshd[19939]: x")["process"]["pid"] == 19939


def test_json_is_taken_as_it_is() -> None:
    event = parsed(
        '{"@timestamp": "2026-01-01T00:00:00Z", "message": "m", "event": {"id": "j"}, "log": {"level": "WARN"}}'
    )
    assert event["@timestamp"] == datetime(2026, 1, 1, tzinfo=UTC) and event["message"] == "m"
    assert event["event"]["id"] == "j" and event["log"]["level"] == "warn" and "tags" not in event


def test_what_json_says_of_a_request_is_not_said_twice() -> None:
    record = {
        "message": "GET /a 503 3ms", "event": {"id": "j", "dataset": "s.access"}, "url": {"path": "/a"},
        "http": {"request": {"method": "GET"}, "response": {"status_code": 503}}, "error": {"type": "Timeout"},
    }  # fmt: skip
    event = parsed(orjson.dumps(record).decode())
    assert {name: event[name] for name in record} == record


@pytest.mark.parametrize("message", ["", "plain words", "{broken", "\x00\x01", "a" * 100_000, "<34>1 x", "[" * 5000])
def test_what_is_of_no_format_is_tagged_and_kept(message: str) -> None:
    event = parsed(message)
    assert event["message"] == message and event["event"]["id"] == "e-1"
    assert set(event["tags"]) <= {"_grokparsefailure", "_jsonparsefailure"}


@pytest.mark.parametrize("message", [SERVICE, "plain words", "Jun  4 15:16:01 combo sshd[19939]: x", '{"a": 1}'])
def test_what_leaves_it_is_valid_by_the_contract(message: str) -> None:
    now = int(datetime(2026, 11, 26, tzinfo=UTC).timestamp() * 1e6)
    assert checker(contracts()["service-logs"])(delivered(parsed(message)), now).reasons is None


def test_a_number_of_more_digits_than_python_reads_stays_text() -> None:
    event = parsed('203.0.113.1 - - [01/Jan/2026:00:00:00 +0000] "GET / HTTP/1.1" 200 ' + "9" * 5000)
    assert event["http"]["response"]["body"]["bytes"] == "9" * 5000 and "tags" not in event
