"""``bench maintain``: how much later records can be read while ``lakehouse maintain`` works beside the stream.

One load throughout, so that all figures are of one run: it is measured alone for a minute, then while maintenance
runs, then alone again to its end, as a lake under load does not stay as it is. Maintenance takes today for a day that
is over, so it moves every file that the stream has just written: more than it ever does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from lakehouse.audit import audit
from lakehouse.bench.figures import BenchError, Figure, figure, percentiles
from lakehouse.bench.ingest import RATE, WARM_SECONDS, gold_freshness, ready, settled
from lakehouse.bench.reader import Watch, row_freshness
from lakehouse.flows import FLOWS
from lakehouse.settings import PROJECT, Settings, load
from lakehouse.simulate import simulate
from lakehouse.sources.lake import Lake
from lakehouse.upkeep.maintain import maintain, step_back

ALONE_SECONDS = 60.0
LOAD_SECONDS = 300.0
"""Of the whole load; maintenance has to end within it."""


def upkeep(settings: Settings) -> list[Figure]:
    """Freshness without and with maintenance beside it, files before and after; the audit has to balance.

    Raises:
        BenchError: it could not be carried out, or the audit found problems.
    """
    settings = ready(settings)
    lake = Lake(settings)
    names = [table.name for flow in FLOWS for table in (flow.silver, *flow.gold_tables)]
    with Watch(*map(settings.table_uri, names)) as readers:
        started = time.time()
        truth = settings.home / "bench-truth.json"
        load_ = threading.Thread(target=simulate, args=(settings, int(started), RATE, LOAD_SECONDS, 0, truth))
        load_.start()
        time.sleep(WARM_SECONDS + ALONE_SECONDS)
        begun = time.time()
        done = subprocess.run(
            [sys.executable, "-m", "lakehouse.bench.upkeep"], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        ended = time.time()
        if done.returncode or not load_.is_alive():
            raise BenchError(done.stderr.strip()[-500:] or "maintenance took longer than the load")
        load_.join()
        over = time.time()
        settled(settings, 300)
        time.sleep(1)
    # Before the last line DuckDB may draw a bar, as it takes a module that is run for somebody at a prompt.
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result = audit(settings)
    if found["problems"] or not result["balanced"]:
        raise BenchError(f"problems: {[*found['problems'], *result['problems']][:3]}")
    by_name = {name: readers[settings.table_uri(name)] for name in names}
    figures, p95 = [], {}
    parts = {
        "alone": [(started + WARM_SECONDS, begun), (ended, over)],
        "beside maintenance": [(begun, ended)],
    }
    for when, spans in parts.items():
        silver = [row_freshness(by_name[f.silver.name], "timestamp", *span) for f in FLOWS for span in spans]
        gold = [gold_freshness(lake, by_name, *span) for span in spans]
        for layer, values in (("silver", np.concatenate(silver)), ("gold", np.concatenate(gold))):
            figures += percentiles(f"freshness of {layer}, {when}", values)
            p95[layer, when] = float(np.percentile(values, 95))
    for layer in ("silver", "gold"):
        ratio = p95[layer, "beside maintenance"] / p95[layer, "alone"]
        figures.append(figure(f"p95 of {layer} beside maintenance, to that alone", ratio, "x", 1.5))
    compacted = [one["files"] for one in found["tables"].values() if one.get("compacted")]
    return [
        *figures,
        figure("maintenance took", ended - begun, "s"),
        figure("files of compacted tables before", sum(files[0] for files in compacted), "files"),
        figure("files of compacted tables after", sum(files[-1] for files in compacted), "files"),
    ]


if __name__ == "__main__":
    step_back()
    print(json.dumps(maintain(load(), now=datetime.now(UTC) + timedelta(days=1))))
