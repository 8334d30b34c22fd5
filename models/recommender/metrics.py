"""How good a ranking is, and what it is asked on: the published protocol of recommenders-team/recommenders.

Relevance is binary: an item is relevant to a user where the test part has the pair.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

K = 10
TEST = 0.25
"""Share of every item's interactions that is the test part."""


def split(item: NDArray[np.integer], seed: int, share: float = TEST) -> NDArray[np.bool_]:
    """Which interactions are the test part: drawn at random, of ``n`` of an item all but ``round((1 - share) n)``."""
    order = np.random.default_rng(seed).permutation(len(item))
    order = order[np.argsort(item[order], kind="stable")]
    of = item[order]
    first = np.searchsorted(of, of)
    count = np.searchsorted(of, of, side="right") - first
    test = np.empty(len(item), dtype=bool)
    test[order] = np.arange(len(item)) - first >= np.round((1 - share) * count)
    return test


def measure(hits: NDArray[np.bool_], relevant: NDArray[np.integer]) -> dict[str, NDArray[np.float64]]:
    """Per user ``ndcg@10``, ``map@10``, ``precision@10`` and ``recall@10``.

    With h_r = 1 where the item of rank r is relevant, and m the number of the user's relevant items:
    nDCG = sum_r h_r / log2(r + 1), over what min(m, 10) hits at the top give; AP = 1/m sum_r h_r precision@r;
    precision = hits / 10; recall = hits / m.

    Args:
        hits: (users, 10), False where fewer were answered.
        relevant: (users,), at least 1.
    """
    ranks = np.arange(1, K + 1)
    gains = 1 / np.log2(ranks + 1)
    found = hits.sum(1)
    return {
        "ndcg@10": hits @ gains / np.cumsum(gains)[np.minimum(relevant, K) - 1],
        "map@10": (hits * np.cumsum(hits, 1) / ranks).sum(1) / relevant,
        "precision@10": found / K,
        "recall@10": found / relevant,
    }


def ndcg(scores: NDArray[Any], truth: Any) -> NDArray[np.float64]:
    """nDCG@10 of each user from dense scores (users, items) and a sparse matrix of relevant pairs."""
    top = np.argpartition(-scores, K, axis=1)[:, :K] if scores.shape[1] > K else np.argsort(-scores, axis=1)
    order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable")
    top = np.take_along_axis(top, order, 1)
    hits = np.zeros((len(top), K), dtype=bool)
    hits[:, : top.shape[1]] = np.asarray(truth[np.arange(len(top))[:, None], top].todense()) > 0
    return measure(hits, np.diff(truth.indptr))["ndcg@10"]
