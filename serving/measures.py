"""What several surfaces ask of the tables in words of their own: the newest of services and hosts, slowest paths."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from serving.auth import Caller
from serving.catalog import find
from serving.served import Snapshot
from serving.service import Service

HOST_METRICS = {
    "cpu": "system.cpu.total.norm.pct",
    "memory": "system.memory.actual.used.pct",
    "disk": "system.filesystem.used.pct",
}
_NEWEST = """
select service, window_start, requests, errors, error_rate, p50_ms, p95_ms, p99_ms from rows
where window_start >= (select max(window_start) from rows) - interval 1 day
qualify row_number() over (partition by service order by window_start desc) = 1 order by service
"""
_HOSTS = """
select host, max(window_start) as last_seen, {metrics} from rows
where window_start >= (select max(window_start) from rows) - interval 1 day group by host order by host
"""
_PATHS = """
select service.name as service_name, url.path as path, count(*) as requests,
  count(*) filter (http.response.status_code >= 500) as errors,
  quantile_cont(event.duration / 1e6, 0.5) as p50_ms, quantile_cont(event.duration / 1e6, 0.95) as p95_ms,
  max(event.duration) / 1e6 as max_ms
from rows where service.name in ({names}) and http.response.status_code is not null and url.path is not null
  and time > (select max(time) from rows) - to_minutes(?) group by service.name, url.path
qualify row_number() over (partition by service_name order by p95_ms desc nulls last, path) <= ?
order by service_name, p95_ms desc nulls last, path
"""


async def newest_of_services(service: Service, caller: Caller) -> tuple[pa.Table, Snapshot]:
    """The newest minute of every service of the last day (``gold.service_health_minute``)."""
    return await service.query(caller, find("gold.service_health_minute"), _NEWEST, [])


async def newest_of_hosts(service: Service, caller: Caller) -> tuple[pa.Table, Snapshot]:
    """Every host of the last day: ``last_seen`` and its newest :data:`HOST_METRICS`."""
    newest = ", ".join(f"max_by(avg, window_start) filter (metric = ?) as {name}" for name in HOST_METRICS)
    sql = _HOSTS.format(metrics=newest)
    return await service.query(caller, find("gold.host_utilization_minute"), sql, [*HOST_METRICS.values()])


async def slowest_paths(
    service: Service, caller: Caller, names: Sequence[str], minutes: int, limit: int
) -> tuple[pa.Table, Snapshot]:
    """Services' slowest paths in the newest minutes, up to ``limit`` of each ``service_name``."""
    sql = _PATHS.format(names=", ".join("?" * len(names)))
    return await service.query(caller, find("silver.service_logs"), sql, [*names, minutes, limit])
