"""``lakehouse bench``: the figures of docs/performance.md, each printed with the bound it was asked to hold."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from lakehouse.bench import collect, history, ingest, realtime, serve, upkeep
from lakehouse.bench.figures import BenchError, Figure
from lakehouse.settings import PROJECT, Settings

BENCHES: dict[str, Callable[[Settings], list[Figure]]] = {
    "ingest": ingest.ingest,
    "history": history.history,
    "collect": collect.collect,
    "realtime": realtime.realtime,
    "serve": serve.serve,
    "maintain": upkeep.upkeep,
}


def bench(settings: Settings, name: str) -> dict[str, Any]:
    """Run one benchmark.

    Raises:
        BenchError: there is no such benchmark, or it could not be carried out.
    """
    if name not in BENCHES:
        raise BenchError(f"{name}: no such benchmark; there is {', '.join(BENCHES)}")
    return {"machine": machine(), "commit": commit(), "figures": BENCHES[name](settings)}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(),
    }


def commit() -> str:
    """The checkout's commit."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
