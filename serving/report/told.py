"""What rules told, as the real-time processor keeps it in MongoDB; of what users are told, only how often."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from lakehouse.alerts import Alerts
from lakehouse.settings import Settings
from serving.report.facts import Day, Firing, RuleCount

CONFIRMS = timedelta(minutes=5)
"""How near a rule must fire to an anomaly to confirm it."""
LOOK_BACK = timedelta(days=7)
"""How long before the day what holds in it may have begun."""
MOST = 20_000
"""Notifications of operators that are read, the newest."""
SEVERITIES = ("critical", "warning", "info")
_OF_USERS = ("event", "post")
OF_ANOMALIES = ("anomaly", "anomalies")
"""What feeds rules that tell what the detector found, and so confirm nothing of it."""


@dataclass(frozen=True)
class Told:
    """A notification of operators, or as many as ``number`` of users; ``subject`` is empty of these."""

    rule: str
    severity: str
    kind: str
    subject: str
    at: datetime
    suppressed: bool = False
    number: int = 1


class Telling(Protocol):
    """Finds what was told."""

    def __call__(self, day: Day, operators: Sequence[str]) -> Sequence[Told] | None:
        """Of rules ``operators`` each notification since LOOK_BACK before the day, of others counts of the day; None
        where that cannot be said."""


def operators(alerts: Alerts) -> tuple[str, ...]:
    """The rules that tell a fixed person about services, hosts and the platform: nothing in them is a user's."""
    return tuple(rule.name for rule in alerts.rules if rule.on not in _OF_USERS and rule.to.user_id is not None)


def of_mongo(settings: Settings) -> Telling:
    """What MongoDB's ``notifications`` hold."""

    def telling(day: Day, operators: Sequence[str]) -> Sequence[Told] | None:
        uri = settings.mongo.uri.get_secret_value()
        within = {"$gte": _text(day.begin), "$lt": _text(day.end)}
        try:
            with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=3000, socketTimeoutMS=20000) as client:
                kept = client[settings.mongo.database]["notifications"]
                since = {"$gte": _text(day.begin - LOOK_BACK), "$lt": _text(day.now)}
                wanted = dict.fromkeys(("rule", "severity", "kind", "subject", "at", "suppressed"), 1)
                mine = kept.find({"rule": {"$in": [*operators]}, "at": since}, wanted).sort("at", -1).limit(MOST)
                found = [
                    Told(d["rule"], d["severity"], d["kind"], d["subject"], _time(d["at"]), bool(d.get("suppressed")))
                    for d in mine
                ]
                key = {name: f"${name}" for name in ("rule", "severity", "kind", "suppressed")}
                for one in kept.aggregate(
                    [
                        {"$match": {"rule": {"$nin": [*operators]}, "at": within}},
                        {"$group": {"_id": key, "number": {"$sum": 1}}},
                    ]
                ):
                    k = one["_id"]
                    number, quiet = one["number"], bool(k.get("suppressed"))
                    found.append(Told(k["rule"], k["severity"], k["kind"], "", day.begin, quiet, number))
        except PyMongoError:
            return None
        return found[::-1]

    return telling


def _text(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _time(at: str) -> datetime:
    return datetime.fromisoformat(at)


def rules(alerts: Alerts, told: Iterable[Told], day: Day) -> tuple[RuleCount, ...]:
    """What each rule told in the day, the most severe first."""
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for one in told:
        if day.begin <= one.at < day.end:
            mine = counts[one.rule, one.severity]
            mine[one.kind == "recovered"] += one.number
            mine[2] += one.number if one.suppressed and one.kind != "recovered" else 0
    rank = {severity: number for number, severity in enumerate(SEVERITIES)}
    found = [RuleCount(rule, severity, *numbers) for (rule, severity), numbers in counts.items()]
    return tuple(sorted(found, key=lambda one: (rank.get(one.severity, len(rank)), -one.fired, one.rule)))


def firings(alerts: Alerts, told: Iterable[Told], day: Day) -> tuple[Firing, ...]:
    """When rules that also tell the end of what they found held, as far as that is of the day; the oldest first."""
    ends = {rule.name: rule.on for rule in alerts.rules if rule.recovered}
    mine: dict[tuple[str, str], list[Told]] = defaultdict(list)
    for one in told:
        if one.rule in ends and one.subject:
            _, _, name = one.subject.partition("/")
            mine[one.rule, name if ends[one.rule] in OF_ANOMALIES and name else one.subject].append(one)
    found = []
    for (rule, subject), each in mine.items():
        begin: Told | None = None
        for one in sorted(each, key=lambda t: t.at):
            if one.kind == "recovered":
                if begin is not None:
                    found.append(Firing(rule, begin.severity, subject, begin.at, one.at))
                begin = None
            else:
                begin = begin or one  # told again while it holds
        if begin is not None:
            found.append(Firing(rule, begin.severity, subject, begin.at, None))
    held = [one for one in found if one.begin < day.end and (one.end is None or one.end >= day.begin)]
    return tuple(sorted(held, key=lambda one: (one.begin, one.rule, one.subject)))
