from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lakehouse.quality import quarantine
from lakehouse.quality.quarantine import (
    QuarantineError,
    Selection,
    by_reason,
    discard,
    editing,
    ls,
    parse_id,
    replay,
    setting,
    show,
)
from lakehouse.settings import Settings
from tests.unit.local_lake import local_lake, write

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
EVENT = {"event_id": "e", "event_type": "visit", "user_id": "u1", "occurred_at": "2026-01-02T03:04:00Z"}


class Broker:
    """Acknowledges what it is sent, up to the record named."""

    def __init__(self, refuses_after: int = 1000):
        self.records: list[tuple[str, dict[str, Any]]] = []
        self.pending: list[Callable[[], None]] = []
        self.refuses_after = refuses_after

    def produce(self, topic: str, **record: Any) -> None:
        report = record.pop("on_delivery")
        error = None if len(self.records) < self.refuses_after else "refused"
        self.records.append((topic, record))
        self.pending.append(lambda: report(error, None))

    def poll(self, timeout: float) -> int:
        return self.flush()

    def flush(self) -> int:
        while self.pending:
            self.pending.pop(0)()
        return 0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = local_lake(tmp_path)
    values = [
        json.dumps({**EVENT, "rating": 9}).encode(),
        b"\xff\xfe",
        json.dumps({**EVENT, "event_id": "f", "user_id": None}).encode(),
    ]
    reasons = [["/rating: out of bounds 0.5..5"], ["/: not UTF-8"], ["/user_id: missing"]]
    common = {"topic": "user-events", "partition": 0, "status": "open", "updated_at": AT}
    common |= {"key": b"k", "headers": [{"key": "trace", "value": b"t"}]}
    write(
        made,
        "silver.quarantine",
        [
            {
                **common,
                "offset": n,
                "timestamp": AT + timedelta(minutes=n),
                "value": v,
                "reasons": r,
            }
            for n, (v, r) in enumerate(zip(values, reasons, strict=True))
        ],
    )
    return made


def statuses(settings: Settings) -> list[str]:
    return [row["status"] for row in sorted(ls(settings, Selection()), key=lambda row: row["id"])]


@pytest.mark.parametrize(
    ("selection", "offsets"),
    [
        (Selection(), [0, 1, 2]),
        (Selection(ids=(("user-events", 0, 1),)), [1]),
        (Selection(reason="rating"), [0]),
        (Selection(topic="service-logs"), []),
        (Selection(since=AT + timedelta(minutes=1), until=AT + timedelta(minutes=2)), [1]),
        (Selection(status="replayed"), []),
    ],
)
def test_records_are_found_by_every_condition(settings: Settings, selection: Selection, offsets: list[int]) -> None:
    assert sorted(row["id"] for row in ls(settings, selection)) == [f"user-events/0/{n}" for n in offsets]


def test_the_newest_come_first_up_to_the_limit(settings: Settings) -> None:
    assert [row["id"] for row in ls(settings, Selection(), limit=1)] == ["user-events/0/2"]


def test_reasons_are_counted(settings: Settings) -> None:
    assert {row["reason"]: row["records"] for row in by_reason(settings, Selection())} == {
        "/rating: out of bounds 0.5..5": 1,
        "/: not UTF-8": 1,
        "/user_id: missing": 1,
    }


def test_bytes_that_are_no_text_are_shown_as_base64_and_hex(settings: Settings) -> None:
    found = show(settings, ("user-events", 0, 1))
    assert found["value"] == {"base64": "//4=", "hex": "ff fe"}
    assert found["headers"] == [{"key": "trace", "value": "t"}]


def test_what_is_not_in_quarantine_is_a_clear_error(settings: Settings) -> None:
    with pytest.raises(QuarantineError, match="user-events/0/9 is not in quarantine"):
        show(settings, ("user-events", 0, 9))


@pytest.mark.parametrize("text", ["user-events/0", "nothing/0/1", "user-events/0/x", "user-events/0/1/2"])
def test_an_id_is_topic_partition_and_offset_in_full(text: str) -> None:
    with pytest.raises(QuarantineError, match="topic/partition/offset"):
        parse_id(text)


