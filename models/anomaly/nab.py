"""The score of the Numenta anomaly benchmark (Lavin & Ahmad 2015, section II; github.com/numenta/NAB, version 1.1).

A detection inside a labelled window earns by how early it is, only the earliest of a window counts, a missed window
costs, and every detection outside of the windows costs a little. Scores are added over all files and scaled so that a
detector that never fires has 0 and one that fires once at the start of every window has (about) 100.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROBATION = 0.15
"""Share of a file that is not scored, of at most 5,000 records."""

Cost = dict[str, float]
"""A profile's weights: `tpWeight`, `fpWeight`, `fnWeight`."""


@dataclass(frozen=True)
class Series:
    """One file of the benchmark: its name (`category/file.csv`), its columns as text, and windows as record numbers."""

    name: str
    timestamps: list[str]
    values: list[str]
    windows: list[tuple[int, int]]

    @property
    def times(self) -> NDArray[np.float64]:
        """Seconds since 1970, one a record."""
        micro = np.array(self.timestamps, "datetime64[us]").astype(np.int64)
        return np.asarray(micro / 1e6)


def read(data: Path) -> Iterator[Series]:
    """The files of a folder in the benchmark's layout, by name; a file without a label entry has no windows."""
    labels = json.loads((data / "labels" / "combined_windows.json").read_text())
    for path in sorted((data / "data").glob("*/*.csv")):
        name = f"{path.parent.name}/{path.name}"
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        series = Series(name, [row["timestamp"] for row in rows], [row["value"] for row in rows], [])
        for window in labels.get(name, []):
            first, last = np.array(window, "datetime64[us]").astype(np.int64) / 1e6
            inside = np.flatnonzero((series.times >= first) & (series.times <= last))
            series.windows.append((int(inside[0]), int(inside[-1])))
        yield series


def profiles(data: Path) -> dict[str, Cost]:
    """The cost matrix of every profile of `profiles.json`."""
    found: dict[str, Any] = json.loads((data / "profiles.json").read_text())
    return {name: profile["CostMatrix"] for name, profile in found.items()}


def sigmoid(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a detection is worth: near 1 at a window's left edge (-1), 0 at its right edge, -1 far behind it."""
    return np.where(position >= 3, -1.0, 2 / (1 + np.exp(5 * np.minimum(position, 3))) - 1)


def worth(records: int, windows: list[tuple[int, int]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The unweighted worth of a detection at each record, and the number of its window (-1 outside)."""
    at = np.arange(records)
    value, window = np.full(records, -1.0), np.full(records, -1)
    for number, (first, last) in enumerate(windows):
        width = last - first + 1
        value[last + 1 :] = sigmoid((at[last + 1 :] - last) / max(width - 1, 1))
        inside = slice(first, last + 1)
        value[inside] = sigmoid((at[inside] - last - 1) / width) / sigmoid(np.array(-1.0))
        window[inside] = number
    return value, window


def curve(
    found: list[tuple[Series, NDArray[np.float64]]], cost: Cost
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The score at every threshold: distinct anomaly scores in falling order, led by infinity, and the results.

    `found` has every file with its records' anomaly scores. A record is a detection when its score is the threshold or
    more, so the first result, at infinity, is the null detector's: 0.

    Raises:
        ValueError: no file has a window; then there is nothing to score.
    """
    thresholds, gains = [np.array([np.inf])], [np.array([0.0])]
    missed, perfect = 0.0, 0.0
    for series, anomaly in found:
        value, window = worth(len(anomaly), series.windows)
        scored = np.arange(len(anomaly)) >= min(int(PROBATION * len(anomaly)), PROBATION * 5000)
        outside = scored & (window < 0)
        thresholds.append(anomaly[outside])
        gains.append(cost["fpWeight"] * value[outside])
        perfect += cost["tpWeight"] * len(series.windows)
        for number in range(len(series.windows)):
            inside = np.flatnonzero(scored & (window == number))
            inside = inside[np.argsort(-anomaly[inside], kind="stable")]
            best = np.maximum.accumulate(np.append(-cost["fnWeight"], cost["tpWeight"] * value[inside]))
            thresholds.append(anomaly[inside])
            gains.append(np.diff(best))
            missed += cost["fnWeight"] * bool(len(inside))
    if not perfect:
        raise ValueError("the files have no labelled window")
    threshold, gain = np.concatenate(thresholds), np.concatenate(gains)
    order = np.argsort(-threshold, kind="stable")
    threshold, raw = threshold[order], np.cumsum(gain[order])
    last = np.append(threshold[1:] != threshold[:-1], True)
    return threshold[last], 100 * raw[last] / (perfect + missed)


def score(found: list[tuple[Series, NDArray[np.float64]]], cost: Cost, threshold: float) -> float:
    """The benchmark's score at one threshold for all files."""
    thresholds, results = curve(found, cost)
    return float(results[np.count_nonzero(thresholds >= threshold) - 1])
