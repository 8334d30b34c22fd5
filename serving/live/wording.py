"""What a notification says to whom.

An alert is what a rule tells a fixed recipient, such as ``ops``: a fact about the platform. Anything else on the topic
is told to the user that an event or a post is of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import orjson

from lakehouse.alerts import Alerts

PERSONAL_FEEDS = frozenset({"event", "post"})
"""Feeds whose facts are of users; texts of rules on others name services, hosts and series."""
_OPEN = ("id", "rule", "severity", "kind", "subject", "at", "quiet")
"""Fields of a notification that name nobody: a subject is an event's id, a post, a service, a host or a series."""


class Wording(Protocol):
    """How records of the topic become events."""

    def alert(self, user_id: str) -> bool:
        """Whether what this recipient is told is an alert."""

    def data(self, value: bytes, alert: bool, masked: bool) -> bytes:
        """The event's JSON; ``masked`` for those who must not see whom it is about."""


class ByRules:
    """:class:`Wording` by the rules.

    Args:
        alerts: they say who is an operator, and which texts name nobody.
        pseudonym: what stands for a user's id.
    """

    def __init__(self, alerts: Alerts, pseudonym: Callable[[str], str]) -> None:
        self._operators = frozenset(rule.to.user_id for rule in alerts.rules if rule.to.user_id is not None)
        self._impersonal = frozenset(rule.name for rule in alerts.rules if rule.on not in PERSONAL_FEEDS)
        self._pseudonym = pseudonym

    def alert(self, user_id: str) -> bool:
        """See :class:`Wording`."""
        return user_id in self._operators

    def data(self, value: bytes, alert: bool, masked: bool) -> bytes:
        """See :class:`Wording`. An alert has its ``state``, as in ``/v1/alerts``, and no recipient."""
        document: dict[str, Any] = orjson.loads(value)
        if not alert:
            return orjson.dumps(self._masked(document) if masked else document)
        state = "recovered" if document.get("kind") == "recovered" else "firing"
        made = {name: document.get(name) for name in _OPEN} | {"state": state}
        shown = not masked or document.get("rule") in self._impersonal
        return orjson.dumps(made | {"text": document.get("text") if shown else None})

    def _masked(self, document: dict[str, Any]) -> dict[str, Any]:
        made = {name: document.get(name) for name in _OPEN}
        return made | {"user_id": self._pseudonym(document["user_id"]), "text": None}
