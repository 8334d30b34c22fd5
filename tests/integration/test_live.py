"""``/v1/stream`` over a real Kafka and Redis: nothing is missed over broken lines, killed APIs and stores away."""

from __future__ import annotations

import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import orjson
import pytest
import redis
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from pydantic import SecretStr
from websockets.sync.client import connect

from lakehouse.settings import PROJECT, Settings
from serving.auth import issue, keys

from ..unit.serving.event_source import Event, EventSource
from .lake import environment

pytestmark = pytest.mark.integration
WITHIN_S = 30.0


class Line:
    """A TCP line to a server that can be cut and mended. A broker's own address is replaced in what it says."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._to = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        said = host.encode() + struct.pack(">i", int(port))
        self._replaced = (said, host.encode() + struct.pack(">i", self.port))
        self._open: list[socket.socket] = []
        self._cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._cut = True
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def mend(self) -> None:
        self._cut = False

    def close(self) -> None:
        self.cut()
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                if self._cut:
                    near.close()
                    continue
                far = socket.create_connection(self._to)
                self._open += [near, far]
                threading.Thread(target=self._pass, args=(near, far), daemon=True).start()

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError), near, far:
            while True:
                for one in select.select([near, far], [], [])[0]:
                    body = one.recv(1 << 20)
                    if not body:
                        return
                    if one is near:
                        far.sendall(body)
                    else:
                        near.sendall(body.replace(*self._replaced))


class Api:
    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings, self._topic = settings, topic
        self.start()

    def start(self) -> None:
        of = self._settings
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.live_api", self._topic],
            cwd=PROJECT,
            env=environment(
                of,
                LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS=of.kafka.bootstrap_servers,
                LAKEHOUSE_REDIS__URL=of.redis.url.get_secret_value(),
                LAKEHOUSE_API__PORT="0",
            ),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def end(self, sig: signal.Signals) -> int:
        self.process.send_signal(sig)
        return self.process.wait(30)


class Client:
    """Comes, and comes again, from where it is."""

    def __init__(self, token: str, query: str = "") -> None:
        self.source, self._token, self._query = EventSource(), token, query
        self._stack = ExitStack()
        self.body: Iterator[bytes] = iter(())

    def come(self, api: Api) -> Client:
        self.leave()
        headers = {"Authorization": f"Bearer {self._token}"}
        if self.source.last_id:
            headers["Last-Event-ID"] = self.source.last_id
        url = f"http://127.0.0.1:{api.port}/v1/stream?{self._query}"
        answer = self._stack.enter_context(httpx2.stream("GET", url, headers=headers, timeout=WITHIN_S))
        assert answer.status_code == 200, answer.read()
        self.body = answer.iter_bytes()
        self.source.begin()
        return self

    def leave(self) -> None:
        self._stack.close()
        self._stack = ExitStack()

    def until(self, true: Callable[..., bool]) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not true(self.source.events):
            assert time.monotonic() < deadline, self.source.events[-5:]
            self.source.feed(next(self.body))

    def told(self) -> list[str]:
        return [e.json["id"] for e in self.source.events if e.name in ("notification", "alert")]


class Topic:
    """Notifications on a topic of this test's own, written in transactions, some of which are given up."""

    def __init__(self, settings: Settings, name: str | None = None) -> None:
        self._servers, self.name = settings.kafka.bootstrap_servers, name or f"live-test-{uuid4().hex}"
        self._make(time.monotonic() + WITHIN_S)
        config = {"bootstrap.servers": self._servers, "transactional.id": self.name, "partitioner": "murmur2_random"}
        self._producer = Producer(config)
        self._producer.init_transactions(10)
        self.written: list[str] = []

    def _make(self, deadline: float) -> None:
        """Make it, once one of that name that was there is gone."""
        self._admin = AdminClient({"bootstrap.servers": self._servers})
        while True:
            try:
                self._admin.create_topics([NewTopic(self.name, 2, 1)])[self.name].result(10)
                return
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS or time.monotonic() > deadline:
                    raise

    def remove(self) -> None:
        for future in self._admin.delete_topics([self.name]).values():
            future.result(10)

    def write(self, many: int, user: str | None = None, given_up: bool = False) -> None:
        self._producer.begin_transaction()
        for _ in range(many):
            one, to = uuid4().hex, user or f"u{random.randrange(50)}"
            document = {
                "id": one, "user_id": to, "rule": "new follower", "severity": "info", "kind": "fired", "subject": one,
                "at": "2026-01-31T12:00:00Z", "text": "é\n" * 20, "quiet": False, "suppressed": False,
            }  # fmt: skip
            self._producer.produce(self.name, orjson.dumps(document), to)
            if not given_up:
                self.written.append(one)
        if given_up:
            self._producer.abort_transaction(10)
        else:
            self._producer.commit_transaction(10)


