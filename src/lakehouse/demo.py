"""``lakehouse demo``: the whole platform on this machine, from nothing to audited gold, then left running."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lakehouse.audit import audit, render
from lakehouse.inspect import tables, wait
from lakehouse.query import query
from lakehouse.running import programs, up
from lakehouse.settings import Settings, load
from lakehouse.simulate import simulate


class DemoError(Exception):
    """The demo did not come to its end; the message names the step and where to look."""


@dataclass(frozen=True)
class Size:
    """How much the simulated service does: days and records of history, then seconds at records per second."""

    history_days: float
    history_records: int
    seconds: float
    rate: float
    wait: float


SIZES = {"local": Size(2, 200_000, 120, 300, 600), "ci": Size(2, 60_000, 20, 300, 300)}


def demo(settings: Settings, size: Size, seed: int, bar: Callable[[str], Any]) -> bool:
    """Bring everything up, stream the simulated service, and print what came of it; whether the audit balances.

    ``bar(text)`` makes a progress bar, a context manager that yields ``(done, total) -> None``.

    Raises:
        DemoError: records were still missing from gold or a store after ``size.wait`` seconds.
    """
    started = time.monotonic()
    up(settings, servers_only=False, fresh=False)
    settings = load()
    logs_before = _logs(settings)
    truth = settings.home / "simulation-truth.json"
    with bar(
        f"a service with {size.history_days:g} days of history and {size.seconds / 60:g} live minutes"
    ) as progress:
        sent = simulate(
            settings, seed, size.rate, size.seconds, size.history_days, truth, progress=progress,
            history_records=size.history_records, logs=settings.service_logs,
        )  # fmt: skip
    with bar("its log files, on their way") as progress:
        _collected(settings, logs_before + sent["topics"]["service-logs"]["valid"], size.wait, progress)
    missing = wait(settings, size.wait)
    if missing:
        raise DemoError(f"{missing[0]}; `lakehouse status` and {settings.home / 'logs' / 'stream.log'} say why")
    result = audit(settings)
    _summary(settings, sent, truth, result, time.monotonic() - started)
    return bool(result["balanced"])


def _logs(settings: Settings) -> int:
    return int(query(settings, "select count(*) from silver.service_logs").rows[0][0])


def _collected(settings: Settings, expected: int, timeout: float, progress: Callable[[int, int], None]) -> None:
    """Return when silver has so many logs: files, shipper, collector and stream have passed on all.

    Raises:
        DemoError: it has not, after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while (there := _logs(settings)) < expected:
        progress(there, expected)
        if time.monotonic() > deadline:
            raise DemoError(
                f"{expected - there:,} of the service's log records are not in silver after {timeout:g} s: "
                f"`lakehouse status` says where they wait, {settings.home / 'logs' / 'collect.log'} why"
            )
        time.sleep(0.5)
    progress(expected, expected)


def _summary(settings: Settings, sent: dict[str, Any], truth: Path, result: dict[str, Any], seconds: float) -> None:
    from lakehouse.report import show_rows, show_tables

    out = sys.stdout.write
    shipper = "Filebeat" if "filebeat" in programs(settings) else "`lakehouse ship logs`"
    out(
        f"\n{sent['sent']:,} records sent and accounted for, {sent['written']:,} of them as lines of log files that "
        f"{shipper} and the collector brought; {seconds:.0f} s in all\n\n"
    )
    show_tables(tables(settings))
    for title, sql in (
        (
            "Quarantine, by reason",
            "select topic, reason, count(*) as records from (select topic, unnest(reasons) as reason "
            "from silver.quarantine) group by all order by records desc limit 12",
        ),
        (
            "The busiest minute of each event type",
            "select event_type, max_by(window_start, events) as minute, max(events) as events, "
            "max_by(users, events) as users from gold.activity_minute group by event_type order by events desc",
        ),
        (
            "Trending now",
            "select rank, post_id, round(score, 1) as score from gold.trending_posts order by rank limit 5",
        ),
        (
            "Services, all time",
            "select service, sum(requests)::bigint as requests, "
            "round(100 * sum(errors) / sum(requests), 2) as error_percent, "
            "round(max(p99_ms), 1) as worst_p99_ms from gold.service_health_minute group by service order by service",
        ),
        (
            f"This machine ({socket.gethostname()}), measured live",
            "select metric, round(max_by(avg, window_start), 3) as latest, round(max(max), 3) as highest, "
            "sum(samples)::bigint as samples "
            f"from gold.host_utilization_minute where host = '{socket.gethostname()}' and metric in "
            "('system.cpu.total.norm.pct', 'system.memory.actual.used.pct', 'system.load.1') "
            "group by metric order by metric",
        ),
    ):
        out(f"\n{title}\n")
        answer = query(settings, sql)
        show_rows(answer.columns, answer.rows)
    out(f"\nAudit\n{render(result)}\n")
    out(
        f"\nThe simulation's own truth: {truth}\nAll of it goes on running. Try next:\n"
        '  .venv/bin/lakehouse sql "select * from gold.activity_minute order by window_start desc limit 10"\n'
        "  .venv/bin/lakehouse trace user-events/0/0\n"
        "  .venv/bin/lakehouse simulate --rate 500 --duration 60   # then: .venv/bin/lakehouse status\n"
        "`.venv/bin/lakehouse down` stops it; data are kept.\n"
    )
