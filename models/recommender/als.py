"""The recommender of a cluster: implicit alternating least squares in Spark, served in the form of the linear one.

Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets (ICDM 2008). Users' factors are not kept:
a history is folded in. With item factors Q, ridge regression of a history x on them gives the user Q'x, whitened by
Q'Q, and the scores Q (Q'Q + mI)^-1 Q' x: weights between items, of which the strongest are published.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.feature import StringIndexer
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame

from models.recommender.linear import KEEP, strongest


def fit(
    interactions: DataFrame,
    scratch: str,
    factors: int = 64,
    keep: int = KEEP,
    decay: float = 1.0,
    rounds: int = 10,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The manifest (without a version) and the arrays of ``lakehouse.predict.Neighbours``; the popular items first.

    Args:
        interactions: (user_id, item_id, weight).
        scratch: a folder that all executors reach; every other round is kept there, because the lineage of ten is
            deeper than a thread's stack.
        factors: of an item.
        keep: weights of an item that are published, those furthest from zero.
        decay: what an item of a history counts for the one after it.
        rounds: of the alternation.
        seed: of the factors that it starts with.
    """
    interactions.sparkSession.sparkContext.setCheckpointDir(scratch)
    indexer = StringIndexer(inputCols=["user_id", "item_id"], outputCols=["user", "item"]).fit(interactions)
    als = ALS(
        rank=factors,
        maxIter=rounds,
        regParam=0.1,
        alpha=5.0,
        implicitPrefs=True,
        userCol="user",
        itemCol="item",
        ratingCol="weight",
        checkpointInterval=2,
        seed=seed,
    )
    learned = als.fit(indexer.transform(interactions)).itemFactors.toPandas().sort_values("id")
    vectors = np.vstack(learned["features"].to_list()).astype(np.float32)
    squares = vectors.T @ vectors
    ridge = np.trace(squares) / factors * np.eye(factors, dtype=np.float32)
    items = [str(indexer.labelsArray[1][number]) for number in learned["id"]]
    manifest = {"kind": "als", "items": items, "decay": decay, "chosen": {"factors": factors, "rounds": rounds}}
    return manifest, strongest(np.linalg.solve(squares + ridge, vectors.T).T, vectors, keep)
