"""gold.post_engagement_daily: what users did with each post on each day."""

from datetime import timedelta

from pyspark.sql import DataFrame

from lakehouse.gold.aggregate import Aggregate, Distinct, Sum


def _of(name: str, event_type: str) -> Sum:
    return Sum(name, f"case when event_type = '{event_type}' then 1 else 0 end")


POST_ENGAGEMENT_DAILY = Aggregate(
    "gold.post_engagement_daily",
    source="silver.user_events",
    source_time="occurred_at",
    inputs=("occurred_at", "event_type", "user_id", "post_id"),
    width=timedelta(days=1),
    keys={"date": ("date", "cast(occurred_at as date)"), "post_id": ("string", "post_id")},
    where="post_id is not null",
    measures=(
        _of("views", "view"),
        Sum("likes", "case event_type when 'like' then 1 when 'unlike' then -1 else 0 end"),
        _of("comments", "comment"),
        _of("shares", "share"),
        _of("bookmarks", "bookmark"),
        Distinct("users", "user_id"),
    ),
)


def post_engagement_daily(user_events: DataFrame) -> DataFrame:
    """silver.user_events -> (date, post_id, views, likes, comments, shares, bookmarks, users).

    A row for every (date, post) of any event with a post; likes are likes minus unlikes of that date and may be
    negative.
    """
    return POST_ENGAGEMENT_DAILY.recompute(user_events)
