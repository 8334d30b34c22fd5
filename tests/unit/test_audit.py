"""The audit on a tiny lake: balanced as built, and every break named with its exact place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pydantic import SecretStr

from lakehouse.audit import audit, kafka, render, stores
from lakehouse.audit.canonical import canonical
from lakehouse.audit.gold import key_text
from lakehouse.audit.records import records
from lakehouse.audit.run import TOPICS, Run, sections
from lakehouse.contracts import contracts
from lakehouse.flows import FLOWS, STREAMED, TABLES
from lakehouse.gold import trending_posts
from lakehouse.quality.checks import Checked, checker
from lakehouse.settings import Elasticsearch, Hdfs, Mongo, Redis, Settings
from lakehouse.sources.lake import Lake

T0 = datetime(2026, 11, 24, 16, 0, 30, tzinfo=UTC)
DAY = timedelta(days=1)
Record = tuple[int, int, timedelta, bytes | None]
"""Partition, offset, append time after T0, value."""


def event(event_id: str, **fields: Any) -> bytes:
    base = {
        "event_id": event_id,
        "event_type": "view",
        "user_id": "u1",
        "post_id": "p1",
        "occurred_at": "2026-11-24T16:00:00Z",
    }
    return json.dumps(base | fields).encode()


def log(event_id: str | None, **fields: Any) -> bytes:
    base = {
        "@timestamp": "2026-11-24T16:00:10.5+00:00",
        "service": {"name": "shop"},
        "http": {"response": {"status_code": 200}},
        "event": {"id": event_id, "duration": 5_000_000},
    }
    return json.dumps(base | fields).encode()


def metric(host: str, **fields: Any) -> bytes:
    base = {"@timestamp": "2026-11-24T16:00:20Z", "host": {"name": host}, "event": {"dataset": "system.cpu"}}
    return json.dumps(base | {"system": {"cpu": {"pct": 0.25, "cores": 4, "name": "x"}}} | fields).encode()


S = timedelta(seconds=1)
RECORDS: dict[str, list[Record]] = {
    "user-events": [
        (
            0,
            0,
            0 * S,
            event("a", text="hé", properties={"k": "v", "a": ""}, rating=5, extra={"z": None, "a": [1, 2.50]}),
        ),
        (0, 1, 1 * S, event("a")),
        (0, 2, 2 * S, event("b", event_type="like", user_id="u2", session_id="s")),
        (0, 3, 3 * S, b'{"event_id": NaN}'),
        (0, 4, 4 * S, event("c", event_type="post", post_id="p2")),
        (1, 0, 60 * S, event("d", event_type="share", post_id="p3", occurred_at="2026-11-24t18:00:00.1234567+02:00")),
        (1, 1, 61 * S, None),
        (1, 3, 62 * S, event("e", event_type="visit", post_id=None, duration_ms=1.5)),
        (1, 4, 8 * DAY, event("a", event_type="comment", post_id="p3", occurred_at="2026-12-02T15:55:00Z")),
        (1, 5, 8 * DAY, event("f", event_type="like", post_id="p1", occurred_at="2026-12-02T15:50:00Z")),
    ],
    "service-logs": [
        (0, 0, 0 * S, log("l1", log={"level": "info", "logger": "x"}, unknown=1)),
        (0, 1, 1 * S, log(None, log={}, error={"code": "7"})),
        (0, 2, 2 * S, log(None, error="text")),
        (1, 0, 3 * S, log("l1")),
        (1, 1, 4 * S, log("l2", http={"response": {"status_code": 503.0, "bytes": 7}, "version": "2"})),
    ],
    "system-metrics": [
        (0, 0, 0 * S, metric("h1")),
        (0, 1, 1 * S, metric("h1")),
        (0, 2, 2 * S, metric("h2", labels={"n": 1}, list=[1, {"n": 2}], ok=True)),
        (0, 3, 3 * S, b'{"@timestamp": "2026-11-24T16:00:20Z", "message": "x"}'),
    ],
}


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: list(value.items()) if name == "properties" and value is not None else value
        for name, value in values.items()
    }


def _silver(topic: str, place: dict[str, Any], checked: Checked) -> list[dict[str, Any]]:
    if topic == "system-metrics":
        record = {
            "time": checked.values["time"],
            "host": (checked.values["host"] or {}).get("name"),
            "dimensions": list((checked.dimensions or {}).items()),
            "record_id": checked.identity,
        }
        return [record | place | {"metric": name, "value": value} for name, value in checked.samples or ()]
    row = _nested(checked.values) | place | {"_rescued": checked.rescued}
    if topic == "service-logs":
        row["event_id"] = checked.identity or f"{topic}/{place['partition']}/{place['offset']}"
    return [row]


def _table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    schema = TABLES[name].arrow
    return pa.table({f.name: pa.array([row.get(f.name) for row in rows], f.type) for f in schema}, schema=schema)


class TinyLake:
    """A consistent lake under a folder, written as the stream would; ``alter`` breaks one table."""

    def __init__(self, folder: Path, records: dict[str, list[Record]]):
        self.settings = Settings(hdfs=Hdfs(uri=f"file://{folder}", root="lake"), home=folder / "home")
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        for flow in FLOWS:
            self._flow(flow, records.get(flow.topic, []), rows)
        self.tables = {name: _table(name, found) for name, found in rows.items()}
        with duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'")
            for flow in FLOWS:
                connection.register("silver", self.tables[flow.silver.name])
                for aggregate in flow.gold:
                    answer = connection.sql(aggregate.sql("silver", "duckdb")).to_arrow_table()
                    self.tables[aggregate.name] = answer.cast(aggregate.table.arrow)
                if flow.snapshots:
                    as_of = "(select date_trunc('minute', max(timestamp)) from silver)"
                    answer = connection.sql(trending_posts.sql("silver", as_of, "duckdb")).to_arrow_table()
                    self.tables[trending_posts.TABLE.name] = answer.cast(trending_posts.TABLE.arrow)
        for name in self.tables:
            self.write(name)

    def _flow(self, flow: Any, records: list[Record], rows: dict[str, list[dict[str, Any]]]) -> None:
        judge, accepted = checker(contracts()[flow.topic]), dict[str, datetime]()
        batches: dict[tuple[int, int], list[tuple[int, str]]] = {}
        for partition, offset, after, value in records:
            at, seq = T0 + after, 1 + offset // 2
            place = {"topic": flow.topic, "partition": partition, "offset": offset, "timestamp": at}
            whole = place | {"key": b"k", "value": value, "headers": None, "ingest_date": at.date()}
            rows[flow.bronze.name].append(whole)
            checked = judge(value, int(at.timestamp() * 1_000_000))
            if checked.reasons:
                rows["silver.quarantine"].append(
                    whole | {"reasons": checked.reasons, "status": "open", "updated_at": at}
                )
                kind = "quarantined"
            elif checked.identity and at - accepted.get(checked.identity, datetime.min.replace(tzinfo=UTC)) <= 7 * DAY:
                kind = "duplicates"
            else:
                kind = "valid"
                if checked.identity:
                    accepted[checked.identity] = at
                rows[flow.silver.name] += _silver(flow.topic, place, checked)
            batches.setdefault((seq, partition), []).append((offset, kind))
        versions = {table.name: 0 for table in flow.tables if table.name != "ops.ledger"}
        last = max((seq for seq, _ in batches), default=0)
        ends = {partition: 0 for partition in (0, 1)}
        for seq in range(1, last + 1):
            for partition in (0, 1):
                found = batches.get((seq, partition), [])
                start, ends[partition] = ends[partition], max([ends[partition], *(offset + 1 for offset, _ in found)])
                counts = {k: sum(kind == k for _, kind in found) for k in ("valid", "quarantined", "duplicates")}
                entry = {"topic": flow.topic, "seq": seq, "partition": partition, "start_offset": start}
                entry |= {"end_offset": ends[partition], "records": len(found), "versions": list(versions.items())}
                rows["ops.ledger"].append(entry | counts | {"committed_at": T0 + seq * S, "engine": "fused"})

    def write(self, name: str) -> None:
        write_deltalake(self.settings.table_uri(name), self.tables[name], mode="overwrite")
        version = DeltaTable(self.settings.table_uri(name)).version()
        if version and name != "ops.ledger":
            old = self.tables["ops.ledger"].to_pylist()
            for row in old:
                row["versions"] = [(n, version if n == name else v) for n, v in row["versions"]]
            self.tables["ops.ledger"] = _table("ops.ledger", old)
            self.write("ops.ledger")

    def alter(self, name: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
        rows = self.tables[name].to_pylist()
        change(rows)
        self.tables[name] = _table(name, rows)
        self.write(name)

    def audit(self) -> dict[str, Any]:
        return audit(self.settings, stores=False, kafka=False)


@pytest.fixture
def lake(tmp_path: Path) -> TinyLake:
    return TinyLake(tmp_path, RECORDS)


def named(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Problems as (rule, table, topic/partition, from, to, count), in order."""
    return [
        (
            p["rule"],
            p["table"],
            f"{p['topic']}/{p['partition']}" if p["partition"] is not None else p["topic"],
            p["from"],
            p["to"],
            p["count"],
        )
        for p in result["problems"]
    ]


