"""The lake as it is served: versions of tables that are followed in the background, and answers from them.

A table that somebody asks for is followed from then on, until nobody has asked for a while: at most once a second its
newest version is looked for. A file of a table never changes, so the files of a small table stay in memory while the
table is followed, and a new version costs its new files alone (DuckDB over Arrow); large tables are read from HDFS
where the files' statistics do not rule them out.

delta-rs and Arrow know no bounds of time, and were seen to wait for ever. Whatever asks the lake therefore runs in a
thread that may be given up: whoever waits for it waits for some seconds, and the next attempt begins anew.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import unquote

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow import dataset, fs

from lakehouse.flows import TABLES
from lakehouse.inspect import reachable
from lakehouse.settings import Settings
from lakehouse.sources.datasets import pruned_dataset
from lakehouse.sources.lake import Lake, LakeError, NoTableError
from serving.problems import Problem

LOOK_EVERY_S = 1.0
FOLLOWED_S = 120.0
"""For how long a table is followed after it was asked for; what is known of it stays, while there is room."""
WARMS_S = 5.0
"""For how long one is that nobody has asked for, so that who asks first does not wait for it to be opened."""
AWAY_AFTER_S = 8.0
"""Without an answer of the lake for so long nothing is served of it."""
LEAVES_S = 2.0
"""For how long what is being opened is waited for in the end: a process that ends amid it may crash."""
OPENS_S = 5.0
"""For how long somebody waits for a table to be opened."""
GIVEN_UP_S = 10.0
"""After so long an attempt is not waited for any more, and another one is made."""
AT_A_TIME = 4
"""Tables that are looked at in the background at the same time."""
SMALL_BYTES = 48 * 1024 * 1024
"""Tables with files of no more than this are kept in memory."""
MEMORY_BYTES = 512 * 1024 * 1024
"""All of them together; the ones that were not asked for longest go first. One alone has half of it at most."""
FEW_PARTS, WORTH_COPYING = 8, 8 * 1024 * 1024
"""Of a table of more parts, and of fewer bytes, a copy in one piece is asked: DuckDB takes half the time."""
OLD_VERSIONS = 8
"""Versions that were asked for by number and are kept open."""
READERS = 8
"""Files of a table that are read at the same time."""
QUERY_MEMORY = "1GB"
_PARQUET = dataset.ParquetFileFormat(
    default_fragment_scan_options=dataset.ParquetFragmentScanOptions(pre_buffer=True),
)
_FAULTS = (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException, duckdb.PermissionException)
"""What no state of the lake makes, only a statement of ours that is wrong."""
_log = logging.getLogger(__name__)
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Snapshot:
    """One version of a table, which never changes; ``at`` is when it was committed, ``id`` the table's own."""

    name: str
    version: int
    at: datetime
    schema: pa.Schema
    rows: int
    bytes: int
    relation: pa.Table | dataset.Dataset
    id: str = ""
    previous: int | None = None
    """The version that was served before this one."""
    since: float = field(default_factory=time.monotonic)
    """When it was opened, by a clock that only goes on."""


Parts = dict[str, pa.Table]
"""What is in the files of a version, by path."""


@dataclass
class _Followed:
    """What is known of a table. An attempt to look takes ``handle`` away, and gives it back when it succeeds."""

    handle: DeltaTable | None = None
    parts: Parts = field(default_factory=dict)
    snapshot: Snapshot | None = None
    asked: float = 0.0
    looked: float = -LOOK_EVERY_S
    answered: float = 0.0
    looking: Future[Snapshot] | None = None
    failure: Problem | None = None
    large: bool = False


