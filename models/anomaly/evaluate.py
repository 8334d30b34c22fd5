"""The detector on the Numenta anomaly benchmark: one pass over each file, one threshold for all, fixed beforehand.

What was looked at when the detector was made: the 38 given files (artificial, AWS CloudWatch, tweets), their windows
and scores, also with the clock shifted, with noise and with records left out; none of the benchmark's other files. When
its main numbers (excess at the threshold, spans, memory, learning, rest: 162 combinations) are chosen on three of the
four categories and scored on the fourth, the sum over the four gives 71.5 for the profile standard.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np

from lakehouse.predict.anomaly import Detector
from lakehouse.predict.chart import THRESHOLD
from models.anomaly import nab


def evaluate(data: Path, out: Path | None = None) -> dict[str, Any]:
    """Score the detector on a folder in the benchmark's layout.

    Args:
        data: the folder with ``data/<category>/*.csv``, ``labels/combined_windows.json`` and ``profiles.json``.
        out: a folder for ``<category>/<file>.csv`` with ``timestamp,value,anomaly_score``, as the benchmark reads them.

    Returns:
        The score of every profile at the detector's threshold, ``threshold``, ``standard_searched`` (the best that any
        threshold would reach on these files) and ``us_per_record``, mean microseconds of a step over all records.

    Raises:
        ValueError: no file has a labelled window, or a value is no number.
    """
    Detector().step(0.0, 0.0)  # compiles
    found, seconds = [], 0.0
    for series in nab.read(data):
        detector = Detector()
        records = list(zip(series.times.tolist(), map(float, series.values), strict=True))
        began = time.perf_counter()
        scores = [detector.step(moment, value).score for moment, value in records]
        seconds += time.perf_counter() - began
        found.append((series, np.array(scores)))
        if out:
            _write(out / series.name, series, scores)
    profiles = nab.profiles(data)
    return {
        **{name: nab.score(found, cost, THRESHOLD) for name, cost in profiles.items()},
        "threshold": THRESHOLD,
        "standard_searched": float(nab.curve(found, profiles["standard"])[1].max()),
        "us_per_record": 1e6 * seconds / sum(len(scores) for _, scores in found),
    }


def _write(path: Path, series: nab.Series, scores: list[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["timestamp", "value", "anomaly_score"])
        rows.writerows(zip(series.timestamps, series.values, scores, strict=True))
