"""What champions said then, against what has happened since: labels that come late, or never, as for anomalies.

The tables remember what was said: each is read as it was at the time (Delta's time travel), so a later snapshot that
knows the answer does not count. That reaches back as far as the setting ``stream.time_travel``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from lakehouse import alerts
from lakehouse.predict.watch import ONE_INCIDENT
from lakehouse.settings import Settings
from lakehouse.sources.lake import Lake
from models.recommender.interactions import WORTH
from models.recommender.metrics import K, measure
from models.registry import Registry
from models.trained import ModelError
from models.trend.kind import last_known, mase, read
from models.trend.series import HORIZON, STEP

REPORT = "hindsight.json"
"""The artefact of the champion's run."""
DAYS = timedelta(days=7)
"""How far back alarms are counted."""
CONFIRMS = timedelta(minutes=5)
"""How near a rule must fire to an alarm to confirm it."""
_DAY = timedelta(days=1)

Days = list[dict[str, Any]]


def hindsight(settings: Settings, model: str, spark: Any = None, now: datetime | None = None) -> dict[str, Any]:
    """How what was said turned out, day by day; kept as ``hindsight.json`` with the champion's run in MLflow.

    Days may hold answers of versions before the champion; ``versions`` names them. ``spark`` is needed for trend alone.

    Raises:
        ModelError: no version answers yet.
    """
    now, registry = now or datetime.now(UTC), Registry(settings)
    answering = registry.answering(model)
    if answering is None:
        raise ModelError(f"no version of {model} answers yet: `lakehouse promote {model}` lets one")
    days = DAILY[model](settings, spark, now)
    report = {"model": model, "champion": answering.version, "at": now.isoformat(), "days": days}
    registry.attach(model, answering.version, REPORT, report)
    return report


def recommender(settings: Settings, spark: Any, now: datetime) -> Days:
    """Of the posts new to each user that was recommended any, which they turned to that day: hit rate and nDCG@10.

    A day begins with what was recommended at midnight, or as early as is remembered. Users who turned to nothing new
    are not counted.
    """
    lake, past, found = Lake(settings), Past(settings, "gold.recommendations", now), []
    begin = past.since
    while begin and begin < now:
        end = min(begin.replace(hour=0, minute=0, second=0, microsecond=0) + _DAY, now)
        then = {"gold.recommendations": past.version(begin)}
        with lake.connect("gold.recommendations", "silver.user_events", versions=then) as db:
            rows = db.execute(
                f"""
                with said as (
                    select user_id, list(post_id order by rank) as posts, any_value(model_version) as model_version
                    from gold.recommendations where rank <= {K} group by user_id
                ), turned as (
                    select user_id, post_id from silver.user_events
                    where post_id is not null and event_type in {tuple(WORTH)} and occurred_at < $end
                    group by user_id, post_id having min(occurred_at) >= $begin
                ) select posts, list(post_id), model_version from turned join said using (user_id)
                group by user_id, posts, model_version""",
                {"begin": begin, "end": end},
            ).fetchall()
        if rows:
            hits = np.zeros((len(rows), K), dtype=bool)
            for row, (posts, relevant, _) in enumerate(rows):
                hits[row, : len(posts)] = [post in {*relevant} for post in posts]
            ndcg = measure(hits, np.array([len(relevant) for _, relevant, _ in rows]))["ndcg@10"]
            found.append({
                "from": begin.isoformat(), "until": end.isoformat(), "versions": sorted({row[2] for row in rows}),
                "users": len(rows), "hit_rate": float(hits.any(1).mean()), "ndcg@10": float(ndcg.mean()),
            })  # fmt: skip
        begin = end
    return found


def trend(settings: Settings, spark: Any, now: datetime) -> Days:
    """Forecasts as they stood every four hours, against the steps that followed: MASE and coverage of the interval.

    ``mase_of_last_value`` is what the newest value then would have scored; of values, 95 % were to be in the interval.
    """
    lake, past = Lake(settings), Past(settings, "gold.forecasts", now)
    known = {one.name: one for one in read(spark, settings, {})}
    days: dict[str, list[tuple[float, float, list[bool], str]]] = defaultdict(list)
    begin = past.since
    while begin and begin < now:
        end, said = begin + HORIZON * STEP, defaultdict(list)
        with lake.connect("gold.forecasts", versions={"gold.forecasts": past.version(begin)}) as db:
            rows = db.execute(
                "select series, time, mean, lo, hi, model_version from gold.forecasts where time >= ? and time < ? "
                "order by time",
                [begin, end],
            ).fetchall()
        for name, at, *row in rows:
            one = known.get(name)
            step = (at - one.begins) // STEP if one else 0
            if one and 0 < step < len(one.values) and np.isfinite(one.values[step]):
                said[name].append((step, *row))
        for name, told in said.items():
            values, steps = known[name].values, [row[0] for row in told]
            mean, lo, hi = (np.array([row[column] for row in told]) for column in (1, 2, 3))
            before, truth = values[: steps[0]], values[steps]
            errors = [mase(before, truth, each) for each in (mean, np.full(len(truth), last_known(before)))]
            if np.isfinite(errors[0]):
                inside = ((lo <= truth) & (truth <= hi)).tolist()
                days[f"{begin:%Y-%m-%d}"].append((errors[0], errors[1], inside, told[0][4]))
        begin = end
    return [
        {
            "day": day, "versions": sorted({version for *_, version in rows}), "forecasts": len(rows),
            "mase": float(np.mean([row[0] for row in rows])),
            "mase_of_last_value": float(np.mean([row[1] for row in rows])),
            "coverage": float(np.mean([inside for row in rows for inside in row[2]])),
        }
        for day, rows in sorted(days.items())
    ]  # fmt: skip


