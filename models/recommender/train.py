"""Which recommender is trained: the better one while one machine holds the interactions, else the cluster's."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.predict.recommend import HISTORY_DECAY
from models.recommender import als, linear
from models.recommender.interactions import Interactions

ONE_MACHINE = 5_000_000
"""Interactions that are brought to one machine."""


def train(
    interactions: DataFrame, scratch: str, decay: float = HISTORY_DECAY, one_machine: int = ONE_MACHINE
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """(user_id, item_id, weight, at) -> the manifest and arrays of ``lakehouse.predict.Neighbours``.

    Args:
        interactions: as ``interactions.interactions`` makes them.
        scratch: a folder that all executors reach.
        decay: what an item of a history counts for the one after it.
        one_machine: interactions up to which they are brought here.

    Raises:
        ValueError: there are fewer than two users or items.
    """
    number, users, items = interactions.agg(
        F.count("*"), F.countDistinct("user_id"), F.countDistinct("item_id")
    ).collect()[0]
    if users < 2 or items < 2:
        raise ValueError(f"a recommender needs two users and two items, not {users} and {items}")
    if number > one_machine:
        return als.fit(interactions, scratch, decay=decay)
    frame = interactions.toPandas().sort_values(["at", "user_id", "item_id"], ignore_index=True)
    return linear.fit(Interactions.of(frame), decay=decay)
