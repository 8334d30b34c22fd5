"""How well the platform did its work in a day: models, data quality, freshness, planned jobs."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from lakehouse.contracts import TOPICS, contracts
from serving.report.facts import (
    Batches,
    Day,
    Decision,
    Drift,
    Figure,
    Freshness,
    Intake,
    Job,
    Measure,
    Model,
    Models,
    Quality,
    Reason,
)  # fmt: skip
from serving.report.reader import Reader, hourly

REASONS = DRIFTED = 15
MEASURES = 6
KEPT_DRIFT = timedelta(days=7)
_KEY = re.compile(r"^(/properties/)[^:]+")
"""Names of properties are the senders' own."""


# --- models --------------------------------------------------------------------------------------------------------


def models(read: Reader, day: Day) -> Models:
    """From ops.promotions, as it stood at the end of the day."""
    rows = read.rows(
        "select model, version, action, previous, why, reasons, measured, decided_at from ops.promotions "
        "where decided_at < $end order by model, decided_at desc",
        end=day.end,
    )
    used = _used(read)
    by_model: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for model, *row in rows:
        by_model[model].append(tuple(row))
    return Models(tuple(_model(name, found, day, used.get(name)) for name, found in sorted(by_model.items())))


def _model(name: str, rows: list[tuple[Any, ...]], day: Day, used_at: datetime | None) -> Model:
    answering = next((row for row in rows if row[1] != "refused"), None)
    # A version that is gone back to has its figures with the decision that first let it answer.
    of_version = [row for row in rows if answering and row[0] == answering[0] and row[1] == "promoted"]
    measures, rival = _measures(of_version[0][5] if of_version else None)
    today = [row for row in rows if row[6] >= day.begin]
    return Model(
        name,
        _decision(answering) if answering else None,
        answering[2] if answering else None,
        measures,
        rival,
        _decision(rows[0]),
        len(today),
        sum(row[1] == "refused" for row in today),
        used_at,
    )


def _decision(row: tuple[Any, ...]) -> Decision:
    version, action, _, why, reasons, _, at = row
    return Decision(version, action, why or "", tuple(reasons or ()), at)


def _measures(written: str | None) -> tuple[tuple[Measure, ...], str | None]:
    """The figures of a candidate and what it was measured against, from the JSON of the decision."""
    try:
        found = json.loads(written or "{}")
    except ValueError:
        return (), None
    parts = (
        {str(name): part for name, part in found.items() if isinstance(part, dict)} if isinstance(found, dict) else {}
    )
    own = _figures(parts.pop("candidate", {}))
    rival = next(iter(parts), None)
    other = _figures(parts[rival]) if rival else {}
    if rival == "baseline":
        other.pop("p99_ms", None)  # it is no program: nobody waits for it
    return tuple(Measure(name, value, other.get(name)) for name, value in [*own.items()][:MEASURES]), rival


def _figures(measured: Mapping[str, Any]) -> dict[str, float]:
    named = {str(measured["metric"]): measured["value"]} if "metric" in measured and "value" in measured else {}
    named |= {name: value for name, value in measured.items() if name not in ("metric", "value")}
    return {
        name: float(value)
        for name, value in named.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _used(read: Reader) -> dict[str, datetime]:
    rows = read.rows(
        "select 'recommender', max(\"at\") from gold.recommendations "
        "union all select 'trend', max(made_at) from gold.forecasts"
    )
    return {model: at for model, at in rows if at is not None}


# --- quality -------------------------------------------------------------------------------------------------------


def ledger(read: Reader, day: Day) -> None:
    """Hold what ops.ledger has of the day and the week before: many small files, which all that follows asks."""
    read.keep(
        "ledger",
        "select topic, seq, partition, start_offset, end_offset, records, valid, quarantined, duplicates, first_at, "
        "warnings, drift, batch_ms, committed_at from ops.ledger where committed_at >= $begin and committed_at < $end",
        begin=day.begin - KEPT_DRIFT,
        end=day.end,
    )


def quality(read: Reader, day: Day) -> Quality:
    """What :func:`ledger` holds, by when batches were committed, and silver.quarantine, by when records arrived."""
    spans = [day.back(days) for days in (0, 1, 7)]
    found = [_intake(read, *span) for span in spans]
    now = found[0]

    def figure(topic: str, column: int) -> Figure:
        first, *before = (one.get(topic) for one in found)
        return Figure(float(first[column]) if first else None, *(float(b[column]) if b else None for b in before))

    topics = [topic for topic in (*TOPICS, *sorted({*now} - {*TOPICS})) if topic in now]
    gaps = _gaps(read, day)
    intakes = tuple(
        Intake(
            topic, figure(topic, 0), now[topic][1], figure(topic, 2), now[topic][3], now[topic][4], gaps.get(topic, 0)
        )
        for topic in topics
    )
    totals = [[sum(row[column] for row in one.values()) if one else None for one in found] for column in (0, 2)]
    records, quarantined = (Figure(*(None if n is None else float(n) for n in each)) for each in totals)
    hours = read.rows(
        "select date_diff('hour', $begin, committed_at), sum(records)::bigint from ops.ledger "
        "where committed_at >= $begin and committed_at < $end group by 1",
        begin=day.begin,
        end=day.end,
    )
    return Quality(
        intakes, records, hourly(hours), quarantined, _reasons(read, day), _drift(read, day), _warnings(read, day)
    )


def _intake(read: Reader, begin: datetime, end: datetime) -> dict[str, tuple[Any, ...]]:
    rows = read.rows(
        """
        select topic, sum(records)::bigint, sum(valid)::bigint, sum(quarantined)::bigint, sum(duplicates)::bigint,
               bool_and(records = valid + quarantined + duplicates and records <= end_offset - start_offset)
        from ledger where committed_at >= $begin and committed_at < $end group by topic""",
        begin=begin,
        end=end,
    )
    return {topic: tuple(row) for topic, *row in rows}


def _gaps(read: Reader, day: Day) -> dict[str, int]:
    rows = read.rows(
        """
        select topic, count(*) filter (committed_at >= $begin and before is not null and start_offset <> before)
        from (select topic, committed_at, start_offset,
                     lag(end_offset) over (partition by topic, partition order by seq) as before
              from ledger where committed_at >= $begin - interval 1 day and committed_at < $end)
        group by topic""",
        begin=day.begin,
        end=day.end,
    )
    return dict((topic, number) for topic, number in rows)


def _reasons(read: Reader, day: Day) -> tuple[Reason, ...]:
    rows = read.rows(
        """
        select topic, reason, status, count(*) from (
            select topic, unnest(list_distinct(reasons)) as reason, status from silver.quarantine
            where timestamp >= $begin and timestamp < $end)
        group by all""",
        begin=day.begin,
        end=day.end,
    )
    counts: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for topic, reason, status, number in rows:
        counts[topic, _KEY.sub(r"\1*", reason)][status] += number
    found = [
        Reason(topic, reason, sum(each.values()), each["open"], each["replayed"], each["discarded"])
        for (topic, reason), each in counts.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.records, one.topic, one.reason))[:REASONS])


