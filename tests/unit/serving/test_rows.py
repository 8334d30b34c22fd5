"""Rows of tables over HTTP: formats, versions, pages, and that nobody sees what is not theirs."""

from __future__ import annotations

import csv
import io
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pyarrow as pa
import pytest
from pydantic import SecretStr

from lakehouse.settings import Api, Rate, Rates, Redis, Settings
from lakehouse.sources.delivery import Delivery
from serving.app import create_app
from serving.auth import issue
from tests.unit.local_lake import local_lake, write
from tests.unit.serving.fakes import KEYS, Broker, Remembered

pytestmark = pytest.mark.anyio
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
SECRET_TEXT = "my telephone number is 555"
ACCEPTS = ["application/json", "application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream"]


@pytest.fixture
def lake(tmp_path: Path) -> Settings:
    no_limit = Api(rate=Rates(read=Rate(per_minute=0)))
    settings = local_lake(tmp_path).model_copy(
        update={"redis": Redis(url=SecretStr("redis://127.0.0.1:1/0")), "api": no_limit}
    )
    events = [
        {
            "event_id": f"e{n}", "event_type": "comment", "user_id": f"u{n % 3}", "post_id": "p1",
            "occurred_at": NOON + timedelta(seconds=n), "text": SECRET_TEXT,
            "session_id": f"session-{n % 3}", "properties": [("followed", "u2")],
            "topic": "user-events", "partition": 0, "offset": n, "timestamp": NOON,
        }
        for n in range(12)
    ]  # fmt: skip
    write(settings, "silver.user_events", events)
    write(
        settings,
        "bronze.user_events",
        [{"topic": "user-events", "partition": 0, "offset": 0, "value": b"u1 " + SECRET_TEXT.encode()}],
    )
    write(
        settings, "gold.user_activity_daily", [{"date": NOON.date(), "user_id": f"u{n}", "events": n} for n in range(3)]
    )
    minutes(settings, 0, 5)
    return settings


def minutes(settings: Settings, first: int, count: int) -> None:
    rows = [
        {"window_start": NOON + timedelta(minutes=n), "event_type": "view", "events": n, "users": 1}
        for n in range(first, first + count)
    ]
    write(settings, "gold.activity_minute", rows)


@asynccontextmanager
async def client(settings: Settings, record: Any = None) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(settings, Delivery(lambda: Broker(), timedelta(seconds=5)), Remembered(), KEYS, record)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as made,
    ):
        yield made


def token(*scopes: str, subject: str = "tester", user: str | None = None) -> dict[str, str]:
    more = {} if user is None else {"user_id": user}
    return {"Authorization": f"Bearer {issue(KEYS, subject, list(scopes), timedelta(hours=1), **more)}"}


READER = token("read:tables", "read:metrics", "read:users")
TRUSTED = token("read:tables", "read:metrics", "read:users", "read:pii")


@pytest.mark.parametrize("accept", ACCEPTS)
async def test_nothing_personal_leaves_without_the_scope_in_any_format(lake: Settings, accept: str) -> None:
    async with client(lake) as api:
        for query in (
            "",
            "?limit=3",
            "?limit=1&select=user_id,text,session_id,properties",
            "?limit=20000",
            "?version=0",
        ):
            if "20000" in query and accept == ACCEPTS[0]:
                continue
            answer = await api.get(f"/v1/tables/silver.user_events/rows{query}", headers={**READER, "Accept": accept})
            assert answer.status_code == 200, answer.text
            said = answer.content + repr(answer.headers).encode()
            assert not re.search(rb"\bu[012]\b|session-|telephone|followed", said)
            if accept != ACCEPTS[3]:
                assert b"~" in said  # but there are pseudonyms
        seen = await api.get("/v1/tables/silver.user_events/rows", headers={**TRUSTED, "Accept": accept})
        assert b"telephone" in seen.content and b"session-1" in seen.content


async def test_pseudonyms_are_the_same_everywhere_and_differ_between_users(lake: Settings) -> None:
    async with client(lake) as api:
        events = (await api.get("/v1/tables/silver.user_events/rows", headers=READER)).json()["data"]
        days = (await api.get("/v1/tables/gold.user_activity_daily/rows", headers=READER)).json()["data"]
    assert {row["user_id"] for row in events} == {row["user_id"] for row in days} and len(days) == 3


