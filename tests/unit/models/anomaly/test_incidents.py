"""The charts find the simulation's incidents, from minutes as gold has them."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime

import numpy as np
import orjson
import pytest

from lakehouse.predict.chart import THRESHOLD, Chart
from lakehouse.simulate import MINUTE, SECOND, Simulation, live_times, plan_incidents

START = int(datetime(2024, 5, 10, 12, tzinfo=UTC).timestamp()) * SECOND
QUIET, TROUBLED, RATE = 45, 180, 200  # minutes, minutes, records a second
Minutes = dict[int, dict[str, list[float]]]


def minutes(world: Simulation) -> dict[str, Minutes]:
    """Samples by service or host, minute and metric."""
    found: dict[str, Minutes] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for times in live_times(START, RATE, 60 * (QUIET + TROUBLED)):
        for topic, _, value, kind in world.block(times):
            if topic == "user-events" or kind != "valid" or not value:
                continue
            record = orjson.loads(value)
            moment = int(np.datetime64(record["@timestamp"].removesuffix("Z"), "us").astype(np.int64)) // MINUTE
            if "http" in record:
                minute = found[record["service"]["name"]][moment]
                minute["errors"].append(record["http"]["response"]["status_code"] >= 500)
                minute["ms"].append(record["event"]["duration"] / 1e6)
            elif "system" in record:
                minute, system = found[record["host"]["name"]][moment], record["system"]
                if "cpu" in system:
                    minute["cpu"].append(system["cpu"]["total"]["norm"]["pct"])
                elif "memory" in system:
                    minute["memory"].append(system["memory"]["actual"]["used"]["pct"])
                elif system.get("filesystem", {}).get("mount_point") == "/":
                    minute["disk"].append(system["filesystem"]["used"]["pct"])
    return found


def alarms(series: Minutes) -> list[int]:
    """The minutes of the alarms of one service or host, whose metrics are observed together."""
    metrics = sorted({metric for minute in series.values() for metric in minute})
    chart, found = Chart(len(metrics)), []
    for moment in sorted(series):
        samples = [(metric, series[moment].get(metric) or [np.nan]) for metric in metrics]
        values = [float(np.quantile(x, 0.95) if metric == "ms" else np.mean(x)) for metric, x in samples]
        if chart.step(60.0 * moment, values).score >= THRESHOLD:
            found.append(moment)
    return found


@pytest.mark.long
def test_incidents_are_found_within_three_minutes_and_little_else_is() -> None:
    world = Simulation(5, "run", share_duplicates=0.01, share_late=0.01, share_broken=0.005)
    begin, end = START + QUIET * MINUTE, START + (QUIET + TROUBLED) * MINUTE
    world.incidents = plan_incidents(world.rng, begin, end, 9)
    true: dict[str, set[tuple[float, float, bool]]] = defaultdict(set)
    for trouble in world.incidents:
        if trouble.kind != "load_peak":
            where = str(trouble.service or trouble.host)
            true[where].add((trouble.start / MINUTE, trouble.end / MINUTE, trouble.ramp))
    right = wrong = in_time = 0
    for where, series in minutes(world).items():
        found = alarms(series)
        first = [m for m in found if m - 5 not in found and not {m - 1, m - 2, m - 3, m - 4} & set(found)]
        hits = [any(m + 1 > since and m < until + 3 for since, until, _ in true[where]) for m in first]
        right, wrong = right + sum(hits), wrong + len(hits) - sum(hits)
        for since, until, ramp in true[where]:  # what grows slowly has until its end
            in_time += any(since < m + 1 and m < (until if ramp else since + 3) for m in found)
    assert right / (right + wrong) >= 0.9
    assert in_time / sum(map(len, true.values())) >= 0.9