class Served:
    """Reads tables at versions.

    Args:
        settings: where the lake is.
        moved: is told of every new version that is served, from another thread.
        small: bytes of files up to which a table is kept in memory.
    """

    def __init__(
        self,
        settings: Settings,
        moved: Callable[[Snapshot], None] = lambda snapshot: None,
        small: int = SMALL_BYTES,
    ) -> None:
        self._settings, self._lake, self._moved, self._small = settings, Lake(settings), moved, small
        self._tables: dict[str, _Followed] = {}
        self._old: OrderedDict[tuple[str, int], Snapshot] = OrderedDict()
        self._opening: dict[tuple[str, int], Future[Snapshot]] = {}
        self._guard = threading.Lock()
        self._leaving = threading.Event()
        # One for all queries, so that its bounds of memory and processors are those of all of them.
        # No files: nothing of anybody's is left on a disk, and nothing but what is registered can be read.
        self._duckdb = duckdb.connect(config={"threads": 2, "memory_limit": QUERY_MEMORY, "temp_directory": ""})
        self._duckdb.execute("set enable_external_access = false; set python_enable_replacements = false")
        self._follower = threading.Thread(target=self._follow, name="versions", daemon=True)
        self._follower.start()

    def close(self) -> None:
        """End the follower; what is being opened is waited for, for a short while."""
        self._leaving.set()
        self._follower.join(1.0)
        with self._guard:
            asking = [known.looking for known in self._tables.values() if known.looking] + [*self._opening.values()]
        wait(asking, LEAVES_S)

    # --- versions --------------------------------------------------------------------------------------------------

    def now(self, name: str) -> Snapshot | None:
        """The version that is served, if that is known without asking the lake."""
        known = self._tables.get(name)
        if known is None or known.snapshot is None:
            return None
        known.asked = now = time.monotonic()
        return known.snapshot if now - known.answered < AWAY_AFTER_S else None

    def held(self) -> list[Snapshot]:
        """The versions that are served now, of every table that is followed."""
        now = time.monotonic()
        known = [one for one in list(self._tables.values()) if now - one.asked <= FOLLOWED_S]
        return [one.snapshot for one in known if one.snapshot is not None]

    def warm(self, names: Iterable[str]) -> None:
        """Open tables that are likely to be asked for, in the background."""
        with self._guard:
            for name in names:
                self._tables.setdefault(name, _Followed(asked=time.monotonic() - FOLLOWED_S + WARMS_S))

    def snapshot(self, name: str, version: int | None = None) -> Snapshot:
        """The version that is served, or another one by its number. Blocks: to be called from a thread.

        Raises:
            Problem: 404 no such table or version yet, 410 the version is gone, 503 the lake does not answer.
        """
        served = self.now(name) or _result(name, *self._look(name))
        if version is None or version == served.version:
            return served
        return _result(name, *self._at(served, version))

    async def soon(self, name: str, version: int | None = None) -> Snapshot:
        """:meth:`snapshot` for who must not block."""
        served = self.now(name) or await _awaited(name, *self._look(name))
        if version is None or version == served.version:
            return served
        return await _awaited(name, *self._at(served, version))

    def _at(self, served: Snapshot, version: int) -> tuple[Future[Snapshot], float]:
        """A version by its number, and for how long to wait for it."""
        name, key = served.name, (served.name, version)
        found: Future[Snapshot] = Future()
        found.set_running_or_notify_cancel()
        if version > served.version:
            detail = f"{name} is at version {served.version}: {version} is yet to come."
            found.set_exception(Problem(404, "no-such-version", detail))
            return found, 0.0
        with self._guard:
            if known := self._old.get(key):
                self._old.move_to_end(key)
                found.set_result(known)
                return found, 0.0
            if opening := self._opening.get(key):
                return opening, OPENS_S
            self._opening[key] = found
        threading.Thread(target=self._open_old, args=(key, found), name=f"opens {name}", daemon=True).start()
        return found, OPENS_S

    def _open_old(self, key: tuple[str, int], found: Future[Snapshot]) -> None:
        name, version = key
        known = self._tables.get(name)
        try:
            snapshot, _ = self._open(name, self._lake.table(name, version), dict(known.parts) if known else {})
        except Exception as error:
            with self._guard:
                del self._opening[key]
            try:
                reachable(self._settings)
            except LakeError:
                found.set_exception(away(name, _line(error)))
            else:
                found.set_exception(gone(name, version))
            return
        with self._guard:
            del self._opening[key]
            self._old[key] = snapshot
            while len(self._old) > OLD_VERSIONS:
                self._old.popitem(last=False)
        found.set_result(snapshot)

    def _look(self, name: str) -> tuple[Future[Snapshot], float]:
        """Look for the newest version of a table, unless somebody does; and for how long to wait for it."""
        with self._guard:
            known, now = self._tables.setdefault(name, _Followed()), time.monotonic()
            known.asked = now
            waits = OPENS_S - (now - known.looked)
            if known.looking is not None:
                if now - known.looked < GIVEN_UP_S:
                    return known.looking, max(waits, 0.0)
            elif known.failure is not None and now - known.looked < LOOK_EVERY_S:
                failed: Future[Snapshot] = Future()
                failed.set_exception(known.failure)
                return failed, 0.0
            return self._start(name, known), OPENS_S

    def _start(self, name: str, known: _Followed) -> Future[Snapshot]:
        found: Future[Snapshot] = Future()
        found.set_running_or_notify_cancel()  # whoever does not wait any longer cancels nothing for the others
        known.looking, known.looked = found, time.monotonic()
        # A handle that was not brought up for long may miss commits that are gone from the log by now.
        handle = known.handle if known.looked - known.answered < FOLLOWED_S else None
        known.handle = None
        given = (name, known, handle, found)
        threading.Thread(target=self._attempt, args=given, name=f"opens {name}", daemon=True).start()
        return found

    def _attempt(self, name: str, known: _Followed, handle: DeltaTable | None, found: Future[Snapshot]) -> None:
        """Bring what is known of a table up to its newest version."""
        snapshot, parts = known.snapshot, known.parts
        failure: Problem | None = None
        try:
            if handle is None:
                handle = self._lake.table(name)
            else:
                handle.update_incremental()
            if snapshot is None or (handle.version(), handle.metadata().id) != (snapshot.version, snapshot.id):
                opened, parts = self._open(name, handle, parts, known)
                same = snapshot is not None and snapshot.id == opened.id
                snapshot = replace(opened, previous=snapshot.version if same and snapshot is not None else None)
        except NoTableError:
            failure = Problem(404, "no-such-table", f"{name} is not there yet: `lakehouse up` creates all tables.")
        except Exception as error:
            failure = away(name, _line(error))
        moved = False
        with self._guard:
            if known.looking is found:  # not given up meanwhile
                known.looking, known.failure = None, failure
                if failure is None:
                    known.answered = time.monotonic()
                    known.handle, known.parts, moved = handle, parts, snapshot is not known.snapshot
                    known.snapshot = snapshot
                    self._bound()
                elif failure.status == 404:
                    known.snapshot, known.parts = None, {}
        if failure is not None:
            found.set_exception(failure)
            return
        assert snapshot is not None
        found.set_result(snapshot)
        if moved:
            self._moved(snapshot)

    def _bound(self) -> None:
        """Forget tables that were not asked for longest, so that those in memory keep their bound."""
        by_age = sorted(self._tables.values(), key=lambda known: known.asked, reverse=True)
        held = 0
        for known in by_age:
            held += sum(part.nbytes for part in known.parts.values())
            if held > MEMORY_BYTES and known is not by_age[0]:
                known.snapshot, known.parts, known.handle = None, {}, None

    def _follow(self) -> None:
        while not self._leaving.wait(0.1):
            now = time.monotonic()
            with self._guard:
                attempts = sum(k.looking is not None and now - k.looked < GIVEN_UP_S for k in self._tables.values())
                due = [
                    (known.looked, name, known)
                    for name, known in self._tables.items()
                    if now - known.asked <= FOLLOWED_S
                    and now - known.looked >= (LOOK_EVERY_S if known.looking is None else GIVEN_UP_S)
                ]
                for _, name, known in sorted(due, key=lambda one: one[0])[: max(AT_A_TIME - attempts, 0)]:
                    self._start(name, known).add_done_callback(_logged(name, known.failure is not None))

    # --- rows ------------------------------------------------------------------------------------------------------

    def _open(
        self, name: str, handle: DeltaTable, parts: Parts, known: _Followed | None = None
    ) -> tuple[Snapshot, Parts]:
        """A version that a handle stands at, with what is read of its files unless that is too much."""
        facts = pa.table(handle.get_add_actions())
        sizes = dict(zip(facts["path"].to_pylist(), facts["size_bytes"].to_pylist(), strict=True))
        rows = sum(n or 0 for n in facts["num_records"].to_pylist()) if "num_records" in facts.column_names else 0
        total, version = sum(sizes.values()), handle.version()
        committed = handle.history(1)[0].get("timestamp", 0) / 1000
        schema = _declared(name, pa.schema(handle.schema().to_arrow()))
        relation: pa.Table | dataset.Dataset
        held: Parts = {}
        large = total > self._small or (known is not None and known.large)
        if not large:
            held = _read(handle, schema, sizes, parts)
            if sum(part.nbytes for part in held.values()) > MEMORY_BYTES // 2:
                large, held = True, {}
                if known is not None:
                    known.large = True
        if large:
            relation = pruned_dataset(handle).replace_schema(schema)
        else:
            relation = pa.concat_tables(held.values()) if held else schema.empty_table()
            if len(held) > FEW_PARTS and relation.nbytes < WORTH_COPYING:
                relation = relation.combine_chunks()
        at = datetime.fromtimestamp(committed, UTC)
        return Snapshot(name, version, at, schema, rows, total, relation, str(handle.metadata().id)), held

    def select(self, snapshot: Snapshot, sql: str, bound: list[Any], within_s: float) -> pa.Table:
        """The answer of one SELECT over ``rows``, the snapshot. Blocks.

        Raises:
            Problem: 504 it took longer than ``within_s``; 503 the lake does not answer; 410 the version's files are
                gone.
        """
        with self.reading(snapshot, sql, bound, within_s) as found:
            return found.read_all()

    @contextmanager
    def reading(
        self, snapshot: Snapshot, sql: str, bound: list[Any], within_s: float
    ) -> Iterator[pa.RecordBatchReader]:
        """The same, batch by batch."""
        with self._guard:
            connection = self._duckdb.cursor()
        late = threading.Event()

        def interrupt() -> None:
            late.set()
            connection.interrupt()

        clock = threading.Timer(within_s, interrupt)
        clock.daemon = True
        clock.start()
        try:
            connection.execute("set TimeZone = 'UTC'")  # every cursor has its own
            connection.register("rows", snapshot.relation)
            yield connection.sql(sql, params=bound).to_arrow_reader(10_000)
        except _FAULTS:
            raise
        except (duckdb.Error, OSError, pa.ArrowException, MemoryError) as error:
            raise self._failure(snapshot, error, within_s if late.is_set() else None) from None
        finally:
            clock.cancel()
            connection.close()

    def _failure(self, snapshot: Snapshot, error: Exception, late: float | None) -> Problem:
        """What a failed query means to who asked; Arrow's readers turn DuckDB's errors into their own."""
        text = str(error)
        if late is not None:
            detail = f"The query took more than {late:g} s: ask for less, such as a shorter time."
            return Problem(504, "query-timeout", detail)
        if isinstance(error, duckdb.OutOfMemoryException | MemoryError) or "Out of Memory" in text:
            return Problem(503, "too-much", "The query needs too much memory: ask for less, or for fewer columns.")
        _log.warning("%s at version %d cannot be read: %s", snapshot.name, snapshot.version, _line(error))
        missing = any(words in text.lower() for words in ("not found", "no such file", "does not exist"))
        with self._guard:
            known = self._tables.get(snapshot.name)
            newest = known is not None and known.snapshot is snapshot
            if missing and newest and known is not None:
                known.snapshot, known.handle, known.parts = None, None, {}  # the table was made anew
            elif missing:
                self._old.pop((snapshot.name, snapshot.version), None)
        if missing and not newest:
            return gone(snapshot.name, snapshot.version)
        return away(snapshot.name, "a file could not be read")


