"""The graph of what is made from what, and OpenLineage's events of what is in the ledger; no server is there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from openlineage.client import OpenLineageClient
from openlineage.client.transport.file import FileConfig, FileTransport
from pyspark.sql.types import DataType, StructType
from typer.testing import CliRunner

from lakehouse import openlineage
from lakehouse.cli import app
from lakehouse.flows import ANALYSES, FLOWS, LIVE, STORES, TABLES, LiveKey, StoreKey
from lakehouse.lineage import STAGES, LineageError, derived, graph
from lakehouse.openlineage import Emitter, Names, NotTaken, Teller, as_json, batches
from lakehouse.settings import Kafka, Mongo, Settings
from lakehouse.sources.lake import Lake
from tests.unit.local_lake import local_lake, write

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
GENERATION = "6f1e7c4e-9c1b-4d5e-8f0a-000000000001"


# --- the graph -----------------------------------------------------------------------------------------------------


def test_every_topic_table_and_store_key_is_in_the_graph() -> None:
    nodes = graph().nodes
    keys: list[StoreKey | LiveKey] = [*STORES, *LIVE, *(key for analysis in ANALYSES for key in analysis.stores)]
    assert {f"kafka:{flow.topic}" for flow in FLOWS} | TABLES.keys() <= nodes.keys()
    assert {f"{key.store}:{key.name}" for key in keys} <= nodes.keys()
    assert all(name == node.id for name, node in nodes.items())


def test_every_edge_leads_to_a_later_stage_and_every_store_key_has_one_writer() -> None:
    found = graph()
    rank = {name: STAGES.index(node.stage) for name, node in found.nodes.items()}
    order = [*TopologicalSorter({name: found.sources(name) for name in found.nodes}).static_order()]
    assert set(order) == set(found.nodes)
    assert all(rank[a] < rank[b] or (rank[a], rank[b]) == (5, 5) for a, b in found.edges)
    keys = [f"{key.store}:{key.name}" for both in (STORES, LIVE) for key in both]
    assert len(keys) == len(set(keys))


def test_the_way_of_a_store_key_leads_back_to_its_topic() -> None:
    assert graph().upstream("elasticsearch:service-health") == [
        "kafka:service-logs", "bronze.service_logs", "silver.service_logs", "gold.service_health_minute"
    ]  # fmt: skip
    assert {"mlflow:anomaly", "gold.anomalies", "elasticsearch:analysis-anomalies"} <= {
        *graph().downstream("silver.system_metrics")
    }


@pytest.mark.parametrize(
    ("table", "column", "expected"),
    [
        ("gold.activity_minute", "users", {("user_id", "AGGREGATION")}),
        ("gold.activity_minute", "window_start", {("occurred_at", "TRANSFORMATION")}),
        ("gold.activity_minute", "events", set()),
        ("gold.post_engagement_daily", "likes", {("event_type", "CONDITIONAL")}),
        ("gold.service_health_minute", "service", {("service.name", "IDENTITY")}),
        ("gold.service_health_minute", "p95_ms", {("event.duration", "AGGREGATION")}),
        ("gold.service_health_minute", "error_rate", {("http.response.status_code", "CONDITIONAL")}),
        ("gold.trending_posts", "post_id", {("post_id", "IDENTITY")}),
        (
            "gold.trending_posts", "score",
            {("event_type", "CONDITIONAL"), ("occurred_at", "AGGREGATION"), ("timestamp", "AGGREGATION")},
        ),
        ("silver.user_events", "partition", {("partition", "IDENTITY")}),
        ("silver.system_metrics", "value", {("value", "TRANSFORMATION")}),
        ("bronze.user_events", "ingest_date", {("timestamp", "TRANSFORMATION")}),
    ],
)  # fmt: skip
def test_columns_are_made_from(table: str, column: str, expected: set[tuple[str, str]]) -> None:
    assert {(one.column, one.how) for one in graph().nodes[table].columns[column]} == expected


def test_silver_names_the_place_in_a_records_json_by_the_contract() -> None:
    (source,) = graph().nodes["silver.service_logs"].columns["time"]
    assert (source.node, source.column, source.what) == ("bronze.service_logs", "value", "$['@timestamp']")


def test_every_source_column_is_one_of_what_it_is_said_to_be_of() -> None:
    nodes = graph().nodes
    for node in nodes.values():
        if node.columns and node.schema is not None:
            assert set(node.columns) <= set(node.schema.names)
        for source in (*node.decided, *(one for sources in node.columns.values() for one in sources)):
            schema: DataType | None = nodes[source.node].schema
            for part in source.column.split("."):
                assert isinstance(schema, StructType)
                schema = schema[part].dataType
            assert source.node in graph().upstream(node.id)


def test_gold_reads_of_silver_what_its_declaration_says() -> None:
    for flow in FLOWS:
        for aggregate in flow.gold:
            node = graph().nodes[aggregate.name]
            found = {one.column for sources in node.columns.values() for one in sources}
            found |= {one.column for one in node.decided}
            assert {column.partition(".")[0] for column in found} == set(aggregate.inputs)


def test_a_value_that_goes_in_says_more_than_that_it_decides() -> None:
    columns, decided = derived(
        "select a, cast(n as bigint) as n, s from (select k as a, count(distinct u) as n, "
        "max(case when u > 1 then u else 0 end) as s from source where v > 0 group by k) as inner_",
        "silver.x",
    )
    assert {name: [(one.column, one.how) for one in sources] for name, sources in columns.items()} == {
        "a": [("k", "IDENTITY")], "n": [("u", "AGGREGATION")], "s": [("u", "AGGREGATION")]
    }  # fmt: skip
    assert {(one.column, one.how) for one in decided} == {("k", "GROUP_BY"), ("v", "FILTER")}


def test_a_name_may_be_short_and_a_wrong_one_names_the_nearest() -> None:
    assert graph().find("activity_minute").id == "gold.activity_minute"
    with pytest.raises(LineageError, match=r"bronze\.user_events or"):
        graph().find("user_events")
    with pytest.raises(LineageError, match=r"did you mean gold\.activity_minute\?"):
        graph().find("gold.activity_minutes")


def test_the_terminal_shows_a_node_and_its_columns() -> None:
    shown = CliRunner().invoke(app, ["lineage", "gold.user_activity_daily", "--columns"])
    assert shown.exit_code == 0 and "silver.user_events.session_id (aggregation)" in shown.output
    found = json.loads(CliRunner().invoke(app, ["lineage", "gold.user_activity_daily", "--json"]).output)
    assert found["upstream"] == ["kafka:user-events", "bronze.user_events", "silver.user_events"]


# --- events --------------------------------------------------------------------------------------------------------


def row(topic: str, seq: int, partition: int = 0, **more: Any) -> dict[str, Any]:
    versions = {table.name: 10 * seq for flow in FLOWS if flow.topic == topic for table in flow.tables}
    return {
        "topic": topic, "seq": seq, "partition": partition, "start_offset": 10 * seq - 10, "end_offset": 10 * seq,
        "records": 10, "valid": 8, "quarantined": 1, "duplicates": 1, "batch_ms": 400, "engine": "fused",
        "versions": [*versions.items()], "committed_at": NOW + timedelta(seconds=seq), **more,
    }  # fmt: skip


def change(topic: str, seq: int, table: str, key: str | None) -> dict[str, Any]:
    return {"topic": topic, "seq": seq, "table": table, "version": 10 * seq, "key": key, "row": "{}" if key else None}


@pytest.fixture
def lake(tmp_path: Path) -> Settings:
    """Three batches of events and one of metrics; no store answers."""
    settings = local_lake(tmp_path).model_copy(
        update={
            "kafka": Kafka(bootstrap_servers="broker-1:9092,broker-2:9092"),
            "mongo": Mongo(uri="mongodb://reader:secret@mongo-1:27017,mongo-2:27017/?replicaSet=r"),  # type: ignore[arg-type]
        }
    )
    settings = settings.model_copy(update={"stream": settings.stream.model_copy(update={"stores": ()})})
    write(settings, "ops.ledger", [row("user-events", seq, part) for seq in (1, 2, 3) for part in (0, 1)])
    write(settings, "ops.ledger", [row("system-metrics", 1, quarantined=0, valid=9)])
    changes = [
        *(change("user-events", seq, "gold.post_engagement_daily", key) for seq in (1, 2, 3) for key in ("a", "b")),
        *(change("user-events", seq, "gold.activity_minute", None) for seq in (1, 2, 3)),
        change("system-metrics", 1, "gold.host_utilization_minute", None),
    ]  # fmt: skip
    write(settings, "_internal.gold_changes", changes)
    for name in (*(one.table.name for one in ANALYSES), "ops.promotions"):
        write(settings, name, [])
    return settings


class Backend:
    """Takes events; ``error`` is what it does instead."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def __call__(self, event: Any) -> None:
        if self.error is not None:
            raise self.error
        self.events.append(json.loads(as_json(event)))

    def ids(self) -> set[str]:
        return {event["run"]["runId"] for event in self.events if "run" in event}

    def jobs(self) -> list[str]:
        return [event["job"]["name"] for event in self.events if event.get("eventType") == "COMPLETE"]


