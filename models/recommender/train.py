"""Which recommender is trained: the better one while one machine holds the interactions, else the cluster's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pandas as pd
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
Model = tuple[dict[str, Any], dict[str, NDArray[Any]]]
"""The manifest and arrays of ``lakehouse.predict.Neighbours``."""


def train(
    user_events: DataFrame, now: datetime, scratch: str, decay: float = DECAY, one_machine: int = ONE_MACHINE
) -> Model:
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
    if number <= one_machine:
        return fitted(
            lambda time: of_events(user_events, time).toPandas(),
            lambda time: recency.attention(user_events, time).toPandas(),
            now, decay,
        )  # fmt: skip
    return fitted(
        lambda time: of_events(user_events, time).where(_sampled()).toPandas(),
        lambda time: recency.attention(user_events, time).toPandas(),
        now, decay, als.fit(interactions, scratch, decay=decay),
    )  # fmt: skip


def fitted(
    interactions: Callable[[datetime], pd.DataFrame],
    attention: Callable[[datetime], pd.DataFrame],
    now: datetime,
    decay: float = DECAY,
    known: Model | None = None,
) -> Model:
    """The same without Spark, from what is known as of a time.

    Args:
        interactions: (user_id, item_id, weight, at) up to a time, see ``interactions.py``.
        attention: (item_id, h1, h2, ...) up to a time, see ``recency.py``.
        now: the end of what is learnt from.
        decay: what an item of a history counts for the one after it.
        known: weights that are found already, of more interactions than these; only what is looked at is added.
    """
    frame = interactions(now).sort_values(["at", "user_id", "item_id"], ignore_index=True)
    x = Interactions.of(frame)
    choice = linear.choose(x)
    then = datetime.fromtimestamp(now.timestamp() - recency.HELD * (now.timestamp() - frame["at"].min()), UTC)
    moves = recency.choose(interactions(then), frame, attention(then), choice, decay)
    if known is not None:
        manifest, arrays = known
    elif moves:
        manifest, arrays = linear.tastes(x, moves[1], decay=decay)
    else:
        manifest, arrays = linear.fit(x, decay=decay, choice=choice)
    manifest["chosen"] = {**manifest["chosen"], "half_life_h": moves[0] if moves else 0.0}
    if moves:
        arrays |= recency.arrays(manifest, arrays, frame, attention(now), moves[0])
    return manifest, arrays


def _sampled() -> Column:
    return F.abs(F.xxhash64("user_id")) % 1000 < int(1000 * SAMPLE)
