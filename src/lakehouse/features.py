"""Features of users and posts: one definition each, for the stream, the request and the training set.

A user's feature counts the user's events of some types in the minutes up to that of the newest one, so it does not
change while the user does nothing; how old it is, is said beside it. The stream and the request count from the minutes
that the real-time processor keeps (:func:`of_minutes`), a training set from history (:func:`as_of`): for each moment
from nothing that came after it, which is what makes it point-in-time correct. A post's features are what a day of
interactions tells of it, as of a moment too (:func:`of_posts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pyspark.sql import DataFrame

Age = Literal["fresh", "stale", "missing"]
FRESH = timedelta(minutes=15)
"""Until when a feature counts as fresh: the longest span below."""


@dataclass(frozen=True)
class Count:
    """Events of some types, or of all, in the last so many minutes, that of the newest event included."""

    minutes: int
    types: tuple[str, ...] = ()


USER: Mapping[str, Count] = {
    "events_15m": Count(15),
    "views_15m": Count(15, ("view",)),
    "likes_15m": Count(15, ("like",)),
}
"""By name; fields of the hash ``features:user:<id>``."""
INTERACTIONS = ("view", "like", "comment", "share", "bookmark")
"""Types of events that tell of interest in a post."""
POST_SPAN = timedelta(days=1)
POST: Mapping[str, str] = {
    "at": "max(occurred_at)",
    "interactions": "count(*)",
    "users": "count(distinct user_id)",
    "attention": "sum(power(0.5, age_h / half_life_h))",
}
"""By name, over a post's interactions of the last day; fields of the hash ``features:post:<id>``, beside ``rank``, 1
for the post with the most users. ``attention`` is null where it does not move on."""


def of_minutes(minutes: Mapping[int, Mapping[str, int]]) -> dict[str, int]:
    """All features of a user, from event counts by minute (since 1970) and type."""
    newest = max(minutes, default=0)
    return {
        name: sum(
            number
            for minute, counts in minutes.items()
            if minute > newest - feature.minutes
            for kind, number in counts.items()
            if not feature.types or kind in feature.types
        )
        for name, feature in USER.items()
    }


def age(at: datetime | None, now: datetime) -> Age:
    """How old features are whose newest event was at a time; None where there are none."""
    if at is None:
        return "missing"
    return "fresh" if now - at <= FRESH else "stale"


def as_of(user_events: DataFrame, moments: DataFrame) -> DataFrame:
    """silver.user_events and (user_id, moment) -> (user_id, moment, newest_at, features), each as it was then.

    A moment before a user's first event has no row: its features are missing.
    """
    return user_events.sparkSession.sql(sql("{events}", "{moments}", "spark"), events=user_events, moments=moments)


def sql(events: str, moments: str, engine: Literal["spark", "duckdb"]) -> str:
    """The same as a query over two relations."""
    micros = {"spark": "unix_micros", "duckdb": "epoch_us"}[engine]
    columns = [
        f"count(case when minute > newest - {feature.minutes}{_of(feature)} then 1 end) as {name}"
        for name, feature in USER.items()
    ]
    return f"""
        with seen as (
            select m.user_id, m.moment, e.event_type, e.occurred_at,
                cast(floor({micros}(e.occurred_at) / 60000000) as bigint) as minute
            from {moments} as m join {events} as e on e.user_id = m.user_id and e.occurred_at <= m.moment
        ), dated as (select *, max(minute) over (partition by user_id, moment) as newest from seen)
        select user_id, moment, max(occurred_at) as newest_at, {", ".join(columns)}
        from dated group by user_id, moment"""


def _of(feature: Count) -> str:
    kinds = ", ".join(f"'{kind}'" for kind in feature.types)
    return f" and event_type in ({kinds})" if kinds else ""


def of_posts(user_events: DataFrame, now: datetime, half_life_h: float | None) -> DataFrame:
    """silver.user_events -> (post_id, at, interactions, users, attention, rank) of posts looked at in the last day.

    Args:
        user_events: the table.
        now: the end of that day, with an offset; nothing later counts.
        half_life_h: hours after which an interaction counts half for ``attention``; None where it does not move on.
    """
    return user_events.sparkSession.sql(posts_sql("{events}", now, half_life_h, "spark"), events=user_events)


def posts_sql(events: str, now: datetime, half_life_h: float | None, engine: Literal["spark", "duckdb"]) -> str:
    """The same as a query over a relation."""
    micros = {"spark": "unix_micros", "duckdb": "epoch_us"}[engine]
    until = round(now.timestamp() * 1e6)
    columns = ", ".join(f"{feature} as {name}" for name, feature in POST.items())
    kinds = ", ".join(f"'{kind}'" for kind in INTERACTIONS)
    return f"""
        with looked as (
            select post_id, user_id, occurred_at, ({until} - {micros}(occurred_at)) / 3.6e9 as age_h,
                cast({half_life_h or "null"} as double) as half_life_h
            from {events}
            where post_id is not null and event_type in ({kinds}) and {micros}(occurred_at) <= {until}
                and {micros}(occurred_at) > {until - POST_SPAN // timedelta(microseconds=1)}
        ), found as (select post_id, {columns} from looked group by post_id)
        select *, cast(row_number() over (order by users desc, interactions desc, post_id) as int) as rank from found"""
