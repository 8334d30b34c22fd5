"""Every route, by everybody: no token, a wrong scope, another user's token, an expired one, a tampered one.

What each answers is written down in :data:`ROUTES`; a route that is not in it fails, as does one that is no more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import httpx2
import jwt
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from lakehouse.alerts import read
from lakehouse.flows import TABLES
from lakehouse.settings import Api, Rate, Rates, Settings
from lakehouse.sources.delivery import Delivery
from serving.app import create_app
from serving.auth import SCOPES, Scope, issue
from serving.live.hub import Hub
from serving.live.wording import ByRules
from serving.pages import DIST
from serving.problems import Problem
from tests.unit.local_lake import local_lake, write
from tests.unit.serving.fakes import AWAY, KEYS, Broker, Remembered

pytestmark = pytest.mark.anyio
MINE, OTHER = "u1", "u2"
NOW = datetime(2026, 11, 26, tzinfo=UTC)


@dataclass(frozen=True)
class Expected:
    """What a route answers with.

    Args:
        scope: the one that it needs; None: anybody may ask; "any": a valid token, as its fields ask for scopes each.
        url: the address that is asked, if the path has parameters. User ``u1`` is whom it is about.
        allowed: whoever has the scope, and is no user. 503 where it asks a store: the test has none.
        other: another user's token, which has every scope. None: as ``allowed``, as nothing in it is of one user.
        body: of the request, as JSON.
    """

    scope: Scope | Literal["any"] | None
    url: str = ""
    allowed: int = 200
    other: int | None = None
    body: dict[str, Any] | None = field(default=None, hash=False)


BUILT = (DIST / "index.html").exists()
ROUTES: dict[tuple[str, str], Expected] = {
    ("GET", "/healthz"): Expected(None),
    ("GET", "/readyz"): Expected(None),
    ("GET", "/openapi.json"): Expected(None),
    ("HEAD", "/openapi.json"): Expected(None),
    ("POST", "/v1/events"): Expected("write:events", allowed=422, body={}),
    ("GET", "/v1/tables"): Expected("read:tables"),
    ("GET", "/v1/tables/{name}"): Expected("read:tables", "/v1/tables/gold.user_activity_daily"),
    ("GET", "/v1/tables/{name}/rows"): Expected("read:tables", "/v1/tables/gold.user_activity_daily/rows"),
    ("GET", "/v1/activity"): Expected("read:metrics"),
    ("GET", "/v1/activity/live"): Expected("read:metrics", allowed=503),
    ("GET", "/v1/posts/trending"): Expected("read:metrics", allowed=503),
    ("GET", "/v1/posts/{post}/engagement"): Expected("read:metrics", "/v1/posts/p1/engagement"),
    ("GET", "/v1/services"): Expected("read:metrics"),
    ("GET", "/v1/services/{name}/health"): Expected("read:metrics", "/v1/services/s/health"),
    # Of logs, which hold what people do.
    ("GET", "/v1/services/{name}/paths"): Expected("read:metrics", "/v1/services/s/paths", other=403),
    ("GET", "/v1/hosts"): Expected("read:metrics"),
    ("GET", "/v1/hosts/{name}/utilization"): Expected("read:metrics", "/v1/hosts/h/utilization"),
    ("GET", "/v1/anomalies"): Expected("read:metrics"),
    ("GET", "/v1/forecasts"): Expected("read:metrics"),
    ("GET", "/v1/users/{user}/activity"): Expected("read:users", f"/v1/users/{MINE}/activity", 503, 404),
    ("GET", "/v1/users/{user}/recommendations"): Expected("read:users", f"/v1/users/{MINE}/recommendations", 503, 404),
    ("GET", "/v1/users/{user}/notifications"): Expected("read:users", f"/v1/users/{MINE}/notifications", 503, 404),
    ("GET", "/v1/logs/search"): Expected("read:logs", allowed=503, other=403),
    ("GET", "/v1/models"): Expected("predict"),
    ("GET", "/v1/models/{name}/decisions"): Expected("predict", "/v1/models/recommender/decisions"),
    ("POST", "/v1/predictions/recommender"): Expected("predict", allowed=422, body={}),
    ("POST", "/v1/predictions/anomaly"): Expected("predict", allowed=422, body={}),
    ("POST", "/v1/predictions/trend"): Expected("predict", allowed=422, body={}),
    ("GET", "/v1/status"): Expected("read:metrics"),
    ("GET", "/v1/lineage"): Expected("read:tables"),
    ("GET", "/v1/lineage/{name}"): Expected("read:tables", "/v1/lineage/gold.activity_minute"),
    # Of what people write about, and what logs say.
    ("GET", "/reports"): Expected("read:metrics", other=403),
    ("GET", "/reports/{name}"): Expected("read:metrics", "/reports/2026-01-01", other=403),
    # Each kind of event has a scope of its own: tests/unit/serving/test_live.py.
    ("GET", "/v1/stream"): Expected("read:metrics", "/v1/stream?events=live"),
    ("GET", "/metrics"): Expected(None),  # for who comes from this machine, as these do: test_metrics.py
    ("GET", "/graphql"): Expected("any", "/graphql?query={__typename}"),
    ("POST", "/graphql"): Expected("any", body={"query": "{ __typename }"}),
    # Files of a page without data; a checkout whose pages are not built says so.
    ("GET", "/"): Expected(None, allowed=200 if BUILT else 503),
    ("HEAD", "/"): Expected(None, allowed=200 if BUILT else 503),
    ("GET", "/assets/{name}"): Expected(None, "/assets/none.js", 404 if BUILT else 503),
    ("HEAD", "/assets/{name}"): Expected(None, "/assets/none.js", 404 if BUILT else 503),
    ("GET", "/v1/alerts"): Expected("read:metrics"),
}
SOCKETS = {("*", "/graphql")}
"""WebSockets, whose tests are their own."""
# Another user's token at tables: rows that are not theirs are not there, tables of everybody are closed.
OF_OTHERS = {
    "gold.user_activity_daily": 200,
    "gold.recommendations": 200,
    "gold.activity_minute": 200,
    "silver.user_events": 200,
    "silver.service_logs": 403,
    "silver.quarantine": 403,
    "bronze.user_events": 403,
    "ops.access_log": 200,
    "_internal.gold_changes": 404,
    "gold.nothing": 404,
}


class Away:
    """Stores of which none answers."""

    def __getattr__(self, name: str) -> Any:
        async def away(*_: Any, **__: Any) -> Any:
            if name != "close":
                raise Problem(503, "store-away", "No store answers.")

        return away


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder: Path = tmp_path_factory.mktemp("lake")
    settings = local_lake(folder)
    for name in TABLES:
        write(settings, name, [])
    for user in (MINE, OTHER):
        write(settings, "gold.user_activity_daily", [{"date": NOW.date(), "user_id": user, "events": 1}])
        write(settings, "gold.recommendations", [{"user_id": user, "rank": 1, "post_id": "p1", "at": NOW}])
        write(settings, "silver.user_events", [{"event_id": f"e-{user}", "user_id": user, "occurred_at": NOW}])
        write(settings, "ops.access_log", [{"id": user, "at": NOW, "user_id": user, "client": f"of {user}"}])
    no_limit = Rates(**{kind: Rate(per_minute=0) for kind in ("read", "write", "predict", "anonymous")})
    nowhere = settings.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})
    return settings.model_copy(update={"redis": AWAY.redis, "kafka": nowhere, "api": Api(rate=no_limit)})


@pytest.fixture(scope="module")
def app(lake: Settings) -> Iterator[FastAPI]:
    delivery = Delivery(lambda: Broker(), timedelta(seconds=5))
    # Streams that end by themselves, at once, of nothing.
    streams = Hub(ByRules(read(), str), lasts_s=0.001)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("serving.rest.alerts.alerts_now", lambda *_: [])
        yield create_app(lake, delivery, Remembered(), KEYS, reads=Away(), streams=streams)  # type: ignore[arg-type]


@pytest.fixture
async def api(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every method and path; of what is mounted, ``*`` and where."""
    for found in iter_route_contexts(app.routes):
        for method in found.methods or {"*"}:
            yield method, found.path or str(getattr(found.original_route, "path", "?"))


