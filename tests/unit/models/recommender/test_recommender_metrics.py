"""The published protocol: a split by item, and four figures of a ranking."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from models.recommender.metrics import measure, ndcg, split


def test_a_quarter_of_every_item_is_held_out_rounded_as_published() -> None:
    item = np.repeat([0, 1, 2, 3], [1, 2, 6, 100])
    held = split(np.random.default_rng(0).permutation(item), seed=1)
    assert held.sum() == 0 + 0 + 2 + 25  # round(.75), round(1.5), round(4.5) and 75 train: halves go to the even number


def test_seeds_differ_and_repeat() -> None:
    item = np.random.default_rng(0).integers(0, 20, 1000)
    assert np.array_equal(split(item, 3), split(item, 3))
    assert not np.array_equal(split(item, 3), split(item, 4))


def test_the_four_figures_are_as_computed_by_hand() -> None:
    hits = np.zeros((2, 10), dtype=bool)
    hits[0, [0, 2]] = True
    found = measure(hits, np.array([4, 1]))
    best = 1 + 1 / np.log2(3) + 1 / np.log2(4) + 1 / np.log2(5)
    assert found["ndcg@10"] == pytest.approx([(1 + 1 / 2) / best, 0])
    assert found["map@10"] == pytest.approx([(1 + 2 / 3) / 4, 0])
    assert found["precision@10"] == pytest.approx([0.2, 0])
    assert found["recall@10"] == pytest.approx([0.5, 0])


def test_a_perfect_ranking_of_more_relevant_items_than_ten_has_an_ndcg_of_one() -> None:
    truth = sparse.csr_matrix(np.arange(20)[None] < 15)
    assert ndcg(np.arange(20, 0, -1.0)[None], truth) == pytest.approx([1.0])
    assert ndcg(np.arange(20.0)[None], truth) < 0.5
