"""``lakehouse bench``: the figures of docs/performance.md, each printed with the bound it was asked to hold.

``ingest`` measures the running platform from outside: an independent reader follows the tables with delta-rs while the
simulated service sends 600 events, 300 logs and 100 metrics a second; freshness is the time from a record's Kafka
append to the moment when a reader sees the version that holds it. Before that, a prefilled topic is drained.
"""

from __future__ import annotations

import platform
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.flows import FLOWS
from lakehouse.inspect import wait
from lakehouse.running import up
from lakehouse.settings import PROJECT, Settings, load
from lakehouse.simulate import simulate
from lakehouse.sources.lake import Lake

DRAIN_RECORDS = 400_000
LIVE_SECONDS = 60.0
WARM_SECONDS = 20.0


class BenchError(Exception):
    """A benchmark could not be carried out; the message says why."""


@dataclass
class Watcher:
    """Polls tables for new versions, and notes when each was first seen."""

    lake: Lake
    names: tuple[str, ...]
    seen: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Poll until ``stopping`` is set."""
        handles = {name: self.lake.table(name) for name in self.names}
        self.seen = {name: [(handle.version(), time.time())] for name, handle in handles.items()}
        while not self.stopping.wait(0.02):
            for name, handle in handles.items():
                handle.update_incremental()
                if handle.version() != self.seen[name][-1][0]:
                    self.seen[name].append((handle.version(), time.time()))


def bench(settings: Settings, name: str) -> dict[str, Any]:
    """Run one benchmark.

    Raises:
        BenchError: there is no such benchmark, or it could not be carried out.
    """
    benches: dict[str, Callable[[Settings], list[dict[str, Any]]]] = {"ingest": ingest}
    if name not in benches:
        raise BenchError(f"{name}: no such benchmark; there is {', '.join(benches)}")
    return {"machine": machine(), "commit": commit(), "figures": benches[name](settings)}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(),
    }


def commit() -> str:
    """The checkout's commit."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def figure(name: str, value: float, unit: str, bound: float | None = None, least: bool = False) -> dict[str, Any]:
    """One figure; ``least``: the bound is a minimum."""
    met = None if bound is None else (value >= bound if least else value <= bound)
    return {"name": name, "value": round(value, 3), "unit": unit, "bound": bound, "met": met}


def ingest(settings: Settings) -> list[dict[str, Any]]:
    """Drain rate, then freshness of silver and gold at 1,000 records/s, with everything running on this machine."""
    up(settings)
    settings = load()
    lake = Lake(settings)
    truth = settings.home / "bench-truth.json"
    seed = int(time.time())
    cuts = lake.cuts()
    before = {topic: cut.seq for topic, cut in cuts.items()}
    started = time.time()
    sent = simulate(settings, seed, 1000, 0, 1, truth, history_records=DRAIN_RECORDS)
    missing = wait(settings, 900)
    if missing:
        raise BenchError(f"the drain did not end: {missing[0]}")
    drained = _drained(lake, before, started)
    watcher = Watcher(lake, tuple(table.name for flow in FLOWS for table in (flow.silver, flow.gold[0].table)))
    thread = threading.Thread(target=watcher.run, daemon=True)
    thread.start()
    live = time.time()
    simulate(settings, seed + 1, 1000, WARM_SECONDS + LIVE_SECONDS, 0, truth)
    end = time.time()
    wait(settings, 120)
    watcher.stopping.set()
    thread.join()
    figures = [figure("drain, all topics", sent["acknowledged"] / drained, "records/s", 30_000, least=True)]
    fresh = _freshness(lake, watcher, live + WARM_SECONDS, end)
    for layer, bound in (("silver", 1.5), ("gold", 3.0)):
        values = fresh[layer]
        figures.append(figure(f"freshness p50, {layer}", float(np.percentile(values, 50)), "s"))
        figures.append(figure(f"freshness p95, {layer}", float(np.percentile(values, 95)), "s", bound))
    took = lake.query(
        "select median(ms) from (select topic, seq, max(batch_ms) as ms from ops.ledger where committed_at >= ? "
        "group by all)",
        [_at(live + WARM_SECONDS)],
    ).fetchall()[0][0]
    figures.append(figure("batch time, median", took / 1000, "s"))
    return figures


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _drained(lake: Lake, before: dict[str, int], started: float) -> float:
    """Seconds from the first record's sending to the commit of the last batch that held records sent since."""
    last = lake.query(
        "select max(committed_at + to_milliseconds(batch_ms)) from ops.ledger where records > 0 and committed_at >= ?",
        [_at(started)],
    ).fetchall()[0][0]
    return float(last.timestamp()) - started


def _freshness(lake: Lake, watcher: Watcher, start: float, end: float) -> dict[str, Any]:
    """Seconds from append to visible, for every record appended between two times, by layer.

    A record of batch ``seq`` is visible once a reader has seen the table's version that the ledger names for the batch.
    """
    rows = lake.query(
        "select topic, seq, partition, start_offset, end_offset, versions from ops.ledger where records > 0 "
        "and committed_at >= ?",
        [_at(start - 60)],
    ).fetchall()
    out: dict[str, list[Any]] = {"silver": [], "gold": []}
    for flow in FLOWS:
        bronze = lake.dataset(flow.bronze.name)
        after = pc.field("timestamp") >= _scalar(bronze, start)
        table = bronze.to_table(
            columns=["partition", "offset", "timestamp"], filter=after & (pc.field("timestamp") <= _scalar(bronze, end))
        )
        partitions, offsets = table.column("partition").to_numpy(), table.column("offset").to_numpy()
        appended = table.column("timestamp").cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() / 1e6
        for topic, _, partition, low, high, versions in rows:
            if topic != flow.topic:
                continue
            mine = (partitions == partition) & (offsets >= low) & (offsets < high)
            if not mine.any():
                continue
            for layer, name in (("silver", flow.silver.name), ("gold", flow.gold[0].name)):
                wanted = dict(versions).get(name)
                visible = next(
                    (at for version, at in watcher.seen[name] if wanted is not None and version >= wanted), None
                )
                if visible is not None:
                    out[layer].append(visible - appended[mine])
    return {layer: np.concatenate(parts) if parts else np.array([np.inf]) for layer, parts in out.items()}


def _scalar(data: Any, seconds: float) -> Any:
    return pa.scalar(_at(seconds), pa.timestamp("us", "UTC")).cast(data.schema.field("timestamp").type)
