"""Published arrays answer, one whole version at a time."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from lakehouse.predict import CURRENT, Champion, Neighbours, PredictError, publish

ITEMS = ["a", "b", "c", "d"]
NEAR = np.array([[1, 2], [0, 3], [0, -1], [1, 0]], dtype=np.int32)
WEIGHTS = np.array([[0.9, 0.5], [0.9, 0.8], [0.5, 0.0], [0.8, 0.1]], dtype=np.float32)


def published(folder: Path, version: str, weights: np.ndarray = WEIGHTS) -> None:
    publish(folder, version, {"items": ITEMS}, {"neighbours": NEAR, "weights": weights})


def test_before_the_first_version_nobody_answers(tmp_path: Path) -> None:
    assert Champion(tmp_path / "recommender", Neighbours).look() is None


def test_scores_are_summed_over_the_history_the_newest_counting_most(tmp_path: Path) -> None:
    published(tmp_path, "1")
    model = Champion(tmp_path, Neighbours).look()
    assert model is not None
    found = dict(model.top(["c", "b"], exclude={"b", "c"}, n=3))
    assert found == {"a": pytest.approx(0.9 + 0.9 * 0.5), "d": pytest.approx(0.8)}


def test_items_that_are_excluded_unknown_or_absent_are_never_answered(tmp_path: Path) -> None:
    published(tmp_path, "1")
    model = Champion(tmp_path, Neighbours).look()
    assert model is not None
    assert model.top(["nothing"], set(), 5) == []
    assert [item for item, _ in model.top(["a", "nothing"], {"b", "nothing"}, 5)] == ["c"]


def test_the_answer_switches_with_the_version_and_back(tmp_path: Path) -> None:
    champion = Champion(tmp_path, Neighbours)
    for version in ("1", "2", "1"):
        published(tmp_path, version)
        model = champion.look()
        assert model is not None and model.version == version


def test_a_version_that_is_not_whole_is_an_error_and_the_one_before_goes_on(tmp_path: Path) -> None:
    published(tmp_path, "1")
    champion = Champion(tmp_path, Neighbours)
    first = champion.look()
    (tmp_path / CURRENT).write_text("2")
    with pytest.raises(PredictError, match="publish it again"):
        champion.look()
    assert champion.look() is first


@pytest.mark.parametrize("moving", [False, True])
def test_the_best_twenty_of_a_hundred_thousand_take_ten_milliseconds_at_most(moving: bool) -> None:
    chance, items, kept = np.random.default_rng(0), 100_000, 200
    steps = np.cumsum(chance.integers(1, items // kept, kept, dtype=np.int32))  # so each is at most once in a row
    near = (np.arange(items, dtype=np.int32)[:, None] + steps) % np.int32(items)
    arrays = {"neighbours": near, "weights": np.tile(chance.random(kept, dtype=np.float32), (items, 1))}
    if moving:
        arrays |= {name: chance.random(items, dtype=np.float32) for name in ("attention", "usual")}
    names = [f"p{number}" for number in range(items)]
    model = Neighbours({"version": "1", "items": names}, arrays)
    took = []
    for _ in range(200):
        history = [names[item] for item in chance.choice(items, 100, replace=False)]
        began = time.thread_time()
        assert len(model.top(history, set(history), 20)) == 20
        took.append(time.thread_time() - began)
    assert np.quantile(took, 0.99) <= 0.010


def model_of(near: list[list[int]], weights: list[list[float]], decay: float = 1.0) -> Neighbours:
    arrays = {"neighbours": np.array(near, dtype=np.int32), "weights": np.array(weights, dtype=np.float32)}
    return Neighbours({"items": ITEMS, "version": "1", "decay": decay}, arrays)


def test_the_manifest_says_how_a_history_fades_and_who_asks_may_weigh_it() -> None:
    model = model_of([[3], [2], [-1], [-1]], [[0.5], [0.5], [0], [0]], decay=0.5)
    assert dict(model.top(["a", "b"], {"a", "b"}, 4)) == {"c": 0.5, "d": 0.25}
    assert dict(model.top(["a", "?", "b"], {"a", "b"}, 4, weights=[4, 9, 1])) == {"c": 0.5, "d": 1.0}


def test_what_speaks_against_an_item_lowers_it() -> None:
    model = model_of([[2, 3], [2, -1], [-1, -1], [-1, -1]], [[0.9, 0.5], [-0.6, 0], [0, 0], [0, 0]])
    assert [item for item, _ in model.top(["a", "b"], {"a", "b"}, 2)] == ["d", "c"]


def test_equals_are_answered_in_the_order_of_the_items_however_few_are_asked_for() -> None:
    model = model_of([[3, 1, 2], [-1] * 3, [-1] * 3, [-1] * 3], [[0.5, 0.5, 0.5], [0] * 3, [0] * 3, [0] * 3])
    assert [[item for item, _ in model.top(["a"], {"a"}, n)] for n in (1, 2, 9)] == [["b"], ["b", "c"], ["b", "c", "d"]]


def test_a_diverse_list_begins_with_the_best_and_goes_on_with_what_differs() -> None:
    model = model_of([[1, 2, 3], [2, -1, -1], [1, -1, -1], [-1] * 3], [[0.9, 0.8, 0.7], [1, 0, 0], [1, 0, 0], [0] * 3])
    assert [item for item, _ in model.top(["a"], {"a"}, 2)] == ["b", "c"]
    assert [item for item, _ in model.top(["a"], {"a"}, 2, diversity=0.7)] == ["b", "d"]


@pytest.mark.parametrize("version", ["", "../x", "a/b", CURRENT])
def test_a_version_cannot_lie_outside_its_folder(tmp_path: Path, version: str) -> None:
    with pytest.raises(PredictError):
        published(tmp_path, version)
