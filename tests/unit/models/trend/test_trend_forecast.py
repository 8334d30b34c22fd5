"""Forecasts follow what the past repeats, and their intervals what it does not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lakehouse.predict import Champion, publish
from lakehouse.predict.forecast import Forecaster, forecast
from lakehouse.predict.seasonality import periods
from lakehouse.settings import PROJECT
from models.trend.evaluate import evaluate
from models.trend.forecast import fit

DATA = Path(os.environ.get("LAKEHOUSE_DATA", PROJECT.parent / "shared" / "data")) / "m4"
RANDOM = np.random.default_rng(7)


def wave(n: int, *cycles: int, noise: float = 0.3) -> np.ndarray:
    return 10 + sum(np.sin(2 * np.pi * np.arange(n) / c) for c in cycles) + noise * RANDOM.standard_normal(n)


@pytest.mark.parametrize(("n", "cycles"), [(180, (60,)), (100, (7,)), (700, (24,)), (1000, (24, 168))])
def test_periods_are_found_without_being_given(n: int, cycles: tuple[int, ...]) -> None:
    found = periods(wave(n, *cycles))
    assert len(found) == len(cycles)
    assert all(abs(a - b) <= max(1, b // 40) for a, b in zip(found, cycles, strict=True))


def test_random_walks_and_noise_seldom_have_a_period() -> None:
    noise = [RANDOM.standard_normal(200) for _ in range(200)]
    assert np.mean([bool(periods(x)) for x in noise]) < 0.1
    assert np.mean([bool(periods(np.cumsum(x))) for x in noise]) < 0.1


def test_a_season_goes_on_through_gaps() -> None:
    values = wave(480, 24, noise=0)
    gaps = np.where(RANDOM.random(456) < 0.2, np.nan, values[:456])
    said = forecast([gaps], 24)
    assert np.abs(said.mean[0] - values[456:]).max() < 0.3


def test_an_hour_of_minutes_that_rise_goes_on_rising_up_to_its_bound() -> None:
    said = forecast([np.linspace(0.5, 0.9, 60)], 30, lower=0, upper=1)
    assert said.mean[0, 4] == pytest.approx(0.9 + 5 * 0.4 / 59, abs=0.01)
    assert said.hi.max() <= 1 and said.mean[0, -1] == 1


@pytest.mark.parametrize(
    "values", [[], [np.nan], [3.0], [1, 2], [0] * 50, [7.5] * 9, [-1, 5, -3] * 9, [np.nan, 4, np.nan]]
)
def test_whatever_a_series_is_its_forecast_is_finite_and_within_its_interval(values: list[float]) -> None:
    said = forecast([np.array(values)], 12)
    known = np.isfinite(values).sum()
    assert np.isfinite(said.mean).all() == (known > 0)
    assert known < 2 or ((said.lo <= said.mean) & (said.mean <= said.hi)).all()


def test_intervals_of_a_random_walk_hold_what_they_say_and_widen() -> None:
    walks = np.cumsum(RANDOM.standard_normal((200, 320)), axis=1)
    said = forecast(list(walks[:, :300]), 20, periods=(), level=0.9)
    assert 0.8 < np.mean((said.lo <= walks[:, 300:]) & (walks[:, 300:] <= said.hi)) < 0.97
    width = (said.hi - said.lo).mean(axis=0)
    assert width[-1] > 2 * width[0]


def test_the_global_forecaster_is_published_as_arrays_and_answers_the_same(tmp_path: Path) -> None:
    series = [level * wave(200, 12) for level in (1, 50, 2000)]
    made = fit(series, 12)
    assert made is not None
    publish(tmp_path, "1", *made)
    champion = Champion(tmp_path, Forecaster).look()
    assert champion is not None and champion.periods == (12,)
    there = Forecaster({**made[0], "version": "1"}, made[1])
    assert np.array_equal(champion.forecast(series).mean, there.forecast(series).mean)


def test_what_the_global_forecaster_says_scales_with_the_series() -> None:
    series = [wave(200, 12) for _ in range(5)]
    manifest, arrays = fit(series, 12) or pytest.fail("too short")
    model = Forecaster({**manifest, "version": "1"}, arrays)
    assert np.allclose(model.forecast([1000 * series[0]]).hi, 1000 * model.forecast([series[0]]).hi)


def test_a_small_copy_of_the_competition_is_measured_and_written(tmp_path: Path) -> None:
    rows = {f"Q{i}": wave(n, 4) for i, n in enumerate((20, 40, 60), 1)}
    for part, at in (("train", slice(None, -8)), ("test", slice(-8, None))):
        lines = ['"V1","V2"'] + [",".join([f'"{k}"', *(f'"{x}"' for x in v[at]), ""]) for k, v in rows.items()]
        (tmp_path / f"Quarterly-{part}.csv").write_text("\n".join(lines))
    result = evaluate(tmp_path, tmp_path / "out")
    assert result["series"] == 3 and result["owa"] < 1
    assert len((tmp_path / "out" / "forecast.csv").read_text().splitlines()) == 1 + 3 * 8


def test_the_hourly_m4_series_are_forecast_within_the_bar() -> None:
    if not DATA.is_dir():
        pytest.skip(f"the M4 data set is not there: {DATA} (LAKEHOUSE_DATA names another folder)")
    result = evaluate(DATA)
    assert result["naive2"] == pytest.approx({"smape": 18.383, "mase": 2.395}, abs=5e-4)
    assert result["owa"] <= 0.5 and result["seconds"] <= 120
    assert result["coverage"] >= 0.9