@pytest.fixture
def topic(stack: Settings) -> Iterator[Topic]:
    made = Topic(stack)
    yield made
    made.remove()


@contextmanager
def running(settings: Settings, topic: Topic) -> Iterator[Api]:
    api = Api(settings, topic.name)
    try:
        yield api
    finally:
        api.process.kill()
        api.process.wait()


def token(settings: Settings, *scopes: str) -> str:
    return issue(keys(settings), f"test-{uuid4().hex}", [*scopes], timedelta(hours=1))


def test_over_broken_lines_two_apis_and_their_restarts_each_notification_comes_once(
    stack: Settings, topic: Topic
) -> None:
    for _ in range(5):
        topic.write(1000)  # more than is read at a time: who comes first begins behind all of it
    chance = random.Random(7)
    with running(stack, topic) as one, running(stack, topic) as other:
        client = Client(token(stack, "read:users", "read:pii"))
        client.come(one).until(lambda _: client.source.last_id != "")
        before = len(topic.written)
        for turn in range(24):
            api = chance.choice([one, other])
            client.come(api)
            topic.write(chance.randrange(1, 40), given_up=chance.random() < 0.3)
            if turn % 6 == 5:
                api.end(chance.choice([signal.SIGKILL, signal.SIGTERM]))
                topic.write(chance.randrange(1, 40))
                api.start()
            elif chance.random() < 0.7 and (missing := len(topic.written) - before - len(client.told())):
                wanted = len(client.told()) + chance.randrange(0, missing + 1)
                client.until(lambda _, wanted=wanted: len(client.told()) >= wanted)
        topic.write(1)
        client.come(other).until(lambda _: len(client.told()) >= len(topic.written) - before)
        client.leave()
    assert sorted(client.told()) == sorted(topic.written[before:])
    assert not [event for event in client.source.events if event.name == "gap"]


def test_stores_that_are_away_are_told_and_the_stream_goes_on(stack: Settings, topic: Topic) -> None:
    broker = Line(stack.kafka.bootstrap_servers)
    at = urlsplit(stack.redis.url.get_secret_value())
    store = Line(f"{at.hostname}:{at.port}")
    through = stack.model_copy(
        update={
            "kafka": stack.kafka.model_copy(update={"bootstrap_servers": f"127.0.0.1:{broker.port}"}),
            "redis": type(stack.redis)(url=SecretStr(f"redis://127.0.0.1:{store.port}{at.path}")),
        }
    )

    def stores(events: list[Event]) -> list[tuple[str, bool]]:
        return [(e.json["name"], e.json["up"]) for e in events if e.name == "store"]

    kept = redis.Redis.from_url(stack.redis.url.get_secret_value())
    with closing(broker), closing(store), running(through, topic) as api:
        kept.hset("live:site", mapping={"active_users": 1, "events_1m:view": 2, "at": "2026-01-31T12:00:00Z"})
        client = Client(token(stack, "read:users", "read:metrics")).come(api)
        client.until(lambda events: client.source.last_id != "" and any(e.name == "live" for e in events))
        broker.cut()
        client.until(lambda events: stores(events) == [("kafka", False)])
        topic.write(5)
        store.cut()
        client.until(lambda events: stores(events)[1:] == [("redis", False)])
        kept.hset("live:site", "active_users", 7)
        store.mend()
        client.until(lambda events: stores(events)[2:] == [("redis", True)])
        client.until(lambda events: [e for e in events if e.name == "live"][-1].json["active_users"] == 7)
        broker.mend()
        client.until(lambda _: len(client.told()) == 5)
        client.until(lambda events: stores(events)[3:] == [("kafka", True)])
        client.leave()
    kept.delete("live:site")
    assert sorted(client.told()) == sorted(topic.written)


