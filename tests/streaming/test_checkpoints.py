"""A query's checkpoint is given up as a whole, and never comes back."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import SparkSession

from lakehouse.runtime.checkpoints import Generation
from lakehouse.settings import Hdfs, Settings
from lakehouse.sinks.delta import Storage


def test_a_generation_follows_the_one_in_use_and_deletes_its_checkpoint(
    spark: SparkSession, base: Settings, tmp_path: Path
) -> None:
    storage = Storage(spark, tmp_path / "scratch")
    settings = base.model_copy(update={"hdfs": Hdfs(uri=f"file://{tmp_path}")})
    first = Generation.current(storage, settings, "redis")
    assert dict(first.since) == {}
    storage.put_new("offsets", f"{first.checkpoint}/offsets")
    second = Generation.begin(storage, settings, "redis", {"silver.service_logs": 7})
    assert Generation.current(storage, settings, "redis") == second != first
    assert not storage.exists(first.checkpoint)
    third = Generation.begin(storage, settings, "redis")
    assert dict(Generation.current(storage, settings, "redis").since) == {}
    assert len({first.checkpoint, second.checkpoint, third.checkpoint}) == 3
