"""The detector of one series alarms for what the series has not shown before, and for little else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lakehouse.predict import PredictError
from lakehouse.predict.anomaly import Detector, Reading, Tuning
from lakehouse.predict.chart import THRESHOLD, Floats

DAY = 288  # records of five minutes


def read(values: Floats, detector: Detector | None = None) -> list[Reading]:
    detector = detector or Detector()
    return [detector.step(1.7e9 + 300 * number, value) for number, value in enumerate(values)]


def alarms(values: Floats) -> list[int]:
    return [number for number, reading in enumerate(read(values)) if reading.score >= THRESHOLD]


def noise(records: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(100, 1, records)


def test_alarms_of_mere_noise_become_rare() -> None:
    found = np.concatenate([alarms(noise(10 * DAY, seed)) for seed in range(10)]) // (2 * DAY)
    days = np.bincount(found, minlength=5) / 20
    assert days[0] > 3 * days[-1] and days[-1] < 0.5


def test_a_spike_is_an_alarm_at_once_and_a_new_level_too() -> None:
    for change in (np.s_[2000:2001], np.s_[2000:]):
        values = noise(3000)
        values[change] += 10
        assert 2000 in alarms(values)


def test_a_day_that_does_not_come_is_an_alarm() -> None:
    values = noise(10 * DAY) + np.tile(np.repeat([0.0, 50.0], DAY // 2), 10)
    silent = values.copy()
    silent[8 * DAY + DAY // 2 : 9 * DAY] -= 50
    day = range(8 * DAY + DAY // 2, 9 * DAY)
    assert set(alarms(silent)) & set(day) and not set(alarms(values)) & set(day)


def test_less_than_was_shown_before_is_no_alarm() -> None:
    values = noise(3000)
    values[2000], values[2500] = 110, 107
    assert {2000, 2500} & set(alarms(values)) == {2000}


def test_alarms_do_not_depend_on_the_unit() -> None:
    values = noise(1000)
    values[800] += 20
    assert alarms(values) == alarms(1e-3 * values) == alarms(1e9 * values) == alarms(-values)


def test_scores_lie_between_0_and_1_and_a_flat_line_has_none() -> None:
    wild = np.random.default_rng(0).standard_cauchy(5000) ** 3
    assert all(0 <= reading.score <= 1 for reading in read(wild))
    assert {reading.score for reading in read(np.full(5000, 45.0))} == {0.0}


def test_what_is_no_number_and_what_comes_late_is_flagged_and_not_learnt() -> None:
    detector, other = Detector(), Detector()
    read(noise(500), detector), read(noise(500), other)
    last = 1.7e9 + 300 * 500
    for moment, value in ((last, math.nan), (last, math.inf), (last - 3600, 500.0)):
        assert detector.step(moment, value)[::2] == (0.0, False)
    assert [detector.step(last + n, 100.5) for n in range(9)] == [other.step(last + n, 100.5) for n in range(9)]


def test_one_huge_value_does_not_blind() -> None:
    values = noise(3000)
    values[1500], values[2500] = 1e300, 400
    assert {1500, 2500} <= set(alarms(values))


def test_the_state_goes_on_where_it_was_saved_and_never_grows() -> None:
    detector = Detector()
    read(noise(1000), detector)
    saved = detector.state()
    again = Detector(state=saved)
    assert read(noise(500, 1), again) == read(noise(500, 1), detector)
    assert len(detector.state()) == len(saved) < 4096
    with pytest.raises(PredictError):
        Detector(state=saved[8:])


def test_the_expected_value_is_nearer_than_the_mean_where_days_repeat() -> None:
    values = noise(10 * DAY) + 50 * np.sin(np.arange(10 * DAY) * 2 * np.pi / DAY)
    off = np.array([reading.expected for reading in read(values)])[5 * DAY :] - values[5 * DAY :]
    assert np.abs(off).mean() < 4


def test_after_an_alarm_there_is_rest() -> None:
    values = noise(1000)
    values[800:810] += np.arange(10, 110, 10)
    readings = read(values, Detector(Tuning(rest=5)))
    assert [n for n in range(800, 810) if readings[n].score >= THRESHOLD] == [800, 806]
