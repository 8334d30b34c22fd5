"""A recommender's answers from arrays alone: in the stream, in the API, and while a model is evaluated."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakehouse.predict.published import PredictError

HISTORY_DECAY = 0.9
"""How much an item counts for the one after it in a user's history, where the manifest says nothing else."""
POOL = 5
"""Times ``n`` best items from which a diverse list is made."""


class Neighbours:
    """A recommender by items: every item's strongest relations to others, from which any history is folded in.

    Arrays: ``neighbours`` int32 (items, k), indices of items, each at most once a row, -1 where there is none;
    ``weights`` float32 (items, k), of either sign. The manifest lists ``items``, their ids, and may name ``decay``,
    what an item of a history counts for the one after it. An item's score is the sum of the weights that it has in the
    rows of the history: the item-based method of Sarwar et al. (WWW 2001), which every linear autoencoder shares
    (Steck, WWW 2019). A user needs no training: the history is all that is known of one.
    """

    def __init__(self, manifest: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        self.version: str = manifest["version"]
        self._items: list[str] = manifest["items"]
        self._decay = float(manifest.get("decay", HISTORY_DECAY))
        self._index = {item: number for number, item in enumerate(self._items)}
        self._neighbours, self._weights = arrays["neighbours"], arrays["weights"]
        if not len(self._items) == len(self._neighbours) == len(self._weights):
            raise PredictError(f"version {self.version}: items, neighbours and weights differ in number")

    def top(
        self,
        history: Sequence[str],
        exclude: Collection[str],
        n: int,
        weights: Sequence[float] | None = None,
        diversity: float = 0.0,
    ) -> list[tuple[str, float]]:
        """The best ``n`` items and their scores for a history; fewer where its items have fewer neighbours.

        Args:
            history: items, newest last; those that the model does not know count for nothing.
            exclude: items that are not answered.
            n: how many.
            weights: how much each item of the history counts, beside the decay; all the same if not given.
            diversity: from 0, by score alone, to 1, by difference from what stands above alone.
        """
        places = [(self._index[item], at) for at, item in enumerate(history) if item in self._index]
        if not places or n <= 0:
            return []
        known, at = np.array(places).T
        counts = self._decay ** np.arange(len(known) - 1, -1, -1, dtype=np.float64)
        if weights is not None:
            counts *= np.asarray(weights, dtype=np.float64)[at]
        near = self._neighbours[known] + 1  # 0 is now "there is none"
        shares = (self._weights[known] * counts[:, None]).ravel()
        scores: NDArray[Any] = np.bincount(near.ravel(), shares, len(self._items) + 1)[1:]
        answered = np.zeros(len(self._items) + 1, dtype=bool)
        answered[near] = True
        answered = answered[1:]
        answered[[self._index[item] for item in exclude if item in self._index]] = False
        items = np.flatnonzero(answered)
        best = items[_best(scores[items], n * POOL if diversity else n)]
        if diversity:
            best = best[self._diverse(best, scores[best], n, diversity)]
        return [(self._items[item], float(scores[item])) for item in best]

    def _diverse(self, items: NDArray[np.intp], scores: NDArray[Any], n: int, diversity: float) -> list[int]:
        """Places of ``n`` of the items by maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).

        Relevance is the score and likeness the weight of a pair, each as a share of the greatest here.
        """
        place = np.full(len(self._items) + 1, -1)
        place[items] = np.arange(len(items))
        columns = place[self._neighbours[items]]  # -1, there is none, reads the last place: none as well
        rows, kept = np.nonzero(columns >= 0)
        alike = np.zeros((len(items), len(items)))
        alike[rows, columns[rows, kept]] = np.maximum(self._weights[items][rows, kept], 0.0)
        alike = np.maximum(alike, alike.T) / max(alike.max(initial=0.0), 1e-12)
        relevance = (scores - scores.min()) / max(float(np.ptp(scores)), 1e-12)
        chosen: list[int] = []
        nearest = np.zeros(len(items))
        for _ in range(min(n, len(items))):
            worth = (1 - diversity) * relevance - diversity * nearest
            worth[chosen] = -np.inf
            chosen.append(int(worth.argmax()))
            nearest = np.maximum(nearest, alike[chosen[-1]])
        return chosen


def _best(scores: NDArray[Any], n: int) -> NDArray[np.intp]:
    """Places of the ``n`` greatest, best first, the first of equals first."""
    if n < len(scores):
        floor = np.partition(scores, len(scores) - n)[len(scores) - n]
        candidates = np.flatnonzero(scores >= floor)
        return candidates[np.argsort(-scores[candidates], kind="stable")[:n]]
    return np.argsort(-scores, kind="stable")
