"""Stage ``services``: requests and errors of each service by minute, for rules and for what is shown live."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

import msgspec
import orjson

from lakehouse.alerts import Rule
from lakehouse.realtime.messages import Log, Sample
from lakehouse.realtime.state import Seen, Store
from lakehouse.realtime.task import MINUTE, Command, Context, Outbox, Stage, Watch

ERROR_STATUS = 500


class ServiceMinute(msgspec.Struct, array_like=True, gc=False):
    """Counts of one minute."""

    requests: int = 0
    errors: int = 0
    logs: int = 0
    error_logs: int = 0


class Service(msgspec.Struct, array_like=True):
    """A service's last minutes, and when it was heard of last."""

    last: int = 0
    minutes: dict[int, ServiceMinute] = {}


class Services(Stage[Log]):
    """One partition of the services."""

    name = "services"
    topic = "realtime-services-repartition"
    entry = Log
    feeds: ClassVar[tuple[str, ...]] = ("hosts",)

    def __init__(self, context: Context, partition: int) -> None:
        super().__init__(context, partition)
        self.seen = Seen(context.settings.duplicate_horizon // timedelta(microseconds=1))
        self.services = Store("service:", Service)
        self.watch = Watch(context, "service")
        self.parts = (self.seen, self.services, self.watch.standings)
        self.reach = self.watch.reach
        self._changed: dict[str, None] = {}
        self._ttl = int(context.settings.live_ttl.total_seconds())

    def fed_by(self) -> dict[str, int]:
        """The route of logs."""
        return {"service-logs": self.context.partitions["service-logs"]}

    def fold(self, entry: Log, out: Outbox, offset: int) -> None:
        """Take a log, the first of its id; one without an id is never a duplicate."""
        if entry.id is not None and not self.seen.first(entry.id, entry.appended):
            self.count("duplicates")
            return
        late = not self.on_time(entry.time, entry.late)
        if entry.host is not None:
            sample = Sample(offset, entry.appended, entry.time, late, None, entry.host, None, entry.error)
            out.put("hosts", entry.host, sample)
        if late:
            self.count("late")
            return
        name, number = entry.service, entry.time // MINUTE
        service = self.services.get(name) or Service()
        minute = service.minutes.setdefault(number, ServiceMinute())
        minute.logs += 1
        minute.error_logs += entry.error
        if entry.status is not None:
            minute.requests += 1
            minute.errors += entry.status >= ERROR_STATUS
        service.last = max(service.last, entry.time)
        self.minutes.add(number)
        self.services.put(name, service)
        self._changed[name] = None

    def standing(self) -> bool:
        """Whether some service is in trouble."""
        return self.watch.any()

    def close(self, minute: int, out: Outbox, offset: int) -> None:
        """Take the rules over a minute, and forget what none looks back to."""
        if self.watch.rules:
            self.watch.minute(
                (minute + 1) * MINUTE, lambda rule: self._facts(rule, minute), out, offset,
                lambda name: {"service": name},
            )  # fmt: skip
        for name, service in list(self.services.items()):
            old = [m for m in service.minutes if m <= minute - self.reach]
            if old:
                kept = {m: counts for m, counts in service.minutes.items() if m > minute - self.reach}
                self.services.put(name, Service(service.last, kept))

    def _facts(self, rule: Rule, minute: int) -> dict[str, dict[str, Any]]:
        over = rule.over // timedelta(minutes=1)
        span = range(minute - over + 1, minute + 1)
        found = {}
        for name, service in self.services.items():
            there = [service.minutes[m] for m in span if m in service.minutes]
            if there:
                requests, errors = sum(m.requests for m in there), sum(m.errors for m in there)
                found[name] = {
                    "service": name,
                    "minute": minute * MINUTE,
                    "requests": requests,
                    "errors": errors,
                    "error_rate": errors / requests if requests else None,
                    "logs": sum(m.logs for m in there),
                    "error_logs": sum(m.error_logs for m in there),
                }
        return found

    def restored(self) -> None:
        """Know again which minutes are open."""
        self.watch.restored()
        self.minutes = {minute for _, service in self.services.items() for minute in service.minutes}

    def all_effects(self) -> None:
        """Show every service again."""
        self._changed |= {name: None for name, _ in self.services.items()}

    def effects(self, now_us: int, tick: bool) -> list[Command]:
        """With a tick the newest minute of each service that changed."""
        if not tick:
            return []
        commands: list[Command] = []
        for name in self._changed:
            service = self.services.get(name)
            if service and service.minutes:
                newest = max(service.minutes)
                counts = msgspec.structs.asdict(service.minutes[newest])
                body = orjson.dumps({"minute": newest * 60, **counts}).decode()
                commands.append(("SET", f"live:service:{name}", body, "EX", self._ttl))
        self._changed.clear()
        return commands
