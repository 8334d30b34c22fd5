"""The M4 competition's measure, on its published files."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakehouse.predict.forecast import Forecast, Forecaster, forecast, without_gaps
from lakehouse.predict.seasonality import autocorrelation, significant
from models.trend.forecast import fit

FREQUENCIES = {
    "Hourly": (24, 48),
    "Daily": (1, 14),
    "Weekly": (1, 13),
    "Monthly": (12, 18),
    "Quarterly": (4, 8),
    "Yearly": (1, 6),
}
"""Seasonality of the measures and horizon, as M4 sets them; the forecasts find their periods themselves."""
LEVEL = 0.95
_Array = NDArray[np.float64]


def read(file: Path) -> dict[str, _Array]:
    """The series of one published file by name; empty cells at the end are none, others are gaps (nan)."""
    with file.open(newline="") as rows:
        table = csv.reader(rows)
        next(table)
        cells = {name: np.array([np.nan if c.strip() in ("", "NA") else float(c) for c in row]) for name, *row in table}
    return {
        name: v[: np.flatnonzero(np.isfinite(v))[-1] + 1] if np.isfinite(v).any() else v[:0]
        for name, v in cells.items()
    }


def naive2(x: _Array, horizon: int, m: int) -> _Array:
    """M4's Naive2: the last value, seasonally adjusted by classical multiplicative decomposition if a test says so."""
    factors = np.ones(m)
    if m > 1 and len(x) >= 3 * m and (x > 0).all() and significant(autocorrelation(x, m), len(x))[m]:
        kernel = np.ones(m) / m if m % 2 else np.r_[0.5, np.ones(m - 1), 0.5] / m
        half = len(kernel) // 2
        ratio = x[half : len(x) - half] / np.convolve(x, kernel, "valid")
        phase = np.arange(half, len(x) - half) % m
        factors = np.bincount(phase, ratio, m) / np.bincount(phase, minlength=m)
        factors /= factors.mean()
    at = np.arange(len(x), len(x) + horizon) % m
    adjusted: _Array = x[-1] / factors[(len(x) - 1) % m] * factors[at]
    return adjusted


def smape(y: _Array, f: _Array) -> float:
    """Symmetric mean absolute percentage error, 0 to 200; two zeros are no error."""
    return 200 * float(np.mean(np.abs(y - f) / np.maximum(np.abs(y) + np.abs(f), 1e-300)))


def seasonal_difference(x: _Array, m: int) -> float:
    """Mean absolute difference of values a season apart, MASE's and MSIS's unit; nan if there is none."""
    size = float(np.mean(np.abs(x[m:] - x[:-m]))) if len(x) > m else 0.0
    return size or float("nan")


def measured(train: list[_Array], test: list[_Array], said: Forecast, m: int) -> dict[str, float]:
    """sMAPE, MASE, MSIS and coverage, averaged over series; MASE and MSIS over those whose seasonal unit is not 0."""
    rows = []
    for x, y, f, lo, hi in zip(train, test, said.mean, said.lo, said.hi, strict=True):
        unit, n = seasonal_difference(x, m), len(y)
        there = np.isfinite(y)
        y, f, lo, hi = y[there], f[:n][there], lo[:n][there], hi[:n][there]
        outside = np.maximum(lo - y, 0) + np.maximum(y - hi, 0)
        interval = float(np.mean(hi - lo + 2 / (1 - LEVEL) * outside)) / unit
        inside = float(np.mean((y >= lo) & (y <= hi)))
        rows.append((smape(y, f), float(np.mean(np.abs(y - f))) / unit, interval, inside))
    means = np.nanmean(np.array(rows), axis=0)
    return dict(zip(("smape", "mase", "msis", "coverage"), map(float, means), strict=True))


def predicted(train: list[_Array], horizon: int) -> Forecast:
    """Fit and forecast: a global forecaster where the series are long enough, the local ones always."""
    lower = None if any((x < 0).any() for x in train) else 0.0
    made = fit(train, horizon)
    if made is None:
        return forecast(train, horizon, level=LEVEL, lower=lower)
    manifest, arrays = made
    return Forecaster({**manifest, "version": "evaluated"}, arrays).forecast(train, level=LEVEL, lower=lower)


def evaluate(data: Path, out: Path | None = None) -> dict[str, Any]:
    """M4's overall weighted average (OWA) of the forecasts of ``<Frequency>-train.csv`` against ``-test.csv``.

    Args:
        data: folder of the two files, of one frequency of :data:`FREQUENCIES`.
        out: folder for ``forecast.csv``: series, step (from 1), mean, lo, hi.

    Raises:
        FileNotFoundError: no such files.
    """
    frequency = next((f for f in FREQUENCIES if (data / f"{f}-train.csv").is_file()), None)
    if frequency is None:
        raise FileNotFoundError(f"no <frequency>-train.csv in {data}; frequencies are {', '.join(FREQUENCIES)}")
    m, horizon = FREQUENCIES[frequency]
    past, future = read(data / f"{frequency}-train.csv"), read(data / f"{frequency}-test.csv")
    names = [name for name in past if len(past[name]) and len(future.get(name, ()))]
    train, test = [past[name] for name in names], [future[name][:horizon] for name in names]
    started = time.perf_counter()
    said = predicted(train, horizon)
    seconds = time.perf_counter() - started
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "forecast.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("series", "step", "mean", "lo", "hi"))
            for name, *values in zip(names, said.mean, said.lo, said.hi, strict=True):
                writer.writerows((name, k + 1, *map(float, row)) for k, row in enumerate(zip(*values, strict=True)))
    train = [without_gaps(x) for x in train]
    plain = np.array([naive2(x, horizon, m) for x in train])
    ours, base = measured(train, test, said, m), measured(train, test, Forecast(plain, plain, plain), m)
    return {
        "owa": (ours["smape"] / base["smape"] + ours["mase"] / base["mase"]) / 2,
        "smape": ours["smape"],
        "mase": ours["mase"],
        "series": len(names),
        "seconds": seconds,
        "naive2": {"smape": base["smape"], "mase": base["mase"]},
        "msis": ours["msis"],
        "coverage": ours["coverage"],
    }
