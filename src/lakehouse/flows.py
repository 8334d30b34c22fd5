"""THE MAP: every flow in order, source -> transform -> table -> stores. Read this first.

It says what flows where, as data; ``runtime/`` decides how. Tests read it without Spark.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import DataFrame

from lakehouse.bronze import service_logs as _bronze_logs
from lakehouse.bronze import system_metrics as _bronze_metrics
from lakehouse.bronze import user_events as _bronze_events
from lakehouse.contracts import Contract, contracts
from lakehouse.erasure.table import ERASED
from lakehouse.gold import anomalies, forecasts, recommendations, text_insights_daily, trending_posts
from lakehouse.gold.activity_minute import ACTIVITY_MINUTE
from lakehouse.gold.aggregate import Aggregate
from lakehouse.gold.host_utilization_minute import HOST_UTILIZATION_MINUTE
from lakehouse.gold.post_engagement_daily import POST_ENGAGEMENT_DAILY
from lakehouse.gold.service_health_minute import SERVICE_HEALTH_MINUTE
from lakehouse.gold.user_activity_daily import USER_ACTIVITY_DAILY
from lakehouse.ops import access_log, promotions
from lakehouse.runtime import ledger
from lakehouse.silver import quarantine
from lakehouse.silver import service_logs as _silver_logs
from lakehouse.silver import system_metrics as _silver_metrics
from lakehouse.silver import user_events as _silver_events
from lakehouse.silver.checked import Parser
from lakehouse.tables import Table

__all__ = ["ANALYSES", "FLOWS", "LIVE", "STORES", "STREAMED", "TABLES", "Analysis", "Flow", "LiveKey", "StoreKey"]


@dataclass(frozen=True)
class Flow:
    """Everything that one topic feeds, in order."""

    topic: str
    land: Callable[[DataFrame], DataFrame]
    bronze: Table
    check: Callable[[DataFrame, Contract], DataFrame]
    parse: Parser
    silver: Table
    gold: tuple[Aggregate, ...]
    snapshots: tuple[Table, ...] = ()

    @property
    def gold_tables(self) -> tuple[Table, ...]:
        """The gold tables that this topic feeds."""
        return (*(aggregate.table for aggregate in self.gold), *self.snapshots)

    @property
    def tables(self) -> tuple[Table, ...]:
        """Every table that a batch of this topic writes, in the order of the flow; the ledger comes last."""
        return (self.bronze, self.silver, quarantine.TABLE, *self.gold_tables, ledger.CHANGES, ledger.LEDGER)


@dataclass(frozen=True)
class StoreKey:
    """A collection, key or index that one writer alone fills, and the table that it mirrors or is made from."""

    store: str
    name: str
    table: str


FLOWS: tuple[Flow, ...] = (
    Flow(
        "user-events",
        _bronze_events.user_events,
        _bronze_events.TABLE,
        _silver_events.user_events,
        Parser(contracts()["user-events"], _silver_events.SHAPE, _silver_events.row),
        _silver_events.TABLE,
        gold=(ACTIVITY_MINUTE, POST_ENGAGEMENT_DAILY, USER_ACTIVITY_DAILY),
        snapshots=(trending_posts.TABLE,),
    ),
    Flow(
        "service-logs",
        _bronze_logs.service_logs,
        _bronze_logs.TABLE,
        _silver_logs.service_logs,
        Parser(contracts()["service-logs"], _silver_logs.SHAPE, _silver_logs.row),
        _silver_logs.TABLE,
        gold=(SERVICE_HEALTH_MINUTE,),
    ),
    Flow(
        "system-metrics",
        _bronze_metrics.system_metrics,
        _bronze_metrics.TABLE,
        _silver_metrics.system_metrics,
        Parser(contracts()["system-metrics"], _silver_metrics.SHAPE, _silver_metrics.row),
        _silver_metrics.TABLE,
        gold=(HOST_UTILIZATION_MINUTE,),
    ),
)
STREAMED: dict[str, Table] = {table.name: table for flow in FLOWS for table in flow.tables}
"""Every table that topics feed, by name."""


@dataclass(frozen=True)
class Analysis:
    """What models make of tables: the table they fill, and the store that has its rows.

    ``model`` is the registered one that is trained on the sources and answers; None where none is.
    """

    sources: tuple[str, ...]
    table: Table
    stores: tuple[StoreKey, ...]
    model: str | None = None


ANALYSES: tuple[Analysis, ...] = (
    Analysis(
        ("silver.user_events",),
        recommendations.TABLE,
        (
            StoreKey("mongodb", "recommendations", recommendations.TABLE.name),
            StoreKey("redis", "features:post", _silver_events.TABLE.name),
        ),
        "recommender",
    ),
    Analysis(
        ("gold.service_health_minute", "silver.system_metrics", "silver.service_logs"),
        anomalies.TABLE,
        (StoreKey("elasticsearch", "analysis-anomalies", anomalies.TABLE.name),),
        "anomaly",
    ),
    Analysis(
        ("gold.activity_minute", "gold.service_health_minute", "gold.host_utilization_minute"),
        forecasts.TABLE,
        (StoreKey("elasticsearch", "analysis-forecasts", forecasts.TABLE.name),),
        "trend",
    ),
    Analysis(("silver.user_events", "silver.service_logs"), text_insights_daily.TABLE, ()),
)
"""What ``lakehouse score`` and ``insights`` and the stream's detector write."""
TABLES: dict[str, Table] = {
    **STREAMED,
    **{analysis.table.name: analysis.table for analysis in ANALYSES},
    promotions.TABLE.name: promotions.TABLE,
    access_log.TABLE.name: access_log.TABLE,
    ERASED.name: ERASED,
}
"""Every table, by name. Whoever moves a model's alias writes ``ops.promotions``, the API ``ops.access_log``, and
``lakehouse erase`` ``_internal.erased``."""

