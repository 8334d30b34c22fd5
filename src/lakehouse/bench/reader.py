"""An independent reader: when was each version of a table there to be read, and which rows did it bring?"""

from __future__ import annotations

import json
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from numpy.typing import NDArray
from pyarrow import fs

POLL_S = 0.05


class Reader:
    """Follows one table through delta-rs's file system, without Spark and without the writer's memory."""

    def __init__(self, uri: str):
        self.uri = uri
        table = DeltaTable(uri)
        self.files = fs.PyFileSystem(DeltaStorageHandler.from_table(table._table))
        self.first = table.version()
        self.seen_at = [time.time()]
        """When version ``first + i`` was first there, in seconds since 1970."""

    @property
    def version(self) -> int:
        """The newest version seen."""
        return int(self.first + len(self.seen_at) - 1)

    def look(self) -> None:
        """Note the versions that are there now."""
        while self.files.get_file_info(self._log(self.version + 1)).type == fs.FileType.File:
            self.seen_at.append(time.time())

    def visible(self, version: int) -> float | None:
        """When a version or a later one was first there, in seconds since 1970; None if it has not been."""
        at = max(version - self.first, 0)
        return self.seen_at[at] if at < len(self.seen_at) else None

    def brought(self, column: str) -> Iterator[tuple[float, NDArray[np.float64]]]:
        """Of each version since the first: when it was there, and the times in a column of the rows it added."""
        for version in range(self.first + 1, self.version + 1):
            for line in self.files.open_input_file(self._log(version)).read().splitlines():
                add = json.loads(line).get("add")
                if add and add["dataChange"]:
                    rows = pq.read_table(self.files.open_input_file(add["path"]), columns=[column])
                    yield self.seen_at[version - self.first], seconds(rows.column(column))

    def totals(self, column: str) -> dict[int, int]:
        """Of each version since the first: the sum of a column over the whole table."""
        return {
            version: int(
                pc.sum(DeltaTable(self.uri, version=version).to_pyarrow_table(columns=[column])[column]).as_py() or 0
            )
            for version in range(self.first, self.version + 1)
        }

    def _log(self, version: int) -> str:
        return f"_delta_log/{version:020d}.json"


class Watch:
    """Readers that look at their tables every :data:`POLL_S`, while the ``with`` block runs."""

    def __init__(self, *uris: str):
        self.readers = {uri: Reader(uri) for uri in uris}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            for reader in self.readers.values():
                reader.look()

    def __enter__(self) -> dict[str, Reader]:
        self._thread.start()
        return self.readers

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def seconds(times: pa.ChunkedArray) -> NDArray[np.float64]:
    """A timestamp column as seconds since 1970."""
    return np.asarray(times.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() / 1e6)


def row_freshness(reader: Reader, column: str, start: float, end: float) -> NDArray[np.float64]:
    """Seconds from append to readable, of the rows of an append-only table that were appended between two times."""
    parts = [at - times[(times >= start) & (times <= end)] for at, times in reader.brought(column)]
    return np.concatenate(parts) if parts else np.empty(0)


def aggregate_freshness(
    reader: Reader, totals: dict[int, int], appended: NDArray[np.float64], start: float, end: float
) -> NDArray[np.float64]:
    """Seconds from append to counted, where ``totals[version]`` of the records, oldest first, are in each version."""
    times = np.sort(appended)
    versions = sorted(totals)
    counts = [totals[version] for version in versions]
    out = []
    for number in np.flatnonzero((times >= start) & (times <= end)).tolist():
        at = bisect_left(counts, number + 1)
        if at < len(versions) and (seen := reader.visible(versions[at])) is not None:
            out.append(seen - times[number])
    return np.array(out)
