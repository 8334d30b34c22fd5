"""gold.user_activity_daily: what each user did on each day."""

from datetime import timedelta

from pyspark.sql import DataFrame

from lakehouse.gold.aggregate import Aggregate, Distinct, Extreme, Sum

USER_ACTIVITY_DAILY = Aggregate(
    "gold.user_activity_daily",
    source="silver.user_events",
    source_time="occurred_at",
    inputs=("occurred_at", "event_type", "user_id", "session_id"),
    width=timedelta(days=1),
    keys={"date": ("date", "cast(occurred_at as date)"), "user_id": ("string", "user_id")},
    measures=(
        Sum("events"),
        Distinct("sessions", "session_id"),
        Sum("posts", "case when event_type = 'post' then 1 else 0 end"),
        Extreme("first_at", "min", "occurred_at", "timestamp"),
        Extreme("last_at", "max", "occurred_at", "timestamp"),
    ),
)


def user_activity_daily(user_events: DataFrame) -> DataFrame:
    """silver.user_events -> (date, user_id, events, sessions, posts, first_at, last_at).

    Sessions are distinct non-null session ids, posts the events of type post.
    """
    return USER_ACTIVITY_DAILY.recompute(user_events)
