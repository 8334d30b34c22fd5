"""What a request may take and every answer tells: bodies, time, places, names, headers, other origins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ValidationError

from lakehouse.settings import Api, Settings
from lakehouse.sources.delivery import Delivery
from serving import edge
from serving.app import create_app
from serving.auth import Tokens, issue
from serving.headers import name_of
from serving.rates import Turns
from tests.unit.serving.fakes import AWAY, KEYS, Broker, Remembered

pytestmark = pytest.mark.anyio


class Thing(BaseModel):
    name: str


class App:
    """An application with routes that take their time and their bodies as a test says, behind the whole edge."""

    def __init__(self, settings: Settings = AWAY, **api: Any) -> None:
        self.go, self.entered, self.read = asyncio.Event(), asyncio.Semaphore(0), 0
        app = FastAPI(openapi_url=None)
        edge.install(app, settings.model_copy(update={"api": Api(**api)}), Tokens(KEYS), Turns(settings))

        @app.post("/thing")
        async def thing(thing: Thing) -> Thing:
            return thing

        @app.post("/raw")
        async def raw(request: Request) -> Response:
            async for chunk in request.stream():
                self.read += len(chunk)
            return Response()

        @app.get("/wait")
        async def wait() -> Response:
            self.entered.release()
            await self.go.wait()
            return Response()

        @app.get("/stream")
        async def stream(kind: str) -> Response:
            async def parts() -> AsyncIterator[bytes]:
                yield b"first"
                self.entered.release()
                await self.go.wait()
                yield b"last"

            return StreamingResponse(parts(), media_type=kind)

        @app.get("/page")
        async def page(kept: str | None = None) -> Response:
            return Response("<p>", headers={"Cache-Control": kept} if kept else {}, media_type="text/html")

        self.asgi = app

    def client(self, **options: Any) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(self.asgi, raise_app_exceptions=False)
        return httpx2.AsyncClient(transport=transport, **{"base_url": "http://localhost", **options})


def told(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("urn:lakehouse:problem:")


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b" " * 65536


# --- bodies ----------------------------------------------------------------------------------------------------------


async def test_a_body_over_the_limit_is_refused_by_its_word_before_any_of_it_is_read() -> None:
    app = App(max_body=1000)
    async with app.client() as api:
        answer = await api.post("/raw", content=endless(), headers={"Content-Length": "1001"})
        assert told(answer) == (413, "too-large") and app.read == 0
        assert answer.headers["Connection"] == "close" and answer.headers["X-Request-Id"]
        assert (await api.post("/raw", content=b"x" * 1000)).status_code == 200


@pytest.mark.parametrize("path", ["/raw", "/thing"])
async def test_a_body_without_a_length_is_given_up_at_the_limit(path: str) -> None:
    app = App(max_body=100_000)
    async with app.client() as api:
        answer = await api.post(path, content=endless(), headers={"Content-Type": "application/json"})
    assert told(answer) == (413, "too-large") and app.read <= 100_000


async def test_a_hundred_megabytes_are_413_on_every_route_that_takes_a_body() -> None:
    async def mega() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"[" * 2**20

    app = create_app(AWAY, Delivery(lambda: Broker(), timedelta(seconds=5)), Remembered(), KEYS)
    token = issue(KEYS, "s", ["write:events", "predict"], timedelta(hours=1))
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as api:
        posts = [path for path, found in (await api.get("/openapi.json")).json()["paths"].items() if "post" in found]
        assert len(posts) >= 4
        for path in posts:
            assert (await api.post(path, content=mega(), headers=headers)).status_code == 413


async def test_a_length_that_is_none_is_left_to_the_bytes() -> None:
    app = App(max_body=1000)
    async with app.client() as api:
        for said in ("-1", "x", "1e9", "٣"):
            headers = [(b"Content-Length", said.encode())]
            assert (await api.post("/raw", content=endless(), headers=headers)).status_code == 413


# --- time and room ---------------------------------------------------------------------------------------------------


async def test_an_answer_that_does_not_begin_in_time_is_503() -> None:
    app = App(request_timeout=timedelta(milliseconds=20))
    async with app.client() as api:
        answer = await api.get("/wait")
    assert told(answer) == (503, "too-slow") and answer.headers["Retry-After"]


async def test_what_bounds_its_own_time_is_left_it() -> None:
    app = App(request_timeout=timedelta(milliseconds=20))

    @app.asgi.get("/reports/{day}")
    async def report(day: str) -> Response:
        await asyncio.wait([asyncio.create_task(app.go.wait())], timeout=0.06)
        return Response()

    async with app.client() as api:
        assert (await api.get("/reports/2026-11-26")).status_code == 200


async def test_a_body_that_does_not_come_counts_too() -> None:
    app = App(request_timeout=timedelta(milliseconds=20))

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await app.go.wait()

    async with app.client() as api:
        assert told(await api.post("/raw", content=never())) == (503, "too-slow")


async def test_an_answer_that_is_not_taken_in_time_breaks_off_but_a_stream_of_events_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App(answer_timeout=timedelta(milliseconds=20), request_timeout=timedelta(seconds=5))

    async def messages(kind: str) -> list[Any]:
        sent: list[Any] = []
        scope = {"type": "http", "method": "GET", "path": "/stream", "query_string": f"kind={kind}".encode()}
        scope |= {"headers": [(b"host", b"localhost")], "http_version": "1.1", "scheme": "http"}

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await app.asgi({**scope}, receive, send)
        return sent

    with caplog.at_level(logging.WARNING):
        broken = await messages("text/csv")
    assert [m.get("body") for m in broken] == [None, b"first"] and "was not taken within 0.02 s" in caplog.text
    live = asyncio.create_task(messages("text/event-stream"))
    await app.entered.acquire()
    await app.entered.acquire()
    await asyncio.wait([live], timeout=0.06)
    app.go.set()
    assert [m.get("body") for m in await live][:3] == [None, b"first", b"last"]


async def test_more_requests_than_there_is_room_for_are_told_to_come_again() -> None:
    app = App(max_requests=2)
    async with app.client() as api:
        held = [asyncio.create_task(api.get("/wait")) for _ in range(2)]
        for _ in held:
            await app.entered.acquire()
        answer = await api.get("/page")
        assert told(answer) == (503, "busy") and answer.headers["Retry-After"] == "1"
        app.go.set()
        assert {(await request).status_code for request in held} == {200}
        assert (await api.get("/page")).status_code == 200


async def test_a_stream_of_events_takes_no_room_once_it_has_begun() -> None:
    app = App(max_requests=1)
    async with app.client() as api:
        for kind, status in (("text/event-stream", 200), ("text/csv", 503)):
            app.go.clear()
            held = asyncio.create_task(api.get("/stream", params={"kind": kind}))
            await app.entered.acquire()
            assert (await api.get("/page")).status_code == status
            app.go.set()
            await held
        assert (await api.get("/page")).status_code == 200


async def test_who_leaves_gives_the_place_back() -> None:
    app = App(max_requests=1)
    async with app.client() as api:
        for _ in range(3):
            left = asyncio.create_task(api.get("/wait"))
            await app.entered.acquire()
            left.cancel()
            await asyncio.wait([left])
        assert (await api.get("/page")).status_code == 200


# --- headers ---------------------------------------------------------------------------------------------------------

PROTECTING = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
Ask = Callable[[httpx2.AsyncClient], Awaitable[httpx2.Response]]


@pytest.mark.parametrize(
    "ask",
    [
        lambda api: api.get("/page"),
        lambda api: api.get("/nowhere"),
        lambda api: api.post("/thing", json={}),
        lambda api: api.post("/thing", content=b"x" * 2_000_000),
        lambda api: api.get("/page", headers={"Host": "evil.example"}),
        lambda api: api.get("/stream"),
        lambda api: api.options("/page"),
        lambda api: api.get("/page", headers={"Authorization": "Bearer x"}),
    ],
)
async def test_every_answer_protects_who_reads_it(ask: Ask) -> None:
    async with App().client() as api:
        answer = await ask(api)
    assert {name: answer.headers.get(name) for name in PROTECTING} == PROTECTING
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert "Strict-Transport-Security" not in answer.headers and "Server" not in answer.headers
    assert len(answer.headers.get_list("Content-Security-Policy")) == 1
    if answer.status_code >= 400:
        assert answer.headers["Cache-Control"] == "private, no-store"


async def test_what_is_answered_to_somebody_is_kept_by_nobody_unless_it_says_so() -> None:
    async with App().client() as api:
        who = {"Authorization": f"Bearer {issue(KEYS, 's', ['admin'], timedelta(hours=1))}"}
        assert (await api.get("/page", headers=who)).headers["Cache-Control"] == "private, no-store"
        said = await api.get("/page", params={"kept": "private, no-cache"}, headers=who)
        assert said.headers.get_list("Cache-Control") == ["private, no-cache"]
        assert "Cache-Control" not in (await api.get("/page")).headers


async def test_over_tls_browsers_are_told_to_stay_with_it() -> None:
    async with App().client(base_url="https://localhost") as api:
        assert (await api.get("/page")).headers["Strict-Transport-Security"] == "max-age=31536000"


# --- names and origins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("evil.example:localhost", 421),
        ("localhost@evil.example", 421),
        ("127.0.0.2", 421),
        ("", 421),
    ],
)
async def test_locally_the_api_answers_to_loopback_names_alone(host: str, status: int) -> None:
    async with App().client() as api:
        answer = await api.get("/page", headers={"Host": host})
    assert answer.status_code == status
    assert status == 200 or told(answer) == (421, "misdirected")


async def test_two_hosts_are_none_and_probes_need_none() -> None:
    async with App().client() as api:
        twice = [("Host", "localhost"), ("Host", "evil.example")]
        assert (await api.get("/page", headers=twice)).status_code == 421
        assert (await api.get("/healthz", headers={"Host": "10.0.0.7"})).status_code == 404  # here is no such route


async def test_names_are_those_of_the_settings_elsewhere_any() -> None:
    elsewhere = AWAY.model_copy(update={"profile": "cluster"})
    async with App(elsewhere).client(base_url="http://any.example") as api:
        assert (await api.get("/page")).status_code == 200
    async with App(elsewhere, hosts=("lake.example.org", "*.lake.example.org"), host="0.0.0.0").client() as api:
        for host, status in (
            ("lake.example.org", 200), ("a.lake.example.org:443", 200), ("lake.example.org.evil", 421),
            ("evillake.example.org", 421), ("localhost", 421),
        ):  # fmt: skip
            assert (await api.get("/page", headers={"Host": host})).status_code == status


def test_a_name_is_read_as_it_is_written() -> None:
    assert [name_of(h) for h in ("A:1", "[::1]:80", "[::1", "a", ":80", "")] == ["a", "::1", "::1", "a", "", ""]


PREFLIGHT = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}


async def test_no_other_origin_is_let_in_by_default() -> None:
    async with App().client() as api:
        for answer in (
            await api.options("/page", headers={"Origin": "https://app.example", **PREFLIGHT}),
            await api.get("/page", headers={"Origin": "https://app.example"}),
        ):
            assert not any(name.startswith("access-control") for name in answer.headers)


async def test_exact_origins_are_let_in_their_errors_too() -> None:
    app = App(cors_origins=("https://app.example",), max_body=10)
    async with app.client() as api:
        mine = {"Origin": "https://app.example"}
        asked = await api.options("/page", headers={**mine, **PREFLIGHT})
        assert asked.status_code == 200 and asked.headers["Access-Control-Allow-Origin"] == mine["Origin"]
        assert "Access-Control-Allow-Credentials" not in asked.headers
        for answer in (
            await api.get("/page", headers=mine),
            await api.get("/nowhere", headers={**mine, "Authorization": "Bearer x"}),
            await api.post("/raw", content=b"x" * 20, headers=mine),
        ):
            assert answer.headers["Access-Control-Allow-Origin"] == mine["Origin"]
            assert "RateLimit" in answer.headers["Access-Control-Expose-Headers"]
        for origin in (
            "https://app.example.evil", "http://app.example", "https://app.example:444", "https://x.app.example",
            "null", "https://app.example/", "HTTPS://APP.EXAMPLE",
        ):  # fmt: skip
            other = {"Origin": origin}
            for answer in (
                await api.get("/page", headers=other),
                await api.options("/page", headers={**other, **PREFLIGHT}),
            ):
                assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["*", "null", "app.example", "https://a.example/", "https://*.example", "https://A.x"]
)
def test_an_origin_that_is_none_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        Api(cors_origins=(origin,))
