"""The recommender of one machine: a linear autoencoder and a low-pass filter, both in closed form.

Which items go together is counted over baskets: what a user had to do with, and, counted besides, what a user had to
do with within minutes, an hour or a day, whichever tells most. From these counts come two models whose weights are
added. One is EASE (Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019), which knows close relatives
best; the other the projection on the leading eigenvectors of the flattened counts (the low-pass filter of GF-CF: Shen
et al., How Powerful is Graph Convolution for Recommendation?, CIKM 2021), which knows tastes best and is cheap for any
number of items.

The length of the basket, the ridge and the rank are chosen on a quarter of the training part that is held out for it.
The constants below were set by validation inside training parts of MovieLens-100k of a few seeds, whose rows are in the
test parts of other seeds, and test figures were looked at five times on the way (docs/models.md says when): what is
measured there is no blind test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from models.recommender.interactions import Interactions
from models.recommender.metrics import ndcg, split

TEMPER = 0.75
"""Users count by the size of their baskets to the power of minus this, so that the busiest do not decide alone."""
SHORT = 3.0
"""What a short basket counts for, beside a user's whole one."""
FLATTEN = 0.4
"""Power of the items' own counts by which counts are divided on both sides before the low-pass filter."""
WINDOWS = (300.0, 3600.0, 86400.0)
"""Lengths of a short basket that are tried, in seconds."""
PASSED = 1.5
"""What the low-pass filter's weights count for, as a share of the autoencoder's; both by the root of their squares."""
RANKS = (8, 12, 16, 24, 32, 48, 64, 96, 128)
RIDGES = (62.5, 125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0)
TRIALS = 2
"""Parts that are held out, one after the other, for a choice."""
SEARCHED = 2000
"""Items, the most popular, and users, any, among which a choice is made."""
HEAD = 6000
"""Items, the most popular, that the autoencoder knows: its memory grows with their square, its time with their cube."""
KEEP = 400
"""Weights of an item that are kept; on validation parts of MovieLens-100k more gained nothing, 100 lost 1 % of nDCG."""
BLOCK = 20_000_000
"""Weights that are in memory at a time while the strongest are looked for."""

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """What validation chooses: seconds of a short basket (0: none), ridge of the autoencoder, rank of the filter."""

    window: float = 0.0
    ridge: float = 500.0
    rank: int = 32


def baskets(x: Interactions, window: float) -> Any:
    """A sparse matrix (baskets, items) of weights; the product of its columns counts how much items go together.

    A short basket is what a user had to do with in one of the windows that begin at multiples of the length, or in one
    of those half a length later, each for half: no pair is parted by a border alone.
    """
    size = np.bincount(x.user, x.weight**2, len(x.users))
    tempered = (np.median(size[size > 0]) / size[x.user]) ** TEMPER
    keys = [(x.user, 1.0)]
    if window and x.at is not None:
        for offset in (0.0, 0.5):
            number = np.floor((x.at - x.at.min()) / window + offset).astype(np.int64)
            keys.append((x.user * (number.max() + 1) + number, SHORT / 2))
    parts = []
    for key, counts in keys:
        row = np.unique(key, return_inverse=True)[1]
        values = x.weight * np.sqrt(tempered * counts)
        parts.append(sparse.csr_matrix((values.astype(np.float32), (row, x.item)), (row.max() + 1, len(x.items))))
    return sparse.vstack(parts, "csr")


