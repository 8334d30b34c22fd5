from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse.quality.quarantine import mark
from lakehouse.query import QueryError, query, rows, to_json, write_csv
from lakehouse.runtime.recovery import beyond
from lakehouse.settings import Settings
from lakehouse.sources.lake import Lake, LakeError
from tests.unit.local_lake import local_lake, write

MINUTE = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = local_lake(tmp_path)
    write(made, "gold.activity_minute", [{"window_start": MINUTE, "event_type": "view", "events": 2, "users": 1}])
    return made


def test_times_are_rfc_3339_in_utc(settings: Settings) -> None:
    answer = query(settings, "select * from gold.activity_minute")
    assert json.loads(to_json(answer)) == [
        {"window_start": "2026-01-02T03:04:00Z", "event_type": "view", "events": 2, "users": 1}
    ]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("'nan'::double", None),
        ("date '2026-01-02'", "2026-01-02"),
        ("'\\xFF'::blob", "/w=="),
        ("map {'a': 1}", {"a": 1}),
        ("{'a': [1, null]}", {"a": [1, None]}),
        ("1.5::decimal(5,1)", 1.5),
        ("null", None),
        ("sum(1)", 1),
    ],
)
def test_every_type_has_a_json_form(settings: Settings, expression: str, value: object) -> None:
    assert json.loads(to_json(query(settings, f"select {expression} as v"))) == [{"v": value}]


def test_csv_has_a_header_and_leaves_null_empty(settings: Settings) -> None:
    out = io.StringIO()
    write_csv(
        query(settings, """select timestamptz '2026-01-02 03:04:05Z' as at, null as n, 'a "b",c' as t, [1] as l"""), out
    )
    assert out.getvalue() == 'at,n,t,l\r\n2026-01-02T03:04:05Z,,"a ""b"",c",[1]\r\n'


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("select * from gold.activity_minut", "no table gold.activity_minut: did you mean gold.activity_minute?"),
        ("select evnts from gold.activity_minute", "no column evnts: did you mean events?"),
        ("select a.evnts from gold.activity_minute a", "no column evnts: did you mean events?"),
        ("select * from gold.trending_posts", "gold.trending_posts is not there yet"),
        ("selec 1", "syntax error"),
        ("select 1; select 2", "one SELECT at a time"),
        ("copy (select 1) to 'x.csv'", "one SELECT at a time"),
        ("delete from gold.activity_minute", "one SELECT at a time"),
    ],
)
def test_a_query_that_cannot_be_answered_says_why_in_one_line(settings: Settings, sql: str, words: str) -> None:
    with pytest.raises(QueryError) as caught:
        query(settings, sql)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_layers_name_may_be_an_alias_and_stand_in_text(settings: Settings) -> None:
    found = query(settings, "select gold.events, 'silver.nothing' from gold.activity_minute gold -- bronze.nothing")
    assert found.rows == [(2, "silver.nothing")]


def test_a_column_without_statistics_does_not_hide_rows(tmp_path: Path) -> None:
    settings = local_lake(tmp_path)
    row = {"partition": 0, "offset": 7, "timestamp": MINUTE, "ingest_date": date(2026, 1, 2)}
    write(settings, "bronze.user_events", [{"topic": "user-events", **row}])
    log = next(Path(settings.table_uri("bronze.user_events").removeprefix("file://"), "_delta_log").glob("*.json"))
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "add" in action:
            stats = json.loads(action["add"]["stats"])
            for part in ("minValues", "maxValues", "nullCount"):
                stats[part] = {name: stats[part][name] for name in ("offset",)}
            action["add"]["stats"] = json.dumps(stats)
    log.write_text("\n".join(map(json.dumps, actions)))
    found = rows(settings, 'select "offset" from bronze.user_events where topic = ? and partition = 0', ["user-events"])
    assert found == [{"offset": 7}]


@pytest.mark.parametrize("where", ["series = 'b'", "series > 'a'", "series in ('b', 'c')", "score > 0.5"])
def test_rows_that_were_merged_can_be_filtered(tmp_path: Path, where: str) -> None:
    from lakehouse.flows import TABLES
    from lakehouse.sinks import batch

    settings = local_lake(tmp_path)
    table = TABLES["gold.anomalies"]
    write(settings, table.name, [{"series": "a", "time": MINUTE, "score": 0.1}])
    rows_ = [{"series": name, "time": MINUTE, "score": score} for name, score in (("a", 0.2), ("b", 0.9))]
    full = [{column: row.get(column) for column in table.schema.names} for row in rows_]
    batch.upsert(settings, table, pa.Table.from_pylist(full, schema=table.arrow))
    assert query(settings, f"select series, score from gold.anomalies where {where}").rows == [("b", 0.9)]


@pytest.mark.parametrize("where", ["topic = 'service-logs'", "topic > 't'", "status = 'open' and partition = 0"])
def test_rows_beside_marked_ones_can_be_filtered(tmp_path: Path, where: str) -> None:
    """A file of several topics, as compaction makes it, that `quarantine discard` has written again."""
    settings = local_lake(tmp_path)
    topics = ("user-events", "service-logs")
    write(settings, "silver.quarantine", [
        {"topic": topic, "partition": 0, "offset": 5, "status": "open", "reasons": ["json"]} for topic in topics
    ])  # fmt: skip
    assert mark(settings, [("user-events", 0, 5)], "discarded") == 1
    found = query(settings, f"select topic, status from silver.quarantine where {where}").rows
    assert found == [("user-events", "discarded") if "'t'" in where else ("service-logs", "open")]
    assert Lake(settings).dataset("silver.quarantine").count_rows(filter=beyond("service-logs", None)) == 1


def test_files_that_cannot_match_are_skipped(tmp_path: Path) -> None:
    import pyarrow.compute as pc

    from lakehouse.sources.datasets import pruned_dataset
    from lakehouse.sources.lake import Lake

    settings = local_lake(tmp_path)
    for offset in (1, 2):
        write(
            settings,
            "bronze.user_events",
            [{"topic": "user-events", "partition": 0, "offset": offset, "timestamp": MINUTE}],
        )
    found = pruned_dataset(Lake(settings).table("bronze.user_events"))
    assert len(list(found.get_fragments(filter=pc.field("offset") > 1))) == 1


def test_storage_that_is_away_is_a_clear_error(tmp_path: Path) -> None:
    settings = local_lake(tmp_path).model_copy(
        update={"hdfs": Settings().hdfs.model_copy(update={"uri": "hdfs://127.0.0.1:1"})}
    )
    with pytest.raises(LakeError, match="not readable"):
        query(settings, "select * from gold.activity_minute")
