"""The stream's features and a training set's are the same numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from random import Random

import duckdb
import pandas as pd
import pytest

from lakehouse import features

START = datetime(2026, 11, 26, 10, tzinfo=UTC)


def history(seed: int) -> pd.DataFrame:
    random = Random(seed)
    rows = [
        (f"u{random.randint(0, 5)}", random.choice(["view", "view", "like", "visit"]),
         START + timedelta(seconds=random.uniform(0, 7200)))
        for _ in range(600)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["user_id", "event_type", "occurred_at"])


@pytest.mark.parametrize("seed", range(3))
def test_batch_and_stream_agree_at_every_moment(seed: int) -> None:
    events, random = history(seed), Random(seed)
    moments = pd.DataFrame(
        [(f"u{u}", START + timedelta(seconds=random.uniform(0, 9000))) for u in range(6) for _ in range(20)],
        columns=["user_id", "moment"],
    )
    found = duckdb.execute(features.sql("events", "moments", "duckdb")).df().set_index(["user_id", "moment"])
    checked = 0
    for user, moment in moments.itertuples(index=False):
        past = events[(events.user_id == user) & (events.occurred_at <= moment)]
        minutes: dict[int, Counter[str]] = defaultdict(Counter)
        for kind, at in past[["event_type", "occurred_at"]].itertuples(index=False):
            minutes[int(at.timestamp()) // 60][kind] += 1
        if not minutes:
            assert (user, moment) not in found.index
            continue
        row = found.loc[(user, moment)]
        assert {name: row[name] for name in features.USER} == features.of_minutes(minutes)
        assert row["newest_at"] == past.occurred_at.max()
        checked += 1
    assert checked > 100


def test_what_comes_after_a_moment_does_not_change_its_row() -> None:
    events = history(9)
    moments = pd.DataFrame({"user_id": ["u1"], "moment": [START + timedelta(hours=1)]})
    past = events[events.occurred_at <= START + timedelta(hours=1)]
    whole = duckdb.execute(features.sql("events", "moments", "duckdb")).df()
    known = duckdb.execute(features.sql("past", "moments", "duckdb")).df()
    assert len(moments) == len(whole) == 1 and len(past) < len(events)
    pd.testing.assert_frame_equal(whole, known)


@pytest.mark.parametrize("half_life", [None, 2.0])
def test_a_posts_features_are_a_days_interactions_up_to_now(half_life: float | None) -> None:
    random, now = Random(4), START
    rows = [
        (f"u{random.randint(0, 9)}", random.choice([None, "p1", "p2", "p3"]), random.choice(["view", "like", "post"]),
         now - timedelta(hours=random.uniform(-2, 30)))
        for _ in range(900)
    ]  # fmt: skip
    events = pd.DataFrame(rows, columns=["user_id", "post_id", "event_type", "occurred_at"])
    with duckdb.connect() as memory:
        memory.register("events", events)
        found = memory.execute(features.posts_sql("events", now, half_life, "duckdb")).df().set_index("post_id")
    assert [*found] == [*features.POST, "rank"]
    for post, row in found.iterrows():
        past = [(u, at) for u, p, kind, at in rows if p == post and kind != "post" and now - timedelta(1) < at <= now]
        users = len({user for user, _ in past})
        assert (row["at"], row["interactions"], row["users"]) == (max(at for _, at in past), len(past), users)
        decayed = sum(0.5 ** ((now - at) / timedelta(hours=half_life or 1)) for _, at in past)
        assert row["attention"] == pytest.approx(decayed) if half_life else pd.isna(row["attention"])
    order = found.sort_values(["users", "interactions", "post_id"], ascending=[False, False, True])
    assert list(order["rank"]) == [1, 2, 3]


def test_age_is_fresh_then_stale_and_missing_without_events() -> None:
    assert features.age(START, START + timedelta(minutes=15)) == "fresh"
    assert features.age(START, START + timedelta(minutes=16)) == "stale"
    assert features.age(None, START) == "missing"
