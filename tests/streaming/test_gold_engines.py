"""One declaration of a gold table means the same to Spark and to DuckDB, nulls included."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from lakehouse.flows import FLOWS, TABLES
from lakehouse.gold import trending_posts
from lakehouse.gold.aggregate import Aggregate
from lakehouse.tables import Table
from tests.streaming.test_fused import assert_same_rows

START = datetime(2026, 11, 24, 23, 30, tzinfo=UTC)
AGGREGATES = {aggregate.name: aggregate for flow in FLOWS for aggregate in flow.gold}
KINDS = ["view", "like", "unlike", "comment", "share", "bookmark", "post", "visit", "follow", "search"]


def events(chance: random.Random, at: datetime) -> dict[str, Any]:
    return {
        "event_type": chance.choice(KINDS),
        "user_id": f"u{chance.randrange(5)}",
        "occurred_at": at,
        "post_id": chance.choice([None, "p1", "p2", "p3"]),
        "session_id": chance.choice([None, "s1", "s2"]),
    }


def logs(chance: random.Random, at: datetime) -> dict[str, Any]:
    status = chance.choice([None, 200, 499, 500, 599])
    duration = chance.choice([None, 0, 1, chance.randrange(10**10), 2**62])
    return {
        "time": at,
        "service": chance.choice([None, {"name": None}, {"name": "shop"}]),
        "http": chance.choice([None, {"response": None}, {"response": {"status_code": status}}]),
        "event": chance.choice([None, {"id": "x", "duration": duration, "dataset": None}]),
    }


def metrics(chance: random.Random, at: datetime) -> dict[str, Any]:
    value = chance.choice([0.0, -1.5, 1e-300, 1e300, chance.random()])
    return {"time": at, "host": chance.choice([None, "h1"]), "metric": chance.choice(["a", "b.c"]), "value": value}


MAKERS = {"silver.user_events": events, "silver.service_logs": logs, "silver.system_metrics": metrics}


def silver(name: str, count: int = 400) -> pa.Table:
    """Rows of a silver table around midnight, with every null that silver can hold."""
    chance = random.Random(count)
    made = []
    for offset in range(count):
        at = START + timedelta(microseconds=chance.randrange(3_600_000_000))
        made.append(
            MAKERS[name](chance, at) | {"timestamp": at + timedelta(seconds=1), "partition": 0, "offset": offset}
        )
    edges = [START, START + timedelta(minutes=30), START + timedelta(minutes=30) - timedelta(microseconds=1)]
    made += [MAKERS[name](chance, at) | {"timestamp": at} for at in edges] if count else []
    schema = TABLES[name].arrow
    return pa.Table.from_pylist([{c: row.get(c) for c in schema.names} for row in made], schema=schema)


def in_duckdb(rows: pa.Table, sql: str, table: Table = trending_posts.TABLE) -> pd.DataFrame:
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.register("silver", rows)
        return connection.sql(sql).to_arrow_table().cast(table.arrow).to_pandas()


@pytest.fixture(scope="module")
def frames(spark: SparkSession) -> dict[str, DataFrame]:
    made = {}
    for name in MAKERS:
        rows = [tuple(row.values()) for row in silver(name).to_pylist(maps_as_pydicts="strict")]
        made[name] = spark.createDataFrame(rows, TABLES[name].schema).cache()
    return made


@pytest.mark.parametrize("aggregate", AGGREGATES.values(), ids=AGGREGATES)
def test_an_aggregate_means_the_same_to_spark_and_duckdb(frames: dict[str, DataFrame], aggregate: Aggregate) -> None:
    by_spark = aggregate.recompute(frames[aggregate.source])
    assert by_spark.schema.simpleString() == aggregate.table.schema.simpleString()
    found = in_duckdb(silver(aggregate.source), aggregate.sql("silver", "duckdb"), aggregate.table)
    assert len(found) and list(found.columns) == aggregate.table.schema.names
    assert_same_rows(found, by_spark.toPandas(), list(aggregate.table.key))


@pytest.mark.parametrize("aggregate", AGGREGATES.values(), ids=AGGREGATES)
def test_no_silver_rows_are_no_gold_rows(frames: dict[str, DataFrame], aggregate: Aggregate) -> None:
    assert in_duckdb(silver(aggregate.source, 0).slice(0, 0), aggregate.sql("silver", "duckdb"), aggregate.table).empty
    assert aggregate.recompute(frames[aggregate.source].limit(0)).count() == 0


def test_trending_posts_mean_the_same_to_spark_and_duckdb(frames: dict[str, DataFrame]) -> None:
    name = "silver.user_events"
    as_of = "(select date_trunc('minute', max(timestamp)) from silver)"
    found = in_duckdb(silver(name), trending_posts.sql("silver", as_of, "duckdb"))
    wanted = trending_posts.trending_posts(frames[name]).toPandas()
    assert list(found["rank"]) == [1, 2, 3] and found["score"].is_monotonic_decreasing
    assert_same_rows(found, wanted, ["as_of", "rank"])


def test_a_trending_score_halves_every_fifteen_minutes_and_ends_after_an_hour() -> None:
    as_of = START + timedelta(hours=1)
    ages = {"a": 15, "b": 60, "c": 61, "d": 0}
    made = [
        {"event_type": "like", "post_id": post, "occurred_at": as_of - timedelta(minutes=age), "timestamp": as_of}
        for post, age in ages.items()
    ]
    schema = TABLES["silver.user_events"].arrow
    rows = pa.Table.from_pylist([{c: row.get(c) for c in schema.names} for row in made], schema=schema)
    found = in_duckdb(rows, trending_posts.sql("silver", "(select max(timestamp) from silver)", "duckdb"))
    assert dict(zip(found["post_id"], found["score"], strict=True)) == pytest.approx({"a": 1.5, "b": 3 / 16})
