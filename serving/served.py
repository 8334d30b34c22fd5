"""The lake as it is served: versions of tables that are followed in the background, and answers from them.

A table that somebody asks for is followed from then on, until nobody has asked for a while: at most once a second its
newest version is looked for. A file of a table never changes, so what was read of a small table's files stays in
memory while they are part of a version that is served (DuckDB over Arrow); large tables are read from HDFS where the
files' statistics do not rule them out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow import dataset, parquet
from pyarrow.fs import PyFileSystem

from lakehouse.settings import Settings
from lakehouse.sources.datasets import pruned_dataset
from lakehouse.sources.lake import Lake, LakeError, NoTableError
from serving.problems import Problem

LOOK_EVERY_S = 1.0
FOLLOWED_S = 120.0
"""For how long a table is followed after it was asked for."""
AWAY_AFTER_S = 8.0
"""Without an answer of the lake for so long nothing is served of it."""
OPENS_S = 5.0
SMALL_BYTES = 48 * 1024 * 1024
"""Tables with files of no more than this are kept in memory."""
MEMORY_BYTES = 512 * 1024 * 1024
"""All of them together; the ones that were not asked for longest go first."""
OLD_VERSIONS = 8
"""Versions that were asked for by number and are kept open."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """One version of a table, which never changes; ``at`` is when it was committed."""

    name: str
    version: int
    at: datetime
    schema: pa.Schema
    rows: int
    bytes: int
    relation: pa.Table | dataset.Dataset


@dataclass
class _Followed:
    """What is known of a table; ``handle`` is touched by one thread at a time."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    handle: DeltaTable | None = None
    snapshot: Snapshot | None = None
    asked: float = 0.0
    looked: float = 0.0
    answered: float = 0.0