def _declared(name: str, schema: pa.Schema) -> pa.Schema:
    """The columns of a version and those that it lacks, which are null in it: it may be older than they are."""
    for wanted in TABLES[name].arrow if name in TABLES else ():
        if wanted.name not in schema.names:
            schema = schema.append(wanted)
    return schema


def _read(handle: DeltaTable, schema: pa.Schema, sizes: dict[str, int], parts: Parts) -> Parts:
    """What is in the files, read unless it is among the parts."""
    held = {path: part for path, part in parts.items() if path in sizes and part.schema == schema}
    missing = [path for path in sizes if path not in held]
    if missing:
        if handle.protocol().min_reader_version == 1 and not handle.metadata().partition_columns:
            known = {unquote(path): sizes[path] for path in missing}
            storage = fs.PyFileSystem(DeltaStorageHandler(handle.table_uri, None, known))
            fragments = [_PARQUET.make_fragment(unquote(path), filesystem=storage) for path in missing]
        else:  # files that mean what the log says of them
            by_path = {unquote(fragment.path): fragment for fragment in pruned_dataset(handle).get_fragments()}
            fragments = [by_path[unquote(path)] for path in missing]
        read = _side_by_side(lambda one: one.to_table(schema=schema, use_threads=False), fragments, READERS)
        held |= dict(zip(missing, read, strict=True))
    return {path: held[path] for path in sizes}


