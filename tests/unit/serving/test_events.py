"""``POST /v1/events``: what is taken, what each event is told, and what reaches the broker."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import orjson
import pytest
from confluent_kafka import KafkaError
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.sources.delivery import Delivery
from serving.auth import issue
from serving.body import MAX_BYTES, MAX_EVENTS, elements
from serving.events import MAX_AT_ONCE
from serving.stores import StoreAway
from tests.unit.serving.fakes import EVENT, KEYS, Broker, Remembered

pytestmark = pytest.mark.anyio
NDJSON = {"Content-Type": "application/x-ndjson"}
GZIP = {"Content-Encoding": "gzip"}


def event(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in (EVENT | fields).items() if value is not ...}


async def post(api: httpx2.AsyncClient, body: Any, **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return await api.post("/v1/events", content=content, headers={k.replace("_", "-"): v for k, v in headers.items()})


def told(answer: httpx2.Response) -> list[str]:
    return [result["status"] for result in answer.json()["results"]]


# --- forms of a body -------------------------------------------------------------------------------------------------


async def test_one_event_is_acknowledged_and_accepted(api: httpx2.AsyncClient, broker: Broker) -> None:
    answer = await post(api, EVENT)
    assert answer.status_code == 202
    assert answer.json() == {
        "accepted": 1,
        "rejected": 0,
        "results": [{"index": 0, "status": "accepted", "event_id": "e1", "reasons": []}],
    }
    assert broker.records == [("user-events", b"u1", orjson.dumps(EVENT))]


@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/ndjson", "application/jsonl; charset=UTF-8"])
async def test_ndjson_is_one_event_a_line_blank_ones_passed_over(
    api: httpx2.AsyncClient, broker: Broker, kind: str
) -> None:
    line = orjson.dumps(EVENT)
    answer = await post(api, line + b"\n\n \r\n" + line + b"\r\n", Content_Type=kind)
    assert [(r["index"], r["line"]) for r in answer.json()["results"]] == [(0, 1), (1, 4)]
    assert [value for _, _, value in broker.records] == [line, line + b"\r"]


async def test_a_broken_line_is_rejected_alone_and_named(api: httpx2.AsyncClient, broker: Broker) -> None:
    lines = [orjson.dumps(EVENT), b'{"event_id": ', b"\xff", b"[]", b"null", orjson.dumps(EVENT)]
    answer = await post(api, b"\n".join(lines), **NDJSON)
    assert answer.status_code == 202 and (answer.json()["accepted"], answer.json()["rejected"]) == (2, 4)
    second, third, *_ = answer.json()["results"][1:]
    assert second["line"] == 2 and second["reasons"][0]["pointer"] == ""
    assert second["reasons"][0]["reason"].startswith("not JSON")
    assert third["reasons"] == [{"pointer": "", "reason": "not UTF-8"}]
    assert len(broker.records) == 2


async def test_what_reaches_kafka_is_what_was_written_byte_for_byte(api: httpx2.AsyncClient, broker: Broker) -> None:
    texts = [
        b'{"b":123456789012345678901234567890.50, ' + orjson.dumps(EVENT)[1:],
        b'{ "more" : "\\u00e9\\/", "more":[1,  {"a":"]},{"}], ' + orjson.dumps(EVENT)[1:],
        orjson.dumps(EVENT, option=orjson.OPT_INDENT_2),
    ]
    assert (await post(api, b" [\n" + b" ,\r\n".join(texts) + b"\t]\n")).status_code == 202
    assert (await post(api, b"\n" + texts[2] + b" ")).status_code == 202
    assert [value for _, _, value in broker.records] == [*texts, texts[2]]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(JSON, min_size=1), st.sampled_from([None, 1]), st.booleans())
def test_any_array_is_cut_into_the_texts_of_its_elements(array: list[Any], indent: int | None, ascii: bool) -> None:
    text = json.dumps(array, indent=indent, ensure_ascii=ascii)
    assert [json.loads(one) for one in elements(text.encode())] == array


@pytest.mark.parametrize(
    ("body", "headers", "status", "name"),
    [
        (b"", {}, 400, "empty"),
        (b" \n", NDJSON, 400, "empty"),
        (b"[]", {}, 422, "no-event"),
        (b'"text"', {}, 422, "no-event"),
        (b"5", {}, 422, "no-event"),
        (b"{", {}, 400, "json"),
        (b'[{"a": NaN}]', {}, 400, "json"),
        (b"\xff", {}, 400, "json"),
        (b"\xef\xbb\xbf{}", {}, 400, "json"),
        (b"[" * 100_000, {}, 400, "json"),
        (b"[" * 5000 + b"]" * 5000, {}, 400, "json"),
        (b"{}", GZIP, 400, "gzip"),
        (gzip.compress(b"{}", mtime=0)[:-1], GZIP, 400, "gzip"),
        (gzip.compress(b"{}", mtime=0) + b"more", GZIP, 400, "gzip"),
        (gzip.compress(b"", mtime=0) * 65, GZIP, 400, "gzip"),
        (b"", GZIP, 400, "gzip"),
        (b"x" * (MAX_BYTES + 1), {}, 413, "too-large"),
        (b"{}\n" * (MAX_EVENTS + 1), NDJSON, 413, "too-many"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "media-type"),
        (b"{}", {"Content-Type": ""}, 415, "media-type"),
        (b"{}", {"Content-Type": "application/json; charset=latin-1"}, 415, "media-type"),
        (b"{}", {"Content-Encoding": "br"}, 415, "content-encoding"),
        (b"{}", {"Content-Encoding": "gzip, gzip"}, 415, "content-encoding"),
        (b"{}", {"Idempotency-Key": "x" * 256}, 400, "key"),
        (b"{}", {"Idempotency-Key": ""}, 400, "key"),
    ],
)
async def test_a_body_that_holds_no_events_is_a_problem(
    api: httpx2.AsyncClient, broker: Broker, body: bytes, headers: dict[str, str], status: int, name: str
) -> None:
    answer = await post(api, body, **headers)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:lakehouse:problem:{name}")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]
    assert broker.records == []


@pytest.mark.parametrize("members", [1, 3])
async def test_gzip_is_unpacked_however_many_members_it_has(
    api: httpx2.AsyncClient, broker: Broker, members: int
) -> None:
    line = orjson.dumps(EVENT) + b"\n"
    answer = await post(api, gzip.compress(line) * members, **NDJSON, **GZIP)
    assert answer.json()["accepted"] == len(broker.records) == members


async def test_a_body_of_exactly_the_limit_is_taken(api: httpx2.AsyncClient) -> None:
    text = "x" * (MAX_BYTES - len(orjson.dumps(event(text=""))))
    for headers, pack in (({}, bytes), (GZIP, gzip.compress)):
        assert (await post(api, pack(orjson.dumps(event(text=text))), **headers)).status_code == 202
        assert (await post(api, pack(orjson.dumps(event(text=text + "x"))), **headers)).status_code == 413


async def test_a_bomb_is_given_up_at_the_limit(api: httpx2.AsyncClient) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush()  # 200 MB in 200 kB
    read = 0

    async def chunks() -> Any:
        nonlocal read
        for at in range(0, len(bomb), 4096):
            read += 1
            yield bomb[at : at + 4096]

    answer = await api.post("/v1/events", content=chunks(), headers=GZIP)
    assert answer.status_code == 413 and read < 10


async def test_a_body_of_unknown_length_is_bounded_too(api: httpx2.AsyncClient) -> None:
    async def endless() -> Any:
        while True:
            yield b" " * 65536

    assert (await api.post("/v1/events", content=endless())).status_code == 413


# --- what each event is told -----------------------------------------------------------------------------------------


async def test_each_event_gets_every_reason_with_its_pointer(api: httpx2.AsyncClient, broker: Broker) -> None:
    wrong = event(event_id="e2", user_id=" ", post_id=..., rating=9, properties={"a": 1}, occurred_at="2999-01-01")
    answer = await post(api, [EVENT, wrong, 5])
    assert answer.status_code == 202
    _, second, third = answer.json()["results"]
    assert (second["status"], second["event_id"]) == ("rejected", "e2")
    assert [(r["pointer"], r["reason"]) for r in second["reasons"]] == [
        ("/user_id", "blank"),
        ("/occurred_at", "not an RFC 3339 time with offset"),
        ("/rating", "out of bounds 0.5..5"),
        ("/properties", "not a map of strings"),
        ("/post_id", "missing (post_id_of_interaction)"),
    ]
    assert third["reasons"] == [{"pointer": "", "reason": "not a JSON object"}] and third["event_id"] is None
    assert len(broker.records) == 1


async def test_where_every_event_is_rejected_the_answer_has_the_same_shape_and_422(
    api: httpx2.AsyncClient, broker: Broker
) -> None:
    answer = await post(api, [event(rating="x"), {}])
    assert answer.status_code == 422 and answer.headers["Content-Type"] == "application/json"
    assert (answer.json()["accepted"], answer.json()["rejected"], told(answer)) == (0, 2, ["rejected"] * 2)
    assert broker.records == []


async def test_a_users_token_tells_of_that_user_alone(api: httpx2.AsyncClient, broker: Broker) -> None:
    api.headers["Authorization"] = f"Bearer {issue(KEYS, 's', ['write:events'], timedelta(hours=1), 'u1')}"
    twice = orjson.dumps(event(event_id="e4", user_id="u2")).replace(
        b"{", b'{"user_id":"u1",', 1
    )  # the last one counts
    lines = [orjson.dumps(event(event_id=f"e{n}", user_id=user)) for n, user in enumerate(("u1", "u2", "u1 "))]
    answer = await post(api, b"\n".join([*lines, twice]), **NDJSON)
    assert told(answer) == ["accepted", "rejected", "rejected", "rejected"] and len(broker.records) == 1
    wrong = {"pointer": "/user_id", "reason": "not the user of the token"}
    assert [result["reasons"] for result in answer.json()["results"]] == [[], [wrong], [wrong], [wrong]]


async def test_a_large_body_keeps_its_order(api: httpx2.AsyncClient, broker: Broker) -> None:
    events = [event(event_id=f"e{n}") for n in range(5000)]
    answer = await post(api, events)
    assert answer.json()["accepted"] == 5000
    assert [orjson.loads(value or b"")["event_id"] for _, _, value in broker.records] == [e["event_id"] for e in events]


# --- the broker ------------------------------------------------------------------------------------------------------


async def test_while_the_broker_is_away_the_answer_is_503_and_says_when_to_come_again(
    api: httpx2.AsyncClient, broker: Broker
) -> None:
    broker.away = True
    answer = await post(api, [EVENT, {}])
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "5"
    assert told(answer) == ["unacknowledged", "rejected"]
    assert "event_id" in answer.json()["detail"]
    assert (await api.get("/readyz")).status_code == 503 and (await api.get("/healthz")).status_code == 200
    broker.away = False
    assert (await post(api, EVENT)).status_code == 202 and (await api.get("/readyz")).status_code == 200


async def test_what_is_acknowledged_in_part_is_503_and_says_which(api: httpx2.AsyncClient, broker: Broker) -> None:
    events = [event(event_id=f"e{n}") for n in range(3)]
    broker.fails[orjson.dumps(events[1])] = KafkaError(KafkaError._MSG_TIMED_OUT)
    answer = await post(api, events)
    assert answer.status_code == 503
    assert told(answer) == ["accepted", "unacknowledged", "accepted"]
    counts = {name: answer.json()[name] for name in ("accepted", "rejected", "unacknowledged")}
    assert counts == {"accepted": 2, "rejected": 0, "unacknowledged": 1}


async def test_a_full_queue_makes_a_request_wait(api: httpx2.AsyncClient, broker: Broker) -> None:
    broker.room = 2
    assert (await post(api, [event(event_id=f"e{n}") for n in range(20)])).json()["accepted"] == 20


async def test_without_a_word_in_time_nothing_counts_as_acknowledged() -> None:
    broker = Broker()
    broker.silent = True
    delivery = Delivery(lambda: broker, timedelta(milliseconds=1), grace=timedelta(0))
    assert await delivery.send("t", [(None, b"x"), (b"k", b"y")]) == ["no acknowledgement in time"] * 2
    delivery.close()


async def test_a_producer_that_failed_for_good_is_replaced() -> None:
    brokers = [Broker(), Broker()]
    brokers[0].fails[b"x"] = KafkaError(KafkaError._FATAL, "gone", True)
    made = iter(brokers)
    delivery = Delivery(lambda: next(made), timedelta(seconds=0.2))
    assert await delivery.send("t", [(None, b"x")]) == ["gone"]
    while not brokers[1].records:
        await delivery.send("t", [(None, b"y")])
    delivery.close()


# --- once ------------------------------------------------------------------------------------------------------------


async def test_a_key_repeats_its_answer_and_sends_once(api: httpx2.AsyncClient, broker: Broker) -> None:
    first = await post(api, [EVENT, {}], Idempotency_Key="k")
    again = await post(api, gzip.compress(orjson.dumps([EVENT, {}])), Idempotency_Key="k", **GZIP)
    assert first.status_code == again.status_code == 202 and first.content == again.content
    assert "Idempotency-Replayed" not in first.headers and again.headers["Idempotency-Replayed"] == "true"
    assert len(broker.records) == 1


async def test_a_rejection_is_a_final_answer_too(api: httpx2.AsyncClient) -> None:
    first, again = [await post(api, {}, Idempotency_Key="k") for _ in range(2)]
    assert first.status_code == again.status_code == 422 and again.headers["Idempotency-Replayed"] == "true"


async def test_a_key_with_another_body_is_refused(api: httpx2.AsyncClient, broker: Broker) -> None:
    await post(api, EVENT, Idempotency_Key="k")
    answer = await post(api, event(event_id="e2"), Idempotency_Key="k")
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:lakehouse:problem:key-reused")
    assert len(broker.records) == 1


async def test_another_subject_may_use_the_same_key(api: httpx2.AsyncClient, broker: Broker) -> None:
    await post(api, EVENT, Idempotency_Key="k")
    api.headers["Authorization"] = f"Bearer {issue(KEYS, 'other', ['write:events'], timedelta(hours=1))}"
    answer = await post(api, event(event_id="e2"), Idempotency_Key="k")
    assert answer.status_code == 202 and len(broker.records) == 2


async def test_a_key_frees_itself_where_there_is_no_final_answer(
    api: httpx2.AsyncClient, broker: Broker, answers: Remembered
) -> None:
    broker.away = True
    assert (await post(api, EVENT, Idempotency_Key="k")).status_code == 503
    assert (await post(api, b"{", Idempotency_Key="k")).status_code == 400
    assert answers.held == {}
    broker.away = False
    assert (await post(api, EVENT, Idempotency_Key="k")).status_code == 202


async def test_a_second_request_with_a_key_that_is_being_served_is_told_so(
    api: httpx2.AsyncClient, broker: Broker
) -> None:
    broker.silent = True
    first = asyncio.create_task(post(api, EVENT, Idempotency_Key="k"))
    await broker.took.wait()
    second = await post(api, EVENT, Idempotency_Key="k")
    assert (second.status_code, second.headers["Retry-After"]) == (409, "1")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    broker.silent = False
    assert (await post(api, EVENT, Idempotency_Key="k")).status_code == 202


async def test_without_the_store_a_key_is_503_and_nothing_is_sent(
    api: httpx2.AsyncClient, broker: Broker, answers: Remembered
) -> None:
    answers.away = StoreAway("refused")
    answer = await post(api, EVENT, Idempotency_Key="k")
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "5" and broker.records == []
    assert (await post(api, EVENT)).status_code == 202


# --- answers in general ----------------------------------------------------------------------------------------------


async def test_every_answer_carries_the_requests_id(api: httpx2.AsyncClient) -> None:
    assert (await api.get("/healthz", headers={"X-Request-Id": "mine-1"})).headers["X-Request-Id"] == "mine-1"
    made = (await api.get("/healthz", headers={"X-Request-Id": "no spaces, please"})).headers["X-Request-Id"]
    assert len(made) == 32
    for answer in (await api.get("/nowhere"), await api.get("/v1/events")):
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


async def test_what_nobody_expected_is_a_problem_that_tells_the_log_entry_alone(
    api: httpx2.AsyncClient, answers: Remembered, caplog: pytest.LogCaptureFixture
) -> None:
    answers.away = RuntimeError("secret")
    answer = await post(api, EVENT, Idempotency_Key="k")
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:lakehouse:problem:internal")
    assert answer.json()["request_id"] in caplog.text and "secret" not in answer.text


async def test_a_caller_who_leaves_amid_the_body_sends_nothing(api: httpx2.AsyncClient, broker: Broker) -> None:
    parts = iter([{"type": "http.request", "body": b'{"event_id"', "more_body": True}, {"type": "http.disconnect"}])
    headers = {**api.headers, "Host": "localhost"}
    scope = {"type": "http", "method": "POST", "path": "/v1/events", "query_string": b"", "http_version": "1.1"}
    scope["headers"] = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    answered: list[Any] = []

    async def receive() -> Any:
        return next(parts)

    async def send(message: Any) -> None:
        answered.append(message)

    await api._transport.app(scope, receive, send)  # type: ignore[attr-defined]
    assert broker.records == answered == []


async def test_no_other_site_is_allowed_in(api: httpx2.AsyncClient) -> None:
    answer = await api.options("/v1/events", headers={"Origin": "http://x", "Access-Control-Request-Method": "POST"})
    assert answer.status_code == 405
    assert not any(name.startswith("access-control") for name in answer.headers)


async def test_openapi_describes_the_route(api: httpx2.AsyncClient) -> None:
    found = (await api.get("/openapi.json")).json()
    post = found["paths"]["/v1/events"]["post"]
    assert found["openapi"].startswith("3.1") and post["security"]
    assert {*post["responses"]} == {"202", "400", "401", "403", "408", "409", "413", "415", "422", "503"}
    assert {*post["requestBody"]["content"]} == {"application/json", "application/x-ndjson"}


# --- too slow, too many ----------------------------------------------------------------------------------------------


async def test_a_body_that_does_not_come_is_408_and_sends_nothing(
    api: httpx2.AsyncClient, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.body.READ_S", 0.05)
    never = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"["
        await never.wait()

    answer = await api.post("/v1/events", content=body())
    assert (answer.status_code, answer.json()["type"]) == (408, "urn:lakehouse:problem:too-slow")
    assert not broker.records


async def test_more_requests_than_are_held_are_told_to_come_again(api: httpx2.AsyncClient, broker: Broker) -> None:
    go, waiting = asyncio.Event(), asyncio.Semaphore(0)

    async def body() -> AsyncIterator[bytes]:
        waiting.release()
        await go.wait()
        yield orjson.dumps(EVENT)

    held = [asyncio.create_task(api.post("/v1/events", content=body())) for _ in range(MAX_AT_ONCE)]
    for _ in held:
        await waiting.acquire()
    answer = await post(api, EVENT)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:lakehouse:problem:busy")
    assert answer.headers["Retry-After"] == "1"
    go.set()
    assert {(await request).status_code for request in held} == {202}
    assert (await post(api, EVENT)).status_code == 202
