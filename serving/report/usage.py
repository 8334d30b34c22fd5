"""What people did in a day: events and users, posts, texts."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta

from lakehouse.gold.trending_posts import WEIGHTS
from serving.report.facts import (
    Activity,
    Day,
    Engagement,
    ErrorGroup,
    EventType,
    Figure,
    Hourly,
    Keyword,
    Mood,
    Post,
    Texts,
)  # fmt: skip
from serving.report.reader import Reader, hourly

POSTS = 10
FEWEST_USES = 3
"""Uses below which a term is not told: what one person wrote once may tell who they are."""
KEYWORDS = 12
ERRORS = 8
_ATTENTION = " + ".join(
    f"{WEIGHTS[kind]} * {column}"
    for kind, column in (
        ("view", "views"), ("like", "likes"), ("comment", "comments"), ("share", "shares"), ("bookmark", "bookmarks"),
    )
)  # fmt: skip
"""gold.trending_posts's weights over the columns of gold.post_engagement_daily, whose likes have unlikes taken off."""


def activity(read: Reader, day: Day) -> Activity:
    """Events by hour and type from gold.activity_minute, distinct users and sessions from silver.user_events."""
    until = _hours(day)
    spans = [day.back(days) for days in (0, 1, 7)]
    counts = [_counts(read, *span) for span in spans]
    people = [_people(read, *span) for span in spans]
    now = counts[0]
    kinds = {kind: tuple(sum(n for (_, k), n in each.items() if k == kind) for each in counts) for _, kind in now}
    users_by_type = dict(_users(read, "event_type", *spans[0]))
    types = tuple(
        EventType(
            kind,
            Figure(total, *_known(counts, before)),
            users_by_type.get(kind),
            hourly(((hour, n) for (hour, k), n in now.items() if k == kind), until, 0.0),
        )
        for kind, (total, *before) in sorted(kinds.items(), key=lambda item: (-item[1][0], item[0]))
    )
    totals = [sum(each.values()) for each in counts]
    (users, sessions), *earlier = people
    return Activity(
        Figure(totals[0], *_known(counts, totals[1:])),
        Figure(users, *(before[0] or None for before in earlier)),
        Figure(sessions, *(before[1] or None for before in earlier)),
        types,
        _by_hour(now, until),
        hourly(_users(read, "hour", *spans[0]), until, 0.0),
        *(_whole_day(read, day, days) for days in (1, 7)),
    )


