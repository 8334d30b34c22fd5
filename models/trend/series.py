"""The series that are forecast, of gold's minutes, in steps of five."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.predict.watch import MEASURES
from models.trained import ModelError

STEP = timedelta(minutes=5)
HORIZON = 48
"""Steps ahead: four hours."""
SPAN = timedelta(days=14)
"""History that is gone by."""
MOST = 500
"""Series that are forecast, those with the most minutes."""
COUNTED = ("activity", "requests")
"""Kinds of series that are sums, 0 where there is nothing."""


@dataclass(frozen=True)
class Series:
    """One: its values, equally spaced, nan in gaps; ``begins`` is the time of the first."""

    name: str
    begins: datetime
    values: NDArray[np.float64]

    @property
    def bounds(self) -> tuple[float, float | None]:
        """What no value is below, and above: shares end at 1."""
        return 0.0, 1.0 if self.name.endswith((".pct", "error_rate")) else None

    def at(self, step: int) -> datetime:
        """The time of a step."""
        return self.begins + step * STEP


def steps(activity: DataFrame, service_health: DataFrame, host_utilization: DataFrame) -> DataFrame:
    """gold's three tables of minutes -> (series, step, value), ``step`` since 1970: sums of counts, else means.

    Error rates and percentiles of a step are the means of its minutes, each by its requests.
    """
    step = F.floor(F.unix_seconds("window_start") / int(STEP.total_seconds())).alias("step")
    events = activity.groupBy(F.concat(F.lit("activity/"), "event_type").alias("series"), step).agg(
        F.sum("events").cast("double").alias("value")
    )
    service = F.concat(F.lit("service/"), "service")
    requests = service_health.groupBy(F.concat(service, F.lit("/requests")).alias("series"), step).agg(
        F.sum("requests").cast("double").alias("value")
    )
    found = events.unionByName(requests)
    for name in MEASURES["service"]:
        weighed = F.sum(F.col(name) * F.col("requests")) / F.sum(F.when(F.col(name).isNotNull(), F.col("requests")))
        found = found.unionByName(
            service_health.where("requests > 0")
            .groupBy(F.concat(service, F.lit(f"/{name}")).alias("series"), step)
            .agg(weighed.alias("value"))
        )
    of_host = host_utilization.where(F.col("metric").isin(*MEASURES["host"]))
    means = of_host.groupBy(F.concat_ws("/", F.lit("host"), "host", "metric").alias("series"), step).agg(
        (F.sum(F.col("avg") * F.col("samples")) / F.sum("samples")).alias("value")
    )
    return found.unionByName(means).where("value is not null")


def series(found: DataFrame) -> list[Series]:
    """(series, step, value) -> series that all end with the newest whole step, those with the most values.

    Raises:
        ModelError: there are none.
    """
    newest = found.agg(F.max("step")).first()
    if newest is None or newest[0] is None:
        raise ModelError("gold has no minutes yet: let the platform run, or `lakehouse simulate`")
    last = newest[0] - 1  # the newest step goes on
    recent = found.where((F.col("step") > last - SPAN // STEP) & (F.col("step") <= last))
    chosen = recent.groupBy("series").count().orderBy(F.desc("count"), "series").limit(MOST).select("series")
    table = recent.join(chosen, "series").toPandas()
    return made(table, last)


def made(table: pd.DataFrame, last: int) -> list[Series]:
    """The same of rows in memory; ``last`` is the step that all end with."""
    counted_from = {
        kind: int(part["step"].min()) for kind, part in table.groupby(table["series"].str.partition("/")[0])
    }
    found = []
    for name, part in table.groupby("series"):
        kind = str(name).partition("/")[0]
        counts = kind in COUNTED or str(name).rpartition("/")[2] in COUNTED
        first = counted_from[kind] if counts else int(part["step"].min())
        values = np.full(last - first + 1, 0.0 if counts else np.nan)
        values[part["step"].to_numpy() - first] = part["value"].to_numpy()
        found.append(Series(str(name), datetime.fromtimestamp(first * STEP.total_seconds(), UTC), values))
    return found
