"""A chart alarms at once and for as long as series leave their range or their company."""

from __future__ import annotations

import numpy as np
import pytest

from lakehouse.predict import PredictError
from lakehouse.predict.chart import THRESHOLD, Chart, Floats, Observation


def read(values: Floats, chart: Chart | None = None) -> list[Observation]:
    chart = chart or Chart(values.shape[1])
    return [chart.step(60.0 * minute, row) for minute, row in enumerate(values)]


def alarms(values: Floats) -> list[int]:
    return [minute for minute, seen in enumerate(read(values)) if seen.score >= THRESHOLD]


def together(minutes: int, seed: int = 0) -> Floats:
    """Load drives two metrics, which differ by little; a third goes its own way."""
    rng = np.random.default_rng(seed)
    load = rng.normal(0, 1, minutes)
    return np.stack([load, load, rng.normal(0, 1, minutes)], axis=1) + rng.normal(0, 0.1, (minutes, 3))


def test_quiet_days_have_no_alarm() -> None:
    assert [alarms(together(1440, seed)) for seed in range(5)] == [[]] * 5


def test_every_one_of_like_incidents_is_an_alarm_from_the_first_minute() -> None:
    values = together(1440)
    starts = range(200, 1400, 120)
    for start in starts:
        values[start : start + 10, 2] += 8
    found = set(alarms(values))
    assert set(starts) <= found
    assert all(any(start <= minute < start + 15 for start in starts) for minute in found)


def test_a_broken_correlation_is_an_alarm_though_every_value_is_usual() -> None:
    values = together(1440)
    values[1000, :2] = 2, -2
    seen = read(values)[1000]
    assert seen.score >= THRESHOLD and np.abs(seen.deviations).max() < 3
    assert 1000 not in alarms(np.concatenate([values[:1000], [[2, 2, 0]]]))


def test_a_slow_drift_is_no_alarm() -> None:
    assert alarms(together(1440) + np.linspace(0, 30, 1440)[:, None]) == []


def test_the_steps_of_a_rounded_number_are_no_alarm_but_a_jump_is() -> None:
    values = (0.31 + np.arange(1440, dtype=np.float64) * 2e-6).round(4)[:, None]
    assert alarms(values) == []
    values[1000:] += 0.01
    assert alarms(values)[0] == 1000


def test_where_a_value_is_missing_the_others_are_judged() -> None:
    values = together(1000)
    values[500:, 0] = np.nan
    values[900, 2] = 9
    seen = read(values)
    assert 900 in alarms(values) and np.isnan(seen[900].deviations[0]) and seen[900].learnt
    assert Chart(1).step(0.0, [np.nan])[::3] == (0.0, False)


def test_a_late_observation_and_a_huge_value_are_survived() -> None:
    chart = Chart(3)
    read(together(500), chart)
    assert not chart.step(0.0, [1, 1, 1]).learnt
    assert chart.step(6e4, [1e308, -1e308, 0]).score > 0.9
    assert [seen.score >= THRESHOLD for seen in read(together(100), chart)[20:]] == [False] * 80


def test_the_state_goes_on_where_it_was_saved() -> None:
    chart = Chart(3)
    read(together(500), chart)
    again = Chart(3, state=chart.state())
    assert [seen.score for seen in read(together(99, 1), again)] == [
        seen.score for seen in read(together(99, 1), chart)
    ]
    with pytest.raises(PredictError):
        Chart(2, state=chart.state())
