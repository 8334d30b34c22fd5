"""Where attention moves on, what is looked at now is part of the answer; where it does not, it is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lakehouse.predict import Neighbours
from models.recommender import linear, recency
from models.recommender.interactions import Interactions

HOUR = 3600.0
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
TASTES, USERS, ITEMS = 3, 120, 240


def looked_at(moving: bool, seed: int = 0) -> pd.DataFrame:
    """Two days of views: of three tastes; where attention moves, of posts no older than two hours."""
    rng = np.random.default_rng(seed)
    rows = []
    for at in np.sort(rng.uniform(0, 48 * HOUR, 12_000)):
        user = int(rng.integers(USERS))
        if moving:
            item = int(np.clip(at / (48 * HOUR) * ITEMS - rng.exponential(6), 0, ITEMS - 1))
        else:
            item = int(rng.integers(ITEMS))
        item = min(item - item % TASTES + (user if rng.random() < 0.8 else int(rng.integers(9))) % TASTES, ITEMS - 1)
        rows.append((f"u{user}", f"p{item}", 1.0, at))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "weight", "at"])


def at(frame: pd.DataFrame, time: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Interactions as of a time, and what is looked at then."""
    past = frame[frame["at"] <= time]
    first = past.groupby("item_id")["at"].min()
    looked = pd.DataFrame({"item_id": first.index, "age_h": (time - first.to_numpy()) / HOUR})
    for hours in recency.HALF_LIVES:
        fresh = np.exp2((past["at"] - time) / (hours * HOUR)).groupby(past["item_id"]).sum()
        looked[f"h{hours:g}"] = fresh.reindex(looked["item_id"]).to_numpy()
    return past.drop_duplicates(["user_id", "item_id"], keep="last"), looked


def chosen(moving: bool) -> tuple[tuple[float, int] | None, Any]:
    frame = looked_at(moving)
    (before, looked), (after, _) = at(frame, 43 * HOUR), at(frame, 48 * HOUR)
    return recency.choose(before, after, looked, linear.Choice(rank=8), 1.0), frame


def test_it_is_found_that_attention_moves_on_within_hours() -> None:
    moves, frame = chosen(True)
    assert moves is not None and moves[0] <= 8
    now, looked = at(frame, 48 * HOUR)
    manifest, made = linear.tastes(Interactions.of(now), moves[1])
    made |= recency.arrays(manifest, made, now, looked, moves[0])
    model = Neighbours({**manifest, "version": "1"}, made)
    history = [f"p{item}" for item in range(100, 160, TASTES)]  # of one taste, a day ago
    top = [int(post[1:]) for post, _ in model.top(history, history, 10)]
    assert np.mean([item > ITEMS - 40 for item in top]) >= 0.8
    assert np.mean([item % TASTES == 100 % TASTES for item in top]) >= 0.8


def test_where_it_stays_nothing_of_the_kind_is_taken() -> None:
    assert chosen(False)[0] is None


def test_an_item_that_nobody_looks_at_is_still_ordered_by_taste() -> None:
    looked = pd.DataFrame({"item_id": ["a"], "age_h": [9.0], "h1": [3.0]})
    found = recency.weighed(looked, ["a", "b"], 1.0)
    assert found[0] == 1 and 0 < found[1] < 1e-5


def test_two_posts_looked_at_as_often_have_the_same_attention_however_young_one_is() -> None:
    rows = [(post, "view", m) for post, age in (("old", 3000), ("young", 30)) for m in range(1, age, 2)]
    rows += [("young", "post", 30), ("unseen", "post", 5)]
    frame = pd.DataFrame(rows, columns=["post_id", "event_type", "ago"])
    events = frame.assign(occurred_at=[NOW - timedelta(minutes=ago) for ago in frame["ago"]])
    looked = recency.attention_of(events, NOW)
    assert sorted(looked["item_id"]) == ["old", "young"]
    for hours in (1.0, 2.0):
        assert recency.weighed(looked, ["old", "young"], hours) == pytest.approx([1, 1], rel=0.02)
