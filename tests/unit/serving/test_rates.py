"""Rate limits: who has how many turns, what is told of them, and what a Redis that is away costs."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from lakehouse.settings import Api, Rate, Rates, Redis, Settings
from lakehouse.sources.delivery import Delivery
from serving.app import create_app
from serving.auth import Caller, issue
from serving.rates import ANSWERS_S, MOST_LOCAL, REST_S, Turns, address, asker, take
from tests.unit.serving.fakes import AWAY, KEYS, Broker, Remembered

pytestmark = pytest.mark.anyio
SECOND = 1_000_000.0
SLOW = Rates(**{kind: Rate(per_minute=6, burst=3) for kind in ("read", "write", "predict", "anonymous")})


def turns_at(times: list[float], rate: Rate) -> list[bool]:
    """Which of the requests at these seconds have a turn."""
    until, got = 0.0, []
    for at in times:
        taken, until = take(until, at * SECOND, 60e6 / rate.per_minute, rate.burst)
        got.append(taken.allowed)
    return got


def test_a_burst_is_had_at_once_and_then_one_turn_at_a_time() -> None:
    rate = Rate(per_minute=60, burst=3)
    assert turns_at([0, 0, 0, 0, 0.5, 1, 1.5, 2, 2], rate) == [1, 1, 1, 0, 0, 1, 0, 1, 0]
    assert turns_at([0, 0, 0, 100, 100, 100, 100], rate) == [1, 1, 1, 1, 1, 1, 0]


def test_what_is_left_and_when_there_is_more_are_told() -> None:
    until, told = 0.0, []
    for _ in range(4):
        taken, until = take(until, 0.0, 10 * SECOND, 3)
        told.append((taken.allowed, taken.left, taken.more_in))
    assert told == [(True, 2, 10.0), (True, 1, 10.0), (True, 0, 10.0), (False, 0, 10.0)]


@given(
    st.integers(1, 100_000),
    st.integers(1, 100),
    st.lists(st.floats(0, 5, allow_nan=False), min_size=1, max_size=200),
)
def test_no_window_has_more_turns_than_its_time_and_the_burst(per_minute: int, burst: int, gaps: list[float]) -> None:
    at, times = 0.0, []
    for gap in gaps:
        at += gap
        times.append(at)
    rate = Rate(per_minute=per_minute, burst=burst)
    had = [t for t, got in zip(times, turns_at(times, rate), strict=True) if got]
    for n, first in enumerate(had):
        for m in range(n, len(had)):
            assert m - n + 1 <= burst + (had[m] - first) * per_minute / 60 + 1e-3


async def test_while_redis_is_away_each_process_counts_for_itself_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    turns = Turns(AWAY, clock=lambda: now)
    rate = Rate(per_minute=60, burst=2)

    async def take(key: str) -> bool:
        allowed = turns.take(key, rate).allowed
        await turns.tell()
        return allowed

    assert [await take("a") for _ in range(3)] == [True, True, False]
    assert await take("b")
    now = 2 * REST_S
    assert [await take("a") for _ in range(3)] == [True, True, False]
    assert [r.levelname for r in caplog.records] == ["WARNING"] and "Redis is away" in caplog.text
    for n in range(MOST_LOCAL + 100):
        turns.take(f"c{n}", rate)
    assert len(turns._until) == MOST_LOCAL
    await turns.close()


async def test_a_redis_that_does_not_answer_holds_up_no_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = SecretStr(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        turns = Turns(Settings(redis=Redis(url=url)))
        assert turns.take("a", Rate()).allowed
        telling, began = asyncio.create_task(turns.tell()), time.monotonic()
        while not telling.done():
            assert turns.take("a", Rate(per_minute=10**7, burst=10**6)).allowed
            await asyncio.sleep(0)
        assert time.monotonic() - began >= ANSWERS_S  # all the while
        await turns.close()


async def test_nothing_runs_while_nobody_asks() -> None:
    turns = Turns(AWAY)
    turns.take("a", Rate())
    assert turns._telling is not None
    await turns._telling
    assert turns._telling is None and turns._used == {}
    await turns.close()


# --- over HTTP -------------------------------------------------------------------------------------------------------


def served(rates: Rates = SLOW, client: tuple[str, int] = ("192.0.2.7", 1)) -> httpx2.AsyncClient:
    settings = AWAY.model_copy(update={"api": Api(rate=rates)})
    app = create_app(settings, Delivery(lambda: Broker(), timedelta(seconds=5)), Remembered(), KEYS)
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app, client=client), base_url="http://localhost")


def bearer(subject: str, scope: str = "write:events", user: str | None = None) -> dict[str, str]:
    return {"Authorization": f"Bearer {issue(KEYS, subject, [scope], timedelta(hours=1), user)}"}


async def test_who_asks_too_often_is_told_when_to_come_again() -> None:
    async with served() as api:
        assert (await api.post("/v1/events", content=b"x", headers=bearer("other"))).status_code == 415  # takes a while
        answers = [await api.post("/v1/events", content=b"x", headers=bearer("s")) for _ in range(4)]
    assert [a.status_code for a in answers] == [415, 415, 415, 429]
    assert [a.headers["RateLimit"] for a in answers] == [f'"write";r={n};t=10' for n in (2, 1, 0, 0)]
    assert {a.headers["RateLimit-Policy"] for a in answers} == {'"write";q=6;w=60;lakehouse-burst=3'}
    said = answers[-1]
    assert said.headers["Retry-After"] == "10" and said.headers["Content-Type"] == "application/problem+json"
    assert said.json()["violated-policies"] == ["write"] and said.json()["request_id"] == said.headers["X-Request-Id"]


def test_the_fields_are_structured_as_the_draft_has_them() -> None:
    # RFC 9651: a list of strings with parameters; keys in small letters, integers bare.
    item = r'"[a-z]+"(;[a-z][a-z0-9_.*-]*=[0-9]+)+'
    for text in ('"write";r=2;t=10', '"write";q=6;w=60;lakehouse-burst=3'):
        assert re.fullmatch(item, text)


async def test_limits_are_of_who_is_named_and_not_of_the_token() -> None:
    async with served() as api:

        async def ask(headers: dict[str, str]) -> int:
            return (await api.get("/nowhere", headers=headers)).status_code

        assert [await ask(bearer("a", scope)) for scope in ("admin", "predict", "write:events", "admin")][-1] == 429
        assert await ask(bearer("b", "admin")) == 404
        assert await ask(bearer("a", "admin", user="u1")) == 404  # a user's, who is somebody else
        assert (await api.post("/v1/predictions/x", headers=bearer("a", "admin"))).status_code == 404  # its own limit
        assert await ask({}) == 404


async def test_guessing_tokens_is_limited_by_address_and_costs_nobody_else() -> None:
    async with served() as api:
        bad = {"Authorization": "Bearer a.b.c"}
        told = [(await api.post("/v1/events", headers=bad)).status_code for _ in range(5)]
        assert told == [401, 401, 401, 429, 429]
        assert (await api.get("/healthz", headers=bad)).status_code == 200
        assert (await api.get("/nowhere", headers=bearer("a"))).status_code == 404


async def test_a_limit_of_nothing_a_minute_is_none() -> None:
    off = Rates(**{kind: Rate(per_minute=0) for kind in ("read", "write", "predict", "anonymous")})
    async with served(off) as api:
        answers = [await api.get("/nowhere") for _ in range(50)]
    assert {a.status_code for a in answers} == {404} and not any("RateLimit" in a.headers for a in answers)


async def test_who_watches_the_process_is_never_limited() -> None:
    async with served() as api:
        assert {(await api.get(path)).status_code for path in ("/healthz", "/readyz") * 10} <= {200, 503}
        assert (await api.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("client", "known"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"),
        (("::ffff:192.0.2.7", 5), "192.0.2.7"),
        (("testclient", 5), "testclient"),
        (None, "unknown"),
    ],
)
def test_a_stranger_is_known_by_address_of_ipv6_by_network(client: Any, known: str) -> None:
    assert address({"client": client}) == known
    assert asker({"client": client, "path": "/", "state": {"caller": None}}) == ("anonymous", known)


def test_names_in_redis_tell_nobody() -> None:
    kind, who = asker({"path": "/", "state": {"caller": Caller("ann@example.org", frozenset(), "u1")}})
    assert kind == "read" and re.fullmatch("[0-9a-f]{24}", who)
