"""What tests of alerts are made with: a rule, a store in memory, a part that knows its facts, a log of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from lakehouse.alerting.database import StandingsError
from lakehouse.alerting.evaluate import Alert
from lakehouse.alerting.facts import MINUTE, Facts
from lakehouse.alerting.run import Runner
from lakehouse.alerting.silences import Silence
from lakehouse.alerting.standings import Place
from lakehouse.alerting.tables import Read
from lakehouse.alerts import Alerts, Rule, read
from lakehouse.sources.topics import TopicError

NOON = 1_795_694_400_000_000  # 2026-11-26T12:00:00Z
RULES = read()
SHIPPED = {rule.name: rule for rule in RULES.rules}
LAGGING = {"subject": "user-events", "kind": "topic", "age_seconds": 90.0, "lag_records": 7, "lag_seconds": 90.0}


def at(minutes: float) -> datetime:
    """So many minutes after noon, when that minute is due."""
    return datetime.fromtimestamp(NOON / 1e6, UTC) + timedelta(minutes=minutes, seconds=15)


def rule(held: int = 0, again: int = 0, severity: Any = "warning", **more: Any) -> Rule:
    of_held, of_again = timedelta(minutes=held), timedelta(minutes=again)
    return replace(SHIPPED["pipeline lags"], severity=severity, held=of_held, again_after=of_again, **more)


def file(*rules: Rule, **more: Any) -> Alerts:
    return replace(RULES, rules=rules, **more)


@dataclass
class Fake:
    """A part of feed freshness whose facts are given by the minutes after noon at which it lags."""

    bad: Callable[[int], bool]
    name: str = "freshness/topics"
    feed: str = "freshness"
    until: int | None = None
    away: Exception | None = None
    asked: list[int] = field(default_factory=list)

    def read(self, first_us: int, last_us: int, longest: timedelta) -> Read:
        if self.away:
            raise self.away
        until = last_us if self.until is None else NOON + self.until * MINUTE
        return Read(until, self.facts)

    def facts(self, at_us: int, over: timedelta) -> Facts:
        number = (at_us - NOON) // MINUTE
        self.asked.append(number)
        return {"user-events": dict(LAGGING) if self.bad(number) else {**LAGGING, "lag_seconds": 0.0}}


class MemoryStore:
    """The store in memory, through JSON as a database would have it; ``fail`` makes the next calls of a name fail."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.kept: list[Silence] = []
        self.fail: set[str] = set()
        self.told_before = 0

    def _may(self, name: str) -> None:
        if name in self.fail:
            raise StandingsError("MongoDB does not answer (test)")

    def places(self) -> dict[str, Place]:
        self._may("places")
        return {name: _place(orjson.loads(document)) for name, document in self.documents.items()}

    def decide(self, before: Place | None, after: Place) -> bool:
        self._may("decide")
        known = self.places().get(after.part)
        if (known is None) != (before is None) or (known and before and known.next_us != before.next_us):
            return False
        self._write(after)
        return True

    def told(self, place: Place) -> None:
        self._may("told")
        known = self.places().get(place.part)
        if known and known.next_us == place.next_us:
            self._write(replace(known, due=()))

    def forget(self, part: str) -> None:
        del self.documents[part]

    def silences(self, now: datetime) -> list[Silence]:
        return [silence for silence in self.kept if silence.until > now]

    def had(self, user_id: str, since: datetime, until: datetime) -> int:
        return self.told_before

    def alerts(self) -> list[Alert]:
        return [alert for place in self.places().values() for alert in place.alerts]

    def _write(self, place: Place) -> None:
        document = {
            "part": place.part, "next_us": place.next_us, "alerts": [asdict(one) for one in place.alerts],
            "due": [dict(one) for one in place.due],
        }  # fmt: skip
        self.documents[place.part] = orjson.dumps(document)


def _place(document: dict[str, Any]) -> Place:
    known = tuple(Alert(**alert) for alert in document["alerts"])
    return Place(document["part"], document["next_us"], known, tuple(document["due"]))


class Said:
    """What was told; ``fail`` says how many times it fails first."""

    def __init__(self, fail: int = 0) -> None:
        self.documents: list[Mapping[str, Any]] = []
        self.fail = fail

    def __call__(self, documents: Sequence[Mapping[str, Any]]) -> None:
        if self.fail:
            self.fail -= 1
            raise TopicError("no Kafka broker answers (test)")
        self.documents += documents

    @property
    def kinds(self) -> list[tuple[str, int]]:
        """(kind, minute after noon) of what somebody is told."""
        return [self._brief(one) for one in self.documents if not one["suppressed"]]

    @property
    def hushed(self) -> list[tuple[str, int]]:
        """The same of what nobody is told."""
        return [self._brief(one) for one in self.documents if one["suppressed"]]

    @staticmethod
    def _brief(one: Mapping[str, Any]) -> tuple[str, int]:
        return one["kind"], round((datetime.fromisoformat(one["at"]).timestamp() - NOON / 1e6) / 60)


def runner(part: Fake, store: MemoryStore, said: Said, rules: Alerts) -> Runner:
    return Runner(rules, [part], None, store, said)


def walk(part: Fake, store: MemoryStore, said: Said, rules: Alerts, minutes: range) -> None:
    """A turn every minute, by one process."""
    one = runner(part, store, said, rules)
    for minute in minutes:
        one.turn(at(minute))