class Served:
    """Reads tables at versions.

    Args:
        settings: where the lake is.
        moved: is told of every new version that is served, from another thread.
    """

    def __init__(self, settings: Settings, moved: Callable[[Snapshot], None] = lambda snapshot: None) -> None:
        self._lake, self._moved = Lake(settings), moved
        self._tables: dict[str, _Followed] = {}
        self._files: OrderedDict[str, pa.Table] = OrderedDict()
        self._old: OrderedDict[tuple[str, int], Snapshot] = OrderedDict()
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="lake")
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="files")
        self._leaving = threading.Event()
        self._here = threading.local()
        self._follower = threading.Thread(target=self._follow, name="versions", daemon=True)
        self._follower.start()

    def close(self) -> None:
        """End the follower; what is being read is left to itself."""
        self._leaving.set()
        for pool in (self._pool, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)

    # --- versions --------------------------------------------------------------------------------------------------

    def now(self, name: str) -> Snapshot | None:
        """The version that is served, if that is known without asking the lake."""
        known = self._tables.get(name)
        if known is None or known.snapshot is None:
            return None
        known.asked = now = time.monotonic()
        fresh = now - known.answered < AWAY_AFTER_S and now - known.looked < AWAY_AFTER_S
        return known.snapshot if fresh else None

    def snapshot(self, name: str, version: int | None = None) -> Snapshot:
        """The version that is served, or another one by its number. Blocks: to be called from a thread.

        Raises:
            Problem: 404 no such table or version yet, 410 the version is gone, 503 the lake does not answer.
        """
        if version is not None:
            return self._at(name, version)
        if found := self.now(name):
            return found
        known = self._tables.setdefault(name, _Followed())
        known.asked = time.monotonic()
        self._await(name, lambda: self._look(name, known, force=True))
        assert known.snapshot is not None
        return known.snapshot

    def _at(self, name: str, version: int) -> Snapshot:
        served = self.snapshot(name)
        if version == served.version:
            return served
        if version > served.version:
            raise Problem(404, "no-such-version", f"{name} is at version {served.version}: {version} is yet to come.")
        with self._guard:
            if known := self._old.get((name, version)):
                self._old.move_to_end((name, version))
                return known
        try:
            found: Snapshot = self._await(name, lambda: self._open(name, self._lake.table(name, version)))
        except (LakeError, Problem) as error:
            if isinstance(error, Problem) and error.status != 404:
                raise
            detail = (
                f"{name} at version {version} can no longer be read: its time of travel is over. Leave out version."
            )
            raise Problem(410, "version-gone", detail) from None
        with self._guard:
            self._old[name, version] = found
            while len(self._old) > OLD_VERSIONS:
                self._old.popitem(last=False)
        return found

    def _await(self, name: str, call: Callable[[], Any]) -> Any:
        """What a call says within bounds of time: delta-rs itself knows none."""
        try:
            return self._pool.submit(call).result(OPENS_S)
        except NoTableError:
            raise Problem(
                404, "no-such-table", f"{name} is not there yet: `lakehouse up` creates all tables."
            ) from None
        except (Late, TimeoutError):
            raise away(name, "no answer") from None

    def _look(self, name: str, known: _Followed, force: bool = False) -> None:
        """Bring what is known of a table up to its newest version."""
        with known.lock:
            if not force and time.monotonic() - known.looked < LOOK_EVERY_S:
                return
            known.looked = time.monotonic()
            try:
                if known.handle is None:
                    known.handle = self._lake.table(name)
                else:
                    known.handle.update_incremental()
                if known.snapshot is None or known.handle.version() != known.snapshot.version:
                    known.snapshot = self._open(name, known.handle)
                    self._moved(known.snapshot)
            except NoTableError:
                raise
            except Exception as error:
                known.handle = None
                raise away(name, str(error).splitlines()[0][:200]) from None
            known.answered = time.monotonic()

    def _follow(self) -> None:
        while not self._leaving.wait(0.1):
            now = time.monotonic()
            for name, known in list(self._tables.items()):
                if now - known.asked > FOLLOWED_S:
                    del self._tables[name]
                elif now - known.looked >= LOOK_EVERY_S and not known.lock.locked():
                    try:
                        self._pool.submit(self._followed, name, known)
                    except RuntimeError:
                        return  # closed meanwhile

    def _followed(self, name: str, known: _Followed) -> None:
        try:
            self._look(name, known)
        except Problem as problem:
            _log.warning("%s is not followed: %s", name, problem.detail)

    # --- rows ------------------------------------------------------------------------------------------------------

    def _open(self, name: str, handle: DeltaTable) -> Snapshot:
        facts = pa.table(handle.get_add_actions(flatten=True))
        total = sum(facts["size_bytes"].to_pylist())
        rows = sum(n or 0 for n in facts["num_records"].to_pylist()) if "num_records" in facts.column_names else 0
        at = datetime.fromtimestamp(handle.history(1)[0].get("timestamp", 0) / 1000, UTC)
        if total <= SMALL_BYTES and not handle.metadata().partition_columns:
            relation: pa.Table | dataset.Dataset = self._in_memory(handle, facts["path"].to_pylist())
        else:
            relation = pruned_dataset(handle)
        return Snapshot(name, handle.version(), at, relation.schema, rows, total, relation)

    def _in_memory(self, handle: DeltaTable, paths: list[str]) -> pa.Table:
        schema = pa.schema(handle.schema().to_arrow())
        files = PyFileSystem(DeltaStorageHandler(handle.table_uri))

        def part(path: str) -> pa.Table:
            key = f"{handle.table_uri}/{path}"
            with self._guard:
                if (known := self._files.get(key)) is not None and known.schema == schema:
                    self._files.move_to_end(key)
                    return known
            read = _as(parquet.read_table(unquote(path), filesystem=files), schema)
            with self._guard:
                self._files[key] = read
            return read

        parts = list(self._readers.map(part, paths))
        with self._guard:
            held = sum(part.nbytes for part in self._files.values())
            while held > MEMORY_BYTES and len(self._files) > 1:
                held -= self._files.popitem(last=False)[1].nbytes
        return pa.concat_tables(parts) if parts else schema.empty_table()

    def select(self, snapshot: Snapshot, sql: str, bound: list[Any], within_s: float) -> pa.Table:
        """The answer of one SELECT over ``rows``, the snapshot. Blocks.

        Raises:
            Problem: 504 it took longer than ``within_s``; 503 the lake does not answer.
        """
        with self.reading(snapshot, sql, bound, within_s) as found:
            return found.read_all()

    @contextmanager
    def reading(
        self, snapshot: Snapshot, sql: str, bound: list[Any], within_s: float
    ) -> Iterator[pa.RecordBatchReader]:
        """The same, batch by batch."""
        connection = self._connection()
        clock = threading.Timer(within_s, connection.interrupt)
        clock.daemon = True
        clock.start()
        try:
            connection.register("rows", snapshot.relation)
            yield connection.sql(sql, params=bound).to_arrow_reader(10_000)
        except duckdb.InterruptException:
            detail = f"The query took more than {within_s:.0f} s: ask for less, such as a shorter time."
            raise Problem(504, "query-timeout", detail) from None
        except (duckdb.OutOfMemoryException, MemoryError):
            raise Problem(503, "too-much", "The query needs too much memory: ask for less.") from None
        except (duckdb.Error, OSError, pa.ArrowException) as error:
            _log.warning("%s at version %d cannot be read: %s", snapshot.name, snapshot.version, error)
            raise away(snapshot.name, "a file could not be read") from None
        finally:
            clock.cancel()
            connection.close()

    def _connection(self) -> duckdb.DuckDBPyConnection:
        base = getattr(self._here, "base", None)
        if base is None:
            base = self._here.base = duckdb.connect(config={"threads": 2, "memory_limit": "1GB"})
            base.execute("set TimeZone = 'UTC'")
        cursor: duckdb.DuckDBPyConnection = base.cursor()
        return cursor


def _as(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of a file by a table's schema: columns that are younger than the file are null."""
    columns = [
        rows.column(field.name).cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def away(name: str, why: str) -> Problem:
    """503: the lake does not answer."""
    detail = f"{name} cannot be read: HDFS does not answer ({why}). Try again later; `lakehouse status` shows it."
    return Problem(503, "store-away", detail, {"Retry-After": "5"}, store="hdfs")
