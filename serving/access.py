"""The access log: every read of personal data is kept before it is answered, and ends in ``ops.access_log``.

An entry is first a line of a file in ``<home>/spool/access``, which outlives the process; a thread brings files into
the table and deletes them. Guarantee: whatever dies when, an entry whose request was answered is in the table once, as
the table has one row an id, and the id is in the file. A machine that loses power may lose the last second.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec
import pyarrow as pa
from starlette.types import ASGIApp, Receive, Scope, Send

from lakehouse.ops.access_log import TABLE
from lakehouse.settings import Settings
from lakehouse.sinks import batch
from serving.auth import Caller
from serving.problems import Problem

AT_ONCE = 50_000
"""Most entries of one commit, but for those of one file."""
SEGMENT = 4 * 1024 * 1024
"""Bytes after which a file is closed and another begun."""
LOOK_S = 1.0
"""How often there is a look at what waits; what was written is on the disk by then."""
REST_S = (5.0, 60.0)
"""After a table that could not be written there is a rest, the second time twice as long, and so on up to the last."""
LEFT = timedelta(seconds=10)
"""Who lives closes a file within ``every``; what is older by this is of somebody who does not."""
ENDING_S = 10.0
_log = logging.getLogger(__name__)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One read, with the columns of ``ops.access_log``."""

    at: datetime
    subject: str
    resource: str
    columns: tuple[str, ...]
    rows: int | None
    user_id: str | None = None
    filter_digest: str | None = None
    request_id: str | None = None
    method: str | None = None
    route: str | None = None
    client: str | None = None
    status: int = 200
    id: str = msgspec.field(default_factory=lambda: uuid4().hex)


_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder(Entry)


class Full(Exception):
    """As much waits for the table as may, or the disk takes no more."""


