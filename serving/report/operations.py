"""How services and hosts were in a day, and what was unusual about them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from lakehouse.alerts import Alerts, Condition
from lakehouse.predict.watch import FEWEST, ONE_INCIDENT
from serving.report.facts import (
    Day,
    Episode,
    Figure,
    Host,
    Hosts,
    Incidents,
    Minute,
    Service,
    Services,
    Use,
)  # fmt: skip
from serving.report.reader import Reader, hourly
from serving.report.told import CONFIRMS, OF_ANOMALIES, Told, firings, rules

SERVICES = HOSTS = 25
MINUTES = 5
SLOW = 1.5
"""Times a service's usual p95 from which a minute counts as slow."""
SAYS_LITTLE = 5
"""Requests of a minute below which it is not told that it was slow."""
CPU, MEMORY, DISK = "system.cpu.total.norm.pct", "system.memory.actual.used.pct", "system.filesystem.used.pct"
LIMIT = 0.9
"""The share of a resource above which there is trouble, where conf/alerts.yaml has no rule of its own."""
TREND_DAYS = 7
FULL_WITHIN_DAYS = 60.0
_REQUEST = "http.response.status_code is not null and event.duration is not null"


# --- services ------------------------------------------------------------------------------------------------------


def services(read: Reader, day: Day) -> Services:
    """Requests and errors from gold.service_health_minute; percentiles of hours and days, which are no means of those
    of minutes, from silver.service_logs.
    """
    spans = [day.back(days) for days in (0, 1, 7)]
    found = [_requests(read, *span) for span in spans]
    percentiles = [_percentiles(read, *span, hours=not index) for index, span in enumerate(spans)]
    now, minutes = found[0], _minutes(read, day)
    names = sorted(
        {name for name, hour in now if name is not None and hour is None}, key=lambda n: (-now[n, None][0], n)
    )

    def requests(name: str | None) -> Figure:
        return Figure(*(float(one[name, None][0]) if (name, None) in one else None for one in found))

    def rate(name: str | None) -> Figure:
        return Figure(*(_rate(*one[name, None]) if (name, None) in one else None for one in found))

    def p95(name: str | None) -> Figure:
        return Figure(*(one[name, None][1] if (name, None) in one else None for one in percentiles))

    def service(name: str) -> Service:
        p50, _, p99 = percentiles[0].get((name, None), (None, None, None))
        mine = {hour: both for (who, hour), both in now.items() if who == name and hour is not None}
        return Service(
            name, requests(name), now[name, None][1], rate(name), p50, p95(name), p99,
            hourly((hour, both[0]) for hour, both in mine.items()),
            hourly((hour, _rate(*both)) for hour, both in mine.items()),
        )  # fmt: skip

    hours = {hour: both for (who, hour), both in now.items() if who is None and hour is not None}
    return Services(
        requests(None),
        Figure(*(float(one[None, None][1]) if (None, None) in one else None for one in found)),
        rate(None),
        p95(None),
        hourly((hour, both[0]) for hour, both in hours.items()),
        hourly((hour, _rate(*both)) for hour, both in hours.items()),
        hourly((hour, each[1]) for (who, hour), each in percentiles[0].items() if who is None and hour is not None),
        tuple(map(service, names[:SERVICES])),
        max(len(names) - SERVICES, 0),
        *minutes,
    )


def _rate(requests: int, errors: int) -> float | None:
    return errors / requests if requests else None


Key = tuple[str | None, int | None]
"""(service, hour); None stands for all of them."""


def _requests(read: Reader, begin: datetime, end: datetime) -> dict[Key, tuple[int, int]]:
    rows = read.rows(
        """
        select service, hour, sum(requests)::bigint, sum(errors)::bigint from (
            select service, date_diff('hour', $begin, window_start) as hour, requests, errors
            from gold.service_health_minute where window_start >= $begin and window_start < $end)
        group by grouping sets ((), (hour), (service), (service, hour)) having count(*) > 0""",
        begin=begin,
        end=end,
    )
    return {(service, hour): (requests, errors) for service, hour, requests, errors in rows}


