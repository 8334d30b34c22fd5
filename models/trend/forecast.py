"""The global forecaster's training: one linear map from the last weeks to all steps, for all series.

Chosen on origins inside the training part of the hourly M4 series (the last 48, 96 and 144 values held out): windows
of three times the longest period, logarithms, scaling by seasonal differences, weights, ridge and the sharpness of the
mix. Lost there: per-series coefficients shrunk to the global ones, other scales, a multilayer perceptron.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakehouse.predict.forecast import Scale, moments, without_gaps
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
    series: Sequence[_Array], horizon: int, periods: Sequence[int] | None = None
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """The manifest and arrays of a :class:`lakehouse.predict.forecast.Forecaster`; None if the series are too short.

    Least absolute errors of whole windows by iteratively reweighted ridge regression (closed form).

    Args:
        series: equally spaced values, oldest first, nan in gaps.
        horizon: steps.
        periods: in steps; if None, those found in a tenth of the series or more.
    """
    filled = [values for values in map(without_gaps, series) if len(values) > 2]
    scaled = [Scale.of(values).to(values) for values in filled]
    if periods is None:
        found = Counter(period for values in scaled for period in periods_of(values))
        periods = sorted(period for period, count in found.items() if count >= len(scaled) / 10)
    season = min(periods, default=1)
    longest = max(periods, default=1)
    # Most series must have at least a horizon of windows.
    shortest = int(np.quantile([len(values) for values in scaled], 0.1)) if scaled else 0
    lags = min(3 * max(longest, horizon if longest == 1 else 1), shortest - 2 * horizon)
    if lags <= longest:
        return None
    width = lags + horizon
    counts = [len(values) - width + 1 for values in scaled]
    stride = max(1, -(-sum(count for count in counts if count > 0) // WINDOWS))
    parts = [
        np.lib.stride_tricks.sliding_window_view(values, width)[::-stride]
        for values, count in zip(scaled, counts, strict=True)
        if count > 0
    ]
    windows = np.concatenate(parts)
    centre, spread = moments(windows[:, :lags], season, longest)
    windows = ((windows - centre) / spread).astype(np.float32)
    x = np.column_stack([windows[:, :lags], np.ones(len(windows), np.float32)])
    y = windows[:, lags:]
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
    return {"kind": "forecast", "season": season, "periods": list(periods)}, {"coefficients": b}
