"""gold.anomalies again from all of history, by the champion: the batch twin of the stream's detector."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from pyspark.sql import functions as F

from lakehouse import predict
from lakehouse.gold import anomalies as table
from lakehouse.predict.watch import Version, watch
from lakehouse.runtime.detect import FOUND, lines, records, rows
from lakehouse.runtime.fused import arrow
from lakehouse.settings import Settings
from lakehouse.sinks.analysis import put
from lakehouse.sources.analysis import read_table
from models.anomaly.kind import minutes


def anomalies(settings: Settings, spark: Any, version: Path, now: datetime) -> dict[str, Any]:
    """Write what a version finds in all minutes of gold and lines of silver; how many alarms."""
    measured = minutes(
        *(read_table(spark, settings, name) for name in ("gold.service_health_minute", "silver.system_metrics"))
    )
    found = (
        measured.withColumn("seq", F.lit(0).cast("bigint"))
        .unionByName(lines(read_table(spark, settings, "silver.service_logs"), version.parent))
        .groupBy("subject")
        .applyInPandas(partial(judged, version=version), FOUND)
    )
    alarms = arrow(found.select(*table.TABLE.schema.names))
    put(settings, table.TABLE, alarms)
    return {"alarms": alarms.num_rows}


def judged(key: tuple[str], part: pd.DataFrame, version: Path) -> pd.DataFrame:
    """All minutes of one subject but the last, folded at once."""
    known, by = watch(key[0]), Version(*predict.read(version))
    known.fold(records(part), by)
    return rows(key[0], known.fold((), by), by.version)