def only(rows: list[dict[str, Any]], **place: Any) -> dict[str, Any]:
    (row,) = [row for row in rows if all(row[name] == value for name, value in place.items())]
    return row


def drop(**place: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows.remove(only(rows, **place))


def test_a_consistent_lake_balances_and_is_counted(lake: TinyLake) -> None:
    result = lake.audit()
    assert result["problems"] == [] and result["balanced"]
    assert result["topics"] == {
        "user-events": dict(
            records=10, bronze=10, valid=7, quarantined=2, duplicates=1, expired=0, erased=0, past_retention=0
        ),
        "service-logs": dict(
            records=5, bronze=5, valid=3, quarantined=1, duplicates=1, expired=0, erased=0, past_retention=0
        ),
        "system-metrics": dict(
            records=4, bronze=4, valid=2, quarantined=1, duplicates=1, expired=0, erased=0, past_retention=0
        ),
    }
    assert result["cut"]["user-events"]["ends"] == {"0": 5, "1": 6}
    assert set(result["gold"]) == {name for name in STREAMED if name.startswith("gold.")}
    assert all(found["balanced"] and found["rows"] for found in result["gold"].values())
    json.dumps(result)
    assert render(result).splitlines()[-1] == "balanced"


def test_a_topic_without_a_cut_has_zero_of_everything(tmp_path: Path) -> None:
    result = TinyLake(tmp_path, {"user-events": RECORDS["user-events"]}).audit()
    assert result["balanced"] and set(result["topics"]["service-logs"].values()) == {0}
    assert result["gold"]["gold.service_health_minute"] == {"rows": 0, "balanced": True}


def test_rows_beyond_the_cut_do_not_count(lake: TinyLake) -> None:
    ahead = {"topic": "user-events", "partition": 0, "offset": 5, "timestamp": T0}
    lake.alter("bronze.user_events", lambda rows: rows.append(ahead | {"value": event("z")}))
    lake.alter("silver.quarantine", lambda rows: rows.append(ahead | {"reasons": ["x"], "status": "open"}))
    assert lake.audit()["problems"] == []


def test_a_lost_silver_row_is_named(lake: TinyLake) -> None:
    lake.alter("silver.user_events", drop(partition=0, offset=2))
    found = named(lake.audit())
    assert ("duplicates.lost", "silver.user_events", "user-events/0", 2, 2, 1) in found
    assert ("ledger.counts", "ops.ledger", "user-events/0", 2, 3, 2) in found


def test_an_altered_silver_cell_is_named(lake: TinyLake) -> None:
    lake.alter(
        "silver.service_logs",
        lambda rows: only(rows, offset=1, partition=1)["http"]["response"].update(status_code=200),
    )
    result = lake.audit()
    assert ("silver.values", "silver.service_logs", "service-logs/1", 1, 1, 1) in named(result)
    assert "http.response.status_code not as in bronze" in render(result)


def test_a_rescued_field_that_is_lost_is_named(lake: TinyLake) -> None:
    lake.alter("silver.service_logs", lambda rows: only(rows, offset=0, partition=0).update(_rescued='{"unknown":1}'))
    assert named(lake.audit()) == [("silver.values", "silver.service_logs", "service-logs/0", 0, 0, 1)]


def test_a_lost_sample_is_named(lake: TinyLake) -> None:
    lake.alter("silver.system_metrics", drop(offset=2, metric="system.cpu.cores"))
    found = named(lake.audit())
    assert ("silver.samples", "silver.system_metrics", "system-metrics/0", 2, 2, 1) in found


def test_a_repeated_bronze_row_is_named(lake: TinyLake) -> None:
    lake.alter("bronze.user_events", lambda rows: rows.append(only(rows, partition=1, offset=3)))
    assert named(lake.audit()) == [("bronze.once", "bronze.user_events", "user-events/1", 3, 3, 1)]


def test_a_lost_bronze_row_is_named(lake: TinyLake) -> None:
    lake.alter("bronze.user_events", drop(partition=0, offset=4))
    found = named(lake.audit())
    assert ("silver.without_bronze", "silver.user_events", "user-events/0", 4, 4, 1) in found
    assert ("ledger.counts", "ops.ledger", "user-events/0", 4, 4, 1) in found


def test_a_lost_quarantine_row_is_named(lake: TinyLake) -> None:
    lake.alter("silver.quarantine", drop(topic="user-events", partition=1, offset=1))
    assert named(lake.audit()) == [
        ("ledger.counts", "ops.ledger", "user-events/1", 0, 1, 2),
        ("quarantine.missing", "silver.quarantine", "user-events/1", 1, 1, 1),
    ]


def test_altered_quarantine_bytes_and_empty_reasons_are_named(lake: TinyLake) -> None:
    lake.alter(
        "silver.quarantine", lambda rows: only(rows, offset=3, topic="user-events").update(value=b"{}", reasons=[])
    )
    assert named(lake.audit()) == [
        ("quarantine.bytes", "silver.quarantine", "user-events/0", 3, 3, 1),
        ("quarantine.reasons", "silver.quarantine", "user-events/0", 3, 3, 1),
    ]


def test_a_duplicate_accepted_twice_is_named(lake: TinyLake) -> None:
    def accept(rows: list[dict[str, Any]]) -> None:
        rows.append(
            only(rows, partition=0, offset=0) | {"offset": 1, "timestamp": T0 + S, "text": None, "rating": None}
        )
        rows[-1] |= {"_rescued": None, "properties": None}

    lake.alter("silver.user_events", accept)
    lake.alter(
        "ops.ledger", lambda rows: only(rows, topic="user-events", partition=0, seq=1).update(valid=2, duplicates=0)
    )
    found = named(lake.audit())
    assert found[0] == ("duplicates.twice", "silver.user_events", "user-events/0", 1, 1, 1)
    assert {rule for rule, *_ in found[1:]} == {"gold.values"}  # gold has counted it once


def test_a_winner_that_came_after_its_duplicate_is_named(tmp_path: Path) -> None:
    lake = TinyLake(tmp_path, {"user-events": [(0, 0, 0 * S, event("a")), (0, 2, 1 * S, event("a"))]})
    lake.alter("silver.user_events", lambda rows: rows[0].update(offset=2, timestamp=T0 + S))
    lake.alter("ops.ledger", lambda rows: [rows[i].update(valid=v, duplicates=1 - v) for i, v in ((0, 0), (2, 1))])
    assert named(lake.audit()) == [("duplicates.lost", "silver.user_events", "user-events/0", 0, 0, 1)]


def test_a_gap_in_the_ledger_is_named(lake: TinyLake) -> None:
    lake.alter(
        "ops.ledger",
        lambda rows: only(rows, topic="user-events", partition=0, seq=2).update(start_offset=3, records=1, valid=0),
    )
    assert named(lake.audit()) == [("ledger.gap", "ops.ledger", "user-events/0", 2, 2, 1)]


def test_a_lost_ledger_batch_is_named(lake: TinyLake) -> None:
    lake.alter("ops.ledger", lambda rows: [drop(topic="user-events", partition=p, seq=2)(rows) for p in (0, 1)])
    assert named(lake.audit()) == [
        ("ledger.sequence", "ops.ledger", "user-events", None, None, 1),
        ("ledger.gap", "ops.ledger", "user-events/0", 2, 3, 2),
        ("ledger.gap", "ops.ledger", "user-events/1", 2, 3, 2),
    ]


def test_a_wrong_count_is_named(lake: TinyLake) -> None:
    lake.alter(
        "ops.ledger", lambda rows: only(rows, topic="service-logs", partition=1, seq=1).update(duplicates=0, valid=2)
    )
    result = lake.audit()
    assert named(result) == [("ledger.counts", "ops.ledger", "service-logs/1", 0, 1, 2)]
    assert result["problems"][0]["detail"] == "seq 1: valid 2, in silver 1, duplicates 0, in neither 1"


@pytest.mark.parametrize(
    ("table", "cell", "detail"),
    [
        ("gold.activity_minute", ("users", 7), "2026-11-24T16:00:00Z:"),
        ("gold.post_engagement_daily", ("likes", -1), "2026-11-24:p"),
        ("gold.user_activity_daily", ("last_at", T0), "2026-11-24:u"),
        (
            "gold.service_health_minute",
            ("p95_ms", 5.00001),
            "2026-11-24T16:00:00Z:shop: p95_ms 5.00001, recomputed 5.0",
        ),
        ("gold.host_utilization_minute", ("avg", 0.2501), "2026-11-24T16:00:00Z:h"),
        ("gold.trending_posts", ("score", 1.5), "rank 1: score 1.5, recomputed"),
    ],
)
def test_an_altered_gold_cell_is_named(lake: TinyLake, table: str, cell: tuple[str, Any], detail: str) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows.sort(key=lambda row: [str(value) for value in row.values()])
        rows[0][cell[0]] = cell[1]

    lake.alter(table, change)
    result = lake.audit()
    assert [(p["rule"], p["table"]) for p in result["problems"]] == [("gold.values", table)]
    assert result["problems"][0]["detail"].startswith(detail) and cell[0] in result["problems"][0]["detail"]
    assert [name for name, found in result["gold"].items() if not found["balanced"]] == [table]


def test_a_lost_and_a_foreign_gold_row_are_named(lake: TinyLake) -> None:
    lake.alter("gold.user_activity_daily", lambda rows: only(rows, user_id="u2").update(user_id="u9"))
    assert [p["detail"] for p in lake.audit()["problems"]] == ["2026-11-24:u2: missing", "2026-11-24:u9: not in silver"]


def test_a_repeated_gold_row_is_named(lake: TinyLake) -> None:
    lake.alter("gold.post_engagement_daily", lambda rows: rows.append(only(rows, post_id="p2")))
    assert [p["detail"] for p in lake.audit()["problems"]] == ["2026-11-24:p2: 2 rows"]


def test_neighbours_are_one_range_and_the_rest_is_counted(tmp_path: Path) -> None:
    lake = TinyLake(tmp_path, {"user-events": [(0, offset, offset * S, event(f"e{offset}")) for offset in range(100)]})
    lake.alter("silver.user_events", lambda rows: [drop(offset=o)(rows) for o in (0, 1, 2, *range(10, 60, 2))])
    lost = [p for p in named(lake.audit()) if p[0] == "duplicates.lost"]
    assert lost[0] == ("duplicates.lost", "silver.user_events", "user-events/0", 0, 2, 3)
    assert len(lost) == 21 and lost[-1] == ("duplicates.lost", "silver.user_events", "user-events", None, None, 28)


# Documents, as the fan-out writes them.


def when(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def gold_documents(lake: TinyLake, table: str) -> dict[str, dict[str, Any]]:
    key, other, *_ = TABLES[table].key
    return {
        f"{row[key]}:{row[other]}": row | {key: str(row[key]), "version": 0} for row in lake.tables[table].to_pylist()
    }


def log_documents(lake: TinyLake) -> dict[str, dict[str, Any]]:
    nested = ("message", "log", "service", "host", "trace", "http", "event", "url", "error")
    return {
        row["event_id"]: {"@timestamp": when(row["time"]), "lakehouse": {"rescued": row["_rescued"]} | provenance(row)}
        | {name: row[name] for name in nested if row[name] is not None}
        for row in lake.tables["silver.service_logs"].to_pylist()
    }


def metric_documents(lake: TinyLake) -> dict[str, dict[str, Any]]:
    return {
        f"{row['record_id']}:{row['metric']}": {
            "@timestamp": when(row["time"]),
            "host": {"name": row["host"]},
            "metric": row["metric"],
            "value": row["value"],
            "dimensions": dict(row["dimensions"]),
            "lakehouse": provenance(row),
        }
        for row in lake.tables["silver.system_metrics"].to_pylist()
    }


def provenance(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("topic", "partition", "offset")}


def latest(lake: TinyLake, table: str) -> dict[str, Any]:
    window, *others = TABLES[table].key
    rows = sorted(lake.tables[table].to_pylist(), key=lambda row: [row[name] for name in others])
    rows.sort(key=lambda row: row[window], reverse=True)
    shown = [
        {k: when(v) if isinstance(v, datetime) else str(v) if isinstance(v, date) else v for k, v in row.items()}
        for row in rows
    ]
    return {"table": table, "version": 0, "at": when(T0), "rows": shown[:100]}


@pytest.fixture
def run(lake: TinyLake) -> Iterator[Run]:
    with Run(lake.settings, lambda _: None, Lake(lake.settings).cuts()) as found:
        yield found


def details(run: Run) -> list[tuple[str, str]]:
    return [(problem["rule"], problem["detail"]) for problem in run.problems]


POSTS = "gold.post_engagement_daily"
USERS = "gold.user_activity_daily"


@pytest.mark.parametrize("table", [POSTS, USERS])
def test_documents_of_a_gold_table_are_its_rows(lake: TinyLake, run: Run, table: str) -> None:
    documents = gold_documents(lake, table)
    assert stores.gold_documents(run, "m", table, documents.items(), key_text(table, "gold"), "milliseconds") == len(
        documents
    )
    assert details(run) == []


def test_a_changed_a_lost_and_a_foreign_document_are_named(lake: TinyLake, run: Run) -> None:
    documents = gold_documents(lake, USERS)
    documents["2026-11-24:u2"]["first_at"] += timedelta(milliseconds=1)
    documents["2026-11-24:u9"] = documents.pop("2026-12-02:u1")
    stores.gold_documents(run, "m", USERS, documents.items(), key_text(USERS, "gold"), "milliseconds")
    assert details(run) == [
        ("store.missing", "2026-12-02:u1: missing"),
        ("store.values", "2026-11-24:u2: first_at not as in gold"),
        ("store.values", "2026-11-24:u9: no such row in gold"),
    ]


def test_a_document_ahead_of_the_cut_is_held_against_gold_at_its_version(lake: TinyLake, run: Run) -> None:
    newer = lake.tables[POSTS].to_pylist()
    newer[0]["views"] += 1
    newer.append(newer[1] | {"post_id": "new"})
    write_deltalake(lake.settings.table_uri(POSTS), _table(POSTS, newer), mode="overwrite")
    documents = gold_documents(lake, POSTS)
    first, second = (f"{row['date']}:{row['post_id']}" for row in newer[:2])
    documents[first] |= {"views": newer[0]["views"], "version": 1}
    documents[f"{newer[-1]['date']}:new"] = documents[second] | {
        "post_id": "new",
        "version": 1,
        "date": str(newer[-1]["date"]),
    }
    documents[second]["views"] += 1
    stores.gold_documents(run, "m", POSTS, documents.items(), "date || ':' || post_id", "milliseconds")
    assert details(run) == [("store.values", f"{second}: views not as in gold")]


@pytest.mark.parametrize("table", [name for name in STREAMED if name.startswith("gold.")])
def test_the_latest_rows_in_redis_are_those_of_gold(lake: TinyLake, run: Run, table: str) -> None:
    body = latest(lake, table)
    assert stores.latest(run, "r", table, json.dumps(body)) == len(body["rows"])
    assert details(run) == []
    body["rows"].reverse()
    body["rows"].append(body["rows"][0])
    stores.latest(run, "r", table, json.dumps(body))
    assert f"{len(body['rows'])}: no such row in gold" in {problem["detail"] for problem in run.problems}


def test_a_key_that_is_missing_or_no_json_is_named(run: Run) -> None:
    stores.latest(run, "r", POSTS, b"{")
    stores.latest(run, "r", USERS, None)
    assert [p["rule"] for p in run.problems] == ["store.values", *["store.missing"] * 3]


def test_documents_of_logs_are_the_silver_rows(lake: TinyLake, run: Run) -> None:
    documents = log_documents(lake)
    assert "service-logs/0/1" in documents
    assert stores.log_documents(run, documents.items()) == 3
    assert details(run) == []


def test_changed_and_lost_log_documents_are_named_and_those_ahead_are_not(lake: TinyLake, run: Run) -> None:
    documents = log_documents(lake)
    documents["l1"]["log"] = {"level": "warn"}
    documents["l1"]["lakehouse"]["rescued"] = None
    documents["x"] = documents.pop("l2")
    documents["ahead"] = documents["l1"] | {"lakehouse": {"topic": "service-logs", "partition": 0, "offset": 3}}
    stores.log_documents(run, documents.items())
    assert [(p["rule"], p["partition"], p["from"], p["detail"]) for p in run.problems] == [
        ("store.values", 0, 0, "log.level, lakehouse.rescued not as in silver"),
        ("store.values", 1, 1, "x: _id is not l2"),
        ("store.missing", 1, 1, "no document"),
    ]


def test_documents_of_metrics_are_the_samples(lake: TinyLake, run: Run) -> None:
    documents = metric_documents(lake)
    assert stores.metric_documents(run, documents.items()) == 4
    assert details(run) == []
    first = next(iter(documents))
    documents[first] |= {"value": 7, "dimensions": {}}
    documents.popitem()
    stores.metric_documents(run, documents.items())
    assert details(run) == [("store.values", "value, dimensions not as in silver"), ("store.missing", "no document")]


def test_a_long_id_is_its_hash(tmp_path: Path) -> None:
    name = "é" * 257
    lake = TinyLake(tmp_path, {"service-logs": [(0, 0, 0 * S, log(name))]})
    documents = {hashlib.sha256(name.encode()).hexdigest(): log_documents(lake)[name]}
    with Run(lake.settings, lambda _: None, Lake(lake.settings).cuts()) as run:
        stores.log_documents(run, documents.items())
        assert details(run) == []


def test_a_store_behind_the_cut_is_said_to_be() -> None:
    changes, silver = {"user-events": 7}, {"silver.service_logs": {"0": 41, "1": 3}}
    assert stores.lag({"changes": changes, "silver": silver}, changes, silver) == []
    assert stores.lag(None, changes, {}) == ["user-events: batch 0 of 7"]
    assert stores.lag({"changes": changes, "silver": {"silver.service_logs": {"0": 41}}}, changes, silver) == [
        "silver.service_logs/1: offset none of 3"
    ]


def test_stores_that_are_not_there_are_problems_not_errors(lake: TinyLake) -> None:
    settings = lake.settings.model_copy(
        update={
            "mongo": Mongo(uri=SecretStr("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100")),
            "redis": Redis(url=SecretStr("redis://127.0.0.1:1/0")),
            "elasticsearch": Elasticsearch(url=SecretStr("http://127.0.0.1:1")),
        }
    )
    result = audit(settings, kafka=False, wait=timedelta(0))
    assert [(p["rule"], p["table"]) for p in result["problems"]] == [
        ("store.unreachable", store) for store in ("mongodb", "redis", "elasticsearch")
    ]
    assert not result["balanced"] and not any(found["balanced"] for found in result["stores"].values())


# Kafka, without a broker: what a reader found, held against bronze.


def test_what_kafka_has_is_held_against_bronze_byte_for_byte(lake: TinyLake, run: Run) -> None:
    topic = TOPICS[0]
    records(run, topic)
    kafka.prepare(run, {0: 1, 1: 0})  # offset 0/0 has expired
    rows: list[tuple[Any, ...]] = [
        (row["partition"], row["offset"], int(row["timestamp"].timestamp() * 1e6), row["key"], row["value"], [])
        for row in lake.tables["bronze.user_events"].to_pylist()
        if (row["partition"], row["offset"]) != (0, 0)
    ]
    kafka.add(run, rows)
    assert kafka.compare(run, topic) == 1
    assert details(run) == []
    altered = [row for row in rows if row[:2] not in ((0, 1), (0, 2), (1, 3))]
    altered += [
        (0, 1, rows[0][2], b"other", rows[0][4], []),
        (1, 2, 0, None, None, []),
        (1, 3, 0, b"k", rows[5][4], []),
    ]
    kafka.prepare(run, {0: 0, 1: 0})
    kafka.add(run, altered)
    assert kafka.compare(run, topic) == 0
    assert [(p["rule"], p["partition"], p["from"], p["to"]) for p in run.problems] == [
        ("kafka.missing", 1, 2, 2),
        ("kafka.extra", 0, 0, 0),
        ("kafka.extra", 0, 2, 2),
        ("kafka.bytes", 0, 1, 1),
        ("kafka.bytes", 1, 3, 3),
    ]


# Edge records.


DEEP = b'{"a":' * 99
EDGE_EVENTS: list[tuple[str, bytes | None, bool]] = [
    ("plain", event("a"), True),
    ("null", None, False),
    ("empty", b"", False),
    ("array", b"[]", False),
    ("NaN", event("a", rating=1.0).replace(b"1.0", b"NaN"), False),
    ("NaN under an unknown name", event("a", x=1.5).replace(b"1.5", b"NaN"), False),
    ("1e999", event("a", x=1.5).replace(b"1.5", b"1e999"), False),
    ("an integer of 400 digits", event("a", x=15).replace(b"15", b"9" * 400), False),
    ("an integer of 30 digits", event("a", x=15).replace(b"15", b"9" * 30), True),
    ("2^64 - 1", event("a", x=2**64 - 1), True),
    ("minus zero", event("a", x=[7]).replace(b"[7]", b"[-0, -0.0]"), True),
    ("the last of two equal keys counts", event("a").replace(b'"view"', b'"nope", "event_type": "view"'), True),
    ("the last of two equal keys is wrong", event("a").replace(b'"view"', b'"view", "event_type": "nope"'), False),
    ("trailing comma", event("a")[:-1] + b",}", False),
    ("two values", event("a") + event("b"), False),
    ("byte order mark", b"\xef\xbb\xbf" + event("a"), False),
    ("broken UTF-8", event("a", text="x").replace(b'"x"', b'"\xff"'), False),
    ("an encoded surrogate", event("a", text="x").replace(b'"x"', b'"\xed\xa0\x80"'), False),
    ("half a surrogate pair", event("a", text="x").replace(b'"x"', rb'"\ud800"'), False),
    ("half a pair under an unknown name", event("a", more="x").replace(b'"x"', rb'{"\udc00": 1}'), False),
    ("half a pair that is overwritten", event("a", more="x").replace(b'"x"', rb'"\ud800", "more": 1'), False),
    ("a surrogate pair", event("a", text="x").replace(b'"x"', rb'"\ud83d\ude00"'), True),
    ("a control character", event("a", text="x").replace(b'"x"', b'"\x01"'), False),
    ("a NUL, escaped", event("a", text="a\0b"), True),
    ("depth 100", event("a", more="x").replace(b'"x"', DEEP + b"1" + b"}" * 99), True),
    ("depth 101", event("a", more="x").replace(b'"x"', DEEP + b"{}" + b"}" * 99), False),
    ("depth 10000", event("a", more="x").replace(b'"x"', b"[" * 10000 + b"]" * 10000), False),
    ("brackets in a string", event("a", text="[" * 500 + '\\"{'), True),
    ("missing post_id", event("a", post_id=None), False),
    ("blank post_id", event("a", post_id=" \u2003"), False),
    ("blank post_id of a visit", event("a", post_id=" ", event_type="visit"), True),
    ("no-break space as user", event("a", user_id="\u00a0\u0085"), False),
    ("zero-width space as user", event("a", user_id="\u200b"), True),
    ("a number as user", event("a", user_id=5), False),
    ("null user", event("a", user_id=None), False),
    ("text 5 as rating", event("a", rating="5"), False),
    ("rating 5", event("a", rating=5), True),
    ("rating true", event("a", rating=True), False),
    ("rating 0.49", event("a", rating=0.49), False),
    ("rating null", event("a", rating=None), True),
    ("duration -1", event("a", duration_ms=-1), False),
    ("duration 1e300", event("a", duration_ms=1e300), True),
    ("unknown type", event("a", event_type="VIEW"), False),
    ("a list as type", event("a", event_type=["view"]), False),
    ("an object as type", event("a", event_type={"a": 1}), False),
    ("properties with a number", event("a", properties={"a": 1}), False),
    ("properties with null", event("a", properties={"a": None}), False),
    ("properties empty", event("a", properties={}), True),
    ("properties a list", event("a", properties=[]), False),
    ("year 9999", event("a", occurred_at="9999-12-31T23:59:59Z"), False),
    ("year 0000", event("a", occurred_at="0000-01-01T00:00:00Z"), False),
    ("1970", event("a", occurred_at="1970-01-01T00:00:00Z"), True),
    ("before 1970", event("a", occurred_at="1970-01-01T00:00:00+00:01"), False),
    ("24 h ahead", event("a", occurred_at="2026-11-25T16:00:30Z"), True),
    ("more than 24 h ahead", event("a", occurred_at="2026-11-25T16:00:30.000001Z"), False),
    ("less than a microsecond more", event("a", occurred_at="2026-11-25T16:00:30.0000009Z"), True),
    ("second 60", event("a", occurred_at="2016-12-31t23:59:60.5z"), True),
    ("second 61", event("a", occurred_at="2016-12-31T23:59:61Z"), False),
    ("30 February", event("a", occurred_at="2026-02-30T00:00:00Z"), False),
    ("no offset", event("a", occurred_at="2026-11-24T16:00:00"), False),
    ("offset of 24 h", event("a", occurred_at="2026-11-24T16:00:00+24:00"), False),
    ("offset -00:00", event("a", occurred_at="2026-11-24T16:00:00-00:00"), True),
    ("offset -23:59", event("a", occurred_at="2026-11-23T00:00:00.999999999-23:59"), True),
    ("a blank for T", event("a", occurred_at="2026-11-24 16:00:00Z"), False),
    ("a line end after Z", event("a", occurred_at="2026-11-24T16:00:00Z\n"), False),
    ("Arabic digits", event("a", occurred_at="٢٠٢٦-11-24T16:00:00Z"), False),
    ("time as a number", event("a", occurred_at=1764000000), False),
]
EDGE_LOGS: list[tuple[str, bytes | None, bool]] = [
    ("only a time", b'{"@timestamp": "2026-11-24T16:00:00Z"}', True),
    ("no time", b'{"message": "x"}', False),
    ("duration 500.0", log("a", event={"duration": 500.0}), True),
    ("duration 500.5", log("a", event={"duration": 500.5}), False),
    ("duration 2^63 - 1", log("a", event={"duration": 2**63 - 1}), True),
    ("duration 2^63", log("a", event={"duration": 2**63}), False),
    ("duration -2^63", log("a", event={"duration": -(2**63)}), True),
    ("duration 9.3e18", log("a", event={"duration": 9.3e18}), False),
    ("status as text", log("a", http={"response": {"status_code": "200"}}), False),
    ("status true", log("a", http={"response": {"status_code": True}}), False),
    ("http null", log("a", http=None), True),
    ("response a number", log("a", http={"response": 5}), False),
    ("response empty", log("a", http={"response": {}}), True),
    ("log a string", log("a", log="info"), False),
    ("level a number", log("a", log={"level": 5}), False),
    ("message an object", log("a", message={}), False),
    ("unknown in every object", log("a", log={"a": None}, url={"b": {}}, http={"response": {"c": 1}, "d": []}), True),
    ("dotted names are unknown names", log("a", **{"log.level": 5}), True),
    ("blank event.id", log(" "), True),
    ("event.id a number", log(5), False),  # type: ignore[arg-type]
]
TIME = b'{"@timestamp": "2026-11-24T16:00:00Z", '
EDGE_METRICS: list[tuple[str, bytes | None, bool]] = [
    ("plain", metric("h"), True),
    ("no host", TIME + b'"a": {"b": 1}}', True),
    ("host a string", TIME + b'"host": "h", "a": 1}', False),
    ("host.name a number", TIME + b'"host": {"name": 5}, "a": 1}', False),
    ("dataset a number", TIME + b'"event": {"dataset": 5}, "a": 1}', False),
    ("host with a number", TIME + b'"host": {"name": "h", "cpu": 0.5}}', True),
    ("no sample", TIME + b'"a": "b"}', False),
    ("numbers in arrays only", TIME + b'"a": [1, {"b": 2}]}', False),
    ("numbers in base fields only", TIME + b'"labels": {"a": 1}, "message": 5, "tags": 7}', False),
    ("base field names deeper down", TIME + b'"a": {"labels": 5, "@timestamp": 6}}', True),
    ("true is no number", TIME + b'"a": true}', False),
    ("1e999", TIME + b'"a": 1e999}', False),
    ("huge integer", TIME + b'"a": 123456789012345678901234567890}', True),
    ("empty and odd names", TIME + b'"": {"": 1, "a\\"b": 2, "~/": 3, "0": 4}}', True),
    ("time as the host", b'{"host": {"name": "h"}, "a": 1}', False),
    ("two numbers of one path", TIME + b'"a.b": 1, "a": {"b": 2}}', False),
    ("two strings of one path", TIME + b'"n": 1, "a.b": "x", "a": {"b": "y"}}', False),
    ("a number and a string of one path", TIME + b'"a.b": 1, "a": {"b": "x"}}', True),
]


def edges(topic: str, cases: list[tuple[str, bytes | None, bool]]) -> list[Any]:
    return [pytest.param(topic, value, valid, id=f"{topic}: {name}") for name, value, valid in cases]


EDGES = [
    *edges("user-events", EDGE_EVENTS),
    *edges("service-logs", EDGE_LOGS),
    *edges("system-metrics", EDGE_METRICS),
]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bytes | None], bool]:
    """What the audit alone makes of every edge record: (topic, value) -> valid."""
    found: dict[tuple[str, bytes | None], bool] = {}
    folder = tmp_path_factory.mktemp("edges")
    with Run(Settings(home=folder), lambda _: None, {}) as run:
        for topic in ("user-events", "service-logs", "system-metrics"):
            cases = [param.values for param in EDGES if param.values[0] == topic]
            values = pa.array([value for _, value, _ in cases], pa.binary())
            offsets, zeros = pa.array(range(len(cases)), pa.int64()), pa.array([0] * len(cases), pa.int32())
            times = pa.array([T0] * len(cases), pa.timestamp("us", "UTC"))
            run.db.register(
                "bronze", pa.table({"partition": zeros, "offset": offsets, "timestamp": times, "value": values})
            )
            run.rows(sections(topic.replace("-", "_"), "-- silver")[0][1])
            wrong = dict(run.rows('select "offset", wrong from record'))
            found |= {(topic, case[1]): wrong[i] == "" for i, case in enumerate(cases)}
    return found


