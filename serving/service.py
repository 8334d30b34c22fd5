"""What every surface asks: REST, GraphQL, the live stream and reports see the same rows by the same rules.

Of a table a caller sees the rows that are theirs and the columns that are not hidden; every read of what is personal is
recorded before it is answered.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.settings import Settings
from serving import formats
from serving.ask import Ask, Condition, of_one
from serving.auth import Caller, Keys
from serving.cache import Cache, Kept, Store, client
from serving.catalog import PII, Masks, Readable
from serving.cursors import Cursors
from serving.problems import Problem
from serving.reads import Reads
from serving.served import Served, Snapshot, away

LARGEST_PAGE = 10_000
"""Rows of an answer that is made whole; more come as a stream."""
MOST_ROWS = 1_000_000
KEPT_BYTES, LARGEST_KEPT, PAGE_BYTES = 8 * 1024 * 1024, 32 * 1024, 8 * 1024
"""Of the pages that are kept in memory, of the largest of them, and of one without rows; as objects, which are made
when they are asked for, rows take about ten times as much."""
STREAM_S = 300.0
"""How long an answer that comes as a stream may take."""
LAGS_S = 1.0
"""For how long after a table has moved answers of its version before are given, while those of the new one are made."""
MOST_ANSWERED = 2000
"""Questions of which the newest answer is remembered."""
STREAMS = 2
"""Of them at a time: they last as long as their readers take, and nobody else should wait for that."""
STALLED_S = 30.0
"""A reader who takes nothing for so long is given up."""
OVER_S = 2.0
"""A query that goes on for so long after it was ended does not wait for a processor but for the lake."""
LONGEST_PLACE = 1500
"""Characters of what a cursor holds of a row; where it would be more, it counts rows instead."""
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
        kept: Redis's role in the cache.
    """

    def __init__(
        self, settings: Settings, keys: Keys, served: Served, reads: Reads, record: Recorder, kept: Store | None = None
    ) -> None:
        self.settings, self.served, self.reads, self.record = settings, served, reads, record
        self.cursors = Cursors(keys)
        first = next(iter(keys.secrets.values()))
        self.masks = Masks(hashlib.blake2b(first.encode(), person=b"pseudonyms", digest_size=32).digest())
        self.cache = Cache(kept or client(settings))
        self._within_s = settings.api.query_timeout.total_seconds()
        self._kept: OrderedDict[str, Page] = OrderedDict()
        self._kept_bytes = 0
        self._making: dict[str, asyncio.Future[Page]] = {}
        self._pages, self._others = (asyncio.Semaphore(settings.api.queries) for _ in range(2))
        self._streams = asyncio.Semaphore(STREAMS)
        self._answered: OrderedDict[str, tuple[str, Snapshot]] = OrderedDict()
        self._soon: dict[str, asyncio.Future[Kept]] = {}
        self._one_soon = asyncio.Semaphore(1)

    async def close(self) -> None:
        """Let go of the lake, the stores and the cache."""
        self.served.close()
        await self.reads.close()
        await self.cache.close()

    # --- tables ------------------------------------------------------------------------------------------------------

    async def snapshot(self, table: Readable, caller: Caller, version: int | None = None) -> Snapshot:
        """The version of a table that a caller is answered from."""
        table.admit(caller)
        return await self.served.soon(table.name, version)

    def resume(self, question: Ask, caller: Caller, cursor: str | None) -> Ask:
        """The question from where a cursor stands, at the version of the pages before."""
        if cursor is None:
            return question
        (skip, *after), version = self.cursors.open(caller, question.digest(), cursor)
        if after and len(after) != len(question.order):
            raise Problem(422, "invalid-cursor", "The cursor is of an older release: start again without one.")
        version = version if question.version is None else question.version
        return replace(question, after=tuple(after) or None, skip=skip, version=version)

    async def page(self, caller: Caller, question: Ask, recorded: bool = True) -> Page:
        """One page of rows; ``recorded`` is false where the route itself keeps that it was read."""
        snapshot = await self.snapshot(question.table, caller, question.version)
        page = await self._kept_page(
            _etag(_asked(caller, question, "page"), snapshot),
            lambda: self.thread(lambda: self._page(caller, question, snapshot), snapshot.name),
        )
        if recorded:
            self._recorded(caller, question, page.rows.num_rows)
        return page

    async def pages(
        self, caller: Caller, question: Ask, column: str, values: Sequence[str], recorded: bool = True
    ) -> dict[str, Page]:
        """The first page of the same question for each value of a column, by one query.

        The question says nothing of the column itself; :func:`serving.ask.of_one` makes the one of a single value, and
        the cursors of its page are good for that.
        """
        snapshot = await self.snapshot(question.table, caller, question.version)
        keys = {value: _etag(_asked(caller, of_one(question, column, value), "page"), snapshot) for value in values}
        found = {value: kept for value, key in keys.items() if (kept := self._at_hand(key)) is not None}
        if missing := [value for value in keys if value not in found]:
            together = replace(question, where=(Condition(column, "in", tuple(missing)), *question.where))
            made = await self.thread(lambda: self._split(caller, together, snapshot, column, missing), snapshot.name)
            for value, page in made.items():
                self._keep(keys[value], page)
            found |= made
        if recorded:
            self._recorded(caller, question, sum(page.rows.num_rows for page in found.values()))
        return found

    def cursor(self, caller: Caller, question: Ask, page: Page, at: int) -> str:
        """The cursor of the rows that come after one of a page."""
        (row,) = page.places.slice(at, 1).to_pylist()
        place = [question.skip + at + 1, *(row[column] for column, _ in question.order)]
        if sum(len(value) for value in place if isinstance(value, str)) > LONGEST_PLACE:
            del place[1:]
        return self.cursors.seal(caller, question.digest(), place, page.snapshot.version)

    async def _kept_page(self, key: str, make: Callable[[], Awaitable[Page]]) -> Page:
        """A page that was asked for of late, as a version never changes; made once, however many ask for it now."""
        if (kept := self._at_hand(key)) is not None:
            return kept
        if (waiting := self._making.get(key)) is None:
            # It is made to the end even if the first who asked goes away: others may wait for it.
            waiting = self._making[key] = asyncio.ensure_future(make())
            waiting.add_done_callback(lambda made: self._made(key, made))
        return await asyncio.shield(waiting)

    def _made(self, key: str, made: asyncio.Future[Page]) -> None:
        del self._making[key]
        if not made.cancelled() and made.exception() is None:
            self._keep(key, made.result())

    def _at_hand(self, key: str) -> Page | None:
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
        return kept

    def _keep(self, key: str, page: Page) -> None:
        if page.rows.nbytes > LARGEST_KEPT or key in self._kept:
            return
        self._kept[key] = page
        self._kept_bytes += page.rows.nbytes + PAGE_BYTES
        while self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= self._kept.popitem(last=False)[1].rows.nbytes + PAGE_BYTES

    async def body(self, caller: Caller, question: Ask, kind: str, known: str | None) -> Body:
        """The answer in a format; without content where ``known`` (``If-None-Match``) has its tag."""
        snapshot = await self.snapshot(question.table, caller, question.version)
        asked = _asked(caller, question, kind)
        etag = _etag(asked, snapshot)
        if known is not None and _matches(known, etag):
            return Body(None, kind, etag, snapshot)
        if question.limit > LARGEST_PAGE:
            self._recorded(caller, question, None)
            stream = self._stream(caller, question, snapshot, kind)
            first = await anext(stream, b"")  # what is wrong shows here, while it can still be said
            return Body(_chained(first, stream), kind, etag, snapshot)

        async def make() -> Kept:
            return await self.thread(lambda: self._written(caller, question, snapshot, kind), snapshot.name)

        kept = self.cache.at_hand(etag)
        moved = question.version is None and time.monotonic() - snapshot.since < LAGS_S
        if kept is None and moved:
            # Nobody waits for the first answer of a new version: the one before is given until it is made.
            before = self._etag_before(asked, snapshot)
            if before is not None and (kept := self.cache.at_hand(before[0])) is not None:
                self._made_soon(etag, make)
                etag, snapshot = before
                if known is not None and _matches(known, etag):
                    return Body(None, kind, etag, snapshot)
        if kept is None:
            kept = await self.cache.get(etag, make)
        self._remember(asked, etag, snapshot)
        self._recorded(caller, question, kept.rows)
        return Body(kept.body, kind, etag, snapshot, kept.next)

    def _remember(self, asked: str, etag: str, snapshot: Snapshot) -> None:
        if asked in self._answered and self._answered[asked][0] == etag:
            return
        light = replace(snapshot, relation=snapshot.schema.empty_table())  # the rows may go when they like
        self._answered[asked] = (etag, light)
        self._answered.move_to_end(asked)
        if len(self._answered) > MOST_ANSWERED:
            self._answered.popitem(last=False)

    def _etag_before(self, asked: str, snapshot: Snapshot) -> tuple[str, Snapshot] | None:
        before = self._answered.get(asked)
        return before if before is not None and before[1].version == snapshot.previous else None

    def _made_soon(self, etag: str, make: Callable[[], Awaitable[Kept]]) -> None:
        async def in_turn() -> Kept:
            # One after the other: all at once, they would take the processor from who is answered meanwhile.
            async with self._one_soon:
                return await self.cache.get(etag, make)

        if etag not in self._soon:
            self._soon[etag] = making = asyncio.ensure_future(in_turn())
            making.add_done_callback(lambda made: (self._soon.pop(etag, None), made.cancelled() or made.exception()))

    def _written(self, caller: Caller, question: Ask, snapshot: Snapshot, kind: str) -> Kept:
        page = self._page(caller, question, snapshot)
        written = formats.page(page.rows, kind, page.next, snapshot.version)
        return Kept(written, page.rows.num_rows, page.next)

    def _page(self, caller: Caller, question: Ask, snapshot: Snapshot) -> Page:
        sql, bound = question.sql("rows", caller, self.masks.veil)
        return self._cut(caller, question, snapshot, self.served.select(snapshot, sql, bound, self._within_s))

    def _split(
        self, caller: Caller, question: Ask, snapshot: Snapshot, column: str, values: Sequence[str]
    ) -> dict[str, Page]:
        sql, bound = question.sql("rows", caller, self.masks.veil, per=column)
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
        sql, bound = question.sql("rows", caller, self.masks.veil)
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

        def put(part: bytes | None) -> bool:
            """Whether the reader is there to take it."""
            sent = asyncio.run_coroutine_threadsafe(parts.put(part), loop)
            try:
                sent.result(STALLED_S)
            except (TimeoutError, CancelledError):
                sent.cancel()
                raise Problem(503, "stalled", f"Nothing was taken for {STALLED_S:.0f} s.") from None
            return not gone.is_set()

        def end(error: Exception) -> None:
            while not parts.empty():
                parts.get_nowait()
            parts.put_nowait(error)

        def read() -> None:
            try:
                with self.served.reading(snapshot, bounded, bound, STREAM_S) as found:
                    for part in formats.parts(shown(found), kind):
                        if not put(part):
                            return
                put(None)
            except Exception as error:
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(end, error)

        async with _turn(self._streams, self._within_s):
            reading, within_s = in_thread(read), self._within_s + OVER_S
            try:
                while (part := await _in_time(parts.get(), within_s, snapshot.name)) is not None:
                    if isinstance(part, Exception):
                        raise part
                    yield part
                    within_s = STREAM_S
            finally:
                gone.set()
                while not parts.empty():  # whoever waits to put something finds room, and that nobody is there
                    parts.get_nowait()
                reading.cancel()

    async def query(self, caller: Caller, table: Readable, sql: str, bound: list[Any]) -> tuple[pa.Table, Snapshot]:
        """The answer of a route's own SELECT over ``rows``; only for columns with nothing personal in them."""
        snapshot = await self.snapshot(table, caller)
        select = self.served.select
        return await self.thread(lambda: select(snapshot, sql, bound, self._within_s), table.name), snapshot

    async def thread(self, call: Callable[[], Result], name: str | None = None) -> Result:
        """Run something that blocks, of which some go on at a time; the others wait for their turn.

        ``name`` is the table that is read; whatever reads none has turns of its own.

        Raises:
            Problem: 503, there was no turn in time, or the call did not come back in time.
        """
        async with _turn(self._others if name is None else self._pages, self._within_s):
            return await _in_time(in_thread(call), self._within_s + OVER_S, name)

    # --- what is personal --------------------------------------------------------------------------------------------

    def _recorded(self, caller: Caller, question: Ask, rows: int | None) -> None:
        """Keep that personal columns were read; a condition on one tells of it even where no row is found."""
        table = question.table
        asked_by = {condition.column for condition in question.where}
        seen = {*question.select, *asked_by} if rows != 0 else asked_by
        if told := tuple(sorted(table.personal & seen - table.hidden(caller))):
            self.record(caller, table.name, told, rows, question.digest())

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


