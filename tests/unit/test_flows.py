"""The map, read without Spark."""

from __future__ import annotations

from collections import Counter
from graphlib import TopologicalSorter

import pytest
from pyspark.sql import SparkSession

from lakehouse.contracts import TOPICS, contracts
from lakehouse.flows import ANALYSES, FLOWS, STORES, STREAMED, TABLES, effects
from lakehouse.runtime.ledger import CHANGES, LEDGER
from lakehouse.silver import quarantine

SHARED = {quarantine.TABLE.name, CHANGES.name, LEDGER.name}
"""Tables that every topic's pass appends to, each under its own topic's keys."""
GOLD = {
    "gold.activity_minute": "window_start event_type events users",
    "gold.post_engagement_daily": "date post_id views likes comments shares bookmarks users",
    "gold.user_activity_daily": "date user_id events sessions posts first_at last_at",
    "gold.service_health_minute": "window_start service requests errors error_rate p50_ms p95_ms p99_ms",
    "gold.host_utilization_minute": "window_start host metric avg max samples",
    "gold.trending_posts": "as_of rank post_id score",
}
ANALYSED = {
    "gold.recommendations": "user_id rank post_id score model_version at",
    "gold.anomalies": "series time value expected score model_version",
    "gold.forecasts": "series time mean lo hi model_version made_at",
    "gold.text_insights_daily": "date source kind term score count",
}
"""Section 3 of the design."""


def test_every_topic_has_one_flow_and_its_contract_names_its_silver_table() -> None:
    assert [flow.topic for flow in FLOWS] == list(TOPICS)
    assert all(contracts()[flow.topic].table == flow.silver.name for flow in FLOWS)


def test_layers_and_names_follow_the_topic() -> None:
    for flow in FLOWS:
        name = flow.topic.replace("-", "_")
        assert (flow.bronze.name, flow.silver.name) == (f"bronze.{name}", f"silver.{name}")
        assert (flow.land.__name__, flow.check.__name__) == (name, name)
        assert flow.parse.contract is contracts()[flow.topic]


def test_every_table_has_one_writer() -> None:
    written = [table for flow in FLOWS for table in flow.tables] + [analysis.table for analysis in ANALYSES]
    writers = Counter(table.name for table in written)
    assert {name for name, count in writers.items() if count > 1} == SHARED
    assert all("topic" in TABLES[name].key for name in SHARED)


def test_every_store_key_has_one_writer() -> None:
    assert not [key for key, count in Counter((k.store, k.name) for k in STORES).items() if count > 1]


def test_every_table_is_keyed_and_ordered_by_its_own_columns() -> None:
    for table in TABLES.values():
        assert table.key and len(set(table.key)) == len(table.key), table.name
        assert {*table.key, *table.order} <= set(table.schema.names), table.name
        assert len(set(table.schema.names)) == len(table.schema.names), table.name


def test_gold_buckets_are_found_by_the_bounds_of_their_window() -> None:
    for flow in FLOWS:
        for aggregate in flow.gold:
            assert aggregate.window in aggregate.table.order
            assert aggregate.bucket % aggregate.width == aggregate.bucket * 0


def test_the_graph_is_acyclic_and_every_source_is_a_table_or_topic() -> None:
    graph: dict[str, set[str]] = {}
    for flow in FLOWS:
        graph |= {flow.bronze.name: {flow.topic}, flow.silver.name: {flow.bronze.name}}
        graph |= {aggregate.name: {aggregate.source} for aggregate in flow.gold}
        graph |= {table.name: {flow.silver.name} for table in flow.snapshots}
    graph |= {analysis.table.name: {*analysis.sources} for analysis in ANALYSES}
    keys = [*STORES, *(key for analysis in ANALYSES for key in analysis.stores)]
    graph |= {f"{key.store}:{key.name}": {key.table} for key in keys}
    order = list(TopologicalSorter(graph).static_order())
    assert {node for node in order if not graph.get(node)} == set(TOPICS)


def test_an_aggregate_reads_only_columns_of_its_flows_silver_table() -> None:
    for flow in FLOWS:
        for aggregate in flow.gold:
            assert aggregate.source == flow.silver.name
            assert {aggregate.source_time, *aggregate.inputs} <= set(flow.silver.schema.names)


def test_every_gold_table_is_mirrored_in_a_store_and_every_mirror_is_of_a_table() -> None:
    mirrored = {key.table for key in STORES}
    assert mirrored <= set(TABLES) and {name for name in STREAMED if name.startswith("gold.")} <= mirrored


def test_tables_columns_and_store_keys_are_named_as_designed() -> None:
    assert {n: " ".join(t.schema.names) for n, t in STREAMED.items() if n.startswith("gold.")} == GOLD
    assert {a.table.name: " ".join(a.table.schema.names) for a in ANALYSES} == ANALYSED
    others = {f"{layer}.{t.replace('-', '_')}" for layer in ("bronze", "silver") for t in TOPICS}
    assert set(STREAMED) == {*GOLD, *others, "silver.quarantine", "ops.ledger", "_internal.gold_changes"}
    assert set(TABLES) == {*STREAMED, *ANALYSED, "ops.promotions", "ops.access_log", "_internal.erased"}
    assert {k.name for k in STORES if k.store == "mongodb"} == {"post_engagement", "user_activity"}
    assert {k.name for k in STORES if k.store == "elasticsearch"} == {
        "logs-service",
        "metrics-system",
        "service-health",
    }
    assert {k.name for k in STORES if k.store == "redis"} == {f"gold:{n.partition('.')[2]}:latest" for n in GOLD}


def test_provenance_is_in_every_bronze_and_silver_table() -> None:
    for flow in FLOWS:
        for table in (flow.bronze, flow.silver, quarantine.TABLE):
            assert {"topic", "partition", "offset", "timestamp"} <= set(table.schema.names)


@pytest.mark.parametrize("engine", ["fused", "separate"])
def test_the_ledger_is_the_last_of_a_querys_tables_and_no_effect_is_named_twice(engine: str) -> None:
    found = effects(engine)
    assert len(set(found)) == len(found)
    for query in TOPICS if engine == "separate" else ["ingest"]:
        assert [e for e in found if e.startswith(f"{query}:")][-1] == f"{query}:ops.ledger"
    for flow in FLOWS:
        written = {e.partition(":")[2] for e in found if e.startswith((f"{flow.topic}:", "ingest:"))}
        assert written == {table.name for table in flow.tables}


def test_the_map_needs_no_spark_session() -> None:
    assert SparkSession.getActiveSession() is None
