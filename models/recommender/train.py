"""Which recommender is trained: the better one while one machine holds the interactions, else the cluster's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from models.recommender import als, linear, recency
from models.recommender.interactions import Interactions
from models.recommender.interactions import interactions as of_events
from models.trained import ModelError

DECAY = 0.97
"""What an item of a history counts for the one after it."""
ONE_MACHINE = 5_000_000
"""Interactions that are brought to one machine."""
SAMPLE = 0.05
"""Of more than that, the share of the users by whom it is found how soon attention moves on."""


def train(
    user_events: DataFrame, now: datetime, scratch: str, decay: float = DECAY, one_machine: int = ONE_MACHINE
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """silver.user_events up to ``now`` -> the manifest and arrays of ``lakehouse.predict.Neighbours``.

    Args:
        user_events: the table.
        now: the end of what is learnt from, with an offset.
        scratch: a folder that all executors reach.
        decay: what an item of a history counts for the one after it.
        one_machine: interactions up to which they are brought here.

    Raises:
        ModelError: there are fewer than two users or items.
    """
    interactions = of_events(user_events, now)
    number, users, items = interactions.agg(
        F.count("*"), F.countDistinct("user_id"), F.countDistinct("item_id")
    ).collect()[0]
    if users < 2 or items < 2:
        raise ModelError(f"a recommender needs two users and two posts, not {users} and {items}: let more events come")
    large = number > one_machine
    part = interactions.where(_sampled()) if large else interactions
    frame = part.toPandas().sort_values(["at", "user_id", "item_id"], ignore_index=True)
    x = Interactions.of(frame)
    choice = linear.choose(x)
    if large:
        manifest, arrays = als.fit(interactions, scratch, decay=decay)
    else:
        manifest, arrays = linear.fit(x, decay=decay, choice=choice)
    first = frame["at"].min()
    then = datetime.fromtimestamp(now.timestamp() - recency.HELD * (now.timestamp() - first), UTC)
    then_known = of_events(user_events, then)
    before = (then_known.where(_sampled()) if large else then_known).toPandas()
    hours = recency.choose(before, frame, recency.attention(user_events, then).toPandas(), choice, decay)
    if hours and not large:
        manifest, arrays = linear.tastes(x, choice.rank, decay=decay)
    manifest["chosen"] = {**manifest["chosen"], "half_life_h": hours or 0.0}
    if hours:
        arrays |= recency.arrays(manifest, arrays, frame, recency.attention(user_events, now).toPandas(), hours)
    return manifest, arrays


def _sampled() -> Column:
    return F.abs(F.xxhash64("user_id")) % 1000 < int(1000 * SAMPLE)
