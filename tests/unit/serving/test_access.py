"""The access log: nothing is answered that is not kept, and whatever dies when, each entry is in the table once."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pyarrow as pa
import pytest
from fastapi import FastAPI, Response

from lakehouse.ops.access_log import TABLE
from lakehouse.query import query
from lakehouse.settings import PROJECT, Api, Settings
from lakehouse.sinks import batch
from lakehouse.sources.delivery import Delivery
from lakehouse.sources.lake import Lake
from serving import edge
from serving.access import AccessLog, Entry, Full, Spool, digest_of, table_of
from serving.app import create_app
from serving.auth import Caller, Tokens, issue
from serving.problems import Problem
from serving.rates import Turns
from tests.unit.local_lake import local_lake, write
from tests.unit.serving.fakes import AWAY, KEYS, Broker, Remembered

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 11, 26, 12, 0, 0, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)


def entry(number: int = 1, **changed: Any) -> Entry:
    given: dict[str, Any] = {
        "at": NOW, "subject": f"s{number}", "resource": "silver.user_events", "columns": ("text",), "rows": number,
    }  # fmt: skip
    return Entry(**(given | changed))


class Table:
    """The table's role: keeps rows by id, unless it is away."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.away: Exception | None = None
        self.commits: list[int] = []
        self.wrote = threading.Event()

    def write(self, rows: pa.Table) -> None:
        self.commits.append(rows.num_rows)
        self.wrote.set()
        if self.away:
            raise self.away
        self.rows |= {row["id"]: row for row in rows.to_pylist()}


def log_of(folder: Path, table: Table, bound: int = 2**20, every: timedelta = HOUR, most: int = 1000) -> AccessLog:
    return AccessLog(Spool(folder, bound), table.write, every, most)


def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it does not come to that")


# --- what is kept is in the table once -------------------------------------------------------------------------------


def test_an_entry_comes_into_the_table_as_it_was_kept(tmp_path: Path) -> None:
    lake = local_lake(tmp_path)
    write(lake, TABLE.name, [])
    log = AccessLog(Spool(tmp_path / "s", 2**20), lambda rows: batch.upsert(lake, TABLE, rows), HOUR, 1000)
    full = entry(
        7, subject="김 \"a\"\n\\", user_id="u1", request_id="r", method="GET", route="/v1/users/{user}/activity",
        columns=("user_id", "text"), filter_digest="d", client="2001:db8::1", rows=None,
    )  # fmt: skip
    for one in (full, entry(8, columns=())):
        log.record(one)
    assert log.ship() == 2 and log.ship() == 0
    found = Lake(lake).table(TABLE.name).to_pyarrow_table().sort_by("subject").to_pylist()
    assert found == [
        {name: _plain(getattr(e, name)) for name in TABLE.schema.names}
        for e in (entry(8, id=found[0]["id"], columns=()), full)
    ]
    assert [*(tmp_path / "s").iterdir()] == []
    assert query(lake, "select id from ops.access_log where subject = ?", [full.subject]).rows == [(full.id,)]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("moment", ["", "before", "after"])
def test_a_process_that_is_killed_has_answered_nothing_that_is_not_in_the_table_once(
    tmp_path: Path, moment: str
) -> None:
    lake = local_lake(tmp_path)
    write(lake, TABLE.name, [])
    reader, paths = Path(__file__).with_name("reader.py"), {"PYTHONPATH": f"{PROJECT}/src:{PROJECT}"}
    kept: list[str] = []
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, reader, tmp_path / "spool", tmp_path, moment],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **paths},
        ) as process:  # fmt: skip
            assert process.stdout is not None and process.stderr is not None
            for line in process.stdout:
                kept.append(line.strip())
                if not moment and len(kept) % 3000 == 0:
                    process.kill()
            # What was printed up to the last, whole line was answered.
            assert process.wait() == -signal.SIGKILL, process.stderr.read()
    kept = [one for one in kept if len(one) == 32]
    log = AccessLog(Spool(tmp_path / "spool", 2**30), lambda rows: batch.upsert(lake, TABLE, rows), HOUR, 1000)
    log.ship()
    rows = Counter(Lake(lake).table(TABLE.name).to_pyarrow_table(columns=["id"])["id"].to_pylist())
    assert len(kept) > 40 and set(kept) <= set(rows) and set(rows.values()) == {1}
    assert len(rows) <= len(kept) + 2  # of each process, what it died with
    assert [*(tmp_path / "spool").iterdir()] == []


def test_rows_that_came_in_before_their_file_was_deleted_do_not_come_twice(tmp_path: Path) -> None:
    lake = local_lake(tmp_path)
    write(lake, TABLE.name, [])
    for number in range(5):  # each time it dies between commit and deletion
        log = AccessLog(Spool(tmp_path / "s", 2**20), lambda rows: _commit_and_die(lake, rows), HOUR, 1000)
        log.record(entry(number))
        with pytest.raises(OSError, match="died"):
            log.ship()
    AccessLog(Spool(tmp_path / "s", 2**20), lambda rows: batch.upsert(lake, TABLE, rows), HOUR, 1000).ship()
    assert sorted(Lake(lake).table(TABLE.name).to_pyarrow_table()["rows"].to_pylist()) == [0, 1, 2, 3, 4]


