"""What is personal stays where it is: in every table, format and page, whoever asks for whatever."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx2
import pyarrow as pa
import pytest
from pydantic import SecretStr
from pyspark.sql import types as T

from lakehouse.flows import TABLES
from lakehouse.settings import Redis, Settings
from lakehouse.sources.delivery import Delivery
from serving.app import create_app
from serving.auth import issue
from serving.catalog import Masks, catalog
from serving.formats import FORMATS, JSON
from tests.unit.local_lake import local_lake, write
from tests.unit.serving.fakes import KEYS, Broker, Remembered
from tests.unit.serving.test_cache import Store

pytestmark = pytest.mark.anyio
MARK = "SECRET"
PERSONAL = {name: table for name, table in catalog().items() if table.personal}
OPEN = {name: table for name, table in PERSONAL.items() if not table.closed and not table.admin}
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def value(kind: T.DataType, number: int, secret: bool) -> Any:
    """A value of any type; one that is to stay secret says so in every leaf."""
    match kind:
        case T.StringType():
            return f"{MARK}-{number}" if secret else f"word-{number}"
        case T.BinaryType():
            return f"{MARK}-{number}".encode()
        case T.StructType():
            return {field.name: value(field.dataType, number, secret) for field in kind}
        case T.ArrayType():
            return [value(kind.elementType, number, secret)]
        case T.MapType():
            return [(value(kind.keyType, number, secret), value(kind.valueType, number, secret))]
        case T.TimestampType():
            return NOON + timedelta(seconds=number)
        case T.DateType():
            return date(2026, 11, 24)
        case T.BooleanType():
            return True
        case T.DoubleType():
            return float(number)
    return number


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Every table that has something personal, which says ``SECRET``; closed ones say it everywhere."""
    settings = local_lake(tmp_path_factory.mktemp("lake")).model_copy(
        update={"redis": Redis(url=SecretStr("redis://127.0.0.1:1/0"))}
    )
    for name, table in catalog().items():
        if name in PERSONAL or table.closed:
            write(settings, name, [
                {f.name: value(f.dataType, n, table.closed or f.name in table.personal) for f in TABLES[name].schema}
                for n in range(9)
            ])  # fmt: skip
    return settings


@pytest.fixture
async def api(anyio_backend: str, lake: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(lake, Delivery(lambda: Broker(), timedelta(seconds=5)), Remembered(), KEYS, kept=Store())
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1") as made,
    ):
        yield made


def token(*scopes: str, user: str | None = None, subject: str = "somebody") -> dict[str, str]:
    return {"Authorization": f"Bearer {issue(KEYS, subject, list(scopes), timedelta(hours=1), user_id=user)}"}


EVERY = ("read:tables", "read:metrics", "read:users", "read:logs", "predict", "admin", "write:events")
READER, TRUSTED = token(*EVERY), token(*EVERY, "read:pii")


def said(answer: httpx2.Response) -> bytes:
    """Everything that an answer says; of Arrow also what is packed in it."""
    more = b""
    if answer.headers.get("content-type") == FORMATS[3] and answer.status_code == 200:
        read = pa.ipc.open_stream(answer.content).read_all()
        more = repr((read.to_pylist(), read.schema.metadata, [field.metadata for field in read.schema])).encode()
    return answer.content + repr(answer.headers).encode() + more


def test_there_is_something_to_keep() -> None:
    assert {"silver.user_events", "silver.service_logs", "gold.user_activity_daily", "gold.recommendations"} <= set(
        OPEN
    )


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", sorted(OPEN))
async def test_no_answer_of_a_table_says_what_is_personal(api: httpx2.AsyncClient, name: str, kind: str) -> None:
    table = OPEN[name]
    seen = table.table.schema.names
    ordered = next(n for n in seen if table.comparable(n) and n not in table.personal)
    queries: list[dict[str, Any]] = [
        {}, {"limit": 1}, {"limit": 4, "order": ordered},
        {"select": ",".join(table.personal)}, {"version": 0}, {"limit": 10_001}, {"from": "2026-11-24", "limit": 2},
    ]  # fmt: skip
    for query in queries:
        if kind == JSON and query.get("limit") == 10_001:
            continue
        params, pages = dict(query), 0
        while True:
            answer = await api.get(f"/v1/tables/{name}/rows", params=params, headers={**READER, "Accept": kind})
            assert answer.status_code == 200, answer.text
            assert MARK.encode() not in said(answer)
            pages += 1
            if "link" not in answer.headers:
                break
            params["cursor"] = answer.links["next"]["url"].partition("cursor=")[2].partition("&")[0]
        assert pages > 1 or query.get("limit", 100) >= 9
    assert MARK.encode() in said(await api.get(f"/v1/tables/{name}/rows", headers={**TRUSTED, "Accept": kind}))


@pytest.mark.parametrize("name", sorted(OPEN))
async def test_what_is_personal_cannot_be_asked_by(api: httpx2.AsyncClient, name: str) -> None:
    for column in OPEN[name].personal:
        for asked in (
            {"filter": f"{column}:eq:x"}, {"filter": f"{column}:null:true"}, {"filter": f"{column}:contains:S"},
            {"order": column}, {"order": f"-{column}"}, {"filter": ["topic:eq:x", f"{column}:in:a,b"]},
        ):  # fmt: skip
            answer = await api.get(f"/v1/tables/{name}/rows", params=asked, headers=READER)
            assert answer.status_code in (403, 422), (column, asked)
            if OPEN[name].comparable(column) and "topic" not in str(asked):
                assert (answer.status_code, answer.json()["scope"]) == (403, "read:pii")