_SERVED_LATEST = tuple(table.name for flow in FLOWS for table in flow.gold_tables)
STORES: tuple[StoreKey, ...] = (
    StoreKey("mongodb", "post_engagement", "gold.post_engagement_daily"),
    StoreKey("mongodb", "user_activity", "gold.user_activity_daily"),
    *(StoreKey("redis", f"gold:{name.removeprefix('gold.')}:latest", name) for name in _SERVED_LATEST),
    StoreKey("elasticsearch", "logs-service", "silver.service_logs"),
    StoreKey("elasticsearch", "metrics-system", "silver.system_metrics"),
    StoreKey("elasticsearch", "service-health", "gold.service_health_minute"),
)
"""The lake's own keys in the stores; each has exactly one writer, the fan-out."""


@dataclass(frozen=True)
class LiveKey:
    """A collection, key or index that is filled beside the lake, and the topics that it is made from."""

    store: str
    name: str
    topics: tuple[str, ...]
    writer: str = "realtime"
    model: str | None = None


LIVE: tuple[LiveKey, ...] = (
    LiveKey("mongodb", "user_profiles", ("user-events",)),
    LiveKey("mongodb", "notifications", tuple(flow.topic for flow in FLOWS)),
    LiveKey("redis", "live:site", ("user-events",)),
    LiveKey("redis", "live:user", ("user-events",)),
    LiveKey("redis", "live:service", ("service-logs",)),
    LiveKey("redis", "live:host", ("system-metrics",)),
    LiveKey("redis", "live:notifications", tuple(flow.topic for flow in FLOWS)),
    LiveKey("redis", "trending:posts", ("user-events",)),
    LiveKey("redis", "features:user", ("user-events",)),
    LiveKey("redis", "recs", ("user-events",), model="recommender"),
    LiveKey("elasticsearch", "logs-live", (), writer="collect"),
)
"""What the real-time processor (``realtime/topology.py``) and the collector write; names without ``:<id>``."""

INGEST = "ingest"
"""The query that writes all tables; the engine ``separate`` has one of each topic, ``ingest-<topic>``."""
SHARED = (quarantine.TABLE, ledger.CHANGES, ledger.LEDGER)
"""The tables that every topic writes, in the order of their writing."""


def effects(engine: str = "fused") -> tuple[str, ...]:
    """Every effect that the stream has, ``<query>:<effect>``, in the order of the flows; what kill tests go through."""
    tables = [(flow.topic, table) for flow in FLOWS for table in flow.tables]
    if engine == "fused":  # one commit of all topics to each table that they share
        tables = [pair for pair in tables if pair[1] not in SHARED] + [(INGEST, table) for table in SHARED]
    # Redis is told which table changed, the other stores which rows.
    keys = [f"{key.store}:{key.table if key.store == 'redis' else key.name}" for key in STORES]
    progress = [f"{store}:progress" for store in dict.fromkeys(key.store for key in STORES)]
    return (*(f"{query}:{table.name}" for query, table in tables), *keys, *progress)
