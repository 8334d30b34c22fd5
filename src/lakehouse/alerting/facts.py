"""What rules are told: rows of tables in, facts by subject out, for any span of minutes that has closed.

Nothing here reads or knows a clock. Times are microseconds since 1970 UTC; ``at_us`` is the end of a minute, and the
facts are what was so then, whenever they are made.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median
from typing import Any

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
DAYS = 7
"""Days before that say what is usual."""
BASELINE = timedelta(hours=1)
"""What a service's latency is compared with: so long before the span."""

Facts = dict[str, dict[str, Any]]
"""Facts by subject."""


@dataclass(frozen=True)
class Batch:
    """A row of ``ops.ledger``; ``first_us`` and ``last_us`` are append times in Kafka, None where it held no record."""

    topic: str
    seq: int
    partition: int
    start: int
    end: int
    records: int
    quarantined: int
    duplicates: int
    first_us: int | None
    last_us: int | None
    committed_us: int
    warnings: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Minute:
    """A row of ``gold.service_health_minute``; percentiles in ms, None where no request has a duration."""

    start_us: int
    service: str
    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class Anomaly:
    """A row of ``gold.anomalies``; ``at_us`` is where its minute begins."""

    series: str
    at_us: int
    score: float


@dataclass(frozen=True)
class Finding:
    """How far a version's inputs were from those of its training when it was looked at: an index a feature."""

    model: str
    version: str
    at_us: int
    indices: Mapping[str, float | None]


# --- freshness -----------------------------------------------------------------------------------------------------


def cut(batches: Iterable[Batch], at_us: int) -> tuple[dict[int, int], int | None]:
    """How far a topic's tables were at a time: the offset after the last record by partition, and when that was so."""
    ends: dict[int, int] = {}
    when: int | None = None
    for batch in batches:
        if batch.committed_us <= at_us:
            ends[batch.partition] = max(ends.get(batch.partition, 0), batch.end)
            when = max(when or 0, batch.committed_us)
    return ends, when


