"""Who had to do with what, how much and when: implicit feedback, from the platform's events or a published data set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from scipy import sparse

WORTH = {"view": 1.0, "like": 3.0, "comment": 4.0, "bookmark": 4.0, "share": 5.0}
"""What an event tells of a user's interest, in views: more where it costs the user more; a judgement, not measured."""
HALF_LIFE = timedelta(days=30)
"""Age at which an event counts half."""
MICROS = {"spark": "unix_micros", "duckdb": "epoch_us"}


def interactions(user_events: DataFrame, now: datetime, half_life: timedelta = HALF_LIFE) -> DataFrame:
    """silver.user_events -> (user_id, item_id, weight, at): one row of each user and post that they have to do with.

    Of each type of event the newest up to ``now`` counts what it is worth, half after each ``half_life``, so that a
    page loaded again and again counts once; the sum is ``weight`` (> 0). A like that was taken back counts nothing.
    ``at`` is when the newest of these events was, in seconds since 1970; ``now`` has an offset.
    """
    query = _sql("{events}", now, half_life, "spark")
    found: DataFrame = user_events.sparkSession.sql(query, events=user_events)
    return found


def interactions_of(user_events: pd.DataFrame, now: datetime, half_life: timedelta = HALF_LIFE) -> pd.DataFrame:
    """The same of rows in memory, without Spark."""
    with duckdb.connect() as memory:
        memory.register("user_events", user_events)
        return memory.execute(_sql("user_events", now, half_life, "duckdb")).df()


def _sql(source: str, now: datetime, half_life: timedelta, engine: str) -> str:
    micros, half = round(now.timestamp() * 1e6), half_life / timedelta(microseconds=1)
    newest = ", ".join(
        f"max(case event_type when '{kind}' then micros end) as {kind}_at" for kind in (*WORTH, "unlike")
    )
    times = {kind: f"{kind}_at" for kind in WORTH} | {
        "like": "case when unlike_at >= like_at then null else like_at end"
    }
    valid = ", ".join(f"{time} as {kind}_at" for kind, time in times.items())
    weight = " + ".join(
        f"coalesce({worth} * power(0.5, ({micros} - {kind}_at) / {half}), 0)" for kind, worth in WORTH.items()
    )
    known = ", ".join(f"{kind}_at" for kind in WORTH)
    return f"""
        with events as (
            select user_id, post_id as item_id, event_type, {MICROS[engine]}(occurred_at) as micros from {source}
        ), newest as (
            select user_id, item_id, {newest} from events
            where item_id is not null and micros <= {micros} group by user_id, item_id
        ), valid as (select user_id, item_id, {valid} from newest)
        select user_id, item_id, cast({weight} as double) as weight, greatest({known}) / 1e6 as at
        from valid where coalesce({known}) is not null"""


@dataclass(frozen=True)
class Interactions:
    """At most one of a user with an item; ``user`` and ``item`` number the ids; ``at`` is in seconds, None unknown."""

    users: list[str]
    items: list[str]
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    weight: NDArray[np.float64]
    at: NDArray[np.float64] | None

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Interactions:
        """Of columns ``user_id``, ``item_id`` and perhaps ``weight`` (> 0; or 1) and ``at`` (seconds); a row a pair.

        Weights are brought to a mean square of 1, so that a ridge means the same whatever their unit.
        """
        frame = frame.sort_values(["user_id", "item_id"], ignore_index=True)  # the same rows, the same random parts
        user, users = pd.factorize(frame["user_id"], sort=True)
        item, items = pd.factorize(frame["item_id"], sort=True)
        weight = frame["weight"].to_numpy(np.float64) if "weight" in frame else np.ones(len(frame))
        at = frame["at"].to_numpy(np.float64) if "at" in frame else None
        return cls(list(users), list(items), user, item, weight / np.sqrt(np.mean(weight**2)), at)

    def where(self, kept: NDArray[np.bool_]) -> Interactions:
        """Those that are kept; users and items keep their numbers."""
        at = None if self.at is None else self.at[kept]
        return replace(self, user=self.user[kept], item=self.item[kept], weight=self.weight[kept], at=at)

    def of_items(self, numbers: NDArray[np.int64]) -> Interactions:
        """Those with these items, which are numbered in this order."""
        new = np.full(len(self.items), -1)
        new[numbers] = np.arange(len(numbers))
        left = self.where(new[self.item] >= 0)
        return replace(left, items=[self.items[number] for number in numbers], item=new[left.item])

    def popular(self) -> NDArray[np.int64]:
        """All items, those with the most users first."""
        return np.argsort(-np.bincount(self.item, minlength=len(self.items)), kind="stable")

    def matrix(self) -> Any:
        """Weights, sparse, (users, items)."""
        return sparse.csr_matrix((self.weight, (self.user, self.item)), (len(self.users), len(self.items)))
