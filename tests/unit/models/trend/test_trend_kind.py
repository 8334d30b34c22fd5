"""Series of gold, what is held out of them, and what a forecast of them is worth."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.trained import ModelError
from models.trend import forecast as training
from models.trend.kind import KIND, ORIGINS, Local, _held
from models.trend.score import made as rows
from models.trend.series import HORIZON, STEP, Series, made

BEGIN = datetime(2026, 11, 24, tzinfo=UTC)


def daily(name: str, days: int, seed: int) -> Series:
    rng, steps = np.random.default_rng(seed), np.arange(days * 288)
    level = 200 * (1 + 0.6 * np.sin(2 * np.pi * steps / 288))
    return Series(name, BEGIN, np.maximum(level + rng.normal(0, 8, len(steps)), 0))


KNOWN = [daily(f"activity/t{number}", 6, number) for number in range(6)]


def test_missing_steps_are_none_of_a_count_and_gaps_of_a_measure() -> None:
    table = pd.DataFrame(
        [("activity/view", 100, 5.0), ("activity/view", 103, 7.0), ("activity/post", 102, 1.0),
         ("host/a/system.cpu.total.norm.pct", 101, 0.5), ("host/a/system.cpu.total.norm.pct", 103, 0.7)],
        columns=["series", "step", "value"],
    )  # fmt: skip
    found = {one.name: one for one in made(table, 104)}
    assert found["activity/view"].values.tolist() == [5, 0, 0, 7, 0]
    assert found["activity/post"].values.tolist() == [0, 0, 1, 0, 0]
    np.testing.assert_equal(found["host/a/system.cpu.total.norm.pct"].values, [0.5, np.nan, 0.7, np.nan])
    assert found["host/a/system.cpu.total.norm.pct"].begins == datetime.fromtimestamp(101 * STEP.seconds, UTC)


def test_a_trained_forecaster_knows_the_day_better_than_the_last_value_does() -> None:
    held = _held(KNOWN)
    fitted = training.fit([one.values[: -ORIGINS * held.horizon] for one in held.series], held.horizon)
    assert held.horizon == HORIZON and fitted is not None
    model = KIND.answers({**fitted[0], "version": "1"}, fitted[1])
    measured, last = KIND.measure(model, held), KIND.baseline(held)
    assert measured.more["mase"] < last.more["mase"] / 2 and measured.value > last.value
    assert measured.more["coverage"] > 0.8  # of 0.95: six series are few to learn intervals from
    assert measured.slices["activity"][1] == 6


def test_short_series_are_forecast_by_local_ones_and_too_short_ones_not_at_all() -> None:
    short = [Series(one.name, one.begins, one.values[:60]) for one in KNOWN]
    held = _held(short)
    assert 3 <= held.horizon < HORIZON
    assert KIND.measure(Local("1"), held).value > 0
    with pytest.raises(ModelError, match="steps of five minutes"):
        _held([Series("a/b", BEGIN, np.ones(30))])


def test_rows_follow_the_series_and_stay_in_its_bounds() -> None:
    now = datetime(2026, 11, 30, tzinfo=UTC)
    found = rows(Local("7"), Series("service/a/error_rate", BEGIN, np.full(600, 0.99)), now)
    assert found[0]["time"] == BEGIN + 600 * STEP and len(found) == HORIZON
    assert all(0 <= row["lo"] <= row["mean"] <= row["hi"] <= 1 and row["model_version"] == "7" for row in found)
    assert rows(Local("7"), Series("host/a/x.pct", BEGIN, np.full(5, np.nan)), now) == []


def test_it_answers_a_series_in_a_request() -> None:
    answer = KIND.call(Local("7"), pd.DataFrame({"series": [[1.0, 2.0] * 40], "horizon": [4]}))
    assert tuple(answer.columns) == KIND.bounds.signature[1] and len(answer["mean"][0]) == 4


def test_forecasters_differ_in_units_of_the_first_ones_error() -> None:
    class Moved(Local):
        def forecast(self, *given: Any, **more: Any) -> Any:
            said = super().forecast(*given, **more)
            return replace(said, mean=said.mean + 8)  # the standard deviation of the noise

    held = _held(KNOWN)
    assert KIND.agreement(Local("1"), Local("2"), held) == {"difference_by_error": 0}
    assert 0.3 < KIND.agreement(Local("1"), Moved("2"), held)["difference_by_error"] < 1.5
