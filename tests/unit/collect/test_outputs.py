"""Outputs: what is refused for good is a dead letter with its reason, all else is taken or sent again."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from json import loads
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException
from elasticsearch import ApiError, ConnectionError

from lakehouse.collect.deadletters import DeadLetters
from lakehouse.collect.event import Event, delivered
from lakehouse.collect.outputs import opened
from lakehouse.collect.outputs.elasticsearch import ElasticsearchOptions, ElasticsearchOutput
from lakehouse.collect.outputs.file import FileOutput, FileOutputOptions
from lakehouse.collect.outputs.kafka import KafkaOptions, KafkaOutput
from lakehouse.collect.outputs.stdout import Stdout, StdoutOptions
from lakehouse.collect.plugins import Away, ConfigError, Plugin
from tests.unit.collect.fakes import plugin

AT = datetime(2026, 1, 2, tzinfo=UTC)
DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]


def event(message: str, **fields: Any) -> Event:
    return {"@timestamp": AT, "message": message, "@metadata": {"id": f"id-{message}"}, **fields}


class Refused(list[tuple[Event, str]]):
    """The dead letters of a test."""

    def add(self, pairs: list[tuple[Event, str]]) -> None:
        self += pairs

    def messages(self) -> list[str]:
        return [event["message"] for event, _ in self]


def json(name: str, **options: Any) -> Plugin:
    return plugin(name, "output", codec="json", **options)


class Broker:
    """A Kafka producer: ``errors`` names, by a value's message, what its delivery report says."""

    def __init__(self, errors: dict[str, int] | None = None, at_once: dict[str, int] | None = None, room: int = 99):
        self.records: list[tuple[str, bytes | None, str]] = []
        self.reports: list[tuple[Callable[[Any, Any], None], Any]] = []
        self.errors, self.at_once, self.room = errors or {}, at_once or {}, room

    def produce(
        self, topic: str, *, value: bytes | None, key: bytes | None, on_delivery: Callable[[Any, Any], None]
    ) -> None:
        message = orjson.loads(value or b"{}")["message"]
        if message in self.at_once:
            raise KafkaException(KafkaError(self.at_once[message]))
        if len(self.reports) >= self.room:
            raise BufferError
        error = KafkaError(self.errors[message]) if message in self.errors else None
        if error is None:
            self.records.append((topic, key, message))
        self.reports.append((on_delivery, error))

    def poll(self, timeout: float) -> int:
        reports, self.reports = self.reports, []
        for report, error in reports:
            report(error, None)
        return len(reports)

    def flush(self) -> int:
        self.poll(0)
        return 0


def kafka(broker: Broker, refused: Refused, **options: Any) -> KafkaOutput:
    named = {"topic_id": "logs", "codec": "json", **options}
    return KafkaOutput(KafkaOptions(**named), plugin("kafka", "output", **named), refused.add, lambda: broker)


def test_kafka_takes_records_by_template_and_waits_for_their_reports() -> None:
    broker, refused = Broker(room=1), Refused()
    kafka(broker, refused, topic_id="%{[t]}", message_key="%{message}").send([event("a", t="x"), event("b", t="y")])
    assert broker.records == [("x", b"a", "a"), ("y", b"b", "b")] and not refused


def test_kafka_keeps_what_a_record_is_to_blame_for_and_sends_the_rest_again() -> None:
    broker = Broker(errors={"late": KafkaError._MSG_TIMED_OUT}, at_once={"large": KafkaError.MSG_SIZE_TOO_LARGE})
    refused = Refused()
    with pytest.raises(Away, match="logs") as away:
        kafka(broker, refused).send([event("good"), event("large"), event("late"), event("deep", x=DEEP)])
    assert [e["message"] for e in away.value.left or []] == ["late"]
    assert sorted(refused.messages()) == ["deep", "large"] and [r[2] for r in broker.records] == ["good"]


def test_kafka_waits_for_a_missing_topic_unless_the_event_named_it() -> None:
    errors = {"a": KafkaError.UNKNOWN_TOPIC_OR_PART}
    with pytest.raises(Away):
        kafka(Broker(errors), Refused()).send([event("a")])
    refused = Refused()
    kafka(Broker(errors), refused, topic_id="%{t}").send([event("a", t="nowhere")])
    assert "nowhere" in refused[0][1]


class Index:
    """Elasticsearch: ``errors`` names, by message, the status of an item; ``fails`` are raised in turn."""

    def __init__(self, errors: dict[str, int] | None = None, fails: list[Exception] | None = None, most: int = 99):
        self.documents: dict[tuple[str, str], Any] = {}
        self.errors, self.fails, self.most = errors or {}, fails or [], most

    def bulk(self, *, operations: list[bytes], filter_path: str) -> Any:
        if self.fails:
            raise self.fails.pop(0)
        if len(operations) > 2 * self.most:
            raise ApiError("too large", meta=Meta(413), body={})
        items: list[dict[str, dict[str, Any]]] = []
        for action, body in zip(operations[::2], operations[1::2], strict=True):
            ((kind, target),) = orjson.loads(action).items()
            document = orjson.loads(body)
            status = self.errors.get(document["message"], 201)
            key = (target["_index"], target["_id"])
            if kind == "create" and key in self.documents:
                status = 409
            if status < 300:
                self.documents[key] = document
            items.append({kind: {"status": status, "error": {"type": "t", "reason": f"r{status}"}}})
        return {"errors": any(next(iter(i.values()))["status"] >= 300 for i in items), "items": items}

    def close(self) -> None:
        pass


