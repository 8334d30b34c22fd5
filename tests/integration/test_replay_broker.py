"""Replay, simulate and topics against a real broker: what is in Kafka afterwards, byte for byte."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME
from confluent_kafka.admin import AdminClient, NewTopic

from lakehouse.contracts import TOPICS
from lakehouse.replay import ReplayError, replay
from lakehouse.settings import Settings
from lakehouse.simulate import simulate
from lakehouse.sources.topics import CONFIG, MAX_BYTES, TopicError, create_topics
from tests.integration.lake import records_of

pytestmark = pytest.mark.integration


@pytest.fixture
def prefix(stack: Settings) -> Iterator[str]:
    """Topics of this test's own, removed afterwards."""
    name = f"test-{uuid4().hex[:8]}-"
    create_topics(stack, name)
    yield name
    admin = AdminClient({"bootstrap.servers": stack.kafka.bootstrap_servers})
    mine = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(name)]
    for future in admin.delete_topics(mine).values():
        future.result()


def test_a_files_lines_are_in_kafka_byte_for_byte(stack: Settings, prefix: str, tmp_path: Path) -> None:
    lines = [b'{"user_id":"u1"}\r', b"", b"\xff\xfe\x00\x1a", "\u2028\x85".encode(), b"x" * (15 * 2**20), b"no newline"]
    (tmp_path / "lines").write_bytes(b"\n".join(lines))
    sent = replay(stack, f"{prefix}user-events", tmp_path / "lines")
    records = records_of(stack, [f"{prefix}user-events"])
    assert sent == {"sent": 6, "acknowledged": 6}
    assert sorted(record.value() for record in records) == sorted(lines)  # an empty line is b"", not null
    assert {record.timestamp()[0] for record in records} == {TIMESTAMP_LOG_APPEND_TIME}
    assert {record.key() for record in records} == {None}


def test_a_line_kafka_does_not_take_is_named_and_those_before_it_are_there(
    stack: Settings, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "lines").write_bytes(b"one\ntwo\n" + b"x" * (MAX_BYTES + 1) + b"\nfour\n")
    with pytest.raises(ReplayError, match="line 3 was not acknowledged"):
        replay(stack, f"{prefix}user-events", tmp_path / "lines")
    assert {record.value() for record in records_of(stack, [f"{prefix}user-events"])} == {b"one", b"two"}


def test_replay_to_a_topic_there_is_not_sends_nothing(stack: Settings, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"one\n")
    with pytest.raises(TopicError, match="Kafka has no topic absent"):
        replay(stack, "absent", tmp_path / "lines")


def test_topics_are_made_once_and_wrong_timestamps_are_refused(stack: Settings, prefix: str) -> None:
    assert create_topics(stack, prefix) == []
    admin = AdminClient({"bootstrap.servers": stack.kafka.bootstrap_servers})
    wrong = NewTopic(f"{prefix}2-user-events", 1, 1, config=CONFIG | {"message.timestamp.type": "CreateTime"})
    admin.create_topics([wrong])[wrong.topic].result()
    with pytest.raises(TopicError, match=r"has message\.timestamp\.type=CreateTime, needs LogAppendTime: mend with `"):
        create_topics(stack, f"{prefix}2-")


def test_what_simulate_says_it_sent_is_in_kafka(stack: Settings, prefix: str, tmp_path: Path) -> None:
    result = simulate(
        stack,
        seed=5,
        rate=500,
        duration=1,
        history=1,
        history_records=5000,
        truth=tmp_path / "truth.json",
        prefix=prefix,
    )
    records = records_of(stack, [prefix + topic for topic in TOPICS])
    truth = orjson.loads((tmp_path / "truth.json").read_bytes())
    counts = Counter(str(record.topic()).removeprefix(prefix) for record in records)
    assert result["acknowledged"] == len(records) == 5500
    assert counts == {topic: of["sent"] for topic, of in truth["topics"].items()}
    assert sum(record.value() is None for record in records) == sum(
        of["broken_by_kind"].get("null_value", 0) for of in truth["topics"].values()
    )