def waiting(held: Mapping[int, int], ends: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """The half-open range of offsets, by partition, that are in Kafka but not in the tables.

    Args:
        held: what :func:`cut` says.
        ends: the first offset that Kafka still has and the one after the last, by partition.
    """
    found = {partition: (max(held.get(partition, 0), low), high) for partition, (low, high) in ends.items()}
    return {partition: (first, high) for partition, (first, high) in found.items() if first < high}


def freshness(
    topic: str, committed_us: int | None, lag: Mapping[int, tuple[int, int]], oldest_us: int | None,
    objective: timedelta, at_us: int,
) -> Facts:  # fmt: skip
    """How far a topic's tables are behind.

    Args:
        topic: subject of the facts.
        committed_us: when the newest cut was made; None before the first.
        lag: what :func:`waiting` says.
        oldest_us: when the oldest of those records was appended.
        objective: the contract's.
        at_us: now.
    """
    return {
        topic: {
            "subject": topic,
            "kind": "topic",
            "age_seconds": None if committed_us is None else _seconds(at_us - committed_us),
            "lag_records": sum(end - first for first, end in lag.values()),
            "lag_seconds": 0.0 if oldest_us is None else _seconds(at_us - oldest_us),
            "objective_seconds": objective.total_seconds(),
        }
    }


def made(newest_us: Mapping[str, int | None], at_us: int) -> Facts:
    """How old what jobs make is; no facts of a table that has no rows yet, or only rows made later."""
    return {
        table: {"subject": table, "kind": "table", "age_seconds": _seconds(at_us - newest)}
        for table, newest in newest_us.items()
        if newest is not None and newest <= at_us
    }


# --- volume --------------------------------------------------------------------------------------------------------


def volume(topic: str, minutes: Mapping[int, int], since_us: int | None, at_us: int, over: timedelta) -> Facts:
    """The records of a span against the median of the same span of each of up to seven days before.

    Args:
        topic: subject of the facts.
        minutes: records by where their minute begins; a minute that is not there has none.
        since_us: where the first minute of all begins: days that reach before it say nothing. None: there is none.
        at_us: end of the span.
        over: its length.
    """
    if since_us is None:
        return {}
    length = over // timedelta(microseconds=1)
    before = [
        _sum(minutes, at_us - day * DAY, length) for day in range(1, DAYS + 1) if at_us - day * DAY - length >= since_us
    ]
    records, usual = _sum(minutes, at_us, length), float(median(before)) if before else None
    facts = {"topic": topic, "records": records, "usual": usual, "days": len(before)}
    return {topic: facts | {"ratio": records / usual if usual else None}}


def _sum(minutes: Mapping[int, int], end_us: int, length: int) -> int:
    return sum(minutes.get(start, 0) for start in range(end_us - length, end_us, MINUTE))


# --- quality -------------------------------------------------------------------------------------------------------


def quality(batches: Iterable[Batch], at_us: int, over: timedelta) -> Facts:
    """What became of the records that came into the tables in a span: shares of all of them, by topic."""
    since = at_us - over // timedelta(microseconds=1)
    sums: dict[str, list[int]] = defaultdict(lambda: [0] * 5)
    for batch in batches:
        if since < batch.committed_us <= at_us:
            counts = (
                batch.records, batch.quarantined, batch.duplicates,
                sum(batch.warnings.values()), sum(batch.unknown.values()),
            )  # fmt: skip
            sums[batch.topic] = [a + b for a, b in zip(sums[batch.topic], counts, strict=True)]
    return {
        topic: {
            "topic": topic,
            "records": records,
            "quarantined": quarantined,
            "quarantined_share": _share(quarantined, records),
            "duplicates": duplicates,
            "duplicate_share": _share(duplicates, records),
            "warnings": warnings,
            "warning_share": _share(warnings, records),
            "unknown_fields": unknown,
        }
        for topic, (records, quarantined, duplicates, warnings, unknown) in sums.items()
    }


# --- health --------------------------------------------------------------------------------------------------------


def health(minutes: Iterable[Minute], at_us: int, over: timedelta) -> Facts:
    """Requests of each service in a span, and how its latency is against the hour before.

    Percentiles are the means of the minutes', each by its requests: of a longer span than a minute they are close to,
    but not, those of its requests. ``slowdown`` is p95 by that of the hour before, ``usual_p95_ms``.
    """
    since = at_us - over // timedelta(microseconds=1)
    earlier = since - BASELINE // timedelta(microseconds=1)
    there: dict[str, list[Minute]] = defaultdict(list)
    before: dict[str, list[Minute]] = defaultdict(list)
    for minute in minutes:
        if since <= minute.start_us < at_us:
            there[minute.service].append(minute)
        elif earlier <= minute.start_us < since:
            before[minute.service].append(minute)
    found: Facts = {}
    for service, known in there.items():
        requests, errors = sum(m.requests for m in known), sum(m.errors for m in known)
        p95, usual = _mean(known, "p95_ms"), _mean(before[service], "p95_ms")
        found[service] = {
            "service": service,
            "requests": requests,
            "errors": errors,
            "error_rate": _share(errors, requests),
            "p50_ms": _mean(known, "p50_ms"),
            "p95_ms": p95,
            "p99_ms": _mean(known, "p99_ms"),
            "usual_p95_ms": usual,
            "slowdown": p95 / usual if p95 is not None and usual else None,
        }
    return found


def _mean(minutes: Sequence[Minute], name: str) -> float | None:
    known = [(getattr(m, name), m.requests) for m in minutes if getattr(m, name) is not None]
    weight = sum(requests for _, requests in known)
    return sum(value * requests for value, requests in known) / weight if weight else None


# --- findings of models, and about them ----------------------------------------------------------------------------


def anomalies(rows: Iterable[Anomaly], at_us: int, over: timedelta) -> Facts:
    """What was unusual in a span, by ``<kind>/<name>``: minutes over all series, series, and the highest score."""
    since = at_us - over // timedelta(microseconds=1)
    found: Facts = {}
    seen: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if not since <= row.at_us < at_us:
            continue
        kind, name, *_ = [*row.series.split("/", 2), "", ""]
        subject = f"{kind}/{name}"
        facts = found.setdefault(
            subject, {"subject": subject, "kind": kind, "name": name, "count": 0, "series": 0, "score": 0.0}
        )
        seen[subject].add(row.series)
        facts |= {"count": facts["count"] + 1, "series": len(seen[subject]), "score": max(facts["score"], row.score)}
    return found


def drift(findings: Iterable[Finding], at_us: int) -> Facts:
    """What was found last of each model: the feature whose index is highest, and how long ago that was found."""
    newest: dict[str, Finding] = {}
    for finding in findings:
        known = newest.get(finding.model)
        if finding.at_us <= at_us and (known is None or finding.at_us >= known.at_us):
            newest[finding.model] = finding
    found: Facts = {}
    for model, finding in newest.items():
        known_indices = {name: index for name, index in finding.indices.items() if _finite(index)}
        worst = max(known_indices, key=lambda name: known_indices[name] or 0.0, default=None)
        found[model] = {
            "model": model,
            "version": finding.version,
            "feature": worst,
            "psi": known_indices[worst] if worst else None,
            "age_seconds": _seconds(at_us - finding.at_us),
        }
    return found


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _seconds(micros: int) -> float:
    return micros / 1e6


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
