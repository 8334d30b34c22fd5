"""``bench history``: does a batch take longer when ten times as much has been ingested before?"""

from __future__ import annotations

import numpy as np

from lakehouse.bench.figures import BenchError, Figure, figure
from lakehouse.bench.ingest import drain, live, ready
from lakehouse.settings import Settings
from lakehouse.sources.lake import Lake

SMALL, LARGE = 1_000_000, 10_000_000
"""User events of history."""
EVENTS_SHARE = 0.6


def history(settings: Settings) -> list[Figure]:
    """Median batch time at 1,000 records/s after one and after ten million events, and their ratio.

    Raises:
        BenchError: the lake holds over a million events already, or the platform did not catch up.
    """
    settings = ready(settings)
    lake = Lake(settings)
    if _events(lake) > SMALL:
        raise BenchError("the lake holds over a million events: start anew with `lakehouse down; lakehouse up --fresh`")
    medians = []
    for target in (SMALL, LARGE):
        drain(settings, round((target - _events(lake)) / EVENTS_SHARE))
        medians.append(float(np.median(live(settings)["batch"])))
    return [
        figure("batch time, median, after 1 million events", medians[0], "s"),
        figure("batch time, median, after 10 million events", medians[1], "s"),
        figure("ratio", medians[1] / medians[0], "x", 1.3),
    ]


def _events(lake: Lake) -> int:
    rows = lake.query("select coalesce(sum(records), 0) from ops.ledger where topic = 'user-events'").fetchall()
    return int(rows[0][0])
