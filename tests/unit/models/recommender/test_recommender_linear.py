"""The closed-form recommender learns tastes, baskets and nothing of an item for itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lakehouse.predict import Neighbours
from models.recommender import linear
from models.recommender.interactions import Interactions
from models.recommender.linear import Choice, autoencoder, baskets, choose, fit, low_pass, strongest


def tastes(users: int = 120, groups: int = 4, of_each: int = 15, seed: int = 0) -> pd.DataFrame:
    """Users who like most items of one group and few of the others, one after the other."""
    chance = np.random.default_rng(seed)
    likes = chance.random((users, groups * of_each)) < 0.05
    for row in range(users):
        own = np.arange(of_each) + of_each * (row % groups)
        likes[row, own] = chance.random(of_each) < 0.6
    user, item = likes.nonzero()
    return pd.DataFrame(
        {"user_id": user.astype(str), "item_id": [f"{i // of_each}-{i}" for i in item], "at": item * 60.0}
    )


def test_a_history_is_answered_with_items_of_its_taste() -> None:
    manifest, arrays = fit(Interactions.of(tastes()))
    model = Neighbours({**manifest, "version": "1"}, arrays)
    history = ["2-30", "2-31", "2-32"]
    assert {item[0] for item, _ in model.top(history, history, 8)} == {"2"}


def test_the_same_interactions_give_the_same_model_in_any_order() -> None:
    frame = tastes()
    one, other = (fit(Interactions.of(f)) for f in (frame, frame.sample(frac=1, random_state=1)))
    assert one[0]["chosen"] == other[0]["chosen"] and one[0]["items"] == other[0]["items"]


def test_the_autoencoder_solves_its_least_squares() -> None:
    basket = baskets(Interactions.of(tastes()), 0)
    x = basket.toarray().astype(float)
    weights, ridge = autoencoder(basket, 5.0), 5.0 * np.sqrt((x**2).sum(0) / (x**2).sum(0).mean())
    for item in (0, 7):
        others = np.arange(x.shape[1]) != item
        a = x[:, others]
        solved = np.linalg.solve(a.T @ a + np.diag(ridge[others]), a.T @ x[:, item])
        assert weights[others, item] == pytest.approx(solved, abs=1e-4) and weights[item, item] == 0


def test_a_short_basket_holds_what_lies_close_in_time_and_every_pair_within_half_its_length() -> None:
    x = Interactions.of(pd.DataFrame({"user_id": ["u"] * 3, "item_id": list("abc"), "at": [95.0, 105.0, 400.0]}))
    counts = (baskets(x, 100.0).T @ baskets(x, 100.0)).toarray()
    whole = (baskets(x, 0).T @ baskets(x, 0)).toarray()
    assert counts[0, 1] > whole[0, 1] and counts[0, 2] == whole[0, 2]


def test_the_strongest_weights_are_kept_whatever_their_sign_in_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(0)
    left, right, head = (chance.normal(size=size).astype(np.float32) for size in ((30, 4), (30, 4), (12, 12)))
    monkeypatch.setattr(linear, "BLOCK", 7 * 30)
    full = left @ right.T
    np.fill_diagonal(full, 0)
    full[:12, :12] += head
    made = strongest(left, right, 5, head)
    assert np.allclose(np.take_along_axis(full, made["neighbours"], 1), made["weights"], atol=1e-5)
    assert np.allclose(np.sort(np.abs(made["weights"]), 1), np.sort(np.abs(full), 1)[:, -5:], atol=1e-5)


def test_items_beyond_the_head_are_answered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "HEAD", 10)
    manifest, arrays = fit(Interactions.of(tastes()), choice=Choice(rank=4, ridge=5.0))
    tail = manifest["items"][-1]
    model = Neighbours({**manifest, "version": "1"}, arrays)
    assert [item[0] for item, _ in model.top([tail], [tail], 3)] == [tail[0]] * 3


def test_where_time_tells_nothing_it_is_not_chosen() -> None:
    x = Interactions.of(tastes())
    assert x.at is not None
    shuffled = replace(x, at=np.random.default_rng(0).permutation(x.at) * 1e6)
    assert choose(shuffled).window == 0 == choose(replace(x, at=None)).window


def test_two_items_and_two_users_are_enough() -> None:
    manifest, arrays = fit(Interactions.of(pd.DataFrame({"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"]})))
    assert [item for item, _ in Neighbours({**manifest, "version": "1"}, arrays).top(["a"], ["a"], 5)] == ["b"]


def test_low_pass_of_all_ranks_below_the_edge_gives_back_the_identity() -> None:
    left, right = low_pass(baskets(Interactions.of(tastes()), 0), 10_000)
    assert left @ right.T == pytest.approx(np.eye(len(left)), abs=1e-3)