def anomaly(settings: Settings, spark: Any, now: datetime) -> Days:
    """Incidents a day by kind of subject, how many of each subject watched, and the share that a rule confirms.

    Nobody says which alarms were right. One of a service or host counts as confirmed where a rule on it fired within
    five minutes; None where MongoDB, which has what rules told, does not answer, and of logs, which have no rules.
    """
    lake, since = Lake(settings), now - DAYS
    rows = lake.query(
        "select series, time, model_version from gold.anomalies where time >= ? and time < ? order by time",
        [since, now],
    ).fetchall()
    watched = lake.query(
        "select window_start::date::varchar, 'service', count(distinct service) from gold.service_health_minute "
        "where window_start >= $1 group by 1 union all select window_start::date::varchar, 'host', "
        "count(distinct host) from gold.host_utilization_minute where window_start >= $1 group by 1",
        [since],
    ).fetchall()
    return incidents(rows, {(day, kind): number for day, kind, number in watched}, _fired(settings, since))


def incidents(
    rows: Iterable[tuple[str, datetime, str]], watched: Mapping[tuple[str, str], int],
    fired: Mapping[tuple[str, str], list[datetime]] | None,
) -> Days:  # fmt: skip
    """Alarms (series, minute, version), oldest first -> incidents of each day and kind of subject.

    Args:
        rows: alarms of one subject belong to one incident until there are none for 15 minutes.
        watched: (day, "service" or "host") -> how many there were.
        fired: ("service" or "host", name) -> when a rule on it fired; None if unknown.
    """
    spans: dict[tuple[str, str], list[list[Any]]] = defaultdict(list)
    for series, at, version in rows:
        kind, name, _ = series.split("/", 2)
        mine = spans[kind, name]
        if not mine or at - mine[-1][1] >= timedelta(minutes=ONE_INCIDENT):
            mine.append([at, at, version])
        mine[-1][1] = at
    days: dict[tuple[str, str], list[tuple[bool, str]]] = defaultdict(list)
    for (kind, name), mine in spans.items():
        for first, last, version in mine:
            right = any(first - CONFIRMS <= at <= last + CONFIRMS for at in (fired or {}).get((kind, name), ()))
            days[f"{first:%Y-%m-%d}", kind].append((right, version))
    return [
        {
            "day": day, "kind": kind, "versions": sorted({version for _, version in found}), "incidents": len(found),
            "a_subject": len(found) / max(watched.get((day, "service" if kind == "logs" else kind), 0), 1),
            "confirmed": None if fired is None or kind == "logs" else sum(right for right, _ in found) / len(found),
        }
        for (day, kind), found in sorted(days.items())
    ]  # fmt: skip


def _fired(settings: Settings, since: datetime) -> dict[tuple[str, str], list[datetime]] | None:
    """When rules on services and hosts fired, by what they are on."""
    rules = {rule.name: rule.on for rule in alerts.read().rules if rule.on in ("service", "host")}
    wanted = {"rule": {"$in": [*rules]}, "kind": "fired", "at": {"$gte": since.astimezone(UTC).isoformat()[:19]}}
    found: dict[tuple[str, str], list[datetime]] = defaultdict(list)
    try:
        with MongoClient[dict[str, Any]](
            settings.mongo.uri.get_secret_value(), serverSelectionTimeoutMS=3000, socketTimeoutMS=20000
        ) as client:
            for one in client[settings.mongo.database]["notifications"].find(wanted):
                found[rules[one["rule"]], one["subject"]].append(datetime.fromisoformat(one["at"]))
    except PyMongoError:
        return None
    return found


class Past:
    """The versions of a table, as far back as its files are kept.

    ``since`` is when the first one of these was there that holds anything; None where none does.
    """

    def __init__(self, settings: Settings, name: str, now: datetime) -> None:
        history = Lake(settings).table(name).history()
        commits = sorted((datetime.fromtimestamp(one["timestamp"] / 1000, UTC), one["version"]) for one in history)
        self._times, self._versions = [at for at, _ in commits], [version for _, version in commits]
        kept = now - settings.stream.time_travel
        moments = [
            max(at, kept) for at, until in zip(self._times, [*self._times[1:], now], strict=True) if until > kept
        ]
        tables = ((at, Lake(settings).table(name, self.version(at))) for at in moments)
        self.since = next((at for at, table in tables if table.file_uris()), None)

    def version(self, at: datetime) -> int:
        """The newest that was committed at or before a time from ``since`` on."""
        return int(self._versions[bisect_right(self._times, at) - 1])


DAILY: dict[str, Callable[[Settings, Any, datetime], Days]] = {
    "recommender": recommender, "trend": trend, "anomaly": anomaly,
}  # fmt: skip
