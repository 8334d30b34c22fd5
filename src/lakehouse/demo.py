"""``lakehouse demo``: the whole platform on this machine, from nothing to audited gold, then left running."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import orjson
import redis

from lakehouse.audit import audit, render
from lakehouse.inspect import tables, wait
from lakehouse.query import query
from lakehouse.running import programs, up
from lakehouse.settings import Settings, load
from lakehouse.simulate import simulate
from lakehouse.sources.topics import producer


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


class Others(Protocol):
    """What the demo does with models and the API, which ``lakehouse`` does not know: the command line hands it over."""

    def train(self, settings: Settings) -> str:
        """Train, judge, promote and ask all of them; the report."""

    def findings(self, settings: Settings) -> str:
        """What they found."""

    def asked(self, settings: Settings) -> str:
        """What the API answers."""


def demo(settings: Settings, size: Size, seed: int, bar: Callable[[str], Any], others: Others) -> bool:
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
    _in_gold(settings, size.wait)
    trained = others.train(settings)
    moments = live(settings)
    _in_gold(settings, size.wait)
    result = audit(settings)
    found = f"{trained}{others.findings(settings)}\n\n{others.asked(settings)}"
    _summary(settings, sent, truth, result, time.monotonic() - started, moments, found)
    return bool(result["balanced"])


def _in_gold(settings: Settings, timeout: float) -> None:
    missing = wait(settings, timeout)
    if missing:
        raise DemoError(f"{missing[0]}; `lakehouse status` and {settings.home / 'logs' / 'stream.log'} say why")


@dataclass(frozen=True)
class Live:
    """What the real-time processor shows, and what it made of two events that were sent just now."""

    site: dict[str, str]
    trending: list[tuple[str, float]]
    user: str
    before: list[str]
    after: list[str]
    after_ms: float
    by: str
    """What recommended: a champion's version, or the processor's own way."""
    notification: str
    notified_ms: float


def live(settings: Settings, within: float = 60) -> Live:
    """Look at what is live, then comment on and like a post that is recommended to a user: see it leave, and who hears.

    Raises:
        DemoError: the processor did not take the events within ``within`` seconds.
    """
    client: Any = redis.Redis.from_url(settings.redis.url.get_secret_value(), decode_responses=True)
    sender = producer(settings, **{"linger.ms": 0})
    run = f"{time.time_ns():x}"

    def send(kind: str, user: str, **more: Any) -> float:
        at = datetime.now(UTC).isoformat()
        event = {
            "event_id": f"demo{run}{time.time_ns():x}",
            "event_type": kind,
            "user_id": user,
            "occurred_at": at,
            **more,
        }
        sender.produce("user-events", key=user.encode(), value=orjson.dumps(event))
        sender.flush(10)
        return time.monotonic()

    def until(ask: Callable[[], Any], since: float) -> tuple[Any, float]:
        while not (found := ask()):
            if time.monotonic() > since + within:
                log = settings.home / "logs" / "realtime.log"
                raise DemoError(f"the real-time processor did not take an event within {within:g} s: {log} says why")
            time.sleep(0.001)
        return found, (time.monotonic() - since) * 1000

    def shown(user: str) -> list[str]:
        items = orjson.loads(client.get(f"recs:{user}") or b'{"items": []}')["items"]
        return [item["post_id"] for item in items]

    def recommended_by(user: str) -> str:
        return str(orjson.loads(client.get(f"recs:{user}"))["model_version"])

    trending = client.zrevrange("trending:posts", 0, 4, withscores=True)
    user, author = f"demo-{run}", f"demo-author-{run}"
    for post, _ in client.zrevrange("trending:posts", 5, 7, withscores=True):
        send("view", user, post_id=post)
        send("like", user, post_id=post)
    before, _ = until(lambda: shown(user), time.monotonic())
    time.sleep(0.5)  # what those views changed has settled
    before = shown(user)
    since = send("like", user, post_id=before[0])
    after, after_ms = until(lambda: None if before[0] in (now := shown(user)) else now, since)
    by = recommended_by(user)
    since = send("follow", user, properties={"followed": author})
    told, told_ms = until(lambda: client.get(f"live:notifications:{author}"), since)
    site = client.hgetall("live:site")
    client.close()
    return Live(site, trending, user, before, after, after_ms, by, orjson.loads(told)[0]["text"], told_ms)


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


def _summary(
    settings: Settings,
    sent: dict[str, Any],
    truth: Path,
    result: dict[str, Any],
    seconds: float,
    moments: Live,
    found: str,
) -> None:
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
    counts = [(name.partition(":")[2], int(n)) for name, n in sorted(moments.site.items()) if ":" in name]
    out(
        f"\nLive, in Redis, as of {moments.site.get('at')}\n"
        f"  active users      {moments.site.get('active_users', 0)}\n"
        f"  events a minute   {', '.join(f'{n} {kind}' for kind, n in counts) or 'none'}\n"
        f"  trending posts    {', '.join(f'{post} {score:.1f}' for post, score in moments.trending)}\n"
        f"  recommended       {', '.join(moments.before[:5])} by version {moments.by}\n"
        f"  {moments.after_ms:.0f} ms after a like  {', '.join(moments.after[:5])}\n"
        f"  notification      {moments.notification!r}, {moments.notified_ms:.0f} ms after the event was in Kafka\n"
    )
    out(f"\n{found}\n\nAudit\n{render(result)}\n")
    out(
        f"\nThe simulation's own truth: {truth}\nAll of it goes on running. Try next:\n"
        '  .venv/bin/lakehouse sql "select * from gold.activity_minute order by window_start desc limit 10"\n'
        "  .venv/bin/lakehouse trace user-events/0/0\n"
        "  .venv/bin/lakehouse dashboard   # its address, with a token\n"
        "  .venv/bin/lakehouse simulate --rate 500 --duration 60   # then: .venv/bin/lakehouse status\n"
        "`.venv/bin/lakehouse down` stops it; data are kept.\n"
    )