@pytest.mark.parametrize("name", sorted(name for name, table in catalog().items() if table.closed))
async def test_a_closed_table_says_nothing_but_that_it_is_closed(api: httpx2.AsyncClient, name: str) -> None:
    for path, kind in itertools.product(("", "/rows", "/rows?limit=20000", "/rows?select=topic"), FORMATS):
        answer = await api.get(f"/v1/tables/{name}{path}", headers={**READER, "Accept": kind})
        assert (answer.status_code, answer.json()["scope"]) == (403, "read:pii")
        mine = token(*EVERY, "read:pii", user="SECRET-1")
        assert (await api.get(f"/v1/tables/{name}{path}", headers={**mine, "Accept": kind})).status_code == 403


async def test_pages_without_the_scope_are_all_rows_though_they_stand_in_another_order(
    api: httpx2.AsyncClient,
) -> None:
    found, params = [], {"limit": 2}
    while True:
        page = (await api.get("/v1/tables/gold.user_activity_daily/rows", params=params, headers=READER)).json()
        found += page["data"]
        if page["next"] is None:
            break
        params["cursor"] = page["next"]
    assert sorted(row["events"] for row in found) == list(range(9)) != [row["events"] for row in found]
    assert len({row["user_id"] for row in found}) == 9 and all(row["user_id"].startswith("~") for row in found)


async def test_what_is_kept_for_one_caller_is_no_answer_to_another(api: httpx2.AsyncClient) -> None:
    path = "/v1/tables/silver.user_events/rows?limit=3"
    trusted = await api.get(path, headers=TRUSTED)
    assert MARK in trusted.text
    others = [READER, token(*EVERY, subject="else"), token("read:tables"), token("read:tables", user="SECRET-1")]
    tags = {trusted.headers["etag"]}
    for other in others:
        answer = await api.get(path, headers={**other, "If-None-Match": trusted.headers["etag"]})
        assert answer.status_code == 200 and f"{MARK}-2" not in answer.text
        again = await api.get(path, headers={**other, "If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
        tags.add(answer.headers["etag"])
    assert len(tags) == 1 + len(others)
    stolen = {"cursor": trusted.json()["next"], "limit": 3}
    for other in others:
        assert (await api.get(path, params=stolen, headers=other)).status_code == 422


@pytest.mark.parametrize("kind", FORMATS)
async def test_a_users_token_has_its_own_rows_and_texts_only_with_the_scope(api: httpx2.AsyncClient, kind: str) -> None:
    for scopes, name in itertools.product((EVERY, (*EVERY, "read:pii")), sorted(OPEN)):
        mine = {**token(*scopes, user="SECRET-4"), "Accept": kind}
        for query in ("", "?limit=1", "?version=0", "?filter=topic:null:false", "?select=user_id,post_id"):
            if "topic" in query and "topic" not in TABLES[name].schema.names:
                continue
            answer = await api.get(f"/v1/tables/{name}/rows{query}", headers=mine)
            if OPEN[name].owner is None:
                assert (answer.status_code, answer.json()["type"]) == (403, "urn:lakehouse:problem:not-yours")
                continue
            if answer.status_code == 422 and "select" in query:
                continue
            words = said(answer)
            assert answer.status_code == 200 and b"SECRET-4" in words and "link" not in answer.headers
            assert not any(f"SECRET-{other}".encode() in words for other in range(9) if other != 4)


def test_a_pseudonym_is_of_this_secret_and_tells_nothing_of_its_length() -> None:
    masks, others = Masks(b"a" * 32), Masks(b"b" * 32)
    names = {masks.pseudonym(word) for word in ("", "u1", "u2", "한글" * 1000)}
    assert len(names) == 4 and {len(name) for name in names} == {17} and masks.veil != others.veil
    assert masks.pseudonym("u1") != others.pseudonym("u1")


def test_masks_hold_for_any_shape_of_columns() -> None:
    rows = pa.table({
        "user_id": pa.chunked_array([["a", None, "a"], [], ["b"]], pa.string()),
        "text": pa.array(["x", "y", None, "z"]),
        "n": [1, 2, 3, 4],
    })  # fmt: skip
    masks = Masks(b"a" * 32)
    shown = masks.apply(rows.slice(1), frozenset({"user_id", "text"}))
    assert shown["user_id"].to_pylist() == [None, masks.pseudonym("a"), masks.pseudonym("b")]
    assert (
        shown["text"].to_pylist() == [None] * 3 and shown.schema == rows.schema and shown["n"].to_pylist() == [2, 3, 4]
    )
    assert masks.apply(rows.slice(0, 0), frozenset({"user_id", "text"})).num_rows == 0
    for batch in shown.to_batches():
        for column in batch.columns:
            assert all(buffer is None or buffer.to_pybytes() != b"b" for buffer in column.buffers())
