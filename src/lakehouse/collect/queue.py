"""The persistent queue between inputs and outputs: on disk before an input hears of it, until every output has it.

Guarantee: what :meth:`Queue.put` returned for survives kill -9 and loss of power, and is taken again until it is
acknowledged, in the order of the puts. A batch whose acknowledgement is younger than 0.2 s may be taken once more after
a crash: outputs are told events by their ids, which stay the same.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from lakehouse.collect.event import METADATA, Event

MAX_BYTES = 1024**3
"""Logstash's ``queue.max_bytes``."""
BATCH_EVENTS = 2000
_BATCH_BYTES = 8 << 20
_FORGET_AFTER_S = 0.2
_RETRY_S = 1.0
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 4000;
PRAGMA journal_size_limit = 67108864;
CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, events INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS marks (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""
_log = logging.getLogger(__name__)


class QueueError(Exception):
    """The queue's file can't be used; the message says what to do."""


class QueueInUse(QueueError):
    """Another process runs with the queue."""


@dataclass(eq=False)
class _Put:
    body: bytes
    events: int
    mark: tuple[str, Any] | None
    accepted: Future[None] = field(default_factory=Future)
    delivered: Future[None] = field(default_factory=Future)


@dataclass(frozen=True)
class Batch:
    """Events in order; ``rows`` are the puts they came with, as stored."""

    ids: list[int]
    rows: list[bytes]
    events: list[Event]

    def original(self, number: int) -> Event:
        """The event at a place in ``events`` as it was when it was put."""
        return [event for row in self.rows for event in _events(row)][number]


def _events(body: bytes) -> list[Event]:
    events: list[Event] = orjson.loads(body)
    for event in events:
        event["@timestamp"] = datetime.fromisoformat(event["@timestamp"])
    return events


def _named(events: list[Event]) -> None:
    """Give each event ``[@metadata][id]``, 128 random bits, unless it has one."""
    names = os.urandom(16 * len(events)).hex()
    for number, event in enumerate(events):
        metadata = event.setdefault(METADATA, {})
        if "id" not in metadata:
            metadata["id"] = names[32 * number : 32 * number + 32]


class Queue:
    """One SQLite file with one writer: puts that wait together are committed together.

    Args:
        path: the file, made with its folder where it is missing.
        max_bytes: JSON bytes of events that are not acknowledged, above which puts wait; an empty queue takes a
            larger put.
        batch_events: :meth:`take` joins puts up to about so many events.

    Raises:
        QueueInUse: another collector runs with it.
        QueueError: the file is damaged, or can't be written.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, batch_events: int = BATCH_EVENTS) -> None:
        self.path, self.max_bytes, self._batch_events = path, max_bytes, batch_events
        self._changed = threading.Condition()
        self._puts: deque[_Put] = deque()
        self._acknowledged: list[int] = []
        self._undelivered: dict[int, Future[None]] = {}
        self._closing = False
        self._broken: QueueError | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._open()
        except BlockingIOError:
            os.close(self._lock)
            raise QueueInUse(f"{path}: another `lakehouse collect` runs with this queue") from None
        except sqlite3.DatabaseError as error:
            os.close(self._lock)
            raise self._damage(error) from None
        self._taken = 0
        self._thread = threading.Thread(target=self._write, name="collect-queue", daemon=True)
        self._thread.start()

    def _open(self) -> None:
        self._writer = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        found = self._writer.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        self._writer.executescript(_SCHEMA)
        self._reader = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self._marks = {key: orjson.loads(value) for key, value in self._writer.execute("SELECT key, value FROM marks")}
        self.bytes, self.events, self._last = self._writer.execute(
            "SELECT coalesce(sum(length(body)), 0), coalesce(sum(events), 0), coalesce(max(id), 0) FROM batches"
        ).fetchone()

    def _damage(self, error: Exception) -> QueueError:
        if isinstance(error, sqlite3.OperationalError):
            return QueueError(f"{self.path}: the queue can't be opened: {error}")
        return QueueError(
            f"{self.path}: the queue is damaged ({error}): `sqlite3 {self.path} .recover` shows what can be read; "
            f"move the file away to start with an empty queue"
        )

    async def put(self, events: list[Event], mark: tuple[str, Any] | None = None) -> Future[None]:
        """As :class:`~lakehouse.collect.plugins.Intake` says; cancelled while it waits for room, it leaves nothing.

        Raises:
            QueueError: the file has been damaged.
        """
        if events:
            _named(events)
        entry = _Put(orjson.dumps(events) if events else b"", len(events), mark)
        entry.delivered.set_running_or_notify_cancel()  # no one's waiting can be cancelled for another
        with self._changed:
            if self._broken:
                raise self._broken
            self._puts.append(entry)
            self._changed.notify_all()
        try:
            await asyncio.wrap_future(entry.accepted)
        except asyncio.CancelledError:
            with self._changed:
                if entry in self._puts:
                    self._puts.remove(entry)
            raise
        return entry.delivered

    def mark(self, key: str) -> Any:
        """What was last stored under a key, or ``None``."""
        return self._marks.get(key)

    def take(self, timeout: float) -> Batch | None:
        """The next batch that was not taken since the start; ``None`` after ``timeout`` seconds without one.

        Raises:
            QueueError: the file has been damaged.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._last > self._taken or self._broken or self._closing, timeout)
            if self._closing:
                return None
            if self._broken:
                raise self._broken
            if self._last <= self._taken:
                return None
        ids: list[int] = []
        rows: list[bytes] = []
        count = size = 0
        try:
            cursor = self._reader.execute(
                "SELECT id, events, body FROM batches WHERE id > ? ORDER BY id", (self._taken,)
            )
            for number, events, body in cursor:
                ids.append(number)
                rows.append(body)
                count, size = count + events, size + len(body)
                if count >= self._batch_events or size >= _BATCH_BYTES:
                    break
            cursor.close()  # an open read keeps the log from being written back
            batch = Batch(ids, rows, [event for row in rows for event in _events(row)])
        except (sqlite3.DatabaseError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise self._damage(error) from None
        self._taken = ids[-1]
        return batch

    def acknowledge(self, batch: Batch) -> None:
        """Forget a batch: every output has it."""
        with self._changed:
            if self._closing:
                return  # it is taken again
            self._acknowledged += batch.ids
            self.bytes -= sum(map(len, batch.rows))
            self.events -= len(batch.events)
            delivered = [self._undelivered.pop(number, None) for number in batch.ids]
            self._changed.notify_all()
        for future in delivered:
            if future is not None:
                future.set_result(None)

    def close(self) -> None:
        """Write what has been put and acknowledged, and let go of the file; puts that wait for room fail."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._reader.close()
        self._writer.close()
        os.close(self._lock)

    def _admitted(self) -> list[_Put]:
        """The puts, in order, that there is room for."""
        entries, size = [], self.bytes
        while self._puts and (not size or size + len(self._puts[0].body) <= self.max_bytes):
            entry = self._puts.popleft()
            if entry.accepted.set_running_or_notify_cancel():
                entries.append(entry)
                size += len(entry.body)
        return entries

    def _room(self) -> bool:
        return bool(self._puts) and (not self.bytes or self.bytes + len(self._puts[0].body) <= self.max_bytes)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._room() or self._closing, _FORGET_AFTER_S)
                closing, entries = self._closing, self._admitted()
                forgotten, self._acknowledged = self._acknowledged, []
            try:
                if entries or forgotten:
                    self._commit(entries, forgotten)
            except sqlite3.DatabaseError as error:
                self._fail(self._damage(error), entries)
                return
            if closing:
                self._fail(QueueError(f"{self.path}: the collector stops"), [])
                return

    def _commit(self, entries: list[_Put], forgotten: list[int]) -> None:
        numbers = [self._last + n for n, _ in enumerate([e for e in entries if e.events], 1)]
        stored = dict(zip(numbers, (e for e in entries if e.events), strict=True))
        marks = {entry.mark[0]: entry.mark[1] for entry in entries if entry.mark}
        told = False
        while True:
            try:
                self._transaction(stored, marks, forgotten)
                break
            except sqlite3.OperationalError as error:  # a full disk: senders wait until there is room
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                if not told:
                    _log.warning("%s: can't be written (%s), tried again until it can", self.path, error)
                    told = True
                with self._changed:
                    if self._closing or self._changed.wait_for(lambda: self._closing, _RETRY_S):
                        raise
        with self._changed:
            self._marks |= marks
            self._undelivered |= {number: entry.delivered for number, entry in stored.items()}
            self.bytes += sum(len(entry.body) for entry in stored.values())
            self.events += sum(entry.events for entry in stored.values())
            self._last = max(numbers, default=self._last)
            self._changed.notify_all()
        for entry in entries:
            if not entry.events:
                entry.delivered.set_result(None)
            entry.accepted.set_result(None)

    def _transaction(self, stored: dict[int, _Put], marks: dict[str, Any], forgotten: list[int]) -> None:
        execute, executemany = self._writer.execute, self._writer.executemany
        execute("BEGIN IMMEDIATE")
        executemany("DELETE FROM batches WHERE id = ?", [(number,) for number in forgotten])
        executemany("INSERT INTO batches VALUES (?, ?, ?)", [(n, e.events, e.body) for n, e in stored.items()])
        executemany(
            "INSERT OR REPLACE INTO marks VALUES (?, ?)",
            [(key, orjson.dumps(value)) for key, value in marks.items() if value is not None],
        )
        executemany("DELETE FROM marks WHERE key = ?", [(key,) for key, value in marks.items() if value is None])
        execute("COMMIT")

    def _fail(self, error: QueueError, entries: list[_Put]) -> None:
        with self._changed:
            self._broken = error
            entries += [put for put in self._puts if put.accepted.set_running_or_notify_cancel()]
            self._puts.clear()
            self._changed.notify_all()
        for entry in entries:
            entry.accepted.set_exception(error)
