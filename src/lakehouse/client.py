"""A client for ``POST /v1/events``: an event that ``send`` took reaches Kafka, though the API, or this process, dies.

    with Events("http://127.0.0.1:8000", token, Path("events.spool")) as events:
        events.send(event_type="view", user_id="u1", post_id="p1")

Needs nothing of the platform but this file and httpx2.
"""

from __future__ import annotations

import gzip
import json
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx2

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""Largest event, in bytes of JSON: the API takes bodies of up to 5 MB."""
LONGEST_WAIT_S = 300.0
"""However long a ``Retry-After`` is, the API is asked again after this."""
_LAST_WORD_S = 0.5
_log = logging.getLogger(__name__)


class SpoolError(Exception):
    """The spool cannot be opened: it is not one, or another process has it."""


class SpoolFull(Exception):
    """The spool holds as much as it may; the event was not taken. The message says for how much, and why."""


@dataclass(frozen=True)
class Rejected:
    """An event that the API refused for good, and every reason: (JSON pointer, what is wrong)."""

    event: dict[str, Any]
    reasons: list[tuple[str, str]]


class Events:
    """Takes events, keeps them in a spool on disk, and sends them in order, in batches, from a thread of its own.

    Once :meth:`send` has returned, the event survives the death of the process (``fsync``: of the machine). It leaves
    the spool when the API has acknowledged or rejected it; until then it is sent again, and its ``event_id`` makes a
    repeat count once. Whatever else the API answers (away, overloaded, token expired) only delays it.

    Args:
        url: of the API, without a path.
        token: a bearer token with the scope ``write:events``, or a function that returns one that is valid now.
        spool: the spool's file, for one process alone; it is made where it is missing.
        batch: events sent at once, at most.
        batch_bytes: bytes of a batch, unpacked, at most, where it is more than one event.
        age: how long an event may wait for others to share its batch.
        spool_bytes: how many bytes of events the spool holds, at most.
        on_rejected: called, in the thread that sends, with each event that the API rejected; logged in any case. It may
            be called again for an event after a crash, and must not wait for :meth:`flush`.
        first_pause: before the first repeat; each further pause is twice as long, up to ``longest_pause``, less a
            random part of up to a half. The API's ``Retry-After`` counts where it is longer.
        longest_pause: see there.
        timeout: how long one request may take; longer than the API waits for its broker.
        fsync: also wait for the disk in every :meth:`send`.
        transport: carries the requests instead of the network.

    Raises:
        SpoolError: the spool cannot be opened.
    """

    def __init__(
        self,
        url: str,
        token: str | Callable[[], str],
        spool: Path,
        *,
        batch: int = 500,
        batch_bytes: int = 1024 * 1024,
        age: timedelta = timedelta(seconds=0.5),
        spool_bytes: int = 256 * 1024 * 1024,
        on_rejected: Callable[[Rejected], None] | None = None,
        first_pause: timedelta = timedelta(seconds=0.2),
        longest_pause: timedelta = timedelta(seconds=30),
        timeout: timedelta = timedelta(seconds=30),
        fsync: bool = False,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._url, self._token, self._path = url.rstrip("/"), token, spool
        self._batch_bytes, self._age_s = min(batch_bytes, MAX_EVENT_BYTES), age.total_seconds()
        self._spool_bytes, self._on_rejected = spool_bytes, on_rejected
        self._first_pause_s, self._longest_pause_s = first_pause.total_seconds(), longest_pause.total_seconds()
        self._most, self._trouble = batch, ""
        self._spool = _open(spool, fsync)
        self._count, self._bytes, self._sent, self._done = self._totals()
        self._oldest = 0.0 if self._count else None  # what an earlier process left is due at once
        self._read_at = 0.0
        self._urgent = self._hurry = self._closed = self._stopping = False
        self._changed = threading.Condition()  # guards all of the above
        self._http = httpx2.Client(timeout=timeout.total_seconds(), transport=transport)
        self._thread = threading.Thread(target=self._run, name="lakehouse-events", daemon=True)
        self._thread.start()

    def send(
        self,
        *,
        event_type: str,
        user_id: str,
        event_id: str | None = None,
        occurred_at: datetime | str | None = None,
        **fields: Any,
    ) -> str:
        """Take one event; fields that are None are left out.

        Args:
            event_type: as the contract of user-events names them.
            user_id: who did it.
            event_id: what makes a repeat count once; by default a new UUID.
            occurred_at: with a time zone, or as RFC 3339 text; by default now.
            fields: any others, of the contract or not: what JSON can hold.

        Returns:
            The event's id.

        Raises:
            SpoolFull: too much waits for the API; the event was not taken.
            ValueError: the event has no JSON text (a NaN, a time without zone), or is larger than the API takes.
            SpoolError: the client is closed, or the disk does not take the event.
        """
        event_id = event_id or str(uuid4())
        event = {
            "event_id": event_id,
            "event_type": event_type,
            "user_id": user_id,
            "occurred_at": occurred_at or datetime.now(UTC),
            **fields,
        }
        present = {name: value for name, value in event.items() if value is not None}
        body = json.dumps(present, default=_text, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
        if len(body) > MAX_EVENT_BYTES:
            raise ValueError(f"the event has {len(body):,} bytes, at most {MAX_EVENT_BYTES:,} can be sent")
        with self._changed:
            if self._closed:
                raise SpoolError(f"{self._path}: the client is closed")
            if self._bytes + len(body) > self._spool_bytes:
                because = f": {self._trouble}" if self._trouble else ""
                raise SpoolFull(
                    f"{self._path}: {self._count:,} events ({self._bytes:,} of {self._spool_bytes:,} bytes) wait for "
                    f"{self._url}{because}"
                )
            try:
                self._sent = self._spool.execute("insert into events (body) values (?)", (body,)).lastrowid or 0
            except sqlite3.Error as error:
                raise SpoolError(f"{self._path}: the event could not be kept: {error}") from None
            self._count, self._bytes = self._count + 1, self._bytes + len(body)
            if self._oldest is None:
                self._oldest = time.monotonic()
                self._changed.notify_all()
            elif self._count == self._most:
                self._changed.notify_all()
        return event_id

    @property
    def pending(self) -> int:
        """Events in the spool: neither acknowledged nor rejected yet."""
        with self._changed:
            return self._count

    @property
    def trouble(self) -> str:
        """Why the last request failed; empty when it did not."""
        with self._changed:
            return self._trouble

    def flush(self, timeout: float | None = None) -> bool:
        """Send all that was taken before the call, at once: neither for further events nor for a pause is waited.

        Args:
            timeout: seconds to wait for it, or None for as long as it takes.

        Returns:
            Whether all of it is acknowledged or rejected; what is not stays in the spool and is sent later.
        """
        with self._changed:
            upto = self._sent
            self._urgent = self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done >= upto or self._stopping, timeout)
            return self._done >= upto

    def close(self, timeout: float = 5.0) -> None:
        """Send what can be sent in ``timeout`` seconds, then stop; the rest waits in the spool for the next client."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
        if not self.flush(timeout):
            _log.warning("%s: %s events are left for the next start (%s)", self._path, self.pending, self._trouble)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(_LAST_WORD_S)  # longer for no answer: the request can be repeated
        with self._changed:
            self._spool.close()
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the thread that sends ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while True:
            try:
                rows = self._next_batch()
                if not rows:
                    return
                pause = self._deliver(rows)
            except Exception as error:  # the thread must not die silently: events wait, and `trouble` says why
                pause = self._failed(f"{type(error).__name__}: {error}")
            if pause is None:
                failures = 0
                continue
            backoff = min(self._longest_pause_s, self._first_pause_s * 2.0 ** min(failures, 30))
            failures += 1
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, pause)  # what the API asked for
                left = backoff * random.uniform(0.5, 1) - pause
                self._changed.wait_for(lambda: self._stopping or self._hurry, left)
                self._hurry = False

    def _next_batch(self) -> list[tuple[int, bytes]]:
        """Wait until a batch is due, and read it: (number, JSON) of the oldest events; empty when it is time to end."""
        with self._changed:
            while not self._stopping:
                if self._oldest is None:
                    self._urgent = False
                    self._changed.wait()
                elif self._urgent or self._count >= self._most:
                    return self._read()
                elif (left := self._oldest + self._age_s - time.monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    return self._read()
        return []

    def _read(self) -> list[tuple[int, bytes]]:
        rows: list[tuple[int, bytes]] = []
        size = 0
        for number, body in self._spool.execute("select id, body from events order by id limit ?", (self._most,)):
            size += len(body) + 1
            if rows and size > self._batch_bytes:
                break
            rows.append((number, body))
        self._read_at = time.monotonic()
        return rows

    def _deliver(self, rows: list[tuple[int, bytes]]) -> float | None:
        """Send a batch; None when its events have left the spool, else the least pause before the next request (s)."""
        token = self._token if isinstance(self._token, str) else self._token()
        try:
            response = self._http.post(
                f"{self._url}/v1/events",
                content=gzip.compress(b"\n".join(body for _, body in rows), 6, mtime=0),
                headers={
                    "Authorization": f"Bearer {token}",
                    "Content-Type": "application/x-ndjson",
                    "Content-Encoding": "gzip",
                },
            )
        except httpx2.HTTPError as error:
            return self._failed(f"{self._url} does not answer: {error or type(error).__name__}")
        rejected = _rejections(response, len(rows))
        if response.status_code == 413:
            if len(rows) > 1:  # something on the way takes less than the API does
                with self._changed:
                    self._most = len(rows) // 2
                return 0.0
            rejected = {0: [("", "larger than the API takes")]}
        if rejected is None:
            return self._failed(
                f"{self._url} answers {response.status_code}: {_detail(response)}",
                _retry_after(response.headers.get("Retry-After", "")),
            )
        for index, reasons in rejected.items():
            self._tell(Rejected(json.loads(rows[index][1]), reasons))
        self._forget(rows)
        return None

    def _failed(self, trouble: str, pause: float = 0.0) -> float:
        with self._changed:
            if trouble != self._trouble:
                _log.warning("%s; %s events wait in %s", trouble, self._count, self._path)
            self._trouble = trouble
        return pause

    def _tell(self, rejected: Rejected) -> None:
        _log.error("event %s rejected: %s", rejected.event.get("event_id"), rejected.reasons)
        if self._on_rejected is not None:
            try:
                self._on_rejected(rejected)
            except Exception:
                _log.exception("on_rejected failed")

    def _forget(self, rows: list[tuple[int, bytes]]) -> None:
        with self._changed:
            if self._stopping:
                return  # the spool may be closed: they are sent again at the next start, and count once
            self._spool.execute("delete from events where id <= ?", (rows[-1][0],))
            self._done = rows[-1][0]
            self._count -= len(rows)
            self._bytes -= sum(len(body) for _, body in rows)
            self._oldest = self._read_at if self._count else None  # what is left came after the batch was read
            self._trouble = ""
            self._changed.notify_all()

    def _totals(self) -> tuple[int, int, int, int]:
        """Events in the spool, their bytes, the newest number, and the newest number that has left."""
        count, size, oldest, newest = self._spool.execute(
            "select count(*), coalesce(sum(length(body)), 0), coalesce(min(id), 1), coalesce(max(id), 0) from events"
        ).fetchone()
        return count, size, newest, oldest - 1


def _open(path: Path, fsync: bool) -> sqlite3.Connection:
    try:
        path.touch(0o600)  # events name people
        spool = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        spool.execute("pragma locking_mode = exclusive")  # ends with the process, however that ends
        spool.execute("pragma journal_mode = wal")
        spool.execute(f"pragma synchronous = {'full' if fsync else 'normal'}")
        spool.execute("create table if not exists events (id integer primary key autoincrement, body blob not null)")
        spool.execute("begin immediate")
        spool.execute("commit")
    except (sqlite3.Error, OSError) as error:
        if "locked" in str(error):
            raise SpoolError(f"{path}: another process has this spool: give each its own") from None
        raise SpoolError(f"{path}: cannot be used as a spool: {error}") from None
    return spool


def _text(value: Any) -> str:
    """JSON text of what the json module does not know."""
    if not isinstance(value, datetime):
        raise ValueError(f"a {type(value).__name__} has no JSON text")
    if value.utcoffset() is None:
        raise ValueError(f"{value} has no time zone: use datetime.now(UTC)")
    return value.isoformat()


def _rejections(response: httpx2.Response, sent: int) -> dict[int, list[tuple[str, str]]] | None:
    """Reasons by index of the rejected events, where the answer is final and speaks of all; else None."""
    if response.status_code not in (202, 422):
        return None
    try:
        results = response.json()["results"]
        if [(r["index"], r["status"] in ("accepted", "rejected")) for r in results] != [(i, True) for i in range(sent)]:
            return None
        return {
            r["index"]: [(one["pointer"], one["reason"]) for one in r["reasons"]]
            for r in results
            if r["status"] == "rejected"
        }
    except (ValueError, KeyError, TypeError):
        return None  # not our API's: a proxy's


def _detail(response: httpx2.Response) -> str:
    """What an answer says is wrong, without what differs from one to the next (RFC 9457's ``detail``)."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]


def _retry_after(header: str) -> float:
    """Seconds that a ``Retry-After`` (RFC 9110, 10.2.3) asks for, as a number or a date; 0 where there is none."""
    try:
        seconds = (
            float(header) if header.strip().isdecimal() else parsedate_to_datetime(header).timestamp() - time.time()
        )
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT_S)
