"""gold.forecasts and ``analysis-forecasts``: what each series of gold is expected to be in the next hours."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lakehouse import predict
from lakehouse.gold import forecasts as table
from lakehouse.settings import Settings
from lakehouse.sinks.analysis import put
from models.trend.kind import KIND, read
from models.trend.series import HORIZON, Series


def forecasts(settings: Settings, spark: Any, version: Path, now: datetime) -> dict[str, Any]:
    """Forecast all series from where they end; how many of them, and the rows written."""
    model = KIND.answers(*predict.read(version))
    rows = [row for one in read(spark, settings, {}) for row in made(model, one, now)]
    put(settings, table.TABLE, pa.Table.from_pylist(rows, schema=table.TABLE.arrow))
    return {"series": len({row["series"] for row in rows}), "rows": len(rows)}


def made(model: Any, one: Series, now: datetime) -> list[dict[str, Any]]:
    """Rows of gold.forecasts for one series, ``horizon`` steps; none where nothing is known of it."""
    lower, upper = one.bounds
    said = model.forecast([one.values], min(HORIZON, model.horizon), lower=lower, upper=upper)
    return [
        {
            "series": one.name, "time": one.at(len(one.values) + step), "mean": float(mean), "lo": float(lo),
            "hi": float(hi), "model_version": model.version, "made_at": now,
        }
        for step, (mean, lo, hi) in enumerate(zip(said.mean[0], said.lo[0], said.hi[0], strict=True))
        if np.isfinite([mean, lo, hi]).all()
    ]  # fmt: skip
