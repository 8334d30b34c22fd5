"""How alerts stand now, for the API, the dashboard and people: of rules over tables and of those over the live stream.

What rules over tables found is in MongoDB's ``alerts``. How the real-time processor's rules stand is in its state; to
everyone else it shows what it tells, so an alert of theirs fires from the notification that says so to the one that
says that it recovered. Only rules whose end is told are there: of the others nobody knows whether they still hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from lakehouse.alerting.database import answering, moment, rfc3339
from lakehouse.alerting.evaluate import KEPT_US, Alert
from lakehouse.alerting.silences import Silence, Silences, holding
from lakehouse.alerting.standings import COLLECTION, NOTIFICATIONS, alerts
from lakehouse.alerts import FEEDS, Alerts, Rule

KEPT = timedelta(microseconds=KEPT_US)
"""For how long an alert that has recovered is shown, and one of the real-time processor that it has not told again."""
_ORDER = {"firing": 0, "pending": 1, "recovered": 2}
_SEVERITY = {"critical": 0, "warning": 1, "info": 2}


def alerts_now(database: Any, rules: Alerts, now: datetime | None = None) -> list[dict[str, Any]]:
    """Every alert that is pending, fires, or has recovered within a day: the gravest that fire first.

    Each is ``{rule, subject, severity, state, since, value, text, silenced, silenced_until}`` and ``recovered_at``,
    ``at``, ``source``. ``since``: the first minute that matched; of real-time rules reckoned from what was told.
    ``value``: of the rule's first condition, null for real-time rules. ``at``: as of when it is known. ``source``:
    ``tables`` or ``realtime``. Times are RFC 3339. Three finds in MongoDB, no Spark, nothing that is written.

    Args:
        database: the platform's, of pymongo (``lakehouse.alerting.database.database``).
        rules: ``lakehouse.alerts.read()``.
        now: the clock.

    Raises:
        StandingsError: MongoDB does not answer.
    """
    now = now or datetime.now(UTC)
    with answering():
        documents = list(database[COLLECTION].find({}))
        told = list(database[NOTIFICATIONS].find(query(rules, now)))
    return rows(alerts(documents), told, Silences(database).all(now), rules, now)


def query(rules: Alerts, now: datetime) -> dict[str, Any]:
    """Finds the notifications that :func:`rows` needs."""
    names = [rule.name for rule in _live(rules)]
    return {"rule": {"$in": names}, "at": {"$gte": rfc3339(now - KEPT)}}


def _live(rules: Alerts) -> list[Rule]:
    """The rules of the real-time processor whose end is told."""
    return [rule for rule in rules.rules if rule.recovered and not FEEDS[rule.on].tables]


def rows(
    standing: Iterable[Alert],
    told: Iterable[Mapping[str, Any]],
    silences: Sequence[Silence],
    rules: Alerts,
    now: datetime,
) -> list[dict[str, Any]]:
    """The rows of :func:`alerts_now` of what MongoDB holds: alerts, notifications, silences."""
    in_file = {rule.name for rule in rules.rules if FEEDS[rule.on].tables}
    found = [_of_tables(alert) for alert in standing if alert.rule in in_file and _shown(alert, now)]
    found += _of_stream(told, {rule.name: rule for rule in _live(rules)}, now)
    for row in found:
        silence = holding(silences, row["rule"], row["subject"], now)
        row |= {"silenced": silence is not None, "silenced_until": rfc3339(silence.until) if silence else None}
    return sorted(
        found, key=lambda row: (_ORDER[row["state"]], _SEVERITY[row["severity"]], row["rule"], row["subject"])
    )


def _shown(alert: Alert, now: datetime) -> bool:
    return alert.state != "recovered" or (alert.recovered_us > 0 and now - moment(alert.recovered_us) < KEPT)


def _of_tables(alert: Alert) -> dict[str, Any]:
    ended = alert.state == "recovered"
    return {
        "rule": alert.rule,
        "subject": alert.subject,
        "severity": alert.severity,
        "state": alert.state,
        "since": rfc3339(moment(alert.begun_us)),
        "value": alert.value,
        "text": alert.text,
        "recovered_at": rfc3339(moment(alert.recovered_us)) if ended else None,
        "at": rfc3339(moment(alert.at_us)),
        "source": "tables",
    }


def _of_stream(told: Iterable[Mapping[str, Any]], rules: Mapping[str, Rule], now: datetime) -> list[dict[str, Any]]:
    """The newest word about each rule and subject, and since when it has fired."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in sorted(told, key=lambda one: (one["at"], one["kind"] == "fired")):
        rule = rules.get(one["rule"])
        if rule is None or one["at"] > rfc3339(now):
            continue
        before = found.get((one["rule"], one["subject"]))
        if one["kind"] == "recovered":
            if before is None:
                continue
            found[one["rule"], one["subject"]] = before | {
                "state": "recovered", "recovered_at": one["at"], "at": one["at"],
            }  # fmt: skip
            continue
        goes_on = before is not None and before["state"] == "firing"
        since = before["since"] if before is not None and goes_on else _begun(rule, one["at"])
        found[one["rule"], one["subject"]] = {
            "rule": one["rule"],
            "subject": one["subject"],
            "severity": one["severity"],
            "state": "firing",
            "since": since,
            "value": None,
            "text": one["text"],
            "recovered_at": None,
            "at": one["at"],
            "source": "realtime",
        }
    return [*found.values()]


def _begun(rule: Rule, at: str) -> str:
    """When it began to match: it is told once it has for as long as the rule says."""
    return rfc3339(datetime.fromisoformat(at) - rule.held)


def critical(found: Iterable[Mapping[str, Any]]) -> bool:
    """Whether anything critical fires that is not silenced."""
    return any(row["state"] == "firing" and row["severity"] == "critical" and not row["silenced"] for row in found)