def complete(events: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """The events that end runs, by job."""
    found = [json.loads(as_json(event)) for event in events]
    return {event["job"]["name"]: event for event in found if event["eventType"] == "COMPLETE"}


def short(datasets: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {dataset["name"].removeprefix("/").split("lake/")[-1]: dataset for dataset in datasets}


def test_a_batch_is_told_from_its_topic_to_every_table(lake: Settings) -> None:
    batch = batches(Lake(lake), "topic = $1 and seq = 2", ["user-events"])[0]
    found = complete(Teller(lake, GENERATION).ingested(batch))
    assert [*found] == ["ingest.user-events", "ingest.user-events.silver", "ingest.user-events.gold"]
    landed = found["ingest.user-events"]
    (read,) = landed["inputs"]
    assert (read["namespace"], read["name"]) == ("kafka://broker-1:9092", "user-events")
    assert read["inputFacets"]["lakehouse_offsets"]["partitions"] == [
        {"partition": 0, "start": 10, "end": 20}, {"partition": 1, "start": 10, "end": 20}
    ]  # fmt: skip
    assert landed["run"]["facets"]["lakehouse_batch"]["valid"] == 16
    (bronze,) = landed["outputs"]
    assert bronze["outputFacets"]["outputStatistics"]["rowCount"] == 20
    assert bronze["facets"]["version"]["datasetVersion"] == "20"
    silver = short(found["ingest.user-events.silver"]["outputs"])
    assert {name: one["outputFacets"]["outputStatistics"]["rowCount"] for name, one in silver.items()} == {
        "silver/user_events": 16, "silver/quarantine": 2
    }  # fmt: skip
    assert found["ingest.user-events.silver"]["run"]["facets"]["parent"]["run"]["runId"] == landed["run"]["runId"]
    gold = short(found["ingest.user-events.gold"]["outputs"])
    assert set(gold) == {"gold/activity_minute", "gold/post_engagement_daily"}
    assert gold["gold/post_engagement_daily"]["outputFacets"]["outputStatistics"]["rowCount"] == 2
    assert "outputStatistics" not in gold["gold/activity_minute"]["outputFacets"]
    (user,) = gold["gold/activity_minute"]["facets"]["columnLineage"]["fields"]["users"]["inputFields"]
    assert (user["field"], user["transformations"][0]["subtype"]) == ("user_id", "AGGREGATION")
    # What a column is made from is a dataset that the run read.
    assert {(user["namespace"], user["name"])} == {
        (one["namespace"], one["name"]) for one in found["ingest.user-events.gold"]["inputs"]
    }


def test_a_store_is_told_the_keys_of_it_that_changed(lake: Settings) -> None:
    batch = batches(Lake(lake), "topic = $1 and seq = 2", ["user-events"])[0]
    teller = Teller(lake, GENERATION)
    (found,) = complete(teller.fanned_out(batch, "mongodb", NOW)).values()
    assert found["job"]["name"] == "fan-out.mongodb.user-events"
    assert [(one["namespace"], one["name"]) for one in found["outputs"]] == [
        ("mongodb://mongo-1:27017", "lakehouse.post_engagement")
    ]
    assert "secret" not in json.dumps(found)
    assert [*short(found["inputs"])] == ["gold/post_engagement_daily"]
    assert complete(teller.fanned_out(batch, "elasticsearch", NOW)) == {}


def test_a_repeat_is_the_same_run_and_another_lake_another(lake: Settings) -> None:
    batch = batches(Lake(lake), "topic = $1 and seq = 2", ["user-events"])[0]

    def ids(generation: str) -> list[str]:
        return [event.run.runId for event in Teller(lake, generation).ingested(batch)]  # type: ignore[union-attr]

    assert ids(GENERATION) == ids(GENERATION) and len(set(ids(GENERATION))) == 3
    assert not set(ids(GENERATION)) & set(ids("6f1e7c4e-9c1b-4d5e-8f0a-000000000002"))


def test_every_event_has_the_shape_of_the_specification(lake: Settings) -> None:
    teller = Teller(lake, GENERATION)
    events = [*teller.standing(NOW), *teller.made("gold.anomalies", 4, NOW, {"silver.system_metrics": 3}, 7)]
    events += teller.trained("trend", "2", {"gold.activity_minute": 5}, NOW)
    for batch in batches(Lake(lake), "true", []):
        events += [*teller.ingested(batch), *teller.fanned_out(batch, "elasticsearch", NOW)]
        events += teller.fanned_out(batch, "redis", NOW)
    shape = jsonschema_rs.validator_for(SHAPE, validate_formats=True)
    for event in events:
        shape.validate(json.loads(as_json(event)))
    assert not shape.is_valid({**json.loads(as_json(events[-1])), "eventTime": "yesterday"})


_DATASET = {
    "type": "object", "required": ["namespace", "name"],
    "properties": {
        "namespace": {"type": "string", "minLength": 1}, "name": {"type": "string", "minLength": 1},
        **{part: {"type": "object", "additionalProperties": {"$ref": "#/$defs/facet"}}
           for part in ("facets", "inputFacets", "outputFacets")},
    },
}  # fmt: skip
SHAPE = {
    "$defs": {"facet": {"type": "object", "required": ["_producer", "_schemaURL"]}},
    "type": "object", "required": ["eventTime", "producer", "schemaURL", "job"],
    "properties": {
        "eventTime": {"type": "string", "format": "date-time"},
        "producer": {"type": "string", "pattern": "^[a-z]+:.+"}, "schemaURL": {"type": "string", "pattern": "^https:"},
        "eventType": {"enum": ["START", "COMPLETE"]},
        "run": {"type": "object", "required": ["runId"], "properties": {"runId": {"type": "string", "format": "uuid"}}},
        "job": {"type": "object", "required": ["namespace", "name"]},
        "inputs": {"type": "array", "items": _DATASET}, "outputs": {"type": "array", "items": _DATASET},
    },
    "if": {"required": ["run"]}, "then": {"required": ["eventType"]},
}  # fmt: skip
"""What OpenLineage.json 2-0-2 demands of run and job events; the package holds the classes made from it, not itself."""


def test_a_name_holds_the_address_and_no_password(lake: Settings) -> None:
    names = Names(lake)
    hdfs = Names(Settings())
    assert hdfs.of("gold.activity_minute")[0].startswith("hdfs://")
    assert hdfs.of("gold.activity_minute")[1] == f"/{Settings().hdfs.root.strip('/')}/gold/activity_minute"
    assert names.of("gold.activity_minute")[0] == "file"
    assert all("secret" not in part for node in graph().nodes for part in names.of(node))


# --- telling all the time ------------------------------------------------------------------------------------------


def test_what_is_new_is_told_once_and_what_was_there_before_not(lake: Settings) -> None:
    backend = Backend()
    emitter = Emitter(lake, backend)
    emitter.round()
    assert backend.jobs() == []  # the history is there on demand
    write(lake, "ops.ledger", [row("user-events", 4)])
    emitter.round()
    emitter.round()
    Emitter(lake, backend).round()  # a process that was started anew
    assert backend.jobs() == ["ingest.user-events", "ingest.user-events.silver"]


def test_a_lake_that_is_new_is_told_from_its_first_batch(lake: Settings, tmp_path: Path) -> None:
    fresh, backend = local_lake(tmp_path / "fresh"), Backend()
    fresh = fresh.model_copy(update={"stream": fresh.stream.model_copy(update={"stores": ()})})
    emitter = Emitter(fresh, backend)
    assert emitter.round() is False
    write(fresh, "ops.ledger", [row("user-events", 1), row("user-events", 2)])
    for name in ("_internal.gold_changes", *(one.table.name for one in ANALYSES), "ops.promotions"):
        write(fresh, name, [])
    emitter.round()
    assert backend.jobs().count("ingest.user-events") == 2


def test_events_wait_in_the_ledger_while_nothing_takes_them(lake: Settings) -> None:
    backend = Backend()
    emitter = Emitter(lake, backend)
    emitter.round()
    write(lake, "ops.ledger", [row("user-events", 4)])
    backend.error = ConnectionError("refused")
    with pytest.raises(NotTaken):
        emitter.round()
    state = openlineage.read_state(lake)
    assert state is not None and state["error"] == "refused" and state["failing_since"]
    write(lake, "ops.ledger", [row("user-events", 5)])
    backend.error = None
    emitter.round()
    assert backend.jobs().count("ingest.user-events") == 2
    assert (openlineage.read_state(lake) or {})["error"] is None


def test_an_event_that_is_refused_for_what_it_says_is_counted_and_left_out(lake: Settings) -> None:
    class Answer:
        status_code = 422

    class Refused(Exception):
        response = Answer()

    backend = Backend()
    emitter = Emitter(lake, backend)
    emitter.round()
    write(lake, "ops.ledger", [row("user-events", 4)])
    backend.error = Refused("unprocessable")
    emitter.round()
    assert emitter.state["refused"] == 4 and emitter.state["error"] is None


def test_what_models_write_and_were_trained_on_is_told(lake: Settings) -> None:
    backend = Backend()
    emitter = Emitter(lake, backend, models_every_s=0)
    emitter.round()
    write(lake, "gold.forecasts", [{"series": "host/a/cpu", "time": NOW, "mean": 1.0, "model_version": "3"}])
    decided = {"id": "1", "model": "trend", "version": "3", "action": "promoted", "data": [("gold.activity_minute", 7)]}
    write(lake, "ops.promotions", [{**decided, "decided_at": datetime.now(UTC) + timedelta(minutes=1)}])
    emitter.round()
    assert backend.jobs() == ["score.trend", "train.trend"]
    scored, trained = [event for event in backend.events if event.get("eventType") == "COMPLETE"]
    assert {one["name"] for one in trained["outputs"]} == {"trend"} <= {one["name"] for one in scored["inputs"]}
    (read,) = trained["inputs"]
    assert read["facets"]["version"]["datasetVersion"] == "7"


def test_a_span_is_told_again_by_the_client_as_it_is_configured(lake: Settings, tmp_path: Path) -> None:
    kept = tmp_path / "events.ndjson"
    client = OpenLineageClient(transport=FileTransport(FileConfig(str(kept), append=True)))
    for event in openlineage.told(lake, NOW + timedelta(seconds=2), NOW + timedelta(seconds=3)):
        client.emit(event)
    found = [json.loads(line) for line in kept.read_text().splitlines()]
    ledger = [event["run"]["facets"].get("lakehouse_batch") for event in found if "run" in event]
    assert {one["seq"] for one in ledger if one} == {2}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OPENLINEAGE_URL": "http://localhost:5000"}, True),
        ({"OPENLINEAGE_URL": "http://localhost:5000", "OPENLINEAGE_DISABLED": "true"}, False),
        ({"OPENLINEAGE__TRANSPORT__TYPE": "console"}, True),
    ],
)
def test_it_is_off_until_openlineages_own_configuration_turns_it_on(
    environment: dict[str, str], expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENLINEAGE_URL", "OPENLINEAGE_DISABLED", "OPENLINEAGE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert openlineage.configured() is expected