def _percentiles(read: Reader, begin: datetime, end: datetime, hours: bool) -> dict[Key, tuple[Any, Any, Any]]:
    hour, sets = ("hour", ", (hour)") if hours else ("null", "")
    rows = read.rows(
        f"""
        select service, {hour}, quantile_cont(ms, [0.5, 0.95, 0.99]) from (
            select service.name as service, date_diff('hour', $begin, time) as hour, event.duration / 1e6 as ms
            from silver.service_logs where time >= $begin and time < $end and {_REQUEST})
        group by grouping sets ((), (service){sets}) having count(*) > 0""",
        begin=begin,
        end=end,
    )
    return {(service, hour): tuple(found) for service, hour, found in rows}


def _minutes(read: Reader, day: Day) -> tuple[tuple[Minute, ...], tuple[Minute, ...]]:
    """The minutes with most errors, and the slowest ones beside what is usual for their service.

    Of the slowest, those count that had as many requests as the service's minutes mostly have, or enough for any.
    """
    rows = read.rows(
        f"""
        with minutes as (
            select window_start, service, requests, errors, error_rate, p95_ms,
                   median(requests) over (partition by service) as usual,
                   p95_ms / median(p95_ms) over (partition by service) as times
            from gold.service_health_minute where window_start >= $begin and window_start < $end
        ), paced as (
            select *, case when requests >= greatest(least(usual, {FEWEST}), {SAYS_LITTLE}) then times end as pace
            from minutes
        ), ranked as (
            select *, row_number() over (order by errors desc, error_rate desc, window_start, service) as failing,
                   row_number() over (order by pace desc nulls last, p95_ms desc nulls last, window_start, service)
                       as slow
            from paced
        ) select window_start, service, requests, errors, error_rate, p95_ms, failing, slow, pace > {SLOW}
        from ranked where failing <= {MINUTES} or slow <= {MINUTES}""",
        begin=day.begin,
        end=day.end,
    )
    failing = sorted((row for row in rows if row[6] <= MINUTES and row[3]), key=lambda row: row[6])
    slow = sorted((row for row in rows if row[7] <= MINUTES and row[8]), key=lambda row: row[7])
    return tuple(Minute(*row[:6]) for row in failing), tuple(Minute(*row[:6]) for row in slow)


# --- incidents -----------------------------------------------------------------------------------------------------

_VARIABLE = re.compile(r"""'[^']*'|"[^"]*"|\S*@\S*|(?<![\w.])\S*\d\S*""")


