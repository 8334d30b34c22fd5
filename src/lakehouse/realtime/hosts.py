"""Stage ``hosts``: what was measured on each host and what it logged, joined by minute."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from lakehouse.realtime.messages import Sample
from lakehouse.realtime.state import MINUTE
from lakehouse.realtime.task import Context, Outbox, Watched


class HostMinute(msgspec.Struct, array_like=True):
    """Logs, and of each metric the sum and number of its samples, of one minute."""

    logs: int = 0
    error_logs: int = 0
    sums: dict[str, float] = {}
    samples: dict[str, int] = {}


class Host(msgspec.Struct, array_like=True):
    """A host's last minutes, and the newest value of each metric with its time."""

    minutes: dict[int, HostMinute] = {}
    latest: dict[str, tuple[int, float]] = {}


class Hosts(Watched[Sample]):
    """One partition of the hosts."""

    name = "hosts"
    topic = "realtime-hosts-repartition"
    entry = Sample
    feeds: ClassVar[tuple[str, ...]] = ()

    def __init__(self, context: Context, partition: int) -> None:
        super().__init__(context, partition, "host", Host)

    def fed_by(self) -> dict[str, int]:
        """The route of metrics, and the services' logs."""
        partitions = self.context.partitions
        return {"system-metrics": partitions["system-metrics"], "services": partitions["services"]}

    def fold(self, entry: Sample, out: Outbox, offset: int) -> None:
        """Take a sample, the first of its identity, or a log."""
        if self.repeated(entry.id, entry.appended):
            return
        name = entry.host
        host = self.subjects.get(name) or Host()
        for metric, value in (entry.values or {}).items():
            newest = host.latest.get(metric)
            if newest is None or entry.time >= newest[0]:
                host.latest[metric] = (entry.time, value)
        if self.on_time(entry.time, entry.late):
            number = entry.time // MINUTE
            minute = host.minutes.setdefault(number, HostMinute())
            if entry.values is None:
                minute.logs += 1
                minute.error_logs += entry.error
            for metric, value in (entry.values or {}).items():
                minute.sums[metric] = minute.sums.get(metric, 0.0) + value
                minute.samples[metric] = minute.samples.get(metric, 0) + 1
            self.minutes.add(number)
        else:
            self.count("late")
        self.subjects.put(name, host)
        self._changed[name] = None

    def facts(self, there: list[HostMinute]) -> dict[str, Any]:
        """Logs, and the average of every metric."""
        here: dict[str, Any] = {"logs": sum(m.logs for m in there), "error_logs": sum(m.error_logs for m in there)}
        for metric in {metric for m in there for metric in m.sums}:
            total = sum(m.sums.get(metric, 0.0) for m in there)
            here[metric] = total / sum(m.samples.get(metric, 0) for m in there)
        return here

    def shown(self, state: Host) -> dict[str, Any]:
        """The newest value of every metric."""
        return {metric: {"at": at / 1e6, "value": value} for metric, (at, value) in state.latest.items()}