def _commit_and_die(lake: Settings, rows: pa.Table) -> None:
    batch.upsert(lake, TABLE, rows)
    raise OSError("died")


def test_half_a_line_at_the_end_was_never_answered_and_rubbish_is_kept_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table()
    log = log_of(tmp_path, table)
    log.record(entry(1))
    log.spool.close()
    (file,) = tmp_path.glob("*.ndjson")
    whole = file.read_bytes()
    wrong = orjson.dumps(orjson.loads(whole) | {"rows": "many"})
    file.write_bytes(b"\0\0\0\n" + whole + wrong + b"\n" + b"\xff\n" + whole[:-10])
    assert log.ship() == 1 and [row["rows"] for row in table.rows.values()] == [1]
    (apart,) = tmp_path.iterdir()
    assert apart.suffix == ".broken" and apart.read_bytes() == b"\0\0\0\n" + wrong + b"\n\xff\n"
    assert "ends within a line" in caplog.text and "3 lines" in caplog.text


def test_two_processes_share_a_folder_and_neither_takes_what_the_other_writes(tmp_path: Path) -> None:
    tables = Table(), Table()
    one, other = (log_of(tmp_path, table) for table in tables)
    one.record(entry(1))
    other.record(entry(2))
    assert one.ship() == 1 and other.ship() == 1
    assert [{r["rows"] for r in table.rows.values()} for table in tables] == [{1}, {2}]
    one.record(entry(3))
    with one.spool.take():
        pass
    assert len([*tmp_path.glob("*.ndjson")]) == 1  # it is being written


def test_what_was_left_by_a_death_while_a_file_was_begun_is_tidied_away(tmp_path: Path) -> None:
    table = Table()
    log = log_of(tmp_path, table)
    (tmp_path / "1-1-a.ndjson.new").touch()
    log.record(entry(1))
    assert log.ship() == 1 and [*tmp_path.iterdir()] == []


def test_a_file_that_was_tidied_away_before_it_was_locked_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table()
    locks: list[int] = []
    log, lock = log_of(tmp_path, table), fcntl.flock

    def late(file: int, how: int) -> None:
        if not locks:
            locks.append(file)
            with log_of(tmp_path, Table()).spool.take():
                pass
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    log.record(entry(1))
    assert locks and log.ship() == 1 and [row["rows"] for row in table.rows.values()] == [1]


def test_many_threads_keep_every_entry(tmp_path: Path) -> None:
    table = Table()
    log = log_of(tmp_path, table, bound=2**30)

    def many(start: int) -> None:
        for number in range(500):
            log.record(entry(start + number))

    threads = [threading.Thread(target=many, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    shipped = 0
    while any(thread.is_alive() for thread in threads):
        shipped += log.ship()
    shipped += log.ship()
    assert shipped == len(table.rows) == 4000


def test_a_large_file_is_closed_and_another_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.access.SEGMENT", 1000)
    table = Table()
    log = log_of(tmp_path, table)
    for number in range(20):
        log.record(entry(number))
    files = [*tmp_path.glob("*.ndjson")]
    assert len(files) > 3 and all(file.stat().st_size < 1500 for file in files)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    log.spool.sync()
    assert log.ship() == 20


# --- the table is away -----------------------------------------------------------------------------------------------


def test_while_the_table_is_away_entries_wait_and_from_a_bound_on_nothing_is_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table()
    table.away = OSError("no HDFS")
    log = log_of(tmp_path, table, bound=2000)
    kept = 0
    with pytest.raises(Problem) as caught:
        while True:
            log.record(entry(kept))
            kept += 1
    assert caught.value.status == 503 and caught.value.headers["Retry-After"] and kept >= 5
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2000
    with pytest.raises(OSError):
        log.ship()
    with pytest.raises(Full):
        Spool(tmp_path, 2000).append(entry())  # a new process counts what waits
    table.away = None
    assert log.ship() == kept
    log.record(entry())
    assert log.ship() == 1 and len(table.rows) == kept + 1


def test_what_the_thread_ships_is_tried_again_after_a_rest_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.access.LOOK_S", 0.01)
    monkeypatch.setattr("serving.access.REST_S", (0.01, 0.02))
    table = Table()
    table.away = OSError("no HDFS")
    log = log_of(tmp_path, table, every=timedelta(0))
    log.start()
    log.record(entry(1))
    until(lambda: len(table.commits) > 5)
    table.away = None
    until(lambda: len(table.rows) == 1)
    log.close()
    assert [r.levelname for r in caplog.records].count("WARNING") == 1 and "entries wait in" in caplog.text


def test_entries_are_waited_with_until_there_are_many_or_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.access.LOOK_S", 0.01)
    table = Table()
    log = log_of(tmp_path, table, every=HOUR, most=10)
    log.start()
    for number in range(9):
        log.record(entry(number))
    assert not table.wrote.wait(0.1)
    log.record(entry(9))
    until(lambda: len(table.rows) == 10)
    assert table.commits == [10]
    log.record(entry(10))
    log.close()  # what is left goes in at the end
    assert len(table.rows) == 11


def test_what_a_dead_process_left_is_brought_in_at_the_start(tmp_path: Path) -> None:
    left = log_of(tmp_path, Table())
    left.record(entry(1))
    left.spool.close()
    table = Table()
    log = log_of(tmp_path, table)
    log.start()
    until(lambda: len(table.rows) == 1)
    log.close()


def test_a_disk_that_takes_no_more_refuses_and_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, real = Table(), os.write
    log = log_of(tmp_path, table)
    log.record(entry(1))
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:10]))
    with pytest.raises(Problem, match="logged"):
        log.record(entry(2))
    monkeypatch.setattr(os, "write", real)
    log.record(entry(3))
    assert log.ship() == 2 and {row["rows"] for row in table.rows.values()} == {1, 3}


