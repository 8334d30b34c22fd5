"""Forecasts as they stood, against gold as it came to be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from lakehouse.flows import TABLES
from lakehouse.settings import Hdfs, Settings
from models.hindsight import trend
from models.trend.series import STEP


def put(settings: Settings, name: str, rows: list[dict[str, Any]]) -> None:
    schema = TABLES[name].arrow
    full = [{column: row.get(column) for column in schema.names} for row in rows]
    write_deltalake(settings.table_uri(name), pa.Table.from_pylist(full, schema=schema), mode="overwrite")


def test_forecasts_are_judged_as_they_stood_and_not_as_they_were_mended(
    spark: SparkSession, base: Settings, tmp_path: Path
) -> None:
    settings = base.model_copy(update={"hdfs": Hdfs(uri=f"file://{tmp_path}", root="lake")})
    begin = datetime.fromtimestamp(datetime.now(UTC).timestamp() // 300 * 300, UTC)  # the step that goes on now
    values = 100 + 10.0 * (-1.0) ** np.arange(-60, 14)  # 20 from step to step
    put(settings, "gold.activity_minute", [
        {"window_start": begin + step * STEP, "event_type": "view", "events": int(value), "users": 1}
        for step, value in zip(range(-60, 14), values, strict=True)
    ])  # fmt: skip
    for name in ("gold.service_health_minute", "gold.host_utilization_minute", "gold.forecasts"):
        put(settings, name, [])

    def forecast(off: float) -> list[dict[str, Any]]:
        return [
            {"series": "activity/view", "time": begin + step * STEP, "mean": values[60 + step] + off,
             "lo": values[60 + step] + off - (8 if step % 2 else 4), "hi": 999.0, "model_version": "1"}
            for step in range(2, 12)
        ]  # fmt: skip

    put(settings, "gold.forecasts", forecast(5.0))
    put(settings, "gold.forecasts", forecast(0.0))  # replaced since, by one that knows
    (day,) = trend(settings, spark, begin + timedelta(hours=2))
    assert day["forecasts"] == 1 and day["versions"] == ["1"]
    assert day["mase"] == pytest.approx(5 / 20)
    assert day["mase_of_last_value"] == pytest.approx(0.5)  # every other value is 20 off
    assert day["coverage"] == 0.5
