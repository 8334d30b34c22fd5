"""What an event tells of interest, by type and age, without Spark; the same in Spark is held equal in streaming."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from models.recommender.interactions import HALF_LIFE, WORTH, Interactions, interactions_of

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def weights(*events: tuple[str, timedelta]) -> list[float]:
    frame = pd.DataFrame(
        [{"user_id": "u", "post_id": "p", "event_type": t, "occurred_at": NOW - ago} for t, ago in events]
    )
    return list(interactions_of(frame, NOW)["weight"])


def test_types_add_up_and_halve_with_age_but_a_page_loaded_again_counts_once() -> None:
    old = HALF_LIFE
    assert weights(("view", old), ("share", old * 2)) == pytest.approx([WORTH["view"] / 2 + WORTH["share"] / 4])
    assert weights(*[("view", old * age) for age in (1, 2, 3)]) == pytest.approx([WORTH["view"] / 2])


def test_an_unlike_negates_the_likes_before_it_and_not_the_one_after() -> None:
    hour = timedelta(hours=1)
    assert weights(("like", 2 * hour), ("unlike", hour)) == []
    assert weights(("like", hour), ("unlike", hour)) == []
    assert weights(("unlike", 2 * hour), ("like", 0 * hour)) == pytest.approx([WORTH["like"]])
    assert weights(("view", 0 * hour), ("like", 2 * hour), ("unlike", hour)) == pytest.approx([WORTH["view"]])


def test_what_is_yet_to_come_and_what_is_no_interest_do_not_count() -> None:
    assert weights(("like", -timedelta(seconds=1)), ("post", timedelta(0)), ("unlike", timedelta(0))) == []


def test_weights_have_a_mean_square_of_one_whatever_their_unit() -> None:
    frame = pd.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "x"], "weight": [3.0, 4.0]})
    small = Interactions.of(frame.assign(weight=frame["weight"] / 100))
    assert (small.weight**2).mean() == pytest.approx(1) and small.weight == pytest.approx(Interactions.of(frame).weight)
