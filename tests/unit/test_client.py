"""The events client: what leaves the spool, when, in which order, and what a crash leaves in it."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from lakehouse.client import Events, Rejected, SpoolError, SpoolFull, _retry_after

SOON = timedelta(milliseconds=1)
LATER = timedelta(hours=1)


class Api:
    """Answers as told, one answer a request, the last one ever after; notes the events of each request."""

    def __init__(self, *answers: int | httpx2.Response | Exception) -> None:
        self.answers = list(answers) or [202]
        self.requests: list[list[dict[str, Any]]] = []
        self.headers: list[httpx2.Headers] = []
        self.asked = threading.Semaphore(0)
        self.open = threading.Event()
        self.open.set()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        events = [json.loads(line) for line in gzip.decompress(request.content).split(b"\n")]
        self.requests.append(events)
        self.headers.append(request.headers)
        self.asked.release()
        self.open.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx2.Response):
            return answer
        if answer not in (202, 422):
            return httpx2.Response(answer, json={"detail": "no"})
        bad = [event["event_type"] == "bad" for event in events]
        results = [
            {
                "index": i,
                "status": "rejected" if wrong else "accepted",
                "event_id": events[i]["event_id"],
                "reasons": [{"pointer": "/event_type", "reason": "not one of the allowed values"}] if wrong else [],
            }
            for i, wrong in enumerate(bad)
        ]
        return httpx2.Response(answer, json={"results": results})

    @property
    def users(self) -> list[str]:
        return [event["user_id"] for events in self.requests for event in events]


Client = Callable[..., Events]


@pytest.fixture
def client(tmp_path: Path) -> Any:
    made: list[Events] = []

    def make(api: Api, **more: Any) -> Events:
        options = {"first_pause": SOON, "longest_pause": SOON, "age": LATER} | more
        made.append(Events("http://api", "t", tmp_path / "spool", transport=httpx2.MockTransport(api), **options))
        return made[-1]

    yield make
    for one in made:
        one.close(0)


def test_an_event_is_filled_in_sent_and_leaves_the_spool(client: Client) -> None:
    api = Api()
    events = client(api)
    event_id = events.send(event_type="view", user_id="u", post_id="p", page=None)
    assert events.flush(5) and events.pending == 0
    ((sent,),) = api.requests
    assert sent.keys() == {"event_id", "event_type", "user_id", "occurred_at", "post_id"}
    assert sent["event_id"] == event_id
    assert abs(datetime.fromisoformat(sent["occurred_at"]) - datetime.now(UTC)) < timedelta(seconds=10)
    assert api.headers[0]["Authorization"] == "Bearer t"


def test_events_go_in_order_in_batches_by_count(client: Client) -> None:
    api = Api()
    events = client(api, batch=10)
    for n in range(25):
        events.send(event_type="view", user_id=str(n))
    assert events.flush(5)
    assert api.users == [str(n) for n in range(25)]
    assert max(map(len, api.requests)) == 10


def test_a_batch_is_bounded_by_bytes(client: Client) -> None:
    api = Api()
    events = client(api, batch_bytes=5000)
    for n in range(5):
        events.send(event_type="post", user_id=str(n), text="x" * 2000)
    assert events.flush(5)
    assert [len(batch) for batch in api.requests] == [2, 2, 1]


def test_a_lone_event_goes_once_it_is_old_enough(client: Client) -> None:
    api = Api()
    client(api, age=SOON).send(event_type="view", user_id="u")
    assert api.asked.acquire(timeout=5)


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.ConnectError("refused"),
        httpx2.ReadTimeout("slow"),
        503,
        429,
        500,
        401,
        404,
        httpx2.Response(422, json={"detail": "a proxy's"}),
        httpx2.Response(202, json={"results": []}),
        httpx2.Response(202, text="<html>"),
    ],
    ids=str,
)
def test_what_is_not_a_final_answer_delays_the_batch_and_loses_nothing(client: Client, answer: Any) -> None:
    api = Api(answer, answer, 202)
    events = client(api)
    events.send(event_type="view", user_id="u")
    assert events.flush(5) and events.pending == 0
    assert len(api.requests) == 3 and api.requests[0] == api.requests[1] == api.requests[2]
    assert events.trouble == ""


def test_a_rejected_event_is_told_once_and_never_sent_again(client: Client) -> None:
    told: list[Rejected] = []
    api = Api(202)
    events = client(api, on_rejected=told.append)
    for kind in ("view", "bad", "view"):
        events.send(event_type=kind, user_id=kind)
    assert events.flush(5) and len(api.requests) == 1
    (one,) = told
    assert one.event["user_id"] == "bad"
    assert one.reasons == [("/event_type", "not one of the allowed values")]


def test_a_callback_that_fails_stops_nothing(client: Client) -> None:
    def fail(_: Rejected) -> None:
        raise RuntimeError

    events = client(Api(422, 202), on_rejected=fail, batch=1)
    events.send(event_type="bad", user_id="u")
    events.send(event_type="view", user_id="u")
    assert events.flush(5)


def test_a_retry_after_is_a_number_or_a_date_and_bounded() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)
    assert _retry_after("7") == 7 and 55 < _retry_after(in_a_minute) <= 60
    assert _retry_after("1000000") == 300 and _retry_after("") == _retry_after("soon") == _retry_after("-5") == 0


def test_a_retry_after_is_waited_for(client: Client) -> None:
    api = Api(httpx2.Response(503, headers={"Retry-After": "60"}), 202)
    events = client(api)
    events.send(event_type="view", user_id="u")
    assert not events.flush(0.2) and len(api.requests) == 1 and events.pending == 1
    assert "503" in events.trouble


def test_a_flush_cuts_a_pause_short_that_the_api_has_not_asked_for(client: Client) -> None:
    api = Api(httpx2.ConnectError("refused"), 202)
    events = client(api, batch=1, first_pause=LATER, longest_pause=LATER)
    events.send(event_type="view", user_id="u")
    assert api.asked.acquire(timeout=5)
    assert events.flush(5)


def test_what_something_on_the_way_finds_too_large_is_halved(client: Client) -> None:
    told: list[Rejected] = []
    api = Api(413, 413, 413, 202)
    events = client(api, on_rejected=told.append)
    for n in range(4):
        events.send(event_type="view", user_id=str(n))
    assert events.flush(5)
    assert [len(batch) for batch in api.requests[:3]] == [4, 2, 1]
    assert [one.event["user_id"] for one in told] == ["0"] and api.users[-3:] == ["1", "2", "3"]


def test_a_token_may_be_made_anew_for_every_request(tmp_path: Path) -> None:
    tokens = iter(["old", "new"])
    api = Api(401, 202)
    transport = httpx2.MockTransport(api)
    with Events("http://api", lambda: next(tokens), tmp_path / "s", first_pause=SOON, transport=transport) as events:
        events.send(event_type="view", user_id="u")
    assert [h["Authorization"] for h in api.headers] == ["Bearer old", "Bearer new"]


def test_a_full_spool_refuses_by_name_and_takes_again_once_there_is_room(client: Client) -> None:
    api = Api(httpx2.ConnectError("refused"), 202)
    api.open.clear()
    events = client(api, spool_bytes=1000, batch=1)
    taken = 0
    with pytest.raises(SpoolFull, match=r"spool: \d+ events \(\d+ of 1,000 bytes\) wait for http://api"):
        while True:
            events.send(event_type="view", user_id="u")
            taken += 1
    assert events.pending == taken > 3
    api.open.set()
    assert events.flush(5)
    events.send(event_type="view", user_id="u")


def test_what_has_no_json_text_or_is_too_large_is_refused_at_once(client: Client) -> None:
    events = client(Api())
    for fields in ({"rating": float("nan")}, {"more": object()}, {"text": "\ud800"}, {"text": "x" * 5_000_000}):
        with pytest.raises(ValueError):
            events.send(event_type="view", user_id="u", **fields)
    with pytest.raises(ValueError, match="no time zone"):
        events.send(event_type="view", user_id="u", occurred_at=datetime(2026, 1, 1))
    assert events.pending == 0


def test_close_leaves_what_could_not_be_sent_and_the_next_client_sends_it_first(client: Client) -> None:
    away = client(Api(httpx2.ConnectError("refused")))
    for n in range(3):
        away.send(event_type="view", user_id=str(n))
    away.close(0.05)
    with pytest.raises(SpoolError, match="closed"):
        away.send(event_type="view", user_id="u")
    api = Api()
    api.open.clear()
    events = client(api)
    assert events.pending == 3
    events.send(event_type="view", user_id="3")
    api.open.set()
    assert events.flush(5) and api.users == ["0", "1", "2", "3"]


def test_a_spool_has_one_owner_and_is_readable_by_it_alone(client: Client, tmp_path: Path) -> None:
    client(Api())
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0
    with pytest.raises(SpoolError, match="another process has this spool"):
        client(Api())


def test_what_is_no_spool_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, and longer than the header of one is: " + "x" * 200)
    for path in (tmp_path / "text", tmp_path / "absent" / "spool"):
        with pytest.raises(SpoolError, match="cannot be used as a spool"):
            Events("http://api", "t", path)


def test_a_killed_process_loses_nothing_that_send_took(client: Client, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lakehouse.client import Events\n"
        "events = Events('http://127.0.0.1:1', 't', Path(sys.argv[1]))\n"
        "n = 0\n"
        "while True:\n"
        "    events.send(event_type='view', user_id=str(n)); print(n, flush=True); n += 1\n"
    )
    spool = tmp_path / "spool"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(spool)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 200:
            process.send_signal(signal.SIGKILL)
            break
    printed = [int(line) for line in process.stdout if line.endswith("\n")]
    process.wait()
    api = Api()
    events = client(api)
    assert events.flush(5)
    sent = [int(user) for user in api.users]
    assert sent == list(range(len(sent))) and len(sent) > max(printed, default=200)


def test_the_client_loads_nothing_of_the_platform() -> None:
    code = (
        "import sys, lakehouse.client\n"
        "print(sorted({'pyspark', 'pydantic', 'confluent_kafka', 'fastapi', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