@pytest.mark.parametrize("table", ["bronze.user_events", "silver.quarantine"])
async def test_raw_records_are_closed_without_the_scope(lake: Settings, table: str) -> None:
    async with client(lake) as api:
        for path in ("", "/rows"):
            answer = await api.get(f"/v1/tables/{table}{path}", headers=READER)
            assert (answer.status_code, answer.json()["scope"]) == (403, "read:pii")
        listed = (await api.get("/v1/tables", headers=READER)).json()["data"]
        assert table not in {row["name"] for row in listed}
        assert (await api.get("/v1/tables/bronze.user_events/rows", headers=TRUSTED)).status_code == 200


async def test_a_users_token_sees_its_own_rows_and_no_closed_table(lake: Settings) -> None:
    mine = token("read:tables", "read:users", "read:pii", user="u1")
    async with client(lake) as api:
        for accept in ACCEPTS[:3]:
            answer = await api.get("/v1/tables/silver.user_events/rows?limit=500", headers={**mine, "Accept": accept})
            assert set(re.findall(r"\bu[012]\b", answer.text.replace('"u2"', "").replace('""u2""', ""))) == {"u1"}
        pages, cursor = [], None
        while True:
            query = {"limit": 1, **({"cursor": cursor} if cursor else {})}
            page = (await api.get("/v1/tables/silver.user_events/rows", params=query, headers=mine)).json()
            pages += page["data"]
            if not (cursor := page["next"]):
                break
        assert [row["user_id"] for row in pages] == ["u1"] * 4
        assert (await api.get("/v1/tables/bronze.user_events/rows", headers=mine)).status_code == 403
        assert (await api.get("/v1/tables/silver.user_events/rows?filter=user_id:eq:u2", headers=mine)).json()[
            "data"
        ] == []
        assert (await api.get("/v1/users/u2/activity", headers=mine)).status_code == 404