def in_thread(call: Callable[[], Result]) -> asyncio.Future[Result]:
    """What a call returns, in a thread of its own that ends with the process, whatever it waits for."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Result] = loop.create_future()
    context = contextvars.copy_context()

    def done(result: Any, error: BaseException | None) -> None:
        if answer.done():
            return  # given up
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = context.run(call)
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(done, result, error)

    threading.Thread(target=run, name="query", daemon=True).start()
    return answer


async def _in_time(answer: Awaitable[Result], within_s: float, name: str | None) -> Result:
    try:
        async with asyncio.timeout(within_s):
            return await answer
    except TimeoutError:
        if name is not None:
            raise away(name, "no answer") from None
        raise Problem(503, "too-slow", "It took too long: try again later.", {"Retry-After": "5"}) from None


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore, within_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(within_s):
            await turns.acquire()
    except TimeoutError:
        detail = "Too much is asked at a time: try again, or ask for less."
        raise Problem(503, "busy", detail, {"Retry-After": "2"}) from None
    try:
        yield
    finally:
        turns.release()


async def _chained(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for part in rest:
            yield part
    finally:
        await rest.aclose()


def _asked(caller: Caller, question: Ask, kind: str) -> str:
    """Names a question as a caller asks it, for an answer in a format; whatever the version."""
    words = repr(
        (
            question.digest(), question.limit, question.after, question.skip, kind,
            caller.subject, caller.user_id, sorted(caller.scopes),
        )
    )  # fmt: skip
    return f"{question.table.name}.{hashlib.blake2b(words.encode(), digest_size=12).hexdigest()}"


def _etag(asked: str, snapshot: Snapshot) -> str:
    """Names an answer: the version, the question, the format, and who may see it."""
    short = hashlib.blake2b(f"{asked} {snapshot.id}".encode(), digest_size=12).hexdigest()
    return f'"{snapshot.name}.{snapshot.version}.{short}"'


def _matches(known: str, etag: str) -> bool:
    """``If-None-Match`` (RFC 9110, 13.1.2), compared weakly."""
    return known.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in known.split(","))


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)
