"""The lake as it is served: versions are whole, advance once a second at most, and are said to be away in time."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyarrow import dataset

from lakehouse.flows import TABLES
from lakehouse.settings import Settings
from lakehouse.sources.lake import Lake
from serving import served as module
from serving.ask import ask
from serving.auth import Caller
from serving.catalog import find
from serving.problems import Problem
from serving.served import AWAY_AFTER_S, LOOK_EVERY_S, OLD_VERSIONS, OPENS_S, Served, Snapshot
from tests.unit.local_lake import local_lake, write

TABLE = "gold.activity_minute"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
SMALL_OR_LARGE = pytest.mark.parametrize("small", [0, module.SMALL_BYTES], ids=["from files", "from memory"])


def minute(number: int, kind: str = "view", events: int | None = None) -> dict[str, Any]:
    at = NOON + timedelta(minutes=number)
    return {"window_start": at, "event_type": kind, "events": number if events is None else events, "users": 1}


@pytest.fixture
def lake(tmp_path: Path) -> Settings:
    settings = local_lake(tmp_path)
    write(settings, TABLE, [minute(number) for number in range(3)])
    return settings


def folder(settings: Settings, name: str = TABLE) -> Path:
    return Path(settings.table_uri(name).removeprefix("file://"))


def rows(
    lake: Served, snapshot: Snapshot, sql: str = "select * from rows order by window_start"
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lake.select(snapshot, sql, [], 10).to_pylist()
    return found


def until(holds: Callable[[], bool], within_s: float = 20) -> float:
    """Seconds until something holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s
        time.sleep(0.02)
    return time.monotonic() - began


def problem(call: Callable[[], Any]) -> tuple[int, str]:
    with pytest.raises(Problem) as found:
        call()
    return found.value.status, found.value.name


@SMALL_OR_LARGE
def test_a_version_is_what_was_committed_and_stays_so(lake: Settings, small: int) -> None:
    with closing(Served(lake, small=small)) as served:
        first = served.snapshot(TABLE)
        assert isinstance(first.relation, pa.Table if small else dataset.Dataset)
        assert (first.version, first.rows, first.name) == (0, 3, TABLE) and first.bytes > 0
        assert abs((first.at - datetime.now(UTC)).total_seconds()) < 60
        write(lake, TABLE, [minute(3)])
        until(lambda: served.snapshot(TABLE).version == 1)
        assert [row["events"] for row in rows(served, served.snapshot(TABLE))] == [0, 1, 2, 3]
        assert [row["events"] for row in rows(served, first)] == [0, 1, 2]
        assert served.snapshot(TABLE, 0).version == 0 and rows(served, served.snapshot(TABLE, 0)) == rows(served, first)


@SMALL_OR_LARGE
def test_every_answer_is_one_version_while_rows_are_appended_changed_and_taken_away(lake: Settings, small: int) -> None:
    """A writer changes all rows in one commit; eight readers never see rows of two of them."""
    truth: dict[int, list[tuple[datetime, int]]] = {}
    leaving, failures = threading.Event(), list[str]()

    def told() -> None:
        table = DeltaTable(str(folder(lake)))
        truth[table.version()] = sorted(
            (row["window_start"], row["events"]) for row in table.to_pyarrow_table().to_pylist()
        )

    def write_on() -> None:
        number = 3
        while not leaving.is_set():
            table = DeltaTable(str(folder(lake)))
            schema = TABLES[TABLE].arrow
            match number % 3:
                case 0:
                    write(lake, TABLE, [minute(number)])
                case 1:
                    source = pa.Table.from_pylist([minute(n, events=number) for n in range(number)], schema)
                    merging = table.merge(source, "t.window_start = s.window_start", source_alias="s", target_alias="t")
                    merging.when_matched_update_all().when_not_matched_insert_all().execute()
                case _:
                    table.delete(f"events = {number % 5}")
            told()
            number += 1

    told()
    seen: set[int] = set()
    answers: list[tuple[int, list[tuple[datetime, int]]]] = []

    def read_on() -> None:
        while not leaving.is_set():
            try:
                snapshot = served.snapshot(TABLE)
                found = [(row["window_start"], row["events"]) for row in rows(served, snapshot)]
                answers.append((snapshot.version, found))
                seen.add(snapshot.version)
            except Exception as error:
                failures.append(repr(error))
                return

    with closing(Served(lake, small=small)) as served:
        threads = [threading.Thread(target=work) for work in [write_on, *[read_on] * 8]]
        for thread in threads:
            thread.start()
        try:
            until(lambda: len(seen) >= 4 or bool(failures), 60)
        finally:
            leaving.set()
            for thread in threads:
                thread.join()
    assert failures == []
    assert all(sorted(found) == truth[version] for version, found in answers) and len(answers) > 10


