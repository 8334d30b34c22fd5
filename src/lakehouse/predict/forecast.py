"""Forecasts with intervals: simple forecasters, each weighted by how it did on the series' own past.

A forecaster here is a map from a series' last values to the next ones, so that it can be asked at every origin of the
past at once. They are mixed with weights error^-4 for each series, and the mix's errors at the same origins give the
interval (Stankeviciute et al., "Conformal time-series forecasting", NeurIPS 2021, without its correction for many
steps). Local ones need nothing but the series; the global one, a linear map from the last weeks to all steps at once,
learned over all series (Montero-Manso and Hyndman, IJF 2021), is published by ``models/trend``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakehouse.predict.published import PredictError
from lakehouse.predict.seasonality import periods as periods_of

ORIGINS = 500
"""How many of the past's latest origins are asked."""
SHARPNESS = 4
"""Weights are errors to the power of minus this."""
FLOOR = 1e-3
"""Least scale of a window, as a share of the level: below it differences are noise of rounding."""
LEAST = 0.01
"""Logarithms are taken where no value is less than this share of the mean: those of values near 0 are all noise."""
_Array = NDArray[np.float64]
_Origins = NDArray[np.intp]
_Says = Callable[[_Origins], _Array]


@dataclass(frozen=True)
class Forecast:
    """``mean``, ``lo`` and ``hi``, each (series, horizon); nan where nothing is known."""

    mean: _Array
    lo: _Array
    hi: _Array


@dataclass(frozen=True)
class Scale:
    """How values become comparable: logarithms where all are well above 0, else shares of the mean magnitude."""

    unit: float
    log: bool

    @classmethod
    def of(cls, values: _Array) -> Scale:
        """The scale of a series without gaps."""
        return cls(float(np.abs(values).mean()) or 1.0, bool(values.min() > LEAST * np.abs(values).mean()))

    def to(self, values: _Array) -> _Array:
        """Values -> comparable."""
        shares = values / self.unit
        return np.log(shares) if self.log else shares

    def back(self, shares: _Array) -> _Array:
        """Comparable -> values; growth beyond e^50 is no forecast."""
        return self.unit * (np.exp(np.clip(shares, -50, 50)) if self.log else shares)


def without_gaps(values: _Array) -> _Array:
    """A series with its gaps filled on a straight line, without those at its ends."""
    there = np.flatnonzero(np.isfinite(values))
    if not len(there):
        return np.empty(0)
    return np.interp(np.arange(there[0], there[-1] + 1), there, values[there])


def moments(windows: _Array, season: int, level: int) -> tuple[_Array, _Array]:
    """Location and scale of each window: the mean of its last ``level``, the mean absolute seasonal difference."""
    spread = np.abs(windows[:, season:] - windows[:, :-season]).mean(axis=1, keepdims=True)
    return windows[:, -level:].mean(axis=1, keepdims=True), np.maximum(spread, FLOOR)


