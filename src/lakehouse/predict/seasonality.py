"""Periods of a series, found from its values alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CYCLES = 3
"""How often a period must be seen before it counts (Makridakis et al., M4, its seasonality test)."""
CHANCE = 1.645
"""Of the normal law: M4's test of one given period is at 90 %, two-sided."""
CERTAINTY = 0.1
"""How often, at most, a series of independent values is given a period."""
PEAK = 0.4
"""Of peaks that reach this share of the highest the shortest is the period: longer ones are often its multiples."""
NEARER = 0.8
"""A longer period counts if what it leaves unexplained is less than this share of what the shorter one leaves."""
ROUNDING = 0.01
"""Of variance: less is never worth a period."""


def autocorrelation(values: NDArray[np.float64], lags: int) -> NDArray[np.float64]:
    """Autocorrelation at lags 0 to ``lags``, by FFT; zeros where the series is constant."""
    centred = values - values.mean()
    size = 1 << (2 * len(values)).bit_length()
    spectrum = np.abs(np.fft.rfft(centred, size)) ** 2
    covariance = np.fft.irfft(spectrum, size)[: lags + 1]
    steady = covariance[0] <= 1e-12 * (values @ values)
    return np.zeros(lags + 1) if steady else covariance / covariance[0]


def significant(correlation: NDArray[np.float64], n: int) -> NDArray[np.bool_]:
    """Which lags' autocorrelations are larger than chance: Bartlett's formula (Box and Jenkins, section 2.1.6)."""
    limit = CHANCE / np.sqrt(n) * np.sqrt(1 + 2 * np.r_[0, np.cumsum(correlation[1:-1] ** 2)])
    found: NDArray[np.bool_] = np.r_[False, np.abs(correlation[1:]) > limit]
    return found


def periods(values: NDArray[np.float64]) -> tuple[int, ...]:
    """The period of a series without gaps and, if there is one, a longer one beside it; none where it has none.

    A straight line goes first. The period is the shortest of the peaks of the autocorrelation that rise over the
    troughs half a period beside them nearly half as high as any (``PEAK``) and higher than by chance. A longer one is
    the lag of highest autocorrelation, if that is clearly higher (``NEARER``).
    """
    n = len(values)
    lags = n // CYCLES
    if lags < 3 or not np.isfinite(values).all():
        return ()
    lag = np.arange(lags + lags // 2 + 2)
    time = np.arange(n) - (n - 1) / 2
    rest = values - values.mean()
    rest = rest - time * (time @ rest) / (time @ time)
    if rest @ rest <= 1e-12 * (values @ values):
        return ()
    r = autocorrelation(rest, len(lag) - 1) / (1 - lag / n)  # as if every lag had as many pairs
    inner, lag = r[: lags + 1], lag[: lags + 1]
    peak = np.r_[False, (inner[1:] > inner[:-1]) & (inner[1:] >= r[2 : lags + 2])] & (inner > 0) & (lag > 1)
    height = np.where(peak, inner - (r[lag // 2] + r[lag + lag // 2]) / 2, 0)
    # What correlates within a quarter of a period is memory, not season (Bartlett's formula up to there); a height is
    # of three correlations, of variance 1.5, and has to be larger than the largest of as many lags is by chance.
    memory = np.sqrt(1 + 2 * np.cumsum(r[1:] ** 2))[lag // 4]
    height[height < memory * np.sqrt(1.5 / n) * np.sqrt(2 * np.log(lags / CERTAINTY))] = 0
    if height.max() <= 0:
        return ()
    period = int(np.argmax(height >= PEAK * height.max()))
    period += int(np.argmax(inner[period : period + (period + 1) // 2]))  # noise makes peaks beside the peak
    # A flat peak is placed better by a later one.
    turns = min(4, lags // period)
    late = slice(turns * period - turns, turns * period + turns + 1)
    period = min(max(2, round((late.start + int(np.argmax(r[late]))) / turns)), lags)
    further = np.where(peak & (lag >= 2 * period), inner, -1)
    longer = int(np.argmax(further))
    return (period, longer) if 1 - further[longer] < NEARER * (1 - inner[period]) - ROUNDING else (period,)