def test_a_version_advances_once_a_second_at_most_and_is_told(lake: Settings) -> None:
    told: list[tuple[float, int]] = []
    with closing(Served(lake, lambda snapshot: told.append((time.monotonic(), snapshot.version)))) as served:
        served.snapshot(TABLE)
        for number in range(3, 60):
            write(lake, TABLE, [minute(number)])
            served.snapshot(TABLE)
        newest = DeltaTable(str(folder(lake))).version()
        until(lambda: served.snapshot(TABLE).version == newest)
    times, versions = zip(*told, strict=True)
    assert list(versions) == sorted(set(versions)) and versions[0] == 0 and versions[-1] == newest
    starts = [later - earlier for earlier, later in pairwise(times)]
    assert min(starts) > LOOK_EVERY_S * 0.5 and sum(starts) / len(starts) > LOOK_EVERY_S * 0.9


def test_a_new_version_costs_its_new_files_alone_and_old_ones_are_let_go(lake: Settings) -> None:
    with closing(Served(lake)) as served:
        served.snapshot(TABLE)
        before = dict(served._tables[TABLE].parts)
        write(lake, TABLE, [minute(3)])
        until(lambda: served.snapshot(TABLE).version == 1)
        after = served._tables[TABLE].parts
        assert len(after) == 2 and all(after[path] is part for path, part in before.items())
        DeltaTable(str(folder(lake))).optimize.compact()
        until(lambda: served.snapshot(TABLE).version == 2)
        assert len(served._tables[TABLE].parts) == 1 and not set(served._tables[TABLE].parts) & set(after)
        for version in range(3, 3 + 2 * OLD_VERSIONS):
            write(lake, TABLE, [minute(version)])
        until(lambda: served.snapshot(TABLE).version == 2 + 2 * OLD_VERSIONS)
        for version in range(2 + 2 * OLD_VERSIONS):
            served.snapshot(TABLE, version)
        assert len(served._old) == OLD_VERSIONS