def _side_by_side(call: Callable[[Item], Made], items: list[Item], most: int) -> list[Made]:
    """What a call makes of each; in threads that end with the process, whatever they wait for."""
    made: list[Future[Made]] = [Future() for _ in items]
    waiting = iter(list(zip(items, made, strict=True)))
    guard = threading.Lock()

    def work() -> None:
        while True:
            with guard:
                item, future = next(waiting, (None, None))
            if future is None:
                return
            try:
                future.set_result(call(item))  # type: ignore[arg-type]
            except Exception as error:
                future.set_exception(error)

    for _ in range(min(most, len(items))):
        threading.Thread(target=work, name="reads files", daemon=True).start()
    return [future.result() for future in made]


def _result(name: str, found: Future[Snapshot], within_s: float) -> Snapshot:
    try:
        return found.result(within_s)
    except TimeoutError:
        raise away(name, "no answer") from None


async def _awaited(name: str, found: Future[Snapshot], within_s: float) -> Snapshot:
    if found.done():
        return found.result()
    try:
        return await asyncio.wait_for(asyncio.wrap_future(found), within_s)
    except TimeoutError:
        raise away(name, "no answer") from None


def _logged(name: str, known: bool) -> Callable[[Future[Snapshot]], None]:
    """Say that a table is not followed any more, once."""

    def log(found: Future[Snapshot]) -> None:
        if (error := found.exception()) is not None and not known:
            _log.warning("%s is not followed: %s", name, error)

    return log


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def away(name: str, why: str) -> Problem:
    """503: the lake does not answer."""
    detail = f"{name} cannot be read: HDFS does not answer ({why}). Try again later; `lakehouse status` shows it."
    return Problem(503, "store-away", detail, {"Retry-After": "5"}, store="hdfs")


def gone(name: str, version: int) -> Problem:
    """410: a version can no longer be read."""
    detail = f"{name} at version {version} can no longer be read: ask without version, and without a cursor of it."
    return Problem(410, "version-gone", detail)
