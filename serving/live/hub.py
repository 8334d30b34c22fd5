"""What all streams of a process share: the last state of everything, and the newest notifications.

Two kinds of things come from the feeds. A *state* (counters, trending posts, a table's version, a store that is away)
is worth its last value: who was slow, or away, gets the newest one alone. A *notification* is worth each one: the
newest of every partition are kept, in the order in which they came, and every stream reads them at a pace of its own.
So a slow one holds nobody up and holds no memory; it ends when what it has not read is no longer kept.

All methods are called in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, Protocol, get_args

import orjson

from serving.live import frames
from serving.live.position import MARK_BYTES, Position
from serving.live.wording import Wording
from serving.problems import Problem

Kind = Literal["live", "trending", "notification", "alert", "table"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LOGGED: frozenset[Kind] = frozenset({"notification", "alert"})
"""What comes from the topic, and is worth each one."""
NEEDED: dict[str, frozenset[Kind]] = {
    "redis": frozenset({"live", "trending"}),
    "kafka": LOGGED,
    "lake": frozenset({"table"}),
}
"""Store -> what it is needed for."""
Why = Literal["shutdown", "slow", "lifetime", "expired"]
CHUNK = 64 * 1024
"""Bytes that are made at a time, or one event more."""
SCANNED = 2000
"""Notifications that are looked at at a time."""
HURRY_S = 1.0
"""How long a client may still take to accept what it was being sent when the process is to end."""
_log = logging.getLogger(__name__)


class Feed(Protocol):
    """Where things come from."""

    async def run(self, hub: Hub) -> None:
        """Tell the hub until cancelled. What is raised is logged, and the feed started again."""


@dataclass(slots=True, eq=False)
class Record:
    """A notification that is kept; ``made`` are its events' data, by whether they are masked."""

    partition: int
    offset: int
    user_id: str
    value: bytes
    alert: bool = False
    made: dict[bool, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _State:
    number: int
    kind: str
    frame: bytes
    old: bool
    """Whether it is of no interest to those who come after it."""


@dataclass(frozen=True)
class Wish:
    """What a stream is to hold. ``notified`` and ``alerted`` are the one user that notifications and alerts are for."""

    kinds: frozenset[Kind]
    notified: str | None = None
    alerted: str | None = None
    masked: bool = True


class Hub:
    """See the module.

    Args:
        wording: how notifications become events.
        feeds: started with the first stream, stopped by :meth:`close`.
        kept: how many notifications of each partition are kept, the newest, and how many bytes of them.
        most: how many streams there may be, and how many of one subject.
        lasts_s: how long a stream lasts; the client comes again, and its token is looked at again.
        restarts_s: how long a feed that has ended rests, at first and at most.
    """

    def __init__(
        self,
        wording: Wording,
        feeds: Sequence[Feed] = (),
        kept: tuple[int, int] = (5000, 16 * 1024 * 1024),
        most: tuple[int, int] = (500, 10),
        lasts_s: float = 900.0,
        restarts_s: tuple[float, float] = (1.0, 5.0),
    ) -> None:
        self.counts: Counter[str] = Counter()
        """``opened``, ``refused``, ``gap``, ``passed over`` (records for nobody), ``end:<why>``, ``event:<kind>``."""
        self.lasts_s, self._restarts_s = lasts_s, restarts_s
        self.ending = False
        self.stores: dict[str, bool] = {}
        self._wording, self._feeds, self._most = wording, feeds, most
        self._kept_most, self._kept_bytes = kept
        self._streams: dict[Stream, None] = {}
        self._of: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []
        # States.
        self._states: dict[tuple[str, str], _State] = {}
        self._said: dict[tuple[str, str], bytes] = {}
        self.number = 0
        # The topic.
        self.mark = b""
        self.epoch = 0
        """Counts topics: what a stream knows of another one's offsets is worth nothing."""
        self.ready = False
        self.floor: list[int] = []
        """By partition: a stream that has all before it, or more, can go on without a gap."""
        self.next: list[int] = []
        """By partition: the offset after the last one that came."""
        self.head = 0
        """How many notifications were kept so far; each has its number."""
        self._kept: list[deque[tuple[int, Record]]] = []
        self._bytes: list[int] = []
        self._by_number: dict[int, Record] = {}
        self._ends: Callable[[], Awaitable[Sequence[int]]] | None = None
        self._asked: tuple[float, Sequence[int]] = (-1e9, ())
        self._asking = asyncio.Lock()

    # --- streams ---------------------------------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        """How many there are."""
        return len(self._streams)

    def wanted(self, store: str) -> bool:
        """Whether a stream holds what a store is needed for."""
        return any(stream.wish.kinds & NEEDED[store] for stream in self._streams)

    @contextmanager
    def stream(self, subject: str, wish: Wish, last_id: str | None = None) -> Iterator[Stream]:
        """A stream, for as long as the context lasts.

        Raises:
            Problem: 429, 503: there are as many as there may be, of this subject or in all; or the API ends.
        """
        most, each = self._most
        if self.ending:
            raise Problem(503, "ending", "This API process ends: try again.", {"Retry-After": "1"})
        if self._of[subject] >= each:
            self.counts["refused"] += 1
            detail = f"There are {each} streams of this token's subject: close one."
            raise Problem(429, "too-many-streams", detail, {"Retry-After": "5"})
        if len(self._streams) >= most:
            self.counts["refused"] += 1
            raise Problem(503, "too-many-streams", f"There are {most} streams: try again.", {"Retry-After": "5"})
        stream = Stream(self, wish, last_id)
        self._streams[stream] = None
        self._of[subject] += 1
        self.counts["opened"] += 1
        self._start()
        try:
            yield stream
        finally:
            del self._streams[stream]
            self._of[subject] -= 1
            if not self._of[subject]:
                del self._of[subject]

    def end(self) -> None:
        """End every stream at once, and let no new one begin: the process ends."""
        self.ending = True
        for stream in self._streams:
            stream.end("shutdown")
            stream.hurry(HURRY_S)

    async def close(self) -> None:
        """End streams and feeds."""
        self.end()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()

    def _start(self) -> None:
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._run(feed)) for feed in self._feeds]

    async def _run(self, feed: Feed) -> None:
        wait = self._restarts_s[0]
        while True:
            began = time.monotonic()
            try:
                await feed.run(self)
            except Exception:
                _log.exception("%s of the live stream has failed", type(feed).__name__)
            wait = self._restarts_s[0] if time.monotonic() - began > 60 else min(2 * wait, self._restarts_s[1])
            await asyncio.sleep(wait)

    def _wake(self, kinds: frozenset[Kind]) -> None:
        for stream in self._streams:
            if stream.wish.kinds & kinds:
                stream.awake.set()

    # --- states ----------------------------------------------------------------------------------------------------

    def show(self, kind: Kind, data: Any, key: str = "") -> None:
        """Take a state; one that is the last one again is passed over. ``key`` tells states of a kind apart."""
        self._say(kind, key, orjson.dumps(data), frozenset({kind}))

    def store(self, name: str, up: bool, why: str | None = None) -> None:
        """Say that a store answers, or does not; told when it changes, and to those who come while it is away."""
        before = self.stores.get(name)
        self.stores[name] = up
        if before is up or (up and before is None):
            return
        if not up:
            _log.warning("the live stream is without %s: %s", name, why)
        told = {"name": name, "up": up, "at": datetime.now(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"}
        self._say("store", name, orjson.dumps(told), NEEDED[name], old=up)

    def _say(self, kind: str, key: str, data: bytes, for_kinds: frozenset[Kind], old: bool = False) -> None:
        if self._said.get((kind, key)) == data:
            return
        self._said[kind, key] = data
        self.number += 1
        self._states.pop((kind, key), None)  # in the order of their numbers
        self._states[kind, key] = _State(self.number, kind, frames.event(kind, data), old)
        self._wake(for_kinds)

    def states(self, after: int, wish: Wish) -> Iterator[_State]:
        """Those that changed after a number, the newest first; of those that a wish holds."""
        for (kind, key), state in reversed(self._states.items()):
            if state.number <= after:
                return
            if (NEEDED[key] & wish.kinds) if kind == "store" else (kind in wish.kinds):
                yield state

    # --- the topic -------------------------------------------------------------------------------------------------

    def begin(
        self,
        mark: bytes,
        lows: Sequence[int],
        highs: Sequence[int],
        ends: Callable[[], Awaitable[Sequence[int]]] | None = None,
    ) -> list[int]:
        """Take a topic as it is found; where its reading goes on, by partition.

        Args:
            mark: of the topic, another one when it was made anew.
            lows: the first offset there is, by partition.
            highs: the offset after the last.
            ends: asks for ``highs`` again.
        """
        mark = mark[:MARK_BYTES].ljust(MARK_BYTES, b"\0")
        self._ends, self._asked = ends, (-1e9, ())
        known = len(self.next)
        same = mark == self.mark and known <= len(highs)
        if same and all(low <= at <= high for low, at, high in zip(lows, self.next, highs, strict=False)):
            starts = self.next + list(lows[known:])  # all of a partition that was added
            for stream in self._streams:
                stream.grow(lows[known:])
        else:
            starts = [max(low, high - self._kept_most) for low, high in zip(lows, highs, strict=True)]
            self.mark, known = mark, 0
            self.epoch += 1
            self.floor, self.next, self._kept, self._bytes = [], [], [], []
            self._by_number.clear()
        self.floor += starts[known:]
        self.next += starts[known:]
        self._kept += [deque() for _ in starts[known:]]
        self._bytes += [0 for _ in starts[known:]]
        self.ready = False
        return list(starts)

    def take(self, records: Sequence[Record], at: dict[int, int]) -> None:
        """Take notifications in the order of their offsets, and how far each partition was read."""
        for record in records:
            record.alert = self._wording.alert(record.user_id)
            partition = record.partition
            kept = self._kept[partition]
            kept.append((self.head, record))
            self._by_number[self.head] = record
            self.head += 1
            self._bytes[partition] += len(record.value)
            while len(kept) > self._kept_most or self._bytes[partition] > self._kept_bytes:
                number, oldest = kept.popleft()
                del self._by_number[number]
                self._bytes[partition] -= len(oldest.value)
                self.floor[partition] = oldest.offset + 1
            self.next[partition] = record.offset + 1
        for partition, offset in at.items():
            self.next[partition] = max(self.next[partition], offset)
        if self.ready and (records or any(stream.ahead for stream in self._streams)):
            self._wake(LOGGED)

    def caught_up(self) -> None:
        """What was there at the beginning has come: streams can begin."""
        if not self.ready:
            self.ready = True
            self.store("kafka", True)
            self._wake(LOGGED)

    def numbered(self, number: int) -> Record | None:
        """A notification by its number; None when it is no longer kept."""
        return self._by_number.get(number)

    def all_kept(self) -> list[Record]:
        """In the order in which they came."""
        return list(self._by_number.values())

    def data(self, record: Record, masked: bool) -> bytes:
        """What a notification's event holds, made once."""
        made = record.made.get(masked)
        if made is None:
            made = record.made[masked] = self._wording.data(record.value, record.alert, masked)
        return made

    def position(self, offsets: Sequence[int]) -> str:
        """A stream's position, to be sent along."""
        return _written(self.mark, tuple(offsets))

    def gap(self, have: Position, ends: Sequence[int]) -> str | None:
        """Why a position cannot be gone on from; None where it can. ``ends`` are the topic's, at least ``next``."""
        if have.mark != self.mark:
            return "other topic"
        offsets = [*have.offsets, *(0 for _ in self.floor[len(have.offsets) :])]
        if len(offsets) > len(self.floor) or _beyond(offsets, ends):
            return "ahead"
        return "too old" if _beyond(self.floor, offsets) else None

    async def ends(self) -> Sequence[int]:
        """The ends of the partitions now; asked for at most once a second."""
        if self._ends is None:
            return self.next
        async with self._asking:
            asked, found = self._asked
            if time.monotonic() - asked > 1:
                found = await self._ends()
                self._asked = time.monotonic(), found
            return found


def _beyond(offsets: Sequence[int], others: Sequence[int]) -> bool:
    return any(offset > other for offset, other in zip(offsets, others, strict=False))


@lru_cache(maxsize=512)  # streams that are up to date have one and the same
def _written(mark: bytes, offsets: tuple[int, ...]) -> str:
    return str(Position(mark, offsets))


class Stream:
    """What one client has had, and what is due to it."""

    def __init__(self, hub: Hub, wish: Wish, last_id: str | None) -> None:
        self.wish = wish
        self.awake = asyncio.Event()
        self.over: Why | None = None
        self.gone = False
        """Nobody is there any more."""
        self.ahead = False
        """It has had more of the topic than this process: from another one."""
        self._hub, self._last_id = hub, last_id
        self._bound: asyncio.Timeout | None = None
        self._logs = bool(wish.kinds & LOGGED)
        self._number = 0
        self._new = True
        self._epoch, self._mark = 0, b""
        self._offsets: list[int] = []
        self._missed: deque[Record] = deque()
        self._cursor = 0
        self._told_at: str | None = None

    def end(self, why: Why) -> None:
        """It ends, after one more event that says why."""
        self.over = self.over or why
        self.awake.set()

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """A bound for what is sent; TimeoutError after it, or soon where :meth:`hurry` is called meanwhile."""
        async with asyncio.timeout(min(seconds, HURRY_S) if self._hub.ending else seconds) as self._bound:
            try:
                yield
            finally:
                self._bound = None

    def hurry(self, seconds: float) -> None:
        """Let what is being sent take no longer than this."""
        if self._bound is not None and (when := self._bound.when()) is not None:
            self._bound.reschedule(min(when, asyncio.get_running_loop().time() + seconds))

    def leave(self) -> None:
        """The client is gone."""
        self.gone = True
        self.awake.set()

    def grow(self, lows: Sequence[int]) -> None:
        """The topic has new partitions."""
        if self._epoch == self._hub.epoch:
            self._offsets += lows

    async def due(self) -> bytes:
        """What is to be sent now, which may be nothing; to be called until it is, and again when ``awake`` is set."""
        hub, made = self._hub, bytearray()
        if self._number != hub.number:
            found = list(hub.states(self._number, self.wish))
            for state in reversed(found):
                if not (self._new and state.old):
                    made += state.frame
                    hub.counts[f"event:{state.kind}"] += 1
            self._number = hub.number
        self._new = False
        if self._logs and hub.ready:
            if self._epoch != hub.epoch:
                made += await self._settle()
            if self._epoch == hub.epoch:
                self._read(made)
        return bytes(made)

    def heartbeat(self) -> bytes:
        """What keeps a silent stream alive, and how far it has come meanwhile."""
        return frames.HEARTBEAT + self._place()

    def last(self) -> bytes:
        """The last event, which says why it is the last.

        It is not named ``error``: browsers tell broken connections by an event of that name.
        """
        self._hub.counts[f"end:{self.over}"] += 1
        return frames.event("end", orjson.dumps({"reason": self.over}))

    def _place(self) -> bytes:
        if self._epoch != self._hub.epoch or not self._offsets:
            return b""
        at = self._hub.position(self._offsets)
        if at == self._told_at:
            return b""
        self._told_at = at
        return frames.place(at)

    async def _settle(self) -> bytes:
        """Find where in the topic to go on."""
        hub, epoch = self._hub, self._hub.epoch
        if self._epoch:  # the topic that was read is no more, or not as it was
            self._last_id = str(Position(self._mark, tuple(self._offsets)))
        wanted: Position | None = None
        reason: str | None = None
        if self._last_id is not None:
            try:
                wanted = Position.parse(self._last_id)
            except ValueError:
                reason = "malformed"
        ends: Sequence[int] = hub.next
        if wanted is not None and wanted.mark == hub.mark and _beyond(wanted.offsets, hub.next):
            # Another process may have been quicker than this one. Nobody was quicker than Kafka.
            try:
                ends = await hub.ends()
            except Exception as error:
                _log.info("a stream waits to be resumed: %s", error)
                asyncio.get_running_loop().call_later(1.0, self.awake.set)
                return b""
            if epoch != hub.epoch or not hub.ready:
                return b""  # meanwhile; the next call begins anew
        self._epoch, self._mark, self._cursor = epoch, hub.mark, hub.head
        if wanted is not None:
            reason = hub.gap(wanted, ends)
        if self._last_id is None:
            self._offsets = list(hub.next)
        elif wanted is None or reason is not None:
            self._offsets = list(hub.floor)
        else:
            # Of a partition that it does not name, as it was added since, all is missing.
            self._offsets = [*wanted.offsets, *(0 for _ in hub.next[len(wanted.offsets) :])]
        self._missed = deque(record for record in hub.all_kept() if record.offset >= self._offsets[record.partition])
        self.ahead = _beyond(self._offsets, hub.next)
        if reason is None:
            return self._place()
        hub.counts["gap"] += 1
        self._told_at = hub.position(self._offsets)
        return frames.event("gap", orjson.dumps({"reason": reason}), self._told_at)

    def _read(self, made: bytearray) -> None:
        """Add what has come since, up to a chunk."""
        hub, scanned = self._hub, 0
        while self._missed:
            self._add(self._missed.popleft(), made)
            scanned += 1
            if len(made) > CHUNK or scanned > SCANNED:
                self.awake.set()
                return
        if _beyond(hub.floor, self._offsets):
            self.end("slow")
            return
        while self._cursor < hub.head:
            record = hub.numbered(self._cursor)
            self._cursor += 1
            if record is not None:
                self._add(record, made)
            scanned += 1
            if len(made) > CHUNK or scanned > SCANNED:
                self.awake.set()
                return
        self._offsets = [max(have, at) for have, at in zip(self._offsets, hub.next, strict=True)]
        self.ahead = self.ahead and _beyond(self._offsets, hub.next)

    def _add(self, record: Record, made: bytearray) -> None:
        if record.offset < self._offsets[record.partition]:
            return  # had from another process
        self._offsets[record.partition] = record.offset + 1
        kind: Kind = "alert" if record.alert else "notification"
        only = self.wish.alerted if record.alert else self.wish.notified
        if kind not in self.wish.kinds or (only is not None and only != record.user_id):
            return
        self._told_at = self._hub.position(self._offsets)
        made += frames.event(kind, self._hub.data(record, self.wish.masked), self._told_at)
        self._hub.counts[f"event:{kind}"] += 1
