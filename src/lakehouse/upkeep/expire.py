"""Retention: records that are older than their contract's ``retention`` are deleted, if ``stream.expire`` says so.

Whole batches of the ledger go, from the oldest on, each when its newest record was appended before a midnight (UTC)
that long ago. Ledger rows stay and prove what was there. A ledger row of its own says up to where each partition is
gone, and before when gold's windows stay as they are: an event may be a day ahead of its arrival, so windows of the
first day after that midnight have lost records, too.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import Any

from lakehouse.contracts import contracts
from lakehouse.flows import FLOWS, Flow
from lakehouse.runtime.fanout import SILVER_INDEX
from lakehouse.runtime.ledger import LEDGER
from lakehouse.runtime.rebuild import record
from lakehouse.runtime.recovery import before, create_tables, delete, roll_back
from lakehouse.runtime.turns import GIVES_WAY, only_writer
from lakehouse.settings import Settings
from lakehouse.silver import quarantine
from lakehouse.sinks.delta import Storage
from lakehouse.sinks.elasticsearch import ElasticsearchSink
from lakehouse.sources.lake import Cut, Lake

AHEAD = timedelta(days=1)
"""An event's time is at most so far after its arrival."""


def expire(settings: Settings, now: datetime, dry_run: bool, storage: Callable[[], Storage]) -> dict[str, Any]:
    """Delete what is past its retention, or only say what is; by topic, as plain JSON.

    The stream gives way for it, once for all topics, and only if something is to be deleted.

    Raises:
        TurnError: another process writes the tables and does not give way.
    """
    lake = Lake(settings)
    cuts = lake.cuts()
    found = {flow.topic: past(lake, flow, cuts.get(flow.topic), now) for flow in FLOWS}
    if not settings.stream.expire or dry_run:
        return {topic: _shown(one, settings.stream.expire, False) for topic, one in found.items()}
    starts = {topic: {**(cuts[topic].starts if topic in cuts else {}), **one["starts"]} for topic, one in found.items()}
    held = lake.dataset(quarantine.TABLE.name)
    # What another run died before is made up for: in quarantine, and below in the store.
    left = any(held.count_rows(filter=before(topic, at)) for topic, at in starts.items() if at)
    if left or any(one["records"] for one in found.values()):
        ready = storage()  # may start a JVM, which the stream need not wait for
        with only_writer(settings, "lakehouse maintain", GIVES_WAY):
            _delete(lake, ready, found, starts)
    if "elasticsearch" in settings.stream.stores:
        sink = ElasticsearchSink(settings)
        for flow in FLOWS:
            if starts[flow.topic] and flow.silver.name in SILVER_INDEX:
                sink.expire(SILVER_INDEX[flow.silver.name], starts[flow.topic])
    return {topic: _shown(one, True, True) for topic, one in found.items()}


def _delete(lake: Lake, storage: Storage, found: dict[str, Any], starts: dict[str, dict[int, int]]) -> None:
    writers = create_tables(storage, lake)
    progress = roll_back(lake, writers)
    for flow in FLOWS:
        if found[flow.topic]["records"]:
            gone, mine = before(flow.topic, starts[flow.topic]), progress[flow.topic]
            delete(lake, writers[flow.silver.name], gone)
            delete(lake, writers[flow.bronze.name], gone)
            sealed = found[flow.topic]["sealed"]
            mine.starts, mine.sealed = starts[flow.topic], max(sealed, mine.sealed or sealed)
            record(writers, flow, mine, {}, "expire")
            mine.seq += 1
    # Recovery puts quarantine back only by rebuilding it: so its rows go after the ledger says that they may.
    for flow in FLOWS:
        if delete(lake, writers[quarantine.TABLE.name], before(flow.topic, starts[flow.topic])):
            record(writers, flow, progress[flow.topic], {}, "expire")


def past(lake: Lake, flow: Flow, cut: Cut | None, now: datetime) -> dict[str, Any]:
    """What of a topic is past its retention: ``records``, the new ``starts`` by partition, ``sealed`` and ``until``."""
    retention = contracts()[flow.topic].retention
    until = datetime.combine((now - retention).astimezone(UTC).date(), time(), UTC)
    one: dict[str, Any] = {
        "records": 0, "starts": {}, "until": until, "sealed": until + AHEAD, "retention_days": retention.days,
    }  # fmt: skip
    if cut is None:
        return one
    rows = lake.query(
        "select partition, end_offset, records, last_at from "
        f"{LEDGER.name} where topic = ? and seq <= ? and records > 0 order by partition, seq",
        [flow.topic, cut.seq],
    ).fetchall()
    open_: set[int] = set()
    for partition, end, records, last_at in rows:
        if last_at >= until:
            open_.add(partition)
        elif partition not in open_ and end > cut.starts.get(partition, 0):
            one["starts"][partition] = end
            one["records"] += records
    return one


def _shown(one: dict[str, Any], expires: bool, deleted: bool) -> dict[str, Any]:
    return {
        "retention_days": one["retention_days"],
        "until": one["until"].isoformat().replace("+00:00", "Z"),
        "records": one["records"],
        "expires": expires,
        "deleted": deleted,
    }