def autoencoder(basket: Any, ridge: float) -> Matrix:
    """EASE: the weights (items, items), none of an item for itself, that best give back each basket from its rest.

    The ridge of an item is in proportion to the root of its count, ``ridge`` for the mean count: between EASE, where it
    is the same for all, and EDLAE, where it is in proportion to the count (Steck, Autoencoders that don't overfit
    towards the Identity, NeurIPS 2020).
    """
    counts = (basket.T @ basket).toarray()
    own = np.diag(counts)
    counts[np.diag_indices_from(counts)] += ridge * np.sqrt(np.maximum(own, 1e-6) / own.mean())
    lower, _ = linalg.lapack.spotri(linalg.lapack.spotrf(counts, lower=True)[0], lower=True)
    inverse = np.tril(lower) + np.tril(lower, -1).T
    weights: Matrix = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def low_pass(basket: Any, rank: int) -> tuple[Matrix, Matrix]:
    """Factors (items, about 1.5 rank) whose product, left with right, is the filter's weights.

    Eigenvectors pass whole up to half the rank, then less and less, by a half at the rank, and none from 1.5 of it on.
    """
    items = basket.shape[1]
    gain = np.clip(1.5 - (np.arange(min(rank * 3 // 2, items)) + 0.5) / rank, 0, 1).astype(np.float32)
    flat = np.maximum(np.asarray(basket.multiply(basket).sum(0)).ravel(), 1e-6) ** np.float32(FLATTEN)
    flattened = (basket @ sparse.diags(1 / flat)).tocsr()
    if 2 * len(gain) < items:
        counts = LinearOperator((items, items), lambda v: flattened.T @ (flattened @ v), dtype=np.float32)
        values, vectors = eigsh(counts, len(gain), v0=np.ones(items, dtype=np.float32))  # one start: one model
    else:
        values, vectors = np.linalg.eigh((flattened.T @ flattened).toarray())
    vectors = vectors[:, np.argsort(-values)[: len(gain)]]
    return gain * vectors / flat[:, None], vectors * flat[:, None]


def share(norm: float, left: Matrix, right: Matrix) -> np.float32:
    """What ``left`` times ``right`` is to be multiplied by, so that its norm off the diagonal is PASSED times this."""
    own = (left * right).sum(1)
    squares = ((left.T @ left) * (right.T @ right)).sum() - (own**2).sum()
    return np.float32(PASSED * norm / np.sqrt(max(squares, 1e-12)))


def choose(x: Interactions) -> Choice:
    """The choice that gives the best nDCG@10 on held out interactions of ``x``, found one parameter after the other.

    A quarter of each item's interactions is held out, twice at random. A step is taken where its mean gain over the
    users is more than the standard error of that gain.
    """
    x = x.of_items(x.popular()[:SEARCHED])
    trials = [_trial(x, seed) for seed in range(TRIALS)]
    worth = cache(lambda choice: np.concatenate([trial(choice) for trial in trials]))

    def better(candidate: Choice, than: Choice) -> bool:
        gain = worth(candidate) - worth(than)
        return len(gain) > 0 and bool(gain.mean() > gain.std() / np.sqrt(len(gain)))

    best = Choice()
    for window in WINDOWS if x.at is not None else ():
        candidate = replace(best, window=window)
        best = candidate if better(candidate, best) else best
    grids: tuple[tuple[str, tuple[Any, ...]], ...] = (("ridge", RIDGES), ("rank", RANKS))
    for name, grid in grids:
        for step in (1, -1):
            at = grid.index(getattr(best, name)) + step
            while 0 <= at < len(grid) and better(candidate := replace(best, **{name: grid[at]}), best):
                best, at = candidate, at + step
    return best


def _trial(x: Interactions, seed: int) -> Callable[[Choice], NDArray[np.float64]]:
    """nDCG@10 of users with held out interactions, by a choice; what choices have in common is made once."""
    held = split(x.item, seed)
    train, rest = x.where(~held), x.where(held)
    users = np.random.default_rng(seed).permutation(np.unique(rest.user))[:SEARCHED]
    history, truth = train.matrix()[users].astype(np.float32), rest.matrix()[users]
    seen = history.nonzero()
    basket = cache(lambda window: baskets(train, window))

    @cache
    def shallow(window: float, ridge: float) -> tuple[Matrix, float]:
        weights = autoencoder(basket(window), ridge)
        return history @ weights, float(np.linalg.norm(weights))

    filtered = cache(lambda window, rank: low_pass(basket(window), rank))

    def worth(choice: Choice) -> NDArray[np.float64]:
        scores, norm = shallow(choice.window, choice.ridge)
        left, right = filtered(choice.window, choice.rank)
        scores = scores + share(norm, left, right) * (history @ left) @ right.T  # on itself: only what is seen anyway
        scores[seen] = -np.inf
        return ndcg(scores, truth)

    return worth


def fit(
    x: Interactions, keep: int = KEEP, decay: float = 1.0, choice: Choice | None = None
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The manifest (without a version) and the arrays of ``lakehouse.predict.Neighbours``; the popular items first.

    Args:
        x: at least two items and two users.
        keep: weights of an item that are published, those furthest from zero.
        decay: what an item of a history counts for the one after it; 1 where a history has no order.
        choice: parameters; chosen from ``x`` if not given.
    """
    choice = choice or choose(x)
    x = x.of_items(x.popular())
    basket = baskets(x, choice.window)
    weights = autoencoder(basket[:, :HEAD], choice.ridge)
    left, right = low_pass(basket, choice.rank)
    left = left * share(float(np.linalg.norm(weights)), left[:HEAD], right[:HEAD])
    manifest = {"kind": "linear", "items": x.items, "decay": decay, "chosen": asdict(choice)}
    return manifest, strongest(left, right, keep, weights)


def tastes(
    x: Interactions, rank: int, keep: int = KEEP, decay: float = 1.0
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The same by the low-pass filter of whole baskets alone: tastes without what was looked at one after the other.

    For those who add what is looked at now themselves (``recency.py``).
    """
    x = x.of_items(x.popular())
    left, right = low_pass(baskets(x, 0.0), rank)
    manifest = {"kind": "tastes", "items": x.items, "decay": decay, "chosen": {"rank": rank}}
    return manifest, strongest(left, right, keep)


def strongest(left: Matrix, right: Matrix, keep: int, head: Matrix | None = None) -> dict[str, NDArray[Any]]:
    """The arrays ``neighbours`` and ``weights`` (items, keep) of the matrix ``left`` times ``right``, none on itself.

    Args:
        left, right: (items, factors).
        keep: entries of a row, those furthest from zero.
        head: added to the first rows and columns.
    """
    items = len(left)
    keep = min(keep, items)
    near, weights = np.empty((items, keep), np.int32), np.empty((items, keep), np.float32)
    for start in range(0, items, step := max(BLOCK // items, 1)):
        rows = np.arange(start, min(start + step, items))
        block = left[rows] @ right.T
        block[rows - start, rows] = 0
        if head is not None and start < len(head):
            block[: len(head) - start, : len(head)] += head[start : start + len(rows)]
        near[rows] = np.argpartition(-np.abs(block), keep - 1, axis=1)[:, :keep]
        weights[rows] = np.take_along_axis(block, near[rows], 1)
    return {"neighbours": near, "weights": weights}
