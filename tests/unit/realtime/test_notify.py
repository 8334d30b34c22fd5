"""Notifications really leave: to a webhook on this machine, and from Kafka's protocol in this process."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from pydantic import SecretStr

from lakehouse.alerts import Alerts, AlertsError, read
from lakehouse.realtime.notify import ATTEMPTS, GROUP, Courier, follow
from lakehouse.settings import Kafka, Settings
from lakehouse.sources.topics import NOTIFICATIONS

TOLD: dict[str, Any] = {
    "id": "a1b2",
    "user_id": "ops",
    "rule": "service error rate",
    "severity": "warning",
    "kind": "fired",
    "subject": "feed",
    "at": "2025-11-25T12:00:00Z",
    "text": "feed: 8.0% of requests fail",
}
ROUTES = "ops: {severities: [warning, critical]}, all: {}"


class Webhook:
    """A web server on loopback: ``got`` (headers, body) of each request; answers the next of ``answers``, then 200."""

    def __init__(self, answers: list[int]) -> None:
        self.got: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.arrived = threading.Semaphore(0)
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.got.append((dict(self.headers), body))
                self.send_response(answers.pop(0) if answers else 200)
                self.end_headers()
                hook.arrived.release()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self.server.server_port}/secret-path"


@contextmanager
def webhook(*answers: int) -> Iterator[Webhook]:
    hook = Webhook(list(answers))
    thread = threading.Thread(target=hook.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hook
    finally:
        hook.server.shutdown()
        thread.join()
        hook.server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def alerts(tmp_path: Path) -> Alerts:
    path = tmp_path / "alerts.yaml"
    path.write_text(f'routes: {{{ROUTES}}}\nquiet_hours: {{from: "22:00", to: "07:00", except: [critical]}}')
    return read(path)


def courier(alerts: Alerts, **routes: str) -> Courier:
    return Courier(routes, alerts, timeout=timedelta(seconds=2), pause=lambda seconds: None)


def closed_port() -> int:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()
    return server.server_port


# --- the courier ---------------------------------------------------------------------------------------------------


def test_a_webhook_gets_the_notification_with_its_id_as_idempotency_key(alerts: Alerts) -> None:
    with webhook() as hook:
        assert courier(alerts, ops=hook.url).send(TOLD) == []
    [(headers, body)] = hook.got
    assert headers["Idempotency-Key"] == body["id"] == "a1b2"
    assert (body["title"], body["message"]) == ("service error rate (warning)", TOLD["text"])
    assert {name: body[name] for name in TOLD if name != "user_id"} == {k: v for k, v in TOLD.items() if k != "user_id"}


def test_each_message_carries_its_own_id(alerts: Alerts) -> None:
    with webhook() as hook:
        sender = courier(alerts, ops=hook.url + "?:subject=mine&:team=red&+X-Team=red")
        assert sender.send(TOLD) == sender.send(TOLD | {"id": "c3", "subject": "users"}) == []
    assert [(h["Idempotency-Key"], b["id"], b["subject"]) for h, b in hook.got] == [
        ("a1b2", "a1b2", "feed"),
        ("c3", "c3", "users"),
    ]
    assert all(h["X-Team"] == b["team"] == "red" for h, b in hook.got)


@pytest.mark.parametrize(
    ("severity", "kind", "look"),
    [
        ("info", "fired", "info"),
        ("warning", "fired", "warning"),
        ("critical", "fired", "failure"),
        ("critical", "recovered", "success"),
    ],
)
def test_severity_and_kind_show_in_the_look(alerts: Alerts, severity: str, kind: str, look: str) -> None:
    with webhook() as hook:
        courier(alerts, all=hook.url).send(TOLD | {"severity": severity, "kind": kind})
    assert [body["type"] for _, body in hook.got] == [look]


def test_a_route_gets_the_severities_that_it_takes(alerts: Alerts) -> None:
    with webhook() as ops, webhook() as everything:
        sender = courier(alerts, ops=ops.url, all=everything.url)
        sender.send(TOLD)
        sender.send(TOLD | {"severity": "info"})
    assert (len(ops.got), len(everything.got), sender.counts["sent"]) == (1, 2, 3)


def test_in_quiet_hours_only_the_exempt_are_sent_and_above_the_limits_none(alerts: Alerts) -> None:
    with webhook() as hook:
        sender, night = courier(alerts, ops=hook.url), "2025-11-25T23:00:00Z"
        sender.send(TOLD | {"at": night})
        sender.send(TOLD | {"severity": "critical", "at": night})
        sender.send(TOLD | {"suppressed": True})
    assert [body["severity"] for _, body in hook.got] == ["critical"]
    assert sender.counts == {"resting": 1, "sent": 1, "suppressed": 1}


def test_what_is_silenced_is_sent_to_nobody(alerts: Alerts) -> None:
    with webhook() as hook:
        sender = Courier({"ops": hook.url}, alerts, silenced=lambda *named: named == (TOLD["rule"], "feed"))
        assert sender.send(TOLD) == sender.send(TOLD | {"id": "c3", "subject": "users"}) == []
    assert [body["id"] for _, body in hook.got] == ["c3"]
    assert sender.counts == {"silenced": 1, "sent": 1}


def test_a_refused_notification_is_tried_again_with_the_same_key(alerts: Alerts) -> None:
    with webhook(500, 503) as hook:
        assert courier(alerts, ops=hook.url).send(TOLD) == []
    assert [headers["Idempotency-Key"] for headers, _ in hook.got] == ["a1b2"] * 3


def test_attempts_are_bounded_and_wait_longer_each_time(alerts: Alerts) -> None:
    waits: list[float] = []
    with webhook(*[500] * 9) as hook:
        sender = Courier({"ops": hook.url}, alerts, pause=waits.append)
        assert sender.send(TOLD) == ["route 'ops' did not take notification a1b2 (service error rate)"]
    assert (len(hook.got), waits, sender.counts["failed"]) == (ATTEMPTS, [1.0, 2.0], 1)


def test_a_dead_webhook_does_not_keep_the_others_from_theirs(alerts: Alerts) -> None:
    with webhook() as hook:
        sender = courier(alerts, ops=f"json://127.0.0.1:{closed_port()}/", all=hook.url)
        assert len(sender.send(TOLD)) == 1
    assert len(hook.got) == 1  # and not once for each attempt of the other


def test_a_webhook_that_never_answers_is_given_up(alerts: Alerts) -> None:
    silent = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # takes connections, serves none
    sender = Courier(
        {"ops": f"json://127.0.0.1:{silent.server_port}/"}, alerts, timedelta(milliseconds=50), lambda seconds: None
    )
    assert len(sender.send(TOLD)) == 1
    silent.server_close()


@pytest.mark.parametrize(
    "document",
    [
        {},
        {k: v for k, v in TOLD.items() if k != "text"},
        TOLD | {"id": 5},
        TOLD | {"severity": "loud"},
        TOLD | {"severity": ["info"]},
        TOLD | {"at": "yesterday"},
        TOLD | {"at": "2025-11-25T12:00:00"},
        TOLD | {"text": None},
        TOLD | {"suppressed": "no"},
    ],
)
def test_what_is_no_notification_is_one_problem_and_sent_nowhere(alerts: Alerts, document: dict[str, Any]) -> None:
    with webhook() as hook:
        [problem] = courier(alerts, all=hook.url).send(document)
    assert problem.startswith("not a notification: ") and "\n" not in problem and hook.got == []


def test_an_address_is_in_no_log_line_and_no_problem(alerts: Alerts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with webhook(500) as hook:
        sender = courier(alerts, ops=f"json://127.0.0.1:{closed_port()}/secret-path", all=hook.url)
        problems = sender.send(TOLD)
    assert len(hook.got) == 2 and problems and "secret-path" not in caplog.text + str(problems)


@pytest.mark.parametrize("address", ["", "nonsense", "no-such-kind://secret", "json://"])
def test_a_wrong_address_is_an_error_that_does_not_show_it(
    alerts: Alerts, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AlertsError, match="route 'ops' in LAKEHOUSE_REALTIME__ROUTES") as error:
        courier(alerts, ops=address)
    assert "secret" not in str(error.value) + caplog.text


def test_an_address_of_a_route_that_the_rules_do_not_know_is_an_error(alerts: Alerts) -> None:
    with pytest.raises(AlertsError, match=r"'pager' .* is not among routes in conf/alerts\.yaml"):
        courier(alerts, pager="json://127.0.0.1/")


# --- from Kafka ----------------------------------------------------------------------------------------------------


class Broker:
    """librdkafka's broker of its own, in this process: Kafka's protocol with groups, offsets and nothing on disk.

    It lets a group be joined once: what an earlier run left is put there by :meth:`set_place`.
    """

    def __init__(self) -> None:
        self._producer = Producer({"test.mock.num.brokers": 1, "linger.ms": 0}, logger=logging.getLogger("broker"))
        known = self._producer.list_topics(timeout=10).brokers
        self.servers = ",".join(f"{broker.host}:{broker.port}" for broker in known.values())
        self.settings = Settings(kafka=Kafka(bootstrap_servers=self.servers))
        self.put(b"from before any route started")

    def put(self, *records: bytes | None) -> None:
        for record in records:
            self._producer.produce(NOTIFICATIONS, value=record, partition=0)
        assert self._producer.flush(10) == 0

    def _member(self, route: str) -> Consumer:
        return Consumer({"bootstrap.servers": self.servers, "group.id": f"{GROUP}-{route}"})

    def set_place(self, route: str, offset: int) -> None:
        consumer = self._member(route)
        consumer.commit(offsets=[TopicPartition(NOTIFICATIONS, 0, offset)], asynchronous=False)
        consumer.close()

    def place(self, route: str) -> int:
        consumer = self._member(route)
        [place] = consumer.committed([TopicPartition(NOTIFICATIONS, 0)], timeout=10)
        consumer.close()
        return int(place.offset)


@contextmanager
def following(broker: Broker, alerts: Alerts, **routes: str) -> Iterator[threading.Event]:
    stop, secrets = threading.Event(), {name: SecretStr(address) for name, address in routes.items()}
    thread = threading.Thread(target=follow, args=(broker.settings, secrets, alerts, stop))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def record(number: int) -> bytes:
    return json.dumps(TOLD | {"id": f"n{number}"}).encode()


def started(broker: Broker, route: str) -> None:
    """Wait until a new route has its place, so that what follows is after its start."""
    assert any(broker.place(route) >= 0 for _ in range(1000))


def test_a_new_route_begins_with_the_new_and_commits_what_it_sent(alerts: Alerts) -> None:
    broker = Broker()
    with webhook() as hook, following(broker, alerts, ops=hook.url):
        started(broker, "ops")
        broker.put(record(1), record(2))
        assert all(hook.arrived.acquire(timeout=30) for _ in range(2))
    assert [body["id"] for _, body in hook.got] == ["n1", "n2"] and broker.place("ops") == 3


def test_a_route_goes_on_after_what_an_earlier_run_committed(alerts: Alerts) -> None:
    broker = Broker()
    broker.put(record(1), record(2), record(3))
    broker.set_place("ops", 2)
    with webhook() as hook, following(broker, alerts, ops=hook.url):
        assert all(hook.arrived.acquire(timeout=30) for _ in range(2))
    assert [body["id"] for _, body in hook.got] == ["n2", "n3"] and broker.place("ops") == 4


def test_records_that_are_no_notification_are_logged_and_passed(
    alerts: Alerts, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker()
    with webhook() as hook, following(broker, alerts, ops=hook.url):
        started(broker, "ops")
        broker.put(b"\xff", None, b"[]", b"{}", b"1" * 5000, record(1))
        assert hook.arrived.acquire(timeout=30)
    lines = [entry.getMessage() for entry in caplog.records if "notifications/" in entry.getMessage()]
    assert [line.split(", ")[-1] for line in lines] == [f"notifications/0/{offset}" for offset in range(1, 6)]


def test_a_dead_route_delays_only_itself_and_a_stop_leaves_it_what_it_has_not_sent(alerts: Alerts) -> None:
    broker, dead = Broker(), f"json://127.0.0.1:{closed_port()}/"
    with webhook() as hook:
        with following(broker, alerts, ops=dead, all=hook.url):
            for route in ("ops", "all"):
                started(broker, route)
            broker.put(*map(record, range(20)))
            assert all(hook.arrived.acquire(timeout=30) for _ in range(20))
        assert broker.place("all") == 21 > broker.place("ops")


def test_without_an_address_there_is_nothing_to_do_and_nothing_is_asked_of_kafka(alerts: Alerts) -> None:
    nowhere = Settings(kafka=Kafka(bootstrap_servers=f"127.0.0.1:{closed_port()}"))
    follow(nowhere, {}, alerts, threading.Event())
