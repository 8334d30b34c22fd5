"""What is foreseen for the hours ahead, and how the forecasts of the day turned out."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any

from lakehouse.alerts import Alerts
from lakehouse.predict.watch import MEASURES
from serving.report.facts import Day, Forecasts, Foretold, Judged, Outlook, Reaching
from serving.report.operations import CPU, limits
from serving.report.reader import Reader

STEP = timedelta(minutes=5)
"""Of gold.forecasts."""
LATE = timedelta(hours=6)
"""How long after its day a report still looks ahead from now; a later one looks from the day's end."""
SHOWN = {"activity": 2, "requests": 2, "p95_ms": 1, CPU: 1}
"""How many series of a measure have a chart, those with most in the day."""
_MEASURE = """
    case when starts_with(series, 'activity/') then 'activity'
         else regexp_extract(series, '^[^/]*/.*/([^/]*)$', 1) end"""
_COUNTED = "measure in ('activity', 'requests')"
"""Counts are 0 in steps without rows."""
_STEP = "time_bucket(interval '5 minutes', window_start)"
_HOST = ", ".join(f"'{metric}'" for metric in MEASURES["host"])
_WEIGHED = " union all ".join(
    f"select 'service/' || service || '/{name}', {_STEP}, sum({name} * requests) / sum(requests) "
    f"from services where {name} is not null and requests > 0 group by all"
    for name in MEASURES["service"]
)
_ACTUAL = f"""
    services as (
        select * from gold.service_health_minute where window_start >= $since and window_start < $until
    ), counted as (
        select 'activity/' || event_type as series, {_STEP} as time, sum(events)::double as value
        from gold.activity_minute where window_start >= $since and window_start < $until group by all
        union all
        select 'service/' || service || '/requests', {_STEP}, sum(requests)::double from services group by all
        union all {_WEIGHED}
        union all
        select 'host/' || host || '/' || metric, {_STEP}, sum(avg * samples) / sum(samples)
        from gold.host_utilization_minute
        where window_start >= $since and window_start < $until and metric in ({_HOST}) group by all
    ), actual as (select series, time, value, {_MEASURE} as measure from counted where not isnan(value))"""
"""Gold's minutes as the series that models/trend learns from: (series, time, value, measure)."""


def forecasts(read: Reader, day: Day, alerts: Alerts) -> Forecasts:
    """From gold.forecasts, which keeps the last forecast of each time, and gold's minutes."""
    begin = day.now if day.now < day.begin + timedelta(days=1) + LATE else day.end
    made_at, version, end = read.row(
        "select max(made_at), max_by(model_version, made_at), max(time) from gold.forecasts where time >= $begin "
        "and time < $begin + interval 1 day",
        begin=begin,
    )
    judged, coverage = _judged(read, day)
    return Forecasts(
        begin, end + STEP if end else None, made_at, version, _outlooks(read, day, begin), judged, coverage,
        _reaching(read, begin, alerts),
    )  # fmt: skip


def _judged(read: Reader, day: Day) -> tuple[tuple[Judged, ...], float | None]:
    """Forecasts of the day's steps that are over, made before these began."""
    rows = read.rows(
        f"""
        with {_ACTUAL}, said as (
            select *, {_MEASURE} as measure, time_bucket(interval '5 minutes', made_at) - interval '5 minutes' as known
            from gold.forecasts where time >= $begin and time + interval '5 minutes' <= $until and made_at <= time
        ), met as (
            select s.series, s.measure, s.mean, s.lo, s.hi, s.known,
                   case when s.{_COUNTED} then coalesce(a.value, 0) else a.value end as value
            from said s left join actual a on a.series = s.series and a.time = s.time
        ), beside as (
            select m.*, case when m.{_COUNTED} then coalesce(e.value, 0) else l.value end as last
            from met m left join actual e on e.series = m.series and e.time = m.known
                 asof left join actual l on l.series = m.series and l.time <= m.known
            where m.value is not null
        ) select measure, count(distinct series), count(*), avg((value between lo and hi)::int),
                 sum(abs(mean - value)) filter (last is not null) / nullif(sum(abs(last - value)), 0),
                 sum((value between lo and hi)::int)
        from beside group by measure order by measure""",
        since=day.begin - timedelta(days=1),
        begin=day.begin,
        until=day.end,
    )
    steps = sum(row[2] for row in rows)
    return tuple(Judged(*row[:5]) for row in rows), sum(row[5] for row in rows) / steps if steps else None


