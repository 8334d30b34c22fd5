"""The champions' answers without Spark or MLflow: arrays that were published when an alias moved.

A model's folder holds one folder a version, ``<version>/{manifest.json, <name>.npy, ...}``, and ``CURRENT``, a file
with the name of the one that answers, replaced in one step. Who asks :class:`Champion` is answered by that one version,
whole, until the next look at ``CURRENT``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

CURRENT = "CURRENT"
HISTORY_DECAY = 0.9
"""How much less an item counts than the one after it in a user's history."""


class PredictError(Exception):
    """What is published cannot be used; the message names the folder."""


def publish(folder: Path, version: str, manifest: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Write a version and let it answer from now on; readers see the old one or the new one, never a part.

    Args:
        folder: of the model.
        version: a name without a path separator.
        manifest: what else readers need, JSON.
        arrays: plain arrays, no objects.

    Raises:
        PredictError: the version's name is no name of a folder.
    """
    if not version or Path(version).name != version or version == CURRENT:
        raise PredictError(f"{version!r} is no name for a version")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / version).exists():
        made = Path(tempfile.mkdtemp(dir=folder, prefix=".making-"))
        (made / "manifest.json").write_bytes(orjson.dumps({**manifest, "version": version}))
        for name, array in arrays.items():
            np.save(made / f"{name}.npy", array, allow_pickle=False)
        made.rename(folder / version)
    pointer = folder / f".{CURRENT}.{os.getpid()}"
    pointer.write_text(version)
    pointer.replace(folder / CURRENT)


class Neighbours:
    """A recommender by items: every item's nearest, with weights, from which any history is folded in.

    Arrays: ``neighbours`` int32 (items, k), indices of items, -1 where there is none; ``weights`` float32 (items, k);
    the manifest lists ``items``, their ids. An item's score is the sum of the weights that it has as a neighbour of the
    items of the history, each a tenth less than the one after (``HISTORY_DECAY``): the item-based method of Sarwar et
    al. (WWW 2001), which a linear autoencoder (EASE, Steck, WWW 2019) shares.
    """

    def __init__(self, manifest: dict[str, Any], neighbours: NDArray[np.int32], weights: NDArray[np.float32]) -> None:
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


class Champion:
    """The published version of a recommender, followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._answers: Neighbours | None = None
        self._version: str | None = None

    def look(self) -> Neighbours | None:
        """The version that answers now; None before the first.

        Raises:
            PredictError: what ``CURRENT`` names is not there or not whole; the version before goes on answering.
        """
        try:
            version = (self._folder / CURRENT).read_text().strip()
        except FileNotFoundError:
            return None
        if version != self._version:
            self._version = version
            try:
                read = self._folder / version
                manifest = orjson.loads((read / "manifest.json").read_bytes())
                arrays = [np.load(read / f"{name}.npy", mmap_mode="r") for name in ("neighbours", "weights")]
                self._answers = Neighbours(manifest, *arrays)
            except (OSError, ValueError, KeyError) as error:
                raise PredictError(f"{self._folder / version} cannot be read ({error}): publish it again") from None
        return self._answers