class Spool:
    """Entries in files of a folder, ``<time>-<process>-<random>.ndjson``, a line each; several processes may share it.

    A file that is being written is locked, as is one that is being taken; whoever dies lets go of both.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder, self.bound = folder, bound
        self._lock = threading.Lock()
        self._file: int | None = None
        self._name = ""
        self._size = 0
        self._whole: list[int] = []
        self._dirty = False
        self.entries = 0
        """How many were kept since :meth:`close`, and when the first was."""
        self.since = 0.0
        self.waiting = self._weigh()
        """Bytes in the folder, as far as they are known."""

    def append(self, entry: Entry) -> None:
        """Keep an entry; it survives this process from here on.

        Raises:
            Full: it is not kept.
        """
        line = _encoder.encode(entry) + b"\n"
        with self._lock:
            if self.waiting + len(line) > self.bound:
                raise Full(f"{self.waiting:,} bytes wait")
            try:
                if self._file is None:
                    self._file, self._name, self._size = *self._open(), 0
                written = os.write(self._file, line)
                if written < len(line):  # a full disk takes a part: half a line must not precede the next one
                    os.ftruncate(self._file, self._size)
                    raise Full("the disk is full")
            except OSError as error:
                raise Full(str(error)) from None
            if not self.entries:
                self.since = time.monotonic()
            self.entries += 1
            self._size += written
            self.waiting += written
            self._dirty = True
            if self._size >= SEGMENT:
                self._whole.append(self._file)  # not closed here: that waits for the disk
                self._file, self._name = None, ""

    def sync(self) -> None:
        """Bring what was written to the disk, and let go of files that are whole."""
        with self._lock:
            whole, self._whole = self._whole, []
            if self._dirty and self._file is not None:
                whole.append(os.dup(self._file))
            self._dirty = False
        for file in whole:  # while others append
            try:
                os.fdatasync(file)
            finally:
                os.close(file)

    def close(self) -> None:
        """Write no more to the file that is open; all of them may be taken."""
        with self._lock:
            if self._file is not None:
                self._whole.append(self._file)
            self._file, self._name, self.entries = None, "", 0
        self.sync()

    def left(self, age: timedelta) -> bool:
        """Whether there are files that nobody has written to for so long: of a process that died, or one that fails."""
        oldest = time.time() - age.total_seconds()
        for path in self.folder.glob("*.ndjson"):
            with suppress(FileNotFoundError):
                if path.name != self._name and path.stat().st_mtime <= oldest:
                    return True
        return False

    @contextmanager
    def take(self) -> Iterator[list[Entry]]:
        """Entries of files that nobody writes or takes; the files are deleted afterwards, but for an error within."""
        taken: list[tuple[Path, int]] = []
        entries: list[Entry] = []
        try:
            self._tidy()
            for path in sorted(self.folder.glob("*.ndjson")):
                if len(entries) >= AT_ONCE:
                    break
                if path.name != self._name and (file := self._claim(path)) is not None:
                    taken.append((path, file))
                    entries += self._read(path)
            yield entries
            for path, _ in taken:
                path.unlink()
        finally:
            for _, file in taken:
                os.close(file)
            weight = self._weigh()
            with self._lock:
                self.waiting = weight

    def _tidy(self) -> None:
        """Delete what processes left that died while they began a file: nothing was written to it."""
        for path in self.folder.glob("*.ndjson.new"):
            if (file := self._claim(path)) is not None:
                path.unlink()
                os.close(file)

    def _claim(self, path: Path) -> int | None:
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                return file
        except OSError:  # locked, or taken and deleted just now
            pass
        os.close(file)
        return None

    def _read(self, path: Path) -> list[Entry]:
        found, broken = [], []
        *lines, rest = path.read_bytes().split(b"\n")
        if rest:
            _log.warning("%s ends within a line: its request was never answered", path.name)
        for line in lines:
            try:
                found.append(_decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                broken.append(line)
        if broken:
            apart = path.with_suffix(".broken")
            with open(os.open(apart, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(b"\n".join([*broken, b""]))
            _log.error("%d lines of %s are no entries: they are kept in %s", len(broken), path.name, apart)
        return found

    def _open(self) -> tuple[int, str]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            name = f"{time.time_ns():020d}-{os.getpid()}-{uuid4().hex[:8]}.ndjson"
            # Locked under another name before it has its own: nobody takes what is written to it.
            path = self.folder / f"{name}.new"
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                os.rename(path, self.folder / name)
                return file, name
            except FileNotFoundError:  # it was tidied away before it was locked
                os.close(file)
            except OSError:
                os.close(file)
                raise

    def _weigh(self) -> int:
        total = 0
        for path in self.folder.glob("*.ndjson"):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total


class AccessLog:
    """Keeps entries, and brings them into the table.

    Args:
        spool: where they are kept.
        write: brings rows into the table; the same rows again change nothing.
        every: how long an entry waits for others.
        most: how many are not waited with.
    """

    def __init__(self, spool: Spool, write: Callable[[pa.Table], None], every: timedelta, most: int) -> None:
        self.spool, self._write, self._every, self._most = spool, write, every, most
        self._wake, self._ending = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._failures = 0

    @classmethod
    def of(cls, settings: Settings) -> AccessLog:
        """The log of an API."""
        api = settings.api
        spool = Spool(settings.home / "spool" / "access", api.access_spool)
        return cls(spool, lambda rows: batch.upsert(settings, TABLE, rows), api.access_every, api.access_entries)

    def start(self) -> None:
        """Begin to bring entries into the table."""
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Bring what waits into the table, if that is possible soon; else it waits in the spool."""
        self._ending = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(ENDING_S)

    def record(self, entry: Entry) -> None:
        """Keep an entry; it cannot be lost by the death of this process from here on.

        Raises:
            Problem: 503, as it could not be kept: then nothing may be answered.
        """
        try:
            self.spool.append(entry)
        except Full as error:
            _log.error("an access could not be logged, and was refused: %s", error)
            detail = "Reads of personal data are logged, and the log takes no more just now: try again later."
            raise Problem(503, "access-log-full", detail, {"Retry-After": "60"}) from None
        if self.spool.entries >= self._most:
            self._wake.set()

    def __call__(
        self, caller: Caller, resource: str, columns: tuple[str, ...], rows: int | None, digest: str | None
    ) -> None:
        """:class:`serving.service.Recorder`: what is asked is that of the request that runs here."""
        scope = _asked.get() or {}
        route, given = scope.get("route"), scope.get("path_params") or {}
        self.record(
            Entry(
                at=datetime.now(UTC),
                subject=caller.subject,
                user_id=caller.user_id,
                resource=resource,
                columns=columns,
                rows=rows,
                filter_digest=digest or (digest_of(given) if given else None),
                request_id=scope.get("state", {}).get("request_id"),
                method=scope.get("method"),
                route=getattr(route, "path", None) or scope.get("path"),
                client=(scope.get("client") or (None,))[0],
            )
        )

    def ship(self) -> int:
        """Bring what waits into the table, the file that is being written too; how many entries."""
        self.spool.close()
        shipped = 0
        while True:
            with self.spool.take() as entries:
                if entries:
                    self._write(table_of(entries))
            shipped += len(entries)
            if len(entries) < AT_ONCE:
                return shipped

    def _run(self) -> None:
        rests_until = self._try(time.monotonic()) if self.spool.left(timedelta(0)) else 0.0
        while not self._ending:
            self._wake.wait(LOOK_S)
            self._wake.clear()
            try:
                self.spool.sync()
            except OSError as error:
                _log.error("the access log may lose entries if the machine dies: %s", error)
            now = time.monotonic()
            if now >= rests_until and self._due(now):
                rests_until = self._try(now)
        if self.spool.waiting:
            self._try(time.monotonic())

    def _due(self, now: float) -> bool:
        spool = self.spool
        waited = bool(spool.entries) and now - spool.since >= self._every.total_seconds()
        return waited or spool.entries >= self._most or self._failures > 0 or spool.left(self._every + LEFT)

    def _try(self, now: float) -> float:
        try:
            self.ship()
        except Exception as error:
            self._failures += 1
            rest = min(REST_S[0] * 2.0 ** (self._failures - 1), REST_S[1])
            if self._failures == 1:
                _log.warning(
                    "ops.access_log cannot be written (%s): entries wait in %s, %s bytes of at most %s",
                    str(error)[:300], self.spool.folder, f"{self.spool.waiting:,}", f"{self.spool.bound:,}",
                )  # fmt: skip
            return now + rest
        if self._failures:
            _log.info("ops.access_log is written again")
        self._failures = 0
        return 0.0


def table_of(entries: list[Entry]) -> pa.Table:
    """Entries as rows of the table."""
    rows = [{name: getattr(entry, name) for name in TABLE.schema.names} for entry in entries]
    return pa.Table.from_pylist(rows, schema=TABLE.arrow)


def digest_of(given: dict[str, object]) -> str:
    """Names parameters without telling them: the SHA-256 of ``name=value`` lines, sorted, its first 32 hex digits."""
    lines = "\n".join(f"{name}={value}" for name, value in sorted(given.items()))
    return hashlib.sha256(lines.encode("utf-8", "replace")).hexdigest()[:32]


_asked: ContextVar[Scope | None] = ContextVar("asked", default=None)


class Asked:
    """Lets the log know which request runs, wherever in it something is read."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        before = _asked.set(scope)
        try:
            await self.app(scope, receive, send)
        finally:
            _asked.reset(before)
