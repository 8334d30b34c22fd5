"""What is watched for anomalies, minute by minute: services and hosts by their measures, logs by their templates.

One :class:`Watched` a subject takes records as they come, waits until a minute is over, and says which measures of it
are unusual. The stream keeps it as state (``runtime/detect.py``), the batch job folds whole histories
(``models/anomaly/score.py``): the same records and cuts give the same alarms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lakehouse.predict.chart import THRESHOLD, Chart, Limits, Observation
from lakehouse.predict.templates import Miner, TemplateRates, mask

MEASURES: Mapping[str, tuple[str, ...]] = {
    "service": ("error_rate", "p95_ms"),
    "host": ("system.cpu.total.norm.pct", "system.filesystem.used.pct", "system.memory.actual.used.pct"),
}
"""What is watched together of each service and host; more requests are no trouble by themselves."""
FEWEST = 20
"""Requests of a minute below which its error rate and percentiles say nothing."""
RECENT = 720
"""Minutes that are kept, for another version to learn from."""
ONE_INCIDENT = 15
"""Minutes without an alarm after which another one of a measure begins something new."""
ACQUAINTED = 60
"""Minutes of a log in which all is new, and nothing of it unusual."""
GRACE = 5
"""Minutes after which a minute is over, even if nothing is known yet of what comes after these: of a history, say."""
LATELY = 3
"""Minutes that the recent mean of a chart is about."""
TELLING = 3.0
"""Deviations from which a measure is named in an alarm."""
MINUTE_S = 60
UNTRAINED = "untrained"
"""The version of what is said before the first champion."""

Record = tuple[str, int, int, float]
"""(measure, minute since 1970, seq, value): a value that stands for the minute, the highest ``seq`` the last word, or,
where ``seq`` is -1, one of several, whose mean counts (of logs, whose sum)."""


class Alarm(NamedTuple):
    """One measure of a minute that is unusual; ``begins``: its first for a while."""

    measure: str
    minute: int
    value: float
    expected: float
    score: float
    begins: bool


class Version:
    """A published version, or before the first one stock limits and no templates."""

    def __init__(self, manifest: dict[str, Any] | None = None, arrays: Mapping[str, Any] | None = None) -> None:
        manifest = manifest or {}
        self.version: str = manifest.get("version", UNTRAINED)
        self.limits = Limits(**manifest.get("limits", {}))
        self.miner = Miner.of(manifest["templates"]) if "templates" in manifest else Miner()
        self._texts = {name: str(template) for name, template in self.miner.templates().items()}

    def template(self, line: str) -> str:
        """The line's template, that of the version or else the line with its values masked."""
        found = self.miner.match(line)
        return self._texts[found] if found else mask(line)


