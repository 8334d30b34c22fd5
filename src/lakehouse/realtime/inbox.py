"""Stage ``inbox``: what each user is told, of all that could be.

A notification goes out once, and the same of a rule about the same thing not again before its span is over. What is
over the limit of a span, falls into quiet hours, or is of a day ago and more, as in a history that is read in, is kept
all the same, marked so that no one is disturbed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import orjson

from lakehouse.alerts import quiet
from lakehouse.erasure.identifiers import Erased, strings
from lakehouse.realtime.messages import Told
from lakehouse.realtime.state import Seen, Store
from lakehouse.realtime.task import Command, Context, Outbox, Stage

SHOWN = 20
SPANS = 48
"""Spans of the limit that are remembered, the latest."""
_DAY_US = 24 * 3_600_000_000


class Had(msgspec.Struct, array_like=True):
    """What a user was told: how many in each span of the limit, and when about what."""

    told: dict[int, int] = {}
    about: dict[str, int] = {}
    latest: list[dict[str, Any]] = []
    """The newest, first the last."""


class Inbox(Stage[Told]):
    """One partition of those who are told."""

    name = "inbox"
    topic = "realtime-inbox-repartition"
    entry = Told

    def __init__(self, context: Context, partition: int) -> None:
        super().__init__(context, partition)
        self.seen = Seen(context.settings.duplicate_horizon // timedelta(microseconds=1))
        self.users = Store("inbox:", Had)
        self.parts = (self.seen, self.users)
        limits = context.alerts.limits
        self._most, self._every = limits.per_user, limits.every // timedelta(microseconds=1)
        self._quiet = context.alerts.quiet_hours
        self._changed: dict[str, None] = {}
        self._ttl = int(context.settings.features_ttl.total_seconds())
        self.due: list[dict[str, Any]] = []
        """For the topic ``notifications``, since the last commit."""

    def fold(self, entry: Told, out: Outbox, offset: int) -> None:
        """Decide on one."""
        document = entry.document
        if not self.seen.first(document["id"], entry.time):
            self.count("repeated")
            return
        name = document["user_id"]
        had = self.users.get(name) or Had()
        key = f"{document['rule']}|{document['kind']}|{entry.about}"
        if entry.again_after:
            last = had.about.get(key)
            if last is not None and abs(entry.time - last) < entry.again_after:
                self.count("told before")
                return
        span = entry.time // self._every
        told = had.told.get(span, 0)
        if not told:
            had.told = dict(sorted(had.told.items())[-SPANS:])
            had.about = {k: at for k, at in had.about.items() if at > entry.time - _DAY_US}
        if entry.again_after:
            had.about[key] = entry.time
        over = told >= self._most
        old = self.now_us - entry.time > _DAY_US
        document = {
            **document,
            "quiet": quiet(self._quiet, document["severity"], entry.time),
            "suppressed": over or old,
        }
        self.due.append(document)
        self.count("over the limit" if over else "old" if old else "told")
        if not (over or old):
            had.told[span] = told + 1
            had.latest = [document, *had.latest[: SHOWN - 1]]
            self._changed[name] = None
        self.users.put(name, had)

    def forget(self, erased: Erased) -> None:
        """Take those who were erased out of the state: their inboxes, and what others were told of them."""
        super().forget(erased)
        for name, had in list(self.users.items()):
            about = {key: at for key, at in had.about.items() if not erased.in_text(key)}
            latest = [told for told in had.latest if not any(map(erased.in_text, strings(told)))]
            if len(about) < len(had.about) or len(latest) < len(had.latest):
                had.about, had.latest = about, latest
                self.users.put(name, had)
                self._changed[name] = None
        self.due = [told for told in self.due if not any(map(erased.in_text, strings(told)))]

    def all_effects(self) -> None:
        """Show every inbox again."""
        self._changed |= {name: None for name, _ in self.users.items()}

    def effects(self, now_us: int, tick: bool) -> list[Command]:
        """The newest notifications of users who were told something."""
        commands: list[Command] = []
        for name in self._changed:
            had = self.users.get(name)
            if had:
                key = f"live:notifications:{name}"
                commands.append(("SET", key, orjson.dumps(had.latest).decode(), "EX", self._ttl))
        self._changed.clear()
        return commands
