"""The path that costs the users most time comes first."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from pyspark.sql import SparkSession

from models.trend.bottlenecks import slow_paths

NOW = datetime(2026, 5, 2, 12)
SHAPE = "time timestamp, service struct<name: string>, url struct<path: string>, event struct<duration: bigint>"


def test_paths_are_ranked_by_the_time_over_the_threshold(spark: SparkSession) -> None:
    def row(path: str | None, ms: int | None, age: int = 1) -> tuple[object, ...]:
        return NOW - timedelta(minutes=age), ("shop",), (path,), (None if ms is None else ms * 1_000_000,)

    rows = [row("/often", 300)] * 30 + [row("/rare", 2200)] + [row("/fast", 20)] * 50
    rows += [row("/old", 9000, age=61), row("/now", 9000, age=0), row(None, 9000), row("/fast", None)]
    logs = spark.createDataFrame(rows, SHAPE)
    found = slow_paths(logs, NOW - timedelta(hours=1), NOW, timedelta(milliseconds=200)).collect()
    assert [(r.path, r.requests, r.slow, r.over_ms, r.p95_ms) for r in found] == [
        ("/often", 30, 30, 3000.0, 300.0),
        ("/rare", 1, 1, 2000.0, 2200.0),
        ("/fast", 50, 0, 0.0, 20.0),
    ]
    assert [r.share for r in found] == pytest.approx([0.6, 0.4, 0])