def _hours(day: Day) -> int:
    """The hours of the day that have begun."""
    return -((day.begin - day.end) // timedelta(hours=1))


def _known(counts: list[dict[tuple[int, str], int]], before: list[int]) -> list[float | None]:
    """What was counted then; None where nothing was at all, as before the platform was there."""
    return [float(number) if each else None for each, number in zip(counts[1:], before, strict=True)]


def _counts(read: Reader, begin: datetime, end: datetime) -> dict[tuple[int, str], int]:
    rows = read.rows(
        "select date_diff('hour', $begin, window_start), event_type, sum(events)::bigint from gold.activity_minute "
        "where window_start >= $begin and window_start < $end group by all",
        begin=begin,
        end=end,
    )
    return {(hour, kind): number for hour, kind, number in rows}


def _by_hour(counts: dict[tuple[int, str], int], until: int) -> Hourly:
    totals: dict[int, int] = defaultdict(int)
    for (hour, _), number in counts.items():
        totals[hour] += number
    return hourly(totals.items(), until, 0.0)


def _whole_day(read: Reader, day: Day, days: int) -> Hourly:
    """All hours of an earlier day, also those that the day itself has not come to."""
    begin = day.begin - timedelta(days=days)
    counts = _counts(read, begin, begin + timedelta(days=1))
    return _by_hour(counts, 24) if counts else hourly(())


def _people(read: Reader, begin: datetime, end: datetime) -> tuple[int, int]:
    users, sessions = read.row(
        "select count(distinct user_id), count(distinct session_id) from silver.user_events "
        "where occurred_at >= $begin and occurred_at < $end",
        begin=begin,
        end=end,
    )
    return users, sessions


def _users(read: Reader, by: str, begin: datetime, end: datetime) -> list[tuple[str, int]]:
    key = "date_diff('hour', $begin, occurred_at)" if by == "hour" else "event_type"
    return [
        (value, number)
        for value, number in read.rows(
            f"select {key}, count(distinct user_id) from silver.user_events "
            "where occurred_at >= $begin and occurred_at < $end group by 1",
            begin=begin,
            end=end,
        )
    ]


# --- posts ---------------------------------------------------------------------------------------------------------

_DAILY = """
    select post_id, views, likes, comments, shares, bookmarks, users from gold.post_engagement_daily
    where date = $begin::timestamp::date"""
_UNTIL = """
    select post_id, count(*) filter (event_type = 'view') as views,
           (count(*) filter (event_type = 'like') - count(*) filter (event_type = 'unlike')) as likes,
           count(*) filter (event_type = 'comment') as comments, count(*) filter (event_type = 'share') as shares,
           count(*) filter (event_type = 'bookmark') as bookmarks, count(distinct user_id) as users
    from silver.user_events where post_id is not null and occurred_at >= $begin and occurred_at < $end
    group by post_id"""


def engagement(read: Reader, day: Day) -> Engagement:
    """From gold.post_engagement_daily; the same hours of another day, where the day is not over, from silver."""

    def bound(days: int) -> dict[str, datetime]:
        begin, end = day.back(days)
        return {"begin": begin} if day.whole or not days else {"begin": begin, "end": end}

    def totals(days: int) -> tuple[int, int]:
        source = _DAILY if day.whole or not days else _UNTIL
        posts, done = read.row(
            f"select count(*), coalesce(sum(likes + comments + shares + bookmarks), 0)::bigint from ({source})",
            **bound(days),
        )
        return posts, done

    found = [totals(days) for days in (0, 1, 7)]
    before = (_DAILY if day.whole else _UNTIL).replace("$begin", "$before_begin").replace("$end", "$before_end")
    begin, end = day.back(1)
    times = {"begin": day.begin, "before_begin": begin} | ({} if day.whole else {"before_end": end})
    rows = read.rows(
        f"""
        with today as ({_DAILY}), earlier as ({before}), beside as (
            select t.*, ({_ATTENTION.replace("* ", "* t.")})::bigint as attention,
                   coalesce(({_ATTENTION.replace("* ", "* e.")})::bigint, 0) as before
            from today t left join earlier e using (post_id)
        ), ranked as (
            select *, row_number() over (order by attention desc, post_id) as best,
                   row_number() over (order by attention - before desc, post_id) as gained from beside
        ) select * from ranked where best <= {POSTS} or gained <= {POSTS} order by best""",
        **times,
    )
    posts = [(Post(*row[:9]), row[9], row[10]) for row in rows]
    rising = [(post, gained) for post, _, gained in posts if gained <= POSTS and post.attention > post.before]
    # On a first day all posts gain all they have: the list would be that of the top.
    known = found[1][0] > 0
    return Engagement(
        Figure(found[0][0], *(each[0] or None for each in found[1:])),
        Figure(found[0][1], *(each[1] if each[0] else None for each in found[1:])),
        tuple(post for post, best, _ in posts if best <= POSTS),
        tuple(post for post, _ in sorted(rising, key=lambda pair: pair[1])) if known else (),
    )


# --- texts ---------------------------------------------------------------------------------------------------------


def texts(read: Reader, day: Day) -> Texts:
    """From gold.text_insights_daily: terms that were used several times, and counts."""
    rows = read.rows(
        "select date = $day, source, kind, term, count from gold.text_insights_daily "
        "where date in ($day, $day::date - 1) order by score desc nulls last, count desc, term",
        day=day.date,
    )
    today = [row[1:] for row in rows if row[0]]
    before: dict[tuple[str, str, str], int] = {
        (source, kind, term): count for now, source, kind, term, count in rows if not now
    }
    words: dict[str, list[Keyword]] = defaultdict(list)
    feelings: dict[str, dict[str, int]] = defaultdict(dict)
    groups = []
    for source, kind, term, count in today:
        if kind == "sentiment":
            feelings[source][term] = count
        elif count < FEWEST_USES:
            continue
        elif kind == "keyword":
            was = any(known[:2] == (source, kind) for known in before)
            words[source].append(Keyword(term, count, was and (source, kind, term) not in before))
        elif kind == "error_cluster":
            groups.append(ErrorGroup(term, count, before.get((source, kind, term), 0) if before else None))
    moods = []
    for source in sorted(feelings):
        felt = {term: n for (s, kind, term), n in before.items() if s == source and kind == "sentiment"}
        share = felt.get("negative", 0) / sum(felt.values()) if sum(felt.values()) else None
        one = feelings[source]
        moods.append(
            Mood(
                source.partition(":")[2] or None,
                one.get("positive", 0),
                one.get("neutral", 0),
                one.get("negative", 0),
                share,
            )
        )
    groups.sort(key=lambda group: -group.count)
    return Texts(
        {source: tuple(found[:KEYWORDS]) for source, found in sorted(words.items())},
        tuple(moods),
        tuple(groups[:ERRORS]),
    )