def test_a_folder_that_cannot_be_written_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match="logged"):
        log_of(tmp_path / "file" / "spool", Table()).record(entry())


# --- what is said of a request ---------------------------------------------------------------------------------------


async def test_an_entry_says_who_asked_what_from_where(tmp_path: Path) -> None:
    table = Table()
    log = log_of(tmp_path, table)
    app = FastAPI(openapi_url=None)
    edge.install(app, AWAY, Tokens(KEYS), Turns(AWAY))

    @app.get("/v1/users/{user}/activity")
    async def activity(user: str) -> Response:
        log(Caller("me", frozenset(), "u1"), "user activity", ("user_id",), 3, None)
        return Response()

    transport = httpx2.ASGITransport(app, client=("192.0.2.7", 5))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as api:
        answer = await api.get("/v1/users/u1/activity", params={"q": "secret"})
    log.ship()
    (row,) = table.rows.values()
    assert abs(row.pop("at") - datetime.now(UTC)) < timedelta(minutes=1) and len(row.pop("id")) == 32
    assert row == {
        "request_id": answer.headers["X-Request-Id"], "subject": "me", "user_id": "u1", "method": "GET",
        "route": "/v1/users/{user}/activity", "resource": "user activity", "columns": ["user_id"], "rows": 3,
        "filter_digest": digest_of({"user": "u1"}), "status": 200, "client": "192.0.2.7",
    }  # fmt: skip


def test_a_read_that_no_request_asked_for_is_kept_too(tmp_path: Path) -> None:
    table = Table()
    log = log_of(tmp_path, table)
    log(Caller("report", frozenset()), "silver.user_events", ("text",), None, "d")
    log.ship()
    (row,) = table.rows.values()
    assert (row["route"], row["client"], row["filter_digest"], row["rows"]) == (None, None, "d", None)


def test_a_question_is_named_by_its_parameters_in_any_order() -> None:
    assert digest_of({"b": 1, "a": "x"}) == digest_of({"a": "x", "b": 1}) != digest_of({"a": "x", "b": 2})


def test_rows_fit_the_table() -> None:
    assert table_of([entry()]).schema == TABLE.arrow


async def test_a_users_data_are_answered_only_once_that_is_logged(tmp_path: Path) -> None:
    """Through the whole application, whose log is full."""
    lake = local_lake(tmp_path)
    write(lake, "gold.user_activity_daily", [{"date": NOW.date(), "user_id": "u1", "events": 3}])
    settings = lake.model_copy(update={"redis": AWAY.redis, "api": Api(access_spool=1024)})
    app = create_app(settings, Delivery(lambda: Broker(), timedelta(seconds=5)), Remembered(), KEYS)
    token = issue(KEYS, "me", ["read:tables", "read:pii"], HOUR)
    url = "/v1/tables/gold.user_activity_daily/rows"
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as api:
        told = [await api.get(url, headers={"Authorization": f"Bearer {token}"}) for _ in range(6)]
    statuses = [answer.status_code for answer in told]
    spool = lake.home / "spool" / "access"
    lines = [orjson.loads(line) for file in spool.glob("*.ndjson") for line in file.read_bytes().splitlines()]
    assert statuses[0] == 200 and statuses[-1] == 503 and statuses.count(200) == len(lines) >= 1
    assert told[-1].json()["type"] == "urn:lakehouse:problem:access-log-full" and "u1" not in told[-1].text
    assert {(line["resource"], line["route"], tuple(line["columns"])) for line in lines} == {
        ("gold.user_activity_daily", "/v1/tables/{name}/rows", ("user_id",))
    }