@dataclass
class Watched:
    """A service or a host, and its chart."""

    measures: tuple[str, ...]
    version: str = ""
    chart: bytes | None = None
    newest: int = -1
    """The newest minute of the folds before."""
    closed: int = -1
    pending: dict[int, dict[str, tuple[int, float]]] = field(default_factory=dict)
    """Minute -> measure -> (seq, value) of the minutes that are not closed; of means (-number, mean)."""
    recent: list[tuple[int, list[float]]] = field(default_factory=list)
    alarmed: dict[str, int] = field(default_factory=dict)
    """Measure -> the last minute with an alarm."""

    def fold(self, records: Iterable[Record], version: Version) -> list[Alarm]:
        """Take records; the alarms of the minutes that are over: those before the newest of the folds before.

        What still comes for a minute that is over changes nothing.
        """
        newest = self.newest
        for measure, minute, seq, value in records:
            newest = max(newest, minute)
            if minute > self.closed and measure in self.measures:
                known = self.pending.setdefault(minute, {})
                before, mean = known.get(measure, (0, 0.0))
                if seq < 0:
                    known[measure] = (before - 1, mean + (value - mean) / (1 - before))
                elif seq >= before:
                    known[measure] = (seq, value)
        chart = self._chart(version)
        found: list[Alarm] = []
        for minute in over(self.pending, self.newest, newest):
            known = self.pending.pop(minute)
            values = [known[measure][1] if measure in known else math.nan for measure in self.measures]
            seen = chart.step(minute * MINUTE_S, values)
            self.closed = minute
            self.recent.append((minute, values))
            if seen.score >= THRESHOLD:
                found += self._alarms(minute, values, seen)
        del self.recent[:-RECENT]
        self.newest, self.chart = newest, chart.state()
        return found

    def _alarms(self, minute: int, values: list[float], seen: Observation) -> Iterator[Alarm]:
        sizes = np.nan_to_num(np.abs(seen.deviations))
        # Where the minute itself is not far off, the alarm is for those just before.
        lately = [minute - self.alarmed.get(measure, -ONE_INCIDENT) <= LATELY for measure in self.measures]
        least = TELLING if sizes.max() >= TELLING or any(lately) else sizes.max()
        for place, measure in enumerate(self.measures):
            told = sizes[place] >= least or (lately[place] and sizes.max() < TELLING)
            if told and math.isfinite(values[place]):
                begins = minute - self.alarmed.get(measure, -ONE_INCIDENT) >= ONE_INCIDENT
                self.alarmed[measure] = minute
                yield Alarm(measure, minute, values[place], float(seen.expected[place]), seen.score, begins)

    def _chart(self, version: Version) -> Chart:
        if version.version == self.version and self.chart is not None:
            return Chart(len(self.measures), version.limits, self.chart)
        self.version, fresh = version.version, Chart(len(self.measures), version.limits)
        for minute, values in self.recent:
            fresh.step(minute * MINUTE_S, values)
        return fresh


@dataclass
class Lines:
    """The log of a service: how often each template comes. A measure is a template."""

    first: int = -1
    rates: dict[str, Any] | None = None
    newest: int = -1
    closed: int = -1
    pending: dict[int, dict[str, float]] = field(default_factory=dict)
    alarmed: dict[str, int] = field(default_factory=dict)

    def fold(self, records: Iterable[Record], version: Version) -> list[Alarm]:
        """As :meth:`Watched.fold`; an alarm is a template that is new to the service or comes in a burst."""
        newest = self.newest
        for template, minute, _, lines in records:
            newest = max(newest, minute)
            self.first = minute if self.first < 0 else self.first
            if minute > self.closed:
                known = self.pending.setdefault(minute, {})
                known[template] = known.get(template, 0.0) + lines
        rates = TemplateRates.of(self.rates) if self.rates else TemplateRates()
        found: list[Alarm] = []
        for minute in over(self.pending, self.newest, newest):
            counts = {("", template): int(number) for template, number in self.pending.pop(minute).items()}
            for one in rates.add(minute, counts):
                begins = minute - self.alarmed.get(one.template, -ONE_INCIDENT) >= ONE_INCIDENT
                self.alarmed[one.template] = minute
                if minute - self.first >= ACQUAINTED:
                    found.append(Alarm(one.template, minute, float(one.lines), one.expected, one.score, begins))
            self.closed = minute
        self.alarmed = {name: at for name, at in self.alarmed.items() if at > self.closed - ONE_INCIDENT}
        self.newest, self.rates = newest, rates.state()
        return found


def over(pending: Mapping[int, Any], before: int, newest: int) -> list[int]:
    """The minutes that are over, where the newest one was ``before`` until this fold and is ``newest`` with it."""
    return sorted(minute for minute in pending if minute < max(before, newest - GRACE))


def watch(subject: str) -> Watched | Lines:
    """Nothing known yet of ``service/<name>``, ``host/<name>`` or ``logs/<service>``."""
    kind = subject.partition("/")[0]
    return Lines() if kind == "logs" else Watched(MEASURES[kind])