def test_every_route_is_written_down(app: FastAPI) -> None:
    assert set(routes(app)) == set(ROUTES) | SOCKETS


def token(*scopes: Scope, user: str | None = None, ttl: timedelta = timedelta(hours=1)) -> str:
    return issue(KEYS, "tester", [*scopes], ttl, user)


def expired(*scopes: Scope) -> str:
    return token(*scopes, ttl=timedelta(minutes=-5))


def tampered(*scopes: Scope) -> str:
    """A token whose claims were widened, with the signature that it had."""
    head, body, signature = token("write:events").split(".")
    claims = jwt.decode(f"{head}.{body}.{signature}", options={"verify_signature": False})
    wide = jwt.encode({**claims, "scope": " ".join(scopes)}, "x" * 32).split(".")[1]
    return f"{head}.{wide}.{signature}"


async def status(api: httpx2.AsyncClient, route: tuple[str, str], bearer: str | None) -> int:
    method, path = route
    wanted = ROUTES[route]
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    answer = await api.request(method, wanted.url or path, headers=headers, json=wanted.body)
    if answer.status_code in (401, 403, 404):
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["Cache-Control"] == "private, no-store"
        assert ("WWW-Authenticate" in answer.headers) >= (answer.status_code == 401)
    return answer.status_code


