"""GraphQL over HTTP: who is let in, what is a request, and what statuses and media types say."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
from fastapi import FastAPI

from lakehouse.settings import Settings
from serving.graphql.requests import EVENTS, JSON, RESPONSE
from tests.unit.serving.graphql.graphql_fakes import EVERYTHING, Api, serving, token

pytestmark = pytest.mark.anyio
TYPENAME = {"query": "{ __typename }"}


async def post(api: Api, body: Any = TYPENAME, headers: dict[str, str] | None = None, **more: str) -> Any:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    sent = {**EVERYTHING, "Content-Type": JSON} | (headers or {}) | {k.replace("_", "-"): v for k, v in more.items()}
    return await api.client.post("/graphql", content=content, headers={k: v for k, v in sent.items() if v})


@pytest.mark.parametrize(
    "given",
    [
        "", "Bearer", "Bearer ", "Bearer nonsense", "Basic dTpw", EVERYTHING["Authorization"][:-4] + "AAAA",
        token("read:metrics", ttl=timedelta(minutes=-1))["Authorization"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_without_a_valid_token_there_is_a_401_that_says_how_whatever_is_asked(
    api: Api, given: str, method: str
) -> None:
    for body in (b'{"query": "{ __typename }"}', b"nonsense", b"x" * 400_000):
        answer = await api.client.request(
            method, "/graphql?query={__typename}", content=body if method == "POST" else None,
            headers={"Content-Type": JSON} | ({"Authorization": given} if given else {}),
        )  # fmt: skip
        assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, RESPONSE), ("*/*", RESPONSE), ("application/*", RESPONSE), (RESPONSE, RESPONSE), (JSON, JSON),
        (f"{JSON}, {RESPONSE}", RESPONSE), (f"{RESPONSE};q=0.5, {JSON}", JSON), (f"text/html, {JSON};q=0.1", JSON),
        (f"{JSON}; charset=utf-8", JSON), (f"{RESPONSE};q=0, {JSON};q=0.1", JSON),
    ],
)  # fmt: skip
async def test_the_answers_media_type_is_the_one_that_is_liked_best(api: Api, accept: str | None, kind: str) -> None:
    answer = await post(api, Accept=accept or "")
    if accept is None:
        del api.client.headers["accept"]
        answer = await post(api)
    assert (answer.status_code, answer.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
    assert answer.json() == {"data": {"__typename": "Query"}}
    assert answer.headers["cache-control"] == "private, no-store" and "Authorization" in answer.headers["vary"]


@pytest.mark.parametrize("accept", ["text/html", "image/*", f"{JSON};q=0", "application/xml"])
async def test_what_accept_does_not_take_is_406(api: Api, accept: str) -> None:
    assert (await post(api, Accept=accept)).status_code == 406


REFUSED = {
    "no document": ({"query": "{"}, 200),
    "an unknown field": ({"query": "{ nothing }"}, 200),
    "no such operation": ({"query": "query A { __typename }", "operationName": "B"}, 200),
    "several operations": ({"query": "query A { __typename } query B { __typename }"}, 200),
    "a missing variable": ({"query": "query ($n: String!) { table(name: $n) { name } }"}, 200),
    "a variable of another type": (
        {"query": "query ($n: String!) { table(name: $n) { name } }", "variables": {"n": 1}}, 200,
    ),
    "a mutation": ({"query": "mutation { drop }"}, 200),
    "a limit": ({"query": "{ activity(first: 5000) { version } }"}, 400),
    "a circle of fragments": ({"query": "{ ...A } fragment A on Query { ...A }"}, 400),
}  # fmt: skip


@pytest.mark.parametrize(("body", "as_json"), REFUSED.values(), ids=REFUSED)
async def test_a_request_that_is_not_run_has_no_data_and_the_status_of_its_media_type(
    api: Api, body: dict[str, Any], as_json: int
) -> None:
    for accept, status in ((RESPONSE, 400), (JSON, as_json), ("*/*", 400)):
        answer = await post(api, body, Accept=accept)
        assert answer.status_code == status and set(answer.json()) == {"errors"}
        assert set(answer.json()["errors"][0]) >= {"message", "extensions"}


MALFORMED = {
    "nothing": b"",
    "no JSON": b"{query}",
    "broken UTF-8": b'{"query": "\xff"}',
    "a lone surrogate": b'{"query": "{ table(name: \\"\\ud800\\") { name } }"}',
    "nesting without end": b'{"query": "{ __typename }", "variables": ' + b"[" * 100_000,
    "nesting": b'{"query": "{ __typename }", "variables": {"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}}",
    "a text": b'"{ __typename }"',
    "null": b"null",
    "no query": b"{}",
    "a query of another type": b'{"query": 1}',
    "a persisted query": b'{"extensions": {"persistedQuery": {"sha256Hash": "x"}}}',
    "variables as a list": b'{"query": "{ __typename }", "variables": [1]}',
    "variables as text": b'{"query": "{ __typename }", "variables": "{}"}',
    "a name of another type": b'{"query": "{ __typename }", "operationName": 1}',
    "extensions as text": b'{"query": "{ __typename }", "extensions": "x"}',
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_no_request_is_a_problem_400(api: Api, body: bytes) -> None:
    answer = await post(api, body)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


async def test_batches_are_off(api: Api) -> None:
    answer = await post(api, [TYPENAME, TYPENAME])
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:lakehouse:problem:batch")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json; charset=utf-8"}, 200), ({"Content-Type": "APPLICATION/JSON"}, 200),
        ({"Content-Type": ""}, 415), ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/graphql"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json; charset=utf-16"}, 415), ({"Content-Encoding": "gzip"}, 415),
    ],
)  # fmt: skip
async def test_only_json_in_utf_8_is_taken(api: Api, headers: dict[str, str], status: int) -> None:
    assert (await post(api, headers=headers)).status_code == status


async def test_a_body_over_the_limit_is_413_and_never_held(api: Api) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 65_536
            yield b" " * 65_536

    answer = await api.client.post("/graphql", content=endless(), headers={**EVERYTHING, "Content-Type": JSON})
    assert answer.status_code == 413 and sent <= 512 * 1024


async def test_get_asks_queries_alone(api: Api) -> None:
    query = "query A($n: Int!) { activity(first: $n) { nodes { events } } } query B { __typename }"
    parameters = {"query": query, "operationName": "A", "variables": '{"n": 1}', "extensions": "null"}
    answer = await api.client.get("/graphql", params=parameters, headers=EVERYTHING)
    assert answer.json() == {"data": {"activity": {"nodes": [{"events": 290}]}}}
    for wrong in ({}, {"query": query, "variables": "{"}, {"query": query, "variables": "[1]"}):
        assert (await api.client.get("/graphql", params=wrong, headers=EVERYTHING)).status_code == 400
    subscription = await api.client.get(
        "/graphql", params={"query": "subscription { live { at } }"}, headers=EVERYTHING
    )
    assert (subscription.status_code, subscription.headers["allow"]) == (405, "POST")
    for method in ("PUT", "DELETE", "PATCH"):
        assert (await api.client.request(method, "/graphql", headers=EVERYTHING)).status_code == 405


async def test_a_fault_says_nothing_of_itself_but_in_the_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    api.stores.site_now = {"secret": "password"}
    answer = await post(api, {"query": "{ live { at } activity(first: 1) { version } }"}, X_Request_Id="mine")
    assert answer.json() == {
        "data": {"live": None, "activity": {"version": 0}},
        "errors": [{
            "message": "This is a fault of the API; its log names the request's id.",
            "locations": [{"line": 1, "column": 3}], "path": ["live"],
            "extensions": {"code": "internal", "status": 500},
        }],
    }  # fmt: skip
    assert "request mine failed" in caplog.text and "KeyError" in caplog.text


async def test_a_subscription_is_not_answered_as_json(api: Api) -> None:
    answer = await post(api, {"query": "subscription { live { at } }"})
    assert answer.status_code == 406 and EVENTS in answer.json()["detail"]


async def test_openapi_describes_the_route(lake: Settings) -> None:
    async with serving(lake) as api:
        app: FastAPI = api.app
        described = app.openapi()["paths"]["/graphql"]
    assert set(described) == {"get", "post"} and "requestBody" in described["post"]
