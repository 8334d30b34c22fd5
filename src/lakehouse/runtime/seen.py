"""Which 128-bit keys were seen before: the memory behind duplicates and distinct counts, on one machine.

A log-structured index of sorted runs (O'Neil et al., "The Log-Structured Merge-Tree", 1996): each run is a NumPy file
of three rows (high 64 bits, low 64 bits, time), sorted by the first, memory-mapped and immutable. A lookup is a binary
search per run, for a whole batch at once; nothing is loaded at start. Runs whose newest time is past the horizon are
deleted whole. Measured against RocksDB in docs/decisions/0003. The index is a cache of what silver holds: if it is
lost or behind, it is filled again from silver (``runtime/recovery.py``). Its distributed twin is a join with silver.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FANOUT = 6
"""How many runs of like size are merged into one."""
HIGH, LOW, TIME = 0, 1, 2


@dataclass(eq=False)
class _Run:
    rows: NDArray[np.uint64]
    newest: int
    path: Path | None = None


@dataclass
class SeenIndex:
    """Keys with the time they were accepted at (microseconds since 1970 UTC), newest wins.

    ``position`` is what the index's owner stored with the last flush: how far in its input the files reach.
    """

    folder: Path
    flush_rows: int = 200_000
    position: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._memory: list[_Run] = []
        self._runs: list[_Run] = []
        self._next = 0
        manifest = self.folder / "manifest.json"
        try:
            if manifest.exists():
                state = json.loads(manifest.read_text())
                self.position, self._next = dict(state["position"]), int(state["next"])
                for name, newest in state["runs"]:
                    path = self.folder / name
                    self._runs.append(_Run(np.load(path, mmap_mode="r"), int(newest), path))
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            self.clear()  # a damaged cache is no loss: silver fills it again
        for stray in set(self.folder.glob("*.npy")) - {run.path for run in self._runs}:
            stray.unlink()

    def __len__(self) -> int:
        return sum(run.rows.shape[1] for run in [*self._runs, *self._memory])

    @staticmethod
    def keys(digests: list[bytes]) -> NDArray[Any]:
        """16-byte digests -> an array of (high, low)."""
        flat = np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)
        return flat

    def times(self, keys: NDArray[Any]) -> NDArray[np.int64]:
        """For each key (n x 2, uint64) the newest time it was accepted at, or -1."""
        found = np.full(len(keys), -1, dtype=np.int64)
        if not len(keys):
            return found
        order = np.argsort(keys[:, 0], kind="stable")
        high, low = keys[order, 0], keys[order, 1]
        for run in [*self._runs, *self._memory]:
            column = run.rows[HIGH]
            at = np.searchsorted(column, high)
            alive = at < len(column)
            while alive.any():
                here = np.where(alive, at, 0)
                same_high = alive & (column[here] == high)
                rows = here[same_high]
                match = run.rows[LOW][rows] == low[same_high]
                target = order[same_high][match]
                found[target] = np.maximum(found[target], run.rows[TIME][rows[match]].astype(np.int64))
                # Equal high halves of different keys lie next to each other: go on until the high half changes.
                alive = same_high
                at = at + 1
                alive &= at < len(column)
        return found

    def add(self, keys: NDArray[Any], times: NDArray[np.int64]) -> None:
        """Remember keys; visible to :meth:`times` at once, on disk after the next flush."""
        if len(keys):
            rows = np.vstack([keys[:, 0], keys[:, 1], times.astype(np.uint64)])
            self._memory.append(_Run(rows[:, np.argsort(rows[HIGH])], int(times.max())))
            self._memory = _compact(self._memory)

    def unflushed(self) -> int:
        """How many keys only memory holds."""
        return sum(run.rows.shape[1] for run in self._memory)

    def flush(self, position: dict[str, Any], oldest: int) -> None:
        """Write memory to disk with the input position it reaches, and delete runs that ended before ``oldest``."""
        if self._memory:
            self._runs.append(self._save(_merge(self._memory)))
            self._memory = []
        written = list(self._runs)
        keep = [run for run in self._runs if run.newest >= oldest]
        while True:
            small = _like_sized(keep)
            if not small:
                break
            merged = self._save(_merge(small))
            written.append(merged)
            keep = [run for run in keep if run not in small] + [merged]
        # A run that was merged twice in one flush was never one of the index's.
        gone = {run.path for run in written} - {run.path for run in keep}
        self._runs, self.position = keep, position
        state = {"runs": [[r.path.name, r.newest] for r in keep if r.path], "position": position, "next": self._next}
        draft = self.folder / "manifest.tmp"
        draft.write_text(json.dumps(state))
        os.replace(draft, self.folder / "manifest.json")
        for path in gone:
            if path is not None:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._memory, self._runs, self.position, self._next = [], [], {}, 0

    def _save(self, run: _Run) -> _Run:
        path = self.folder / f"{self._next:012d}.npy"
        self._next += 1
        np.save(path, run.rows)
        return _Run(np.load(path, mmap_mode="r"), run.newest, path)


def _merge(runs: list[_Run]) -> _Run:
    rows = np.concatenate([run.rows for run in runs], axis=1)
    return _Run(rows[:, np.argsort(rows[HIGH])], max(run.newest for run in runs))


def _like_sized(runs: list[_Run]) -> list[_Run]:
    """FANOUT runs of one size class (powers of FANOUT), or none."""
    classes: dict[int, list[_Run]] = {}
    for run in runs:
        classes.setdefault(int(np.log(max(run.rows.shape[1], 1)) / np.log(FANOUT)), []).append(run)
    for _, members in sorted(classes.items()):
        if len(members) >= FANOUT:
            return members
    return []


def _compact(runs: list[_Run]) -> list[_Run]:
    while small := _like_sized(runs):
        runs = [run for run in runs if not any(run is s for s in small)] + [_merge(small)]
    return runs
