"""What the real-time processor should come to, computed at once in SQL from the records that Kafka has.

Nothing of the processor is used. Which records are broken is what their maker says; the rest follows from partition,
offset, append time and the JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import duckdb
import pyarrow as pa

MINUTE = 60_000_000
_TABLES = """
create table dated as select *,
    max(least(happened, appended)) over (partition by topic, part order by pos) as stamp
from records where valid;
create table first as select * from dated
    qualify id is null or row_number() over (partition by topic, id order by part, pos) = 1;
create table late_or_not as select *, happened < stamp - {lateness} as late, happened // {minute} as minute from first;
create table events as select *, (json ->> 'event_type') as kind, (json ->> 'user_id') as user_id,
    (json ->> 'post_id') as post_id from late_or_not where topic = 'user-events';
create table sessions as
    with marked as (select *, happened - lag(happened) over mine > {gap} as begins from events where not late
                    window mine as (partition by user_id order by happened)),
    numbered as (select *, sum(coalesce(begins, true)::int) over (partition by user_id order by happened rows unbounded
                 preceding) as number from marked)
    select user_id, number, min(happened) as "start", max(happened) as "end", count(*) as events
    from numbered group by all;
create table authors as select post_id, any_value(user_id) as author from events where kind = 'post' group by 1;
create table touched as select post_id, minute, count(*) as n from events
    where not late and kind in ('view', 'like', 'comment', 'share', 'bookmark') and post_id is not null group by all;
create table requests as select (json ->> '$.service.name') as service, minute,
    count(json ->> '$.http.response.status_code') as requests,
    count(*) filter ((json ->> '$.http.response.status_code')::bigint >= 500) as errors
    from late_or_not where topic = 'service-logs' and not late group by all;
"""


class Batch:
    """The answers.

    Args:
        records: (topic, partition, offset, append time in µs, event time in µs, identity or None, valid, JSON text).
        lateness_us: as configured.
        gap_us: of sessions.
    """

    def __init__(self, records: Iterable[tuple[Any, ...]], lateness_us: int, gap_us: int) -> None:
        names = ["topic", "part", "pos", "appended", "happened", "id", "valid", "json"]
        kinds = [pa.string(), pa.int32(), pa.int64(), pa.int64(), pa.int64(), pa.string(), pa.bool_(), pa.string()]
        columns = list(zip(*records, strict=True))
        table = pa.table([pa.array(c, k) for c, k in zip(columns, kinds, strict=True)], names=names)
        self.db = duckdb.connect()
        self.db.register("given", table)
        self.db.execute("create table records as select * replace (json::json as json) from given")
        self.db.execute(_TABLES.format(lateness=lateness_us, minute=MINUTE, gap=gap_us))

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        return self.db.execute(sql, list(values)).fetchall()

    def profiles(self) -> dict[str, tuple[Any, ...]]:
        """user -> (events, late events, sessions, seconds in sessions, end of the last session, its events)."""
        return {
            user: tuple(rest)
            for user, *rest in self.rows(
                """select e.user_id, any_value(e.events), any_value(e.late), count(s.number),
                    coalesce(sum(s."end" - s."start"), 0) / 1e6, max(s."end"), max_by(s.events, s."end")
                from (select user_id, count(*) as events, count(*) filter (late) as late from events group by 1) as e
                left join sessions as s using (user_id) group by 1"""
            )
        }

    def by_type(self) -> dict[tuple[str, str], int]:
        """(user, type) -> events."""
        return {(u, k): n for u, k, n in self.rows("select user_id, kind, count(*) from events group by all")}

    def windows(self) -> dict[str, tuple[int, dict[str, int], dict[str, int]]]:
        """user -> (newest minute, its events by type, those of the quarter of an hour that ends with it)."""
        found: dict[str, tuple[int, dict[str, int], dict[str, int]]] = {}
        for user, newest, minute, kind, count in self.rows(
            """select user_id, newest, minute, kind, count(*) from (
                select *, max(minute) over (partition by user_id) as newest from events where not late)
            where minute > newest - 15 group by all"""
        ):
            _, one, quarter = found.setdefault(user, (newest, {}, {}))
            quarter[kind] = quarter.get(kind, 0) + count
            if minute == newest:
                one[kind] = count
        return found

    def site(self) -> dict[int, dict[str, int]]:
        """minute -> events by type, and distinct users."""
        found: dict[int, dict[str, int]] = {}
        for minute, users in self.rows("select minute, count(distinct user_id) from events where not late group by 1"):
            found[minute] = {"users": users}
        for minute, kind, count in self.rows("select minute, kind, count(*) from events where not late group by all"):
            found[minute][kind] = count
        return found

    def trending(self, as_of_us: int) -> dict[str, float]:
        """post -> score, as the design has it: weights halved every quarter of an hour."""
        return dict(
            self.rows(
                """select post_id, sum(weight * pow(2.0, -(? - happened) / 900e6)) from events
                join (values ('view', 1), ('like', 3), ('unlike', -3), ('comment', 5), ('share', 5), ('bookmark', 4))
                    as weights(kind, weight) using (kind)
                where post_id is not null group by 1""",
                as_of_us,
            )
        )

    def told_of_events(self) -> set[tuple[str, str, str]]:
        """(rule, user, event) of the shipped rules on events."""
        follows = self.rows(
            """select 'new follower', (json ->> '$.properties.followed') as followed, id from events
            where kind = 'follow' and followed <> user_id"""
        )
        comments = self.rows(
            """select 'comment on my post', author, id from events join authors using (post_id)
            where kind = 'comment' and author <> user_id"""
        )
        return {(rule, user, event) for rule, user, event in (*follows, *comments)}

    def bursts(self) -> set[tuple[str, int]]:
        """(post, end of the minute) where "your post is trending" begins to hold, told at most once an hour."""
        found = set()
        minutes: dict[str, dict[int, int]] = {}
        for post, minute, count in self.rows("select post_id, minute, n from touched join authors using (post_id)"):
            minutes.setdefault(post, {})[minute] = count
        for post, counts in minutes.items():
            told = None
            for minute in range(min(counts), max(counts) + 5):
                here = sum(counts.get(m, 0) for m in range(minute - 4, minute + 1))
                usual = sum(counts.get(m, 0) for m in range(minute - 64, minute - 4)) * 5 / 60
                holds = here >= 20 and (here - usual) / max(usual, 1.0) ** 0.5 >= 3
                if holds and (told is None or minute - told >= 60):
                    told = minute
                    found.add((post, (minute + 1) * MINUTE))
        return found

    def failing(self) -> set[tuple[str, int]]:
        """(service, end of minute) where "service error rate" is told: four bad minutes in a row, once a quarter."""
        found = set()
        minutes: dict[str, dict[int, tuple[int, int]]] = {}
        for service, minute, requests, errors in self.rows("select service, minute, requests, errors from requests"):
            minutes.setdefault(service, {})[minute] = (requests, errors)
        for service, counts in minutes.items():
            run, told = 0, None
            for minute in range(min(counts), max(counts) + 2):
                requests, errors = counts.get(minute, (0, 0))
                run = run + 1 if requests >= 20 and errors / requests > 0.05 else 0
                if run >= 4 and (told is None or minute - told >= 15):
                    told = minute
                    found.add((service, (minute + 1) * MINUTE))
        return found
