"""Evaluates the rules over tables minute after minute: what is due is decided once, kept, then told.

A minute is due ``DELAY`` after it ends. Who was away evaluates what was missed, up to a day, each minute with the facts
that held then. Notifications go to the topic ``notifications``, whose followers bring them into MongoDB and to routes:
at least once, always under the same id.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from lakehouse import alerts
from lakehouse.alerting.database import StandingsError, database, micros, moment
from lakehouse.alerting.evaluate import Due, minute
from lakehouse.alerting.facts import DAY, HOUR, MINUTE
from lakehouse.alerting.silences import Silence, holding
from lakehouse.alerting.standings import MongoStore, Place, Store
from lakehouse.alerting.tables import Broker, Ledger, Part, asking, parts
from lakehouse.alerts import FEEDS, Alerts, Rule, quiet
from lakehouse.settings import Settings
from lakehouse.sources.topics import NOTIFICATIONS, Outbox, producer

DELAY = timedelta(seconds=10)
"""How long after its end a minute is evaluated: what was committed in it is in the tables then."""
AT_ONCE = 60
"""Minutes that are decided together."""
MISSED_US = DAY
"""What was missed longer ago is left out: nobody is told of a day ago."""
AHEAD_US = HOUR
"""A place further ahead of the clock than this is taken for the work of a clock that was wrong."""
STUCK_CODE = 70
"""Exit code of a process that is to be begun anew."""
STUCK = 5
"""Times in a row that a table has not answered after which a process is better begun anew."""
_DAY = timedelta(days=1)
_log = logging.getLogger(__name__)

Send = Callable[[Sequence[Mapping[str, Any]]], None]
"""Puts notifications on the topic; returns once all are kept there."""


class Stuck(Exception):
    """Tables do not answer this process any more."""


class Runner:
    """Takes all parts over what is due, again and again.

    Args:
        rules: the file.
        over: the parts, in the order in which they read.
        ledger: what some of them share.
        store: keeps how all stands.
        send: tells.
    """

    def __init__(self, rules: Alerts, over: Sequence[Part], ledger: Ledger | None, store: Store, send: Send) -> None:
        self._alerts, self._ledger, self._store, self._send = rules, ledger, store, send
        self._rules = {part.name: [rule for rule in rules.rules if rule.on == part.feed] for part in over}
        self._parts = [part for part in over if self._rules[part.name]]
        self._stuck = 0

    def turn(self, now: datetime) -> list[str]:
        """Evaluate every minute that is due, and tell what is to be told; one line for each part that could not be.

        Raises:
            StandingsError: MongoDB does not answer; nothing was decided that is not kept.
            Stuck: tables did not answer ``STUCK`` times in a row.
        """
        places, silences = self._store.places(), self._store.silences(now - _DAY)
        for name in places.keys() - {part.name for part in self._parts}:
            self._store.forget(name)
        if self._ledger is not None:
            self._ledger.begin(micros(now))
        problems = []
        for part in self._parts:
            try:
                self._part(part, places.get(part.name), silences, now)
                self._stuck = 0
            except StandingsError:
                raise
            except Exception as error:  # each reader has errors of its own; the next part may be well
                line = f"{part.name} is not evaluated: {' '.join(str(error).split())[:300] or repr(error)}"
                _log.warning("%s", line, exc_info=not type(error).__module__.startswith("lakehouse"))
                problems.append(line)
                self._stuck += isinstance(error, TimeoutError)
                if self._stuck >= STUCK:
                    raise Stuck(f"tables have not answered {STUCK} times in a row: {line}") from None
        return problems

    def _part(self, part: Part, place: Place | None, silences: Sequence[Silence], now: datetime) -> None:
        last_us = (micros(now) - _span(DELAY)) // MINUTE * MINUTE
        place = self._settled(part, place, last_us)
        rules = self._rules[part.name]
        longest = max(rule.over for rule in rules)
        while place.next_us <= last_us:
            until_us = min(place.next_us + (AT_ONCE - 1) * MINUTE, last_us)
            read = part.read(place.next_us, until_us, longest)
            until_us = min(until_us, read.until_us)
            if until_us < place.next_us:
                return
            after = self._evaluated(rules, read.facts, place, until_us, silences, now)
            if not self._store.decide(place, after):
                _log.info("%s: another process evaluates it, too", part.name)
                return
            place = self._tell(after)

    def _settled(self, part: Part, place: Place | None, last_us: int) -> Place:
        """Where a part goes on: what was decided before is told; nothing is evaluated of before its first time."""
        if place is None:
            place = Place(part.name, last_us)
            self._store.decide(None, place)  # if another was quicker, its place makes the next decision fail
            return place
        place = self._tell(place)
        if place.next_us > last_us + MINUTE + AHEAD_US:
            _log.warning("%s was evaluated up to %s, which is to come: goes on from now", part.name, _said(place))
            known = tuple(
                replace(a, since_us=min(a.since_us, last_us), fired_us=min(a.fired_us, last_us)) for a in place.alerts
            )
            after = replace(place, next_us=last_us, alerts=known)
        elif place.next_us < last_us - MISSED_US:
            _log.warning(
                "%s was evaluated up to %s: what was missed before a day ago is left out", part.name, _said(place)
            )
            after = replace(place, next_us=last_us - MISSED_US)
        else:
            return place
        self._store.decide(place, after)
        return after

    def _evaluated(
        self, rules: Sequence[Rule], facts: Any, place: Place, until_us: int, silences: Sequence[Silence], now: datetime
    ) -> Place:
        known = {alert.key: alert for alert in place.alerts}
        due: list[Due] = []
        for name in {key.rule for key in known} - {rule.name for rule in rules}:  # no longer in the file
            known = {key: alert for key, alert in known.items() if key.rule != name}
        for at_us in range(place.next_us, until_us + 1, MINUTE):
            at = moment(at_us)

            def silenced(rule: Rule, subject: str, at: datetime = at) -> bool:
                return holding(silences, rule.name, subject, at) is not None

            def spans(rule: Rule, at_us: int = at_us) -> Any:
                return facts(at_us, rule.over)

            found = minute(place.part, rules, spans, known, silenced, at_us)
            known |= {alert.key: alert for alert in found.changed}
            known = {key: alert for key, alert in known.items() if key not in found.gone}
            due += found.due
        return Place(
            place.part, until_us + MINUTE, tuple(known[key] for key in sorted(known)), self._documents(due, now)
        )

    def _documents(self, due: Sequence[Due], now: datetime) -> tuple[dict[str, Any], ...]:
        """Notifications as topic ``notifications`` has them, marked where nobody is to be disturbed."""
        every = _span(self._alerts.limits.every)
        had: dict[tuple[str, int], int] = {}
        documents = []
        for one in due:
            told = one.notification
            at_us = micros(datetime.fromisoformat(told.at))
            span = (told.user_id, at_us // every)
            if span not in had:
                begins = span[1] * every
                had[span] = self._store.had(told.user_id, moment(begins), moment(begins + every))
            old = now - moment(at_us) > _DAY
            # A flood of lesser ones must not hide what is critical.
            over = had[span] >= self._alerts.limits.per_user and told.severity != "critical"
            suppressed = one.silenced or old or over
            had[span] += not suppressed
            resting = quiet(self._alerts.quiet_hours, told.severity, at_us)
            documents.append({**told.document(), "quiet": resting, "suppressed": suppressed, "silenced": one.silenced})
        return tuple(documents)

    def _tell(self, place: Place) -> Place:
        if not place.due:
            return place
        self._send(place.due)
        self._store.told(place)
        return replace(place, due=())


def _said(place: Place) -> str:
    return f"{moment(place.next_us):%Y-%m-%dT%H:%M:%SZ}"


def _span(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


# --- on the platform -----------------------------------------------------------------------------------------------


class Telling:
    """:data:`Send` to the platform's Kafka; connects when there is something to tell first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Any = None

    def __call__(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Raises DeliveryError where Kafka does not keep them."""
        self._producer = self._producer or producer(self._settings, **{"message.timeout.ms": 30_000})
        outbox = Outbox(self._producer)
        for document in documents:
            outbox.send(
                self._settings.realtime.prefix + NOTIFICATIONS, document["user_id"].encode(), orjson.dumps(document)
            )
        outbox.finish()


def runner(settings: Settings, rules: Alerts | None = None) -> Runner:
    """Over the platform's tables.

    Raises:
        AlertsError: the rules are wrong.
    """
    rules = alerts.read() if rules is None else rules
    ledger, over = parts(settings, asking(settings), Broker(settings))
    return Runner(rules, over, ledger, MongoStore(database(settings)), Telling(settings))


def once(settings: Settings, now: datetime | None = None) -> list[str]:
    """Evaluate what is due now; one line for each part that could not be.

    Raises:
        AlertsError: the rules are wrong.
        StandingsError: MongoDB does not answer.
        Stuck: tables do not answer.
    """
    return runner(settings).turn(now or datetime.now(UTC))


def watch(settings: Settings, stop: threading.Event) -> None:
    """Evaluate every minute until told to stop, whatever is away meanwhile.

    Raises:
        AlertsError: the rules are wrong.
        Stuck: tables do not answer; who is begun anew goes on where this one was.
    """
    evaluating = runner(settings)
    _log.info("rules on %s are evaluated every minute", ", ".join(name for name, feed in FEEDS.items() if feed.tables))
    prepared = False
    while not stop.is_set():
        try:
            if not prepared:
                MongoStore(database(settings)).prepare()
                prepared = True
            evaluating.turn(datetime.now(UTC))
        except StandingsError as error:
            _log.warning("nothing is evaluated: %s", error)
        stop.wait(until_next(time.time()))


def until_next(now: float) -> float:
    """Seconds to the time at which the next minute is due."""
    delay = DELAY.total_seconds()
    return 60 - (now - delay) % 60 + 0.05
