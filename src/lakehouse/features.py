"""Features of users: one definition each, for the stream, the request and the training set.

A feature counts a user's events of some types in the minutes up to that of the user's newest one, so it does not change
while the user does nothing; how old it is, is said beside it. The stream and the request count from the minutes that
the real-time processor keeps (:func:`of_minutes`), a training set from history (:func:`as_of`): for each moment from
nothing that came after it, which is what makes it point-in-time correct.
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
