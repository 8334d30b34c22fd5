"""The trend model as training, gate and registry know it: a global forecaster, mixed with local ones."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from lakehouse.predict.forecast import Forecast, Forecaster, forecast
from lakehouse.settings import Settings
from lakehouse.sources.analysis import read_table
from models import drift
from models.gate import Bounds
from models.trained import Arrays, Measured, ModelError, Trained
from models.trend import forecast as training
from models.trend.series import HORIZON, STEP, Series, series, steps

ORIGINS = 3
"""Horizons, one after the other, that are held out and foretold."""
LEAST = 24
"""Steps that must lie before the held-out ones."""
FEATURES = {"kind": "split(series, '/')[0]"}


@dataclass(frozen=True)
class Held:
    """Series with their last ORIGINS horizons held out."""

    series: list[Series]
    horizon: int


class Local:
    """What answers where the series are too short for a global forecaster to be trained: the local ones alone."""

    def __init__(self, version: str) -> None:
        self.version, self.horizon = version, HORIZON

    def forecast(self, values: list[NDArray[np.float64]], horizon: int | None = None, **more: Any) -> Forecast:
        """As :meth:`lakehouse.predict.forecast.Forecaster.forecast`."""
        return forecast(values, horizon or self.horizon, **more)


class Trend:
    """Forecasts of activity, services and hosts."""

    bounds = Bounds(
        p99_ms=250, max_age=timedelta(days=7),
        signature=(("series", "horizon"), ("mean", "lo", "hi", "model_version")),
    )  # fmt: skip

    def train(self, spark: Any, settings: Settings, versions: Mapping[str, int], now: datetime) -> Trained:
        """Fit on all series without their held-out ends."""
        known = read(spark, settings, versions)
        held = _held(known)
        before = [one.values[: -ORIGINS * held.horizon] for one in held.series]
        fitted = training.fit(before, held.horizon)
        manifest, arrays = fitted or ({"kind": "local"}, {})
        last = max(one.at(len(one.values) - ORIGINS * held.horizon) for one in held.series)
        model = self.answers({**manifest, "version": "candidate"}, arrays)
        inputs = pd.DataFrame({"series": [before[0][-3 * HORIZON :].tolist()], "horizon": [12]})
        frame = _frame(spark, settings, versions)
        return Trained(
            "trend", manifest, arrays,
            {"method": manifest["kind"], "series": len(before), "horizon": held.horizon, "step_s": STEP.seconds},
            dict(versions), last, inputs, self.call(model, inputs), drift.reference(frame, FEATURES),
            words=(training.__doc__ or "").strip(),
        )  # fmt: skip

    def hold_out(self, spark: Any, settings: Settings, versions: Mapping[str, int], now: datetime) -> Held:
        """All series."""
        return _held(read(spark, settings, versions))

    def answers(self, manifest: dict[str, Any], arrays: Arrays) -> Forecaster | Local:
        """What forecasts."""
        if manifest["kind"] == "local":
            return Local(manifest["version"])
        return Forecaster(manifest, dict(arrays))

    def call(self, model: Forecaster | Local, inputs: pd.DataFrame) -> pd.DataFrame:
        """A row of means and bounds for each row of a series, oldest value first, and a number of steps."""
        made = [
            model.forecast([np.array(values, dtype=float)], int(horizon))
            for values, horizon in zip(inputs["series"], inputs["horizon"], strict=True)
        ]
        return pd.DataFrame(
            {
                **{name: [getattr(one, name)[0].tolist() for one in made] for name in ("mean", "lo", "hi")},
                "model_version": model.version,
            }
        )

    def measure(self, model: Forecaster | Local, held: Held) -> Measured:
        """1 / (1 + MASE), the mean absolute error by that of the last value one step ahead, over series and origins."""
        errors, inside, took = {}, [], []
        for one in held.series:
            found = []
            lower, upper = one.bounds
            for past, truth in _origins(one, held.horizon):
                began = time.thread_time()
                said = model.forecast([past], held.horizon, lower=lower, upper=upper)
                took.append(time.thread_time() - began)
                found.append(mase(past, truth, said.mean[0]))
                there = np.isfinite(truth)
                inside += ((said.lo[0] <= truth) & (truth <= said.hi[0]))[there].tolist()
            errors[one.name] = _mean(found)
        return _measured(errors, took, {"coverage": float(np.mean(inside)) if inside else np.nan})

    def baseline(self, held: Held) -> Measured:
        """The last value that is known."""
        errors = {}
        for one in held.series:
            found = [
                mase(past, truth, np.full(len(truth), last_known(past))) for past, truth in _origins(one, held.horizon)
            ]
            errors[one.name] = _mean(found)
        return _measured(errors, [0.0], {})

    def agreement(self, model: Forecaster | Local, other: Forecaster | Local, held: Held) -> dict[str, float]:
        """The mean absolute difference of forecasts by the first model's mean absolute error, both scaled as MASE."""
        apart, errors = [], []
        for one in held.series:
            lower, upper = one.bounds
            for past, truth in _origins(one, held.horizon):
                said, others = (
                    each.forecast([past], held.horizon, lower=lower, upper=upper).mean[0] for each in (model, other)
                )
                apart.append(mase(past, np.where(np.isfinite(truth), said, np.nan), others))
                errors.append(mase(past, truth, said))
        return {"difference_by_error": float(np.nansum(apart) / max(np.nansum(errors), 1e-12))}

    def drift(self, reference: Mapping[str, Any], spark: Any, settings: Settings, now: datetime) -> dict[str, float]:
        """Of the kinds of series that there are."""
        return drift.stability(reference, _frame(spark, settings, {}), FEATURES)


