"""The evaluation reads the published layout, and its figures can be had again from what it writes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lakehouse.settings import PROJECT
from models.recommender.evaluate import evaluate, read

DATA = Path(os.environ.get("LAKEHOUSE_DATA", PROJECT.parent / "shared" / "data")) / "movielens-100k" / "ml-100k.inter"
HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def written(file: Path, users: int = 60, items: int = 40) -> Path:
    likes = np.random.default_rng(0).random((users, items)) < np.linspace(0.6, 0.1, items)
    rows = "".join(f"{u}\t{i}\t{1 + u % 5}\t{u + i}\n" for u, i in zip(*likes.nonzero(), strict=True))
    file.write_text(HEADER + rows)
    return file


def test_every_rating_is_an_interaction_once(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text(HEADER + "7\t01\t1\t20\n7\t1\t5\t10\n7\t01\t3\t30\n")
    frame = read(tmp_path / "x.inter")
    assert frame.values.tolist() == [["7", "1", 10.0], ["7", "01", 30.0]]


def test_what_is_written_gives_the_figures_again_and_nothing_of_the_training_part(tmp_path: Path) -> None:
    data = written(tmp_path / "x.inter")
    whole = evaluate(data, tmp_path / "out", seeds=1)
    again = evaluate(data, tmp_path / "again", split=tmp_path / "out" / "test-0.inter")
    answers = pd.read_csv(tmp_path / "again" / "recommendations.csv", dtype={"user_id": str, "item_id": str})
    test = read(tmp_path / "out" / "test-0.inter")
    hit = answers.merge(test, on=["user_id", "item_id"])
    assert len(hit) / (10 * test["user_id"].nunique()) == pytest.approx(again["precision@10"])
    assert len(answers.merge(read(data), on=["user_id", "item_id"])) == len(hit)
    assert {**whole, "fit_s": 0} == {**again, "fit_s": 0}


def test_a_user_without_a_history_is_answered_what_is_popular(tmp_path: Path) -> None:
    data = written(tmp_path / "x.inter")
    frame = pd.read_csv(data, sep="\t", dtype=str)
    frame[frame["user_id:token"] == "5"].to_csv(tmp_path / "five.inter", sep="\t", index=False)
    assert evaluate(data, split=tmp_path / "five.inter")["precision@10"] > 0.3


def test_without_times_it_goes_by_whole_baskets(tmp_path: Path) -> None:
    data = written(tmp_path / "x.inter")
    pd.read_csv(data, sep="\t").iloc[:, :2].to_csv(tmp_path / "y.inter", sep="\t", index=False)
    assert evaluate(tmp_path / "y.inter", seeds=1)["ndcg@10"] > 0.2


@pytest.mark.long
def test_movielens_is_answered_better_than_the_best_published_closed_form() -> None:
    if not DATA.is_file():
        pytest.skip(f"MovieLens-100k is not there: {DATA} (LAKEHOUSE_DATA names another folder)")
    found = evaluate(DATA)
    assert found["ndcg@10"] >= 0.490 and found["map@10"] >= 0.152 and found["fit_s"] <= 10
