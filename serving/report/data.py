"""The facts of a day, by SQL over the lake; what MongoDB and the timetable's record know beside it comes along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date as Date
from datetime import datetime
from typing import Any

from lakehouse import alerts as rules
from lakehouse.schedule import runs as recorded
from lakehouse.settings import Settings
from serving.report import operations, outlook, upkeep, usage
from serving.report.facts import Day, Report
from serving.report.reader import Reader
from serving.report.told import Telling, of_mongo, operators


def report(
    settings: Settings,
    date: Date,
    now: datetime,
    telling: Telling | None = None,
    alerts: rules.Alerts | None = None,
    runs: Iterable[Mapping[str, Any]] | None = None,
) -> Report:
    """What there is to say of a day, at a time. Tables that are not there, and empty days, are empty sections.

    Args:
        settings: where lake and stores are.
        date: of the day, UTC, not in the future.
        now: the time.
        telling: finds what rules told [MongoDB].
        alerts: the rules [conf/alerts.yaml].
        runs: of the timetable [home/runs.jsonl].

    Raises:
        LakeError: the lake does not answer.
    """
    day = Day(date, now)
    alerts = rules.read() if alerts is None else alerts
    told = (telling or of_mongo(settings))(day, operators(alerts))
    with Reader(settings) as read:
        upkeep.ledger(read, day)
        return Report(
            day,
            usage.activity(read, day),
            usage.engagement(read, day),
            operations.services(read, day),
            operations.incidents(read, day, alerts, told),
            operations.hosts(read, day, alerts),
            outlook.forecasts(read, day, alerts),
            upkeep.models(read, day),
            usage.texts(read, day),
            upkeep.quality(read, day),
            upkeep.freshness(read, day, recorded(settings).all() if runs is None else runs),
            read.missing,
            read.versions,
        )
