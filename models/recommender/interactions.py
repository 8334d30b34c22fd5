"""Who had to do with what, how much and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse


@dataclass(frozen=True)
class Interactions:
    """At most one of a user with an item; ``user`` and ``item`` number the ids, ``at`` is in seconds, None unknown."""

    users: list[str]
    items: list[str]
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    weight: NDArray[np.float64]
    at: NDArray[np.float64] | None

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Interactions:
        """Of columns ``user_id``, ``item_id`` and, if there, ``weight`` (> 0; else 1) and ``at``; of a pair the last."""
        frame = frame.drop_duplicates(["user_id", "item_id"], keep="last")
        user, users = pd.factorize(frame["user_id"].astype(str), sort=True)
        item, items = pd.factorize(frame["item_id"].astype(str), sort=True)
        weight = frame["weight"].to_numpy(np.float64) if "weight" in frame else np.ones(len(frame))
        weight = weight / np.sqrt(np.mean(weight**2))  # so that a ridge means the same whatever the unit
        at = frame["at"].to_numpy(np.float64) if "at" in frame else None
        return cls(list(users), list(items), user, item, weight, at)

    def where(self, kept: NDArray[np.bool_]) -> Interactions:
        """Those that are kept; users and items keep their numbers."""
        at = None if self.at is None else self.at[kept]
        return Interactions(self.users, self.items, self.user[kept], self.item[kept], self.weight[kept], at)

    def of_items(self, numbers: NDArray[np.integer]) -> Interactions:
        """Those with these items, which are numbered in this order."""
        new = np.full(len(self.items), -1)
        new[numbers] = np.arange(len(numbers))
        left = self.where(new[self.item] >= 0)
        return Interactions(
            self.users, [self.items[i] for i in numbers], left.user, new[left.item], left.weight, left.at
        )

    def popular(self) -> NDArray[np.int64]:
        """All items, those with the most users first."""
        return np.argsort(-np.bincount(self.item, minlength=len(self.items)), kind="stable")

    def matrix(self) -> Any:
        """Weights, sparse, (users, items)."""
        return sparse.csr_matrix((self.weight, (self.user, self.item)), (len(self.users), len(self.items)))