@pytest.mark.parametrize(("topic", "value", "valid"), EDGES)
def test_an_edge_record_is_judged_as_designed(
    judged: dict[tuple[str, bytes | None], bool], topic: str, value: bytes | None, valid: bool
) -> None:
    assert judged[topic, value] == valid


@pytest.mark.parametrize(("topic", "value", "valid"), EDGES)
def test_the_stream_judges_an_edge_record_as_the_audit_does(topic: str, value: bytes | None, valid: bool) -> None:
    checked = checker(contracts()[topic])(value, int(T0.timestamp() * 1_000_000))
    assert (checked.reasons is None) == valid, checked.reasons


def test_edge_records_that_are_valid_reach_silver_as_the_audit_reads_them(tmp_path: Path) -> None:
    found: dict[str, list[Record]] = {}
    for param in EDGES:
        topic, value, valid = param.values
        if valid:
            place = len(found.setdefault(topic, []))
            found[topic].append(
                (
                    0,
                    place,
                    timedelta(0),
                    value if topic != "user-events" else value.replace(b'"a"', b'"a%d"' % place, 1),
                )
            )
    result = TinyLake(tmp_path, found).audit()
    assert result["problems"] == []


def test_canonical_json_is_sorted_and_keeps_numbers() -> None:
    assert canonical(b'{"b": 1.50, "a": [500.0, 7], "b": "\\u00e9"}') == '{"a":[500.0,7],"b":"é"}'
