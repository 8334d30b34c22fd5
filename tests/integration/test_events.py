"""Events over HTTP on a real broker and a real Redis: what was accepted is in Kafka, whatever is killed meanwhile."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import httpx2
import orjson
import pytest
from confluent_kafka import Message

from lakehouse import stack as servers
from lakehouse.client import Events
from lakehouse.settings import PROJECT, Settings
from lakehouse.sources.topics import create_topics
from serving.auth import issue, keys
from tests.integration.lake import environment, now, records_of, until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Kafka and Redis of this module's own: other tests count what is in the topics, and these kill the broker."""
    jars = Path(os.environ.get("LAKEHOUSE_JARS", PROJECT / ".lakehouse" / "jars"))
    settings = Settings(home=tmp_path_factory.mktemp("home"), jars=jars)
    try:
        settings = servers.up(settings, only=["kafka", "redis"], progress=False)
        create_topics(settings)
        yield settings
    finally:
        servers.down(settings)


class Api:
    """`lakehouse serve` in a process of its own."""

    def __init__(self, settings: Settings, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lakehouse.cli", "serve", "--port", str(port)],
            cwd=PROJECT,
            env=environment(settings, LAKEHOUSE_API__DELIVERY_TIMEOUT="PT1S"),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.log: list[str] = []
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"serving on (http://\S+:(\d+))", line):
                self.url, self.port = found[1], int(found[2])
                break
        else:
            pytest.fail("".join(self.log))
        threading.Thread(target=self.log.extend, args=(self.process.stderr,), daemon=True).start()
        self.token = issue(keys(settings), "test", ["write:events"], timedelta(hours=1))
        self.http = httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=30)

    def post(self, content: bytes, kind: str = "application/json", **headers: str) -> httpx2.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post("/v1/events", content=content, headers={"Content-Type": kind, **named})

    def end(self, sig: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        return self.process.wait(30)


@pytest.fixture
def api(broker: Settings) -> Iterator[Api]:
    served = Api(broker)
    yield served
    served.end()


def event(event_id: str, **fields: object) -> bytes:
    base = {"event_id": event_id, "event_type": "visit", "user_id": "u1", "occurred_at": now()}
    return orjson.dumps(base | fields)


def in_kafka(settings: Settings) -> list[Message]:
    """Every record of user-events."""
    return records_of(settings, ["user-events"])


def test_what_was_accepted_is_in_kafka_byte_for_byte_under_its_key(broker: Settings, api: Api) -> None:
    run = uuid4().hex
    texts = [
        b'{"n": 123456789012345678901234567890.10,  "n": 1, ' + event(f"{run}-0")[1:],
        event(f"{run}-1", user_id="é", text="\u2028"),
        event(f"{run}-2", more={"a": [1, {"b": None}]}),
    ]
    assert api.post(b"[" + b" , ".join(texts[:2]) + b"]").status_code == 202
    body = gzip.compress(texts[2] + b"\n{broken\n")
    answer = api.post(body, "application/x-ndjson", Content_Encoding="gzip")
    assert (answer.status_code, answer.json()["accepted"], answer.json()["rejected"]) == (202, 1, 1)
    found = [record for record in in_kafka(broker) if run.encode() in (record.value() or b"")]
    assert sorted((record.key(), record.value()) for record in found) == sorted(
        zip([b"u1", "é".encode(), b"u1"], texts, strict=True)
    )


def test_an_answer_is_kept_in_redis_by_its_key(broker: Settings, api: Api) -> None:
    run = uuid4().hex
    first = api.post(event(run), Idempotency_Key=run)
    again = api.post(event(run, page="/other"), Idempotency_Key=run)
    assert (first.status_code, again.status_code) == (202, 422)
    body = event(f"{run}-2")
    with_key = [api.post(body, Idempotency_Key=f"{run}-2") for _ in range(2)]
    assert with_key[0].content == with_key[1].content and with_key[1].headers["Idempotency-Replayed"] == "true"
    records = [record.value() for record in in_kafka(broker) if run.encode() in (record.value() or b"")]
    assert len(records) == 2 and records.count(body) == 1


def test_while_redis_is_away_a_key_is_503_and_an_event_without_one_is_taken(broker: Settings, api: Api) -> None:
    run = uuid4().hex
    body = event(run)
    assert api.post(body, Idempotency_Key=run).status_code == 202
    pid = servers.kill_server(broker, "redis", signal.SIGSTOP)
    try:
        assert api.post(event(f"{run}-1"), Idempotency_Key=f"{run}-1").status_code == 503
        assert api.post(event(f"{run}-2")).status_code == 202
    finally:
        os.kill(pid, signal.SIGCONT)
    assert api.post(body, Idempotency_Key=run).headers["Idempotency-Replayed"] == "true"


def test_a_killed_broker_is_503_and_the_clients_spool_loses_nothing(broker: Settings, api: Api, tmp_path: Path) -> None:
    user = uuid4().hex
    with Events(api.url, api.token, tmp_path / "spool", batch=20, age=timedelta(milliseconds=20)) as events:
        sent = [events.send(event_type="visit", user_id=user, n=n) for n in range(100)]
        servers.kill_server(broker, "kafka")
        with ThreadPoolExecutor(1) as pool:  # beside the event: its supervisor soon has the broker back
            told = pool.submit(until, lambda: api.http.get("/readyz").status_code == 503, 30)
            sent += [events.send(event_type="visit", user_id=user, n=n) for n in range(100, 200)]
            answer = api.post(event(uuid4().hex))
            assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
            assert answer.json()["results"][0]["status"] == "unacknowledged"
            told.result()
        assert api.http.get("/healthz").status_code == 200
        sent += [events.send(event_type="visit", user_id=user, n=n) for n in range(200, 300)]
        assert events.flush(120), events.trouble
        assert events.pending == 0
    values = [orjson.loads(record.value() or b"") for record in in_kafka(broker) if record.key() == user.encode()]
    firsts = list(dict.fromkeys(value["event_id"] for value in values))
    assert firsts == sent  # distinct, complete, in order
    assert api.http.get("/readyz").status_code == 200


def test_a_killed_api_loses_nothing_that_the_client_took(broker: Settings, tmp_path: Path) -> None:
    user, served = uuid4().hex, Api(broker)
    with Events(served.url, served.token, tmp_path / "spool", batch=20, age=timedelta(milliseconds=20)) as events:
        sent = [events.send(event_type="visit", user_id=user) for _ in range(200)]
        served.end(signal.SIGKILL)
        sent += [events.send(event_type="visit", user_id=user) for _ in range(200)]
        again = Api(broker, served.port)
        assert events.flush(60), events.trouble
        assert again.end() == 0
    values = [orjson.loads(record.value() or b"") for record in in_kafka(broker) if record.key() == user.encode()]
    assert list(dict.fromkeys(value["event_id"] for value in values)) == sent
