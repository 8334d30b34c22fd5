"""A new item takes after those whose texts are like its own, and is answered beside them."""

from __future__ import annotations

import numpy as np

from lakehouse.predict import Neighbours
from models.recommender.content import with_new

ITEMS = ["kafka-1", "kafka-2", "bread-1", "bread-2"]
TEXTS = {
    "kafka-1": "streams of events in kafka topics",
    "kafka-2": "kafka consumers read topics and commit",
    "bread-1": "sourdough bread needs flour and time",
    "bread-2": "bake the bread in a hot oven",
}
ARRAYS = {
    "neighbours": np.array([[1, -1], [0, -1], [3, -1], [2, -1]], dtype=np.int32),
    "weights": np.array([[0.9, 0], [0.9, 0], [0.7, 0], [0.7, 0]], dtype=np.float32),
}


def test_a_new_item_is_answered_where_those_like_it_are_and_answers_with_them() -> None:
    texts = {**TEXTS, "kafka-3": "kafka topics and their consumers", "bread-3": "flour, oven, bread"}
    manifest, arrays = with_new({"items": ITEMS, "version": "1"}, ARRAYS, texts)
    model = Neighbours(manifest, arrays)
    assert [item[:5] for item, _ in model.top(["kafka-3"], {"kafka-3"}, 2)] == ["kafka"] * 2
    assert "bread-3" in dict(model.top(["bread-1"], {"bread-1"}, 2))
    assert np.array_equal(arrays["neighbours"][:, 0][:2], [1, 0]) and manifest["items"][:4] == ITEMS


def test_a_text_like_no_other_brings_no_neighbours() -> None:
    manifest, arrays = with_new({"items": ITEMS, "version": "1"}, ARRAYS, {**TEXTS, "odd": "xyzzy"})
    assert Neighbours(manifest, arrays).top(["odd"], {"odd"}, 5) == []


def test_without_new_items_nothing_changes() -> None:
    assert with_new({"items": ITEMS}, ARRAYS, TEXTS) == ({"items": ITEMS}, ARRAYS)