class Forecaster:
    """The global forecaster of one kind of series, mixed with the local ones.

    Array: ``coefficients`` float32 (lags + 1, horizon), the last row the constant. The manifest tells ``season``, the
    period by whose differences a window is scaled, ``periods`` of the series that it was learned from, and by
    what factor to ``widen`` intervals: the past that it was learned from flatters it.
    """

    def __init__(self, manifest: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        self.version: str = manifest["version"]
        self.season, self.periods = int(manifest["season"]), tuple(int(p) for p in manifest["periods"])
        self.widen = float(manifest["widen"])
        self._coefficients = arrays["coefficients"]
        self.lags, self.horizon = len(self._coefficients) - 1, self._coefficients.shape[1]
        if self.lags <= max(self.season, *self.periods, 1):
            raise PredictError(f"version {self.version}: {self.lags} lags hold no period")

    def at(self, series: _Array, horizon: int, origins: _Origins) -> _Array:
        """What it says at each origin (the number of values known), in the series' own comparable units."""
        windows = np.lib.stride_tricks.sliding_window_view(series, self.lags)[origins - self.lags]
        centre, spread = moments(windows, self.season, max(self.season, *self.periods, 1))
        b = self._coefficients[:, :horizon]
        said: _Array = ((windows - centre) / spread).astype(np.float32) @ b[:-1] + b[-1]
        return said * spread + centre

    def forecast(
        self,
        series: Sequence[_Array],
        horizon: int | None = None,
        *,
        level: float = 0.95,
        lower: float | None = None,
        upper: float | None = None,
    ) -> Forecast:
        """As :func:`forecast`; the global one takes part where the series and the horizon allow it."""
        return forecast(series, horizon or self.horizon, level=level, lower=lower, upper=upper, model=self)


def forecast(
    series: Sequence[_Array],
    horizon: int,
    periods: Sequence[int] | None = None,
    *,
    level: float = 0.95,
    lower: float | None = None,
    upper: float | None = None,
    model: Forecaster | None = None,
) -> Forecast:
    """The next ``horizon`` values of each series, with an interval that holds each with probability ``level``.

    Args:
        series: equally spaced values, oldest first, nan in gaps; of any length, also 0.
        horizon: steps, at least 1.
        periods: in steps; found from each series if None.
        level: of the interval, between 0 and 1.
        lower: no value is less (0 for counts).
        upper: no value is more (1 for shares).
        model: a global forecaster.
    """
    out = np.full((3, len(series), horizon), np.nan)
    for i, values in enumerate(series):
        known = without_gaps(np.asarray(values, dtype=float))
        if len(known):
            out[:, i] = _one(known, np.asarray(values, dtype=float), horizon, periods, level, model)
    return Forecast(*np.clip(out, lower, upper) if (lower, upper) != (None, None) else out)


def _one(
    known: _Array, values: _Array, horizon: int, periods: Sequence[int] | None, level: float, model: Forecaster | None
) -> _Array:
    """Mean, lower and upper end, (3, horizon), of one series: without gaps, and as it came."""
    scale = Scale.of(known)
    z, n = scale.to(known), len(known)
    if periods is None:
        periods = sorted({*periods_of(z), *(model.periods if model is not None else ())})
    # A forecaster takes part if there is a past of half a horizon, or half of all, to ask it about; the last value
    # always does.
    most = max(n - max(min(horizon, n) // 2, 1), 1)
    asked = [(past, say) for past, say in _forecasters(z, horizon, periods, model) if past <= most]
    origins = np.arange(max(n - ORIGINS, *(past for past, _ in asked)), n + 1)
    said = np.stack([say(origins) for _, say in asked])
    seen = np.isfinite(values[np.flatnonzero(np.isfinite(values))[0] :][:n])
    truth = np.r_[np.where(seen, z, np.nan), np.full(horizon, np.nan)][origins[:-1, None] + np.arange(horizon)]
    there = np.isfinite(truth)
    weights = np.ones(len(asked))
    if there.any():
        error = np.abs(said[:, :-1] - truth)[:, there].mean(axis=1)
        weights = (error + 1e-3 * error.mean() + 1e-9) ** -SHARPNESS
    mixed = np.tensordot(weights / weights.sum(), said, 1)
    mean, width = mixed[-1], _width(truth - mixed[:-1], there, level)
    if model is not None:
        width *= model.widen
    return np.stack([scale.back(mean), scale.back(mean + width[0]), scale.back(mean + width[1])])


def _forecasters(z: _Array, horizon: int, periods: Sequence[int], model: Forecaster | None) -> list[tuple[int, _Says]]:
    """How many values each needs to know, and what it says at origins (numbers of values known)."""
    steps, span = np.arange(horizon), max(1, min(horizon, len(z) // 6))
    sums: _Array = np.r_[0, np.cumsum(z)]

    def last(origins: _Origins) -> _Array:
        return np.asarray(z[origins[:, None] - 1 + 0 * steps])

    def recent(origins: _Origins) -> _Array:
        return np.asarray((sums[origins] - sums[origins - span])[:, None] / span + 0 * steps)

    def line(origins: _Origins) -> _Array:
        slope = (sums[origins] - 2 * sums[origins - span] + sums[origins - 2 * span]) / span**2
        return np.asarray(last(origins) + slope[:, None] * (steps + 1))

    def seasonal(period: int, origins: _Origins) -> _Array:
        return np.asarray(z[origins[:, None] - period + steps % period])

    found: list[tuple[int, _Says]] = [(1, last), (span, recent), (2 * span, line)]
    found += [(period, partial(seasonal, period)) for period in periods]
    if model is not None and horizon <= model.horizon:
        found.append((model.lags, partial(model.at, z, horizon)))
    return found


def _width(residuals: _Array, there: NDArray[np.bool_], level: float) -> _Array:
    """How far below and above the mean the interval goes at each step, (2, horizon)."""
    count = there.sum(axis=0)
    if not count.any():
        return np.full((2, residuals.shape[1]), np.nan)
    square = np.where(there, residuals, 0) ** 2
    spread = np.sqrt(square.sum(axis=0) / np.maximum(count, 1))
    # Farther steps are no more certain; steps that the past is too short for grow as those of a random walk.
    steps = np.arange(1, len(spread) + 1)
    last = np.flatnonzero(count)[-1]
    spread[count == 0] = 0
    spread[last + 1 :] = spread[last] * np.sqrt(steps[last + 1 :] / steps[last])
    spread = np.maximum.accumulate(spread)
    shares = (residuals / np.maximum(spread, 1e-300))[there]
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2])
    return np.stack([min(low, 0.0) * spread, max(high, 0.0) * spread])
