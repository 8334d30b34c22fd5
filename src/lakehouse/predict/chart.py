"""A control chart for series that are observed together: one alone, or the metrics of one host or service at one time.

It says at once when values leave their usual range or their usual company: a robust moving mean and deviation of each
series (observations are winsorised as in Cipra 1992, so that what is unusual hardly teaches), their correlation, and
the Mahalanobis distance of the present residuals, and of their recent mean, as a standard normal deviate (Wilson &
Hilferty 1931). It goes on alarming while the trouble lasts, also for the tenth alike; where one alarm for what was
never seen before is wanted, there is :class:`lakehouse.predict.anomaly.Detector`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lakehouse.predict.published import PredictError

Floats = NDArray[np.float64]

THRESHOLD = 0.5
"""A score of this much or more is an alarm, here and of every detector."""
BIGGEST = 1e100
"""What is beyond is taken for this; its square is still a number."""


@dataclass(frozen=True)
class Limits:
    """When a chart alarms.

    Args:
        span: observations that the moving mean and deviation remember.
        deviate: standard normal deviate that has the score 0.5; 5 is 5.5 deviations of a series that is alone.
        warm: observations before the first score.
        memory: observations that the correlation remembers.
    """

    span: int = 60
    deviate: float = 5.0
    warm: int = 30
    memory: int = 1000


class Observation(NamedTuple):
    """What is said of one observation; arrays have one number a series.

    Args:
        score: in [0, 1], from :data:`THRESHOLD` on an alarm.
        expected: the values that were predicted; NaN before a series' first.
        deviations: the residuals in (robust) standard deviations; NaN where there was no value.
        learnt: no where no value is a finite number, or the time lies before the last one's.
    """

    score: float
    expected: Floats
    deviations: Floats
    learnt: bool


_WINSOR = 2.0  # deviations; what a residual can teach at most
_RESOLUTION = 1e-3  # of the mean: the least deviation, so that the steps of a rounded number are none
_RECENT = 0.5  # what the newest observation weighs in the recent mean, which is thus of about 3
_CAP = 1e3  # deviations; more tells nothing more


class Chart:
    """The chart of ``series`` series.

    Args:
        series: how many are observed together.
        limits: when it alarms.
        state: from :meth:`state`, to go on from.

    Raises:
        PredictError: the state is none of a chart of so many series.
    """

    def __init__(self, series: int = 1, limits: Limits = Limits(), state: bytes | None = None) -> None:
        self._limits = limits
        size = 1 + 4 * series + series * series
        self._all = np.zeros(size) if state is None else np.frombuffer(state, "<f8").copy()
        if len(self._all) != size:
            raise PredictError(f"the state of a chart of {series} series has {8 * size} bytes")
        each = self._all[1 : 1 + 4 * series].reshape(4, series)
        self._count, self._mean, self._deviation, self._lately = each[0], each[1], each[2], each[3]
        self._correlation = self._all[1 + 4 * series :].reshape(series, series)
        if state is None:
            self._correlation += np.eye(series)

    def state(self) -> bytes:
        """All that was learnt, of the same size for ever."""
        return self._all.astype("<f8").tobytes()

    def step(self, time: float, values: Sequence[float] | Floats) -> Observation:
        """Judge an observation, then learn it; ``time`` in seconds since 1970 UTC, NaN for a value that is missing."""
        limits = self._limits
        given = np.asarray(values, np.float64)
        here, now = np.isfinite(given), given.clip(-BIGGEST, BIGGEST)
        expected = np.where(self._count > 0, self._mean, np.nan)
        late, self._all[0] = time < self._all[0], time  # a clock that was set back costs one observation
        if late or not here.any():
            return Observation(0.0, expected, np.full(len(now), np.nan), False)
        count = self._count[here] + 1
        mean = np.where(count > 1, self._mean[here], now[here])
        deviation = self._deviation[here]
        off = now[here] - mean
        # A series that was nothing but 0 has no deviation: its first move is as unusual as can be.
        usually = np.maximum(deviation, _RESOLUTION * np.abs(mean))
        sizes = np.divide(off, usually, out=np.sign(off) * _CAP, where=usually > 0).clip(-_CAP, _CAP)
        lately = self._lately[here] + _RECENT * (sizes - self._lately[here])
        among = np.ix_(here, here)
        correlation = self._correlation[among]
        score = 0.0
        if count.min() > limits.warm:
            steadier = math.sqrt(_RECENT / (2 - _RECENT))
            deviate = max(_deviate(np.stack([sizes, lately / steadier], axis=1), correlation), 0.0)
            score = deviate**2 / (deviate**2 + limits.deviate**2)

        early = (count <= limits.warm) | (usually == 0)
        taught = np.where(early, off, off.clip(-_WINSOR * usually, _WINSOR * usually))
        gain = 1 / np.minimum(count, limits.span)
        usual = sizes.clip(-_WINSOR, _WINSOR)
        self._count[here], self._lately[here] = count, lately
        self._mean[here] = mean + gain * taught
        self._deviation[here] = deviation + gain * (np.abs(taught) * math.sqrt(math.pi / 2) - deviation)
        self._correlation[among] += (np.outer(usual, usual) - correlation) / np.minimum(count.min(), limits.memory)
        deviations = np.full(len(now), np.nan)
        deviations[here] = sizes
        return Observation(score, expected, deviations, True)


def _deviate(sizes: Floats, correlation: Floats) -> float:
    """The greatest squared Mahalanobis distance of the columns, chi-squared, as a standard normal deviate."""
    degrees = len(sizes)
    # Never singular, and what hardly ever moved has no smaller variance than its deviation says.
    loose = correlation + np.diag(np.maximum(1 - np.diag(correlation), 0.01))
    distance = float((sizes * np.linalg.solve(loose, sizes)).sum(axis=0).max())
    return (math.cbrt(distance / degrees) - 1 + 2 / (9 * degrees)) / math.sqrt(2 / (9 * degrees))
