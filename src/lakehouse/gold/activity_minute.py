"""gold.activity_minute: how many events of each type happened in each minute, by how many users."""

from datetime import timedelta

from pyspark.sql import DataFrame

from lakehouse.gold.aggregate import Aggregate, Distinct, Sum

ACTIVITY_MINUTE = Aggregate(
    "gold.activity_minute",
    source="silver.user_events",
    source_time="occurred_at",
    inputs=("occurred_at", "event_type", "user_id"),
    width=timedelta(minutes=1),
    keys={"window_start": ("timestamp", "date_trunc('minute', occurred_at)"), "event_type": ("string", "event_type")},
    measures=(Sum("events"), Distinct("users", "user_id")),
)


def activity_minute(user_events: DataFrame) -> DataFrame:
    """silver.user_events -> (window_start, event_type, events, users); minutes floored, UTC."""
    return ACTIVITY_MINUTE.recompute(user_events)
