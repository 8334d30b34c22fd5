"""gold.service_health_minute: requests, errors and latency of each service in each minute."""

from datetime import timedelta

from pyspark.sql import DataFrame

from lakehouse.gold.aggregate import Aggregate, Percentile, Ratio, Sum

_MS = "event.duration / 1e6"
SERVICE_HEALTH_MINUTE = Aggregate(
    "gold.service_health_minute",
    source="silver.service_logs",
    source_time="time",
    inputs=("time", "service", "http", "event"),
    width=timedelta(minutes=1),
    keys={"window_start": ("timestamp", "date_trunc('minute', time)"), "service": ("string", "service.name")},
    where="http.response.status_code is not null",
    measures=(
        Sum("requests"),
        Sum("errors", "case when http.response.status_code >= 500 then 1 else 0 end"),
        Ratio("error_rate", "errors", "requests"),
        Percentile("p50_ms", _MS, 0.5),
        Percentile("p95_ms", _MS, 0.95),
        Percentile("p99_ms", _MS, 0.99),
    ),
)


def service_health_minute(service_logs: DataFrame) -> DataFrame:
    """silver.service_logs -> (window_start, service, requests, errors, error_rate, p50_ms, p95_ms, p99_ms).

    Requests are records with a status code, errors those of 500 and more; percentiles over requests with a duration.
    """
    return SERVICE_HEALTH_MINUTE.recompute(service_logs)
