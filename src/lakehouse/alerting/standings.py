"""How alerts stand, in MongoDB: a document of ``alerts`` a part, replaced as a whole or not at all.

Guarantee: a minute is decided once. A document holds up to which minute its part was evaluated, how each of its alerts
stands after it, and what is still to be told of it, and is replaced only by who knew the one before. So two evaluators
do no harm, and after a crash what was decided is told as it was decided, under the same ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

from pymongo.errors import DuplicateKeyError

from lakehouse.alerting.database import StandingsError, answering, rfc3339
from lakehouse.alerting.evaluate import Alert
from lakehouse.alerting.silences import Silence, Silences

COLLECTION = "alerts"
NOTIFICATIONS = "notifications"


@dataclass(frozen=True)
class Place:
    """How far a part is: ``next_us`` is the end of the first minute not evaluated yet, ``due`` what is not told yet."""

    part: str
    next_us: int
    alerts: tuple[Alert, ...] = ()
    due: tuple[Mapping[str, Any], ...] = ()


class Store(Protocol):
    """What the evaluator needs; all raise :class:`StandingsError`."""

    def places(self) -> dict[str, Place]:
        """Every part that was evaluated before."""

    def decide(self, before: Place | None, after: Place) -> bool:
        """Replace a part's place; False where it is no longer the one before: somebody else evaluates."""

    def told(self, place: Place) -> None:
        """What was due in a place is told."""

    def forget(self, part: str) -> None:
        """A part is no longer evaluated."""

    def silences(self, now: datetime) -> list[Silence]:
        """Those that hold now or later."""

    def had(self, user_id: str, since: datetime, until: datetime) -> int:
        """How many notifications of a span a user was told."""


class MongoStore:
    """:class:`Store` in MongoDB."""

    def __init__(self, database: Any) -> None:
        self._alerts, self._notifications = database[COLLECTION], database[NOTIFICATIONS]
        self._silences = Silences(database)

    def prepare(self) -> None:
        """Let MongoDB find notifications by rule and by user; the local stand-in looks through all, index or not."""
        with answering():
            for field in ("rule", "user_id"):
                self._notifications.create_index([(field, 1), ("at", -1)])

    def places(self) -> dict[str, Place]:
        """See :class:`Store`."""
        with answering():
            return {document["_id"]: _place(document) for document in self._alerts.find({})}

    def decide(self, before: Place | None, after: Place) -> bool:
        """See :class:`Store`."""
        document = {
            "_id": after.part,
            "next_us": after.next_us,
            "alerts": [asdict(alert) for alert in after.alerts],
            "due": [dict(notification) for notification in after.due],
        }
        with answering():
            if before is None:
                try:
                    self._alerts.insert_one(document)
                except DuplicateKeyError:
                    return False
                return True
            found = self._alerts.replace_one({"_id": before.part, "next_us": before.next_us}, document)
            return bool(found.matched_count)

    def told(self, place: Place) -> None:
        """See :class:`Store`."""
        with answering():
            self._alerts.update_one({"_id": place.part, "next_us": place.next_us}, {"$set": {"due": []}})

    def forget(self, part: str) -> None:
        """See :class:`Store`."""
        with answering():
            self._alerts.delete_one({"_id": part})

    def silences(self, now: datetime) -> list[Silence]:
        """See :class:`Store`."""
        return self._silences.all(now)

    def had(self, user_id: str, since: datetime, until: datetime) -> int:
        """See :class:`Store`."""
        times = {"$gte": rfc3339(since), "$lt": rfc3339(until)}
        with answering():
            return int(
                self._notifications.count_documents({"user_id": user_id, "at": times, "suppressed": {"$ne": True}})
            )


def alerts(documents: Iterable[Mapping[str, Any]]) -> list[Alert]:
    """The alerts of documents of the collection.

    Raises:
        StandingsError: one is not as this version writes them.
    """
    return [alert for document in documents for alert in _place(document).alerts]


def _place(document: Mapping[str, Any]) -> Place:
    try:
        known = tuple(Alert(**alert) for alert in document["alerts"])
        return Place(document["_id"], document["next_us"], known, tuple(document["due"]))
    except (KeyError, TypeError) as error:
        raise StandingsError(
            f"MongoDB's {COLLECTION}/{document.get('_id')} is not as this version writes it ({error}): delete it, "
            "and its part is evaluated from now on"
        ) from None
