"""The detector on the benchmark, as the command evaluates it."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from lakehouse.settings import PROJECT
from models.anomaly.evaluate import evaluate

DATA = Path(os.environ.get("LAKEHOUSE_DATA", PROJECT.parent / "shared" / "data")) / "nab"


def test_the_benchmark_is_passed_at_one_threshold_and_every_score_is_written(tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip(f"the NAB data set is not there: {DATA} (LAKEHOUSE_DATA names another folder)")
    result = evaluate(DATA, tmp_path)
    assert result["standard_searched"] >= result["standard"] >= 66
    assert result["us_per_record"] <= 200
    with (tmp_path / "realTweets" / "Twitter_volume_FB.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15833 and set(rows[0]) == {"timestamp", "value", "anomaly_score"}
    assert all(0 <= float(row["anomaly_score"]) <= 1 for row in rows)