def _outlooks(read: Reader, day: Day, begin: datetime) -> tuple[Outlook, ...]:
    chosen = read.rows(
        f"""
        with ahead as (
            select series, {_MEASURE} as measure, avg(mean) as size from gold.forecasts
            where time >= $begin and time < $begin + interval 1 day group by series
        ) select series, measure from ahead
        qualify row_number() over (partition by measure order by size desc, series) <= $most""",
        begin=day.begin,
        most=max(SHOWN.values()),
    )
    numbers: dict[str, int] = defaultdict(int)
    series: list[tuple[int, str, bool]] = []
    for name, measure in chosen:
        numbers[measure] += 1
        if numbers[measure] <= SHOWN.get(measure, 0):
            series.append((list(SHOWN).index(measure), name, measure in ("activity", "requests")))
    if not series:
        return ()
    names = [name for _, name, _ in series]
    ahead = begin + timedelta(hours=24)
    past = _by_series(
        read.rows(
            f"with {_ACTUAL} select series, time, value from actual where list_contains($names, series) order by time",
            since=min(day.begin, begin - timedelta(days=1)),
            until=day.end,
            names=names,
        )
    )
    said = _by_series(
        read.rows(
            "select series, time, mean, lo, hi, made_at from gold.forecasts where time >= $begin and time < $ahead "
            "and made_at < time + interval '5 minutes' and list_contains($names, series) order by time",
            begin=day.begin,
            ahead=ahead,
            names=names,
        )
    )
    found = []
    for _, name, counts in sorted(series):
        foretold = tuple(Foretold(*row[:4]) for row in said.get(name, []))
        future = [one for one in foretold if one.at >= begin]
        mine = past.get(name, [])
        then = [v for at, v in mine if future and future[0].at <= at + timedelta(days=1) <= future[-1].at]
        total = sum if counts else _mean
        steps = dict(mine)
        actual = tuple(
            (at, steps.get(at, 0.0) if counts else steps[at])
            for at in _steps(day, mine, counts)
            if counts or at in steps
        )
        found.append(
            Outlook(
                name, actual, foretold, total([f.mean for f in future]) if future else None,
                total(then) if then else None, counts,
            )
        )  # fmt: skip
    return tuple(found)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _steps(day: Day, known: list[tuple[datetime, float]], counts: bool) -> list[datetime]:
    """The steps of the day that are over; of counts from the first that is known."""
    first = max(day.begin, known[0][0]) if known and counts else day.begin
    found, at = [], first
    while at + STEP <= day.end:
        found.append(at)
        at += STEP
    return found


def _by_series(rows: list[tuple[Any, ...]]) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for series, *row in rows:
        found[series].append(tuple(row))
    return found


def _reaching(read: Reader, begin: datetime, alerts: Alerts) -> tuple[Reaching, ...]:
    found: dict[str, Reaching] = {}
    bounds = limits(alerts)
    for series, at, mean, hi in read.rows(
        "select series, time, mean, hi from gold.forecasts where time >= $begin and time < $begin + interval 1 day "
        "and split_part(series, '/', 1) = 'host' order by time",
        begin=begin,
    ):
        limit = bounds.get(series.rpartition("/")[2])
        if limit is None or hi < limit:
            continue
        known = found.get(series)
        if known is None or (mean >= limit and not known.certain):
            found[series] = Reaching(series, limit, at, mean >= limit)
    return tuple(sorted(found.values(), key=lambda one: (not one.certain, one.at, one.series)))
