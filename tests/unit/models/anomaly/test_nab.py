"""The scorer gives what the benchmark's own gives."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from lakehouse.settings import PROJECT
from models.anomaly import nab

DATA = Path(os.environ.get("LAKEHOUSE_DATA", PROJECT.parent / "shared" / "data")) / "nab"
COST = {"tpWeight": 1.0, "fnWeight": 1.0, "fpWeight": 0.11}
SERIES = nab.Series("some/file.csv", [], [], [(300, 399), (600, 699)])


def score(*detections: int, cost: nab.Cost = COST) -> float:
    anomaly = np.zeros(1000)
    anomaly[list(detections)] = 1
    return nab.score([(SERIES, anomaly)], cost, 0.5)


@pytest.mark.parametrize("detector", ["windowedGaussian", "knncad"])
def test_published_results_have_their_published_scores(detector: str) -> None:
    if not DATA.is_dir():
        pytest.skip(f"the NAB data set is not there: {DATA} (LAKEHOUSE_DATA names another folder)")
    found = []
    for series in nab.read(DATA):
        with (DATA / "reference" / detector / series.name).open(newline="") as file:
            found.append((series, np.array([float(row["anomaly_score"]) for row in csv.DictReader(file)])))
    published = json.loads((DATA / "reference" / "scores.json").read_text())
    for profile, cost in nab.profiles(DATA).items():
        thresholds, results = nab.curve(found, cost)
        assert results.max() == pytest.approx(published[profile][detector], abs=0.005)
        assert thresholds[results.argmax()] == published["thresholds found"][detector]


def test_silence_has_0_and_an_alarm_at_the_start_of_every_window_100() -> None:
    assert score() == 0
    assert score(300, 600) == pytest.approx(100)


def test_the_earlier_of_a_window_counts_and_earns_more() -> None:
    assert score(330, 600) < score(310, 600) == score(310, 320, 399, 600)


def test_a_false_alarm_costs_its_weight_but_less_right_after_a_window() -> None:
    assert score(200) == pytest.approx(-100 * 0.11 / 4)
    assert score(200) < score(405) < 0
    assert score(200, cost=COST | {"fpWeight": 0.22}) == pytest.approx(2 * score(200))


def test_what_happens_in_the_probation_is_not_scored() -> None:
    assert score(*range(150)) == 0 > score(150)


def test_a_file_without_a_label_entry_has_no_windows(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "combined_windows.json").write_text("{}")
    (tmp_path / "data" / "some").mkdir(parents=True)
    (tmp_path / "data" / "some" / "file.csv").write_text("timestamp,value\n2024-05-01 00:00:00,1.5\n")
    assert list(nab.read(tmp_path)) == [nab.Series("some/file.csv", ["2024-05-01 00:00:00"], ["1.5"], [])]
    with pytest.raises(ValueError, match="no labelled window"):
        nab.curve([(series, np.zeros(1)) for series in nab.read(tmp_path)], COST)
