"""Bottlenecks: the paths on which time is lost, and the hosts that will be full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.predict.forecast import Forecaster, forecast


def slow_paths(service_logs: DataFrame, since: datetime, until: datetime, threshold: timedelta) -> DataFrame:
    """silver.service_logs -> (service, path, requests, slow, p95_ms, over_ms, share), for one row a service and path.

    ``slow`` requests took longer than ``threshold``; ``over_ms`` is by how much, summed: what mending the path could
    gain; ``share`` is its share of all that is over, 0 where nothing is. Requests are records with a path and a
    duration (event.duration, nanoseconds) of [``since``, ``until``).
    """
    ms = F.col("event.duration") / 1e6
    over = F.greatest(ms - F.lit(threshold / timedelta(milliseconds=1)), F.lit(0.0))
    asked = service_logs.where(
        (F.col("time") >= F.lit(since))
        & (F.col("time") < F.lit(until))
        & F.col("url.path").isNotNull()
        & F.col("event.duration").isNotNull()
    )
    paths = asked.groupBy(F.col("service.name").alias("service"), F.col("url.path").alias("path")).agg(
        F.count("*").alias("requests"),
        F.sum((over > 0).cast("long")).alias("slow"),
        F.percentile(ms, 0.95).alias("p95_ms"),
        F.sum(over).alias("over_ms"),
    )
    total = paths.agg(F.sum("over_ms").alias("_total"))
    share = F.coalesce(F.try_divide("over_ms", "_total"), F.lit(0.0))
    return (
        paths.crossJoin(F.broadcast(total)).withColumn("share", share).drop("_total").orderBy(F.desc("over_ms"), "path")
    )


@dataclass(frozen=True)
class Saturation:
    """When a series reaches its limit, in steps from now (the first forecast is step 1); None: not within the horizon.

    ``expected`` is where the mean reaches it, ``earliest`` and ``latest`` where the interval's upper and lower ends do.
    """

    name: str
    now: float
    expected: int | None
    earliest: int | None
    latest: int | None


def saturations(
    series: Mapping[str, NDArray[np.float64]],
    limit: float,
    horizon: int,
    *,
    level: float = 0.95,
    model: Forecaster | None = None,
) -> list[Saturation]:
    """The series that may reach ``limit`` within ``horizon`` steps, soonest first.

    Args:
        series: by name, utilisation or any other quantity that is bad when high, nan in gaps.
        limit: in the series' unit.
        horizon: steps.
        level: of the interval.
        model: a global forecaster.
    """
    said = forecast(list(series.values()), horizon, level=level, model=model)
    found = []
    for name, values, *paths in zip(series, series.values(), said.mean, said.hi, said.lo, strict=True):
        expected, earliest, latest = (_reaches(path, limit) for path in paths)
        if expected is not None or earliest is not None:
            now = float(values[np.isfinite(values)][-1])
            found.append(Saturation(name, now, expected, earliest, latest))
    never = horizon + 1
    return sorted(found, key=lambda s: (s.expected or never, s.earliest or never, s.name))


def _reaches(path: NDArray[np.float64], limit: float) -> int | None:
    at = np.flatnonzero(path >= limit)
    return int(at[0]) + 1 if len(at) else None