def test_an_api_that_starts_without_stores_tells_so_and_begins_when_they_come(stack: Settings, topic: Topic) -> None:
    topic.write(3)
    broker = Line(stack.kafka.bootstrap_servers)
    broker.cut()
    kafka = stack.kafka.model_copy(update={"bootstrap_servers": f"127.0.0.1:{broker.port}"})
    with closing(broker), running(stack.model_copy(update={"kafka": kafka}), topic) as api:
        client = Client(token(stack, "read:users")).come(api)
        client.until(lambda events: any(e.name == "store" and not e.json["up"] for e in events))
        broker.mend()
        client.until(lambda _: client.source.last_id != "")
        topic.write(2)
        client.until(lambda _: len(client.told()) == 2)
        client.leave()
    assert sorted(client.told()) == sorted(topic.written[3:])


def test_a_topic_that_is_made_anew_is_a_gap_and_what_is_in_it_comes(stack: Settings, topic: Topic) -> None:
    with running(stack, topic) as api:
        client = Client(token(stack, "read:users")).come(api)
        client.until(lambda _: client.source.last_id != "")
        topic.write(5)
        client.until(lambda _: len(client.told()) == 5)
        topic.remove()
        other = Topic(stack, topic.name)
        other.write(3)
        client.until(lambda events: any(e.name == "gap" for e in events))
        client.until(lambda _: len(client.told()) == 8)
        client.leave()
    gap = next(e for e in client.source.events if e.name == "gap")
    assert gap.json == {"reason": "other topic"} and sorted(client.told()[5:]) == sorted(other.written)


NOTIFICATIONS = "subscription ($user: ID!) { notifications(user: $user) { id } }"


def test_subscriptions_come_as_events_and_over_a_websocket(stack: Settings, topic: Topic) -> None:
    bearer = {"Authorization": f"Bearer {token(stack, 'read:users')}"}
    asked = {"query": NOTIFICATIONS, "variables": {"user": "u1"}}
    with running(stack, topic) as api, ExitStack() as open_now:
        waiting = Client(token(stack, "read:users")).come(api)
        waiting.until(lambda _: waiting.source.last_id != "")  # the topic is followed from here on
        answer = open_now.enter_context(
            httpx2.stream(
                "POST", f"http://127.0.0.1:{api.port}/graphql", json=asked, timeout=WITHIN_S,
                headers=bearer | {"Accept": "text/event-stream"},
            )
        )  # fmt: skip
        assert answer.status_code == 200
        source, body = EventSource(), answer.iter_bytes()
        line = open_now.enter_context(
            connect(f"ws://127.0.0.1:{api.port}/graphql", subprotocols=["graphql-transport-ws"])  # type: ignore[list-item]
        )

        def say(message: dict[str, object]) -> None:
            line.send(orjson.dumps(message), text=True)

        say({"type": "connection_init", "payload": bearer})
        assert orjson.loads(line.recv(WITHIN_S)) == {"type": "connection_ack"}
        say({"id": "s", "type": "subscribe", "payload": asked})
        say({"id": "q", "type": "subscribe", "payload": {"query": "{ __typename }"}})
        assert {orjson.loads(line.recv(WITHIN_S))["id"] for _ in range(2)} == {"q"}  # after which "s" is heard, too
        topic.write(3, user="u2")
        topic.write(2, user="u1")
        over: list[Any] = [orjson.loads(line.recv(WITHIN_S)) for _ in range(2)]
        while len(source.events) < 2:
            source.feed(next(body))
        waiting.leave()
    ids = topic.written[3:]
    assert sorted(one["payload"]["data"]["notifications"]["id"] for one in over) == sorted(ids)
    assert sorted(event.json["data"]["notifications"]["id"] for event in source.events) == sorted(ids)


def test_the_end_of_the_process_ends_streams_at_once_even_of_a_client_that_does_not_read(
    stack: Settings, topic: Topic
) -> None:
    with running(stack, topic) as api, ExitStack() as open_now:
        reading = [Client(token(stack, "read:users")).come(api) for _ in range(20)]
        for client in reading:
            client.until(lambda _, client=client: client.source.last_id != "")
        stuck = open_now.enter_context(socket.create_connection(("127.0.0.1", api.port)))
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        said = f"GET /v1/stream HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token(stack, 'read:users')}\r\n\r\n"
        stuck.sendall(said.encode())
        stuck.recv(1)
        for _ in range(10):
            topic.write(3000)
        began = time.monotonic()
        api.process.send_signal(signal.SIGTERM)
        for client in reading:
            client.until(lambda events: bool(events) and events[-1].name == "end")
            assert client.source.events[-1].json == {"reason": "shutdown"}
            client.leave()
        assert time.monotonic() - began < 5
        assert api.process.wait(30) == 0