class Meta:
    def __init__(self, status: int) -> None:
        self.status = status


def elastic(store: Index, refused: Refused, **options: Any) -> ElasticsearchOutput:
    named = {"index": "logs-live", **options}
    return ElasticsearchOutput(ElasticsearchOptions(**named), plugin("elasticsearch", "output"), refused.add, store)


@pytest.mark.parametrize("action", ["index", "create"])
def test_elasticsearch_has_one_document_of_an_event_however_often_it_comes(action: str) -> None:
    index, refused = Index(), Refused()
    output = elastic(index, refused, action=action, index="logs-%{+yyyy.MM.dd}")
    for _ in range(2):
        output.send([event("a"), event("b", event={"id": "own"})])
    assert sorted(index.documents) == [("logs-2026.01.02", "id-a"), ("logs-2026.01.02", "own")] and not refused
    assert "@metadata" not in index.documents["logs-2026.01.02", "id-a"]


def test_elasticsearch_refusals_are_dead_letters_and_only_what_was_busy_is_sent_again() -> None:
    index, refused = Index(errors={"bad": 400, "busy": 429, "blocked": 403, "down": 503}), Refused()
    with pytest.raises(Away, match="429 t: r429") as away:
        elastic(index, refused).send([event(m) for m in ("good", "bad", "busy", "blocked", "down")])
    assert [e["message"] for e in away.value.left or []] == ["busy", "blocked", "down"]
    assert refused.messages() == ["bad"] and "400 t: r400" in refused[0][1] and len(index.documents) == 1


def test_elasticsearch_that_is_down_leaves_all_of_it() -> None:
    for error in (ConnectionError("refused"), ApiError("busy", meta=Meta(503), body={})):
        with pytest.raises(Away) as away:
            elastic(Index(fails=[error]), Refused()).send([event("a"), event("b")])
        assert len(away.value.left or []) == 2


def test_a_request_that_is_too_large_is_halved() -> None:
    index, refused = Index(most=2), Refused()
    elastic(index, refused).send([event(str(n)) for n in range(9)])
    assert len(index.documents) == 9 and not refused
    elastic(Index(most=0), refused).send([event("a"), event("b")])
    assert refused.messages() == ["a", "b"]


def test_an_event_too_deep_for_json_is_a_dead_letter_everywhere(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path, "x")
    Stdout(StdoutOptions(), plugin("stdout", "output"), letters.add, io.BytesIO()).send([event("deep", x=DEEP)])
    assert orjson.loads(letters.path.read_bytes())["reason"]
    refused = Refused()
    elastic(Index(), refused).send([event("deep", x=DEEP)])
    assert len(refused) == 1


def test_files_are_named_by_template_and_never_outside_their_folder(tmp_path: Path) -> None:
    refused = Refused()
    options = FileOutputOptions(path=f"{tmp_path}/logs/%{{service}}/app.jsonl")
    output = FileOutput(options, plugin("file", "output"), refused.add)
    output.send([event("a", service="x"), event("b", service="../../elsewhere"), event("c", service="y")])
    output.send([event("d", service="x")])
    lines = (tmp_path / "logs/x/app.jsonl").read_bytes().splitlines()
    assert [orjson.loads(line)["message"] for line in lines] == ["a", "d"]
    assert refused.messages() == ["b"] and not (tmp_path / "elsewhere").exists()


def test_a_file_that_cannot_be_written_leaves_its_events_alone(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a file where a folder should be")
    output = FileOutput(FileOutputOptions(path=f"{tmp_path}/%{{s}}/a"), plugin("file", "output"), Refused().add)
    with pytest.raises(Away) as away:
        output.send([event("a", s="x"), event("b", s="y")])
    assert [e["message"] for e in away.value.left or []] == ["a"] and (tmp_path / "y/a").exists()


def test_stdout_writes_lines_unless_told_otherwise() -> None:
    stream = io.BytesIO()
    Stdout(StdoutOptions(), plugin("stdout", "output"), Refused().add, stream).send([event("a")])
    Stdout(StdoutOptions(codec="dots"), plugin("stdout", "output"), Refused().add, stream).send([event("b")] * 2)
    assert stream.getvalue() == b'{"@timestamp":"2026-01-02T00:00:00.000Z","message":"a"}\n..'


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("kafka", {}, "topic_id: Field required"),
        ("kafka", {"topic_id": "t", "acks": "1"}, "acks: Input should be 'all'"),
        ("elasticsearch", {"index": "i", "data_stream": True}, "data_stream: .* has to be false here"),
        ("elasticsearch", {"index": "i-%{+QQ}"}, "no meaning here"),
        ("file", {"path": "a.log"}, "has to be absolute"),
        ("file", {"path": "/%{a}/b"}, "a folder before its first field"),
        ("s3", {}, "output 's3' is not supported"),
    ],
)
def test_a_wrong_option_is_an_error_before_the_start(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        opened(plugin(name, "output", **options), Refused().add)


def test_a_whole_number_of_any_size_is_delivered() -> None:
    event = {"n": 10**40, "nested": {"at": datetime(2026, 1, 1, tzinfo=UTC), "ä": "ü"}, "@metadata": {"id": "1"}}
    assert loads(delivered(event)) == {"n": 10**40, "nested": {"at": "2026-01-01T00:00:00.000Z", "ä": "ü"}}
