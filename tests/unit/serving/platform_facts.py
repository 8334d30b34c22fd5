"""Facts of a platform as the API has them, one of each kind that ``/metrics`` shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prometheus_client.core import Metric

from serving import facts
from serving.metrics import Metrics, Source

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
STATUS: dict[str, Any] = {
    "at": AT,
    "topics": {
        "user-events": {"lag_records": 7, "lag_seconds": 1.5, "seq": 40, "last_cut_at": AT, "cut_age_s": 2.0},
        "service-logs": {
            "lag_records": None,
            "lag_seconds": None,
            "error": "no broker",
            "seq": None,
            "cut_age_s": None,
        },
    },
    "tables": [],
    "stores": {
        "mongodb": {"reachable": True, "behind_batches": {"user-events": 2, "service-logs": 0}},
        "redis": {"reachable": False, "error": "redis does not answer"},
    },
    "batches": [{"topic": "user-events", "seq": n, "batch_ms": 100 * n, "committed_at": AT} for n in range(1, 11)],
    "totals": [{"topic": "user-events", "records": 100, "valid": 90, "quarantined": 6, "duplicates": 4}],
}
SAID = {
    "realtime-1": {
        "at": AT.timestamp(),
        "tasks": {"users": {"partitions": [0, 1], "waiting": 3, "late": 5, "duplicates": 2}},
    },
    "gone": {"at": AT.timestamp() - 100, "tasks": {"users": {"partitions": [], "waiting": 9}}},
}
MODELS: list[dict[str, Any]] = [
    {"name": "trend", "version": "3", "published_at": "2026-01-30T12:00:00Z", "age_s": 1},
    {"name": "anomaly", "version": None, "published_at": None, "age_s": None},
]
DECISIONS = [{"model": "trend", "action": "promoted", "decisions": 3, "at": "2026-01-30T12:00:00Z"}]
PROGRAMS: dict[str, dict[str, Any]] = {
    "stream": {"state": "RUNNING", "pid": 1, "rss_mb": 2000.0, "restarts": 2, "exit_status": None, "log": ""},
    "serve": {"state": "EXITED", "pid": None, "rss_mb": None, "restarts": 0, "exit_status": 1, "log": ""},
}


@dataclass(frozen=True)
class Version:
    name: str = "gold.activity_minute"
    version: int = 4
    at: datetime = AT


def everything() -> list[Metric]:
    return [
        *facts.pipeline(STATUS),
        *facts.servers({"kafka": True, "hdfs": False}),
        *facts.stream({"started_at": "2026-01-31T11:00:00.000Z", "restarts": 3}),
        *facts.programs(PROGRAMS),
        *facts.processors(SAID, AT.timestamp() + 1),
        *facts.models(MODELS, DECISIONS),
        *facts.tables([Version()]),
        *facts.cache(3, 1),
        *facts.streams(2, {"opened": 9, "end:slow": 1, "event:alert": 5}),
        *facts.access_log(2048),
    ]


def source(name: str, ask: Callable[[], Iterable[Metric]], fresh_s: float = 5.0) -> Source:
    async def asked() -> Iterable[Metric]:
        return ask()

    return Source(name, asked, fresh_s)


def metrics() -> Metrics:
    """With all of it, and a request."""
    made = Metrics([source("all", everything)])
    made.begun()
    made.answered("/v1/services", "GET", 200, 0.004)
    return made
