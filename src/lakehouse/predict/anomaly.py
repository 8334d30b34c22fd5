"""An anomaly detector for one series of numbers: online, one pass, 3.3 kB of state, a few microseconds a record.

It asks of every record how far it breaks the records: for the value, for its mean, spread and deviation over three
spans, and for what is left of it after the hour of the day and of the week, it keeps the least and the greatest that
the series has shown, which slowly draw together again. What goes beyond them, measured in their distance, is added up
over all of these. In an exchangeable series the n-th value is a record with probability 2/n (Rényi 1962), so that
alarms become rare by themselves, without a model of the noise; the sum stands out when several kinds of record are
broken at once.

Its numbers are round ones from the middle of a plateau, found on the 38 given series of the Numenta anomaly benchmark
(``models/anomaly/evaluate.py`` says what was looked at): half or twice of any of them costs a few points of the score,
and the worst, limits that learn only half of an excess, six.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from lakehouse.predict.chart import BIGGEST, THRESHOLD, Floats
from lakehouse.predict.published import PredictError

_SPANS = (8.0, 32.0, 128.0)  # records
_DAY, _WEEK, _HOUR = 24, 168, 3600.0  # hours, hours, seconds
_SEASON_GAIN = 0.1  # what a new record moves its hour's mean by, when the hour is known
_WINSOR = 10  # one value can widen the limits by no more than this many times
_HALF = 0.1  # the excess, in distances between the limits, that has the score 0.5
_DOUBT = 100.0  # records: an excess counts half when the limits are this old

# The state, one vector: three numbers, then blocks.
_COUNT, _TIME, _QUIET = 0, 1, 2  # records learnt, the last one's time, the record until which alarms rest
_MEAN = 3
_SPREAD = _MEAN + len(_SPANS)
_REST = _SPREAD + len(_SPANS)  # smoothed remainders after the hour of the day, of the week
_ERROR = _REST + 2  # mean absolute error of the three predictions
_LOW = _ERROR + 3
_FEATURES = 1 + 3 * len(_SPANS) + 2
_HIGH = _LOW + _FEATURES
_SEASON = _HIGH + _FEATURES
_SEEN = _SEASON + _DAY + _WEEK
_SIZE = _SEEN + _DAY + _WEEK


@dataclass(frozen=True)
class Tuning:
    """What differs between the uses of the detector, not between series.

    Args:
        memory: records; the limits draw together by this part of their distance a record.
        learn: share of an excess that the limits take on: 1 never alarms twice for the same, 0 never learns it.
        rest: records after an alarm without another.
        warm: records before the first score; the limits come from their second half.
    """

    memory: float = 50_000.0
    learn: float = 1.0
    rest: int = 60
    warm: int = 100


class Reading(NamedTuple):
    """What is said of one record.

    Args:
        score: in [0, 1], from :data:`lakehouse.predict.chart.THRESHOLD` on an alarm; 0 where the record was not learnt
            and while the detector warms up.
        expected: the value that was predicted from the records before; NaN before the first.
        learnt: no for what is no finite number and for a record whose time lies before the last one's.
    """

    score: float
    expected: float
    learnt: bool


# Compiled anew when this file changes, not when the constants of chart.py do.
@njit(cache=True)  # type: ignore[untyped-decorator]
def _step(
    state: Floats, time: float, value: float, memory: float, learn: float, rest: float, warm: float
) -> tuple[float, float, bool]:
    count = state[_COUNT]
    hours = (int(time // _HOUR) % _DAY, _DAY + int(time // _HOUR) % _WEEK)
    # Which prediction is the best so far: the short mean, or an hour's mean with what was lately left over.
    best = 0
    expected = state[_MEAN] if count > 0 else math.nan
    for season in range(2):
        if state[_SEEN + hours[season]] > 0 and state[_ERROR + 1 + season] < state[_ERROR + best]:
            best = 1 + season
            expected = state[_SEASON + hours[season]] + state[_REST + season]
    late = count > 0 and time < state[_TIME]
    state[_TIME] = time  # also of a late one: a clock that was set back costs one record
    if late or not math.isfinite(value):
        return 0.0, expected, False

    low, high = state[_LOW], state[_HIGH]
    x = min(max(value, -BIGGEST), BIGGEST)
    if count >= warm and high > low:
        x = min(max(x, low - _WINSOR * (high - low)), high + _WINSOR * (high - low))
    count += 1
    state[_COUNT] = count

    features = np.empty(_FEATURES)
    features[0] = x
    for number in range(len(_SPANS)):
        gain = max(2 / (_SPANS[number] + 1), 1 / count)
        off = x - state[_MEAN + number]
        if number == 0:
            state[_ERROR] += gain * (abs(off) - state[_ERROR])
        state[_MEAN + number] += gain * off
        state[_SPREAD + number] = (1 - gain) * (state[_SPREAD + number] + gain * off * off)
        features[1 + 3 * number] = off if count > 1 else 0.0
        features[2 + 3 * number] = state[_MEAN + number]
        features[3 + 3 * number] = math.sqrt(state[_SPREAD + number])
    for season in range(2):
        hour = hours[season]
        gain = max(2 / (_SPANS[0] + 1), 1 / count)
        left = x - state[_SEASON + hour] if state[_SEEN + hour] > 0 else 0.0
        state[_ERROR + 1 + season] += gain * (abs(left - state[_REST + season]) - state[_ERROR + 1 + season])
        state[_REST + season] += gain * (left - state[_REST + season])
        features[1 + 3 * len(_SPANS) + season] = state[_REST + season]
        state[_SEEN + hour] += 1
        state[_SEASON + hour] += max(_SEASON_GAIN, 1 / state[_SEEN + hour]) * (x - state[_SEASON + hour])

    excess = 0.0
    least = 1e-9 * abs(state[_MEAN + 2]) + 1e-12  # a distance for what never moved
    for number in range(_FEATURES):
        low, high, now = state[_LOW + number], state[_HIGH + number], features[number]
        if count <= warm // 2:
            low = high = now
        elif count <= warm:
            low, high = min(low, now), max(high, now)
        else:
            excess += max(now - high, low - now, 0.0) / (high - low + least)
            narrower = (high - low) / (2 * memory)
            low, high = low + narrower, high - narrower
            low, high = min(low, low + learn * (now - low)), max(high, high + learn * (now - high))
        state[_LOW + number], state[_HIGH + number] = low, high
    excess *= count / (count + _DOUBT)
    score = excess / (excess + _HALF)
    if count <= state[_QUIET]:
        score /= 2
    elif score >= THRESHOLD:
        state[_QUIET] = count + rest
    return score, expected, True


class Detector:
    """One series' detector.

    Args:
        tuning: of the use.
        state: from :meth:`state`, to go on from.

    Raises:
        PredictError: the state is none of this detector's.
    """

    def __init__(self, tuning: Tuning = Tuning(), state: bytes | None = None) -> None:
        self._tuning = (tuning.memory, tuning.learn, float(tuning.rest), float(tuning.warm))
        self._state = np.zeros(_SIZE) if state is None else np.frombuffer(state, "<f8").copy()
        if len(self._state) != _SIZE:
            raise PredictError(f"a detector's state has {8 * _SIZE} bytes, not {8 * len(self._state)}")

    def state(self) -> bytes:
        """All that was learnt, of the same size for ever."""
        return self._state.astype("<f8").tobytes()

    def step(self, time: float, value: float) -> Reading:
        """Judge a record, then learn it; ``time`` in seconds since 1970 UTC."""
        return Reading(*_step(self._state, float(time), float(value), *self._tuning))
