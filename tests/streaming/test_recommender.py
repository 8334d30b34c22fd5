"""The recommender's parts that need Spark: interactions of events, the cluster's factors, which model is trained."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession

from lakehouse import features
from lakehouse.predict import Neighbours, prepare, read
from models.recommender.interactions import interactions, interactions_of
from models.recommender.recency import attention, attention_of
from models.recommender.train import train
from models.scoring import HISTORY, TOP, recommended
from models.trained import ModelError

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def events(count: int = 600) -> pd.DataFrame:
    chance = random.Random(0)
    kinds = ["view", "like", "unlike", "comment", "share", "bookmark", "post", "visit"]
    rows = [
        (
            f"u{chance.randrange(9)}",
            chance.choice([None, "p1", "p2", "p3"]),
            chance.choice(kinds),
            chance.randrange(-9, 10**6),
        )
        for _ in range(count)
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "post_id", "event_type", "ago"])
    return frame.assign(occurred_at=[NOW - timedelta(seconds=ago) for ago in frame.pop("ago")])


@pytest.fixture(scope="module")
def tastes(spark: SparkSession) -> DataFrame:
    """Users of three tastes, and what each had to do with."""
    chance = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"{item % 3}-{item}", "view", NOW - timedelta(seconds=int(chance.integers(1, 10**6))))
        for user in range(150)
        for item in range(30)
        if chance.random() < (0.7 if item % 3 == user % 3 else 0.05)
    ]
    return spark.createDataFrame(rows, "user_id string, post_id string, event_type string, occurred_at timestamp")


def test_attention_is_the_same_with_and_without_spark(spark: SparkSession) -> None:
    frame = events()
    found = attention(spark.createDataFrame(frame), NOW).toPandas().sort_values("item_id", ignore_index=True)
    same = attention_of(frame, NOW).sort_values("item_id", ignore_index=True)
    pd.testing.assert_frame_equal(found, same, check_exact=False, rtol=1e-9)
    assert list(found["item_id"]) == ["p1", "p2", "p3"]


def test_interactions_of_events_are_the_same_with_and_without_spark(spark: SparkSession) -> None:
    frame = events()
    found = interactions(spark.createDataFrame(frame), NOW).toPandas()
    order = ["user_id", "item_id"]
    made, same = (f.sort_values(order, ignore_index=True) for f in (found, interactions_of(frame, NOW)))
    pd.testing.assert_frame_equal(made, same, check_exact=False, rtol=1e-12)
    assert len(found) > 20


@pytest.mark.parametrize(("one_machine", "kind"), [(10_000, "linear"), (10, "als")])
def test_both_models_answer_with_the_taste_of_a_history(
    tastes: DataFrame, tmp_path: Path, one_machine: int, kind: str
) -> None:
    manifest, arrays = train(tastes, NOW, str(tmp_path), one_machine=one_machine)
    model = Neighbours({**manifest, "version": "1"}, arrays)
    assert manifest["kind"] == kind
    assert {item[0] for item, _ in model.top(["1-1", "1-4"], {"1-1", "1-4"}, 4)} == {"1"}


def test_a_model_of_one_user_is_refused(tastes: DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="two users and two posts"):
        train(tastes.where("user_id = 'u0'"), NOW, str(tmp_path))


def test_spark_recommends_everybody_what_the_processor_answers_on_the_same_history(
    spark: SparkSession, tastes: DataFrame, tmp_path: Path
) -> None:
    manifest, arrays = train(tastes, NOW, str(tmp_path))
    items = len(manifest["items"])
    arrays |= {"attention": np.linspace(0.1, 1, items, dtype=np.float32), "usual": np.full(items, 0.1, np.float32)}
    prepare(tmp_path, "3", manifest, arrays)
    found = recommended(tastes, tmp_path / "3", NOW).toPandas().sort_values(["user_id", "rank"])
    model = Neighbours(*read(tmp_path / "3"))
    past = interactions_of(tastes.toPandas(), NOW).sort_values(["at", "item_id"])
    histories = past.groupby("user_id")["item_id"].agg(list)
    answers = {user: model.top(history[-HISTORY:], set(history), TOP) for user, history in histories.items()}
    wanted = [(u, rank, *pair, "3") for u, top in sorted(answers.items()) for rank, pair in enumerate(top, 1)]
    assert list(found.drop(columns="at").itertuples(index=False, name=None)) == wanted
    assert found["user_id"].nunique() == 150


@pytest.mark.parametrize("half_life", [None, 2.0])
def test_features_of_posts_are_the_same_with_and_without_spark(spark: SparkSession, half_life: float | None) -> None:
    frame = events()
    found = features.of_posts(spark.createDataFrame(frame), NOW, half_life).toPandas()
    same = duckdb.execute(features.posts_sql("frame", NOW, half_life, "duckdb")).df()
    assert list(found) == list(same) and sorted(found["post_id"]) == ["p1", "p2", "p3"]
    for name in ("interactions", "users", "rank", "attention"):
        one, other = (f.sort_values("post_id")[name].to_numpy(float) for f in (found, same))
        assert np.allclose(one, other, rtol=1e-9, equal_nan=True), name
