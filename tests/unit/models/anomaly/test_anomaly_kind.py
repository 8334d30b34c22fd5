"""Planted trouble tells good limits from bad ones, and charts from a threshold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lakehouse.predict.watch import MEASURES, Version
from models.anomaly.kind import KIND, Held, _measured, plant
from models.trained import ModelError

START = 29_000_000


def minutes(seed: int, count: int = 700) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    index = pd.RangeIndex(START, START + count)
    day = np.sin(np.arange(count) / 230)
    services = {
        f"service/s{number}": pd.DataFrame(
            {
                "error_rate": 0.01 + np.abs(rng.normal(0, 0.003, count)),
                "p95_ms": 40 + 5 * day + rng.normal(0, 1, count),
            },
            index,
        )
        for number in range(4)
    }
    hosts = {
        f"host/h{number}": pd.DataFrame({m: 0.4 + rng.normal(0, 0.01, count) for m in MEASURES["host"]}, index)
        for number in range(3)
    }
    return services | hosts


@pytest.fixture(scope="module")
def held() -> Held:
    return plant(minutes(1), seed=1, since=START + 300)


def version(deviate: float) -> Version:
    return Version({"version": "1", "limits": {"deviate": deviate}})


def test_stock_charts_find_planted_trouble_better_than_three_deviations(held: Held) -> None:
    charts, threshold = KIND.measure(version(5.0), held), KIND.baseline(held)
    assert charts.value > threshold.value and charts.value > 0.7
    assert set(charts.slices) == {"services", "hosts"} and charts.p99_ms < 100


@pytest.mark.parametrize("deviate", [1.0, 60.0])
def test_limits_that_cry_wolf_or_sleep_are_worse(held: Held, deviate: float) -> None:
    assert KIND.measure(version(deviate), held).value < KIND.measure(version(5.0), held).value - 0.1


@pytest.mark.parametrize("windows", [1, 20])
def test_precision_is_that_of_one_incident_a_day_however_many_are_planted(windows: int) -> None:
    frame = pd.DataFrame({"error_rate": 0.0}, pd.RangeIndex(START, START + 2 * 1440))
    trouble = [(START + 100 * number, START + 100 * number + 9) for number in range(1, windows + 1)]
    held = Held({"service/s0": frame}, {"service/s0": START}, {"service/s0": trouble})
    right = {first + 2 for first, _ in trouble}
    false = {START + 2500, START + 2501, START + 2600, START + 2700}  # three, as two of them are one
    measured = _measured(held, {"service/s0": right | false}, [0.0])
    assert measured.more == pytest.approx({"recall": 1.0, "precision": 1 / (1 + 3 / 2)})
    late = _measured(held, {"service/s0": {first + 3 for first, _ in trouble}}, [0.0])
    assert late.more["recall"] == 0


def test_nothing_is_planted_before_the_held_out_time(held: Held) -> None:
    calm = minutes(1)
    for name, frame in held.minutes.items():
        before = frame.index < START + 300
        pd.testing.assert_frame_equal(frame[before], calm[name][before])
        assert held.trouble[name] and min(first for first, _ in held.trouble[name]) >= START + 300


def test_without_minutes_enough_there_is_nothing_to_measure_on() -> None:
    with pytest.raises(ModelError, match="90 minutes"):
        plant({}, seed=1)


def test_a_series_is_answered_minute_by_minute() -> None:
    calm = minutes(2)["service/s0"]
    values = calm.to_numpy().tolist()
    values[600] = [0.01, 90.0]
    inputs = pd.DataFrame({"time": calm.index * 60.0, "values": values})
    answer = KIND.call(version(5.0), inputs)
    assert answer["score"][600] >= 0.5 > answer["score"][500:600].max()
    assert tuple(answer.columns) == KIND.bounds.signature[1]


def test_charts_agree_with_themselves_and_the_less_the_further_their_limits_are_apart(held: Held) -> None:
    assert KIND.agreement(version(5.0), version(5.0), held) == {"same_verdict": 1.0, "kappa": 1.0}
    near, far = (KIND.agreement(version(5.0), version(other), held)["kappa"] for other in (6.0, 60.0))
    assert 1 > near > 0.5 > far >= 0
