"""How soon attention moves on, and what is looked at now: the part of a recommendation that is news, not taste.

A service whose posts live for hours needs both (see ``lakehouse.predict.Neighbours``); one whose items stay, such as
films, neither. Which it is, is found from the data: with several half-lives, and without, the last tenth of the time is
foretold from what lies before it.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from lakehouse.predict import Neighbours
from models.recommender import linear
from models.recommender.interactions import MICROS, WORTH, Interactions
from models.recommender.metrics import K, measure

HALF_LIVES = (1.0, 2.0, 4.0, 8.0, 24.0, 72.0, 168.0)
"""Hours that are tried."""
HELD = 0.1
"""Share of the time that is foretold."""
USERS = 1000
HISTORY = 100
_TIME = 0.1
"""The least share of the time of others that a young item is taken to have had: one look does not count as twenty."""
_FLOOR = 1e-6
"""The least attention, as a share of the greatest: what is not looked at now is still ordered by taste."""


def attention(user_events: DataFrame, now: datetime) -> DataFrame:
    """silver.user_events -> (item_id, age_h, h1, h2, ...): what items were looked at up to ``now``, by each half-life.

    Every event that is an interaction counts one, half after each half-life; ``age_h`` is hours since an item's first
    event of any type, such as its post; ``now`` has an offset.
    """
    return user_events.sparkSession.sql(attention_sql("{events}", now, "spark"), events=user_events)


def attention_of(user_events: pd.DataFrame, now: datetime) -> pd.DataFrame:
    """The same of rows in memory, without Spark."""
    with duckdb.connect() as memory:
        memory.register("user_events", user_events)
        return memory.execute(attention_sql("user_events", now, "duckdb")).df()


def attention_sql(source: str, now: datetime, engine: str) -> str:
    """The same as a query over a relation; ``engine`` is spark or duckdb."""
    micros = round(now.timestamp() * 1e6)
    age = f"({micros} - {MICROS[engine]}(occurred_at)) / 3.6e9"
    kinds = ", ".join(f"'{kind}'" for kind in WORTH)
    looks = f"event_type in ({kinds})"
    columns = ", ".join(
        f"sum(case when {looks} then power(0.5, {age} / {hours}) end) as {_column(hours)}" for hours in HALF_LIVES
    )
    return f"""
        select post_id as item_id, max({age}) as age_h, {columns} from {source}
        where post_id is not null and {MICROS[engine]}(occurred_at) <= {micros}
        group by post_id having count(case when {looks} then 1 end) > 0"""


def _column(hours: float) -> str:
    return f"h{hours:g}"


def weighed(found: pd.DataFrame, items: list[str], hours: float) -> NDArray[np.float32]:
    """(items,) The attention of a half-life, as a share of the greatest.

    An item younger than the half-lives that are summed up has not had the time of the others: what it has is brought to
    what it would be had it been looked at as often all along.
    """
    had = np.maximum(1 - np.exp2(-found["age_h"] / hours), _TIME)
    now = (found[_column(hours)] / had).set_axis(found["item_id"]).reindex(items).fillna(0.0).to_numpy()
    return np.asarray(np.maximum(now / max(now.max(initial=0.0), 1e-300), _FLOOR), dtype=np.float32)


def usual(model: Neighbours, histories: list[list[str]]) -> NDArray[np.float32]:
    """(items,) The mean of the items' positive scores over users, each user's of length 1."""
    total: NDArray[Any] | float = 0.0
    for history in histories:
        found = model.scores(history)
        if found is not None:
            scores = found[0]
            total = total + np.maximum(scores, 0.0) / max(float(np.linalg.norm(scores)), 1e-12)
    return np.asarray(total / max(len(histories), 1), dtype=np.float32)


def histories(frame: pd.DataFrame) -> pd.Series:
    """user_id -> the items of a user's history, newest last, the newest of them."""
    ordered = frame.sort_values(["at", "item_id"])
    return ordered.groupby("user_id")["item_id"].agg(lambda items: list(items)[-HISTORY:])


def arrays(
    manifest: dict[str, Any], made: dict[str, NDArray[Any]], frame: pd.DataFrame, looked: pd.DataFrame, hours: float
) -> dict[str, NDArray[Any]]:
    """``attention`` and ``usual`` for a fitted model, from interactions and :func:`attention` as of now."""
    users = histories(frame)
    sample = users.sample(min(USERS, len(users)), random_state=0)
    return {
        "attention": weighed(looked, manifest["items"], hours),
        "usual": usual(Neighbours({**manifest, "version": "fitted"}, made), list(sample)),
    }


def choose(
    before: pd.DataFrame, after: pd.DataFrame, looked: pd.DataFrame, choice: linear.Choice, decay: float
) -> tuple[float, int] | None:
    """The half-life in hours and the rank of the tastes that foretell best what comes next.

    None where they are not better than what ``linear.fit`` makes by more than the standard error of the mean gain of
    nDCG@10 over the users. The half-life is found first, at the rank of its choice, then the rank, up to that one: what
    news tells, taste need not.

    Args:
        before: interactions (user_id, item_id, weight, at) as of a time.
        after: those up to now; what is not among the others is to be foretold.
        looked: :func:`attention` as of that time.
        choice: of the linear model.
        decay: of histories.
    """
    pairs = ["user_id", "item_id"]
    after = after[~pd.MultiIndex.from_frame(after[pairs]).isin(pd.MultiIndex.from_frame(before[pairs]))]
    known = histories(before)
    wanted = after[after["user_id"].isin(known.index)].groupby("user_id")["item_id"].agg(set)
    wanted = wanted.sample(min(USERS, len(wanted)), random_state=0)
    if len(wanted) < 10 or before["item_id"].nunique() < 2:
        return None
    x = Interactions.of(before)

    def worth(manifest: dict[str, Any], made: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
        model = Neighbours({**manifest, "version": "tried"}, made)
        hits = np.zeros((len(wanted), K), dtype=bool)
        for row, (user, items) in enumerate(wanted.items()):
            history = known[str(user)]
            top = model.top(history, history, K)
            hits[row, : len(top)] = [item in items for item, _ in top]
        return measure(hits, wanted.map(len).to_numpy())["ndcg@10"]

    @cache
    def moving(rank: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        manifest, made = linear.tastes(x, rank, decay=decay)
        return manifest, made | arrays(manifest, made, before, looked, HALF_LIVES[0])

    @cache
    def foretold(hours: float, rank: int) -> NDArray[np.float64]:
        manifest, made = moving(rank)
        return worth(manifest, {**made, "attention": weighed(looked, manifest["items"], hours)})

    hours = max(HALF_LIVES, key=lambda hours: float(foretold(hours, choice.rank).mean()))
    ranks = [rank for rank in linear.RANKS if rank <= choice.rank]
    rank = max(ranks, key=lambda rank: float(foretold(hours, rank).mean()), default=choice.rank)
    gain = foretold(hours, rank) - worth(*linear.fit(x, decay=decay, choice=choice))
    return (hours, rank) if gain.mean() > gain.std() / np.sqrt(len(gain)) else None