def _drift(read: Reader, day: Day) -> tuple[Drift, ...]:
    rows = read.rows(
        """
        select topic, field, sum(number) filter (committed_at >= $begin)::bigint as records,
               bool_and(committed_at >= $begin) as new
        from (select topic, committed_at, unnest(map_keys(drift)) as field, unnest(map_values(drift)) as number
              from ledger where committed_at >= $since and committed_at < $end)
        group by all having records > 0 order by records desc, topic, field""",
        begin=day.begin,
        since=day.begin - KEPT_DRIFT,
        end=day.end,
    )
    return tuple(Drift(*row) for row in rows[:DRIFTED])


def _warnings(read: Reader, day: Day) -> tuple[tuple[str, str, int], ...]:
    rows = read.rows(
        """
        select topic, rule, sum(number)::bigint as records
        from (select topic, unnest(map_keys(warnings)) as rule, unnest(map_values(warnings)) as number
              from ledger where committed_at >= $begin and committed_at < $end)
        group by all having records > 0 order by records desc, topic, rule""",
        begin=day.begin,
        end=day.end,
    )
    return tuple((topic, rule, records) for topic, rule, records in rows)


# --- freshness -----------------------------------------------------------------------------------------------------

_BATCHES = """
    select topic, seq, max(batch_ms) as batch_ms, max(committed_at) as committed_at,
           epoch(max(committed_at) - min(first_at)) as delay
    from ledger where committed_at >= $begin and committed_at < $end and records > 0 group by topic, seq"""


def freshness(read: Reader, day: Day, runs: Iterable[Mapping[str, Any]]) -> Freshness:
    """Batches from what :func:`ledger` holds; ``runs`` are the lines of ``home/runs.jsonl``."""
    objectives = {topic: one.freshness.total_seconds() for topic, one in contracts().items()}
    before = [_delays(read, *day.back(days)) for days in (1, 7)]
    hours: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for topic, hour, delay in read.rows(
        f"select topic, date_diff('hour', $begin, committed_at) as hour, quantile_cont(delay, 0.95) from ({_BATCHES}) "
        "group by all",
        begin=day.begin,
        end=day.end,
    ):
        hours[topic].append((hour, delay))
    rows = read.rows(
        f"""
        select topic, count(*), quantile_cont(batch_ms, 0.5), quantile_cont(batch_ms, 0.95), max(batch_ms),
               quantile_cont(delay, 0.5), quantile_cont(delay, 0.95),
               list(delay) from ({_BATCHES}) group by topic""",
        begin=day.begin,
        end=day.end,
    )
    topics = []
    for topic, number, p50, p95, highest, delay50, delay95, delays in sorted(rows, key=lambda row: _place(row[0])):
        objective = objectives.get(topic, 0.0)
        known = [delay for delay in delays if delay is not None]
        on_time = sum(delay <= objective for delay in known) / len(known) if known and objective else None
        delay = Figure(delay95, *(one.get(topic) for one in before))
        topics.append(
            Batches(topic, number, p50, p95, float(highest), delay50, delay, on_time, objective, hourly(hours[topic]))
        )
    return Freshness(tuple(topics), jobs(runs, day))


def _place(topic: str) -> tuple[int, str]:
    return (TOPICS.index(topic) if topic in TOPICS else len(TOPICS), topic)


def _delays(read: Reader, begin: datetime, end: datetime) -> dict[str, float]:
    rows = read.rows(f"select topic, quantile_cont(delay, 0.95) from ({_BATCHES}) group by topic", begin=begin, end=end)
    return {topic: delay for topic, delay in rows if delay is not None}


def jobs(runs: Iterable[Mapping[str, Any]], day: Day) -> tuple[Job, ...]:
    """The runs of the timetable that began in the day, by job."""
    mine: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        if day.begin <= datetime.fromisoformat(run["started_at"]) < day.end:
            mine[run["name"]].append(run)
    return tuple(
        Job(
            name,
            len(each),
            sum(run["outcome"] in ("failed", "timed out") for run in each),
            sum(run["outcome"] == "problems" for run in each),
            max(float(run["seconds"]) for run in each),
            each[-1]["outcome"],
        )
        for name, each in sorted(mine.items())
    )