def test_memory_is_of_the_tables_asked_for_last(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [TABLE, "gold.service_health_minute", "gold.anomalies"]
    for name in names[1:]:
        write(lake, name, [{"service": "x" * 1000}] if "service" in name else [{"series": "x" * 1000}])
    monkeypatch.setattr(module, "MEMORY_BYTES", 4000)
    with closing(Served(lake)) as served:
        for name in names * 2:
            assert served.snapshot(name).name == name
        held = {name: sum(part.nbytes for part in known.parts.values()) for name, known in served._tables.items()}
        assert 0 < sum(held.values()) <= 4000
        monkeypatch.setattr(module, "MEMORY_BYTES", 1000)
        served.snapshot("gold.anomalies")
        write(lake, "gold.anomalies", [{"series": "y"}])
        until(lambda: served.snapshot("gold.anomalies").version == 1)
        assert isinstance(served.snapshot("gold.anomalies").relation, dataset.Dataset)  # too large even alone


def test_columns_that_are_younger_than_a_version_are_null_in_it(lake: Settings) -> None:
    shutil.rmtree(folder(lake))
    write_deltalake(str(folder(lake)), pa.table({"event_type": ["view"], "events": pa.array([1], pa.int64())}))
    for small in (0, module.SMALL_BYTES):
        with closing(Served(lake, small=small)) as served:
            found = rows(served, served.snapshot(TABLE), 'select "window_start", "event_type", "users" from rows')
        assert found == [{"window_start": None, "event_type": "view", "users": None}]


@SMALL_OR_LARGE
def test_values_at_the_ends_of_their_types_are_no_trouble(lake: Settings, small: int) -> None:
    name = "gold.recommendations"
    write(lake, name, [{"user_id": "u", "rank": 1, "score": 1.0, "at": NOON}, {"user_id": "u"}])
    least, most = f"{-(2**63)}", f"{2**63 - 1}"
    ends = {
        "rank": (least, most), "score": ("-1.7976931348623157e308", "1.7976931348623157e308"),
        "at": ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"), "user_id": ("", "\U0010ffff" * 1000),
    }  # fmt: skip
    caller = Caller("x", frozenset({"read:pii"}))
    with closing(Served(lake, small=small)) as served:
        snapshot = served.snapshot(name)
        for column, (first, last) in ends.items():
            for filters in ([f"{column}:ge:{first}", f"{column}:le:{last}"], [f"{column}:ne:{last}"]):
                sql, bound = ask(find(name), caller, filters=filters, limit=5).sql("rows", caller)
                found = served.select(snapshot, sql, bound, 10)
                assert found.num_rows == (2 if column == "user_id" or "ne" in filters[0] else 1), (column, filters)
            sql, bound = ask(find(name), caller, filters=[f"{column}:gt:{last}"]).sql("rows", caller)
            assert served.select(snapshot, sql, bound, 10).num_rows == 0
            sql, bound = ask(find(name), caller, filters=[f"{column}:in:{first},{last}"]).sql("rows", caller)
            assert served.select(snapshot, sql, bound, 10).num_rows == 0


# --- what is not there ---------------------------------------------------------------------------------------------


def test_a_table_that_is_not_there_is_404_until_it_is(lake: Settings) -> None:
    with closing(Served(lake)) as served:
        for _ in range(3):
            assert problem(lambda: served.snapshot("gold.anomalies")) == (404, "no-such-table")
        write(lake, "gold.anomalies", [])
        until(lambda: served.now("gold.anomalies") is not None, 5)
        assert served.snapshot("gold.anomalies").rows == 0


def test_versions_to_come_are_404_and_those_that_are_gone_410(lake: Settings) -> None:
    for number in range(3, 6):
        write(lake, TABLE, [minute(number)])
    table = DeltaTable(str(folder(lake)))
    table.optimize.compact()
    with closing(Served(lake)) as served:
        assert served.snapshot(TABLE).version == 4
        assert problem(lambda: served.snapshot(TABLE, 5)) == (404, "no-such-version")
        assert problem(lambda: served.snapshot(TABLE, 2**53)) == (404, "no-such-version")
        (folder(lake) / "_delta_log" / f"{0:020}.json").unlink()
        assert problem(lambda: served.snapshot(TABLE, 1)) == (410, "version-gone")


@SMALL_OR_LARGE
def test_a_version_whose_files_are_vacuumed_is_410_and_the_newest_goes_on(lake: Settings, small: int) -> None:
    write(lake, TABLE, [minute(3)])
    with closing(Served(lake, small=small)) as served:
        table = DeltaTable(str(folder(lake)))
        table.optimize.compact()
        table.vacuum(0, dry_run=False, enforce_retention_duration=False)
        newest = served.snapshot(TABLE).version

        def read(version: int) -> list[dict[str, Any]]:
            return rows(served, served.snapshot(TABLE, version))

        for _ in range(2):
            assert problem(lambda: read(0)) == (410, "version-gone")
        assert len(read(newest)) == 4


def test_a_table_that_was_made_anew_is_found_again(lake: Settings) -> None:
    with closing(Served(lake, small=0)) as served:
        first = served.snapshot(TABLE)
        shutil.rmtree(folder(lake))
        write(lake, TABLE, [minute(9)])
        assert problem(lambda: rows(served, first))[0] == 503
        assert [row["events"] for row in rows(served, served.snapshot(TABLE))] == [9]
        assert served.snapshot(TABLE).id != first.id


# --- a lake that is away -------------------------------------------------------------------------------------------


def hdfs(settings: Settings, port: int) -> Settings:
    return settings.model_copy(
        update={"hdfs": settings.hdfs.model_copy(update={"uri": f"hdfs://127.0.0.1:{port}", "root": "/lake"})}
    )


@contextmanager
def silent() -> Iterator[int]:
    """A port on which somebody listens and says nothing, which delta-rs waits for without end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_lake_that_refuses_is_said_at_once(lake: Settings) -> None:
    with closing(Served(hdfs(lake, 1))) as served:
        began = time.monotonic()
        for _ in range(50):
            assert problem(lambda: served.snapshot(TABLE)) == (503, "store-away")
        assert time.monotonic() - began < 3


def test_a_lake_that_says_nothing_is_said_in_bounds_to_all_who_ask_and_leaves_few_threads(lake: Settings) -> None:
    with silent() as port, closing(Served(hdfs(lake, port))) as served:
        before, began = threading.active_count(), time.monotonic()
        found: list[tuple[int, str]] = []
        asking = [
            threading.Thread(target=lambda: found.append(problem(lambda: served.snapshot(TABLE)))) for _ in range(30)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert found == [(503, "store-away")] * 30
        assert OPENS_S - 0.5 < time.monotonic() - began < OPENS_S + 2
        again = time.monotonic()
        assert problem(lambda: served.snapshot(TABLE)) == (503, "store-away")
        assert time.monotonic() - again < 0.5 and threading.active_count() - before <= 4


def test_what_is_served_goes_on_for_some_seconds_without_the_lake_and_comes_back_with_it(lake: Settings) -> None:
    there, away = folder(lake), folder(lake).with_name("away")
    with closing(Served(lake)) as served:
        served.snapshot(TABLE)
        write(lake, TABLE, [minute(3)])
        until(lambda: served.snapshot(TABLE).version == 1)
        known, broken = served._tables[TABLE], Breaks()
        known.handle, served._lake = None, broken  # type: ignore[assignment]
        gone_after = until(lambda: served.now(TABLE) is None, AWAY_AFTER_S + 5)
        assert AWAY_AFTER_S - 2 < gone_after < AWAY_AFTER_S + 1
        assert problem(lambda: served.snapshot(TABLE)) == (503, "store-away")
        served._lake = Lake(lake)
        assert until(lambda: served.now(TABLE) is not None, 5) < 3
        assert len(rows(served, served.snapshot(TABLE))) == 4
    assert there.exists() and not away.exists()


class Breaks:
    """A lake that does not answer."""

    def table(self, name: str, version: int | None = None) -> DeltaTable:
        raise OSError("refused")


# --- queries -------------------------------------------------------------------------------------------------------

SLOW = "select count(*) as n from range(1000000000000) t(a), rows where a % 7 = 3"
ENDLESS = "select a from range(1000000000000) t(a) where a % 7 = 3"


@pytest.mark.parametrize("sql", [SLOW, ENDLESS])
def test_a_query_that_takes_too_long_is_504_in_time(lake: Settings, sql: str) -> None:
    with closing(Served(lake)) as served:
        snapshot, began = served.snapshot(TABLE), time.monotonic()
        assert problem(lambda: served.select(snapshot, sql, [], 0.5)) == (504, "query-timeout")
        assert time.monotonic() - began < 3
        assert len(rows(served, snapshot)) == 3  # the next one has all its time


def test_a_query_that_needs_too_much_memory_is_said_and_leaves_nothing(
    lake: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "QUERY_MEMORY", "64MB")
    with closing(Served(lake)) as served:
        large = "select a, repeat('x', 100) as s from range(20000000) t(a) order by hash(a)"
        assert problem(lambda: served.select(served.snapshot(TABLE), large, [], 60)) == (503, "too-much")
        assert len(rows(served, served.snapshot(TABLE))) == 3
    assert not (tmp_path / ".tmp").exists()


def test_a_query_sees_nothing_but_its_rows(lake: Settings, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with closing(Served(lake)) as served:
        snapshot = served.snapshot(TABLE)
        for sql in (
            f"select * from '{tmp_path}/secret.csv'", f"select * from read_text('{tmp_path}/secret.csv')",
            "select * from lake", "select * from snapshot", "attach 'x.db'", "copy rows to 'x.csv'", "install httpfs",
        ):  # fmt: skip
            with pytest.raises((duckdb.Error, Problem)):
                served.select(snapshot, sql, [], 5)


def test_times_are_utc_whatever_the_machines_zone(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Seoul")
    time.tzset()
    try:
        with closing(Served(lake)) as served:
            found = served.select(served.snapshot(TABLE), "select window_start from rows", [], 10)
        assert str(found.schema.field("window_start").type) == "timestamp[us, tz=UTC]"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_table_that_is_warm_is_there_at_once_and_what_is_known_of_it_stays(
    lake: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FOLLOWED_S", 2.0)
    monkeypatch.setattr(module, "WARMS_S", 1.0)
    with closing(Served(lake)) as served:
        served.warm([TABLE, "gold.anomalies"])
        until(lambda: bool(served.held()))
        parts = served._tables[TABLE].parts
        until(lambda: not served.held())  # nobody has asked
        write(lake, TABLE, [minute(3)])
        time.sleep(2.5)
        assert served._tables[TABLE].parts is parts
        assert served.snapshot(TABLE).version in (0, 1)
        until(lambda: served.snapshot(TABLE).version == 1)
        assert all(served._tables[TABLE].parts[path] is part for path, part in parts.items())