def incidents(read: Reader, day: Day, alerts: Alerts, told: Sequence[Told] | None) -> Incidents:
    """Episodes of gold.anomalies, and what rules told; ``told`` is None where MongoDB does not answer."""
    reach = timedelta(minutes=ONE_INCIDENT)

    def of(begin: datetime, end: datetime) -> list[Episode]:
        rows = read.rows(
            "select series, time, value, expected, score from gold.anomalies "
            "where time >= $begin and time < $end order by time, series",
            begin=begin - reach,
            end=end,
        )
        # What had begun before midnight is of the day before.
        return [one for one in episodes(rows) if one.begin >= begin]

    found = of(*day.back(0))
    before = [len(of(*day.back(days))) for days in (1, 7)]
    held = firings(alerts, told or (), day)
    independent = {rule.name for rule in alerts.rules if rule.on not in OF_ANOMALIES}
    confirming = [one for one in held if one.rule in independent]
    confirmed = [
        replace(one, confirmed=tuple(sorted({f.rule for f in confirming if _confirms(f.subject, f.begin, f.end, one)})))
        for one in found
    ]
    hours: dict[int, int] = defaultdict(int)
    for one in found:
        hours[(one.begin - day.begin) // timedelta(hours=1)] += 1
    return Incidents(
        tuple(confirmed),
        hourly(hours.items()),
        Figure(len(found), *(float(number) if number else None for number in before)),
        held,
        rules(alerts, told or (), day),
        told is not None,
    )


def _confirms(subject: str, begin: datetime, end: datetime | None, episode: Episode) -> bool:
    near = begin <= episode.end + CONFIRMS and (end is None or end >= episode.begin - CONFIRMS)
    return subject == episode.name and near


def episodes(rows: Sequence[tuple[str, datetime, float, float, float]]) -> list[Episode]:
    """Alarms (series, minute, value, expected, score), oldest first -> episodes, oldest first.

    Alarms of one subject belong together until there are none for ONE_INCIDENT minutes; of a log, each template is a
    subject of its own.
    """
    spans: dict[tuple[str, str, str], list[list[tuple[str, datetime, float, float, float]]]] = defaultdict(list)
    for series, at, value, expected, score in rows:
        kind, _, rest = series.partition("/")
        name, _, measure = rest.partition("/")
        mine = spans[kind, name, measure if kind == "logs" else ""]
        if not mine or at - mine[-1][-1][1] >= timedelta(minutes=ONE_INCIDENT):
            mine.append([])
        mine[-1].append((measure, at, value, expected, score))
    found = []
    for (kind, name, _), mine in spans.items():
        for one in mine:
            _, _, value, expected, score = max(one, key=lambda alarm: alarm[4])
            strongest = sorted({measure for measure, *_ in one}, key=lambda m: -max(a[4] for a in one if a[0] == m))
            shown = tuple(_VARIABLE.sub("<*>", each) if kind == "logs" else each for each in strongest)
            begin, end, minutes = one[0][1], one[-1][1] + timedelta(minutes=1), len({at for _, at, *_ in one})
            found.append(Episode(kind, name, begin, end, minutes, shown, score, value, expected, ()))
    return sorted(found, key=lambda episode: (episode.begin, episode.kind, episode.name))


# --- hosts ---------------------------------------------------------------------------------------------------------


def limits(alerts: Alerts) -> dict[str, float]:
    """Metric -> the value above which conf/alerts.yaml raises its most severe alarm, or LIMIT."""
    found = dict.fromkeys((CPU, MEMORY, DISK), LIMIT)
    for severity in ("warning", "critical"):
        for rule in alerts.rules:
            if rule.on == "host" and rule.severity == severity:
                for condition in rule.when:
                    if _is_limit(condition, found):
                        found[condition.field] = float(condition.operand)
    return found


def _is_limit(condition: Condition, known: dict[str, float]) -> bool:
    above = condition.operator in ("above", "at_least")
    return condition.field in known and above and isinstance(condition.operand, int | float)


def hosts(read: Reader, day: Day, alerts: Alerts) -> Hosts:
    """From gold.host_utilization_minute; of file systems, the fullest."""
    bound = {"begin": day.begin, "end": day.end}
    read.keep(
        "utilization",
        "select window_start, host, metric, avg, max from gold.host_utilization_minute "
        f"where window_start >= $begin and window_start < $end and metric in ('{CPU}', '{MEMORY}', '{DISK}')",
        begin=day.end - timedelta(days=TREND_DAYS),
        end=day.end,
    )
    rows = read.rows(
        f"""
        select host, metric, avg(used), quantile_cont(used, 0.95), max(max) from (
            select host, metric, case metric when '{DISK}' then max else avg end as used, max
            from utilization where window_start >= $begin and window_start < $end)
        where not isnan(used) group by all""",
        **bound,
    )
    bounds, uses = limits(alerts), defaultdict[str, dict[str, Use]](dict)
    for host, metric, mean, p95, highest in rows:
        uses[host][metric] = Use(mean, p95, highest, bounds[metric])
    busy: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for host, hour, value in read.rows(
        f"select host, date_diff('hour', $begin, window_start) as hour, avg(avg) from utilization "
        f"where window_start >= $begin and window_start < $end and metric = '{CPU}' group by all",
        **bound,
    ):
        busy[host].append((hour, value))
    full = _full_in(read)
    found = [
        Host(name, mine.get(CPU), mine.get(MEMORY), mine.get(DISK), hourly(busy[name]), full.get(name))
        for name, mine in uses.items()
    ]
    found.sort(key=lambda host: (-host.nearness, host.name))
    return Hosts(tuple(found[:HOSTS]), max(len(found) - HOSTS, 0))


def _full_in(read: Reader) -> dict[str, float]:
    """Host -> days until its fullest file system is full, by a line through a week's hours that fits them well."""
    rows = read.rows(
        f"""
        select host, regr_slope(used, day) as slope, max_by(used, day) as now from (
            select host, max(max) as used, epoch(date_trunc('hour', window_start)) / 86400 as day
            from utilization where metric = '{DISK}' and not isnan(max) group by all)
        group by host having count(*) >= 24 and regr_slope(used, day) > 0 and regr_r2(used, day) > 0.5""",
    )
    days = {host: max(1 - now, 0.0) / slope for host, slope, now in rows}
    return {host: left for host, left in days.items() if left <= FULL_WITHIN_DAYS}
