"""How soon attention moves on, and what is looked at now: the part of a recommendation that is news, not taste.

A service whose posts live for hours needs both (see ``lakehouse.predict.Neighbours``); one whose items stay, such as
films, neither. Which it is, is found from the data: with several half-lives, and without, the last tenth of the time is
foretold from what lies before it.
"""

from __future__ import annotations

from datetime import datetime
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
_FLOOR = 1e-6
"""The least attention, as a share of the greatest: what is not looked at now is still ordered by taste."""


def attention(user_events: DataFrame, now: datetime) -> DataFrame:
    """silver.user_events -> (item_id, h1, h2, ...): what each item was looked at up to ``now``, by each half-life.

    Every event that is an interaction counts one, half after each half-life; ``now`` has an offset.
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
    columns = ", ".join(f"sum(power(0.5, {age} / {hours})) as {_column(hours)}" for hours in HALF_LIVES)
    kinds = ", ".join(f"'{kind}'" for kind in WORTH)
    return f"""
        select post_id as item_id, {columns} from {source}
        where post_id is not null and event_type in ({kinds}) and {MICROS[engine]}(occurred_at) <= {micros}
        group by post_id"""


def _column(hours: float) -> str:
    return f"h{hours:g}"


def weighed(found: pd.DataFrame, items: list[str], hours: float) -> NDArray[np.float32]:
    """(items,) The attention of a half-life, as a share of the greatest."""
    now = found.set_index("item_id")[_column(hours)].reindex(items).fillna(0.0).to_numpy()
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
) -> float | None:
    """The half-life in hours that foretells best what comes next, None where none is better than without.

    A half-life is taken where its mean gain of nDCG@10 over the users is more than the standard error of that gain.

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

    best, found = worth(*linear.fit(x, decay=decay, choice=choice)), None
    manifest, made = linear.tastes(x, choice.rank, decay=decay)
    made |= arrays(manifest, made, before, looked, HALF_LIVES[0])
    for hours in HALF_LIVES:
        other = worth(manifest, {**made, "attention": weighed(looked, manifest["items"], hours)})
        gain = other - best
        if gain.mean() > gain.std() / np.sqrt(len(gain)):
            best, found = other, hours
    return found
