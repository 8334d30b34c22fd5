"""The evaluation of the template miner on logs in loghub's layout."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from lakehouse.settings import PROJECT
from models.anomaly.logs import evaluate, grouping_accuracy, parsing_accuracy

DATA = Path(os.environ.get("LAKEHOUSE_DATA", PROJECT.parent / "shared" / "data")) / "loghub"
ROWS = [('say "hi", 1', 'say "hi", <*>'), ("", ""), ("two\nlines 7", "two"), ('say "hi", 2', 'say "hi", <*>')]


def published(folder: Path, rows: list[tuple[str, str]]) -> Path:
    (folder / "Ours").mkdir(parents=True)
    with (folder / "Ours" / "Ours_2k.log_structured.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("LineId", "Content", "EventTemplate"), *((n, *row) for n, row in enumerate(rows, 1))]
        )
    return folder


def test_lines_count_only_in_groups_that_are_exactly_the_truths() -> None:
    assert grouping_accuracy([1, 1, 2, 2, 3], ["a", "a", "b", "c", "d"]) == 3 / 5
    assert grouping_accuracy([1, 1, 1], ["a", "a", "b"]) == 0


def test_adjacent_gaps_and_blanks_are_one() -> None:
    assert parsing_accuracy(["a <*><*> <*> b", "a  b", "a"], ["a <*> b", "a b", "b"]) == 2 / 3


def test_quotes_commas_breaks_and_blank_lines_are_read_and_every_line_is_written(tmp_path: Path) -> None:
    scores = evaluate(published(tmp_path / "in", ROWS), tmp_path / "out")
    assert scores["mean"] == scores["systems"]["Ours"] == {"grouping_accuracy": 1.0, "parsing_accuracy": 1.0}
    with (tmp_path / "out" / "Ours.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [(row["line_id"], row["template"]) for row in written] == [(str(n), t) for n, (_, t) in enumerate(ROWS, 1)]
    assert written[0]["template_id"] == written[3]["template_id"]


def test_a_folder_without_systems_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no"):
        evaluate(tmp_path)


def test_the_published_logs_are_grouped() -> None:
    if not DATA.is_dir():
        pytest.skip(f"the loghub data set is not there: {DATA} (LAKEHOUSE_DATA names another folder)")
    scores = evaluate(DATA)
    assert scores["mean"]["grouping_accuracy"] >= 0.97
    assert scores["mean"]["parsing_accuracy"] >= 0.8