CLOSED = [route for route, wanted in ROUTES.items() if wanted.scope is not None]
OPEN = [route for route, wanted in ROUTES.items() if wanted.scope is None]
ASKS_KAFKA = {("GET", "/v1/status"), ("GET", "/v1/lineage"), ("GET", "/v1/lineage/{name}")}
"""And waits for it: 13 s where there is none."""
named = [" ".join(route) for route in CLOSED]


@pytest.mark.parametrize("route", CLOSED, ids=named)
async def test_without_a_valid_token_it_is_401(api: httpx2.AsyncClient, route: tuple[str, str]) -> None:
    for bearer in (None, expired(*SCOPES), tampered(*SCOPES), "x", token(*SCOPES)[:-3], token(*SCOPES)[1:]):
        assert await status(api, route, bearer) == 401


@pytest.mark.parametrize("route", [route for route in CLOSED if ROUTES[route].scope != "any"])
async def test_with_every_scope_but_the_right_one_it_is_403(api: httpx2.AsyncClient, route: tuple[str, str]) -> None:
    others = [scope for scope in SCOPES if scope != ROUTES[route].scope]
    for bearer in (token(*others), token(*others, user=MINE), token()):
        assert await status(api, route, bearer) == 403


@pytest.mark.parametrize("route", CLOSED, ids=named)
async def test_with_the_right_scope_it_is_served(api: httpx2.AsyncClient, route: tuple[str, str]) -> None:
    wanted = ROUTES[route]
    if route in ASKS_KAFKA:
        pytest.skip("asks Kafka; the integration tests do")
    assert wanted.scope is not None
    bearer = token() if wanted.scope == "any" else token(wanted.scope)
    assert await status(api, route, bearer) == wanted.allowed


@pytest.mark.parametrize("route", CLOSED, ids=named)
async def test_another_users_token_gets_nothing_of_a_user(api: httpx2.AsyncClient, route: tuple[str, str]) -> None:
    wanted = ROUTES[route]
    if route in ASKS_KAFKA:
        pytest.skip("asks Kafka; the integration tests do")
    expected = wanted.allowed if wanted.other is None else wanted.other
    assert await status(api, route, token(*SCOPES, user=OTHER)) == expected


@pytest.mark.parametrize("route", OPEN, ids=[" ".join(route) for route in OPEN])
async def test_what_anybody_may_ask_is_the_same_for_everybody(api: httpx2.AsyncClient, route: tuple[str, str]) -> None:
    for bearer in (None, expired(*SCOPES), tampered(*SCOPES), "x", token(), token(*SCOPES, user=OTHER)):
        assert await status(api, route, bearer) == ROUTES[route].allowed


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST", "TRACE", "OPTIONS", "NONSENSE"])
async def test_no_route_has_a_method_that_is_not_written_down(api: httpx2.AsyncClient, method: str) -> None:
    for (_, path), wanted in ROUTES.items():
        if (method, path) not in ROUTES:
            answer = await api.request(method, wanted.url or path)
            assert (path, answer.status_code) == (path, 405)


@pytest.mark.parametrize(("name", "expected"), OF_OTHERS.items())
async def test_of_tables_a_users_token_gets_their_own_rows(api: httpx2.AsyncClient, name: str, expected: int) -> None:
    headers = {"Authorization": f"Bearer {token(*SCOPES, user=OTHER)}"}
    answer = await api.get(f"/v1/tables/{name}/rows", headers=headers)
    assert answer.status_code == expected
    if expected == 200:
        assert {row.get("user_id", OTHER) for row in answer.json()["data"]} <= {OTHER}
        assert bool(answer.json()["data"]) == (name != "gold.activity_minute")
    assert MINE not in answer.text


def test_what_is_expected_of_tokens_holds_of_them() -> None:
    at = datetime.now(UTC).timestamp()
    assert jwt.decode(expired("admin"), options={"verify_signature": False})["exp"] < at - 60
    assert jwt.decode(tampered("admin"), options={"verify_signature": False})["scope"] == "admin"
