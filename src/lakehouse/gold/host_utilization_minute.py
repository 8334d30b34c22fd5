"""gold.host_utilization_minute: mean and maximum of each metric of each host in each minute."""

from datetime import timedelta

from pyspark.sql import DataFrame

from lakehouse.gold.aggregate import Aggregate, Extreme, Mean, Sum

HOST_UTILIZATION_MINUTE = Aggregate(
    "gold.host_utilization_minute",
    source="silver.system_metrics",
    source_time="time",
    inputs=("time", "host", "metric", "value"),
    width=timedelta(minutes=1),
    bucket=timedelta(hours=1),
    keys={
        "window_start": ("timestamp", "date_trunc('minute', time)"),
        "host": ("string", "host"),
        "metric": ("string", "metric"),
    },
    measures=(Mean("avg", "value", weight="samples"), Extreme("max", "max", "value", "double"), Sum("samples")),
)


def host_utilization_minute(system_metrics: DataFrame) -> DataFrame:
    """silver.system_metrics -> (window_start, host, metric, avg, max, samples)."""
    return HOST_UTILIZATION_MINUTE.recompute(system_metrics)
