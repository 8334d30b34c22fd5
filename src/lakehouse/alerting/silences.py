"""Silences: a rule, or one of its subjects, of which nobody is told for a time; it is evaluated all the same.

``alert_silences`` of MongoDB holds them, also those that are over. Its writer is who silences; each ends by itself.
"""

from __future__ import annotations

import difflib
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lakehouse.alerting.database import StandingsError, answering, database
from lakehouse.alerts import Alerts, AlertsError
from lakehouse.settings import Settings

COLLECTION = "alert_silences"
LOOK_S = 10.0
"""How often :class:`Silenced` looks."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Silence:
    """From ``made_at`` until before ``until``, of every subject of a rule where none is named.

    ``who`` and ``why`` are on record; ``ended_by`` is who ended it before its time, which ``until`` then says.
    """

    id: str
    rule: str
    subject: str | None
    made_at: datetime
    until: datetime
    who: str
    why: str
    ended_by: str | None = None

    def holds(self, rule: str, subject: str, at: datetime) -> bool:
        """Whether it silences a rule for a subject at a time; also of minutes before it was made."""
        return self.rule == rule and self.subject in (None, subject) and at < self.until

    def document(self) -> dict[str, Any]:
        """As it is printed."""
        return dict(self.__dict__)


def holding(silences: Iterable[Silence], rule: str, subject: str, at: datetime) -> Silence | None:
    """The silence that holds longest, if any does."""
    found = [silence for silence in silences if silence.holds(rule, subject, at)]
    return max(found, key=lambda silence: silence.until, default=None)


def new(
    rules: Alerts, rule: str, subject: str | None, lasting: timedelta, who: str, why: str, now: datetime
) -> Silence:
    """A silence from now on.

    Raises:
        AlertsError: there is no such rule, or there is no word why.
    """
    names = [known.name for known in rules.rules]
    if rule not in names:
        near = difflib.get_close_matches(rule, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
        raise AlertsError(f"conf/alerts.yaml has no rule {rule!r}: {hint}")
    if not why.strip():
        raise AlertsError("a silence says why: --why 'moving to the new disks'")
    return Silence(secrets.token_hex(4), rule, subject, _whole(now), _whole(now + lasting), who, why)


def _whole(at: datetime) -> datetime:
    """A time as MongoDB keeps it: to the millisecond."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def chosen(silences: Iterable[Silence], what: str, subject: str | None) -> list[Silence]:
    """Those of an id, or of a rule: its subject's, or without one, all of it.

    Raises:
        AlertsError: there is none.
    """
    found = [s for s in silences if s.id == what or (s.rule == what and subject in (None, s.subject))]
    if not found:
        raise AlertsError(
            f"nothing silences {what!r}{f' of {subject}' if subject else ''}: see `lakehouse alerts silences`"
        )
    return found


class Silences:
    """The collection. All methods raise :class:`StandingsError` where the database does not answer."""

    def __init__(self, database: Any) -> None:
        self._collection = database[COLLECTION]

    def add(self, silence: Silence) -> None:
        """Keep one; writing it twice changes nothing."""
        document = silence.document()
        document["_id"] = document.pop("id")
        with answering():
            self._collection.replace_one({"_id": silence.id}, document, upsert=True)

    def all(self, since: datetime | None = None) -> list[Silence]:
        """Those that hold at ``since`` or later, or all; the newest last."""
        with answering():
            found = [_silence(one) for one in self._collection.find({} if since is None else {"until": {"$gt": since}})]
        return sorted(found, key=lambda silence: (silence.made_at, silence.id))

    def end(self, silence: Silence, who: str, now: datetime) -> None:
        """End one before its time; one that is over stays as it is."""
        with answering():
            self._collection.update_one(
                {"_id": silence.id, "until": {"$gt": now}}, {"$set": {"until": now, "ended_by": who}}
            )


def _silence(document: dict[str, Any]) -> Silence:
    found = {"id": document["_id"], **{name: value for name, value in document.items() if name != "_id"}}
    for name in ("made_at", "until"):  # as the driver gives them: without a zone unless it was asked for one
        found[name] = found[name] if found[name].tzinfo else found[name].replace(tzinfo=UTC)
    return Silence(**found)


class Silenced:
    """Whether something is silenced now, for who asks often: looks every LOOK_S seconds.

    While the database is away what was known last holds: nothing, at first. Not for several threads at once.
    """

    def __init__(self, ask: Callable[[], Iterable[Silence]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._clock = ask, clock
        self._known: list[Silence] = []
        self._again_at = -math.inf

    def __call__(self, rule: str, subject: str) -> bool:
        """Of a rule and a subject."""
        now = self._clock()
        if now >= self._again_at:
            self._again_at = now + LOOK_S
            try:
                self._known = [*self._ask()]
            except StandingsError as error:
                _log.warning("silences are not known anew: %s", error)
        return holding(self._known, rule, subject, datetime.now(UTC)) is not None


def silenced(settings: Settings) -> Silenced:
    """Of the platform's silences."""
    silences = Silences(database(settings))
    return Silenced(lambda: silences.all(datetime.now(UTC)))