def test_a_mended_record_goes_out_with_its_key_headers_and_origin_and_is_marked(settings: Settings) -> None:
    broker = Broker()
    result = replay(settings, Selection(reason="rating"), [setting("/rating", 4.5)], sender=broker)
    assert (result["sent"], result["marked"], result["skipped"]) == (1, 1, [])
    [(topic, record)] = broker.records
    assert (topic, json.loads(record["value"])) == ("user-events", {**EVENT, "rating": 4.5})
    assert record["key"] == b"u1"  # the contract's, where the value holds it
    assert record["headers"] == [("trace", b"t"), ("lakehouse-replay-of", b"user-events/0/0")]
    assert statuses(settings) == ["replayed", "open", "open"]


def test_a_record_without_a_contract_key_keeps_its_own(settings: Settings) -> None:
    broker = Broker()
    replay(settings, Selection(reason="UTF-8"), sender=broker)
    assert (broker.records[0][1]["key"], broker.records[0][1]["value"]) == (b"k", b"\xff\xfe")


def test_a_mend_that_does_not_mend_skips_its_record_alone(settings: Settings) -> None:
    broker = Broker()
    result = replay(settings, Selection(), [setting("/user_id", "u2")], sender=broker)
    assert [one["id"] for one in result["skipped"]] == ["user-events/0/0", "user-events/0/1"]
    assert "still breaks the contract: /rating" in result["skipped"][0]["why"]
    assert "use --edit" in result["skipped"][1]["why"]
    assert statuses(settings) == ["open", "open", "replayed"]


def test_what_was_replayed_is_passed_over_unless_asked_for_again(settings: Settings) -> None:
    one = Selection(ids=(("user-events", 0, 1),))
    replay(settings, one, sender=Broker())
    assert replay(settings, one, sender=Broker())["passed_over"] == 1
    assert replay(settings, one, again=True, sender=Broker())["sent"] == 1


def test_a_dry_run_sends_and_writes_nothing(settings: Settings) -> None:
    broker = Broker()
    result = replay(settings, Selection(), dry_run=True, sender=broker)
    assert [one["reasons"] for one in result["would_send"]][1] == ["/: not UTF-8"]
    assert (broker.records, statuses(settings)) == ([], ["open", "open", "open"])


def test_only_what_kafka_acknowledged_is_marked(settings: Settings) -> None:
    with pytest.raises(QuarantineError, match="user-events/0/1 was not acknowledged"):
        replay(settings, Selection(), sender=Broker(refuses_after=1))
    assert statuses(settings) == ["replayed", "open", "open"]


def test_discarded_records_stay_and_are_not_replayed(settings: Settings) -> None:
    assert discard(settings, Selection(reason="UTF-8"))["marked"] == 1
    assert statuses(settings) == ["open", "discarded", "open"]
    assert replay(settings, Selection(reason="UTF-8"), sender=Broker())["sent"] == 0


def test_an_append_beside_a_status_change_is_kept(settings: Settings) -> None:
    late = {"topic": "user-events", "partition": 0, "offset": 3, "timestamp": AT, "reasons": ["x"], "status": "open"}
    write(settings, "silver.quarantine", [late])
    assert quarantine.mark(settings, [("user-events", 0, 0), ("user-events", 0, 3)], "discarded") == 2
    assert statuses(settings) == ["discarded", "open", "open", "discarded"]


def test_an_editor_gets_the_value_and_its_output_is_the_mended_one() -> None:
    shout = editing([sys.executable, "-c", "import sys; print(sys.stdin.read().upper(), end='')"])
    assert shout(b"abc") == b"ABC"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([sys.executable, "-c", "import sys; sys.exit('no idea')"], "ended with 1: no idea"),
        (["/nowhere/editor"], "does not run"),
    ],
)
def test_an_editor_that_fails_says_why(command: list[str], words: str) -> None:
    with pytest.raises(QuarantineError, match=words):
        editing(command)(b"abc")


def test_setting_makes_missing_objects_and_reaches_into_arrays() -> None:
    assert json.loads(setting("/a/b", 1)(b"{}")) == {"a": {"b": 1}}
    assert json.loads(setting("/a/0/x~1y", 1)(b'{"a": [{}]}')) == {"a": [{"x/y": 1}]}
