"""Stage ``hosts``: what was measured on each host and what it logged, joined by minute."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

import msgspec
import orjson

from lakehouse.alerts import Rule
from lakehouse.realtime.messages import Sample
from lakehouse.realtime.state import Seen, Store
from lakehouse.realtime.task import MINUTE, Command, Context, Outbox, Stage, Watch


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


class Hosts(Stage[Sample]):
    """One partition of the hosts."""

    name = "hosts"
    topic = "realtime-hosts-repartition"
    entry = Sample
    feeds: ClassVar[tuple[str, ...]] = ()

    def __init__(self, context: Context, partition: int) -> None:
        super().__init__(context, partition)
        self.seen = Seen(context.settings.duplicate_horizon // timedelta(microseconds=1))
        self.hosts = Store("host:", Host)
        self.watch = Watch(context, "host")
        self.parts = (self.seen, self.hosts, self.watch.standings)
        self.reach = self.watch.reach
        self._changed: dict[str, None] = {}
        self._ttl = int(context.settings.live_ttl.total_seconds())

    def fed_by(self) -> dict[str, int]:
        """The route of metrics, and the services' logs."""
        partitions = self.context.partitions
        return {"system-metrics": partitions["system-metrics"], "services": partitions["services"]}

    def fold(self, entry: Sample, out: Outbox, offset: int) -> None:
        """Take a sample, the first of its identity, or a log."""
        if entry.id is not None and not self.seen.first(entry.id, entry.appended):
            self.count("duplicates")
            return
        name = entry.host
        host = self.hosts.get(name) or Host()
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
        self.hosts.put(name, host)
        self._changed[name] = None

    def standing(self) -> bool:
        """Whether some host is in trouble."""
        return self.watch.any()

    def close(self, minute: int, out: Outbox, offset: int) -> None:
        """Take the rules over a minute, and forget what none looks back to."""
        if self.watch.rules:
            self.watch.minute(
                (minute + 1) * MINUTE, lambda rule: self._facts(rule, minute), out, offset, lambda name: {"host": name}
            )
        for name, host in list(self.hosts.items()):
            kept = {m: counts for m, counts in host.minutes.items() if m > minute - self.reach}
            if len(kept) < len(host.minutes):
                self.hosts.put(name, Host(kept, host.latest))

    def _facts(self, rule: Rule, minute: int) -> dict[str, dict[str, Any]]:
        over = rule.over // timedelta(minutes=1)
        found = {}
        for name, host in self.hosts.items():
            there = [host.minutes[m] for m in range(minute - over + 1, minute + 1) if m in host.minutes]
            if not there:
                continue
            here: dict[str, Any] = {"host": name, "minute": minute * MINUTE}
            here["logs"], here["error_logs"] = sum(m.logs for m in there), sum(m.error_logs for m in there)
            for metric in {metric for m in there for metric in m.sums}:
                total = sum(m.sums.get(metric, 0.0) for m in there)
                here[metric] = total / sum(m.samples.get(metric, 0) for m in there)
            found[name] = here
        return found

    def restored(self) -> None:
        """Know again which minutes are open."""
        self.watch.restored()
        self.minutes = {minute for _, host in self.hosts.items() for minute in host.minutes}

    def all_effects(self) -> None:
        """Show every host again."""
        self._changed |= {name: None for name, _ in self.hosts.items()}

    def effects(self, now_us: int, tick: bool) -> list[Command]:
        """With a tick the newest values of each host that changed."""
        if not tick:
            return []
        commands: list[Command] = []
        for name in self._changed:
            host = self.hosts.get(name)
            if host:
                latest = {metric: {"at": at / 1e6, "value": value} for metric, (at, value) in host.latest.items()}
                commands.append(("SET", f"live:host:{name}", orjson.dumps(latest).decode(), "EX", self._ttl))
        self._changed.clear()
        return commands
