"""What every surface asks: REST, GraphQL, the live stream and reports see the same rows by the same rules.

Of a table a caller sees the rows that are theirs and the columns that are not hidden; every read of what is personal is
recorded before it is answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.settings import Settings
from serving import formats
from serving.ask import Ask, Condition, of_one
from serving.auth import Caller, Keys
from serving.cache import Cache, Kept
from serving.catalog import PII, Masks, Readable
from serving.cursors import Cursors
from serving.problems import Problem
from serving.reads import Reads
from serving.served import Served, Snapshot

LARGEST_PAGE = 10_000
"""Rows of an answer that is made whole; more come as a stream."""
MOST_ROWS = 1_000_000
MOST_KEPT, LARGEST_KEPT = 200, 32 * 1024
"""Pages that are kept in memory, and bytes of the largest of them; as objects they take about ten times as much."""
STREAM_S = 300.0
"""How long an answer that comes as a stream may take."""
Result = TypeVar("Result")


class Recorder(Protocol):
    """Keeps who read what of whom; returns once that cannot be lost."""

    def __call__(
        self, caller: Caller, resource: str, columns: tuple[str, ...], rows: int | None, digest: str | None
    ) -> None:
        """``columns`` are the personal ones; ``rows`` is None where it is not known before they are sent."""


@dataclass(frozen=True)
class Page:
    """Rows of a table's version as they may be shown, and the cursor of the next page.

    ``places`` holds what the rows are ordered by, as it is: cursors are made of it, and it is never shown.
    """

    rows: pa.Table
    next: str | None
    snapshot: Snapshot
    places: pa.Table

    @cached_property
    def objects(self) -> list[dict[str, Any]]:
        """The rows as objects, made once; not to be changed, as others have the same."""
        return formats.objects(self.rows)


@dataclass(frozen=True)
class Body:
    """An answer that is ready to be sent: bytes, or a stream of them."""

    content: bytes | AsyncIterator[bytes] | None
    kind: str
    etag: str
    snapshot: Snapshot
    next: str | None = None


class Service:
    """Answers questions to tables.

    Args:
        settings: bounds.
        keys: of tokens, which cursors and pseudonyms are made with.
        served: the lake.
        reads: the stores.
        record: keeps reads of personal data.
    """

    def __init__(self, settings: Settings, keys: Keys, served: Served, reads: Reads, record: Recorder) -> None:
        self.settings, self.served, self.reads, self.record = settings, served, reads, record
        self.cursors = Cursors(keys)
        first = next(iter(keys.secrets.values()))
        self.masks = Masks(hashlib.blake2b(first.encode(), person=b"pseudonyms", digest_size=32).digest())
        self.cache = Cache(settings)
        self._within_s = settings.api.query_timeout.total_seconds()
        self._pages: OrderedDict[str, Page] = OrderedDict()
        self._making: dict[str, asyncio.Future[Page]] = {}
        self._threads = anyio.CapacityLimiter(settings.api.queries)

    async def close(self) -> None:
        """Let go of the lake, the stores and the cache."""
        self.served.close()
        await self.reads.close()
        await self.cache.close()

    # --- tables ------------------------------------------------------------------------------------------------------

    async def snapshot(self, table: Readable, caller: Caller, version: int | None = None) -> Snapshot:
        """The version of a table that a caller is answered from."""
        table.admit(caller)
        found = None if version is not None else self.served.now(table.name)
        if found is None:
            found = await self.thread(lambda: self.served.snapshot(table.name, version))
        return found

    def resume(self, question: Ask, caller: Caller, cursor: str | None) -> Ask:
        """The question from where a cursor stands, at the version of the pages before."""
        if cursor is None:
            return question
        after, version = self.cursors.open(caller, question.digest(), cursor)
        if len(after) != len(question.order):
            raise Problem(422, "invalid-cursor", "The cursor is of an older release: start again without one.")
        return replace(question, after=after, version=version if question.version is None else question.version)

    async def page(self, caller: Caller, question: Ask) -> Page:
        """One page of rows."""
        snapshot = await self.snapshot(question.table, caller, question.version)
        page = await self._kept_page(
            _etag(caller, question, snapshot, "page"),
            lambda: self.thread(lambda: self._page(caller, question, snapshot)),
        )
        self._recorded(caller, question, page.rows.num_rows)
        return page

    async def pages(self, caller: Caller, question: Ask, column: str, values: Sequence[str]) -> dict[str, Page]:
        """The first page of the same question for each value of a column, by one query.

        The question says nothing of the column itself; :func:`serving.ask.of_one` makes the one of a single value, and
        the cursors of its page are good for that.
        """
        snapshot = await self.snapshot(question.table, caller, question.version)
        together = replace(question, where=(Condition(column, "in", tuple(values)), *question.where))
        found = await self.thread(lambda: self._split(caller, together, snapshot, column, values))
        self._recorded(caller, question, sum(page.rows.num_rows for page in found.values()))
        return found

    def cursor(self, caller: Caller, question: Ask, page: Page, at: int) -> str:
        """The cursor of the rows that come after one of a page."""
        (place,) = page.places.slice(at, 1).to_pylist()
        values = [place[column] for column, _ in question.order]
        return self.cursors.seal(caller, question.digest(), values, page.snapshot.version)

    async def _kept_page(self, key: str, make: Callable[[], Awaitable[Page]]) -> Page:
        """A page that was asked for of late, as a version never changes; made once, however many ask for it now."""
        if (kept := self._pages.get(key)) is not None:
            self._pages.move_to_end(key)
            return kept
        if (waiting := self._making.get(key)) is None:
            # It is made to the end even if the first who asked goes away: others may wait for it.
            waiting = self._making[key] = asyncio.ensure_future(make())
            waiting.add_done_callback(lambda made: self._keep(key, made))
        return await asyncio.shield(waiting)

    def _keep(self, key: str, made: asyncio.Future[Page]) -> None:
        del self._making[key]
        if made.cancelled() or made.exception() or made.result().rows.nbytes > LARGEST_KEPT:
            return
        self._pages[key] = made.result()
        while len(self._pages) > MOST_KEPT:
            self._pages.popitem(last=False)

    async def body(self, caller: Caller, question: Ask, kind: str, known: str | None) -> Body:
        """The answer in a format; without content where ``known`` (``If-None-Match``) has its tag."""
        snapshot = await self.snapshot(question.table, caller, question.version)
        etag = _etag(caller, question, snapshot, kind)
        if known is not None and _matches(known, etag):
            return Body(None, kind, etag, snapshot)
        if question.limit > LARGEST_PAGE:
            self._recorded(caller, question, None)
            stream = self._stream(caller, question, snapshot, kind)
            first = await anext(stream, b"")  # what is wrong shows here, while it can still be said
            return Body(_chained(first, stream), kind, etag, snapshot)

        async def make() -> Kept:
            page = await self.thread(lambda: self._page(caller, question, snapshot))
            written = await self.thread(lambda: formats.page(page.rows, kind, page.next, snapshot.version))
            return Kept(written, page.rows.num_rows, page.next)

        kept = await self.cache.get(etag, make)
        self._recorded(caller, question, kept.rows)
        return Body(kept.body, kind, etag, snapshot, kept.next)

    def _page(self, caller: Caller, question: Ask, snapshot: Snapshot) -> Page:
        sql, bound = question.sql("rows", caller)
        return self._cut(caller, question, snapshot, self.served.select(snapshot, sql, bound, self._within_s))

    def _split(
        self, caller: Caller, question: Ask, snapshot: Snapshot, column: str, values: Sequence[str]
    ) -> dict[str, Page]:
        sql, bound = question.sql("rows", caller, per=column)
        rows = self.served.select(snapshot, sql, bound, self._within_s)
        whose = rows.column(column)
        alone = replace(question, where=question.where[1:])
        return {
            value: self._cut(caller, of_one(alone, column, value), snapshot, rows.filter(pc.equal(whose, value)))
            for value in values
        }

    def _cut(self, caller: Caller, question: Ask, snapshot: Snapshot, rows: pa.Table) -> Page:
        """A page of rows, of which one more than its limit shows that there are others."""
        more = rows.num_rows > question.limit
        rows = rows.slice(0, question.limit)
        places = rows.select([column for column, _ in question.order])
        page = Page(self._shown(rows, caller, question), None, snapshot, places)
        return replace(page, next=self.cursor(caller, question, page, question.limit - 1)) if more else page

    def _shown(self, rows: pa.Table, caller: Caller, question: Ask) -> pa.Table:
        return self.masks.apply(rows.select(list(question.select)), question.table.hidden(caller))

    async def _stream(self, caller: Caller, question: Ask, snapshot: Snapshot, kind: str) -> AsyncGenerator[bytes]:
        sql, bound = question.sql("rows", caller)
        bounded = f"select * from ({sql}) limit {question.limit:d}"

        def shown(found: pa.RecordBatchReader) -> pa.RecordBatchReader:
            empty = self._shown(found.schema.empty_table(), caller, question)
            batches = (
                batch
                for part in found
                for batch in self._shown(pa.Table.from_batches([part]), caller, question)
                .cast(empty.schema)
                .to_batches()
            )
            return pa.RecordBatchReader.from_batches(empty.schema, batches)

        # One thread from the first batch to the last, as DuckDB's answer belongs to it.
        loop, parts = asyncio.get_running_loop(), asyncio.Queue[bytes | Exception | None](2)
        gone = threading.Event()

        def put(part: bytes | Exception | None) -> None:
            sent = asyncio.run_coroutine_threadsafe(parts.put(part), loop)
            while not gone.is_set():
                with suppress(TimeoutError):
                    return sent.result(0.5)
            sent.cancel()

        def read() -> None:
            try:
                with self.served.reading(snapshot, bounded, bound, STREAM_S) as found:
                    for part in formats.parts(shown(found), kind):
                        put(part)
                        if gone.is_set():
                            return
                put(None)
            except Exception as error:
                put(error)

        running = asyncio.ensure_future(self.thread(read))
        try:
            while (part := await parts.get()) is not None:
                if isinstance(part, Exception):
                    raise part
                yield part
        finally:
            gone.set()
            running.cancel()

    async def query(self, caller: Caller, table: Readable, sql: str, bound: list[Any]) -> tuple[pa.Table, Snapshot]:
        """The answer of a route's own SELECT over ``rows``; only for columns with nothing personal in them."""
        snapshot = await self.snapshot(table, caller)
        return await self.thread(lambda: self.served.select(snapshot, sql, bound, self._within_s)), snapshot

    async def thread(self, call: Callable[[], Result]) -> Result:
        """Run something that blocks."""
        return await anyio.to_thread.run_sync(call, limiter=self._threads, abandon_on_cancel=True)

    # --- what is personal --------------------------------------------------------------------------------------------

    def _recorded(self, caller: Caller, question: Ask, rows: int | None) -> None:
        table = question.table
        seen = tuple(sorted((table.personal & set(question.select)) - table.hidden(caller)))
        if seen and rows != 0:
            self.record(caller, table.name, seen, rows, question.digest())

    def about(self, caller: Caller, user: str) -> None:
        """Let a caller at one user's data; a user's token only at its own.

        Raises:
            Problem: 404, so that nobody learns which users there are.
        """
        if caller.user_id is not None and caller.user_id != user:
            raise Problem(404, "no-such-user", "There is no such user for this token.")

    def told(self, row: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """A notification as a caller sees it: its text is null without ``read:pii``, but for one's own."""
        mine = caller.user_id is not None or PII in caller.scopes
        return row if mine else {**row, "text": None}


async def _chained(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for part in rest:
            yield part
    finally:
        await rest.aclose()


def _etag(caller: Caller, question: Ask, snapshot: Snapshot, kind: str) -> str:
    """Names an answer: the version, the question, the format, and who may see it."""
    words = repr(
        (
            question.digest(), question.limit, question.after, kind,
            caller.subject, caller.user_id, sorted(caller.scopes),
        )
    )  # fmt: skip
    short = hashlib.blake2b(words.encode(), digest_size=12).hexdigest()
    return f'"{snapshot.name}.{snapshot.version}.{short}"'


def _matches(known: str, etag: str) -> bool:
    """``If-None-Match`` (RFC 9110, 13.1.2), compared weakly."""
    return known.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in known.split(","))


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)
