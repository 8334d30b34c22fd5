"""The anomaly model as training, gate and registry know it: charts' limits, and the templates of logs.

What is unusual has no labels, so it is measured on trouble that is planted into the held-out time of the real series.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.predict.chart import Chart
from lakehouse.predict.templates import Miner
from lakehouse.predict.watch import MEASURES, MINUTE_S, Version, Watched, watch
from lakehouse.runtime.detect import hosts, service_minutes
from lakehouse.settings import Settings
from lakehouse.sources.analysis import read_table
from models import drift
from models.agreement import kappa
from models.gate import Bounds
from models.trained import Arrays, Measured, ModelError, Trained

SPAN = timedelta(days=7)
"""History that is learnt from."""
HELD_SHARE = 0.3
"""The held-out time is the last part of it."""
SUBJECTS = 50
"""Services and hosts that are measured on, any."""
MINUTES = 90
"""Minutes that a subject must have to be measured on."""
PLANTED = 0.02
"""Times of trouble a minute, planted: far more than there are, so that few minutes of history tell much."""
A_DAY = 1.0
"""Times of trouble that a service or host has in a day, which precision is reckoned at (as the simulated service's)."""
LENGTH, SIZE = (5, 15), (4.0, 12.0)
"""Minutes that it lasts; how far it is off, in standard deviations of the measure's minutes."""
FOUND_WITHIN = 3
DEVIATES = (5.0, 6.0, 7.0)
"""Limits that are tried."""
LINES = 200_000
"""Log lines that templates are mined from, the newest."""
FEATURES = {"level": "log.level", "service": "service.name"}

Minutes = pd.DataFrame
"""A subject's minutes: index minute since 1970, a column a measure."""


@dataclass(frozen=True)
class Held:
    """Services and hosts with trouble planted in them: the minutes, and where it is (first minute, last minute)."""

    minutes: dict[str, Minutes]
    since: dict[str, int]
    trouble: dict[str, list[tuple[int, int]]]


class Anomaly:
    """Charts (``predict/chart.py``) and templates (``predict/templates.py``)."""

    bounds = Bounds(
        p99_ms=10, max_age=timedelta(days=30), signature=(("time", "values"), ("score", "expected", "model_version"))
    )

    def train(self, spark: Any, settings: Settings, versions: Mapping[str, int], now: datetime) -> Trained:
        """Choose the charts' limit on trouble planted before the held-out time; mine templates of the same time."""
        whole = _minutes(spark, settings, versions)
        cut = _cut(whole)
        before = {name: minutes[minutes.index < cut] for name, minutes in whole.items()}
        planted = plant({name: minutes for name, minutes in before.items() if len(minutes) >= MINUTES}, seed=1)
        worth = {deviate: self.measure(Version({"limits": {"deviate": deviate}}), planted) for deviate in DEVIATES}
        best = max(DEVIATES, key=lambda deviate: worth[deviate].value)
        logs = read_table(spark, settings, "silver.service_logs", versions.get("silver.service_logs")).where(
            (F.unix_seconds("time") < cut * MINUTE_S) & F.col("message").isNotNull()
        )
        miner = Miner()
        newest = logs.select("time", "message").orderBy(F.desc("time")).limit(LINES).toPandas()
        for line in newest["message"][::-1]:
            miner.add(line)
        manifest = {"limits": {"deviate": best}, "templates": miner.state()}
        inputs = pd.DataFrame({"time": [0.0, 60.0], "values": [[1.0, 2.0], [1.0, 2.0]]})
        outputs = self.call(Version({**manifest, "version": "candidate"}), inputs)
        return Trained(
            "anomaly", manifest, {}, {"deviate": best, "templates": len(miner.templates()), "lines": len(newest)},
            dict(versions), datetime.fromtimestamp(cut * MINUTE_S, UTC), inputs, outputs,
            drift.reference(logs, FEATURES), words=__doc__.strip(),
        )  # fmt: skip

    def hold_out(self, spark: Any, settings: Settings, versions: Mapping[str, int], now: datetime) -> Held:
        """All minutes, with trouble planted in the held-out ones."""
        whole = _minutes(spark, settings, versions)
        cut = _cut(whole)
        return plant({name: minutes for name, minutes in whole.items() if len(minutes) >= MINUTES}, seed=2, since=cut)

    def answers(self, manifest: dict[str, Any], arrays: Arrays) -> Version:
        """What the stream goes by."""
        return Version(manifest, arrays)

    def call(self, model: Version, inputs: pd.DataFrame) -> pd.DataFrame:
        """The minutes of one service or host, oldest first: ``time`` in seconds, ``values`` one a measure."""
        chart = Chart(len(inputs["values"].iloc[0]), model.limits)
        seen = [chart.step(at, values) for at, values in zip(inputs["time"], inputs["values"], strict=True)]
        return pd.DataFrame(
            {
                "score": [one.score for one in seen],
                "expected": [np.nan_to_num(one.expected).tolist() for one in seen],
                "model_version": model.version,
            }
        )

    def measure(self, model: Version, held: Held) -> Measured:
        """F1 of planted trouble found within three minutes, and of alarms at :data:`A_DAY` times of trouble a day."""
        return _measured(held, *_alarms(model, held))

    def baseline(self, held: Held) -> Measured:
        """Three standard deviations of the hour before, the usual threshold of a dashboard."""
        found: dict[str, set[int]] = {}
        for name, minutes in held.minutes.items():
            found[name] = set()
            for measure in minutes:
                known = minutes[measure].dropna()
                past = known.shift(1).rolling(60, min_periods=30)
                found[name] |= set(known.index[(known - past.mean()).abs() > 3 * past.std()].tolist())
        return _measured(held, found, [0.0])

    def agreement(self, model: Version, other: Version, held: Held) -> dict[str, float]:
        """Of the held-out minutes, the share with the same verdict, and Cohen's kappa."""
        (found, _), (others, _) = _alarms(model, held), _alarms(other, held)
        cases = {(name, at) for name, frame in held.minutes.items() for at in frame.index if at >= held.since[name]}
        first, second = (
            cases & {(name, at) for name, alarms in each.items() for at in alarms} for each in (found, others)
        )
        return {
            "same_verdict": 1 - len(first ^ second) / len(cases),
            "kappa": kappa(len(first & second), len(first), len(second), len(cases)),
        }

    def drift(self, reference: Mapping[str, Any], spark: Any, settings: Settings, now: datetime) -> dict[str, float]:
        """Of the log's levels and services."""
        logs = read_table(spark, settings, "silver.service_logs")
        last = logs.agg(F.max("time")).first()
        if last is None or last[0] is None:
            return {}
        return drift.stability(reference, logs.where(F.col("time") >= F.lit(last[0] - timedelta(days=1))), FEATURES)


def plant(minutes: dict[str, Minutes], seed: int, since: int = 0) -> Held:
    """Trouble at random times from ``since`` on: a measure of a subject that is off for some minutes, and comes back.

    Raises:
        ModelError: no service or host has minutes enough.
    """
    rng = np.random.default_rng(seed)
    made, trouble = {}, {}
    for name in sorted(minutes):
        frame = minutes[name].copy()
        first = max(int(np.searchsorted(frame.index, since)), 45)  # charts warm up
        where: list[tuple[int, int]] = []
        at = first + int(rng.exponential(1 / PLANTED))
        while at + LENGTH[1] < len(frame):
            place, length = int(rng.integers(len(frame.columns))), int(rng.integers(*LENGTH))
            column = frame.iloc[:, place]
            while at < len(frame) and not np.isfinite(column.iloc[at]):
                at += 1  # it begins where the measure has a value: what nobody measured, nobody can find
            spread = 1.4826 * float((column - column.rolling(60, min_periods=10).median()).abs().median())
            if np.isfinite(spread) and at + length <= len(frame):
                rows = slice(at, at + length)
                off = rng.uniform(*SIZE) * max(spread, 1e-3 * abs(float(column.median())))
                frame.iloc[rows, place] = frame.iloc[rows, place] + off
                where.append((int(frame.index[at]), int(frame.index[at + length - 1])))
            at += length + 10 + int(rng.exponential(1 / PLANTED))
        if where:
            made[name], trouble[name] = frame, where
    if not made:
        raise ModelError(
            f"no service or host has {MINUTES} minutes in gold: let the platform run, or `lakehouse simulate`"
        )
    starts = {name: max(since, int(frame.index[min(45, len(frame) - 1)])) for name, frame in made.items()}
    return Held(made, starts, trouble)


def _alarms(model: Version, held: Held) -> tuple[dict[str, set[int]], list[float]]:
    """The minutes of each subject with an alarm, and how long each minute took."""
    found, took = {}, []
    for name, minutes in held.minutes.items():
        watched = watch(name)
        assert isinstance(watched, Watched)
        alarms: set[int] = set()
        for minute, values in zip(minutes.index.tolist(), minutes.to_numpy(), strict=True):
            records = [
                (measure, minute, 0, float(value))
                for measure, value in zip(minutes.columns, values, strict=True)
                if np.isfinite(value)
            ]
            began = time.thread_time()
            alarms |= {alarm.minute for alarm in watched.fold(records, model)}
            took.append(time.thread_time() - began)
        found[name] = alarms
    return found, took


def _measured(held: Held, found: Mapping[str, set[int]], took: list[float]) -> Measured:
    counts: dict[str, list[float]] = {}
    for name, windows in held.trouble.items():
        # By the number of the minute among those that the subject has: a host that reports every third has others.
        number = {minute: place for place, minute in enumerate(held.minutes[name].index.tolist())}
        spans = [(number[first], number[last]) for first, last in windows]
        alarms = sorted(number[minute] for minute in found[name] if minute >= held.since[name])
        begun = [at for place, at in enumerate(alarms) if not place or at - alarms[place - 1] > 5]
        false = sum(not any(first <= at <= last + 5 for first, last in spans) for at in begun)
        hit = sum(any(first <= at < first + FOUND_WITHIN for at in alarms) for first, _ in spans)
        days = (int(held.minutes[name].index[-1]) + 1 - held.since[name]) / (24 * 60)
        tally = counts.setdefault(f"{name.partition('/')[0]}s", [0, 0, 0, 0])
        for place, count in enumerate((hit, len(windows), false, days)):
            tally[place] += count
    precision, recall, value = _f1([sum(column) for column in zip(*counts.values(), strict=True)])
    slices = {name: (_f1(tally)[2], int(tally[1])) for name, tally in counts.items()}
    return Measured(
        "f1", value, slices, float(np.quantile(took, 0.99)) * 1000, {"precision": precision, "recall": recall}
    )


def _f1(tally: Sequence[float]) -> tuple[float, float, float]:
    hit, planted, false, days = tally
    recall = hit / max(planted, 1)
    right = recall * A_DAY
    precision = right / max(right + false / days, 1e-12)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def _minutes(spark: Any, settings: Settings, versions: Mapping[str, int]) -> dict[str, Minutes]:
    """The minutes of services and hosts, by subject."""
    frame = minutes(
        *(
            read_table(spark, settings, name, versions.get(name))
            for name in ("gold.service_health_minute", "silver.system_metrics")
        )
    )
    last = frame.agg(F.max("minute")).first()
    if last is None or last[0] is None:
        raise ModelError("there are no minutes of services or hosts yet: let the platform run, or `lakehouse simulate`")
    recent = frame.where(F.col("minute") > last[0] - SPAN // timedelta(minutes=1))
    chosen = recent.select("subject").distinct().orderBy(F.xxhash64("subject")).limit(SUBJECTS)
    found = {}
    for name, part in recent.join(chosen, "subject").toPandas().groupby("subject"):
        measures = list(MEASURES[str(name).partition("/")[0]])
        table = part.pivot_table(index="minute", columns="measure", values="value", aggfunc="last")
        found[str(name)] = table.reindex(columns=measures).sort_index()
    return found


def minutes(service_health: DataFrame, system_metrics: DataFrame) -> DataFrame:
    """gold.service_health_minute and silver.system_metrics -> (subject, measure, minute, value), as what is watched
    knows them."""
    means = hosts(system_metrics).groupBy("subject", "measure", "minute").agg(F.avg("value").alias("value"))
    return service_minutes(service_health).unionByName(means)


def _cut(whole: Mapping[str, Minutes]) -> int:
    first = min(int(frame.index[0]) for frame in whole.values())
    last = max(int(frame.index[-1]) for frame in whole.values())
    return last - int(HELD_SHARE * (last - first))


KIND = Anomaly()
