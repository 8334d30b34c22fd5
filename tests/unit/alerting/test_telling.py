"""What is to be told reaches the topic, in Kafka's protocol in this process, as its followers read it."""

from __future__ import annotations

import logging

import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from pymongo import UpdateOne

from lakehouse.alerting.run import Telling
from lakehouse.realtime.follow import notifications
from lakehouse.settings import Kafka, Settings
from lakehouse.sources.topics import NOTIFICATIONS, DeliveryError

from .made import Fake, MemoryStore, file, rule, runner, walk
from .made import at as due_at


def test_a_decision_reaches_the_topic_under_its_user_and_mongodb_under_its_id() -> None:
    broker = Producer({"test.mock.num.brokers": 1}, logger=logging.getLogger("broker"))
    known = broker.list_topics(timeout=10).brokers.values()
    servers = ",".join(f"{one.host}:{one.port}" for one in known)
    telling = Telling(Settings(kafka=Kafka(bootstrap_servers=servers)))
    runner(Fake(lambda _: True), MemoryStore(), telling, file(rule())).turn(due_at(0))  # type: ignore[arg-type]
    reader = Consumer({"bootstrap.servers": servers, "group.id": "test", "auto.offset.reset": "earliest"})
    reader.assign([TopicPartition(NOTIFICATIONS, partition, 0) for partition in range(4)])
    message = reader.poll(20)
    reader.close()
    assert message is not None and message.error() is None and message.key() == b"ops"
    document = orjson.loads(message.value())
    assert (document["rule"], document["subject"], document["suppressed"]) == ("pipeline lags", "user-events", False)
    [operation] = notifications([message])
    assert isinstance(operation, UpdateOne) and operation._filter == {"_id": document["id"]}


def test_kafka_that_is_away_is_an_error_and_the_decision_stays() -> None:
    class Away:
        def __call__(self, documents: object) -> None:
            raise DeliveryError(1, "timed out")

    store = MemoryStore()
    problems = runner(Fake(lambda _: True), store, Away(), file(rule())).turn(due_at(0))  # type: ignore[arg-type]
    assert problems == ["freshness/topics is not evaluated: record 1 was not acknowledged by Kafka: timed out"]
    assert len(store.places()["freshness/topics"].due) == 1


@pytest.mark.parametrize("bad", [range(0), range(3, 6)])
def test_without_anything_to_tell_kafka_is_not_asked(bad: range) -> None:
    telling = Telling(Settings(kafka=Kafka(bootstrap_servers="127.0.0.1:1")))
    quiet = file(rule(held=99))
    walk(Fake(lambda minute: minute in bad), MemoryStore(), telling, quiet, range(8))  # type: ignore[arg-type]
