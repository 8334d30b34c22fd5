"""A week of a small service in a local lake, about which reports are made: 25 November 2026 and what was before it.

Traffic follows the hour. On the day there is a fifth more of it than on the day before; gateway fails between 14:00 and
14:20, when web-1 is busy; the disk of db-1 fills up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from lakehouse.settings import Settings
from serving.report.told import Told
from tests.unit.local_lake import local_lake, write

DATE = date(2026, 11, 25)
DAY = datetime(2026, 11, 25, tzinfo=UTC)
NOW = DAY + timedelta(days=1, hours=2, minutes=10)
STEP = timedelta(minutes=5)
CPU, MEMORY, DISK = "system.cpu.total.norm.pct", "system.memory.actual.used.pct", "system.filesystem.used.pct"
FACTOR = {0: 1.2, 1: 1.0, 7: 0.9}
"""Days back -> traffic."""
TYPES = {"view": 50, "visit": 20, "like": 9, "comment": 5, "search": 4, "share": 2}
SERVICES = {"gateway": (60, 30.0), "feed": (40, 70.0), "search": (15, 140.0)}


def wave(at: datetime) -> float:
    """Between 0.4 in the night and 1.6 in the afternoon."""
    return 1 + 0.6 * math.sin((at.hour + at.minute / 60 - 9) / 24 * 2 * math.pi)


def steps(days_back: int, every: timedelta = STEP) -> Iterator[datetime]:
    at = DAY - timedelta(days=days_back)
    end = at + timedelta(days=1)
    while at < end:
        yield at
        at += every


def fails(at: datetime) -> bool:
    return at.date() == DATE and at.hour == 14 and at.minute < 20


def week(folder: Path) -> Settings:
    """The lake, whole."""
    settings = local_lake(folder)
    for name, rows in tables().items():
        write(settings, name, rows)
    runs = [
        {"name": "audit", "started_at": f"2026-11-25T{hour:02d}:17:00Z", "seconds": 8.0 + hour, "outcome": "ok"}
        for hour in range(24)
    ]
    runs.append({"name": "insights", "started_at": "2026-11-25T01:25:00Z", "seconds": 90.0, "outcome": "failed"})
    settings.home.mkdir(parents=True)
    (settings.home / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
    return settings


def tables() -> dict[str, list[dict[str, Any]]]:
    return {
        "gold.activity_minute": [
            {"window_start": at, "event_type": kind, "events": round(n * wave(at) * factor), "users": 1}
            for back, factor in FACTOR.items()
            for at in steps(back)
            for kind, n in TYPES.items()
        ],
        "silver.user_events": [
            {
                "event_id": f"{back}-{at:%H}-{user}", "event_type": "view" if user % 2 else "visit",
                "user_id": f"user-{(user + at.hour) % 40}", "session_id": f"s{back}-{at.hour // 4}-{user}",
                "occurred_at": at + timedelta(minutes=user), "post_id": f"post-{user % 5}" if user % 2 else None,
            }
            for back, users in ((0, 24), (1, 20))
            for at in steps(back, timedelta(hours=1))
            for user in range(users)
        ],
        "gold.post_engagement_daily": [
            {
                "date": DATE - timedelta(days=back), "post_id": f"post-{n}", "views": views(n, back),
                "likes": 30 - n, "comments": 12 - n // 2, "shares": 3, "bookmarks": 2, "users": 90 - n,
            }
            for back in (0, 1)
            for n in range(14)
            if n != 13 or not back
        ],
        "gold.service_health_minute": [
            health(at, back, name) for back in FACTOR for at in steps(back) for name in SERVICES
        ],
        "silver.service_logs": [
            {
                "time": at + timedelta(seconds=n), "event_id": f"{name}{back}{at:%H%M}{n}", "service": {"name": name},
                "http": {"response": {"status_code": 200}}, "event": {"duration": int(1e6 * pace * (0.3 + 0.1 * n))},
            }
            for back in (0, 1)
            for at in steps(back, timedelta(minutes=30))
            for name, (_, pace) in SERVICES.items()
            for n in range(8)
        ],
        "gold.host_utilization_minute": [
            {"window_start": at, "host": host, "metric": metric, "avg": use, "max": use, "samples": 6}
            for back in range(7)
            for at in steps(back, timedelta(minutes=15))
            for host, metric, use in uses(at, back)
        ],
        "gold.anomalies": [
            *(anomaly("service/gateway/error_rate", 14, minute, 0.3, 0.01, 0.97) for minute in range(2, 19)),
            *(anomaly("service/gateway/p95_ms", 14, minute, 90.0, 30.0, 0.7) for minute in range(5, 12)),
            anomaly(f"host/web-1/{CPU}", 14, 6, 0.93, 0.5, 0.9),
            anomaly(f"host/web-1/{CPU}", 3, 40, 0.4, 0.2, 0.6),
            anomaly("logs/feed/cache miss for <*> of user-17 <alice@example.com>", 9, 0, 40.0, 2.0, 0.8),
        ],
        "gold.forecasts": [*forecasts()],
        "gold.recommendations": [
            {"user_id": "user-1", "rank": 1, "post_id": "post-1", "score": 1.0, "model_version": "3", "at": NOW}
        ],
        "gold.text_insights_daily": [*insights()],
        "ops.ledger": [*ledger()],
        "ops.promotions": [
            decision("recommender", "2", "promoted", None, DAY - timedelta(days=3), 0.14, 0.09, "baseline"),
            decision("recommender", "3", "promoted", "2", DAY + timedelta(hours=6), 0.163, 0.151, "champion"),
            decision(
                "recommender", "4", "refused", "3", DAY + timedelta(hours=12, minutes=7), 0.14, 0.163, "champion",
                reasons=["worse: ndcg@10 0.1400 on held-out time, the champion has 0.1630"],
            ),
            decision("trend", "1", "promoted", None, DAY - timedelta(days=4), 0.41, 0.37, "baseline"),
        ],
        "silver.quarantine": [
            {
                "topic": "user-events", "partition": 0, "offset": n, "timestamp": DAY + timedelta(hours=1 + n % 20),
                "key": b"user-3", "value": b"{}", "status": "replayed" if n < 3 else "open", "updated_at": NOW,
                "reasons": ["/user_id: blank"] if n % 3 else ["/properties/alice@example.com: not a string"],
            }
            for n in range(12)
        ],
    }  # fmt: skip


def views(n: int, back: int = 0) -> int:
    return 400 - 25 * n if back else 380 - 25 * n + (500 if n in (2, 6) else 0)


def health(at: datetime, back: int, name: str) -> dict[str, Any]:
    size, pace = SERVICES[name]
    requests = round(size * wave(at) * FACTOR[back])
    bad = name == "gateway" and fails(at)
    errors = round(requests * 0.3) if bad else int((at.hour + at.minute) % 45 == 0)
    slow = pace * (3 if bad else 1)
    return {
        "window_start": at, "service": name, "requests": requests, "errors": errors, "error_rate": errors / requests,
        "p50_ms": slow / 2, "p95_ms": slow, "p99_ms": slow * 1.4,
    }  # fmt: skip


def uses(at: datetime, back: int) -> Iterator[tuple[str, str, float]]:
    for n, host in enumerate(("web-1", "web-2", "app-1", "db-1")):
        busy = 0.93 if host == "web-1" and fails(at) else 0.15 * wave(at) + 0.08 * n
        yield host, CPU, busy
        yield host, MEMORY, 0.4 + 0.15 * n
        yield host, DISK, (0.89 - 0.02 * (back - at.hour / 24)) if host == "db-1" else 0.3 + 0.05 * n


def anomaly(series: str, hour: int, minute: int, value: float, expected: float, score: float) -> dict[str, Any]:
    at = DAY + timedelta(hours=hour, minutes=minute)
    return {
        "series": series, "time": at, "value": value, "expected": expected, "score": score, "model_version": "2"
    }  # fmt: skip


def forecasts() -> Iterator[dict[str, Any]]:
    for name, size in ((f"activity/{kind}", n * 1.2) for kind, n in TYPES.items()):
        yield from foretold(name, size, 0.12)
    for name, (size, pace) in SERVICES.items():
        yield from foretold(f"service/{name}/requests", size * 1.2, 0.12)
        yield from foretold(f"service/{name}/p95_ms", pace, 0.2, flat=True)
    for host in ("web-1", "db-1"):
        yield from foretold(f"host/{host}/{CPU}", 0.15 if host == "web-1" else 0.39, 0.3, flat=host == "db-1")
    yield from foretold(f"host/db-1/{DISK}", 0.895, 0.02, flat=True)


def foretold(series: str, size: float, width: float, flat: bool = False) -> Iterator[dict[str, Any]]:
    for n in range(24 * 12 + 72):
        at = DAY + n * STEP
        mean = size if flat else size * wave(at)
        yield {
            "series": series, "time": at, "mean": mean, "lo": mean * (1 - width), "hi": mean * (1 + width),
            "model_version": "1", "made_at": min(at.replace(minute=0), NOW - timedelta(minutes=15)),
        }  # fmt: skip


def insights() -> Iterator[dict[str, Any]]:
    words = {
        "posts": ("spring release", "photo tour", "coffee", "night trains", "garden"),
        "comments": ("lovely colours", "delivery", "slow search", "좋은 사진"),
        "searches": ("cheap flights", "한국 여행", "recipes", "headphones"),
        "errors": ("upstream timeout", "connection refused"),
    }
    for back in (0, 1):
        day = {"date": DATE - timedelta(days=back)}
        for source, terms in words.items():
            for n, term in enumerate(terms):
                if not (back and n == 1):
                    yield day | {
                        "source": source,
                        "kind": "keyword",
                        "term": term,
                        "score": 0.9 - n / 10,
                        "count": 40 - 9 * n,
                    }
        yield day | {"source": "searches", "kind": "keyword", "term": "alice smith", "score": 0.99, "count": 1}
        for source, share in (("comments", 1.0), ("comments:en", 0.7), ("comments:ko", 0.3)):
            for mood, count in (("positive", 300), ("neutral", 120), ("negative", 60 if back else 150)):
                yield day | {
                    "source": source, "kind": "sentiment", "term": mood, "score": 0.8, "count": round(count * share)
                }  # fmt: skip
        yield day | {
            "source": "errors", "kind": "error_cluster", "term": "upstream timed out after <*>",
            "score": 0.9, "count": 80,
        }  # fmt: skip
    yield {
        "date": DATE, "source": "errors", "kind": "error_cluster", "term": "no space left on <*>",
        "score": 1.0, "count": 9,
    }  # fmt: skip


def ledger() -> Iterator[dict[str, Any]]:
    for topic, records in (("user-events", 900), ("service-logs", 600), ("system-metrics", 300)):
        begin = 0
        for seq, at in enumerate((at for back in (1, 0) for at in steps(back, timedelta(minutes=30))), 1):
            today = at >= DAY
            n = round(records * wave(at) * (1.2 if today else 1))
            refused, twice = n // 150, n // 90
            late = 9.0 if fails(at) else 0.6 + (seq % 7) / 10
            yield {
                "topic": topic, "seq": seq, "partition": 0, "start_offset": begin, "end_offset": begin + n,
                "records": n, "valid": n - refused - twice, "quarantined": refused, "duplicates": twice,
                "first_at": at, "last_at": at, "committed_at": at + timedelta(seconds=late), "engine": "fused",
                "batch_ms": int(300 + 50 * (seq % 5)), "versions": [("gold.activity_minute", seq)], "warnings": [],
                "drift": [("app_version", 5), *([("beta_flag", 4)] if today else [])],
            }  # fmt: skip
            begin += n


def decision(
    model: str, version: str, action: str, previous: str | None, at: datetime, value: float, rival: float, name: str,
    reasons: tuple[str, ...] | list[str] = (),
) -> dict[str, Any]:  # fmt: skip
    measured = {
        "candidate": {"metric": "ndcg@10", "value": value, "p99_ms": 4.9, "slices": {}},
        name: {"metric": "ndcg@10", "value": rival, "p99_ms": 5.1},
    }
    return {
        "id": f"{model}{version}{action}", "model": model, "version": version, "action": action, "previous": previous,
        "who": "operator", "why": "trained on yesterday", "reasons": list(reasons), "measured": json.dumps(measured),
        "data": [], "decided_at": at,
    }  # fmt: skip


def telling(day: Any, operators: Any) -> list[Told]:
    """What rules told: of gateway, of web-1, which still holds, and users' own."""
    at = DAY + timedelta(hours=14, minutes=4)
    return [
        Told("service error rate", "warning", "fired", "gateway", at),
        Told("service error rate", "warning", "fired", "gateway", at + timedelta(minutes=10)),
        Told("service error rate", "warning", "recovered", "gateway", at + timedelta(minutes=19)),
        Told("host cpu out of range", "critical", "fired", "web-1", at + timedelta(minutes=3)),
        Told("unusual", "info", "fired", "service/gateway/error_rate", at),
        Told("new follower", "info", "fired", "", DAY, number=432),
        Told("new follower", "info", "fired", "", DAY, suppressed=True, number=18),
    ]
