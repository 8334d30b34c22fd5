"""A recommender's answers from arrays alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakehouse.predict.published import PredictError

HISTORY_DECAY = 0.9
"""How much less an item counts than the one after it in a user's history."""


class Neighbours:
    """A recommender by items: every item's nearest, with weights, from which any history is folded in.

    Arrays: ``neighbours`` int32 (items, k), indices of items, -1 where there is none; ``weights`` float32 (items, k);
    the manifest lists ``items``, their ids. An item's score is the sum of the weights that it has as a neighbour of the
    items of the history, each a tenth less than the one after (``HISTORY_DECAY``): the item-based method of Sarwar et
    al. (WWW 2001), which a linear autoencoder (EASE, Steck, WWW 2019) shares.
    """

    def __init__(self, manifest: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        neighbours, weights = arrays["neighbours"], arrays["weights"]
        self.version: str = manifest["version"]
        self._items: list[str] = manifest["items"]
        self._index = {item: number for number, item in enumerate(self._items)}
        self._neighbours, self._weights = neighbours, weights
        if not len(self._items) == len(neighbours) == len(weights):
            raise PredictError(f"version {self.version}: items, neighbours and weights differ in number")

    def top(self, history: Sequence[str], exclude: Collection[str], n: int) -> list[tuple[str, float]]:
        """The best ``n`` items and their scores for a history, newest last; none of ``exclude``."""
        known = [self._index[item] for item in history if item in self._index]
        if not known:
            return []
        decay = HISTORY_DECAY ** np.arange(len(known) - 1, -1, -1, dtype=np.float32)
        candidates = self._neighbours[known].ravel()
        weights = (self._weights[known] * decay[:, None]).ravel()
        there = candidates >= 0
        items, place = np.unique(candidates[there], return_inverse=True)
        scores = np.bincount(place, weights=weights[there])
        left_out = [self._index[item] for item in exclude if item in self._index]
        scores[np.isin(items, left_out)] = -np.inf
        best = np.argsort(-scores, kind="stable")[:n]
        return [(self._items[items[i]], float(scores[i])) for i in best if np.isfinite(scores[i])]
