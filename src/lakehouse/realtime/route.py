"""Routes: a topic's records are checked against its contract, timed, and passed on by key.

A record that breaks its contract is counted here and goes no further; the lake's stream, which reads the same record,
puts it into ``silver.quarantine`` with its bytes and reasons, from where it can be mended and replayed. So each has one
owner, and none counts twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar

from lakehouse.contracts import contracts
from lakehouse.quality.checks import Checked, checker
from lakehouse.realtime.messages import Event, Log, Sample
from lakehouse.realtime.task import Context, Outbox, Record, Task

ERROR_LEVELS = frozenset({"error", "err", "fatal", "critical", "crit", "alert", "emergency", "emerg", "severe"})
SHOWN_METRICS = ("system.cpu.total.norm.pct", "system.memory.actual.used.pct", "system.load.1")
"""Metrics of hosts that are shown live, beside those that rules name."""


class Route(Task):
    """One partition of a topic of records.

    Its time is the largest event time so far, none counted past its record's append time: one clock that runs ahead
    must not make all others late.
    """

    def __init__(self, context: Context, partition: int) -> None:
        super().__init__(context, partition)
        self._check = checker(contracts()[self.topic])
        self._lateness = context.settings.lateness // timedelta(microseconds=1)
        self._idle_us = context.settings.idle_after // timedelta(microseconds=1)
        self._active = time.monotonic()

    def process(self, records: Sequence[Record], out: Outbox) -> None:
        """Check and pass on records in order."""
        check, lateness, stamp, gone = self._check, self._lateness, self.watermark, self.context.erased
        for record in records:
            appended = record.timestamp()[1] * 1000
            offset = record.offset()
            checked = check(record.value(), appended)
            self.next = offset + 1
            if checked.reasons:
                self.count("quarantined")
                continue
            if gone and gone.in_record(None, record.value(), None):
                self.count("erased")
                continue
            at = self.time_of(checked.values)
            if at > stamp:
                stamp = max(stamp, min(at, appended))
            self.pass_on(checked, offset, appended, at, at < stamp - lateness, out)
            if out.count > 4000:
                out.send(self.source, stamp)
        self.count("records", len(records))
        self.watermark = stamp
        self._moved = True
        self._active = time.monotonic()
        out.send(self.source, self.watermark)

    def idle(self, now_us: int) -> None:
        """Let time go on where nothing arrives; to be called when every record so far is taken."""
        if time.monotonic() - self._active > self._idle_us / 1e6 and now_us - self._idle_us > self.watermark:
            self.watermark = now_us - self._idle_us
            self._moved = True

    def time_of(self, values: dict[str, Any]) -> int:
        """A record's event time."""
        found: int = values["time"]
        return found

    def pass_on(self, checked: Checked, offset: int, appended: int, at: int, late: bool, out: Outbox) -> None:
        """Make entries of a valid record."""
        raise NotImplementedError


class RouteEvents(Route):
    """User events, to ``users`` by user."""

    name = topic = "user-events"
    feeds: ClassVar[tuple[str, ...]] = ("users",)

    def __init__(self, context: Context, partition: int) -> None:
        super().__init__(context, partition)
        named = {field.partition(".")[0] for rule in context.rules("event") for field in rule.fields}
        self._named = sorted(named - _CARRIED)

    def time_of(self, values: dict[str, Any]) -> int:
        """A record's event time."""
        found: int = values["occurred_at"]
        return found

    def pass_on(self, checked: Checked, offset: int, appended: int, at: int, late: bool, out: Outbox) -> None:
        """One entry, with what rules on events name."""
        values = checked.values
        facts = None
        for name in self._named:
            if values.get(name) is not None:
                facts = facts or {}
                facts[name] = values[name]
        user = values["user_id"]
        out.put(
            "users",
            user,
            Event(
                offset, appended, at, late, values["event_id"], values["event_type"], user, values["post_id"],
                values["page"], values["device"], values["referrer"], facts,
            ),
        )  # fmt: skip


_CARRIED = {"event_id", "event_type", "user_id", "post_id", "post_author", "device", "referrer"}


class RouteLogs(Route):
    """Service logs, to ``services`` by service."""

    name = topic = "service-logs"
    feeds: ClassVar[tuple[str, ...]] = ("services",)

    def pass_on(self, checked: Checked, offset: int, appended: int, at: int, late: bool, out: Outbox) -> None:
        """One entry."""
        values = checked.values
        service = (values["service"] or {}).get("name") or "unknown"
        status = ((values["http"] or {}).get("response") or {}).get("status_code")
        level = (values["log"] or {}).get("level")
        host = (values["host"] or {}).get("name")
        error = level is not None and level.lower() in ERROR_LEVELS
        out.put("services", service, Log(offset, appended, at, late, checked.identity, service, host, status, error))


class RouteMetrics(Route):
    """System metrics, to ``hosts`` by host: those that are shown or named by a rule."""

    name = topic = "system-metrics"
    feeds: ClassVar[tuple[str, ...]] = ("hosts",)

    def __init__(self, context: Context, partition: int) -> None:
        super().__init__(context, partition)
        self._wanted = {field for rule in context.rules("host") for field in rule.fields}.union(SHOWN_METRICS)

    def pass_on(self, checked: Checked, offset: int, appended: int, at: int, late: bool, out: Outbox) -> None:
        """One entry, none where no metric is of interest."""
        wanted = self._wanted
        values = {name: value for name, value in checked.samples or () if name in wanted}
        if values:
            host = checked.values["host"]["name"] if isinstance(checked.values.get("host"), dict) else "unknown"
            out.put("hosts", host, Sample(offset, appended, at, late, checked.identity, host, values))
