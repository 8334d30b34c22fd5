"""Replay: what a file's bytes become, and what an error says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from lakehouse.replay import ReplayError, replay
from lakehouse.settings import Settings


class Broker:
    """Acknowledges what it was given when asked to; refuses the values named, at once or on delivery."""

    def __init__(self, fails: bytes | None = None, refuses: bytes | None = None, room: int = 1_000_000) -> None:
        self.records: list[tuple[str, bytes | None, bytes | None]] = []
        self.waiting: list[tuple[bytes | None, Callable[[Any, Any], None]]] = []
        self.fails, self.refuses, self.room = fails, refuses, room

    def produce(
        self, topic: str, *, value: bytes | None, key: bytes | None, on_delivery: Callable[[Any, Any], None]
    ) -> None:
        if self.refuses is not None and value == self.refuses:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        if len(self.waiting) >= self.room:
            raise BufferError
        self.records.append((topic, key, value))
        self.waiting.append((value, on_delivery))

    def poll(self, timeout: float) -> int:
        waiting, self.waiting = self.waiting, []
        for value, delivered in waiting:
            bad = self.fails is not None and value == self.fails
            delivered(KafkaError(KafkaError._MSG_TIMED_OUT) if bad else None, None)
        return len(waiting)

    def flush(self) -> int:
        self.poll(0)
        return 0


def _replayed(tmp_path: Path, content: bytes, topic: str = "user-events", **broker: Any) -> Broker:
    file = tmp_path / "lines"
    file.write_bytes(content)
    transport = Broker(**broker)
    sent = replay(Settings(), topic, file, transport=transport)
    assert sent == {"sent": len(transport.records), "acknowledged": len(transport.records)}
    return transport


def test_lines_split_at_newline_only_and_every_other_byte_is_kept(tmp_path: Path) -> None:
    lines = [b"a\r", b"", b"\xff\xfe\x00", "\u2028 \x0b\x0c\x85".encode(), b" last "]
    assert [r[2] for r in _replayed(tmp_path, b"\n".join(lines)).records] == lines


def test_a_final_newline_ends_the_last_record_and_starts_none(tmp_path: Path) -> None:
    assert [r[2] for r in _replayed(tmp_path, b"a\n\n").records] == [b"a", b""]
    assert _replayed(tmp_path, b"").records == []


def test_the_key_is_the_contracts_where_the_line_holds_it(tmp_path: Path) -> None:
    keys = [r[1] for r in _replayed(tmp_path, b'{"user_id":"\xc3\xa9"}\n{"user_id":5}\n{"user\n[1]\n').records]
    assert keys == ["é".encode(), None, None, None]
    assert _replayed(tmp_path, b'{"service":{"name":"feed"}}', "service-logs").records[0][1] == b"feed"
    assert _replayed(tmp_path, b'{"user_id":"u1"}', "elsewhere").records[0][1] is None


def test_a_full_queue_makes_the_replay_wait(tmp_path: Path) -> None:
    assert len(_replayed(tmp_path, b"x\n" * 50, room=3).records) == 50


@pytest.mark.parametrize("broker", [{"fails": b"3"}, {"refuses": b"3"}])
def test_the_error_names_the_first_line_not_acknowledged(tmp_path: Path, broker: dict[str, Any]) -> None:
    with pytest.raises(ReplayError, match=r"line 3 was not acknowledged .*tail -n \+3"):
        _replayed(tmp_path, b"1\n2\n3\n4\n3\n", **broker)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="absent: No such file"):
        replay(Settings(), "user-events", tmp_path / "absent", transport=Broker())


def test_progress_ends_at_the_files_size(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"x\n" * 3000)
    seen: list[tuple[int, int]] = []
    replay(Settings(), "user-events", tmp_path / "lines", transport=Broker(), progress=lambda *at: seen.append(at))
    assert seen[-1] == (6000, 6000)
    assert seen == sorted(seen)


def test_a_rate_spreads_the_records_over_time(tmp_path: Path) -> None:
    from time import monotonic

    (tmp_path / "lines").write_bytes(b"x\n" * 11)
    began = monotonic()
    replay(Settings(), "user-events", tmp_path / "lines", rate=100, transport=Broker())
    assert monotonic() - began >= 0.1