async def test_a_cursor_is_of_one_caller_one_question_and_whole(lake: Settings) -> None:
    path = "/v1/tables/gold.activity_minute/rows?limit=2"
    async with client(lake) as api:
        cursor = (await api.get(path, headers=READER)).json()["next"]
        assert (await api.get(f"{path}&cursor={cursor}", headers=READER)).status_code == 200
        for wrong, headers in (
            (f"{path}&cursor={cursor}", TRUSTED),
            (f"{path}&cursor={cursor}", token("read:tables", subject="another")),
            (f"{path}&cursor={cursor}&order=events", READER),
            (f"{path}&cursor={cursor}&filter=events:gt:0", READER),
            (f"/v1/tables/gold.user_activity_daily/rows?cursor={cursor}", READER),
            (f"{path}&cursor=", READER),
            (f"{path}&cursor=%00", READER),
            (f"{path}&cursor=ü", READER),
            *(
                (f"{path}&cursor={cursor[:at]}{'A' if cursor[at] != 'A' else 'B'}{cursor[at + 1 :]}", READER)
                for at in range(0, len(cursor) - 4, 7)
            ),
        ):
            answer = await api.get(wrong, headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (422, "urn:lakehouse:problem:invalid-cursor"), wrong


async def test_pages_stay_on_their_version_and_etags_say_when_nothing_changed(lake: Settings) -> None:
    path = "/v1/tables/gold.activity_minute/rows?limit=3"
    async with client(lake) as api:
        first = await api.get(path, headers=READER)
        assert first.headers["lakehouse-table-version"] == "0" and float(first.headers["lakehouse-data-age"]) >= 0
        tag = first.headers["etag"]
        again = await api.get(path, headers={**READER, "If-None-Match": f'"other", W/{tag}'})
        assert (again.status_code, again.content) == (304, b"") and again.headers["etag"] == tag
        minutes(lake, 5, 5)
        await moved(api, path, "1")
        second = await api.get(path, params={"limit": 3, "cursor": first.json()["next"]}, headers=READER)
        assert [row["events"] for row in first.json()["data"] + second.json()["data"]] == [4, 3, 2, 1, 0]
        now = await api.get(path, headers={**READER, "If-None-Match": tag})
        assert now.status_code == 200 and [row["events"] for row in now.json()["data"]] == [9, 8, 7]
        past = await api.get(path, params={"limit": 3, "version": 0}, headers=READER)
        assert past.json() == first.json() | {"next": past.json()["next"]}
        assert (await api.get(path, params={"limit": 3, "version": 7}, headers=READER)).status_code == 404
        assert first.headers["etag"] != (await api.get(path, headers=TRUSTED)).headers["etag"]


async def moved(api: httpx2.AsyncClient, path: str, version: str) -> None:
    """Return when a version is served: a second or so after it was committed."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (await api.get(path, headers=READER)).headers["lakehouse-table-version"] == version:
            return
    raise AssertionError("the version is not followed")


async def test_a_version_whose_files_are_gone_is_410(lake: Settings) -> None:
    minutes(lake, 5, 1)
    log = Path(lake.table_uri("gold.activity_minute").removeprefix("file://")) / "_delta_log"
    async with client(lake) as api:
        assert (await api.get("/v1/activity", headers=READER)).headers["lakehouse-table-version"] == "1"
        (log / f"{0:020}.json").unlink()
        answer = await api.get("/v1/activity?version=0", headers=READER)
        assert answer.status_code == 410, answer.text


async def test_every_format_says_the_same(lake: Settings) -> None:
    path = "/v1/tables/gold.activity_minute/rows"
    async with client(lake) as api:
        got = {accept: await api.get(path, headers={**READER, "Accept": accept}) for accept in ACCEPTS}
        wanted = got[ACCEPTS[0]].json()["data"]
        assert [orjson.loads(line) for line in got[ACCEPTS[1]].content.splitlines()] == wanted
        rows = list(csv.DictReader(io.StringIO(got[ACCEPTS[2]].text)))
        assert rows == [{name: str(value) for name, value in row.items()} for row in wanted]
        table = pa.ipc.open_stream(got[ACCEPTS[3]].content).read_all()
        assert table["events"].to_pylist() == [row["events"] for row in wanted]
        for accept, status in (("image/png", 406), ("text/csv;q=0", 406), ("image/png, */*;q=0.1", 200), ("", 200)):
            assert (await api.get(path, headers={**READER, "Accept": accept})).status_code == status
        streamed = await api.get(f"{path}?limit=50000", headers={**READER, "Accept": ACCEPTS[1]})
        assert streamed.content == got[ACCEPTS[1]].content
        assert (await api.get(f"{path}?limit=50000", headers=READER)).status_code == 422


@pytest.mark.parametrize(
    "name",
    [
        "gold.nothing",
        "_internal.gold_changes",
        "gold",
        "gold.activity_minute'",
        "..",
        "%2e%2e%2fetc",
        "x" * 5000,
        "gold.ä",
    ],
)
async def test_names_that_are_no_table_are_404(lake: Settings, name: str) -> None:
    async with client(lake) as api:
        for path in (f"/v1/tables/{name}", f"/v1/tables/{name}/rows"):
            assert (await api.get(path, headers=READER)).status_code in (404, 405, 422)


async def test_reads_of_personal_data_are_recorded_cached_or_not_and_others_are_not(lake: Settings) -> None:
    kept: list[tuple[Any, ...]] = []
    async with client(lake, lambda caller, *what: kept.append((caller.subject, *what))) as api:
        for path in (
            "gold.activity_minute/rows",
            "silver.user_events/rows?select=event_id",
            "silver.user_events/rows?from=2030-01-01",
        ):
            await api.get(f"/v1/tables/{path}", headers=TRUSTED)
        await api.get("/v1/tables/silver.user_events/rows", headers=READER)
        assert kept == []
        for _ in range(2):
            await api.get("/v1/tables/silver.user_events/rows?select=user_id,post_id&limit=2", headers=TRUSTED)
        assert [entry[:4] for entry in kept] == [("tester", "silver.user_events", ("user_id",), 2)] * 2


async def test_every_answer_is_one_version_while_the_table_moves(lake: Settings) -> None:
    leaving = threading.Event()

    def write_on() -> None:
        for number in range(5, 150):
            if leaving.is_set():
                return
            minutes(lake, number, 1)

    thread = threading.Thread(target=write_on)
    async with client(lake) as api:
        thread.start()
        try:
            versions = set()
            while thread.is_alive():
                answer = await api.get("/v1/tables/gold.activity_minute/rows?limit=1000&order=events", headers=READER)
                version = int(answer.headers["lakehouse-table-version"])
                assert [row["events"] for row in answer.json()["data"]] == list(range(5 + version))
                versions.add(version)
        finally:
            leaving.set()
            thread.join()
    assert len(versions) > 1  # it takes longer than the second after which a version is looked for


async def test_a_lake_that_is_not_there_is_said_within_bounds(tmp_path: Path) -> None:
    settings = local_lake(tmp_path).model_copy(update={"redis": Redis(url=SecretStr("redis://127.0.0.1:1/0"))})
    away = settings.model_copy(
        update={"hdfs": settings.hdfs.model_copy(update={"uri": "hdfs://127.0.0.1:1", "root": "/lake"})}
    )
    async with client(settings) as api:
        answer = await api.get("/v1/activity", headers=READER)
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:lakehouse:problem:no-such-table")
    async with client(away) as api:
        answer = await api.get("/v1/activity", headers=READER)
        assert (answer.status_code, answer.json()["store"]) == (503, "hdfs")
        assert (await api.get("/v1/activity/live", headers=READER)).json()["store"] == "redis"


async def test_a_link_leads_to_the_next_page_whatever_was_asked(lake: Settings) -> None:
    rows = [{"window_start": NOON + timedelta(minutes=n), "service": "서비스 é", "requests": n} for n in range(3)]
    write(lake, "gold.service_health_minute", rows)
    async with client(lake) as api:
        path = "/v1/services/서비스 é/health?limit=1&select=requests&filter=service:ne:a>b%26c"
        found = []
        while path:
            answer = await api.get(path, headers=READER)
            assert answer.status_code == 200, answer.text
            found += [row["requests"] for row in answer.json()["data"]]
            path = answer.links["next"]["url"] if "next" in answer.links else ""
            assert path.count("cursor=") <= 1
    assert found == [2, 1, 0]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=1&limit=2", "limit"), ("fitler=a:eq:1", "fitler"), ("limit=0", "limit"), ("limit=x", "limit"),
        ("limit=1e3", "limit"), ("limit=1000001", "limit"), ("version=-1", "version"), ("version=1.5", "version"),
        ("&".join(["filter=events:gt:0"] * 21), "filter"), ("select=" + "x" * 1001, "select"),
        ("from=" + "x" * 41, "from"), ("cursor=" + "x" * 4097, "cursor"), ("limit=", "limit"), ("=1", ""),
        ("filter=events:gt:0'--", "filter"), ("limit=%00", "limit"), ("limit=٣", "limit"), ("limit=1_000", "limit"),
    ],
)  # fmt: skip
async def test_a_parameter_that_is_wrong_is_named(lake: Settings, query: str, named: str) -> None:
    async with client(lake) as api:
        for _ in range(2):
            answer = await api.get(f"/v1/activity?{query}", headers=READER)
            assert answer.status_code == 422, answer.text
            assert answer.json()["reasons"][0]["pointer"].startswith(f"/query/{named}")


async def test_nobody_waits_for_the_first_answer_of_a_new_version(lake: Settings) -> None:
    """A question that was asked before is answered as before until its new answer is made; others are not."""
    path = "/v1/tables/gold.activity_minute/rows"
    async with client(lake) as api:
        assert (await api.get(path, headers=READER)).headers["lakehouse-table-version"] == "0"
        minutes(lake, 5, 1)
        limit = 200
        while (await api.get(f"{path}?limit={limit}", headers=READER)).headers["lakehouse-table-version"] == "0":
            limit += 1  # another question each time
        first = await api.get(path, headers=READER)
        version = int(first.headers["lakehouse-table-version"])
        assert first.json()["version"] == version and len(first.json()["data"]) == 5 + version
        await moved(api, path, "1")
        assert (await api.get(f"{path}?version=1", headers=READER)).headers["lakehouse-table-version"] == "1"
        for _ in range(20):  # and never back
            assert (await api.get(path, headers=READER)).headers["lakehouse-table-version"] == "1"
        minutes(lake, 6, 1)
        minutes(lake, 7, 1)
        await moved(api, path, "3")
        assert len((await api.get(path, headers=READER)).json()["data"]) == 8
