"""Stage ``services``: requests and errors of each service by minute, for rules and for what is shown live."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from lakehouse.realtime.messages import Log, Sample
from lakehouse.realtime.state import MINUTE
from lakehouse.realtime.task import Context, Outbox, Watched

ERROR_STATUS = 500


class ServiceMinute(msgspec.Struct, array_like=True, gc=False):
    """Counts of one minute."""

    requests: int = 0
    errors: int = 0
    logs: int = 0
    error_logs: int = 0


class Service(msgspec.Struct, array_like=True):
    """A service's last minutes."""

    minutes: dict[int, ServiceMinute] = {}


class Services(Watched[Log]):
    """One partition of the services."""

    name = "services"
    topic = "realtime-services-repartition"
    entry = Log
    feeds: ClassVar[tuple[str, ...]] = ("hosts",)

    def __init__(self, context: Context, partition: int) -> None:
        super().__init__(context, partition, "service", Service)

    def fed_by(self) -> dict[str, int]:
        """The route of logs."""
        return {"service-logs": self.context.partitions["service-logs"]}

    def fold(self, entry: Log, out: Outbox, offset: int) -> None:
        """Take a log, the first of its id; one without an id is never a duplicate."""
        if self.repeated(entry.id, entry.appended):
            return
        late = not self.on_time(entry.time, entry.late)
        if entry.host is not None:
            sample = Sample(offset, entry.appended, entry.time, late, None, entry.host, None, entry.error)
            out.put("hosts", entry.host, sample)
        if late:
            self.count("late")
            return
        name, number = entry.service, entry.time // MINUTE
        service = self.subjects.get(name) or Service()
        minute = service.minutes.setdefault(number, ServiceMinute())
        minute.logs += 1
        minute.error_logs += entry.error
        if entry.status is not None:
            minute.requests += 1
            minute.errors += entry.status >= ERROR_STATUS
        self.minutes.add(number)
        self.subjects.put(name, service)
        self._changed[name] = None

    def facts(self, there: list[ServiceMinute]) -> dict[str, Any]:
        """Counts and the error rate."""
        requests, errors = sum(m.requests for m in there), sum(m.errors for m in there)
        return {
            "requests": requests,
            "errors": errors,
            "error_rate": errors / requests if requests else None,
            "logs": sum(m.logs for m in there),
            "error_logs": sum(m.error_logs for m in there),
        }

    def shown(self, state: Service) -> dict[str, Any] | None:
        """The newest minute."""
        if not state.minutes:
            return None
        newest = max(state.minutes)
        return {"minute": newest * 60, **msgspec.structs.asdict(state.minutes[newest])}