def read(spark: Any, settings: Settings, versions: Mapping[str, int]) -> list[Series]:
    """The series of gold as of these versions of its tables, now where none is named."""
    return series(_frame(spark, settings, versions))


def _frame(spark: Any, settings: Settings, versions: Mapping[str, int]) -> DataFrame:
    names = ("gold.activity_minute", "gold.service_health_minute", "gold.host_utilization_minute")
    return steps(*(read_table(spark, settings, name, versions.get(name)) for name in names))


def _held(known: list[Series]) -> Held:
    """Those that are long enough, by the longest horizon that leaves something to learn from."""
    longest = max(len(one.values) for one in known)
    horizon = min(HORIZON, (longest - LEAST) // (2 * ORIGINS))
    if horizon < 3:
        raise ModelError(f"gold has {longest} steps of five minutes: a trend needs {LEAST + 6 * ORIGINS} at least")
    return Held([one for one in known if len(one.values) >= LEAST + ORIGINS * horizon], horizon)


def _origins(one: Series, horizon: int) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    cuts = [len(one.values) - number * horizon for number in range(ORIGINS, 0, -1)]
    return [(one.values[:cut], one.values[cut : cut + horizon]) for cut in cuts]


def last_known(past: NDArray[np.float64]) -> float:
    """The newest value that is no gap; 0 where there is none."""
    known = past[np.isfinite(past)]
    return float(known[-1]) if len(known) else 0.0


def mase(past: NDArray[np.float64], truth: NDArray[np.float64], said: NDArray[np.float64]) -> float:
    """The mean absolute error by that of the last value one step ahead in the past; nan where that is 0 or unknown."""
    known = past[np.isfinite(past)]
    scale = np.abs(np.diff(known)).mean() if len(known) > 1 else 0.0
    there = np.isfinite(truth)
    if not scale or not there.any():
        return np.nan
    return float(np.abs(truth - said)[there].mean() / scale)


def _mean(found: list[float]) -> float:
    """Of those that are known; nan where none is."""
    return float(np.nanmean(found)) if np.isfinite(found).any() else np.nan


def _measured(errors: Mapping[str, float], took: list[float], more: dict[str, float]) -> Measured:
    known = {name: error for name, error in errors.items() if np.isfinite(error)}
    if not known:
        raise ModelError("every series of gold is constant or empty in the held-out time: nothing to measure on")
    slices: dict[str, tuple[float, int]] = {}
    for kind in sorted({name.partition("/")[0] for name in known}):
        of_kind = [error for name, error in known.items() if name.startswith(f"{kind}/")]
        slices[kind] = (1 / (1 + float(np.mean(of_kind))), len(of_kind))
    mean = float(np.mean([*known.values()]))
    return Measured(
        "inverse_mase", 1 / (1 + mean), slices, float(np.quantile(took, 0.99)) * 1000, {"mase": mean, **more}
    )


KIND = Trend()
