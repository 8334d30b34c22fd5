"""``bench ingest``: drain rate, freshness at 1,000 records/s, and the same of plain Spark with MERGE.

Everything runs on this machine, stores and compaction too. Freshness is the time from a record's Kafka append to the
moment at which an independent reader finds the version that holds it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakehouse import stack
from lakehouse.bench.figures import BenchError, Figure, figure, percentiles
from lakehouse.bench.reader import Reader, Watch, aggregate_freshness, row_freshness, seconds
from lakehouse.flows import FLOWS
from lakehouse.inspect import wait
from lakehouse.running import up
from lakehouse.settings import PROJECT, Settings, load
from lakehouse.simulate import simulate
from lakehouse.sources.lake import Lake
from lakehouse.sources.topics import Transport, producer

DRAIN_RECORDS = 2_000_000
"""Of all topics; six tenths are user events, which alone are sent."""
RATE = 1000.0
WARM_SECONDS = 30.0
LIVE_SECONDS = 60.0
EVENTS = "user-events"


def ingest(settings: Settings) -> list[Figure]:
    """Drain rate of user events, freshness of every layer, and the baseline's.

    Raises:
        BenchError: it could not be carried out.
    """
    settings = ready(settings)
    rate = drain(settings, DRAIN_RECORDS)
    ours = live(settings)
    stack.remove_program(settings, "stream")
    theirs = baseline(settings)
    up(settings)
    return [
        figure("drain of user events", rate, "records/s", 30_000, least=True),
        *percentiles("freshness of silver", ours["silver"], 1.5),
        *percentiles("freshness of gold, all tables", ours["gold"], 3.0),
        figure("batch time, median", float(np.median(ours["batch"])), "s"),
        *percentiles("chained queries with MERGE, freshness of silver", theirs["silver"]),
        *percentiles("chained queries with MERGE, freshness of gold", theirs["gold"]),
        *(
            figure(
                f"times fresher than chained queries with MERGE, p95 of {layer}",
                float(np.percentile(theirs[layer], 95) / np.percentile(ours[layer], 95)),
                "x",
                3.0,
                least=True,
            )
            for layer in ("silver", "gold")
        ),
    ]


def ready(settings: Settings) -> Settings:
    """Bring everything up, and return once nothing waits, with the servers' addresses.

    Raises:
        BenchError: something still waits after a quarter of an hour.
    """
    up(settings)
    settings = load()
    settled(settings, 900)
    return settings


def settled(settings: Settings, timeout: float) -> None:
    """Return when all that is in Kafka is in the tables and stores.

    Raises:
        BenchError: it is not, after ``timeout`` seconds.
    """
    missing = wait(settings, timeout)
    if missing:
        raise BenchError(f"the platform did not catch up within {timeout:.0f} s: {missing[0]}")


class EventsOnly:
    """A transport that drops what is not a user event."""

    def __init__(self, transport: Transport):
        self.transport = transport
        self.poll, self.flush = transport.poll, transport.flush

    def produce(
        self, topic: str, *, value: bytes | None, key: bytes | None, on_delivery: Callable[[Any, Any], None]
    ) -> None:
        """Queue a user event; of anything else say that it was delivered."""
        if topic == EVENTS:
            self.transport.produce(topic, value=value, key=key, on_delivery=on_delivery)
        else:
            on_delivery(None, None)


def drain(settings: Settings, records: int) -> float:
    """Stop the stream, send a day of user events, start it again, and wait for the stores: records a second.

    The time is from the beginning of the first batch that holds some to the end of the last, by the ledger.
    """
    lake = Lake(settings)
    stack.remove_program(settings, "stream")
    before = lake.cuts()[EVENTS].seq if EVENTS in lake.cuts() else 0
    simulate(
        settings, int(time.time()), RATE, 0, 1, settings.home / "bench-truth.json",
        history_records=records, transport=EventsOnly(producer(settings)),
    )  # fmt: skip
    up(settings)
    settled(settings, 1800)
    rows = lake.query(
        "select sum(records), min(epoch(committed_at) - batch_ms / 1000), max(epoch(committed_at)) from ops.ledger "
        "where topic = ? and seq > ? and records > 0",
        [EVENTS, before],
    ).fetchall()
    count, start, end = rows[0]
    return float(count / (end - start))


def live(settings: Settings) -> dict[str, NDArray[np.float64]]:
    """Seconds at 1,000 records/s: ``silver`` and ``gold`` freshness of every record, ``batch`` times."""
    lake = Lake(settings)
    names = [table.name for flow in FLOWS for table in (flow.silver, *flow.gold_tables)]
    with Watch(*map(settings.table_uri, names)) as readers:
        start, end = _load(settings)
        settled(settings, 300)
        time.sleep(1)
    by_name = {name: readers[settings.table_uri(name)] for name in names}
    return {
        "silver": np.concatenate([row_freshness(by_name[f.silver.name], "timestamp", start, end) for f in FLOWS]),
        "gold": gold_freshness(lake, by_name, start, end),
        "batch": batch_times(lake, start, end),
    }


def _load(settings: Settings) -> tuple[float, float]:
    """The simulated service at 1,000 records/s: from when to when its records are measured."""
    started = time.time()
    simulate(settings, int(started), RATE, WARM_SECONDS + LIVE_SECONDS, 0, settings.home / "bench-truth.json")
    return started + WARM_SECONDS, time.time()


def batch_times(lake: Lake, start: float, end: float) -> NDArray[np.float64]:
    """Seconds of each batch of the ledger that was committed between two times."""
    rows = lake.query(
        "select max(batch_ms) / 1000 from ops.ledger where records > 0 and committed_at between ? and ? "
        "group by topic, seq",
        [datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC)],
    ).fetchall()
    return np.array([row[0] for row in rows])


def gold_freshness(lake: Lake, readers: dict[str, Reader], start: float, end: float) -> NDArray[np.float64]:
    """Of every record appended between two times: seconds until all gold tables of its topic held it.

    The ledger says which version of each table a batch left.
    """
    batches = lake.query(
        "select topic, partition, start_offset, end_offset, versions from ops.ledger where records > 0 "
        "and committed_at >= ?",
        [datetime.fromtimestamp(start - 60, UTC)],
    ).fetchall()
    out = []
    for flow in FLOWS:
        rows = lake.query(
            f'select partition, "offset", timestamp from {flow.bronze.name} where timestamp between ? and ?',
            [datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC)],
        ).to_arrow_table()
        assert rows is not None
        partitions, offsets = rows.column("partition").to_numpy(), rows.column("offset").to_numpy()
        appended = seconds(rows.column("timestamp"))
        for topic, partition, low, high, versions in batches:
            if topic == flow.topic:
                seen = [readers[table.name].visible(dict(versions)[table.name]) for table in flow.gold_tables]
                times = [at for at in seen if at is not None]
                if len(times) == len(seen):
                    out.append(max(times) - appended[(partitions == partition) & (offsets >= low) & (offsets < high)])
    return np.concatenate(out) if out else np.empty(0)


def baseline(settings: Settings) -> dict[str, NDArray[np.float64]]:
    """Freshness of user events by tuned chained queries, gold by MERGE (``bench/merge_chain.py``), at the same load."""
    root = f"{settings.root}/_bench/{int(time.time())}"
    with _chain(root) as running, Watch(f"{root}/silver", f"{root}/gold") as readers:
        start, end = _load(settings)
        time.sleep(30)
        if running.poll() is not None:
            raise BenchError("the baseline's queries ended; its output says why")
    silver, gold = readers[f"{root}/silver"], readers[f"{root}/gold"]
    appended = np.concatenate([times for _, times in silver.brought("timestamp")])
    return {
        "silver": row_freshness(silver, "timestamp", start, end),
        "gold": aggregate_freshness(gold, gold.totals("events"), appended, start, end),
    }


@contextmanager
def _chain(root: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "lakehouse.bench.merge_chain", root]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "running":
            raise BenchError("the baseline did not start; its output says why")
        yield process
    finally:
        process.terminate()
        process.wait(60)
