"""The global forecaster's training: one linear map from the last weeks to all steps, for all series.

Chosen on origins inside the training part of the hourly M4 series (the last 48, 96 and 144 values held out): windows
of three times the longest period, logarithms, scaling by seasonal differences, weights, ridge and the sharpness of the
mix. Lost there: per-series coefficients shrunk to the global ones, other scales, a multilayer perceptron. The test part
was read to reproduce Naive2's figures and for the result alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakehouse.predict.forecast import Forecaster, Scale, moments, without_gaps
from lakehouse.predict.seasonality import periods as periods_of

WINDOWS = 60_000
"""About how many windows are learned from; more are thinned."""
RIDGE = 0.1
"""Penalty a window, of coefficients of scaled values."""
LEVEL_SHARE = 0.08
"""An error counts by its share of the level (sMAPE) and, this much, by its share of the seasonal difference (MASE):
what one and the other are for Naive2 on seasonal series, 0.184 : 2.4."""
REWEIGHTINGS = 3
_Array = NDArray[np.float64]


def fit(
    series: Sequence[_Array], horizon: int, periods: Sequence[int] | None = None, level: float = 0.95
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """The manifest and arrays of a :class:`lakehouse.predict.forecast.Forecaster`; None if the series are too short.

    It is fitted twice: without the last ``horizon`` values, to see by what factor intervals that hold ``level`` of them
    are wider than the ones said (split conformal, over series), then with all.

    Args:
        series: equally spaced values, oldest first, nan in gaps.
        horizon: steps.
        periods: in steps; if None, those found in a tenth of the series or more.
        level: of the intervals.
    """
    known = [values for values in map(without_gaps, series) if len(values) > 2]
    if periods is None:
        found = Counter(period for values in known for period in periods_of(Scale.of(values).to(values)))
        periods = sorted(period for period, count in found.items() if count >= len(known) / 10)
    manifest = {"kind": "forecast", "season": min(periods, default=1), "periods": list(periods), "widen": 1.0}
    # Most series must have a horizon of windows, also without their last values.
    shortest = int(np.quantile([len(values) for values in known], 0.1)) if known else 0
    longest = max(periods, default=1)
    lags = min(3 * (longest if periods else horizon), shortest - 3 * horizon)
    if lags <= longest:
        return None
    before = [values[:-horizon] for values in known if len(values) >= lags + 2 * horizon]
    after = np.array([values[-horizon:] for values in known if len(values) >= lags + 2 * horizon])
    trial = Forecaster(
        {**manifest, "version": "trial"}, {"coefficients": _coefficients(before, horizon, lags, periods)}
    )
    said = trial.forecast(before, level=level)
    room = np.where(after > said.mean, said.hi - said.mean, said.mean - said.lo)
    off = np.abs(after - said.mean)
    widen = float(np.quantile(off[room > 0] / room[room > 0], level)) if (room > 0).any() else 1.0
    return {**manifest, "widen": max(widen, 1.0)}, {"coefficients": _coefficients(known, horizon, lags, periods)}


def _coefficients(series: list[_Array], horizon: int, lags: int, periods: Sequence[int]) -> NDArray[np.float32]:
    """Least absolute errors of whole windows by iteratively reweighted ridge regression (closed form)."""
    width = lags + horizon
    scaled = [Scale.of(values).to(values) for values in series if len(values) >= width]
    stride = -(-sum(len(values) - width + 1 for values in scaled) // WINDOWS)
    parts = [np.lib.stride_tricks.sliding_window_view(values, width)[::-stride] for values in scaled]
    windows = np.concatenate(parts)
    centre, spread = moments(windows[:, :lags], min(periods, default=1), max(periods, default=1))
    windows = ((windows - centre) / spread).astype(np.float32)
    x, y = np.column_stack([windows[:, :lags], np.ones(len(windows), np.float32)]), windows[:, lags:]
    # Every series counts the same, however long.
    importance = np.repeat([1 / len(part) for part in parts], [len(part) for part in parts])
    importance *= spread[:, 0] + LEVEL_SHARE
    weights = importance
    penalty = RIDGE * len(x) * np.eye(lags + 1)
    penalty[-1, -1] = 0
    for turn in range(REWEIGHTINGS + 1):
        heavy = x * (weights / weights.mean()).astype(np.float32)[:, None]
        b = np.linalg.solve((heavy.T @ x).astype(float) + penalty, (heavy.T @ y).astype(float)).astype(np.float32)
        if turn < REWEIGHTINGS:
            error = np.abs(y - x @ b).mean(axis=1)
            weights = importance / np.maximum(error, 0.1 * np.median(error) + 1e-9)
    return b
